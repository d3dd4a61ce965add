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
# Field of our tree -> the letters that are summed over in its products. What stands before them
# counts matrices, what stands behind them are outputs.
SUMMED = {
    "attention.w_q_DNH": "D",
    "attention.w_k_DKH": "D",
    "attention.w_v_DKH": "D",
    "attention.w_o_NHD": "NH",
    "moe.w_router_DE": "D",
    "moe.w_gate_up_EDP.blocks_EJUP": "JU",
    "moe.w_gate_up_EDP.scales_EJP": "J",
    "moe.w_down_EFD.blocks_ELUD": "LU",
    "moe.w_down_EFD.scales_ELD": "L",
    "unembedding_DV": "D",
}


def tile_width(outputs: int) -> int | None:
    """The widest tile that cuts this many outputs without a rest; None where none does."""
    return next((width for width in WIDTHS if outputs % width == 0), None)


def axes_of(field: str) -> tuple[str, str, str] | None:
    """The letters of a field in three parts: matrices, summed over, outputs. None: no product."""
    if field not in SUMMED:
        return None
    matrices, outputs = field.rsplit("_", 1)[-1].split(SUMMED[field])
    return matrices, SUMMED[field], outputs


def tiled_shape(field: str, sizes: dict[str, int]) -> tuple[int, ...] | None:
    """Shape of a field in tiles, [E, L, R, W] or [L, R, W]; None where it cannot have them."""
    if (axes := axes_of(field)) is None:
        return None
    matrices, rows, outputs = (math.prod(sizes[letter] for letter in part) for part in axes)
    width, packed = tile_width(outputs), field.count(".") == 2
    if width is None or (rows % STEP and not packed):
        return None
    return (*[matrices] * len(axes[0]), outputs // width, rows, width)


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

    Raises ValueError for outputs that no width divides, and for a single bfloat16 matrix of inputs
    that the kernels' steps do not.
    """
    lead, rest = array.shape[:matrices], array.shape[matrices:]
    rows, outputs = math.prod(rest[:summed]), math.prod(rest[summed:])
    if (width := tile_width(outputs)) is None:
        raise ValueError(f"{outputs} outputs are no multiple of {WIDTHS[-1]}: {array.shape}")
    if rows % STEP and not matrices and array.dtype == jnp.bfloat16:
        raise ValueError(f"{rows} inputs are not a multiple of {STEP}: {array.shape}")
    return jnp.asarray(to_tiles(array, (*lead, outputs // width, rows, width)))
