"""Progress bars: in a notebook they show, although its stderr is no terminal."""

import io
import sys

import pytest

from gptoss_edu.weights.progress import bar, disabled

Kernel = type("OutStream", (io.StringIO,), {"__module__": "ipykernel.iostream"})


@pytest.fixture
def stderr(monkeypatch):
    """Puts another stream in its place; the tests' own silence is forgotten."""

    def put(stream):
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.delenv("TQDM_DISABLE", raising=False)
        return stream

    return put


def test_a_notebook_shows_it(stderr):
    stream = stderr(Kernel())
    assert disabled() is False
    with bar(100, "loading", delay=0, leave=True) as shown:
        shown.update(100)
    assert "loading: 100%" in stream.getvalue()


@pytest.mark.parametrize("value, silent", [("1", True), ("0", False), ("", False)])
def test_a_notebook_can_be_silenced(stderr, monkeypatch, value, silent):
    stderr(Kernel())
    monkeypatch.setenv("TQDM_DISABLE", value)
    assert disabled() is silent


def test_elsewhere_tqdm_asks_whether_it_is_a_terminal(stderr):
    stream = stderr(io.StringIO())
    assert disabled() is None
    with bar(100, "loading", delay=0) as shown:
        shown.update(100)
    assert stream.getvalue() == ""
