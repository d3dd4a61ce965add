"""The one look of all figures: what a figure is, and how it is drawn.

Every figure stands on its own light card, with dark text and the colors of colors.py; color never
says anything that a word or a shape does not say as well. A figure is a `Picture`: an image, and
one sentence that tells what it shows. The sentence is its alternative text, and the text that tests
compare, since images differ from machine to machine.

matplotlib is imported when the first figure is drawn, and never by the rest of the package.
"""

from __future__ import annotations

import base64
import dataclasses
import html
import io
import os
import warnings
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeAlias

from gptoss_edu.course.viz.colors import INK, LINE, PAPER
from gptoss_edu.tokenizer import Tokenizer

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

Axes: TypeAlias = "matplotlib.axes.Axes"
Figure: TypeAlias = "matplotlib.figure.Figure"

STATIC = "GPTOSS_EDU_STATIC"  # set: show only what a file can keep and a test can compare
STYLE: dict[Any, Any] = {
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

    The sentence travels in the output's metadata and as plain text, but JupyterLab puts neither
    into its page. So a live notebook gets HTML as well, which every front end prefers to the bare
    image. A file that is kept does not: the image would stand in it twice, and bytes that differ
    from machine to machine would be compared.
    """

    png: bytes
    alt: str
    width: int

    def __repr__(self) -> str:
        return self.alt

    def _repr_mimebundle_(
        self, include: Any = None, exclude: Any = None
    ) -> tuple[dict[str, str], dict[str, dict[str, object]]]:
        image = base64.b64encode(self.png).decode()
        shown = {"image/png": image, "text/plain": self.alt}
        if not os.environ.get(STATIC):
            shown["text/html"] = self.to_html()
        return shown, {"image/png": {"alt": self.alt, "width": self.width}}

    def to_html(self) -> str:
        """An `<img>` that holds the image and its sentence, and keeps its place while it loads."""
        pixels = [int.from_bytes(self.png[at : at + 4], "big") for at in (16, 20)]
        height = round(self.width * pixels[1] / pixels[0])
        return (
            f'<img alt="{html.escape(self.alt)}" width="{self.width}" height="{height}"'
            ' style="max-width: 100%; height: auto"'
            f' src="data:image/png;base64,{base64.b64encode(self.png).decode()}">'
        )


def draw(paint: Callable[[Figure], None], alt: str, *, width: float, height: float) -> Picture:
    """A picture of `width` x `height` inches: `paint` receives a matplotlib figure to fill."""
    import matplotlib
    import matplotlib.figure

    with matplotlib.rc_context(STYLE):
        size = (width, height)
        figure = matplotlib.figure.Figure(figsize=size, facecolor=PAPER, layout="constrained")
        paint(figure)
        file = io.BytesIO()
        with warnings.catch_warnings():  # no font has every script of the vocabulary
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            figure.savefig(file, format="png", dpi=192, metadata={"Software": None})
    return Picture(few_colors(file), alt, round(96 * width))


def few_colors(png: io.BytesIO, colors: int = 128) -> bytes:
    """The same image with a palette: a third of the bytes in a notebook, and nobody sees it."""
    from PIL import Image  # it comes with matplotlib

    file = io.BytesIO()
    Image.open(png).convert("RGB").quantize(colors).save(file, "PNG", optimize=True)
    return file.getvalue()


def label(token: int, longest: int = 16) -> str:
    """How a token (a true o200k id) is written in a figure: spaces and line ends made visible."""
    text = Tokenizer().token_bytes(token).decode("utf-8", "replace")
    text = text.replace(" ", "·").replace("\n", "↵")
    text = "".join(c if c.isprintable() else "\ufffd" for c in text)
    return text if len(text) <= longest else text[: longest - 1] + "…"


def short(token: int) -> str:
    """A label for a narrow cell: `<|message|>` becomes ‹message›."""
    text = label(token, 99).replace("<|", "‹").replace("|>", "›")
    return text if len(text) <= 9 else text[:7] + "…"


def rectangle(x: float, y: float, width: float, height: float, **style: Any) -> Any:
    """A matplotlib rectangle; `style` as matplotlib names it."""
    from matplotlib.patches import Rectangle

    return Rectangle((x, y), width, height, **style)


def fill(axes: Axes, x: float, y: float, width: float, height: float, **style: Any) -> None:
    """Draw a rectangle."""
    axes.add_patch(rectangle(x, y, width, height, **style))


def write(axes: Axes, x: float, y: float, text: str, **style: Any) -> None:
    """Write around a place, not beside it; `style` as matplotlib names it."""
    axes.text(x, y, text, ha="center", va="center", **style)


def box(axes: Axes, x: float, y: float, width: float, height: float, text: str, color: str) -> None:
    """A box in a light tint of `color`, with `text` in its middle."""
    from matplotlib.colors import to_rgb

    tint = tuple(0.55 + 0.45 * channel for channel in to_rgb(color))
    fill(axes, x, y, width, height, facecolor=tint, edgecolor=INK, lw=0.8, zorder=2)
    write(axes, x + width / 2, y + height / 2, text, fontsize=9, zorder=3)


def small_multiples(figure: Figure, count: int, columns: int, **shared: Any) -> list[Axes]:
    """`count` axes in rows of `columns`; what is left of the last row stays empty."""
    grid = figure.subplots(-(-count // columns), columns, squeeze=False, **shared).ravel()
    for axes in grid[count:]:
        axes.set_visible(False)
    return list(grid[:count])


def name_rows(axes: Axes, names: Iterable[str]) -> None:
    """Names at the left of rows 0, 1, 2, ... instead of a scale."""
    names = list(names)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0)


def bare(axes: Axes) -> None:
    """No axis lines and no ticks: the cells say where they are, and names stand beside them."""
    axes.tick_params(length=0)
    axes.spines[["left", "bottom"]].set_visible(False)
