"""Safetensors files, written as a stream: a 20B does not fit into memory twice.

shards.py says what such a file is, and reads it.
"""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from gptoss_edu.weights.files import write_json
from gptoss_edu.weights.shards import BITS, DTYPES, INDEX, PADDING

FOR_TRANSFORMERS = {"format": "pt"}  # what it asks for


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


def header_of(
    tensors: Mapping[str, Pending], align: int = 8, about: Mapping[str, str] | None = None
) -> bytes:
    """The first bytes of a file that holds these tensors in this order: a length, and the JSON."""
    header: dict[str, Any] = {"__metadata__": about} if about else {}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.num_bytes
        entry = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [begin, end]}
        header[name] = entry
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % align)
    return len(text).to_bytes(8, "little") + text


def large_first(tensors: Mapping[str, Pending]) -> dict[str, Pending]:
    """In an order in which every tensor starts at a multiple of its item's size."""
    return dict(sorted(tensors.items(), key=lambda item: -DTYPES[item[1].dtype].itemsize))


def write_file(
    path: Path,
    tensors: Mapping[str, Pending],
    align: int = 1,
    about: Mapping[str, str] | None = FOR_TRANSFORMERS,
) -> None:
    """Write a new safetensors file, at most one tensor in memory, and wait until it is on disk.

    Large items come first. With `align` every tensor starts at a multiple of so many bytes: the
    format allows no gaps, so tensors named `padding.…` fill them. `about` is the file's metadata.

    Raises FileExistsError for a file that is there, ValueError for values that are not those that a
    `Pending` announces.
    """
    tensors = _padded(large_first(tensors), align)
    with open(path, "xb") as file:
        file.write(header_of(tensors, max(8, align), about))
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
