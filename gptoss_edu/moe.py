"""Mixture of experts: a router picks X of E small networks for each token and adds their answers.

One routing, three ways to compute it, all equal: `moe_dense` asks every expert and weighs most of
the answers with zero (the slow, obvious oracle), `moe_gathered` visits only the chosen experts, one
token at a time (decode), `moe_grouped` collects the tokens of each expert (prefill).

The last two differ in nothing but the loop in which rows meet matrices, `gathered` or `grouped`. A
weight that can multiply all rows at once goes without it: see `shapes.matmul`.

Source: OpenAI's GPT-OSS model card (arXiv:2508.10925) and its reference implementation.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gptoss_edu.shapes import Loop, OneExpert, Weight, check_shapes, matmul, summary


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Moe:
    """Weights of one mixture block, input dimension first, plus its norm's scale.

    Columns of `w_gate_up_EDP` alternate: even ones are the gate, odd ones are up.
    """

    norm_D: jax.Array
    w_router_DE: Weight
    b_router_E: jax.Array
    w_gate_up_EDP: Weight
    b_gate_up_EP: jax.Array
    w_down_EFD: Weight
    b_down_ED: jax.Array
    __repr__ = summary


class Routing(NamedTuple):
    """The router's verdict: logits for every expert, the X chosen, and weights that sum to one."""

    logits_BTE: jax.Array
    expert_BTX: jax.Array
    weight_BTX: jax.Array


def route(
    x_BTD: jax.Array, w_router_DE: Weight, b_router_E: jax.Array, experts_per_token: int
) -> Routing:
    """Choose experts: top-k of the logits first, then softmax over those few only.

    (Softmax over all experts and then top-k would give weights that do not sum to one.)
    """
    check_shapes(x_BTD=x_BTD, w_router_DE=w_router_DE, b_router_E=b_router_E)
    dtype = x_BTD.dtype
    logits_BTE = matmul("BTD,DE->BTE", x_BTD, w_router_DE) + b_router_E.astype(dtype)
    logit_BTX, expert_BTX = jax.lax.top_k(logits_BTE, experts_per_token)
    weight_BTX = jax.nn.softmax(logit_BTX.astype(jnp.float32), axis=-1).astype(dtype)
    return Routing(logits_BTE, expert_BTX, weight_BTX)


def swiglu(gate_up_P: jax.Array, limit: float, alpha: float = 1.702) -> jax.Array:
    """Clamped SwiGLU on the last axis: [..., P] to [..., F], F = P / 2.

    gate has no lower clamp, up is clamped on both sides, and one is added to up: an expert whose up
    is zero still passes its gate through.
    """
    gate_F = jnp.minimum(gate_up_P[..., 0::2], limit)
    up_F = jnp.clip(gate_up_P[..., 1::2], -limit, limit)
    return gate_F * jax.nn.sigmoid(alpha * gate_F) * (up_F + 1)


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


def moe_chosen(
    p: Moe, x_BTD: jax.Array, routing: Routing, limit: float, alpha: float, loop: Loop
) -> jax.Array:
    """The chosen experts and no other, y_BTD: each of the R = B*T*X choices is a row."""
    check_shapes(x_BTD=x_BTD, w_gate_up_EDP=p.w_gate_up_EDP, w_down_EFD=p.w_down_EFD)
    (B, T, D), X, dtype = x_BTD.shape, routing.expert_BTX.shape[-1], x_BTD.dtype
    x_RD = jnp.repeat(x_BTD.reshape(B * T, D), X, axis=0)
    expert_R = routing.expert_BTX.reshape(-1)
    b_RP, b_RD = p.b_gate_up_EP[expert_R].astype(dtype), p.b_down_ED[expert_R].astype(dtype)
    h_RP = matmul("RD,EDP->RP", x_RD, p.w_gate_up_EDP, expert_R, loop) + b_RP
    h_RF = swiglu(h_RP, limit, alpha)
    y_RD = matmul("RF,EFD->RD", h_RF, p.w_down_EFD, expert_R, loop) + b_RD
    y_BTXD = y_RD.reshape(B, T, X, D)
    return jnp.einsum("BTX,BTXD->BTD", routing.weight_BTX, y_BTXD)


def moe_gathered(
    p: Moe, x_BTD: jax.Array, routing: Routing, limit: float, alpha: float
) -> jax.Array:
    """Decode: for each token read its X experts, one after the other, and nothing else. y_BTD."""
    return moe_chosen(p, x_BTD, routing, limit, alpha, gathered)


def moe_grouped(
    p: Moe, x_BTD: jax.Array, routing: Routing, limit: float, alpha: float, tile: int = 64
) -> jax.Array:
    """Prefill: give each expert all of its tokens, a tile at a time. y_BTD."""
    return moe_chosen(p, x_BTD, routing, limit, alpha, functools.partial(grouped, tile=tile))


def gathered(
    one_expert: OneExpert, x_RI: jax.Array, expert_R: jax.Array, shape: tuple[int, ...]
) -> jax.Array:
    """y_RO: one row after the other, each with the matrix of its expert."""
    rows = (expert_R, x_RI)
    y_RO: jax.Array = jax.lax.map(lambda row: one_expert(row[0], row[1][None])[0], rows)
    return y_RO


def grouped(
    one_expert: OneExpert, x_RI: jax.Array, expert_R: jax.Array, shape: tuple[int, ...],
    tile: int = 64,
) -> jax.Array:  # fmt: skip
    """y_RO: rows are sorted by expert, whose matrix is read once for `tile` of them.

    Shapes are static under jit, so every expert owns a whole number of tiles, the last one padded.
    At most R / tile + E + 1 tiles exist for R rows; a tile beyond those in use is skipped, and an
    expert that nobody chose is never read. Number E means "no expert", and gives zeros. `shape` is
    that of the weight, (E, I, O).
    """
    (R, I), (E, _, O) = x_RI.shape, shape
    each_E = jnp.arange(E + 1, dtype=expert_R.dtype)  # and one more: no expert
    count_E = (expert_R[:, None] == each_E).sum(axis=0)
    tiles_E = -(-count_E // tile)
    order_R = jnp.argsort(expert_R, stable=True)
    sorted_R = expert_R[order_R]
    rank_R = jnp.arange(R) - (jnp.cumsum(count_E) - count_E)[sorted_R]  # place within the expert
    place_R = (jnp.cumsum(tiles_E) - tiles_E)[sorted_R] * tile + rank_R  # place among all tiles
    L = min(R, R // tile + E + 1)  # tiles
    x_MI = jnp.zeros((L * tile, I), x_RI.dtype).at[place_R].set(x_RI[order_R])  # M = L * tile
    owner_L = jnp.searchsorted(jnp.cumsum(tiles_E), jnp.arange(L), side="right")

    def one_tile(job: tuple[jax.Array, jax.Array]) -> jax.Array:
        expert, x_TI = job
        y_TO: jax.Array = jax.lax.cond(
            expert < E,
            lambda: one_expert(jnp.minimum(expert, E - 1), x_TI),
            lambda: jnp.zeros((tile, O), x_TI.dtype),
        )
        return y_TO

    y_LTO = jax.lax.map(one_tile, (owner_L, x_MI.reshape(L, tile, I)))
    return jnp.zeros((R, O), x_RI.dtype).at[order_R].set(y_LTO.reshape(L * tile, O)[place_R])


def moe(
    p: Moe, x_BTD: jax.Array, experts_per_token: int, limit: float, alpha: float
) -> tuple[jax.Array, Routing]:
    """Route the normed input and compute the chosen experts: (y_BTD, what the router said).

    Few choices are gathered one by one; once there are more choices than experts, grouping reads
    each expert's weights once instead of once per choice.
    """
    routing = route(x_BTD, p.w_router_DE, p.b_router_E, experts_per_token)
    num_experts = routing.logits_BTE.shape[-1]
    compute = moe_gathered if routing.expert_BTX.size <= num_experts else moe_grouped
    return compute(p, x_BTD, routing, limit, alpha), routing
