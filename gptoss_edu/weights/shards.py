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
import json
import math
import mmap
import os
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
        """Bytes on disk. Known only for dtypes that this package reads."""
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize


def read_header(path: Path) -> dict[str, Tensor]:
    """Name -> Tensor of one file, from its header alone.

    Raises ValueError if this is no safetensors file, or not all of one: a download that broke off
    has a good header and too few bytes.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise ValueError(_no_header(path, size, length))
        try:
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            ends = [entry["data_offsets"][1] for entry in header.values()]
            tensors = {
                name: Tensor(path, e["dtype"], tuple(e["shape"]), 8 + length + e["data_offsets"][0])
                for name, e in header.items()
            }
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise ValueError(
                f"{path}: the header is not a safetensors header ({error!r}); {AGAIN}"
            ) from error
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        state = "truncated" if size < expected else "longer than its header says"
        raise ValueError(f"{path} is {state}: found {size:,} bytes, expected {expected:,}; {AGAIN}")
    _check_ranges(path, header, tensors)
    return tensors


def _no_header(path: Path, size: int, length: int) -> str:
    with open(path, "rb") as file:
        pointer = file.read(20).startswith(b"version https://git")
    if pointer:
        return (
            f"{path} is a Git LFS pointer of {size} bytes, expected the weights themselves;"
            " run `git lfs pull` in that folder"
        )
    return (
        f"{path} is truncated or no safetensors file: found {size:,} bytes in all,"
        f" expected a header of {length:,}; {AGAIN}"
    )


def _check_ranges(path: Path, header: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """The tensors' bytes must follow one another without gap or overlap, as the format says."""
    expected = 0
    for name in sorted(tensors, key=lambda name: header[name]["data_offsets"]):
        begin, end = header[name]["data_offsets"]
        known = tensors[name].dtype in DTYPES  # if not, whoever needs this tensor refuses it
        size = tensors[name].num_bytes if known else end - begin
        if begin != expected or size < 0 or end - begin != size:
            raise ValueError(
                f"{path}: {name} takes bytes {begin} to {end}, expected {expected} to"
                f" {expected + size} for {tensors[name].dtype} of shape"
                f" {list(tensors[name].shape)}; {AGAIN}"
            )
        expected = end


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
        if not (folder / shard).is_file():
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
        listed = json.loads(index.read_text())["weight_map"]
        plain = all(isinstance(s, str) and s == os.path.basename(s) for s in listed.values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
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
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize


def write_file(path: Path, tensors: dict[str, Pending], align: int = 1) -> None:
    """Write one safetensors file, at most one tensor in memory, and wait until it is on disk.

    Large items come first, so that every tensor starts at a multiple of its item's size. With
    `align` every tensor starts at a multiple of so many bytes: the format allows no gaps, so
    tensors named `padding.…` fill them.
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
    with open(path, "wb") as file:
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
            padded[PADDING + name] = Pending("U8", (gap,), lambda n=gap: np.zeros(n, np.uint8))
    return padded


def _write_values(file: BinaryIO, name: str, tensor: Pending) -> None:
    values, written = tensor.values(), 0
    if isinstance(values, np.ndarray):
        assert values.shape == tensor.shape, f"{name}: {values.shape=}, {tensor.shape=}"
        values = iter([np.ascontiguousarray(values)])
    for piece in values:
        assert piece.dtype == DTYPES[tensor.dtype], f"{name}: {piece.dtype=}, {tensor.dtype=}"
        piece.view(np.uint8).tofile(file)
        written += piece.nbytes
    assert written == tensor.num_bytes, f"{name}: {written=}, {tensor.num_bytes=}"


def write_shards(
    folder: Path, tensors: dict[str, Pending], shard_bytes: int, first: int = 1
) -> None:
    """Write model.safetensors, or shards of at most `shard_bytes` with an index.

    A tensor is never split: one that is larger than `shard_bytes` gets a shard of its own. `first`
    is the number of the first shard; the published checkpoints count from 0.
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
        return write_file(folder / "model.safetensors", tensors)
    weight_map = {}
    for number, shard in enumerate(shards, first):
        file = f"model-{number:05}-of-{first + len(shards) - 1:05}.safetensors"
        write_file(folder / file, shard)
        weight_map |= dict.fromkeys(shard, file)
    total = sum(tensor.num_bytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")
    return None
