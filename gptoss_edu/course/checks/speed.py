"""Chapter 08: write `token_bytes`, `steps_that_agree`, `context_bytes`, `prefill_bytes` and
`tiled_product`.

    from gptoss_edu.course.checks import speed
    speed.token_bytes(my_token_bytes)

The right answers stand here, since they are one line each. The package counts bytes from the arrays
of a model instead (`fit.ledger`), and compares its answers with published ones in `verify`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gptoss_edu.course.checks import Exercise, mistakes_in
from gptoss_edu.mxfp4 import VALUES

# ------------------------------------------------------------------------------------ exercise 1


def token_cases() -> Iterator[tuple[dict[str, int], int, int]]:
    """Arguments of `token_bytes`: bytes by name, experts of a layer, experts per token."""
    yield {"embedding": 50, "layer 0 experts": 30, "unembedding": 40}, 4, 1
    small = {"embedding": 700, "layer 0 attention": 90, "layer 0 router": 12}
    small |= {"layer 0 experts": 640, "last norm": 4, "unembedding": 500}
    yield small, 8, 2
    yield {name: 3 * size for name, size in small.items()} | {"layer 1 experts": 2400}, 10, 3
    millions = {"embedding": 1158, "unembedding": 1158, "last norm": 0}
    for layer in range(24):
        millions |= {f"layer {layer} attention": 53, f"layer {layer} experts": 423}
    yield millions, 32, 4
    yield millions, 32, 32


def _token(tensors: dict[str, int], experts: int, chosen: int) -> float:
    total = 0.0
    for name, size in tensors.items():
        if name != "embedding":
            total += size * chosen / experts if name.endswith("experts") else size
    return total


token_bytes = Exercise(
    "token_bytes", _token, ("bytes for one token",), token_cases,
    mistakes_in(_token, {
        "all experts": ("you count the experts whole. A token reads only those that its router"
            " chose: chosen / experts of their bytes.", "size * chosen / experts", "size"),
        "one expert": ("you count one expert per layer; a token reads `chosen` of them.",
            "size * chosen", "size"),
        "the embedding": ("you count the embedding whole. A token looks up a single row of it,"
            " which hardly counts.", 'name != "embedding"', "True"),
        "no unembedding": ("you left the unembedding out. It looks like the embedding, but it is"
            " read whole: each token of the vocabulary gets a score.",
            '!= "embedding"', 'not in ("embedding", "unembedding")'),
        "a share of everything": ("you take chosen / experts of everything. Only experts are"
            " chosen; attention, router and unembedding are read whole.",
            ' if name.endswith("experts") else size', ""),
    }),
    praise="Divide the bandwidth by it, and you have a ceiling that no program breaks.",
)  # fmt: skip

# ------------------------------------------------------------------------------------ exercise 2


def agree_cases() -> Iterator[tuple[list[int], list[float], list[int], list[float]]]:
    """Arguments of `steps_that_agree`: tokens and log-probabilities, found and published."""
    for ours, theirs in ((-1.21, -1.0), (-0.81, -1.0), (-0.79, -1.0), (-9.6, -9.0), (-9.95, -9.0)):
        yield [7], [ours], [7], [theirs]  # either side of 0.1 + 0.1 * |theirs|
    published, sure = [11, 7, 29, 5, 3], [-0.04, -1.2, -2.2, -0.9, -1.6]
    yield published, sure, published, sure
    yield [11, 7, 29, 4, 3], sure, published, sure
    yield published, [-0.04, -1.25, -2.2, -0.9, -1.6], published, sure
    yield published, [-0.13, -1.2, -2.2, -0.9, -1.6], published, sure
    yield published, [-0.04, -1.2, -2.6, -0.9, -1.6], published, sure
    yield published, [-0.04, -1.2, -2.5, -0.9, -1.9], published, sure
    yield published, [-0.04, -0.6, -2.2, -0.9, -1.6], published, sure
    yield [4, 7, 29, 5, 3], sure, published, sure


def _agree(
    tokens: list[int], logprobs: list[float], their_tokens: list[int], theirs: list[float]
) -> int:
    steps = 0
    for a, x, b, y in zip(tokens, logprobs, their_tokens, theirs, strict=True):
        if a != b or abs(x - y) > 0.1 + 0.1 * abs(y):
            break
        steps += 1
    return steps


steps_that_agree = Exercise(
    "steps_that_agree", _agree, ("the number of steps",), agree_cases,
    mistakes_in(_agree, {
        "no tolerance": ("you ask for equal log-probabilities. Other implementations round"
            " elsewhere: allow 0.1 and a tenth of the published one.",
            "0.1 + 0.1 * abs(y)", "1e-9"),
        "absolute only": ("you allow 0.1 and nothing more. Unlikely tokens scatter more: allow a"
            " tenth of the published log-probability besides.", " + 0.1 * abs(y)", ""),
        "relative only": ("you allow only a tenth of the published one. Of a token that is nearly"
            " certain this is nothing: allow 0.1 besides.", "0.1 + ", ""),
        "tokens not compared": ("you never compare the tokens. With another token, its probability"
            " says nothing.", "a != b or ", ""),
        "all that agree": ("you count agreement anywhere. After the first difference both read"
            " other texts: stop there.", "break", "continue"),
    }),
    praise="`python -m gptoss_edu verify` asks this of your copy.",
)  # fmt: skip

# ------------------------------------------------------------------------------------ exercise 3


def context_cases() -> Iterator[tuple[int, list[int], int, int]]:
    """Arguments of `context_bytes`: tokens, window of each layer or 0, kv heads, numbers in one."""
    for context in (100, 128, 4096, 131_072):
        yield context, [128, 0] * 12, 8, 64
    yield from ((5, [3, 0, 3, 0, 0], 2, 7), (5, [3], 1, 1), (2, [3], 1, 1), (5, [0], 1, 1))


def _context(context: int, windows: list[int], kv_heads: int, head_dim: int) -> int:
    tokens = sum(min(context, window or context) for window in windows)
    return 2 * 4 * kv_heads * head_dim * tokens


context_bytes = Exercise(
    "context_bytes", _context, ("bytes",), context_cases,
    mistakes_in(_context, {
        "keys only": ("your number is half of it: each token leaves a key and a value, and each of"
            " their numbers takes 4 bytes here.",
            "2 * ", ""),
        "no window": ("you count the whole text on every layer. A sliding layer reads its window,"
            " and no more.", "min(context, window or context)", "context"),
        "always a whole window": ("a text shorter than the window fills only a part of it: take"
            " the smaller of the two.", "min(context, window or context)", "(window or context)"),
        "full layers forgotten": ("a window of 0 means no window: this layer reads everything.",
            " or context", ""),
    }),
    praise="Only the full layers make a long conversation slower.",
)  # fmt: skip

# ------------------------------------------------------------------------------------ exercise 4


def prefill_cases() -> Iterator[tuple[int, float, float, int, int]]:
    """Arguments of `prefill_bytes`: tokens, bytes of an expert, of all else, experts, chosen."""
    for tokens in (1, 2, 8, 128, 512):
        yield tokens, 317.0, 2440.0, 32, 4
    yield from ((3, 10.0, 7.0, 6, 2), (2, 10.0, 0.0, 4, 1), (2, 0.0, 6.0, 4, 1))


def _prefill(
    tokens: int, expert_bytes: float, other_bytes: float, experts: int, chosen: int
) -> float:
    touched = experts * (1 - (1 - chosen / experts) ** tokens)
    total = expert_bytes * touched + other_bytes
    return total / tokens


TOUCHED = "experts * (1 - (1 - chosen / experts) ** tokens)"

prefill_bytes = Exercise(
    "prefill_bytes", _prefill, ("bytes per token",), prefill_cases,
    mistakes_in(_prefill, {
        "one by one": ("you read the chosen experts anew for each token. In a prefill, an expert"
            " is read once for all tokens that chose it.", TOUCHED, "chosen * tokens"),
        "no overlap": ("you let tokens choose different experts as long as there are any. They"
            " choose at random, so some are chosen twice and some never.",
            TOUCHED, "min(experts, chosen * tokens)"),
        "all experts": ("you count every expert. With few tokens, many of them are chosen by"
            " nobody.", TOUCHED, "experts"),
        "the same twice": ("your draw may give a token the same expert twice. A token chooses"
            " `chosen` different ones: an expert is missed by one token with probability 1 -"
            " chosen / experts.",
            TOUCHED, "experts * (1 - (1 - 1 / experts) ** (chosen * tokens))"),
        "the rest per token": ("you read everything else for each token. It is read once for the"
            " whole prompt, too.", "other_bytes\n", "other_bytes * tokens\n"),
        "the sum": ("these are the bytes for the whole prompt. Divide by its tokens.",
            " / tokens", ""),
    }),
    praise="That is why a prompt is read much faster than an answer is written.",
)  # fmt: skip

# ------------------------------------------------------------------------------------ exercise 5


def tiled_cases() -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Arguments of `tiled_product`: x_I, blocks_LJUW and scales_LJW; L tiles of W outputs each."""
    rng = np.random.default_rng(13)
    for L, J, U, W in ((1, 1, 2, 3), (2, 3, 16, 4), (3, 2, 16, 5)):
        blocks_LJUW = rng.integers(0, 256, (L, J, U, W)).astype(np.uint8)
        scales_LJW = rng.integers(122, 131, (L, J, W)).astype(np.uint8)
        yield rng.standard_normal(2 * J * U).astype(np.float32), blocks_LJUW, scales_LJW


def _tiled(x_I: np.ndarray, blocks_LJUW: np.ndarray, scales_LJW: np.ndarray) -> np.ndarray:
    L, J, U, W = blocks_LJUW.shape
    x_JU2 = x_I.reshape(J, U, 2)
    y_LW = np.zeros((L, W), np.float32)
    for tile, block in np.ndindex(L, J):
        bytes_UW = blocks_LJUW[tile, block]
        sum_W = x_JU2[block, :, 0] @ VALUES[bytes_UW & 15]
        sum_W = sum_W + x_JU2[block, :, 1] @ VALUES[bytes_UW >> 4]
        y_LW[tile] += sum_W * np.exp2(scales_LJW[tile, block].astype(np.float32) - 127)
    return y_LW.reshape(L * W)


tiled_product = Exercise(
    "tiled_product", _tiled, ("y_O",), tiled_cases,
    mistakes_in(_tiled, {
        "nibbles the wrong way round": ("you give the high nibble to the first of two inputs. The"
            " low one comes first: byte u holds the inputs 2u and 2u + 1 of its block.",
            "x_I.reshape(J, U, 2)", "x_I.reshape(J, U, 2)[:, :, ::-1]"),
        "halves of a block": ("you give the low nibbles to the first half of a block and the high"
            " ones to the second. Neighbors share a byte.",
            "x_JU2 = x_I.reshape(J, U, 2)", "x_JU2 = x_I.reshape(J, 2, U).swapaxes(1, 2)"),
        "one scale for all": ("you use the scales of the first block everywhere. Each block of 32"
            " inputs has its own.", "scales_LJW[tile, block]", "scales_LJW[tile, 0]"),
        "only the last block": ("you overwrite the sum of a tile with each block. Add it.",
            "y_LW[tile] +=", "y_LW[tile] ="),
        "outputs dealt out": ("your outputs come one from each tile in turn. A tile holds"
            " neighbors: all of the first tile come first.",
            "y_LW.reshape(L * W)", "y_LW.T.reshape(L * W)"),
    }),
    praise="That is `packed_product` of native.cc, but for vectors, threads and prefetching.",
)  # fmt: skip
