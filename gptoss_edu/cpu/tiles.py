"""Matrices in the order in which a CPU's cores read them: tiles of W neighboring outputs.

In a matrix [I, O] the outputs of one input are neighbors, and the next input's lie O numbers
further on. A thread that computes some of the outputs reads a short stretch here and a short
stretch there, and has to wait at the beginning of each. Cut into tiles [L, I, W], with O = L * W,
the weights of W outputs lie in one straight line, and so do those of the next W. The same bytes
then come at the speed of plain reading (benchmarks/README.md).

Tiles are for the C++ kernels alone (native.py). Everybody else asks a `Tiled` for the array that it
stands for. Letters beside those of the dimension key: L tiles, W outputs of a tile, and here R is
what lies before the outputs, all in one.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from gptoss_edu.cpu.scaled import Scaled, to_int8
from gptoss_edu.model import Layer
from gptoss_edu.mxfp4 import BLOCK, Mxfp4, dequantize
from gptoss_edu.shapes import DType, Index, Weight, summary

Numbers = TypeVar("Numbers", np.ndarray, jax.Array)
WIDTHS = (64, 32, 16)  # numbers of one to four vectors: native.cc has a loop for each
STEP = 32  # inputs of one step of the kernels: plain weights need a multiple of it


def tile_width(outputs: int) -> int | None:
    """The widest tile that cuts this many outputs without a rest; None where none does."""
    return next((width for width in WIDTHS if outputs % width == 0), None)


def to_tiles(array: Numbers, shape: tuple[int, ...]) -> Numbers:
    """An array in tiles of this shape; of a NumPy array it is a view where that is possible."""
    *lead, L, R, W = shape
    return array.reshape(*lead, R, L, W).swapaxes(-3, -2)


def from_tiles(tiles: Numbers, shape: tuple[int, ...]) -> Numbers:
    """The array of this shape that the tiles were made of."""
    return tiles.swapaxes(-3, -2).reshape(shape)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Tiled:
    """A weight that lies in tiles: any array, an `Mxfp4`, or what `round_to_int8` makes.

    It answers like the weight that it stands for, with copies; only the kernels read tiles as they
    are. `scales` lie in tiles, too, bytes as in `Mxfp4` or bfloat16 as in `Scaled`; an array has
    none. `shape` is that of the weight.
    """

    tiles: jax.Array
    scales: jax.Array | None
    shape: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    __repr__ = summary

    @property
    def plain(self) -> jax.Array | Mxfp4:
        """The weight itself, a copy; rounded numbers come back as float32."""
        if self.scales is None:
            return from_tiles(self.tiles, self.shape)
        if self.tiles.dtype == jnp.int8:  # a tile is a small matrix
            return from_tiles(Scaled(self.tiles, self.scales)[:], self.shape)
        *lead, I, O = self.shape
        blocks_EJUO = from_tiles(self.tiles, (*lead, I // BLOCK, BLOCK // 2, O))
        return Mxfp4(blocks_EJUO, from_tiles(self.scales, (*lead, I // BLOCK, O)))

    @property
    def decoded(self) -> jax.Array:
        """The weight as an array, also where it is packed."""
        plain = self.plain
        if isinstance(plain, Mxfp4):
            return dequantize(plain.blocks_EJUO, plain.scales_EJO)
        return plain

    @property
    def dtype(self) -> DType:
        """That of what indexing returns."""
        if self.scales is None:
            return self.tiles.dtype
        return np.dtype(np.float32 if self.tiles.dtype == jnp.int8 else jnp.bfloat16)

    def __getitem__(self, which: Index) -> jax.Array:
        """Some of the matrices of [E, ...], as of the plain weight; no other is touched."""
        assert self.tiles.ndim > 3, f"{self.shape} is a single matrix: there is nothing to choose"
        tiles = self.tiles[which]
        scales = None if self.scales is None else self.scales[which]
        return Tiled(tiles, scales, (*tiles.shape[:-3], *self.shape[1:])).decoded

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.decoded, dtype)


def join(blocks: Tiled, scales: Tiled) -> Tiled:
    """Packed experts [E, I, O] from the two halves of an `Mxfp4` in tiles."""
    E, J, U, O = blocks.shape
    return Tiled(blocks.tiles, scales.tiles, (E, J * U * 2, O))


def split(w: Tiled) -> dict[str, Tiled]:
    """The two halves again, by their names in an `Mxfp4`. Nothing is copied."""
    assert w.scales is not None, f"{w.shape} of {w.dtype} is not packed: it has no halves"
    E, I, O = w.shape
    J = I // BLOCK
    return {
        "blocks_EJUO": Tiled(w.tiles, None, (E, J, BLOCK // 2, O)),
        "scales_EJO": Tiled(w.scales, None, (E, J, O)),
    }


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


def in_tiles(w: Weight, inputs: int = 1) -> Weight:
    """The weight as `Tiled`, a copy; or as it is where the kernels do not fit it.

    `inputs`: how many leading axes of a plain weight are summed over.
    """
    if isinstance(w, Mxfp4):
        if tile_width(w.shape[-1]) is None:
            return w
        return Tiled(tile(w.blocks_EJUO, 1, 2), tile(w.scales_EJO, 1), w.shape)
    I, O = math.prod(w.shape[:inputs]), math.prod(w.shape[inputs:])
    fits = w.dtype == jnp.bfloat16 and I % STEP == 0 and tile_width(O) is not None
    if not isinstance(w, jax.Array) or not fits:
        return w
    return Tiled(tile(w, summed=inputs), None, w.shape)


@jax.jit
def round_to_int8(w: Tiled) -> Tiled:
    """The nearest of 255 steps for each number of an array; the step is that of its 32 inputs."""
    rounded = to_int8(w.tiles, BLOCK, jnp.bfloat16)  # a tile is a small matrix
    return Tiled(rounded.numbers_EIO, rounded.scale_EJO, w.shape)


@functools.partial(jax.jit, static_argnames="dense")
def tile_layer(layer: Layer, dense: str = "stored") -> Layer:
    """A layer in tiles for the kernels; `dense="int8"` rounds its attention."""
    a, m = layer.attention, layer.moe
    names = ("w_q_DNH", "w_k_DKH", "w_v_DKH")
    wide: dict[str, Any] = {name: in_tiles(getattr(a, name)) for name in names}
    wide["w_o_NHD"] = in_tiles(a.w_o_NHD, 2)
    if dense == "int8":
        wide = {n: round_to_int8(w) if isinstance(w, Tiled) else w for n, w in wide.items()}
    # Experts that are not packed stay arrays: the kernel for [I, O] has no matrices to choose from.
    packed = {name: w for name, w in vars(m).items() if isinstance(w, Mxfp4)}
    experts: dict[str, Any] = {name: in_tiles(w) for name, w in packed.items()}
    return Layer(
        dataclasses.replace(a, **wide),
        dataclasses.replace(m, w_router_DE=in_tiles(m.w_router_DE), **experts),
    )
