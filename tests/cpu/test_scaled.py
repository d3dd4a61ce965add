"""Eight bits with a scale for each block of inputs: the same numbers in order and in tiles."""

import jax.numpy as jnp
import numpy as np
import pytest

from gptoss_edu.cpu.scaled import to_int8
from gptoss_edu.cpu.tiles import in_tiles, round_to_int8
from gptoss_edu.mxfp4 import BLOCK
from gptoss_edu.shapes import matmul


def weights(*shape: int) -> np.ndarray:
    """Random; one block of one column zero, one row of blocks tiny."""
    w = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    w[..., :32, 3], w[..., 32:64, :] = 0, w[..., 32:64, :] * 1e-4
    return w


@pytest.mark.parametrize("block", [None, 48, 32, 16])
def test_one_scale_per_block_and_output(block):
    """Each number is within half a step of its own block; products scale after summing a block."""
    w_EIO = weights(3, 96, 5)
    w = to_int8(jnp.asarray(w_EIO), block)
    J = 96 // (block or 96)
    assert (w.shape, w.dtype) == ((3, 96, 5), jnp.float32)
    assert w.scale_EJO.shape == (3, J, 5)
    largest_EJ1O = np.abs(w_EIO).reshape(3, J, -1, 5).max(axis=2, keepdims=True)
    error_EJIO = np.abs(np.asarray(w[:]) - w_EIO).reshape(3, J, -1, 5)
    assert (error_EJIO <= largest_EJ1O / 254 * 1.001).all()
    x_TI = np.random.default_rng(1).standard_normal((7, 96)).astype(np.float32)
    for expert in range(3):
        expected_TO = x_TI.astype(np.float64) @ np.asarray(w[expert], np.float64)
        found_TO = matmul("TI,EIO->TO", jnp.asarray(x_TI), w, expert)
        np.testing.assert_allclose(found_TO, expected_TO, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("outputs", [16, 96, 192])
def test_rounding_in_tiles_is_rounding(outputs):
    w_IO = jnp.asarray(weights(96, outputs), jnp.bfloat16)
    expected_IO = to_int8(w_IO, BLOCK, jnp.bfloat16)[...]
    np.testing.assert_array_equal(round_to_int8(in_tiles(w_IO)).plain, expected_IO)


def test_a_column_too_small_for_a_scale_is_zero():
    """1e-39 / 127 is less than the smallest float32, and a number over it would be infinite."""
    w = to_int8(jnp.full((32, 1), 1e-39))
    assert not np.asarray(w[...]).any()
    assert not np.asarray(w.numbers_EIO).any()
