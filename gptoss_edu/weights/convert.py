"""Write a checkpoint once more, as it lies in memory, so that later starts only map it.

What a conversion is, and when it is used, mapped.py says; here it is made. 14 GB are written,
and anything can happen meanwhile: a kill, a full disk, a second process with the same idea. So
every file is written under a temporary name, forced to the disk, read back for its sha256, renamed,
and then entered into a journal; the manifest is written last. Whoever starts again keeps the files
of the journal whose sha256 still holds, and writes the others.

In memory are never more than SLAB bytes of a tensor, turned, and the pages of the file that the
tensor is mapped from.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from gptoss_edu.config import Config
from gptoss_edu.cpu.native import wanted
from gptoss_edu.cpu.tiles import to_tiles
from gptoss_edu.weights.checkpoint import find_folder, read_config
from gptoss_edu.weights.hub import check_disk
from gptoss_edu.weights.layout import (
    Entry,
    Field,
    Layout,
    check_tensors,
    find_layout,
    own_layout,
    places,
    shape_on_disk,
)
from gptoss_edu.weights.mapped import (
    ALIGN,
    FORMAT,
    JOURNAL,
    MANIFEST,
    SIDE_FILES,
    Record,
    is_conversion,
    possible_places,
    read_manifest,
    record_of,
    state_of,
    write_json,
)
from gptoss_edu.weights.reading import Form, transposed
from gptoss_edu.weights.shards import Pending, Tensor, find_tensors, sync_folder, write_file

SLAB = 2**27
HEADER = 2**17  # bytes that a file needs beside its tensors, at most
DAY = 86_400
LOCK = ".gptoss_edu.lock"
OURS = re.compile(r"(top|layer-\d+)\.safetensors")


def keep_quiet(text: str) -> None:
    """Tell nobody."""


class Job(NamedTuple):
    """What is to be written, what it is made from, and the command that says so.

    `weights` gives for each file its tensors, and how to come by their values; `side` the bytes of
    the small files; `state` what says that the source is still the same.
    """

    source: Path
    command: str
    state: Callable[[], str]
    weights: dict[str, dict[str, Pending]]
    side: dict[str, bytes]


def convert(
    path_or_id: str | Path | None = None,
    out: str | Path | None = None,
    *,
    note: Callable[[str], None] = keep_quiet,
) -> Path:
    """Convert a checkpoint that `load_model` takes; return the folder of the conversion.

    Without `out` it is written into the folder of the checkpoint, or, where that cannot be written
    to, into the user's cache folder: `load_model` finds it there. A conversion that exists is read
    whole and compared with its checksums; what is missing or damaged is written. `note` is called
    with a line of text when there is something to tell, such as another process to wait for.

    Raises what `load_model` raises, ValueError for an `out` that holds something else, and OSError
    for a disk that is or runs full; what was finished is kept, and the next call goes on from it.
    """
    source = find_folder(path_or_id)
    if is_conversion(source):
        raise ValueError(
            f"{source} is a conversion already, expected the checkpoint that it was made of;"
            " `--check` reads all of it and compares"
        )
    job = plan(source.resolve())
    folder = choose_place(job.source) if out is None else check_out(Path(out), job.source)
    return write_conversion(job, folder, note)


def file_names(num_layers: int) -> dict[str, int | None]:
    """The files of a conversion: name -> layer, None for what belongs to no layer."""
    return {"top.safetensors": None} | {f"layer-{n:02}.safetensors": n for n in range(num_layers)}


def plan(source: Path) -> Job:
    """Check a checkpoint as `load_model` does, headers only, and say what is to be written."""
    config, tensors = read_config(source), find_tensors(source)
    layout = find_layout(tensors, config)
    check_tensors(tensors, layout, config, source)
    own = tile_if_wanted(tensors, layout, config)
    weights: dict[str, dict[str, Pending]] = {}
    for file, layer in file_names(config.num_layers).items():
        weights[file] = {}
        for (field, entry), (_, target) in zip(
            places(layout, layer), places(own, layer), strict=True
        ):
            tensor = tensors[entry.name]
            shape = shape_on_disk(field, target, config)
            values = functools.partial(slabs, tensor, field, entry, config, shape)
            weights[file][target.name] = Pending(tensor.dtype, shape, values)
    state = functools.partial(state_of, source)
    return Job(source, f"convert {source}", state, weights, side_files(source))


def side_files(source: Path) -> dict[str, bytes]:
    """The small files beside the weights: name -> content."""
    paths = [source / name for name in SIDE_FILES]
    return {path.name: path.read_bytes() for path in paths if path.is_file()}


def tile_if_wanted(tensors: dict[str, Tensor], layout: Layout, config: Config) -> Layout:
    """The layout to write: in tiles what the kernels read, if models of this width use them."""
    if not wanted("auto", config.hidden_size):
        return own_layout(layout)
    first, form = dict(places(layout, 0)) | dict(places(layout, None)), Form(tiles=True)
    shapes = {f: form.tiled_shape(tensors[e.name].dtype, f, config) for f, e in first.items()}
    return own_layout(layout, {field: shape for field, shape in shapes.items() if shape})


def slabs(
    tensor: Tensor, field: Field, entry: Entry, config: Config, shape: tuple[int, ...]
) -> Iterator[np.ndarray]:
    """The values of a field in memory order, in flat pieces of about SLAB bytes.

    A `shape` other than the field's own is that of its tiles. JAX turns axes several times faster
    than NumPy does, in small squares and on all cores.
    """
    num_rows, begin = shape[0], 0
    while begin < num_rows:
        view = transposed(tensor, field, entry, config)  # mapped anew: lets go of the pages touched
        view = view if view.shape == shape else to_tiles(view, shape)
        step = max(1, SLAB * num_rows // view.nbytes)
        part = view[begin : begin + step]
        if not part.flags.c_contiguous:
            part = np.asarray(jax.device_put(part, jax.local_devices(backend="cpu")[0]))
        yield part.reshape(-1)
        begin += step


# ---------------------------------------------------------------------------------------- places


def choose_place(source: Path) -> Path:
    """An existing conversion of this checkpoint, or else the first place that can be written to."""
    folders = possible_places(source)
    for folder in folders:
        if is_conversion(folder):
            return folder
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return folder
    raise OSError(
        f"found no folder to write the conversion to, tried {' and '.join(map(str, folders))};"
        " choose one with --out"
    )


def check_out(folder: Path, source: Path) -> Path:
    """A folder of the user's choice: new, empty, or with a conversion of this very checkpoint."""
    folder = folder.expanduser().resolve()
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file, expected a new or empty folder for the conversion")
    found = _known(folder)
    if found is not None and found["source"] != str(source):
        raise ValueError(
            f"{folder} holds a conversion of {found['source']}, not of {source}; choose another"
            " folder, or delete it"
        )
    if found is None and folder.is_dir():
        others = [p.name for p in folder.iterdir() if not is_passing(p.name)]
        if others:
            raise ValueError(
                f"{folder} holds other files ({', '.join(sorted(others)[:3])}), expected a new or"
                " empty folder for the conversion"
            )
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def is_passing(name: str) -> bool:
    """Is this the name of a lock, or of a file that somebody began to write?"""
    return name == LOCK or (name.startswith(".") and name.endswith(".partial"))


def _known(folder: Path) -> dict[str, Any] | None:
    """The manifest, or else the journal, of a folder; None for none that can be read."""
    for name in (MANIFEST, JOURNAL):
        with contextlib.suppress(ValueError):
            if (found := read_manifest(folder, name)) is not None:
                return found
    return None


@contextlib.contextmanager
def locked(folder: Path, note: Callable[[str], None]) -> Iterator[None]:
    """Let one process at a time write into this folder; others wait.

    Where the system knows no such locks (Windows, some network drives), two processes do the same
    work twice, each under temporary names of its own, and the files of the later one stay.
    """
    with open(folder / LOCK, "w") as file:
        alone = True
        try:
            import fcntl

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                note(f"another process is writing to {folder}; waiting for it")
                fcntl.flock(file, fcntl.LOCK_EX)
        except (ImportError, OSError):
            alone = False
        for path in folder.glob(".*.partial"):  # what a killed process left
            with contextlib.suppress(OSError):
                if alone or time.time() - path.stat().st_mtime > DAY:
                    path.unlink()
        yield


# --------------------------------------------------------------------------------------- writing


def write_conversion(job: Job, folder: Path, note: Callable[[str], None] = keep_quiet) -> Path:
    """Write what is missing of a conversion, or nothing if it is whole; return its folder."""
    sizes = {
        name: sum(tensor.num_bytes for tensor in tensors.values())
        for name, tensors in job.weights.items()
    }
    bar = tqdm(
        total=sum(sizes.values()), unit="B", unit_scale=True, desc="converting", disable=None
    )
    with locked(folder, note), bar:
        state = job.state()
        journal = take_up(job, folder, state, bar)
        missing = {name: size for name, size in sizes.items() if name not in journal["files"]}
        if not missing and (folder / MANIFEST).is_file():
            return folder
        check_disk(folder, sum(missing.values()) + len(missing) * HEADER)
        for name, data in job.side.items():
            journal["files"][name] = finish(folder, name, functools.partial(write_bytes, data))
        for name in missing:
            tensors = {n: watched(t, bar) for n, t in job.weights[name].items()}
            journal["files"][name] = finish(
                folder, name, lambda p, t=tensors: write_file(p, t, ALIGN)
            )
            write_json(folder / JOURNAL, journal)
        if job.state() != state:
            raise ValueError(f"{job.source} changed while it was converted; convert it again")
        write_json(folder / MANIFEST, journal)
        (folder / JOURNAL).unlink(missing_ok=True)
        sync_folder(folder)
    return folder


def take_up(job: Job, folder: Path, state: str, bar: tqdm) -> dict[str, Any]:
    """The journal: what an earlier call finished of the same source, each file read and compared.

    A conversion of another state of the source is removed. Before anything is written over, the
    manifest is taken away: a folder with a manifest is whole at any moment.
    """
    found = _known(folder)
    journal = {"format": FORMAT, "source": str(job.source), "command": job.command}
    journal |= {"state": state, "files": {}}
    if found is None or (found["format"], found["state"]) != (FORMAT, state):
        for path in (folder / MANIFEST, folder / JOURNAL, *folder.glob("*.safetensors")):
            if path.name in (MANIFEST, JOURNAL) or OURS.fullmatch(path.name):
                path.unlink(missing_ok=True)
    else:
        for name, record in found["files"].items():
            if name in job.side or name in job.weights:
                good = is_good(folder / name, record, bar if name in job.weights else None)
                journal["files"] |= {name: good} if good else {}
        if journal["files"].keys() == job.side.keys() | job.weights.keys():
            if (folder / MANIFEST).is_file():
                write_json(folder / MANIFEST, journal)  # times may be others after a copy
                (folder / JOURNAL).unlink(missing_ok=True)
                return journal
    write_json(folder / JOURNAL, journal)
    (folder / MANIFEST).unlink(missing_ok=True)
    return journal


def is_good(path: Path, record: Record, bar: tqdm | None = None) -> Record | None:
    """The record of a file as it is now, if its bytes are the listed ones; else None."""
    if not path.is_file() or path.stat().st_size != record["bytes"]:
        return None
    found = record_of(path, bar)
    return found if found["sha256"] == record["sha256"] else None


def finish(folder: Path, name: str, write: Callable[[Path], Any]) -> Record:
    """Let `write` make a file under a temporary name; check, name and return its record."""
    draft = folder / f".{name}.{uuid.uuid4().hex}.partial"
    try:
        write(draft)
        record = record_of(draft)
        os.replace(draft, folder / name)
        sync_folder(folder)
        return record
    except OSError as error:
        raise OSError(
            f"{name} could not be written to {folder} ({error}); what was finished before is kept:"
            " free some space or choose another folder with --out, and call again"
        ) from error
    finally:
        draft.unlink(missing_ok=True)


def write_bytes(data: bytes, path: Path) -> None:
    """Write a small file and wait until it is on disk."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def watched(tensor: Pending, bar: tqdm) -> Pending:
    """The same tensor, but its pieces move a progress bar."""

    def values() -> Iterator[np.ndarray]:
        pieces = tensor.values()
        for piece in [pieces.reshape(-1)] if isinstance(pieces, np.ndarray) else pieces:
            yield piece
            bar.update(piece.nbytes)

    assert math.prod(tensor.shape) > 0, f"{tensor.shape=}"
    return tensor._replace(values=values)
