"""From the tensors of a checkpoint to `Params`: one at a time, each straight into the array that
the model will use.

Whatever a file's order of axes is, the name map (layout.py) says it, and the turn follows from the
letters. What the array shall be like, its `Form`, is asked for once and the same for all.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from gptoss_edu.attention import Attention
from gptoss_edu.config import Config
from gptoss_edu.cpu.tiles import Tiled, join, round_to_int8, tile_layer, tiled_shape, to_tiles
from gptoss_edu.model import Layer, Params
from gptoss_edu.moe import Moe
from gptoss_edu.mxfp4 import BLOCK, Mxfp4
from gptoss_edu.system import available_memory, cores
from gptoss_edu.weights.layout import (
    MXFP4_FIELDS,
    Entry,
    Layout,
    is_own,
    is_packed,
    is_tiled,
    places,
    sizes_of,
)
from gptoss_edu.weights.mapped import SAME_BYTES
from gptoss_edu.weights.shards import DTYPES, Tensor, map_array


class Form(NamedTuple):
    """What the weights shall be: `precision` by name (see `load_model`); `tiles` for the kernels,
    where they can be; `dense` "stored", or "int8" for tiles that are rounded.
    """

    precision: str = "auto"
    tiles: bool = False
    dense: str = "stored"

    def dtype(self, stored: Any) -> Any:
        """The dtype in which a tensor of dtype `stored` is kept. Packed bytes stay bytes."""
        if stored == jnp.uint8 or self.precision == "auto":
            return jnp.dtype(stored)
        return jnp.dtype(jnp.float32 if self.precision == "f32" else jnp.bfloat16)

    def keeps_packed(self) -> bool:
        """Do packed experts stay packed?"""
        return self.precision in SAME_BYTES

    def tiled_shape(
        self, tensor: Tensor, field: str, sizes: dict[str, int]
    ) -> tuple[int, ...] | None:
        """The shape of this field in tiles; None where there shall be none, or can be none."""
        packed = is_packed(field)
        fits = self.keeps_packed() if packed else self.dtype(DTYPES[tensor.dtype]) == jnp.bfloat16
        return tiled_shape(field, sizes) if self.tiles and fits else None


AS_STORED = Form()


def read_params(
    tensors: dict[str, Tensor],
    layout: Layout,
    config: Config,
    form: Form,
    each_layer: Callable[[Layer], Layer] | None = None,
    send: Callable[[Any], Any] | None = None,
) -> Params:
    """Read all weights, one tensor at a time, after making sure that they fit.

    JAX works behind our back: without `block_until_ready` at each step, inputs of layers that are
    still to be cast or unpacked would pile up in memory.

    Embedding and unembedding come first. A tensor is in memory twice while it is copied from its
    file; theirs are larger than a layer, but at that time nothing else is there.
    """
    if form.precision == "mxfp4" and not any(is_packed(field) for field in layout):
        raise ValueError(
            "precision 'mxfp4' needs experts that are packed on disk, but these are stored"
            " unpacked, and packing them now would change the model's numbers; use precision"
            " 'auto' or 'bf16', or the packed checkpoint"
        )
    weights, layer = bytes_needed(tensors, layout, config, form, copied=each_layer is not None)
    if send is not None:
        weights -= config.num_layers * layer  # those are gone as soon as they are read
    check_memory(weights, layer)
    away = send or (lambda part: part)
    # Whoever converts layers knows plain ones: these are cut into tiles afterwards.
    read_as = form if each_layer is None else form._replace(tiles=False)

    def read_layer(number: int) -> Layer:
        layer = build_layer(read_group(number, read_as), form)
        if each_layer is not None:
            layer = tile_layer(each_layer(layer), form.dense) if form.tiles else each_layer(layer)
        return jax.block_until_ready(away(layer))

    with progress(tensors, layout, config) as bar:
        read_group = functools.partial(read_fields, tensors, layout, sizes_of(config), bar)
        top = away(Params(layers=(), **read_group(None, form)))
        layers = tuple(map(read_layer, range(config.num_layers)))
    return dataclasses.replace(top, layers=layers)


def progress(tensors: dict[str, Tensor], layout: Layout, config: Config) -> tqdm:
    """A bar for the bytes of all tensors that are read."""
    groups = (None, *range(config.num_layers))
    used = {entry.name for layer in groups for _, entry in places(layout, layer)}
    total = sum(tensors[name].num_bytes for name in used)
    return tqdm(
        total=total, unit="B", unit_scale=True, desc="loading", delay=2, disable=None, leave=False
    )


def read_fields(
    tensors: dict[str, Tensor], layout: Layout, sizes: dict[str, int], bar: tqdm,
    layer: int | None, form: Form,
) -> dict[str, Any]:  # fmt: skip
    """The fields of one layer, or of what belongs to no layer."""
    arrays = {}
    for field, entry in places(layout, layer):
        tensor = tensors[entry.name]
        arrays[field] = read(tensor, field, entry, sizes, form)
        bar.update(math.prod(arrays[field].shape) * DTYPES[tensor.dtype].itemsize)
    return arrays


def read(tensor: Tensor, field: str, entry: Entry, sizes: dict[str, int], form: Form) -> Any:
    """One field: map its tensor, cut out its part, turn its axes, copy to the device, cast.

    JAX is handed the turned view itself and copies it in cache-sized squares, 2 GB/s on two cores,
    with nothing in between; tiles NumPy fills faster, and JAX adopts them. Mapped pages of a
    converted checkpoint it adopts as they are.
    """
    shape = tuple(sizes[letter] for letter in field.rsplit("_", 1)[-1])
    tiles = form.tiled_shape(tensor, field, sizes)
    if is_tiled(entry):
        view = map_array(tensor)
        view = view if tiles else aligned_copy(view.swapaxes(-3, -2)).reshape(shape)
    else:
        view = turned(tensor, field, entry, sizes)
        if tiles:
            view = aligned_copy(to_tiles(view, tiles))
        elif view.flags.c_contiguous and not is_own(field, entry):
            view = aligned_copy(view)
    array = jax.block_until_ready(jax.device_put(view))
    del view  # unmaps the file, unless JAX adopted it
    target = form.dtype(array.dtype)
    array = array if array.dtype == target else jax.block_until_ready(array.astype(target))
    if not tiles:
        return array
    tiled = Tiled(array, None, shape)
    return jax.block_until_ready(round_to_int8(tiled)) if is_rounded(field, form) else tiled


def is_rounded(field: str, form: Form) -> bool:
    """Will a field that lies in tiles be rounded? The router, which is small, never is."""
    return form.dense == "int8" and not is_packed(field) and field != "moe.w_router_DE"


def turned(tensor: Tensor, field: str, entry: Entry, sizes: dict[str, int]) -> np.ndarray:
    """A view of the file with the field's axes in the order that they have in memory."""
    axes = [axis.split("+") for axis in entry.axes.split()]
    on_disk = "".join(axis[entry.part % len(axis)] for axis in axes)
    in_memory = field.rsplit("_", 1)[-1]
    lengths = [math.prod(sizes[letter] for letter in part) for part in axes[0]]
    begin = sum(lengths[: entry.part])
    view = map_array(tensor)[begin : begin + lengths[entry.part]]
    view = view.reshape([sizes[letter] for letter in on_disk])
    return view.transpose([on_disk.index(letter) for letter in in_memory])


def aligned_copy(view: np.ndarray) -> np.ndarray:
    """A copy that JAX can adopt without copying it again.

    On CPU, JAX adopts contiguous arrays that start at a multiple of 64 bytes and copies others. It
    would adopt mapped pages, too, and then the weights would change when the file does.

    NumPy asks Linux for pages of 2 MB, and one core alone would need most of its time for turning.
    """
    raw = np.empty(view.nbytes + 64, np.uint8)
    begin = -raw.ctypes.data % 64
    copy = raw[begin : begin + view.nbytes].view(view.dtype).reshape(view.shape)
    pieces = min(len(view), 4 * cores())
    pairs = zip(np.array_split(copy, pieces), np.array_split(view, pieces), strict=True)
    with ThreadPoolExecutor(cores()) as pool:
        list(pool.map(lambda pair: np.copyto(*pair), pairs))
    return copy


def build_layer(arrays: dict[str, Any], form: Form = AS_STORED) -> Layer:
    """One layer from its fields; pairs of blocks and scales become `Mxfp4`, or are unpacked."""
    parts: dict[str, dict[str, Any]] = {"attention": {}, "moe": {}}
    pairs: dict[str, dict[str, jax.Array]] = {}
    for field, array in arrays.items():
        if is_packed(field):
            _, name, half = field.split(".")
            pairs.setdefault(name, {})[MXFP4_FIELDS[half.split("_")[0]]] = array
        else:
            part, name = field.split(".")
            parts[part][name] = array
    for name, pair in pairs.items():
        in_tiles = isinstance(pair["blocks_EJUO"], Tiled)
        w: Any = join(pair["blocks_EJUO"], pair["scales_EJO"]) if in_tiles else Mxfp4(**pair)
        if not form.keeps_packed():
            w = jax.block_until_ready(unpack(w, form.dtype(w.dtype)))
        parts["moe"][name] = w
    return Layer(Attention(**parts["attention"]), Moe(**parts["moe"]))


@functools.partial(jax.jit, static_argnames="dtype")
def unpack(w: Mxfp4, dtype: Any) -> jax.Array:
    """Packed experts as one plain array [E, I, O], decoded one expert at a time. Exact."""
    return jax.lax.map(lambda expert: w[expert].astype(dtype), jnp.arange(w.shape[0]))


def is_mapped(tensor: Tensor, field: str, entry: Entry, sizes: dict[str, int], form: Form) -> bool:
    """Will the array be the file's own pages? On a CPU, if it lies on disk as in memory."""
    stored, tiles = DTYPES[tensor.dtype], form.tiled_shape(tensor, field, sizes)
    keeps = form.keeps_packed() if is_packed(field) else form.dtype(stored) == stored
    same = is_tiled(entry) and not is_rounded(field, form) if tiles else is_own(field, entry)
    return keeps and same and jax.devices()[0].platform == "cpu"


def bytes_of(tensor: Tensor, field: str, sizes: dict[str, int], form: Form) -> int:
    """Bytes that a field takes in this form."""
    count = math.prod(sizes[letter] for letter in field.rsplit("_", 1)[-1])
    if is_packed(field) and not form.keeps_packed():  # a byte holds two weights, scales are gone
        return 2 * count * form.dtype(jnp.bfloat16).itemsize if ".blocks" in field else 0
    if is_rounded(field, form) and form.tiled_shape(tensor, field, sizes):
        return count + 2 * count // BLOCK  # and a scale of two bytes for each block
    return count * form.dtype(DTYPES[tensor.dtype]).itemsize


def bytes_needed(
    tensors: dict[str, Tensor], layout: Layout, config: Config, form: Form, copied: bool = False
) -> tuple[int, int]:
    """(bytes of all weights once they are loaded, of these the bytes of one layer).

    Mapped pages are not counted: the system takes them back when it needs memory. Layers that are
    `copied`, since somebody converts them or they are cut into tiles afterwards, are none.
    """
    sizes = sizes_of(config)

    def in_memory(layer: int | None) -> int:
        total = 0
        for field, entry in places(layout, layer):
            tensor, may_map = tensors[entry.name], layer is None or not (copied and form.tiles)
            if not (may_map and is_mapped(tensor, field, entry, sizes, form)):
                total += bytes_of(tensor, field, sizes, form)
        return total

    layer = in_memory(0)
    return in_memory(None) + config.num_layers * layer, layer


def check_memory(weights: int, layer: int) -> None:
    """Refuse with MemoryError, before anything is allocated, what the default device cannot hold.

    Linux would rather let the allocation succeed and kill the process when the pages are touched.
    """
    available, where = available_memory()
    if available is not None and weights + layer > available:
        raise MemoryError(
            f"too little memory: {where} has {available / 2**30:.2f} GiB available, but this"
            f" checkpoint needs {(weights + layer) / 2**30:.2f} GiB in this precision"
            f" ({weights / 2**30:.2f} for the weights, and one layer while loading); free some"
            " memory, or choose precision 'auto' on a checkpoint with packed experts"
        )
