"""Fuzz for so many minutes: `PYTHONPATH=tests python -m fuzz 30`; more words go to pytest.
`python -m fuzz kills 100` kills a hundred times (kills.py).

Rounds of new examples, each in a process of its own, until the time is over or one fails. What
failed is tried first in the next call: Hypothesis keeps it below build/. At the end stands the
table of all rounds.
"""

from __future__ import annotations

import collections
import json
import os
import subprocess
import sys
import time

from fuzz import kills
from fuzz.conftest import table
from fuzz.oracles import ROOT


def main(minutes: float, *more: str) -> int:
    """The exit status of pytest: 0 if nothing was found."""
    end, total = time.monotonic() + 60 * minutes, collections.Counter[tuple[str, str]]()
    times = os.environ.get("FUZZ_TIMES", "1")
    environment = os.environ | {"FUZZ_TIMES": times, "PYTHONPATH": str(ROOT / "tests")}
    command = [sys.executable, "-m", "pytest", "-q", "-x", *more, str(ROOT / "tests" / "fuzz")]
    status = 0
    while not status and (not total or time.monotonic() < end):
        status = subprocess.run(command, cwd=ROOT, env=environment).returncode
        for area, verdict, number in json.loads((ROOT / "build" / "fuzz.json").read_text()):
            total[area, verdict] += number
    print("", "All rounds together:", *table(total), sep="\n")
    return status


if __name__ == "__main__":
    if sys.argv[1] == "kills":
        sys.exit(kills.main(int(sys.argv[2]), *sys.argv[3:]))
    sys.exit(main(float(sys.argv[1]), *sys.argv[2:]))
