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

    With `bits`, each value of the first line carries its codes in so many binary digits.
    """
    largest = max(abs(value) for values in grids.values() for value in values)

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for row, (name, values) in enumerate(grids.items()):
            axes.plot([-largest, largest], [-row, -row], color=LINE, lw=1, zorder=1)
            axes.plot(values, [-row] * len(values), "o", color=BLUE, markersize=7, zorder=2)
            axes.text(-1.16 * largest, -row, name, ha="right", va="center")
            for value in sorted({float(value) for value in values}):
                axes.text(value, -row - 0.17, f"{value:.3g}", ha="center", va="top", fontsize=8.5)
                if row == 0 and bits:
                    codes = [f"{code:0{bits}b}" for code, v in enumerate(values) if v == value]
                    style: dict[str, Any] = {
                        "fontsize": 7.5,
                        "rotation": 90,
                        "fontfamily": "DejaVu Sans Mono",
                    }
                    axes.text(value, 0.17, "\n".join(codes), ha="center", va="bottom", **style)
        axes.set_xlim(-1.5 * largest, 1.1 * largest)
        axes.set_ylim(0.5 - len(grids), 0.95 if bits else 0.3)
        axes.set_axis_off()

    summary = "; ".join(
        f"{name}: {' '.join(f'{value:.3g}' for value in sorted(set(np.add(values, 0.0).tolist())))}"
        for name, values in grids.items()
    )
    height = 0.35 + 0.6 * len(grids) + (0.5 if bits else 0)
    return draw(paint, f"Number lines. {summary}.", width=9.0, height=height)


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
    """What formats lose, on a logarithmic axis: name -> (bits per weight, relative error).

    A format whose error is zero has no bar, and is said to be exact.
    """
    names = list(errors)
    losses = [error for _, error in errors.values()]
    floor = min([error for error in losses if error > 0], default=1e-3) / 3

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for place, (bits, error) in enumerate(errors.values()):
            color, hatch = (ORANGE, "///") if bits < 5 else (SKY, None)
            axes.barh(place, max(error, floor), color=color, hatch=hatch, edgecolor=PAPER)
            summary = f"{_percent(error)}   ({bits:g} bits)"
            axes.text(max(error, floor) * 1.12, place, summary, va="center", fontsize=9)
        axes.set_xscale("log")
        axes.set_xlim(floor, 8 * max(*losses, 3 * floor))
        axes.set_xticks([tick for tick in (0.001, 0.01, 0.1, 1) if floor <= tick])
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.3g}"[:6] if value < 1 else "1")
        axes.minorticks_off()
        name_rows(axes, names)
        axes.invert_yaxis()
        axes.set_xlabel("error, as a part of the weights (hatched: below 5 bits per weight)")

    summary = "; ".join(
        f"{name}, {bits:g} bits: {_percent(e)}" for name, (bits, e) in errors.items()
    )
    return draw(paint, f"Errors by format. {summary}.", width=8.6, height=0.8 + 0.36 * len(names))


def _percent(error: float) -> str:
    """Two digits, and no more: 12 %, 2.7 %, 0.17 %."""
    if error == 0:
        return "exact"
    digits = max(0, 1 - int(np.floor(np.log10(100 * error))))
    return f"{100 * error:.{digits}f} %"


def memory_rows(rows: Mapping[str, Sequence[tuple[int, int]]]) -> Picture:
    """What lies side by side in memory: per layout the (output, first input) of each byte.

    A byte holds the weights of two inputs. The cells of one output have one color, and their
    number says it, too.
    """
    colors = (SKY, ORANGE, PALE)

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for row, (name, owners) in enumerate(rows.items()):
            axes.text(0, 0.62 - 1.75 * row, name, weight="bold")
            for place, (output, first) in enumerate(owners):
                style: dict[str, Any] = {
                    "facecolor": colors[output % 3],
                    "edgecolor": INK,
                    "lw": 0.6,
                }
                fill(axes, place, -0.5 - 1.75 * row, 0.96, 0.96, **style)
                summary = f"out {output}\nin {first}\n  {first + 1}"
                write(axes, place + 0.48, -0.02 - 1.75 * row, summary, fontsize=7.5)
        axes.set_xlim(-0.1, max(len(owners) for owners in rows.values()) + 0.1)
        axes.set_ylim(1.1 - 1.75 * len(rows), 1.0)
        axes.set_axis_off()

    summary = "; ".join(
        f"{name}: outputs {_spans(o for o, _ in owners)}, inputs"
        f" {_spans(i for _, first in owners for i in (first, first + 1))}"
        for name, owners in rows.items()
    )
    count = max(len(owners) for owners in rows.values())
    alt = f"{count} neighboring bytes in memory. {summary}."
    return draw(paint, alt, width=9.0, height=0.1 + 0.95 * len(rows))


def _spans(numbers: Any) -> str:
    low, *_, high = sorted({int(number) for number in numbers} | {-1})[1:] * 2
    return str(low) if low == high else f"{low} to {high}"
