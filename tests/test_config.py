"""The numbers of GPT-OSS, from either dialect of config.json, and the ways a file can be wrong."""

import dataclasses
import itertools

import pytest

from gptoss_edu.config import GPT_OSS_20B, GPT_OSS_120B, TINY, Config

# OpenAI's own dialect, as in original/config.json of the 20B.
ORIGINAL_20B = {
    "num_hidden_layers": 24,
    "num_experts": 32,
    "experts_per_token": 4,
    "vocab_size": 201088,
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "swiglu_limit": 7.0,
    "head_dim": 64,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "sliding_window": 128,
    "initial_context_length": 4096,
    "rope_theta": 150000,
    "rope_scaling_factor": 32.0,
    "rope_ntk_alpha": 1,
    "rope_ntk_beta": 32,
}


def hf(**changes):
    """The 20B's Hugging Face dialect with some keys changed; None removes one."""
    found = {**GPT_OSS_20B.to_dict(), **changes}
    return {key: value for key, value in found.items() if value is not None}


def test_both_dialects_describe_the_same_model():
    assert Config.from_dict(ORIGINAL_20B) == GPT_OSS_20B
    assert Config.from_dict(GPT_OSS_20B.to_dict()) == GPT_OSS_20B
    assert Config.from_dict(GPT_OSS_120B.to_dict()) == GPT_OSS_120B
    assert Config.from_dict(TINY.to_dict()) == TINY


def test_the_newer_spelling_of_rope_keeps_yarn():
    scaling = {**GPT_OSS_20B.to_dict()["rope_scaling"], "rope_theta": 150000.0}
    found = hf(rope_scaling=None, rope_theta=None, rope_parameters=scaling)
    assert Config.from_dict(found) == GPT_OSS_20B


def test_even_layers_slide_over_128_keys():
    assert [GPT_OSS_20B.window(layer) for layer in range(4)] == [128, None, 128, None]
    assert len(GPT_OSS_20B.layer_types) == 24


def test_a_file_may_name_its_own_layer_types():
    types = ["full_attention"] * 24
    config = Config.from_dict(hf(layer_types=types))
    assert config.window(0) is None
    assert config.to_dict()["layer_types"] == types


def test_config_is_hashable_and_frozen():
    assert hash(GPT_OSS_20B) == hash(Config())
    with pytest.raises(dataclasses.FrozenInstanceError):
        GPT_OSS_20B.num_layers = 3


def test_tiny_has_pairwise_different_sizes():
    sizes = dict(TINY.sizes)
    assert sizes.pop("X") ** 2 != TINY.num_experts
    for (a, x), (b, y) in itertools.combinations(sizes.items(), 2):
        assert x != y, f"{a} and {b} are both {x}: swapping them would go unseen"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"rope_scaling": None}, "YaRN"),
        ({"num_local_experts": None}, "num_local_experts or num_experts"),
        ({"num_local_experts": 8, "num_experts": 16}, "contradicts itself about num_experts"),
        ({"rope_ntk_beta": 64}, "contradicts itself about beta_fast"),
        ({"initial_context_length": 2048}, "contradicts itself about initial_context"),
        ({"model_type": "llama"}, "'llama', expected model_type 'gpt_oss'"),
        ({"architectures": ["MixtralForCausalLM"]}, "MixtralForCausalLM"),
        ({"hidden_size": "2880"}, "hidden_size is '2880', expected int"),
        ({"hidden_size": 2880.5}, "expected int"),
        ({"hidden_size": -1}, "hidden_size is -1"),
        ({"num_attention_heads": 63}, "multiple of num_kv_heads"),
        ({"head_dim": 63}, "head_dim must be even"),
        ({"num_experts_per_tok": 64, "experts_per_token": None}, "experts_per_token must be <="),
        ({"layer_types": ["full_attention"]}, "one entry per layer"),
        ({"layer_types": ["linear"] * 24}, "found ['linear']"),
        ({"rope_scaling": {"rope_type": "llama3"}}, "'llama3', expected 'yarn'"),
    ],
)
def test_a_wrong_file_is_refused_in_words(changes, expected):
    with pytest.raises(ValueError, match="config") as caught:
        Config.from_dict(hf(**changes))
    assert expected in str(caught.value)


def test_a_file_that_holds_no_object_is_refused():
    with pytest.raises(ValueError, match="holds a list"):
        Config.from_dict([1, 2])
