"""The files of a checkpoint, which may come from anywhere: read with limits, never written through.

What is opened is a regular file, or refused by what it is: whoever opens a named pipe waits for a
writer, and a device never ends. What is read whole has a limit. What is written is a new file under
a new name, so that no link leads somewhere else. And what a file says comes into a message only
through `visible`.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

LARGEST = 2**24  # bytes of a small file; an index with a name for each expert of a 120B takes 2^22
LONGEST_NUMBER = 40  # digits; Python takes the square of their number, and stops at some thousands
AGAIN = "download or copy this file again"
KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}


def visible(text: object, most: int = 1000) -> str:
    """Text from a file, made harmless for a terminal: control characters as escapes, cut off."""
    text = str(text)
    text = text if len(text) <= most else text[: most - 1] + "…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def is_there(path: Path) -> bool:
    """Has anything this name? A link to nothing, too, and a pipe: opening it says what it is."""
    return os.path.lexists(path)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file to read it.

    Raises FileNotFoundError where there is none, ValueError for anything that is no file.
    """
    try:
        kind = stat.S_IFMT(os.stat(path).st_mode)
        if kind != stat.S_IFREG:
            found = KINDS.get(kind, "a device")
            raise ValueError(f"{visible(path)} is {found}, expected a file; {AGAIN}")
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        if os.path.islink(path):
            to = f"a link to {visible(os.readlink(path), 300)}, where no file can be read"
            raise ValueError(f"{visible(path)} is {to} ({error.strerror}); {AGAIN}") from error
        why = error.strerror
        raise type(error)(f"{visible(path)} cannot be read ({why}), expected a file") from error
    with open(handle, "rb") as file:
        yield file


def read_small(path: Path) -> bytes:
    """All of a small file. Raises ValueError for a large one."""
    with opened(path) as file:
        data = file.read(LARGEST + 1)
    if len(data) > LARGEST:
        found = f"has more than the {LARGEST:,} bytes that are expected at most"
        raise ValueError(f"{visible(path)} {found}; {AGAIN}")
    return data


def read_json(path: Path) -> Any:
    """What a small file of JSON says. Raises ValueError for one that is large, deep, says one thing
    twice, or is none.
    """
    data = read_small(path)
    try:
        return json.loads(data, object_pairs_hook=once, parse_int=_whole)
    except RecursionError as error:
        raise ValueError(f"{visible(path)} is not JSON (nested too deeply); {AGAIN}") from error
    except ValueError as error:  # that of a UnicodeDecodeError holds all bytes in its repr
        said = visible(error, 200)
        raise ValueError(f"{visible(path)} is not JSON ({said}); {AGAIN}") from error


def _whole(digits: str) -> int:
    if len(digits) > LONGEST_NUMBER:
        raise ValueError(f"found a number of {len(digits):,} digits")
    return int(digits)


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object: of a key that is there twice, nobody knows which value is meant."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"a name is there twice in {[name for name, _ in pairs]!r:.80}")
    return found


def write_json(path: Path, content: Any, indent: int | None = 2) -> None:
    """Write a new small file, and wait until it is on disk."""
    with open(path, "x", encoding="utf-8") as file:
        file.write(json.dumps(content, indent=indent) + "\n")
        file.flush()
        os.fsync(file.fileno())


def replace_json(path: Path, content: Any, indent: int | None = 1) -> None:
    """Write a small file so that readers, and a power failure, find the old or the new one.

    Where `path` is a link, the link is replaced, and not what it points to.
    """
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        write_json(draft, content, indent)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Force the folder's list of names to the disk, where the system lets us (not on Windows)."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
