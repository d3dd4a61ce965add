"""Matrices in the order in which a CPU's cores read them: tiles of W neighboring outputs.

In a matrix [I, O] the outputs of one input are neighbors, and the next input's lie O numbers
further on. A thread that computes some of the outputs reads a short stretch here and a short
stretch there, and has to wait at the beginning of each. Cut into tiles [L, I, W], with O = L * W,
the weights of W outputs lie in one straight line, and so do those of the next W. The same bytes
then come at the speed of plain reading (benchmarks/README.md).

Tiles are for the C++ kernels alone (native.py). Everybody else asks a `Tiled` for the array that it
stands for. Letters beside those of the dimension key: L tiles, W outputs of a tile, R what lies
before the outputs, all in one.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

WIDTHS = (64, 32, 16)  # numbers of one to four vectors: native.cc has a loop for each
STEP = 32  # inputs of one step of the kernels: plain weights need a multiple of it


def tile_width(outputs: int) -> int | None:
    """The widest tile that cuts this many outputs without a rest; None where none does."""
    return next((width for width in WIDTHS if outputs % width == 0), None)


def to_tiles(array: Any, shape: tuple[int, ...]) -> Any:
    """An array in tiles of this shape; of a NumPy array it is a view where that is possible."""
    *lead, L, R, W = shape
    return array.reshape(*lead, R, L, W).swapaxes(-3, -2)


def from_tiles(tiles: Any, shape: tuple[int, ...]) -> Any:
    """The array of this shape that the tiles were made of."""
    return tiles.swapaxes(-3, -2).reshape(shape)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Tiled:
    """An array that lies in memory in tiles. It answers like the array, with a copy."""

    tiles: jax.Array
    shape: tuple[int, ...] = dataclasses.field(metadata={"static": True})

    @property
    def array(self) -> jax.Array:
        """The array itself: a copy."""
        return from_tiles(self.tiles, self.shape)

    @property
    def dtype(self) -> Any:
        """The array's dtype."""
        return self.tiles.dtype

    @property
    def ndim(self) -> int:
        """The array's rank."""
        return len(self.shape)

    def __getitem__(self, which: Any) -> jax.Array:
        """Some of the matrices of [E, ...], as `array[which]`; no other is touched."""
        assert self.tiles.ndim > 3, f"{self.shape} is a single matrix: there is nothing to choose"
        chosen = self.tiles[which]
        return from_tiles(chosen, (*chosen.shape[:-3], *self.shape[1:]))

    def __jax_array__(self) -> jax.Array:
        return self.array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(from_tiles(np.asarray(self.tiles), self.shape), dtype)

    def astype(self, dtype: Any) -> jax.Array:
        """The plain array in another dtype."""
        return self.array.astype(dtype)


def tile(array: jax.Array, matrices: int = 0, summed: int = 1) -> jax.Array:
    """Tiles of an array whose first axes count `matrices`, and whose next are `summed` over.

    Raises ValueError for outputs that no width divides.
    """
    lead, rest = array.shape[:matrices], array.shape[matrices:]
    rows, outputs = math.prod(rest[:summed]), math.prod(rest[summed:])
    if (width := tile_width(outputs)) is None:
        raise ValueError(f"{outputs} outputs are no multiple of {WIDTHS[-1]}: {array.shape}")
    return jnp.asarray(to_tiles(array, (*lead, outputs // width, rows, width)))
