"""Autopsy: where two models that should be one begin to differ, by layer and by token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gptoss_edu.course.viz.colors import INK, LINE, PAPER
from gptoss_edu.course.viz.look import Figure, Picture, draw, small_multiples
from gptoss_edu.course.viz.panel import Panel, Values, panel

TINY, HUGE = 1e-6, 1e1  # differences below the first count as none


def differences(right: Any, wrong: Any) -> tuple[list[str], np.ndarray]:
    """Names of all stages in the order of computation, and how far each token is off at each.

    Both arguments are what `observe` returns, (logits_BTV, seen). The result has one row per stage
    (per layer: attention, router, stream; then the logits) and one column per token: the largest
    difference of anything that belongs to the token.
    """
    names, rows = [], []

    def note(name: str, a: np.ndarray, b: np.ndarray) -> None:
        names.append(name)
        rows.append(np.abs(a.astype(np.float64) - b).reshape(len(a), -1).max(axis=1))

    for layer, (x, y) in enumerate(zip(right[1], wrong[1], strict=True)):
        weights = (s.attention.weights_BNTS[0] for s in (x, y))
        note(f"{layer} attention", *(np.moveaxis(np.asarray(w_NTS), 1, 0) for w_NTS in weights))
        note(f"{layer} router", _spread(x.routing), _spread(y.routing))
        note(f"{layer} stream", *(np.asarray(s.residual_BTD[0]) for s in (x, y)))
    note("logits", np.asarray(right[0][0]), np.asarray(wrong[0][0]))
    return names, np.stack(rows)


def _spread(routing: Any) -> np.ndarray:
    """weight_TE: each token's weight for every expert, zero for those not asked."""
    expert_TX, weight_TX = np.asarray(routing.expert_BTX[0]), np.asarray(routing.weight_BTX[0])
    weight_TE = np.zeros((len(expert_TX), routing.logits_BTE.shape[-1]))
    np.put_along_axis(weight_TE, expert_TX, weight_TX, axis=1)
    return weight_TE


def difference_maps(maps: Mapping[str, tuple[Sequence[str], Any]], columns: int = 1) -> Picture:
    """What `differences` returns, as heat maps: stages down, tokens across; blank means equal.

    `maps` maps a title to (names, differences by stage and token).
    """
    maps = {title: (list(names), np.asarray(d)) for title, (names, d) in maps.items()}
    columns = min(columns, len(maps))
    rows = -(-len(maps) // columns)
    stages = max(len(names) for names, _ in maps.values())

    def paint(figure: Figure) -> None:
        from matplotlib import colormaps
        from matplotlib.colors import LogNorm

        shades = colormaps["viridis_r"].copy()
        shades.set_bad(PAPER)
        panels = small_multiples(figure, len(maps), columns, sharey=True)
        for axes, (title, (names, d)) in zip(panels, maps.items(), strict=True):
            shown = np.ma.masked_less(np.minimum(d, HUGE), TINY)
            shade = axes.imshow(shown, cmap=shades, norm=LogNorm(TINY, HUGE), aspect="auto",
                                interpolation="nearest")  # fmt: skip
            axes.set_title(title, loc="left")
            axes.set_yticks(range(len(names)), names, fontsize=7.5 if columns > 1 else 9)
            axes.tick_params(axis="y", length=0)
            for line in range(3, len(names), 3):
                axes.axhline(line - 0.5, color=LINE, lw=0.6)
        for axes in panels[-columns:]:
            axes.set_xlabel("token")
        bar = figure.colorbar(shade, ax=figure.axes, shrink=0.9, pad=0.02)
        bar.set_label("largest difference", color=INK)
        bar.ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        bar.ax.minorticks_off()

    summary = "; ".join(f"{title}: {_first(*found)}" for title, found in maps.items())
    alt = f"Heat maps of the difference to the right model, by stage and token. {summary}."
    height = 0.5 + rows * (0.45 + (0.17 if columns > 1 else 0.24) * stages)
    return draw(paint, alt, width=9.2, height=height)


def _first(names: Sequence[str], d: np.ndarray) -> str:
    """Where the difference begins: the first stage that shows one, and the first token there."""
    for name, row in zip(names, d, strict=True):
        if (row > 1e-4).any():
            return f"begins at {name}, token {int((row > 1e-4).argmax())}"
    return "equal everywhere"


def autopsy_panel(maps: Mapping[str, tuple[Sequence[str], Any]]) -> Panel:
    """One chart at a time, with a threshold and a cell to read: it works without a kernel.

    `maps` maps the name of a patient to what `differences` returns.
    """
    stages = list(next(iter(maps.values()))[0])
    charts = {str(name): np.asarray(d) for name, (_, d) in maps.items()}
    tokens = next(iter(charts.values())).shape[1]
    controls: dict[str, Values] = {
        "patient": tuple(charts),
        "count from": (1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.1, 1),
        "stage": tuple(stages),
        "token": tuple(range(tokens)),
    }
    data = {"stages": stages, "rows": {name: _coded(d) for name, d in charts.items()}}
    titled = {f"patient {name}": found for name, found in maps.items()}
    picture = difference_maps(titled, columns=min(4, len(titled)))
    return panel("autopsy", picture, controls, data, {"count from": 1e-4, "token": 0})


def _coded(d: np.ndarray) -> list[str]:
    """A string for each stage, a character for each token: "#" is equal, ten steps are a decade."""
    steps = np.round(10 * (np.log10(np.clip(d, TINY, HUGE)) + 6)).astype(int)
    return ["".join(row) for row in np.where(d < TINY, "#", np.vectorize(chr)(36 + steps))]
