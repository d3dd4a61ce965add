"""Write a checkpoint once more, as it lies in memory, so that later starts only map it.

What a conversion is, and when it is used, mapped.py says; here it is made. 14 GB are written, and
anything can happen meanwhile: a kill, a full disk, a second process with the same idea. So all of
it is written as a draft (drafts.py), the manifest last, and a folder with a manifest is whole at
any moment. Nothing is kept of a draft that was not finished, since the 20B takes a minute or two.

In memory are never more than SLAB bytes of a tensor, transposed, and the pages of the file that the
tensor is mapped from (all of it where it is put together from parts).
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from gptoss_edu.config import Config
from gptoss_edu.cpu.native import wanted
from gptoss_edu.cpu.tiles import to_tiles
from gptoss_edu.system import why_shared
from gptoss_edu.weights.drafts import drafted, is_draft, keep_quiet, locked
from gptoss_edu.weights.files import is_there, read_small, replace_json, visible
from gptoss_edu.weights.folders import find_folder, look
from gptoss_edu.weights.hub import check_disk
from gptoss_edu.weights.layout import (
    Entry,
    Field,
    Layout,
    own_layout,
    places,
    shape_on_disk,
)
from gptoss_edu.weights.mapped import (
    ALIGN,
    COMMANDS,
    FILE,
    FORMAT,
    MANIFEST,
    SIDE_FILES,
    Manifest,
    check_conversion,
    is_conversion,
    possible_places,
    read_manifest,
    record_of,
    source_files,
    stamp,
)
from gptoss_edu.weights.progress import bar
from gptoss_edu.weights.reading import Form, transposed
from gptoss_edu.weights.shards import Tensor, check_numbers, map_array
from gptoss_edu.weights.writing import Pending, write_file

SLAB = 2**27
HEADER = 2**17  # bytes that a file needs beside its tensors, at most
DAY = 86_400
# (tensor, field, entry, config, shape) -> the values in the order of that shape
Values = Callable[
    [Tensor, Field, Entry, Config, tuple[int, ...]], np.ndarray | Iterator[np.ndarray]
]


class Job(NamedTuple):
    """What is to be written, and what it is made from.

    `stamps` are those of the source's files before any was read; `weights` gives for each file its
    tensors, and how to come by their values; `side` the bytes of the small files.
    """

    source: Path
    command: str
    stamps: dict[str, list[int]]
    weights: dict[str, dict[str, Pending]]
    side: dict[str, bytes]

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of the tensors of each file."""
        return {
            name: sum(t.num_bytes for t in file.values()) for name, file in self.weights.items()
        }


def convert(
    path_or_id: str | Path | None = None,
    out: str | Path | None = None,
    *,
    note: Callable[[str], None] = keep_quiet,
) -> Path:
    """Convert a checkpoint that `load_model` takes; return the folder of the conversion.

    Without `out` it is written into the folder of the checkpoint or, where that is not the user's
    own or cannot be written to, into the user's cache folder: `load_model` finds it there. A
    conversion that exists is read whole and compared with its checksums, and is written anew if it
    is damaged or was made of other bytes. `note` is called with a line of text when there is
    something to say, such as another process to wait for.

    Raises what `load_model` raises, ValueError for an `out` that holds something else, and OSError
    for a disk that is or runs full; then nothing is left of what was written.
    """
    source = find_folder(path_or_id)
    if is_conversion(source):
        raise ValueError(
            f"{source} is a conversion already, expected the checkpoint that it was made of;"
            " `--check` reads all of it and compares"
        )
    job = plan(source.resolve())
    if out is not None:
        return write_conversion(job, check_out(Path(out), job.source), note)
    problems = []
    for folder in sorted(possible_places(job.source), key=is_conversion, reverse=True):
        if (problem := prepare_place(folder)) is None:
            return write_conversion(job, folder, note)
        if is_whole(folder, job.source):
            return folder
        problems.append(problem)
        note(f"not converting into {folder}: {problem}")
    raise OSError(
        f"found no folder to write the conversion to ({'; '.join(problems)}); choose one with --out"
    )


def stamps_of(source: Path) -> dict[str, list[int]]:
    """Another one whenever a file of the source is written, exchanged, added or removed."""
    return {name: stamp(path) for name, path in source_files(source).items()}


def plan(source: Path) -> Job:
    """Check a checkpoint as `load_model` does, headers only, and say what is to be written."""
    stamps, (config, _, tensors, layout) = stamps_of(source), look(source)
    weights = plan_weights(tensors, layout, config, slabs)
    return Job(source, COMMANDS[0], stamps, weights, side_files(source))


def plan_weights(
    tensors: dict[str, Tensor], layout: Layout, config: Config, values: Values
) -> dict[str, dict[str, Pending]]:
    """For each file its tensors, as they shall lie there; `values` will say what is in them."""
    own = tile_if_wanted(tensors, layout, config)
    weights: dict[str, dict[str, Pending]] = {}
    for number in (None, *range(config.num_layers)):
        file = "top.safetensors" if number is None else f"layer-{number:02}.safetensors"
        weights[file] = {}
        pairs = zip(places(layout, number), places(own, number), strict=True)
        for (field, entry), (_, target) in pairs:
            tensor, shape = tensors[entry.name], shape_on_disk(field, target, config)
            later = functools.partial(checked, values, tensor, field, entry, config, shape)
            weights[file][target.name] = Pending(tensor.dtype, shape, later)
    return weights


def checked(
    values: Values, tensor: Tensor, field: Field, entry: Entry, *how: Any
) -> Iterator[np.ndarray]:
    """The same values in pieces, each of which is looked at: later starts only map them."""
    pieces = values(tensor, field, entry, *how)
    kind = "scales" if field.half == "scales" else tensor.dtype
    for piece in [pieces] if isinstance(pieces, np.ndarray) else pieces:
        flat = np.ascontiguousarray(piece).reshape(-1)
        check_numbers(flat, kind, entry.name, tensor.path)
        yield flat


def side_files(source: Path) -> dict[str, bytes]:
    """The small files beside the weights: name -> content."""
    paths = [source / name for name in SIDE_FILES]
    return {path.name: read_small(path) for path in paths if is_there(path)}


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

    A `shape` other than the field's own is that of its tiles. JAX transposes several times faster
    than NumPy does, in small squares and on all cores.
    """
    num_rows, begin = shape[0], 0
    joined = map_array(tensor) if tensor.parts else None  # a copy: make one
    while begin < num_rows:
        # Mapped anew, to let go of the pages that were touched.
        stored = map_array(tensor) if joined is None else joined
        view = transposed(stored, field, entry, config)
        view = view if view.shape == shape else to_tiles(view, shape)
        step = max(1, SLAB * num_rows // view.nbytes)
        part = view[begin : begin + step]
        if not part.flags.c_contiguous:
            part = np.asarray(jax.device_put(part, jax.local_devices(backend="cpu")[0]))
        yield part.reshape(-1)
        begin += step


# ---------------------------------------------------------------------------------------- places


def prepare_place(folder: Path) -> str | None:
    """Make the parent of a folder that nobody has named; else the reason why not to write there.

    A checkpoint may come from anywhere, with links in it, and may lie where others can write.
    """
    parent = folder.parent
    try:
        parent.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        return str(error)
    if not os.access(parent, os.W_OK):
        return f"{parent} cannot be written to"
    return why_shared(parent) or what_is_there(folder)


def what_is_there(folder: Path) -> str | None:
    """What stands in the way: a link, a file, or files that are not those of a conversion. Without
    its manifest, which is written last, nothing in there comes from us, whatever it is called.
    """
    found = "is a file" if folder.exists() else None
    if folder.is_symlink():
        found = "is a link"
    elif folder.is_dir():
        ours = is_ours if is_conversion(folder) else lambda path: False
        others = sorted(path.name for path in folder.iterdir() if not ours(path))
        found = f"holds other files ({visible(', '.join(others[:3]))})" if others else None
    return found and f"{folder} {found}, expected a new or empty folder for the conversion"


def check_out(folder: Path, source: Path) -> Path:
    """A folder of the user's choice: new, empty, or with a conversion of this very checkpoint."""
    folder = folder.expanduser().resolve()
    if (problem := what_is_there(folder)) is not None:
        raise ValueError(problem)
    manifest = None
    with contextlib.suppress(ValueError):  # a damaged manifest is replaced
        manifest = read_manifest(folder)
    if manifest is not None and manifest["source"] != str(source):
        raise ValueError(
            f"{folder} holds a conversion of {visible(manifest['source'])}, not of {source}; choose"
            " another folder, or delete it"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    return folder


def is_ours(path: Path) -> bool:
    """Does a file of this name, in a conversion or the draft of one, come from us?"""
    named = path.name == MANIFEST or is_draft(path, MANIFEST) or FILE.fullmatch(path.name)
    return bool(named) and (path.is_symlink() or not path.is_dir())


# --------------------------------------------------------------------------------------- writing


def is_whole(folder: Path, source: Path) -> bool:
    """Is this a conversion of just these bytes, and every byte of it as it was written?"""
    try:
        return check_conversion(folder, source, every_byte=True) is not None
    except (OSError, ValueError):
        return False


def write_conversion(job: Job, folder: Path, note: Callable[[str], None] = keep_quiet) -> Path:
    """Write a conversion, unless it is there and whole; return its folder.

    `folder` is new, or empty, or holds nothing but a conversion (see `what_is_there`).
    """
    with locked(folder, note):
        for path in folder.glob(f".{MANIFEST}.*.partial"):  # of a load that was killed
            with contextlib.suppress(OSError):
                path.unlink()
        if is_whole(folder, job.source):
            return folder
        check_disk(folder.parent, sum(job.sizes.values()) + len(job.weights) * HEADER)
        try:
            with drafted(folder) as draft:
                fill(job, draft)
                if (problem := what_is_there(folder)) is not None:
                    raise OSError(problem)
        except OSError as error:
            if is_whole(folder, job.source):  # another process was faster
                return folder
            raise OSError(
                f"the conversion could not be written to {folder} ({error}); nothing of it is kept:"
                " free some space or choose another folder with --out, and call again"
            ) from error
    return folder


def fill(job: Job, draft: Path) -> None:
    """Write all files of a conversion into this empty folder, the manifest last."""
    sources, sizes = source_files(job.source), job.sizes
    total = sum(path.stat().st_size for path in sources.values()) + sum(sizes.values())
    with bar(total, "converting", delay=0, leave=True) as shown:
        made_of = {name: record_of(path, shown) for name, path in sources.items()}
        for name, data in job.side.items():
            (draft / name).write_bytes(data)
        files = {name: record_of(draft / name) for name in job.side}
        for name, tensors in job.weights.items():
            write_file(draft / name, tensors, ALIGN)
            files[name] = record_of(draft / name)
            shown.update(sizes[name])
    read = {name: record["stamp"] for name, record in made_of.items()}
    if not job.stamps == read == stamps_of(job.source):
        raise ValueError(f"{job.source} changed while it was converted; convert it again")
    manifest: Manifest = {
        "format": FORMAT,
        "command": job.command,
        "source": str(job.source),
        "made_of": made_of,
        "files": files,
    }
    replace_json(draft / MANIFEST, manifest)
