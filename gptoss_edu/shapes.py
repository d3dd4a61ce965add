"""The dimension key, the check that keeps it honest, and one function for products with weights.

Every array of rank one or more carries its dimensions as a suffix, in memory order, and einsum
strings use the same letters:

    B batch             T query positions   S key positions
    N query heads (K*G) K kv heads          G queries per kv head
    H head dim          C rotary pairs, H/2
    D width             F expert hidden     P 2F, gate and up interleaved
    E experts           X experts per token V vocabulary
    R rows, one for each expert of each token (B*T*X)
    J MXFP4 blocks      U bytes per block   I, O any input and output dimension

A unit axis is written `1`. A suffix that nobody checks becomes a lie, so public functions call
`check_shapes` on entry. Shapes are static under jit: the check costs nothing at run time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import math
import textwrap
from collections.abc import Callable
from types import EllipsisType
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

Which = int | np.ndarray | jax.Array  # one expert, or several
Index = Which | slice | EllipsisType
DType = np.dtype[Any]
ARRAYS = (jax.Array, np.ndarray, jax.ShapeDtypeStruct)
OneExpert = Callable[[Which, jax.Array], jax.Array]  # (expert, x_TI) -> y_TO
# How one expert at a time computes many rows (moe.py): (one_expert, x_RI, expert_R, shape) -> y_RO
Loop = Callable[[OneExpert, jax.Array, jax.Array, tuple[int, ...]], jax.Array]


class Weight(Protocol):
    """What every kind of weight answers, be it an array, packed, rounded, in tiles or on a mesh."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes."""

    @property
    def dtype(self) -> DType:
        """That of what indexing returns."""

    def __getitem__(self, which: Index, /) -> jax.Array:
        """Plain numbers: of [E, I, O] the matrices that `which` picks."""


def check_shapes(
    sizes: dict[str, int] | None = None, **arrays: Weight | np.ndarray
) -> dict[str, int]:
    """Check arrays against the letters of their names, e.g. `check_shapes(sizes, q_BTNH=q)`.

    `sizes` fixes letters in advance; a letter not in it takes the size of its first appearance.
    Anything with a `.shape` will do. Returns all letters with their sizes. A mismatch is a
    programmer's error: AssertionError with the letter, both sizes and where each came from.
    """
    known = {letter: (size, "the given sizes") for letter, size in (sizes or {}).items()}
    known["1"] = 1, "unit axis"
    for name, array in arrays.items():
        letters = name.rsplit("_", 1)[-1]
        shape = tuple(array.shape)
        assert len(shape) == len(letters), f"{name}: {len(letters)} letters, but shape {shape}"
        for letter, size in zip(letters, shape, strict=True):
            expected, source = known.setdefault(letter, (size, name))
            assert size == expected, (
                f"{name} has shape {shape}: {letter} is {size}, but {expected} in {source}"
            )
    return {letter: size for letter, (size, _) in known.items() if letter != "1"}


def whole_numbers(values: object) -> np.ndarray | None:
    """The values as an array where they are whole numbers, or none at all; else None."""
    with contextlib.suppress(Exception):  # NumPy has many words for what is no array
        found = np.asarray(values)
        return found if found.dtype.kind in "iu" or not found.size else None
    return None


def matmul(
    equation: str, x: jax.Array, w: Weight, expert: Which | None = None, loop: Loop | None = None
) -> jax.Array:
    """`jnp.einsum(equation, x, w)` in the dtype of x, whatever kind of weight w is.

    Where w holds the matrices of E experts, its E is not summed over but chosen: by `expert`, a
    number, for all rows of x; or, with a `loop`, by expert_R for each row.

    The network reaches its weights by this function alone, so nobody has to ask what kind they are.
    A kind registers its `product` with one matrix, and its `products` if it can do all rows at once
    (a kernel, a mesh): then it has no use for the loop, which stays in chapter 04 as the lesson.
    """
    if loop is None or expert is None:
        return product(w, equation, x, expert)
    return products(w, equation, x, jnp.asarray(expert), loop)


@functools.singledispatch
def product(w: Any, equation: str, x: jax.Array, expert: Which | None) -> jax.Array:
    """x times w, or times the matrix of one expert. Here for plain arrays."""
    if expert is not None:
        equation, w = equation.replace(",E", ","), w[expert]
    return jnp.einsum(equation, x, w.astype(x.dtype))


@functools.singledispatch
def products(w: Any, equation: str, x_RI: jax.Array, expert_R: jax.Array, loop: Loop) -> jax.Array:
    """Each row times the matrix of its expert, y_RO. Here one matrix after the other."""
    return loop(lambda expert, x_TI: product(w, equation, x_TI, expert), x_RI, expert_R, w.shape)


def num_bytes(tree: Any) -> int:
    """Bytes that all arrays of a tree take together."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def summary(tree: Any, label: str = "") -> str:
    """A tree of weights on one screen: shapes, dtypes and bytes. No number is fetched for it.

    Neighbors that read the same, such as layers, stand there once. `label` comes first.
    """
    if dataclasses.is_dataclass(tree):
        head, names = type(tree).__name__, [field.name for field in dataclasses.fields(tree)]
        parts = [summary(getattr(tree, name), f"{name}: ") for name in names]
    elif isinstance(tree, tuple | list):
        head, texts = f"{type(tree).__name__} of {len(tree)}", map(summary, tree)
        parts = [f"{len(list(same))} x {text}" for text, same in itertools.groupby(texts)]
    elif isinstance(tree, ARRAYS):
        head, parts = f"{tree.dtype} {list(tree.shape)}", []
    else:
        return f"{label}{tree}"
    size = num_bytes([leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, ARRAYS)])
    lines = [f"{label}{head}, {size:,} bytes", *parts]
    return textwrap.indent("\n".join(lines), "  ").removeprefix("  ")
