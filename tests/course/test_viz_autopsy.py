"""Where two models begin to differ, as a table and as a figure."""

import numpy as np
import pytest

from gptoss_edu.attention import AttentionSeen
from gptoss_edu.course import viz
from gptoss_edu.model import BlockSeen
from gptoss_edu.moe import Routing

L, T, N, D, E, X = 2, 7, 3, 5, 6, 2


@pytest.fixture
def observed():
    """What `observe` returns, of random numbers."""
    rng = np.random.default_rng(0)
    seen = [
        BlockSeen(
            rng.standard_normal((1, T, D)),
            AttentionSeen(rng.random((1, N, T, T)), rng.random((1, N, T))),
            Routing(
                rng.standard_normal((1, T, E)),
                np.stack([rng.permutation(E)[:X] for _ in range(T)])[None],
                rng.random((1, T, X)),
            ),
        )
        for _ in range(L)
    ]
    return rng.standard_normal((1, T, 11)), seen


def test_equal_models_differ_nowhere(observed):
    names, found = viz.differences(observed, observed)
    assert names == [
        "0 attention", "0 router", "0 stream", "1 attention", "1 router", "1 stream", "logits",
    ]  # fmt: skip
    assert found.shape == (7, T)
    assert not found.any()
    assert "a: equal everywhere" in viz.difference_maps({"a": (names, found)}).alt


def test_each_difference_stands_where_it_is(observed):
    logits, seen = observed
    weights = seen[1].attention.weights_BNTS.copy()
    weights[0, 2, 4, 1] += 0.25
    other = seen[1]._replace(attention=AttentionSeen(weights, seen[1].attention.sink_mass_BNT))
    names, found = viz.differences(observed, (logits, [seen[0], other]))
    assert np.argwhere(found).tolist() == [[3, 4]]
    assert found[3, 4] == pytest.approx(0.25)
    picture = viz.difference_maps({"a": (names, found), "b": (names, 0 * found)}, columns=2)
    assert picture.png.startswith(b"\x89PNG")
    assert "a: begins at 1 attention, token 4; b: equal everywhere" in picture.alt


def test_the_order_of_the_experts_is_no_difference(observed):
    logits, seen = observed
    routing = seen[0].routing
    turned = Routing(
        routing.logits_BTE, routing.expert_BTX[..., ::-1], routing.weight_BTX[..., ::-1]
    )
    _, found = viz.differences(observed, (logits, [seen[0]._replace(routing=turned), seen[1]]))
    assert not found.any()


def test_the_panel_holds_every_chart_as_text():
    d = np.zeros((2, 5))
    d[1] = [1e-9, 1e-6, 1e-4, 0.5, 99]
    made = viz.autopsy_panel(
        {"1": (["0 stream", "logits"], d), "2": (["0 stream", "logits"], 0 * d)}
    )
    assert made.data["rows"] == {"1": ["#####", "#$8]j"], "2": ["#####", "#####"]}
    assert made.controls["stage"] == ("0 stream", "logits")
    assert "patient 1: begins at logits, token 3; patient 2: equal everywhere" in made.picture.alt
    assert made.start["count from"] == 2
