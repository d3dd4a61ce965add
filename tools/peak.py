"""The most memory that a process and all below it had at once; pytest says it after every run.

Pages that several processes share are counted once (PSS), as a machine has to hold them.
"""

from __future__ import annotations

import re
import threading
from pathlib import Path

LAPTOP = 8 * 10**9  # bytes: `make test` is to run beside a desktop in 16 GB, or alone in 8


def descendants(process: int, proc: Path = Path("/proc")) -> set[int]:
    """A process and all that it started, and those that they started."""
    children: dict[int, list[int]] = {}
    for stat in proc.glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has just ended
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    found, new = set(), [process]
    while new:
        found.update(new)
        new = [child for each in new for child in children.get(each, [])]
    return found


def memory(process: int, proc: Path = Path("/proc")) -> int:
    """Bytes of a process, its share of pages that others have, too; 0 if it is gone."""
    try:
        text = (proc / str(process) / "smaps_rollup").read_text()
    except OSError:
        return 0
    shown = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
    return 1024 * int(shown[1]) if shown else 0


class Peak(threading.Thread):
    """Looks once a second until it is stopped. `bytes` is 0 where the system does not say."""

    def __init__(self, process: int, seconds: float = 1.0) -> None:
        super().__init__(daemon=True)
        self.process, self.seconds, self.bytes = process, seconds, 0
        self._end = threading.Event()

    def run(self) -> None:
        """Look, wait, and look again."""
        while True:
            self.bytes = max(self.bytes, sum(map(memory, descendants(self.process))))
            if self._end.wait(self.seconds):
                return

    def stop(self) -> int:
        """The most that was seen, in bytes."""
        self._end.set()
        if self.is_alive():
            self.join()
        return self.bytes
