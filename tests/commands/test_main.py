"""The program: its commands, help, and what becomes of everything that goes wrong."""

import contextlib
import os
import shlex
import subprocess
import sys

import jax
import pytest
from models import MODEL, random_params

from commands.console import ROOT, run_python
from gptoss_edu import __version__
from gptoss_edu.commands import flags
from gptoss_edu.commands.main import main

pytestmark = pytest.mark.usefixtures("quick_load")


def test_traceback_shows_where(capsys, tmp_path):
    assert main(["ask", "hi", "--traceback", "--model", str(tmp_path / "nothing")]) == 1
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

    monkeypatch.setattr(flags, "load_model", fail)
    found, err = failing("ask", "hi")
    assert found == status
    assert message in err
    assert len(err.splitlines()) == 1


class Panic(BaseException):
    """As Rust libraries raise it: no Exception."""


@pytest.mark.parametrize(
    "kind",
    [
        IndexError,
        TypeError,
        AttributeError,
        AssertionError,
        RecursionError,
        NotImplementedError,
        Panic,
    ],
)
def test_a_bug_of_ours_is_one_sentence_and_a_status_of_its_own(monkeypatch, capsys, kind):
    def fail(*_, **__):
        raise kind("two\nlines")

    monkeypatch.setattr(flags, "load_model", fail)
    assert main(["ask", "hi"]) == 70
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert f"found a bug in this program ({kind.__name__}: two lines), expected none; please" in err
    assert "--traceback" in err
    assert main(["ask", "hi", "--traceback"]) == 70
    assert capsys.readouterr().err.startswith("Traceback")


@pytest.mark.parametrize(
    "flag, meant",
    [
        ("--temprature=1", "--temperature"),
        ("--efort", "--effort"),
        ("--topk", "--top-k"),
        ("--jsno", "--json"),
    ],
)
def test_a_typo_in_a_flag_is_answered_with_the_nearest(failing, flag, meant):
    status, err = failing("ask", "hi", flag, *([] if "=" in flag else ["1"]))
    assert status == 2
    assert f"; did you mean {meant}?" in err


@pytest.mark.parametrize(
    "argv", [["doctor", "--x\x1b[2J"], ["\x1b]0;evil\x07"], ["ask", "hi", "--effort", "\x1b[31m"]]
)
def test_what_was_typed_is_shown_and_not_obeyed(failing, argv):
    status, err = failing(*argv)
    assert status == 2
    assert "\\x1b" in err
    assert "\x1b" not in err


def test_an_error_from_a_file_is_shown_and_not_obeyed(monkeypatch, failing):
    def fail(*_, **__):
        raise ValueError("\x1b]0;evil\x07" + "x" * 10**6)

    monkeypatch.setattr(flags, "load_model", fail)
    status, err = failing("ask", "hi")
    assert status == 1
    assert "\x1b" not in err
    assert len(err) < 5000


def test_a_flag_like_none_of_ours_is_refused_without_a_guess(failing):
    status, err = failing("doctor", "--zzzz")
    assert status == 2
    assert err.endswith("unrecognized arguments: --zzzz\n")


def test_the_package_runs_as_a_program():
    done = run_python("-m", "gptoss_edu", "--version", text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"gptoss-edu {__version__}\n", "")


def test_a_reader_that_leaves_is_no_error():
    code = (
        "import os, sys; from gptoss_edu.commands import doctor, main\n"
        "read, write = os.pipe(); os.close(read); os.dup2(write, 1)\n"
        "doctor.survey, doctor.describe = dict, lambda found: 'a line'\n"
        "sys.exit(main.main(['doctor']))"
    )
    done = run_python("-c", code, text=True)
    assert (done.returncode, done.stderr) == (141, "")


# ---- streams that are closed, or full -----------------------------------------------------------


@pytest.mark.parametrize(
    "argv, status, words",
    [(["ask"], 2, "text is empty"), (["ask", "-"], 2, "text is empty"), (["chat"], 0, "")],
)
def test_a_closed_standard_input_is_an_empty_one(monkeypatch, capsys, argv, status, words):
    """`<&-`: Python has None in its place, which is no terminal and cannot be read."""
    monkeypatch.setattr(sys, "stdin", None)
    monkeypatch.setattr(flags, "load_model", lambda *_, **__: (MODEL, random_params()))
    assert main(argv) == status
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("argv", [["doctor"], ["ask", "hi"], ["chat"], ["fit"], ["verify"]])
def test_a_closed_standard_output_is_said_before_anything_is_done(monkeypatch, capsys, argv):
    """`>&-`: what cannot be shown is not computed either."""
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(flags, "load_model", lambda *_, **__: pytest.fail("loaded a model"))
    assert main(argv) == 1
    assert "standard output is closed, expected a terminal" in capsys.readouterr().err


def test_without_standard_error_the_status_says_it(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", None)
    assert main(["ask", ""]) == 2
    monkeypatch.setattr(sys, "stderr", None)
    with pytest.raises(SystemExit) as end:
        main(["--no-such-flag"])
    assert end.value.code == 2
    assert capsys.readouterr().out == ""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has a device that is full")
def test_a_full_standard_error_hides_no_status(monkeypatch):
    with contextlib.suppress(OSError), open("/dev/full", "w") as full:  # closing it fails, too
        monkeypatch.setattr(sys, "stderr", full)
        assert main(["ask", ""]) == 2
        assert main(["ask", "hi", "--model", "/no/such/folder", "--traceback"]) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="a POSIX shell closes them")
@pytest.mark.parametrize(
    "command, status, words",
    [
        ("ask <&-", 2, "text is empty"),
        ("doctor >&-", 1, "standard output is closed"),
        ("ask '' <&- >&- 2>&-", 1, ""),
        ("ask '' 2>&-", 2, ""),
    ],
)
def test_closed_streams_leave_no_traceback(command, status, words):
    program = f"exec {shlex.quote(sys.executable)} -m gptoss_edu {command}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["sh", "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == status
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


def test_a_file_opened_later_does_not_take_the_place_of_a_closed_stream(tmp_path):
    """What libraries write to number 2 would end in it: in a checkpoint, say."""
    code = (
        "import os, sys; from gptoss_edu.commands import ask, main\n"
        f"ask.run = lambda args: open({str(tmp_path / 'file')!r}, 'wb').fileno()\n"
        "sys.exit(main.main(['ask', 'hi']))"
    )
    program = f"exec {shlex.quote(sys.executable)} -c {shlex.quote(code)} <&- 2>&-"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["sh", "-c", program], env=environment, stdout=subprocess.DEVNULL)
    assert done.returncode > 2  # the number of the file


@pytest.mark.parametrize("argv", [["--help"], ["ask", "--help"], ["chat", "--help"]])
def test_help_explains_the_command(capsys, argv):
    with contextlib.suppress(SystemExit):
        main(argv)
    assert "usage: python -m gptoss_edu" in capsys.readouterr().out
