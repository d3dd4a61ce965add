"""Dials, wavelengths and distances: what the sentences say is what the numbers are."""

import math

import numpy as np
import pytest
from looks import check

from gptoss_edu.config import TINY
from gptoss_edu.course import viz
from gptoss_edu.course.viz.rotation import Wheel
from gptoss_edu.rope import inverse_frequencies

YARN = {"theta": 150000.0, "beta_slow": 1.0, "beta_fast": 32.0, "initial_context": 4096}
PLAIN_C, YARN_C = (inverse_frequencies(64, **YARN, factor=factor)[0] for factor in (1.0, 32.0))


def test_hands_tell_their_angles_and_whole_turns_are_taken_off():
    wheels = [Wheel("early", {"q": math.pi / 2}), Wheel("late", {"q": 8.5 * math.pi, "k": 1.0})]
    alt = check(viz.rotation_wheels(wheels))
    assert alt == "Dials. early: q at 90°. late: q at 90°, k at 57°, 33° apart, score 0.84."


@pytest.mark.parametrize(
    "seen, reached, new",
    [(1, 1, 0), (1, 3, 2), (1, 99, 2 * math.pi - 1), (7, 99, 0), (3, 1, 0)],
)
def test_rim_tells_what_training_has_not_shown(seen, reached, new):
    assert Wheel("pair", seen=seen, reached=reached).new == pytest.approx(new)


def test_rim_is_in_the_sentence():
    wheel = Wheel("pair 20", seen=math.pi / 2, reached=math.pi)
    alt = check(viz.rotation_wheels([wheel] * 6, columns=3))
    assert alt.count("pair 20: 25% of the rim seen, 25% new.") == 6


def test_wavelengths_are_counted_against_each_length():
    alt = check(viz.wavelength_plot({"plain": PLAIN_C, "YaRN": YARN_C}, lengths=(4096, 131072)))
    assert "plain from 6.3 to 649,000, 14 above 4,096, 5 above 131,072." in alt
    assert "YaRN from 6.3 to 20,800,000, 17 above 4,096, 14 above 131,072." in alt


def test_distances_are_told_inside_and_beyond_the_trained_length():
    distance_S = np.arange(1, 9)
    curves = {"flat": np.ones(8), "kink": np.where(distance_S < 5, 0.0, -20.04)}
    alt = check(viz.distance_plot(curves, distance_S, ylabel="score", trained=5))
    assert alt == (
        "Curves of score over distances up to 5 and beyond. flat: 1.0 to 1.0, beyond 1.0 to 1.0;"
        " kink: 0.0 to 0.0, beyond -20.0 to -20.0."
    )
    alt = check(viz.distance_plot(curves, distance_S, ylabel="score", logarithmic=False))
    assert alt == "Curves of score over distances. flat: 1.0 to 1.0; kink: -20.0 to 0.0."


def test_one_head_is_compared_with_what_it_was_to_learn():
    distance_S = np.arange(1, 9)
    curves = {"right": np.zeros(8), "astray": np.where(distance_S < 5, 0.25, -3.0)}
    alt = check(viz.head_panels(curves, distance_S, np.zeros(8), trained=5))
    assert "right: wrong by up to 0.0 inside, 0.0 beyond" in alt
    assert "astray: wrong by up to 0.2 inside, 3.0 beyond" in alt


def test_panel_counts_pairs_with_new_angles():
    settings = [(4095, 1, 32), (131071, 1, 32), (131071, 32, 8)]
    alt = check(viz.yarn_panel(settings))
    assert "factor 1, beta_fast 32: ramp from pair 8.1 to 17.4, new angles in 0 of 32" in alt
    assert "position 131,071, factor 1, beta_fast 32" in alt
    assert "new angles in 14 of 32 pairs" in alt
    assert "factor 32, beta_fast 8: ramp from pair 11.8 to 17.4, new angles in 0 of 32" in alt


def test_panel_takes_other_models():
    assert f"of {TINY.head_dim // 2} pairs" in check(viz.yarn_panel([(31, 1, 4)], TINY))
