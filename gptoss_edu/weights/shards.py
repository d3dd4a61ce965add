"""Safetensors on disk: a header that says everything, then bytes.

A file is eight bytes (the header's length n, little endian), n bytes of JSON that give each tensor
a dtype, a shape and a byte range, and the tensors' bytes. So every name, shape and dtype of a 14 GB
checkpoint can be checked by reading a few kilobytes, before anything is allocated. A checkpoint is
one such file or several ("shards") with an index that says which tensor lies where.

The safetensors package reads the same files, and the tests use it as the witness. Here one tensor
is mapped at a time, since a mapped file counts as this process's memory page by page. How files are
written, writing.py says.

Source: the safetensors format description, https://github.com/huggingface/safetensors.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import mmap
import operator
import os
import re
from pathlib import Path
from reprlib import repr as brief  # bounded, whatever a file holds
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from gptoss_edu.weights.files import AGAIN, is_there, once, opened, read_json, visible

INDEX = "model.safetensors.index.json"
DTYPES = {
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
    "F32": np.dtype(np.float32),
    "U8": np.dtype(np.uint8),
}
# Bits of a number of each dtype that the format knows.
BITS = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "BOOL": 8, "U8": 8, "I8": 8, "F8_E8M0": 8}
BITS |= dict.fromkeys(("F8_E5M2", "F8_E4M3", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8)
BITS |= {"U16": 16, "I16": 16, "F16": 16, "BF16": 16, "U32": 32, "I32": 32, "F32": 32}
BITS |= {"U64": 64, "I64": 64, "F64": 64, "C64": 64}
# Bits of the exponent: all ones are infinite, or no number. Of MXFP4's scales 255 is none.
EXPONENT = {"BF16": 0x7F80, "F16": 0x7C00, "F32": 0x7F800000, "scales": 0xFF}
MAX_HEADER = 100_000_000  # bytes, as in the safetensors package: more is a damaged length
MAX_TENSORS = 100_000  # of a file; a 120B with a tensor for each part of an expert has 28,000
PADDING = "padding."  # how names of tensors begin that nobody reads
SHARD = re.compile(r"[^./\\\0][^/\\\0]*\.safetensors")


class Tensor(NamedTuple):
    """Where one tensor lies: a file, a dtype by its safetensors name, a shape, a first byte.

    One that is stored in `parts` has them stacked along a new axis, and then this shape.
    """

    path: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int
    parts: tuple[Tensor, ...] = ()
    axis: int = 0

    @property
    def num_bytes(self) -> int:
        """Bytes on disk."""
        return math.prod(self.shape) * BITS[self.dtype] // 8


def read_header(path: Path) -> dict[str, Tensor]:
    """Name -> Tensor of one file, from its header alone.

    Raises ValueError if this is not a safetensors file, or not all of one: a download that broke
    off has a good header and too few bytes. What the safetensors package refuses is refused.
    """
    shown = visible(path)
    with opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        beginning = file.read(8)
        length = int.from_bytes(beginning, "little")
        if size < 8 or length > min(size - 8, MAX_HEADER):
            raise ValueError(f"{shown} {_no_header(beginning + file.read(12), size, length)}")
        text = file.read(length)
    try:
        header = _parse_header(text)
        entries = sorted((_entry(name, entry), name) for name, entry in header.items())
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{shown}: the header is not a safetensors header ({visible(error, 400)}); {AGAIN}"
        ) from error
    expected = 8 + length + max((end for (_, end, *_), _ in entries), default=0)
    if size != expected:
        state = "truncated" if size < expected else "longer than its header says"
        raise ValueError(
            f"{shown} is {state}: found {size:,} bytes, expected {expected:,}; {AGAIN}"
        )
    tensors, free = {}, 0  # the tensors' bytes follow one another without gap or overlap
    for (begin, end, dtype, shape), name in entries:
        bits = math.prod(shape) * BITS[dtype]
        if begin != free or 8 * (end - begin) != bits:
            raise ValueError(
                f"{shown}: {visible(name, 100)} takes bytes {begin} to {end}, expected {free} to"
                f" {free + bits // 8} for {dtype} of shape {brief(list(shape))}; {AGAIN}"
            )
        tensors[name] = Tensor(path, dtype, shape, 8 + length + begin)
        free = end
    return tensors


def _no_header(beginning: bytes, size: int, length: int) -> str:
    if beginning.startswith(b"version https://git"):
        return (
            f"is a Git LFS pointer of {size} bytes, expected the weights themselves; run"
            " `git lfs pull` in that folder"
        )
    if length <= size - 8:
        return (
            f"is not a safetensors file: found a header of {length:,} bytes, expected at most"
            f" {MAX_HEADER:,}; {AGAIN}"
        )
    return (
        f"is truncated or not a safetensors file: found {size:,} bytes in all, expected a header"
        f" of {length:,}; {AGAIN}"
    )


def _parse_header(text: bytes) -> dict[str, Any]:
    """The header's tensors. Every number in it counts something."""

    def whole(digits: str) -> int:
        if not digits.isdigit() or int(digits) >= 2**64:
            raise ValueError(f"{digits:.30} is not a whole number below 2^64")
        return int(digits)

    def named(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        "".join(name for name, _ in pairs).encode()  # half of a surrogate pair is no character
        return once(pairs)

    header = json.loads(
        text.decode(),
        object_pairs_hook=named, parse_int=whole, parse_float=whole, parse_constant=whole,
    )  # fmt: skip
    if not isinstance(header, dict):
        raise ValueError(f"found {header!r:.80}, expected names of tensors")
    if len(header) > MAX_TENSORS:
        raise ValueError(f"found {len(header):,} tensors, expected {MAX_TENSORS:,} at most")
    about = header.pop("__metadata__", None)
    about = {} if about is None else about
    if not isinstance(about, dict) or not all(isinstance(text, str) for text in about.values()):
        raise ValueError(f"__metadata__ is {about!r:.80}, expected texts by name")
    "".join(about.values()).encode()
    return header


def _entry(name: str, entry: Any) -> tuple[int, int, str, tuple[int, ...]]:
    """(begin, end, dtype, shape) of a tensor, by its entry in the header."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{name} is {entry!r:.80}, expected dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise ValueError(f"{name} has dtype {dtype!r:.80}, expected one of {', '.join(BITS)}")
    for numbers in (shape, offsets):
        if not isinstance(numbers, list) or not all(type(number) is int for number in numbers):
            raise ValueError(f"{name} has {numbers!r:.80}, expected a list of whole numbers")
    if len(offsets) != 2 or any(n >= 2**64 for n in itertools.accumulate(shape, operator.mul)):
        raise ValueError(f"{name} cannot have shape {shape!r:.80} and offsets {offsets!r:.80}")
    return offsets[0], offsets[1], dtype, tuple(shape)


def weight_files(folder: Path) -> list[Path]:
    """What lies in a folder as *.safetensors. Hidden files are others' notes on these: macOS leaves
    a `._model.safetensors` on disks that are not its own.
    """
    return sorted(path for path in folder.glob("*.safetensors") if path.name[0] != ".")


def find_tensors(folder: Path) -> dict[str, Tensor]:
    """Name -> Tensor over all safetensors files of a folder, headers only.

    With an index, index and shards must agree about every tensor, and what it does not name is left
    alone. An index of which no shard is there is a stale one, and counts as none.

    Raises FileNotFoundError for a folder without weights or without a shard that the index names,
    ValueError for everything that contradicts itself.
    """
    index, paths = folder / INDEX, weight_files(folder)
    listed = _read_index(index) if is_there(index) else {}
    shards = sorted({*listed.values()})
    missing = [name for name in shards if not is_there(folder / name)]
    if missing and (not paths or len(missing) < len(shards)):
        others = [visible(path.name, 100) for path in paths if path.name not in shards]
        hint = f" (where {others[0]} is all of the model, delete {INDEX})" if others else ""
        raise FileNotFoundError(
            f"missing shard: {INDEX} expects {visible(missing[0], 100)}, which is not in"
            f" {visible(folder)}; download that file, or the whole checkpoint, again{hint}"
        )
    if not listed or missing:
        if not paths:
            raise FileNotFoundError(
                f"no weights in {visible(folder)}: found no *.safetensors, expected"
                f" model.safetensors or shards with {INDEX}; point to the folder that holds them"
            )
        return _merge([read_header(path) for path in paths])
    tensors = _merge([read_header(folder / name) for name in shards])
    for name in sorted(listed.keys() | tensors.keys()):
        found = tensors[name].path.name if name in tensors else "no shard"
        expected = listed.get(name, "no shard")
        if found != expected:
            raise ValueError(
                f"{visible(index)}: the index puts {visible(name, 100)} in"
                f" {visible(expected, 100)}, but it was found in {visible(found, 100)}; take index"
                " and shards from the same download"
            )
    return tensors


def _read_index(index: Path) -> dict[str, str]:
    content = read_json(index)
    listed = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(listed, dict) or not listed:
        found = brief(content if listed is None else listed)
        raise ValueError(f"{visible(index)} has no readable weight_map, but {found}; {AGAIN}")
    strange = [s for s in listed.values() if not isinstance(s, str) or not SHARD.fullmatch(s)]
    if strange:
        raise ValueError(
            f"{visible(index)}: weight_map must name *.safetensors files of its own folder, found"
            f" {brief(strange[0])}; {AGAIN}"
        )
    return listed


def _merge(headers: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    merged: dict[str, Tensor] = {}
    for name, tensor in (item for header in headers for item in header.items()):
        if name in merged:
            files = (visible(found.path.name, 100) for found in (merged[name], tensor))
            raise ValueError(
                f"{visible(name, 100)} is found twice, in {' and '.join(files)} of"
                f" {visible(tensor.path.parent)}, expected once; remove the file that does not"
                " belong there"
            )
        merged[name] = tensor
    return merged


def map_array(tensor: Tensor) -> np.ndarray:
    """The tensor as a read-only NumPy view of its file; copy out what is to be kept. One that is
    stored in parts is a copy.

    Pages are read as they are touched, and count as this process's memory while they are mapped.
    Mapping one tensor at a time, not the file, lets go of them as soon as the view is dropped.

    Linux is asked for pages of 2 MB, where its file system has them: they come faster from a disk,
    and are found faster in memory.
    """
    if tensor.parts:
        return _stacked(tensor)
    start = tensor.begin - tensor.begin % mmap.ALLOCATIONGRANULARITY
    length = tensor.begin - start + tensor.num_bytes
    with opened(tensor.path) as file:
        pages = mmap.mmap(file.fileno(), length, access=mmap.ACCESS_READ, offset=start)
    with contextlib.suppress(AttributeError, OSError):  # other systems, and kernels without them
        pages.madvise(mmap.MADV_HUGEPAGE)
    count = math.prod(tensor.shape)
    flat = np.frombuffer(pages, DTYPES[tensor.dtype], count, tensor.begin - start)
    return flat.reshape(tensor.shape)


def _stacked(tensor: Tensor) -> np.ndarray:
    shape, axis = tensor.parts[0].shape, tensor.axis
    whole = np.empty((*shape[:axis], len(tensor.parts), *shape[axis:]), DTYPES[tensor.dtype])
    for number, part in enumerate(tensor.parts):
        np.moveaxis(whole, axis, 0)[number] = map_array(part)
    return whole.reshape(tensor.shape)


def count_no_numbers(values: np.ndarray | bytes, kind: str) -> int:
    """How many of these are NaN or infinite. `kind`: a dtype's name, or "scales"."""
    mask = EXPONENT.get(kind)
    if mask is None:  # any half of a byte is a number
        return 0
    bits = np.frombuffer(values, np.uint8 if kind == "scales" else f"<u{BITS[kind] // 8}")
    if kind == "scales" and bits.max(initial=0) < mask:  # the usual case, ten times as fast
        return 0
    return int(np.count_nonzero((bits & mask) == mask))


def check_numbers(values: np.ndarray, kind: str, name: str, path: Path) -> None:
    """Refuse with ValueError weights that are NaN or infinite: every answer would be nonsense."""
    if wrong := count_no_numbers(values, kind):
        raise ValueError(
            f"{visible(path)}: {visible(name, 100)} holds {wrong:,} of {values.size:,} values that"
            f" are NaN or infinite, expected numbers; {AGAIN}, or export the model again"
        )
