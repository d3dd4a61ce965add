"""Four-bit weights: every byte with every scale, bit for bit, and packing there and back."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from gptoss_edu.course.checks.mxfp4 import dequantize_obvious, unpack_hf
from gptoss_edu.mxfp4 import (
    VALUES,
    Mxfp4,
    dequantize,
    nearest_code,
    pack_hf,
    quantize,
)
from gptoss_edu.shapes import matmul


def every_byte_and_scale():
    """Published layout: bytes [256, 1, 16] against scales [256], all pairs."""
    byte = np.arange(256, dtype=np.uint8)
    blocks = np.broadcast_to(byte[:, None, None, None], (256, 256, 1, 16))
    scales = np.broadcast_to(byte[None, :, None], (256, 256, 1))
    return blocks, scales


def independent_decoder(blocks, scales):
    """The dtypes of ml_dtypes know both formats: float4_e2m1fn and float8_e8m0fnu."""
    nibbles = np.stack([blocks & 15, blocks >> 4], axis=-1).reshape(*scales.shape, 32)
    magnitude = nibbles.view(ml_dtypes.float4_e2m1fn).astype(np.float64)
    scale = scales.view(ml_dtypes.float8_e8m0fnu).astype(np.float64)[..., None]
    with np.errstate(invalid="ignore", over="ignore"):
        return (magnitude * scale).astype(np.float32).astype(ml_dtypes.bfloat16)[..., 0, :]


@pytest.mark.filterwarnings("ignore:overflow")
def test_all_bytes_with_all_scales_bit_for_bit_under_jit():
    blocks, scales = every_byte_and_scale()
    expected = independent_decoder(blocks, scales)
    blocks_EJUO = jnp.asarray(np.moveaxis(blocks, 1, -1))
    scales_EJO = jnp.asarray(np.moveaxis(scales, 1, -1))
    decoded = np.moveaxis(np.asarray(jax.jit(dequantize)(blocks_EJUO, scales_EJO)), -1, 1)
    assert decoded.shape == expected.shape == (256, 256, 32)
    numbers = ~np.isnan(expected.astype(np.float32))
    assert numbers[:, :255].all()
    assert np.isnan(decoded[:, 255].astype(np.float32)).all()
    np.testing.assert_array_equal(
        decoded.view(np.uint16)[numbers], expected.view(np.uint16)[numbers]
    )


def test_the_obvious_twin_agrees():
    blocks, scales = every_byte_and_scale()
    expected = independent_decoder(blocks, scales)[:, :255].astype(np.float32)
    with np.errstate(over="ignore"):
        obvious = dequantize_obvious(blocks, scales)[:, :255]
    same = obvious.astype(ml_dtypes.bfloat16).astype(np.float32) == expected
    assert same.all()
    assert np.isnan(dequantize_obvious(blocks, scales)[:, 255]).all()


def test_the_table_of_values_is_the_format():
    format_ = np.arange(16, dtype=np.uint8).view(ml_dtypes.float4_e2m1fn).astype(np.float32)
    np.testing.assert_array_equal(VALUES, format_)
    np.testing.assert_array_equal(np.signbit(VALUES), np.signbit(format_))


def test_low_nibble_comes_first():
    blocks_1U1 = jnp.zeros((1, 16, 1), jnp.uint8).at[0, 0, 0].set(0x72)  # 2 -> 1.0, then 7 -> 6.0
    w_IO = dequantize(blocks_1U1, jnp.full((1, 1), 127, jnp.uint8))
    np.testing.assert_array_equal(w_IO[:3, 0].astype(np.float32), [1.0, 6.0, 0.0])


def test_published_layout_there_and_back():
    rng = np.random.default_rng(0)
    blocks_EOJU = rng.integers(0, 256, (3, 7, 5, 16), dtype=np.uint8)
    scales_EOJ = rng.integers(100, 140, (3, 7, 5), dtype=np.uint8)
    packed = pack_hf(blocks_EOJU, scales_EOJ)
    assert packed.shape == (3, 160, 7)
    assert packed.blocks_EJUO.shape == (3, 5, 16, 7)
    for back, there in zip(unpack_hf(packed), (blocks_EOJU, scales_EOJ), strict=True):
        np.testing.assert_array_equal(back, there)
    expected_EOI = dequantize_obvious(blocks_EOJU, scales_EOJ)
    np.testing.assert_array_equal(
        packed[:].astype(np.float32), expected_EOI.transpose(0, 2, 1).astype(np.float32)
    )
    np.testing.assert_array_equal(packed[2], packed[:][2])


def test_quantizing_what_is_already_on_the_grid_changes_nothing():
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 16, (2, 64, 5))
    codes[:, ::32] = 7  # a six in every block fixes its scale
    w_EIO = VALUES[codes] * np.float32(2.0**-9)
    np.testing.assert_array_equal(quantize(jnp.asarray(w_EIO))[:].astype(np.float32), w_EIO)


def test_quantized_weights_are_the_nearest_on_the_blocks_grid():
    w_EIO = jax.random.normal(jax.random.key(0), (2, 96, 7))
    packed = quantize(w_EIO)
    scale_EIO = 2.0 ** (np.repeat(np.asarray(packed.scales_EJO), 32, axis=1).astype(float) - 127)
    grid = VALUES.astype(float) * scale_EIO[..., None]
    best = np.abs(grid - np.asarray(w_EIO, float)[..., None]).min(-1)
    error = np.abs(np.asarray(packed[:], np.float32) - np.asarray(w_EIO, float))
    np.testing.assert_allclose(error, best, atol=1e-7)
    largest = np.abs(np.asarray(w_EIO)).reshape(2, 3, 32, 7).max(2) / scale_EIO[:, ::32]
    assert ((largest >= 4) & (largest < 8)).all()


@pytest.mark.parametrize("value", [0.0, 1e-44, 3e38])
def test_quantize_at_the_edges_stays_finite(value):
    decoded = quantize(jnp.full((1, 32, 1), value))[:].astype(jnp.float32)
    assert jnp.isfinite(decoded).all()
    np.testing.assert_allclose(decoded, value, rtol=0.34, atol=1e-38)


def test_ties_go_to_the_even_code():
    ties = jnp.array([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0])
    np.testing.assert_array_equal(nearest_code(ties), [0, 2, 2, 4, 4, 6, 6])


@pytest.mark.parametrize("dtype, tolerance", [(jnp.float32, 1e-5), (jnp.bfloat16, 2e-2)])
def test_the_product_of_halves_is_the_product(dtype, tolerance):
    packed = quantize(jax.random.normal(jax.random.key(3), (3, 96, 5)))
    x_TI = jax.random.normal(jax.random.key(4), (7, 96)).astype(dtype)
    got_TO = jax.jit(matmul, static_argnums=0)("TI,EIO->TO", x_TI, packed, 2)
    expected_TO = np.asarray(x_TI, np.float64) @ np.asarray(packed[2], np.float64)
    assert got_TO.dtype == dtype
    np.testing.assert_allclose(
        np.asarray(got_TO, np.float64), expected_TO, rtol=tolerance, atol=tolerance
    )


def test_it_answers_like_an_array():
    packed = quantize(jax.random.normal(jax.random.key(2), (3, 64, 5)))
    assert (packed.shape, packed.dtype) == ((3, 64, 5), jnp.bfloat16)
    assert packed[jnp.array([2, 0])].shape == (2, 64, 5)
    leaves, tree = jax.tree.flatten(packed)
    assert isinstance(jax.tree.unflatten(tree, leaves), Mxfp4)
