"""Each setting against a slow twin, the draw against its own odds, and values out of range."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptoss_edu.sampling import GREEDY, Sampling, filter_logits, filter_obvious, penalize, sample

LOGITS_BV = np.random.default_rng(0).normal(size=(3, 109)).astype(np.float32) * 3
GRID = list(itertools.product((0, 1, 5, 200), (1.0, 0.9, 0.3, 1e-6), (0.0, 0.1, 1.0)))


@pytest.mark.parametrize(("top_k", "top_p", "min_p"), GRID)
def test_filters_agree_with_the_obvious_twin(top_k, top_p, min_p):
    got_BV = filter_logits(jnp.asarray(LOGITS_BV), top_k, top_p, min_p)
    for got_V, logits_V in zip(got_BV, LOGITS_BV, strict=True):
        np.testing.assert_array_equal(got_V, filter_obvious(logits_V, top_k, top_p, min_p))


def test_filters_by_hand():
    logits_BV = jnp.log(jnp.array([[0.1, 0.5, 0.3, 0.1]]))

    def kept(*settings):
        return jnp.isfinite(filter_logits(logits_BV, *settings))[0].tolist()

    assert kept(2, 1.0, 0.0) == [False, True, True, False]
    assert kept(3, 1.0, 0.0) == [True, True, True, False]  # of equals the first
    assert kept(0, 0.5, 0.0) == [False, True, False, False]
    assert kept(0, 0.51, 0.0) == [False, True, True, False]
    assert kept(0, 1.0, 0.5) == [False, True, True, False]


def draw(settings, seed, step=0, logits_BV=LOGITS_BV, seen_BV=None):
    seeds = np.full(len(logits_BV), seed, np.uint32)
    return sample(jnp.asarray(logits_BV), seeds, step, settings.active, seen_BV)


def test_greedy_takes_the_likeliest():
    np.testing.assert_array_equal(draw(GREEDY, 1), LOGITS_BV.argmax(-1))
    np.testing.assert_array_equal(draw(Sampling(1.0, top_k=1), 1), LOGITS_BV.argmax(-1))


@pytest.mark.parametrize("temperature", [1e-45, 1e-9, 1e-3])
def test_a_tiny_temperature_is_greedy_and_overflows_nothing(temperature):
    np.testing.assert_array_equal(draw(Sampling(temperature), 3), LOGITS_BV.argmax(-1))


def test_draws_follow_the_odds():
    odds = np.array([0.5, 0.3, 0.15, 0.05])
    logits_BV = np.broadcast_to(np.log(odds), (20_000, 4)).astype(np.float32)
    tokens = sample(logits_BV, np.arange(20_000, dtype=np.uint32), 0, Sampling(1.0).active)
    found = np.bincount(tokens, minlength=4) / 20_000
    np.testing.assert_allclose(found, odds, atol=0.015)
    sharper = sample(logits_BV, np.arange(20_000, dtype=np.uint32), 0, Sampling(0.5).active)
    found = np.bincount(sharper, minlength=4) / 20_000
    np.testing.assert_allclose(found, odds**2 / (odds**2).sum(), atol=0.015)


def test_a_seed_fixes_the_draw_and_a_step_changes_it():
    hot = Sampling(5.0)
    np.testing.assert_array_equal(draw(hot, 7, 3), draw(hot, 7, 3))
    draws = {tuple(draw(hot, seed, step).tolist()) for seed in range(4) for step in range(4)}
    assert len(draws) > 12


def test_a_row_of_a_batch_draws_what_it_would_draw_alone():
    hot = Sampling(2.0, top_p=0.95)
    seeds = np.array([5, 6, 7], np.uint32)
    together = sample(jnp.asarray(LOGITS_BV), seeds, 4, hot.active)
    for b in range(3):
        alone = sample(jnp.asarray(LOGITS_BV[b : b + 1]), seeds[b : b + 1], 4, hot.active)
        assert alone[0] == together[b]


def test_a_penalty_lowers_what_was_seen_whatever_its_sign():
    logits_BV = jnp.array([[2.0, -2.0, 1.0]])
    seen_BV = jnp.array([[True, True, False]])
    np.testing.assert_allclose(penalize(logits_BV, seen_BV, 2.0), [[1.0, -4.0, 1.0]])
    assert draw(Sampling(repetition_penalty=3.0), 0, 0, logits_BV, seen_BV)[0] == 2
    with pytest.raises(AssertionError, match="needs seen_BV"):
        draw(Sampling(repetition_penalty=2.0), 0)


def test_another_temperature_compiles_nothing_anew():
    traced = []

    @jax.jit
    def once(active):
        traced.append(1)
        return sample(jnp.asarray(LOGITS_BV), jnp.zeros(3, jnp.uint32), 0, active)

    for temperature in (0.5, 0.7, 1.3):
        once(Sampling(temperature, top_p=0.9).active)
    assert len(traced) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("temperature", v) for v in (-1, math.nan, math.inf, "hot", True, None)),
        *(("top_p", v) for v in (0, -0.1, 1.1, math.nan, None)),
        *(("min_p", v) for v in (-0.1, 1.1, math.nan)),
        *(("top_k", v) for v in (0, -3, 2.5, True)),
        *(("repetition_penalty", v) for v in (0, -1, math.nan, math.inf)),
    ],
)
def test_values_out_of_range_are_refused_with_what_was_expected(name, value):
    with pytest.raises(ValueError, match=f"{name} is .*, expected"):
        Sampling(**{name: value})
