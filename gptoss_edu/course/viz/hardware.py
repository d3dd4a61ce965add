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
    PINK,
    SKY,
    VERMILION,
)
from gptoss_edu.course.viz.look import Axes, Figure, Picture, draw, fill, name_rows, write

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


def tpu_chip() -> Picture:
    """One TPU v5e from its memory to its multiplier, with what flows between them and how wide."""
    boxes = (
        ("HBM", "16 GB: weights,\nkeys and values", SKY),
        ("VMEM", "128 MiB: the part that\nis computed with now", PALE),
        ("4 MXUs", "each 128 × 128 cells:\nmultiply and add", ORANGE),
        ("VMEM", "sums in float32; the vector\nunit adds, scales, exp", PALE),
    )
    flows = ("819 GB/s", "about 20 times\nas fast", "197 Top/s,\nin bf16")

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for place, (name, text, color) in enumerate(boxes):
            left = 3.1 * place
            fill(axes, left, 0, 2.1, 2, facecolor=color, edgecolor=INK, lw=0.8)
            write(axes, left + 1.05, 1.5, name, fontsize=12, fontweight="bold")
            write(axes, left + 1.05, 0.7, text, fontsize=7.5)
        for place, text in enumerate(flows):
            at = 3.1 * place + 2.1
            arrow = {"arrowstyle": "-|>", "color": INK, "lw": 1.6}
            axes.annotate("", (at + 1, 1), (at, 1), arrowprops=arrow)
            write(axes, at + 0.5, 1.5, text, fontsize=8)
        axes.set_xlim(-0.1, 11.5)
        axes.set_ylim(-0.15, 2.15)
        axes.axis("off")

    alt = (
        "A TPU v5e, from left to right. HBM, 16 GB, holds weights, keys and values; 819 GB/s lead"
        " to VMEM, 128 MiB, for the part that is computed with now; four MXUs of 128 by 128 cells"
        " multiply and add bf16 numbers, 197 Top/s; sums in float32 come back to VMEM, where the"
        " vector unit works on them."
    )
    return draw(paint, alt, width=9.5, height=2)


def roofline_plot(chips: Mapping[str, tuple[float, float]], points: Mapping[str, float]) -> Picture:
    """Rooflines: chip -> (bytes per second, operations per second), and points: name -> operations
    per byte. Left of a chip's ridge it waits for memory, right of it for its multipliers.
    """
    ridges = {name: flops / rate for name, (rate, flops) in chips.items()}
    colors, dashes = (BLUE, VERMILION, GREEN, PINK, INK), ("-", "--", "-.", ":", "-")

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        xs = [*points.values(), *ridges.values()]
        span = np.geomspace(min(xs) / 2, max(xs) * 3, 200)
        for (name, (rate, flops)), color, dash in zip(chips.items(), colors, dashes, strict=False):
            axes.plot(span, np.minimum(rate * span, flops) / 1e12, dash, color=color, lw=1.6)
            axes.text(span[-1] * 1.08, flops / 1e12, name, color=color, va="center", fontsize=9)
            axes.plot(ridges[name], flops / 1e12, "^", color=color)
            axes.text(ridges[name], flops / 1e12 * 1.2, f"{ridges[name]:.0f}", ha="center")
            at = np.array(list(points.values()))
            axes.plot(at, np.minimum(rate * at, flops) / 1e12, "o", color=color, ms=5)
        low = min(rate for rate, _ in chips.values()) * span[0] / 1e12
        for name, place in points.items():
            axes.axvline(place, color=LINE, lw=0.6, zorder=0)
            axes.text(place * 1.05, low, name, rotation=90, va="bottom", fontsize=8)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(span[0], span[-1] * 3)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.minorticks_off()
        axes.set_xlabel("arithmetic intensity: operations per byte read   (triangle: the ridge)")
        axes.set_ylabel("tera-operations per second, at most")

    summary = "; ".join(
        f"{name}: ridge at {ridges[name]:.0f} operations per byte; "
        + ", ".join(f"{p} {min(rate * x, flops) / 1e12:.3g}" for p, x in points.items())
        for name, (rate, flops) in chips.items()
    )
    return draw(paint, f"Rooflines, in tera-operations per second. {summary}.", width=8, height=4)


def near_ties(margins: Sequence[float], shifts: Mapping[str, Sequence[float]]) -> Picture:
    """Can a rounding change the answer? Each dot is a place: right, how far the likeliest token is
    ahead of the second in the reference; up, how far a format moves the two against each other.
    """
    styles = ((VERMILION, "o"), (BLUE, "s"), (GREEN, "^"), (PINK, "D"))
    floor = 1e-6

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        moved = [max(value, floor) for values in shifts.values() for value in values]
        for (name, values), (color, mark) in zip(shifts.items(), styles, strict=False):
            ys = np.maximum(values, floor)
            axes.plot(margins, ys, mark, color=color, ms=4, alpha=0.7, label=name)
        ends = [min(min(margins), min(moved)) / 2, max(max(margins), max(moved)) * 2]
        axes.plot(ends, ends, color=INK, lw=1)
        axes.fill_between(ends, ends, [ends[1]] * 2, color=PALE, zorder=0)
        note = "above the line another\ntoken can become likeliest"
        axes.text(0.02, 0.97, note, transform=axes.transAxes, va="top")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(min(margins) / 1.5, max(margins) * 1.5)
        axes.set_ylim(min(moved) / 2, max(moved) * 20)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.minorticks_off()
        axes.set_xlabel("margin of the likeliest token, in nats")
        axes.set_ylabel("moved by the format, in nats")
        axes.legend(frameon=False, loc="lower right")

    summary = "; ".join(
        f"{name}: {sum(v >= m for v, m in zip(values, margins, strict=True))} of {len(margins)}"
        for name, values in shifts.items()
    )
    alt = (
        f"Places where a format moves the two likeliest tokens by at least their margin. {summary}."
    )
    return draw(paint, alt, width=7, height=3.6)


def timeline(replies: Mapping[str, Mapping[str, float]]) -> Picture:
    """What a reply's seconds were spent on, in order: reply -> part -> seconds."""
    parts = dict.fromkeys(part for reply in replies.values() for part in reply)
    looks = ((PALE, "..."), (ORANGE, "///"), (SKY, None), (PINK, "xx"))
    styles: dict[str, Style] = dict(zip(parts, looks, strict=False))
    summaries = {
        name: ", ".join(f"{part} {seconds:.2f} s" for part, seconds in reply.items())
        for name, reply in replies.items()
    }

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        most = max(sum(reply.values()) for reply in replies.values())
        for place, (name, reply) in enumerate(replies.items()):
            _stack(axes, place, reply, styles)
            axes.text(0, place + 0.42, summaries[name], fontsize=8.5, va="center")
        axes.set_xlim(0, 1.05 * most)
        axes.set_ylim(len(replies) - 0.4, -0.6)
        name_rows(axes, replies)
        axes.set_xlabel("seconds since the question")
        figure.legend(loc="outside upper right", ncols=len(parts), frameon=False)

    alt = "; ".join(f"{name}: {summary}" for name, summary in summaries.items())
    return draw(paint, f"Seconds of replies. {alt}.", width=9, height=1.3 + 0.5 * len(replies))


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
    arrays: Mapping[str, tuple[Sequence[int], Sequence[str | None]]],
    mesh: Mapping[str, int],
    sums: Mapping[str, Sequence[str]] | None = None,
) -> Picture:
    """Who holds what: name -> (shape, mesh axis of each axis or None), mesh axis -> devices.

    Each array is drawn on the grid of devices, a square each with the part that it holds. `sums`
    says along which sides of the mesh the products with an array are added: arrows.
    """
    columns, rows = mesh.get("tensor", 1), mesh.get("expert", 1)
    sums, colors = sums or {}, (SKY, ORANGE, GREEN, PINK)

    def paint(figure: Figure) -> None:
        grid = figure.subplots(1, len(arrays), squeeze=False)[0]
        for axes, (name, (shape, _)) in zip(grid, arrays.items(), strict=True):
            for column in range(columns):
                for row in range(rows):
                    text, number = _part(
                        name, arrays[name], mesh, {"tensor": column, "expert": row}
                    )
                    color = PALE if number < 0 else colors[number % len(colors)]
                    fill(axes, column, row, 0.92, 0.92, facecolor=color, edgecolor=INK, lw=0.6)
                    write(axes, column + 0.46, row + 0.46, text, fontsize=6.5)
            both: dict[str, Any] = {"arrowprops": {"arrowstyle": "<|-|>", "color": VERMILION}}
            if "tensor" in sums.get(name, ()):
                axes.annotate("", (columns, rows + 0.15), (0, rows + 0.15), **both)
            if "expert" in sums.get(name, ()):
                axes.annotate("", (columns + 0.1, rows), (columns + 0.1, 0), **both)
            axes.set_title(f"{name}\n{' × '.join(f'{size:,}' for size in shape)}", fontsize=9)
            axes.set_xlim(-0.1, columns + 0.3)
            axes.set_ylim(rows + 0.4, -0.1)
            axes.axis("off")
        figure.supxlabel(
            f"a square is a device; {columns} along tensor, {rows} along expert; red: sums",
            fontsize=9,
        )

    summary = "; ".join(
        f"{name}: "
        + (" and ".join(f"cut along {axis}" for axis in spec if axis) or "whole on every device")
        + "".join(f", products added along {axis}" for axis in sums.get(name, ()))
        for name, (_, spec) in arrays.items()
    )
    alt = f"Parts of arrays on {columns * rows} devices. {summary}."
    return draw(paint, alt, width=9.6, height=1.1 + 0.62 * rows)


def _part(
    name: str,
    array: tuple[Sequence[int], Sequence[str | None]],
    mesh: Mapping[str, int],
    device: Mapping[str, int],
) -> tuple[str, int]:
    """What of an array a device holds, in words, and a number for its color; -1 for all of it."""
    found, number = [], -1
    for letter, size, axis in zip(name.rsplit("_", 1)[-1], *array, strict=True):
        if axis is not None and mesh.get(axis, 1) > 1:
            each = size // mesh[axis]
            begin = device[axis] * each
            dash = "–\n" if each > 99 else "–"
            found.append(f"{letter} {begin}{dash}{begin + each - 1}")
            number = device[axis] if axis == "tensor" or number < 0 else number
    return "\n".join(found) or "whole", number


def tile_order(inputs: int = 3, outputs: int = 8, width: int = 4) -> Picture:
    """The numbers of a small matrix in the order in which they lie in memory: by rows, and in tiles
    of `width` outputs. What the first of two cores needs has a color: its jumps are the gaps.
    """
    rows = np.arange(inputs * outputs)
    tiles = rows.reshape(inputs, outputs // width, width).swapaxes(0, 1).ravel()
    orders = {"by rows": rows, f"in tiles of {width}": tiles}
    mine = {name: order % outputs < outputs // 2 for name, order in orders.items()}
    jumps = {name: int((np.diff(np.flatnonzero(of)) > 1).sum()) for name, of in mine.items()}

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for line, (name, order) in enumerate(orders.items()):
            for place, number in enumerate(order.tolist()):
                color, hatch = (ORANGE, None) if mine[name][place] else (PALE, "...")
                style = {"facecolor": color, "hatch": hatch, "edgecolor": INK, "lw": 0.5}
                fill(axes, place, 1.4 * line, 0.94, 0.9, **style)
                write(axes, place + 0.47, 1.4 * line + 0.45, str(number), fontsize=9)
            axes.text(0, 1.4 * line - 0.12, f"{name}: core 1 jumps {jumps[name]} times")
        axes.set_xlim(-0.2, len(rows) + 0.2)
        axes.set_ylim(2.6, -0.6)
        axes.axis("off")
        figure.supxlabel("from left to right: memory; plain boxes: needed by core 1", fontsize=9)

    summary = "; ".join(f"{name}, core 1 jumps {count} times" for name, count in jumps.items())
    alt = f"A matrix of {inputs} inputs and {outputs} outputs in memory: {summary}."
    return draw(paint, alt, width=9, height=1.9)
