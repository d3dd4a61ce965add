"""Machines: what has to lie in their memory, how fast they can be, and who holds which part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gptoss_edu.chips.fit import GIB, Ledger
from gptoss_edu.course.viz.colors import (
    BLUE,
    GREEN,
    INK,
    LINE,
    ORANGE,
    PALE,
    PAPER,
    PINK,
    SKY,
    VERMILION,
)
from gptoss_edu.course.viz.look import Axes, Figure, Picture, bare, draw, fill, name_rows, write

Style = tuple[str, str | None]  # color and hatch
PARTS: dict[str, Style] = {
    "weights": (SKY, None),
    "cache": (ORANGE, "///"),
    "workspace": (PALE, "..."),
}


def format_lines(grids: Mapping[str, Sequence[float]]) -> Picture:
    """The values that formats can write, from zero to their largest, which lands on 1: name ->
    values. A stroke per value; beside each line, how many of them lie in the lowest tenth.
    """
    shares = {name: np.sort(values) / max(values) for name, values in grids.items()}
    low = {name: sum(share < 0.1 for share in found) for name, found in shares.items()}

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        axes.axvspan(0, 0.1, color=PALE, lw=0)
        for row, (name, found) in enumerate(shares.items()):
            axes.vlines(found, row - 0.3, row + 0.3, color=BLUE, lw=1.1)
            summary = f"{len(found)} values,\n{low[name]} below a tenth"
            axes.text(1.03, row, summary, va="center", fontsize=9)
        axes.set_xlim(-0.01, 1.26)
        axes.set_ylim(len(shares) - 0.5, -0.6)
        name_rows(axes, shares)
        axes.set_xticks([0, 0.1, 0.25, 0.5, 0.75, 1], ["0", "0.1", "0.25", "0.5", "0.75", "1"])
        axes.set_xlabel("share of the largest value that the format can write")

    summary = "; ".join(f"{n}: {len(s)} values, {low[n]} below a tenth" for n, s in shares.items())
    alt = f"Positive values of formats, the largest at 1. {summary}."
    return draw(paint, alt, width=9, height=0.8 + 0.55 * len(shares))


def memory_ledger(ledgers: Mapping[str, Ledger]) -> Picture:
    """One bar per plan: what it puts on a device, and a line where the device is full."""

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        most = max(max(entry.total, entry.available) for entry in ledgers.values()) / GIB
        for place, entry in enumerate(ledgers.values()):
            sizes = {name: getattr(entry, name) / GIB for name in PARTS}
            left = _stack(axes, place, sizes, PARTS)
            full = entry.available / GIB
            axes.plot([full, full], [place - 0.42, place + 0.42], color=VERMILION, lw=3)
            verdict = "fits" if entry.fits else "does not fit"
            summary = f"{entry.total / GIB:.1f} of {full:.1f}: {verdict}"
            axes.text(max(left, full) + 0.015 * most, place, summary, va="center", fontsize=9)
        axes.set_xlim(0, 1.3 * most)
        axes.set_ylim(len(ledgers) - 0.5, -0.6)
        name_rows(axes, ledgers)
        axes.set_xlabel("GiB on one device   (thick line: the device is full)")
        figure.legend(loc="outside upper right", ncols=3, frameon=False)

    summary = "; ".join(
        f"{name}: {e.total / GIB:.1f} of {e.available / GIB:.1f} GiB,"
        f" {'fits' if e.fits else 'does not fit'}"
        for name, e in ledgers.items()
    )
    alt = f"Memory on one device. {summary}."
    return draw(paint, alt, width=9, height=1.3 + 0.42 * len(ledgers))


def _stack(
    axes: Axes, place: int, sizes: Mapping[str, float], styles: Mapping[str, Style]
) -> float:
    """A bar in pieces, each named the first time; returns where it ends."""
    left = 0.0
    for name, (color, hatch) in styles.items():
        size, named = sizes.get(name, 0), name if place == 0 else None
        style: dict[str, Any] = {"color": color, "hatch": hatch, "edgecolor": INK, "lw": 0.6}
        axes.barh(place, size, 0.6, left=left, label=named, **style)
        left += size
    return left


def roofline_plot(bandwidths: Mapping[str, float], formats: Mapping[str, float]) -> Picture:
    """Ceilings in tokens per second: machine -> bytes per second, format -> bytes per token.

    Both axes are logarithmic, so each machine is a straight line: half the bytes, twice the speed.
    """
    marks, colors = ("o", "s", "^", "D", "v", "P"), (BLUE, VERMILION, GREEN, PINK, ORANGE, INK)
    sizes = sorted(formats.values())

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        span = [sizes[0] / 1.4 / 1e9, sizes[-1] * 1.4 / 1e9]
        for (name, rate), mark, color in zip(bandwidths.items(), marks, colors, strict=False):
            axes.plot(span, [rate / x / 1e9 for x in span], color=color, lw=1)
            at = [size / 1e9 for size in formats.values()]
            axes.plot(at, [rate / x / 1e9 for x in at], mark, color=color, markersize=7)
            axes.text(span[1] * 1.03, rate / span[1] / 1e9, name, va="center", color=INK)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(span[0], span[1] * 1.45)
        shown = [f"{name}\n{size / 1e9:.1f} GB" for name, size in formats.items()]
        axes.set_xticks([size / 1e9 for size in formats.values()], shown)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.minorticks_off()
        axes.grid(axis="y", color=LINE, lw=0.3)
        axes.set_xlabel("read for one token")
        axes.set_ylabel("tokens per second, at most")

    summary = "; ".join(
        f"{machine}: " + ", ".join(f"{name} {rate / size:.0f}" for name, size in formats.items())
        for machine, rate in bandwidths.items()
    )
    alt = f"Ceilings on tokens per second by machine and format. {summary}."
    return draw(paint, alt, width=8, height=4)


def token_bytes(rows: Mapping[str, Mapping[str, float]], unit: float = 1e9) -> Picture:
    """What is read to write one token: row -> part -> bytes. A bar per row, a piece per part."""
    name = "GB" if unit == 1e9 else "MB"
    parts = dict.fromkeys(part for row in rows.values() for part in row)
    looks = ((SKY, None), (ORANGE, "///"), (GREEN, "..."), (PALE, None), (PINK, "xx"))
    styles: dict[str, Style] = dict(zip(parts, looks, strict=False))

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        most = max(sum(row.values()) for row in rows.values()) / unit
        for place, row in enumerate(rows.values()):
            left = _stack(axes, place, {part: row[part] / unit for part in row}, styles)
            axes.text(left + 0.015 * most, place, f"{left:.2f}", va="center", fontsize=9)
        axes.set_xlim(0, 1.12 * most)
        axes.set_ylim(len(rows) - 0.5, -0.6)
        name_rows(axes, rows)
        axes.set_xlabel(f"{name} read for one token")
        figure.legend(loc="outside upper right", ncols=len(parts), frameon=False)

    summary = "; ".join(
        f"{row}: {sum(found.values()) / unit:.2f} {name}, of which "
        + ", ".join(f"{part} {size / unit:.2f}" for part, size in found.items())
        for row, found in rows.items()
    )
    return draw(paint, f"Read for one token. {summary}.", width=9, height=1.3 + 0.42 * len(rows))


def sharding_map(
    arrays: Mapping[str, tuple[Sequence[int], Sequence[str | None]]], mesh: Mapping[str, int]
) -> Picture:
    """Who holds what: name -> (shape, mesh axis of each axis or None), mesh axis -> devices.

    A row per array, a square per device; what stands in the square is its part of the array.
    """
    devices = [(a, b) for a in range(mesh.get("tensor", 1)) for b in range(mesh.get("expert", 1))]

    def part(spec: Sequence[str | None], device: tuple[int, int]) -> tuple[str, int]:
        place = dict(zip(("tensor", "expert"), device, strict=True))
        used = [axis for axis in spec if axis is not None and mesh.get(axis, 1) > 1]
        number = sum(place[axis] * (10 if axis == "expert" else 1) for axis in used)
        summary = " ".join(f"{axis[0]}{place[axis]}" for axis in used)
        return summary or "all", number if used else -1

    def paint(figure: Figure) -> None:
        axes, colors = figure.subplots(), (SKY, ORANGE, GREEN, PINK)
        for row, (_, spec) in enumerate(arrays.values()):
            for column, device in enumerate(devices):
                summary, number = part(spec, device)
                color = PALE if number < 0 else colors[number % 10 % len(colors)]
                place = column + 0.04, row - 0.38, 0.92, 0.76
                fill(axes, *place, facecolor=color, edgecolor=INK, lw=0.6)
                write(axes, column + 0.5, row, summary, fontsize=8.5)
        axes.set_xlim(0, len(devices))
        axes.set_ylim(len(arrays) - 0.4, -0.6)
        names = [
            f"{name}  [{', '.join(f'{size:,}' for size in shape)}]"
            for name, (shape, _) in arrays.items()
        ]
        axes.set_yticks(range(len(arrays)), names)
        columns = range(len(devices))
        axes.set_xticks([column + 0.5 for column in columns], map(str, columns))
        axes.set_xlabel("device   (t3: part 3 along the mesh axis tensor; all: a whole copy)")
        axes.set_facecolor(PAPER)
        bare(axes)

    summary = "; ".join(
        f"{name}: "
        + (" and ".join(f"cut along {axis}" for axis in spec if axis) or "whole on every device")
        for name, (_, spec) in arrays.items()
    )
    alt = f"Parts of arrays on {len(devices)} devices. {summary}."
    return draw(paint, alt, width=9, height=0.9 + 0.4 * len(arrays))
