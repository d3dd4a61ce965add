"""Tokens: as a strip, as a stream in color, and as a timeline of the channels they came on."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from gptoss_edu.parser import Piece, StreamParser
from gptoss_edu.reply import COLORS, Reply
from gptoss_edu.tokenizer import FIRST_CONTROL, STOP_TOKENS
from gptoss_edu.viz.look import ANSI, INK, LINE, PALE, RESET, TINTS, VERMILION, Picture, draw, label


@dataclasses.dataclass(frozen=True)
class TokenStrip:
    """Tokens side by side: text above, id below, tinted by channel, control tokens framed."""

    tokens: tuple[tuple[int, str | None], ...]

    def __repr__(self) -> str:
        return " ".join(f"{label(token, 99)}({token})" for token, _ in self.tokens)

    def _repr_html_(self) -> str:
        chips = "".join(_chip(token, channel) for token, channel in self.tokens)
        return f'<div role="list" aria-label="tokens" style="line-height:1.15">{chips}</div>'


def _chip(token: int, channel: str | None) -> str:
    frame = INK if token >= FIRST_CONTROL else "transparent"
    return (
        f'<span role="listitem" style="display:inline-block;background:{TINTS.get(channel, PALE)};'
        f"color:{INK};border:1px solid {frame};border-radius:4px;padding:1px 5px;margin:1px;"
        f'text-align:center;font-family:monospace">{html.escape(label(token, 99))}'
        f'<br><span style="font-size:70%">{token}</span></span>'
    )


def token_strip(ids: Iterable[int], *, reply: bool = False) -> TokenStrip:
    """Show true o200k ids as a strip; with `reply`, colored by the channel they were sampled on."""
    ids = [int(token) for token in ids]
    channels = [channel for channel, _ in _lanes(ids)] if reply else [None] * len(ids)
    return TokenStrip(tuple(zip(ids, channels, strict=True)))


def _lanes(ids: Sequence[int]) -> list[tuple[str | None, bool]]:
    """For each sampled id (channel of the message whose text it spells, or None; is it control?)"""
    parser, lanes = StreamParser(), []
    for token in ids:
        before = parser.channel
        parser.feed(token)
        inside = before is not None and parser.channel == before
        lanes.append((before if inside else None, token >= FIRST_CONTROL))
    return lanes


def in_color(pieces: Iterable[Piece]) -> Iterator[str]:
    """Text to print as pieces come: each channel on a line of its own, named and in its color."""
    channel: Any = ()
    for piece in pieces:
        if piece.channel != channel:
            first, channel = channel == (), piece.channel
            yield f"{'' if first else RESET + chr(10)}{ANSI.get(channel, '')}{channel or 'text'} | "
        yield piece.text
    if channel != ():
        yield RESET + "\n"


def harmony_timeline(reply: Reply, per_row: int = 56) -> Picture:
    """When each token of a reply came, and on which channel: one lane per channel, one box per
    token, from the first sampled to the stop.
    """
    ids, lanes = reply.token_ids, _lanes(reply.token_ids)
    channels = [name for name in COLORS if any(lane == name for lane, _ in lanes)]
    names = [*reversed(channels), "header"]
    rows = max(1, -(-len(ids) // per_row))
    per_row = max(1, -(-len(ids) // rows))  # rows of equal length

    def paint(figure: Any) -> None:
        for row, axes in enumerate(figure.subplots(rows, 1, squeeze=False)[:, 0]):
            for step in range(row * per_row, min(len(ids), (row + 1) * per_row)):
                channel = lanes[step][0]
                height = names.index(channel or "header")
                _token_box(axes, step - row * per_row, height, ids[step], channel)
            axes.set_xlim(-0.6, per_row - 0.4)
            axes.set_ylim(-0.5, len(names) - 0.5)
            axes.set_yticks(range(len(names)), names)
            ticks = range(0, min(per_row, len(ids) - row * per_row), 5)
            axes.set_xticks(ticks, [str(row * per_row + tick) for tick in ticks])
            axes.spines["left"].set_visible(False)
            axes.tick_params(axis="y", length=0)
        axes.set_xlabel("tokens since the end of the prompt")

    spoken = {name: sum(lane == name for lane, _ in lanes) for name in channels}
    counted = ", ".join(f"{count} tokens on {name}" for name, count in spoken.items())
    last = label(ids[-1]) if ids else "nothing"
    alt = (
        f"Timeline of a reply: {counted}, and {len(ids) - sum(spoken.values())} tokens of headers"
        f" and ends; the last token is {last}."
    )
    return draw(paint, alt, width=9, height=0.3 + rows * (0.3 + 0.66 * len(names)))


def _token_box(axes: Any, x: int, y: int, token: int, channel: str | None) -> None:
    from matplotlib.patches import FancyBboxPatch

    stops = token in STOP_TOKENS
    box = FancyBboxPatch(
        (x - 0.4, y - 0.42),
        0.8,
        0.84,
        boxstyle="round,pad=0,rounding_size=0.12",
        facecolor=VERMILION if stops else TINTS.get(channel, PALE),
        edgecolor=COLORS.get(channel, LINE),
        linewidth=0.8,
    )
    axes.add_patch(box)
    text = label(token, 99).replace("<|", "").replace("|>", "")
    text = text if len(text) <= 9 else text[:8] + "…"
    axes.text(
        x, y, text, rotation=90, ha="center", va="center", fontsize=7.5,
        color="white" if stops else INK, weight="bold" if stops else "normal",
    )  # fmt: skip
