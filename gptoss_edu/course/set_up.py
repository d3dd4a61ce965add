"""Completes the course where a notebook has found or installed it: adds what is missing, and looks.

The notebook's first cell runs this file by its path, since `import gptoss_edu` needs what may be
missing: here nothing is imported but Python's own library.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path


def complete(source: Path, version: str, modules: str) -> None:
    """Add the modules (words) that are missing, and see whether a new Python imports the course.

    `source` is the folder that holds the package. Raises ImportError if another version than that
    of the notebook is found, or none; it says what was tried.
    """
    installed = getattr(importlib.util.find_spec("gptoss_edu"), "origin", None)
    if not installed:  # in this Python, and in those that notebooks start
        paths = filter(None, [str(source), os.environ.get("PYTHONPATH")])
        os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    # JAX and its drivers are there and belong together: add what is missing, and touch nothing.
    missing = [name for name in modules.split() if importlib.util.find_spec(name) is None]
    said = _python("-m", "pip", "install", "--quiet", *missing).stderr if missing else ""
    seen = _python("-c", "import gptoss_edu; print(gptoss_edu.__version__)")
    if (found := seen.stdout.strip()) != version:
        raise ImportError(
            f"The course could not be set up: expected version {version}, found {found or 'none'}. "
            "Restart and run this cell again; at home, `make lab` in the folder of the course sets "
            f"up everything. What was said:\n{(said + seen.stderr)[-600:]}"
        )
    if not installed:
        sys.path.insert(0, str(source))
    importlib.invalidate_caches()


def _python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
