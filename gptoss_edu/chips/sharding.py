"""One model on many devices: a letter of an array's name says on which axis of the mesh it lies.

Every array's name ends in the letters of its axes, so one small table decides everything. Query
heads N and key heads K, the gate and up columns P, the experts' hidden F, the vocabulary V and the
outputs O of packed weights are cut into equal parts along the mesh axis "tensor", experts E along
"expert"; every other axis is whole on every device. A mesh may have a third axis, "data": the rows
B of a batch, and of its cache, are cut along it. XLA adds what has to be sent.

One thing XLA does not find by itself: which device has an expert is known only when the router has
spoken, and so it would send all experts to all devices. `Spread` lets each device compute with its
part of those experts that it has, and puts the parts together.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.layout import Format, Layout
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from gptoss_edu.moe import Moe, grouped
from gptoss_edu.shapes import (
    DType,
    Index,
    Loop,
    Weight,
    check_shapes,
    products,
    summary,
)

AXES = {"E": "expert", **dict.fromkeys("NKPFVO", "tensor")}
# Small, and read for every token whoever is chosen: each device keeps all of them.
KEPT = ("w_router_DE", "b_router_E", "b_gate_up_EP", "b_down_ED")
TILE = 64  # rows that one expert takes at once where there are many


def make_mesh(tensor: int = 1, expert: int = 1, devices: Any = None, data: int = 1) -> Mesh:
    """A mesh of tensor x expert devices, `data` times over. Raises ValueError where there are
    fewer.
    """
    found = list(jax.devices() if devices is None else devices)
    size = data * tensor * expert
    if len(found) < size:
        shape = f"{tensor} x {expert}" + (f" x {data}" if data > 1 else "")
        raise ValueError(
            f"a mesh of {shape} needs {size} devices, found {len(found)};"
            " XLA_FLAGS=--xla_force_host_platform_device_count=8, set before jax is imported,"
            " makes eight of one CPU"
        )
    grid = np.array(found[:size])
    if data > 1:
        return Mesh(grid.reshape(data, tensor, expert), ("data", "tensor", "expert"))
    return Mesh(grid.reshape(tensor, expert), ("tensor", "expert"))


def join_hosts(
    address: str | None = None, hosts: int | None = None, host: int | None = None
) -> None:
    """Make the devices of several machines one set: call it on each of them, before anything else.

    `address` is "name:port" of machine 0, `hosts` how many there are, `host` the number of this
    one; on Cloud TPU all three are known without being told. From then on `jax.devices()` lists the
    devices of all machines, `make_mesh` spreads over them, and every machine runs the same program.
    """
    jax.config.update("jax_cpu_collectives_implementation", "gloo")  # CPUs need to be told how
    jax.distributed.initialize(address, hosts, host)


def spec_of(name: str) -> PartitionSpec:
    """Where the axes of an array lie, from the letters of its name.

    An axis of the mesh can be used once per array: the first letter that asks for it has it, and
    biases that every output needs (`b_o_D`) follow the same rule as weights.
    """
    return _spec(name, AXES)


def _spec(name: str, axes: dict[str, str]) -> PartitionSpec:
    taken: set[str] = set()
    spec = []
    for letter in name.rsplit("_", 1)[-1]:
        axis = axes.get(letter)
        spec.append(axis if axis not in taken else None)
        if axis is not None:
            taken.add(axis)
    return PartitionSpec(*spec)


def shardings(tree: Any, mesh: Mesh) -> Any:
    """The same tree with a `NamedSharding` for each array, or shape, that it holds.

    Raises ValueError where a size cannot be divided evenly.
    """
    axes = AXES | ({"B": "data"} if "data" in mesh.shape else {})
    fewer = {letter: axis for letter, axis in axes.items() if letter != "E"}

    def of(path: Any, leaf: Any) -> Any:
        if isinstance(leaf, Spread):
            return jax.tree.map(lambda array: array.sharding, leaf)
        name = _name(path)
        spec = _spec(name, fewer if name in KEPT else axes) if leaf.ndim else PartitionSpec()
        for size, axis in zip(leaf.shape, spec, strict=False):
            if axis is not None and size % mesh.shape[axis]:
                raise ValueError(
                    f"{name} has shape {leaf.shape}: {size} cannot be divided among"
                    f" {mesh.shape[axis]} devices of the mesh axis {axis!r}"
                )
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(of, tree, is_leaf=lambda n: isinstance(n, Spread))


def _name(path: Any) -> str:
    return getattr(path[-1], "name", "") if path else ""


def row_major(name: str, rank: int) -> bool:
    """Must the last axis be innermost in memory, whatever JAX likes better?

    On a TPU the last two axes lie in tiles, and by itself JAX transposes an array so that tiles are
    full. For scales_EJO [32, 90, O] that puts 32 experts into one tile: to read one is to read all.
    An embedding [201088, 2880] would lie by columns, and prefill would copy 1.1 GiB to get rows.
    """
    experts = name.rsplit("_", 1)[-1].startswith("E") and rank > 2
    return experts or name == "embedding_VD"


def places(tree: Any, mesh: Mesh | None) -> Any:
    """`shardings`, and on a TPU the order of axes in memory where it matters (`row_major`). Without
    a mesh all is on JAX's first device.
    """
    if mesh is None:
        alone = SingleDeviceSharding(jax.devices()[0])
        found = jax.tree.map(lambda _: alone, tree)
    else:
        found = shardings(tree, mesh)

    def of(path: Any, leaf: Any, sharding: Any) -> Any:
        on_tpu = next(iter(sharding.device_set)).platform == "tpu"
        if not on_tpu or not row_major(_name(path), leaf.ndim):
            return sharding
        return Format(Layout(major_to_minor=tuple(range(leaf.ndim))), sharding)

    return jax.tree_util.tree_map_with_path(of, tree, found)


def shard(tree: Any, mesh: Mesh | None) -> Any:
    """Weights (all, or a layer) or a cache, cut and sent to the devices of a mesh, experts ready to
    be computed where they are. Without a mesh: sent to JAX's first device.
    """
    return spread(jax.tree.map(_send, tree, places(tree, mesh)), mesh)


def _send(array: jax.Array | np.ndarray, place: Any) -> jax.Array:
    """Other machines' devices cannot be written to: each machine sends its own parts."""
    sharding = place.sharding if isinstance(place, Format) else place
    assert isinstance(sharding, Sharding), f"{place} says no device"
    if sharding.is_fully_addressable:
        sent: jax.Array = jax.device_put(array, place)
        return sent
    if isinstance(array, jax.Array) and array.sharding == sharding:
        return array
    return jax.make_array_from_callback(
        array.shape, sharding, lambda part: np.asarray(array)[part], dtype=array.dtype
    )


def spread(tree: Any, mesh: Mesh | None) -> Any:
    """The same tree with experts as `Spread`, where there is more than one device."""
    if mesh is None or mesh.size == 1:
        return tree

    def of(node: Any) -> Any:
        if not isinstance(node, Moe) or isinstance(node.w_down_EFD, Spread):
            return node
        names = ("w_gate_up_EDP", "w_down_EFD")
        experts: dict[str, Any] = {n: Spread(getattr(node, n), mesh, n) for n in names}
        return dataclasses.replace(node, **experts)

    return jax.tree.map(of, tree, is_leaf=lambda node: isinstance(node, Moe))


def bytes_per_device(tree: Any, mesh: Mesh) -> int:
    """Bytes of the largest share that one device gets of a tree of arrays or shapes."""
    total = 0
    for leaf, sharding in zip(
        jax.tree.leaves(tree), jax.tree.leaves(shardings(tree, mesh)), strict=True
    ):
        total += math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    return total


# --- experts where they are ---


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Spread:
    """Expert weights on a mesh, plain or packed: each device multiplies with those that it holds.

    `name` is the field's, whose letters say how a plain weight is cut.
    """

    w: Weight
    mesh: Mesh = dataclasses.field(metadata={"static": True})
    name: str = dataclasses.field(metadata={"static": True})
    __repr__ = summary

    @property
    def shape(self) -> tuple[int, ...]:
        """(E, I, O) on all devices together."""
        return self.w.shape

    @property
    def dtype(self) -> DType:
        """That of the weights."""
        return self.w.dtype

    def __getitem__(self, which: Index) -> jax.Array:
        """The matrices of some experts, which XLA then has to send."""
        return self.w[which]


@products.register(Spread)
def _(w: Spread, equation: str, x_RI: jax.Array, expert_R: jax.Array, loop: Loop) -> jax.Array:
    """Gate and up stay cut by columns; what comes down is put together, so that every device has
    the whole residual stream. A device leaves out rows whose expert it has not.
    """
    check_shapes(x_RI=x_RI, expert_R=expert_R)
    plain, down = isinstance(w.w, jax.Array), w.name.startswith("w_down")
    tile = 1 if expert_R.size <= w.shape[0] else TILE
    rows = "data" if "data" in w.mesh.shape else None

    def on_one_device(w_EIO: Weight, x_RI: jax.Array, expert_R: jax.Array) -> jax.Array:
        E = w_EIO.shape[0]
        expert_R = expert_R - jax.lax.axis_index("expert") * E
        expert_R = jnp.where((expert_R >= 0) & (expert_R < E), expert_R, E)
        in_tiles = functools.partial(grouped, tile=tile)
        y_RO: jax.Array = jax.lax.psum(
            products(w_EIO, equation, x_RI, expert_R, in_tiles),
            ("expert", "tensor") if plain and down else "expert",
        )
        # Packed weights are cut by outputs, plain ones by inputs.
        if down and not plain and w.mesh.shape["tensor"] > 1:
            y_RO = jax.lax.all_gather(y_RO, "tensor", axis=1, tiled=True)
        return y_RO

    specs = spec_of(w.name)
    if not plain:
        specs = jax.tree_util.tree_map_with_path(lambda p, _: spec_of(_name(p)), w.w)
    inputs, outputs = ("tensor" if plain else None, None) if down else (None, "tensor")
    y_RO: jax.Array = jax.shard_map(
        on_one_device,
        mesh=w.mesh,
        in_specs=(specs, PartitionSpec(rows, inputs), PartitionSpec(rows)),
        out_specs=PartitionSpec(rows, outputs),
        check_vma=False,
    )(w.w, x_RI, expert_R)
    return y_RO
