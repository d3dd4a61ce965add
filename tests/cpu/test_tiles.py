"""Tiles hold the same numbers: in memory, in a conversion, and on the way back to plain arrays."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from layouts import IN_TILES as CONFIG
from layouts import LAYOUTS, all_plain, random_params, write_layout

from gptoss_edu.cpu import native
from gptoss_edu.cpu.build import find_compiler
from gptoss_edu.cpu.tiles import Tiled, from_tiles, tile, tile_width, to_tiles
from gptoss_edu.mxfp4 import Mxfp4
from gptoss_edu.weights import mapped
from gptoss_edu.weights.checkpoint import load_model, save_checkpoint
from gptoss_edu.weights.convert import convert
from gptoss_edu.weights.layout import HF_PACKED, SUMMED, Field, tiled_shape
from gptoss_edu.weights.orbax import from_orbax, to_orbax
from gptoss_edu.weights.shards import find_tensors

needs_compiler = pytest.mark.skipif(
    find_compiler() is None, reason="there is no C++ compiler: c++, g++ or clang++"
)
needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self")


@pytest.fixture
def large(monkeypatch):
    """Let kernels think that models of this size are worth their while."""
    monkeypatch.setattr(native, "WORTHWHILE", 1)


@pytest.mark.parametrize("outputs, width", [(64, 64), (5760, 64), (96, 32), (80, 16), (40, None)])
def test_the_widest_tile_without_a_rest(outputs, width):
    assert tile_width(outputs) == width


PRODUCTS = [field for field in HF_PACKED if tiled_shape(field, CONFIG)]


def test_what_has_tiles():
    assert {field.name for field in PRODUCTS} == {*SUMMED, "w_gate_up_EDP", "w_down_EFD"}
    unembedding = Field("unembedding_DV")
    assert tiled_shape(unembedding, CONFIG) == (7, 96, 16)
    assert tiled_shape(Field("norm_D", "attention"), CONFIG) is None
    assert tiled_shape(unembedding, dataclasses.replace(CONFIG, vocab_size=100)) is None
    assert tiled_shape(unembedding, dataclasses.replace(CONFIG, hidden_size=48)) is None
    with pytest.raises(ValueError, match="100 outputs are no multiple of 16"):
        tile(jnp.ones((32, 100)))


@pytest.mark.parametrize("field", PRODUCTS, ids=str)
def test_one_number_at_a_time(field):
    """Number w of row r in tile t is what the array holds at row r and output t * W + w."""
    array = np.arange(np.prod(field.shape(CONFIG))).reshape(field.shape(CONFIG))
    shape = tiled_shape(field, CONFIG)
    matrices = 1 if field.half else 0
    summed = SUMMED.get(field.name, array.ndim - 2)
    tiles = to_tiles(array, shape)
    E, I = (
        int(np.prod(array.shape[a:b])) for a, b in ((0, matrices), (matrices, matrices + summed))
    )
    matrix_EIO = array.reshape(E, I, -1)
    *_, T, R, W = shape
    assert (R, T * W) == matrix_EIO.shape[1:]
    for e, t, r, w in np.random.default_rng(0).integers(0, (E, T, R, W), (50, 4)):
        assert tiles.reshape(E, T, R, W)[e, t, r, w] == matrix_EIO[e, r, t * W + w]
    np.testing.assert_array_equal(from_tiles(tiles, array.shape), array)
    np.testing.assert_array_equal(tile(jnp.asarray(array), matrices, summed), tiles)


def test_a_tiled_array_answers_like_the_array():
    array = np.arange(5 * 6 * 96, dtype=np.float32).reshape(5, 6, 96)
    tiled = Tiled(tile(jnp.asarray(array), matrices=1), None, array.shape)
    assert (tiled.shape, tiled.dtype) == (array.shape, np.float32)
    np.testing.assert_array_equal(np.asarray(tiled), array)
    np.testing.assert_array_equal(tiled.plain, array)
    np.testing.assert_array_equal(tiled[3], array[3])
    np.testing.assert_array_equal(tiled[jnp.array([[1, 4], [0, 0]])], array[[[1, 4], [0, 0]]])
    np.testing.assert_array_equal(tiled[:], array)


def same(a, b) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


@needs_compiler
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("precision", ["auto", "bf16", "f32"])
def test_reading_into_tiles_and_back(tmp_path, large, layout, precision):
    """From the checkpoint and from its conversion: the same tiles, and the same plain arrays."""
    made = random_params(CONFIG, packed="plain" not in layout)
    source = write_layout(tmp_path / "source", made, CONFIG, layout)
    plain = load_model(source, precision=precision, backend="jax")[1]
    tiled = load_model(source, precision=precision)[1]
    same(all_plain(tiled), plain)
    in_tiles = [leaf for leaf in jax.tree.leaves(tiled, is_leaf=is_tiled) if is_tiled(leaf)]
    per_layer = 0 if precision == "f32" else 5 + 2 * ("plain" not in layout and precision == "auto")
    assert len(in_tiles) == per_layer * CONFIG.num_layers + (precision != "f32")
    folder = convert(source)
    for path in (source, folder):
        same(load_model(path, precision=precision)[1], tiled)
        same(load_model(path, precision=precision, backend="jax")[1], plain)
    names = [name for name in find_tensors(folder) if name.endswith(".tiles")]
    assert len(names) == CONFIG.num_layers * (5 + 4 * ("plain" not in layout)) + 1


def is_tiled(leaf) -> bool:
    return isinstance(leaf, Tiled)


@pytest.fixture
def source(tmp_path):
    return write_layout(
        tmp_path / "source", random_params(CONFIG, packed=True), CONFIG, "hf_packed"
    )


@needs_compiler
@needs_proc
def test_tiles_are_the_pages_of_their_file(source, large, monkeypatch):
    """Then nothing is copied, and no memory is asked for; plain arrays do need it."""
    folder = convert(source)
    monkeypatch.setattr(
        sys.modules["gptoss_edu.weights.reading"], "available_memory", lambda: (9, "x")
    )
    monkeypatch.setattr(mapped, "warn_if_tight", lambda manifest: None)
    params = load_model(source)[1]
    maps = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    spans = [(*(int(x, 16) for x in m[0].split("-")), m[-1]) for m in maps]
    for leaf in jax.tree.leaves(params.layers[1]):
        address = leaf.unsafe_buffer_pointer()
        (file,) = [name for begin, end, name in spans if begin <= address < end]
        assert file == str(folder / "layer-01.safetensors")
    for options in ({"backend": "jax"}, {"each_layer": lambda layer: layer}):
        with pytest.raises(MemoryError, match="too little memory"):
            load_model(source, **options)


@needs_compiler
def test_a_conversion_without_tiles_serves_the_kernels_too(source, large, monkeypatch):
    tiled = load_model(source)[1]
    monkeypatch.setattr(native, "WORTHWHILE", 1024)
    convert(source)
    same(load_model(source, backend="cpu")[1], tiled)


@needs_compiler
def test_who_converts_layers_gets_plain_ones(source, large):
    seen = []
    params = load_model(source, each_layer=lambda layer: seen.append(layer) or layer)[1]
    same(params, load_model(source)[1])
    assert not any(map(is_tiled, jax.tree.leaves(seen, is_leaf=is_tiled)))
    assert isinstance(seen[0].moe.w_down_EFD, Mxfp4)


@needs_compiler
def test_other_programs_get_plain_arrays(source, large, tmp_path):
    """Saved as published, and through Orbax: what comes back is what was there."""
    model, params = load_model(source)
    save_checkpoint(params, model.config, tmp_path / "saved")
    same(load_model(tmp_path / "saved")[1], params)
    pytest.importorskip("orbax.checkpoint")
    out = to_orbax(convert(source), tmp_path / "orbax")
    again = from_orbax(out, tmp_path / "again")
    assert find_tensors(again).keys() == find_tensors(convert(source)).keys()
    same(load_model(again)[1], params)
