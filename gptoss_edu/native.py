"""Products with stored weights on a CPU, in C++: the fast twins of `Mxfp4.product` and of einsum.

XLA compiles the pure JAX products well for accelerators. On a CPU it writes decoded weights to
memory before it multiplies, and one token of the 20B reads 3.7 GB: decoding in registers is many
times as fast (benchmarks/README.md). So data/native.cc holds two kernels of a few dozen lines,
offered to XLA through `jax.ffi`. They are compiled on first use, for this very processor, into the
user's cache; where that cannot be done, everything runs on the JAX twins.

Nothing else changes: `Packed` and `Dense` wrap arrays as they lie in memory, without a copy, and
say by their type that their products are to be taken here. Activations and sums are float32.
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import hashlib
import math
import os
import platform
import shutil
import subprocess
import uuid
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib

from gptoss_edu.model import Layer, Params
from gptoss_edu.mxfp4 import Mxfp4
from gptoss_edu.shapes import check_shapes
from gptoss_edu.tokenizer import cache_folders

SOURCE = Path(__file__).parent / "data" / "native.cc"
KERNELS = ("mxfp4_products", "bf16_product")
CHOICES = ("auto", "jax", "native")
LANES = 16  # outputs per vector: a matrix must have a multiple of them
STEP = 32  # inputs per step of the kernels
WORTHWHILE = 1024  # below this width a product takes less time than handing it over
FLAGS = ("-O3", "-std=c++17", "-shared", "-fPIC", "-ffp-contract=fast")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Packed(Mxfp4):
    """`Mxfp4` whose products are taken by the kernel `mxfp4_products`."""

    def products(self, x_TI: jax.Array, expert_TX: jax.Array) -> jax.Array:
        """Each row times the matrices of its experts: y_TXO, with y[t, x] = x[t] @ w[expert[t, x]].

        All rows of an expert are done together, so that its weights are read once.
        """
        check_shapes(x_TI=x_TI, expert_TX=expert_TX, blocks_EJUO=self.blocks_EJUO)
        _, I, O = self.shape
        assert x_TI.shape[1] == I, f"{x_TI.shape=} cannot be multiplied with {self.shape=}"
        shape = jax.ShapeDtypeStruct((*expert_TX.shape, O), jnp.float32)
        y_TXO = jax.ffi.ffi_call("gptoss_edu_mxfp4_products", shape)(
            x_TI.astype(jnp.float32), expert_TX, self.blocks_EJUO, self.scales_EJO
        )
        return y_TXO.astype(x_TI.dtype)

    def product(self, x_TI: jax.Array, expert: Any) -> jax.Array:
        """x_TI times the matrix of one expert, y_TO."""
        expert_T1 = jnp.broadcast_to(jnp.asarray(expert, jnp.int32), (x_TI.shape[0], 1))
        return self.products(x_TI, expert_T1)[:, 0]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Dense:
    """A bfloat16 weight of any rank whose products are taken by the kernel `bf16_product`."""

    array: jax.Array

    @property
    def shape(self) -> tuple[int, ...]:
        """The array's shape."""
        return self.array.shape

    @property
    def dtype(self) -> Any:
        """The array's dtype, bfloat16."""
        return self.array.dtype

    @property
    def ndim(self) -> int:
        """The array's rank."""
        return self.array.ndim

    def __jax_array__(self) -> jax.Array:
        return self.array

    def astype(self, dtype: Any) -> jax.Array:
        """The plain array in another dtype."""
        return self.array.astype(dtype)

    def times(self, equation: str, x: jax.Array) -> jax.Array:
        """`jnp.einsum(equation, x, w)` where x ends, and w begins, with the axes summed over."""
        (left, right), out = equation.split("->")[0].split(","), equation.split("->")[1]
        summed = "".join(letter for letter in right if letter not in out)
        assert right.startswith(summed), f"{equation=} does not sum over the first axes of w"
        assert left.endswith(summed), f"{equation=} does not sum over the last axes of x"
        assert out == left[: -len(summed)] + right[len(summed) :], f"{equation=} turns its axes"
        inputs, outputs = self.shape[: len(summed)], self.shape[len(summed) :]
        x_TI = x.reshape(-1, math.prod(inputs)).astype(jnp.float32)
        w_IO = self.array.reshape(math.prod(inputs), math.prod(outputs))
        shape = jax.ShapeDtypeStruct((x_TI.shape[0], w_IO.shape[1]), jnp.float32)
        y_TO = jax.ffi.ffi_call("gptoss_edu_bf16_product", shape)(x_TI, w_IO)
        return y_TO.reshape(*x.shape[: -len(summed)], *outputs).astype(x.dtype)


def wrap(weight: Any, inputs: int = 1) -> Any:
    """The weight as `Packed` or `Dense`, or as it is where the kernels do not fit its shape.

    `inputs`: how many leading axes of a plain weight are summed over.
    """
    if isinstance(weight, Mxfp4):
        fits = weight.shape[-1] % LANES == 0
        return Packed(weight.blocks_EJUO, weight.scales_EJO) if fits else weight
    if getattr(weight, "dtype", None) != jnp.bfloat16 or isinstance(weight, Dense):
        return weight
    I, O = math.prod(weight.shape[:inputs]), math.prod(weight.shape[inputs:])
    return Dense(weight) if I % STEP == 0 and O % LANES == 0 else weight


def wrap_layer(layer: Layer) -> Layer:
    """A layer whose products are taken by the kernels. Nothing is copied."""
    a, m = layer.attention, layer.moe
    names = ("w_q_DNH", "w_k_DKH", "w_v_DKH")
    dense = {name: wrap(getattr(a, name)) for name in names} | {"w_o_NHD": wrap(a.w_o_NHD, 2)}
    packed = {name: wrap(getattr(m, name)) for name in ("w_gate_up_EDP", "w_down_EFD")}
    if not all(isinstance(w, Mxfp4) for w in packed.values()):
        packed = {}  # experts that are not packed stay arrays: [E, I, O] is no single product
    return Layer(
        dataclasses.replace(a, **dense),
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
    """All weights that the kernels can read, wrapped. Nothing is copied. See `load_kernels`."""
    load_kernels()
    return dataclasses.replace(
        params,
        layers=tuple(wrap_layer(layer) for layer in params.layers),
        unembedding_DV=wrap(params.unembedding_DV),
    )


def unwrap(tree: Any) -> Any:
    """The same tree with plain arrays and `Mxfp4`: every product is then pure JAX."""

    def plain(leaf: Any) -> Any:
        if isinstance(leaf, Packed):
            return Mxfp4(leaf.blocks_EJUO, leaf.scales_EJO)
        return leaf.array if isinstance(leaf, Dense) else leaf

    return jax.tree.map(plain, tree, is_leaf=lambda leaf: isinstance(leaf, (Packed, Dense)))


# --- compiling, once per machine ---


def find_compiler() -> str | None:
    """The C++ compiler to use: $CXX, else the first of c++, g++, clang++ on the PATH."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    return next((found for found in map(shutil.which, names) if found), None)


@functools.lru_cache(maxsize=1)
def load_kernels() -> None:
    """Compile the kernels if that was not done before, and register them with XLA.

    Raises RuntimeError with the reason, and what to do, where that is not possible.
    """
    compiler = find_compiler()
    if compiler is None:
        raise RuntimeError(
            "the CPU kernels need a C++ compiler, found none (looked for $CXX, c++, g++, clang++);"
            " install one (Debian: apt-get install g++; macOS: xcode-select --install), or load"
            ' the model with kernels="jax"'
        )
    path = built_library(compiler)
    library = ctypes.CDLL(str(path))
    for name in KERNELS:
        capsule = jax.ffi.pycapsule(getattr(library, name))
        jax.ffi.register_ffi_target(f"gptoss_edu_{name}", capsule, platform="cpu")


def built_library(compiler: str) -> Path:
    """The compiled kernels in the user's cache, compiled now if they are not there.

    The name holds a hash of all that decides the result: source, compiler, flags, jaxlib's headers
    and the processor, since a home folder may be shared by machines that differ.
    """
    native = "-mcpu=native" if platform.machine() == "arm64" else "-march=native"
    flags = (*FLAGS, native)
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout
    parts = (SOURCE.read_text(), version, *flags, jaxlib.__version__, processor())
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    problems = []
    for folder in cache_folders():
        path = folder / f"native-{key}.so"
        if path.is_file():
            return path
        try:
            folder.mkdir(parents=True, exist_ok=True)
            draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
            compile_to(draft, compiler, flags)
            os.replace(draft, path)
            return path
        except OSError as error:
            problems.append(str(error))
    raise RuntimeError(
        f"the CPU kernels could not be written: {'; '.join(problems)}; make one of these folders"
        ' writable, or load the model with kernels="jax"'
    )


def compile_to(path: Path, compiler: str, flags: tuple[str, ...]) -> None:
    """Run the compiler. Raises RuntimeError with its last words if it fails."""
    headers = ("-isystem", jax.ffi.include_dir())
    command = [compiler, *flags, *headers, str(SOURCE), "-o", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        path.unlink(missing_ok=True)
        raise RuntimeError(
            f"{compiler} could not compile {SOURCE.name}: {done.stderr.strip()[-500:]}; set $CXX to"
            ' another compiler (GCC 9 or Clang 10 at least), or load the model with kernels="jax"'
        )


def processor() -> str:
    """What tells one processor from another: its model and the instructions that it has."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        wanted = ("model name", "flags", "Features", "CPU part")
        return "\n".join(line for line in lines if line.startswith(wanted))
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
