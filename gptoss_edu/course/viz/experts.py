"""Mixture of experts: whom the router asks, what an expert does, what it costs, who is busy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gptoss_edu.course.viz.colors import BLUE, GREEN, INK, LINE, ORANGE, PALE, PAPER, SKY, VERMILION
from gptoss_edu.course.viz.look import (
    Figure,
    Picture,
    bare,
    box,
    draw,
    fill,
    short,
    small_multiples,
    write,
)

PATCH = {"facecolor": PAPER, "edgecolor": PAPER, "framealpha": 1}
LEGEND = {"loc": "upper left", "fontsize": 8.5, **PATCH}


def mixture_diagram(logits_E: Any, k: int) -> Picture:
    """One token's way: the router's logits, the k that are kept, their softmax, the weighted sum.

    From left to right; experts that are not chosen stay asleep, in dotted boxes.
    """
    logits_E = np.asarray(logits_E, np.float64)
    weight_E, asked = _asked(logits_E, k)
    E, top = len(logits_E), float(np.abs(logits_E).max() or 1)
    middle = (E - 1) / 2

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        arrow = {"arrowstyle": "-|>", "color": INK, "lw": 1.2, "shrinkA": 0, "shrinkB": 0}
        box(axes, 0, middle - 0.4, 1.5, 0.8, "token's vector\n(normed)", SKY)
        box(axes, 2.1, -0.5, 0.9, E, "router", ORANGE)
        box(axes, 11.3, middle - 0.4, 1.5, 0.8, "weighted\nsum", SKY)
        axes.annotate("", (2.1, middle), (1.5, middle), arrowprops=arrow)
        heads = ((4.2, "logits"), (5.9, f"top {k}: softmax"), (8.1, "experts"))
        for x, text in heads:
            write(axes, x, -1.0, text, fontsize=9.5, weight="bold")
        axes.plot([3.4, 3.4], [-0.5, E - 0.5], color=LINE, lw=0.8)
        for expert, (logit, weight) in enumerate(zip(logits_E, weight_E, strict=True)):
            chosen = expert in asked
            color = BLUE if chosen else PALE
            fill(axes, 3.4, expert - 0.2, 0.9 * logit / top, 0.4, facecolor=color, edgecolor=LINE)
            axes.text(4.4, expert, f"{logit:.2f}", va="center", fontsize=9)
            frame = {"facecolor": PAPER, "edgecolor": LINE, "lw": 0.8, "ls": ":"}
            if not chosen:
                fill(axes, 7.4, expert - 0.36, 1.4, 0.72, **frame)
                write(axes, 8.1, expert, f"expert {expert}", fontsize=9, color="#5f5b52")
                continue
            write(axes, 5.9, expert, f"{weight:.2f}", weight="bold")
            axes.annotate("", (5.5, expert), (5.05, expert), arrowprops=arrow)
            axes.annotate("", (7.4, expert), (6.3, expert), arrowprops=arrow)
            box(axes, 7.4, expert - 0.36, 1.4, 0.72, f"expert {expert}", GREEN)
            thick = arrow | {"lw": 0.8 + 5 * weight}
            axes.annotate("", (11.3, middle), (8.8, expert), arrowprops=thick)
            patch = {"facecolor": PAPER, "edgecolor": "none", "pad": 1}
            place = (9.75, expert + 0.38 * (middle - expert))
            write(axes, *place, f"× {weight:.2f}", fontsize=9, bbox=patch)
        axes.set_xlim(-0.1, 12.9)
        axes.set_ylim(E - 0.4, -1.4)
        axes.set_axis_off()

    summary = ", ".join(f"expert {expert} with weight {weight_E[expert]:.2f}" for expert in asked)
    alt = f"One token and {E} experts. The router asks {summary}; the others are not run."
    return draw(paint, alt, width=9.2, height=0.7 + 0.55 * E)


def router_panels(logits_E: Any, settings: Mapping[str, tuple[float, int]]) -> Picture:
    """One token's router under several settings: name -> (temperature, experts asked).

    Blue bars are the weights of those asked, which sum to one; outlines are the softmax over all.
    """
    logits_E = np.asarray(logits_E, np.float64)
    E = len(logits_E)
    columns = min(len(settings), 3)
    rows = -(-len(settings) // columns)
    drawn = {
        name: (_softmax(logits_E / tau), *_asked(logits_E / tau, k))
        for name, (tau, k) in settings.items()
    }

    def paint(figure: Figure) -> None:
        panels = small_multiples(figure, len(drawn), columns, sharex=True, sharey=True)
        for axes, (name, (all_E, weight_E, asked)) in zip(panels, drawn.items(), strict=True):
            axes.bar(range(E), weight_E, color=BLUE, width=0.75)
            axes.bar(range(E), all_E, facecolor="none", edgecolor=INK, width=0.75, lw=0.7)
            for expert in asked if len(asked) <= 5 else []:
                height, text = max(weight_E[expert], all_E[expert]), f"{weight_E[expert]:.2f}"
                axes.text(expert, height + 0.03, text, ha="center", fontsize=8.5)
            axes.set_title(name, loc="left")
            axes.set_ylim(0, 1.15)
            axes.set_yticks([0, 0.5, 1])
            axes.set_xticks(range(E) if E <= 12 else range(0, E, 4))
            axes.tick_params(axis="x", length=0)
        figure.supxlabel("expert   (blue: weight of those asked · outline: softmax over all)")
        figure.supylabel("weight", fontsize=10)

    summary = "; ".join(
        f"{name}: " + " ".join(f"{expert} ({weight_E[expert]:.2f})" for expert in asked)
        for name, (_, weight_E, asked) in drawn.items()
    )
    alt = f"Router weights of one token, experts asked under {len(drawn)} settings. {summary}."
    height = 0.7 + (1.75 if columns > 1 else 2.3) * rows
    return draw(paint, alt, width=(7, 8, 9)[columns - 1], height=height)


def _softmax(logits: np.ndarray) -> np.ndarray:
    exp: np.ndarray = np.exp(logits - logits.max())
    return np.asarray(exp / exp.sum())


def _asked(logits_E: np.ndarray, k: int) -> tuple[np.ndarray, list[int]]:
    """(weight of every expert, those asked from the heaviest down)."""
    asked = [int(expert) for expert in np.argsort(-logits_E, kind="stable")[:k]]
    weight_E = np.zeros(len(logits_E))
    weight_E[asked] = _softmax(logits_E[asked])
    return weight_E, asked


def swiglu_curve(limit: float, alpha: float) -> Picture:
    """The two factors of the clamped SwiGLU: what becomes of gate, and what becomes of up."""
    x = np.linspace(-1.5 * limit, 1.5 * limit, 1201)

    def gated(gate: np.ndarray, slope: float) -> np.ndarray:
        return np.asarray(gate / (1 + np.exp(-slope * gate)))

    clamped = gated(np.minimum(x, limit), alpha)
    floor = float(clamped.min())

    def paint(figure: Figure) -> None:
        left, right = figure.subplots(1, 2)
        left.plot(x, np.maximum(x, 0), color=LINE, ls=":", lw=1.6, label="ReLU: max(gate, 0)")
        left.plot(x, gated(x, 1.0), color=ORANGE, ls="--", lw=1.6, label="SiLU: slope 1, no clamp")
        left.plot(x, clamped, color=BLUE, lw=2.6, label=f"GPT-OSS: slope {alpha:g}, clamped")
        left.axvline(limit, color=VERMILION, lw=1, ls="-.")
        left.set_title("first factor: gate · sigmoid(α · gate)", loc="left")
        left.set_xlabel("gate")
        left.set_xlim(-0.7 * limit, 1.5 * limit)
        left.set_ylim(-0.12 * limit, 1.5 * limit)
        left.legend(**LEGEND)
        right.plot(x, x, color=LINE, ls=":", lw=1.6, label="up alone")
        right.plot(x, np.clip(x, -limit, limit) + 1, color=BLUE, lw=2.6, label="clip(up) + 1")
        right.plot(0, 1, "o", color=VERMILION, zorder=3)
        arrow, at = {"arrowstyle": "->", "lw": 0.9}, (0.18 * limit, -0.25 * limit)
        right.annotate("up = 0: times one", (0, 1), at, va="top", fontsize=9, arrowprops=arrow)
        for border in (-limit, limit):
            right.axvline(border, color=VERMILION, lw=1, ls="-.")
        right.set_title("second factor: clip(up, −7, 7) + 1".replace("7", f"{limit:g}"), loc="left")
        right.set_xlabel("up")
        right.legend(**LEGEND)
        right.set_ylim(-1.4 * limit, 1.7 * limit)
        for axes in (left, right):
            axes.axhline(0, color=LINE, lw=0.6, zorder=0)

    alt = (
        f"Two curves. The first factor of SwiGLU is nearly zero for a gate below -3, {floor:.2f} at"
        f" its lowest, follows the gate above 2 and is flat from {limit:g} on. The second is up + 1"
        f" and flat at {1 - limit:g} below -{limit:g} and at {1 + limit:g} above {limit:g}."
    )
    return draw(paint, alt, width=9, height=3.5)


def routing_map(expert_TX: Any, weight_TX: Any, ids_T: Sequence[int], num_experts: int) -> Picture:
    """Who answers for each token, on one layer: a column per token, a row per expert."""
    expert_TX, weight_TX = np.asarray(expert_TX), np.asarray(weight_TX, np.float64)
    T, X = expert_TX.shape
    assert T == len(ids_T) == len(weight_TX), (expert_TX.shape, weight_TX.shape, len(ids_T))
    count_E = np.bincount(expert_TX.ravel(), minlength=num_experts)

    def paint(figure: Figure) -> None:
        from matplotlib import colormaps

        axes = figure.subplots()
        for step, choice in np.ndindex(T, X):
            color = colormaps["Blues"](0.2 + 0.75 * weight_TX[step, choice])
            row = expert_TX[step, choice] - 0.42
            fill(axes, step - 0.46, row, 0.92, 0.84, facecolor=color, edgecolor=LINE, lw=0.5)
        for expert in range(num_experts):
            axes.text(T - 0.2, expert, str(count_E[expert]), va="center", fontsize=9)
        axes.text(T - 0.2, -0.95, "asked", va="center", fontsize=9)
        axes.set_xlim(-0.6, T + 1.0)
        axes.set_ylim(num_experts - 0.4, -1.3)
        axes.set_yticks(range(num_experts))
        axes.set_ylabel("expert")
        names = [short(int(token)) for token in ids_T]
        axes.set_xticks(range(T), names, rotation=90, fontfamily="DejaVu Sans Mono", fontsize=8.5)
        bare(axes)

    counted = ", ".join(f"{expert} {count}" for expert, count in enumerate(count_E))
    alt = (
        f"Map of {T} tokens against {num_experts} experts, {X} filled squares per token, darker for"
        f" more weight. How often each expert was asked: {counted}."
    )
    width = min(9.4, max(5.0, 1.0 + 0.3 * T))
    return draw(paint, alt, width=width, height=1.1 + 0.27 * num_experts)


def expert_heat_map(kinds_T: Sequence[str], expert_LTX: Any, num_experts: int) -> Picture:
    """Which experts each kind of token is sent to: one panel per layer, percent in every cell.

    A cell says how many of 100 tokens of that kind ask that expert; a row sums to 100 times X.
    """
    expert_LTX, kind_T = np.asarray(expert_LTX), np.asarray(kinds_T)
    L, T, _ = expert_LTX.shape
    assert T == len(kind_T), (expert_LTX.shape, len(kind_T))
    names = list(dict.fromkeys(kinds_T))
    share_LAE = np.zeros((L, len(names), num_experts))
    for layer, kind in np.ndindex(L, len(names)):
        chosen = expert_LTX[layer][kind_T == names[kind]]
        share_LAE[layer, kind] = np.bincount(chosen.ravel(), minlength=num_experts) / len(chosen)

    def paint(figure: Figure) -> None:
        for layer, axes in enumerate(small_multiples(figure, L, min(L, 2), sharey=True)):
            axes.imshow(share_LAE[layer], cmap="Blues", vmin=0, vmax=1, aspect="auto")
            for kind, expert in np.ndindex(len(names), num_experts):
                share = share_LAE[layer, kind, expert]
                ink = "white" if share > 0.6 else INK
                write(axes, expert, kind, f"{100 * share:.0f}", fontsize=8, color=ink)
            axes.set_xticks(range(num_experts))
            axes.set_yticks(range(len(names)), names)
            axes.set_title(f"layer {layer}", loc="left")
            bare(axes)
        figure.supxlabel("expert   (in the cell: of 100 tokens of this kind, how many ask it)")

    strongest = []
    for layer in range(L):
        kind, expert = np.unravel_index(share_LAE[layer].argmax(), share_LAE[layer].shape)
        share = share_LAE[layer, kind, expert]
        strongest.append(f"layer {layer} {names[kind]} to expert {expert} ({share:.0%})")
    alt = "Heat map of token kinds against experts. Strongest cells: " + "; ".join(strongest) + "."
    rows = -(-L // min(L, 2))
    return draw(paint, alt, width=9.4 if L > 1 else 5, height=0.6 + rows * (0.5 + 0.3 * len(names)))


def load_bars(expert_LTX: Any, num_experts: int, titles: Sequence[str] | None = None) -> Picture:
    """How busy each expert is, layer by layer; the line is an even load."""
    expert_LTX = np.asarray(expert_LTX)
    L, T, X = expert_LTX.shape
    load_LE = np.array([np.bincount(e.ravel(), minlength=num_experts) for e in expert_LTX]) / T
    even, titles = X / num_experts, titles or [f"layer {layer}" for layer in range(L)]

    def paint(figure: Figure) -> None:
        panels = small_multiples(figure, L, L, sharey=True)
        for layer, axes in enumerate(panels):
            busiest = int(load_LE[layer].argmax())
            colors = [ORANGE if expert == busiest else SKY for expert in range(num_experts)]
            axes.bar(range(num_experts), load_LE[layer], color=colors, width=0.78)
            axes.axhline(even, color=INK, lw=1, ls="--")
            most = load_LE[layer, busiest]
            axes.text(busiest, most + 0.01, f"{most / even:.1f}×", ha="center", fontsize=9)
            axes.set_title(titles[layer], loc="left")
            axes.set_xticks(range(num_experts) if num_experts <= 12 else [0, num_experts - 1])
            axes.tick_params(axis="x", length=0)
        panels[0].set_ylabel("share of tokens")
        panels[0].set_ylim(0, max(1.25 * load_LE.max(), 2 * even))
        note = "dashed: even load · orange: the busiest, and how many times that"
        figure.supxlabel(f"expert   ({note})")

    summary = ", ".join(
        f"{title} expert {load_E.argmax()} {load_E.max() / even:.1f} times"
        for title, load_E in zip(titles, load_LE, strict=True)
    )
    alt = (
        f"Bars: share of {T} tokens that ask each expert. Busiest against an even load: {summary}."
    )
    return draw(paint, alt, width=min(9.4, max(7.2, 1 + 2.1 * L)), height=2.7)


def expert_costs(
    num_experts: int, experts_per_token: int, reached: Mapping[int, float] | None = None
) -> Picture:
    """What three ways to compute one mixture cost, by the number of tokens that come at once.

    Left: experts whose weights are read. Right: experts that are computed, once per token. The
    grouped curve assumes that tokens choose at random; `reached` (tokens -> different experts that
    they chose) adds what was counted.
    """
    E, X = num_experts, experts_per_token
    tokens = 2 ** np.linspace(0, 8, 129)
    grouped = E * (1 - (1 - X / E) ** tokens)
    meet = E / X

    def paint(figure: Figure) -> None:
        left, right = figure.subplots(1, 2, sharex=True)
        left.plot(tokens, np.full_like(tokens, E), color=VERMILION, lw=2, label="dense: all")
        left.plot(tokens, X * tokens, color=BLUE, ls="--", lw=2, label="gathered: one by one")
        left.plot(tokens, grouped, color=GREEN, ls="-.", lw=2, label="grouped, if chosen at random")
        if reached:
            dots = {"marker": "o", "ls": "", "color": INK, "ms": 5}
            left.plot(list(reached), list(reached.values()), label="grouped, counted", **dots)
        left.axvline(meet, color=LINE, lw=1)
        left.set_ylim(X * 0.8, 64 * E)
        left.set_title("experts read from memory", loc="left")
        right.plot(tokens, E * tokens, color=VERMILION, lw=2, label=f"dense: {E} per token")
        right.plot(tokens, X * tokens, color=BLUE, ls="--", lw=2, label=f"chosen: {X} per token")
        right.set_title("experts computed", loc="left")
        for axes in (left, right):
            axes.set_xscale("log", base=2)
            axes.set_yscale("log", base=2)
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.set_xlabel("tokens at once")
            axes.legend(**LEGEND)

    counted = "; ".join(f"{n:,} tokens {value:.1f}" for n, value in (reached or {}).items())
    alt = (
        f"Cost of {X} of {E} experts per token. Read: dense always {E}; gathered {X} per token,"
        f" meeting dense at {meet:.2g} tokens; grouped never more than {E}. Computed: dense {E} per"
        f" token, the others {X}." + (f" Counted, different experts: {counted}." if counted else "")
    )
    return draw(paint, alt, width=9, height=3.4)
