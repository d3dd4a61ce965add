"""Chapter 02: write `rotate`, `to_half_split`, `yarn`, `first_lost_position`, `shift_keys`.

    from gptoss_edu.course.checks import rope
    rope.rotate(my_rotate)

Source: gptoss_edu/rope.py, which the right answers come from.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import gptoss_edu.rope as library
from gptoss_edu.course.checks import Exercise, mistakes_in

# ------------------------------------------------------------------------------------ exercise 1


def rotate_cases() -> Iterator[tuple[jax.Array, jax.Array, jax.Array]]:
    """Arguments of `rotate`: sizes that all differ, and another position for every token."""
    for seed, (B, T, N, H) in enumerate([(2, 3, 5, 8), (3, 2, 4, 14), (1, 2, 1, 4)]):
        rng = np.random.default_rng(seed)
        x_BTNH = jnp.asarray(rng.standard_normal((B, T, N, H)), jnp.float32)
        angle_BTC = rng.uniform(0.3, 6, (B, T, H // 2))
        cos_BTC, sin_BTC = (1.3 * f(angle_BTC).astype(np.float32) for f in (np.cos, np.sin))
        yield x_BTNH, jnp.asarray(cos_BTC, jnp.float32), jnp.asarray(sin_BTC, jnp.float32)


def _rotate(x_BTNH: jax.Array, cos_BTC: jax.Array, sin_BTC: jax.Array) -> jax.Array:
    """The library's, written out."""
    cos_BT1C, sin_BT1C = cos_BTC[:, :, None], sin_BTC[:, :, None]
    a, b = jnp.split(x_BTNH, 2, axis=-1)
    first = a * cos_BT1C - b * sin_BT1C
    second = b * cos_BT1C + a * sin_BT1C
    return jnp.concatenate([first, second], axis=-1)


HALVES, JOINED = "jnp.split(x_BTNH, 2, axis=-1)", "jnp.concatenate([first, second], axis=-1)"
EVENS_AND_ODDS = "x_BTNH[..., 0::2], x_BTNH[..., 1::2]"

rotate = Exercise(
    "rotate", library.rotate, ("x_BTNH",), rotate_cases,
    mistakes_in(_rotate, {
        "interleaved": ("you pair neighbors, (0, 1), (2, 3), … GPT-OSS pairs the halves: numbers"
            " c and c + H/2. Models exist that do it your way, and their weights"
            " differ.", HALVES, EVENS_AND_ODDS, JOINED, "_in_turn(first, second)"),
        "two minus signs": ("both lines subtract, and that is not a rotation: lengths change. The"
            " second line is b·cos + a·sin.", "+ a * sin", "- a * sin"),
        "two plus signs": ("both lines add, and that is not a rotation: lengths change. The first"
            " line is a·cos - b·sin.", "- b * sin", "+ b * sin"),
        "the second line uses the new first half": ("the first half is overwritten before the"
            " second line reads it. Keep the old one: both lines need a and b as they came in.",
            "first = a", "first = a = a"),
        "cos and sin swapped": ("cos and sin are swapped: at angle 0 a vector should stay as it"
            " is, and cos 0 is 1.", "cos_BT1C, sin_BT1C =", "sin_BT1C, cos_BT1C ="),
    }),
    praise="Right for several conversations, tokens and heads.",
)  # fmt: skip


# ------------------------------------------------------------------------------------ exercise 2


def half_split_cases() -> Iterator[tuple[np.ndarray]]:
    """Arguments of `to_half_split`: weights whose last axis holds interleaved pairs."""
    for seed, shape in enumerate([(3, 4, 8), (5, 2, 14), (1, 2, 6)]):
        yield (np.random.default_rng(seed).standard_normal(shape).astype(np.float32),)


def right_half_split(w_DNH: np.ndarray) -> np.ndarray:
    """All firsts of the pairs, then all seconds."""
    return np.concatenate([w_DNH[..., 0::2], w_DNH[..., 1::2]], axis=-1)


def _in_turn(first: Any, second: Any) -> Any:
    return jnp.stack([first, second], axis=-1).reshape(*first.shape[:-1], -1)


def _whole_axis(w_DNH: np.ndarray) -> np.ndarray:
    D, N, H = w_DNH.shape
    return right_half_split(w_DNH.reshape(D, N * H)).reshape(D, N, H)


to_half_split = Exercise(
    "to_half_split", right_half_split, ("w_DNH",), half_split_cases,
    mistakes_in(right_half_split, {
        "the other way round": ("this goes from half-split to interleaved. Given are pairs of"
            " neighbors; wanted are all first numbers of the pairs, then all second ones.",
            lambda w_DNH: _in_turn(*np.split(w_DNH, 2, axis=-1))),
        "nothing moves": ("every number is still in its place, as after a reshape alone."
            " Transpose the pair axis with the axis of two before you join them.",
            lambda w_DNH: w_DNH),
        "halves swapped": ("you exchange the halves. The pairs are neighbors here: 0 with 1, 2"
            " with 3.", lambda w_DNH: np.concatenate(np.split(w_DNH, 2, axis=-1)[::-1], axis=-1)),
        "reversed": ("you reverse the order of the numbers. Pairs keep their order; only the two"
            " numbers of a pair move apart.", lambda w_DNH: w_DNH[..., ::-1]),
        "across heads": ("heads are mixed: you sort all N·H numbers as one row. Each head has its"
            " own pairs, so work on the last axis alone.", _whole_axis),
    }),
    praise="Weights of the one kind, code of the other: now they fit.",
)  # fmt: skip


# ------------------------------------------------------------------------------------ exercise 3


def yarn_cases() -> Iterator[tuple[int, float, float, float, float, int]]:
    """Arguments of `yarn`: those of GPT-OSS, of the pocket model, and a third set."""
    yield 64, 150000.0, 32.0, 1.0, 32.0, 4096
    yield 28, 10000.0, 64.0, 1.0, 8.0, 128
    yield 8, 10000.0, 8.0, 1.0, 16.0, 4096
    yield 96, 500000.0, 4.0, 2.0, 16.0, 8192


def right_yarn(
    head_dim: int,
    theta: float,
    factor: float,
    beta_slow: float,
    beta_fast: float,
    initial_context: int,
) -> tuple[np.ndarray, float]:
    """The library's inverse_frequencies, by position."""
    return library.inverse_frequencies(
        head_dim,
        theta=theta,
        factor=factor,
        beta_slow=beta_slow,
        beta_fast=beta_fast,
        initial_context=initial_context,
    )


def _yarn(
    H: int, theta: float, factor: float, beta_slow: float, beta_fast: float, initial: int
) -> tuple[np.ndarray, float]:
    """The same as in the chapter, line by line."""
    pair_C = np.arange(H // 2)
    plain_C = theta ** (-2 * pair_C / H)
    turn = 2 * math.pi
    low, high = (H * math.log(initial / (beta * turn)) / (2 * math.log(theta))
                 for beta in (beta_fast, beta_slow))  # fmt: skip
    slow_C = np.clip((pair_C - low) / (high - low), 0, 1)
    inv_C = plain_C * (1 - slow_C) + plain_C / factor * slow_C
    concentration = 0.1 * math.log(factor) + 1
    return inv_C.astype(np.float32), concentration


RAMP = "np.clip((pair_C - low) / (high - low), 0, 1)"
BLEND = "plain_C * (1 - slow_C) + plain_C / factor * slow_C"

yarn = Exercise(
    "yarn", right_yarn, ("inv_C", "concentration"), yarn_cases,
    mistakes_in(_yarn, {
        "the ramp is rounded": ("low and high are rounded to whole pairs. Many models do so;"
            " GPT-OSS says `truncate: false`, and rounding would change 9 of its 32 frequencies.",
            "- low)", "- math.floor(low))", "(high", "(math.ceil(high)"),
        "upside down": ("fast pairs are slowed and slow pairs are kept. Either beta_fast and"
            " beta_slow are swapped, or the two sides of the blend.", RAMP, f"1 - {RAMP}"),
        "no YaRN": ("these are the plain frequencies. The slow pairs must be divided by the"
            " factor, and those on the ramp in part.", BLEND, "plain_C"),
        "slow pairs are sped up": ("slow pairs are multiplied by the factor. They must be divided"
            " by it: a longer context asks for slower hands.",
            "plain_C / factor", "plain_C * factor"),
        "half the exponent": ("the exponent is c / head_dim. It is 2c / head_dim: there are half"
            " as many pairs as numbers, and the last pair is to come close to 1 / theta.",
            "-2 * pair_C", "-pair_C"),
    }),
    praise="To five digits, for GPT-OSS and for two other models.",
    atol=1e-13,
)  # fmt: skip


# ------------------------------------------------------------------------------------ exercise 4


def lost_cases() -> Iterator[tuple[str]]:
    """Arguments of `first_lost_position`: four formats of 16 and 8 bits."""
    yield ("bfloat16",)
    yield ("float16",)
    yield ("float8_e4m3fn",)
    yield ("float8_e5m2",)


def _about(dtype: str) -> Any:
    return jnp.finfo(dtype)  # type: ignore[no-untyped-call]  # ml_dtypes annotates nothing


def right_lost(dtype: str) -> int:
    """One more than two to the number of significant bits."""
    return int(2 ** (_about(dtype).nmant + 1) + 1)


first_lost_position = Exercise(
    "first_lost_position", right_lost, ("the position",), lost_cases,
    {
        "the last that survives": ("this one is still exact, since it is a power of two, and a"
            " power of two needs one bit only. The next one is lost.",
            lambda dtype: right_lost(dtype) - 1),
        "the next that survives": ("this one is exact again: above a power of two every second"
            " number is. The first that is lost comes before.",
            lambda dtype: right_lost(dtype) + 1),
        "the hidden bit is forgotten": ("half of it is right. A float stores the bits after the"
            " leading 1; the 1 itself is not stored, but it counts.",
            lambda dtype: 2 ** _about(dtype).nmant + 1),
        "one over eps": ("1 / eps counts the steps between 1 and 2. Above that, whole numbers"
            " survive as long as a step is at most 1.", lambda dtype: 2 ** _about(dtype).nmant),
    },
    praise="Right for bfloat16, float16 and two kinds of float8.",
)  # fmt: skip


# ------------------------------------------------------------------------------------ exercise 5


def shift_cases() -> Iterator[tuple[jax.Array, int, np.ndarray]]:
    """Arguments of `shift_keys`: rotated keys, how far they move, and frequencies."""
    for seed, (B, S, K, H, shift) in enumerate(
        [(1, 4, 2, 6, 1), (2, 5, 3, 8, 37), (2, 3, 4, 10, 200)]
    ):
        rng = np.random.default_rng(seed)
        inv_C = (10.0 ** -rng.uniform(0.5, 3, H // 2)).astype(np.float32)
        k_BSKH = jnp.asarray(rng.standard_normal((B, S, K, H)), jnp.float32)
        position_BS = jnp.asarray(shift + np.tile(np.arange(S), (B, 1)))
        yield library.rotate(k_BSKH, *library.cos_sin(position_BS, inv_C, 1.3)), shift, inv_C


def right_shift(k_BSKH: jax.Array, shift: int, inv_C: np.ndarray) -> jax.Array:
    """Turned back by the angle of `shift` positions, whatever the position."""
    angle_C = shift * inv_C
    cos, sin = jnp.cos(angle_C), jnp.sin(angle_C)
    first, second = jnp.split(k_BSKH, 2, axis=-1)
    return jnp.concatenate([first * cos + second * sin, second * cos - first * sin], axis=-1)


shift_keys = Exercise(
    "shift_keys", right_shift, ("k_BSKH",), shift_cases,
    mistakes_in(right_shift, {
        "forward": ("you turn the keys further on. They move to smaller positions, so turn them"
            " back: by the angle −shift · inv_C.", "angle_C = shift", "angle_C = -shift"),
        "another angle for each key": ("you turn each key by another angle. All of them move by the"
            " same number of positions, wherever they stand.", "angle_C = shift * inv_C",
            "angle_C = (shift * (1 + jnp.arange(k_BSKH.shape[1])))[:, None, None] * inv_C"),
        "interleaved": ("you pair neighbors. Here number c goes with number c + H/2.",
            "jnp.split(k_BSKH, 2, axis=-1)", "(k_BSKH[..., 0::2], k_BSKH[..., 1::2])"),
        "the concentration again": ("the keys have become longer. They carry the concentration"
            " already: multiply by cosine and sine alone.",
            "jnp.cos(angle_C), jnp.sin(angle_C)",
            "1.3 * jnp.cos(angle_C), 1.3 * jnp.sin(angle_C)"),
    }),
    praise="A cache moves without its tokens being read again.",
    atol=1e-4,
)  # fmt: skip
