"""From a folder of safetensors to `Params`, and back.

Every name, shape and dtype is checked against the name map (layout.py) from the files' headers, the
memory is checked against the sum, and only then are weights read (reading.py).

Source: the checkpoints that OpenAI publishes as openai/gpt-oss-20b and openai/gpt-oss-120b.
"""

from __future__ import annotations

import functools
import json
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

from gptoss_edu.config import GPT_OSS_20B, Config
from gptoss_edu.cpu.native import wanted
from gptoss_edu.cpu.tiles import Tiled, split
from gptoss_edu.model import Layer, Model, Params
from gptoss_edu.mxfp4 import Mxfp4
from gptoss_edu.tokenizer import STOP_TOKENS, NoText, Tokenizer
from gptoss_edu.weights.hub import check_disk, download
from gptoss_edu.weights.layout import (
    HF_PACKED,
    HF_PLAIN,
    MXFP4_FIELDS,
    check_tensors,
    find_layout,
    places,
    shape_on_disk,
    sizes_of,
)
from gptoss_edu.weights.mapped import contents, find_converted
from gptoss_edu.weights.reading import Form, read_params
from gptoss_edu.weights.shards import (
    DTYPES,
    INDEX,
    Pending,
    find_tensors,
    write_shards,
)

PRECISIONS = ("auto", "mxfp4", "bf16", "f32")
DENSE = ("stored", "int8")
POCKET = Path(__file__).parents[1] / "data" / "pocket"
CONFIG, KEPT_IDS, GENERATION = "config.json", "o200k_ids.json", "generation_config.json"
SYNTHETIC = "synthetic.json"  # there only if the weights are random (benchmarks/synthetic.py)


def load_model(
    path_or_id: str | Path | None = None,
    *,
    precision: str = "auto",
    kernels: str = "auto",
    dense: str = "stored",
    each_layer: Callable[[Layer], Layer] | None = None,
    send: Callable[[Any], Any] | None = None,
) -> tuple[Model, Params]:
    """Load a checkpoint: (what is not an array, the arrays).

    `path_or_id`: None for the pocket model; a folder in the layout of Hugging Face or in OpenAI's
    `original/`; or a Hub id, "openai/gpt-oss-20b", downloaded once, resumed where it broke off.

    `precision`: "auto" keeps everything as stored and computes in float32. "mxfp4" is the same with
    dense weights in bf16; it refuses checkpoints whose experts are not packed, since packing them
    would change the model. "bf16" turns everything to bf16, activations included, and "f32"
    everything to float32; both unpack the experts, which is exact.

    `kernels`: who multiplies with stored weights. "jax" is the pure path; "native" the C++ kernels
    for CPUs (chapter 08), compiled on first use; "auto" takes those for large models on one CPU.
    `dense`: "int8" rounds attention and unembedding to 8 bits while loading, for the kernels alone:
    faster, and no longer exact (benchmarks/README.md says what it loses).

    `each_layer` converts every layer as soon as it is read (chapter 07); `send` takes it to where
    it shall lie, such as a mesh (sharding.py), after a `Params` without layers. Then there are no
    kernels, and memory is checked only for what is under way.

    What `python -m gptoss_edu convert` made of a folder is mapped in its place, on a CPU and where
    `precision` keeps the bytes (mapped.py). The folder that it wrote may be given, too.
    `Model.tokenizer` is `NoText` where nothing says what text the vocabulary's rows stand for.

    Raises FileNotFoundError for what is missing, ValueError for what is wrong, ConnectionError for
    a Hub out of reach, MemoryError before allocating what does not fit.
    """
    check_options(precision, kernels, dense, send)
    folder = find_converted(find_folder(path_or_id), precision)
    mapped = contents(folder)
    config = read_config(folder)
    kernels = "native" if dense == "int8" else kernels
    native = send is None and wanted(kernels, config.hidden_size)
    tensors = find_tensors(folder)
    layout = find_layout(tensors, config)
    check_tensors(tensors, layout, config, folder)
    tokenizer = read_tokenizer(folder, config)
    params = read_params(tensors, layout, config, Form(precision, native, dense), each_layer, send)
    if contents(folder) != mapped:
        raise ValueError(f"{folder} was converted anew while it was being loaded; load it again")
    dtype = jnp.dtype(jnp.bfloat16 if precision == "bf16" else jnp.float32)
    return Model(config, tokenizer, dtype), params


def check_options(precision: str, kernels: str, dense: str, send: Any) -> None:
    """Raise ValueError for options of `load_model` that are unknown or contradict each other."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}, expected one of {', '.join(PRECISIONS)}")
    if dense not in DENSE:
        raise ValueError(f"dense is {dense!r}, expected one of {', '.join(DENSE)}")
    against = {"kernels='jax'": kernels == "jax", "precision='f32'": precision == "f32"}
    against["send"] = send is not None
    if dense == "int8" and any(against.values()):
        found = " and ".join(name for name, there in against.items() if there)
        raise ValueError(
            f"dense='int8' rounds bfloat16 weights for the kernels of this CPU, but found {found};"
            " leave out one or the other"
        )


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


def read_tokenizer(folder: Path, config: Config) -> Tokenizer | NoText:
    """The vocabulary that the embedding's rows stand for; `NoText` where nothing says so."""
    if not (folder / KEPT_IDS).is_file():
        whole = config.vocab_size == GPT_OSS_20B.vocab_size
        return Tokenizer() if whole else NoText(config.vocab_size)
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
    folder = Path(folder).expanduser().resolve()
    tensors = pending_tensors(params, config)
    folder.parent.mkdir(parents=True, exist_ok=True)
    check_disk(folder.parent, sum(tensor.num_bytes for tensor in tensors.values()))
    draft = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.new")
    try:
        draft.mkdir()
        write_shards(draft, tensors, shard_bytes)
        packed = isinstance(params.layers[0].moe.w_gate_up_EDP, Mxfp4 | Tiled)
        dtype = str(params.embedding_VD.dtype)
        for name, content in side_files(config, kept_ids, dtype=dtype, packed=packed).items():
            (draft / name).write_text(json.dumps(content, indent=2) + "\n")
        take_place(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def pending_tensors(params: Params, config: Config) -> dict[str, Pending]:
    """Every tensor of the Hugging Face layout, with a function that yields it in disk order."""
    packed = isinstance(params.layers[0].moe.w_gate_up_EDP, Mxfp4 | Tiled)
    layout = HF_PACKED if packed else HF_PLAIN
    sizes = sizes_of(config)
    names = {dtype: name for name, dtype in DTYPES.items()}
    tensors = {}
    for layer in (None, *range(config.num_layers)):
        for field, entry in places(layout, layer):
            leaf = params if layer is None else params.layers[layer]
            for name in field.split("."):
                half = MXFP4_FIELDS.get(name.split("_")[0])
                in_tiles = half is not None and isinstance(leaf, Tiled)
                leaf = split(leaf)[half] if in_tiles else getattr(leaf, half or name)
            expected = tuple(sizes[letter] for letter in field.rsplit("_", 1)[-1])
            assert leaf.shape == expected, f"layer {layer}: {field} is {leaf.shape}, not {expected}"
            dtype = leaf.tiles.dtype if isinstance(leaf, Tiled) else leaf.dtype
            if dtype not in names:
                raise ValueError(f"{field} is {dtype}, expected {', '.join(map(str, names))}")
            shape = shape_on_disk(entry.axes, sizes)
            values = functools.partial(disk_order, leaf, field, entry.axes, shape)
            tensors[entry.name] = Pending(names[dtype], shape, values)
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
