"""How few bits a weight needs: the formats, what each one loses, and which of them has room where.

Only the experts change their format: they are nine tenths of the weights. All else stays as it is
published, in bfloat16. Every format answers `w[expert]` and `matmul`, so the network never knows
which one it reads.

| format | bits per expert weight | against the published MXFP4 |
|--------|------------------------|-----------------------------|
| f32    | 32                     | exact: truth                |
| bf16   | 16                     | exact weights, and activations are rounded, too |
| fp8    | 8                      | exact where a column's scales lie within a factor of 2^13 |
| int8   | 8                      | rounded to 255 steps per column |
| mxfp4  | 4.25                   | the same bytes              |
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from gptoss_edu.attention import NoCache
from gptoss_edu.cache import empty_cache
from gptoss_edu.config import Config
from gptoss_edu.cpu.scaled import Scaled, to_int8
from gptoss_edu.model import (
    Layer,
    Params,
    block,
    init_params,
    matmul_precision,
    observe,
    rope_tables,
)
from gptoss_edu.moe import Moe
from gptoss_edu.mxfp4 import Mxfp4, quantize
from gptoss_edu.shapes import DType, Weight, num_bytes

FORMATS = ("f32", "bf16", "fp8", "int8", "mxfp4")
PRECISIONS = ("auto", *FORMATS)  # "auto": as stored
LARGEST_FP8 = 448.0  # of float8_e4m3fn
WORKSPACE = 2**29  # what a step needs beside weights and cache: 0.1 GiB compiled for v5e, and slack


def to_fp8(w_EIO: jax.Array) -> Scaled:
    """Round to float8_e4m3fn under a power of two per output.

    A power of two moves the exponent and leaves the three bits of the significand alone, and
    MXFP4 needs only one of them. So nothing is lost but what falls below 2^-9 of the range: where
    the blocks of one column differ by more than a factor of about 2^13.
    """
    w_EIO = w_EIO.astype(jnp.float32)
    largest_E1O = jnp.max(jnp.abs(w_EIO), axis=-2, keepdims=True)
    fraction_E1O, exponent_E1O = jnp.frexp(largest_E1O / LARGEST_FP8)  # fraction in [0.5, 1)
    exponent_E1O = jnp.where(fraction_E1O > 0.5, exponent_E1O, exponent_E1O - 1)
    scale_E1O = jnp.where(largest_E1O > 0, jnp.ldexp(1.0, exponent_E1O), 1.0)
    return Scaled((w_EIO / scale_E1O).astype(jnp.float8_e4m3fn), scale_E1O)


def recode(w_EIO: Weight, precision: str) -> Weight:
    """Expert weights, packed or plain, in another format; one expert at a time is decoded.

    Raises ValueError for an unknown precision.
    """
    if precision not in FORMATS:
        raise ValueError(f"precision {precision!r} is unknown; expected one of {FORMATS}")
    if precision == "mxfp4":
        return w_EIO if isinstance(w_EIO, Mxfp4) else quantize(w_EIO[:])
    ways: dict[str, Callable[[jax.Array], Weight]] = {
        "f32": lambda w_IO: w_IO.astype(jnp.float32),
        "bf16": lambda w_IO: w_IO.astype(jnp.bfloat16),
        "fp8": to_fp8,
        "int8": to_int8,
    }
    numbers_E = jnp.arange(w_EIO.shape[0])
    made: Weight = jax.lax.map(lambda expert: ways[precision](w_EIO[expert]), numbers_E)
    return made


def convert_layer(layer: Layer, precision: str) -> Layer:
    """A layer with its experts in another format, and float32 everywhere else for "f32"."""
    dtype = jnp.float32 if precision == "f32" else jnp.bfloat16
    experts = ("w_gate_up_EDP", "w_down_EFD")
    moe: dict[str, Any] = {
        name: recode(w, precision) if name in experts else w.astype(dtype)
        for name, w in vars(layer.moe).items()
    }
    return Layer(_cast(layer.attention, dtype), Moe(**moe))


def _cast(tree: Any, dtype: DTypeLike) -> Any:
    return jax.tree.map(lambda w: w.astype(dtype), tree)


def convert(params: Params, precision: str) -> Params:
    """All weights in a precision. For weights that barely fit, give `convert_layer` to
    `load_model(..., each_layer=...)`: then no two layers are ever there in both formats.
    """
    dtype = jnp.float32 if precision == "f32" else jnp.bfloat16
    layer_of = jax.jit(convert_layer, static_argnames="precision")
    layers = tuple(layer_of(layer, precision=precision) for layer in params.layers)
    top: Params = _cast(dataclasses.replace(params, layers=()), dtype)
    return dataclasses.replace(top, layers=layers)


def activation_dtype(precision: str) -> DType:
    """What the network computes in: bfloat16 only where "bf16" asks for it."""
    return jnp.dtype(jnp.bfloat16 if precision == "bf16" else jnp.float32)


# --- bytes ---


@functools.lru_cache
def abstract_params(config: Config, precision: str) -> Params:
    """Shapes and dtypes of all weights in a precision; nothing is allocated."""
    key = jax.random.key(0)
    made: Params = jax.eval_shape(
        lambda: convert(init_params(config, key, jnp.bfloat16), precision)
    )
    return made


def weight_bytes(config: Config, precision: str) -> int:
    """Bytes of all weights in a precision."""
    return num_bytes(abstract_params(config, precision))


def cache_bytes(
    config: Config, context: int, batch: int = 1, dtype: DTypeLike = jnp.bfloat16
) -> int:
    """Bytes of keys and values: all of `context` on full layers, one window on sliding ones."""
    return num_bytes(jax.eval_shape(lambda: empty_cache(config, batch, context, dtype)))


class Choice(NamedTuple):
    """A precision, and in words why it was taken; None where nothing fits."""

    precision: str | None
    reason: str


def choose_precision(
    name: str, memory_bytes: int, config: Config, *, context: int, devices: int = 1
) -> Choice:
    """The widest of bf16, fp8 and mxfp4 that fits beside the cache, since it needs the least
    decoding. That this is the fastest is a guess: by bytes the narrowest is, and nobody has
    measured it on a chip. On a CPU ("cpu") it was: there the fewest bits win.

    `memory_bytes` is what one device offers; weights are spread over all.
    """
    if name == "cpu":
        return Choice("mxfp4", "a CPU reads the experts packed, as they are stored")
    cache, gib = cache_bytes(config, context), 2**30
    needs = {  # every device needs a workspace of its own
        p: (weight_bytes(config, p) + cache) / devices + WORKSPACE for p in ("bf16", "fp8", "mxfp4")
    }
    told = ", ".join(f"{precision} {needed / gib:.1f}" for precision, needed in needs.items())
    has = f"{name} has {memory_bytes / gib:.2f} GiB" + (" per device" if devices > 1 else "")
    each = f" on each of {devices} devices" if devices > 1 else ""
    words = f"{has}; with {context:,} tokens of context the model needs, in GiB{each}: {told}"
    fitting = [precision for precision, needed in needs.items() if needed <= memory_bytes]
    if not fitting:
        return Choice(None, f"{words}. None of them fits: shorten the context, or use more devices")
    kept = "experts stay packed" if fitting[0] == "mxfp4" else f"experts become {fitting[0]}"
    return Choice(fitting[0], f"{words}. So {kept}")


# --- what a precision loses ---


class Divergence(NamedTuple):
    """How far one precision is from another, over all tokens.

    `kl` is the mean divergence of the next-token distributions in nats, `top1` the share of tokens
    whose likeliest successor is the same, `flips_L` per layer the share of tokens for which another
    set of experts was chosen.
    """

    kl: float
    top1: float
    flips_L: np.ndarray


def divergence(
    truth: Params, other: Params, tokens_BT: jax.Array, config: Config, precision: str
) -> Divergence:
    """Run both on the same tokens; `other` computes in the precision's activation dtype."""
    watch = jax.jit(observe, static_argnums=(2, 3))
    logits_BTV, seen = watch(truth, tokens_BT, config, jnp.dtype(jnp.float32))
    others_BTV, others = watch(other, tokens_BT, config, activation_dtype(precision))
    p_BTV, q_BTV = jax.nn.log_softmax(logits_BTV), jax.nn.log_softmax(others_BTV)
    kl_BT = (jnp.exp(p_BTV) * (p_BTV - q_BTV)).sum(-1)
    same_BT = logits_BTV.argmax(-1) == others_BTV.argmax(-1)
    flips = [  # NumPy counts in float64: in float32 the mean of 141 times true is 0.99999994
        np.asarray(jnp.sort(a.routing.expert_BTX) != jnp.sort(b.routing.expert_BTX)).any(-1).mean()
        for a, b in zip(seen, others, strict=True)
    ]
    return Divergence(float(kl_BT.mean()), float(np.asarray(same_BT).mean()), np.array(flips))


def layer_error(
    truth: Layer, other: Layer, x_BTD: jax.Array, config: Config, precision: str
) -> float:
    """Relative error (root mean square) of what one block adds to the residual stream x_BTD;
    `other` computes in the precision's activation dtype.
    """
    position_BT = jnp.broadcast_to(jnp.arange(x_BTD.shape[1]), x_BTD.shape[:2])

    def added(layer: Layer, dtype: DTypeLike) -> jax.Array:
        cos_BTC, sin_BTC = rope_tables(position_BT, config)
        inputs_BTD = x_BTD.astype(dtype)
        tables = inputs_BTD, cos_BTC, sin_BTC, position_BT
        with matmul_precision(dtype):
            y_BTD, _, _ = block(layer, *tables, NoCache(), config, config.window(0))
        return (y_BTD - inputs_BTD).astype(jnp.float32)

    run = jax.jit(added, static_argnums=1)
    expected_BTD = run(truth, jnp.dtype(jnp.float32))
    error_BTD = run(other, activation_dtype(precision)) - expected_BTD
    return float(jnp.sqrt((error_BTD**2).mean() / (expected_BTD**2).mean()))
