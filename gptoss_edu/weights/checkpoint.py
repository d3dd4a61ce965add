"""From a folder of safetensors to `Params`, and back.

What a folder holds is known from its headers (folders.py), the memory is checked against the sum,
and only then are weights read (reading.py).

Source: the checkpoints that OpenAI publishes as openai/gpt-oss-20b and openai/gpt-oss-120b.
"""

from __future__ import annotations

import contextlib
import filecmp
import functools
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gptoss_edu.chips import precision as formats
from gptoss_edu.config import GPT_OSS_20B, Config
from gptoss_edu.cpu.native import BACKENDS, wanted
from gptoss_edu.cpu.tiles import Tiled, split
from gptoss_edu.model import Layer, Model, Params
from gptoss_edu.mxfp4 import Mxfp4
from gptoss_edu.tokenizer import STOP_TOKENS, NoText
from gptoss_edu.weights.drafts import alone_in
from gptoss_edu.weights.files import sync_folder, write_json
from gptoss_edu.weights.folders import CONFIG, DRAFT, KEPT_IDS, find_folder, look
from gptoss_edu.weights.folders import POCKET as POCKET  # also for those who load
from gptoss_edu.weights.folders import read_config as read_config
from gptoss_edu.weights.hub import check_disk
from gptoss_edu.weights.layout import (
    HF_PACKED,
    HF_PLAIN,
    Entry,
    Field,
    places,
    shape_on_disk,
)
from gptoss_edu.weights.mapped import contents, find_converted, is_conversion
from gptoss_edu.weights.reading import Form, read_params
from gptoss_edu.weights.shards import DTYPES, INDEX
from gptoss_edu.weights.writing import Pending, write_shards

PRECISIONS = formats.PRECISIONS
DENSE = ("stored", "int8")
GENERATION = "generation_config.json"
SYNTHETIC = "synthetic.json"  # there only if the weights are random (benchmarks/synthetic.py)
SMALL = (CONFIG, KEPT_IDS, GENERATION, SYNTHETIC)
SHARD = re.compile(r"model(-[0-9a-f]{8})?(-\d{5}-of-\d{5})?\.safetensors")


def load_model(
    path_or_id: str | Path | None = None,
    *,
    precision: str = "auto",
    dense: str = "stored",
    backend: str = "auto",
    mesh: jax.sharding.Mesh | None = None,
    revision: str | None = None,
    token: str | None = None,
    each_layer: Callable[[Layer], Layer] | None = None,
    needs_text: bool = False,
) -> tuple[Model, Params]:
    """Load a checkpoint: (what is not an array, the arrays).

    `path_or_id`: None for the pocket model; a folder in the layout of Hugging Face or in OpenAI's
    `original/`; or a Hub id, "openai/gpt-oss-20b", downloaded once, resumed where it broke off, at
    this `revision` (a branch, tag or commit) and with this `token`. A folder that `python -m
    gptoss_edu convert` wrote is mapped, and so is one that it made of the folder given (mapped.py).

    `precision` (precision.py): "auto" keeps everything as stored. "mxfp4" is the same with dense
    weights in bf16, and refuses experts that are not packed, since packing would change them.
    "fp8" and "int8" recode the experts, "bf16" and "f32" unpack them and cast the rest, too.
    `dense`: "int8" rounds attention and unembedding to 8 bits for the kernels: faster, less exact.

    `backend`: "cpu" multiplies with the C++ kernels (chapter 08), "jax" without; "auto" takes them
    for large models on one CPU. `mesh` spreads every layer over devices as soon as it is read
    (sharding.py). `each_layer` changes every layer before that, while it is plain arrays.

    `Model.tokenizer` is `NoText` where nothing says what text the ids of the vocabulary stand for,
    which is refused before anything is read where somebody `needs_text`. Rows that a fine-tune
    added to the vocabulary are left out, with a warning: see `read_tokenizer`.

    Raises FileNotFoundError for what is missing, ValueError for what is wrong, ConnectionError for
    a Hub out of reach, MemoryError before allocating what does not fit.
    """
    check_options(precision, dense, backend, mesh)
    folder = find_converted(find_folder(path_or_id, revision, token), precision)
    mapped, (config, tokenizer, tensors, layout) = contents(folder), look(folder)
    if needs_text and isinstance(tokenizer, NoText):
        _ = tokenizer.encode  # says why there is none
    backend = "cpu" if dense == "int8" else backend
    form = Form(precision, mesh is None and wanted(backend, config.hidden_size), dense)
    params = read_params(tensors, layout, config, form, each_layer, mesh)
    if contents(folder) != mapped:
        raise ValueError(f"{folder} was converted anew while it was being loaded; load it again")
    dtype = jnp.dtype(jnp.bfloat16 if precision == "bf16" else jnp.float32)
    return Model(config, tokenizer, dtype), params


def check_options(precision: str, dense: str, backend: str, mesh: jax.sharding.Mesh | None) -> None:
    """Raise ValueError for options of `load_model` that are unknown or contradict each other."""
    known = {"precision": PRECISIONS, "dense": DENSE, "backend": BACKENDS}
    for (name, choices), found in zip(known.items(), (precision, dense, backend), strict=True):
        if not isinstance(found, str) or found not in choices:
            raise ValueError(f"{name} is {found!r:.80}, expected one of {', '.join(choices)}")
    against = {"backend='jax'": backend == "jax", "precision='f32'": precision == "f32"}
    against |= {"a mesh": mesh is not None}
    if dense == "int8" and any(against.values()):
        found = " and ".join(name for name, there in against.items() if there)
        raise ValueError(
            f"dense='int8' rounds bfloat16 weights for the kernels of this CPU, but found {found};"
            " leave out one or the other"
        )
    if backend == "cpu" and mesh is not None:
        raise ValueError(
            "backend='cpu' multiplies on this CPU alone, but found a mesh; leave out one or the"
            " other"
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

    All or nothing, see `replacing`: a checkpoint that was in the folder is replaced, other files
    and the folder itself stay as they are.

    Raises ValueError for shapes that are not those of `config`, for a dtype that safetensors files
    of GPT-OSS do not hold, and for the folder of a conversion, OSError before writing to a disk
    that is too full.
    """
    folder = Path(folder).expanduser()
    tensors = pending_tensors(params, config)
    packed = isinstance(params.layers[0].moe.w_gate_up_EDP, Mxfp4 | Tiled)
    dtype = str(params.embedding_VD.dtype)
    small = side_files(config, kept_ids, dtype=dtype, packed=packed)
    size = sum(tensor.num_bytes for tensor in tensors.values())
    with replacing(folder, size) as (draft, stem):
        write_shards(draft, tensors, shard_bytes, stem=stem)
        for name, content in small.items():
            write_json(draft / name, content)


def pending_tensors(params: Params, config: Config) -> dict[str, Pending]:
    """Every tensor of the Hugging Face layout, with a function that yields it in disk order."""
    packed = isinstance(params.layers[0].moe.w_gate_up_EDP, Mxfp4 | Tiled)
    layout = HF_PACKED if packed else HF_PLAIN
    names = {dtype: name for name, dtype in DTYPES.items()}
    tensors = {}
    for layer in (None, *range(config.num_layers)):
        for field, entry in places(layout, layer):
            leaf: Any = params if layer is None else params.layers[layer]
            for name in field.path:
                halves = isinstance(leaf, Tiled) and field.half
                leaf = split(leaf)[name] if halves else getattr(leaf, name)
            of_layer = "" if layer is None else f" of layer {layer}"
            if leaf.shape != field.shape(config):
                raise ValueError(
                    f"{field}{of_layer} has shape {leaf.shape}, expected"
                    f" {field.shape(config)} as the configuration says"
                )
            dtype = leaf.tiles.dtype if isinstance(leaf, Tiled) else leaf.dtype
            if dtype not in names:
                raise ValueError(f"{field} is {dtype}, expected {', '.join(map(str, names))}")
            shape = shape_on_disk(field, entry, config)
            values = functools.partial(disk_order, leaf, field, entry, shape)
            tensors[entry.name] = Pending(names[dtype], shape, values)
    return tensors


def disk_order(leaf: jax.Array, field: Field, entry: Entry, shape: tuple[int, ...]) -> np.ndarray:
    """A field's values with the axes of its `Entry`: the inverse of `read`."""
    order = [field.axes.index(letter) for letter in "".join(entry.axes)]
    return np.asarray(leaf).transpose(order).reshape(shape)


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


@contextlib.contextmanager
def replacing(folder: Path, size: int) -> Iterator[tuple[Path, str]]:
    """A draft inside `folder` for a new checkpoint of `size` bytes, and how the names of its shards
    shall begin. Its files take their places at the end, if all went well.

    So a folder keeps its inode, its mode, whoever stands in it and what else lies there. Whoever
    is killed before the end leaves the old checkpoint, and a draft that the next one removes.

    Raises OSError for a disk that is too full, and while another process does the same.
    """
    if is_conversion(folder):
        raise ValueError(f"{folder} is a converted checkpoint, expected another folder to save to")
    for path in folder.iterdir() if folder.is_dir() else ():
        if is_ours(path.name) and path.is_dir():
            raise ValueError(f"{path} is a folder, expected a file or nothing: move it elsewhere")
    check_disk(next(path for path in (folder, *folder.absolute().parents) if path.exists()), size)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder) as alone:
        for left in folder.glob(DRAFT + "*") if alone else ():
            shutil.rmtree(left, ignore_errors=True)
        draft = Path(tempfile.mkdtemp(prefix=DRAFT, dir=folder))
        try:
            taken = any(folder.glob("model-*-of-*.safetensors"))
            yield draft, f"model-{uuid.uuid4().hex[:8]}" if taken else "model"
            take_places(draft, folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Keep other processes from saving here: as `alone_in`. Raises OSError if one is at it."""

    def refuse() -> None:
        raise OSError(
            f"another process is writing to {folder}; wait for it, or choose another folder"
        ) from None

    with alone_in(folder, refuse) as alone:
        yield alone


def take_places(draft: Path, folder: Path) -> None:
    """Give the files of a draft their places, and remove what is left of an older checkpoint.

    One rename decides, that of the index or of the only weight file, if nothing else changes: new
    shards have names of their own. If something does, config.json goes first and comes back last,
    and in between nobody takes what is there for a checkpoint.
    """
    new = {path.name for path in draft.iterdir()}
    old = {path.name for path in folder.iterdir() if is_ours(path.name)}
    same = all(is_same(draft / name, folder / name) for name in SMALL if name in new | old)
    if not same or (INDEX in new) != (INDEX in old):
        (folder / CONFIG).unlink(missing_ok=True)
        sync_folder(folder)
    for names in (new - {INDEX, CONFIG}, new & {INDEX}):
        for name in names:
            os.replace(draft / name, folder / name)
        sync_folder(folder)
    for name in old - new:
        (folder / name).unlink()
    sync_folder(folder)
    os.replace(draft / CONFIG, folder / CONFIG)
    sync_folder(folder)


def is_ours(name: str) -> bool:
    """Is a file of this name part of a checkpoint?"""
    return name in (*SMALL, INDEX) or SHARD.fullmatch(name) is not None


def is_same(one: Path, other: Path) -> bool:
    """Do two files hold the same bytes? No, if one of them is not there."""
    return one.is_file() and other.is_file() and filecmp.cmp(one, other, shallow=False)
