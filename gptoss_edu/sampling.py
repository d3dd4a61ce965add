"""Logits to a token: penalty, temperature, top-k, top-p, min-p, then one draw: the usual order,
that of Hugging Face transformers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from reprlib import repr as brief
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

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
        self._check("temperature", "a finite number, 0 (greedy) or above", 0)
        self._check("top_p", "above 0 and at most 1 (1 keeps everything)", 1e-9, 1)
        self._check("min_p", "at least 0 (keeps everything) and at most 1", 0, 1)
        self._check("repetition_penalty", "a finite number above 0 (1: none)", 1e-9)
        if self.top_k is not None:
            self._check("top_k", "a whole number of at least 1, or None: all", 1, whole=True)

    def _check(
        self, name: str, expected: str, low: float, high: float = 3e38, whole: bool = False
    ) -> None:  # float32 holds no larger ones
        value = getattr(self, name)
        kinds = (int, np.integer) if whole else (int, float, np.integer, np.floating)
        number = isinstance(value, kinds) and not isinstance(value, bool)
        if not (number and low <= value <= high):
            raise ValueError(f"{name} is {brief(value)}, expected {expected}")

    @property
    def active(self) -> dict[str, float]:
        """The settings that do something. Under jit their names are static, their values are not:
        another temperature compiles nothing anew, and what is off costs nothing.
        """
        fields = [(f.name, getattr(self, f.name), f.default) for f in dataclasses.fields(Sampling)]
        on = {name: float(value) for name, value, off in fields if value != off}
        if "temperature" not in on:
            return {name: on[name] for name in on if name == "repetition_penalty"}
        return on | {"temperature": max(on["temperature"], 1e-30)}  # float32 knows no smaller one


GREEDY = Sampling()


def penalize(logits_BV: jax.Array, seen_BV: jax.Array, penalty: ArrayLike) -> jax.Array:
    """Make tokens that were seen (a boolean mask) less likely, whatever the sign of their logit."""
    check_shapes(logits_BV=logits_BV, seen_BV=seen_BV)
    lower_BV = jnp.where(logits_BV > 0, logits_BV / penalty, logits_BV * penalty)
    return jnp.where(seen_BV, lower_BV, logits_BV)


def filter_logits(logits_BV: jax.Array, active: Mapping[str, ArrayLike]) -> jax.Array:
    """Set the logits of tokens that top-k, top-p or min-p rule out to minus infinity.

    Top-p sees what top-k left; min-p compares with the likeliest token, which is always kept. Of
    equally likely tokens the one with the lower index ranks first. Probabilities are float32: what
    is kept is right for a p that differs from the one asked for by at most a millionth.
    """
    check_shapes(logits_BV=logits_BV)
    logits_BV = logits_BV.astype(jnp.float32)
    kept_BV = jnp.ones(logits_BV.shape, bool)
    if "top_k" in active:
        kept_BV = _likeliest(logits_BV, jnp.ones_like(logits_BV), active["top_k"])
    if "top_p" in active:
        p_BV = jax.nn.softmax(jnp.where(kept_BV, logits_BV, -jnp.inf), axis=-1)
        kept_BV &= _likeliest(logits_BV, p_BV, active["top_p"])
    if "min_p" in active:  # in logarithms: exp rounds what is nearly 1 to 1
        below_BV = logits_BV - logits_BV.max(axis=-1, keepdims=True)
        kept_BV &= below_BV >= jnp.log(active["min_p"])
    return jnp.where(kept_BV, logits_BV, -jnp.inf)


def _likeliest(logits_BV: jax.Array, weight_BV: jax.Array, enough: ArrayLike) -> jax.Array:
    """A mask of the likeliest tokens, down to the one whose weight makes the sum `enough`.

    Sorting 201,088 logits would take a third of a token's time, and only the place of the cut is
    wanted: the lowest threshold above which there is not enough. Thirty-two halvings find it, bit
    by bit, each with one sum; a sum of fewer terms, added in the same order, is never the larger.
    """
    sign, bits_BV = jnp.uint32(2**31), jax.lax.bitcast_convert_type(logits_BV, jnp.uint32)
    # Bits of a float, read as a whole number, rank as floats of one sign do; 0 and -0 are equal.
    rank_BV = jnp.where(bits_BV < sign, bits_BV + sign, -bits_BV)

    def above(cut_B1: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(rank_BV > cut_B1, weight_BV, 0.0), axis=-1, keepdims=True)

    def halve(n: jax.Array, cut_B1: jax.Array) -> jax.Array:
        lower_B1 = cut_B1 ^ (sign >> n.astype(jnp.uint32))
        return jnp.where(above(lower_B1) < enough, lower_B1, cut_B1)

    highest_B1 = jnp.full((len(logits_BV), 1), 2**32 - 1, jnp.uint32)
    cut_B1: jax.Array = jax.lax.fori_loop(0, 32, halve, highest_B1)
    tie_BV = rank_BV == cut_B1
    count_BV = tie_BV.astype(weight_BV.dtype)
    before_BV: jax.Array = jax.lax.cond(  # ties of lower index: counting them costs half a search
        jnp.any(tie_BV.sum(axis=-1) > 1),
        lambda: jnp.cumsum(count_BV, axis=-1) - count_BV,
        lambda: jnp.zeros_like(count_BV),
    )
    return (rank_BV > cut_B1) | tie_BV & (above(cut_B1) + before_BV * weight_BV < enough)


def sample(
    logits_BV: jax.Array, seed_B: jax.Array, step: ArrayLike, active: Mapping[str, ArrayLike],
    seen_BV: jax.Array | None = None,
) -> jax.Array:  # fmt: skip
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
    logits_BV = filter_logits(logits_BV, active)

    # The index of the largest sum of logit and Gumbel noise is a draw by the odds: `categorical`,
    # taken apart, since XLA takes twice as long where it makes the noise inside of the search.
    def noise(seed: jax.Array) -> jax.Array:
        key = jax.random.key(seed, impl="threefry2x32")  # others see but the first key of a vmap
        return jax.random.gumbel(
            jax.random.fold_in(key, step), logits_BV.shape[1:], logits_BV.dtype
        )

    noise_BV = jax.lax.optimization_barrier(jax.vmap(noise)(seed_B))
    return jnp.argmax(logits_BV + noise_BV, axis=-1).astype(jnp.int32)
