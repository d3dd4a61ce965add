"""Rotations: the published constants, the oracle, and what rotations must preserve."""

import jax.numpy as jnp
import numpy as np
import oracle
import pytest

from gptoss_edu.config import GPT_OSS_20B, TINY
from gptoss_edu.model import rope_frequencies, rope_tables
from gptoss_edu.rope import cos_sin, inverse_frequencies, ramp_bounds, rotate

YARN_20B = {
    "theta": 150000.0,
    "factor": 32.0,
    "beta_slow": 1.0,
    "beta_fast": 32.0,
    "initial_context": 4096,
}


def test_the_ramp_of_gpt_oss_to_the_last_digit():
    bounds = ramp_bounds(64, theta=150000, beta_slow=1, beta_fast=32, initial_context=4096)
    assert bounds == pytest.approx((8.092779115512402, 17.39802450158856), rel=1e-15)


def test_frequencies_keep_blend_and_slow():
    inv_C, concentration = inverse_frequencies(64, **YARN_20B)
    plain_C = 150000.0 ** (-np.arange(32) / 32)
    ratio_C = inv_C / plain_C
    assert concentration == pytest.approx(1.3465735902799727, rel=1e-15)
    np.testing.assert_allclose(ratio_C[:9], 1, rtol=1e-6)
    assert ((ratio_C[9:18] < 0.99) & (ratio_C[9:18] > 0.04)).all()
    np.testing.assert_allclose(ratio_C[18:], 1 / 32, rtol=1e-6)


def test_rounding_the_ramp_changes_nine_frequencies_by_up_to_76_percent():
    exact_C, _ = inverse_frequencies(64, **YARN_20B)
    rounded_C, _ = inverse_frequencies(64, **YARN_20B, truncate=True)
    change_C = np.abs(rounded_C / exact_C - 1)
    assert (change_C > 1e-6).sum() == 9
    assert change_C.max() == pytest.approx(0.76, abs=0.01)


@pytest.mark.parametrize("config", [GPT_OSS_20B, TINY], ids=["20b", "tiny"])
def test_frequencies_agree_with_the_oracle(config):
    expected_C, concentration = oracle.frequencies(config)
    cos_BTC, _ = rope_tables(jnp.zeros((1, 1), jnp.int32), config)
    assert cos_BTC[0, 0, 0] == pytest.approx(concentration, rel=1e-7)
    np.testing.assert_allclose(rope_frequencies(config)[0], expected_C, rtol=1e-7)


def test_factor_one_is_plain_rope():
    inv_C, concentration = inverse_frequencies(64, **{**YARN_20B, "factor": 1.0})
    np.testing.assert_allclose(inv_C, 150000.0 ** (-np.arange(32) / 32), rtol=1e-6)
    assert concentration == 1.0


def test_rotation_agrees_with_the_oracle_on_every_head():
    rng = np.random.default_rng(0)
    x_BTNH = rng.normal(size=(2, 7, 21, 20)).astype(np.float32)
    position_BT = jnp.array([[0, 1, 2, 3, 4, 5, 6], [31, 32, 33, 100, 257, 300, 511]])
    got_BTNH = np.asarray(rotate(jnp.asarray(x_BTNH), *rope_tables(position_BT, TINY)))
    for b, t, n in [(0, 0, 0), (0, 6, 20), (1, 0, 3), (1, 4, 7), (1, 6, 19)]:
        expected_H = oracle.rotate(x_BTNH[b, t, n].astype(float), int(position_BT[b, t]), TINY)
        np.testing.assert_allclose(got_BTNH[b, t, n], expected_H, atol=2e-5)


def test_scores_depend_on_the_distance_alone():
    rng = np.random.default_rng(1)
    q_111H, k_111H = rng.normal(size=(2, 1, 1, 1, 20)).astype(np.float32)

    def score(q_position, k_position):
        q = rotate(jnp.asarray(q_111H), *rope_tables(jnp.array([[q_position]]), TINY))
        k = rotate(jnp.asarray(k_111H), *rope_tables(jnp.array([[k_position]]), TINY))
        return float((q * k).sum())

    assert score(5, 3) == pytest.approx(score(405, 403), abs=1e-4)
    assert abs(score(5, 3) - score(5, 4)) > 1e-2


def test_angles_stay_in_float32_in_a_bf16_model():
    inv_C = jnp.ones(1)
    cos_257, _ = cos_sin(jnp.array([[257]]), inv_C.astype(jnp.bfloat16), 1.0)
    assert float(cos_257[0, 0, 0]) == pytest.approx(np.cos(257), abs=1e-6)
    x_1111 = jnp.ones((1, 1, 1, 2), jnp.bfloat16)
    assert rotate(x_1111, *cos_sin(jnp.array([[257]]), inv_C, 1.0)).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    "wrong", [{"beta_fast": 5000.0}, {"beta_fast": 1.0}, {"beta_slow": 1e-3}, {"beta_fast": 0.5}]
)
def test_a_ramp_outside_the_head_is_refused(wrong):
    """Below pair 0, without length, beyond the last pair, and backwards."""
    message = r"YaRN's ramp runs from pair .* between 0 and 9.0, in this order; check beta_fast"
    with pytest.raises(ValueError, match=message):
        inverse_frequencies(20, **(YARN_20B | wrong))
