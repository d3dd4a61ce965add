"""Figures of attention: what they say is what the arrays hold."""

import itertools

import numpy as np
import pytest
from looks import check, without_green_cones

from gptoss_edu.course import viz
from gptoss_edu.course.viz import colors
from gptoss_edu.course.viz.attention import HIDDEN, _most_read
from gptoss_edu.tokenizer import Tokenizer


def head(T, window):
    """Equal weights over the visible keys, half of everything to the sink: weights, sink, mask."""
    distance_TS = np.arange(T)[:, None] - np.arange(T)[None]
    mask_TS = (distance_TS >= 0) & (distance_TS < window)
    return mask_TS / mask_TS.sum(1, keepdims=True) / 2, np.full(T, 0.5), mask_TS


def test_shares_are_told_key_by_key():
    alt = check(viz.attention_shares({"none": ([0.75, 0.25], 0.0), "a sink": ([0.1, 0.02], 0.88)}))
    assert alt.endswith("none: keys 75%, 25%, sink 0%; a sink: keys 10%, 2%, sink 88%.")


@pytest.mark.parametrize("count", [1, 5])
def test_maps_tell_what_the_sink_gets(count):
    weights_TS, sink_T, mask_TS = head(9, 4)
    sink_T[3] = 0.95
    maps = {f"head {n}": (weights_TS, sink_T, mask_TS) for n in range(count)}
    alt = check(viz.attention_maps(maps, columns=2))
    assert alt.count("the sink gets 55% on average, 95% at most") == count


def test_the_most_read_keys_are_named_apart_from_each_other():
    weights_TS, sink_T, mask_TS = head(40, 30)
    weights_TS[:, 5] += 1
    assert _most_read(weights_TS, sink_T, mask_TS, count=1) == [5]
    found = _most_read(weights_TS, sink_T, mask_TS)
    assert min(abs(a - b) for a, b in itertools.combinations(found, 2)) > 2
    check(viz.attention_maps({"head": (weights_TS, sink_T, mask_TS)}, ids_S=range(1000, 1040)))


def test_bars_and_tables_say_their_values():
    assert check(viz.value_bars({"all": 48.0, "shared": 6.0}, "GiB")).endswith(
        "GiB. all: 48.0; shared: 6.0."
    )
    alt = check(viz.ablation_table({"head 0": [4, 0], "head 1": [3, 4]}, ["sums", "days"], 4))
    assert alt.endswith("Without head 0 4 0; head 1 3 4.")


def test_the_table_names_tokens_and_their_sinks():
    ids = Tokenizer().encode("one two three four five six")
    weights_TS, sink_T, _ = head(len(ids), 3)
    alt = check(viz.attention_table(weights_TS, sink_T, ids, last=4))
    assert alt.endswith(
        "last 4 tokens. Percent to the sink: ·three 50, ·four 50, ·five 50, ·six 50."
    )


def test_masses_are_told_by_layer():
    alt = check(viz.sink_mass_table([[0.5, 0.0, 0.25], [1.0, 0.07, 0.9]], ["sliding", "full"]))
    assert alt.endswith("layer 0 50% 0% 25%; layer 1 100% 7% 90%.")


def test_masks_count_visible_keys():
    alt = check(viz.mask_pictures({"right": head(5, 2)[2], "wrong": head(5, 3)[2]}))
    assert alt.endswith("right: 1 2 2 2 2; wrong: 1 2 3 3 3.")


def test_groups_name_the_key_head_of_every_query_head():
    alt = check(viz.head_groups({"six": [0, 0, 1, 1, 2, 2], "one": [0, 0]}))
    assert alt.endswith("six: 0 0 1 1 2 2; one: 0 0.")


def test_hidden_is_neither_seen_nor_paper_for_the_color_blind_either():
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    shades = [to_hex(colormaps["Blues"](share)) for share in (0.0, 0.3, 0.6, 1.0)]
    for a, b in itertools.product((HIDDEN,), (*shades, colors.PAPER)):
        assert np.linalg.norm(without_green_cones(a) - without_green_cones(b)) > 14, (a, b)
