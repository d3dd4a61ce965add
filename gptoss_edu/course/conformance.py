"""Plug your own forward pass in here: is it that of GPT-OSS? Six questions, each with its figure.

    from gptoss_edu.course import conformance
    conformance.check(my_forward)

`my_forward` takes token ids as NumPy integers of shape (B, T), entries of the pocket model's
vocabulary, and returns logits of shape (B, T, V), in any framework that NumPy can read. The weights
are those of the pocket model, `gptoss_edu/data/pocket` in the format of the Hub; the witness is
Hugging Face transformers, whose logits for one conversation lie beside them.
"""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from gptoss_edu.course.checks import Verdict, stopped
from gptoss_edu.weights.checkpoint import POCKET, read_config

ALLOWED = 1e-4  # two float32 programs that add in another order stay below it (CONTRIBUTING.md)
Forward = Callable[[np.ndarray], Any]


@dataclasses.dataclass(frozen=True)
class Answer:
    """One question: the largest error, and where to look if it is too large."""

    question: str
    error: float
    look_at: str


@dataclasses.dataclass(frozen=True)
class Report:
    """The answers in the order in which to read them: the first that fails leads to the cause."""

    answers: tuple[Answer, ...]
    allowed: float

    @property
    def failed(self) -> tuple[Answer, ...]:
        """The answers above what is allowed; NaN is."""
        return tuple(answer for answer in self.answers if not answer.error <= self.allowed)

    @property
    def passed(self) -> bool:
        """Does everything agree?"""
        return not self.failed

    def __repr__(self) -> str:
        width = max(len(answer.question) for answer in self.answers)
        lines = [f"{'largest error':>{width + 15}}   allowed {self.allowed:g}"]
        for answer in self.answers:
            sign = "✗" if answer in self.failed else "✓"
            lines.append(f"{sign} {answer.question:{width}} {answer.error:12.1e}")
        if self.failed:
            lines.append(f"Begin with the first that fails. Look at {self.failed[0].look_at}.")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(repr(self))}</pre>"


def check(forward: Forward, allowed: float = ALLOWED) -> Report | Verdict:
    """Compare a forward pass with the witness, and with itself; a stub is "not attempted yet"."""
    try:
        return Report(tuple(_answers(forward)), allowed)
    except Exception as error:  # whatever a reader's code may raise becomes a sentence
        return stopped("conformance", error)


def _answers(forward: Forward) -> Iterator[Answer]:
    config = read_config(POCKET)
    with np.load(POCKET.with_name("pocket_reference.npz")) as witness:
        rows_T, at, right = (witness[name] for name in ("rows_T", "positions", "logits"))
    window, context = config.sliding_window or len(rows_T), config.initial_context
    T, cut = len(rows_T), window + 9

    def run(tokens_BT: np.ndarray) -> np.ndarray:
        found = np.asarray(forward(tokens_BT))
        expected = (*tokens_BT.shape, config.vocab_size)
        assert found.shape == expected, f"expected logits of shape {expected}, found {found.shape}"
        return found.astype(np.float64)

    one_TV = run(rows_T[None])[0]
    error = np.abs(one_TV[at] - right).max(axis=1)
    yield Answer(
        f"tokens 0 to {window - 1}, before anything leaves the window",
        error[at < window].max(),
        "the first stage that differs: embedding, norm, RoPE, sinks, groups of heads, experts",
    )
    yield Answer(
        f"tokens {window} to {context - 1}, after the window is full",
        error[(at >= window) & (at < context)].max(),
        f"the mask: {window} keys with the query's own, on even layers, counted from 0",
    )
    yield Answer(
        f"tokens from {context} on, beyond the first context",
        error[at >= context].max(),
        "YaRN: its ramp, its factor and its concentration; then at the cache",
    )
    yield Answer(
        "no token sees a later one",
        np.abs(run(rows_T[None, :cut])[0] - one_TV[:cut]).max(),
        "the causal mask, and at what depends on the length of the input",
    )
    both_BTV = run(np.stack([rows_T, rows_T[::-1]]))
    yield Answer(
        "a conversation is the same in a batch",
        np.abs(both_BTV[0] - one_TV).max(),
        "the axis of the batch: a sum, a norm or an expert's capacity that reaches across it",
    )
    other_TV = run(np.roll(rows_T, T // 2)[None])[0]
    yield Answer(
        "the same input gives the same logits twice",
        np.abs(run(np.roll(rows_T, T // 2)[None])[0] - other_TV).max(),
        "whatever is kept between calls: a cache, a random number",
    )
