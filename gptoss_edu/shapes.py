"""The dimension key, and the check that keeps it honest.

Every array of rank one or more carries its dimensions as a suffix, in memory order, and einsum
strings use the same letters:

    B batch             T query positions   S key positions
    N query heads (K*G) K kv heads          G queries per kv head
    H head dim          C rotary pairs, H/2
    D width             F expert hidden     P 2F, gate and up interleaved
    E experts           X experts per token V vocabulary
    J MXFP4 blocks      U bytes per block   I, O any input and output dimension

A unit axis is written `1`. A suffix that nobody checks becomes a lie, so public functions call
`check_shapes` on entry. Shapes are static under jit: the check costs nothing at run time.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


def check_shapes(sizes: dict[str, int] | None = None, **arrays: Any) -> dict[str, int]:
    """Check arrays against the letters of their names, e.g. `check_shapes(sizes, q_BTNH=q)`.

    `sizes` fixes letters in advance; a letter not in it takes the size of its first appearance.
    Anything with a `.shape` will do. Returns all letters with their sizes. A mismatch is a
    programmer's error: AssertionError with the letter, both sizes and where each came from.
    """
    known = {letter: (size, "the given sizes") for letter, size in (sizes or {}).items()}
    for name, array in arrays.items():
        letters = name.rsplit("_", 1)[-1]
        shape = tuple(array.shape)
        assert len(shape) == len(letters), f"{name}: {len(letters)} letters, but shape {shape}"
        for letter, size in zip(letters, shape, strict=True):
            expected, source = (
                (1, "unit axis") if letter == "1" else known.setdefault(letter, (size, name))
            )
            assert size == expected, (
                f"{name} has shape {shape}: {letter} is {size}, but {expected} in {source}"
            )
    return {letter: size for letter, (size, _) in known.items()}


def contract(equation: str, x: jax.Array, w: Any) -> jax.Array:
    """`jnp.einsum` of activations and one weight, in the dtype of the activations.

    A weight that brings a faster way of its own (`w.times`, chapter 08) is asked for it.
    """
    if hasattr(w, "times"):
        return w.times(equation, x)
    return jnp.einsum(equation, x, w.astype(x.dtype))
