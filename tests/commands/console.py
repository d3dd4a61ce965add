"""Terminals that are none, and the program as others start it."""

import io
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


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
    """What stands on standard input."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))


def run_python(*argv, **settings):
    """A process of its own, in the repository."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    return subprocess.run(
        [sys.executable, *argv], cwd=ROOT, env=environment, capture_output=True, **settings
    )
