"""config.json: each key is honored, refused by name, or of no consequence to a number."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

from hypothesis import strategies as st
from layouts import original_config

from fuzz.checkpoints import CONFIG, WHOLE, is_same, load, sandbox
from fuzz.edits import Change, Cut, Edit, changes, values
from fuzz.oracles import counts, examine, fuzz, legally_other
from gptoss_edu.config import GPT_OSS_20B, GPT_OSS_120B, Config

AREA = "config.json"
# Key of the published dialect -> our field, written down anew from transformers' GptOssConfig.
HONORED = {
    "num_hidden_layers": "num_layers", "num_local_experts": "num_experts",
    "num_experts_per_tok": "experts_per_token", "experts_per_token": "experts_per_token",
    "vocab_size": "vocab_size", "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size", "num_attention_heads": "num_heads",
    "num_key_value_heads": "num_kv_heads", "head_dim": "head_dim",
    "sliding_window": "sliding_window", "max_position_embeddings": "max_positions",
    "initial_context_length": "initial_context", "rope_theta": "rope_theta",
    "rms_norm_eps": "rms_eps", "swiglu_limit": "swiglu_limit", "layer_types": "layer_types",
    "swiglu_alpha": "swiglu_alpha",
}  # fmt: skip
INSIDE = {
    "factor": "rope_factor", "beta_slow": "beta_slow", "beta_fast": "beta_fast",
    "truncate": "rope_truncate", "original_max_position_embeddings": "initial_context",
}  # fmt: skip
# What transformers computes with, and GPT-OSS has one value of.
FIXED = {"hidden_act": "silu", "attention_bias": True, "tie_word_embeddings": False}
FIXED |= {"partial_rotary_factor": 1.0, "model_type": "gpt_oss"}
BOOKKEEPING = {"dtype": "bfloat16", "torch_dtype": "float16", "use_cache": False, "pad_token_id": 9}
BOOKKEEPING |= {"transformers_version": "x", "router_aux_loss_coef": 1, "initializer_range": 3}


def of_field(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


@fuzz(
    300,
    st.sampled_from(sorted(HONORED)) | st.sampled_from(sorted(INSIDE)),
    values,
    seeds=[
        *(("head_dim", value) for value in (math.inf, math.nan, 0, 3, 10**30, 4.0, True, "4")),
        *(("rope_theta", value) for value in (0, 1, -1, math.inf, 1e308, None)),
        *(("rms_norm_eps", value) for value in (math.inf, 0, -1, 1, "1e-5")),
        *(("swiglu_limit", value) for value in (0, -7, math.inf, True)),
        *(("num_hidden_layers", value) for value in (0, 10**8, 10**30, 2.5)),
        *(("factor", value) for value in (math.inf, 0, [], {}, "32")),
        *(("truncate", value) for value in (None, 0, "false", True)),
    ],
)
def test_a_number_is_honored_or_refused(key, value):
    document = CONFIG.to_dict()
    (document["rope_scaling"] if key in INSIDE else document)[key] = value
    found, error = examine(AREA, lambda: Config.from_dict(document))
    if error is not None:
        return
    field = (HONORED | INSIDE)[key]
    if value is not None:  # a key without a value is none
        assert getattr(found, field) == of_field(value)
        assert math.isfinite(value if isinstance(value, int | float) else 0)
    given = {field: getattr(found, field)} if value is not None else {}
    if found != CONFIG:
        legally_other(AREA)
        assert value is None or found == dataclasses.replace(CONFIG, **given)


ROPE = {"attention_factor": None, "mscale": 1.0, "mscale_all_dim": 0.0, "rope_type": "yarn"}
ROPE |= {"type": "yarn", "partial_rotary_factor": 1.0}


@fuzz(
    200,
    st.sampled_from(sorted(FIXED)) | st.sampled_from(sorted(ROPE)),
    values,
    seeds=[
        ("hidden_act", "gelu"), ("hidden_act", "silu"), ("tie_word_embeddings", True),
        ("attention_factor", 1.0), ("partial_rotary_factor", 0.5), ("mscale", 2.0),
        ("type", "linear"), ("rope_type", "llama3"), ("attention_bias", False),
    ],
)  # fmt: skip
def test_a_key_that_would_change_numbers_is_refused_unless_it_says_what_is_computed(key, value):
    only = (FIXED | ROPE)[key]
    if key == "attention_factor":
        only = 0.1 * math.log(CONFIG.rope_factor) + 1
    document = CONFIG.to_dict()
    (document["rope_scaling"] if key in ROPE else document)[key] = value
    found, error = examine(AREA, lambda: Config.from_dict(document))
    if error is None:
        near = isinstance(value, float) and isinstance(only, float) and abs(value - only) < 1e-5
        assert value is None or value == only or near, f"{key} = {value!r} is ignored"
        assert found == CONFIG


REVIEW: list[Edit | Change] = [
    *(Edit("all", 0, value) for value in ([], "x", None, 5, {})),
    *(Change((), (Cut(0, 10**9, text),)) for text in (b"[" * 100_000, b"\xff\xfe{", b"")),
]


@fuzz(
    250,
    changes,
    seeds=[(seed if isinstance(seed, Change) else Change((seed,)),) for seed in REVIEW],
)
def test_a_checkpoint_with_another_config_is_refused_or_the_same(change):
    with sandbox(WHOLE) as folder:
        path = folder / "config.json"
        path.write_bytes(change.of(json.loads(path.read_bytes())))
        loaded, _ = examine(AREA, lambda: load(folder))
        if loaded is None or is_same(loaded):
            return
        legally_other(AREA)  # it says another number, and that is computed with
        document = json.loads(path.read_bytes())
        rope = document.get("rope_scaling") or document.get("rope_parameters") or {}
        for key, field in (HONORED | INSIDE).items():
            value = (rope if key in INSIDE else document).get(key)
            assert value is None or getattr(loaded[0].config, field) == of_field(value)


@fuzz(50, st.dictionaries(st.sampled_from(sorted(BOOKKEEPING)), values))
def test_bookkeeping_changes_nothing(more):
    found, error = examine(AREA, lambda: Config.from_dict(CONFIG.to_dict() | more))
    assert error is None
    assert found == CONFIG


def reach(sizes: dict[str, Any]) -> int:
    """To where YaRN stretches."""
    return int(sizes["initial_context"] * sizes["rope_factor"])


configs = st.builds(
    lambda **sizes: dataclasses.replace(
        CONFIG, **sizes, layer_types=(), max_positions=reach(sizes)
    ),
    num_layers=st.integers(1, 40), num_experts=st.integers(4, 200),
    vocab_size=st.integers(1, 10**6), experts_per_token=st.integers(1, 4),
    hidden_size=st.integers(1, 10**4),
    num_kv_heads=st.sampled_from([1, 2, 3, 6]), head_dim=st.sampled_from([2, 20, 64, 254]),
    sliding_window=st.integers(1, 10**4), rope_theta=st.floats(2, 1e9),
    rms_eps=st.floats(1e-9, 1e-2),
    rope_factor=st.floats(1, 100), beta_fast=st.floats(0.1, 100), rope_truncate=st.booleans(),
    swiglu_limit=st.floats(0.1, 100), initial_context=st.integers(1, 10**4),
)  # fmt: skip


@fuzz(150, configs, seeds=[(GPT_OSS_20B,), (GPT_OSS_120B,), (CONFIG,)])
def test_what_is_written_is_read_in_both_dialects(config):
    text = json.dumps(config.to_dict())
    assert Config.from_dict(json.loads(text)) == config
    fields = {"max_positions": 0, "rms_eps": 0.0, "rope_truncate": False, "swiglu_alpha": 0.0}
    kept = {name: getattr(config, name) for name in fields}
    read = Config.from_dict(json.loads(json.dumps(original_config(config))))
    assert dataclasses.replace(read, **kept) == config
    counts[AREA, "right"] += 2
