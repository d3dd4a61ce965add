"""Panels that work without a kernel: on a saved page, in a notebook that was only opened.

    panel("sink", picture, {"score of key 0": (-2, -1, 0, 1, 2), ..., "sink": (-4, -2, 0, 2, 4)})

A panel is one piece of HTML with everything in it: native inputs, the numbers that it needs, and
panels/<name>.js, whose `draw(data, values)` returns {picture, text}: an SVG, and the sentence that
says what it shows. Where no script may run, the picture stays.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gptoss_edu.course.viz.colors import INK, PAPER
from gptoss_edu.course.viz.look import Picture

FOLDER = Path(__file__).parent / "panels"
LARGEST = 150_000  # bytes of a panel
STYLE = f"background:{PAPER};color:{INK};padding:.8em 1em;max-width:820px;border-radius:4px"
Values = Sequence[float] | Sequence[str] | str


@dataclasses.dataclass(frozen=True)
class Panel:
    """A script with its numbers and inputs, and the picture that stands in for it."""

    name: str
    picture: Picture
    controls: Mapping[str, Values]
    start: Mapping[str, int]
    data: Any

    def __repr__(self) -> str:
        return self.picture.alt

    def _repr_html_(self) -> str:
        facts = {"controls": self.controls, "start": self.start, "data": self.data}
        told = json.dumps(rounded(facts), separators=(",", ":")).replace("<", "\\u003c")
        kit, script = (
            (FOLDER / f"{name}.js").read_text(encoding="utf-8") for name in ("kit", self.name)
        )
        # The script finds what it replaces beside itself: a page may show a panel twice.
        return (
            f'<div class="gptoss-panel" style="{STYLE}">{self.picture.to_html()}</div>\n<script>\n'
            f"(root => {{\n{kit}\n{script}\nshow(root, {told}, draw);\n"
            "})(document.currentScript.previousElementSibling);\n</script>"
        )


def panel(
    name: str,
    picture: Picture,
    controls: Mapping[str, Values],
    data: Any = None,
    start: Mapping[str, float | str] | None = None,
) -> Panel:
    """A panel of panels/`name`.js.

    `controls` names the inputs: numbers make a slider, words a list, one text a line to type in.
    They begin at `start`, else in the middle, lists with their first word. `data` is what JSON can
    say, and arrays; floats are kept to four digits. Raises ValueError for inputs without values, a
    start that is none of them, and more bytes than a page should carry.
    """
    chosen = start or {}
    begin = {key: _begin(key, values, chosen.get(key)) for key, values in controls.items()}
    made = Panel(name, picture, controls, begin, data)
    if (size := len(made._repr_html_().encode())) > LARGEST:
        raise ValueError(
            f"panel {name!r} has {size:,} bytes, expected {LARGEST:,} at most: give it less data,"
            " or a smaller picture"
        )
    return made


def _begin(name: str, values: Values, start: float | str | None) -> int:
    """With which of its values an input begins."""
    if isinstance(values, str):
        return 0
    if not len(values):
        raise ValueError(f"input {name!r} has no values: expected at least one to choose from")
    if start is None:
        return 0 if isinstance(values[0], str) else len(values) // 2
    if start not in values:
        raise ValueError(f"input {name!r} cannot begin with {start!r}: expected one of {values}")
    return list(values).index(start)


def rounded(value: Any) -> Any:
    """As JSON takes it: arrays as lists, floats to four digits, which every machine finds."""
    if isinstance(value, Mapping):
        return {str(key): rounded(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(one) for one in value]
    if isinstance(value, str | bool | int) or value is None:
        return value
    array = np.asarray(value)
    if array.ndim:
        return rounded(array.tolist())
    return float(f"{float(array):.4g}") if array.dtype.kind == "f" else array.item()
