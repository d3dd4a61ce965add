"""`verify`: flags, and the verdict as exit status; what it finds is tested in tests/weights."""

import json

import pytest

from gptoss_edu.commands import verify
from gptoss_edu.commands.main import main


@pytest.mark.parametrize("passed", [True, False])
def test_the_verdict_is_the_status(monkeypatch, capsys, passed):
    asked = []
    monkeypatch.setattr(
        verify.verify, "verify", lambda path, *, answers: asked.append((path, answers)) or "report"
    )
    monkeypatch.setattr(verify.verify, "as_dict", lambda report: {"passed": passed})
    monkeypatch.setattr(verify.verify, "describe", lambda report: f"the {report}")
    assert main(["verify", "x", "--no-answers"]) == int(not passed)
    assert capsys.readouterr().out == "the report\n"
    assert main(["verify", "--json"]) == int(not passed)
    assert json.loads(capsys.readouterr().out) == {"passed": passed}
    assert asked == [("x", False), (None, True)]


def test_recording_says_what_it_wrote(monkeypatch, capsys):
    monkeypatch.setattr(verify.verify, "record", lambda path: f"{path}/answers.json")
    assert main(["verify", "x", "--record"]) == 0
    assert capsys.readouterr().out == "wrote x/answers.json\n"
