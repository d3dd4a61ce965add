"""Sinks, windows, groups: pictures, the oracle, and the mistakes that others shipped."""

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

from gptoss_edu.attention import (
    NoCache,
    attention,
    grouped_scores,
    grouped_values,
    sink_softmax,
    visible,
)
from gptoss_edu.config import GPT_OSS_20B, TINY
from gptoss_edu.model import init_params, rope_tables

T = 17  # more than TINY's window of 6


@pytest.fixture(scope="module")
def weights():
    return init_params(TINY, jax.random.key(3)).layers[0].attention


@pytest.mark.parametrize("window", [None, 6], ids=["full", "sliding"])
def test_attention_agrees_with_the_oracle(weights, window):
    x_BTD = jax.random.normal(jax.random.key(4), (2, T, TINY.hidden_size))
    position_BT = jnp.broadcast_to(jnp.arange(T), (2, T))
    tables = rope_tables(position_BT, TINY)
    y_BTD, _, seen = attention(weights, x_BTD, *tables, position_BT, NoCache(), window)
    for b in range(2):
        y_TD, weights_NTS, sink_NT = oracle.attention(weights, oracle.f64(x_BTD[b]), TINY, window)
        np.testing.assert_allclose(y_BTD[b], y_TD, atol=3e-6)
        np.testing.assert_allclose(seen.weights_BNTS[b], weights_NTS, atol=1e-6)
        np.testing.assert_allclose(seen.sink_mass_BNT[b], sink_NT, atol=1e-6)


def test_the_window_drawn():
    position_1T = jnp.arange(6)[None]
    picture = visible(position_1T, position_1T, 3)[0].astype(int)
    expected = [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [0, 1, 1, 1, 0, 0],
        [0, 0, 1, 1, 1, 0],
        [0, 0, 0, 1, 1, 1],
    ]
    np.testing.assert_array_equal(picture, expected)


def test_a_window_of_128_shows_128_keys_and_not_129():
    position_1T = jnp.arange(300)[None]
    count_T = visible(position_1T, position_1T, GPT_OSS_20B.sliding_window)[0].sum(axis=1)
    np.testing.assert_array_equal(count_T, np.minimum(np.arange(300) + 1, 128))


def test_padding_is_never_seen():
    mask_BTS = visible(jnp.array([[4, -1]]), jnp.array([[-1, 3, 4, 5]]), None)
    np.testing.assert_array_equal(mask_BTS[0], [[0, 1, 1, 0], [0, 0, 0, 0]])


def test_weights_and_sink_share_one_unit():
    scores_BNTS = jax.random.normal(jax.random.key(0), (2, 3, 5, 11)) * 4
    mask_BTS = jnp.ones((2, 5, 11), bool).at[0, 1].set(False)
    weights_BNTS, sink_BNT = sink_softmax(scores_BNTS, jnp.array([-2.0, 0.0, 5.0]), mask_BTS)
    np.testing.assert_allclose(weights_BNTS.sum(-1) + sink_BNT, 1, atol=1e-6)
    np.testing.assert_array_equal(sink_BNT[0, :, 1], 1)  # a row that sees nothing
    assert (sink_BNT[1, 2] > sink_BNT[1, 0]).all()


@pytest.mark.parametrize("size", [1e4, -1e4])
def test_nothing_overflows(size):
    scores_BNTS = jnp.full((1, 1, 1, 3), size)
    weights_BNTS, sink_BNT = sink_softmax(scores_BNTS, jnp.zeros(1), jnp.ones((1, 1, 3), bool))
    assert jnp.isfinite(weights_BNTS).all()
    assert sink_BNT[0, 0, 0] == (0 if size > 0 else 1)


def test_the_sink_is_an_extra_column_of_an_ordinary_softmax():
    scores_BNTS = jax.random.normal(jax.random.key(1), (2, 3, 4, 5))
    sinks_N = jnp.array([0.3, -1.0, 2.0])
    column_BNT1 = jnp.broadcast_to(sinks_N[None, :, None, None], (2, 3, 4, 1))
    together = jax.nn.softmax(jnp.concatenate([scores_BNTS, column_BNT1], axis=-1), axis=-1)
    weights_BNTS, sink_BNT = sink_softmax(scores_BNTS, sinks_N, jnp.ones((2, 4, 5), bool))
    np.testing.assert_allclose(weights_BNTS, together[..., :-1], atol=1e-6)
    np.testing.assert_allclose(sink_BNT, together[..., -1], atol=1e-6)


def test_query_head_n_reads_key_head_n_over_g():
    q_BTNH = jax.random.normal(jax.random.key(1), (2, 5, 21, 4))
    k_BSKH = jax.random.normal(jax.random.key(2), (2, 11, 3, 4))
    v_BSKH = jax.random.normal(jax.random.key(3), (2, 11, 3, 4))
    scores_BNTS = grouped_scores(q_BTNH, k_BSKH)
    k_BSNH, v_BSNH = (jnp.repeat(x, 7, axis=2) for x in (k_BSKH, v_BSKH))  # the obvious twin
    repeated_BNTS = jnp.einsum("BTNH,BSNH->BNTS", q_BTNH, k_BSNH) / 2
    np.testing.assert_allclose(scores_BNTS, repeated_BNTS, atol=1e-5)
    out_BTNH = grouped_values(scores_BNTS, v_BSKH)
    repeated_BTNH = jnp.einsum("BNTS,BSNH->BTNH", scores_BNTS, v_BSNH)
    np.testing.assert_allclose(out_BTNH, repeated_BTNH, atol=1e-4)


def test_a_bf16_model_computes_its_softmax_in_float32():
    scores_BNTS = jnp.linspace(0, 1, 400, dtype=jnp.bfloat16)[None, None, None]
    weights_BNTS, sink_BNT = sink_softmax(
        scores_BNTS, jnp.zeros(1, jnp.bfloat16), jnp.ones((1, 1, 400), bool)
    )
    assert weights_BNTS.dtype == jnp.bfloat16
    assert sink_BNT.dtype == jnp.float32
    assert float(weights_BNTS.astype(jnp.float32).sum() + sink_BNT[0, 0, 0]) == pytest.approx(
        1, abs=2e-3
    )
