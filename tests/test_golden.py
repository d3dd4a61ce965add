"""What the references said, from files: the comparisons of test_parity.py without torch.

`GOLDENS=write make parity` writes the files; `make parity` proves that they are still what the
references say. Weights are not in them: cases.py makes the same ones again.
"""

import dataclasses
import functools
import tempfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from cases import (
    BLOCK_LIMIT,
    CALM,
    CASES,
    LAYOUTS,
    LOGIT_LIMIT,
    SHIPPED_LIMIT,
    SMALL,
    WITNESSES,
    YARN,
    check_bfloat16,
    check_blocks,
    check_logits,
    digest,
    draw_tokens,
    draw_weights,
    observed,
    our_answers,
    our_logits,
    read_digest,
    read_golden,
    write,
)

from gptoss_edu.weights.checkpoint import load_model


@functools.cache
def load(name, layout="packed", precision="auto"):
    """A case's model, from a file in a published layout."""
    case = CALM if name == "calm" else CASES[name]
    weights = draw_weights(case)
    assert digest(weights) == read_digest(name), "these are not the weights of the golden file"
    with tempfile.TemporaryDirectory() as folder:
        return load_model(write(Path(folder), case, weights, layout), precision=precision)


@functools.cache
def ours(name):
    """What this package says about a case. Continuing 4,200 tokens is left to test_parity.py."""
    case = CASES[name]
    case = dataclasses.replace(case, continuation=0) if case is YARN else case
    return our_answers(case, *load(name))


@pytest.mark.parametrize("witness", WITNESSES)
@pytest.mark.parametrize("name", CASES)
def test_answers_are_the_references(name, witness):
    case, found, golden = CASES[name], ours(name), read_golden(f"{name}_{witness}")
    check_blocks(case, found, golden, BLOCK_LIMIT)
    check_logits(case, found, golden, LOGIT_LIMIT, "logits")
    if case.rounded:
        check_logits(case, found, golden, SHIPPED_LIMIT, "shipped")
    if "continuation" in found:
        np.testing.assert_array_equal(found["continuation"], golden["continuation"])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_logits(layout):
    _, params = load("small", layout)
    golden = read_golden("small_transformers")
    check_logits(SMALL, our_logits(SMALL, params), golden, LOGIT_LIMIT, "logits")


def test_bfloat16_is_the_reference_or_a_tie():
    _, params = load("calm", precision="bf16")
    golden = read_golden("calm_transformers")
    counts = check_bfloat16(CALM, our_logits(CALM, params, jnp.bfloat16), golden)
    assert counts["same"] >= 0.97 * counts["tokens"], counts


# ---- could these comparisons fail? ---------------------------------------------------------------


def test_sizes_that_differ_and_lengths_that_cross():
    sizes = [size for letter, size in SMALL.config.sizes.items() if letter != "U"]
    assert len(set(sizes)) == len(sizes)
    assert SMALL.config.num_experts != SMALL.config.experts_per_token**2
    assert YARN.lengths[0] > YARN.config.initial_context
    assert all(min(case.lengths) > case.config.sliding_window for case in CASES.values())


FIRST = dataclasses.replace(SMALL.config, num_layers=1, layer_types=("sliding_attention",))
WRONG = {
    "window of one key more": {"sliding_window": 7},
    "no window": {"layer_types": ("full_attention",)},
    "ramp rounded": {"rope_truncate": True},
    "no YaRN": {"rope_factor": 1.0},
    "epsilon of the class default": {"rms_eps": 1e-6},
    "clamp a little tighter": {"swiglu_limit": 6.9},
    "plain SiLU": {"swiglu_alpha": 1.0},
    "one expert": {"experts_per_token": 1},
    "no sinks": {},
}


@functools.cache
def first_layer(mistake=None):
    """Logits of a model with one layer, after 40 tokens, with a mistake made."""
    _, params = load("small")
    layer = params.layers[0]
    if mistake == "no sinks":
        silent = dataclasses.replace(layer.attention, sinks_N=layer.attention.sinks_N - 100)
        layer = dataclasses.replace(layer, attention=silent)
    params = dataclasses.replace(params, layers=(layer,))
    config = dataclasses.replace(FIRST, **WRONG.get(mistake, {}))
    return observed(params, jnp.asarray(draw_tokens(SMALL)[0][None, :40]), config, jnp.float32)[0]


@pytest.mark.parametrize("mistake", WRONG)
def test_mistake_is_noticed(mistake):
    """One layer and 40 tokens are enough for each of them to show far above the limit."""
    assert jnp.abs(first_layer(mistake) - first_layer()).max() > 100 * LOGIT_LIMIT
