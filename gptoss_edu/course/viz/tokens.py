"""Tokens: how text is cut into them, how messages are built from them, and how they are read.

`token_strip` and `token_rows` show tokens as chips, `merge_steps` how a word grows into one,
`count_bars` what texts cost. `message_table` lays a rendered conversation out, `parser_states`
draws how a reader of the stream goes through it, `harmony_timeline` the channels of a reply.
"""

from __future__ import annotations

import dataclasses
import html
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from gptoss_edu.course.viz.colors import (
    ANSI,
    BLUE,
    INK,
    LINE,
    ORANGE,
    PALE,
    RESET,
    SKY,
    TINTS,
    VERMILION,
)
from gptoss_edu.course.viz.explore import show
from gptoss_edu.course.viz.look import (
    Axes,
    Figure,
    Picture,
    draw,
    fill,
    label,
    name_rows,
    rectangle,
    small_multiples,
    write,
)
from gptoss_edu.parser import Piece, StreamParser
from gptoss_edu.reply import COLORS, Reply
from gptoss_edu.tokenizer import (
    CALL,
    CHANNEL,
    END,
    ENDOFTEXT,
    FIRST_CONTROL,
    MESSAGE,
    RETURN,
    START,
    STOP_TOKENS,
    Tokenizer,
)


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


def harmony_timeline(reply: Reply) -> Picture:
    """When each token of a reply came, and on which channel: one lane per channel, one box per
    token, from the first sampled to the stop; a long reply is broken into lines.
    """
    ids, lanes = reply.token_ids, _lanes(reply.token_ids)
    channels = [name for name in COLORS if any(lane == name for lane, _ in lanes)]
    boxes = [
        _Box(token, lane or "header", lane) for token, (lane, _) in zip(ids, lanes, strict=True)
    ]
    spoken = {name: sum(lane == name for lane, _ in lanes) for name in channels}
    counted = ", ".join(f"{count} tokens on {name}" for name, count in spoken.items())
    last = label(ids[-1]) if ids else "nothing"
    alt = (
        f"Timeline of a reply: {counted}, and {len(ids) - sum(spoken.values())} tokens of headers"
        f" and ends; the last token is {last}."
    )
    below = "tokens since the end of the prompt"
    return _lane_picture(boxes, [*reversed(channels), "header"], alt, below)


@dataclasses.dataclass(frozen=True)
class _Box:
    """A token in its lane: tinted by channel, or dark."""

    token: int
    lane: str
    channel: str | None = None
    dark: bool = False

    @property
    def text(self) -> str:
        return label(self.token, 14).replace("<|", "").replace("|>", "")

    @property
    def width(self) -> float:
        """In characters, with a little room on both sides."""
        return len(self.text) + 1.4


def _lines(boxes: Sequence[_Box], room: float = 104.0) -> list[list[tuple[int, float]]]:
    """Boxes from left to right, broken into lines: (index of a box, where it begins)."""
    lines: list[list[tuple[int, float]]] = [[]]
    x = 0.0
    for index, one in enumerate(boxes):
        if x + one.width > room and lines[-1]:
            lines.append([])
            x = 0.0
        lines[-1].append((index, x))
        x += one.width + 0.5
    return lines


def _lane_picture(
    boxes: Sequence[_Box], names: Sequence[str], alt: str, below: str, *, path: bool = False
) -> Picture:
    """Boxes in their lanes, the first of `names` lowest; `path` leads from each to the next."""
    lines = _lines(boxes)

    def paint(figure: Figure) -> None:
        for line, axes in zip(lines, small_multiples(figure, len(lines), 1), strict=True):
            middles = [x + boxes[index].width / 2 for index, x in line]
            heights = [names.index(boxes[index].lane) for index, _ in line]
            if path:
                axes.step(middles, heights, where="mid", color=ORANGE, lw=2.5, zorder=1)
            for (index, x), height in zip(line, heights, strict=True):
                _token_box(axes, x, height, boxes[index])
            axes.set_xlim(-0.6, 105)
            axes.set_ylim(-0.5, len(names) - 0.5)
            name_rows(axes, names)
            axes.set_xticks(middles[::5], [str(index) for index, _ in line[::5]], fontsize=8)
            axes.spines["left"].set_visible(False)
        axes.set_xlabel(below)

    return draw(paint, alt, width=9, height=0.3 + len(lines) * (0.3 + 0.28 * len(names)))


def _token_box(axes: Axes, x: float, y: float, one: _Box) -> None:
    from matplotlib.patches import FancyBboxPatch

    stops = one.token in STOP_TOKENS
    style: dict[str, Any] = {
        "boxstyle": "round,pad=0,rounding_size=0.12",
        "mutation_aspect": 0.4,
        "facecolor": VERMILION if stops else INK if one.dark else TINTS.get(one.channel, PALE),
        "edgecolor": COLORS.get(one.channel or "", LINE),
        "linewidth": 0.8,
    }
    axes.add_patch(FancyBboxPatch((x, y - 0.42), one.width, 0.84, **style))
    color, weight = "white" if stops or one.dark else INK, "bold" if stops else None
    write(axes, x + one.width / 2, y, one.text, fontsize=7.5, color=color, weight=weight)


# --------------------------------------------------------------------------- text becomes tokens


@dataclasses.dataclass(frozen=True)
class TokenRows:
    """One strip of tokens for each caption, and how many there are."""

    rows: tuple[tuple[str, TokenStrip], ...]

    def __repr__(self) -> str:
        wide = max((len(caption) for caption, _ in self.rows), default=0)
        counts = [f"{_count(strip.tokens, 'token'):>10}" for _, strip in self.rows]
        pairs = zip(self.rows, counts, strict=True)
        return "\n".join(f"{name:{wide}} {count}: {strip!r}" for (name, strip), count in pairs)

    def _repr_html_(self) -> str:
        cell = 'style="text-align:left;padding:2px 10px 2px 0;background:transparent"'
        rows = "".join(
            f'<tr><td {cell[:-1]};white-space:pre-wrap">{html.escape(caption)}</td>'
            f"<td {cell.replace('left', 'right')}>{_count(strip.tokens, 'token')}</td>"
            f"<td {cell}>{strip._repr_html_()}</td></tr>"
            for caption, strip in self.rows
        )
        return f"<table>{rows}</table>"


def token_rows(rows: Mapping[str, Iterable[int]]) -> TokenRows:
    """Several texts, each as a strip of its true o200k ids, under each other: {caption: ids}."""
    return TokenRows(tuple((caption, token_strip(ids)) for caption, ids in rows.items()))


@dataclasses.dataclass(frozen=True)
class TypeBox:
    """Examples as token strips; where a live front end is there, a field to type your own into."""

    examples: TokenRows
    text: str

    def __repr__(self) -> str:
        return repr(self.examples)

    def _ipython_display_(self) -> None:
        show(self.examples, self.live)

    def live(self) -> Any:
        """A text field, and the strip of what is in it, as one ipywidgets box."""
        import ipywidgets

        field = ipywidgets.Text(
            value=self.text,
            description="type here",
            continuous_update=True,
            layout={"width": "48em"},
        )
        strip = ipywidgets.HTML()

        def redraw(change: Any = None) -> None:
            try:
                ids = Tokenizer().encode(field.value)
            except ValueError as error:  # half a character, pasted from somewhere
                strip.value = html.escape(str(error))
                return
            counted = f"{len(field.value.encode())} bytes, {len(ids)} tokens"
            strip.value = f"{token_strip(ids)._repr_html_()}<div>{counted}</div>"

        field.observe(redraw, names="value")
        redraw()
        return ipywidgets.VBox([field, strip])


def type_and_see(*examples: str) -> TypeBox:
    """Type text, see its tokens: the examples as strips, then a field that begins with the first.

    Raises ValueError without an example.
    """
    if not examples:
        raise ValueError("no examples found: expected at least one text to show")
    encode = Tokenizer().encode
    rows = {text.replace("\n", "↵"): encode(text) for text in examples}
    return TypeBox(token_rows(rows), examples[0])


def merge_steps(steps: Iterable[Sequence[bytes]], ranks: Mapping[bytes, int]) -> Picture:
    """How a word grows together: one row for its bytes, one for each merge after it.

    `steps` are the pieces after 0, 1, 2, … merges, `ranks` the ids of all pieces.
    """
    steps = [list(pieces) for pieces in steps]
    ids = [ranks[piece] for piece in _new_pieces(steps)]
    length = sum(map(len, steps[0]))

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for row, pieces in enumerate(steps):
            x, before = 0, _edges(steps[row - 1]) if row else None
            for piece in pieces:
                new = before is not None and (x, x + len(piece)) not in before
                _piece_box(axes, x, -row, piece, ORANGE if new else PALE)
                x += len(piece)
            made = f"{ids[row - 1]:,}" if row else "id of the new piece"
            axes.text(length + 0.25, -row, made, va="center", fontsize=9)
        axes.set_xlim(-0.1, length + 2.9)
        axes.set_ylim(0.55 - len(steps), 0.55)
        axes.axis("off")

    word = b"".join(steps[0]).decode("utf-8", "replace")
    made = ", ".join(
        f"{piece_text(new)} ({token})" for new, token in zip(_new_pieces(steps), ids, strict=True)
    )
    alt = (
        f"The {length} bytes of {piece_text(word.encode())} grow together in {len(ids)} merges,"
        f" each the one with the lowest id: {made}. At the end: {_count(steps[-1], 'piece')}."
    )
    height = 0.25 + 0.36 * len(steps)
    return draw(paint, alt, width=min(9.0, 0.62 * (length + 3)), height=height)


def _count(things: Sequence[Any], name: str) -> str:
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}"


def _edges(pieces: Sequence[bytes]) -> set[tuple[int, int]]:
    edges, x = set(), 0
    for piece in pieces:
        edges.add((x, x + len(piece)))
        x += len(piece)
    return edges


def _new_pieces(steps: Sequence[Sequence[bytes]]) -> list[bytes]:
    """What each merge made."""
    made = []
    for before, after in itertools.pairwise(steps):
        begin, end = min(_edges(after) - _edges(before))
        made.append(b"".join(after)[begin:end])
    return made


def piece_text(piece: bytes) -> str:
    """Bytes as they can be shown: letters as such, spaces as dots, the rest in hexadecimal."""
    try:
        text = piece.decode()
    except UnicodeDecodeError:
        return piece.hex(" ")
    text = text.replace(" ", "·").replace("\n", "↵")
    return text if text.isprintable() else piece.hex(" ")


def _piece_box(axes: Axes, x: float, y: float, piece: bytes, color: str) -> None:
    from matplotlib.colors import to_rgb

    tint = color if color == PALE else tuple(0.45 + 0.55 * channel for channel in to_rgb(color))
    edge = INK if color != PALE else LINE
    fill(axes, x + 0.05, y - 0.38, len(piece) - 0.1, 0.76, facecolor=tint, edgecolor=edge, lw=0.9)
    text = piece_text(piece)
    write(axes, x + len(piece) / 2, y, text, fontsize=10)


def count_bars(texts: Mapping[str, str], tokenizer: Tokenizer | None = None) -> Picture:
    """What texts cost: characters, bytes and tokens of each, as bars under its name."""
    encode = (tokenizer or Tokenizer()).encode
    counts = {
        name: (len(text), len(text.encode()), len(encode(text))) for name, text in texts.items()
    }
    shades = {"characters": (PALE, ""), "bytes": (SKY, "//"), "tokens": (BLUE, "")}

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for place, triple in enumerate(counts.values()):
            styles = zip(triple, shades.values(), strict=True)
            for line, (count, (color, hatch)) in enumerate(styles):
                y = place + 0.27 * (line - 1)
                axes.barh(y, count, 0.25, color=color, hatch=hatch, edgecolor=LINE, lw=0.5)
                axes.text(count + 0.6, y, str(count), va="center", fontsize=8)
        name_rows(axes, counts)
        axes.invert_yaxis()
        handles = [
            rectangle(0, 0, 1, 1, facecolor=color, hatch=hatch, edgecolor=LINE, lw=0.5)
            for color, hatch in shades.values()
        ]
        axes.legend(handles, shades, frameon=False, loc="lower right")

    summary = "; ".join(f"{name} {c}, {b}, {t}" for name, (c, b, t) in counts.items())
    alt = f"Bars of characters, bytes and tokens: {summary}."
    return draw(paint, alt, width=7.5, height=0.5 + 0.62 * len(counts))


# ----------------------------------------------------------------------- tokens become messages

OPENS = {START: "role", CHANNEL: "channel", MESSAGE: "text"}
CLOSES = (END, RETURN, CALL, ENDOFTEXT)
BOX = 9  # width of a control token's box in `message_table`, in characters


def _parts(ids: Sequence[int]) -> list[dict[str, list[int]]]:
    """The ids of each message, split where a control token opens a part; "end" is what closes it.

    Other control tokens, like `<|constrain|>`, stay in the part they are found in.
    """
    messages: list[dict[str, list[int]]] = []
    part: list[int] | None = None
    for token in ids:
        if token == START or not messages:
            messages.append({"role": []})
            part = messages[-1]["role"]
        if token in OPENS:
            part = messages[-1].setdefault(OPENS[token], [])
        elif token in CLOSES:
            messages[-1]["end"] = [token]
        elif part is not None:
            part.append(token)
    return messages


def message_table(
    ids: Sequence[int], width: int = 124, *, marked: Mapping[int, str] | None = None
) -> Picture:
    """A rendered conversation, one message per line and one column per part of a message.

    Dark boxes are control tokens. `width` is in characters; texts are cut to fit into it. `marked`
    colors messages, counted from 0, and says why at their ends.
    """
    marked = marked or {}
    messages = _parts(ids)
    shown = [{part: _one_line(tokens) for part, tokens in m.items()} for m in messages]
    # Each column begins where the longest entry of the one before it ends.
    starts, x = {}, 0
    for part in ("role", "channel", "text"):
        starts[part] = x
        longest = max((len(m[part]) for m in shown if part in m), default=-BOX - 3)
        x += BOX + 3 + longest
    x = min(x, width - BOX)
    room = x - starts["text"] - BOX - 3

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for row, (message, texts) in enumerate(zip(messages, shown, strict=True)):
            if row in marked:
                fill(axes, -0.6, -row - 0.46, width + 1.2, 0.92, facecolor="#f6d5c3", zorder=0)
                note: dict[str, Any] = {"color": "#a33f00", "weight": "bold", "fontsize": 8.5}
                axes.text(x - 1, -row, marked[row], ha="right", va="center", **note)
            for opener, part in OPENS.items():
                if part in message:
                    _control(axes, starts[part], -row, opener)
                    text = texts[part]
                    text = text if part != "text" or len(text) <= room else text[: room - 1] + "…"
                    style: dict[str, Any] = {"family": "DejaVu Sans Mono", "fontsize": 8}
                    axes.text(starts[part] + BOX + 0.8, -row, text, va="center", **style)
            if "end" in message:
                _control(axes, x, -row, message["end"][0])
        axes.set_xlim(-1, width + 1)
        axes.set_ylim(0.6 - len(messages), 0.6)
        axes.axis("off")

    told = [_told(message) for message in messages]
    summary = "; ".join(
        f"{one} ({marked[row]})" if row in marked else one for row, one in enumerate(told)
    )
    alt = f"{_count(messages, 'message')}: {summary}."
    return draw(paint, alt, width=9.4, height=0.15 + 0.31 * len(messages))


def _one_line(tokens: Sequence[int]) -> str:
    return " ".join(Tokenizer().decode(tokens).replace("\n", " ↵ ").split())


def _told(message: Mapping[str, list[int]]) -> str:
    """One message in words, for the alternative text."""
    decode = Tokenizer().decode
    words = [decode(message["role"]).strip()]
    if "channel" in message:
        words.append(f"on {decode(message['channel']).strip()}")
    if "text" in message:
        words.append(f"with {_count(message['text'], 'token')} of text")
    end = f"closed by {label(message['end'][0])[2:-2]}" if "end" in message else "left open"
    return " ".join([*words, end])


def _control(axes: Axes, x: float, y: float, token: int) -> None:
    color = VERMILION if token in STOP_TOKENS else INK
    fill(axes, x, y - 0.34, BOX, 0.68, facecolor=color, edgecolor=color)
    write(axes, x + BOX / 2, y, label(token)[2:-2], fontsize=7.5, color="white")


def parser_states(steps: Sequence[tuple[int, str]], states: Sequence[str]) -> Picture:
    """The way of a parser through a stream: `steps` are (token, state after it), in order.

    One lane per state, from the first in `states` at the top; a dark box is a control token, a red
    one a stop token. A token stands in the lane of the state that the parser is in after it.
    """
    boxes = [_Box(token, state, dark=token >= FIRST_CONTROL) for token, state in steps]
    runs = itertools.groupby(state for _, state in steps)
    way = ", ".join(f"{state} {len(list(run))}" for state, run in runs)
    alt = f"States of a parser over {_count(steps, 'token')}, with how long each lasts: {way}."
    return _lane_picture(
        boxes, list(reversed(states)), alt, "tokens since the parser began", path=True
    )
