"""A converted checkpoint: weights on disk exactly as in memory, so that loading is only mapping.

A published checkpoint stores matrices as [output, input], this package computes with [input,
output], or with tiles where the kernels of a CPU read them (tiles.py), and turning 14 GB takes half
a minute at every start. `convert.py` does it once. What it writes is again a folder of safetensors
files, one for each layer and one for what belongs to none, with config.json and o200k_ids.json
beside them; but tensors carry the names and the order of axes of our fields (".tiles" behind the
name says: in tiles), and each starts at a multiple of 64 bytes. That is what JAX asks on a CPU of
an array that it adopts without copying it, so an array can be the file's pages, mapped into memory:
nothing is read before it is needed, all processes that map the folder share one copy, and the
system may drop pages when memory runs short and read them again.

A manifest, written last, lists every file with its size, time and sha256, and the state of the
checkpoint that they were made of. A folder without one is unfinished, whatever else it holds.
Sizes and times are compared at every load; a file whose time is another than the listed one is read
whole and its sha256 compared, then the new time is noted. (What only a look at every byte finds, a
disk that forgets, `python -m gptoss_edu convert --check` finds.)

Files are only ever replaced by renaming, and a renamed file stays what it was for whoever has it
mapped. Programs that write *into* one of these files would change weights in use, and one that cuts
a file short ends every process that reads beyond its new end; so would a network drive that goes
away. On Windows a mapped file can be neither replaced nor deleted.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from tqdm import tqdm

from gptoss_edu.system import available_memory, user_cache
from gptoss_edu.weights.shards import INDEX

FORMAT = 2  # another number for another order of axes or other names: nothing old is then valid
MANIFEST, JOURNAL = "gptoss_edu.json", "gptoss_edu.unfinished.json"
FOLDER = "gptoss_edu-converted"  # inside the folder of the checkpoint
SIDE_FILES = ("config.json", "o200k_ids.json", "generation_config.json", "synthetic.json")
ALIGN = 64
PACKAGE = Path(__file__).parents[1]
SAME_BYTES = ("auto", "mxfp4")  # precisions that keep weights as they are stored
Record = dict[str, Any]  # of a file: its "bytes", "mtime_ns" and "sha256"


def state_of(folder: Path) -> str:
    """Changes whenever a file of this checkpoint does, judged by names, sizes and times."""
    paths = [*folder.glob("*.safetensors"), folder / INDEX, *(folder / n for n in SIDE_FILES)]
    files = sorted((p.name, stamp(p)) for p in paths if p.is_file())
    return hashlib.sha256(json.dumps([FORMAT, files]).encode()).hexdigest()


def stamp(path: Path) -> tuple[int, int]:
    """(size, time of the last change in ns) of a file."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def possible_places(source: Path) -> list[Path]:
    """Where conversions of this checkpoint are looked for: inside its folder, in the user's cache.

    Inside comes first: whoever moves, deletes or puts a checkpoint on a large disk means all of it.
    """
    source = source.resolve()
    name = source.parents[1].name if source.parent.name == "snapshots" else source.name
    path = hashlib.sha256(str(source).encode()).hexdigest()
    cache = user_cache()
    cached = [cache / "converted" / f"{name}-{path[:12]}"] if cache else []
    return cached if PACKAGE in source.parents else [source / FOLDER, *cached]


def is_conversion(folder: Path) -> bool:
    """Is this a converted checkpoint, finished or not?"""
    return (folder / MANIFEST).is_file() or (folder / JOURNAL).is_file()


def read_manifest(folder: Path, name: str = MANIFEST) -> dict[str, Any] | None:
    """What is known of a conversion, or None: "format", "source" and its "state", the "command"
    that makes it, and "files" with their records.

    Raises ValueError for a manifest that cannot be read.
    """
    path = folder / name
    try:
        manifest = json.loads(path.read_text())
        files = manifest["files"].items()
        plain = all(n == os.path.basename(n) and {*r} == {*_record(0, 0, "")} for n, r in files)
        texts = all(isinstance(manifest[key], str) for key in ("source", "command", "state"))
        if not plain or not texts or not isinstance(manifest["format"], int):
            raise ValueError("entries are missing")
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is no manifest of a conversion ({error!r}); delete {folder} and convert again"
        ) from error
    return manifest


def _record(size: int, mtime_ns: int, sha256: str) -> Record:
    return {"bytes": size, "mtime_ns": mtime_ns, "sha256": sha256}


def record_of(path: Path, bar: tqdm | None = None) -> Record:
    """Size, time and sha256 of a file, which is read whole."""
    size, mtime_ns = stamp(path)
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(2**24):
            digest.update(piece)
            if bar is not None:
                bar.update(len(piece))
    return _record(size, mtime_ns, digest.hexdigest())


def write_json(path: Path, content: Any, indent: int | None = 1) -> None:
    """Write a small file so that readers, and a power failure, find the old or the new one."""
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        with open(draft, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=indent)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def check_conversion(folder: Path, *, every_byte: bool = False) -> dict[str, Any]:
    """The manifest of a conversion that is whole; anything else is refused.

    Only files whose time has changed are read, unless `every_byte` asks for all.

    Raises ValueError for one that is unfinished or of another format, or whose files are missing or
    are not what was written, FileNotFoundError where there is no conversion at all.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        raise _unfinished(folder)
    redo = _again(folder, manifest)
    if manifest["format"] != FORMAT:
        raise ValueError(f"{folder} is of format {manifest['format']}, expected {FORMAT}; {redo}")
    touched = {}
    for name, record in manifest["files"].items():
        path = folder / name
        size, mtime_ns = stamp(path) if path.is_file() else (None, None)
        if size != record["bytes"]:
            found = "nothing" if size is None else f"{size:,} bytes"
            raise ValueError(
                f"{path} is damaged: found {found}, expected {record['bytes']:,} bytes;"
                f" {redo}, which writes only what is damaged"
            )
        if every_byte or mtime_ns != record["mtime_ns"]:
            touched[path] = record
    for path, record in _read_again(touched):
        if record["sha256"] != manifest["files"][path.name]["sha256"]:
            raise ValueError(
                f"{path} is damaged: found sha256 {record['sha256'][:12]}…, expected"
                f" {manifest['files'][path.name]['sha256'][:12]}…; {redo}, which writes only what"
                " is damaged"
            )
        manifest["files"][path.name] = record
    if touched and not every_byte:
        try:
            write_json(folder / MANIFEST, manifest)
        except OSError:  # not ours to write: then they are read again at the next load
            pass
    return manifest


def existing_conversion(folder: Path) -> Path:
    """This folder if it is a conversion, or else that of this checkpoint.

    Raises FileNotFoundError if there is none.
    """
    for place in (folder, *possible_places(folder)):
        if is_conversion(place):
            return place
    raise _unfinished(folder)


def _read_again(touched: dict[Path, Record]) -> Iterator[tuple[Path, Record]]:
    """Files that were copied or changed, with what is in them now."""
    total = sum(record["bytes"] for record in touched.values())
    with tqdm(
        total=total, unit="B", unit_scale=True, desc="checking", delay=2, disable=None, leave=False
    ) as bar:
        for path in touched:
            yield path, record_of(path, bar)


def _unfinished(folder: Path) -> Exception:
    journal = read_manifest(folder, JOURNAL)
    if journal is None:
        return FileNotFoundError(
            f"there is no {MANIFEST} in {folder}, expected the folder of a converted checkpoint;"
            " `python -m gptoss_edu convert PATH_OR_ID` makes one"
        )
    done = len(journal["files"])
    return ValueError(
        f"{folder} is a conversion that is not finished (found {done} files and no manifest);"
        f" wait if another process is at it, or {_again(folder, journal)}, which goes on from there"
    )


def _again(folder: Path, manifest: dict[str, Any]) -> str:
    return f"run `python -m gptoss_edu {manifest['command']} --out {folder}` again"


def find_converted(source: Path, precision: str) -> Path:
    """The folder to load: `source`, or a conversion of it whose bytes can be used as they are.

    A folder that is a conversion itself must be whole. One that was found beside a checkpoint, and
    is not whole or is of another state of the checkpoint, only costs a warning, since the
    checkpoint itself is still there.
    """
    if is_conversion(source):
        manifest = check_conversion(source)
        if precision in SAME_BYTES:
            warn_if_tight(manifest)
        return source
    if precision not in SAME_BYTES or jax.devices()[0].platform != "cpu":
        return source
    for folder in filter(is_conversion, possible_places(source)):
        try:
            manifest = check_conversion(folder)
            if manifest["state"] == state_of(source):
                warn_if_tight(manifest)
                return folder
            problem = (
                f"{folder} was made of another state of {source};"
                f" run `python -m gptoss_edu convert {source}` again, or delete it"
            )
        except ValueError as error:
            problem = str(error)
        warnings.warn(f"{problem}. The checkpoint itself is loaded instead", stacklevel=3)
    return source


def warn_if_tight(manifest: dict[str, Any]) -> None:
    """Say that it will be slow where memory cannot hold all pages of the files at once."""
    needed = sum(record["bytes"] for record in manifest["files"].values())
    available, where = available_memory()
    if available is not None and needed > available:
        warnings.warn(
            f"{where} has {available / 2**30:.2f} GiB of memory available for"
            f" {needed / 2**30:.2f} GiB of weights; what finds no room is read from the disk again"
            " and again, which is slow: free some memory",
            stacklevel=4,
        )


def contents(folder: Path) -> dict[str, str] | None:
    """File name -> sha256 of a conversion, by its manifest; None if this is none.

    Equal before and after loading means: no other process has converted it anew in between.
    """
    manifest = read_manifest(folder)
    return manifest and {name: record["sha256"] for name, record in manifest["files"].items()}
