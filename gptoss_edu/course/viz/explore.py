"""Figures with sliders that are figures first.

`explore` draws a static panel of small multiples: that is what a page, a test or a printout shows.
Where a live front end is there, sliders follow, and a figure that obeys them. The environment
variable `GPTOSS_EDU_STATIC` switches the sliders off: a widget lives in one kernel only, so
notebooks are executed for the repository, and compared in tests, without them.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gptoss_edu.course.viz.look import STATIC, Picture


def show(panels: object, live: Callable[[], object]) -> None:
    """Display what a file can keep and, where a live front end is there, what it cannot."""
    from IPython import display

    for one in [panels] if os.environ.get(STATIC) else [panels, live()]:
        display.display(one)  # type: ignore[no-untyped-call]  # IPython annotates nothing


@dataclasses.dataclass(frozen=True)
class Explorer:
    """A static panel, and what its sliders would draw: `paint(**values)` for any choice of them."""

    paint: Callable[..., Picture]
    panels: Picture
    choices: Mapping[str, Sequence[Any]]

    def __repr__(self) -> str:
        return self.panels.alt

    def _ipython_display_(self) -> None:
        show(self.panels, self.live)

    def live(self) -> Any:
        """The sliders and their figure, as one ipywidgets box."""
        import ipywidgets

        sliders = {
            name.replace("_", " "): ipywidgets.SelectionSlider(
                options=[(str(value), value) for value in values],
                value=values[len(values) // 2],
                description=name.replace("_", " "),
                style={"description_width": "9em"},
                layout={"width": "32em"},
                continuous_update=False,
            )
            for name, values in self.choices.items()
        }
        figure = ipywidgets.HTML()  # ipywidgets.Image has no alternative text

        def redraw(change: Any = None) -> None:
            values = (slider.value for slider in sliders.values())
            figure.value = self.paint(**dict(zip(self.choices, values, strict=True))).to_html()

        for slider in sliders.values():
            slider.observe(redraw, names="value")
        redraw()
        return ipywidgets.VBox([*sliders.values(), figure])


def explore(paint: Callable[..., Picture], panels: Picture, **choices: Sequence[Any]) -> Explorer:
    """A figure to play with: `explore(paint, panels, window=(1, 4, 16), sink=(-2, 0, 2))`.

    `paint` takes one value per keyword and returns a `Picture`; `panels` is the static figure of
    the most telling choices. Every keyword becomes a slider over its values, which begins in the
    middle. Raises ValueError for a slider without values.
    """
    for name, values in choices.items():
        if not values:
            raise ValueError(f"slider {name!r} has no values: expected at least one to choose from")
    return Explorer(paint, panels, {name: tuple(values) for name, values in choices.items()})
