"""MXFP4: four bits per weight, and one shared power of two for every 32 of them.

A nibble is a sign, two exponent bits and one mantissa bit; it names one of 0, 0.5, 1, 1.5, 2, 3, 4,
6 or their negatives. 32 consecutive weights along the input dimension form a block of 16 bytes,
two weights per byte, low nibble first. A block's scale is one byte b, worth 2^(b - 127).

Source: OCP Microscaling Formats (MX) Specification v1.0, sections 5.3 and 6.3.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from gptoss_edu.shapes import DType, Index, Which, check_shapes, product, summary

VALUES = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
BLOCK = 32
MAX_EXPONENT = 2  # the largest value is 6 = 1.5 * 2^2


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mxfp4:
    """E packed matrices [I, O] that answer `w[expert]` like an array of shape [E, I, O].

    In memory the output dimension comes last: blocks_EJUO holds byte u of block j (I = 32 * J,
    U = 16) and scales_EJO its exponent. One vector instruction then decodes many outputs side by
    side; the published layout [E, O, J, U] has them 1,440 bytes apart.
    """

    blocks_EJUO: jax.Array
    scales_EJO: jax.Array
    __repr__ = summary

    @property
    def shape(self) -> tuple[int, int, int]:
        """(E, I, O) of the weights that are packed here."""
        E, J, U, O = self.blocks_EJUO.shape
        return E, J * 2 * U, O

    @property
    def dtype(self) -> DType:
        """What indexing returns: bfloat16, which holds every decoded value exactly."""
        return jnp.dtype(jnp.bfloat16)

    def __getitem__(self, which: Index) -> jax.Array:
        """Decode the matrices of some experts: [I, O] for one, [..., I, O] for several."""
        return dequantize(self.blocks_EJUO[which], self.scales_EJO[which])


@product.register(Mxfp4)
def _(w: Mxfp4, equation: str, x_TI: jax.Array, expert: Which) -> jax.Array:
    return packed_product(x_TI, w.blocks_EJUO[expert], w.scales_EJO[expert])


def packed_product(x_TI: jax.Array, blocks_JUO: jax.Array, scales_JO: jax.Array) -> jax.Array:
    """x_TI times a packed matrix, y_TO: the fast twin of `x_TI @ dequantize(blocks, scales)`.

    Low nibbles meet even inputs, high nibbles odd ones, each half decoded by one expression over
    neighbors in memory. Weaving the halves into one matrix first takes four times as long on a CPU.
    """
    check_shapes(blocks_JUO=blocks_JUO, scales_JO=scales_JO)
    J, U, _ = blocks_JUO.shape
    x_TJU2 = x_TI.reshape(x_TI.shape[0], J, U, 2)
    even_TO = _half_product(x_TJU2[..., 0], blocks_JUO & 0xF, scales_JO)
    odd_TO = _half_product(x_TJU2[..., 1], blocks_JUO >> 4, scales_JO)
    return (even_TO + odd_TO).astype(x_TI.dtype)


def _half_product(x_TJU: jax.Array, nibble_JUO: jax.Array, scales_JO: jax.Array) -> jax.Array:
    """One row is a loop over bytes, which decodes as it goes. Several rows are a matrix product,
    and there the TPU compiler needs blocks and bytes as one axis I: summing over two, it would
    transpose the packed weights first, 0.4 GiB of copies per layer of the 20B.
    """
    w_JUO = decode(nibble_JUO, scales_JO[:, None]).astype(x_TJU.dtype)
    if x_TJU.shape[0] == 1:
        return jnp.einsum("TJU,JUO->TO", x_TJU, w_JUO, preferred_element_type=jnp.float32)
    w_IO = w_JUO.reshape(-1, w_JUO.shape[-1])
    x_TI = x_TJU.reshape(x_TJU.shape[0], -1)
    return jnp.einsum("TI,IO->TO", x_TI, w_IO, preferred_element_type=jnp.float32)


def dequantize(blocks_JUO: jax.Array, scales_JO: jax.Array) -> jax.Array:
    """Decode bytes [..., J, 16, O] and scales [..., J, O] to bfloat16 weights [..., I, O]. Exact.

    The float's bits are put together with integers: a product with the scale would flush the
    smallest results to zero, since XLA treats subnormal numbers as zero on CPU. Scale 255 is NaN.
    """
    assert blocks_JUO.shape[-2] == BLOCK // 2, f"{blocks_JUO.shape=} needs 16 bytes per block"
    nibble_JU2O = jnp.stack([blocks_JUO & 0xF, blocks_JUO >> 4], axis=-2)
    w_JU2O = decode(nibble_JU2O, scales_JO[..., None, None, :])
    *lead, J, U, two, O = w_JU2O.shape
    return w_JU2O.reshape(*lead, J * U * two, O)


def decode(nibble: jax.Array, scale: jax.Array) -> jax.Array:
    """Elementwise nibble times 2^(scale - 127) in bfloat16, for all 16 nibbles and 256 scales.

    A magnitude nibble m = (exponent e, mantissa bit f) is worth (1 + f/2) * 2^(e - 1), or f/2 where
    e = 0. So its biased float exponent is scale + e - 1, except for m = 1 (one half: scale - 1 with
    no mantissa). Exponents of 0 and below are subnormal floats, 255 and above are infinite.
    """
    m, scale = (nibble & 7).astype(jnp.int32), scale.astype(jnp.int32)
    half = m == 1
    exponent = scale + jnp.where(half, 0, m >> 1) - 1
    significand = jnp.where((m & 1 == 1) & ~half, 0xC0, 0x80)  # 8 bits, the leading one included
    normal = (exponent << 7) | (significand & 0x7F)
    subnormal = significand >> jnp.clip(1 - exponent, 0, 8)
    bits = jnp.where(exponent > 0, normal, subnormal)
    bits = jnp.where(exponent >= 255, 0x7F80, bits)
    bits = jnp.where(m == 0, 0, bits) | ((nibble.astype(jnp.int32) & 8) << 12)
    bits = jnp.where(scale == 255, 0x7FC0, bits)
    return jax.lax.bitcast_convert_type(bits.astype(jnp.uint16), jnp.bfloat16)


def pack_hf(blocks_EOJU: np.ndarray | jax.Array, scales_EOJ: np.ndarray | jax.Array) -> Mxfp4:
    """From the published layout [E, O, J, 16] and [E, O, J] to ours, output dimension innermost."""
    check_shapes({"U": BLOCK // 2}, blocks_EOJU=blocks_EOJU, scales_EOJ=scales_EOJ)
    return Mxfp4(jnp.transpose(blocks_EOJU, (0, 2, 3, 1)), jnp.transpose(scales_EOJ, (0, 2, 1)))


def quantize(w_EIO: jax.Array) -> Mxfp4:
    """Round weights to MXFP4, blocks of 32 along the input dimension I.

    The scale is 2^(floor(log2(largest)) - 2), as the specification proposes, so that the block's
    largest number lands between 4 and 8 (what exceeds 6 becomes 6); each weight then goes to the
    nearest of the eight magnitudes, ties to the even code.
    """
    E, I, O = w_EIO.shape
    assert I % BLOCK == 0, f"the input dimension {I} is not a multiple of {BLOCK}"
    w_EJ32O = w_EIO.astype(jnp.float32).reshape(E, I // BLOCK, BLOCK, O)
    largest_EJO = jnp.max(jnp.abs(w_EJ32O), axis=2)
    _, exponent_EJO = jnp.frexp(largest_EJO)  # largest = m * 2^exponent with 0.5 <= m < 1
    scale_EJO = jnp.where(largest_EJO > 0, exponent_EJO - 1 - MAX_EXPONENT, -127)
    scale_EJO = jnp.clip(scale_EJO, -127, 127)
    scaled_EJ32O = jnp.abs(w_EJ32O) * jnp.exp2(-scale_EJO.astype(jnp.float32))[:, :, None]
    code_EJ32O = nearest_code(scaled_EJ32O) | jnp.where(jnp.signbit(w_EJ32O), 8, 0)
    code_EJU2O = code_EJ32O.reshape(E, I // BLOCK, BLOCK // 2, 2, O).astype(jnp.uint8)
    blocks_EJUO = code_EJU2O[:, :, :, 0] | (code_EJU2O[:, :, :, 1] << 4)
    return Mxfp4(blocks_EJUO, (scale_EJO + 127).astype(jnp.uint8))


def nearest_code(magnitude: jax.Array) -> jax.Array:
    """Code 0 to 7 of the nearest magnitude 0, 0.5, 1, 1.5, 2, 3, 4, 6; ties go to the even code."""
    code = jnp.zeros(magnitude.shape, jnp.int32)
    middles = (VALUES[:7] + VALUES[1:8]) / 2
    for lower, middle in enumerate(middles.tolist()):
        code += magnitude > middle if lower % 2 == 0 else magnitude >= middle
    return code
