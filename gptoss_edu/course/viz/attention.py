"""Attention: shares of one softmax, maps with the sink column, masks, and heads that share keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gptoss_edu.course.viz.colors import BLUE, INK, LINE, ORANGE, PALE, PAPER, SKY, VERMILION
from gptoss_edu.course.viz.look import (
    Axes,
    Figure,
    Picture,
    bare,
    draw,
    fill,
    name_rows,
    short,
    small_multiples,
    write,
)

HIDDEN = "#cfcbc2"  # gray: no share of attention has this shade
SINK_HATCH = "////"  # the sink is told apart from the keys by its hatching, not by color alone


def attention_shares(rows: Mapping[str, tuple[Sequence[float], float]]) -> Picture:
    """Bars of one unit each: how much of it goes to every key, and how much to the sink.

    `rows` maps a title to (weights_S, sink mass).
    """

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for place, (weights_S, sink) in enumerate(rows.values()):
            left = 0.0
            for number, share in enumerate([*weights_S, sink]):
                is_sink = number == len(weights_S)
                color, hatch = (ORANGE, SINK_HATCH) if is_sink else (SKY, None)
                style: dict[str, Any] = {
                    "color": color,
                    "hatch": hatch,
                    "edgecolor": PAPER,
                    "lw": 2,
                }
                axes.barh(place, share, left=left, height=0.62, **style)
                name = "sink" if is_sink else f"key {number + 1}"
                if share > 0.04:
                    patch = (
                        {"facecolor": ORANGE, "edgecolor": "none", "pad": 1} if is_sink else None
                    )
                    size = 8.5 if share > 0.07 else 7
                    text = f"{name}\n{share:.0%}"
                    write(axes, left + share / 2, place, text, fontsize=size, bbox=patch)
                left += share
        name_rows(axes, rows)
        axes.invert_yaxis()
        axes.set_xlim(0, 1)
        axes.set_xticks([0, 0.5, 1], ["0", "50 %", "100 %"])
        axes.spines[["left"]].set_visible(False)
        axes.set_xlabel("one unit of attention")

    summary = "; ".join(
        f"{title}: keys {', '.join(f'{share:.0%}' for share in weights_S)}, sink {sink:.0%}"
        for title, (weights_S, sink) in rows.items()
    )
    alt = f"Bars of one unit of attention. {summary}."
    return draw(paint, alt, width=8.4, height=0.7 + 0.62 * len(rows))


def attention_maps(
    maps: Mapping[str, tuple[Any, Any, Any]], *, columns: int = 2, ids_S: Sequence[int] = ()
) -> Picture:
    """Whole heads as heat maps: one row per query, one column per key, and before them the sink.

    `maps` maps a title to (weights_TS, sink_T, mask_TS); what the mask hides is gray. Shades follow
    the square root of a share, so that faint attention is visible, too. With the o200k ids of the
    tokens, `ids_S`, the keys that are read most are named.
    """
    maps = {t: (np.asarray(w), np.asarray(s), np.asarray(m)) for t, (w, s, m) in maps.items()}
    columns = min(columns, len(maps))
    rows = -(-len(maps) // columns)

    def paint(figure: Figure) -> None:
        panels = small_multiples(figure, len(maps), columns)
        for axes, (title, arrays) in zip(panels, maps.items(), strict=True):
            shade = _map(axes, *arrays)
            axes.set_title(title, loc="left", pad=34 if ids_S else None)
            for key in _most_read(*arrays) if ids_S else []:
                style: dict[str, Any] = {"fontsize": 8, "rotation": 40, "ha": "left"}
                axes.plot([key + 0.5] * 2, [-0.5, 0], color=INK, lw=0.8, clip_on=False)
                axes.text(key, -1.5, short(int(ids_S[key])), **style)
        bar = figure.colorbar(shade, ax=figure.axes, fraction=0.025, pad=0.015)
        bar.set_ticks([0, 0.01, 0.1, 0.3, 1], labels=["0", "1 %", "10 %", "30 %", "100 %"])
        bar.set_label("share of attention (the sink in orange)")

    summary = "; ".join(
        f"{title}: the sink gets {sink_T.mean():.0%} on average, {sink_T.max():.0%} at most"
        for title, (_, sink_T, _) in maps.items()
    )
    alt = f"Attention maps, queries down, keys to the right, sink at the left. {summary}."
    height = 0.3 + (4.0 if ids_S else 3.6) * rows
    return draw(paint, alt, width=4.3 * columns + 0.6, height=height)


def _most_read(
    weights_TS: np.ndarray, sink_T: np.ndarray, mask_TS: np.ndarray, count: int = 4
) -> list[int]:
    """The keys that get the most attention, on average over those that see them; none too close."""
    seen_S = mask_TS.sum(0)
    mean_S = np.where(seen_S > 8, weights_TS.sum(0) / np.maximum(seen_S, 1), 0)
    found: list[int] = []
    for key in np.argsort(-mean_S, kind="stable"):
        if len(found) < count and all(abs(key - other) > len(mean_S) // 14 for other in found):
            found.append(int(key))
    return found


def _map(axes: Axes, weights_TS: np.ndarray, sink_T: np.ndarray, mask_TS: np.ndarray) -> Any:
    """One head: the keys in blue, and at the left of them, set apart, the sink in orange."""
    from matplotlib import colormaps
    from matplotlib.colors import PowerNorm

    T, S = weights_TS.shape
    norm = PowerNorm(0.5, 0, 1)
    wide = max(S / 14, 1)
    blues = colormaps["Blues"].copy()
    blues.set_bad(HIDDEN)
    seen_TS = np.where(mask_TS, weights_TS, np.nan)
    style: dict[str, Any] = {"norm": norm, "aspect": "auto", "interpolation": "nearest"}
    shade = axes.imshow(seen_TS, cmap=blues, extent=(0, S, T, 0), **style)
    column = (-1.6 * wide, -0.6 * wide, T, 0)
    axes.imshow(sink_T[:, None], cmap="Oranges", extent=column, **style)
    fill(axes, 0, 0, S, T, fill=False, edgecolor=LINE, lw=0.8)
    fill(axes, -1.6 * wide, 0, wide, T, fill=False, edgecolor=LINE, lw=0.8)
    axes.set_xlim(-1.6 * wide, S)
    axes.set_ylim(T, 0)
    marks = range(0, S, 32 if S > 48 else 4)
    axes.set_xticks([-1.1 * wide, *(k + 0.5 for k in marks)], ["sink", *map(str, marks)])
    queries = range(0, T, 32 if T > 48 else 4)
    axes.set_yticks([q + 0.5 for q in queries], map(str, queries))
    bare(axes)
    axes.set_xlabel("key")
    axes.set_ylabel("query")
    return shade


def attention_table(
    weights_TS: Any, sink_T: Any, ids_S: Sequence[int], *, last: int = 10
) -> Picture:
    """The last queries of one head in numbers: percent to the sink, to earlier keys, to each key.

    `ids_S` are the o200k ids of the tokens. Every row sums to one hundred, up to rounding.
    """
    weights_TS, sink_T = np.asarray(weights_TS, np.float64), np.asarray(sink_T, np.float64)
    earlier_T = weights_TS[-last:, :-last].sum(-1)
    table = np.column_stack([sink_T[-last:], earlier_T, weights_TS[-last:, -last:]])
    names = [short(int(token)) for token in ids_S[-last:]]

    def paint(figure: Figure) -> None:
        from matplotlib import colormaps

        axes = figure.subplots()
        for (row, column), share in np.ndenumerate(table):
            if column >= 2 and column - 2 > row:
                continue  # the future: nothing to draw
            shades = colormaps["Oranges" if column == 0 else "Blues"]
            place = column + (0.25 if column else 0) + (0.25 if column > 1 else 0)
            fill(axes, place, row, 1, 1, facecolor=shades(share**0.5 * 0.8), edgecolor=PAPER)
            ink = "white" if share > (0.85 if column == 0 else 0.7) else INK
            write(axes, place + 0.5, row + 0.5, f"{100 * share:.0f}", fontsize=8.5, color=ink)
        axes.set_xlim(0, last + 2.5)
        axes.set_ylim(last, 0)
        axes.set_yticks([row + 0.5 for row in range(last)], names)
        places = [0.5, 1.75, *(column + 3 for column in range(last))]
        axes.set_xticks(places, ["sink", "earlier", *names], rotation=35, ha="right")
        bare(axes)
        axes.set_ylabel("token that asks")
        axes.set_xlabel("percent of its attention goes to")

    summary = ", ".join(
        f"{name} {100 * share:.0f}" for name, share in zip(names, sink_T[-last:], strict=True)
    )
    alt = f"Table of the attention of the last {last} tokens. Percent to the sink: {summary}."
    return draw(paint, alt, width=2.0 + 0.56 * (last + 2.5), height=1.25 + 0.33 * last)


def sink_mass_table(mass_LN: Any, kinds: Sequence[str]) -> Picture:
    """How much of its attention each head sends to the sink, on average: layers down, heads across.

    `kinds` names what each layer is, one word or two per layer.
    """
    mass_LN = np.asarray(mass_LN, np.float64)
    L, N = mass_LN.shape

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        axes.imshow(mass_LN**0.5, cmap="Oranges", vmin=0, vmax=1.1, aspect="auto")
        for (layer, head), mass in np.ndenumerate(mass_LN):
            write(axes, head, layer, f"{mass:.0%}", color="white" if mass > 0.75 else INK)
        axes.set_xticks(range(N), [f"head {head}" for head in range(N)])
        axes.set_yticks(range(L), [f"layer {layer}, {kind}" for layer, kind in enumerate(kinds)])
        bare(axes)

    rows = "; ".join(
        f"layer {layer} {' '.join(f'{mass:.0%}' for mass in row)}"
        for layer, row in enumerate(mass_LN)
    )
    alt = f"Table: mean share of attention that goes to the sink, per head. {rows}."
    return draw(paint, alt, width=2.0 + 0.82 * N, height=0.5 + 0.45 * L)


def mask_pictures(masks: Mapping[str, Any]) -> Picture:
    """Masks as squares, queries down and keys to the right: filled where the key is visible.

    What differs from the first mask is crossed out: in vermilion what is visible and should not be,
    as a frame what is hidden and should not be.
    """
    masks = {title: np.asarray(mask_TS, bool) for title, mask_TS in masks.items()}
    right_TS = next(iter(masks.values()))
    T, S = right_TS.shape

    def paint(figure: Figure) -> None:
        panels = small_multiples(figure, len(masks), len(masks))
        for axes, (title, mask_TS) in zip(panels, masks.items(), strict=True):
            for (query, key), seen in np.ndenumerate(mask_TS):
                wrong = seen != right_TS[query, key]
                color = (VERMILION if wrong else BLUE) if seen else PALE
                frame = {"edgecolor": VERMILION if wrong else PAPER, "lw": 1.8 if wrong else 1.2}
                fill(axes, key + 0.05, query + 0.05, 0.9, 0.9, facecolor=color, **frame)
                if wrong:
                    ink = "white" if seen else VERMILION
                    write(axes, key + 0.5, query + 0.52, "×", color=ink, weight="bold")
            axes.set_xlim(0, S)
            axes.set_ylim(T, 0)
            axes.set_aspect("equal")
            axes.set_xticks([key + 0.5 for key in range(S)], map(str, range(S)))
            axes.set_yticks([query + 0.5 for query in range(T)], map(str, range(T)))
            axes.set_title(title, loc="left")
            axes.set_xlabel("key")
            bare(axes)
        panels[0].set_ylabel("query")

    summary = "; ".join(
        f"{title}: {' '.join(str(count) for count in mask_TS.sum(1))}"
        for title, mask_TS in masks.items()
    )
    alt = f"Masks of {T} queries and {S} keys. Visible keys per query: {summary}."
    return draw(paint, alt, width=0.4 + 2.9 * len(masks), height=3.45)


def head_groups(wirings: Mapping[str, Sequence[int]]) -> Picture:
    """Which key head each query head reads: one panel per wiring, lines from queries to keys.

    `wirings` maps a title to the key head of each query head. Groups differ in color and in name.
    """
    colors = (SKY, ORANGE, "#009e73", "#cc79a7")

    def paint(figure: Figure) -> None:
        panels = small_multiples(figure, len(wirings), len(wirings))
        for axes, (title, key_N) in zip(panels, wirings.items(), strict=True):
            N, K = len(key_N), max(key_N) + 1
            for head, key in enumerate(key_N):
                color = colors[key % len(colors)]
                place = (key + 0.5) * N / K
                axes.plot([head + 0.5, place], [1, 0], color=color, lw=2.2, zorder=1)
                circle = {"boxstyle": "circle,pad=0.35", "fc": color, "ec": INK}
                write(axes, head + 0.5, 1, f"q{head}", fontsize=9, bbox=circle)
                frame = {"boxstyle": "round,pad=0.45", "fc": color, "ec": INK}
                write(axes, place, 0, f"k{key} v{key}", fontsize=9, bbox=frame)
            axes.set_xlim(0, N)
            axes.set_ylim(-0.35, 1.35)
            axes.set_title(title, loc="left")
            axes.set_axis_off()

    summary = "; ".join(f"{title}: {' '.join(map(str, key_N))}" for title, key_N in wirings.items())
    alt = f"Which key head each query head reads, head by head. {summary}."
    return draw(paint, alt, width=4.3 * len(wirings), height=2.0)


def value_bars(values: Mapping[str, float], unit: str, digits: int = 1) -> Picture:
    """Bars with their values written out, on an axis that begins at 0."""

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        top = max(values.values())
        for place, value in enumerate(values.values()):
            axes.barh(place, value, color=SKY, edgecolor=PAPER, height=0.7)
            axes.text(value + 0.012 * top, place, f"{value:,.{digits}f}", va="center", fontsize=9.5)
        axes.set_xlim(0, 1.12 * top)
        name_rows(axes, values)
        axes.invert_yaxis()
        axes.set_xlabel(unit)

    summary = "; ".join(f"{name}: {value:,.{digits}f}" for name, value in values.items())
    alt = f"Bars, {unit}. {summary}."
    return draw(paint, alt, width=8.6, height=0.75 + 0.42 * len(values))


def ablation_table(right: Mapping[str, Sequence[int]], columns: Sequence[str], of: int) -> Picture:
    """What still works when one part is switched off: a row per part, a column per kind of task.

    A cell says how many of `of` answers stay as they were; what breaks is dark.
    """
    table = np.array(list(right.values()))

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        axes.imshow(1 - table / of, cmap="Oranges", vmin=0, vmax=1.15, aspect="auto")
        for (row, column), count in np.ndenumerate(table):
            ink = "white" if count < 0.3 * of else INK
            write(axes, column, row, f"{count} of {of}", fontsize=9, color=ink)
        axes.set_xticks(range(len(columns)), columns)
        axes.set_yticks(range(len(right)), list(right))
        axes.set_ylabel("switched off")
        bare(axes)

    rows = "; ".join(f"{name} {' '.join(map(str, counts))}" for name, counts in right.items())
    alt = f"Table: of {of} answers to {', '.join(columns)}, how many stay right. Without {rows}."
    return draw(paint, alt, width=1.9 + 1.15 * len(columns), height=0.7 + 0.36 * len(right))
