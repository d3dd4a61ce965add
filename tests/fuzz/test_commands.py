"""Command lines: an answer, or one line on standard error and the exit status that fits it."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import huggingface_hub.constants
import numpy as np
import pytest
from fake_hub import use_endpoint
from hypothesis import strategies as st
from models import MODEL, TOKENIZER, random_params, say

from fuzz.checkpoints import WHOLE, sandbox
from fuzz.oracles import LIMIT, ROOT, counts, fuzz, within
from gptoss_edu import generation
from gptoss_edu.commands import flags
from gptoss_edu.commands.main import main

AREA = "command line"
PROPER = {0, 1, 2, 130, 141}
BAD_JSON = [b"", b"[", b"[" * 100_000, b"\xff\xfe", b"{}", b"[1]", b'"x"', b"\xef\xbb\xbf[]"]
BAD_JSON += [b"null"]
BAD_JSON += [b'[{"name": "f", "parameters": {"type": "object", "required": [["a"]]}}]']
BAD_JSON += [b'[{"name": "\\u001b[2J"}]', b'[{"name": "f", "inputSchema": {"type": "object"}}]']
FILES = {f"tools-{number}.json": text for number, text in enumerate(BAD_JSON)}
PATHS = ["MODEL", "MODEL/config.json", "EMPTY", "FIFO", "BROKEN", "", ".", "/nowhere"]
PATHS += ["edu/tiny"]
PATHS += ["~nobodyhere/x", "x" * 5_000, "a\x1b[2J", "MODEL/model.safetensors", "/dev/null", "--"]
PATHS += ["é"]
NUMBERS = ["0", "1", "3", "-1", "0.5", "1e400", "nan", "inf", "x", "", "9" * 5_000, "2**3", " 1"]
NUMBERS += ["１"]
TEXTS = ["", "hi", "-", "--", "\x00", "\x1b[2J", "\udcff", "x" * 3_000, "é", "/quit", "low"]
TEXTS += ["2025-01-01"]
NUMERIC = ["--max-tokens", "--temperature", "--top-p", "--top-k", "--min-p", "--seed", "--context"]
NUMERIC += ["--repetition-penalty"]
TEXTUAL = ["--effort", "--instructions", "--date", "--revision", "--precision", "--dense", "--chip"]
TEXTUAL += ["--backend", "--nonsense", "--mdoel"]
SWITCHES = ["--json", "--no-answers", "--check", "--version", "--help", "--traceback", "-x"]
COMMANDS = ["ask", "ask", "ask", "chat", "doctor", "fit", "verify", "convert", "", "aks", "--help"]
STREAMS = ["", "hi\n", "/reset\n/effort x\nhi\n/quit\n", "\x00\x1b[2J\n", "CLOSED", "INVALID"]
STREAMS += ["STOP"]
STREAMS += ["x" * 100_000 + "\n", "/\n//\n/ \n", "TERMINAL"]
OUTPUTS = ["text", "text", "text", "terminal", "full", "closed", "gone"]


class Line(NamedTuple):
    """A command as it is typed, what stands on standard input, and where the output goes."""

    argv: list[str]
    stdin: str = ""
    stdout: str = "text"


options = st.one_of(
    st.tuples(st.sampled_from(NUMERIC), st.sampled_from(NUMBERS)),
    st.tuples(st.sampled_from(TEXTUAL), st.sampled_from([*TEXTS, "cpu", "auto", "int8", "v5e-1"])),
    st.tuples(st.sampled_from(["--model", "--out"]), st.sampled_from(PATHS)),
    st.tuples(st.just("--tools"), st.sampled_from([*FILES, "FIFO", "/nowhere", "MODEL"])),
    st.tuples(st.sampled_from(SWITCHES)),
    st.tuples(st.sampled_from([*TEXTS, *PATHS])),
)
lines = st.builds(
    lambda command, given, stdin, stdout: Line(
        [command, *(word for option in given for word in option)], stdin, stdout
    ),
    st.sampled_from(COMMANDS),
    st.lists(options, max_size=4),
    st.sampled_from(STREAMS),
    st.sampled_from(OUTPUTS),
)
SEEDS = [
    *(Line(["ask", "hi", "--tools", name]) for name in FILES),
    *(Line(["ask", "hi", "--model", path]) for path in PATHS),
    *(Line(argv, "CLOSED") for argv in (["ask"], ["ask", "-"], ["chat"])),
    *(Line(["doctor"], "", out) for out in OUTPUTS),
    *(Line(["ask", "hi"], "", out) for out in OUTPUTS),
    *(Line([command], "STOP") for command in ("ask", "chat")),
    Line(["ask", "hi", "--tools", "FIFO"]),
    Line(["ask", "hi", "--max-tokens", "9" * 5_000]),
    Line(["verify", "MODEL", "--no-answers"]),
    Line(["verify", "BROKEN", "--no-answers"]),
    Line(["convert", "MODEL"]),
    Line(["convert", "BROKEN"]),
    Line(["convert", "MODEL", "--out", "EMPTY/new"]),
]

# ---- a model, and streams, that are none ---------------------------------------------------------

STREAM = say("Hm\x1b[2J.", "Four 🌱.\x1b]0;x\x07")


def dictated(
    model: Any, params: Any, prompts: Any, *, max_tokens: int, clock: Any, **_: Any
) -> Any:
    """In place of `generate_tokens`: nothing is computed."""
    for row in TOKENIZER.to_rows(STREAM)[:max_tokens]:
        clock.tick()
        yield np.full(len(prompts), row)
    return None


def stand_in(path: Any = None, **options: Any) -> Any:
    """In place of `load_model`: the pocket model is not the point, all else is loaded."""
    return (MODEL, random_params()) if path is None else load_model(path, **options)


load_model = flags.load_model


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


class Gone(io.StringIO):
    """A reader that has left."""

    def write(self, text: str) -> int:
        raise BrokenPipeError

    def fileno(self) -> int:
        return os.open(os.devnull, os.O_WRONLY)


class Stopped(io.StringIO):
    """Somebody presses Ctrl-C."""

    def read(self, *_: Any) -> str:
        raise KeyboardInterrupt

    def readline(self, *_: Any) -> str:
        if not getattr(self, "asked", False):
            self.asked = True
            raise KeyboardInterrupt
        return ""


def source(text: str) -> Any:
    if text == "INVALID":
        return io.TextIOWrapper(io.BytesIO(b"\xff\xfe\n"), encoding="utf-8")
    special = {"CLOSED": None, "STOP": Stopped(), "TERMINAL": Screen("hi\n")}
    return special[text] if text in special else io.StringIO(text)


def sink(kind: str) -> Any:
    if kind == "full":
        return open("/dev/full", "w") if os.path.exists("/dev/full") else io.StringIO()
    return {"text": io.StringIO, "terminal": Screen, "gone": Gone, "closed": lambda: None}[kind]()


@contextlib.contextmanager
def places() -> Iterator[Any]:
    """A folder to stand in, and the words that stand for places in it."""
    with sandbox(WHOLE) as folder, tempfile.TemporaryDirectory(dir=folder.parent) as here:
        (Path(here) / "empty").mkdir()
        broken = Path(here) / "broken"
        broken.mkdir()
        for path in folder.glob("*.json"):
            (broken / path.name).write_bytes(path.read_bytes())
        header = (
            b'{"\x1b]0;evil\x07\x1b[2J": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}'
        )
        header = header.replace(b"\x1b", b"\\u001b").replace(b"\x07", b"\\u0007")
        data = len(header).to_bytes(8, "little") + header + b"x"
        (broken / "model.safetensors").write_bytes(data)
        if hasattr(os, "mkfifo"):
            os.mkfifo(Path(here) / "fifo")
        for name, data in FILES.items():
            (Path(here) / name).write_bytes(data)
        words = {"MODEL": folder, "EMPTY": Path(here) / "empty", "BROKEN": broken}
        with contextlib.chdir(here):
            yield words | {"FIFO": Path(here) / "fifo"}


def run(line: Line, words: dict[str, Path]) -> tuple[Any, str]:
    """(exit status, standard error)."""
    asked = ["--no-answers"] if line.argv[0] == "verify" else []  # which would take minutes
    argv = [functools.reduce(lambda a, w: a.replace(w, str(words[w])), words, a) for a in line.argv]
    out, err = sink(line.stdout), io.StringIO()
    streams = mock.patch.multiple(sys, stdin=source(line.stdin), stdout=out, stderr=err)
    with streams, mock.patch.object(os, "dup2"), within(LIMIT):
        try:
            status = main(argv + asked)
        except SystemExit as end:
            status = end.code
    if line.stdout == "full" and out is not None:
        with contextlib.suppress(OSError):
            out.close()
    return status, err.getvalue()


@pytest.fixture
def stand_ins(monkeypatch):
    monkeypatch.setattr(flags, "load_model", stand_in)
    monkeypatch.setattr(generation, "generate_tokens", dictated)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    use_endpoint(monkeypatch, "http://127.0.0.1:1")


def check(line: Line) -> None:
    """What holds of every command line."""
    with places() as words:
        status, err = run(line, words)
    verdict = "own error" if status else "right"
    counts[AREA, verdict if status in PROPER or status is None else "raw"] += 1
    assert status in PROPER or status is None, f"{status}: {err[:2_000]}"
    asked = "--traceback" in line.argv
    assert asked or "Traceback" not in err, err[:2_000]
    assert len(err) <= 20_000, f"{len(err):,} characters: {err[:500]}"
    strange = {c for c in err if not c.isprintable() and c not in "\n\t\r"}
    assert not strange or line.stdout == "terminal", f"{strange} in {err!r:.500}"
    told = line.argv[0] in ("fit", "verify")  # on standard output, and the status says the same
    assert told or re.search(r"\S+ \S+", err) or status in (0, 130, 141, None)


@fuzz(90, line=lines)
def test_a_command_line_ends_in_order(stand_ins, line):
    check(line)


@pytest.mark.parametrize("number", range(len(SEEDS)))
def test_what_once_went_wrong(stand_ins, number):
    check(SEEDS[number])


REAL = ["ask <&-", "chat <&-", "doctor >&-", "fit | true"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")
@pytest.mark.parametrize("command", REAL)
def test_a_real_process_ends_in_order(command, tmp_path):
    script = f"set -o pipefail; {sys.executable} -m gptoss_edu {command}"
    ended = subprocess.run(
        ["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=2 * LIMIT,
        stdin=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    counts[AREA, "own error" if ended.returncode else "right"] += 1
    assert ended.returncode in PROPER, ended
    assert "Traceback" not in ended.stderr
