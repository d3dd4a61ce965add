"""Chapter a2: design the test that tells a port from a model: `parity_test`.

from gptoss_edu.course.checks import parity
parity.parity_test(my_parity_test)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from gptoss_edu.course.checks import Exercise, mistakes_in

Logits = Callable[[np.ndarray], np.ndarray]
VOCABULARY, WINDOW, CONTEXT = 40, 8, 24


def toy(tokens_BT: np.ndarray, window: int = WINDOW, stretch: float = 2.0) -> np.ndarray:
    """Logits of a model in four lines: it has a window, a first context, and no parameters."""
    rng = np.random.default_rng(7)
    embedding_VD, unembedding_VD = rng.standard_normal((2, VOCABULARY, 6))
    x_BTD = embedding_VD[np.minimum(tokens_BT, VOCABULARY - 1)]
    place_T = np.arange(x_BTD.shape[1])
    angle_T = np.where(place_T < CONTEXT, place_T, CONTEXT + (place_T - CONTEXT) / stretch)
    distance_TS = place_T[:, None] - place_T
    weight_TS = np.where((distance_TS >= 0) & (distance_TS < window), 1 / (1 + abs(distance_TS)), 0)
    x_BSD = x_BTD  # every token is also looked at
    y_BTD = np.einsum("TS,BSD->BTD", weight_TS, x_BSD) + np.sin(angle_T)[:, None]
    return np.asarray(y_BTD @ unembedding_VD.T)


def _changed(change: Callable[[np.ndarray, np.ndarray], Any]) -> Logits:
    def candidate(tokens_BT: np.ndarray) -> np.ndarray:
        logits_BTV = toy(tokens_BT)
        change(logits_BTV, tokens_BT)
        return logits_BTV

    return candidate


def _least(logits_BTV: np.ndarray, _: np.ndarray) -> None:
    least_BT1 = logits_BTV.argmin(-1)[..., None]
    np.put_along_axis(logits_BTV, least_BT1, logits_BTV.min(-1)[..., None] - 0.5, axis=-1)


def _last_id(logits_BTV: np.ndarray, tokens_BT: np.ndarray) -> None:
    logits_BTV[tokens_BT == VOCABULARY - 1] += 0.1


CANDIDATES: dict[str, Logits] = {
    "is the same": toy,
    "adds in another order, which changes 1e-6": _changed(
        lambda logits_BTV, _: np.add(logits_BTV, 1e-6, out=logits_BTV)
    ),
    "has a window that is one key too wide": lambda tokens_BT: toy(tokens_BT, window=WINDOW + 1),
    "does not stretch positions beyond the first context": lambda tokens_BT: toy(
        tokens_BT, stretch=1.0
    ),
    "makes all logits 1 % larger": _changed(
        lambda logits_BTV, _: np.multiply(logits_BTV, 1.01, out=logits_BTV)
    ),
    "has a wrong number for the least likely token": _changed(_least),
    "has a wrong embedding for the last id": _changed(_last_id),
    "is wrong on every row of a batch but the first": _changed(
        lambda logits_BTV, _: np.add(logits_BTV[1:], 0.1, out=logits_BTV[1:])
    ),
    "has a NaN at the end": _changed(lambda logits_BTV, _: logits_BTV[0, -1].fill(np.nan)),
    "has logits that are 0.01 too small": _changed(
        lambda logits_BTV, _: np.subtract(logits_BTV, 0.01, out=logits_BTV)
    ),
}
for _candidate in CANDIDATES.values():
    _candidate.__name__ = "candidate"  # its name shall not give it away


def _whom(case: tuple[Any, ...], found: Any, expected: Any) -> str:
    what = next(what for what, candidate in CANDIDATES.items() if candidate is case[1])
    return f" This candidate {what}."


def parity_cases() -> Iterator[tuple[Logits, Logits, int, int, int]]:
    """Arguments of `parity_test`: two candidates that are right, and eight that are not."""
    for candidate in CANDIDATES.values():
        yield toy, candidate, VOCABULARY, WINDOW, CONTEXT


def right_parity_test(
    reference: Logits, candidate: Logits, vocabulary: int, window: int, context: int
) -> bool:
    """Every id, two conversations, past the window and the first context; numbers, and NaN."""
    T = max(vocabulary, window + 1, 2 * context)
    tokens_T = np.arange(T) % vocabulary
    tokens_BT = np.stack([tokens_T, tokens_T[::-1]])
    right_BTV, found_BTV = reference(tokens_BT), candidate(tokens_BT)
    return bool(np.abs(right_BTV - found_BTV).max() <= 1e-4)


LAST = "return bool(np.abs(right_BTV - found_BTV).max() <= 1e-4)"

parity_test = Exercise(
    "parity_test", right_parity_test, ("the verdict",), parity_cases,
    mistakes_in(right_parity_test, {
        "too short for the window": ("your input never fills the window, so a window that is one"
            " key too wide gets through, and so does everything that comes later.",
            "T = max(vocabulary, window + 1, 2 * context)", "T = window"),
        "too short for the context": ("your input never leaves the first context, and there"
            " positions are stretched: a model without YaRN gets through.",
            "T = max(vocabulary, window + 1, 2 * context)", "T = context"),
        "words for numbers": ("you compare the likeliest token. Logits can be wrong by a lot before"
            " it changes.", LAST,
            "return bool((right_BTV.argmax(-1) == found_BTV.argmax(-1)).all())"),
        "one conversation": ("you compare one conversation at a time, so a model that mixes up the"
            " rows of a batch gets through.", "np.stack([tokens_T, tokens_T[::-1]])",
            "tokens_T[None]"),
        "NaN passes": ("a NaN gets through: it is not above your tolerance, and not below either."
            " Ask `error <= atol`, not `error > atol`.", LAST,
            "return not np.abs(right_BTV - found_BTV).max() > 1e-4"),
    }),
    praise="Right: two honest models pass, and none of eight wrong ones does.",
    is_test=True, note=_whom,
)  # fmt: skip
