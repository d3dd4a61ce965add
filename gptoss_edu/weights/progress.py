"""A progress bar where somebody looks: in a terminal and in a notebook, and nowhere else.

tqdm's own rule, `disable=None`, asks whether stderr is a terminal. That of a notebook is none, so
the cell that loads 13.8 GB would stay silent for minutes, and people interrupt silent cells.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from tqdm import tqdm


def bar(total: int, text: str, *, delay: float = 2, leave: bool = False) -> tqdm[Any]:
    """A bar for `total` bytes, seen once `delay` seconds are over; `leave` keeps it at the end."""
    shown = {"total": total, "desc": text, "unit": "B", "unit_scale": True, "leave": leave}
    return tqdm(**shown, delay=delay, disable=disabled())


def disabled() -> bool | None:
    """What tqdm's `disable` has to be: None lets it ask whether stderr is a terminal."""
    in_notebook = type(sys.stderr).__module__.startswith("ipykernel")
    return os.environ.get("TQDM_DISABLE", "") not in ("", "0") if in_notebook else None
