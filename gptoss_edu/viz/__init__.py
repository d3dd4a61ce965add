"""Figures of the course: one look, drawn from live data, readable on light and dark pages.

`look` says what a figure is and how all of them look; then one file per subject, in the order of
the course. `viz.explore` adds sliders to any figure.
"""

from gptoss_edu.viz.attention import (
    attention_maps,
    attention_shares,
    attention_table,
    head_groups,
    mask_pictures,
    sink_mass_table,
)
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
from gptoss_edu.viz.tokens import (
    TokenRows,
    TokenStrip,
    TypeBox,
    count_bars,
    harmony_timeline,
    in_color,
    merge_steps,
    message_table,
    parser_states,
    token_rows,
    token_strip,
    type_and_see,
)

__all__ = [
    "Explorer",
    "Picture",
    "TokenRows",
    "TokenStrip",
    "TypeBox",
    "Wheel",
    "attention_maps",
    "attention_shares",
    "attention_table",
    "cache_picture",
    "count_bars",
    "difference_bars",
    "distance_plot",
    "draw",
    "explore",
    "harmony_timeline",
    "head_groups",
    "in_color",
    "label",
    "logit_lens_table",
    "mask_pictures",
    "merge_steps",
    "message_table",
    "network_diagram",
    "parser_states",
    "rotation_wheels",
    "sampling_panels",
    "sink_mass_table",
    "token_rows",
    "token_strip",
    "type_and_see",
    "wavelength_plot",
    "yarn_panel",
]
