"""Rotations as transformers and OpenAI compute them: kept in a file, asked by `make parity`."""

import warnings

import jax.numpy as jnp
import numpy as np
import pytest
import rope_reference as tool

from gptoss_edu.config import GPT_OSS_20B
from gptoss_edu.model import rope_frequencies, rope_tables
from gptoss_edu.rope import rotate


@pytest.fixture(scope="module")
def reference():
    with np.load(tool.REFERENCE) as file:
        return dict(file)


@pytest.mark.parametrize("source", ["transformers", "openai"])
def test_our_rotations_are_theirs(reference, source):
    inv_C, _ = rope_frequencies(GPT_OSS_20B)
    np.testing.assert_allclose(inv_C, reference[f"{source}_inv_C"], rtol=1e-6)
    cos_BTC, sin_BTC = rope_tables(jnp.array(reference["position_T"])[None], GPT_OSS_20B)
    y_BTNH = rotate(jnp.array(reference["x_TNH"])[None], cos_BTC, sin_BTC)
    np.testing.assert_allclose(y_BTNH[0], reference[f"{source}_y_TNH"], atol=1e-4)


@pytest.mark.parity
def test_they_still_say_the_same(reference):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        live = tool.ask()
    assert live.keys() == reference.keys()
    for name, array in live.items():
        if not isinstance(array, str):
            np.testing.assert_allclose(array, reference[name], atol=1e-6, err_msg=name)
