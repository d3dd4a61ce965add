"""Number formats: the values of a format on a line, a byte, a block and its scale, and errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gptoss_edu.course.viz.colors import BLUE, INK, LINE, ORANGE, PALE, PAPER, SKY, VERMILION
from gptoss_edu.course.viz.look import (
    Axes,
    Figure,
    Picture,
    box,
    draw,
    fill,
    name_rows,
    small_multiples,
    write,
)
from gptoss_edu.mxfp4 import VALUES


def number_line(grids: Mapping[str, Sequence[float]], *, bits: int | None = None) -> Picture:
    """All values that a format can write, one line per format: name -> value of code 0, 1, 2 ...

    With `bits`, each value of the first line carries its codes: one square for each binary digit,
    in the colors of `byte_picture`.
    """
    largest = max(abs(value) for values in grids.values() for value in values)

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for row, (name, values) in enumerate(grids.items()):
            axes.plot([-largest, largest], [-row, -row], color=LINE, lw=1, zorder=1)
            axes.plot(values, [-row] * len(values), "o", color=BLUE, markersize=7, zorder=2)
            axes.text(-1.1 * largest, -row, name, ha="right", va="center")
            for value in sorted({float(value) for value in values}):
                axes.text(value, -row - 0.17, f"{value:.3g}", ha="center", va="top", fontsize=8.5)
                codes = [code for code, v in enumerate(values) if v == value]
                for place, code in enumerate(codes if row == 0 and bits else []):
                    _paint_code(axes, value, 0.2 + place, f"{code:0{bits}b}", largest / 32)
        axes.set_xlim(-1.45 * largest, 1.1 * largest)
        axes.set_ylim(0.45 - len(grids), 2.6 if bits else 0.3)
        axes.set_axis_off()
        if bits:
            note = "each code from top to bottom: sign (orange), exponent (blue), mantissa (gray)"
            axes.text(0, 2.55, note, ha="center", va="top", fontsize=9)

    summary = "; ".join(
        f"{name}: {' '.join(f'{value:.3g}' for value in sorted(set(np.add(values, 0.0).tolist())))}"
        for name, values in grids.items()
    )
    height = 0.35 + 0.6 * len(grids) + (1.6 if bits else 0)
    return draw(paint, f"Number lines. {summary}.", width=9.4, height=height)


def _paint_code(axes: Axes, x: float, y: float, code: str, half: float) -> None:
    """The digits of a code, the first on top: sign, exponent, mantissa."""
    for place, digit in enumerate(code):
        color = ORANGE if place == 0 else PALE if place == len(code) - 1 else SKY
        bottom = y + 0.22 * (len(code) - 1 - place)
        fill(axes, x - half, bottom, 2 * half, 0.22, facecolor=color, edgecolor=INK, lw=0.5)
        write(axes, x, bottom + 0.1, digit, fontsize=8.5)


def float_picture(nibble: int) -> Picture:
    """An FP4 number inside a float32: where its four bits go, and what becomes of the exponent."""
    value = float(VALUES[nibble])
    word = f"{np.float32(value).view(np.uint32):032b}"
    e, f = (nibble >> 1) & 3, nibble & 1
    parts = [(0, 1, ORANGE), (1, 9, SKY), (9, 32, PALE)]

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for start, end, color in parts:
            for place in range(start, end):
                box(axes, place, 0, 0.94, 0.9, word[place], color)
        above = {0: (f"{nibble >> 3}", ORANGE, 0), 7: (f"{e >> 1}", SKY, 7)}
        above |= {8: (f"{e & 1}", SKY, 8), 9: (f"{f}", PALE, 9)}
        for at, (digit, color, to) in above.items():
            box(axes, at, 2.2, 0.94, 0.9, digit, color)
            arrow = {"arrowstyle": "->", "lw": 0.9}
            axes.annotate("", (to + 0.47, 0.95), (at + 0.47, 2.15), arrowprops=arrow)
        axes.text(10.6, 2.65, f"FP4 code {nibble:04b}: {value:g}", va="center")
        note = f"exponent {e} + 126 = {e + 126}; 22 zeros follow the one bit of mantissa"
        axes.text(10.6, 1.5, note, va="center", fontsize=9)
        for middle, text in ((0.47, "sign"), (4.97, "exponent"), (20.5, "mantissa")):
            axes.text(middle, -0.2, text, ha="center", va="top", fontsize=8.5)
        axes.set_xlim(-0.3, 32.2)
        axes.set_ylim(-0.9, 3.3)
        axes.set_axis_off()

    alt = (
        f"The FP4 code {nibble:04b}, {value:g}, inside the 32 bits of a float32, {word[0]}"
        f" {word[1:9]} {word[9:]}: sign to sign, exponent {e} plus 126 to the end of the exponent,"
        " mantissa to the first bit of the mantissa."
    )
    return draw(paint, alt, width=9.2, height=1.7)


def byte_picture(byte: int, scale: int) -> Picture:
    """One byte of a block taken apart: eight bits, two nibbles, two weights under a scale byte."""
    worth = 2.0 ** (scale - 127)
    halves = [("second weight", byte >> 4), ("first weight", byte & 0xF)]

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for half, (name, nibble) in enumerate(halves):
            left = 4.6 * half
            for place, bit in enumerate(f"{nibble:04b}"):
                color = (ORANGE, SKY, SKY, PALE)[place]
                box(axes, left + place, 1, 0.94, 0.8, bit, color)
            for middle, part in ((0.47, "sign"), (1.97, "exponent"), (3.47, "mantissa")):
                axes.text(left + middle, 0.82, part, ha="center", va="top", fontsize=8)
            axes.text(left + 1.97, 2.02, f"{('high', 'low')[half]} nibble", ha="center")
            summary = f"{name}: {VALUES[nibble]:g} · {worth:g} = {VALUES[nibble] * worth:g}"
            axes.text(left + 1.97, 0.1, summary, ha="center", weight="bold")
        axes.set_xlim(-0.2, 8.8)
        axes.set_ylim(-0.1, 2.4)
        axes.set_axis_off()

    first, second = (VALUES[nibble] for _, nibble in reversed(halves))
    alt = (
        f"Byte 0x{byte:02x}, bits {byte:08b}: the low nibble is the first weight, {first:g} times"
        f" {worth:g}; the high nibble is the second, {second:g} times {worth:g}."
    )
    return draw(paint, alt, width=6.4, height=1.75)


class Block(NamedTuple):
    """32 weights as they were, and the scale byte under which they are stored."""

    weights: Any
    scale: int

    @property
    def stored(self) -> np.ndarray:
        """What is left of the weights: the nearest of 16 values, times 2^(scale - 127)."""
        weights, worth = np.asarray(self.weights, np.float64), 2.0 ** (self.scale - 127)
        return worth * VALUES[np.abs(weights[:, None] / worth - VALUES).argmin(axis=1)]

    @property
    def cut(self) -> np.ndarray:
        """Which weights lie beyond the largest value, 6 times the scale."""
        return np.abs(np.asarray(self.weights, np.float64)) > 6 * 2.0 ** (self.scale - 127)

    @property
    def error(self) -> float:
        """Root mean square of what is lost, as a part of the weights' own."""
        weights = np.asarray(self.weights, np.float64)
        return float(np.linalg.norm(self.stored - weights) / (np.linalg.norm(weights) or 1.0))


def block_panels(blocks: Mapping[str, Block]) -> Picture:
    """Blocks and their scales: each weight, the lines it may be moved to, and where it lands."""
    shown = [block.weights for block in blocks.values()] + [b.stored for b in blocks.values()]
    largest = max(float(np.abs(np.asarray(numbers, np.float64)).max()) for numbers in shown)

    def paint(figure: Figure) -> None:
        panels = small_multiples(figure, len(blocks), len(blocks), sharey=True)
        for axes, (name, block) in zip(panels, blocks.items(), strict=True):
            _paint_block(axes, block, 1.15 * (largest or 1.0))
            axes.set_title(f"{name}\nbyte {block.scale}: error {block.error:.0%}", loc="left")
        panels[0].set_ylabel("weight")
        note = "circle: a weight  ·  dot: what is stored"
        cut = any(block.cut.any() for block in blocks.values())
        figure.supxlabel(note + "  ·  cross: cut off at 6 times the scale" * cut, fontsize=9)

    summary = "; ".join(
        f"{name}, scale byte {block.scale}: error {block.error:.0%}, {block.cut.sum()} cut off"
        for name, block in blocks.items()
    )
    width = min(9.0, 1.2 + 3.2 * len(blocks)) if len(blocks) > 1 else 6.2
    return draw(paint, f"{len(VALUES)} lines for 32 weights. {summary}.", width=width, height=3.3)


def _paint_block(axes: Axes, block: Block, top: float) -> None:
    worth = 2.0 ** (block.scale - 127)
    for value in VALUES:
        if abs(value * worth) <= top:
            axes.axhline(value * worth, color=LINE if value else INK, lw=0.6, zorder=1)
            # Labels need a gap; 0.5 and 1.5 never have one.
            if value and (abs(value) >= 4 or (value.is_integer() and worth > 0.09 * top)):
                patch = {"facecolor": PAPER, "edgecolor": "none", "pad": 0.8}
                axes.text(32.6, value * worth, f"{value:g}", va="center", fontsize=7.5, bbox=patch)
    weights, stored, cut = np.asarray(block.weights, np.float64), block.stored, block.cut
    place = np.arange(32)
    axes.vlines(place, weights, stored, color=INK, lw=0.7, zorder=2)
    axes.plot(place, weights, "o", color=INK, markersize=4.5, fillstyle="none", zorder=3)
    axes.plot(place[~cut], stored[~cut], "o", color=BLUE, markersize=3.5, zorder=4)
    axes.plot(place[cut], stored[cut], "X", color=VERMILION, markersize=5.5, zorder=4)
    axes.set_ylim(-top, top)
    axes.set_xlim(-1, 34.5)
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)


def error_bars(errors: Mapping[str, tuple[float, float]]) -> Picture:
    """What formats lose: name -> (bits per weight, relative error), on an axis that begins at 0."""
    names = [f"{name}   ·   {bits:g} bits" for name, (bits, _) in errors.items()]
    losses = [100 * error for _, error in errors.values()]

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for place, (bits, error) in enumerate(errors.values()):
            color = ORANGE if bits < 5 else SKY
            axes.barh(place, 100 * error, color=color, edgecolor=PAPER, height=0.72)
            at = 100 * error + 0.015 * max(*losses, 1)
            axes.text(at, place, _percent(error), va="center", fontsize=9)
        axes.set_xlim(0, 1.15 * max(*losses, 1))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g} %")
        name_rows(axes, names)
        axes.invert_yaxis()
        axes.set_xlabel("length of the error, in percent of the length of the weights")

    summary = "; ".join(
        f"{name}, {bits:g} bits: {_percent(e)}" for name, (bits, e) in errors.items()
    )
    return draw(paint, f"Errors by format. {summary}.", width=8.6, height=0.8 + 0.36 * len(names))


def grid_histograms(scaled: Any, grids: Mapping[str, Sequence[float]]) -> Picture:
    """Where weights lie, in units of their block's scale, and which values a format offers there.

    Bars say how many of 100 weights land on a value; the outline is the weights themselves.
    """
    scaled = np.abs(np.asarray(scaled, np.float64)).ravel()
    shares = {}
    for name, values in grids.items():
        grid = np.unique(np.abs(np.asarray(values, np.float64)))
        nearest = np.abs(scaled[:, None] - grid).argmin(axis=1)
        shares[name] = grid, 100 * np.bincount(nearest, minlength=len(grid)) / scaled.size

    def paint(figure: Figure) -> None:
        panels = small_multiples(figure, len(grids), len(grids), sharey=True)
        for axes, (name, (grid, share)) in zip(panels, shares.items(), strict=True):
            bins = [place / 4 for place in range(33)]
            weights = np.full(scaled.size, 100 / scaled.size)
            axes.hist(scaled, bins, weights=weights, color=PALE, edgecolor=LINE, lw=0.5)
            axes.bar(grid, share, width=0.12, color=BLUE)
            for value, height in zip(grid, share, strict=True):
                axes.text(value, height + 0.6, f"{height:.0f}", ha="center", fontsize=8.5)
            axes.set_title(name, loc="left")
            axes.set_xticks(grid, [f"{value:g}" for value in grid], fontsize=8)
            axes.set_xlabel("size of a weight, in units of its block's scale")
        panels[0].set_ylabel("of 100 weights")

    summary = "; ".join(
        f"{name}: " + ", ".join(f"{s:.0f} on {v:g}" for v, s in zip(grid, share, strict=True))
        for name, (grid, share) in shares.items()
    )
    alt = f"Histograms of weights and the values they are rounded to, of 100 weights. {summary}."
    return draw(paint, alt, width=9.2, height=2.9)


def _percent(error: float) -> str:
    """Two digits, and no more: 12 %, 2.7 %, 0.17 %."""
    if error == 0:
        return "exact"
    digits = max(0, 1 - int(np.floor(np.log10(100 * error))))
    return f"{100 * error:.{digits}f} %"


def memory_rows(rows: Mapping[str, Sequence[tuple[int, int]]]) -> Picture:
    """What one vector instruction meets: per layout the (output, first input) of each byte.

    In the middle the bytes as they lie in memory, above them the inputs that they are multiplied
    with, below them the sums that they are added to. What all share is one wide box.
    """

    def paint(figure: Figure) -> None:
        for axes, (name, owners) in zip(
            small_multiples(figure, len(rows), 1), rows.items(), strict=True
        ):
            axes.set_title(name, loc="left", weight="bold")
            _paint_lane_ends(axes, 2.1, [f"x{first}" for _, first in owners], SKY, (2.1, 1.85))
            for place, (output, first) in enumerate(owners):
                box(axes, place, 1.0, 0.94, 0.85, f"out {output}\nin {first}", PALE)
            _paint_lane_ends(axes, 0.0, [f"y{output}" for output, _ in owners], ORANGE, (0.7, 1.0))
            for y, text in ((2.45, "inputs"), (1.42, "bytes"), (0.35, "sums")):
                axes.text(-0.25, y, text, ha="right", va="center", fontsize=9)
            axes.set_xlim(-1.6, len(owners))
            axes.set_ylim(-0.1, 2.85)
            axes.set_axis_off()

    summary = "; ".join(
        f"{name}: outputs {_spans(o for o, _ in owners)}, inputs"
        f" {_spans(i for _, first in owners for i in (first, first + 1))}"
        for name, owners in rows.items()
    )
    count = max(len(owners) for owners in rows.values())
    alt = f"{count} neighboring bytes in memory. {summary}."
    return draw(paint, alt, width=9.2, height=0.2 + 2.0 * len(rows))


def _paint_lane_ends(
    axes: Axes, y: float, names: Sequence[str], color: str, line: tuple[float, float]
) -> None:
    """What the lanes share as one wide box, or one box each; a line leads to every lane."""
    count, shared = len(names), len(set(names)) == 1
    if shared:
        box(axes, 0, y, count - 0.06, 0.7, f"{names[0]}: the same for all {count}", color)
    for place, name in enumerate(names):
        if not shared:
            box(axes, place, y, 0.94, 0.7, name, color)
        axes.plot([place + 0.47] * 2, line, color=INK, lw=0.9, zorder=1)


def _spans(numbers: Any) -> str:
    low, *_, high = sorted({int(number) for number in numbers} | {-1})[1:] * 2
    return str(low) if low == high else f"{low} to {high}"
