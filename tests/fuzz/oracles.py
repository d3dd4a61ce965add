"""What must hold whatever comes in: an error of our own or the right result, soon, nothing else.

`@fuzz(count, …)` makes a test of a property; `examine` calls what is tried and judges its errors.
Every call is counted under its area, and the counts are printed at the end (conftest.py).
"""

from __future__ import annotations

import collections
import contextlib
import dis
import hashlib
import math
import os
import signal
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis.database import DirectoryBasedExampleDatabase

import gptoss_edu

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = str(Path(gptoss_edu.__file__).parent)
OWN = (ValueError, OSError, MemoryError)
VERDICTS = ("own error", "right", "other, legally", "raw", "hang")
LIMIT = 60.0  # seconds for one call: a hundred times what the slowest takes
LONGEST = 2_500  # characters of a message

# As many as fit into `make test`, always the same; `make fuzz` sets FUZZ_TIMES, and draws anew.
TIMES = float(os.environ.get("FUZZ_TIMES", 0))
SETTINGS = hypothesis.settings(
    deadline=None,
    derandomize=not TIMES,
    database=DirectoryBasedExampleDatabase(ROOT / "build" / "hypothesis") if TIMES else None,
    suppress_health_check=list(hypothesis.HealthCheck),
    phases=[phase for phase in hypothesis.Phase if phase is not hypothesis.Phase.explain],
)
counts: collections.Counter[tuple[str, str]] = collections.Counter()


def fuzz(count: int, *strategies: Any, seeds: list[tuple] | None = None, **named: Any) -> Callable:
    """A property over examples of these strategies; `seeds` are tried first, every time."""

    def decorate(test: Callable) -> Callable:
        for seed in reversed(seeds or []):
            test = hypothesis.example(*seed)(test)
        examples = max(1, math.ceil(count * (TIMES or 1)))
        test = hypothesis.given(*strategies, **named)(test)
        return hypothesis.settings(SETTINGS, max_examples=examples)(test)

    return decorate


class Alarm(BaseException):
    """Raised inside whatever takes too long; no `except Exception` stops it."""


class Hang(AssertionError):
    """It took too long."""


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raise Hang in what takes longer, where we can: not on Windows, nor beside the main thread."""
    if not hasattr(signal, "SIGALRM") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise Alarm

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    except Alarm:
        raise Hang(f"no end within {seconds:.0f} seconds") from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def examine(area: str, call: Callable[[], Any]) -> tuple[Any, Exception | None]:
    """(what a call gives, None), or (None, its error) if that is one of our own in good words.

    A success is counted as "right": the caller asserts that it is, or counts it as another model
    that the file itself asks for (`legally_other`).
    """
    try:
        with within(LIMIT):
            found = call()
    except Hang:
        counts[area, "hang"] += 1
        raise
    except Exception as error:
        try:
            check_error(error)
        except AssertionError:
            counts[area, "raw"] += 1
            raise
        counts[area, "own error"] += 1
        return None, error
    counts[area, "right"] += 1
    return found, None


def legally_other(area: str) -> None:
    """What was last found right is a model that the changed file legally describes."""
    counts[area, "right"] -= 1
    counts[area, "other, legally"] += 1


def check_error(error: Exception) -> None:
    """One of our own: raised in so many words by this package, short, harmless to a terminal."""
    assert isinstance(error, OWN), f"{type(error).__name__} is caught by nobody"
    assert is_raised_here(error), f"raised by somebody else: {error!r:.500}"
    check_words(str(error))


def check_words(text: str) -> None:
    """A message for people."""
    assert len(text) <= LONGEST, f"{len(text):,} characters: {text[:200]!r}"
    assert len(text.split()) >= 4, f"says too little: {text!r}"
    unprintable = [c for c in text if not c.isprintable() and c != "\n"]
    assert not unprintable, f"{unprintable} in {text!r}"


def is_raised_here(error: BaseException) -> bool:
    """Did a `raise` of this package raise it, and not JSON, NumPy, the system or a slip?"""
    frame: types.TracebackType | None = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    if frame is None:
        return False
    code = frame.tb_frame.f_code
    is_ours = code.co_filename.startswith(PACKAGE)
    return is_ours and dis.opname[code.co_code[frame.tb_lasti]] == "RAISE_VARARGS"


def listing(folder: Path) -> dict[str, str]:
    """Everything below a folder: path -> what it is, files by the hash of their bytes."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"-> {os.readlink(path)}"
        elif path.is_file():
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            found[name] = "folder" if path.is_dir() else "special"
    return found


@contextlib.contextmanager
def untouched(folder: Path) -> Iterator[None]:
    """Nothing below this folder is written, removed or created."""
    before = listing(folder)
    yield
    after = listing(folder)
    changed = {name for name in before.keys() | after if before.get(name) != after.get(name)}
    assert not changed, f"touched: {sorted(changed)}"
