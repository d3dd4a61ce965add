"""Sampling: what each setting makes of the model's distribution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from gptoss_edu.course.viz.colors import BLUE, INK, VERMILION
from gptoss_edu.course.viz.look import Figure, Picture, draw, label, small_multiples
from gptoss_edu.course.viz.panel import Panel, Values, panel
from gptoss_edu.sampling import Sampling, filter_logits


def sampling_panels(
    logits_V: Any, ids: Sequence[int], settings: Mapping[str, Sampling], *, top: int = 8
) -> Picture:
    """What each setting makes of one set of logits: small multiples of the likeliest tokens.

    `ids[v]` is the o200k id of row v. Bars are the probabilities of the draw; a token that a
    setting rules out is struck through, and its bar in the plain distribution stays as an outline.
    """
    logits_V = np.asarray(logits_V, np.float64)
    order = np.argsort(-logits_V, kind="stable")[:top]
    top = len(order)
    names = [label(int(ids[row]), 11) for row in order]
    plain = _probabilities(logits_V, Sampling(temperature=1.0))[order]
    drawn = {name: _probabilities(logits_V, setting) for name, setting in settings.items()}
    columns = min(len(drawn), 3)
    rows = -(-len(drawn) // columns)

    def paint(figure: Figure) -> None:
        panels = small_multiples(figure, len(drawn), columns, sharex=True, sharey=True)
        for axes, (name, p_V) in zip(panels, drawn.items(), strict=True):
            axes.barh(range(top), p_V[order], color=BLUE, height=0.72)
            axes.barh(range(top), plain, facecolor="none", edgecolor=INK, height=0.72, lw=0.7)
            for place, row in enumerate(order):
                p = p_V[row]
                text, color = (f"{p:.0%}", INK) if p > 0 else ("never", VERMILION)
                at = max(p, plain[place]) + 0.02
                axes.text(at, place, text, va="center", fontsize=8.5, color=color)
            axes.set_yticks(range(top), names, fontfamily="DejaVu Sans Mono")
            axes.set_title(name, loc="left")
            axes.set_xlim(0, 1.18)
            axes.set_xticks([])
            axes.spines[["bottom", "left"]].set_visible(False)
            axes.tick_params(axis="y", length=0)
        panels[0].invert_yaxis()
        figure.supxlabel("blue: chance to be drawn   ·   outline: the model's own probability")

    kept = ", ".join(f"{name} {int((p_V > 0).sum()):,}" for name, p_V in drawn.items())
    alt = (
        f"Bars: chances of the {top} likeliest tokens under {len(drawn)} settings of the draw."
        f" Tokens that can still be drawn: {kept}."
    )
    return draw(paint, alt, width=9, height=0.75 + rows * (0.5 + 0.25 * top))


def sampling_sliders(places: Mapping[str, Any], ids: Sequence[int], *, top: int = 10) -> Panel:
    """The settings of the draw as inputs: place -> logits_V, the first one shown at the start.

    The whole vocabulary is inside, sorted and in hundredths, so that the filters are exact.
    """
    data = {}
    for name, logits_V in places.items():
        logits_V = np.asarray(logits_V, np.float64)
        order_V = np.argsort(-logits_V, kind="stable")
        names = [label(int(ids[row]), 11) for row in order_V[:top]]
        logits_V = np.round(logits_V[order_V] - logits_V.max(), 2)
        data[name] = {"names": names, "logits": logits_V}
    V = len(ids)
    controls: dict[str, Values] = {
        "place": tuple(data),
        "temperature": (0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 2, 3, 5),
        "top-k": (1, 2, 3, 4, 5, 10, 20, 50, 200, V),
        "top-p": (0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 1),
        "min-p": (0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1),
    }
    settings = {f"temperature {t}": Sampling(temperature=t) for t in (0.5, 1.0, 2.0)}
    picture = sampling_panels(next(iter(places.values())), ids, settings)
    start = {"temperature": 1, "top-k": V, "top-p": 1, "min-p": 0}
    return panel("sampling", picture, controls, data, start)


def _probabilities(logits_V: np.ndarray, setting: Sampling) -> np.ndarray:
    """The distribution that one draw follows."""
    active, logits_V = setting.active, np.asarray(logits_V, np.float64)
    if "temperature" not in active:
        return np.asarray(np.eye(len(logits_V))[int(np.argmax(logits_V))])
    logits_V = (logits_V - logits_V.max()) / active["temperature"]
    logits_V = np.asarray(filter_logits(jnp.asarray(logits_V[None], jnp.float32), active)[0])
    p_V: np.ndarray = np.exp(logits_V, dtype=np.float64)
    return np.asarray(p_V / p_V.sum())
