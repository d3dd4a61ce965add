"""The numbers of GPT-OSS: every size and constant that the code below needs, in one frozen record.

Source: the `config.json` that OpenAI publishes beside the weights. It exists in two dialects, the
Hugging Face one (`config.json`) and OpenAI's own (`original/config.json`); `Config.from_dict` reads
both. Reading only one of two spellings is a classic silent failure: a reader that knows
`rope_scaling` but not `rope_parameters` switches YaRN off without a word.
"""

from __future__ import annotations

import dataclasses
import math
from reprlib import repr as brief  # bounded, whatever a file holds
from typing import Any

SLIDING, FULL = "sliding_attention", "full_attention"


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes and constants of one GPT-OSS model. Hashable, so it can be a static argument of jit.

    Defaults are GPT-OSS-20B. `max_positions` and `initial_context` are counted in tokens: the model
    was trained on `initial_context` and YaRN stretches it by `rope_factor` to `max_positions`.
    """

    num_layers: int = 24
    num_experts: int = 32
    experts_per_token: int = 4
    vocab_size: int = 201088
    hidden_size: int = 2880
    intermediate_size: int = 2880
    num_heads: int = 64
    num_kv_heads: int = 8
    head_dim: int = 64
    sliding_window: int = 128
    max_positions: int = 131072
    initial_context: int = 4096
    rope_theta: float = 150000.0
    rope_factor: float = 32.0
    beta_slow: float = 1.0
    beta_fast: float = 32.0
    rope_truncate: bool = False
    swiglu_limit: float = 7.0
    swiglu_alpha: float = 1.702
    rms_eps: float = 1e-5
    layer_types: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            least, most = RANGES.get(name) or RANGES.get(type(value), (value, value))
            self._require(name, least <= value <= most, f"at least {least} and at most {most}")
        if not self.layer_types:  # even layers slide over a window, odd layers see everything
            types = tuple(FULL if layer % 2 else SLIDING for layer in range(self.num_layers))
            object.__setattr__(self, "layer_types", types)
        grouped = self.num_heads % self.num_kv_heads == 0
        self._require("num_heads", grouped, f"a multiple of num_kv_heads, {self.num_kv_heads}")
        self._require("head_dim", self.head_dim % 2 == 0, "an even number: RoPE rotates pairs")
        fit = self.experts_per_token <= self.num_experts
        self._require("experts_per_token", fit, f"at most num_experts, {self.num_experts}")
        whole = len(self.layer_types) == self.num_layers
        self._require("layer_types", whole, f"one for each of {self.num_layers} layers")
        others = {*self.layer_types} - {SLIDING, FULL}
        expected = f"{SLIDING!r} and {FULL!r} only, not {brief(sorted(others))}"
        self._require("layer_types", not others, expected)

    def _require(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise _wrong(f"config: {name}", getattr(self, name), expected)

    @property
    def sizes(self) -> dict[str, int]:
        """Letter of the dimension key -> size, for `check_shapes`."""
        return {
            "N": self.num_heads,
            "K": self.num_kv_heads,
            "G": self.num_heads // self.num_kv_heads,
            "H": self.head_dim,
            "C": self.head_dim // 2,
            "D": self.hidden_size,
            "F": self.intermediate_size,
            "P": 2 * self.intermediate_size,
            "E": self.num_experts,
            "X": self.experts_per_token,
            "V": self.vocab_size,
            "U": 16,
        }

    def window(self, layer: int) -> int | None:
        """Keys that a query of `layer` may see, itself included; None where it sees all."""
        return self.sliding_window if self.layer_types[layer] == SLIDING else None

    @classmethod
    def from_dict(cls, found: object) -> Config:
        """Read a parsed `config.json` in either dialect.

        Raises ValueError when the file is of another architecture, lacks a key (YaRN's above all),
        gives one quantity two values under two names, leaves a number's range, or asks for what
        GPT-OSS does not compute, such as tied embeddings.

        The Hugging Face dialect must say `truncate` (it moves 9 of 32 frequencies): transformers
        takes a missing one for true, OpenAI's dialect has none and means false, and every published
        checkpoint says false. So it is asked for and not guessed.
        """
        _check_fixed(found)
        kinds = {field.name: type(field.default) for field in dataclasses.fields(cls)}
        read = {field: _read(found, field, kind) for field, kind in kinds.items()}
        values: dict[str, Any] = {key: value for key, value in read.items() if value is not None}
        if not any(_lookup(found, rope) for rope in ROPE):  # OpenAI's own dialect
            values.setdefault("rope_truncate", False)
        if missing := [field for field in kinds if field not in {*values, *OPTIONAL}]:
            names = " or ".join(SPELLINGS.get(missing[0], missing[:1]))
            yarn = "; without YaRN's keys positions are rotated wrongly" if "." in names else ""
            raise ValueError(
                f"config.json has no {names}, which GPT-OSS needs{yarn}: take it from the published"
                " checkpoint (YaRN: factor 32, beta_slow 1, beta_fast 32, truncate false,"
                " original_max_position_embeddings 4096)"
            )
        reach = int(values["initial_context"] * values["rope_factor"])
        config = cls(**{"max_positions": reach, **values})
        reached = f"{reach}, to where YaRN's factor {config.rope_factor} stretches the"
        reached += f" {config.initial_context} of the training; one of these three is wrong"
        config._require("max_positions", config.max_positions == reach, reached)
        return config

    def to_dict(self) -> dict[str, Any]:
        """The Hugging Face dialect, as transformers reads it."""
        written: dict[str, Any] = {"architectures": ["GptOssForCausalLM"], "model_type": "gpt_oss"}
        yarn: dict[str, Any] = {"rope_type": "yarn"}
        for field, value in dataclasses.asdict(self).items():
            inside, _, key = SPELLINGS.get(field, (field,))[0].rpartition(".")
            (yarn if inside else written)[key] = value
        yarn["original_max_position_embeddings"] = self.initial_context
        written |= {"layer_types": list(self.layer_types), "rope_scaling": yarn}
        return written | {"experts_per_token": self.experts_per_token} | FIXED


# Field or type -> the least and the greatest value that makes sense; Infinity and NaN never do.
# Counts end where float32 stops counting, at 2**24.
RANGES: dict[object, tuple[float, float]] = {
    int: (1, 2**24),
    float: (1e-3, 1e6),
    "num_layers": (1, 10_000),
    "rope_theta": (2.0, 1e12),
    "rope_factor": (1.0, 1e6),
    "rms_eps": (1e-20, 1e-1),
}
OPTIONAL = ("max_positions", "swiglu_limit", "swiglu_alpha", "rms_eps", "layer_types")
ROPE = ("rope_scaling", "rope_parameters")


def _inside(key: str) -> tuple[str, ...]:
    return tuple(f"{rope}.{key}" for rope in ROPE)


# Our field -> its spellings in the wild, if others than its own; a dot descends into a dictionary.
# `to_dict` writes the first.
SPELLINGS: dict[str, tuple[str, ...]] = {
    "num_layers": ("num_hidden_layers",),
    "num_experts": ("num_local_experts", "num_experts"),
    "experts_per_token": ("num_experts_per_tok", "experts_per_token"),
    "num_heads": ("num_attention_heads",),
    "num_kv_heads": ("num_key_value_heads",),
    "max_positions": ("max_position_embeddings",),
    "initial_context": ("initial_context_length", *_inside("original_max_position_embeddings")),
    "rope_theta": ("rope_theta", *_inside("rope_theta")),
    "rope_factor": (*_inside("factor"), "rope_scaling_factor"),
    "beta_slow": (*_inside("beta_slow"), "rope_ntk_alpha"),
    "beta_fast": (*_inside("beta_fast"), "rope_ntk_beta"),
    "rope_truncate": _inside("truncate"),
    "rms_eps": ("rms_norm_eps",),
}
# What GPT-OSS computes, whatever its config says: `to_dict` writes this,
FIXED = {"hidden_act": "silu", "attention_bias": True, "tie_word_embeddings": False}
# and these are keys of other models and exporters, with the value that changes nothing.
SAME: dict[str, object] = {
    "partial_rotary_factor": 1.0, "use_sliding_window": True, "norm_topk_prob": True,
    "routed_scaling_factor": 1.0, "attn_logit_softcapping": None, "final_logit_softcapping": None,
    "query_pre_attn_scalar": None, "attention_multiplier": None, "residual_multiplier": 1.0,
    "embedding_multiplier": 1.0, "logits_scaling": 1.0, "use_qk_norm": False,
    "n_shared_experts": 0, "first_k_dense_replace": 0, "mlp_only_layers": [], "moe_layer_freq": 1,
    "decoder_sparse_step": 1, "max_window_layers": None, "attention_chunk_size": None,
    "quantization_config.quant_method": "mxfp4", "quantization": None,
}  # fmt: skip


def _wrong(name: str, value: object, expected: str) -> ValueError:
    return ValueError(f"{name} is {brief(value)}, expected {expected}")


def _lookup(found: object, dotted: str) -> object:
    for key in dotted.split("."):
        if not isinstance(found, dict | None):
            holds = f"config.json holds a {type(found).__name__}, {brief(found)}"
            raise ValueError(f"{holds}, expected an object with {dotted!r} in it")
        found = found.get(key) if found else None
    return found


def _read(found: object, field: str, kind: type) -> object:
    spelled = {name: _lookup(found, name) for name in SPELLINGS.get(field, (field,))}
    given = {n: _cast(n, value, kind) for n, value in spelled.items() if value is not None}
    if len({*given.values()}) > 1:
        values = ", ".join(f"{name} = {brief(value)}" for name, value in given.items())
        same = "they name the same quantity, so make them equal"
        raise ValueError(f"config.json contradicts itself about {field}: {values}; {same}")
    return next(iter(given.values()), None)


def _cast(name: str, value: Any, kind: type) -> object:
    number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e30
    strings = isinstance(value, list) and {*map(type, value)} == {str}
    whole = number and value == int(value)
    if not {int: whole, float: number, bool: isinstance(value, bool), tuple: strings}[kind]:
        expected = "a list of strings" if kind is tuple else kind.__name__
        raise _wrong(f"config.json: {name}", value, expected)
    return kind(value)


def _check_fixed(found: object) -> None:
    """Refuse other models, and keys that would change numbers, unless they say what is computed."""
    classes = _lookup(found, "architectures")
    names = [_lookup(found, "model_type"), *(classes if isinstance(classes, list) else [classes])]
    if others := [name for name in names if name not in (None, "gpt_oss", "GptOssForCausalLM")]:
        raise ValueError(
            f"config.json describes {brief(others[0])}, expected model_type 'gpt_oss'"
            " (GptOssForCausalLM): this package runs GPT-OSS only"
        )
    factor: Any = _read(found, "rope_factor", float) or 1.0
    concentration = 0.1 * math.log(max(factor, 1.0)) + 1.0  # as in rope.py
    rope = {"rope_type": "yarn", "type": "yarn", "attention_factor": concentration}
    rope |= {"partial_rotary_factor": 1.0, "mscale": 1.0, "mscale_all_dim": 0.0}
    read = {name for names in SPELLINGS.values() for name in names}
    given_rope: Any = {name: _lookup(found, name) or () for name in ROPE}
    inside = [(f"{name}.{key}", rope.get(key)) for name in ROPE for key in given_rope[name]]
    fixed = FIXED | SAME | {name: only for name, only in inside if name not in read}
    for name, only in fixed.items():
        given = _lookup(found, name)
        close = isinstance(given, float) and isinstance(only, float) and abs(given - only) < 1e-6
        if not close and given not in (None, only):
            computed = "that is what GPT-OSS computes, and nothing else is computed here"
            shown = name.encode("unicode_escape").decode()[:80]
            raise _wrong(f"config.json: {shown}", given, f"{only!r} or no such key: {computed}")


GPT_OSS_20B = Config()
GPT_OSS_120B = Config(num_layers=36, num_experts=128)

# For tests: every size differs from every other, so that a swapped axis cannot pass unseen.
TINY = Config(
    num_layers=4,
    num_experts=9,
    experts_per_token=2,
    vocab_size=109,
    hidden_size=128,
    intermediate_size=160,
    num_heads=21,
    num_kv_heads=3,
    head_dim=20,
    sliding_window=6,
    max_positions=256,
    initial_context=32,
    rope_factor=8.0,
    beta_fast=4.0,
)
