"""The whole network against the oracle, and shapes of the real models without their memory."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

from gptoss_edu.config import GPT_OSS_20B, GPT_OSS_120B, TINY
from gptoss_edu.model import Model, forward, init_params, observe, rms_norm
from gptoss_edu.shapes import num_bytes
from gptoss_edu.tokenizer import NoText


@pytest.fixture(scope="module")
def params():
    return init_params(TINY, jax.random.key(0))


def test_logits_agree_with_the_oracle_beyond_the_window_and_the_initial_context(params):
    tokens = np.random.default_rng(0).integers(0, TINY.vocab_size, 40)
    assert len(tokens) > TINY.initial_context > TINY.sliding_window
    got_BTV = jax.jit(functools.partial(forward, config=TINY))(params, jnp.asarray(tokens[None]))
    expected_TV = oracle.logits(params, tokens, TINY)
    np.testing.assert_allclose(got_BTV[0], expected_TV, atol=1e-5)


def test_observing_changes_nothing_and_shows_every_block(params):
    tokens_BT = jnp.arange(14).reshape(2, 7)
    logits_BTV, seen = observe(params, tokens_BT, TINY)
    np.testing.assert_array_equal(logits_BTV, forward(params, tokens_BT, TINY))
    assert len(seen) == TINY.num_layers
    assert seen[0].attention.weights_BNTS.shape == (2, TINY.num_heads, 7, 7)
    assert seen[3].routing.expert_BTX.shape == (2, 7, TINY.experts_per_token)


@pytest.mark.parametrize("dtype", [jnp.float32, np.dtype("float32"), jnp.bfloat16])
def test_products_of_float32_are_exact_on_every_device(params, dtype):
    """TPUs and GPUs would round its operands; those of bfloat16 need no such care."""
    tokens_BT = jnp.arange(7)[None]
    program = str(jax.make_jaxpr(lambda p: forward(p, tokens_BT, TINY, dtype))(params))
    exact = program.count("precision=(Precision.HIGHEST, Precision.HIGHEST)")
    assert exact == (program.count("dot_general[") if dtype != jnp.bfloat16 else 0)


def test_rms_norm_multiplies_by_the_scale_before_it_rounds():
    x_BTD = jax.random.normal(jax.random.key(1), (2, 5, 64)).astype(jnp.bfloat16)
    scale_D = 1 + jax.random.normal(jax.random.key(2), (64,)) / 10
    x, scale = oracle.f64(x_BTD), oracle.f64(scale_D)
    expected = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * scale
    got_BTD = rms_norm(x_BTD, scale_D, 1e-5)
    assert got_BTD.dtype == jnp.bfloat16
    np.testing.assert_array_equal(got_BTD, jnp.asarray(expected, jnp.bfloat16))


@pytest.mark.parametrize(
    ("config", "parameters"),
    [(GPT_OSS_20B, 20_914_757_184), (GPT_OSS_120B, 116_829_156_672)],
    ids=["20b", "120b"],
)
def test_the_real_models_have_as_many_parameters_as_published(config, parameters):
    shapes = jax.eval_shape(lambda: init_params(config, jax.random.key(0), jnp.bfloat16))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == parameters
    assert num_bytes(shapes) == 2 * parameters
    logits = jax.eval_shape(
        functools.partial(forward, config=config), shapes, jax.ShapeDtypeStruct((1, 9), jnp.int32)
    )
    assert logits.shape == (1, 9, 201088)


def test_a_bf16_model_stays_close_to_float32(params):
    tokens_BT = jnp.arange(20)[None]
    halved = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    low = forward(halved, tokens_BT, TINY, jnp.bfloat16)
    high = forward(halved, tokens_BT, TINY)
    assert low.dtype == jnp.float32
    assert 0 < float(jnp.abs(low - high).mean()) < 0.1


@pytest.mark.parametrize("row", [TINY.vocab_size, TINY.vocab_size + 1, -1])
def test_rows_past_the_vocabulary_are_refused(params, row):
    with pytest.raises(ValueError, match=f"holds row {row}, expected 0 to {TINY.vocab_size - 1}"):
        forward(params, jnp.array([[3, row]]), TINY)


def test_models_and_weights_cannot_be_changed(params):
    model = Model(TINY, NoText("random"))
    for value, field in ((model, "dtype"), (params, "norm_D"), (params.layers[0], "moe")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, field, None)
