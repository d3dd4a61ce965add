"""From a folder of safetensors to `Params`, and back.

Every name, shape and dtype is checked against the name map (layout.py) from the files' headers, the
memory is checked against the sum, and only then are weights read: one tensor at a time, straight
from the file into the array that the model will use.

Source: the checkpoints that OpenAI publishes as openai/gpt-oss-20b and openai/gpt-oss-120b.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import re
import shutil
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from gptoss_edu.attention import Attention
from gptoss_edu.config import GPT_OSS_20B, Config
from gptoss_edu.conversion import SAME_BYTES, contents, find_converted
from gptoss_edu.hub import check_disk, download
from gptoss_edu.layout import (
    HF_PACKED,
    HF_PLAIN,
    MXFP4_FIELDS,
    Entry,
    Layout,
    check_tensors,
    find_layout,
    is_own,
    is_packed,
    places,
    shape_on_disk,
    sizes_of,
)
from gptoss_edu.memory import available_memory
from gptoss_edu.model import Layer, Model, Params
from gptoss_edu.moe import Moe
from gptoss_edu.mxfp4 import Mxfp4
from gptoss_edu.native import unwrap, wanted, wrap_params
from gptoss_edu.shards import (
    DTYPES,
    INDEX,
    Pending,
    Tensor,
    find_tensors,
    map_array,
    write_shards,
)
from gptoss_edu.tokenizer import STOP_TOKENS, Tokenizer

PRECISIONS = ("auto", "mxfp4", "bf16", "f32")
POCKET = Path(__file__).parent / "data" / "pocket"
CONFIG, KEPT_IDS, GENERATION = "config.json", "o200k_ids.json", "generation_config.json"
SYNTHETIC = "synthetic.json"  # there only if the weights are random (benchmarks/synthetic.py)


def load_model(
    path_or_id: str | Path | None = None,
    *,
    precision: str = "auto",
    kernels: str = "auto",
    each_layer: Callable[[Layer], Layer] = lambda layer: layer,
    send: Callable[[Any], Any] | None = None,
) -> tuple[Model, Params]:
    """Load a checkpoint: (what is not an array, the arrays).

    `path_or_id`: None for the pocket model of this package; a folder in the Hugging Face layout
    (one file or shards, experts packed or bf16) or in OpenAI's `original/` layout; or a Hub id,
    "openai/gpt-oss-20b", downloaded once and resumed where it broke off.

    `precision`: "auto" keeps everything as stored and computes in float32. "mxfp4" is the same with
    dense weights in bf16; it refuses checkpoints whose experts are not packed, since packing them
    would change the model. "bf16" turns everything to bf16, activations included, and "f32"
    everything to float32; both unpack the experts, which is exact.

    `kernels`: who multiplies with stored weights. "jax" is the pure path; "native" the C++ kernels
    for CPUs (chapter 08), compiled on first use; "auto" takes those for large models on one CPU.

    `each_layer` converts every layer as soon as it is read (chapter 07); `send` takes it to where
    it shall lie, such as a mesh (sharding.py), after a `Params` without layers. With `send` the
    memory is the caller's to know; the default device needs room for what is under way alone.

    What `python -m gptoss_edu convert` made of a folder is mapped in its place, on a CPU and where
    `precision` keeps the bytes (conversion.py). The folder that it wrote may be given, too.
    `Model.tokenizer` is None where nothing says what text the rows of the vocabulary stand for.

    Raises FileNotFoundError for what is missing, ValueError for what is wrong, ConnectionError for
    a Hub out of reach, MemoryError before allocating what does not fit.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}, expected one of {', '.join(PRECISIONS)}")
    folder = find_converted(find_folder(path_or_id), precision)
    mapped = contents(folder)
    config = read_config(folder)
    native = wanted(kernels, config.hidden_size)
    tensors = find_tensors(folder)
    layout = find_layout(tensors, config)
    check_tensors(tensors, layout, config, folder)
    tokenizer = read_tokenizer(folder, config)
    params = read_params(tensors, layout, config, precision, each_layer, send)
    params = wrap_params(params) if native else params
    if contents(folder) != mapped:
        raise ValueError(f"{folder} was converted anew while it was being loaded; load it again")
    dtype = jnp.dtype(jnp.bfloat16 if precision == "bf16" else jnp.float32)
    return Model(config, tokenizer, precision, dtype), params


def find_folder(path_or_id: str | Path | None) -> Path:
    """The folder with the weights: of the pocket model, on this disk, or from the Hub."""
    if path_or_id is None:
        path_or_id = POCKET
    folder = Path(path_or_id).expanduser()
    if folder.is_file():
        raise ValueError(f"{folder} is a file, expected its folder: pass {folder.parent}")
    if folder.is_dir():
        inner = folder / "original"
        only_inner = not any(folder.glob("*.safetensors*")) and inner.is_dir()
        return inner if only_inner else folder
    if isinstance(path_or_id, str) and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", path_or_id):
        return download(path_or_id)
    raise FileNotFoundError(
        f"there is no folder {str(path_or_id)!r}; expected a folder that holds config.json and"
        " *.safetensors, or a Hub id such as 'openai/gpt-oss-20b'"
    )


def read_config(folder: Path) -> Config:
    """config.json of a checkpoint's folder, in either dialect."""
    return Config.from_dict(_read_json(folder / CONFIG))


def read_tokenizer(folder: Path, config: Config) -> Tokenizer | None:
    """The vocabulary that the embedding's rows stand for; None where nothing says so."""
    if not (folder / KEPT_IDS).is_file():
        return Tokenizer() if config.vocab_size == GPT_OSS_20B.vocab_size else None
    ids = _read_json(folder / KEPT_IDS)
    if not isinstance(ids, list) or len(ids) != config.vocab_size:
        found = f"{len(ids)} ids" if isinstance(ids, list) else f"a {type(ids).__name__}"
        raise ValueError(
            f"{folder / KEPT_IDS} holds {found}, expected a list of {config.vocab_size}, one per"
            " row of the embedding; take it and config.json from the same checkpoint"
        )
    try:
        return Tokenizer(kept_ids=tuple(ids))
    except ValueError as error:
        raise ValueError(f"{folder / KEPT_IDS}: {error}") from error


def _read_json(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no {path.name} in {path.parent}, expected beside the weights;"
            " copy it from where the weights came from"
        )
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); download or copy it again") from error


def read_params(
    tensors: dict[str, Tensor],
    layout: Layout,
    config: Config,
    precision: str,
    each_layer: Callable[[Layer], Layer] = lambda layer: layer,
    send: Callable[[Any], Any] | None = None,
) -> Params:
    """Read all weights, one tensor at a time, after making sure that they fit.

    JAX works behind our back: without `block_until_ready` at each step, inputs of layers that are
    still to be cast or unpacked would pile up in memory.

    Embedding and unembedding come first. A tensor is in memory twice while it is copied from its
    file; theirs are larger than a layer, but at that time nothing else is there.
    """
    if precision == "mxfp4" and not any(is_packed(field) for field in layout):
        raise ValueError(
            "precision 'mxfp4' needs experts that are packed on disk, but these are stored"
            " unpacked, and packing them now would change the model's numbers; use precision"
            " 'auto' or 'bf16', or the packed checkpoint"
        )
    sizes = sizes_of(config)
    weights, layer = bytes_needed(tensors, layout, config, precision)
    if send is not None:
        weights -= config.num_layers * layer  # those are gone as soon as they are read
    check_memory(weights, layer)
    groups = (None, *range(config.num_layers))
    used = {entry.name for layer in groups for _, entry in places(layout, layer)}
    total = sum(tensors[name].num_bytes for name in used)
    bar = tqdm(
        total=total, unit="B", unit_scale=True, desc="loading", delay=2, disable=None, leave=False
    )

    def read_group(layer: int | None) -> dict[str, jax.Array]:
        arrays = {}
        for field, entry in places(layout, layer):
            tensor = tensors[entry.name]
            arrays[field] = read(tensor, field, entry, sizes, precision)
            bar.update(arrays[field].size * DTYPES[tensor.dtype].itemsize)
        return arrays

    away = send or (lambda part: part)
    with bar:
        top = away(Params(layers=(), **read_group(None)))
        layers = tuple(
            jax.block_until_ready(away(each_layer(build_layer(read_group(layer), precision))))
            for layer in groups[1:]
        )
    return dataclasses.replace(top, layers=layers)


def target_dtype(stored: Any, precision: str) -> Any:
    """The dtype in which a tensor of dtype `stored` is kept. Packed bytes stay bytes."""
    if stored == jnp.uint8 or precision == "auto":
        return jnp.dtype(stored)
    return jnp.dtype(jnp.float32 if precision == "f32" else jnp.bfloat16)


def read(
    tensor: Tensor, field: str, entry: Entry, sizes: dict[str, int], precision: str
) -> jax.Array:
    """One field: map its tensor, cut out its part, turn its axes, copy to the device, cast.

    JAX is handed the turned view itself and copies it in cache-sized tiles, 2 GB/s on two cores,
    with nothing in between. Mapped pages of a converted checkpoint it adopts as they are.
    """
    view = turned(tensor, field, entry, sizes)
    if view.flags.c_contiguous and not is_own(field, entry):
        view = aligned_copy(view)
    array = jax.block_until_ready(jax.device_put(view))
    del view  # unmaps the file, unless JAX adopted it
    target = target_dtype(array.dtype, precision)
    return array if array.dtype == target else jax.block_until_ready(array.astype(target))


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
    """
    raw = np.empty(view.nbytes + 64, np.uint8)
    begin = -raw.ctypes.data % 64
    copy = raw[begin : begin + view.nbytes].view(view.dtype).reshape(view.shape)
    np.copyto(copy, view)
    return copy


def build_layer(arrays: dict[str, jax.Array], precision: str) -> Layer:
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
        w: Any = Mxfp4(**pair)
        if precision in ("bf16", "f32"):
            w = jax.block_until_ready(unpack(w, target_dtype(w.dtype, precision)))
        parts["moe"][name] = w
    return Layer(Attention(**parts["attention"]), Moe(**parts["moe"]))


@functools.partial(jax.jit, static_argnames="dtype")
def unpack(w: Mxfp4, dtype: Any) -> jax.Array:
    """Packed experts as one plain array [E, I, O], decoded one expert at a time. Exact."""
    return jax.lax.map(lambda expert: w[expert].astype(dtype), jnp.arange(w.shape[0]))


def is_mapped(field: str, entry: Entry, stored: Any, precision: str) -> bool:
    """Will the array be the file's own pages? On a CPU, if it lies on disk as in memory."""
    keeps = not is_packed(field) or precision in SAME_BYTES
    keeps = keeps and target_dtype(stored, precision) == stored
    return keeps and is_own(field, entry) and jax.devices()[0].platform == "cpu"


def bytes_needed(
    tensors: dict[str, Tensor], layout: Layout, config: Config, precision: str
) -> tuple[int, int]:
    """(bytes of all weights once they are loaded, of these the bytes of one layer).

    Mapped pages are not counted: the system takes them back when it needs memory.
    """
    sizes = sizes_of(config)

    def in_memory(layer: int | None) -> int:
        total = 0
        for field, entry in places(layout, layer):
            stored = DTYPES[tensors[entry.name].dtype]
            count = math.prod(sizes[letter] for letter in field.rsplit("_", 1)[-1])
            if is_mapped(field, entry, stored, precision):
                continue
            if not is_packed(field) or precision in ("auto", "mxfp4"):
                total += count * target_dtype(stored, precision).itemsize
            elif ".blocks" in field:  # a byte holds two weights, and the scales are multiplied in
                total += 2 * count * target_dtype(jnp.bfloat16, precision).itemsize
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


def save_checkpoint(
    params: Params,
    config: Config,
    folder: str | Path,
    *,
    kept_ids: Sequence[int] | None = None,
    shard_bytes: int = 5_000_000_000,
) -> None:
    """Write the Hugging Face layout: packed experts as blocks and scales, the rest as it is.

    `kept_ids`: for a vocabulary that is a subset of o200k_harmony, the id of each row. One file
    up to `shard_bytes`, shards and an index above.

    All or nothing: everything is written beside `folder` and takes its place at the end. A
    checkpoint that was there is replaced; other files in the folder stay.

    Raises ValueError for a dtype that safetensors files of GPT-OSS do not hold, OSError before
    writing to a disk that is too full.
    """
    folder, params = Path(folder).expanduser().resolve(), unwrap(params)
    tensors = pending_tensors(params, config)
    folder.parent.mkdir(parents=True, exist_ok=True)
    check_disk(folder.parent, sum(tensor.num_bytes for tensor in tensors.values()))
    draft = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.new")
    try:
        draft.mkdir()
        write_shards(draft, tensors, shard_bytes)
        packed = isinstance(params.layers[0].moe.w_gate_up_EDP, Mxfp4)
        dtype = str(params.embedding_VD.dtype)
        for name, content in side_files(config, kept_ids, dtype=dtype, packed=packed).items():
            (draft / name).write_text(json.dumps(content, indent=2) + "\n")
        take_place(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def pending_tensors(params: Params, config: Config) -> dict[str, Pending]:
    """Every tensor of the Hugging Face layout, with a function that yields it in disk order."""
    packed = isinstance(params.layers[0].moe.w_gate_up_EDP, Mxfp4)
    layout = HF_PACKED if packed else HF_PLAIN
    sizes = sizes_of(config)
    names = {dtype: name for name, dtype in DTYPES.items()}
    tensors = {}
    for layer in (None, *range(config.num_layers)):
        for field, entry in places(layout, layer):
            leaf = params if layer is None else params.layers[layer]
            for name in field.split("."):
                leaf = getattr(leaf, MXFP4_FIELDS.get(name.split("_")[0], name))
            expected = tuple(sizes[letter] for letter in field.rsplit("_", 1)[-1])
            assert leaf.shape == expected, f"layer {layer}: {field} is {leaf.shape}, not {expected}"
            if leaf.dtype not in names:
                raise ValueError(f"{field} is {leaf.dtype}, expected {', '.join(map(str, names))}")
            shape = shape_on_disk(entry.axes, sizes)
            values = functools.partial(disk_order, leaf, field, entry.axes, shape)
            tensors[entry.name] = Pending(names[leaf.dtype], shape, values)
    return tensors


def disk_order(leaf: jax.Array, field: str, axes: str, shape: tuple[int, ...]) -> np.ndarray:
    """A field's values with the axes of its `Entry`: the inverse of `read`."""
    in_memory, on_disk = field.rsplit("_", 1)[-1], axes.replace(" ", "")
    return np.asarray(leaf).transpose([in_memory.index(c) for c in on_disk]).reshape(shape)


def side_files(
    config: Config, kept_ids: Sequence[int] | None, *, dtype: str, packed: bool
) -> dict[str, Any]:
    """The small JSON files beside the weights: name -> content."""
    if kept_ids is not None and len(kept_ids) != config.vocab_size:
        raise ValueError(
            f"kept_ids has {len(kept_ids)} ids, expected one per row: {config.vocab_size}"
        )
    written = config.to_dict() | {"dtype": dtype}
    if packed:
        dense = ["model.layers.*.self_attn", "model.layers.*.mlp.router"]
        dense += ["model.embed_tokens", "lm_head"]
        written["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": dense}
    files: dict[str, Any] = {CONFIG: written}
    if kept_ids is not None:
        files[KEPT_IDS] = [int(i) for i in kept_ids]
    ids = range(GPT_OSS_20B.vocab_size) if kept_ids is None else list(kept_ids)
    if len(ids) == config.vocab_size:  # otherwise nobody knows which row means "stop"
        stops = [ids.index(stop) for stop in STOP_TOKENS if stop in ids]
        files[GENERATION] = {"do_sample": True, "eos_token_id": stops}
    return files


def take_place(draft: Path, folder: Path) -> None:
    """Put `draft` where `folder` is. Files there that are no part of a checkpoint move over."""
    old = draft.with_suffix(".old")
    if not folder.exists():
        os.rename(draft, folder)
        return
    os.rename(folder, old)
    try:
        os.rename(draft, folder)
    except BaseException:
        os.rename(old, folder)
        raise
    ours = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors")
    for path in old.iterdir():
        known = path.name in (CONFIG, KEPT_IDS, GENERATION, SYNTHETIC, INDEX)
        if not known and not ours.fullmatch(path.name):
            os.rename(path, folder / path.name)
    shutil.rmtree(old)
