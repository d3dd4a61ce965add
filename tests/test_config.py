"""The numbers of GPT-OSS, from either dialect of config.json, and the ways a file can be wrong."""

import copy
import dataclasses
import itertools
import json
import random

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


def test_the_sizes_of_the_20b():
    assert GPT_OSS_20B.sizes == {
        "N": 64, "K": 8, "G": 8, "H": 64, "C": 32, "D": 2880, "F": 2880, "P": 5760,
        "E": 32, "X": 4, "V": 201088, "U": 16,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("field", "least", "below", "most", "above"),
    [
        ("hidden_size", 1, 0, 2**24, 2**24 + 1),
        ("num_layers", 1, 0, 10_000, 10_001),
        ("swiglu_alpha", 0.001, 0.0009, 1e6, 1e6 + 1),
        ("rope_theta", 2.0, 1.99, 1e12, 2e12),
        ("rope_factor", 1.0, 0.99, 1e6, 1e6 + 1),
        ("rms_eps", 1e-20, 1e-21, 0.1, 0.11),
    ],
)
def test_a_number_may_be_anything_in_its_range(field, least, below, most, above):
    for fine in (least, most):
        assert getattr(dataclasses.replace(TINY, layer_types=(), **{field: fine}), field) == fine
    for wrong in (below, above):
        with pytest.raises(ValueError, match=rf"{field} is .* at least {least} and at most {most}"):
            dataclasses.replace(TINY, **{field: wrong})


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
        ({"model_type": "llama", "architectures": ["MixtralForCausalLM"]}, "describes 'llama'"),
        ({"hidden_size": "2880"}, "hidden_size is '2880', expected int"),
        ({"hidden_size": 2880.5}, "expected int"),
        ({"hidden_size": -1}, "hidden_size is -1"),
        ({"num_attention_heads": 63}, "multiple of num_kv_heads"),
        ({"head_dim": 63}, "head_dim is 63, expected an even number"),
        ({"num_experts_per_tok": 64, "experts_per_token": None}, "at most num_experts, 32"),
        ({"layer_types": ["full_attention"]}, "one for each of 24 layers"),
        ({"layer_types": ["linear"] * 24}, "not ['linear']"),
        ({"rope_scaling": {"rope_type": "llama3"}}, "'llama3', expected 'yarn'"),
        ({"hidden_size": 0}, "hidden_size is 0, expected at least 1 and"),
        ({"num_key_value_heads": 0}, "num_kv_heads is 0"),
        ({"num_hidden_layers": 10**8, "layer_types": None}, "num_layers is 100000000, exp"),
        ({"num_hidden_layers": 10**600}, "expected int"),
        ({"head_dim": float("inf")}, "head_dim is inf, expected int"),
        ({"rope_theta": float("nan")}, "rope_theta is nan, expected float"),
        ({"rope_theta": -150000.0}, "rope_theta is -150000.0, expected at least 2"),
        ({"rope_theta": 1}, "rope_theta is 1.0"),
        ({"rms_norm_eps": -1e-5}, "rms_eps is -1e-05"),
        ({"rms_norm_eps": float("inf")}, "rms_norm_eps is inf"),
        ({"swiglu_limit": 0}, "swiglu_limit is 0.0"),
        ({"vocab_size": True}, "vocab_size is True, expected int"),
        ({"layer_types": []}, "layer_types is [], expected a list of strings"),
        ({"layer_types": [{}]}, "layer_types is [{}], expected a list of strings"),
        ({"layer_types": ["x" * 10**6] * 24}, "not ['xxx"),
        ({"architectures": "LlamaForCausalLM"}, "describes 'LlamaForCausalLM'"),
        ({"architectures": 5}, "describes 5"),
        ({"rope_scaling": "yarn"}, "holds a str, 'yarn', expected an object with 'rope_scaling."),
        ({"rope_scaling": [1]}, "holds a list"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu', expected 'silu' or no such key"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings is True, expected False"),
        ({"attention_bias": False}, "attention_bias is False, expected True"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5, expected 1.0"),
        ({"sliding_window": None}, "no sliding_window"),
        ({"head_dim": None}, "no head_dim"),
        ({"use_sliding_window": False}, "use_sliding_window is False, expected True"),
        ({"max_window_layers": 21}, "max_window_layers is 21, expected None"),
        ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping is 50.0"),
        ({"routed_scaling_factor": 2.5}, "routed_scaling_factor is 2.5, expected 1.0"),
        ({"n_shared_experts": 1}, "n_shared_experts is 1, expected 0"),
        ({"mlp_only_layers": [0]}, "mlp_only_layers is [0], expected []"),
        ({"quantization_config": {"quant_method": "fp8"}}, "quant_method is 'fp8', expected 'mxf"),
        ({"quantization_config": {"quant_method": "awq"}}, "quant_method is 'awq'"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "is 'bitsandbytes'"),
        ({"quantization_config": {"quant_method": "modelopt"}}, "is 'modelopt'"),
        ({"quantization_config": "mxfp4"}, "holds a str, 'mxfp4'"),
        ({"quantization": {"bits": 4}}, "quantization is {'bits': 4}"),  # MLX
        # Reports, row 31: a dead key of one program; which of two is meant, the file must say.
        ({"num_experts": 4}, "num_local_experts = 32, num_experts = 4; they name the same"),
        # Reports, row 24: transformers takes the factor, others the ratio.
        ({"max_position_embeddings": 65536}, "65536, expected 131072, to where YaRN's factor 32"),
    ],
)
def test_a_wrong_file_is_refused_in_words(changes, expected):
    with pytest.raises(ValueError, match="config") as caught:
        Config.from_dict(hf(**changes))
    assert expected in str(caught.value)


def with_rope(**changes):
    return hf(rope_scaling={**GPT_OSS_20B.to_dict()["rope_scaling"], **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"attention_factor": 1.0},
        {"attention_factor": 1.3466},
        {"mscale": 2.0},
        {"mscale_all_dim": 1.0},
        {"partial_rotary_factor": 0.5},
        {"type": "linear"},
        {"factor": 0.5},
        {"factor": float("inf")},
        {"beta_fast": -32},
        {"long_factor": [1.0] * 32},
        {"low_freq_factor": 1.0},
        {"full_attention": {"factor": 32.0}},  # a dictionary for each kind of layer
    ],
)
def test_what_changes_yarn_is_refused_by_name(changes):
    (key,) = changes
    with pytest.raises(ValueError, match=rf"^config.*{key} is "):
        Config.from_dict(with_rope(**changes))


def test_keys_that_say_what_is_computed_anyway_are_accepted():
    same = {"attention_factor": 1.34657359, "mscale": 1, "mscale_all_dim": 0}
    same |= {"type": "yarn", "partial_rotary_factor": 1.0, "long_factor": None}
    found = {**with_rope(**same), "hidden_act": "silu", "architectures": "GptOssForCausalLM"}
    found |= {"use_sliding_window": True, "mlp_only_layers": [], "routed_scaling_factor": 1.0}
    found |= {"quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": ["x"]}}
    found |= {"attention_dropout": 0.1, "initializer_range": 9.0, "torch_dtype": "float16"}
    assert Config.from_dict(found) == GPT_OSS_20B
    stretched_little = with_rope(factor=1.5, attention_factor=1.0405465)
    stretched_little["max_position_embeddings"] = 6144
    assert Config.from_dict(stretched_little).rope_factor == 1.5


def test_row_24_the_context_before_yarn_must_fit_what_it_reaches():
    """One factor stretches one to the other; the frequencies follow from all three."""
    with pytest.raises(
        ValueError, match=r"expected 4194304, to where YaRN's factor 32\.0 stretches the 131072"
    ):
        Config.from_dict(
            with_rope(original_max_position_embeddings=131072) | {"initial_context_length": None}
        )
    with pytest.raises(ValueError, match=r"expected 65536, to where YaRN's factor 16\.0"):
        Config.from_dict(with_rope(factor=16.0))


def test_the_hugging_face_dialect_must_say_whether_the_ramp_is_rounded():
    found = with_rope()
    del found["rope_scaling"]["truncate"]
    with pytest.raises(ValueError, match=r"no rope_scaling.truncate or .* truncate false"):
        Config.from_dict(found)
    assert Config.from_dict(with_rope(truncate=True)).rope_truncate
    assert not Config.from_dict(ORIGINAL_20B).rope_truncate  # has no such key, and never rounds


def test_every_number_of_a_config_survives_its_file():
    for field in dataclasses.fields(Config):
        if isinstance(field.default, float):
            changed = {field.name: field.default * 1.5}
            if field.name == "rope_factor":
                changed["max_positions"] = int(TINY.initial_context * changed[field.name])
            config = dataclasses.replace(TINY, **changed)
            assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


VALUES = [
    *(None, True, False, 0, 1, -1, 2, 0.5, 1e-300, 1e308, 10**600, -(10**30), 2**31, 2**64),
    *(float("nan"), float("inf"), -float("inf"), "", "yarn", "gpt_oss", "32", "\u202e\x1b[2J"),
    *([], [[]], [{}], [None], {}, {"factor": "x"}, {"rope_type": []}, ["sliding_attention"]),
]


def test_any_value_at_any_key_gives_a_config_or_a_valueerror():
    dice = random.Random(13)
    refused = []
    for _ in range(5_000):
        found = copy.deepcopy(dice.choice([ORIGINAL_20B, GPT_OSS_20B.to_dict(), TINY.to_dict()]))
        for _ in range(dice.randint(1, 3)):
            inside = dice.choice([found, found, found.get("rope_scaling") or found])
            target = inside if isinstance(inside, dict) else found
            keys = [*target, "type", "rope_parameters", "attention_factor", "mscale", "truncate"]
            target[dice.choice(keys)] = dice.choice(VALUES)
        try:
            assert isinstance(Config.from_dict(found), Config)
        except ValueError as error:
            refused.append(str(error))
    assert 2_000 < len(refused) < 5_000
    for message in refused:
        assert message.startswith("config")
        assert message.isprintable()
        assert len(message) < 600


def test_a_file_that_holds_no_object_is_refused():
    for found in VALUES:
        with pytest.raises(ValueError, match=r"config\.json"):
            Config.from_dict(found)
    with pytest.raises(ValueError, match="holds a list"):
        Config.from_dict([1, 2])
