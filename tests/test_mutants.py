"""The mutation tester knows every lesson file; its excuses are about what is there; it can fail."""

from pathlib import Path

import imports
import mutants
import pytest

ROOT = Path(__file__).resolve().parent.parent


def test_every_lesson_file_has_tests_that_must_notice():
    assert mutants.LESSONS.keys() >= imports.LESSONS.keys()
    for file in mutants.LESSONS | mutants.OTHERS:
        if (ROOT / "gptoss_edu" / f"{file}.py").is_file():
            tests = [word for word in mutants.command(file).split() if word.startswith("tests/")]
            assert tests
            assert [test for test in tests if not (ROOT / test).is_file()] == []


def test_what_is_explained_is_there_and_has_a_reason():
    for (file, was, becomes), why in mutants.explained().items():
        lines = (ROOT / f"gptoss_edu/{file}.py").read_text(encoding="utf-8").splitlines()
        missing = set(was.splitlines()) - {line.strip() for line in lines}
        assert not missing, f"{file} no longer says {missing}"
        assert was != becomes
        assert len(why.split()) >= 4, f"{was!r} needs a reason"


def test_types_are_left_alone():
    source = "def f(x: int | None = 1 + 2) -> int | str:\n    y: float | None = 3\n"
    spans = mutants.types(source)
    inside = [any(begin <= (1, place) < end for begin, end in spans) for place in range(44)]
    assert [place for place in range(44) if inside[place]] == [*range(9, 19), *range(32, 41)]


@pytest.mark.parametrize(
    "outcomes, enough",
    [
        (["killed"] * 19 + ["survived"], True),
        (["killed"] * 18 + ["survived"], False),
        (["late"] * 19 + ["survived"], True),
        ([], True),
    ],
)
def test_the_report_fails_below_95_percent(outcomes, enough, monkeypatch, capsys):
    monkeypatch.setattr(mutants, "explained", lambda: {("rope", "a = 1", "a = 2"): "no use"})
    made = mutants.Mutant("rope", "", None)
    done = [(made, mutants.Result("", outcome, "b = 1", "b = 2", 120.0)) for outcome in outcomes]
    excused = (made, mutants.Result("", "survived", "a = 1", "a = 2"))
    other = (made._replace(file="chips/fit"), mutants.Result("", "survived", "c = 1", "c = 2"))
    assert mutants.report([*done, excused, other]) is enough
    shown = capsys.readouterr().out
    assert ("b = 1" in shown) is ("survived" in outcomes)
    assert "a = 1" not in shown
    assert "c = 1" in shown
    assert ("# late: rope: b = 1 -> b = 2" in shown) is ("late" in outcomes)
    assert f"{120 * len(outcomes):,} CPU seconds, on 2 quiet cores {len(outcomes)} minutes" in shown
