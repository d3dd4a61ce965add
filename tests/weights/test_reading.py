"""What a weight becomes on its way from the file: dtype, tiles, rounding, and its bytes."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from layouts import IN_TILES as CONFIG
from layouts import LAYOUTS, random_params, write_layout

from gptoss_edu.chips.precision import convert
from gptoss_edu.chips.sharding import make_mesh
from gptoss_edu.cpu.tiles import Tiled
from gptoss_edu.shapes import num_bytes
from gptoss_edu.weights import reading
from gptoss_edu.weights.layout import Field, find_layout
from gptoss_edu.weights.reading import (
    SCALED,
    Form,
    aligned_copy,
    bytes_needed,
    check_memory,
    read_params,
    share,
)
from gptoss_edu.weights.shards import find_tensors

FORMS = [
    Form(),
    Form(tiles=True),
    Form("bf16"),
    Form("bf16", tiles=True),
    Form("f32"),
    Form("f32", tiles=True),
    Form(tiles=True, dense="int8"),
    Form("bf16", tiles=True, dense="int8"),
    Form("fp8"),
    Form("int8", tiles=True),
]
QUERY, EXPERT = Field("w_q_DNH", "attention"), Field("w_down_EFD", "moe", "scales")


@pytest.mark.parametrize(
    "precision, field, stored, kept",
    [
        ("auto", QUERY, np.float32, np.float32),
        ("auto", QUERY, jnp.bfloat16, jnp.bfloat16),
        ("mxfp4", QUERY, np.float32, jnp.bfloat16),
        ("fp8", QUERY, np.float32, jnp.bfloat16),
        ("bf16", QUERY, np.float16, jnp.bfloat16),
        ("f32", QUERY, jnp.bfloat16, np.float32),
        ("f32", EXPERT, np.uint8, np.uint8),
        ("bf16", EXPERT._replace(half=""), np.float32, jnp.bfloat16),
        ("fp8", EXPERT._replace(half=""), np.float32, np.float32),
    ],
)
def test_the_dtype_that_is_kept(precision, field, stored, kept):
    """What is rounded to 8 bits is rounded once, from what is stored."""
    assert Form(precision).dtype(field, np.dtype(stored)) == kept


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("form", FORMS, ids=lambda form: "-".join(map(str, form)))
def test_the_bytes_that_are_asked_for_are_those_that_are_used(tmp_path, layout, form):
    made = random_params(CONFIG, packed="plain" not in layout)
    tensors = find_tensors(write_layout(tmp_path, made, CONFIG, layout))
    names = find_layout(tensors, CONFIG)
    params = read_params(tensors, names, CONFIG, form)
    total, layer = bytes_needed(tensors, names, CONFIG, form)
    assert total == num_bytes(params)
    kept, stored = num_bytes(params.layers[0]), num_bytes(made.layers[0])
    assert layer == (max(kept, stored) if form.precision in SCALED else kept)


def test_only_what_is_asked_for_is_rounded(tmp_path):
    tensors = find_tensors(
        write_layout(tmp_path, random_params(CONFIG, packed=True), CONFIG, "hf_packed")
    )
    form = Form(tiles=True, dense="int8")
    params = read_params(tensors, find_layout(tensors, CONFIG), CONFIG, form)
    leaves = jax.tree.leaves(params, is_leaf=lambda leaf: isinstance(leaf, Tiled))
    kinds = [str(leaf.tiles.dtype) for leaf in leaves if isinstance(leaf, Tiled)]
    assert kinds.count("int8") == 4 * CONFIG.num_layers + 1
    assert kinds.count("bfloat16") == CONFIG.num_layers, "the routers"
    assert form.rounds(Field("unembedding_DV"))
    assert not form.rounds(Field("w_router_DE", "moe"))
    assert not form.rounds(EXPERT)


def test_tiles_only_of_what_the_kernels_read():
    assert Form(tiles=True).tiled_shape("F32", QUERY, CONFIG) is None, "float32 is not for kernels"
    assert Form("bf16", tiles=True).tiled_shape("F32", QUERY, CONFIG) == (3, 96, 64)
    assert Form("bf16").tiled_shape("F32", QUERY, CONFIG) is None
    assert Form(tiles=True).tiled_shape("U8", EXPERT, CONFIG) == (16, 3, 2, 32)
    assert Form("fp8", tiles=True).tiled_shape("U8", EXPERT, CONFIG) is None, "not packed for long"


@pytest.mark.parametrize("layout", ["hf_packed", "hf_plain"])
@pytest.mark.parametrize("precision", ["fp8", "int8"])
def test_experts_are_recoded_layer_by_layer(tmp_path, layout, precision):
    """As `precision.convert` does it with a model that is there as a whole."""
    made = random_params(CONFIG, np.float32, packed=layout == "hf_packed")
    tensors = find_tensors(write_layout(tmp_path, made, CONFIG, layout))
    params = read_params(tensors, find_layout(tensors, CONFIG), CONFIG, Form(precision))
    expected = convert(made, precision)
    assert jax.tree.structure(params) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, params, expected)


def test_a_layer_that_is_stored_wider_than_it_is_kept_needs_its_room(tmp_path):
    made = random_params(CONFIG, np.float32)
    tensors = find_tensors(write_layout(tmp_path, made, CONFIG, "hf_plain"))
    names = find_layout(tensors, CONFIG)
    (total, room), (_, stored) = (
        bytes_needed(tensors, names, CONFIG, Form(precision)) for precision in ("fp8", "auto")
    )
    assert room == stored
    assert total == num_bytes(convert(made, "fp8"))


def test_memory_for_the_weights_and_for_the_layer_that_loads(monkeypatch):
    monkeypatch.setattr(reading, "available_memory", lambda: (1000, "this machine"))
    check_memory(900, 100)
    with pytest.raises(MemoryError, match=r"this machine has .* and one layer while loading"):
        check_memory(900, 101)
    with pytest.raises(MemoryError, match=r"too little memory.* convert FOLDER` once"):
        check_memory(1000, 1)


def mesh_of(platform: str, here: int, size: int):
    """What `share` asks of a mesh of many devices, of which some belong to this machine."""
    devices = np.array([SimpleNamespace(platform=platform)] * size, object)
    return SimpleNamespace(devices=devices, local_devices=list(devices[:here]), size=size)


def test_what_a_mesh_leaves_on_the_first_device():
    assert share(None) == 1
    assert share(make_mesh(devices=jax.devices()[:1])) == 1
    assert share(mesh_of("tpu", 8, 8)) == 1 / 8
    assert share(mesh_of("cpu", 8, 8)) == 1, "all in the memory of one machine"
    assert share(mesh_of("cpu", 4, 8)) == 1 / 2, "two machines"


def test_a_part_of_the_weights_or_what_is_there_before_it_is_cut(tmp_path):
    made = random_params(CONFIG, packed=True)
    tensors = find_tensors(write_layout(tmp_path, made, CONFIG, "hf_packed"))
    names, layer = find_layout(tensors, CONFIG), num_bytes(made.layers[0])
    top = num_bytes(made) - CONFIG.num_layers * layer

    def needed(size: int) -> tuple[int, int]:
        return bytes_needed(tensors, names, CONFIG, Form(), mesh=mesh_of("tpu", size, size))

    assert needed(1) == (num_bytes(made), layer)
    assert needed(2) == (-(-num_bytes(made) // 2), layer)
    assert needed(1000) == (top, layer)


@pytest.mark.parametrize("shape", [(7,), (1, 5), (90, 64), (3, 50, 16)])
def test_a_copy_that_jax_adopts(shape):
    array = np.random.default_rng(0).random(shape[::-1], np.float32)
    copy = aligned_copy(array.T)
    assert copy.ctypes.data % 64 == 0
    assert copy.flags.c_contiguous
    np.testing.assert_array_equal(copy, array.T)
    if jax.devices()[0].platform == "cpu":
        assert jax.device_put(copy).unsafe_buffer_pointer() == copy.ctypes.data
