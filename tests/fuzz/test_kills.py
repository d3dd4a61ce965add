"""A few kills of each kind; `python -m fuzz kills 100` does a hundred."""

from __future__ import annotations

import sys

import pytest

from fuzz.kills import WORKS, kill
from fuzz.oracles import TIMES, counts


@pytest.mark.skipif(sys.platform == "win32", reason="processes are killed otherwise there")
@pytest.mark.parametrize(
    "name",
    [name for name in WORKS if name != "kernels" or TIMES > 1],  # ten seconds, each time
)
def test_after_a_kill_the_next_start_is_right(name):
    times = 3 * max(1, round(TIMES))
    killed, right = kill(name, times)
    counts[f"kill -9, {name}", "right"] += right
    assert right == times
    assert killed, "all came too late"
