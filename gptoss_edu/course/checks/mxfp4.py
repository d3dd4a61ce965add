"""Chapter 05: write `decode_byte`, `quantize_block`, `checkpoint_bytes` and `best_byte`.

    from gptoss_edu.course.checks import mxfp4
    mxfp4.decode_byte(my_decode_byte)

Source: gptoss_edu/mxfp4.py and layout.py, which the right answers come from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from gptoss_edu.config import GPT_OSS_20B, GPT_OSS_120B, TINY, Config
from gptoss_edu.course.checks import Exercise, changed, mistakes_in
from gptoss_edu.course.checks.telling import as_many
from gptoss_edu.mxfp4 import BLOCK, VALUES, Mxfp4, quantize
from gptoss_edu.weights.layout import HF_PACKED

Pair = tuple[float, float]
Packed = tuple[np.ndarray, int]

# ------------------------------------------------------------------------------------ exercise 1


def byte_cases() -> Iterator[tuple[int, int]]:
    """Arguments of `decode_byte`: scales around 127, then every byte under two far ones."""
    yield from ((0x9D, 121), (0x72, 127), (0x3A, 128), (0xE1, 126), (0x0F, 130), (0xC8, 124))
    for scale in (118, 133):
        for byte in range(256):
            yield byte, scale


def dequantize_obvious(blocks: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """The slow twin, in NumPy, on the published layout: [..., J, 16] and [..., J] to [..., I]."""
    nibbles = np.stack([blocks & 0xF, blocks >> 4], axis=-1).reshape(*scales.shape, BLOCK)
    scale = np.exp2(scales[..., None].astype(np.float64) - 127)
    scale = np.where(scales[..., None] == 255, np.nan, scale)
    with np.errstate(over="ignore", invalid="ignore"):
        weights = (VALUES.astype(np.float64)[nibbles] * scale).astype(np.float32)
    return weights.reshape(*scales.shape[:-1], -1)


def unpack_hf(w: Mxfp4) -> tuple[jax.Array, jax.Array]:
    """From our layout to the published one: (blocks_EOJU, scales_EOJ)."""
    return jnp.transpose(w.blocks_EJUO, (0, 3, 1, 2)), jnp.transpose(w.scales_EJO, (0, 2, 1))


def right_decode_byte(byte: int, scale: int) -> Pair:
    """The slow twin, on a block whose first byte this is."""
    block_U = np.zeros(BLOCK // 2, np.uint8)
    block_U[0] = byte
    first, second = dequantize_obvious(block_U, np.array(scale, np.uint8))[:2]
    return float(first), float(second)


def _decoded(byte: int, scale: int) -> Pair:
    """From the table of values."""
    low, high = byte & 15, byte >> 4
    factor = 2.0 ** (scale - 127)
    return _value(low) * factor, _value(high) * factor


def _value(nibble: int) -> float:
    return float(VALUES[nibble])


def _unbiased(nibble: int) -> float:
    sign, exponent, half = 1 - nibble // 8 * 2, nibble >> 1 & 3, nibble & 1
    return sign * ((1 + half / 2) * 2.0**exponent if exponent else half / 2)


decode_byte = Exercise(
    "decode_byte", right_decode_byte, ("first", "second"), byte_cases,
    mistakes_in(_decoded, {
        "high nibble first": ("the two weights are swapped. The low nibble, byte & 15, comes"
            " first; people write numbers from the high end, and memory does not.",
            "low, high =", "high, low ="),
        "sign lost": ("all your weights are positive. The top bit of a nibble, nibble & 8, is its"
            " sign.", "(low)", "(low & 7)", "(high)", "(high & 7)"),
        "FP4's own bias is forgotten": ("the exponent of a nibble has a bias, too, of 1: its"
            " exponent bits 1, 2, 3 mean 2^0, 2^1, 2^2. Yours are twice as large.",
            "_value", "_unbiased"),
        "bias 128": ("every weight is half as large as it should be. The scale is 2^(byte - 127).",
            "127", "128"),
        "bias 126": ("every weight is twice as large as it should be. The scale is 2^(byte - 127).",
            "127", "126"),
        "the scale byte is a factor": ("you multiply by the scale byte itself. It is an exponent:"
            " multiply by 2^(byte - 127).", "2.0 ** (scale - 127)", "scale"),
    }),
    praise="Right for all 256 bytes, under small and large scales.",
    atol=1e-9,
)  # fmt: skip


# ------------------------------------------------------------------------------------ exercise 2


def block_cases() -> Iterator[tuple[np.ndarray]]:
    """Arguments of `quantize_block`: plain ones, then an outlier, ties, only negatives, zeros."""
    rng = np.random.default_rng(5)
    for size in (0.03, 1.0, 40.0, 0.0007):
        yield ((size * rng.standard_normal(BLOCK)).astype(np.float32),)
    outlier = (0.1 * rng.standard_normal(BLOCK)).astype(np.float32)
    outlier[9] = -3.9
    yield (outlier,)
    ties = np.tile([0.25, -0.75, 1.25, -1.75, 2.5, -3.5, 5.0, 6.0], 4).astype(np.float32)
    yield (ties / 8,)
    for largest in (1.0, 4.0, 5.9, 6.0, 7.9, 2.0**-20):  # either side of what is cut off at 6
        yield (np.linspace(-largest, 0.9 * largest, BLOCK).astype(np.float32),)
    yield (-np.abs(rng.standard_normal(BLOCK)).astype(np.float32),)
    yield (np.zeros(BLOCK, np.float32),)


def right_quantize_block(w_32: np.ndarray) -> Packed:
    """The library's `quantize` on one block: (16 bytes, scale byte)."""
    blocks_EOJU, scales_EOJ = unpack_hf(quantize(jnp.asarray(w_32)[None, :, None]))
    return np.asarray(blocks_EOJU)[0, 0, 0], int(scales_EOJ[0, 0, 0])


def _nearest(x_32: np.ndarray) -> np.ndarray:
    """Codes 0 to 7 of the nearest magnitudes; ties to the even code."""
    gap = np.abs(np.abs(x_32)[:, None] - VALUES[:8])
    tie = gap == gap.min(axis=1, keepdims=True)
    return np.where(tie, np.arange(8) % 2, 2).argmin(axis=1)


def _down(x_32: np.ndarray) -> np.ndarray:
    return np.abs(np.abs(x_32)[:, None] - VALUES[:8]).argmin(axis=1)


def _quantized(w_32: np.ndarray) -> Packed:
    """The same in NumPy, step by step."""
    largest = abs(float(np.abs(w_32).max()))
    if largest == 0:
        return np.zeros(BLOCK // 2, np.uint8), 0
    exponent = math.floor(math.log2(largest)) - 2
    x_32 = w_32.astype(np.float64) / 2.0**exponent
    code_32 = _nearest(x_32)
    code_32 = code_32 | 8 * np.signbit(w_32)
    block_U = code_32[0::2] | code_32[1::2] << 4
    return block_U.astype(np.uint8), exponent + 127


quantize_block = Exercise(
    "quantize_block", right_quantize_block, ("block_U", "scale"), block_cases,
    mistakes_in(_quantized, {
        "high nibble first": ("the codes are right and sit in the wrong halves of their bytes: the"
            " first of two weights belongs into the low nibble.",
            "code_32[0::2] | code_32[1::2]", "code_32[1::2] | code_32[0::2]"),
        "halves of the block share a byte": ("you put weights u and u + 16 into one byte. Other"
            " file formats do that; here weights 2u and 2u + 1 share byte u.",
            "code_32[0::2] | code_32[1::2]", "code_32[:16] | code_32[16:]"),
        "the exponent is rounded": ("you round log2(largest) to the nearest whole number. Take the"
            " floor.", "math.floor(", "round("),
        "the largest lands at 1": ("your scale is four times too large: subtract 2, the exponent"
            " of 6 = 1.5 · 2^2, so that the largest weight lands between 4 and 8.",
            "(largest)) - 2", "(largest))"),
        "the largest is signed": ("you take the largest weight. A weight far below zero needs"
            " room, too: take the largest absolute value.", "np.abs(w_32).max()", "w_32.max()"),
        "ties go toward zero": ("a weight in the middle between two values goes to the smaller one"
            " (`argmin` takes the first of equals). It should go to the one with the even code.",
            "_nearest", "_down"),
        "no negative zero": ("the numbers are right, the bytes are not quite: a small negative"
            " weight that rounds to zero keeps its sign, and its code is 8.",
            "np.signbit(w_32)", "((w_32 < 0) & (code_32 > 0))"),
    }),
    praise="Bit for bit, with outliers, ties, negatives and zeros.",
)  # fmt: skip


# ------------------------------------------------------------------------------------ exercise 3


def config_cases() -> Iterator[tuple[Config]]:
    """Arguments of `checkpoint_bytes`: sizes that all differ, then the two published models."""
    yield (TINY,)
    yield (GPT_OSS_20B,)
    yield (GPT_OSS_120B,)


def _bytes(config: Config) -> int:
    """Tensor by tensor; blocks and scales are bytes already, all other numbers are bf16."""
    total = 0.0
    for field in HF_PACKED:
        name, count = str(field), math.prod(field.shape(config))
        packed = ".blocks" in name or ".scales" in name
        size = count if packed else 2 * count
        total += size * (config.num_layers if field.part else 1)
    return int(total)


def _instead(*names: str, factor: float = 0.0) -> Callable[[Config], int]:
    """As the right one, but fields with one of these names weigh `factor` times as much."""
    found = " or ".join(f"{name!r} in name" for name in names)
    return changed(_bytes, "size * ", f"size * ({factor} if {found} else 1) * ")


def _stored(config: Config) -> dict[str, int]:
    """Name of every tensor -> its bytes, in all layers together."""
    return {
        str(field): math.prod(field.shape(config))
        * (1 if ".blocks" in str(field) or ".scales" in str(field) else 2)
        * (config.num_layers if field.part else 1)
        for field in HF_PACKED
    }


checkpoint_bytes = Exercise(
    "checkpoint_bytes", _bytes, ("the bytes",), config_cases,
    mistakes_in(_bytes, {
        "no scales": ("the scales are missing: one byte for every 32 packed weights, 0.6 GB in the"
            " 20B.", _instead(".scales")),
        "twice the scales": ("your scales take twice their room. One byte serves 32 weights (16 is"
            " the number of bytes in a block), since a power of two is stored as its exponent"
            " alone.", _instead(".scales", factor=2)),
        "a scale is a float": ("your scales take four bytes each. A scale is a power of two: its"
            " exponent alone fits into one.", _instead(".scales", factor=4)),
        "no biases at all": ("all biases are missing: of attention, of the router and of the"
            " experts.", _instead(".b_")),
        "tied embedding": ("one of the two large tables is missing. Embedding and unembedding are"
            " stored apart.", _instead("unembedding")),
    }),
    praise="To the last byte, for a small model and for both published ones.",
    note=lambda case, found, right: as_many(found, right, _stored(case[0])),
)  # fmt: skip


# ------------------------------------------------------------------------------------ exercise 4


def best_cases() -> Iterator[tuple[np.ndarray]]:
    """Arguments of `best_byte`: where the rule is best and where it is not, ties, extremes."""
    rng = np.random.default_rng(54)
    for size in (0.05, 3.0):
        yield ((size * rng.standard_normal(BLOCK)).astype(np.float32),)
    yield (np.append(np.full(30, 0.9), [7.9, -7.8]).astype(np.float32),)  # not to be cut off
    yield (np.append(np.full(31, 0.37), 6.3).astype(np.float32),)  # better cut off
    yield (np.append(np.full(31, 0.5), 7.5).astype(np.float32),)  # one large error, not 31 small
    yield (np.tile([1.0, -2.0, 0.5, 0.0], 8).astype(np.float32),)  # several bytes lose nothing
    outlier = (0.02 * rng.standard_normal(BLOCK)).astype(np.float32)
    outlier[3] = 0.9
    yield (outlier,)
    for size in (1e-33, 1e33):
        yield ((size * rng.standard_normal(BLOCK)).astype(np.float32),)
    yield (np.zeros(BLOCK, np.float32),)


def _best(w_32: np.ndarray) -> int:
    """Every byte is tried."""
    losses = []
    for byte in range(255):
        stored = 2.0 ** (byte - 127) * VALUES.astype(np.float64)
        gap = np.abs(w_32.astype(np.float64)[:, None] - stored).min(axis=1)
        losses.append((gap**2).sum())
    return int(np.argmin(losses))


def _by_rule(w_32: np.ndarray) -> int:
    largest = float(np.abs(w_32).max())
    return math.floor(math.log2(largest)) - 2 + 127 if largest else 0


def _never_cut(w_32: np.ndarray) -> int:
    largest = float(np.abs(w_32).max())
    return math.ceil(math.log2(largest / 6)) + 127 if largest else 0


best_byte = Exercise(
    "best_byte", _best, ("byte",), best_cases,
    mistakes_in(_best, {
        "the rule of the standard": ("you follow the rule of the standard. It looks at the largest"
            " weight only; for some blocks the next byte loses less. Measure the loss.", _by_rule),
        "nothing is cut off": ("your byte never cuts a weight off. Sometimes the block loses less"
            " when its largest weight does become 6 times the scale: measure the loss.",
            _never_cut),
        "errors that are not squared": ("you add up the errors without squaring them. The loss is"
            " the sum of the squares, so one large error costs more than many small ones.",
            "(gap**2)", "gap"),
        "only the largest error": ("you minimize the largest error. The loss adds up the squares"
            " of all of them.", "(gap**2).sum()", "gap.max()"),
        "the largest of equals": ("of several bytes that lose equally little you return the"
            " largest. Asked for is the smallest: np.argmin takes the first of equals.",
            "int(np.argmin(losses))", "254 - int(np.argmin(losses[::-1]))"),
    }),
    praise="The best byte for every block, also where the rule of the standard has another.",
)  # fmt: skip
