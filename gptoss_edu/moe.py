"""Mixture of experts: a router picks X of E small networks for each token and adds their answers.

One routing, three ways to compute it, all equal: `moe_dense` asks every expert and weighs most of
the answers with zero (the slow, obvious oracle), `moe_gathered` visits only the chosen experts, one
token at a time (decode), `moe_grouped` collects the tokens of each expert (prefill).

Experts are read as `w_EDP[expert]`, or multiplied by `w_EDP.product(x, expert)` where they offer
that, so a plain array and packed 4-bit weights are interchangeable here.

Source: OpenAI's GPT-OSS model card (arXiv:2508.10925) and its reference implementation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gptoss_edu.shapes import check_shapes, contract


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Moe:
    """Weights of one mixture block, input dimension first, plus its norm's scale.

    Columns of `w_gate_up_EDP` alternate: even ones are the gate, odd ones are up.
    """

    norm_D: jax.Array
    w_router_DE: jax.Array
    b_router_E: jax.Array
    w_gate_up_EDP: Any
    b_gate_up_EP: jax.Array
    w_down_EFD: Any
    b_down_ED: jax.Array


class Routing(NamedTuple):
    """The router's verdict: logits for every expert, the X chosen, and weights that sum to one."""

    logits_BTE: jax.Array
    expert_BTX: jax.Array
    weight_BTX: jax.Array


def route(
    x_BTD: jax.Array, w_router_DE: jax.Array, b_router_E: jax.Array, experts_per_token: int
) -> Routing:
    """Choose experts: top-k of the logits first, then softmax over those few only.

    (Softmax over all experts and then top-k would give weights that do not sum to one.)
    """
    check_shapes(x_BTD=x_BTD, w_router_DE=w_router_DE, b_router_E=b_router_E)
    dtype = x_BTD.dtype
    logits_BTE = contract("BTD,DE->BTE", x_BTD, w_router_DE) + b_router_E.astype(dtype)
    logit_BTX, expert_BTX = jax.lax.top_k(logits_BTE, experts_per_token)
    weight_BTX = jax.nn.softmax(logit_BTX.astype(jnp.float32), axis=-1).astype(dtype)
    return Routing(logits_BTE, expert_BTX, weight_BTX)


def swiglu(gate_up_P: jax.Array, limit: float, alpha: float = 1.702) -> jax.Array:
    """Clamped SwiGLU on the last axis: [..., P] to [..., F], F = P / 2.

    gate has no lower clamp, up is clamped on both sides, and one is added to up: an expert whose up
    is zero still passes its gate through.
    """
    gate_F, up_F = gate_up_P[..., 0::2], gate_up_P[..., 1::2]
    gate_F = jnp.minimum(gate_F, limit)
    up_F = jnp.clip(up_F, -limit, limit)
    return gate_F * jax.nn.sigmoid(alpha * gate_F) * (up_F + 1)


def expert_mlp(p: Moe, expert: Any, x_TD: jax.Array, limit: float, alpha: float) -> jax.Array:
    """One expert on T tokens, y_TD: gate and up, clamped SwiGLU, down, with both biases."""
    check_shapes(x_TD=x_TD, w_gate_up_EDP=p.w_gate_up_EDP, w_down_EFD=p.w_down_EFD)
    dtype = x_TD.dtype
    h_TP = product(x_TD, p.w_gate_up_EDP, expert) + p.b_gate_up_EP[expert].astype(dtype)
    h_TF = swiglu(h_TP, limit, alpha)
    return product(h_TF, p.w_down_EFD, expert) + p.b_down_ED[expert].astype(dtype)


def product(x_TI: jax.Array, w_EIO: Any, expert: Any) -> jax.Array:
    """x_TI times the matrix of one expert, y_TO; packed weights bring a faster way of their own."""
    if hasattr(w_EIO, "product"):
        return w_EIO.product(x_TI, expert)
    return jnp.einsum("TI,IO->TO", x_TI, w_EIO[expert].astype(x_TI.dtype))


def moe_dense(p: Moe, x_BTD: jax.Array, routing: Routing, limit: float, alpha: float) -> jax.Array:
    """Oracle: every expert sees every token; the router's weight, mostly zero, decides. y_BTD."""
    check_shapes(x_BTD=x_BTD, w_gate_up_EDP=p.w_gate_up_EDP, w_down_EFD=p.w_down_EFD)
    dtype = x_BTD.dtype
    w_EDP, w_EFD = p.w_gate_up_EDP[:].astype(dtype), p.w_down_EFD[:].astype(dtype)
    h_BTEP = jnp.einsum("BTD,EDP->BTEP", x_BTD, w_EDP) + p.b_gate_up_EP.astype(dtype)
    h_BTEF = swiglu(h_BTEP, limit, alpha)
    y_BTED = jnp.einsum("BTEF,EFD->BTED", h_BTEF, w_EFD) + p.b_down_ED.astype(dtype)
    chosen_BTXE = jax.nn.one_hot(routing.expert_BTX, w_EDP.shape[0], dtype=dtype)
    weight_BTE = jnp.einsum("BTX,BTXE->BTE", routing.weight_BTX, chosen_BTXE)
    return jnp.einsum("BTE,BTED->BTD", weight_BTE, y_BTED)


def moe_gathered(
    p: Moe, x_BTD: jax.Array, routing: Routing, limit: float, alpha: float
) -> jax.Array:
    """Decode: for each token read its X experts, one after the other, and nothing else. y_BTD."""
    B, T, D = x_BTD.shape
    X = routing.expert_BTX.shape[-1]

    def one_choice(choice: tuple[jax.Array, jax.Array]) -> jax.Array:
        expert, x_D = choice
        return expert_mlp(p, expert, x_D[None], limit, alpha)[0]

    x_RD = jnp.repeat(x_BTD.reshape(B * T, D), X, axis=0)  # R = B*T*X, one row per choice
    y_RD = jax.lax.map(one_choice, (routing.expert_BTX.reshape(-1), x_RD))
    y_BTXD = y_RD.reshape(B, T, X, D)
    return jnp.einsum("BTX,BTXD->BTD", routing.weight_BTX, y_BTXD)


def moe_grouped(
    p: Moe, x_BTD: jax.Array, routing: Routing, limit: float, alpha: float, tile: int = 64
) -> jax.Array:
    """Prefill: give each expert all of its tokens, a tile at a time. y_BTD."""
    B, T, D = x_BTD.shape
    E, X = routing.logits_BTE.shape[-1], routing.expert_BTX.shape[-1]

    def one_expert(expert: jax.Array, x_TD: jax.Array) -> jax.Array:
        return expert_mlp(p, expert, x_TD, limit, alpha)

    x_TD, expert_TX = x_BTD.reshape(B * T, D), routing.expert_BTX.reshape(B * T, X)
    y_TXD = by_expert(one_expert, x_TD, expert_TX, E, D, tile)
    return jnp.einsum("BTX,BTXD->BTD", routing.weight_BTX, y_TXD.reshape(B, T, X, D))


def by_expert(
    one_expert: Callable[[jax.Array, jax.Array], jax.Array], x_TI: jax.Array, expert_TX: jax.Array,
    num_experts: int, outputs: int, tile: int,
) -> jax.Array:  # fmt: skip
    """y_TXO: what `one_expert(expert, x_TI) -> y_TO` makes of each row, for each of its experts.

    Choices are sorted by expert. Shapes are static under jit, so every expert owns a whole number
    of tiles of `tile` rows, the last one padded. At most R / tile + E + 1 tiles exist for R
    choices; a tile beyond those in use is skipped, and an expert that nobody chose is never read.
    The number `num_experts` itself means "no expert", and gives zeros.
    """
    (T, I), X, E = x_TI.shape, expert_TX.shape[1], num_experts
    expert_R = expert_TX.reshape(-1)  # R = T*X, one row per choice
    R = expert_R.size
    count_E = (expert_R[:, None] == jnp.arange(E + 1)).sum(axis=0)  # and one more: no expert
    tiles_E = -(-count_E // tile)
    order_R = jnp.argsort(expert_R, stable=True)
    sorted_R = expert_R[order_R]
    rank_R = jnp.arange(R) - (jnp.cumsum(count_E) - count_E)[sorted_R]  # place within the expert
    row_R = (jnp.cumsum(tiles_E) - tiles_E)[sorted_R] * tile + rank_R  # place in the tiled rows
    num_tiles = min(R, R // tile + E + 1)
    x_MI = jnp.zeros((num_tiles * tile, I), x_TI.dtype)  # M = num_tiles * tile
    x_MI = x_MI.at[row_R].set(x_TI[order_R // X])
    owner_L = jnp.searchsorted(jnp.cumsum(tiles_E), jnp.arange(num_tiles), side="right")

    def one_tile(job: tuple[jax.Array, jax.Array]) -> jax.Array:
        expert, x_TI = job
        return jax.lax.cond(
            expert < E,
            lambda: one_expert(jnp.minimum(expert, E - 1), x_TI),
            lambda: jnp.zeros((tile, outputs), x_TI.dtype),
        )

    y_LTO = jax.lax.map(one_tile, (owner_L, x_MI.reshape(num_tiles, tile, I)))
    y_RO = jnp.zeros((R, outputs), x_TI.dtype).at[order_R].set(y_LTO.reshape(-1, outputs)[row_R])
    return y_RO.reshape(T, X, outputs)


def moe_at_once(
    p: Moe, x_BTD: jax.Array, routing: Routing, limit: float, alpha: float
) -> jax.Array:
    """All choices in two calls, for weights with `products(x_TI, expert_TX) -> y_TXO`. y_BTD."""
    B, T, D = x_BTD.shape
    X, dtype = routing.expert_BTX.shape[-1], x_BTD.dtype
    expert_TX = routing.expert_BTX.reshape(B * T, X)
    h_TXP = p.w_gate_up_EDP.products(x_BTD.reshape(B * T, D), expert_TX)
    h_TXF = swiglu(h_TXP + p.b_gate_up_EP[expert_TX].astype(dtype), limit, alpha)
    h_RF = h_TXF.reshape(B * T * X, -1)  # R = B*T*X, one row per choice
    y_R1D = p.w_down_EFD.products(h_RF, expert_TX.reshape(-1, 1))
    y_TXD = y_R1D.reshape(B * T, X, D) + p.b_down_ED[expert_TX].astype(dtype)
    weight_TX = routing.weight_BTX.reshape(B * T, X)
    return jnp.einsum("TX,TXD->TD", weight_TX, y_TXD).reshape(B, T, D)


def moe(
    p: Moe, x_BTD: jax.Array, experts_per_token: int, limit: float, alpha: float
) -> tuple[jax.Array, Routing]:
    """Route the normed input and compute the chosen experts: (y_BTD, what the router said).

    Few choices are gathered one by one; once there are more choices than experts, grouping reads
    each expert's weights once instead of once per choice. Weights that take all choices at once
    (`w.products`, chapter 08) do both by themselves.
    """
    routing = route(x_BTD, p.w_router_DE, p.b_router_E, experts_per_token)
    num_experts = routing.logits_BTE.shape[-1]
    compute = moe_gathered if routing.expert_BTX.size <= num_experts else moe_grouped
    if hasattr(p.w_gate_up_EDP, "products"):
        compute = moe_at_once
    return compute(p, x_BTD, routing, limit, alpha), routing
