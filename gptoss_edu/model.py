"""The whole network on one screen: embed, 24 blocks, norm, unembed.

A block adds two things to the residual stream: what attention gathers from other positions, and
what the chosen experts make of it. Parameters are a tree of frozen dataclasses, one subtree per
layer; everything that is not an array sits in `Model`.

Source: OpenAI's GPT-OSS model card (arXiv:2508.10925) and its reference implementation.
"""

from __future__ import annotations

import dataclasses
from contextlib import AbstractContextManager
from reprlib import repr as brief
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from gptoss_edu.attention import Attention, AttentionSeen, NoCache, Store, attention
from gptoss_edu.config import Config
from gptoss_edu.moe import Moe, Routing, moe
from gptoss_edu.rope import cos_sin, inverse_frequencies
from gptoss_edu.shapes import Weight, check_shapes, matmul, summary, whole_numbers
from gptoss_edu.tokenizer import NoText, Tokenizer


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Layer:
    """One block's weights."""

    attention: Attention
    moe: Moe
    __repr__ = summary


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Params:
    """All arrays of a model. Embedding and unembedding are two matrices: they are not tied."""

    embedding_VD: jax.Array
    layers: tuple[Layer, ...]
    norm_D: jax.Array
    unembedding_DV: Weight
    __repr__ = summary


@dataclasses.dataclass(frozen=True)
class Model:
    """What is not an array: sizes, tokenizer, and the dtype of activations."""

    config: Config
    tokenizer: Tokenizer | NoText
    dtype: DTypeLike = np.dtype("float32")


class BlockSeen(NamedTuple):
    """What one block did: its output, its attention and its routing."""

    residual_BTD: jax.Array
    attention: AttentionSeen
    routing: Routing


def rms_norm(x_BTD: jax.Array, scale_D: jax.Array, eps: float) -> jax.Array:
    """Divide by the root mean square and multiply by the scale, in float32; then back to x's dtype.

    Multiplying by the scale in bf16, after the cast, is a bug that real implementations shipped.
    """
    check_shapes(x_BTD=x_BTD, scale_D=scale_D)
    x32_BTD = x_BTD.astype(jnp.float32)
    mean_square_BT1 = jnp.mean(x32_BTD**2, axis=-1, keepdims=True)
    y_BTD = x32_BTD * jax.lax.rsqrt(mean_square_BT1 + eps) * scale_D.astype(jnp.float32)
    return y_BTD.astype(x_BTD.dtype)


def block(
    layer: Layer, x_BTD: jax.Array, cos_BTC: jax.Array, sin_BTC: jax.Array,
    position_BT: jax.Array, kv: Store, config: Config, window: int | None,
) -> tuple[jax.Array, Store, BlockSeen]:  # fmt: skip
    """Norm, attention, add; norm, experts, add: (residual stream, kv, what was seen)."""
    with jax.named_scope("attention"):
        normed_BTD = rms_norm(x_BTD, layer.attention.norm_D, config.rms_eps)
        y_BTD, kv, attended = attention(
            layer.attention, normed_BTD, cos_BTC, sin_BTC, position_BT, kv, window
        )
        x_BTD = x_BTD + y_BTD
    with jax.named_scope("moe"):
        normed_BTD = rms_norm(x_BTD, layer.moe.norm_D, config.rms_eps)
        X, limit, alpha = config.experts_per_token, config.swiglu_limit, config.swiglu_alpha
        y_BTD, routing = moe(layer.moe, normed_BTD, X, limit, alpha)
        x_BTD = x_BTD + y_BTD
    return x_BTD, kv, BlockSeen(x_BTD, attended, routing)


def rope_frequencies(config: Config) -> tuple[np.ndarray, float]:
    """inv_C and the concentration of this configuration: see `rope.inverse_frequencies`."""
    return inverse_frequencies(
        config.head_dim, theta=config.rope_theta, factor=config.rope_factor,
        beta_slow=config.beta_slow, beta_fast=config.beta_fast,
        initial_context=config.initial_context, truncate=config.rope_truncate,
    )  # fmt: skip


def rope_tables(position_BT: jax.Array, config: Config) -> tuple[jax.Array, jax.Array]:
    """cos_BTC and sin_BTC for these positions: the same for every layer."""
    return cos_sin(position_BT, *rope_frequencies(config))


def matmul_precision(dtype: DTypeLike) -> AbstractContextManager[object]:
    """A context, for tracing too, where float32 is float32: TPUs and GPUs would round operands."""
    highest = "highest" if dtype == jnp.float32 else None
    context: AbstractContextManager[object] = jax.default_matmul_precision(highest)
    return context


def run_blocks(
    params: Params, tokens_BT: jax.Array, position_BT: jax.Array, kvs: tuple[Store, ...],
    config: Config, dtype: DTypeLike,
) -> tuple[jax.Array, tuple[Store, ...], tuple[BlockSeen, ...]]:  # fmt: skip
    """Embed tokens and run every block: (final residual stream x_BTD, kvs, what was seen)."""
    check_shapes(config.sizes, tokens_BT=tokens_BT, position_BT=position_BT)
    check_shapes(config.sizes, embedding_VD=params.embedding_VD)
    x_BTD = params.embedding_VD[tokens_BT].astype(dtype)
    cos_BTC, sin_BTC = rope_tables(position_BT, config)
    new_kvs, seen = [], []
    for index, (layer, kv) in enumerate(zip(params.layers, kvs, strict=True)):
        place, window = (cos_BTC, sin_BTC, position_BT), config.window(index)
        with matmul_precision(dtype):
            x_BTD, kv, block_seen = block(layer, x_BTD, *place, kv, config, window)
        new_kvs.append(kv)
        seen.append(block_seen)
    return x_BTD, tuple(new_kvs), tuple(seen)


def unembed(params: Params, x_BTD: jax.Array, eps: float) -> jax.Array:
    """Final norm, then one logit per vocabulary entry, logits_BTV in float32."""
    with jax.named_scope("unembed"), matmul_precision(x_BTD.dtype):
        normed_BTD = rms_norm(x_BTD, params.norm_D, eps)
        return matmul("BTD,DV->BTV", normed_BTD, params.unembedding_DV).astype(jnp.float32)


def check_params(params: Params, model: Model | Config) -> Config:
    """The configuration. Raises ValueError unless params are weights of it, by kind and shapes."""
    config = model.config if isinstance(model, Model) else model
    found: list[object] = [type(params).__name__, type(config).__name__]
    expected: list[object] = ["Params", "Config"]
    if found == expected:
        sizes = config.sizes
        parts = [params, *(part for layer in params.layers for part in vars(layer).values())]
        named = [item for part in parts for item in vars(part).items() if item[0] != "layers"]
        found = [(len(params.layers), "layers"), *((name, w.shape) for name, w in named)]
        expected = [(config.num_layers, "layers")]
        for name, _ in named:
            expected.append((name, tuple(sizes[letter] for letter in name.rsplit("_", 1)[-1])))
    for one, other in zip(found, expected, strict=True):
        if one != other:
            raise ValueError(
                f"params and model do not belong together: found {one}, expected {other};"
                " `load_model` gives (model, params)"
            )
    return config


def check_tokens(
    name: str, tokens: object, vocab_size: int, axes: int = 1, lowest: int = 0, least: int = 1
) -> np.ndarray:
    """Tokens as an array. Raises ValueError unless they are whole numbers in the vocabulary."""
    found = whole_numbers(tokens)
    if found is None or found.ndim != axes:
        raise ValueError(f"{name} is {brief(tokens)}, expected whole numbers on {axes} axes")
    if found.size < least:
        raise ValueError(f"{name} has no tokens, expected at least one")
    for row in (found.min(), found.max()) if found.size else ():
        if not lowest <= row < vocab_size:
            raise ValueError(
                f"{name} holds row {row}, expected {lowest} to {vocab_size - 1}: the rows of this"
                " model's vocabulary (Tokenizer.to_rows makes them from ids)"
            )
    return found.astype(np.int32)


def observe(
    params: Params, tokens_BT: jax.Array, config: Config, dtype: DTypeLike = jnp.float32
) -> tuple[jax.Array, tuple[BlockSeen, ...]]:
    """`forward`, and everything that each block saw: residual streams, attention, routing."""
    check_params(params, config)
    if not isinstance(tokens_BT, jax.core.Tracer):  # under jit nobody can see them
        check_tokens("tokens_BT", tokens_BT, config.vocab_size, axes=2)
    tokens_BT = jnp.asarray(tokens_BT)
    position_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1]), tokens_BT.shape)
    kvs = (NoCache(),) * config.num_layers
    x_BTD, _, seen = run_blocks(params, tokens_BT, position_BT, kvs, config, dtype)
    return unembed(params, x_BTD, config.rms_eps), seen


def forward(
    params: Params, tokens_BT: jax.Array, config: Config, dtype: DTypeLike = jnp.float32
) -> jax.Array:
    """The plain whole model: rows of the vocabulary in, logits_BTV out. No cache, no jit.

    Raises ValueError for rows outside 0 to V - 1, but not under jit, where nobody can see them: XLA
    silently reads the last row for anything beyond.
    """
    return observe(params, tokens_BT, config, dtype)[0]


def init_params(config: Config, key: jax.Array, dtype: DTypeLike = jnp.float32) -> Params:
    """Random parameters: normal with 1/sqrt(input size), small biases, scales near one."""
    sizes = config.sizes
    keys = iter(jax.random.split(key, 3 + 17 * config.num_layers))
    D, F, NH = sizes["D"], sizes["F"], sizes["N"] * sizes["H"]
    inputs = {"norm_D": 100, "sinks_N": 1, "w_o_NHD": NH, "w_down_EFD": F, "embedding_VD": 1}

    def draw(name: str) -> jax.Array:
        shape = tuple(sizes[letter] for letter in name.rsplit("_", 1)[-1])
        spread: float = inputs.get(name, 2500 if name.startswith("b_") else D) ** -0.5
        mean = 1.0 if name == "norm_D" else 0.0
        return (mean + jax.random.normal(next(keys), shape) * spread).astype(dtype)

    def drawn(part: type[Attention] | type[Moe]) -> dict[str, jax.Array]:
        return {field.name: draw(field.name) for field in dataclasses.fields(part)}

    count = range(config.num_layers)
    layers = tuple(Layer(Attention(**drawn(Attention)), Moe(**drawn(Moe))) for _ in count)
    top = {name: draw(name) for name in ("embedding_VD", "norm_D", "unembedding_DV")}
    return Params(layers=layers, **top)
