"""Panels of the first chapters: the loop that writes, merges one by one, two arrows that turn."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from gptoss_edu.course.viz.colors import BLUE, INK, ORANGE, PALE, SKY
from gptoss_edu.course.viz.look import Axes, Figure, Picture, box, draw, fill, label, write
from gptoss_edu.course.viz.panel import Panel, Values, panel
from gptoss_edu.course.viz.rotation import Wheel, rotation_wheels
from gptoss_edu.course.viz.tokens import merge_steps, piece_text

SHOWN, GUESSES = 9, 5  # tokens of the text, and candidates for the next one


def writing_loop(
    replies: Mapping[str, tuple[Sequence[int], Any]], vocabulary: Sequence[int]
) -> Panel:
    """The loop of a language model: text, ids, network, probabilities, one more token.

    A reply is (ids of prompt and reply, next_TV): row t has the probabilities from which the
    reply's token t was picked, and `vocabulary[v]` is the id of column v.
    """
    data = {name: _turns(ids, next_TV, vocabulary) for name, (ids, next_TV) in replies.items()}
    first = next(iter(data))
    most, at = max(len(one["steps"]) for one in data.values()), 6
    controls: dict[str, Values] = {"effort": tuple(data), "token": tuple(range(most))}
    return panel("loop", _loop_picture(data[first], at), controls, data, {"token": at})


def _turns(ids: Sequence[int], next_TV: Any, vocabulary: Sequence[int]) -> dict[str, Any]:
    next_TV = np.asarray(next_TV, np.float64)
    best_TX = np.argsort(-next_TV, axis=-1, kind="stable")[:, :GUESSES]
    steps = [
        [[_text(vocabulary[v]), round(float(next_V[v]), 2)] for v in best_X]
        for next_V, best_X in zip(next_TV, best_TX, strict=True)
    ]
    return {
        "texts": [_text(token) for token in ids],
        "ids": [int(token) for token in ids],
        "begin": len(ids) - len(steps),
        "steps": steps,
        "vocabulary": next_TV.shape[1],
    }


def _text(token: int) -> str:
    return label(int(token), 13).replace("<|", "‹").replace("|>", "›")


def _loop_picture(data: Mapping[str, Any], at: int) -> Picture:
    """One turn of the loop: the token `at` of the reply is picked."""
    end = data["begin"] + at
    texts, ids = data["texts"][end - SHOWN + 1 : end], data["ids"][end - SHOWN + 1 : end]
    guesses = data["steps"][at]

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for place, (text, token) in enumerate(zip(texts, ids, strict=True)):
            _chip(axes, 1.25 * place, f"{text}\n{token}", PALE)
        _chip(axes, 1.25 * (SHOWN - 1), "?", ORANGE)
        stages = (
            "a vector for\neach id",
            "the layers of\nthe network",
            "a score for each\nof the tokens",
        )
        for place, text in enumerate(stages):
            box(axes, 2.3 * place, 1.55, 1.9, 0.8, text, SKY)
            if place:
                _arrow(axes, (2.3 * place - 0.38, 1.95), (2.3 * place - 0.02, 1.95))
        _arrow(axes, (0.95, 2.95), (0.95, 2.37))
        for place, (text, share) in enumerate(guesses):
            y = 2.25 - 0.32 * place
            fill(axes, 8.2, y - 0.12, 2 * share, 0.24, facecolor=ORANGE if not place else BLUE)
            axes.text(8.1, y, text, ha="right", va="center", fontsize=9)
            axes.text(8.25 + 2 * share, y, f"{share:.2f}", va="center", fontsize=9)
        _arrow(axes, (10.5, 2.4), (10.5, 2.95))
        axes.text(10.6, 2.65, "pick, append", fontsize=9, va="center")
        axes.set_xlim(-0.2, 12)
        axes.set_ylim(0.75, 3.8)
        axes.set_axis_off()

    told = ", ".join(f"{text} {share:.2f}" for text, share in guesses)
    alt = (
        "One turn of the loop of a language model: tokens with their ids, a vector for each,"
        f" the layers, a score for each of {data['vocabulary']:,} tokens, and the one that is"
        f" picked is appended. After {' '.join(texts[-3:])} the likeliest are: {told}."
    )
    return draw(paint, alt, width=9.2, height=2.5)


def _chip(axes: Axes, x: float, text: str, color: str) -> None:
    fill(axes, x, 3.0, 1.15, 0.68, facecolor=color, edgecolor=INK, lw=0.7)
    write(axes, x + 0.57, 3.34, text, fontsize=8)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": INK, "lw": 1.4})


def merge_stepper(
    words: Mapping[str, Iterable[Sequence[bytes]]], ranks: Mapping[bytes, int]
) -> Panel:
    """Byte pair encoding one merge at a time: for each word its pieces after 0, 1, 2, … merges."""
    found = {word: [list(pieces) for pieces in steps] for word, steps in words.items()}
    data = {
        word: [[[piece_text(piece), ranks[piece], len(piece)] for piece in step] for step in steps]
        for word, steps in found.items()
    }
    most = max(map(len, found.values()))
    first = next(iter(found))
    controls: dict[str, Values] = {"word": tuple(found), "merges": tuple(range(most))}
    picture = merge_steps(found[first], ranks)
    return panel("merges", picture, controls, data, {"word": first, "merges": 0})


def turning_arrows() -> Panel:
    """Query and key as two arrows: positions and speed are inputs, angle and score the answer."""
    step = math.radians(30)
    places = ((5, 3), (6, 4), (105, 103), (105, 104))
    wheels = [Wheel(f"query at {q}, key at {k}", {"q": q * step, "k": k * step}) for q, k in places]
    positions = tuple(range(25))
    controls = {
        "query at": positions,
        "key at": positions,
        "both moved by": (0, 1, 2, 5, 10, 100),
        "degrees per position": (57.3, 30, 15, 5, 1),
    }
    start = {"query at": 5, "key at": 3, "both moved by": 0, "degrees per position": 30}
    return panel("arrows", rotation_wheels(wheels), controls, None, start)


def compile_stepper(calls: Sequence[tuple[str, str, str]]) -> Panel:
    """Calls of a compiled function, one after the other: (shape, dtype, static argument).

    Which of them finds a program, and which has to wait for one?
    """
    fresh = [call not in calls[:index] for index, call in enumerate(calls)]

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for row, (call, new) in enumerate(zip(calls, fresh, strict=True)):
            fill(axes, 0, -row - 0.42, 10, 0.84, facecolor="#f3c98b" if new else PALE)
            for x, text in zip(
                (0.2, 2.6, 4.8, 7.0), (*call, "compiles" if new else "runs"), strict=True
            ):
                axes.text(x, -row, text, va="center", fontsize=9, family="DejaVu Sans Mono")
        axes.set_xlim(0, 10)
        axes.set_ylim(0.6 - len(calls), 0.6)
        axes.set_axis_off()

    told = [f"{' '.join(call)} {'compiles' if new else 'runs'}"
            for call, new in zip(calls, fresh, strict=True)]  # fmt: skip
    alt = f"{len(calls)} calls of a compiled function, {sum(fresh)} programs: {'; '.join(told)}."
    picture = draw(paint, alt, width=7.5, height=0.15 + 0.3 * len(calls))
    controls: dict[str, Values] = {"calls": tuple(range(1, len(calls) + 1))}
    return panel("compiles", picture, controls, [list(call) for call in calls], {"calls": 1})
