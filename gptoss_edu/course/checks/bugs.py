"""Chapter a2: name what ails a patient, and write `first_difference`, `reach` and `window_test`.

    from gptoss_edu.course.checks import bugs
    bugs.solve(3, "yarn")
    bugs.reach(my_reach)

The answers stand below: do not read on before you have found them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

from gptoss_edu.attention import visible
from gptoss_edu.course.checks import Exercise, Verdict, attention, mistakes_in
from gptoss_edu.course.checks.patients import PATIENTS

SUSPECTS = {
    "window": "the sliding window is one key too wide",
    "layers": "the odd layers slide, and the even ones see everything",
    "future": "a token sees the tokens after it",
    "sinks": "the full layers have no sink",
    "heads": "query heads share key heads in the wrong groups",
    "yarn": "the bounds of YaRN's ramp are rounded",
    "position": "positions begin at 1",
    "bf16": "the norm rounds to bf16 before it multiplies by its scale",
    "epsilon": "the norm's ε is 1e-6 instead of 1e-5",
    "softmax": "the router's weights go through a softmax twice",
    "experts": "one expert too few is asked",
    "halves": "gate and up are taken as halves instead of every second column",
    "plus one": "SwiGLU's + 1 is forgotten",
    "nibbles": "the two halves of each MXFP4 byte are swapped",
    "stop": "generation stops at <|end|>",
    "sampling": "tokens are drawn although the likeliest was asked for",
}
# What each would look like: the answer to someone who suspects it wrongly.
ALIBIS = {
    "window": "a window that is one key too wide changes nothing before the window is full, and"
    " then adds exactly one key",
    "layers": "if the wrong layers slid, nothing would differ until the window is full, and then"
    " layer 0 would look at every key",
    "future": "a token that sees ahead differs from token 0 on, and its attention weights beyond"
    " itself are not zero",
    "sinks": "a missing sink on full layers leaves layer 0 as it is, and makes the weights of"
    " layer 1 sum to one",
    "heads": "wrong groups change the attention of layer 0 by a lot, at token 0 already",
    "yarn": "other frequencies change the attention of layer 0, but not at token 0, which has"
    " nobody to be at a distance from",
    "position": "positions that all begin at 1 keep every distance, so almost nothing would change",
    "bf16": "rounding in the norm changes everything from token 0 on, but only in the third digit",
    "epsilon": "an ε ten times smaller changes everything from token 0 on, by a part in a"
    " hundred thousand",
    "softmax": "a second softmax leaves attention and the choice of experts of layer 0 alone, and"
    " makes their weights more equal",
    "experts": "with an expert too few, a weight would be missing in every token's routing",
    "halves": "mixed up gate and up leave attention and router of layer 0 alone and ruin the"
    " stream; `swiglu` itself then gives other numbers",
    "plus one": "without the + 1, an expert whose up is 0 gives nothing; `swiglu` would show it",
    "nibbles": "swapped nibbles leave attention and router of layer 0 alone and ruin the stream;"
    " `dequantize` itself then gives its numbers in another order",
    "stop": "a wrong stop token changes no number at all; it shows in the last token of the reply",
    "sampling": "drawing changes no logit, and two replies to one question would differ",
}
# Patient -> (suspect, what it was, the test that would have caught it).
ANSWERS = {
    1: (
        "window",
        "The mask said <= where it should say <. Three projects that had it are linked below.",
        "test_attention.py::test_a_window_of_128_shows_128_keys_and_not_129",
    ),
    2: (
        "softmax",
        "Softmax over all experts, and once more over the chosen ones: the weights come out too"
        " equal, and no crash ever tells.",
        "test_moe.py::test_router_softmax_is_over_the_chosen_only",
    ),
    3: (
        "yarn",
        "Most models round these bounds, so most code does. GPT-OSS says truncate: false. In the"
        " 20B it moves 9 of 32 frequencies, by up to 76 percent.",
        "test_rope.py::test_the_ramp_of_gpt_oss_to_the_last_digit",
    ),
    4: (
        "stop",
        "<|end|> closes a message, and the answer is a second message. Every number is right and"
        " the user gets nothing.",
        "test_generation.py::test_stops_on_return_call_and_endoftext_but_never_on_end",
    ),
    5: (
        "halves",
        "Most models store gate and up as two halves. GPT-OSS weaves them: even columns are gate,"
        " odd ones up.",
        "test_moe.py::test_swiglu_interleaves_clamps_and_adds_one",
    ),
    6: (
        "sinks",
        "The sink was taken for a part of the sliding window. Every layer has one for each head.",
        "test_model.py::test_logits_agree_with_the_oracle_beyond_the_window_and_the_initial_context",
    ),
    7: (
        "bf16",
        "The cast came one line too early. Each number is off by less than one percent, and"
        " there are two norms in every layer.",
        "test_model.py::test_rms_norm_multiplies_by_the_scale_before_it_rounds",
    ),
    8: (
        "layers",
        "Layers count from 0, and the first one slides. Who counts from 1 gets all of them wrong.",
        "test_config.py::test_even_layers_slide_over_128_keys",
    ),
    9: (
        "nibbles",
        "The low nibble comes first. Every weight is a right weight, in its neighbor's place.",
        "test_mxfp4.py::test_low_nibble_comes_first",
    ),
    10: (
        "heads",
        "The key heads were repeated as a whole (0 1 0 1 …) instead of each in turn (0 0 … 1 1 …)."
        " Shapes fit either way.",
        "test_attention.py::test_query_head_n_reads_key_head_n_over_g",
    ),
}
assert ANSWERS.keys() == PATIENTS.keys() - {0}
assert ALIBIS.keys() == SUSPECTS.keys()


def line_up() -> str:
    """The suspects, one a line: the word to name them by, and what they would have done."""
    return "\n".join(f"{name:10}{text}" for name, text in SUSPECTS.items())


def solve(number: Any, suspect: Any) -> Verdict:
    """Name what ails a patient: `solve(3, "yarn")`. "?" is "not attempted yet"."""
    name = f"patient {number}"

    def wrong(sentence: str, mistake: str) -> Verdict:
        return Verdict(name, "not yet right", sentence, mistake)

    if suspect == "?":
        return Verdict(name, "not attempted yet")
    if isinstance(number, bool) or number not in ANSWERS:
        return wrong(f"the patients are 1 to {len(ANSWERS)}, found {number!r}.", "no such patient")
    word = " ".join(str(suspect).lower().split())
    if word not in SUSPECTS:
        return wrong(
            f"{str(suspect)[:60]!r} is nobody in the line-up. The names are {', '.join(SUSPECTS)}.",
            "no such suspect",
        )
    guilty, story, test = ANSWERS[number]
    if word == guilty:
        return Verdict(name, "passed", f"{story} It would not have passed tests/{test}.")
    return wrong(f"{ALIBIS[word]}. That is not what you see here.", word)


# ------------------------------------------------------------------------------------ exercise 1


def stages_cases() -> Iterator[tuple[list[np.ndarray], list[np.ndarray], float]]:
    """Arguments of `first_difference`: two lists of arrays, and what still counts as equal."""
    ones, nan = np.ones(2, np.float32), np.array([1, np.nan], np.float32)
    for a, b in (
        (ones, ones + 0.5), (ones + 0.5, ones), (1000 * ones, 1000.005 * ones), (nan, ones),
        (ones, nan), (nan, nan), (ones[None], ones[:, None]), (ones[None], ones), (ones, ones[:1]),
        (ones, ones[:, None]), (ones, ones + np.array([0.5, -0.5], np.float32)),
    ):  # fmt: skip
        yield [ones, a, a], [ones, b, b], 1e-3
    rng = np.random.default_rng(0)

    def pair() -> tuple[list[np.ndarray], list[np.ndarray]]:
        right = [rng.standard_normal((2, 30)).astype(np.float32) for _ in range(5)]
        return right, [array.copy() for array in right]

    right, wrong = pair()
    wrong[1] += 0.01
    wrong[2] += 5.0
    wrong[4] += 0.1
    yield right, wrong, 1e-3
    right, wrong = pair()
    wrong[3][1, 7] += 0.004
    yield right, wrong, 1e-3
    right, wrong = pair()
    wrong[0] -= 0.5
    yield right, wrong, 1e-3
    right, wrong = pair()
    wrong[1] += 1e-5
    yield right, wrong, 1e-3


def right_first(right: list[np.ndarray], wrong: list[np.ndarray], atol: float) -> int:
    """The first stage that differs, or -1."""
    for index, (a, b) in enumerate(zip(right, wrong, strict=True)):
        if a.shape != b.shape or not np.abs(a - b).max() <= atol:
            return index
    return -1


def _largest(right: list[np.ndarray], wrong: list[np.ndarray], atol: float) -> int:
    if right_first(right, wrong, atol) < 0:
        return -1
    gaps = [
        np.inf if a.shape != b.shape else np.nan_to_num(np.abs(a - b).max(), nan=np.inf)
        for a, b in zip(right, wrong, strict=True)
    ]
    return int(np.argmax(gaps))


PAIRS = "enumerate(zip(right, wrong, strict=True))"

first_difference = Exercise(
    "first_difference", right_first, ("the index",), stages_cases,
    mistakes_in(right_first, {
        "the largest difference": ("you return the stage with the largest difference. Errors grow"
            " on their way through the layers, so that is often the last one. The culprit is the"
            " first.", _largest),
        "counted from 1": ("your count begins at 1. An index begins at 0, like layers do.",
            "return index", "return index + 1"),
        "NaN passes": ("a NaN went unnoticed: it is neither above nor below your tolerance. Ask"
            " `not gap <= atol` instead of `gap > atol`.",
            "not np.abs(a - b).max() <= atol", "np.abs(a - b).max() > atol"),
        "signed": ("a result that is too small went unnoticed: the size of a difference counts,"
            " not its sign.", "np.abs(a - b)", "(b - a)"),
        "shapes are broadcast": ("arrays of different shapes passed, because NumPy repeated the"
            " smaller one. Compare the shapes first.", "a.shape != b.shape or ", ""),
        "no tolerance": ("you ask for equality to the last bit. Two right programs that add in"
            " another order differ a little: allow `atol`.", "<= atol", "<= 0"),
    }),
    praise="Right: it finds the first difference, also when it is small, negative or NaN.",
)  # fmt: skip


# ------------------------------------------------------------------------------------ exercise 2


def reach_cases() -> Iterator[tuple[np.ndarray]]:
    """Arguments of `reach`: attention weights of heads; few look as far as they may."""
    yield (np.array([[[0.5, 0, 0], [0.5, 0.25, 0], [0, 1e-6, 0.5]]], np.float32),)
    yield (np.array([[[0.5, 0, 0], [0, 0.5, 0], [1e-6, 0, 0.5]]], np.float32),)
    for seed, (N, T, window) in enumerate(((3, 9, 4), (2, 12, 7), (4, 8, 8))):
        rng = np.random.default_rng(seed)
        distance_TS = np.arange(T)[:, None] - np.arange(T)[None]
        may_TS = (distance_TS >= 0) & (distance_TS < window)
        weights_NTS = np.where(may_TS, rng.random((N, T, T)), 0).astype(np.float32)
        weights_NTS[0] = np.where(distance_TS < window - 2, weights_NTS[0], 0)
        weights_NTS[:, -1] = np.where(distance_TS[-1] < 2, weights_NTS[:, -1], 0)
        if window < T:
            weights_NTS[:, :, 1:-1:3] = np.where(
                distance_TS[:, 1:-1:3] == window - 1, weights_NTS[:, :, 1:-1:3], 0
            )
        if window == T:
            weights_NTS[-1, -1, 0] = 0.5
        yield (weights_NTS / (weights_NTS.sum(axis=-1, keepdims=True) + 1),)


def right_reach(weights_NTS: np.ndarray) -> int:
    """Keys from the farthest that anybody looks at to the query itself, both included."""
    T = weights_NTS.shape[1]
    distance_TS = np.arange(T)[:, None] - np.arange(T)[None]
    reach_NT = np.where(weights_NTS > 0, distance_TS, 0).max(axis=-1)
    return int(reach_NT.max()) + 1


def _strongest(weights_NTS: np.ndarray) -> int:
    T = weights_NTS.shape[1]
    strongest_NT = np.argmax(weights_NTS, axis=-1)
    return int(np.max(np.arange(T) - strongest_NT)) + 1


reach = Exercise(
    "reach", right_reach, ("the number",), reach_cases,
    mistakes_in(right_reach, {
        "the query itself is not counted": ("you return a distance. A window of 128 holds the"
            " query itself and 127 keys before it: add one. (This is the off-by-one that people"
            " shipped.)", " + 1", ""),
        "keys are counted": ("you count the keys that have a weight. A head may skip some in"
            " between; count from the farthest one.",
            lambda weights_NTS: int((weights_NTS > 0).sum(axis=-1).max())),
        "the last query only": ("you look at the last query only. It need not be the one that"
            " looks farthest.", "reach_NT.max", "reach_NT[:, -1].max"),
        "the first head only": ("you look at one head only. Another one may look farther.",
            lambda weights_NTS: right_reach(weights_NTS[:1])),
        "all keys": ("you return how many keys there are, not how many are looked at.",
            lambda weights_NTS: weights_NTS.shape[-1]),
        "the strongest key": ("you go by the key with the largest weight. The farthest may have a"
            " small one; any weight above 0 counts.", _strongest),
    }),
    praise="Right. On a sliding layer it gives the window, and 129 where somebody wrote <=.",
)  # fmt: skip


# ------------------------------------------------------------------------------------ exercise 3

Mask = Callable[[Any, Any, Any], Any]


def _padded(q_BT: Any, k_BS: Any, window: int | None) -> Any:
    distance_BTS = q_BT[:, :, None] - k_BS[:, None, :]
    return (distance_BTS >= 0) & ((k_BS[:, None] < 0) | (distance_BTS < (window or 10**9)))


def _by_place(q_BT: Any, k_BS: Any, window: int | None) -> Any:
    query_BT, key_BS = (jnp.broadcast_to(jnp.arange(x.shape[1]), x.shape) for x in (q_BT, k_BS))
    return visible(query_BT, key_BS, window) & (k_BS[:, None] >= 0)


def _always(q_BT: Any, k_BS: Any, window: int | None) -> Any:
    return visible(q_BT, k_BS, window or 3)


_known = {name: mask for name, (_, mask) in attention.window_mask.mistakes.items()}  # of chapter 03
MUTANTS: dict[str, tuple[Mask, str]] = {
    "one key too many passes": (_known["one key too many"], "whose window is one key too wide"),
    "one key too few passes": (_known["one key too few"], "whose window is one key too narrow"),
    "no window passes": (_known["the window is ignored"], "that ignores the window"),
    "the future passes": (_known["the future is visible"], "that shows keys after the query"),
    "a query that cannot see itself passes": (
        _known["the own key is hidden"],
        "that hides the query's own key",
    ),
    "padding passes": (_padded, "that shows padding: position -1 is an empty slot"),
    "places for positions passes": (
        _by_place,
        "that uses places in the array instead of positions: let the queries begin late, as with"
        " a cache",
    ),
    "a window on full layers passes": (_always, "that has a window even where `window` is None"),
}
for _mutant, _ in MUTANTS.values():
    _mutant.__name__ = visible.__name__  # its name shall not give it away


def window_cases() -> Iterator[tuple[Mask]]:
    """Arguments of `window_test`: a mask function that is right, and eight that are not."""
    yield (visible,)
    for mutant, _ in MUTANTS.values():
        yield (mutant,)


def right_window_test(mask: Mask) -> bool:
    """Does a mask function show each query its window, no key more and no key less?"""
    q_BT, k_BS = np.array([[7, 8]]), np.array([[-1, 0, 3, 4, 5, 6, 7, 8, 9]])
    for window in (4, None):
        wanted_TS = [
            [0 <= k <= q and (window is None or q - k < window) for k in k_BS[0]] for q in q_BT[0]
        ]
        if not np.array_equal(np.asarray(mask(q_BT, k_BS, window))[0], wanted_TS):
            return False
    return True


def _blind_to(mutant: Mask) -> Callable[[Mask], bool]:
    return lambda mask: mask is mutant or right_window_test(mask)


@dataclasses.dataclass(frozen=True)
class Trial(Exercise):
    """A test to write: the first mask that it judges wrongly is the mistake."""

    def _explain(self, attempt: Callable[..., Any], results: list[Any]) -> Verdict:
        if not isinstance(results[-1], bool | np.bool_):
            return super()._explain(attempt, results)
        name = list(self.mistakes)[len(results) - 1]
        return self._wrong(self.mistakes[name][0], name)


window_test = Trial(
    "window_test", right_window_test, ("the verdict",), window_cases,
    {
        "the right one is refused": ("your test refuses the library's own `visible`, which is"
            " right. A key is visible when 0 <= q - k, q - k < window, and its position is not -1.",
            lambda mask: False),
        **{
            name: (f"your test lets a mask pass {what}.", _blind_to(mutant))
            for name, (mutant, what) in MUTANTS.items()
        },
    },
    praise="It accepts the right mask and catches all eight broken ones.",
    is_test=True,
)  # fmt: skip
