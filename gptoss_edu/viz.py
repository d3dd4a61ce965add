"""Figures of the course: one look, drawn from live data, readable on light and dark pages.

Every figure stands on its own light card, with dark text and the colors of Okabe and Ito, which
color-blind people can tell apart; color never says anything that a word or a shape does not say as
well. A figure is a `Picture`: an image, and one sentence that tells what it shows. The sentence is
its alternative text, and the text that tests compare, since images differ from machine to machine.

matplotlib is imported when the first figure is drawn, and never by the rest of the package.
"""

from __future__ import annotations

import base64
import dataclasses
import html
import io
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from gptoss_edu.cache import FullKV, RingKV
from gptoss_edu.config import Config
from gptoss_edu.parser import Piece, StreamParser
from gptoss_edu.reply import COLORS, Reply
from gptoss_edu.sampling import Sampling, filter_logits
from gptoss_edu.tokenizer import FIRST_CONTROL, STOP_TOKENS, Tokenizer

PAPER, INK, PALE, LINE = "#fcfbf8", "#1f1f1f", "#e9e6df", "#8a867d"
BLUE, SKY, ORANGE, VERMILION = "#0072b2", "#56b4e9", "#e69f00", "#d55e00"
GREEN, PINK = "#009e73", "#cc79a7"
# The colors of `Reply`; white and black text are both readable on the tints.
TINTS = {"analysis": "#d9d0f2", "commentary": "#f3dcb5", "final": "#c3e6cf", None: PALE}
ANSI = {"analysis": "\x1b[35m", "commentary": "\x1b[33m", "final": "\x1b[32m"}
RESET = "\x1b[0m"
STYLE = {
    "font.family": "DejaVu Sans",  # it comes with matplotlib, so widths are the same everywhere
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": INK,
    "axes.titlesize": 10.5,
    "axes.facecolor": PAPER,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "hatch.linewidth": 0.6,
    "text.parse_math": False,  # a token may be a dollar sign
}


@dataclasses.dataclass(frozen=True)
class Picture:
    """An image with the sentence that replaces it for those, people or programs, who cannot see it.

    `width` is in pixels of the page; the image itself has twice as many.
    """

    png: bytes
    alt: str
    width: int

    def __repr__(self) -> str:
        return self.alt

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict, dict]:
        image = base64.b64encode(self.png).decode()
        shown = {"image/png": image, "text/plain": self.alt}
        return shown, {"image/png": {"alt": self.alt, "width": self.width}}


def draw(paint: Callable[[Any], None], alt: str, *, width: float, height: float) -> Picture:
    """A picture of `width` x `height` inches: `paint` receives a matplotlib figure to fill."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), facecolor=PAPER, layout="constrained")
        paint(figure)
        file = io.BytesIO()
        with warnings.catch_warnings():  # no font has every script of the vocabulary
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            figure.savefig(file, format="png", dpi=192, metadata={"Software": None})
    return Picture(file.getvalue(), alt, round(96 * width))


# --------------------------------------------------------------------------------------- tokens


def label(token: int, longest: int = 16) -> str:
    """How a token (a true o200k id) is written in a figure: spaces and line ends made visible."""
    text = Tokenizer().token_bytes(token).decode("utf-8", "replace")
    text = text.replace(" ", "·").replace("\n", "↵")
    text = "".join(c if c.isprintable() else "\ufffd" for c in text)
    return text if len(text) <= longest else text[: longest - 1] + "…"


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


# ------------------------------------------------------------------------------------- sampling


def sampling_panels(
    logits_V: Any, ids: Sequence[int], settings: Mapping[str, Sampling], *, top: int = 8
) -> Picture:
    """What each setting makes of one set of logits: small multiples of the likeliest tokens.

    `ids[v]` is the o200k id of row v. Bars are the probabilities of the draw; a token that a
    setting rules out is struck through, and its bar in the plain distribution stays as an outline.
    """
    logits_V = np.asarray(logits_V, np.float64)
    order = np.argsort(-logits_V, kind="stable")[:top]
    names = [label(int(ids[row]), 11) for row in order]
    plain = _probabilities(logits_V, Sampling(temperature=1.0))[order]
    drawn = {name: _probabilities(logits_V, setting) for name, setting in settings.items()}
    columns = min(len(drawn), 3)
    rows = -(-len(drawn) // columns)

    def paint(figure: Any) -> None:
        panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
        for axes in panels[len(drawn) :]:
            axes.set_visible(False)
        for axes, (name, p_V) in zip(panels, drawn.items(), strict=False):
            axes.barh(range(top), p_V[order], color=BLUE, height=0.72)
            axes.barh(range(top), plain, facecolor="none", edgecolor=INK, height=0.72, lw=0.7)
            for place, row in enumerate(order):
                p = p_V[row]
                axes.text(
                    max(p, plain[place]) + 0.02, place, f"{p:.0%}" if p > 0 else "never",
                    va="center", fontsize=8.5, color=INK if p > 0 else VERMILION,
                )  # fmt: skip
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


def _probabilities(logits_V: np.ndarray, setting: Sampling) -> np.ndarray:
    """The distribution that one draw follows."""
    active, logits_V = setting.active, np.asarray(logits_V, np.float64)
    if "temperature" not in active:
        return np.eye(len(logits_V))[int(np.argmax(logits_V))]
    logits_V = (logits_V - logits_V.max()) / active["temperature"]
    if "top_k" in active:
        filters = active["top_k"], active["top_p"], active["min_p"]
        logits_V = np.asarray(filter_logits(jnp.asarray(logits_V[None], jnp.float32), *filters)[0])
    p_V = np.exp(logits_V, dtype=np.float64)
    return p_V / p_V.sum()


# ----------------------------------------------------------------------------- inside the model


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

    def paint(figure: Any) -> None:
        axes = figure.subplots()
        shade = axes.imshow(sure_LT, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for layer, step in np.ndindex(L, T):
            axes.text(
                step, layer, _short(int(guess_LT[layer, step])), ha="center", va="center",
                fontsize=7, color="white" if sure_LT[layer, step] > 0.6 else INK,
                weight="bold" if right_LT[layer, step] else "normal",
            )  # fmt: skip
            if right_LT[layer, step]:
                frame = {"fill": False, "edgecolor": ORANGE, "linewidth": 2.2}
                axes.add_patch(_rectangle(step - 0.46, layer - 0.44, 0.92, 0.88, **frame))
        axes.set_yticks(range(L), names)
        axes.set_xticks(range(T), [_short(int(token)) for token in ids_T], fontsize=8)
        axes.set_xlabel("token that was read   (orange frame: the guess is what came next)")
        axes.tick_params(length=0)
        axes.spines[["left", "bottom"]].set_visible(False)
        bar = figure.colorbar(shade, ax=axes, ticks=[0, 0.5, 1], fraction=0.03, pad=0.01)
        bar.set_label("probability of the guess")

    right = ", ".join(f"{name} {row.sum()}" for name, row in zip(names, right_LT, strict=True))
    alt = f"Table of best guesses by layer and token. Right guesses of {T}: {right}."
    return draw(paint, alt, width=max(6.0, 1.9 + 0.64 * T), height=1.1 + 0.42 * L)


def _short(token: int) -> str:
    """A label for a narrow cell: `<|message|>` becomes ‹message›."""
    text = label(token, 99).replace("<|", "‹").replace("|>", "›")
    return text if len(text) <= 9 else text[:7] + "…"


def _rectangle(x: float, y: float, width: float, height: float, **style: Any) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((x, y), width, height, **style)


def cache_picture(stores: Sequence[tuple[str, FullKV | RingKV]], row: int = 0) -> Picture:
    """Which position's key lies in which slot: one line per store, one square per slot.

    The newest key is framed, empty slots are blank. `row` picks one prompt of a batch.
    """
    held = [(name, np.asarray(store.position_BS)[row]) for name, store in stores]
    slots, oldest = max(len(p) for _, p in held), max(int(p.max()) for _, p in held)

    def paint(figure: Any) -> None:
        from matplotlib import colormaps

        axes = figure.subplots()
        for line, (_, position_S) in enumerate(held):
            for slot, position in enumerate(position_S):
                age = position / max(oldest, 1)
                color = colormaps["Blues"](0.15 + 0.75 * age) if position >= 0 else PAPER
                newest = position >= 0 and position == position_S.max()
                style = {"edgecolor": VERMILION if newest else LINE, "lw": 2.5 if newest else 0.8}
                axes.add_patch(
                    _rectangle(slot + 0.06, line - 0.4, 0.88, 0.8, facecolor=color, **style)
                )
                if position >= 0:
                    ink = "white" if age > 0.6 else INK
                    axes.text(slot + 0.5, line, str(position), ha="center", va="center", color=ink)
        axes.set_xlim(0, slots)
        axes.set_ylim(len(held) - 0.4, -0.6)
        axes.set_yticks(range(len(held)), [name for name, _ in held])
        axes.set_xticks([slot + 0.5 for slot in range(slots)], range(slots))
        axes.set_xlabel("slot   (in the square: the position of its key; red frame: the newest)")
        axes.tick_params(length=0)
        axes.spines[["left", "bottom"]].set_visible(False)

    alt = "Slots and the positions they hold. " + " ".join(
        f"{name}: {' '.join(str(p) if p >= 0 else '-' for p in position_S)}."
        for name, position_S in held
    )
    return draw(paint, alt, width=max(6.5, 2.2 + 0.36 * slots), height=0.8 + 0.42 * len(held))


def network_diagram(config: Config) -> Picture:
    """The whole network, left to right: blocks read the residual stream and add to it."""
    c = config
    slides = f"sliding\nattention\nlast {c.sliding_window} keys"
    full = "full\nattention\nevery key"
    experts = f"experts\n{c.experts_per_token} of {c.num_experts}\nper token"

    def paint(figure: Any) -> None:
        axes = figure.subplots()
        stream = {"arrowstyle": "->", "lw": 2}
        axes.annotate("", (11.6, 0.3), (0, 0.3), arrowprops=stream, zorder=1)
        _box(axes, 0.15, -0.15, 1.35, 0.9, f"embed\n{c.vocab_size:,} rows\nof {c.hidden_size}", SKY)
        for left, title, attends in ((1.8, "even layer", slides), (5.1, "odd layer", full)):
            frame = {"facecolor": "none", "edgecolor": LINE, "linestyle": "--"}
            axes.add_patch(_rectangle(left, -0.15, 3.15, 2.65, **frame))
            axes.text(left + 1.58, 2.3, title, ha="center", va="center", weight="bold")
            _branch(axes, left + 0.15, attends, ORANGE)
            _branch(axes, left + 1.7, experts, GREEN)
        _box(axes, 8.5, -0.02, 0.95, 0.64, "norm", PALE)
        _box(axes, 9.75, -0.15, 1.35, 0.9, f"unembed\n{c.vocab_size:,}\nlogits", SKY)
        repeat = f"{c.num_layers} layers in turn: even, odd, even, odd …"
        axes.text(5.0, -0.4, repeat, ha="center", va="center")
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


def _branch(axes: Any, left: float, text: str, color: str) -> None:
    """A block beside the residual stream: it reads through a norm, and its answer is added."""
    arrow = {"arrowstyle": "->", "lw": 1.2}
    axes.annotate("", (left + 0.25, 1.12), (left + 0.25, 0.3), arrowprops=arrow)
    axes.annotate("", (left + 1.1, 0.38), (left + 1.1, 1.12), arrowprops=arrow)
    axes.text(left + 0.31, 0.72, "norm", va="center", fontsize=8.5)
    _box(axes, left, 1.12, 1.35, 0.9, text, color)
    axes.plot(left + 1.1, 0.3, "o", color=PAPER, markeredgecolor=INK, markersize=13, zorder=3)
    axes.text(left + 1.1, 0.29, "+", ha="center", va="center", weight="bold", zorder=4)


def _box(axes: Any, x: float, y: float, width: float, height: float, text: str, color: str) -> None:
    from matplotlib.colors import to_rgb

    tint = tuple(0.55 + 0.45 * channel for channel in to_rgb(color))
    axes.add_patch(_rectangle(x, y, width, height, facecolor=tint, edgecolor=INK, lw=0.8, zorder=2))
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=9, zorder=3)


def difference_bars(changes: Mapping[str, tuple[float, bool]], *, unit: str) -> Picture:
    """How far each change moved a result, on a logarithmic axis: name -> (distance, other answer?).

    Changes that give another answer are hatched, so that the two kinds differ without color, too.
    """
    names = list(changes)
    floor = 1e-8

    def paint(figure: Any) -> None:
        axes = figure.subplots()
        for place, (distance, other) in enumerate(changes.values()):
            color, hatch = (VERMILION, "///") if other else (SKY, None)
            axes.barh(place, max(distance, floor), color=color, hatch=hatch, edgecolor=PAPER)
            verdict = "another answer" if other else "same answer"
            axes.text(max(distance, floor) * 1.4, place, verdict, va="center", fontsize=9)
        axes.set_xscale("log")
        axes.set_xlim(floor, 1e5)
        axes.set_xticks([10.0**power for power in range(-8, 5, 2)], minor=False)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.minorticks_off()
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.set_xlabel(unit)
        axes.tick_params(axis="y", length=0)

    told = "; ".join(f"{n}: {'another' if o else 'same'} answer" for n, (_, o) in changes.items())
    return draw(paint, f"Bars: {unit}. {told}.", width=8.4, height=0.75 + 0.36 * len(names))
