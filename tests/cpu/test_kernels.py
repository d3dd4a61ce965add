"""The kernels themselves, called as XLA calls them: they refuse what does not fit together, and
every byte of MXFP4 means to them what it means in mxfp4.py.
"""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptoss_edu.cpu.build import find_compiler, load_kernels
from gptoss_edu.cpu.tiles import tile
from gptoss_edu.mxfp4 import dequantize

needs_compiler = pytest.mark.skipif(
    find_compiler() is None, reason="there is no C++ compiler: c++, g++ or clang++"
)
F32, BF16, S32, U8, S8 = jnp.float32, jnp.bfloat16, jnp.int32, jnp.uint8, jnp.int8
REFUSAL = (jax.errors.JaxRuntimeError, ValueError)  # which of them is up to JAX
E, L, J, W, T, X = 3, 2, 2, 16, 5, 4
# Kernel -> its arguments and, last, its result, as they fit together.
RIGHT = {
    "mxfp4_products": {
        "x": (F32, (T, J * 32)),
        "expert": (S32, (T, X)),
        "blocks": (U8, (E, L, J * 16, W)),
        "scales": (U8, (E, L, J, W)),
        "y": (F32, (T, X, L * W)),
    },
    "bf16_product": {
        "x": (F32, (T, J * 32)),
        "w": (BF16, (L, J * 32, W)),
        "y": (F32, (T, L * W)),
    },
    "int8_product": {
        "x": (F32, (T, J * 32)),
        "numbers": (S8, (L, J * 32, W)),
        "scales": (BF16, (L, J, W)),
        "y": (F32, (T, L * W)),
    },
}
EACH_AXIS = [
    (kernel, name, axis, change)
    for kernel, arrays in RIGHT.items()
    for name, (_, shape) in arrays.items()
    for axis in range(len(shape))
    for change in (-1, 1)
    # Any number of experts may be asked of each row, but then as many are to be written.
    if not (kernel == "mxfp4_products" and name == "expert" and axis > 1)
]


def call(kernel: str, arrays: dict) -> jax.Array:
    *arguments, (dtype, shape) = arrays.values()
    run = jax.ffi.ffi_call(f"gptoss_edu_{kernel}", jax.ShapeDtypeStruct(shape, dtype))
    return jax.block_until_ready(run(*(jnp.zeros(size, kind) for kind, size in arguments)))


@needs_compiler
@pytest.mark.parametrize("kernel", RIGHT)
def test_what_fits_is_computed(kernel):
    load_kernels()
    assert not call(kernel, RIGHT[kernel]).any()


@needs_compiler
@pytest.mark.parametrize("kernel, name, axis, change", EACH_AXIS)
def test_an_axis_of_another_size_is_refused(kernel, name, axis, change):
    """One axis of one array, one shorter or longer: nothing is read past its end."""
    load_kernels()
    dtype, shape = RIGHT[kernel][name]
    wrong = tuple(size + change * (place == axis) for place, size in enumerate(shape))
    with pytest.raises(REFUSAL, match=r"INVALID_ARGUMENT.*expected"):
        call(kernel, RIGHT[kernel] | {name: (dtype, wrong)})


@needs_compiler
@pytest.mark.parametrize("kernel", RIGHT)
def test_another_rank_or_dtype_is_refused(kernel):
    load_kernels()
    for name, (dtype, shape) in RIGHT[kernel].items():
        for wrong in ((dtype, (*shape, 1)), (dtype, shape[1:]), (jnp.float16, shape)):
            with pytest.raises(REFUSAL, match=r"Wrong buffer (rank|dtype)"):
                call(kernel, RIGHT[kernel] | {name: wrong})


def plain(outputs: int, inputs: int) -> dict:
    return {
        "x": (F32, (T, inputs)),
        "w": (BF16, (1, inputs, outputs)),
        "y": (F32, (T, outputs)),
    }


@needs_compiler
@pytest.mark.parametrize(
    "arrays, words",
    [
        (plain(48, 64), r"tiles \[L, I, W\] are \[1, 64, 48\], expected .* 16, 32 or 64 outputs"),
        (plain(17, 64), "16, 32 or 64 outputs"),
        (plain(128, 64), "16, 32 or 64 outputs"),
        (plain(16, 33), "32 inputs or a multiple of it"),
        (plain(16, 8), "32 inputs or a multiple of it"),
    ],
)
def test_tiles_that_no_loop_can_read_are_refused(arrays, words):
    """All fit each other, but a step takes 32 inputs, and a vector 16 outputs."""
    load_kernels()
    with pytest.raises(REFUSAL, match=words):
        call("bf16_product", arrays)


@needs_compiler
@pytest.mark.parametrize("number", [-1, E, 2**31 - 1, -(2**31)])
def test_an_expert_that_does_not_exist_is_refused(number):
    load_kernels()
    (_, y), blocks, scales = RIGHT["mxfp4_products"]["y"], (E, L, J * 16, W), (E, L, J, W)
    run = jax.ffi.ffi_call("gptoss_edu_mxfp4_products", jax.ShapeDtypeStruct(y, F32))
    expert_TX = jnp.zeros((T, X), S32).at[-1, -1].set(number)
    with pytest.raises(REFUSAL, match=f"expert {number} is out of range.* 3"):
        jax.block_until_ready(
            run(jnp.zeros((T, J * 32)), expert_TX, jnp.zeros(blocks, U8), jnp.zeros(scales, U8))
        )


@needs_compiler
def test_refused_without_asserts():
    """`python -O` drops every assert: what protects memory does not hang on one."""
    code = (
        "import jax, jax.numpy as jnp; from gptoss_edu.cpu.build import load_kernels\n"
        "load_kernels(); y = jax.ShapeDtypeStruct((1, 16), jnp.float32)\n"
        "run = jax.ffi.ffi_call('gptoss_edu_bf16_product', y)\n"
        "run(jnp.ones((1, 33)), jnp.ones((1, 32, 16), jnp.bfloat16)).block_until_ready()"
    )
    done = subprocess.run([sys.executable, "-O", "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "x is [1, 33], expected [1, 32]" in done.stderr


def test_tiles_of_a_weight_that_no_kernel_reads_are_not_made():
    with pytest.raises(ValueError, match=r"33 inputs are not a multiple of 32"):
        tile(jnp.ones((33, 16), BF16))


# --- all bytes of MXFP4 ---


def products(x_TI: jax.Array, blocks_EUO: np.ndarray, scales_EO: np.ndarray) -> np.ndarray:
    """y_ETO of matrices that are one block high and one tile wide."""
    E, U, O = blocks_EUO.shape
    rows = x_TI.shape[0]
    run = jax.ffi.ffi_call(
        "gptoss_edu_mxfp4_products", jax.ShapeDtypeStruct((rows, E, O // 16 * 16), F32)
    )
    blocks = blocks_EUO.reshape(E, U, O // 16, 16).swapaxes(1, 2)
    scales = scales_EO.reshape(E, 1, O // 16, 16).swapaxes(1, 2)
    expert_TE = jnp.tile(jnp.arange(E, dtype=jnp.int32), (rows, 1))
    return np.asarray(run(x_TI, expert_TE, jnp.asarray(blocks), jnp.asarray(scales))).swapaxes(0, 1)


@needs_compiler
@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("place", [0, 1, 17, 31])
@pytest.mark.parametrize("alone", [True, False])
def test_every_nibble_under_every_scale(rows, place, alone):
    """16 nibbles in both halves of a byte under 256 scales, as one row and as several are read.

    `alone`: the other weights of the block are zeros, so that infinite ones meet no input of 0,
    which would make them NaN. What is smaller than the smallest normal float counts as zero.
    """
    load_kernels()
    blocks_EUO = np.broadcast_to(np.arange(256, dtype=np.uint8), (256, 16, 256)).copy()
    if alone:
        blocks_EUO[:, np.arange(16) != place // 2] = 0
        blocks_EUO[:, place // 2] &= 0xF0 if place % 2 else 0x0F
    scales_EO = np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None], (256, 256))
    x_TI = jnp.zeros((rows, 32)).at[:, place].set(1.0)
    found_ETO = products(x_TI, blocks_EUO, scales_EO)
    w_EIO = np.asarray(
        dequantize(jnp.asarray(blocks_EUO)[:, None], jnp.asarray(scales_EO)[:, None]), np.float32
    )
    with np.errstate(invalid="ignore"):
        expected_EO = (np.asarray(x_TI[0])[:, None] * w_EIO).sum(axis=1)
    smallest = np.finfo(np.float32).tiny
    for row in range(rows):
        np.testing.assert_allclose(found_ETO[:, row], expected_EO, rtol=0, atol=smallest)
    normal = np.isfinite(expected_EO) & (np.abs(expected_EO) >= smallest)
    np.testing.assert_array_equal(found_ETO[:, 0][normal], expected_EO[normal])
    assert np.isnan(expected_EO[255]).all()
    assert np.isinf(expected_EO[253:255]).any() == alone
    assert normal[0].any(), "6 x 2^-127 is a normal number, though 2^-127 is none"


@needs_compiler
@pytest.mark.parametrize("rows", [1, 7])
def test_one_extreme_block_among_others(rows):
    """The blocks before and behind it, and its neighbors, are as exact as ever."""
    load_kernels()
    rng = np.random.default_rng(0)
    blocks_JUO = rng.integers(0, 256, (4, 16, 64), np.uint8)
    scales_JO = rng.integers(120, 130, (4, 64), np.uint8)
    scales_JO[1, 5], scales_JO[2, 50], scales_JO[3, 9] = 0, 254, 1
    blocks_JUO[2, :, 50] &= 0x11  # zeros and halves: a two under 254 is infinite
    w_IO = np.asarray(dequantize(jnp.asarray(blocks_JUO), jnp.asarray(scales_JO)), np.float64)
    x_TI = 0.01 * rng.standard_normal((rows, 128)).astype(np.float32)
    expected_TO = x_TI.astype(np.float64) @ w_IO
    run = jax.ffi.ffi_call(
        "gptoss_edu_mxfp4_products", jax.ShapeDtypeStruct((rows, 1, 64), jnp.float32)
    )
    tiles, scales = blocks_JUO.reshape(1, 1, 64, 64), scales_JO.reshape(1, 1, 4, 64)
    found_T1O = run(x_TI, jnp.zeros((rows, 1), S32), jnp.asarray(tiles), jnp.asarray(scales))
    found_TO, size_O = np.asarray(found_T1O, np.float64)[:, 0], np.abs(w_IO).max(axis=0)
    np.testing.assert_allclose(found_TO / size_O, expected_TO / size_O, rtol=0, atol=1e-6)
