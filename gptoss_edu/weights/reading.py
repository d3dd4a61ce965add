"""From the tensors of a checkpoint to `Params`: one at a time, each straight into the array that
the model will use.

Whatever a file's order of axes is, the name map (layout.py) says it, and the transpose follows from
the letters. What the array shall be like, its `Form`, is asked for once and the same for all.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from gptoss_edu.attention import Attention
from gptoss_edu.chips.precision import recode
from gptoss_edu.chips.sharding import shard
from gptoss_edu.config import Config
from gptoss_edu.cpu.tiles import Tiled, join, round_to_int8, tile_layer, to_tiles
from gptoss_edu.model import Layer, Params
from gptoss_edu.moe import Moe
from gptoss_edu.mxfp4 import BLOCK, Mxfp4
from gptoss_edu.system import available_memory, cores
from gptoss_edu.weights.layout import Entry, Field, Layout, places, tiled_shape
from gptoss_edu.weights.mapped import SAME_BYTES
from gptoss_edu.weights.progress import bar
from gptoss_edu.weights.shards import DTYPES, Tensor, check_numbers, map_array

T = TypeVar("T")
EXPERTS = ("w_gate_up_EDP", "w_down_EFD")
SCALED = ("fp8", "int8")  # precisions of the experts alone: one byte each, and a scale per output
ROUTER = Field("w_router_DE", "moe")
LOOKED_AT = 2**21  # bytes of a tensor whose numbers are looked at before they are used


class Form(NamedTuple):
    """What the weights shall be: `precision` by name (see `load_model`); `tiles` for the kernels,
    where they can be; `dense` "stored", or "int8" for tiles that are rounded.
    """

    precision: str = "auto"
    tiles: bool = False
    dense: str = "stored"

    def recodes(self, field: Field) -> bool:
        """Will this be decoded once it is read, and kept in another format?"""
        unpacks = bool(field.half) and self.precision not in SAME_BYTES
        return field.name in EXPERTS and (unpacks or self.precision in SCALED)

    def dtype(self, field: Field, stored: np.dtype) -> np.dtype:
        """The dtype in which a field of dtype `stored` is read. Packed bytes stay bytes."""
        if field.half or self.recodes(field) or self.precision == "auto":
            return stored
        return np.dtype(jnp.float32 if self.precision == "f32" else jnp.bfloat16)

    def tiled_shape(self, stored: str, field: Field, config: Config) -> tuple[int, ...] | None:
        """The shape in tiles of a field whose tensor has this dtype; None where there shall be no
        tiles, or can be none.
        """
        dtype = self.dtype(field, DTYPES[stored])
        fits = not self.recodes(field) and dtype in (jnp.uint8, jnp.bfloat16)
        return tiled_shape(field, config) if self.tiles and fits else None

    def rounds(self, field: Field) -> bool:
        """Will a field that lies in tiles be rounded? The router, which is small, never is."""
        return self.dense == "int8" and not field.half and field != ROUTER


def read_params(
    tensors: dict[str, Tensor],
    layout: Layout,
    config: Config,
    form: Form,
    each_layer: Callable[[Layer], Layer] | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> Params:
    """Read all weights, one tensor at a time, after making sure that they fit.

    JAX works behind our back: without waiting until it is `ready` at each step, inputs of layers
    that are still to be cast or unpacked would pile up in memory.

    Embedding and unembedding come first. A tensor is in memory twice while it is copied from its
    file; theirs are larger than a layer, but at that time nothing else is there.
    """
    if form.precision == "mxfp4" and not any(field.half for field in layout):
        raise ValueError(
            "precision 'mxfp4' needs experts that are packed on disk, but these are stored"
            " unpacked, and packing them now would change the model's numbers; use precision"
            " 'auto' or 'bf16', or the packed checkpoint"
        )
    need = bytes_needed(tensors, layout, config, form, copied=each_layer is not None, mesh=mesh)
    check_memory(*need)

    def place(part: T) -> T:
        placed: T = part if mesh is None else shard(part, mesh)
        return ready(placed)

    # Whoever converts layers knows plain ones: these are cut into tiles afterwards.
    read_as = form if each_layer is None else form._replace(tiles=False)

    def read_layer(number: int) -> Layer:
        layer = in_precision(build_layer(read_group(number, read_as)), form.precision)
        if each_layer is not None:
            layer = each_layer(layer)
            layer = tile_layer(layer, form.dense) if form.tiles else layer
        return place(layer)

    with progress(tensors, layout, config) as shown:
        read_group = functools.partial(read_fields, tensors, layout, config, shown)
        top = {field.name: array for field, array in read_group(None, form).items()}
        params = place(Params(layers=(), **top))
        del top
        layers = tuple(map(read_layer, range(config.num_layers)))
    return dataclasses.replace(params, layers=layers)


def ready(tree: T) -> T:
    """The same tree, once JAX has computed all of its arrays."""
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf, jax.Array):
            leaf.block_until_ready()
    return tree


def progress(tensors: dict[str, Tensor], layout: Layout, config: Config) -> tqdm[Any]:
    """A bar for the bytes of all tensors that are read."""
    groups = (None, *range(config.num_layers))
    used = {entry.name for layer in groups for _, entry in places(layout, layer)}
    total = sum(tensors[name].num_bytes for name in used)
    return bar(total, "loading")


def read_fields(
    tensors: dict[str, Tensor], layout: Layout, config: Config, shown: tqdm[Any],
    layer: int | None, form: Form,
) -> dict[Field, Any]:  # fmt: skip
    """The fields of one layer, or of what belongs to no layer."""
    arrays = {}
    for field, entry in places(layout, layer):
        tensor = tensors[entry.name]
        arrays[field] = read(tensor, field, entry, config, form)
        shown.update(math.prod(arrays[field].shape) * DTYPES[tensor.dtype].itemsize)
    return arrays


def looked_at(tensor: Tensor, field: Field, entry: Entry) -> np.ndarray:
    """A tensor, mapped. Refuses numbers that are none where looking costs nothing: in norms,
    biases, sinks and router, and in the scales, which lie in a sixteenth of the bytes. Of a
    conversion all were looked at when it was written.
    """
    stored, scales = map_array(tensor), field.half == "scales"
    if not entry.own and (scales or tensor.num_bytes <= LOOKED_AT):
        check_numbers(stored, "scales" if scales else tensor.dtype, entry.name, tensor.path)
    return stored


def read(tensor: Tensor, field: Field, entry: Entry, config: Config, form: Form) -> Any:
    """One field: map its tensor, cut out its part, transpose it, copy to the device, cast.

    JAX is handed the transposed view itself and copies it in cache-sized squares, 2 GB/s on two
    cores, with nothing in between; tiles NumPy fills faster, and JAX adopts them. Mapped pages of a
    converted checkpoint it adopts as they are.
    """
    tiles = form.tiled_shape(tensor.dtype, field, config)
    if entry.tiles:
        view = map_array(tensor)
        if not tiles:
            view = aligned_copy(view.swapaxes(-3, -2)).reshape(field.shape(config))
    else:
        view = transposed(looked_at(tensor, field, entry), field, entry, config)
        if tiles:
            view = aligned_copy(to_tiles(view, tiles))
        elif view.flags.c_contiguous and not entry.own:
            view = aligned_copy(view)
    array = jax.device_put(view).block_until_ready()
    del view  # unmaps the file, unless JAX adopted it
    target = form.dtype(field, array.dtype)
    array = array if array.dtype == target else array.astype(target).block_until_ready()
    if not tiles:
        return array
    tiled = Tiled(array, None, field.shape(config))
    return ready(round_to_int8(tiled)) if form.rounds(field) else tiled


def transposed(view: np.ndarray, field: Field, entry: Entry, config: Config) -> np.ndarray:
    """A view of a mapped tensor with the field's axes in the order that they have in memory."""
    sizes, on_disk = field.sizes(config), "".join(entry.axes)
    lengths = [math.prod(sizes[letter] for letter in axis) for axis in entry.stack]
    if lengths:
        begin = sum(lengths[: entry.part])
        view = view[begin : begin + lengths[entry.part]]
    view = view.reshape([sizes[letter] for letter in on_disk])
    return view.transpose([on_disk.index(letter) for letter in field.axes])


def aligned_copy(view: np.ndarray) -> np.ndarray:
    """A copy that JAX can adopt without copying it again.

    On CPU, JAX adopts contiguous arrays that start at a multiple of 64 bytes and copies others. It
    would adopt mapped pages, too, and then the weights would change when the file does.

    NumPy asks Linux for pages of 2 MB; most of the time then goes into the transpose, so all cores
    share it.
    """
    raw = np.empty(view.nbytes + 64, np.uint8)
    begin = -raw.ctypes.data % 64
    copy = raw[begin : begin + view.nbytes].view(view.dtype).reshape(view.shape)
    pieces = min(len(view), 4 * cores())
    pairs = zip(np.array_split(copy, pieces), np.array_split(view, pieces), strict=True)
    with ThreadPoolExecutor(cores()) as pool:
        list(pool.map(lambda pair: np.copyto(*pair), pairs))
    return copy


def build_layer(arrays: dict[Field, Any]) -> Layer:
    """One layer from its fields; pairs of blocks and scales become `Mxfp4`."""
    parts: dict[str, dict[str, Any]] = {"attention": {}, "moe": {}}
    pairs: dict[str, dict[str, Any]] = {}
    for field, array in arrays.items():
        if field.half:
            pairs.setdefault(field.name, {})[field.path[-1]] = array
        else:
            parts[field.part][field.name] = array
    for name, pair in pairs.items():
        in_tiles = isinstance(pair["blocks_EJUO"], Tiled)
        w: Any = join(pair["blocks_EJUO"], pair["scales_EJO"]) if in_tiles else Mxfp4(**pair)
        parts["moe"][name] = w
    return Layer(Attention(**parts["attention"]), Moe(**parts["moe"]))


_recode = jax.jit(recode, static_argnames="precision")


def in_precision(layer: Layer, precision: str) -> Layer:
    """A layer as it was read, with its experts in the precision; all else has it already."""
    experts = {name: getattr(layer.moe, name) for name in EXPERTS}
    for name, w in experts.items():
        if precision in SCALED or (precision not in SAME_BYTES and isinstance(w, Mxfp4)):
            experts[name] = ready(_recode(w, precision=precision))
    return dataclasses.replace(layer, moe=dataclasses.replace(layer.moe, **experts))


# --- bytes ---


def is_mapped(tensor: Tensor, field: Field, entry: Entry, config: Config, form: Form) -> bool:
    """Will the array be the file's own pages? On a CPU, if it lies on disk as in memory."""
    stored, tiles = DTYPES[tensor.dtype], form.tiled_shape(tensor.dtype, field, config)
    keeps = not form.recodes(field) and form.dtype(field, stored) == stored
    same = entry.own and entry.tiles == tiles and not (tiles and form.rounds(field))
    return keeps and same and jax.devices()[0].platform == "cpu"


def bytes_of(tensor: Tensor, field: Field, config: Config, form: Form) -> int:
    """Bytes that a field takes in this form."""
    shape = field.shape(config)
    count = math.prod(shape)
    if form.recodes(field):  # a byte holds two weights, and their scales go
        count = {"blocks": 2 * count, "scales": 0}.get(field.half, count)
        if form.precision in SCALED:
            return count and count + 4 * shape[0] * shape[-1]
        return count * (4 if form.precision == "f32" else 2)
    if form.rounds(field) and form.tiled_shape(tensor.dtype, field, config):
        return count + 2 * count // BLOCK  # and a scale of two bytes for each block
    return count * form.dtype(field, DTYPES[tensor.dtype]).itemsize


def bytes_needed(
    tensors: dict[str, Tensor], layout: Layout, config: Config, form: Form,
    *, copied: bool = False, mesh: jax.sharding.Mesh | None = None,
) -> tuple[int, int]:  # fmt: skip
    """(bytes of weights that stay where JAX puts arrays, bytes of a layer while it is loaded).

    Mapped pages are not counted: the system takes them back when it needs memory. What goes to a
    mesh is copied, and so are layers that are `copied`, since somebody converts them, where they
    are cut into tiles afterwards. Before it is cut, what belongs to no layer is there as a whole.
    """

    def in_memory(layer: int | None, form: Form) -> int:
        total, may_map = 0, mesh is None and not (copied and form.tiles and layer is not None)
        for field, entry in places(layout, layer):
            tensor = tensors[entry.name]
            if not (may_map and is_mapped(tensor, field, entry, config, form)):
                total += bytes_of(tensor, field, config, form)
        return total

    top, layer = in_memory(None, form), in_memory(0, form)
    weights = top + config.num_layers * layer
    as_read = form._replace(precision="auto") if form.precision in SCALED else form
    return max(top, math.ceil(weights * share(mesh))), max(layer, in_memory(0, as_read))


def share(mesh: jax.sharding.Mesh | None) -> float:
    """The part of all weights that stays where JAX puts arrays: on its first device, or in this
    machine's memory, which all its CPU devices share.
    """
    if mesh is None:
        return 1.0
    cpu = mesh.devices.flat[0].platform == "cpu"
    return (len(mesh.local_devices) if cpu else 1) / mesh.size


def check_memory(weights: int, layer: int) -> None:
    """Refuse with MemoryError, before anything is allocated, what the default device cannot hold.

    Linux would rather let the allocation succeed and kill the process when the pages are touched.
    """
    available, where = available_memory()
    if available is not None and weights + layer > available:
        raise MemoryError(
            f"too little memory: {where} has {available / 2**30:.2f} GiB available, but this"
            f" checkpoint needs {(weights + layer) / 2**30:.2f} GiB in this precision"
            f" ({weights / 2**30:.2f} for the weights, and one layer while loading). On a CPU, run"
            " `python -m gptoss_edu convert FOLDER` once: with precision 'auto' its result is read"
            " from disk as it is needed, in less memory than it has bytes. Or free some memory"
        )
