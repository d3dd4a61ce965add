"""Chapter 05: write `decode_byte`, `quantize_block` and `checkpoint_bytes`.

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
from gptoss_edu.course.checks import Exercise
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


def _decoded(
    value: Callable[[int], float] = lambda nibble: float(VALUES[nibble]),
    scaled: Callable[[float, int], float] = lambda x, scale: x * 2.0 ** (scale - 127),
    high_first: bool = False,
) -> Callable[[int, int], Pair]:
    """A decoder from what people vary in it; the defaults are right."""

    def decode_byte(byte: int, scale: int) -> Pair:
        nibbles = (byte >> 4, byte & 15) if high_first else (byte & 15, byte >> 4)
        first, second = (scaled(value(nibble), scale) for nibble in nibbles)
        return first, second

    return decode_byte


def _signed(magnitude: Callable[[int], float]) -> Callable[[int], float]:
    return lambda nibble: (-1 if nibble & 8 else 1) * magnitude(nibble & 7)


def _twos_complement(nibble: int) -> float:
    return float(VALUES[nibble]) if nibble < 8 else -float(VALUES[(16 - nibble) & 7])


decode_byte = Exercise(
    "decode_byte",
    right_decode_byte,
    ("first", "second"),
    byte_cases,
    {
        "high nibble first": ("the two weights are swapped. The low nibble, byte & 15, comes"
            " first; people write numbers from the high end, and memory does not.",
            _decoded(high_first=True)),
        "sign lost": ("all your weights are positive. The top bit of a nibble, nibble & 8, is its"
            " sign.", _decoded(lambda nibble: float(VALUES[nibble & 7]))),
        "two's complement": ("you read negative nibbles as two's complement, as integers have it."
            " Here the top bit is only a sign: 1001 is minus 0001.", _decoded(_twos_complement)),
        "whole numbers": ("you read the three low bits as a whole number. They are two exponent"
            " bits and one mantissa bit: 0, 0.5, 1, 1.5, 2, 3, 4, 6.", _decoded(_signed(float))),
        "no zero": ("your smallest magnitudes are 0.5 and 0.75. Where the exponent bits are 0,"
            " there is no hidden one in front: the two values are 0 and 0.5.",
            _decoded(_signed(lambda m: (1 + (m & 1) / 2) * 2.0 ** ((m >> 1) - 1)))),
        "bias 128": ("every weight is half as large as it should be. The scale is 2^(byte - 127).",
            _decoded(scaled=lambda x, scale: x * 2.0 ** (scale - 128))),
        "bias 126": ("every weight is twice as large as it should be. The scale is 2^(byte - 127).",
            _decoded(scaled=lambda x, scale: x * 2.0 ** (scale - 126))),
        "the scale byte is a factor": ("you multiply by the scale byte itself. It is an exponent:"
            " multiply by 2^(byte - 127).", _decoded(scaled=lambda x, scale: x * scale)),
        "the exponent is a factor": ("you multiply by byte - 127. That is the exponent: multiply"
            " by two to its power.", _decoded(scaled=lambda x, scale: x * (scale - 127))),
        "divided by the scale": ("you divide by the scale. That is what packing does; unpacking"
            " multiplies.", _decoded(scaled=lambda x, scale: x / 2.0 ** (scale - 127))),
        "no scale": ("the nibbles are read well, but the scale is not used: multiply by 2^(byte -"
            " 127).", _decoded(scaled=lambda x, scale: x)),
    },
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


def _up(x_32: np.ndarray) -> np.ndarray:
    return 7 - np.abs(np.abs(x_32)[:, None] - VALUES[7::-1]).argmin(axis=1)


def _cut(x_32: np.ndarray) -> np.ndarray:
    return np.asarray(np.sum(np.abs(x_32)[:, None] >= VALUES[1:8], axis=1))


def _neighbors(code_32: np.ndarray) -> np.ndarray:
    return np.asarray(code_32[0::2] | code_32[1::2] << 4)


def _largest(w_32: np.ndarray) -> float:
    return float(np.abs(w_32).max())


def _rule(largest: float) -> int:
    return math.floor(math.log2(largest)) - 2


def _quantized(
    largest: Callable[[np.ndarray], float] = _largest,
    exponent: Callable[[float], int] = _rule,
    bias: int = 127,
    divide: Callable[[np.ndarray, float], np.ndarray] = lambda w_32, scale: w_32 / scale,
    nearest: Callable[[np.ndarray], np.ndarray] = _nearest,
    signed: Callable[..., np.ndarray] = lambda code, w_32: code | 8 * np.signbit(w_32),
    pack: Callable[[np.ndarray], np.ndarray] = _neighbors,
) -> Callable[[np.ndarray], Packed]:
    """A quantizer from what people vary in it; the defaults are right."""

    def quantize_block(w_32: np.ndarray) -> Packed:
        if largest(w_32) == 0:
            return np.zeros(BLOCK // 2, np.uint8), 0
        power = exponent(abs(largest(w_32)))
        code_32 = nearest(divide(w_32.astype(np.float64), 2.0**power))
        return pack(signed(code_32, w_32)).astype(np.uint8), power + bias

    return quantize_block


quantize_block = Exercise(
    "quantize_block",
    right_quantize_block,
    ("block_U", "scale"),
    block_cases,
    {
        "high nibble first": ("the codes are right and sit in the wrong halves of their bytes: the"
            " first of two weights belongs into the low nibble.",
            _quantized(pack=lambda code_32: code_32[0::2] << 4 | code_32[1::2])),
        "halves of the block share a byte": ("you put weights u and u + 16 into one byte. Other"
            " file formats do that; here weights 2u and 2u + 1 share byte u.",
            _quantized(pack=lambda code_32: code_32[:16] | code_32[16:] << 4)),
        "nothing is cut off": ("your scale is so large that the largest weight fits below 6. The"
            " rule takes floor(log2(largest)) - 2, and what lies beyond 6 becomes 6.",
            _quantized(exponent=lambda largest: math.ceil(math.log2(largest / 6)))),
        "largest / 6 without care": ("you take floor(log2(largest / 6)). That is a step too small"
            " wherever largest begins with less than 1.5: divide by 4, the power of two in 6 = 1.5"
            " · 4.", _quantized(exponent=lambda largest: math.floor(math.log2(largest / 6)))),
        "the exponent is rounded": ("you round log2(largest) to the nearest whole number. Take the"
            " floor.", _quantized(exponent=lambda largest: round(math.log2(largest)) - 2)),
        "the largest lands at 1": ("your scale is four times too large: subtract 2, the exponent"
            " of 6 = 1.5 · 2^2, so that the largest weight lands between 4 and 8.",
            _quantized(exponent=lambda largest: math.floor(math.log2(largest)))),
        "the largest is signed": ("you take the largest weight. A weight far below zero needs"
            " room, too: take the largest absolute value.",
            _quantized(largest=lambda w_32: float(w_32.max()))),
        "bias 128": ("the codes are right, but the scale byte is one too large: it is the exponent"
            " + 127.", _quantized(bias=128)),
        "bias 126": ("the codes are right, but the scale byte is one too small: it is the exponent"
            " + 127.", _quantized(bias=126)),
        "the exponent without its bias": ("the scale should be a byte, and yours is the exponent"
            " itself: add 127.", _quantized(bias=0)),
        "rounded toward zero": ("each weight goes to the next value toward zero. Take the nearest,"
            " whichever side it is on.", _quantized(nearest=_cut)),
        "ties go toward zero": ("a weight in the middle between two values goes to the smaller one"
            " (`argmin` takes the first of equals). It should go to the one with the even code.",
            _quantized(nearest=_down)),
        "ties go away from zero": ("a weight in the middle between two values goes to the larger"
            " one. It should go to the one with the even code, so that ties err to both sides.",
            _quantized(nearest=_up)),
        "whole numbers": ("you round to whole numbers and store them as codes. A code is a place"
            " in the table 0, 0.5, 1, 1.5, 2, 3, 4, 6.",
            _quantized(nearest=lambda x_32: np.clip(np.rint(np.abs(x_32)), 0, 7).astype(int))),
        "not divided by the scale": ("the scale byte is right, but the weights were rounded as"
            " they are. Divide them by the scale first.",
            _quantized(divide=lambda w_32, scale: w_32)),
        "multiplied by the scale": ("you multiply by the scale. Unpacking multiplies, so packing"
            " divides.", _quantized(divide=lambda w_32, scale: w_32 * scale)),
        "sign lost": ("all your codes are below 8. A negative weight has the top bit set: add 8.",
            _quantized(signed=lambda code, w_32: code)),
        "two's complement": ("negative codes are in two's complement. The top bit is only a sign:"
            " minus code 1 is 9, not 15.",
            _quantized(signed=lambda code, w_32: np.where(w_32 < 0, -code & 15, code))),
        "no negative zero": ("the numbers are right, the bytes are not quite: a small negative"
            " weight that rounds to zero keeps its sign, and its code is 8.",
            _quantized(signed=lambda code, w: np.where((w < 0) & (code > 0), code | 8, code))),
    },
    praise="Bit for bit, with outliers, ties, negatives and zeros.",
)  # fmt: skip


# ------------------------------------------------------------------------------------ exercise 3


def config_cases() -> Iterator[tuple[Config]]:
    """Arguments of `checkpoint_bytes`: sizes that all differ, then the two published models."""
    yield (TINY,)
    yield (GPT_OSS_20B,)
    yield (GPT_OSS_120B,)


def _counted(weigh: Callable[[str, int], float], layers: int | None = None) -> Callable[..., int]:
    """Bytes of a checkpoint: `weigh(field, how many bytes or numbers)` summed over all tensors."""

    def checkpoint_bytes(config: Config) -> int:
        total = 0.0
        for field in HF_PACKED:
            count = math.prod(field.shape(config))
            times = (layers or config.num_layers) if field.part else 1
            total += times * weigh(str(field), count)
        return int(total)

    return checkpoint_bytes


def _weight(field: str, count: int) -> int:
    """Blocks and scales are bytes already, all other numbers are bf16."""
    return count if ".blocks" in field or ".scales" in field else 2 * count


def _instead(*pieces: str, factor: float = 0.0) -> Callable[..., int]:
    """As the right one, but fields with one of these pieces in their name weigh `factor` times."""
    return _counted(
        lambda field, count: (
            _weight(field, count) * (factor if any(piece in field for piece in pieces) else 1)
        )
    )


def _chosen_only(config: Config) -> int:
    others = config.num_experts - config.experts_per_token
    per_expert = 3 * config.hidden_size * config.intermediate_size
    return right_bytes(config) - config.num_layers * others * per_expert * 17 // 32


def _all_packed(field: str, count: int) -> float:
    matrix = ".blocks" not in field and ".scales" not in field and ".w_" in field
    return count * 17 / 32 if matrix or "embedding" in field else _weight(field, count)


right_bytes = _counted(_weight)

checkpoint_bytes = Exercise(
    "checkpoint_bytes",
    right_bytes,
    ("the bytes",),
    config_cases,
    {
        "no scales": ("the scales are missing: one byte for every 32 packed weights, 0.6 GB in the"
            " 20B.", _instead(".scales")),
        "twice the scales": ("your scales take twice their room. One byte serves 32 weights (16 is"
            " the number of bytes in a block), since a power of two is stored as its exponent"
            " alone.", _instead(".scales", factor=2)),
        "a scale is a float": ("your scales take four bytes each. A scale is a power of two: its"
            " exponent alone fits into one.", _instead(".scales", factor=4)),
        "a byte per weight": ("you count one byte for each packed weight. Two weights share a"
            " byte.", _instead(".blocks", factor=2)),
        "nothing is packed": ("these are the bytes of a model in bf16. The experts' matrices are"
            " packed: half a byte per weight, and the scales.",
            _counted(
                lambda field, count: (
                    4 * count if ".blocks" in field else 0 if ".scales" in field else 2 * count
                )
            )),
        "everything is packed": ("you packed every matrix. Only the experts are; attention, router"
            " and the two large tables stay in bf16.", _counted(_all_packed)),
        "no expert biases": ("the experts' biases are missing: per expert 2F numbers behind gate"
            " and up, D behind down, in bf16.", _instead("b_gate_up", "b_down")),
        "no attention biases": ("attention's biases are missing. In GPT-OSS queries, keys, values"
            " and the output have one each.", _instead("b_q", "b_k", "b_v", "b_o_D")),
        "no biases at all": ("all biases are missing: of attention, of the router and of the"
            " experts.", _instead(".b_")),
        "no sinks": ("the sinks are missing: one number per query head and layer.",
            _instead("sinks")),
        "no norms": ("the norms are missing: two of D numbers in each layer, and one at the end.",
            _instead("norm_D")),
        "no last norm": ("only 2 D bytes are missing: the norm behind the last layer.",
            lambda config: right_bytes(config) - 2 * config.hidden_size),
        "no router": ("the router is missing: D times E numbers and E biases in each layer.",
            _instead("router")),
        "gate without up": ("gate and up are two matrices in one tensor: its output is 2F wide.",
            _instead("gate_up", factor=0.5)),
        "tied embedding": ("one of the two large tables is missing. Embedding and unembedding are"
            " stored apart.", _instead("unembedding")),
        "float32": ("what is not packed is bf16: two bytes per number, not four.",
            _counted(
                lambda field, count: (
                    _weight(field, count) * (1 if "blocks" in field or "scales" in field else 2)
                )
            )),
        "one layer": ("that is one layer and the tables. Count all config.num_layers.",
            _counted(_weight, layers=1)),
        "only the chosen experts": ("you count the experts that one token visits. All of them have"
            " to be stored, since the next token may choose others.", _chosen_only),
    },
    praise="To the last byte, for a small model and for both published ones.",
)  # fmt: skip
