"""Checkers for the exercises: they know the usual mistakes by name and answer with a sentence.

A checker runs the reader's function on fresh inputs and compares with the library. Where the two
differ, it tries what usually goes wrong: each mistake is a wrong version of the function, and if
the reader's result is the result of that version, its sentence names the misconception. Nothing
that a reader writes ends in a traceback, and an untouched stub (`raise NotImplementedError`) is
"not attempted yet", so that a notebook runs from top to bottom.
"""

from __future__ import annotations

import dataclasses
import html
import inspect
import itertools
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

COLORS = {"passed": "#1a7340", "not attempted yet": "#5c5c5c", "not yet right": "#a33f00"}
SIGNS = {"passed": "✓", "not attempted yet": "·", "not yet right": "✗"}


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a checker says: about which exercise, how it went, and one or two sentences."""

    exercise: str
    status: str
    sentence: str = ""
    mistake: str | None = None

    @property
    def passed(self) -> bool:
        """Is the exercise solved?"""
        return self.status == "passed"

    def __repr__(self) -> str:
        summary = f": {self.sentence}" if self.sentence else ""
        return f"{SIGNS[self.status]} {self.exercise}: {self.status}{summary}"

    def _repr_html_(self) -> str:
        color = COLORS[self.status]
        return (
            f'<div style="border-left:4px solid {color};padding:0.2em 0.8em">'
            f'<span style="background:{color};color:#ffffff;border-radius:3px;padding:0.1em 0.5em">'
            f"{SIGNS[self.status]} {html.escape(self.status)}</span> "
            f"<b>{html.escape(self.exercise)}</b> {html.escape(self.sentence)}</div>"
        )


@dataclasses.dataclass(frozen=True)
class Exercise:
    """A function to write: the right one, the usual wrong ones, and inputs to tell them apart.

    `mistakes` are misconceptions by name: what to say to somebody who has it, and the function.
    `parts` names what the function returns, one name per part, with the shape letters of arrays.
    `cases` yields argument tuples, easiest first; no mistake may agree with `function` on all.
    """

    name: str
    function: Callable[..., Any]
    parts: tuple[str, ...]
    cases: Callable[[], Iterable[tuple[Any, ...]]]
    mistakes: Mapping[str, tuple[str, Callable[..., Any]]] = dataclasses.field(default_factory=dict)
    praise: str = ""
    atol: float = 1e-5
    _memory: dict[Any, Any] = dataclasses.field(default_factory=dict, repr=False, compare=False)

    def __call__(self, attempt: Any) -> Verdict:
        """Check a reader's function."""
        if not callable(attempt):
            return self._wrong(
                f"expected your function itself, found {_kind(attempt)}. Pass it by name, without"
                " parentheses.",
                "not a function",
            )
        for number, case in enumerate(self._cases()):
            found = self._run(attempt, case)
            if isinstance(found, Verdict):
                return found
            verdict = self._compare(found, self._known(self.function, number), number + 1)
            if verdict is not None:
                vague = verdict.mistake in ("unknown", "nan", "wrong form")
                return (self._diagnose(attempt, number, found) if vague else None) or verdict
        return Verdict(self.name, "passed", self.praise)

    def _cases(self) -> Iterator[tuple[Any, ...]]:
        """The cases, each made once, when it is needed: a second attempt is answered faster."""
        for number in itertools.count():
            if number not in self._memory:
                left = self._memory.setdefault("left", iter(self.cases()))
                self._memory[number] = next(left, None)
            if self._memory[number] is None:
                return
            yield self._memory[number]

    def _known(self, function: Callable[..., Any], number: int) -> Any:
        """What a function of ours makes of a case, computed once."""
        if (function, number) not in self._memory:
            self._memory[function, number] = function(*self._memory[number])
        return self._memory[function, number]

    def _wrong(self, sentence: str, mistake: str) -> Verdict:
        return Verdict(self.name, "not yet right", sentence, mistake)

    def _run(self, attempt: Callable[..., Any], case: tuple[Any, ...]) -> Any:
        """What the attempt returns, or the verdict on how it failed to return anything."""
        try:  # a NumPy array can be changed in place: the attempt works on copies
            return attempt(*map(_copied, case))
        except NotImplementedError:
            return Verdict(self.name, "not attempted yet")
        except Exception as error:  # whatever a reader's code may raise becomes a sentence
            line = _line_of(error, attempt)
            where = f" in line {line} of your function" if line else ""
            message = " ".join(str(error).split())[:200]
            return self._wrong(
                f"it stopped{where} with {type(error).__name__}: {message}", "it raises"
            )

    def _compare(self, found: Any, expected: Any, number: int) -> Verdict | None:
        """None if the attempt's result is right, else the verdict."""
        if found is None:
            return self._wrong("it returns nothing. Is there a `return` at its end?", "no return")
        many = len(self.parts) > 1
        if many and not (isinstance(found, tuple | list) and len(found) == len(self.parts)):
            wanted = ", ".join(self.parts)
            return self._wrong(
                f"it should return {len(self.parts)} things, ({wanted}), and returned"
                f" {_kind(found)}.",
                "wrong number of results",
            )
        pairs = zip(found, expected, strict=True) if many else [(found, expected)]
        for name, (got, want) in zip(self.parts, pairs, strict=True):
            if complaint := form(name, got, want):
                return self._wrong(complaint, "wrong form")
        if same(found, expected, self.atol):
            return None
        if _any_nan(found):
            return self._wrong("there is a NaN in what it returns.", "nan")
        return self._wrong(
            f"form and type are right, the values are not: test {number} expected"
            f" {_brief(expected, found)}. None of the usual mistakes explains it; compare with the"
            " library step by step.",
            "unknown",
        )

    def _diagnose(self, attempt: Callable[..., Any], number: int, found: Any) -> Verdict | None:
        """Whose wrong result is this? Two mistakes may agree on one case: the others decide."""
        right = self._known(self.function, number)
        suspects = [
            name
            for name, (_, wrong) in self.mistakes.items()
            if same(found, known := self._known(wrong, number), self.atol)
            and _kinds(found) == _kinds(known)  # True is not 1.0
            and not same(known, right, self.atol)  # right here, so this is not a sign of it
        ]
        for other, case in enumerate(self._cases()) if len(suspects) > 1 else ():
            result = self._run(attempt, case)
            left = [
                name
                for name in suspects
                if same(result, self._known(self.mistakes[name][1], other), self.atol)
            ]
            suspects = left or suspects
        return self._wrong(self.mistakes[suspects[0]][0], suspects[0]) if suspects else None


def changed(function: Callable[..., Any], *pieces: str) -> Callable[..., Any]:
    """A wrong version of `function`: its source with pieces replaced, (old, new, old, new, ...).

    So a mistake stands beside its sentence as a reader would type it.
    """
    source = inspect.getsource(function)
    for old, new in zip(pieces[::2], pieces[1::2], strict=True):
        assert old in source, f"{old!r} is not in the source:\n{source}"
        source = source.replace(old, new)
    found: dict[str, Any] = {}
    exec(source, function.__globals__, found)
    return found[function.__name__]  # type: ignore[no-any-return]


def mistakes_in(
    function: Callable[..., Any], table: Mapping[str, tuple[Any, ...]]
) -> dict[str, tuple[str, Callable[..., Any]]]:
    """The mistakes of an exercise: name -> (sentence, wrong version).

    In the table a sentence is followed by a wrong function, or by pieces of `function` and what a
    reader might write instead of them, as `changed` takes them.
    """
    return {
        name: (sentence, wrong[0] if callable(wrong[0]) else changed(function, *wrong))
        for name, (sentence, *wrong) in table.items()
    }


def form(name: str, got: Any, want: Any) -> str | None:
    """A sentence if `got` has not the type, shape or dtype of `want`; None if it has."""
    if isinstance(want, str | bytes | bool) or want is None or dataclasses.is_dataclass(want):
        if type(got) is not type(want):
            return f"{name} should be {_kind(want)}, found {_kind(got)}."
        if dataclasses.is_dataclass(want):
            return _form_of_leaves(name, got, want)
        return None
    if isinstance(want, dict):
        return None if isinstance(got, dict) else f"{name} should be a dict, found {_kind(got)}."
    if isinstance(want, list | tuple):
        fine = isinstance(got, list | tuple)
        return None if fine else f"{name} should be {_kind(want)}, found {_kind(got)}."
    if isinstance(want, int | float):
        fine = isinstance(got, int | float | np.number) or getattr(got, "shape", None) == ()
        return None if fine else f"{name} should be a number, found {_kind(got)}."
    if not _is_array(got):
        return f"{name} should be an array, found {_kind(got)}."
    if tuple(got.shape) != tuple(want.shape):
        return f"{name} should have shape {tuple(want.shape)}, found {tuple(got.shape)}."
    if want.dtype.kind != np.dtype(got.dtype).kind or got.dtype.itemsize < want.dtype.itemsize:
        return f"{name} should be {want.dtype}, found {got.dtype}."
    return None


def _form_of_leaves(name: str, got: Any, want: Any) -> str | None:
    if str(jax.tree.structure(got)) != str(jax.tree.structure(want)):
        return f"{name} is {_kind(got)} as it should be, but its parts are not those expected."
    for leaf, wanted in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        if complaint := form(f"an array in {name}", leaf, wanted):
            return complaint
    return None


def same(a: Any, b: Any, atol: float) -> bool:
    """Are two results equal, arrays up to `atol` and everything else exactly?"""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key], atol) for key in b)
    if isinstance(a, list | tuple) and isinstance(
        b, list | tuple
    ):  # a nested list is not a flat one
        return len(a) == len(b) and all(same(x, y, atol) for x, y in zip(a, b, strict=True))
    leaves, others = jax.tree.leaves(a), jax.tree.leaves(b)
    if len(leaves) != len(others):
        return False
    return all(_same_leaf(x, y, atol) for x, y in zip(leaves, others, strict=True))


def _same_leaf(x: Any, y: Any, atol: float) -> bool:
    if isinstance(x, str | bytes) or isinstance(y, str | bytes):
        return type(x) is type(y) and x == y
    x, y = np.asarray(x), np.asarray(y)
    if x.shape != y.shape:
        return False
    if x.dtype.kind in "OUS" or y.dtype.kind in "OUS":
        return bool(np.all(x == y))
    if y.dtype.kind in "biu":
        return bool(np.all(x == y))
    x, y = x.astype(np.float64), y.astype(np.float64)
    return bool(np.allclose(x, y, rtol=1e-5, atol=atol, equal_nan=True))


def distance(a: Any, b: Any) -> float:
    """The largest difference between the numbers of two results of the same form."""
    largest = 0.0
    for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=False):
        x, y = np.asarray(left), np.asarray(right)
        if x.shape == y.shape and x.dtype.kind in "biuf" and x.size:
            x, y = x.astype(np.float64), y.astype(np.float64)
            finite = np.isfinite(x) & np.isfinite(y)
            gap = np.abs(np.where(finite, x, 0) - np.where(finite, y, 0))
            largest = max(largest, float(np.where(finite | (x == y), gap, np.inf).max()))
    return largest


def _brief(expected: Any, found: Any) -> str:
    """What to say about two results: themselves if they are short, else their distance."""
    if _is_plain(expected) and _is_plain(found):
        whole = f"{expected!r:.120}, found {found!r:.120}"
        lists = isinstance(expected, list | tuple) and isinstance(found, list | tuple)
        return _first_difference(expected, found) if lists and len(str(expected)) > 120 else whole
    return f"other numbers: they differ by up to {distance(found, expected):.2g}"


def _first_difference(expected: Sequence[Any], found: Sequence[Any]) -> str:
    """Where two long lists part."""
    both = zip(expected, found, strict=False)
    at = next((i for i, (a, b) in enumerate(both) if a != b), min(len(expected), len(found)))
    wanted, got = (f"{x[at]!r:.60}" if at < len(x) else "the end" for x in (expected, found))
    return f"{wanted} at index {at}, found {got}"


def _is_array(value: Any) -> bool:
    """Also of JAX; `np.float16`, the type, has a shape only for its instances."""
    return hasattr(value, "shape") and hasattr(value, "dtype") and not isinstance(value, type)


def _kinds(result: Any) -> list[str]:
    """Truth values, numbers or text: what a result is made of, leaf by leaf."""
    kinds = [np.asarray(leaf).dtype.kind for leaf in jax.tree.leaves(result)]
    return ["number" if kind in "iuf" else kind for kind in kinds]


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return isinstance(value, str | bytes | int | float | bool | dict)


def _copied(value: Any) -> Any:
    return value.copy() if isinstance(value, np.ndarray) else value


def _any_nan(result: Any) -> bool:
    arrays = [np.asarray(leaf) for leaf in jax.tree.leaves(result)]
    return any(array.dtype.kind == "f" and np.isnan(array).any() for array in arrays)


def _kind(value: Any) -> str:
    if _is_array(value):
        return f"an array of shape {tuple(value.shape)}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def _line_of(error: Exception, attempt: Callable[..., Any]) -> int | None:
    """The line of the reader's function, counted from its `def`, where an error came from."""
    code = getattr(attempt, "__code__", None)
    if code is None:
        return None
    frames = traceback.walk_tb(error.__traceback__)
    lines = [line for frame, line in frames if frame.f_code is code]
    return lines[-1] - code.co_firstlineno + 1 if lines else None
