"""What `python -m gptoss_edu fit` says before anything is allocated."""

import json

import pytest

from gptoss_edu.chips import preflight, tpu
from gptoss_edu.chips.hlo import Messages
from gptoss_edu.commands.main import main

FIELDS = {
    "fits", "compiled", "argument_bytes", "temp_bytes", "bytes_per_token", "roofline_tokens_per_s",
    "reason",
}  # fmt: skip


def test_json_is_one_object_with_all_fields(capsys):
    assert main(["fit", "--chip", "v5e-1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found.keys() >= FIELDS
    assert found["precision"] == "mxfp4"
    assert "v5e-1 has 15.75 GiB" in found["reason"]
    assert found["compiled"] is False
    assert found["argument_bytes"] is None


def test_people_get_a_ledger(capsys):
    assert main(["fit", "--chip", "v2-8", "--context", "8192"]) == 0
    page = capsys.readouterr().out
    assert page.startswith("GPT-OSS-20B in bf16 on v2-8\n")
    assert "keys and values of 8,192 tokens" in page
    assert "It fits." in page


def test_what_does_not_fit_is_status_one(capsys):
    assert main(["fit", "--chip", "v5e-1", "--precision", "fp8"]) == 1
    assert "It does not fit. fp8 was asked for." in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["--chip", "v7"], "chip 'v7' is unknown; expected cpu or one of v2-8, v5e-1"),
        (["--chip", "v5e-1", "--context", "0"], "context is 0, expected 1 to 131,072"),
        (["--chip", "h100", "--compile"], "h100 is no TPU"),
    ],
)
def test_bad_input_is_one_line(arguments, expected, capsys):
    assert main(["fit", *arguments]) == 1
    assert expected in capsys.readouterr().err


def test_words_outside_the_tables_are_refused():
    with pytest.raises(ValueError, match="model '7b' is unknown; expected one of 20b, 120b"):
        preflight.preflight("v5e-1", "7b", "auto", 4096)
    with pytest.raises(ValueError, match="precision 'fp6' is unknown; expected one of auto"):
        preflight.preflight("v5e-1", "20b", "fp6", 4096)


COMPILED = tpu.Report(True, 13 * 2**30, 2**28, "so it says", 4 * 10**9, {})
REFUSED = tpu.Report(False, 0, 0, "it needs 22G")


@pytest.mark.parametrize(
    "decode, prefill, told",
    [
        (COMPILED, COMPILED, "It fits. so it says."),
        (COMPILED, COMPILED._replace(temp_bytes=3 * 2**30), "prefill needs 3.00 GiB beside"),
        (REFUSED, COMPILED, "It does not fit. decode: it needs 22G."),
        (COMPILED, REFUSED, "It does not fit. prefill: it needs 22G."),
    ],
)
def test_the_compiler_has_the_last_word(monkeypatch, decode, prefill, told, capsys):
    monkeypatch.setattr(tpu, "compile_decode", lambda *arguments: decode)
    monkeypatch.setattr(tpu, "compile_prefill", lambda *arguments: prefill)
    assert main(["fit", "--chip", "v5e-1", "--compile"]) == int("It fits" not in told)
    page = capsys.readouterr().out
    assert told in page
    assert ("13.00 GiB" in page) == ("needs 22G" not in page)
    assert ("read per 256 of a prompt" in page) == ("needs 22G" not in page)


def test_messages_between_devices_are_shown(monkeypatch, capsys):
    told = {"all-reduce": Messages(48, 10**6), "all-gather": Messages(2, 10**6)}
    report = COMPILED._replace(messages=told, argument_bytes=2**30)
    monkeypatch.setattr(tpu, "compile_decode", lambda *arguments: report)
    monkeypatch.setattr(tpu, "compile_prefill", lambda *arguments: report)
    assert main(["fit", "--chip", "v5e-8", "--compile", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["collectives_per_token"] == 50
    assert found["bytes_per_token"] == found["prefill_bytes"] == 8 * 4 * 10**9
    assert "50.00 of 2.00 MB together" in preflight.describe(found)
