"""The whole model: its plan, what each layer would say, and what the cache holds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gptoss_edu.cache import FullKV, RingKV
from gptoss_edu.config import Config
from gptoss_edu.course.viz.colors import BLUE, GREEN, INK, LINE, ORANGE, PALE, PAPER, SKY, VERMILION
from gptoss_edu.course.viz.look import (
    Axes,
    Figure,
    Picture,
    bare,
    box,
    draw,
    fill,
    name_rows,
    short,
    write,
)


def logit_lens_table(
    logits_LTV: Any, ids_T: Sequence[int], next_T: Sequence[int], ids: Sequence[int]
) -> Picture:
    """What each layer would say if it were the last: the best guess after every layer, per token.

    Row l of `logits_LTV` reads the residual stream after l layers. `ids_T` are the tokens read,
    `next_T` those that came next, both as o200k ids; `ids[v]` is the id of row v.
    """
    logits_LTV = np.asarray(logits_LTV, np.float64)
    L, T, _ = logits_LTV.shape
    exp_LTV = np.exp(logits_LTV - logits_LTV.max(-1, keepdims=True))
    sure_LT = exp_LTV.max(-1) / exp_LTV.sum(-1)
    guess_LT = np.asarray(ids)[logits_LTV.argmax(-1)]
    right_LT = guess_LT == np.asarray(next_T)[None]
    names = ["embedding", *(f"after layer {layer}" for layer in range(L - 1))]

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        shade = axes.imshow(sure_LT, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for layer, step in np.ndindex(L, T):
            guess, right = short(int(guess_LT[layer, step])), right_LT[layer, step]
            color, weight = (
                "white" if sure_LT[layer, step] > 0.6 else INK,
                "bold" if right else None,
            )
            size = 7 if len(guess) < 9 else 6.2  # inside its frame, in bold too
            write(axes, step, layer, guess, fontsize=size, color=color, weight=weight)
            if right:
                frame = {"fill": False, "edgecolor": ORANGE, "linewidth": 2.2}
                fill(axes, step - 0.46, layer - 0.44, 0.92, 0.88, **frame)
        axes.set_yticks(range(L), names)
        axes.set_xticks(range(T), [short(int(token)) for token in ids_T], fontsize=8)
        axes.set_xlabel("token that was read   (orange frame: the guess is what came next)")
        bare(axes)
        bar = figure.colorbar(shade, ax=axes, ticks=[0, 0.5, 1], fraction=0.03, pad=0.01)
        bar.set_label("probability of the guess")

    right = ", ".join(f"{name} {row.sum()}" for name, row in zip(names, right_LT, strict=True))
    alt = f"Table of best guesses by layer and token. Right guesses of {T}: {right}."
    return draw(paint, alt, width=max(6.0, 1.9 + 0.64 * T), height=1.1 + 0.42 * L)


def cache_picture(stores: Sequence[tuple[str, FullKV | RingKV]], row: int = 0) -> Picture:
    """Which position's key lies in which slot: one line per store, one square per slot.

    The newest key is framed, empty slots are blank. `row` picks one prompt of a batch.
    """
    held = [(name, np.asarray(store.position_BS)[row]) for name, store in stores]
    slots, oldest = max(len(p) for _, p in held), max(int(p.max()) for _, p in held)

    def paint(figure: Figure) -> None:
        from matplotlib import colormaps

        axes = figure.subplots()
        for line, (_, position_S) in enumerate(held):
            for slot, position in enumerate(position_S):
                age = position / max(oldest, 1)
                color = colormaps["Blues"](0.15 + 0.75 * age) if position >= 0 else PAPER
                newest = position >= 0 and position == position_S.max()
                style: dict[str, Any] = {
                    "edgecolor": VERMILION if newest else LINE,
                    "lw": 2.5 if newest else 0.8,
                }
                fill(axes, slot + 0.06, line - 0.4, 0.88, 0.8, facecolor=color, **style)
                if position >= 0:
                    ink = "white" if age > 0.6 else INK
                    write(axes, slot + 0.5, line, str(position), color=ink)
        axes.set_xlim(0, slots)
        axes.set_ylim(len(held) - 0.4, -0.6)
        axes.set_yticks(range(len(held)), [name for name, _ in held])
        axes.set_xticks([slot + 0.5 for slot in range(slots)], map(str, range(slots)))
        axes.set_xlabel("slot   (in the square: the position of its key; red frame: the newest)")
        bare(axes)

    alt = "Slots and the positions they hold. " + " ".join(
        f"{name}: {' '.join(str(p) if p >= 0 else '-' for p in position_S)}."
        for name, position_S in held
    )
    return draw(paint, alt, width=max(6.5, 2.2 + 0.36 * slots), height=0.8 + 0.42 * len(held))


def cache_sizes(config: Config, *, bytes_per_number: int = 2) -> Picture:
    """Bytes of one conversation's cache against its length: keys kept everywhere, and with rings.

    Both axes are logarithmic. A layer keeps `num_kv_heads` keys and as many values per token.
    """
    per_key = 2 * config.num_kv_heads * config.head_dim * bytes_per_number
    powers = range(5, int(math.log2(config.max_positions)) + 1)
    tokens_T = np.array([2**power for power in powers])
    windows = [config.window(layer) or config.max_positions for layer in range(config.num_layers)]
    kept = {
        "every key on every layer": per_key * config.num_layers * tokens_T,
        "rings on sliding layers": per_key * sum(np.minimum(tokens_T, W) for W in windows),
    }

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        axes.set_xscale("log", base=2)
        axes.set_yscale("log", base=2)
        for (name, bytes_T), color, style in zip(
            kept.items(), (VERMILION, BLUE), ("--", "-"), strict=True
        ):
            axes.plot(tokens_T, bytes_T, style, color=color, lw=2)
            last = (tokens_T[-1], bytes_T[-1])
            words = f"{name}\n{_size(bytes_T[-1])}"
            place: dict[str, Any] = {"textcoords": "offset points", "va": "center", "fontsize": 9}
            up = 8 if color == VERMILION else -8
            axes.annotate(words, last, (6, up), color=color, **place)
        axes.axvline(config.sliding_window, color=INK, ls=":", lw=1)
        axes.text(
            config.sliding_window, 0.97, f" window {config.sliding_window}", va="top", fontsize=8.5,
            transform=axes.get_xaxis_transform(),
        )  # fmt: skip
        axes.set_xlim(tokens_T[0], tokens_T[-1])
        ticks = tokens_T[::2]
        axes.set_xticks(ticks, [f"{n:,}" for n in ticks], fontsize=8.5)
        axes.yaxis.set_major_formatter(lambda value, _: _size(value))
        axes.minorticks_off()
        axes.grid(color=LINE, alpha=0.3)
        axes.set_xlabel("tokens of the conversation")

    ends = "; ".join(f"{name} {_size(bytes_T[-1])}" for name, bytes_T in kept.items())
    alt = f"Two lines: bytes of the cache from {tokens_T[0]} to {tokens_T[-1]:,} tokens, {ends}."
    return draw(
        paint, f"{alt} They part at the window of {config.sliding_window}.", width=8.4, height=3.2
    )


def _size(number: float) -> str:
    for unit, power in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if number >= 2**power:
            return f"{number / 2**power:.3g} {unit}"
    return f"{number:.0f} B"


def generation_timeline(calls: Mapping[str, Sequence[tuple[str, float]]]) -> Picture:
    """Where the time of a call goes: name -> [("compile", "prefill" or "decode", seconds), ...].

    One panel per call, each with its own clock; every decode step is a box of its own.
    """
    styles = {"compile": (PALE, "///"), "prefill": (SKY, None), "decode": (ORANGE, None)}

    def paint(figure: Figure) -> None:
        panels = figure.subplots(len(calls), 1, squeeze=False)[:, 0]
        for axes, (name, parts) in zip(panels, calls.items(), strict=True):
            begin, drawn = 0.0, set[str]()
            for kind, seconds in parts:
                color, hatch = styles[kind]
                axes.barh(0, 1e3 * seconds, left=1e3 * begin, color=color, hatch=hatch, height=0.7,
                          edgecolor=INK, lw=0.5, label=None if kind in drawn else kind)  # fmt: skip
                drawn.add(kind)
                begin += seconds
            axes.set_xlim(0, 1e3 * begin)
            axes.set_ylim(-0.5, 0.5)
            axes.set_yticks([])
            axes.set_title(name, loc="left")
            axes.spines["left"].set_visible(False)
            axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
        panels[-1].set_xlabel("milliseconds")

    def counted(parts: Sequence[tuple[str, float]]) -> str:
        kinds = [kind for kind, _ in parts]
        return ", ".join(f"{kinds.count(kind)} × {kind}" for kind in dict.fromkeys(kinds))

    rows = "; ".join(f"{name}: {counted(parts)}" for name, parts in calls.items())
    return draw(paint, f"Time lines. {rows}.", width=8.8, height=0.6 + 1.05 * len(calls))


def network_diagram(config: Config) -> Picture:
    """The whole network, left to right: blocks read the residual stream and add to it."""
    c = config
    slides = f"sliding\nattention\nlast {c.sliding_window} keys"
    full = "full\nattention\nevery key"
    experts = f"experts\n{c.experts_per_token} of {c.num_experts}\nper token"

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        stream = {"arrowstyle": "->", "lw": 2}
        axes.annotate("", (11.6, 0.3), (0, 0.3), arrowprops=stream, zorder=1)
        box(axes, 0.15, -0.15, 1.35, 0.9, f"embed\n{c.vocab_size:,} rows\nof {c.hidden_size}", SKY)
        for left, title, attends in ((1.8, "even layer", slides), (5.1, "odd layer", full)):
            frame = {"facecolor": "none", "edgecolor": LINE, "linestyle": "--"}
            fill(axes, left, -0.15, 3.15, 2.65, **frame)
            write(axes, left + 1.58, 2.3, title, weight="bold")
            _branch(axes, left + 0.15, attends, ORANGE)
            _branch(axes, left + 1.7, experts, GREEN)
        box(axes, 8.5, -0.02, 0.95, 0.64, "norm", PALE)
        box(axes, 9.75, -0.15, 1.35, 0.9, f"unembed\n{c.vocab_size:,}\nlogits", SKY)
        repeat = f"{c.num_layers} layers in turn: even, odd, even, odd …"
        write(axes, 5.0, -0.4, repeat)
        axes.set_xlim(0, 11.7)
        axes.set_ylim(-0.6, 2.6)
        axes.set_axis_off()

    alt = (
        f"The network: embed {c.vocab_size:,} rows of {c.hidden_size}; {c.num_layers} layers, each"
        f" adding first attention (over the last {c.sliding_window} keys on even layers, over every"
        f" key on odd ones), then {c.experts_per_token} of {c.num_experts} experts, each reading"
        f" the stream through a norm; a last norm; {c.vocab_size:,} logits."
    )
    return draw(paint, alt, width=9.2, height=2.6)


def _branch(axes: Axes, left: float, text: str, color: str) -> None:
    """A block beside the residual stream: it reads through a norm, and its answer is added."""
    arrow = {"arrowstyle": "->", "lw": 1.2}
    axes.annotate("", (left + 0.25, 1.12), (left + 0.25, 0.3), arrowprops=arrow)
    axes.annotate("", (left + 1.1, 0.38), (left + 1.1, 1.12), arrowprops=arrow)
    axes.text(left + 0.31, 0.72, "norm", va="center", fontsize=8.5)
    box(axes, left, 1.12, 1.35, 0.9, text, color)
    axes.plot(left + 1.1, 0.3, "o", color=PAPER, markeredgecolor=INK, markersize=13, zorder=3)
    write(axes, left + 1.1, 0.29, "+", weight="bold", zorder=4)


WORDS = {False: ("● same text", BLUE, "o"), True: ("✖ other text", VERMILION, "X")}


def difference_bars(
    changes: Mapping[str, tuple[float, bool]],
    *,
    unit: str,
    tolerance: float = 1e-4,
    margin: float | None = None,
) -> Picture:
    """How far each change moved a result: name -> (distance, did another text come out?).

    One dot per change on a logarithmic axis, with its value; a distance of 0 has no place there and
    is written at the left. `tolerance` is a line: what the tests of the course allow. `margin`, the
    smallest gap between the two likeliest tokens, gives a second line at its half: two logits that
    move by less cannot change places.
    """
    lines = {f"tolerance\n{_value(tolerance)}": tolerance}
    if margin is not None:
        lines[f"half the smallest\nmargin: {_value(margin / 2)}"] = margin / 2
    known = [*lines.values(), *(distance for distance, _ in changes.values() if distance > 0)]
    low, high = min(known) / 3, max(known) * 5

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        axes.set_xscale("log")
        for place, (distance, other) in enumerate(changes.values()):
            _change(axes, place, distance, low, WORDS[other])
        for words, at in lines.items():
            axes.axvline(at, color=INK, ls="--", lw=1.1, zorder=2)
            axes.text(at, -0.75, words, ha="center", va="bottom", fontsize=8.5)
        axes.set_xlim(low, high)
        powers = range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)
        axes.set_xticks([10.0**power for power in powers])
        axes.xaxis.set_major_formatter(lambda value, _: _value(value))
        axes.minorticks_off()
        name_rows(axes, list(changes))
        axes.set_ylim(len(changes) - 0.4, -0.7)
        axes.set_xlabel(unit)

    def said(distance: float) -> str:  # small ones are rounding, and differ between machines
        if distance <= tolerance:
            return "within the tolerance"
        if distance > 100 * tolerance:
            return f"about {_value(distance, 1)}"
        return f"under {_value(10.0 ** math.ceil(math.log10(distance)))}"

    summary = "; ".join(f"{n}: {said(d)}, {WORDS[o][0][2:]}" for n, (d, o) in changes.items())
    alt = f"Dots: {unit}, tolerance {_value(tolerance)}. {summary}."
    return draw(paint, alt, width=8.4, height=1.25 + 0.34 * len(changes))


def _change(
    axes: Axes, place: int, distance: float, low: float, look: tuple[str, str, str]
) -> None:
    """One row of `difference_bars`: dot, value, and what became of the text."""
    words, color, marker = look
    axes.axhline(place, color=LINE, lw=0.6, alpha=0.5, zorder=1)
    at = distance if distance > 0 else low
    if distance > 0:
        axes.plot(at, place, marker, color=color, markersize=9, zorder=3)
    ground = {"facecolor": PAPER, "edgecolor": "none", "pad": 1}
    style: dict[str, Any] = {"va": "center", "fontsize": 9.5}
    value = _value(distance)
    axes.annotate(value, (at, place), (8, 0), textcoords="offset points", bbox=ground, **style)
    right = axes.get_yaxis_transform()  # across as a share of the axis, down in rows
    axes.text(1.02, place, words, transform=right, color=color, **style)


def _value(number: float, digits: int = 2) -> str:
    """A number with few digits: 24, 0.86, 3.8 · 10⁻⁶, 0."""
    number = float(f"{number:.{digits}g}")
    if number == 0 or 1e-3 <= abs(number) < 1e4 or not math.isfinite(number):
        return f"{number:g}"
    mantissa, power = f"{number:.{digits - 1}e}".split("e")
    raised = str(int(power)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    mantissa = f"{float(mantissa):g}"
    return f"10{raised}" if mantissa == "1" else f"{mantissa} · 10{raised}"
