"""Products with stored weights on a CPU, in C++: the fast twins of `packed_product` and einsum.

XLA compiles the pure JAX products well for accelerators. On a CPU it writes decoded weights to
memory before it multiplies, and one token of the 20B reads 3.7 GB: decoding in registers is many
times as fast (benchmarks/README.md). So cpu/native.cc holds three kernels of a few dozen lines,
offered to XLA through `jax.ffi`. They are compiled on first use, for this very processor
(build.py); where that cannot be done, everything runs on the JAX twins.

Weights that are `Tiled` (tiles.py) say by their type that `matmul` takes their products here.
Nothing else changes: activations and sums are float32.
"""

from __future__ import annotations

import math
import warnings

import jax
import jax.numpy as jnp

from gptoss_edu.cpu.build import load_kernels
from gptoss_edu.cpu.tiles import Tiled
from gptoss_edu.shapes import Loop, Which, check_shapes, product, products

BACKENDS = ("auto", "jax", "cpu")
WORTHWHILE = 1024  # below this width a product takes less time than handing it over


@product.register(Tiled)
def _(w: Tiled, equation: str, x: jax.Array, expert: Which | None) -> jax.Array:
    """A single matrix, where x ends, and w begins, with the axes summed over. Of experts: all rows
    with the same one.
    """
    if expert is not None:
        expert_T = jnp.broadcast_to(jnp.asarray(expert, jnp.int32), len(x))
        return _packed_products(x, w, expert_T)
    (left, right), out = equation.split("->")[0].split(","), equation.split("->")[1]
    summed = "".join(letter for letter in right if letter not in out)
    assert right.startswith(summed), f"{equation=} does not sum over the first axes of w"
    assert left.endswith(summed), f"{equation=} does not sum over the last axes of x"
    assert out == left[: -len(summed)] + right[len(summed) :], f"{equation=} transposes its axes"
    inputs, outputs = w.shape[: len(summed)], w.shape[len(summed) :]
    x_TI = x.reshape(-1, math.prod(inputs))
    result = len(x_TI), math.prod(outputs)
    if w.scales is None:
        y_TO = _call("bf16_product", x_TI, result, w.tiles)
    else:
        y_TO = _call("int8_product", x_TI, result, w.tiles, w.scales)
    return y_TO.reshape(*x.shape[: -len(summed)], *outputs)


@products.register(Tiled)
def _(w: Tiled, equation: str, x_RI: jax.Array, expert_R: jax.Array, loop: Loop) -> jax.Array:
    """All rows of an expert are done together, so that its weights are read once."""
    return _packed_products(x_RI, w, expert_R)


def _packed_products(x_RI: jax.Array, w: Tiled, expert_R: jax.Array) -> jax.Array:
    check_shapes(x_RI=x_RI, expert_R=expert_R)
    _, I, O = w.shape
    assert x_RI.shape[1] == I, f"{x_RI.shape=} cannot be multiplied with {w.shape=}"
    assert w.scales is not None, f"experts {w.shape} in tiles are packed, found {w.dtype}"
    expert_R1 = expert_R[:, None].astype(jnp.int32)  # a row may have several experts in native.cc
    y_R1O = _call("mxfp4_products", x_RI, (len(x_RI), 1, O), expert_R1, w.tiles, w.scales)
    return y_R1O[:, 0]


def _call(kernel: str, x: jax.Array, shape: tuple[int, ...], *arrays: jax.Array) -> jax.Array:
    """What a kernel makes of x and arrays: it computes in float32, whatever x is."""
    call = jax.ffi.ffi_call(f"gptoss_edu_{kernel}", jax.ShapeDtypeStruct(shape, jnp.float32))
    y: jax.Array = call(x.astype(jnp.float32), *arrays)
    return y.astype(x.dtype)


def wanted(backend: str, width: int) -> bool:
    """Should a model of this width use the kernels? `backend`: "auto", "jax" or "cpu".

    "auto" takes them for large models on one CPU, and warns where they cannot be had; "cpu"
    raises RuntimeError there. Raises ValueError for anything else.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend is {backend!r}, expected one of {', '.join(BACKENDS)}")
    one_cpu = [device.platform for device in jax.devices()] == ["cpu"]
    if backend == "jax" or (backend == "auto" and (width < WORTHWHILE or not one_cpu)):
        return False
    if not one_cpu:
        raise RuntimeError(
            f'backend="cpu" runs on a single CPU device, found {jax.devices()}; take "jax"'
        )
    try:
        load_kernels()
    except RuntimeError as error:
        if backend == "cpu":
            raise
        warnings.warn(
            f"this model will be many times slower than it could be: {error}", stacklevel=3
        )
        return False
    return True
