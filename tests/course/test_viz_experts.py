"""Figures of the experts: what their sentences say is what the data say."""

import re

import numpy as np
import pytest
from looks import check

from gptoss_edu.course import viz
from gptoss_edu.tokenizer import Tokenizer


def said(picture):
    """The sentence of a figure that is a real image and fits on a page."""
    assert 400 <= picture.width <= 960
    return check(picture)


def test_mixture_diagram_names_those_that_answer_from_the_heaviest_down():
    alt = said(viz.mixture_diagram(np.log([1, 3, 0.5, 7, 1]), 2))
    assert "5 experts. The router asks expert 3 with weight 0.70, expert 1 with weight 0.30;" in alt
    assert "expert 0" not in alt


def test_router_panels_choose_by_logit_and_weigh_by_softmax():
    logits_E = np.log([6.0, 1.0, 3.0, 2.0])
    settings = {"two": (1.0, 2), "cold": (0.5, 2), "all": (1.0, 4)}
    alt = said(viz.router_panels(logits_E, settings))
    assert "two: 0 (0.67) 2 (0.33);" in alt
    assert "cold: 0 (0.80) 2 (0.20);" in alt
    assert "all: 0 (0.50) 2 (0.25) 3 (0.17) 1 (0.08)." in alt
    assert said(viz.router_panels(np.arange(32.0), {"one": (1.0, 1)})).endswith("one: 31 (1.00).")


def test_swiglu_curve_says_where_it_is_flat():
    alt = said(viz.swiglu_curve(7.0, 1.702))
    assert "-0.16 at its lowest" in alt
    assert "flat at -6 below -7 and at 8 above 7." in alt
    assert "flat at -2 below -3 and at 4 above 3." in said(viz.swiglu_curve(3.0, 1.0))


def test_routing_map_counts_every_choice():
    expert_TX = [[0, 2], [2, 1], [2, 0]]
    weight_TX = [[0.9, 0.1], [0.6, 0.4], [0.5, 0.5]]
    ids = Tokenizer().encode("a b c")
    assert len(ids) == 3
    alt = said(viz.routing_map(expert_TX, weight_TX, ids, 4))
    assert "3 tokens against 4 experts, 2 filled squares per token" in alt
    assert alt.endswith("asked: 0 2, 1 1, 2 3, 3 0.")
    with pytest.raises(AssertionError):
        viz.routing_map(expert_TX, weight_TX, ids[:2], 4)


@pytest.mark.parametrize("layers", [1, 3])
def test_heat_map_names_the_strongest_cell_of_each_layer(layers):
    kinds = ["word", "word", "word", "word", "sign"]
    expert_TX = np.array([[0, 1], [0, 2], [0, 1], [3, 1], [2, 4]])
    expert_LTX = np.stack([expert_TX, (expert_TX + 1) % 5, (expert_TX + 2) % 5])[:layers]
    alt = said(viz.expert_heat_map(kinds, expert_LTX, 5))
    found = re.findall(r"layer (\d) (\w+) to expert (\d) \((\d+)%\)", alt)
    expected = [("0", "sign", "2", "100"), ("1", "sign", "0", "100"), ("2", "sign", "1", "100")]
    assert found == expected[:layers]
    with pytest.raises(AssertionError):
        viz.expert_heat_map(kinds[:4], expert_LTX, 5)


def test_load_bars_compare_the_busiest_with_an_even_load():
    expert_TX = np.array([[0, 1], [0, 2], [0, 1], [0, 3]])
    alt = said(viz.load_bars(np.stack([expert_TX, expert_TX[:, ::-1] + 1]), 5))
    assert "share of 4 tokens" in alt
    assert "layer 0 expert 0 2.5 times, layer 1 expert 1 2.5 times." in alt
    named = said(viz.load_bars(expert_TX[None, :, :1], 4, titles=["alone"]))
    assert named.endswith("alone expert 0 4.0 times.")


def test_costs_meet_where_choices_equal_experts():
    alt = said(viz.expert_costs(32, 4))
    assert "dense always 32; gathered 4 per token, meeting dense at 8 tokens;" in alt
    assert "Counted" not in alt
    alt = said(viz.expert_costs(10, 3, {1: 3.0, 8: 7.26}))
    assert alt.endswith("Counted, different experts: 1 tokens 3.0; 8 tokens 7.3.")
