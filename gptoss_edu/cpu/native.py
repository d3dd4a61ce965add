"""Products with stored weights on a CPU, in C++: the fast twins of `Mxfp4.product` and of einsum.

XLA compiles the pure JAX products well for accelerators. On a CPU it writes decoded weights to
memory before it multiplies, and one token of the 20B reads 3.7 GB: decoding in registers is many
times as fast (benchmarks/README.md). So cpu/native.cc holds two kernels of a few dozen lines,
offered to XLA through `jax.ffi`. They are compiled on first use, for this very processor
(build.py); where that cannot be done, everything runs on the JAX twins.

`Packed`, `Dense` and `Dense8` hold their weights in tiles (tiles.py) and say by their type that
their products are to be taken here. Nothing else changes: activations and sums are float32.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gptoss_edu.cpu.build import load_kernels
from gptoss_edu.cpu.tiles import STEP, Tiled, from_tiles, tile, tile_width
from gptoss_edu.model import Layer, Params
from gptoss_edu.mxfp4 import BLOCK, Mxfp4
from gptoss_edu.shapes import check_shapes

LARGEST_INT8 = 127
CHOICES = ("auto", "jax", "native")
WORTHWHILE = 1024  # below this width a product takes less time than handing it over


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Packed(Mxfp4):
    """`Mxfp4` in tiles, whose products are taken by the kernel `mxfp4_products`.

    `blocks_EJUO` and `scales_EJO` are `Tiled`.
    """

    def products(self, x_TI: jax.Array, expert_TX: jax.Array) -> jax.Array:
        """Each row times the matrices of its experts: y_TXO, with y[t, x] = x[t] @ w[expert[t, x]].

        All rows of an expert are done together, so that its weights are read once.
        """
        check_shapes(x_TI=x_TI, expert_TX=expert_TX, blocks_EJUO=self.blocks_EJUO)
        _, I, O = self.shape
        assert x_TI.shape[1] == I, f"{x_TI.shape=} cannot be multiplied with {self.shape=}"
        shape = jax.ShapeDtypeStruct((*expert_TX.shape, O), jnp.float32)
        y_TXO = jax.ffi.ffi_call("gptoss_edu_mxfp4_products", shape)(
            x_TI.astype(jnp.float32), expert_TX, self.blocks_EJUO.tiles, self.scales_EJO.tiles
        )
        return y_TXO.astype(x_TI.dtype)

    def product(self, x_TI: jax.Array, expert: Any) -> jax.Array:
        """x_TI times the matrix of one expert, y_TO."""
        expert_T1 = jnp.broadcast_to(jnp.asarray(expert, jnp.int32), (x_TI.shape[0], 1))
        return self.products(x_TI, expert_T1)[:, 0]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Dense(Tiled):
    """A bfloat16 weight of any rank whose products are taken by the kernel `bf16_product`."""

    def times(self, equation: str, x: jax.Array) -> jax.Array:
        """`jnp.einsum(equation, x, w)` where x ends, and w begins, with the axes summed over."""
        return _times("bf16_product", equation, x, self.shape, self.tiles)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Dense8(Tiled):
    """A weight rounded to 8 bits, whose products are taken by the kernel `int8_product`.

    32 inputs of one output share a scale, as in MXFP4, but it is any bfloat16 number, and between
    its largest weight and the negative of it are 255 equal steps. `tiles` [L, R, W] are int8,
    `scales` [L, J, W].
    """

    scales: jax.Array

    @property
    def array(self) -> jax.Array:
        """The weights in float32, a copy."""
        scales = jnp.repeat(self.scales.astype(jnp.float32), BLOCK, axis=-2)
        return from_tiles(self.tiles * scales, self.shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.array, dtype)

    def times(self, equation: str, x: jax.Array) -> jax.Array:
        """`jnp.einsum(equation, x, w)` where x ends, and w begins, with the axes summed over."""
        return _times("int8_product", equation, x, self.shape, self.tiles, self.scales)


def _times(
    kernel: str, equation: str, x: jax.Array, shape: tuple[int, ...], *weights: jax.Array
) -> jax.Array:
    """A product of x with the weight of this shape that a kernel takes from `weights`."""
    (left, right), out = equation.split("->")[0].split(","), equation.split("->")[1]
    summed = "".join(letter for letter in right if letter not in out)
    assert right.startswith(summed), f"{equation=} does not sum over the first axes of w"
    assert left.endswith(summed), f"{equation=} does not sum over the last axes of x"
    assert out == left[: -len(summed)] + right[len(summed) :], f"{equation=} turns its axes"
    inputs, outputs = shape[: len(summed)], shape[len(summed) :]
    x_TI = x.reshape(-1, math.prod(inputs)).astype(jnp.float32)
    result = jax.ShapeDtypeStruct((x_TI.shape[0], math.prod(outputs)), jnp.float32)
    y_TO = jax.ffi.ffi_call(f"gptoss_edu_{kernel}", result)(x_TI, *weights)
    return y_TO.reshape(*x.shape[: -len(summed)], *outputs).astype(x.dtype)


@jax.jit
def round_to_int8(weight: Dense) -> Dense8:
    """The nearest of 255 steps for each weight; the step is that of its 32 inputs."""
    L, R, W = weight.tiles.shape
    tiles_LJ32W = weight.tiles.reshape(L, R // BLOCK, BLOCK, W).astype(jnp.float32)
    scales = (jnp.abs(tiles_LJ32W).max(axis=2) / LARGEST_INT8).astype(jnp.bfloat16)
    divisor_LJ1W = jnp.where(scales > 0, scales, 1).astype(jnp.float32)[:, :, None]
    numbers_LJ32W = jnp.clip(jnp.round(tiles_LJ32W / divisor_LJ1W), -LARGEST_INT8, LARGEST_INT8)
    return Dense8(numbers_LJ32W.astype(jnp.int8).reshape(L, R, W), weight.shape, scales)


def wrap(weight: Any, inputs: int = 1) -> Any:
    """The weight as `Packed` or `Dense`, a copy; or as it is where the kernels do not fit it.

    `inputs`: how many leading axes of a plain weight are summed over.
    """
    if isinstance(weight, (Packed, Dense)):
        return weight
    if isinstance(weight, Mxfp4):
        if tile_width(weight.shape[-1]) is None:
            return weight
        blocks, scales = weight.blocks_EJUO, weight.scales_EJO
        return Packed(
            Tiled(tile(blocks, matrices=1, summed=2), blocks.shape),
            Tiled(tile(scales, matrices=1), scales.shape),
        )
    if getattr(weight, "dtype", None) != jnp.bfloat16:
        return weight
    I, O = math.prod(weight.shape[:inputs]), math.prod(weight.shape[inputs:])
    if I % STEP or tile_width(O) is None:
        return weight
    return Dense(tile(weight, summed=inputs), weight.shape)


@functools.partial(jax.jit, static_argnames="dense")
def wrap_layer(layer: Layer, dense: str = "stored") -> Layer:
    """A layer whose products are taken by the kernels; `dense="int8"` rounds its attention."""
    a, m = layer.attention, layer.moe
    names = ("w_q_DNH", "w_k_DKH", "w_v_DKH")
    wide = {name: wrap(getattr(a, name)) for name in names} | {"w_o_NHD": wrap(a.w_o_NHD, 2)}
    if dense == "int8":
        wide = {n: round_to_int8(w) if isinstance(w, Dense) else w for n, w in wide.items()}
    packed = {name: wrap(getattr(m, name)) for name in ("w_gate_up_EDP", "w_down_EFD")}
    if not all(isinstance(w, Packed) for w in packed.values()):
        packed = {}  # experts that are not packed stay arrays: [E, I, O] is no single product
    return Layer(
        dataclasses.replace(a, **wide),
        dataclasses.replace(m, w_router_DE=wrap(m.w_router_DE), **packed),
    )


def wanted(kernels: str, width: int) -> bool:
    """Should a model of this width use the kernels? `kernels`: "auto", "jax" or "native".

    "auto" takes them for large models on one CPU, and warns where they cannot be had; "native"
    raises RuntimeError there. Raises ValueError for anything else.
    """
    if kernels not in CHOICES:
        raise ValueError(f"kernels is {kernels!r}, expected one of {', '.join(CHOICES)}")
    one_cpu = [device.platform for device in jax.devices()] == ["cpu"]
    if kernels == "jax" or (kernels == "auto" and (width < WORTHWHILE or not one_cpu)):
        return False
    if not one_cpu:
        raise RuntimeError(
            f'kernels="native" runs on a single CPU device, found {jax.devices()}; take "jax"'
        )
    try:
        load_kernels()
    except RuntimeError as error:
        if kernels == "native":
            raise
        warnings.warn(
            f"this model will be many times slower than it could be: {error}", stacklevel=3
        )
        return False
    return True


def wrap_params(params: Params) -> Params:
    """All weights that the kernels can read, in tiles. See `load_kernels`.

    This copies, layer by layer; `load_model` reads its files into tiles in the first place.
    """
    load_kernels()
    layers = tuple(jax.block_until_ready(wrap_layer(layer)) for layer in params.layers)
    return dataclasses.replace(params, layers=layers, unembedding_DV=wrap(params.unembedding_DV))


def unwrap(tree: Any) -> Any:
    """The same tree with plain arrays and `Mxfp4`, copies: every product is then pure JAX."""

    def plain(leaf: Any) -> Any:
        if isinstance(leaf, Packed):
            return Mxfp4(leaf.blocks_EJUO.array, leaf.scales_EJO.array)
        return leaf.array if isinstance(leaf, Tiled) else leaf

    return jax.tree.map(plain, tree, is_leaf=lambda leaf: isinstance(leaf, (Packed, Tiled)))
