"""Figures of the course: one look, drawn from live data, readable on light and dark pages.

`look` says what a figure is and how all of them look; then one file per subject, in the order of
the course. `viz.explore` adds sliders to any figure.
"""

from gptoss_edu.viz.explore import Explorer, explore
from gptoss_edu.viz.look import Picture, draw, label
from gptoss_edu.viz.model import cache_picture, difference_bars, logit_lens_table, network_diagram
from gptoss_edu.viz.rotation import (
    Wheel,
    distance_plot,
    rotation_wheels,
    wavelength_plot,
    yarn_panel,
)
from gptoss_edu.viz.sampling import sampling_panels
from gptoss_edu.viz.tokens import TokenStrip, harmony_timeline, in_color, token_strip

__all__ = [
    "Explorer",
    "Picture",
    "TokenStrip",
    "Wheel",
    "cache_picture",
    "difference_bars",
    "distance_plot",
    "draw",
    "explore",
    "harmony_timeline",
    "in_color",
    "label",
    "logit_lens_table",
    "network_diagram",
    "rotation_wheels",
    "sampling_panels",
    "token_strip",
    "wavelength_plot",
    "yarn_panel",
]
