"""Positions as rotations: clock hands, their wavelengths, and what a score makes of a distance."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gptoss_edu.config import GPT_OSS_20B, Config
from gptoss_edu.course.viz.colors import BLUE, GREEN, INK, LINE, ORANGE, PALE, SKY, VERMILION
from gptoss_edu.course.viz.look import Axes, Figure, Picture, draw, small_multiples, write
from gptoss_edu.model import rope_frequencies
from gptoss_edu.rope import ramp_bounds

TURN = 2 * math.pi
# Color, line and marker change together: two curves differ without color, too.
CURVES = ((BLUE, "-", "o"), (VERMILION, "--", "s"), (GREEN, "-.", "^"), (INK, ":", "D"))


@dataclasses.dataclass(frozen=True)
class Wheel:
    """A pair of numbers as hands on a dial: name -> angle in radians, as the position turns it.

    `seen` is the largest angle that training has shown, and `reached` the largest that is asked
    for; where they are given, the rim shows what is known and what is new.
    """

    title: str
    hands: Mapping[str, float] = dataclasses.field(default_factory=dict)
    seen: float = 0.0
    reached: float = 0.0

    @property
    def new(self) -> float:
        """Radians of the rim that are asked for and were never seen."""
        return max(0.0, min(self.reached, TURN) - min(self.seen, TURN))

    @property
    def between(self) -> str:
        """Of two hands of length 1: the angle between them, and their dot product, the score."""
        if len(self.hands) != 2:
            return ""
        first, second = self.hands.values()
        score = round(math.cos(first - second), 2) + 0.0
        return f"{math.degrees(math.acos(math.cos(first - second))):.0f}° apart, score {score:.2f}"

    def __str__(self) -> str:
        hands = [f"{name} at {math.degrees(a) % 360:.0f}°" for name, a in self.hands.items()]
        hands += [self.between] if self.between else []
        rim = [f"{min(self.seen, TURN) / TURN:.0%} of the rim seen, {self.new / TURN:.0%} new"]
        return f"{self.title}: {', '.join(hands + (rim if self.reached else []))}."


def rotation_wheels(wheels: Sequence[Wheel], *, columns: int = 4) -> Picture:
    """Dials side by side. Angles grow counterclockwise from the right, as in school."""
    columns = min(columns, len(wheels))
    rows = -(-len(wheels) // columns)
    rim = any(wheel.reached for wheel in wheels)

    def paint(figure: Figure) -> None:
        panels = small_multiples(figure, len(wheels), columns)
        for axes, wheel in zip(panels, wheels, strict=True):
            _dial(axes, wheel)
        if rim:
            figure.supxlabel("thick blue: angles seen in training   ·   red dots: new angles")

    alt = f"Dials. {' '.join(map(str, wheels))}"
    return draw(
        paint, alt, width=2.2 * columns, height=(2.2 if rim else 2.45) * rows + (0.3 if rim else 0)
    )


def _dial(axes: Axes, wheel: Wheel) -> None:
    """One wheel: rim, hands and the names at their tips."""
    around = np.linspace(0, TURN, 200)
    axes.plot(np.cos(around), np.sin(around), color=LINE, lw=1)
    if wheel.reached:
        _arc(axes, 0, min(wheel.seen, TURN), color=SKY, lw=6)
        _arc(axes, min(wheel.seen, TURN), min(wheel.reached, TURN), color=VERMILION, lw=4.5,
             ls=(0, (0.01, 1.8)), dash_capstyle="round")  # fmt: skip
    for (name, angle), (color, line, _) in zip(wheel.hands.items(), CURVES, strict=False):
        x, y = math.cos(angle), math.sin(angle)
        arrow = {"arrowstyle": "-|>", "color": color, "lw": 2, "ls": line, "shrinkA": 0}
        axes.annotate("", (0.95 * x, 0.95 * y), (0, 0), arrowprops=arrow)
        write(axes, 1.22 * x, 1.22 * y, name, color=color, weight="bold")
    if wheel.between:
        first, second = wheel.hands.values()
        apart = (first - second + math.pi) % TURN - math.pi  # the short way round
        low, high = sorted((second, second + apart))
        _arc(axes, low, high, radius=0.4, color=INK, lw=1.5)
        write(axes, 0, -1.58, wheel.between, fontsize=9)
    axes.set_title(wheel.title, fontsize=9.5, pad=5)
    axes.set_xlim(-1.4, 1.4)
    axes.set_ylim(-1.7 if wheel.between else -1.35, 1.4)
    axes.set_aspect("equal")
    axes.set_axis_off()


def _arc(axes: Axes, start: float, end: float, radius: float = 1.0, **style: Any) -> None:
    if end > start:
        around = np.linspace(start, end, 200)
        x, y = radius * np.cos(around), radius * np.sin(around)
        axes.plot(x, y, solid_capstyle="butt", **style)


def wavelength_plot(
    curves: Mapping[str, np.ndarray], *, lengths: Sequence[int] = (4096,), width: float = 7.5
) -> Picture:
    """Positions for one whole turn of each pair, from frequencies inv_C; lines mark `lengths`."""

    def paint(figure: Figure) -> None:
        _wavelengths(figure.subplots(), curves, lengths)

    summary = []
    for name, inv_C in curves.items():
        wave_C = TURN / np.asarray(inv_C, np.float64)
        longer = ", ".join(f"{int((wave_C > length).sum())} above {length:,}" for length in lengths)
        summary.append(f"{name} from {wave_C[0]:.1f} to {_round(wave_C[-1]):,}, {longer}.")
    alt = f"Wavelengths in positions, pair by pair: {' '.join(summary)}"
    return draw(paint, alt, width=width, height=3.6)


def _round(value: float) -> int:
    """Three digits: what machines agree on."""
    return int(float(f"{value:.3g}"))


def _wavelengths(axes: Axes, curves: Mapping[str, np.ndarray], lengths: Sequence[int]) -> None:
    for (name, inv_C), (color, line, marker) in zip(curves.items(), CURVES, strict=False):
        style: dict[str, Any] = {"color": color, "ls": line, "marker": marker, "ms": 4, "lw": 1.3}
        axes.plot(TURN / np.asarray(inv_C, np.float64), label=name, **style)
    pairs = max(len(inv_C) for inv_C in curves.values())
    for length in lengths:
        axes.axhline(length, color=INK, lw=0.8)
        axes.text(-0.4, 1.15 * length, f"{length:,} positions", fontsize=8.5)
    axes.set_yscale("log")
    axes.set_ylim(2, 6e7)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlim(-0.8, pairs - 0.2)
    axes.set_xlabel("pair")
    axes.set_ylabel("positions per turn")
    if len(curves) > 1:
        axes.legend(frameon=False, loc="lower right", fontsize=9)


def distance_plot(
    curves: Mapping[str, np.ndarray],
    distance_S: np.ndarray,
    *,
    ylabel: str,
    trained: int | None = None,
    logarithmic: bool = True,
) -> Picture:
    """Curves over the distance of two tokens; a line marks the `trained` length."""
    distance_S = np.asarray(distance_S)
    split = len(distance_S) if trained is None else int((distance_S < trained).sum())

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        axes.axhline(0, color=LINE, lw=0.8)
        for (name, y_S), (color, line, _) in zip(curves.items(), CURVES, strict=False):
            axes.plot(distance_S, y_S, color=color, ls=line, lw=1.6, label=name)
        if trained is not None:
            axes.axvspan(trained, distance_S[-1], color=PALE, zorder=0)
            axes.axvline(trained, color=INK, lw=0.8)
            height = axes.get_ylim()[1]
            axes.text(trained, height, f" beyond {trained:,}", va="top", fontsize=8.5)
        if logarithmic:
            axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.set_xlim(distance_S[0], distance_S[-1])
        axes.set_xlabel("distance between the two tokens")
        axes.set_ylabel(ylabel)
        _name_ends(axes, curves)

    summary = []
    for name, y_S in curves.items():
        parts = [("", y_S[:split])] + ([(" beyond", y_S[split:])] if split < len(y_S) else [])
        summary.append(
            f"{name}: " + ",".join(f"{at} {_range(part_S)}" for at, part_S in parts).strip()
        )
    until = f" up to {trained:,} and beyond" if split < len(distance_S) else ""
    alt = f"Curves of {ylabel} over distances{until}. {'; '.join(summary)}."
    return draw(paint, alt, width=7.5, height=3.4)


def _name_ends(axes: Axes, curves: Mapping[str, np.ndarray]) -> None:
    """Each curve's name at its right end, moved apart where two ends meet."""
    low, high = axes.get_ylim()
    least, height = 0.075 * (high - low), -math.inf
    ends = sorted((float(y_S[-1]), index, name) for index, (name, y_S) in enumerate(curves.items()))
    for end, index, name in ends:
        height = max(end, height + least)
        place = (1.01, (height - low) / (high - low))
        axes.text(*place, name, transform=axes.transAxes, va="center", fontsize=9,
                  color=CURVES[index % len(CURVES)][0])  # fmt: skip


def head_panels(
    curves: Mapping[str, np.ndarray], distance_S: np.ndarray, wish_S: np.ndarray, *, trained: int
) -> Picture:
    """One trained head under several frequencies: what it was to score, and what it scores."""
    distance_S = np.asarray(distance_S)
    inside_S = distance_S < trained
    most = max(float(np.abs(y_S).max()) for y_S in curves.values())

    def paint(figure: Figure) -> None:
        panels = small_multiples(figure, len(curves), 2, sharex=True, sharey=True)
        for axes, (name, y_S), (color, *_) in zip(panels, curves.items(), CURVES, strict=False):
            axes.axvspan(trained, distance_S[-1], color=PALE, zorder=0)
            axes.plot(distance_S, y_S, color=color, lw=1.1)
            axes.plot(distance_S, wish_S, color=INK, ls="--", lw=1.4)
            axes.set_title(name, pad=3)
            axes.set_xscale("log")
            axes.set_xlim(distance_S[0], distance_S[-1])
            axes.set_ylim(-1.1 * most, 1.1 * most)
            axes.set_xticks([1, 10, 100, 1000, 10_000])
            axes.xaxis.set_major_formatter("{x:,.0f}")
        figure.supxlabel(f"distance   (dashed: what was to be learned; gray: beyond {trained:,})")
        figure.supylabel("score")

    summary = []
    for name, y_S in curves.items():
        wrong_S = np.abs(y_S - wish_S)
        inside, beyond = (float(wrong_S[part].max()) for part in (inside_S, ~inside_S))
        summary.append(f"{name}: wrong by up to {inside:.1f} inside, {beyond:.1f} beyond")
    alt = (
        f"The score of one head over distances up to {trained:,} and beyond. {'; '.join(summary)}."
    )
    return draw(paint, alt, width=9, height=0.5 + 1.9 * -(-len(curves) // 2))


def _range(y_S: np.ndarray) -> str:
    low, high = (round(float(value), 1) + 0.0 for value in (np.min(y_S), np.max(y_S)))
    return f"{low:.1f} to {high:.1f}"


def yarn_panel(
    settings: Sequence[tuple[int, float, float]], config: Config = GPT_OSS_20B
) -> Picture:
    """YaRN at work, one row for each (position, factor, beta_fast).

    On the left the hand of four pairs at that position, with the rim that training has shown; on
    the right all wavelengths, plain and with YaRN, and the ramp between its two bounds.
    """
    plain_C = _frequencies(config, 1.0, config.beta_fast)
    pairs = [len(plain_C) * eighths // 8 for eighths in (0, 3, 5, 6)]
    rows = [(*setting, _frequencies(config, *setting[1:])) for setting in settings]

    def wheel(pair: int, position: int, inv_C: np.ndarray) -> Wheel:
        reached = position * float(inv_C[pair])
        seen = config.initial_context * float(plain_C[pair])
        return Wheel(f"pair {pair}", {"": reached}, seen, reached)

    def paint(figure: Figure) -> None:
        parts = figure.subfigures(len(rows), 1, squeeze=False).ravel()
        for part, (position, factor, beta_fast, inv_C) in zip(parts, rows, strict=True):
            part.suptitle(f"position {position:,} · factor {factor:g} · beta_fast {beta_fast:g}")
            axes = part.subplots(1, 5, width_ratios=[1, 1, 1, 1, 2.6])
            for panel, pair in zip(axes, pairs, strict=False):
                _dial(panel, wheel(pair, position, inv_C))
            axes[4].axvspan(*_bounds(config, beta_fast), color=ORANGE, alpha=0.25, lw=0)
            curves = {"plain": plain_C, "YaRN": inv_C}
            _wavelengths(axes[4], curves, (config.initial_context,))

    summary = []
    for position, factor, beta_fast, inv_C in rows:
        new = sum(wheel(c, position, inv_C).new > 1e-3 for c in range(len(inv_C)))
        low, high = _bounds(config, beta_fast)
        summary.append(
            f"position {position:,}, factor {factor:g}, beta_fast {beta_fast:g}: ramp from pair"
            f" {low:.1f} to {high:.1f}, new angles in {new} of {len(inv_C)} pairs."
        )
    alt = f"Dials of four pairs, and wavelengths. {' '.join(summary)}"
    return draw(paint, alt, width=9.6, height=2.3 * len(rows))


def _bounds(config: Config, beta_fast: float) -> tuple[float, float]:
    return ramp_bounds(
        config.head_dim, theta=config.rope_theta, beta_slow=config.beta_slow, beta_fast=beta_fast,
        initial_context=config.initial_context,
    )  # fmt: skip


def _frequencies(config: Config, factor: float, beta_fast: float) -> np.ndarray:
    changed = dataclasses.replace(config, rope_factor=factor, beta_fast=beta_fast)
    return rope_frequencies(changed)[0]
