"""Figures of chapter a1."""

import jax.numpy as jnp
import numpy as np
import pytest
from looks import check

from gptoss_edu.course import viz
from gptoss_edu.mxfp4 import VALUES, dequantize, quantize
from gptoss_edu.tokenizer import END, Tokenizer

IDS = [*Tokenizer().encode("Hi <b>"), END]


def test_a_strip_marks_what_counts_in_text_and_in_color():
    strip = viz.loss_strip(IDS, [False, True, False, False, True])
    assert repr(strip) == "Hi [·<] b > [<|end|>]"
    page = strip._repr_html_()
    assert page.count('role="listitem"') == len(IDS)
    assert "2 of 5 tokens count" in page
    assert "<b>" not in page
    assert page.count("#009e73") == 2
    with pytest.raises(AssertionError):
        viz.loss_strip(IDS, [True])


def test_surprise_says_whether_it_fell():
    high, low = np.full(5, 8.0), np.full(5, 0.1)
    picture = viz.surprise_bars(IDS, {"before": high, "after": low})
    check(picture)
    assert "before, after; each row's mean is less than half of that above" in picture.alt
    assert "the rows are alike" in viz.surprise_bars(IDS, {"a": high, "b": high}).alt


def test_samples_keep_their_verdicts_and_show_the_first_question():
    panel = viz.training_samples(
        [3.0, 1.0], ["first?", "second?"], {0: ["a", "b"], 2: ["c", "d"]},
        {0: [False, False, True], 2: [True, True, True]},
    )  # fmt: skip
    assert panel.picture.alt == "Table: replies to 'first?' at 2 steps, from 0 to 2."
    assert panel.data["scores"] == [1, 3]
    assert panel.data["asked"] == 3
    assert panel.data["replies"][1] == [{"text": "c", "right": True}, {"text": "d", "right": True}]


def test_curves_are_told_so_coarsely_that_machines_agree():
    steps = range(1, 101)
    falling = np.linspace(8, 0.1, 100)
    picture = viz.training_curves(
        steps,
        {"loss": (falling, "log"), "right": (1 / falling, "linear"), "flat": ([1.0] * 100, "log")},
        marks={70: "here", 80: "there"},
    )
    check(picture)
    assert picture.alt == (
        "Curves over 100 steps. loss: falls to less than half; right: more than doubles;"
        " flat: stays within a factor of two."
    )
    wobbling = viz.training_curves(steps, {"loss": (falling * 1.01, "log")}).alt
    assert wobbling == viz.training_curves(steps, {"loss": (falling, "log")}).alt


def test_the_staircase_is_the_librarys_rounding():
    picture = viz.rounding_staircase()
    check(picture)
    assert f"{len(np.unique(VALUES))} steps from -6 to 6" in picture.alt
    grid = np.unique(VALUES)
    w_EIO = jnp.asarray(np.resize(np.append(np.linspace(-5.9, 5.9, 31), 6.0), (1, 32, 1)))
    packed = quantize(w_EIO)
    found = np.asarray(dequantize(packed.blocks_EJUO, packed.scales_EJO), np.float32)
    assert set(found.ravel().tolist()) <= set(grid.tolist())


def test_accuracy_names_every_task_and_effort():
    table = {"add": {"low": [2, 200], "high": [195, 200]}, "fact": {"low": [198, 200]}}
    picture = viz.effort_accuracy(table)
    check(picture)
    assert "add low 1% high 98%" in picture.alt
    assert "fact low 99%" in picture.alt
