"""Routing and experts: the oracle, three ways to compute one thing, and known mistakes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

from gptoss_edu.config import TINY
from gptoss_edu.model import init_params
from gptoss_edu.moe import grouped, moe, moe_dense, moe_gathered, moe_grouped, route, swiglu
from gptoss_edu.mxfp4 import quantize

LIMIT, ALPHA = 7.0, 1.702


@pytest.fixture(scope="module")
def weights():
    p = init_params(TINY, jax.random.key(5)).layers[0].moe
    return dataclasses.replace(p, w_gate_up_EDP=p.w_gate_up_EDP * 6)  # so that the clamps bite


@pytest.fixture(scope="module")
def x_BTD():
    return jax.random.normal(jax.random.key(6), (2, 33, TINY.hidden_size))


def routing(p, x_BTD):
    return route(x_BTD, p.w_router_DE, p.b_router_E, TINY.experts_per_token)


def test_each_way_agrees_with_the_oracle(weights, x_BTD):
    expected, chosen, shares = oracle.experts(
        weights, oracle.f64(x_BTD).reshape(-1, TINY.hidden_size), TINY
    )
    r = routing(weights, x_BTD)
    np.testing.assert_array_equal(r.expert_BTX.reshape(66, -1), chosen)
    np.testing.assert_allclose(r.weight_BTX.reshape(66, -1), shares, atol=1e-6)
    scale = np.abs(expected).max()
    for compute in (moe_dense, moe_gathered, moe_grouped):
        y_BTD = compute(weights, x_BTD, r, LIMIT, ALPHA)
        error = np.abs(np.asarray(y_BTD).reshape(expected.shape) - expected).max() / scale
        assert error < 2e-6, f"{compute.__name__}: {error}"


@pytest.mark.parametrize("tile", [1, 4, 64])
def test_grouping_never_depends_on_the_tile(weights, x_BTD, tile):
    r = routing(weights, x_BTD)
    gathered = moe_gathered(weights, x_BTD, r, LIMIT, ALPHA)
    grouped = jax.jit(moe_grouped, static_argnums=(3, 4, 5))(weights, x_BTD, r, LIMIT, ALPHA, tile)
    np.testing.assert_allclose(grouped, gathered, atol=3e-5)


def test_grouping_when_all_tokens_choose_the_same_experts(weights, x_BTD):
    bias_E = jnp.zeros(TINY.num_experts).at[jnp.array([2, 8])].set(100.0)
    crowded = dataclasses.replace(weights, b_router_E=bias_E)
    r = routing(crowded, x_BTD)
    assert set(np.unique(r.expert_BTX).tolist()) == {2, 8}
    np.testing.assert_allclose(
        moe_grouped(crowded, x_BTD, r, LIMIT, ALPHA, 4),
        moe_dense(crowded, x_BTD, r, LIMIT, ALPHA),
        atol=3e-5,
    )


def test_packed_experts_equal_their_decoded_twin(weights, x_BTD):
    gate_up, down = quantize(weights.w_gate_up_EDP), quantize(weights.w_down_EFD)
    packed = dataclasses.replace(weights, w_gate_up_EDP=gate_up, w_down_EFD=down)
    decoded = dataclasses.replace(weights, w_gate_up_EDP=gate_up[:], w_down_EFD=down[:])
    for x in (x_BTD, x_BTD[:, :1]):  # grouped, gathered
        # Equal numbers, but XLA may add them up in another order: jax 0.7.2 does, 0.10.2 does not.
        got, expected = (moe(p, x, 2, LIMIT, ALPHA)[0] for p in (packed, decoded))
        np.testing.assert_allclose(got, expected, atol=3e-5)


def test_router_softmax_is_over_the_chosen_only(weights, x_BTD):
    r = routing(weights, x_BTD)
    np.testing.assert_allclose(r.weight_BTX.sum(-1), 1, atol=1e-6)
    over_all = jax.lax.top_k(jax.nn.softmax(r.logits_BTE, axis=-1), 2)[0]
    assert (over_all.sum(-1) < 0.99).any()


def test_swiglu_interleaves_clamps_and_adds_one():
    pairs = np.array([[1, 0], [9, 0], [-9, 0], [1, 9], [1, -9]], np.float32)  # (gate, up)
    gate = np.minimum(pairs[:, 0], 7)
    up = np.clip(pairs[:, 1], -7, 7)
    expected_F = gate / (1 + np.exp(-1.702 * gate)) * (up + 1)
    np.testing.assert_allclose(swiglu(jnp.asarray(pairs.ravel()), 7.0), expected_F, rtol=1e-5)


def test_a_batch_is_computed_as_its_rows_alone(weights, x_BTD):
    together, _ = moe(weights, x_BTD, 2, LIMIT, ALPHA)
    for b in range(2):
        alone, _ = moe(weights, x_BTD[b : b + 1], 2, LIMIT, ALPHA)
        np.testing.assert_allclose(together[b : b + 1], alone, atol=3e-5)


@pytest.mark.parametrize("tile", [1, 4])
def test_rows_grouped_by_expert_equal_the_obvious(tile):
    """Expert 3 of 3 is no expert and gives zeros."""
    keys = jax.random.split(jax.random.key(0), 2)
    w_EIO, x_RI = jax.random.normal(keys[0], (3, 8, 5)), jax.random.normal(keys[1], (14, 8))
    expert_R = (jnp.arange(14) * 5) % 4
    found_RO = grouped(lambda e, x_TI: x_TI @ w_EIO[e], x_RI, expert_R, w_EIO.shape, tile)
    padded_EIO = jnp.concatenate([w_EIO, jnp.zeros((1, 8, 5))])
    expected_RO = jnp.einsum("RI,RIO->RO", x_RI, padded_EIO[expert_R])
    assert jnp.allclose(found_RO, expected_RO, atol=1e-6)
