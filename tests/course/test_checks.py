"""The checkers: each stub, solution and planted mistake gets its own answer, never a traceback.

Checkers are found by looking into gptoss_edu/course/checks, stubs and solutions by reading the
notebooks (exercises.py), so that what a reader unfolds is what is tested and nobody registers
anything. Each mistake is tested as the checker's own wrong version; three of each exercise also as
the solution with one place changed, as a reader would get it wrong (planted.py).
"""

import dataclasses
import math

import exercises
import jax.numpy as jnp
import numpy as np
import pytest
from looks import contrast
from planted import PLANTED

from gptoss_edu.course import checks
from gptoss_edu.course.checks import Exercise, Verdict, full_model, start_here

ALL = exercises.checkers()
WRITTEN = exercises.written()
EVERY = pytest.mark.parametrize("key", ALL, ids=".".join)
EDITED = [(key, *entry) for key, entries in PLANTED.items() for entry in entries]


def solution(module, name, old="", new=""):
    """What a reader has who unfolds the solution, with a piece of its source replaced."""
    one = WRITTEN[module, name]
    assert old in one.solution, (old, one.solution)
    return exercises.defined(one, one.solution.replace(old, new) if old else one.solution)


def right(key, number=0):
    """What the right function makes of a case."""
    exercise, _ = ALL[key], cases(key)
    return exercise._known(exercise.function, number)


def cases(key):
    return list(ALL[key]._cases())


@EVERY
def test_checker_is_complete(key):
    exercise = ALL[key]
    assert exercise.name == key[1]
    assert len(cases(key)) >= 2, "one case can be passed by a constant"
    assert len(exercise.mistakes) >= 4, "a checker knows the usual mistakes"
    assert all(sentence[-1] in ".?!)" for sentence, _ in exercise.mistakes.values())


@EVERY
def test_untouched_stub_is_not_attempted_yet(key):
    one = WRITTEN[key]
    assert "raise NotImplementedError" in one.stub
    verdict = ALL[key](exercises.stub(one))
    assert repr(verdict) == f"· {key[1]}: not attempted yet"
    assert not verdict.passed


@EVERY
def test_solution_passes(key):
    assert WRITTEN[key].solution, "no folded solution follows the stub"
    verdict = ALL[key](solution(*key))
    assert verdict.passed, verdict
    assert verdict.sentence


@EVERY
def test_right_function_passes(key):
    verdict = ALL[key](ALL[key].function)
    assert verdict.passed, verdict


@EVERY
def test_each_mistake_gets_its_own_sentence(key):
    for name, (sentence, function) in ALL[key].mistakes.items():
        verdict = ALL[key](function)
        assert verdict.status == "not yet right", name
        assert (verdict.mistake, verdict.sentence) == (name, sentence)


@pytest.mark.parametrize(
    "key, mistake, old, new", EDITED, ids=[f"{key[1]}: {what}" for key, what, *_ in EDITED]
)
def test_mistake_in_the_solution_gets_its_own_sentence(key, mistake, old, new):
    verdict = ALL[key](solution(*key, old, new))
    assert verdict.mistake == mistake, verdict
    assert verdict.sentence == ALL[key].mistakes[mistake][0]


def test_every_exercise_has_a_checker_and_three_planted_mistakes():
    assert ALL.keys() == WRITTEN.keys() == PLANTED.keys()
    assert {len(entries) for entries in PLANTED.values()} == {3}


def test_every_mistake_has_a_sentence_of_its_own():
    found = [sentence for exercise in ALL.values() for sentence, _ in exercise.mistakes.values()]
    assert len(found) == len(set(found))


CHEATS = {
    "returns its first argument": lambda *arguments: arguments[0],
    "returns its last argument": lambda *arguments: arguments[-1],
    "returns its arguments": lambda *arguments: arguments,
    "returns two of them": lambda *arguments: (arguments[1], arguments[-1]),
    "returns a number": lambda *_: 3.0,
    "returns a text": lambda *_: "right",
    "returns a list": lambda *_: [1, 2],
    "returns zeros": lambda *_: np.zeros(7, np.float32),
    "returns an empty dict": lambda *_: {},
    "returns infinity": lambda *_: math.inf,
}


@pytest.mark.parametrize("cheat", CHEATS)
@EVERY
def test_no_constant_and_no_input_passes(key, cheat):
    verdict = ALL[key](CHEATS[cheat])
    assert verdict.status == "not yet right", verdict
    assert verdict.sentence


@EVERY
def test_what_was_right_once_does_not_pass(key):
    for number in range(len(cases(key))):
        known = right(key, number)
        verdict = ALL[key](lambda *_, known=known: known)
        assert verdict.status == "not yet right", f"the right answer to test {number + 1} passes"
    for number in range(len(cases(key)[0])):
        verdict = ALL[key](lambda *arguments, number=number: arguments[number])
        assert verdict.status == "not yet right", f"returning argument {number + 1} passes"


@EVERY
def test_what_is_no_function_is_told_so(key):
    for wrong in (None, 3, np.zeros(2), "my_function"):
        assert ALL[key](wrong).mistake == "not a function"


@EVERY
def test_missing_return_and_errors_are_sentences(key):
    assert "Is there a `return`" in ALL[key](lambda *_: None).sentence

    def failing(*_):
        numbers = [1, 2]
        return numbers[2]

    verdict = ALL[key](failing)
    assert verdict.mistake == "it raises"
    assert "line 3 of your function with IndexError: list index out of range" in verdict.sentence
    wrong = ALL[key](lambda *, no_such: 1)
    assert "TypeError" in wrong.sentence
    assert "argument" in wrong.sentence


def malformed(value):
    """Wrong forms of a right result: (what the sentence says, the result)."""
    if isinstance(value, bool | str | bytes) or dataclasses.is_dataclass(value):
        yield "found a list of 1", [value]
        yield "found an int", 7
    elif isinstance(value, dict):
        yield "should be a dict, found a list", list(value.items())
    elif isinstance(value, int | float | np.number):
        yield "should be a number, found a str", str(value)
        yield "should be a number, found a list", [value]
    elif isinstance(value, list | tuple):
        yield "found a str", str(value)
        yield "found an int", 7
    else:
        yield "found a dict", {0: value}
        array = np.asarray(value)
        yield f"found {(1, *array.shape)}", array[None]
        if array.ndim:
            yield "should have shape", array[:-1]
        kind = array.dtype.kind
        other = np.float16 if kind == "f" and array.itemsize > 2 else np.int32
        other = np.float32 if kind in "biu" else other  # any width of integer is welcome
        yield f"should be {array.dtype}, found {np.dtype(other)}", array.astype(other)


@EVERY
def test_wrong_shape_dtype_and_type_are_sentences(key):
    exercise, result = ALL[key], right(key)
    many = len(exercise.parts) > 1
    for place, part in enumerate(result if many else [result]):
        for expected, wrong in malformed(part):
            parts = [*result[:place], wrong, *result[place + 1 :]] if many else wrong
            verdict = exercise(lambda *_, parts=parts: parts)
            assert verdict.status == "not yet right"
            assert expected in verdict.sentence, verdict
    if many:
        assert ALL[key](lambda *_: (*result, 0)).mistake == "wrong number of results"


def test_unknown_mistake_says_how_far_off_it_is():
    verdict = full_model.top_p(lambda logits_V, p: full_model.right_top_p(logits_V, p) - 1)
    assert verdict.mistake == "unknown"
    assert "logits_V at v=1: expected -0.6931472, found -1.693147 (1 of 3 d" in verdict.sentence
    verdict = full_model.top_p(lambda logits_V, p: np.full_like(logits_V, np.nan))
    assert verdict.mistake == "nan"
    verdict = start_here.by_channel(lambda pieces: {"final": "?"})
    assert "texts has an entry 'final', '?', that should not be there" in verdict.sentence


def test_an_attempt_cannot_spoil_the_inputs():
    def greedy(logits_V, p):
        logits_V[:] = 0
        return logits_V

    assert full_model.top_p(greedy).status == "not yet right"
    assert full_model.top_p(solution("full_model", "top_p")).passed


def test_other_kinds_of_arrays_are_welcome():
    top_p = solution("full_model", "top_p")
    assert full_model.top_p(lambda logits_V, p: jnp.asarray(top_p(logits_V, p))).passed
    assert full_model.top_p(lambda logits_V, p: top_p(logits_V, p).astype(np.float64)).passed
    assert start_here.largest_difference(
        lambda a, b: np.float64(start_here.right_difference(a, b))
    ).passed


def test_lists_and_bytes_are_compared_and_shown():
    exercise = Exercise(
        "pieces", lambda text: [text[:1], text[1:]], ("pieces",), lambda: [(b"ab",), (b"xyz",)]
    )
    assert exercise(lambda text: (text[:1], text[1:])).passed
    assert "expected [b'a', b'b'], found [b'a']" in exercise(lambda text: [text[:1]]).sentence
    assert exercise(lambda text: ["a", "b"]).status == "not yet right"
    assert "should be a list of 2, found a bytes" in exercise(lambda text: text).sentence
    assert "should be a bytes, found a str" in checks.comparing.form("it", "a", b"a")


def test_two_mistakes_that_agree_on_one_case_are_told_apart_by_the_others():
    def off_by(number):
        return lambda x: x + number if x > 1 else x + 9

    exercise = Exercise(
        "twice",
        lambda x: 2 * x,
        ("the double",),
        lambda: [(1,), (5,), (7,)],
        {"one more": ("a", off_by(1)), "two more": ("b", off_by(2))},
    )
    assert exercise(off_by(1)).mistake == "one more"
    assert exercise(off_by(2)).mistake == "two more"
    assert exercise(lambda x: 2 * x).passed


def test_a_changed_function_differs_in_that_place_alone():
    signed = checks.changed(start_here.right_difference, "np.abs(a - b)", "a - b")
    a, b = np.array([1.0, 2.0]), np.array([1.5, 5.0])
    assert (signed(a, b), start_here.right_difference(a, b)) == (-0.5, 3.0)
    assert signed(a, b[:1]) == math.inf, "all else is as it was"
    with pytest.raises(AssertionError, match=r"'np\.sum' is not in the source"):
        checks.changed(start_here.right_difference, "np.sum", "np.mean")


def test_verdicts_look_alike_everywhere():
    verdict = Verdict("top_p", "not yet right", "p < 1 & more", "x")
    assert repr(verdict) == "✗ top_p: not yet right: p < 1 & more"
    assert "p &lt; 1 &amp; more" in verdict._repr_html_()
    assert repr(Verdict("block", "passed", "Good.")) == "✓ block: passed: Good."
    for color in checks.COLORS.values():
        assert contrast(color, "#ffffff") >= 4.5, color
