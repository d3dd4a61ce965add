"""Positions as rotations: RoPE, stretched by YaRN from 4,096 to 131,072 positions.

RoPE turns each pair of query and key numbers by an angle that grows with the position, so that a
dot product depends only on the distance between the two. YaRN lengthens the context after
training: fast pairs (many turns within the trained context) keep their frequency, slow pairs (less
than one turn) are slowed by `factor`, and those between are blended.

Source: Peng et al. 2023, arXiv:2309.00071, section 3.2 and 3.4, with the constants of GPT-OSS.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from gptoss_edu.shapes import check_shapes


def ramp_bounds(
    head_dim: int, *, theta: float, beta_slow: float, beta_fast: float, initial_context: int
) -> tuple[float, float]:
    """The pair indices (low, high) between which YaRN blends, not rounded.

    A pair with index c turns `initial_context / (2 pi theta^(2c/head_dim))` times within the
    trained context; low is where that is `beta_fast`, high where it is `beta_slow`. ValueError
    where the ramp leaves the head.
    """
    turns = [initial_context / (beta * 2 * math.pi) for beta in (beta_fast, beta_slow)]
    low, high = (head_dim * math.log(t) / (2 * math.log(theta)) for t in turns)
    if not 0 < low < high < head_dim / 2 - 1:
        raise ValueError(
            f"YaRN's ramp runs from pair {low:.2f} to {high:.2f}, expected both between 0 and"
            f" {head_dim / 2 - 1}, in this order; check beta_fast, beta_slow and the initial"
            " context in config.json"
        )
    return low, high


def inverse_frequencies(
    head_dim: int,
    *,
    theta: float,
    factor: float,
    beta_slow: float,
    beta_fast: float,
    initial_context: int,
    truncate: bool = False,
) -> tuple[np.ndarray, float]:
    """Angle per position of each pair, inv_C in float32 radians, and YaRN's concentration.

    `truncate` rounds the ramp's bounds outwards, as other models do. GPT-OSS does not: rounding
    would change 9 of its 32 frequencies, by up to 76 percent. The concentration multiplies cos and
    sin at every length, below `initial_context` too.
    """
    plain_C = (1.0 / theta) ** (np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    if factor <= 1.0:
        return plain_C.astype(np.float32), 1.0
    low, high = ramp_bounds(
        head_dim,
        theta=theta,
        beta_slow=beta_slow,
        beta_fast=beta_fast,
        initial_context=initial_context,
    )
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    slow_C = np.clip((np.arange(head_dim // 2) - low) / (high - low), 0, 1)
    inv_C = plain_C * (1 - slow_C) + plain_C / factor * slow_C
    return inv_C.astype(np.float32), 0.1 * math.log(factor) + 1.0


def cos_sin(
    position_BT: jax.Array, inv_C: np.ndarray, concentration: float
) -> tuple[jax.Array, jax.Array]:
    """cos_BTC and sin_BTC in float32, already multiplied by the concentration.

    Angles are computed in float32 whatever the model's precision: bf16 rounds position 257 to 256,
    and sin 257 is not sin 256. No matrix product is used, so no TPU can round it either.
    """
    check_shapes(position_BT=position_BT, inv_C=inv_C)
    angle_BTC = position_BT[..., None].astype(jnp.float32) * jnp.asarray(inv_C, jnp.float32)
    return jnp.cos(angle_BTC) * concentration, jnp.sin(angle_BTC) * concentration


def rotate(x_BTNH: jax.Array, cos_BTC: jax.Array, sin_BTC: jax.Array) -> jax.Array:
    """Rotate pair (c, c + C) of every head by its angle; shape and dtype are kept.

    GPT-OSS pairs the first half of a head with the second (half-split), not even with odd numbers.
    """
    check_shapes(x_BTNH=x_BTNH, cos_BTC=cos_BTC, sin_BTC=sin_BTC)
    cos_BT1C = cos_BTC[:, :, None, :].astype(x_BTNH.dtype)
    sin_BT1C = sin_BTC[:, :, None, :].astype(x_BTNH.dtype)
    first_BTNC, second_BTNC = jnp.split(x_BTNH, 2, axis=-1)
    return jnp.concatenate(
        [
            first_BTNC * cos_BT1C - second_BTNC * sin_BT1C,
            second_BTNC * cos_BT1C + first_BTNC * sin_BT1C,
        ],
        axis=-1,
    )
