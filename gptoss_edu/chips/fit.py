"""Does it fit, and how fast can it be? A ledger of bytes, and the roofline of a machine.

To write one token, every weight that takes part is read once, and every key and value that can
still be seen. Reading is what takes the time: an accelerator could compute a hundred times more per
byte. So bandwidth over bytes is a ceiling on tokens per second. It is as good as the bandwidth: a
data sheet promises more than a program gets, and a measurement finds what one program got.
"""

from __future__ import annotations

import dataclasses
import math
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gptoss_edu.chips.precision import WORKSPACE, abstract_params, cache_bytes, weight_bytes
from gptoss_edu.config import Config
from gptoss_edu.shapes import num_bytes
from gptoss_edu.system import available_memory, cores

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """A machine as its vendor describes it; memory, bandwidth and speed are those of one device.

    `memory_bytes` is what a program can use, which is less than what is sold. `flops` counts
    bfloat16 products and sums per second. `topology` is the name by which the TPU compiler knows
    the smallest slice with such devices; None for what is no TPU.
    """

    name: str
    devices: int
    memory_bytes: int
    bytes_per_second: float
    flops: float
    topology: str | None = None

    @property
    def dtype(self) -> Any:
        """Of activations, keys and values: float32 on a CPU, bfloat16 on a chip."""
        return jnp.dtype(jnp.float32 if self.name == "cpu" else jnp.bfloat16)


def _chip(
    name: str, devices: int, gib: float, gb_per_second: float, tflops: float, topology: Any = None
) -> Chip:
    return Chip(name, devices, int(gib * GIB), gb_per_second * 1e9, tflops * 1e12, topology)


# Sources: cloud.google.com/tpu/docs/v5e and v6e, NVIDIA's data sheets; usable memory of v5e and v6e
# as the compiler says. A v2 board has four chips of two cores; a core is a device with 8 GB. GPUs
# have what their driver reports, of which JAX takes a part; a T4's operations are float16 ones.
CHIPS = {
    chip.name: chip
    for chip in (
        _chip("v2-8", 8, 7.48, 350, 22.5, "v2:2x2"),
        _chip("v5e-1", 1, 15.75, 819, 197, "v5e:2x2"),
        _chip("v5e-8", 8, 15.75, 819, 197, "v5e:2x4"),
        _chip("v6e-1", 1, 31.25, 1640, 918, "v6e:2x2"),
        _chip("v6e-8", 8, 31.25, 1640, 918, "v6e:2x4"),
        _chip("t4", 1, 14.6, 320, 65),
        _chip("l4", 1, 22.0, 300, 121),
        _chip("a100", 1, 39.4, 1555, 312),
        _chip("h100", 1, 79.1, 3350, 989),
        _chip("h200", 1, 139.8, 4800, 989),
    )
}


def find_chip(name: str) -> Chip:
    """A chip by name; "cpu" is this machine, whose memory is asked and whose bandwidth is measured.

    Raises ValueError for a name that is not in the table.
    """
    if name == "cpu":
        return this_machine()
    if name not in CHIPS:
        raise ValueError(f"chip {name!r} is unknown; expected cpu or one of {', '.join(CHIPS)}")
    return CHIPS[name]


def this_machine(size: int = 2**28) -> Chip:
    """The machine that runs this: its free memory, and how fast it reads (`size` bytes, best of
    seven) and multiplies.
    """
    memory, _ = available_memory()
    matrix_IO = jnp.ones((1024, 1024), jnp.float32)
    if jax.default_backend() == "cpu":
        bandwidth = read_speed(size)
    else:
        bandwidth = size / _fastest(jnp.sum, jnp.ones(size // 4, jnp.float32))
    rate = 2 * 1024**3 / _fastest(jnp.matmul, matrix_IO, matrix_IO)
    return Chip("cpu", 1, memory or 0, bandwidth, rate)


def read_speed(size: int = 2**28) -> float:
    """Bytes per second that the cores read from memory together: `size` bytes, best of seven.

    One core alone does not reach it (12 of 24 GB/s on two), and XLA gives a sum to one core. It is
    what NumPy's loop gets; a kernel that asks for bytes early was seen to get a fifth more.
    """
    parts = np.array_split(np.ones(size // 4, np.int32), cores())
    with ThreadPoolExecutor(len(parts)) as pool:

        def seconds() -> float:
            began = time.perf_counter()
            list(pool.map(np.max, parts))
            return time.perf_counter() - began

        return sum(part.nbytes for part in parts) / min(seconds() for _ in range(7))


def _fastest(function: Any, *arguments: jax.Array, times: int = 7) -> float:
    """Seconds of the fastest of several runs; compilation comes before."""
    compiled = jax.jit(function).lower(*arguments).compile()

    def seconds() -> float:
        began = time.perf_counter()
        jax.block_until_ready(compiled(*arguments))
        return time.perf_counter() - began

    return min(seconds() for _ in range(times))


class Ledger(NamedTuple):
    """Bytes on each device, and what it has; `fits` is the verdict."""

    weights: int
    cache: int
    workspace: int
    available: int

    @property
    def total(self) -> int:
        """What must be there at once."""
        return self.weights + self.cache + self.workspace

    @property
    def fits(self) -> bool:
        """Is there room for all of it?"""
        return self.total <= self.available


def ledger(chip: Chip, config: Config, precision: str, context: int, batch: int = 1) -> Ledger:
    """The bytes that one device of `chip` must hold; weights and cache are spread over all."""
    weights = math.ceil(weight_bytes(config, precision) / chip.devices)
    cache = math.ceil(cache_bytes(config, context, batch, chip.dtype) / chip.devices)
    return Ledger(weights, cache, WORKSPACE, chip.memory_bytes)


def read_bytes(
    config: Config, precision: str, context: int = 0, dtype: Any = jnp.bfloat16
) -> float:
    """Bytes that one decoded token reads: one row of the embedding, the chosen experts, everything
    else, and the cache of `context` tokens in `dtype`.
    """
    params = abstract_params(config, precision)
    idle = 1 - config.experts_per_token / config.num_experts
    unread = num_bytes(params.embedding_VD) * (1 - 1 / config.vocab_size)
    for layer in params.layers:
        for field in dataclasses.fields(layer.moe):
            axes = field.name.rsplit("_", 1)[-1]
            if axes[0] == "E" and axes != "E":  # a part per expert; the router's bias is read whole
                unread += idle * num_bytes(getattr(layer.moe, field.name))
    cache = cache_bytes(config, context, dtype=dtype) if context else 0
    return num_bytes(params) - unread + cache


def token_flops(config: Config, context: int = 0) -> float:
    """Multiplications and additions for one decoded token: two for each weight that is read, and
    for each number of a key or a value that is seen, once per query head that reads it.
    """
    heads = config.num_heads * config.head_dim
    seen = sum(min(context, config.window(n) or context) for n in range(config.num_layers))
    return read_bytes(config, "bf16") + 4 * heads * seen  # bf16: two bytes, two operations


class Roofline(NamedTuple):
    """Ceilings on decoded tokens per second: what memory allows, what arithmetic allows."""

    memory: float
    arithmetic: float

    @property
    def tokens_per_second(self) -> float:
        """The lower of the two."""
        return min(self)


def roofline(
    chip: Chip, config: Config, precision: str, context: int = 0, batch: int = 1
) -> Roofline:
    """Ceilings for a batch, in tokens per second of the whole batch.

    Weights are read once for all prompts of a batch, as if all of them chose the same experts: that
    is the most favorable case, and a ceiling has to be one.
    """
    weights = read_bytes(config, precision)
    cache = cache_bytes(config, context, batch, chip.dtype) if context else 0
    memory = batch * chip.devices * chip.bytes_per_second / (weights + cache)
    arithmetic = chip.devices * chip.flops / token_flops(config, context)
    return Roofline(memory, arithmetic)
