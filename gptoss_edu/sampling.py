"""Logits to a token: penalty, temperature, top-k, top-p, min-p, then one draw.

The order is the usual one, that of Hugging Face transformers.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from gptoss_edu.shapes import check_shapes

T = TypeVar("T")


def option(default: T, explained: str, **more: object) -> T:
    """A field that explains itself: docstrings and the command line's help are made from it."""
    return dataclasses.field(default=default, metadata={"help": explained, **more})


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Settings of the draw. Temperature 0 is greedy: always the likeliest token.

    `repetition_penalty` divides the positive logits of tokens already seen, and multiplies the
    negative ones. Raises ValueError for values outside their range.
    """

    temperature: float = option(0.0, "0: always the likeliest token; OpenAI recommends 1")
    top_k: int | None = option(None, "draw from the N likeliest tokens")
    top_p: float = option(1.0, "draw from the likeliest tokens that reach probability N")
    min_p: float = option(0.0, "draw from tokens at least N times as likely as the likeliest")
    repetition_penalty: float = option(1.0, "above 1: avoid tokens that were there already")

    def __post_init__(self) -> None:
        _range("temperature", self.temperature, "a finite number, 0 (greedy) or above", 0, math.inf)
        _range("top_p", self.top_p, "above 0 and at most 1 (1 keeps everything)", 1e-9, 1)
        _range("min_p", self.min_p, "at least 0 (keeps everything) and at most 1", 0, 1)
        penalty = self.repetition_penalty
        _range("repetition_penalty", penalty, "a finite number above 0 (1: none)", 1e-9, math.inf)
        k = self.top_k
        if k is not None and (not isinstance(k, (int, np.integer)) or isinstance(k, bool) or k < 1):
            raise ValueError(f"top_k is {k!r}, expected a whole number of at least 1, or None: all")

    @property
    def active(self) -> dict[str, float]:
        """The settings that do something. Under jit their names are static, their values are not:
        another temperature compiles nothing anew, and what is off costs nothing.
        """
        numbers: dict[str, float] = {}
        if self.repetition_penalty != 1:
            numbers["repetition_penalty"] = self.repetition_penalty
        if self.temperature > 0:
            numbers["temperature"] = max(self.temperature, 1e-30)  # float32 knows no smaller one
            if self.top_k is not None or self.top_p < 1 or self.min_p > 0:
                numbers.update(top_k=self.top_k or 0, top_p=self.top_p, min_p=self.min_p)
        return numbers


def _range(name: str, value: Any, expected: str, low: float, high: float) -> None:
    number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not low <= value <= high:
        raise ValueError(f"{name} is {value!r}, expected {expected}")


GREEDY = Sampling()


def penalize(logits_BV: jax.Array, seen_BV: jax.Array, penalty: Any) -> jax.Array:
    """Make tokens that were seen (a boolean mask) less likely, whatever the sign of their logit."""
    check_shapes(logits_BV=logits_BV, seen_BV=seen_BV)
    lower_BV = jnp.where(logits_BV > 0, logits_BV / penalty, logits_BV * penalty)
    return jnp.where(seen_BV, lower_BV, logits_BV)


def filter_logits(logits_BV: jax.Array, top_k: Any, top_p: Any, min_p: Any) -> jax.Array:
    """Set the logits of tokens that top-k, top-p or min-p rule out to minus infinity.

    `top_k` 0 keeps all. Top-p sees what top-k left, min-p compares with the likeliest token, which
    is always kept. Of equally likely tokens the one with the lower index ranks first.
    """
    check_shapes(logits_BV=logits_BV)
    V = logits_BV.shape[-1]
    order_BV = jnp.argsort(-logits_BV, axis=-1, stable=True)
    sorted_BV = jnp.take_along_axis(logits_BV, order_BV, axis=-1)
    kept_BV = jnp.arange(V) < jnp.where(top_k == 0, V, top_k)
    p_BV = jax.nn.softmax(jnp.where(kept_BV, sorted_BV, -jnp.inf), axis=-1)
    before_BV = jnp.cumsum(p_BV, axis=-1) - p_BV
    # A sum of many small numbers may pass 1 too early, so 1 is asked for by itself.
    kept_BV &= ((before_BV < top_p) | (top_p >= 1)) & (p_BV >= min_p * p_BV[:, :1])
    kept_BV = kept_BV.at[:, 0].set(True)
    row_B1 = jnp.arange(logits_BV.shape[0])[:, None]
    allowed_BV = jnp.zeros(logits_BV.shape, bool).at[row_B1, order_BV].set(kept_BV)
    return jnp.where(allowed_BV, logits_BV, -jnp.inf)


def filter_obvious(logits_V: np.ndarray, top_k: int, top_p: float, min_p: float) -> np.ndarray:
    """The slow twin of `filter_logits` for one row, in float64, one token after the other."""
    ranked = sorted(range(len(logits_V)), key=lambda v: (-logits_V[v], v))
    ranked = ranked[: top_k or len(ranked)]
    p = np.exp(logits_V[ranked].astype(np.float64) - logits_V[ranked[0]])
    p /= p.sum()
    filtered_V = np.full(len(logits_V), -np.inf)
    total = 0.0
    for token, probability in zip(ranked, p, strict=True):
        if token == ranked[0] or ((total < top_p or top_p == 1) and probability >= min_p * p[0]):
            filtered_V[token] = logits_V[token]
        total += probability
    return filtered_V


def sample(
    logits_BV: jax.Array, seed_B: jax.Array, step: Any, active: dict[str, Any], seen_BV: Any = None
) -> jax.Array:
    """Draw one token per row, token_B, with the settings in `active` (`Sampling.active`).

    Row b's randomness depends on its seed and `step` alone, so that a prompt in a batch draws what
    it would draw alone. `seen_BV` is needed only with a repetition penalty.
    """
    check_shapes(logits_BV=logits_BV, seed_B=seed_B)
    if "repetition_penalty" in active:
        assert seen_BV is not None, "a repetition penalty needs seen_BV, the tokens seen so far"
        logits_BV = penalize(logits_BV, seen_BV, active["repetition_penalty"])
    if "temperature" not in active:
        return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
    # The largest becomes 0 first: a tiny temperature then cannot overflow.
    highest_B1 = logits_BV.max(axis=-1, keepdims=True)
    logits_BV = (logits_BV - highest_B1) / active["temperature"]
    if "top_k" in active:
        logits_BV = filter_logits(logits_BV, active["top_k"], active["top_p"], active["min_p"])
    key_B = jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(seed), step))(seed_B)
    return jax.vmap(jax.random.categorical)(key_B, logits_BV).astype(jnp.int32)
