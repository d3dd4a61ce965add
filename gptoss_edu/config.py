"""The numbers of GPT-OSS: every size and constant that the code below needs, in one frozen record.

Source: the `config.json` that OpenAI publishes beside the weights. It exists in two dialects, the
Hugging Face one (`config.json`) and OpenAI's own (`original/config.json`); `Config.from_dict` reads
both. Reading only one of two spellings is a classic silent failure: a reader that knows
`rope_scaling` but not `rope_parameters` switches YaRN off without a word.
"""

from __future__ import annotations

import dataclasses
from typing import Any

SLIDING, FULL = "sliding_attention", "full_attention"


def alternating(num_layers: int) -> tuple[str, ...]:
    """Layer types of GPT-OSS: even layers slide over a window, odd layers see everything."""
    return tuple(FULL if layer % 2 else SLIDING for layer in range(num_layers))


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
        if not self.layer_types:
            object.__setattr__(self, "layer_types", alternating(self.num_layers))
        for name, size in dataclasses.asdict(self).items():
            if isinstance(size, int) and not isinstance(size, bool) and size < 1:
                raise ValueError(f"config: {name} is {size}, but it must be at least 1")
        _require(self.num_heads % self.num_kv_heads == 0, "num_heads", "a multiple of num_kv_heads")
        _require(self.head_dim % 2 == 0, "head_dim", "even, since RoPE rotates pairs")
        _require(self.experts_per_token <= self.num_experts, "experts_per_token", "<= num_experts")
        _require(len(self.layer_types) == self.num_layers, "layer_types", "one entry per layer")
        unknown = set(self.layer_types) - {SLIDING, FULL}
        _require(not unknown, "layer_types", f"{SLIDING!r} or {FULL!r}, found {sorted(unknown)}")

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
    def from_dict(cls, found: dict[str, Any]) -> Config:
        """Read a parsed `config.json` in either dialect.

        Raises ValueError when the file is of another architecture, lacks a key (YaRN's above all),
        or gives one quantity two different values under two names.
        """
        _check_architecture(found)
        values = {field: _read(found, field, names) for field, names in SPELLINGS.items()}
        defaults = {
            "max_positions": int((values["initial_context"] or 0) * (values["rope_factor"] or 0)),
            "rope_truncate": False,
            "swiglu_limit": cls.swiglu_limit,
            "swiglu_alpha": cls.swiglu_alpha,
            "rms_eps": cls.rms_eps,
            "layer_types": (),
        }
        for field, value in values.items():
            if value is None and field in defaults:
                values[field] = defaults[field]
            elif value is None:
                raise ValueError(_missing(field))
        types = {f.name: type(f.default) for f in dataclasses.fields(cls)}
        return cls(**{field: _cast(field, value, types[field]) for field, value in values.items()})

    def to_dict(self) -> dict[str, Any]:
        """The Hugging Face dialect, as transformers reads it."""
        return {
            "architectures": ["GptOssForCausalLM"],
            "model_type": "gpt_oss",
            "num_hidden_layers": self.num_layers,
            "num_local_experts": self.num_experts,
            "num_experts_per_tok": self.experts_per_token,
            "experts_per_token": self.experts_per_token,
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads,
            "head_dim": self.head_dim,
            "sliding_window": self.sliding_window,
            "layer_types": list(self.layer_types),
            "max_position_embeddings": self.max_positions,
            "initial_context_length": self.initial_context,
            "rope_theta": self.rope_theta,
            "rope_scaling": {
                "rope_type": "yarn",
                "factor": self.rope_factor,
                "beta_slow": self.beta_slow,
                "beta_fast": self.beta_fast,
                "truncate": self.rope_truncate,
                "original_max_position_embeddings": self.initial_context,
            },
            "swiglu_limit": self.swiglu_limit,
            "rms_norm_eps": self.rms_eps,
            "hidden_act": "silu",
            "attention_bias": True,
            "tie_word_embeddings": False,
        }


# Our field -> every spelling seen in the wild; a dot descends into a nested dictionary.
_ROPE = ("rope_scaling.", "rope_parameters.")
SPELLINGS: dict[str, tuple[str, ...]] = {
    "num_layers": ("num_hidden_layers",),
    "num_experts": ("num_local_experts", "num_experts"),
    "experts_per_token": ("num_experts_per_tok", "experts_per_token"),
    "vocab_size": ("vocab_size",),
    "hidden_size": ("hidden_size",),
    "intermediate_size": ("intermediate_size",),
    "num_heads": ("num_attention_heads",),
    "num_kv_heads": ("num_key_value_heads",),
    "head_dim": ("head_dim",),
    "sliding_window": ("sliding_window",),
    "max_positions": ("max_position_embeddings",),
    "initial_context": (
        "initial_context_length",
        *(r + "original_max_position_embeddings" for r in _ROPE),
    ),
    "rope_theta": ("rope_theta", *(r + "rope_theta" for r in _ROPE)),
    "rope_factor": ("rope_scaling_factor", *(r + "factor" for r in _ROPE)),
    "beta_slow": ("rope_ntk_alpha", *(r + "beta_slow" for r in _ROPE)),
    "beta_fast": ("rope_ntk_beta", *(r + "beta_fast" for r in _ROPE)),
    "rope_truncate": tuple(r + "truncate" for r in _ROPE),
    "swiglu_limit": ("swiglu_limit",),
    "swiglu_alpha": ("swiglu_alpha",),
    "rms_eps": ("rms_norm_eps",),
    "layer_types": ("layer_types",),
}


def _require(holds: bool, name: str, expected: str) -> None:
    if not holds:
        raise ValueError(f"config: {name} must be {expected}; check config.json")


def _lookup(found: dict[str, Any], dotted: str) -> Any:
    for key in dotted.split("."):
        found = found.get(key) if isinstance(found, dict) else None
    return found


def _read(found: dict[str, Any], field: str, names: tuple[str, ...]) -> Any:
    given = {name: value for name in names if (value := _lookup(found, name)) is not None}
    values = [tuple(v) if isinstance(v, list) else v for v in given.values()]
    if any(value != values[0] for value in values):
        raise ValueError(
            f"config.json contradicts itself about {field}: "
            + ", ".join(f"{name} = {value!r}" for name, value in given.items())
            + "; they name the same quantity, so make them equal"
        )
    return values[0] if values else None


def _cast(field: str, value: Any, kind: type) -> Any:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if (kind is bool and isinstance(value, bool)) or (kind is tuple and isinstance(value, tuple)):
        return value
    if (kind is float and number) or (kind is int and number and value == int(value)):
        return kind(value)
    raise ValueError(f"config.json: {field} is {value!r}, expected {kind.__name__}")


def _missing(field: str) -> str:
    message = f"config.json has no {' or '.join(SPELLINGS[field])}, which GPT-OSS needs"
    if field in ("rope_factor", "beta_slow", "beta_fast", "initial_context"):
        message += (
            "; without its YaRN keys every position would be rotated wrongly: take config.json"
            " from the published checkpoint (rope_scaling with factor 32, beta_slow 1, beta_fast"
            " 32, original_max_position_embeddings 4096)"
        )
    return message


def _check_architecture(found: Any) -> None:
    if not isinstance(found, dict):
        raise ValueError(f"config.json holds a {type(found).__name__}, expected an object")
    named = [found.get("model_type"), *(found.get("architectures") or [])]
    others = [name for name in named if name not in (None, "gpt_oss", "GptOssForCausalLM")]
    if others:
        raise ValueError(
            f"config.json describes {others[0]!r}, expected model_type 'gpt_oss'"
            " (GptOssForCausalLM): this package runs GPT-OSS only"
        )
    for spelling in ("rope_scaling", "rope_parameters"):
        kind = (found.get(spelling) or {}).get("rope_type", "yarn")
        if kind != "yarn":
            raise ValueError(f"config.json: {spelling}.rope_type is {kind!r}, expected 'yarn'")


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
    max_positions=512,
    initial_context=32,
    rope_factor=8.0,
    beta_fast=4.0,
)
