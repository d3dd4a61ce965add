"""The real TPU compiler, asked without a TPU: does a program fit that chip, what does it need?

libtpu holds the compiler and can describe chips that are not there. `compile_decode` hands it the
program that writes one token, `compile_prefill` the one that reads a chunk of a prompt, with the
shapes of a model nobody has loaded, on one device or cut for several. It says what they take, or
refuses. Nothing runs.

libtpu is an optional extra: `pip install gptoss-edu[tpu]`.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from gptoss_edu.cache import empty_cache
from gptoss_edu.chips.fit import Chip
from gptoss_edu.chips.hlo import Messages, bytes_read, collectives
from gptoss_edu.chips.precision import abstract_params
from gptoss_edu.chips.sharding import make_mesh, places, spread
from gptoss_edu.config import Config
from gptoss_edu.generation import chunk_size, decode, read_chunk

DTYPE = jnp.dtype(jnp.bfloat16)  # activations, keys and values on a TPU


class Report(NamedTuple):
    """What the compiler says of a program, for each device: bytes, or why it refuses.

    `read_bytes` and `messages` are counted from the program that it made: bytes read in one run (a
    token, or a chunk of a prompt), and what the devices send each other.
    """

    compiled: bool
    argument_bytes: int
    temp_bytes: int
    reason: str
    read_bytes: int = 0
    messages: Mapping[str, Messages] = MappingProxyType({})


def absent() -> str | None:
    """Why the compiler cannot be asked here, in a sentence; None if it can."""
    if importlib.util.find_spec("libtpu") is None:
        return "the TPU compiler is not installed; get it with: pip install 'gptoss-edu[tpu]'"
    return None


def describe_devices(chip: Chip) -> list[Any]:
    """Compile-only devices of `chip`. Raises ValueError for what is no TPU, ImportError without
    libtpu.
    """
    if chip.topology is None:
        raise ValueError(f"{chip.name} is no TPU: the TPU compiler knows v2, v5e and v6e")
    if reason := absent():
        raise ImportError(reason)
    # Without these libtpu asks the network which TPU it is on, and waits, or takes a lock that is
    # meant for whoever runs on a TPU.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    from jax.experimental import topologies

    return list(topologies.get_topology_desc(chip.topology, "tpu").devices[: chip.devices])


def compile_decode(
    chip: Chip, config: Config, precision: str, context: int, experts: int = 1
) -> Report:
    """Compile the program that writes one token for one prompt, with room for `context` tokens.

    Weights are cut along all devices of the chip; `experts` of them keep experts whole.
    """
    token_B = jax.ShapeDtypeStruct((1,), jnp.int32)
    params, cache, (token_B,) = _arguments(chip, config, precision, context, experts, token_B)
    return _compile(decode.lower(params, token_B, cache, config=config, dtype=DTYPE))


def compile_prefill(
    chip: Chip, config: Config, precision: str, context: int, experts: int = 1
) -> Report:
    """Compile the program that reads one chunk of a prompt, as long as `context` lets it be."""
    chunk_BT = jax.ShapeDtypeStruct((1, chunk_size(config, 1, context)), jnp.int32)
    last_BD = jax.ShapeDtypeStruct((1, config.hidden_size), DTYPE)
    params, cache, rest = _arguments(chip, config, precision, context, experts, chunk_BT, last_BD)
    chunk_BT, last_BD = rest
    return _compile(read_chunk.lower(params, chunk_BT, cache, last_BD, config=config, dtype=DTYPE))


def _arguments(
    chip: Chip, config: Config, precision: str, context: int, experts: int, *rest: Any
) -> tuple[Any, Any, Any]:
    """Weights, cache and what is whole on every device, as shapes that know their place."""
    mesh = make_mesh(chip.devices // experts, experts, describe_devices(chip))
    whole = NamedSharding(mesh, PartitionSpec())

    def placed(leaf: Any, place: Any) -> Any:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)

    params = abstract_params(config, precision)
    params = spread(jax.tree.map(placed, params, places(params, mesh)), mesh)
    cache = jax.eval_shape(lambda: empty_cache(config, 1, context, DTYPE))
    cache = jax.tree.map(placed, cache, places(cache, mesh))
    return params, cache, [placed(leaf, whole) for leaf in rest]


def _compile(lowered: Any) -> Report:
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return Report(False, 0, 0, _refusal(str(error)))
    memory, text = compiled.memory_analysis(), compiled.as_text()
    used = memory.argument_size_in_bytes, memory.temp_size_in_bytes
    told = "compiled by the TPU compiler; not run"
    return Report(True, *used, told, bytes_read(text), collectives(text))


def _refusal(message: str) -> str:
    """The compiler's own sentence on memory, without the table behind it; its words change."""
    found = re.search(
        r"Used ([\d.]+\w) of ([\d.]+\w)|\(([\d.]+\w)\) exceeds .*?\(([\d.]+\w)\)", message
    )
    if found is None:
        return f"the TPU compiler refuses: {' '.join(message.split())[:200]}"
    needed, there = (each for each in found.groups() if each)
    return f"the TPU compiler refuses: the program needs {needed} of memory, there are {there}"
