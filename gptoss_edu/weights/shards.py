"""Safetensors on disk: a header that says everything, then bytes.

A file is eight bytes (the header's length n, little endian), n bytes of JSON that give each tensor
a dtype, a shape and a byte range, and the tensors' bytes. So every name, shape and dtype of a 14 GB
checkpoint can be checked by reading a few kilobytes, before anything is allocated. A checkpoint is
one such file or several ("shards") with an index that says which tensor lies where.

The safetensors package reads and writes the same files, and the tests use it as the witness. Here
one tensor is mapped at a time, since a mapped file counts as this process's memory page by page,
and files are written as a stream, since a 20B does not fit into memory twice.

Source: the safetensors format description, https://github.com/huggingface/safetensors.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import math
import mmap
import operator
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

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
MAX_HEADER = 100_000_000  # bytes, as in the safetensors package: more is a damaged length
PADDING = "padding."  # how names of tensors begin that nobody reads
AGAIN = "download or copy this file again"


class Tensor(NamedTuple):
    """Where one tensor lies: a file, a dtype by its safetensors name, a shape, a first byte."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int

    @property
    def num_bytes(self) -> int:
        """Bytes on disk."""
        return math.prod(self.shape) * BITS[self.dtype] // 8


def read_header(path: Path) -> dict[str, Tensor]:
    """Name -> Tensor of one file, from its header alone.

    Raises ValueError if this is not a safetensors file, or not all of one: a download that broke
    off has a good header and too few bytes. What the safetensors package refuses is refused.
    """
    size = _file_size(path)
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, MAX_HEADER):
            raise ValueError(_no_header(path, size, length))
        text = file.read(length)
    try:
        header = _parse_header(text)
        entries = sorted((_entry(name, entry), name) for name, entry in header.items())
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path}: the header is not a safetensors header ({error}); {AGAIN}"
        ) from error
    expected = 8 + length + max((end for (_, end, *_), _ in entries), default=0)
    if size != expected:
        state = "truncated" if size < expected else "longer than its header says"
        raise ValueError(f"{path} is {state}: found {size:,} bytes, expected {expected:,}; {AGAIN}")
    tensors, free = {}, 0  # the tensors' bytes follow one another without gap or overlap
    for (begin, end, dtype, shape), name in entries:
        bits = math.prod(shape) * BITS[dtype]
        if begin != free or 8 * (end - begin) != bits:
            raise ValueError(
                f"{path}: {name} takes bytes {begin} to {end}, expected {free} to"
                f" {free + bits // 8} for {dtype} of shape {list(shape)}; {AGAIN}"
            )
        tensors[name] = Tensor(path, dtype, shape, 8 + length + begin)
        free = end
    return tensors


def _file_size(path: Path) -> int:
    """Opening a named pipe would wait for whoever writes to it."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}
        kind = kinds.get(stat.S_IFMT(found.st_mode), "a device")
        raise ValueError(f"{path} is {kind}, expected a safetensors file; {AGAIN}")
    return found.st_size


def _no_header(path: Path, size: int, length: int) -> str:
    with open(path, "rb") as file:
        pointer = file.read(20).startswith(b"version https://git")
    if pointer:
        return (
            f"{path} is a Git LFS pointer of {size} bytes, expected the weights themselves;"
            " run `git lfs pull` in that folder"
        )
    if length <= size - 8:
        return (
            f"{path} is not a safetensors file: found a header of {length:,} bytes, expected at"
            f" most {MAX_HEADER:,}; {AGAIN}"
        )
    return (
        f"{path} is truncated or not a safetensors file: found {size:,} bytes in all,"
        f" expected a header of {length:,}; {AGAIN}"
    )


def _parse_header(text: bytes) -> dict[str, Any]:
    """The header's tensors. Every number in it counts something."""

    def whole(digits: str) -> int:
        if not digits.isdigit() or int(digits) >= 2**64:
            raise ValueError(f"{digits:.30} is not a whole number below 2^64")
        return int(digits)

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError(f"a name is there twice in {[name for name, _ in pairs]!r:.80}")
        "".join(found).encode()  # half of a surrogate pair is not a character
        return found

    header = json.loads(
        text.decode(),
        object_pairs_hook=once, parse_int=whole, parse_float=whole, parse_constant=whole,
    )  # fmt: skip
    if not isinstance(header, dict):
        raise ValueError(f"found {header!r:.80}, expected names of tensors")
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


def find_tensors(folder: Path) -> dict[str, Tensor]:
    """Name -> Tensor over all safetensors files of a folder, headers only.

    With an index, index and shards must agree about every tensor. Raises FileNotFoundError for a
    folder without weights or without a shard that the index names, ValueError for everything that
    contradicts itself.
    """
    index = folder / INDEX
    if not index.is_file():
        paths = sorted(folder.glob("*.safetensors"))
        if not paths:
            raise FileNotFoundError(
                f"no weights in {folder}: found no *.safetensors, expected model.safetensors or"
                f" shards with {INDEX}; point to the folder that holds them"
            )
        return _merge([read_header(path) for path in paths])
    listed = _read_index(index)
    for shard in sorted(set(listed.values())):
        if not (folder / shard).exists():
            raise FileNotFoundError(
                f"missing shard: {INDEX} expects {shard}, which is not in {folder};"
                " download that file, or the whole checkpoint, again"
            )
    tensors = _merge([read_header(folder / shard) for shard in sorted(set(listed.values()))])
    for name in sorted(listed.keys() | tensors.keys()):
        found = tensors[name].path.name if name in tensors else "no shard"
        expected = listed.get(name, "no shard")
        if found != expected:
            raise ValueError(
                f"{index}: the index puts {name} in {expected}, but it was found in {found};"
                " take index and shards from the same download"
            )
    return tensors


def _read_index(index: Path) -> dict[str, str]:
    try:
        listed: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        plain = all(isinstance(s, str) and s == os.path.basename(s) for s in listed.values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{index} has no readable weight_map ({error!r}); {AGAIN}") from error
    if not plain or not listed:
        raise ValueError(f"{index}: weight_map must name files of its own folder; {AGAIN}")
    return listed


def _merge(headers: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    merged: dict[str, Tensor] = {}
    for name, tensor in (item for header in headers for item in header.items()):
        if name in merged:
            raise ValueError(
                f"{name} is found twice, in {merged[name].path.name} and {tensor.path.name} of"
                f" {tensor.path.parent}, expected once; remove the file that does not belong there"
            )
        merged[name] = tensor
    return merged


def map_array(tensor: Tensor) -> np.ndarray:
    """The tensor as a read-only NumPy view of its file; copy out what is to be kept.

    Pages are read as they are touched, and count as this process's memory while they are mapped.
    Mapping one tensor at a time, not the file, lets go of them as soon as the view is dropped.

    Linux is asked for pages of 2 MB, where its file system has them: they come faster from a disk,
    and are found faster in memory.
    """
    start = tensor.begin - tensor.begin % mmap.ALLOCATIONGRANULARITY
    length = tensor.begin - start + tensor.num_bytes
    with open(tensor.path, "rb") as file:
        pages = mmap.mmap(file.fileno(), length, access=mmap.ACCESS_READ, offset=start)
    with contextlib.suppress(AttributeError, OSError):  # other systems, and kernels without them
        pages.madvise(mmap.MADV_HUGEPAGE)
    count = math.prod(tensor.shape)
    flat = np.frombuffer(pages, DTYPES[tensor.dtype], count, tensor.begin - start)
    return flat.reshape(tensor.shape)


class Pending(NamedTuple):
    """A tensor to be written: what the header needs, and a function that yields its values.

    The function returns the whole array, or an iterator over flat pieces of it, in order.
    """

    dtype: str
    shape: tuple[int, ...]
    values: Callable[[], np.ndarray | Iterator[np.ndarray]]

    @property
    def num_bytes(self) -> int:
        """Bytes on disk."""
        return math.prod(self.shape) * BITS[self.dtype] // 8


def write_file(path: Path, tensors: dict[str, Pending], align: int = 1) -> None:
    """Write a new safetensors file, at most one tensor in memory, and wait until it is on disk.

    Large items come first, so that every tensor starts at a multiple of its item's size. With
    `align` every tensor starts at a multiple of so many bytes: the format allows no gaps, so
    tensors named `padding.…` fill them.

    Raises FileExistsError for a file that is there, ValueError for values that are not those that a
    `Pending` announces.
    """
    tensors = dict(sorted(tensors.items(), key=lambda item: -DTYPES[item[1].dtype].itemsize))
    tensors = _padded(tensors, align)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # what transformers asks for
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.num_bytes
        entry = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [begin, end]}
        header[name] = entry
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % max(8, align))
    with open(path, "xb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, tensor in tensors.items():
            _write_values(file, name, tensor)
        file.flush()
        os.fsync(file.fileno())


def _padded(tensors: dict[str, Pending], align: int) -> dict[str, Pending]:
    padded: dict[str, Pending] = {}
    for name, tensor in tensors.items():
        padded[name] = tensor
        if gap := -tensor.num_bytes % align:
            padded[PADDING + name] = Pending(
                "U8", (gap,), functools.partial(np.zeros, gap, np.uint8)
            )
    return padded


def _write_values(file: BinaryIO, name: str, tensor: Pending) -> None:
    values, written = tensor.values(), 0
    if isinstance(values, np.ndarray):
        _check_values(name, "shape", values.shape, tensor.shape)
        values = iter([np.ascontiguousarray(values)])
    for piece in values:
        _check_values(name, "dtype", piece.dtype, DTYPES[tensor.dtype])
        piece.view(np.uint8).tofile(file)
        written += piece.nbytes
    _check_values(name, "bytes", written, tensor.num_bytes)


def _check_values(name: str, what: str, found: object, expected: object) -> None:
    if found != expected:
        raise ValueError(f"{name} cannot be written: found {what} {found}, expected {expected}")


def write_shards(
    folder: Path, tensors: dict[str, Pending], shard_bytes: int, first: int = 1, stem: str = "model"
) -> None:
    """Write model.safetensors, or shards of at most `shard_bytes` with an index.

    A tensor is never split: one that is larger than `shard_bytes` gets a shard of its own. `first`
    is the number of the first shard; the published checkpoints count from 0. `stem` is how the
    names of shards begin.
    """
    shards: list[dict[str, Pending]] = [{}]
    filled = 0
    for name, tensor in tensors.items():
        if shards[-1] and filled + tensor.num_bytes > shard_bytes:
            shards.append({})
            filled = 0
        shards[-1][name] = tensor
        filled += tensor.num_bytes
    if len(shards) == 1:
        write_file(folder / "model.safetensors", tensors)
        return
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, first):
        file = f"{stem}-{number:05}-of-{first + len(shards) - 1:05}.safetensors"
        write_file(folder / file, shard)
        weight_map |= dict.fromkeys(shard, file)
    total = sum(tensor.num_bytes for tensor in tensors.values())
    write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def write_json(path: Path, content: Any, indent: int | None = 2) -> None:
    """Write a new small file, and wait until it is on disk."""
    with open(path, "x", encoding="utf-8") as file:
        file.write(json.dumps(content, indent=indent) + "\n")
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Force the folder's list of names to the disk, where the system lets us (not on Windows)."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
