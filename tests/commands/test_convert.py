"""`convert`: which of its ways each flag takes; what they write is tested in tests/weights."""

import pytest

from gptoss_edu.commands import convert
from gptoss_edu.commands.main import main


@pytest.fixture
def calls(monkeypatch):
    """What the command calls, in order; nothing is written."""
    calls = []

    def noted(name, result):
        return lambda *given, **_: calls.append((name, *given)) or result

    monkeypatch.setattr(convert, "find_folder", lambda source: f"found {source}")
    monkeypatch.setattr(convert.mapped, "is_conversion", lambda folder: folder == "found mapped")
    monkeypatch.setattr(convert.mapped, "existing_conversion", lambda folder: folder)
    manifest = {"files": [1, 2]}
    monkeypatch.setattr(convert.mapped, "check_conversion", noted("check", manifest))
    monkeypatch.setattr(convert.convert, "convert", noted("convert", "there"))
    monkeypatch.setattr(convert.orbax, "to_orbax", noted("to_orbax", "exported"))
    monkeypatch.setattr(convert.orbax, "from_orbax", noted("from_orbax", "back"))
    return calls


@pytest.mark.parametrize(
    "line, expected, printed",
    [
        ("x", [("convert", "x", None)], "there"),
        ("x --out y", [("convert", "x", "y")], "there"),
        ("x --check", [("check", "found x")], "found x: 2 files, every byte as it was written"),
        ("x --to-orbax o", [("convert", "x", None), ("to_orbax", "there", "o")], "there exported"),
        ("mapped --to-orbax o", [("to_orbax", "found mapped", "o")], "found mapped exported"),
        ("--from-orbax o --out y", [("from_orbax", "o", "y")], "back"),
    ],
)
def test_flags_choose_what_is_written(calls, capsys, line, expected, printed):
    assert main(["convert", *line.split()]) == 0
    assert calls == expected
    assert capsys.readouterr().out.split() == printed.split()


@pytest.mark.parametrize(
    "line",
    ["", "x --from-orbax o", "--from-orbax o", "--from-orbax o --out y --check"],
)
def test_contradictions_are_refused(calls, capsys, line):
    assert main(["convert", *line.split()]) == 2
    assert "expected either PATH_OR_ID" in (error := capsys.readouterr().err) or "--out" in error
    assert calls == []
