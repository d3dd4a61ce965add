"""The real TPU compiler, asked without a TPU: does a program fit that chip, what does it need?

libtpu holds the compiler and can describe chips that are not there. `compile_decode` hands it the
program that writes one token, with the shapes of a model nobody has loaded, and reads what it says:
bytes of arguments and temporaries, or its refusal. Nothing runs.

libtpu is an optional extra: `pip install gptoss-edu[tpu]`.
"""

from __future__ import annotations

import importlib.util
import os
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gptoss_edu.cache import empty_cache
from gptoss_edu.config import Config
from gptoss_edu.fit import Chip
from gptoss_edu.generate import _decode
from gptoss_edu.precision import abstract_params


class Report(NamedTuple):
    """What the compiler says of a program: bytes per device, or why it refuses."""

    compiled: bool
    argument_bytes: int
    temp_bytes: int
    reason: str


def absent() -> str | None:
    """Why the compiler cannot be asked here, in a sentence; None if it can."""
    if importlib.util.find_spec("libtpu") is None:
        return "the TPU compiler is not installed; get it with: pip install 'gptoss-edu[tpu]'"
    return None


def describe_device(chip: Chip) -> Any:
    """A compile-only device of `chip`. Raises ValueError for what is no TPU, ImportError without
    libtpu.
    """
    if chip.topology is None:
        raise ValueError(f"{chip.name} is no TPU: the TPU compiler knows v2, v5e and v6e")
    if reason := absent():
        raise ImportError(reason)
    # Without these libtpu asks the network which TPU it is on, and waits.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    from jax.experimental import topologies

    return topologies.get_topology_desc(chip.topology, "tpu").devices[0]


def compile_decode(chip: Chip, config: Config, precision: str, context: int) -> Report:
    """Compile the decoding step of batch one for a single device of `chip`; activations and cache
    are bfloat16.
    """
    sharding = jax.sharding.SingleDeviceSharding(describe_device(chip))

    def on_chip(tree: Any) -> Any:
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
        )

    cache = jax.eval_shape(lambda: empty_cache(config, 1, context, jnp.bfloat16))
    token_B = jax.ShapeDtypeStruct((1,), jnp.int32)
    arguments = on_chip((abstract_params(config, precision), token_B, cache))
    lowered = _decode.lower(*arguments, config=config, dtype=jnp.dtype(jnp.bfloat16))
    try:
        memory = lowered.compile().memory_analysis()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return Report(False, 0, 0, _refusal(str(error)))
    used = memory.argument_size_in_bytes, memory.temp_size_in_bytes
    return Report(True, *used, "compiled by the TPU compiler; not run")


def _refusal(message: str) -> str:
    """The compiler's own sentence on memory, without the table behind it."""
    found = re.search(r"Used ([\d.]+\w) of ([\d.]+\w)", message)
    if found is None:
        return f"the TPU compiler refuses: {' '.join(message.split())[:200]}"
    return f"the TPU compiler refuses: the program needs {found[1]} of memory, there are {found[2]}"
