"""Each setting against a slow twin, the draw against its own odds, and values out of range."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptoss_edu.course.checks.full_model import filter_obvious
from gptoss_edu.sampling import GREEDY, Sampling, penalize
from gptoss_edu.sampling import filter_logits as plain_filter_logits
from gptoss_edu.sampling import sample as plain_sample

V = 201_088
LOGITS_BV = np.random.default_rng(0).normal(size=(3, 109)).astype(np.float32) * 3
GRID = list(itertools.product((None, 1, 5, 200), (1.0, 0.9, 0.3, 1e-6), (0.0, 0.1, 1.0)))

filter_logits = jax.jit(plain_filter_logits)
sample = jax.jit(plain_sample)


def kept_of(logits_BV, top_k=None, top_p=1.0, min_p=0.0):
    """Which tokens the filters keep; those they keep have the logits they had."""
    active = Sampling(1.0, top_k, top_p, min_p).active
    filtered_BV = np.asarray(filter_logits(jnp.asarray(logits_BV), active))
    kept_BV = np.isfinite(filtered_BV)
    np.testing.assert_array_equal(filtered_BV, np.where(kept_BV, logits_BV, -np.inf))
    return kept_BV


def kept_obvious(logits_BV, top_k=None, top_p=1.0, min_p=0.0):
    return np.stack([np.isfinite(filter_obvious(x, top_k or 0, top_p, min_p)) for x in logits_BV])


@pytest.mark.parametrize(("top_k", "top_p", "min_p"), GRID)
def test_filters_agree_with_the_obvious_twin(top_k, top_p, min_p):
    settings = (top_k, top_p, min_p)
    np.testing.assert_array_equal(kept_of(LOGITS_BV, *settings), kept_obvious(LOGITS_BV, *settings))


def test_filters_by_hand():
    logits_BV = np.log(np.array([[0.1, 0.5, 0.3, 0.1]], np.float32))

    def kept(*settings):
        return kept_of(logits_BV, *settings)[0].tolist()

    assert kept(2) == [False, True, True, False]
    assert kept(3) == [True, True, True, False]  # of equals the first
    assert kept(None, 0.5) == [False, True, False, False]
    assert kept(None, 0.51) == [False, True, True, False]
    assert kept(None, 0.85) == [True, True, True, False]
    assert kept(None, 1.0, 0.5) == [False, True, True, False]


def test_what_is_off_is_not_computed():
    assert Sampling() == Sampling(0.0, None, 1.0, 0.0, 1.0) == GREEDY
    assert Sampling(1.0).active == {"temperature": 1.0}
    assert Sampling(1.0, min_p=0.1).active == {"temperature": 1.0, "min_p": 0.1}
    assert Sampling(0.0, 5, 0.9, 0.1, 2.0).active == {"repetition_penalty": 2.0}
    assert Sampling(0.5, 5, 0.9, 0.1, 2.0).active == {
        "temperature": 0.5, "top_k": 5, "top_p": 0.9, "min_p": 0.1, "repetition_penalty": 2.0,
    }  # fmt: skip


def whole_vocabularies():
    """Logits of 201,088 tokens as they come, and as a sum or a sort would dislike them."""
    rng = np.random.default_rng(5)
    noise_V = rng.normal(size=V)
    one_hot_V = np.full(V, -np.inf)
    one_hot_V[77_777] = 3.0
    spike_V = np.full(V, -14.0)  # 0.86, and 201,087 times seven in ten million
    spike_V[V - 1] = 0.0
    return {
        "peaked": noise_V * 10,
        "usual": noise_V * 3,
        "spread": noise_V,
        "nearly flat": noise_V * 1e-3,
        "flat": np.zeros(V),
        "ties": np.round(noise_V * 3),  # few values, thousands of each
        "bfloat16": np.asarray(jnp.asarray(noise_V * 3, jnp.bfloat16), np.float64),
        "ruled out": np.where(rng.random(V) < 0.9, -np.inf, noise_V * 3),
        "one-hot": one_hot_V,
        "one and a tail": spike_V,
        "rising": np.sort(noise_V * 3),
    }


WHOLE = {name: x_V.astype(np.float32) for name, x_V in whole_vocabularies().items()}
SETTINGS = [
    (1, 1.0, 0.0), (40, 1.0, 0.0), (1024, 1.0, 0.0), (1025, 1.0, 0.0), (V, 1.0, 0.0),
    (None, 1e-9, 0.0), (None, 0.5, 0.0), (None, 0.95, 0.0), (None, 0.9999, 0.0),
    (None, 1.0, 0.05), (None, 1.0, 1e-6), (None, 1.0, 1.0),
    (40, 0.95, 0.0), (50_000, 0.9, 0.01),
]  # fmt: skip


def nearby(logits_V, order_V, top_k, top_p, min_p, by):
    """`filter_obvious` with every p moved by a millionth, in float64 and without its loop."""
    p_V = np.exp(logits_V[order_V].astype(np.float64) - logits_V.max())
    p_V = np.where(np.arange(V) < (top_k or V), p_V, 0.0)
    p_V /= p_V.sum()
    before_V = np.cumsum(p_V) - p_V
    kept_V = np.arange(V) < (top_k or V)
    kept_V &= (before_V < top_p + by) | (top_p == 1)
    kept_V &= (p_V >= min_p * (1 - by) * p_V[0]) if min_p != 1 else (p_V >= p_V[0])
    kept_V[0] = True
    mask_V = np.zeros(V, bool)
    mask_V[order_V] = kept_V
    return mask_V & np.isfinite(logits_V)


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_vocabulary_is_cut_where_exact_arithmetic_cuts_it(name):
    """The kept set lies between those of p less and p plus a millionth. Where these two agree, as
    with top-k and min-p 1 always, it is the one set that is right, ties by index included.
    """
    logits_V, exact = WHOLE[name], 0
    order_V = np.argsort(-logits_V.astype(np.float64), kind="stable")
    for settings in SETTINGS:
        kept_V = kept_of(logits_V[None], *settings)[0]
        least_V, most_V = (nearby(logits_V, order_V, *settings, by) for by in (-1e-6, 1e-6))
        assert not (least_V & ~kept_V).any(), f"{settings}: kept too few"
        assert not (kept_V & ~most_V).any(), f"{settings}: kept too many"
        exact += bool((least_V == most_V).all())
        at_the_cut = kept_V[order_V]
        assert at_the_cut[: at_the_cut.sum()].all(), f"{settings}: a rank was passed over"
    assert exact >= 6


def test_the_fast_reference_is_the_obvious_one():
    """`nearby`, moved by nothing, is `filter_obvious`, token by token over a whole vocabulary."""
    logits_V = WHOLE["ties"]
    order_V = np.argsort(-logits_V, kind="stable")
    for settings in [(50_000, 0.9, 0.01), (None, 0.3, 0.0)]:
        np.testing.assert_array_equal(
            nearby(logits_V, order_V, *settings, 0.0), kept_obvious(logits_V[None], *settings)[0]
        )


@pytest.mark.parametrize("seed", range(30))
def test_random_batches_with_ties_are_cut_exactly(seed):
    """Few values, so many ties; every p lies halfway between two of the sums that it could cut."""
    rng = np.random.default_rng(seed)
    spread = rng.choice(np.float32([0.01, 0.5, 2.0, 20.0]))
    logits_BV = spread * rng.integers(-3, 4, (4, 41)).astype(np.float32)
    logits_BV[rng.random((4, 41)) < rng.choice([0.0, 0.3, 0.95])] = -np.inf
    logits_BV[:, 0] = -0.0  # equal to the other zeros, whatever its sign
    logits_BV[:, 40] = rng.integers(-1, 2)
    p_V = np.exp(np.float64(logits_BV[0]) - logits_BV[0].max())
    sums = np.concatenate([[0.0], np.cumsum(np.sort(p_V / p_V.sum())[::-1])])
    place = rng.choice(np.flatnonzero(np.diff(sums) > 1e-4))
    for top_k in (None, 1, int(rng.integers(2, 60))):
        for top_p in (1.0, sums[place : place + 2].mean()):
            for min_p in (0.0, float(rng.random()), 1.0):
                settings = (top_k, top_p, min_p)
                np.testing.assert_array_equal(
                    kept_of(logits_BV, *settings), kept_obvious(logits_BV, *settings), str(settings)
                )


def draw(settings, seed, step=0, logits_BV=LOGITS_BV, seen_BV=None):
    seed_B = np.full(len(logits_BV), seed, np.uint32)
    return sample(jnp.asarray(logits_BV), seed_B, step, settings.active, seen_BV)


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


def test_nothing_is_sorted():
    """A sort of 201,088 logits took a third of a token's time (benchmarks/sampling.py)."""
    seed_B, active = jnp.zeros(3, jnp.uint32), Sampling(1.0, 5, 0.9, 0.1).active
    program = str(jax.make_jaxpr(plain_sample)(jnp.asarray(LOGITS_BV), seed_B, 0, active))
    assert "argmax" in program
    assert "sort" not in program
    assert "top_k" not in program


def test_the_draw_is_that_of_categorical():
    """So a seed gives what it gave with every version of JAX and of this package."""
    seed_B, step = np.array([5, 6, 7], np.uint32), 4
    found_B = sample(jnp.asarray(LOGITS_BV), seed_B, step, Sampling(1.5).active)
    for found, seed, logits_V in zip(found_B, seed_B, LOGITS_BV, strict=True):
        key = jax.random.fold_in(jax.random.key(seed), step)
        assert found == jax.random.categorical(key, (logits_V - logits_V.max()) / 1.5)


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


@pytest.mark.parametrize("partitionable", [True, False])
@pytest.mark.parametrize("implementation", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_a_row_draws_alone_whatever_generator_jax_takes_by_default(implementation, partitionable):
    """On flat logits, where nothing but chance decides: sharp ones hide what the seeds do."""
    active, flat_BV = Sampling(1.0).active, jnp.zeros((4, 1000))
    with jax.default_prng_impl(implementation), jax.threefry_partitionable(partitionable):
        drawn = {}
        for seeds in ((7, 8, 9, 10), (7, 1, 2, 3), (7, 7, 7, 7)):
            seed_B = np.array(seeds, np.uint32)
            alone = [int(sample(flat_BV[:1], seed_B[b : b + 1], 3, active)[0]) for b in range(4)]
            assert sample(flat_BV, seed_B, 3, active).tolist() == alone
            drawn |= dict(zip(seeds, alone, strict=True))
    assert len(set(drawn.values())) == 7
    key = jax.random.fold_in(jax.random.key(9, impl="threefry2x32"), 3)
    with jax.threefry_partitionable(partitionable):
        assert drawn[9] == jax.random.categorical(key, flat_BV[0])


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
        return plain_sample(jnp.asarray(LOGITS_BV), jnp.zeros(3, jnp.uint32), 0, active)

    for temperature in (0.5, 0.7, 1.3):
        once(Sampling(temperature, top_p=0.9).active)
    assert len(traced) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("temperature", v) for v in (-1, math.nan, math.inf, "hot", True, None, 10**400)),
        *(("temperature", v) for v in (1e39, 1 + 0j, np.complex64(1), np.array([1.0]), [1])),
        *(("top_p", v) for v in (0, -0.1, 1.1, math.nan, None)),
        *(("min_p", v) for v in (-0.1, 1.1, math.nan)),
        *(("top_k", v) for v in (0, -3, 2.5, True, 10**400, "3", np.float32(3))),
        *(("repetition_penalty", v) for v in (0, -1, math.nan, math.inf, 1e39)),
    ],
)
def test_values_out_of_range_are_refused_with_what_was_expected(name, value):
    with pytest.raises(ValueError, match=f"{name} is .*, expected"):
        Sampling(**{name: value})
