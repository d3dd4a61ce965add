"""Chapter 03: count visible keys; write the sink softmax, the mask, and scores of shared keys.

    from gptoss_edu.course.checks import attention
    attention.stable_softmax(my_stable_softmax)

Source: gptoss_edu/attention.py, which the right answers come from.
"""

from __future__ import annotations

import dataclasses
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

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
    yield from ((2, 40, 32), (2, 40, 100), (5, 40, 32))


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
        "a window of one too many": ("a sliding layer reads `window` keys, the query's own among"
            " them. You count one more: this is the window of 129 that real implementations"
            " shipped.", "(keys, window)", "(keys, window + 1)"),
        "the own key is forgotten": ("positions count from 0, and a query sees its own key, too:"
            " at position 0 that makes one key, not none.", "position + 1", "position"),
        "the sink is counted": ("you count the sink as a key. It has a logit in the softmax, but"
            " there is no key that could be read, and no value.", lambda *case: _keys(*case) + 1),
    }),
    praise="Right on sliding and full layers, before and after the window is full.",
)  # fmt: skip


# ------------------------------------------------------------------------------------ exercise 2


def softmax_cases() -> Iterator[tuple[jax.Array, jax.Array, jax.Array]]:
    """Arguments of `stable_softmax`: few and everyday; huge scores; huge sinks and empty rows."""
    for row in ((1.0, 2.0, 3.0), (-150.0, -151.0, 4.0), (1.0, 2.0, 300.0)):
        seen_BTS = jnp.array([[[True, True, row[2] == 3.0]]])
        yield jnp.array([[[row], [row]]]), jnp.array([0.5, -160.0]), seen_BTS
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


def _kept_column(scores_BNTS: jax.Array, sinks_N: jax.Array, mask_BTS: jax.Array) -> Tables:
    weights_BNTS, mass_BNT = sink_softmax(scores_BNTS, sinks_N, mask_BTS)
    return jnp.concatenate([weights_BNTS, mass_BNT[..., None]], axis=-1), mass_BNT


def _own_softmax(attempt: Callable[..., Any], case: tuple[Any, ...]) -> tuple[str, str] | None:
    with mock.patch.object(jax.nn, "softmax", side_effect=LookupError):
        try:
            attempt(*case)
        except LookupError:
            return "the numbers are right, but `jax.nn.softmax` made them: write it.", "not written"
    return None


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
        "hidden keys reach the exps": ("a hidden key that is far above the rest reaches your exps"
            " or your maximum: its exp is infinite, or all others become 0, and NaN comes out. Mask"
            " first, then take the maximum, then exp.", "masked_BNTS.max(", "scores_BNTS.max("),
        "the sink after the softmax": ("you run softmax over the keys, and add the sink"
            " afterwards. By then it is forgotten how well the keys fit, and the sink takes the"
            " same share from everyone. It belongs into the same sum as the scores.", _sink_after),
        "the sink is kept as a key": ("your weights have a column for the sink. There is no value"
            " for it to be multiplied with: leave the column out, and return it as the sink mass.",
            _kept_column),
        "one sink for all heads": ("all heads use the sink of the first. Each has its own:"
            " sinks_N[None, :, None, None].",
            "sinks_N[None, :, None, None]", "sinks_N[None, :1, None, None]"),
        "the mask is upside down": ("you hide the keys that should be visible. mask_BTS is True"
            " where a query may look.", "mask_BTS[", "~mask_BTS["),
    }),
    praise="Right for huge scores, for huge sinks, and in rows without a visible key.",
    also=_own_softmax,
)  # fmt: skip


# ------------------------------------------------------------------------------------ exercise 3


def mask_cases() -> Iterator[tuple[jax.Array, jax.Array, int | None]]:
    """Arguments of `window_mask`: sliding and full layers, with and without empty slots."""
    yield jnp.array([[3]]), jnp.array([[0, 1, 2, 3, 4]]), 2
    yield jnp.array([[2, 3]]), jnp.array([[0, 1, 2, 3, -1, -1]]), None
    yield jnp.array([[90]]), jnp.array([[90, 2, -1, 50]]), None
    yield jnp.array([[1]]), jnp.array([[0, 1, -1]]), 9
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


window_mask = Exercise(
    "window_mask", visible, ("mask_BTS",), mask_cases,
    mistakes_in(_mask, {
        "one key too many": ("a sliding query of yours sees window + 1 keys. Its own key is one of"
            " them, so the largest distance is window - 1: `<`, not `<=`. Real implementations"
            " shipped this.", "< window", "<= window"),
        "one key too few": ("a sliding query of yours sees window - 1 keys. Distances from 0 to"
            " window - 1 are visible: these are `window` of them.", "< window", "< window - 1"),
        "the own key is hidden": ("no query sees its own key. It may: `distance >= 0`, not `> 0`.",
            "distance_BTS >= 0", "distance_BTS > 0"),
        "the future is visible": ("your mask has a window but lets a query see the future. Ask for"
            " `distance >= 0`, too.", "(distance_BTS >= 0) & ", ""),
        "the window is ignored": ("every earlier key is visible. Where `window` is a number, only"
            " the last `window` are.", " & (distance_BTS < window)", ""),
        "empty slots are visible": ("a slot with position -1 is empty, and your mask lets queries"
            " look at it: its key would be noise. Ask for `position_BS >= 0`, too.",
            " & held_B1S", ""),
        "empty slots are visible on full layers": ("on a sliding layer you hide empty slots, on a"
            " full one you do not. Its cache has room that nothing was written to yet: ask for a"
            " position of at least 0 there, too.",
            "& held_B1S", "& (held_B1S | (window > 2**30))"),
    }),
    praise="Right with and without a window, in a ring, and with empty slots.",
)  # fmt: skip


# ------------------------------------------------------------------------------------ exercise 4


def scores_cases() -> Iterator[tuple[jax.Array, jax.Array]]:
    """Arguments of `shared_scores`: few queries and many keys, then other sizes."""
    rng = np.random.default_rng(34)
    for B, T, S, K, G, H in ((1, 2, 50, 3, 4, 16), (2, 5, 7, 2, 3, 6), (1, 1, 2, 2, 2, 3)):
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


UNSEEN = "Right. JAX cannot look into it, so small copies of the keys would go unnoticed."
COPIES = (
    "the numbers are right, but on the way the keys are copied, once for every query head"
    " that shares them. Reshape the queries into [B, T, K, G, H], and let einsum read the keys"
    " as they are.",
    _wired,
)
COPIED = COPIES[0], "the keys are copied"


def grown(program: Any, keys: Sequence[Any]) -> tuple[int, list[Any]]:
    """Numbers by which copies of `keys` grow in a JAX program, and what it makes of them."""
    total, derived = 0, {id(key) for key in keys}
    for step in program.eqns:
        used = [number for number, one in enumerate(step.invars) if id(one) in derived]
        inner = [getattr(one, "jaxpr", one) for one in step.params.values()]
        inner = [one for one in inner if hasattr(one, "eqns")]
        if used and inner and len(inner[0].invars) == len(step.invars):
            more, made = grown(inner[0], [inner[0].invars[number] for number in used])
            places = {id(one): number for number, one in enumerate(inner[0].outvars)}
            derived |= {id(step.outvars[places[id(one)]]) for one in made if id(one) in places}
            total += more
        elif used and step.primitive.name != "dot_general":
            largest = max(step.invars[number].aval.size for number in used)
            total += sum(max(0, one.aval.size - largest) for one in step.outvars)
            derived |= set(map(id, step.outvars))
    return total, [one for one in program.outvars if id(one) in derived]


def copied_keys(attempt: Callable[..., Any], q_BTNH: jax.Array, k_BSKH: jax.Array) -> int | None:
    """Copies of keys that a function makes, in numbers; None where only the memory tells."""
    try:
        program = jax.make_jaxpr(attempt)(q_BTNH, k_BSKH).jaxpr
    except Exception:  # NumPy inside: right, only not to be traced
        return None
    return grown(program, program.invars[1:])[0]


def peak_bytes(attempt: Callable[..., Any], *arguments: Any) -> int:
    """What NumPy takes at most at one time."""
    tracemalloc.start()
    try:
        attempt(*arguments)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@dataclasses.dataclass(frozen=True)
class Frugal(Exercise):
    """An exercise whose solution must also make do without copies of its second argument."""

    def __call__(self, attempt: Any) -> Verdict:
        """Check a reader's function, and then what it makes on the way."""
        verdict = super().__call__(attempt)
        if not verdict.passed:
            return verdict
        rng, G = np.random.default_rng(0), 8
        q_BTNH, k_BSKH = (
            rng.random(shape, np.float32) for shape in ((1, 2, 24, 16), (1, 999, 3, 16))
        )
        copied = copied_keys(attempt, jnp.asarray(q_BTNH), jnp.asarray(k_BSKH))
        if copied is not None:
            return self._wrong(*COPIED) if copied >= (G - 1) * k_BSKH.size // 2 else verdict
        if peak_bytes(attempt, q_BTNH, k_BSKH) >= G * k_BSKH.nbytes:
            return self._wrong(*COPIED)
        return dataclasses.replace(verdict, sentence=UNSEEN)


shared_scores = Frugal(
    "shared_scores", grouped_scores, ("scores_BNTS",), scores_cases,
    mistakes_in(_wired, {
        "the keys are copied": COPIES,
        "key heads are tiled": ("query head n reads key head n % K. Neighbors share: head n reads"
            " n // G. So N splits into [K, G], K first.", "// (N // K)", "% K"),
        "heads come back in another order": ("each score is right, but the heads are in another"
            " order. You split N into K, then G: join them in the same order, as BKGTS.",
            _joined_askew),
        "no scale": ("the scale is missing: divide by the square root of H, the numbers in a head.",
            " * H**-0.5", ""),
        "divided by H": ("you divide by H. A sum of H random terms grows like the square root of"
            " H: divide by that.", "* H**-0.5", "/ H"),
    }),
    praise="Right, and not a single key was copied.",
)  # fmt: skip


# ------------------------------------------------------------------------------------ exercise 5

Blocks = list[tuple[jax.Array, jax.Array]]


def stream_cases() -> Iterator[tuple[Blocks, float]]:
    """Arguments of `streaming`: rising and falling scores, blocks that nobody sees, and neither."""
    rng = np.random.default_rng(35)
    for sizes, size, sink in (
        ((2, 2), 1.0, 0.5), ((4, 1, 6), 3.0, -1.0), ((3, 5, 2), 200.0, 1.0), ((2, 3), 1.0, 300.0),
    ):  # fmt: skip
        blocks: Blocks = []
        for number, S in enumerate(sizes):
            scores_TS = size * rng.standard_normal((3, S)) + size * number
            scores_TS[0] = scores_TS[0] - 2 * size * number  # one query's scores fall
            scores_TS[1] = -np.inf if number == 0 else scores_TS[1]
            scores_TS[2] = -np.inf  # one sees nothing at all
            v_SH = jnp.asarray(rng.standard_normal((S, 4)), jnp.float32)
            blocks.append((jnp.asarray(scores_TS, jnp.float32), v_SH))
        yield blocks, sink


def right_streaming(blocks: Blocks, sink: float) -> jax.Array:
    """All blocks side by side, and the library's softmax."""
    scores_TS = jnp.concatenate([scores_TS for scores_TS, _ in blocks], axis=1)
    v_SH = jnp.concatenate([v_SH for _, v_SH in blocks])
    mask_1TS = (scores_TS > -jnp.inf)[None]
    return sink_softmax(scores_TS[None, None], jnp.array([sink]), mask_1TS)[0][0, 0] @ v_SH


def _streaming(blocks: Blocks, sink: float) -> jax.Array:
    """Block by block."""
    T, H = blocks[0][0].shape[0], blocks[0][1].shape[1]
    max_T1, total_T1, sum_TH = jnp.full((T, 1), sink), jnp.ones((T, 1)), jnp.zeros((T, H))
    for scores_TS, v_SH in blocks:
        new_T1 = jnp.maximum(max_T1, scores_TS.max(axis=1, keepdims=True))
        shrink_T1, exp_TS = jnp.exp(max_T1 - new_T1), jnp.exp(scores_TS - new_T1)
        total_T1 = total_T1 * shrink_T1 + exp_TS.sum(axis=1, keepdims=True)
        sum_TH = sum_TH * shrink_T1 + exp_TS @ v_SH
        max_T1 = new_T1
    return sum_TH / total_T1


def _block_softmaxes(blocks: Blocks, sink: float) -> jax.Array:
    answers_BTH = jnp.stack([right_streaming([block], sink) for block in blocks])
    return answers_BTH.mean(axis=0)


streaming = Exercise(
    "streaming", right_streaming, ("out_TH",), stream_cases,
    mistakes_in(_streaming, {
        "a softmax per block": ("you take a softmax in each block and the mean of the answers. A"
            " block with large scores must count more: keep sums of exps, and divide once, at the"
            " end.", _block_softmaxes),
        "the sum of values is not corrected": ("when a larger score arrives you correct the sum of"
            " exps, but not the sum of values. Both were made with the old maximum.",
            "sum_TH * shrink_T1", "sum_TH"),
        "the sum of exps is not corrected": ("when a larger score arrives you correct the sum of"
            " values, but not the sum of exps. Both were made with the old maximum.",
            "total_T1 * shrink_T1", "total_T1"),
        "no sink": ("the sink takes no part. Begin with it: it is the first score of every query,"
            " with nothing to hand over.", "jnp.ones((T, 1))", "jnp.zeros((T, 1))"),
        "the maximum is that of the block": ("your maximum forgets what came before: a later block"
            " with small scores must not lower it. Take the maximum of old and new.",
            "jnp.maximum(max_T1, scores_TS.max(axis=1, keepdims=True))",
            "scores_TS.max(axis=1, keepdims=True)"),
    }),
    praise="Right for scores in the hundreds, and for queries that see no key of a block.",
)  # fmt: skip
