"""Training: which tokens count, what rounding hides, curves, and effort against accuracy."""

from __future__ import annotations

import dataclasses
import html
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gptoss_edu.course.viz.colors import BLUE, GREEN, INK, LINE, ORANGE, PALE, TINTS, VERMILION
from gptoss_edu.course.viz.look import Figure, Picture, draw, label, short
from gptoss_edu.course.viz.panel import Panel, panel
from gptoss_edu.mxfp4 import VALUES
from gptoss_edu.tokenizer import FIRST_CONTROL


@dataclasses.dataclass(frozen=True)
class LossStrip:
    """A conversation's tokens: those that count in the loss are green and underlined."""

    tokens: tuple[tuple[int, bool], ...]

    def __repr__(self) -> str:
        """As text, what counts stands in brackets."""
        return " ".join(
            f"[{label(token, 99)}]" if counts else label(token, 99) for token, counts in self.tokens
        )

    def _repr_html_(self) -> str:
        chips = "".join(_chip(token, counts) for token, counts in self.tokens)
        named = f"{sum(counts for _, counts in self.tokens)} of {len(self.tokens)} tokens count"
        return f'<div role="list" aria-label="{named}" style="line-height:1.9">{chips}</div>'


def _chip(token: int, counts: bool) -> str:
    frame = INK if token >= FIRST_CONTROL else "transparent"
    tint, line = (TINTS["final"], GREEN) if counts else (PALE, "transparent")
    return (
        f'<span role="listitem" style="display:inline-block;background:{tint};color:{INK};'
        f"border:1px solid {frame};border-bottom:4px solid {line};border-radius:4px;"
        'padding:0 5px;margin:1px;line-height:1.4;font-family:monospace">'
        f"{html.escape(label(token, 99))}</span>"
    )


def loss_strip(ids: Sequence[int], counts: Sequence[bool]) -> LossStrip:
    """Show true o200k ids, and which of them the loss asks for."""
    assert len(ids) == len(counts), f"{len(ids)} ids, {len(counts)} marks"
    return LossStrip(tuple((int(i), bool(c)) for i, c in zip(ids, counts, strict=True)))


def surprise_bars(ids_L: Sequence[int], nats: Mapping[str, Any]) -> Picture:
    """How surprised models are by each token of the right reply: one row of bars per model.

    `nats` maps a model's name to the loss of each token, in nats. The axis is logarithmic, from a
    thousandth of a nat (a probability of 99.9 %); what is less has no bar.
    """
    nats = {name: np.asarray(values_L, np.float64) for name, values_L in nats.items()}
    L, top = len(ids_L), max(float(values_L.max()) for values_L in nats.values())

    def paint(figure: Figure) -> None:
        rows = figure.subplots(len(nats), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
        for axes, (name, values_L) in zip(rows, nats.items(), strict=True):
            colors = [VERMILION if nat > np.log(2) else BLUE for nat in values_L]
            axes.bar(range(L), values_L, color=colors, width=0.8)
            axes.set_yscale("log")
            axes.set_ylim(1e-3, 2 * top)
            axes.set_yticks([0.001, 0.01, 0.1, 1], ["0.001", "0.01", "0.1", "1"])
            axes.minorticks_off()
            axes.axhline(np.log(2), color=INK, lw=0.8, ls=":")
            axes.set_title(name, loc="left")
            axes.set_ylabel("nats")
        rows[0].text(L, np.log(2), " ln 2: a\n coin flip", va="center", fontsize=8)
        rows[-1].set_xticks(
            range(L), [short(token) for token in ids_L], rotation=90, fontfamily="DejaVu Sans Mono"
        )

    means = [float(values_L.mean()) for values_L in nats.values()]
    falls = all(after < before / 2 for before, after in itertools.pairwise(means))
    summary = "each row's mean is less than half of that above" if falls else "the rows are alike"
    alt = f"Bars: loss of each of the {L} tokens of a reply, for {', '.join(nats)}; {summary}."
    return draw(paint, alt, width=max(7.0, 0.27 * L), height=0.9 + 1.35 * len(nats))


def training_samples(
    loss: Sequence[float], questions: Sequence[str], replies: Mapping[int, Sequence[str]],
    right: Mapping[int, Sequence[bool]],
) -> Panel:  # fmt: skip
    """What a model says while it learns: step -> its replies to the questions, and the verdicts.

    `right` may go on beyond the questions: all of it is the score of the step. Without a script the
    first question is shown at every step.
    """
    steps = list(replies)

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        mono: dict[str, Any] = {"family": "DejaVu Sans Mono", "fontsize": 8, "va": "center"}
        for row, step in enumerate(steps):
            text = replies[step][0]
            score = f"{sum(right[step])}/{len(right[step])}"
            axes.text(0, row, f"{step:>5}  {score:>5}  {text[:96]}", **mono)
        axes.set_ylim(len(steps) - 0.5, -0.6)
        axes.set_axis_off()
        axes.set_title(f"step, right answers, reply to: {questions[0]}", loc="left")

    alt = (
        f"Table: replies to {questions[0]!r} at {len(steps)} steps, from {steps[0]} to {steps[-1]}."
    )
    picture = draw(paint, alt, width=8.5, height=0.5 + 0.24 * len(steps))
    found = [
        [
            {"text": text, "right": bool(good)}
            for text, good in zip(replies[step], right[step], strict=False)
        ]
        for step in steps
    ]
    data: dict[str, Any] = {"loss": loss, "steps": steps, "questions": questions, "replies": found}
    data |= {"scores": [int(sum(right[step])) for step in steps], "asked": len(right[steps[0]])}
    return panel("training", picture, {"step": steps, "question": questions}, data)


def training_curves(
    steps: Sequence[int],
    curves: Mapping[str, tuple[Sequence[float], str]],
    marks: Mapping[int, str] | None = None,
) -> Picture:
    """Curves over the steps of a run: title -> (values, "log" or "linear"), one panel each.

    `marks` are steps at which something changed.
    """

    def paint(figure: Figure) -> None:
        panels = figure.subplots(1, len(curves), squeeze=False)[0]
        for axes, (title, (values, scale)) in zip(panels, curves.items(), strict=True):
            axes.plot(steps, values, color=BLUE, lw=1.4)
            axes.set(title=title, xlabel="step", yscale=scale)
            axes.grid(color=LINE, alpha=0.3)
            if scale == "log":  # the usual labels would be formulas
                axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
                axes.minorticks_off()
            for step, words in (marks or {}).items():
                axes.axvline(step, color=VERMILION, ls="--", lw=1)
                axes.text(
                    step, 0.62, f"{words} ", color=VERMILION, fontsize=8.5, ha="right",
                    transform=axes.get_xaxis_transform(),
                )  # fmt: skip

    summary = "; ".join(f"{title}: {_way(values)}" for title, (values, _) in curves.items())
    alt = f"Curves over {int(steps[-1]):,} steps. {summary}."
    return draw(paint, alt, width=3.4 * len(curves), height=2.9)


def _way(values: Sequence[float]) -> str:
    """Where a curve goes, so coarsely that it is the same on every machine."""
    first, last = float(values[0]), float(np.mean(values[-max(1, len(values) // 10) :]))
    if last < first / 2:
        return "falls to less than half"
    return "more than doubles" if last > 2 * first else "stays within a factor of two"


def rounding_staircase() -> Picture:
    """A weight and its MXFP4 value: a staircase, and the slope that training pretends it has."""
    x = np.linspace(-6.6, 6.6, 2641)
    grid = np.unique(VALUES)
    y = grid[np.abs(x[:, None] - grid).argmin(axis=1)]

    def paint(figure: Figure) -> None:
        left, right = figure.subplots(1, 2)
        for axes in (left, right):
            axes.plot(x, y, color=INK, lw=1.6)
            axes.set(xlabel="the weight (in units of its block's scale)", xlim=(-6.6, 6.6))
            axes.grid(color=LINE, alpha=0.3)
        left.set_ylabel("what the forward pass uses")
        left.set_title("true slope: 0 on every step", loc="left")
        at = grid[:-1] / 2 + grid[1:] / 2
        left.plot(at, (grid[:-1] + grid[1:]) / 2, "x", color=VERMILION, label="a jump: no slope")
        left.legend(frameon=False, loc="upper left")
        right.set_title("straight through: slope 1", loc="left")
        right.plot(x, x, color=ORANGE, lw=2, ls="--", label="what the gradient sees")
        right.legend(frameon=False, loc="upper left")

    alt = (
        f"Two plots of a staircase with {len(grid)} steps from -6 to 6, narrow near zero. Left: its"
        " slope is zero on every step. Right: a dashed line of slope one runs through it."
    )
    return draw(paint, alt, width=8.6, height=3.1)


def effort_accuracy(table: Mapping[str, Mapping[str, Sequence[int]]]) -> Picture:
    """Accuracy by task and effort, as dots on one line per task: task -> effort -> [right, asked].

    Tasks are ordered by what effort brings.
    """
    shares = {
        task: {effort: hits / asked for effort, (hits, asked) in row.items() if asked}
        for task, row in table.items()
    }
    names = sorted(shares, key=lambda task: min(shares[task].values()))
    styles = {"low": (VERMILION, "o"), "medium": (ORANGE, "^"), "high": (BLUE, "s")}

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for place, name in enumerate(names):
            values = list(shares[name].values())
            axes.plot([min(values), max(values)], [place, place], color=LINE, lw=2, zorder=1)
        for effort, (color, marker) in styles.items():
            points = [(shares[n][effort], i) for i, n in enumerate(names) if effort in shares[n]]
            if points:
                across, down = zip(*points, strict=True)
                axes.scatter(across, down, color=color, marker=marker, s=46,
                             label=f"{effort} effort", zorder=2)  # fmt: skip
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.set_xlim(-0.02, 1.02)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
        axes.set_xlabel("held-out questions answered right")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))

    summary = "; ".join(
        f"{name} {' '.join(f'{effort} {share:.0%}' for effort, share in shares[name].items())}"
        for name in names
    )
    alt = f"Accuracy on held-out questions by task and effort. {summary}."
    return draw(paint, alt, width=8.6, height=0.8 + 0.28 * len(names))
