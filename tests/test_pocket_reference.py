"""What transformers says about the pocket model: kept in a file, asked again by `make parity`."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pocket_reference as tool
import pytest

from gptoss_edu import forward, load_model

AGAIN = "run `python tools/pocket_reference.py` in the environment of `make parity`"


@pytest.fixture(scope="module")
def reference():
    with np.load(tool.REFERENCE) as file:
        return dict(file)


def test_reference_belongs_to_the_weights_that_are_shipped(reference):
    assert str(reference["sha256"]) == tool.weights_sha256(), AGAIN
    assert reference["rows_T"].tolist() == tool.conversation_rows(), AGAIN


def test_reference_crosses_the_window_and_the_initial_context(reference):
    config = tool.read_config(tool.POCKET)
    assert len(reference["rows_T"]) > config.initial_context > config.sliding_window
    assert reference["positions"].max() == len(reference["rows_T"]) - 1


def test_our_logits_are_those_of_transformers(reference):
    model, params = load_model()
    rows_BT = jnp.array(reference["rows_T"])[None]
    logits_BTV = jax.jit(forward, static_argnames="config")(params, rows_BT, config=model.config)
    ours = np.asarray(logits_BTV[0])[reference["positions"]]
    np.testing.assert_allclose(ours, reference["logits"], atol=1e-4, rtol=0)


@pytest.mark.parity
def test_transformers_still_says_the_same(reference):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        live = tool.ask_transformers()
    assert live["rows_T"].tolist() == reference["rows_T"].tolist()
    # Logits of +-22. Another processor adds in another order: 1.7e-5 between an EPYC and a Xeon.
    np.testing.assert_allclose(live["logits"], reference["logits"], atol=1e-5, rtol=1e-6)
