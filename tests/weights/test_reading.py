"""What a weight becomes on its way from the file: dtype, tiles, rounding, and its bytes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from layouts import LAYOUTS, random_params, write_layout
from test_tiles import CONFIG

from gptoss_edu.cpu.tiles import Tiled
from gptoss_edu.shapes import num_bytes
from gptoss_edu.weights.layout import find_layout, sizes_of
from gptoss_edu.weights.reading import Form, aligned_copy, bytes_needed, is_rounded, read_params
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
]


@pytest.mark.parametrize(
    "precision, stored, kept",
    [
        ("auto", np.float32, np.float32),
        ("auto", jnp.bfloat16, jnp.bfloat16),
        ("mxfp4", np.float32, jnp.bfloat16),
        ("bf16", np.float16, jnp.bfloat16),
        ("f32", jnp.bfloat16, np.float32),
        ("f32", np.uint8, np.uint8),
    ],
)
def test_the_dtype_that_is_kept(precision, stored, kept):
    assert Form(precision).dtype(np.dtype(stored)) == kept


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("form", FORMS, ids=lambda form: "-".join(map(str, form)))
def test_the_bytes_that_are_asked_for_are_those_that_are_used(tmp_path, layout, form):
    made = random_params(CONFIG, packed="plain" not in layout)
    tensors = find_tensors(write_layout(tmp_path, made, CONFIG, layout))
    names = find_layout(tensors, CONFIG)
    params = read_params(tensors, names, CONFIG, form)
    total, layer = bytes_needed(tensors, names, CONFIG, form)
    assert total == num_bytes(params)
    assert layer == num_bytes(params.layers[0])


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
    assert is_rounded("unembedding_DV", form)
    assert not is_rounded("moe.w_router_DE", form)
    assert not is_rounded("moe.w_down_EFD.scales_ELD", form)


def test_tiles_only_of_what_the_kernels_read(tmp_path):
    tensors = find_tensors(
        write_layout(tmp_path, random_params(CONFIG, np.float32), CONFIG, "hf_plain")
    )
    sizes, query = sizes_of(CONFIG), tensors["model.layers.0.self_attn.q_proj.weight"]
    field = "attention.w_q_DNH"
    assert Form(tiles=True).tiled_shape(query, field, sizes) is None, "float32 is not for kernels"
    assert Form("bf16", tiles=True).tiled_shape(query, field, sizes) == (3, 96, 64)
    assert Form("bf16").tiled_shape(query, field, sizes) is None


@pytest.mark.parametrize("shape", [(7,), (1, 5), (90, 64), (3, 50, 16)])
def test_a_copy_that_jax_adopts(shape):
    array = np.random.default_rng(0).random(shape[::-1], np.float32)
    copy = aligned_copy(array.T)
    assert copy.ctypes.data % 64 == 0
    assert copy.flags.c_contiguous
    np.testing.assert_array_equal(copy, array.T)
    if jax.devices()[0].platform == "cpu":
        assert jax.device_put(copy).unsafe_buffer_pointer() == copy.ctypes.data
