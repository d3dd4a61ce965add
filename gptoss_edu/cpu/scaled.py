"""Weights of eight bits: whole numbers or small floats, and a scale for each block of inputs.

One scale per output is one block (precision.py of chips/); the kernels of a CPU take blocks of 32
(tiles.py).
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from gptoss_edu.shapes import DType, Index, Which, check_shapes, product, summary

LARGEST_INT8 = 127.0


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Scaled:
    """E matrices [I, O] of 8-bit numbers, and a scale per output for each of J blocks of inputs."""

    numbers_EIO: jax.Array
    scale_EJO: jax.Array
    __repr__ = summary

    @property
    def shape(self) -> tuple[int, ...]:
        """(E, I, O)."""
        return self.numbers_EIO.shape

    @property
    def dtype(self) -> DType:
        """What indexing returns: float32, which holds every number times its scale."""
        return np.dtype(np.float32)

    def __getitem__(self, which: Index) -> jax.Array:
        """Decode the matrices of some experts: [I, O] for one, [..., I, O] for several."""
        numbers, scale = (a[which].astype(jnp.float32) for a in (self.numbers_EIO, self.scale_EJO))
        *lead, J, O = scale.shape
        return (numbers.reshape(*lead, J, -1, O) * scale[..., None, :]).reshape(numbers.shape)


@product.register(Scaled)
def _(w: Scaled, equation: str, x_TI: jax.Array, expert: Which) -> jax.Array:
    """The scale waits until a block's sum is done: one multiplication per block and output instead
    of one per weight.
    """
    scale_JO = w.scale_EJO[expert]
    check_shapes(x_TI=x_TI, scale_JO=scale_JO)
    (J, O), T = scale_JO.shape, len(x_TI)
    w_JIO = w.numbers_EIO[expert].reshape(J, -1, O).astype(x_TI.dtype)  # I: inputs of a block
    x_TJI = x_TI.reshape(T, J, -1)
    y_TJO = jnp.einsum("TJI,JIO->TJO", x_TJI, w_JIO, preferred_element_type=jnp.float32)
    return (y_TJO * scale_JO).sum(axis=1).astype(x_TI.dtype)


def to_int8(w_EIO: jax.Array, block: int | None = None, dtype: DTypeLike = jnp.float32) -> Scaled:
    """Round to 255 equal steps, from minus to plus the largest of each output and block.

    A block has `block` inputs, or all of them; `dtype` is that of the scales.
    """
    *lead, I, O = w_EIO.shape
    w_EJIO = w_EIO.astype(jnp.float32).reshape(*lead, -1, block or I, O)
    scale_EJO = (jnp.max(jnp.abs(w_EJIO), axis=-2) / LARGEST_INT8).astype(dtype)
    step_EJ1O = jnp.where(scale_EJO > 0, scale_EJO, 1).astype(jnp.float32)[..., None, :]
    steps_EJIO = jnp.clip(jnp.round(w_EJIO / step_EJ1O), -LARGEST_INT8, LARGEST_INT8)
    return Scaled(steps_EJIO.astype(jnp.int8).reshape(w_EIO.shape), scale_EJO)
