"""The C++ kernels agree with their JAX twins, and say clearly why they cannot be had."""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from layouts import all_in_tiles, all_plain

from gptoss_edu import generate, load_model
from gptoss_edu.attention import NoCache
from gptoss_edu.chips.precision import convert
from gptoss_edu.chips.sharding import make_mesh
from gptoss_edu.config import TINY
from gptoss_edu.course.checks.mxfp4 import dequantize_obvious, unpack_hf
from gptoss_edu.cpu import native
from gptoss_edu.cpu.build import find_compiler
from gptoss_edu.cpu.tiles import Tiled, in_tiles, round_to_int8
from gptoss_edu.model import forward, init_params, run_blocks
from gptoss_edu.moe import gathered
from gptoss_edu.mxfp4 import Mxfp4
from gptoss_edu.shapes import matmul
from gptoss_edu.weights.checkpoint import save_checkpoint

needs_compiler = pytest.mark.skipif(
    find_compiler() is None, reason="there is no C++ compiler: c++, g++ or clang++"
)


def random_packed(E: int, I: int, O: int, seed: int = 0) -> Mxfp4:
    """All 256 bytes, scales in a range where float32 sums stay exact enough."""
    rng = np.random.default_rng(seed)
    return Mxfp4(
        jnp.asarray(rng.integers(0, 256, (E, I // 32, 16, O), np.uint8)),
        jnp.asarray(rng.integers(117, 131, (E, I // 32, O), np.uint8)),
    )


def normal(*shape: int, seed: int = 1) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def rows(x_RI: jax.Array, w: Mxfp4, expert_R: np.ndarray) -> jax.Array:
    """Each row times the matrix of its expert. The kernel has no use for a loop."""
    expert_R = jnp.asarray(expert_R, jnp.int32)
    return matmul("RI,EIO->RO", x_RI, in_tiles(w), expert_R, gathered)


@needs_compiler
@pytest.mark.parametrize("tokens", [1, 2, 7, 13, 130])
@pytest.mark.parametrize("outputs", [16, 80, 96, 192, 1136])
def test_packed_products(tokens, outputs):
    """Against float64 in NumPy: single rows, steps with a rest, more rows than stay in cache;
    tiles of all three widths.
    """
    native.load_kernels()
    w = random_packed(5, 96, outputs)
    x_TI = normal(tokens, 96)
    rng = np.random.default_rng(2)
    expert_TX = np.stack([rng.permutation(5)[:3] for _ in range(tokens)]).astype(np.int32)
    blocks, scales = map(np.asarray, unpack_hf(w))
    w_EOI = dequantize_obvious(blocks, scales).astype(np.float64)
    expected = np.einsum("TI,TXOI->TXO", np.asarray(x_TI, np.float64), w_EOI[expert_TX])
    found = rows(jnp.repeat(x_TI, 3, axis=0), w, expert_TX.reshape(-1))
    found = found.reshape(expected.shape)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@needs_compiler
@pytest.mark.parametrize("tokens", [1, 3, 100])
def test_dense_product(tokens):
    """Two axes summed over and one; tiles of 16, of 32 and of 64."""
    native.load_kernels()
    w_NHD = normal(4, 24, 80).astype(jnp.bfloat16)
    x_BTNH = normal(1, tokens, 4, 24, seed=3)
    expected = np.einsum(
        "BTNH,NHD->BTD", np.asarray(x_BTNH, np.float64), np.asarray(w_NHD, np.float64)
    )
    found = matmul("BTNH,NHD->BTD", x_BTNH, in_tiles(w_NHD, 2))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    w_DNH, x_BTD = w_NHD.reshape(96, 5, 16), x_BTNH.reshape(1, tokens, 96)
    found = matmul("BTD,DNH->BTNH", x_BTD, in_tiles(w_DNH))
    assert found.shape == (1, tokens, 5, 16)
    np.testing.assert_allclose(found.reshape(1, tokens, 80), expected, rtol=1e-5, atol=1e-5)


@needs_compiler
@pytest.mark.parametrize("tokens", [1, 3, 100])
@pytest.mark.parametrize("outputs", [16, 96, 192])
def test_dense_product_in_8_bits(tokens, outputs):
    """The kernel against the rounded weights in float64; the rounding against its own promise."""
    native.load_kernels()
    w_DO = np.array(normal(96, outputs))
    w_DO[:32] *= 1e-3
    w_DO[32:64, 5] = 0
    dense = in_tiles(jnp.asarray(w_DO, jnp.bfloat16))
    rounded = round_to_int8(dense)
    x_BTD = normal(1, tokens, 96, seed=3)
    expected = np.asarray(x_BTD, np.float64) @ np.asarray(rounded.plain, np.float64)
    found = matmul("BTD,DO->BTO", x_BTD, rounded)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    stored = np.asarray(dense, np.float32).reshape(3, 32, outputs)
    error = np.abs(np.asarray(rounded).reshape(stored.shape) - stored)
    step = np.abs(stored).max(axis=1, keepdims=True) / 127
    assert (error <= 1.01 * step).all(), "the largest weight may be cut by half a step more"
    assert np.sqrt((error**2).mean()) < 0.31 * np.sqrt((step**2).mean())
    assert (error[1, :, 5] == 0).all()
    assert rounded.tiles.nbytes + rounded.scales.nbytes == 17 * dense.tiles.nbytes // 32


def kernel_model():
    """A model whose every product fits the kernels, experts packed and the rest bfloat16."""
    config = dataclasses.replace(
        TINY, hidden_size=96, intermediate_size=64, num_heads=15, num_kv_heads=3, head_dim=32,
        num_experts=16, vocab_size=112,
    )  # fmt: skip
    params = init_params(config, jax.random.key(0), jnp.bfloat16)
    return config, convert(params, "mxfp4")


@needs_compiler
@pytest.mark.parametrize("length", [1, 9])
def test_whole_model(length):
    """The same logits as the JAX twin, and every product of the model was taken by a kernel."""
    config, params = kernel_model()
    wrapped = all_in_tiles(params)
    tokens_BT = jnp.asarray(np.random.default_rng(4).integers(0, 112, (2, length)))
    expected = forward(params, tokens_BT, config)
    np.testing.assert_allclose(forward(wrapped, tokens_BT, config), expected, atol=3e-5)
    text = str(jax.make_jaxpr(lambda p: forward(p, tokens_BT, config))(wrapped))
    per_layer = 4 + 1 + 2  # q, k, v, o; the router; gate and up, down
    assert text.count("ffi_call[") == config.num_layers * per_layer + 1
    jax.tree.map(np.testing.assert_array_equal, all_plain(wrapped), params)


@needs_compiler
def test_gradients_and_other_axes_are_refused_or_right():
    """A bfloat16 activation keeps its dtype; shapes that do not fit are left to JAX."""
    config, params = kernel_model()
    wrapped = all_in_tiles(params)
    tokens_BT, position_BT = jnp.array([[3, 5]]), jnp.array([[0, 1]])
    kvs = (NoCache(),) * config.num_layers
    x_BTD, _, _ = run_blocks(wrapped, tokens_BT, position_BT, kvs, config, jnp.bfloat16)
    assert x_BTD.dtype == jnp.bfloat16
    odd = jnp.ones((33, 16), jnp.bfloat16)
    assert in_tiles(odd) is odd
    assert in_tiles(jnp.ones((32, 16))).dtype == jnp.float32


@needs_compiler
def test_load_model_on_request(tmp_path):
    """`backend` decides, "auto" leaves small models alone, and a wrapped model can be saved."""
    pocket, params = load_model(backend="cpu")
    plain, plain_params = load_model()
    assert isinstance(params.layers[0].moe.w_gate_up_EDP, Tiled)
    assert not isinstance(plain_params.layers[0].moe.w_gate_up_EDP, Tiled)
    question = "How many r's are in strawberry?"
    assert str(generate(pocket, params, question)) == str(generate(plain, plain_params, question))
    save_checkpoint(params, pocket.config, tmp_path, kept_ids=pocket.tokenizer.kept_ids)
    _, again = load_model(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, again, plain_params)


@needs_compiler
def test_load_model_in_8_bits():
    """Attention is rounded, experts and router are not, and answers stay what they were."""
    model, params = load_model(dense="int8")
    attention, moe = params.layers[0].attention, params.layers[0].moe
    assert attention.w_q_DNH.tiles.dtype == attention.w_o_NHD.tiles.dtype == jnp.int8
    assert not isinstance(moe.w_router_DE, Tiled) or moe.w_router_DE.tiles.dtype == jnp.bfloat16
    assert isinstance(moe.w_gate_up_EDP, Tiled)
    assert params.unembedding_DV.shape[1] % 16 > 0, "no tiles fit, so it stays as it is"
    plain, plain_params = load_model()
    tokens_BT = jnp.asarray(np.random.default_rng(4).integers(0, 900, (2, 50)))
    logits, expected = (forward(p, tokens_BT, model.config) for p in (params, plain_params))
    assert 1e-3 < jnp.abs(logits - expected).max() < 1, "rounded, and not by much"
    question = "How many r's are in strawberry?"
    assert str(generate(model, params, question)) == str(generate(plain, plain_params, question))
    same = load_model(dense="int8", each_layer=lambda layer: layer)[1]
    jax.tree.map(np.testing.assert_array_equal, same, params)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"dense": "int4"}, "dense is 'int4', expected one of stored, int8"),
        ({"dense": "int8", "backend": "jax"}, "found backend='jax'; leave out"),
        ({"dense": "int8", "precision": "f32"}, "found precision='f32'"),
        ({"dense": "int8", "mesh": make_mesh()}, "found a mesh"),
        ({"backend": "cpu", "mesh": make_mesh()}, "on this CPU alone, but found a mesh"),
    ],
)
def test_8_bits_where_they_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        load_model(**options)


@needs_compiler
def test_rounded_weights_are_not_saved_as_a_checkpoint(tmp_path):
    model, params = load_model(dense="int8")
    with pytest.raises(ValueError, match=r"is int8, expected"):
        save_checkpoint(params, model.config, tmp_path, kept_ids=model.tokenizer.kept_ids)


def test_unknown_kernels():
    with pytest.raises(ValueError, match="expected one of auto, jax, cpu"):
        load_model(backend="fast")


@pytest.fixture
def no_compiler(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    native.load_kernels.cache_clear()
    yield
    native.load_kernels.cache_clear()


def test_without_a_compiler(no_compiler, monkeypatch):
    with pytest.raises(RuntimeError, match=r"found none.*install one.*backend=\"jax\""):
        load_model(backend="cpu")
    monkeypatch.setattr(native, "WORTHWHILE", 1)
    with pytest.warns(UserWarning, match="many times slower"):
        _, params = load_model()
    assert not isinstance(params.layers[0].moe.w_gate_up_EDP, Tiled)
