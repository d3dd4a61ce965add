"""Grouped-query attention with a learned sink and, on even layers, a sliding window.

Softmax must hand out exactly one unit of attention, even when nothing deserves it. GPT-OSS gives
every query head a door: one learned logit, the sink, that joins the softmax and carries no value.
What goes to the sink is simply not read.

Source: OpenAI's GPT-OSS model card (arXiv:2508.10925) and its reference implementation.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple, Protocol, Self, TypeVar

import jax
import jax.numpy as jnp

from gptoss_edu.rope import rotate
from gptoss_edu.shapes import Weight, check_shapes, matmul, summary


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Attention:
    """Weights of one attention block, input dimension first, plus its norm's scale."""

    norm_D: jax.Array
    w_q_DNH: Weight
    b_q_NH: jax.Array
    w_k_DKH: Weight
    b_k_KH: jax.Array
    w_v_DKH: Weight
    b_v_KH: jax.Array
    sinks_N: jax.Array
    w_o_NHD: Weight
    b_o_D: jax.Array
    __repr__ = summary


class AttentionSeen(NamedTuple):
    """What a reader may want to look at: attention paid to keys and to the sink; they sum to 1."""

    weights_BNTS: jax.Array
    sink_mass_BNT: jax.Array


class KV(Protocol):
    """A key-value store: what `attention` asks of whoever remembers earlier tokens (cache.py)."""

    def append(
        self, k_BTKH: jax.Array, v_BTKH: jax.Array, position_BT: jax.Array
    ) -> tuple[Self, jax.Array, jax.Array, jax.Array]:
        """Take in new keys and values: (store, k_BSKH, v_BSKH, position_BS) of all to look at."""


Store = TypeVar("Store", bound=KV)


class NoCache:
    """The key-value store of a plain forward pass: it remembers nothing."""

    def append(
        self, k_BTKH: jax.Array, v_BTKH: jax.Array, position_BT: jax.Array
    ) -> tuple[NoCache, jax.Array, jax.Array, jax.Array]:
        """Return (store, keys, values, their positions): here just what came in."""
        return self, k_BTKH, v_BTKH, position_BT


def visible(position_BT: jax.Array, position_BS: jax.Array, window: int | None) -> jax.Array:
    """mask_BTS: may the query at one position see the key at another?

    A key is visible at distance 0 <= q - k, and q - k < window where the layer slides: `window`
    keys, the query's own included (`<=` would be the off-by-one that four implementations
    shipped). Position -1 marks padding or an empty slot and is never seen.
    """
    check_shapes(position_BT=position_BT, position_BS=position_BS)
    distance_BTS = position_BT[:, :, None] - position_BS[:, None, :]
    mask_BTS = (distance_BTS >= 0) & (position_BS[:, None, :] >= 0)
    return mask_BTS if window is None else mask_BTS & (distance_BTS < window)


def sink_softmax(
    scores_BNTS: jax.Array, sinks_N: jax.Array, mask_BTS: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Softmax over the visible keys and the sink: (weights_BNTS, sink_mass_BNT).

    The sink is neither scaled nor rotated nor masked: it adds exp(sink - m) to the denominator,
    where m is the largest of scores and sink, so that nothing overflows. A row that sees no key
    gives everything to the sink. Computed in float32, returned in the dtype of the scores.
    """
    check_shapes(scores_BNTS=scores_BNTS, sinks_N=sinks_N, mask_BTS=mask_BTS)
    masked_BNTS = jnp.where(mask_BTS[:, None], scores_BNTS.astype(jnp.float32), -jnp.inf)
    sinks_1N11 = sinks_N.astype(jnp.float32)[None, :, None, None]
    max_BNT1 = jnp.maximum(jnp.max(masked_BNTS, axis=-1, keepdims=True), sinks_1N11)
    exp_BNTS = jnp.exp(masked_BNTS - max_BNT1)
    exp_sink_BNT1 = jnp.exp(sinks_1N11 - max_BNT1)
    total_BNT1 = exp_BNTS.sum(axis=-1, keepdims=True) + exp_sink_BNT1
    weights_BNTS = (exp_BNTS / total_BNT1).astype(scores_BNTS.dtype)
    return weights_BNTS, (exp_sink_BNT1 / total_BNT1)[..., 0]


def grouped_scores(q_BTNH: jax.Array, k_BSKH: jax.Array) -> jax.Array:
    """Scaled dot products, scores_BNTS: query head n reads key head n // G; no key is copied."""
    sizes = check_shapes(q_BTNH=q_BTNH, k_BSKH=k_BSKH)
    B, T, S, N, K, H = (sizes[letter] for letter in "BTSNKH")
    assert N % K == 0, f"{N} query heads cannot share {K} key heads evenly"
    q_BTKGH = q_BTNH.reshape(B, T, K, N // K, H)
    scores_BKGTS = jnp.einsum("BTKGH,BSKH->BKGTS", q_BTKGH, k_BSKH) * float(H**-0.5)
    return scores_BKGTS.reshape(B, N, T, S)


def grouped_values(weights_BNTS: jax.Array, v_BSKH: jax.Array) -> jax.Array:
    """Weighted sums of the values, out_BTNH: head n reads value head n // G."""
    sizes = check_shapes(weights_BNTS=weights_BNTS, v_BSKH=v_BSKH)
    B, T, S, N, K, H = (sizes[letter] for letter in "BTSNKH")
    weights_BKGTS = weights_BNTS.reshape(B, K, N // K, T, S)
    out_BKGTH = jnp.einsum("BKGTS,BSKH->BKGTH", weights_BKGTS, v_BSKH)  # the order XLA computes in
    return out_BKGTH.transpose(0, 3, 1, 2, 4).reshape(B, T, N, H)


def attention(
    p: Attention, x_BTD: jax.Array, cos_BTC: jax.Array, sin_BTC: jax.Array,
    position_BT: jax.Array, kv: Store, window: int | None,
) -> tuple[jax.Array, Store, AttentionSeen]:  # fmt: skip
    """One attention block on the normed input: (y_BTD, kv with the new keys, what was seen).

    `kv` stores keys after rotation: a key's angle never changes, so it is rotated once.
    """
    check_shapes(x_BTD=x_BTD, w_q_DNH=p.w_q_DNH, w_k_DKH=p.w_k_DKH, sinks_N=p.sinks_N)
    dtype = x_BTD.dtype
    q_BTNH = matmul("BTD,DNH->BTNH", x_BTD, p.w_q_DNH) + p.b_q_NH.astype(dtype)
    k_BTKH = matmul("BTD,DKH->BTKH", x_BTD, p.w_k_DKH) + p.b_k_KH.astype(dtype)
    v_BTKH = matmul("BTD,DKH->BTKH", x_BTD, p.w_v_DKH) + p.b_v_KH.astype(dtype)
    q_BTNH = rotate(q_BTNH, cos_BTC, sin_BTC)
    k_BTKH = rotate(k_BTKH, cos_BTC, sin_BTC)
    kv, k_BSKH, v_BSKH, position_BS = kv.append(k_BTKH, v_BTKH, position_BT)
    mask_BTS = visible(position_BT, position_BS, window)
    scores_BNTS = grouped_scores(q_BTNH, k_BSKH)
    weights_BNTS, sink_mass_BNT = sink_softmax(scores_BNTS, p.sinks_N, mask_BTS)
    out_BTNH = grouped_values(weights_BNTS, v_BSKH)
    y_BTD = matmul("BTNH,NHD->BTD", out_BTNH, p.w_o_NHD) + p.b_o_D.astype(dtype)
    return y_BTD, kv, AttentionSeen(weights_BNTS, sink_mass_BNT)
