"""What readers tried: no wrong attempt passes, no right one is refused, wrong ones are told why.

Two readers made about 480 attempts on the exercises; those that taught us something stand in
attempts/, and others of their kind.
"""

import re

import exercises
import pytest
from attempts import early, late, middle

from gptoss_edu.course.checks import FORMS

CHAPTERS = (early, middle, late)
ALL, WRITTEN = exercises.checkers(), exercises.written()
RIGHT = [(*key, what) for part in CHAPTERS for key, ones in part.RIGHT.items() for what in ones]
WRONG = [(*key, what) for part in CHAPTERS for key, ones in part.WRONG.items() for what in ones]
NOT_TOLD = {key: name for part in CHAPTERS for key, name in part.NOT_TOLD.items()}
SEEN: dict[tuple[str, str, str], bool] = {}  # wrong attempt -> was it told a place or a cause?


def attempted(kind, module, name, what):
    """The function of an attempt."""
    part = next(part for part in CHAPTERS if (module, name) in getattr(part, kind))
    one = getattr(part, kind)[module, name][what]
    if callable(one):
        return one
    written = WRITTEN[module, name]
    source = written.solution
    for old, new in zip(one[::2], one[1::2], strict=True):
        assert old in source, (old, source)
        source = source.replace(old, new)
    return exercises.defined(written, source)


def tells(verdict, mistakes):
    """Does a sentence name a cause, or a place: input or index, expected and found?"""
    if verdict.mistake in mistakes or verdict.mistake in FORMS:
        return True
    if verdict.mistake in ("it raises", "no return"):
        return "in line" in verdict.sentence or "(for " in verdict.sentence
    place = verdict.sentence.startswith("for ") or re.search(r" at \w+=?\d|\[", verdict.sentence)
    both = "expected " in verdict.sentence and "found " in verdict.sentence
    return bool(place and both) or verdict.mistake not in ("unknown", "nan")


@pytest.mark.parametrize("module, name, what", RIGHT, ids=map(".".join, RIGHT))
def test_right_attempt_passes(module, name, what):
    verdict = ALL[module, name](attempted("RIGHT", module, name, what))
    assert verdict.passed, verdict


@pytest.mark.parametrize("module, name, what", WRONG, ids=map(".".join, WRONG))
def test_wrong_attempt_is_refused_and_told_why(module, name, what):
    verdict = ALL[module, name](attempted("WRONG", module, name, what))
    assert verdict.status == "not yet right", "falsely accepted"
    assert "None of the usual" not in verdict.sentence
    other = NOT_TOLD.get((module, name, what))
    assert other is None or other in ALL[module, name].mistakes, "nobody could be told that"
    assert verdict.mistake != other, verdict
    SEEN[module, name, what] = tells(verdict, ALL[module, name].mistakes)
    print(verdict)


def test_nine_in_ten_wrong_attempts_are_told_a_place_or_a_cause():
    if len(SEEN) < len(WRONG):
        pytest.skip("needs all wrong attempts to have run in this process")
    vague = [key for key, told in SEEN.items() if not told]
    print(f"{len(SEEN) - len(vague)} of {len(SEEN)} wrong attempts are told a place or a cause")
    assert len(vague) <= len(SEEN) / 10, vague


def test_there_are_attempts_at_every_exercise_of_the_report():
    assert len(WRONG) >= 200
    assert {key[:2] for key in WRONG} == {key[:2] for key in RIGHT}
    assert len({key[:2] for key in WRONG}) >= 41


def test_no_thirty_letters_stand_in_the_sentences_of_two_exercises():
    owner: dict[str, tuple[str, str]] = {}
    for key, exercise in ALL.items():
        sentences = [sentence for sentence, _ in exercise.mistakes.values()] + [exercise.praise]
        for text in sentences:
            for at in range(len(text) - 29):
                first = owner.setdefault(text[at : at + 30], key)
                assert first == key, (text[at : at + 30], first, key)


def test_what_to_compare_with_exists():
    for exercise in ALL.values():
        if exercise.like:
            module, _, name = exercise.like.rpartition(".")
            assert hasattr(__import__(module, fromlist=[name]), name), exercise.like
