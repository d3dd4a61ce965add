"""Chapter 06: write `block`, `decode_step` and `top_p`.

    from gptoss_edu.course.checks import full_model
    full_model.block(my_block)

Source: gptoss_edu/model.py, generation.py and sampling.py, which the right answers come from.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterator
from typing import Any, cast
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from gptoss_edu import model
from gptoss_edu import moe as library_moe
from gptoss_edu.attention import KV, attention
from gptoss_edu.cache import Cache, FullKV, empty_cache
from gptoss_edu.config import TINY, Config
from gptoss_edu.course.checks import Exercise, mistakes_in
from gptoss_edu.course.checks.moe import softmax
from gptoss_edu.model import Layer, Params, init_params, rms_norm, rope_tables, unembed
from gptoss_edu.moe import moe

# Every size differs from every other, a window of 6 is crossed, and few choices are gathered, which
# compiles faster than grouping many.
CONFIG = dataclasses.replace(
    TINY,
    num_layers=2,
    layer_types=(),
    num_experts=14,
    vocab_size=31,
    hidden_size=24,
    intermediate_size=18,
    num_heads=6,
)


@functools.lru_cache
def _params(seed: int) -> Params:
    """Random parameters made by NumPy: nothing is compiled, so a stub is answered at once."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda key: init_params(CONFIG, key), jax.random.key(0))

    def fill(path: Any, leaf: Any) -> jax.Array:
        middle = 1.0 if "norm" in jax.tree_util.keystr(path) else 0.0
        return jnp.asarray(middle + 0.2 * rng.standard_normal(leaf.shape), jnp.float32)

    params: Params = jax.tree_util.tree_map_with_path(fill, shapes)
    return params


# ------------------------------------------------------------------------------------ exercise 1


def block_cases() -> Iterator[tuple[Any, ...]]:
    """Arguments of `block`: a sliding layer and a full one, seven keys already in the store; and a
    small stream into large experts, so that ε, clamp and alpha are seen."""
    params = _params(1)
    for index, size, expert_size in ((0, 1.0, 1), (1, 1.0, 1), (1, 3e-3, 12)):
        B, T, held, room = 2, 3, 7, 16
        rng = np.random.default_rng(10 + index)
        shape = (B, CONFIG.num_kv_heads, room, CONFIG.head_dim)
        slots_S = np.arange(room)
        kv = FullKV(
            k_BKSH=jnp.asarray(rng.standard_normal(shape), jnp.float32),
            v_BKSH=jnp.asarray(rng.standard_normal(shape), jnp.float32),
            position_BS=jnp.asarray(np.tile(np.where(slots_S < held, slots_S, -1), (B, 1))),
        )
        x_BTD = jnp.asarray(size * rng.standard_normal((B, T, CONFIG.hidden_size)), jnp.float32)
        position_BT = jnp.asarray(np.tile(held + np.arange(T), (B, 1)))
        cos_BTC, sin_BTC = rope_tables(position_BT, CONFIG)
        layer, window = params.layers[index], CONFIG.window(index)
        large = dataclasses.replace(
            layer.moe, w_gate_up_EDP=expert_size * cast(jax.Array, layer.moe.w_gate_up_EDP)
        )
        layer = dataclasses.replace(layer, moe=large)
        yield layer, x_BTD, cos_BTC, sin_BTC, position_BT, kv, CONFIG, window


def right_block(*arguments: Any) -> tuple[jax.Array, Any]:
    """The library's block without what it saw: (x_BTD, kv)."""
    return model.block(*arguments)[:2]


def _block(
    layer: Layer, x_BTD: jax.Array, cos_BTC: jax.Array, sin_BTC: jax.Array, position_BT: jax.Array,
    kv: KV, config: Config, window: int | None,
) -> tuple[jax.Array, KV]:  # fmt: skip
    """The library's, written out."""
    first, second, eps = layer.attention.norm_D, layer.moe.norm_D, config.rms_eps
    h_BTD = rms_norm(x_BTD, first, eps)
    places = cos_BTC, sin_BTC, position_BT
    y_BTD, kv, _ = attention(layer.attention, h_BTD, *places, kv, window)
    x_BTD = x_BTD + y_BTD
    h_BTD = rms_norm(x_BTD, second, eps)
    limits = config.experts_per_token, config.swiglu_limit, config.swiglu_alpha
    y_BTD, _ = moe(layer.moe, h_BTD, *limits)
    return x_BTD + y_BTD, kv


COMPILED: dict[str, Any] = {
    name: jax.jit(getattr(library_moe, name), static_argnames=("limit", "alpha"))
    for name in ("moe_gathered", "moe_grouped")
}


@dataclasses.dataclass(frozen=True)
class Quick(Exercise):
    """The experts' loops are compiled once: outside of `jit`, each call would compile them anew.

    What the library's own block saw may be returned, too, and is not compared.
    """

    def _run(self, attempt: Any, case: tuple[Any, ...]) -> Any:
        with mock.patch.multiple(library_moe, **COMPILED):
            found = super()._run(attempt, case)
        saw = isinstance(found, tuple) and isinstance(found[-1], model.BlockSeen)
        return found[:-1] if saw else found


block = Quick(
    "block", right_block, ("x_BTD", "kv"), block_cases,
    mistakes_in(_block, {
        "no residual around attention": ("attention's answer replaces the residual stream. It"
            " should be added to it: x_BTD = x_BTD + y_BTD.",
            "x_BTD = x_BTD + y_BTD", "x_BTD = y_BTD"),
        "no residual around the experts": ("the experts' answer replaces the residual stream. Add"
            " it to what was there.", "return x_BTD + y_BTD", "return y_BTD"),
        "the normed stream is kept": ("you add to the normed copy. The norm is only for reading:"
            " add the answer to the residual stream as it was before the norm.",
            "h_BTD = rms_norm", "h_BTD = x_BTD = rms_norm"),
        "the window is ignored": ("every key is visible on the sliding layer too. Hand `window` on"
            " to attention.", "kv, window)", "kv, None)"),
        "the old store is returned": ("the numbers are right, but you return the store that came"
            " in. Return the new one, which attention gave you: otherwise the next token will not"
            " see this one.", "y_BTD, kv, _ =", "y_BTD, _, _ ="),
    }),
    praise="Right on a sliding and on a full layer, with keys already in the store.",
    like="gptoss_edu.model.block",
)  # fmt: skip


# ------------------------------------------------------------------------------------ exercise 2


@jax.jit
def _read(params: Params, tokens_BT: jax.Array) -> Cache:
    """A cache that has read prompts of different lengths; -1 is padding."""
    cache = empty_cache(CONFIG, tokens_BT.shape[0], 16)
    position_BT = jnp.where(tokens_BT >= 0, jnp.arange(tokens_BT.shape[1]), -1)
    rows_BT = jnp.maximum(tokens_BT, 0)
    _, kvs, _ = model.run_blocks(params, rows_BT, position_BT, cache.layers, CONFIG, jnp.float32)
    return Cache(kvs, jnp.sum(tokens_BT >= 0, axis=1))


def _small(params: Params) -> Params:
    """The same with a residual stream that is almost zero."""
    writers = re.compile(r"^\.embedding|w_o|b_o|down")

    def shrink(path: Any, leaf: jax.Array) -> jax.Array:
        return leaf * (0.004 if writers.search(jax.tree_util.keystr(path)) else 1)

    small: Params = jax.tree_util.tree_map_with_path(shrink, params)
    return small


def decode_cases() -> Iterator[tuple[Any, ...]]:
    """Arguments of `decode_step`: two prompts of different lengths, and the step after."""
    params = _params(2)
    tokens_BT = np.random.default_rng(0).integers(0, CONFIG.vocab_size, (2, 9))
    tokens_BT[0, 3:] = -1
    cache = _read(params, jnp.asarray(tokens_BT))
    yield params, jnp.array([8, 30]), cache, CONFIG
    _, cache = right_decode_step(params, jnp.array([8, 30]), cache, CONFIG)
    yield params, jnp.array([30, 0]), cache, CONFIG
    yield _small(params), jnp.array([30, 0]), cache, CONFIG  # the last norm's ε is seen


def right_decode_step(
    params: Params, token_B: jax.Array, cache: Cache, config: Config
) -> tuple[jax.Array, Cache]:
    """The library's, written out: (logits_BV, cache)."""
    position_B1 = cache.length_B[:, None]
    x_B1D = params.embedding_VD[token_B][:, None]
    places = *rope_tables(position_B1, config), position_B1
    kvs = []
    for index, (layer, kv) in enumerate(zip(params.layers, cache.layers, strict=True)):
        window = config.window(index)
        x_B1D, kv, _ = model.block(layer, x_B1D, *places, kv, config, window)
        kvs.append(kv)
    logits_B1V = unembed(params, x_B1D, config.rms_eps)
    return logits_B1V[:, 0], Cache(tuple(kvs), cache.length_B + 1)


NEXT = "cache.length_B[:, None]"

decode_step = Quick(
    "decode_step", right_decode_step, ("logits_BV", "cache"), decode_cases,
    mistakes_in(right_decode_step, {
        "position one too late": ("the token sits one position too late. Positions begin at 0: the"
            " first free one after n tokens is n, which is cache.length_B.", NEXT, f"{NEXT} + 1"),
        "position one too early": ("the token sits on the position of the one before it. n tokens"
            " fill positions 0 to n - 1; the new one takes n.", NEXT, f"{NEXT} - 1"),
        "position zero": ("the token is rotated as if it were the first. Its position is"
            " cache.length_B.", NEXT, f"0 * {NEXT}"),
        "odd layers slide": ("a layer that should see everything has been given the window. In"
            " GPT-OSS the even layers slide, 0, 2, 4, …, and the odd ones see every key: ask"
            " config.window(index).", "window(index)", "window(index + 1 - 2 * (index % 2))"),
        "no last norm": ("the logits come from the raw residual stream. One norm is left before"
            " unembedding; `unembed` does both.",
            "unembed(params, x_B1D, config.rms_eps)", "x_B1D @ params.unembedding_DV"),
        "the old cache is returned": ("the logits are right, but the cache that you return is the"
            " one that came in. Build a new Cache from the stores that the blocks gave back.",
            "Cache(tuple(kvs), cache.length_B + 1)", "cache"),
    }),
    praise="Right for prompts of unlike lengths, and one step later.",
    like="gptoss_edu.generation.decode_step",
)  # fmt: skip


# ------------------------------------------------------------------------------------ exercise 3


def top_p_cases() -> Iterator[tuple[np.ndarray, float]]:
    """Arguments of `top_p`: sums that reach p exactly; in no order, from nearly 0 to 1."""
    half = np.log([0.25, 0.5, 0.25])
    yield from ((half, 0.5), (half, 0.4), (half + 3, 1.0), (half, 0.8))
    rng = np.random.default_rng(3)
    for V, p in ((7, 0.7), (7, 0.3), (31, 0.9), (31, 0.02), (13, 1.0)):
        yield (2 * rng.standard_normal(V)).astype(np.float32), p


def filter_obvious(logits_V: np.ndarray, top_k: int, top_p: float, min_p: float) -> np.ndarray:
    """The slow twin of `filter_logits` for one row, in float64, one token after the other."""
    ranked = sorted(range(len(logits_V)), key=lambda v: (-logits_V[v], v))
    ranked = ranked[: top_k or len(ranked)]
    p = np.exp(logits_V[ranked].astype(np.float64) - logits_V[ranked[0]])
    p /= p.sum()
    filtered_V = np.full(len(logits_V), -np.inf)
    total = 0.0
    for token, probability in zip(ranked, p, strict=True):
        if token == ranked[0] or ((total < top_p or top_p == 1) and probability >= min_p * p[0]):
            filtered_V[token] = logits_V[token]
        total += probability
    return filtered_V


def right_top_p(logits_V: np.ndarray, p: float) -> np.ndarray:
    """The slow twin with top-p alone."""
    return filter_obvious(logits_V, 0, p, 0.0).astype(np.float32)


def _top_p(logits_V: np.ndarray, p: float) -> np.ndarray:
    """The same for all tokens at once."""
    order_V = np.argsort(-logits_V)
    p_V = softmax(logits_V[order_V].astype(np.float64))
    kept_V = (np.cumsum(p_V) - p_V < p) | (p == 1)
    allowed_V = np.zeros(len(logits_V), bool)
    allowed_V[order_V] = kept_V
    return np.where(allowed_V, logits_V, -np.inf).astype(np.float32)


KEPT = "(np.cumsum(p_V) - p_V < p) | (p == 1)"
FILTERED = "np.where(allowed_V, logits_V, -np.inf)"

top_p = Exercise(
    "top_p", right_top_p, ("logits_V",), top_p_cases,
    mistakes_in(_top_p, {
        "the token that crosses p is dropped": ("the token with which the sum reaches p is"
            " missing. Ask for the sum *before* each token: it is kept while that is below p. (So"
            " the likeliest is always kept.)", KEPT, "np.cumsum(p_V) <= p"),
        "sorted upward": ("you begin with the least likely tokens. Rank them from the likeliest"
            " down.", "-logits_V)", "logits_V)"),
        "the mask is left in sorted order": ("the right number of tokens is kept, but the wrong"
            " ones: your mask is in the order of rank, and the logits are in the order of the"
            " vocabulary. Send each verdict back to its token.",
            FILTERED, "np.where(kept_V, logits_V, -np.inf)"),
        "each token is compared with p": ("you keep the tokens whose own probability reaches p. It"
            " is the sum, from the likeliest down, that has to reach it.", KEPT, "p_V >= p"),
        "zero instead of minus infinity": ("tokens that are ruled out have the logit 0. exp(0) is"
            " 1, so they may still be drawn: use minus infinity.", "-np.inf", "0.0"),
    }),
    praise="Right for narrow and wide thresholds, and for p = 1, which keeps everything.",
    like="gptoss_edu.sampling.filter_logits",
)  # fmt: skip


# ------------------------------------------------------------------------------------ exercise 4


def prefill_cases() -> Iterator[tuple[Any, ...]]:
    """Arguments of `prefill`: prompts of one length, of two, and more for a cache that holds some.

    Nine tokens outgrow the window of six, and with it the ring.
    """
    params, rng = _params(3), np.random.default_rng(4)
    cache = empty_cache(CONFIG, 2, 16)
    for lengths in ((4, 4), (3, 9)):
        yield params, _padded(rng, lengths), cache, CONFIG
    cache = _read(params, _padded(rng, (3, 9)))
    yield params, _padded(rng, (5, 2)), cache, CONFIG


def _padded(rng: np.random.Generator, lengths: tuple[int, ...]) -> jax.Array:
    tokens_BT = rng.integers(0, CONFIG.vocab_size, (len(lengths), max(lengths)))
    return jnp.asarray(
        np.where(np.arange(max(lengths)) < np.array(lengths)[:, None], tokens_BT, -1)
    )


def right_prefill(
    params: Params, tokens_BT: jax.Array, cache: Cache, config: Config
) -> tuple[jax.Array, Cache]:
    """The library's, written out: (logits_BV, cache)."""
    real_BT = tokens_BT >= 0
    count_B = real_BT.sum(axis=1)
    position_BT = cache.length_B[:, None] + jnp.arange(tokens_BT.shape[1])
    position_BT = jnp.where(real_BT, position_BT, -1)
    x_BTD = params.embedding_VD[jnp.maximum(tokens_BT, 0)]
    places = *rope_tables(position_BT, config), position_BT
    kvs = []
    for index, (layer, kv) in enumerate(zip(params.layers, cache.layers, strict=True)):
        x_BTD, kv, _ = model.block(layer, x_BTD, *places, kv, config, config.window(index))
        kvs.append(kv)
    last_BD = x_BTD[jnp.arange(len(x_BTD)), count_B - 1]
    logits_BV = unembed(params, last_BD[:, None], config.rms_eps)[:, 0]
    return logits_BV, Cache(tuple(kvs), cache.length_B + count_B)


prefill = Exercise(
    "prefill", right_prefill, ("logits_BV", "cache"), prefill_cases,
    mistakes_in(right_prefill, {
        "the last column for all": ("you read the logits in the last column. There the shorter"
            " prompt has padding: each row's last token stands at its own length minus one.",
            "x_BTD[jnp.arange(len(x_BTD)), count_B - 1]", "x_BTD[:, -1]"),
        "padding has positions": ("the padding has positions of its own, so its keys are stored as"
            " if they were text. Give it the position -1, which no store keeps.",
            "jnp.where(real_BT, position_BT, -1)", "position_BT"),
        "positions begin at zero": ("the positions begin at 0 although the cache holds tokens"
            " already. Each row goes on at its own cache.length_B.",
            "cache.length_B[:, None] +", "0 * cache.length_B[:, None] +"),
        "the longest row's position for all": ("all rows go on where the longest one ends. Each"
            " has its own length: take cache.length_B whole, as a column.",
            "cache.length_B[:, None] +", "0 * cache.length_B[:, None] + cache.length_B.max() +"),
        "padding is counted": ("the logits are right, but every row's length grows by the width"
            " of the array. Only real tokens count: tokens_BT >= 0.",
            "cache.length_B + count_B)", "cache.length_B + tokens_BT.shape[1])"),
    }),
    praise="Right for rows of different lengths, and for a cache that held tokens already.",
)  # fmt: skip
