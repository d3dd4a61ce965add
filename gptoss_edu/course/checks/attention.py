"""Chapter 03: count visible keys; write the sink softmax, the mask, and scores of shared keys.

    from gptoss_edu.course.checks import attention
    attention.stable_softmax(my_stable_softmax)

Source: gptoss_edu/attention.py, which the right answers come from.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gptoss_edu.attention import grouped_scores, sink_softmax, visible
from gptoss_edu.config import Config
from gptoss_edu.course.checks import Exercise, Verdict, mistakes_in

# ------------------------------------------------------------------------------------ exercise 1


def keys_cases() -> Iterator[tuple[int, int, int]]:
    """Arguments of `keys_read`: full and sliding layers, before, at and after the window's end."""
    for layer, position in ((1, 500), (0, 500), (0, 5), (4, 127), (22, 128), (3, 0), (7, 128)):
        yield layer, position, 128
    yield 2, 40, 32


def right_keys_read(layer: int, position: int, window: int) -> int:
    """Counted, key by key, with the library's mask and its alternating layers."""
    config = Config(num_layers=layer + 1, sliding_window=window)
    position_11, position_1S = jnp.array([[position]]), jnp.arange(position + 1)[None]
    return int(visible(position_11, position_1S, config.window(layer)).sum())


def _keys(layer: int, position: int, window: int) -> int:
    keys = position + 1
    return min(keys, window) if layer % 2 == 0 else keys


keys_read = Exercise(
    "keys_read", right_keys_read, ("the number of keys",), keys_cases,
    mistakes_in(_keys, {
        "odd layers slide": ("your odd layers slide. In GPT-OSS it is the even ones: 0, 2, 4 and"
            " so on.", "== 0", "== 1"),
        "every layer slides": ("your odd layers slide, too. They see everything up to their own"
            " position.", " if layer % 2 == 0 else keys", ""),
        "no layer slides": ("your even layers see everything. On them at most `window` keys are"
            " read.", "min(keys, window) if layer % 2 == 0 else ", ""),
        "a window of one too many": ("a sliding layer reads `window` keys, the query's own among"
            " them. You count one more: this is the window of 129 that real implementations"
            " shipped.", "(keys, window)", "(keys, window + 1)"),
        "a window of one too few": ("a sliding layer reads `window` keys, the query's own among"
            " them. You count one less.", "(keys, window)", "(keys, window - 1)"),
        "the own key is forgotten": ("positions count from 0, and a query sees its own key, too:"
            " at position 0 that makes one key, not none.", "position + 1", "position"),
        "the sink is counted": ("you count the sink as a key. It has a logit in the softmax, but"
            " there is no key that could be read, and no value.", lambda *case: _keys(*case) + 1),
    }),
    praise="Right on sliding and full layers, before and after the window is full.",
)  # fmt: skip


# ------------------------------------------------------------------------------------ exercise 2


def softmax_cases() -> Iterator[tuple[jax.Array, jax.Array, jax.Array]]:
    """Arguments of `stable_softmax`: everyday values; huge scores; huge sinks and empty rows."""
    rng = np.random.default_rng(31)
    for size, sinks, empty in ((1, (-1, 0.5, 2), 0), (200, (1, -3, 2), 0), (2, (200, 120, -90), 1)):
        mask_BTS = rng.random((2, 5, 7)) < 0.6
        mask_BTS[..., 0] = True
        mask_BTS[:, :empty] = False
        scores_BNTS = jnp.asarray(size * rng.standard_normal((2, 3, 5, 7)), jnp.float32)
        yield scores_BNTS, jnp.asarray(sinks, jnp.float32), jnp.asarray(mask_BTS)


Tables = tuple[jax.Array, jax.Array]


def _softmax(scores_BNTS: jax.Array, sinks_N: jax.Array, mask_BTS: jax.Array) -> Tables:
    """The library's, written out."""
    sink_1N11 = sinks_N[None, :, None, None]
    masked_BNTS = jnp.where(mask_BTS[:, None], scores_BNTS, -jnp.inf)
    max_BNT1 = jnp.maximum(masked_BNTS.max(axis=-1, keepdims=True), sink_1N11)
    exp_BNTS, exp_sink_BNT1 = jnp.exp(masked_BNTS - max_BNT1), jnp.exp(sink_1N11 - max_BNT1)
    total_BNT1 = exp_BNTS.sum(axis=-1, keepdims=True) + exp_sink_BNT1
    mass_BNT1 = jnp.broadcast_to(exp_sink_BNT1 / total_BNT1, total_BNT1.shape)
    return exp_BNTS / total_BNT1, mass_BNT1[..., 0]


def _keys_alone(scores_BNTS: jax.Array, mask_BTS: jax.Array) -> jax.Array:
    """Softmax as if there were no sink."""
    return jax.nn.softmax(jnp.where(mask_BTS[:, None], scores_BNTS, -jnp.inf), axis=-1)


def _sink_after(scores_BNTS: jax.Array, sinks_N: jax.Array, mask_BTS: jax.Array) -> Tables:
    exp_1N11 = jnp.exp(sinks_N[None, :, None, None])
    weights_BNTS = _keys_alone(scores_BNTS, mask_BTS) / (1 + exp_1N11)
    mass_1N1 = (exp_1N11 / (1 + exp_1N11))[..., 0]
    return weights_BNTS, jnp.broadcast_to(mass_1N1, scores_BNTS.shape[:3])


def _twice(scores_BNTS: jax.Array, sinks_N: jax.Array, mask_BTS: jax.Array) -> Tables:
    return sink_softmax(_keys_alone(scores_BNTS, mask_BTS), sinks_N, mask_BTS)


def _renormalized(scores_BNTS: jax.Array, sinks_N: jax.Array, mask_BTS: jax.Array) -> Tables:
    mass_BNT = sink_softmax(scores_BNTS, sinks_N, mask_BTS)[1]
    return _keys_alone(scores_BNTS, mask_BTS), mass_BNT


def _kept_column(scores_BNTS: jax.Array, sinks_N: jax.Array, mask_BTS: jax.Array) -> Tables:
    weights_BNTS, mass_BNT = sink_softmax(scores_BNTS, sinks_N, mask_BTS)
    return jnp.concatenate([weights_BNTS, mass_BNT[..., None]], axis=-1), mass_BNT


stable_softmax = Exercise(
    "stable_softmax", sink_softmax, ("weights_BNTS", "sink_mass_BNT"), softmax_cases,
    mistakes_in(_softmax, {
        "no maximum is subtracted": ("exp overflows: above 88 float32 has only infinity left."
            " Subtract the largest of scores and sink before every exp; top and bottom shrink"
            " alike.", " - max_BNT1", ""),
        "the maximum without the sink": ("you subtract the largest score, but the sink can be"
            " larger still, and a query that sees no key has no largest score at all. Take the"
            " maximum of scores and sink.",
            "jnp.maximum(masked_BNTS.max(axis=-1, keepdims=True), sink_1N11)",
            "masked_BNTS.max(axis=-1, keepdims=True)"),
        "the maximum includes hidden keys": ("your maximum looks at hidden keys, too. When one of"
            " them is far above the rest, all exps become 0, and 0 / 0 is NaN. Mask first, then"
            " take the maximum.", "masked_BNTS.max(", "scores_BNTS.max("),
        "one maximum for all rows": ("you subtract one maximum from all rows. A row far below it"
            " becomes 0 / 0. Each query of each head has its own: max(axis=-1, keepdims=True).",
            "max(axis=-1, keepdims=True), sink_1N11)", "max(), sinks_N.max())"),
        "the sink after the softmax": ("you run softmax over the keys, and add the sink"
            " afterwards. By then it is forgotten how well the keys fit, and the sink takes the"
            " same share from everyone. It belongs into the same sum as the scores.", _sink_after),
        "softmax twice": ("you run softmax over the keys, and then once more with the sink."
            " Weights are not scores: one softmax over both is all.", _twice),
        "the weights sum to one": ("your weights sum to one, as if there were no sink. Divide the"
            " exps of the keys by the sum that has exp(sink) in it, and leave it at that.",
            _renormalized),
        "the sink is kept as a key": ("your weights have a column for the sink. There is no value"
            " for it to be multiplied with: leave the column out, and return it as the sink mass.",
            _kept_column),
        "the sink is added without exp": ("you add the sink itself to the sum. It is a logit, like"
            " a score: add its exp.", "+ exp_sink_BNT1", "+ (sink_1N11 - max_BNT1)"),
        "one sink for all heads": ("all heads use the sink of the first. Each has its own:"
            " sinks_N[None, :, None, None].",
            "sinks_N[None, :, None, None]", "sinks_N[None, :1, None, None]"),
        "masked after the softmax": ("you hide keys after the softmax. They get nothing then, but"
            " they have taken their share of the sum. Set their scores to minus infinity before.",
            "jnp.where(mask_BTS[:, None], scores_BNTS, -jnp.inf)", "scores_BNTS",
            "exp_BNTS / total_BNT1,", "jnp.where(mask_BTS[:, None], exp_BNTS / total_BNT1, 0),"),
        "hidden keys score zero": ("your hidden keys have the score 0, and exp(0) is 1. Minus"
            " infinity hides them.", "-jnp.inf", "0.0"),
        "the mask is upside down": ("you hide the keys that should be visible. mask_BTS is True"
            " where a query may look.", "mask_BTS[", "~mask_BTS["),
        "the sink mass is not divided": ("the weights are right, but the sink mass is a share,"
            " too: divide exp(sink - m) by the same sum.",
            "exp_sink_BNT1 / total_BNT1,", "exp_sink_BNT1,"),
    }),
    praise="Right for huge scores and huge sinks, and for queries that see no key.",
)  # fmt: skip


# ------------------------------------------------------------------------------------ exercise 3


def mask_cases() -> Iterator[tuple[jax.Array, jax.Array, int | None]]:
    """Arguments of `window_mask`: from the start; a full layer; a ring with empty slots."""
    straight = jnp.arange(7)[None]
    yield straight, straight, 3
    yield straight[:, 4:], straight, None
    ring_BS = jnp.array([[8, 9, 10, 3, 4, 5, 6, 7], [-1, 1, 2, 0, -1, -1, -1, -1]])
    yield jnp.array([[8, 9, 10], [1, 2, -1]]), ring_BS, 4


def _mask(position_BT: jax.Array, position_BS: jax.Array, window: int | None) -> Any:
    """The library's, written out."""
    held_B1S = position_BS[:, None, :] >= 0
    distance_BTS = position_BT[:, :, None] - position_BS[:, None, :]
    window = np.iinfo(np.int32).max if window is None else window
    return (distance_BTS >= 0) & (distance_BTS < window) & held_B1S


def _slots(position_BT: jax.Array, position_BS: jax.Array, window: int | None) -> Any:
    (B, S), T = position_BS.shape, position_BT.shape[1]
    slot_BT = jnp.broadcast_to(jnp.arange(S - T, S), (B, T))
    slot_BS = jnp.where(position_BS >= 0, jnp.arange(S), -1)
    return visible(slot_BT, slot_BS, window)


window_mask = Exercise(
    "window_mask", visible, ("mask_BTS",), mask_cases,
    mistakes_in(_mask, {
        "one key too many": ("a sliding query of yours sees window + 1 keys. Its own key is one of"
            " them, so the largest distance is window - 1: `<`, not `<=`. Real implementations"
            " shipped this.", "< window", "<= window"),
        "one key too few": ("a sliding query of yours sees window - 1 keys. Distances from 0 to"
            " window - 1 are visible: these are `window` of them.", "< window", "< window - 1"),
        "the next token is visible": ("each query sees one token of the future. Distance 0 is the"
            " token itself; below that nothing may be seen.",
            "distance_BTS >= 0", "distance_BTS >= -1"),
        "the own key is hidden": ("no query sees its own key. It may: `distance >= 0`, not `> 0`.",
            "distance_BTS >= 0", "distance_BTS > 0"),
        "the own key is hidden, and one more at the far end is seen": ("your window has the right"
            " size, but it ends before the query itself. Its own key belongs to it: distances 0 to"
            " window - 1, not 1 to window.",
            "distance_BTS >= 0", "distance_BTS > 0", "< window", "<= window"),
        "the future is visible": ("your mask has a window but lets a query see the future. Ask for"
            " `distance >= 0`, too.", "(distance_BTS >= 0) & ", ""),
        "the window is ignored": ("every earlier key is visible. Where `window` is a number, only"
            " the last `window` are.", " & (distance_BTS < window)", ""),
        "empty slots are visible": ("a slot with position -1 is empty, and your mask lets queries"
            " look at it: its key would be noise. Ask for `position_BS >= 0`, too.",
            " & held_B1S", ""),
        "slots instead of positions": ("you compare the places in the array. In a ring the slot of"
            " a key says nothing about its position: compare position_BT with position_BS.",
            _slots),
        "the mask is upside down": ("your mask is True where a key is hidden. It should be True"
            " where it is visible.", lambda *arguments: ~visible(*arguments)),
    }),
    praise="Right with and without a window, in a ring, and with empty slots.",
)  # fmt: skip


# ------------------------------------------------------------------------------------ exercise 4


def scores_cases() -> Iterator[tuple[jax.Array, jax.Array]]:
    """Arguments of `shared_scores`: few queries and many keys, then other sizes."""
    rng = np.random.default_rng(34)
    for B, T, S, K, G, H in ((1, 2, 50, 3, 4, 16), (2, 5, 7, 2, 3, 6)):
        q_BTNH = jnp.asarray(rng.standard_normal((B, T, K * G, H)), jnp.float32)
        yield q_BTNH, jnp.asarray(rng.standard_normal((B, S, K, H)), jnp.float32)


def _wired(q_BTNH: jax.Array, k_BSKH: jax.Array) -> Any:
    """Right scores, but with a copy of the keys for every query head."""
    N, K, H = q_BTNH.shape[2], *k_BSKH.shape[2:]
    k_BSNH = k_BSKH[:, :, np.arange(N) // (N // K)]
    return jnp.einsum("BTNH,BSNH->BNTS", q_BTNH, k_BSNH) * H**-0.5


def _joined_askew(q_BTNH: jax.Array, k_BSKH: jax.Array) -> jax.Array:
    """Right scores, their heads in the order of G, then K."""
    N, K = q_BTNH.shape[2], k_BSKH.shape[2]
    return grouped_scores(q_BTNH, k_BSKH)[:, np.arange(N).reshape(K, N // K).T.ravel()]


COPIES = (
    "the numbers are right, but on the way there is an array as large as one copy of the keys for"
    " every query head. Reshape the queries into [B, T, K, G, H], and let einsum read the keys"
    " as they are.",
    _wired,
)


def largest_array(function: Callable[..., Any], *arguments: Any) -> int:
    """Numbers in the largest array that a JAX function makes; 0 where JAX cannot look inside."""
    try:
        program = jax.make_jaxpr(function)(*arguments)
    except Exception:  # NumPy inside: right, only not to be traced
        return 0

    def sizes(jaxpr: Any) -> Iterator[int]:
        for step in jaxpr.eqns:
            yield from (int(np.prod(made.aval.shape)) for made in step.outvars)
            for inner in step.params.values():
                if hasattr(inner, "jaxpr") or hasattr(inner, "eqns"):
                    yield from sizes(getattr(inner, "jaxpr", inner))

    return max(sizes(program.jaxpr), default=0)


@dataclasses.dataclass(frozen=True)
class Frugal(Exercise):
    """An exercise whose solution must also make do without copies of its second argument."""

    def __call__(self, attempt: Any) -> Verdict:
        """Check a reader's function, and then what it makes on the way."""
        verdict = super().__call__(attempt)
        q_BTNH, k_BSKH = next(iter(self.cases()))
        copies = k_BSKH.size * q_BTNH.shape[2] // k_BSKH.shape[2]
        if verdict.passed and largest_array(attempt, q_BTNH, k_BSKH) >= copies:
            return self._wrong(COPIES[0], "the keys are copied")
        return verdict


shared_scores = Frugal(
    "shared_scores", grouped_scores, ("scores_BNTS",), scores_cases,
    mistakes_in(_wired, {
        "the keys are copied": COPIES,
        "key heads are tiled": ("query head n reads key head n % K. Neighbors share: head n reads"
            " n // G. So N splits into [K, G], K first.", "// (N // K)", "% K"),
        "heads come back in another order": ("each score is right, but the heads are in another"
            " order. You split N into K, then G: join them in the same order, as BKGTS.",
            _joined_askew),
        "one key head for all": ("all query heads read the first key head. Each group has its own.",
            "np.arange(N) // (N // K)", "np.zeros(N, int)"),
        "no scale": ("the scale is missing: divide by the square root of H, the numbers in a head.",
            " * H**-0.5", ""),
        "divided by H": ("you divide by H. A sum of H random terms grows like the square root of"
            " H: divide by that.", "* H**-0.5", "/ H"),
        "multiplied by the square root": ("you multiply by the square root of H. The scores should"
            " become smaller: divide.", "H**-0.5", "H**0.5"),
    }),
    praise="Right, and not a single key was copied.",
)  # fmt: skip
