"""Checkers for the exercises: they know the usual mistakes by name and answer with a sentence.

A checker runs the reader's function on fresh inputs and compares with the library. Where the two
differ, it tries what usually goes wrong: each mistake is a wrong version of the function, and if
the reader's results are those of that version on all inputs, its sentence names the misconception.
Otherwise it tells the place: the smallest input that fails, where in the result, what was expected
there and what was found (comparing.py, telling.py). Nothing that a reader writes ends in a
traceback, and an untouched stub (`raise NotImplementedError`) is "not attempted yet", so that a
notebook runs from top to bottom.
"""

from __future__ import annotations

import contextlib
import dataclasses
import html
import inspect
import itertools
import traceback
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from gptoss_edu.course.checks.comparing import fit, is_array, kind, same
from gptoss_edu.course.checks.telling import Decode, has_nan, inputs, misplaced, misshapen, size_of

COLORS = {"passed": "#1a7340", "not attempted yet": "#5c5c5c", "not yet right": "#a33f00"}
FORMS = ("wrong form", "wrong number of results")
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
class _Raised:
    """A result that is none: what the attempt raised."""

    error: BaseException


@dataclasses.dataclass(frozen=True)
class Exercise:
    """A function to write: the right one, the usual wrong ones, and inputs to tell them apart.

    `mistakes` are misconceptions by name: what to say to somebody who has it, and the function.
    `parts` names what the function returns, one name per part, with the shape letters of arrays.
    `cases` yields argument tuples, easiest first; no mistake may agree with `function` on all.
    `decode` shows tokens as text; `also` complains of what a right result does not show, and
    `note` adds to what is said of a wrong one. A test (`is_test`) may fail by an assertion.
    """

    name: str
    function: Callable[..., Any]
    parts: tuple[str, ...]
    cases: Callable[[], Iterable[tuple[Any, ...]]]
    mistakes: Mapping[str, tuple[str, Callable[..., Any]]] = dataclasses.field(default_factory=dict)
    praise: str = ""
    atol: float = 1e-5
    like: str = ""  # the library function that does the same, if it is not `function` itself
    is_test: bool = False
    decode: Decode | None = None
    also: Callable[[Callable[..., Any], tuple[Any, ...]], tuple[str, str] | None] | None = None
    note: Callable[[tuple[Any, ...], Any, Any], str] | None = None
    _memory: dict[Any, Any] = dataclasses.field(default_factory=dict, repr=False, compare=False)

    def __call__(self, attempt: Any) -> Verdict:
        """Check a reader's function."""
        if not callable(attempt):
            return self._wrong(
                f"expected your function itself, found {kind(attempt)}. Pass it by name, without"
                " parentheses.",
                "not a function",
            )
        results = []
        for number, case in enumerate(self._cases()):
            results.append(found := self._run(attempt, case))
            if isinstance(found, _Raised):
                return self._failed(found, attempt, case)
            if not self._agrees(found, self.function, number):
                return self._explain(attempt, results)
        for case in self._cases() if self.also else ():
            assert self.also is not None
            if (complaint := self.also(attempt, case)) is not None:
                return self._wrong(*complaint)
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
            self._memory[function, number] = self._run(function, self._memory[number])
        return self._memory[function, number]

    def _wrong(self, sentence: str, mistake: str) -> Verdict:
        return Verdict(self.name, "not yet right", sentence, mistake)

    def _run(self, attempt: Callable[..., Any], case: tuple[Any, ...]) -> Any:
        """What the attempt returns, or what it raised."""
        try:
            found = attempt(*map(_copied, case))
        except (Exception, SystemExit) as error:  # whatever a reader's code may raise
            if self.is_test and isinstance(error, AssertionError):
                return False
            return _Raised(error)
        many = len(self.parts) > 1 and is_array(found) and np.shape(found)[:1] == (len(self.parts),)
        return tuple(found) if many else found

    def _agrees(self, found: Any, function: Callable[..., Any], number: int) -> bool:
        """Does a function of ours make the same of this case?"""
        known = self._known(function, number)
        if isinstance(known, _Raised) or isinstance(found, _Raised):
            both = isinstance(known, _Raised) and isinstance(found, _Raised)
            return both and type(known.error) is type(found.error)
        try:
            fitted = fit(found, known)
            if function is self.function and misshapen(self.parts, fitted, known):
                return False  # a float that is too narrow, for one
            return same(fitted, known, self.atol)
        except (ValueError, TypeError):  # a form that cannot even be compared
            return False

    def _failed(
        self, raised: _Raised, attempt: Callable[..., Any], case: tuple[Any, ...]
    ) -> Verdict:
        error = raised.error
        if isinstance(error, NotImplementedError) and _is_stub(error, attempt):
            return Verdict(self.name, "not attempted yet")
        line = _line_of(error, attempt)
        where = f" in line {line} of your function" if line else ""
        message = " ".join(str(error).split())[:200]
        told = inputs(self._named(attempt, case))
        given = f" (for {told})" if told else ""
        return self._wrong(
            f"it stopped{where} with {type(error).__name__}: {message}{given}", "it raises"
        )

    def _named(self, attempt: Callable[..., Any], case: tuple[Any, ...]) -> dict[str, Any]:
        """A case by the names of its arguments."""
        for function in (self.function, attempt):
            with contextlib.suppress(ValueError, TypeError):
                names = list(inspect.signature(function).bind(*case).arguments)
                if len(names) == len(case):
                    return dict(zip(names, case, strict=True))
        return {f"argument {number + 1}": value for number, value in enumerate(case)}

    def _explain(self, attempt: Callable[..., Any], results: list[Any]) -> Verdict:
        """Whose wrong result is this? Whoever agrees on all cases; if nobody, where is it wrong?"""
        cases, first = list(self._cases()), len(results) - 1  # which of them failed
        results = results + [self._run(attempt, case) for case in cases[len(results) :]]
        for name, (sentence, wrong) in self.mistakes.items():
            order = [first, *(number for number in range(len(cases)) if number != first)]
            if all(self._agrees(results[number], wrong, number) for number in order):
                return self._wrong(sentence, name)
        if all(found is None for found in results):
            return self._wrong("it returns nothing. Is there a `return` at its end?", "no return")
        places = [
            (size_of(case), self._place(attempt, case, found, self._known(self.function, number)))
            for number, (case, found) in enumerate(zip(cases, results, strict=True))
            if not isinstance(found, _Raised) and not self._agrees(found, self.function, number)
        ]
        formal = [place for _, place in places if place.mistake in FORMS]
        if formal:
            return formal[0]
        place, passed = min(places, key=lambda one: one[0])[1], len(cases) - len(places)
        others = f" {passed} of {len(cases)} tests pass." if passed else ""
        return dataclasses.replace(place, sentence=place.sentence + others)

    def _place(
        self, attempt: Callable[..., Any], case: tuple[Any, ...], found: Any, expected: Any
    ) -> Verdict:
        """The input, the place, expected and found, and what to compare with."""
        arguments, wanted = self._named(attempt, case), ", ".join(self.parts)
        many = len(self.parts) > 1
        if many and not (isinstance(found, tuple | list) and len(found) == len(self.parts)):
            return self._wrong(
                f"it should return {len(self.parts)} things, ({wanted}), and returned"
                f" {kind(found)}.",
                "wrong number of results",
            )
        fitted = fit(found, expected)
        told = inputs(arguments)
        if said := misshapen(self.parts, fitted, expected):
            return self._wrong(f"{said}{f' (For {told}.)' * bool(told)}", "wrong form")
        said = misplaced(self.parts, fitted, expected, self.atol, arguments, self.decode)
        note = self.note(case, found, expected) if self.note else ""
        where = self.function.__module__
        library = where.startswith("gptoss_edu.") and not where.startswith(__name__)
        like = self.like or f"{where}.{self.function.__name__}" * library
        return self._wrong(
            f"{f'for {told}, ' * bool(told)}{said}{note}{f' Compare with `{like}`.' * bool(like)}",
            "nan" if has_nan(found) and not has_nan(expected) else "unknown",
        )


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


def stopped(title: str, error: Exception) -> Verdict:
    """The verdict on what raised while it ran a reader's code; a stub is "not attempted yet"."""
    if isinstance(error, NotImplementedError) and not str(error):  # JAX's own say what is missing
        return Verdict(title, "not attempted yet")
    told = f"it stopped with {type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return Verdict(title, "not yet right", told, "it raises")


def _line_of(error: BaseException, attempt: Callable[..., Any]) -> int | None:
    """The line of the reader's function, counted from its `def`, where an error came from."""
    code = _code_of(attempt)
    frames = traceback.walk_tb(error.__traceback__)
    lines = [line for frame, line in frames if code is not None and frame.f_code is code]
    return lines[-1] - code.co_firstlineno + 1 if lines and code is not None else None


def _is_stub(error: BaseException, attempt: Callable[..., Any]) -> bool:
    """Is this the `raise NotImplementedError` of the function itself, and not one inside of JAX?"""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame.f_code is _code_of(attempt)


def _code_of(attempt: Any) -> types.CodeType | None:
    """The code of a function, also where it is wrapped by `jit` or `partial`."""
    bare = inspect.unwrap(attempt)
    return getattr(getattr(bare, "func", bare), "__code__", None)


def _copied(value: Any) -> Any:
    """NumPy arrays, lists and dicts can be changed in place, so an attempt works on copies."""
    if isinstance(value, dict):
        return {key: _copied(one) for key, one in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_copied, value))
    return value.copy() if isinstance(value, np.ndarray) else value
