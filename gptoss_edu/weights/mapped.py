"""A conversion: a checkpoint on disk exactly as in memory, so that loading it is only mapping.

A published checkpoint stores matrices as [output, input], this package computes with [input,
output], or with tiles where the kernels of a CPU read them (tiles.py), and transposing 14 GB takes
half a minute at every start. `convert.py` does it once. What it writes is again a folder of
safetensors files, one for each layer and one for what belongs to none, with config.json and
o200k_ids.json beside them; but tensors carry the names and the order of axes of our fields
(".tiles" behind the name says: in tiles), and each starts at a multiple of 64 bytes. That is what
JAX asks on a CPU of an array that it adopts without copying it, so an array can be the file's
pages, mapped into memory: nothing is read before it is needed, all processes that map the folder
share one copy, and the system may drop pages when memory runs short and read them again.

A manifest lists every file of the conversion, and every file that it was made of, with size, sha256
and stamp. A stamp is what no program can change and then put back: besides the time of the content,
which anybody may set, the time of any change and the number of the file. At every load stamps are
compared, which takes no time; a file whose stamp is another is read whole and its sha256 compared,
and then the new stamp is noted. So neither a damaged file nor another checkpoint of the same size
and time is taken for the right one, and a folder that was copied is believed after one reading.
(What only a look at every byte finds, a disk that forgets, `python -m gptoss_edu convert --check`
finds.)

Programs that write *into* a mapped file would change weights in use, and one that cuts a file short
ends every process that reads beyond its new end; so would a network drive that goes away. On
Windows a mapped file can be neither replaced nor deleted.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shlex
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

import jax
from tqdm import tqdm

from gptoss_edu.system import available_memory, user_cache
from gptoss_edu.weights.files import is_there, opened, read_json, replace_json, visible
from gptoss_edu.weights.progress import bar
from gptoss_edu.weights.shards import INDEX, weight_files

FORMAT = 4  # another number for another order of axes or other names: nothing old is then valid
MANIFEST = "gptoss_edu.json"
FOLDER = "gptoss_edu-converted"  # inside the folder of the checkpoint
ORBAX = "params"  # the folder of weights in what orbax.py exports
SIDE_FILES = ("config.json", "o200k_ids.json", "generation_config.json", "synthetic.json")
FILE = re.compile("|".join((r"(top|layer-\d+)\.safetensors", *map(re.escape, SIDE_FILES))))
COMMANDS = ("convert", "convert --from-orbax")
ALIGN = 64
PACKAGE = Path(__file__).parents[1]
SAME_BYTES = ("auto", "mxfp4")  # precisions that keep weights as they are stored


class Record(TypedDict):
    """Of a file: its size, its stamp when it was read last, and the sha256 of all of it."""

    bytes: int
    stamp: list[int]
    sha256: str


class Manifest(TypedDict):
    """Of a conversion: the command and the folder that it was made of, and all files of both."""

    format: int
    command: str
    source: str
    made_of: dict[str, Record]
    files: dict[str, Record]


def possible_places(source: Path) -> list[Path]:
    """Where conversions of this checkpoint are looked for: inside its folder, in the user's cache.

    Inside comes first: whoever moves, deletes or puts a checkpoint on a large disk means all of it.
    """
    source = source.resolve()
    name = source.parents[1].name if source.parent.name == "snapshots" else source.name
    path = hashlib.sha256(os.fsencode(source)).hexdigest()
    cache = user_cache()
    cached = [cache / "converted" / f"{name}-{path[:12]}"] if cache else []
    return cached if PACKAGE in source.parents else [source / FOLDER, *cached]


def is_conversion(folder: Path) -> bool:
    """Is this a conversion? It may be damaged, but somebody finished it."""
    return is_there(folder / MANIFEST)


# ---------------------------------------------------------------------------------- the manifest


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a conversion; None where there is none.

    Raises ValueError for a manifest that cannot be read or is of another format.
    """
    path = folder / MANIFEST
    if not is_there(path):
        return None
    try:
        manifest: Manifest = read_json(path)
        if manifest["format"] == FORMAT:
            _check_manifest(manifest)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is not the manifest of a conversion ({visible(repr(error))}); delete {folder}"
            " and convert again"
        ) from error
    if manifest["format"] != FORMAT:
        found = visible(repr(manifest["format"]))
        raise ValueError(
            f"{folder} is of format {found}, expected {FORMAT}; delete it and convert again"
        )
    return manifest


def _check_manifest(manifest: Manifest) -> None:
    """Refuse what convert.py would not have written; names of files are not taken on trust."""
    if manifest["command"] not in COMMANDS or not isinstance(manifest["source"], str):
        raise ValueError("it does not say how it was made")
    for name, record in (*manifest["made_of"].items(), *manifest["files"].items()):
        numbers = [record["bytes"], *record["stamp"]]
        right = len(numbers) == 4 and all(type(number) is int for number in numbers)
        if not right or not re.fullmatch("[0-9a-f]{64}", record["sha256"]):
            raise ValueError(f"wrong entry for {name!r}")
    for name in manifest["files"]:
        if not FILE.fullmatch(name):
            raise ValueError(f"{name!r} is not a file of a conversion")


def contents(folder: Path) -> dict[str, str] | None:
    """File name -> sha256 of a conversion, by its manifest; None if this is none.

    Equal before and after loading means: no other process has converted it anew in between.
    """
    manifest = read_manifest(folder)
    return manifest and {name: record["sha256"] for name, record in manifest["files"].items()}


# ------------------------------------------------------------------------------- files and stamps


def stamp(path: Path) -> list[int]:
    """[time of the content in ns, time of any change in ns, number of the file on its disk]."""
    found = path.stat()
    return [found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def record_of(path: Path, shown: tqdm[Any] | None = None) -> Record:
    """Size, stamp and sha256 of a file, which is read whole."""
    before, digest, size = stamp(path), hashlib.sha256(), 0
    with opened(path) as file:
        while piece := file.read(2**24):
            digest.update(piece)
            size += len(piece)
            if shown is not None:
                shown.update(len(piece))
    return {"bytes": size, "stamp": before, "sha256": digest.hexdigest()}


def source_files(source: Path) -> dict[str, Path]:
    """The files that a conversion is made of: name -> path. Published ones, else those of Orbax."""
    weights = weight_files(source) or [*(source / ORBAX).rglob("*")]
    paths = [*weights, *(source / name for name in (INDEX, *SIDE_FILES))]
    return {str(path.relative_to(source)): path for path in sorted(paths) if path.is_file()}


def check_files(
    folder: Path, records: Mapping[str, Record], *, every_byte: bool = False
) -> dict[str, Record]:
    """The records of these files as they are now. Only files with another stamp are read, or all.

    Raises ValueError for a file that is missing or has other bytes than the records say.
    """
    suspects = []
    for name, record in records.items():
        path = folder / name
        size = path.stat().st_size if path.is_file() else None
        if size != record["bytes"]:
            found = "nothing" if size is None else f"{size:,} bytes"
            raise ValueError(
                f"{visible(path)} has changed: found {found}, expected {record['bytes']:,}"
            )
        if every_byte or stamp(path) != record["stamp"]:
            suspects.append(name)
    now = dict(records)
    with bar(sum(records[name]["bytes"] for name in suspects), "checking") as shown:
        for name in suspects:
            now[name] = record_of(folder / name, shown)
            found, expected = now[name]["sha256"], records[name]["sha256"]
            if found != expected:
                raise ValueError(
                    f"{visible(folder / name)} has changed: found sha256 {found[:12]}…, expected"
                    f" {expected[:12]}…"
                )
    return now


def check_conversion(
    folder: Path, source: Path | None = None, *, every_byte: bool = False
) -> Manifest:
    """The manifest of a conversion that is whole, and that was made of this `source` if one is
    given; anything else is refused.

    Raises ValueError for one whose files are missing or are not what was written, or that was made
    of other bytes, FileNotFoundError where there is no conversion at all.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        raise _none_there(folder)
    now = manifest.copy()
    if source is not None:
        try:
            files = source_files(source)
            if names := files.keys() ^ manifest["made_of"].keys():
                raise ValueError(f"{visible(min(names))} has come or gone")
            now["made_of"] = check_files(source, manifest["made_of"])
        except ValueError as error:
            raise ValueError(
                f"{folder} was made of another state of {source} ({error});"
                f" run `{_command(manifest, folder)}` again, or delete it"
            ) from error
    try:
        now["files"] = check_files(folder, manifest["files"], every_byte=every_byte)
    except ValueError as error:
        raise ValueError(
            f"{error}; run `{_command(manifest, folder)}` again, which writes it anew"
        ) from error
    if now != manifest:
        _note(folder, manifest, now)
    return now


def _command(manifest: Manifest, folder: Path) -> str:
    """What to type to make this conversion anew."""
    paths = (shlex.quote(visible(str(path))) for path in (manifest["source"], folder))
    return "python -m gptoss_edu {} {} --out {}".format(manifest["command"], *paths)


def _note(folder: Path, old: Manifest, new: Manifest) -> None:
    """Write new stamps down, where the folder is ours: else files are read again at each load."""
    with contextlib.suppress(OSError):
        own = not hasattr(os, "geteuid") or os.lstat(folder).st_uid == os.geteuid()
        if own and not folder.is_symlink() and read_manifest(folder) == old:
            replace_json(folder / MANIFEST, new)


def existing_conversion(folder: Path) -> Path:
    """This folder if it is a conversion, or else the one that was made of it.

    Raises FileNotFoundError if there is none.
    """
    for place in (folder, *possible_places(folder)):
        if is_conversion(place):
            return place
    raise _none_there(folder)


def _none_there(folder: Path) -> FileNotFoundError:
    return FileNotFoundError(
        f"there is no {MANIFEST} in {folder}, expected the folder of a conversion;"
        " `python -m gptoss_edu convert PATH_OR_ID` makes one"
    )


# ---------------------------------------------------------------------------------------- loading


def find_converted(source: Path, precision: str) -> Path:
    """The folder to load: `source`, or a conversion of it whose bytes can be used as they are.

    A folder that is a conversion itself must be whole. Where those that are found beside a
    checkpoint are damaged, or were made of other bytes, that only costs a warning, since the
    checkpoint itself is still there.
    """
    if is_conversion(source):
        manifest = check_conversion(source)
        if precision in SAME_BYTES:
            warn_if_tight(manifest)
        return source
    if precision not in SAME_BYTES or jax.devices()[0].platform != "cpu":
        return source
    problems = []
    for folder in filter(is_conversion, possible_places(source)):
        try:
            manifest = check_conversion(folder, source)
        except (OSError, ValueError) as error:
            problems.append(str(error))
        else:
            warn_if_tight(manifest)
            return folder
    if problems:
        warnings.warn(f"{problems[0]}. The checkpoint itself is loaded instead", stacklevel=3)
    return source


def warn_if_tight(manifest: Manifest) -> None:
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
