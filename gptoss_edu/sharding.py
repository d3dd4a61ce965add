"""One model on many devices: a letter of an array's name says on which axis of the mesh it lies.

Every array's name ends in the letters of its axes, so one small table decides everything. Query
heads N and kv heads K, the gate and up columns P, the experts' hidden F, the vocabulary V and the
outputs O of packed weights are cut into equal parts along the mesh axis "tensor", experts E along
"expert"; every other axis is whole on every device. XLA adds what has to be sent.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gptoss_edu.cache import Cache
from gptoss_edu.model import Params

AXES = {"E": "expert", **dict.fromkeys("NKPFVO", "tensor")}


def make_mesh(tensor: int, expert: int = 1, devices: Any = None) -> Mesh:
    """A mesh of tensor x expert devices. Raises ValueError where there are fewer."""
    found = list(jax.devices() if devices is None else devices)
    if len(found) < tensor * expert:
        raise ValueError(
            f"a mesh of {tensor} x {expert} needs {tensor * expert} devices, found {len(found)};"
            " XLA_FLAGS=--xla_force_host_platform_device_count=8, set before jax is imported,"
            " makes eight of one CPU"
        )
    grid = np.array(found[: tensor * expert]).reshape(tensor, expert)
    return Mesh(grid, ("tensor", "expert"))


def spec_of(name: str) -> PartitionSpec:
    """Where the axes of an array lie, from the letters of its name.

    An axis of the mesh can be used once per array: the first letter that asks for it has it, and
    biases that every output needs (`b_o_D`, `b_down_ED`) follow the same rule as weights.
    """
    taken: set[str] = set()
    spec = []
    for letter in name.rsplit("_", 1)[-1]:
        axis = AXES.get(letter)
        spec.append(axis if axis not in taken else None)
        taken.update({axis} - {None})
    return PartitionSpec(*spec)


def shardings(tree: Any, mesh: Mesh) -> Any:
    """The same tree with a `NamedSharding` for each array, or shape, that it holds.

    Raises ValueError where a size cannot be divided evenly.
    """

    def of(path: Any, leaf: Any) -> NamedSharding:
        name = getattr(path[-1], "name", "")
        spec = spec_of(name) if leaf.ndim else PartitionSpec()
        for size, axis in zip(leaf.shape, spec, strict=False):
            if axis is not None and size % mesh.shape[axis]:
                raise ValueError(
                    f"{name} has shape {leaf.shape}: {size} cannot be divided among"
                    f" {mesh.shape[axis]} devices of the mesh axis {axis!r}"
                )
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(of, tree)


def shard(tree: Params | Cache, mesh: Mesh) -> Any:
    """Weights or a cache, cut and sent to the devices of a mesh."""
    return jax.tree.map(jax.device_put, tree, shardings(tree, mesh))


def bytes_per_device(tree: Any, mesh: Mesh) -> int:
    """Bytes of the largest share that one device gets of a tree of arrays or shapes."""
    total = 0
    for leaf, sharding in zip(
        jax.tree.leaves(tree), jax.tree.leaves(shardings(tree, mesh)), strict=True
    ):
        total += math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    return total
