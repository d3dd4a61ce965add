"""Counts what was tried in each area, over all workers, and prints it as a table."""

from __future__ import annotations

import collections
import json

import pytest

from fuzz.oracles import ROOT, TIMES, VERDICTS, counts

total: collections.Counter[tuple[str, str]] = collections.Counter()


@pytest.fixture(autouse=True)
def counted(request):
    """What this test adds to the counts, to the process that prints them."""
    before = counts.copy()
    yield
    added = [(*key, number) for key, number in (counts - before).items()]
    request.node.user_properties.append(("fuzz", added))


def pytest_runtest_logreport(report):
    """With several workers, only this one process hears of all of them."""
    if report.when == "teardown":
        for area, verdict, number in dict(report.user_properties).get("fuzz", []):
            total[area, verdict] += number


def pytest_terminal_summary(terminalreporter):
    """The table of this run; `make fuzz` adds up its rounds."""
    if total and TIMES:
        path = ROOT / "build" / "fuzz.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps([[*key, number] for key, number in total.items()]))
    for line in table(total):
        terminalreporter.write_line(line)


def table(total: collections.Counter[tuple[str, str]]) -> list[str]:
    """One line for each area, in Markdown."""
    areas = sorted({area for area, _ in total})
    lines = ["| area | tried | " + " | ".join(VERDICTS) + " |", "|---" * 7 + "|"]
    for area in areas:
        numbers = [total[area, verdict] for verdict in VERDICTS]
        lines.append(f"| {area} | " + " | ".join(f"{n:,}" for n in (sum(numbers), *numbers)) + " |")
    return lines if areas else []
