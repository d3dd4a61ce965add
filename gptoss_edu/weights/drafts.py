"""A folder that is there whole or not at all: written as a draft, and named when it is finished.

The draft is a hidden folder beside the one that it shall become. Whoever began it removes it, and
where a kill prevented that, the next one who writes there. Others write at the same time, maybe:
so there is a lock, which says whose drafts are nobody's any more.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

DAY = 86_400


def keep_quiet(text: str) -> None:
    """Ignore a message."""


@contextlib.contextmanager
def alone_in(folder: Path, busy: Callable[[], None]) -> Iterator[bool]:
    """Hold the lock of a folder. Where another process has it, `busy` is called: it may raise, or
    else we wait. False where the system knows no such locks (Windows, some network drives).
    """
    with contextlib.ExitStack() as stack:
        alone = False
        try:
            import fcntl

            handle = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, handle)
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            alone = True
        except BlockingIOError:
            busy()
            with contextlib.suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_EX)
                alone = True
        except (ImportError, OSError):
            pass
        yield alone


@contextlib.contextmanager
def locked(folder: Path, note: Callable[[str], None] = keep_quiet) -> Iterator[None]:
    """Let one process at a time write folders beside this one; others wait, and `note` says so.

    The lock lies on the folder above, so there is no file to be left behind, and it ends with the
    process. Where the system knows no such locks (Windows, some network drives), two processes do
    the same work twice, each in a draft of its own, and the folder of the later one stays.

    Drafts of `folder` that a killed process left are removed.
    """
    told = f"another process is writing to {folder.parent}; waiting for it"
    with alone_in(folder.parent, lambda: note(told)) as alone:
        with contextlib.suppress(OSError):
            discard_leftovers(folder, alone)
        yield


@contextlib.contextmanager
def drafted(folder: Path) -> Iterator[Path]:
    """An empty folder that gets this name where the block ends, and is removed where it fails.

    What has the name until then is moved aside at the last moment, and removed afterwards: whether
    it may be is for the block to say. Nothing in it is written to, so whoever has mapped it keeps
    its pages.
    """
    draft, old = draft_of(folder), draft_of(folder)
    try:
        draft.mkdir(mode=0o755)
        yield draft
        if folder.exists():
            os.rename(folder, old)
        os.rename(draft, folder)
    finally:
        if old.exists() and not folder.exists():
            os.rename(old, folder)
        for path in (draft, old):
            shutil.rmtree(path, ignore_errors=True)


def draft_of(folder: Path) -> Path:
    """A new name beside this folder, for what will have its name, or what had it."""
    return folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.partial")


def is_draft(path: Path, of: str) -> bool:
    """Is this the name of a file or folder that was to become `of`?"""
    return re.fullmatch(rf"\.{re.escape(of)}\.[0-9a-f]{{32}}\.partial", path.name) is not None


def discard_leftovers(folder: Path, alone: bool) -> None:
    """Remove drafts of killed processes: all, or where others may be at work those of yesterday."""
    for path in folder.parent.iterdir():
        if is_draft(path, folder.name) and not path.is_symlink():
            if alone or time.time() - path.stat().st_mtime > DAY:
                shutil.rmtree(path, ignore_errors=True)
