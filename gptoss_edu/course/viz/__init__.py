"""Figures of the course: one look, drawn from live data, readable on light and dark pages.

`look` says what a figure is and how all of them look, `colors` in which colors; then one file per
subject, in the order of the course. `viz.explore` adds sliders to any figure.
"""

from gptoss_edu.course.viz.attention import (
    ablation_table,
    attention_maps,
    attention_shares,
    attention_table,
    head_groups,
    mask_pictures,
    sink_mass_table,
    value_bars,
)
from gptoss_edu.course.viz.autopsy import autopsy_panel, difference_maps, differences
from gptoss_edu.course.viz.experts import (
    expert_costs,
    expert_heat_map,
    load_bars,
    mixture_diagram,
    router_panels,
    routing_map,
    swiglu_curve,
)
from gptoss_edu.course.viz.explore import Explorer, explore
from gptoss_edu.course.viz.hardware import (
    format_lines,
    memory_ledger,
    near_ties,
    roofline_plot,
    sharding_map,
    tile_order,
    timeline,
    token_bytes,
    tpu_chip,
)
from gptoss_edu.course.viz.look import Picture, draw, label
from gptoss_edu.course.viz.model import (
    cache_picture,
    cache_sizes,
    difference_bars,
    generation_timeline,
    logit_lens_table,
    network_diagram,
)
from gptoss_edu.course.viz.numbers import (
    Block,
    block_panels,
    byte_picture,
    error_bars,
    float_picture,
    grid_histograms,
    memory_rows,
    number_line,
)
from gptoss_edu.course.viz.panel import Panel, panel
from gptoss_edu.course.viz.rotation import (
    Wheel,
    distance_plot,
    head_panels,
    rotation_wheels,
    wavelength_plot,
    yarn_panel,
)
from gptoss_edu.course.viz.sampling import sampling_panels, sampling_sliders
from gptoss_edu.course.viz.steppers import (
    compile_stepper,
    merge_stepper,
    turning_arrows,
    writing_loop,
)
from gptoss_edu.course.viz.tokens import (
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
from gptoss_edu.course.viz.training import (
    LossStrip,
    effort_accuracy,
    loss_strip,
    rounding_staircase,
    surprise_bars,
    training_curves,
    training_samples,
)
