"""`fit`: the flags; what the ledger says is tested in tests/chips."""

import json

import pytest

from gptoss_edu.commands import fit
from gptoss_edu.commands.main import main


@pytest.mark.parametrize("fits", [True, False])
def test_flags_reach_the_ledger_and_its_verdict_is_the_status(monkeypatch, capsys, fits):
    asked = []

    def preflight(*arguments, ask_compiler):
        asked.append((*arguments, ask_compiler))
        return {"fits": fits}

    monkeypatch.setattr(fit.preflight, "preflight", preflight)
    flags = "--chip v5e-1 --model 120b --precision fp8 --context 64 --compile --json"
    assert main(["fit", *flags.split()]) == int(not fits)
    assert asked == [("v5e-1", "120b", "fp8", 64, True)]
    assert json.loads(capsys.readouterr().out) == {"fits": fits}


def test_the_defaults_ask_for_the_20b_here(monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(
        fit.preflight, "preflight", lambda *a, ask_compiler: asked.append(a) or {"fits": True}
    )
    monkeypatch.setattr(fit.preflight, "describe", lambda found: "It fits.")
    assert main(["fit"]) == 0
    assert asked == [("cpu", "20b", "auto", 4096)]
    assert capsys.readouterr().out == "It fits.\n"
