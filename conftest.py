"""What every test and every notebook kernel starts with, however pytest was called.

Where notebooks are executed (`pytest --nbval`), the time that each takes, and the most memory that
its kernel had, are written to build/measured.json; `tools/course.py write` brings them, rounded,
into the notebooks and the README. The time is that of the clock, or the kernel's processor time
where this is less: then the machine was busy with something else. A run that ever took more memory,
all workers and kernels together, than a laptop has fails, since the README promises that.
"""

import contextlib
import ctypes
import gc
import json
import os
import re
import sys
import time
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent / "tools"))  # also where pyproject.toml is not read
import peak

# Expected values were computed on a CPU; `JAX_PLATFORMS=cuda make test` asks for something else.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# A progress bar prints its rate, and a rate is never the same twice.
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("GPTOSS_EDU_STATIC", "1")
# The TPU compiler, where `make test` puts it: for the tests alone.
sys.path.append(str(Path(sys.prefix) / "tpu"))

# Images differ from machine to machine, also those that stand inside of HTML.
IMAGES = Path(__file__).parent / "tests" / "course" / "images.cfg"

_started: dict[str, tuple[float, int]] = {}  # notebook -> when its first cell began, cells so far
_runs: dict[str, dict] = {}
_failed: set[str] = set()
_peak = peak.Peak(os.getpid())
LARGE = 10**9  # bytes: a worker that holds more gives back what it can after each file


def pytest_configure(config):
    """nbval compares HTML; of the images in it only that they are there."""
    if getattr(config.option, "nbval_sanitize_with", "") is None and IMAGES.is_file():
        config.option.nbval_sanitize_with = str(IMAGES)


def usage(pid: int) -> tuple[float, int] | None:
    """Processor seconds of a process and the most bytes it had at once, if the system says them."""
    try:
        times = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:  # no Linux
        return None
    seconds = sum(map(int, times[11:15])) / os.sysconf("SC_CLK_TCK")  # own and children's
    return seconds, 1024 * int(re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)[1])


@pytest.fixture(autouse=True, scope="module")
def small_workers():
    """Compiled programs of tests that have ended go, and free memory goes back to the system."""
    yield
    if "jax" in sys.modules and peak.memory(os.getpid()) > LARGE:
        sys.modules["jax"].clear_caches()
        gc.collect()
        with contextlib.suppress(AttributeError):  # glibc alone has it
            ctypes.CDLL(None).malloc_trim(0)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Before the first cell of a notebook nothing is there, not even its kernel."""
    if hasattr(item.parent, "kernel"):
        began, cells = _started.get(item.location[0], (time.perf_counter(), 0))
        _started[item.location[0]] = began, cells + 1


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item, nextitem):
    """After the last cell the kernel is still there: look at it, and tell the report."""
    notebook = item.parent
    if not hasattr(notebook, "kernel") or (nextitem and nextitem.parent is notebook):
        return
    began, cells = _started.pop(item.location[0])
    pid = getattr(getattr(notebook.kernel.km, "provisioner", None), "pid", None)
    used = usage(pid) if pid else None
    if used and cells == sum(cell.cell_type == "code" for cell in notebook.nb.cells):
        seconds = min(time.perf_counter() - began, used[0])
        measured = {"seconds": round(seconds, 1), "bytes": used[1]}
        item.user_properties.append(("measured", measured))


def pytest_runtest_logreport(report):
    """With several workers, only this one process hears of all of them."""
    path = report.location[0].replace(os.sep, "/")
    if report.failed:
        _failed.add(path)
    if report.when == "teardown" and "measured" in dict(report.user_properties):
        _runs[path] = dict(report.user_properties)["measured"]


def pytest_sessionstart(session):
    """One process watches all."""
    if not hasattr(session.config, "workerinput"):
        _peak.start()


@pytest.hookimpl(tryfirst=True)
def pytest_terminal_summary(terminalreporter):
    """Say what the run took at its peak."""
    if _peak.bytes:
        words = "more than" if _peak.bytes > peak.LAPTOP else "of"
        terminalreporter.write_line(
            f"peak memory, all processes together: {_peak.bytes / 1e9:.1f} GB, {words} the"
            f" {peak.LAPTOP / 1e9:.0f} GB that a laptop has"
        )


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session):
    """Add what was measured to what earlier runs have; a notebook that failed says nothing."""
    live = session.config.option.markexpr == "parity"  # torch's models come on top of ours
    if not hasattr(session.config, "workerinput") and _peak.stop() > peak.LAPTOP and not live:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    runs = {path: run for path, run in _runs.items() if path not in _failed}
    if not runs or hasattr(session.config, "workerinput"):
        return
    path = session.config.rootpath / "build" / "measured.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    path.parent.mkdir(exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(json.dumps(known | runs, indent=1), encoding="utf-8")
    os.replace(partial, path)
