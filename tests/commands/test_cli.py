"""The command line as its users meet it: in a pipe, on a terminal, with mistakes, interrupted."""

import contextlib
import importlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from models import CONFIG, KEPT_IDS, MODEL, TOKENIZER, dictate, random_params, say

from gptoss_edu import __version__
from gptoss_edu.commands import cli
from gptoss_edu.tokenizer import CALL, CHANNEL, CONSTRAIN, MESSAGE
from gptoss_edu.weights.checkpoint import save_checkpoint

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint of a model that writes noise, unless it is dictated something."""
    folder = tmp_path_factory.mktemp("models") / "noise"
    save_checkpoint(random_params(), CONFIG, folder, kept_ids=KEPT_IDS)
    return str(folder)


@pytest.fixture(autouse=True)
def quick_load(monkeypatch, folder):
    """Loading is tested elsewhere: here the one folder is in memory already."""
    load_model = cli.load_model

    def load(path_or_id=None, *, precision="auto", **options):
        if path_or_id == folder:
            return MODEL, random_params()
        return load_model(path_or_id, precision=precision, **options)

    monkeypatch.setattr(cli, "load_model", load)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    # One size of cache, so that all tests share what is compiled.
    monkeypatch.setattr(importlib.import_module("gptoss_edu.cache"), "SMALLEST", 512)


class FakeTerminal(io.StringIO):
    def isatty(self):
        return True


def open_terminal(monkeypatch):
    """Standard output and error of a terminal. No fixture: pytest replaces them after setup."""
    screen = FakeTerminal()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr(sys, "stderr", FakeTerminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return screen


def typed(monkeypatch, text):
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))


# ---- ask ----------------------------------------------------------------------------------------


def test_a_pipe_gets_the_answer_and_nothing_else(monkeypatch, capsys, folder):
    dictate(monkeypatch, say("let me think", "It is four ✓\nReally."))
    assert cli.main(["ask", "2 + 2?", "--model", folder]) == 0
    out, err = capsys.readouterr()
    assert out == "It is four ✓\nReally.\n"
    assert err == ""


def test_an_answer_cut_short_is_said_on_standard_error(capsys, folder):
    assert cli.main(["ask", "2 + 2?", "--model", folder, "--max-tokens", "3"]) == 0
    assert "cut at 3 tokens (--max-tokens" in capsys.readouterr().err


def test_json_is_one_object_with_everything(monkeypatch, capsys, folder):
    dictate(monkeypatch, say("let me think", "four ✓"))
    assert cli.main(["ask", "2 + 2?", "--model", folder, "--json"]) == 0
    out, err = capsys.readouterr()
    reply = json.loads(out)
    assert list(reply) == ["analysis", "final", "tool_calls", "finish_reason", "stats"]
    assert (reply["analysis"], reply["final"]) == ("let me think", "four ✓")
    assert (reply["tool_calls"], reply["finish_reason"]) == ([], "stop")
    assert reply["stats"]["completion_tokens"] == len(say("let me think", "four ✓"))
    assert reply["stats"]["decode_tokens_per_s"] > 0
    assert err == ""


WEATHER = {
    "name": "weather",
    "description": "today's weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}


@pytest.mark.parametrize("as_list", [True, False])
def test_a_tool_call_is_a_line_of_json(monkeypatch, capsys, folder, tmp_path, as_list):
    file = tmp_path / "tools.json"
    file.write_text(json.dumps([WEATHER] if as_list else WEATHER))
    spell = TOKENIZER.encode
    header = [CHANNEL, *spell("commentary to=functions.weather "), CONSTRAIN, *spell("json")]
    dictate(monkeypatch, [*header, MESSAGE, *spell('{"city": "Rome"}'), CALL])
    ask = ["ask", "weather?", "--model", folder, "--tools", str(file)]
    assert cli.main(ask) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == {"name": "weather", "arguments": '{"city": "Rome"}'}
    assert "waits for the result of weather" in err
    assert cli.main([*ask, "--json"]) == 0
    reply = json.loads(capsys.readouterr().out)
    assert reply["finish_reason"] == "tool_call"
    assert [call["name"] for call in reply["tool_calls"]] == ["weather"]


def test_a_terminal_shows_channels_in_color_and_statistics(monkeypatch, folder):
    terminal = open_terminal(monkeypatch)
    dictate(monkeypatch, say("hm", "four"))
    assert cli.main(["ask", "2 + 2?", "--model", folder]) == 0
    shown = terminal.getvalue()
    dim = "\x1b[2m{}\x1b[0m".format
    assert shown.startswith(
        f"\x1b[1;35m[analysis]\x1b[0m\n{dim('h')}{dim('m')}\n\n\x1b[1;32m[final]\x1b[0m\nfour\n\n"
    )
    closing = shown.splitlines()[-1]
    count = len(say("hm", "four"))
    assert closing.startswith(f"\x1b[2m{count} tokens · ")
    assert "tokens/s · first token after " in closing
    assert closing.endswith("\x1b[0m")
    assert sys.stderr.getvalue().endswith("\r\x1b[K")  # what it was waiting for is wiped out


@pytest.mark.parametrize("name, value", [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_color_can_be_turned_off(monkeypatch, folder, name, value):
    terminal = open_terminal(monkeypatch)
    monkeypatch.setenv(name, value)
    dictate(monkeypatch, say("hm", "four"))
    assert cli.main(["ask", "2 + 2?", "--model", folder]) == 0
    assert "\x1b" not in terminal.getvalue()
    assert terminal.getvalue().startswith("[analysis]\nhm\n\n[final]\nfour\n\n")


def test_an_answer_gives_no_commands_to_the_terminal(monkeypatch, folder):
    terminal = open_terminal(monkeypatch)
    dictate(monkeypatch, say("", "a\x1b[31mb\x07\r\x7f\x9bc\td\ne"))
    assert cli.main(["ask", "hi", "--model", folder]) == 0
    assert "a␛[31mb␇␍␡\ufffdc\td\ne" in terminal.getvalue()


@pytest.mark.parametrize("prompt", [["-"], []])
def test_the_question_may_come_from_standard_input(monkeypatch, capsys, folder, prompt):
    typed(monkeypatch, "from a\nfile\n")
    asked = []
    monkeypatch.setattr(cli, "stream", lambda m, p, prompt, **_: asked.append(prompt) or iter(()))
    monkeypatch.setattr(cli, "show", lambda pieces, screen: None)
    assert cli.main(["ask", *prompt, "--model", folder]) == 0
    assert asked == ["from a\nfile"]


def test_every_option_reaches_generate(monkeypatch, folder, tmp_path):
    given = {}
    monkeypatch.setattr(cli, "stream", lambda m, p, prompt, **settings: given.update(settings))
    monkeypatch.setattr(cli, "show", lambda pieces, screen: None)
    (tmp_path / "tools.json").write_text(json.dumps([WEATHER]))
    line = "ask hi --max-tokens 7 --temperature .5 --top-k 3 --top-p .9 --min-p .1 --seed 4"
    line += " --repetition-penalty 1.1 --effort high --instructions brief --date 2026-01-02"
    options = [*line.split(), "--tools", str(tmp_path / "tools.json"), "--model", folder]
    assert cli.main(options) == 0
    assert given == {
        "max_tokens": 7,
        "temperature": 0.5,
        "top_k": 3,
        "top_p": 0.9,
        "min_p": 0.1,
        "repetition_penalty": 1.1,
        "seed": 4,
        "reasoning_effort": "high",
        "instructions": "brief",
        "current_date": "2026-01-02",
        "tools": [WEATHER],
    }


# ---- mistakes -----------------------------------------------------------------------------------


@pytest.fixture
def failing(capsys):
    """Run a command that must fail: its exit status and its one line on standard error."""

    def run(*argv):
        try:
            status = cli.main(list(argv))
        except SystemExit as end:
            status = end.code
        out, err = capsys.readouterr()
        assert out == ""
        assert "Traceback" not in err
        return status, err

    return run


@pytest.mark.parametrize(
    "argv, message",
    [
        ([], "COMMAND"),
        (["frobnicate"], "invalid choice"),
        (["ask", "hi", "--effort", "extreme"], "choose from"),
        (["ask", "hi", "--precision", "fp64"], "choose from"),
        (["ask", "hi", "--max-tokens", "many"], "invalid int value: 'many'"),
        (["ask", "hi", "--max-tokens", "0"], "max_tokens is 0, expected a whole number, 1 or"),
        (["ask", "hi", "--max-tokens", "-5"], "max_tokens is -5"),
        (["ask", "hi", "--temperature", "-1"], "temperature is -1.0, expected a finite number"),
        (["ask", "hi", "--temperature", "nan"], "temperature is nan"),
        (["ask", "hi", "--top-p", "0"], "top_p is 0.0, expected above 0"),
        (["ask", "hi", "--top-k", "0"], "top_k is 0"),
        (["ask", "hi", "--seed", "-1"], "seed is -1"),
        (["ask", "hi", "--date", "tomorrow"], "current_date is 'tomorrow'"),
        (["ask", "hi", "--tools", "no/such.json"], "--tools no/such.json: No such file"),
        (["ask", "hi", "--tools", __file__], "is not JSON"),
        (["ask", ""], "text is empty"),
        (["ask"], "text is empty"),
        (["ask", "\udcff"], "lone surrogate"),
        (["chat", "--min-p", "2"], "min_p is 2.0"),
    ],
)
def test_a_wrong_command_is_refused_before_anything_is_loaded(monkeypatch, failing, argv, message):
    monkeypatch.setattr(cli, "load_model", lambda *_, **__: pytest.fail("loaded a model"))
    status, err = failing(*argv)
    assert status == 2
    assert message in err


def test_a_terminal_that_says_nothing_is_asked_for_a_question(monkeypatch, failing):
    monkeypatch.setattr(sys, "stdin", FakeTerminal())
    status, err = failing("ask")
    assert (status, err) == (
        2,
        'gptoss_edu: found no question; expected ask "…", or text on standard input\n',
    )


def test_a_malformed_tool_schema_is_refused(failing, tmp_path):
    file = tmp_path / "tools.json"
    file.write_text('[{"name": "spaces in it"}]')
    status, err = failing("ask", "hi", "--tools", str(file))
    assert status == 2
    assert "tools[0] has name 'spaces in it'" in err


def test_a_missing_folder_is_said_in_one_line(failing, tmp_path):
    status, err = failing("ask", "hi", "--model", str(tmp_path / "nothing"))
    assert status == 1
    assert err.startswith("gptoss_edu: there is no folder")
    assert len(err.splitlines()) == 1


def test_traceback_shows_where(capsys, tmp_path):
    assert cli.main(["ask", "hi", "--traceback", "--model", str(tmp_path / "nothing")]) == 1
    err = capsys.readouterr().err
    assert err.startswith("Traceback")
    assert "gptoss_edu: there is no folder" in err


def out_of_memory():
    return jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\nlong")


@pytest.mark.parametrize(
    "error, status, message",
    [
        (MemoryError("too little memory: 1 of 2"), 1, "too little memory: 1 of 2"),
        (MemoryError(), 1, "ran out of memory; free some"),
        (ConnectionError("the Hub is out of reach"), 1, "the Hub is out of reach"),
        (OSError("too little disk"), 1, "too little disk"),
        (ValueError("weights and config.json do not fit"), 1, "weights and config.json"),
        (out_of_memory(), 1, "the device ran out of memory; a shorter prompt needs less"),
        (RuntimeError("Unable to initialize backend 'tpu'"), 1, "Unable to initialize"),
        (RuntimeError(), 1, "RuntimeError"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_what_goes_wrong_while_loading_is_said(monkeypatch, failing, error, status, message):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(cli, "load_model", fail)
    found, err = failing("ask", "hi")
    assert found == status
    assert message in err
    assert len(err.splitlines()) == 1


def test_dense_weights_in_8_bits_are_for_the_kernels(failing):
    status, err = failing("ask", "hi", "--dense", "int8", "--precision", "f32")
    assert status == 1
    assert "dense='int8' rounds bfloat16 weights" in err
    assert "found precision='f32'; leave out one or the other" in err


def test_a_machine_without_the_device_that_was_asked_for_is_said(monkeypatch, failing):
    monkeypatch.setattr(cli, "load_model", lambda *_, **__: pytest.fail("loaded a model"))

    def no_device():
        raise AssertionError  # what JAX does when JAX_PLATFORMS names what is not installed

    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    monkeypatch.setattr(jax, "devices", no_device)
    status, err = failing("ask", "hi")
    assert status == 1
    assert "found no device to run on, expected at least a CPU (JAX_PLATFORMS is 'cuda'" in err


def test_a_programming_error_is_not_hidden(monkeypatch):
    monkeypatch.setattr(cli, "load_model", lambda *_, **__: [][0])
    with pytest.raises(IndexError):
        cli.main(["ask", "hi"])


# ---- chat ---------------------------------------------------------------------------------------


@pytest.fixture
def turns(monkeypatch, folder):
    """Chat from standard input, with a stream that records what it was given."""
    given = []
    real = cli.stream

    def recording(model, params, prompt, **settings):
        given.append({"prompt": prompt, **settings})
        return real(model, params, prompt, **settings)

    monkeypatch.setattr(cli, "stream", recording)

    def run(text):
        typed(monkeypatch, text)
        return cli.main(["chat", "--model", folder, "--max-tokens", "40"]), given

    return run


def test_chat_in_a_pipe_answers_line_by_line_and_remembers(monkeypatch, capsys, turns):
    dictate(monkeypatch, say("hm", "four"))
    status, given = turns("2 + 2?\n\n  and 5?  \n")
    assert status == 0
    assert capsys.readouterr() == ("four\nfour\n", "")
    assert given[0]["cache"] is None
    assert given[1]["cache"] is not None
    assert given[1]["prompt"] == [
        {"role": "user", "content": "2 + 2?"},
        {"role": "assistant", "content": "four", "channel": "final"},
        {"role": "user", "content": "and 5?"},
    ]


def test_chat_obeys_its_commands(monkeypatch, capsys, turns):
    dictate(monkeypatch, say("hm", "four"))
    text = "/effort\n2 + 2?\n/effort high\n/reset\n3 + 1?\n/effort huge\n/dance\n/quit\nnever\n"
    status, given = turns(text)
    assert status == 0
    out, err = capsys.readouterr()
    assert out == "four\nfour\n"
    assert [turn["reasoning_effort"] for turn in given] == ["medium", "high"]
    assert [len(turn["prompt"]) for turn in given] == [1, 1]
    assert [turn["cache"] for turn in given] == [None, None]
    assert err.startswith("effort: medium\neffort: high\nforgotten\nfound '/effort huge', expected")
    assert "found '/dance', expected one of\n/effort low|medium|high" in err


def test_chat_survives_what_cannot_be_answered(monkeypatch, capsys, turns):
    dictate(monkeypatch, say("hm", "four"))
    status, given = turns(f"{'too long ' * 200}\n\udcff\n2 + 2?\n")
    assert status == 0
    out, err = capsys.readouterr()
    assert out == "four\n"
    assert "this model has 1024 positions" in err
    assert "lone surrogate" in err
    assert "/reset forgets the conversation" in err
    assert len(given[-1]["prompt"]) == 1  # the questions that failed are forgotten


@pytest.mark.parametrize("at, remembered", [("m", None), ("u", "fo")])
def test_interrupting_an_answer_ends_the_answer_and_not_the_chat(
    monkeypatch, capsys, turns, at, remembered
):
    dictate(monkeypatch, say("hm", "four"))
    real, interrupts = cli.Pipe.write, [KeyboardInterrupt]

    def write(self, piece):
        if piece.text == at and interrupts:
            raise interrupts.pop()
        real(self, piece)

    monkeypatch.setattr(cli.Pipe, "write", write)
    status, given = turns("2 + 2?\nand 5?\n")
    assert status == 0
    out, err = capsys.readouterr()
    assert out == f"{remembered or ''}\nfour\n"
    assert err.startswith("gptoss_edu: stopped")
    said = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": remembered}]
    last = {"role": "user", "content": "and 5?"}
    assert given[1]["prompt"] == ([*said, last] if remembered else [last])


def test_chat_on_a_terminal_prompts_and_ends_with_ctrl_d(monkeypatch, folder):
    terminal = open_terminal(monkeypatch)
    dictate(monkeypatch, say("hm", "four"))
    lines = iter(["2 + 2?", KeyboardInterrupt, "/help", EOFError])
    asked = []

    def typing(prompt):
        asked.append(prompt)
        line = next(lines)
        if isinstance(line, str):
            return line
        raise line

    monkeypatch.setattr(sys, "stdin", FakeTerminal())
    monkeypatch.setattr("builtins.input", typing)
    assert cli.main(["chat", "--model", folder]) == 0
    shown = terminal.getvalue()
    assert shown.startswith(f"{folder} · /help for commands, Ctrl-D to leave\n")
    assert "[final]\x1b[0m\nfour\n\n\x1b[2m" in shown
    assert shown.endswith(f"{cli.HELP}\n\n\n")
    assert asked == ["> "] * 4


# ---- doctor and the process ---------------------------------------------------------------------


def test_doctor_answers_in_lines_and_in_json(capsys):
    assert cli.main(["doctor"]) == 0
    assert f"gptoss_edu          {__version__}\n" in capsys.readouterr().out
    assert cli.main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["versions"]["jax"] == jax.__version__
    assert {row["name"] for row in found["can_run"]} >= {"the pocket model", "chapters 00 to 07"}


def run_python(*argv, **settings):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    return subprocess.run(
        [sys.executable, *argv], cwd=ROOT, env=environment, capture_output=True, **settings
    )


def test_the_package_runs_as_a_program():
    done = run_python("-m", "gptoss_edu", "--version", text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"gptoss-edu {__version__}\n", "")


def test_the_pocket_model_answers_the_question_of_the_readme():
    done = run_python("-m", "gptoss_edu", "ask", "How many r's are in strawberry?", text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 1
    assert "3" in done.stdout


def test_a_reader_that_leaves_is_no_error():
    code = (
        "import os, sys; from gptoss_edu import cli\n"
        "read, write = os.pipe(); os.close(read); os.dup2(write, 1)\n"
        "cli.survey, cli.describe = dict, lambda found: 'a line'\n"
        "sys.exit(cli.main(['doctor']))"
    )
    done = run_python("-c", code, text=True)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("argv", [["--help"], ["ask", "--help"], ["chat", "--help"]])
def test_help_explains_the_command(capsys, argv):
    with contextlib.suppress(SystemExit):
        cli.main(argv)
    assert "usage: python -m gptoss_edu" in capsys.readouterr().out
