"""One large file over connections that break: resumed, verified, whole or not there.

What comes is written to a partial file, which outlives its process. Only bytes that give the
published sha256 get the file's name, and nothing that came is thrown away before it was compared.

Source: RFC 9110, sections 10.2.3 (Retry-After) and 14 (Range).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import huggingface_hub
import huggingface_hub.errors
import huggingface_hub.utils

UTILS: Any = huggingface_hub.utils  # documented, but not exported as type checkers want it
STALL_SECONDS = 30.0  # without a byte, and a connection is given up
PAUSES = (1.0, 2.0, 4.0, 8.0)  # seconds before the next attempt, after 0, 1, … that brought nothing
LONGEST_PAUSE = 60.0  # seconds, however long a server asks us to wait
WRITER = f"{uuid.uuid4().hex[:8]}-"  # this process, where names must keep processes apart


class File(NamedTuple):
    """One file of a repository, as the Hub describes it.

    `digest`: 64 hex digits, the sha256 of a large file; 40, git's sha1 of a small one; None where
    the Hub does not say. The cache stores the file under it.
    """

    name: str
    size: int
    digest: str | None

    @property
    def is_large(self) -> bool:
        """Whether it lies in the Hub's store for large files, as shards do."""
        return self.digest is not None and len(self.digest) == 64


def fetch(url: str, headers: dict[str, str], file: File, blobs: Path) -> None:
    """Fetch one large file to blobs/<its sha256>, going on from what an earlier call left there.

    Everything from "is it there" to the new name happens under a lock, so that of two processes one
    fetches and the other waits, and goes on if the first dies: a lock ends with its process.
    """
    assert file.digest is not None, file
    target = blobs / file.digest
    with _alone(blobs, file) as partial:
        if is_whole(target, file):  # by another process, while this one waited
            partial.unlink(missing_ok=True)
            return
        with open(partial, "r+b", opener=_create) as out:
            have = min(out.seek(0, os.SEEK_END), file.size)
            out.seek(have)
            _write(out, url, headers, file, have)
        found = digest(partial, 64)
        if found != file.digest:
            partial.unlink()
            raise ValueError(
                f"{file.name} arrived damaged: found sha256 {found}, expected {file.digest};"
                " it was deleted, call again to download it anew"
            )
        partial.replace(target)


def _write(out: BinaryIO, url: str, headers: dict[str, str], file: File, have: int) -> None:
    """Write to `out` what it lacks, each byte at its own place, and wait for the disk."""
    progress = UTILS.tqdm(total=file.size, initial=have, desc=file.name, unit="B", unit_scale=True)
    with progress as bar:
        for piece in receive(url, headers, file, have):
            out.write(piece)
            bar.update(len(piece))
    out.truncate(file.size)
    out.flush()
    os.fsync(out.fileno())


def receive(url: str, headers: dict[str, str], file: File, have: int) -> Iterator[bytes]:
    """The bytes of a file from `have` on, over as many connections as it takes.

    ConnectionError when as many attempts in a row as there are PAUSES brought nothing, or at once
    when what answers is not this file.
    """
    fruitless = 0
    while have < file.size:
        before, pause, problem = have, 0.0, Exception("the connection ended")
        try:
            for piece in attempt(url, headers, file, have):
                have += len(piece)
                yield piece
        except Exception as error:  # the HTTP library underneath has changed twice
            problem, pause = error, getattr(error, "pause", 0.0)
        if have == file.size:
            return
        fruitless = 0 if have > before else fruitless + 1
        final = isinstance(problem, (NotThisFile, huggingface_hub.errors.HfHubHTTPError))
        if final or fruitless == len(PAUSES):
            raise ConnectionError(
                f"the download of {file.name} broke off after {have:,} of {file.size:,} bytes"
                f" ({plain(problem)}); what came is kept, call again to go on"
            ) from problem
        time.sleep(min(max(pause, PAUSES[fruitless]), LONGEST_PAUSE))


class NotThisFile(Exception):
    """What answered is something else: a login page, another file, another part."""


class Busy(Exception):
    """The server asks to come back, after `pause` seconds if it says so."""

    def __init__(self, status: int, retry_after: str) -> None:
        super().__init__(f"the server answered with status {status}")
        self.pause = float(retry_after) if re.fullmatch(r"\d{1,6}", retry_after) else 0.0


def attempt(url: str, headers: dict[str, str], file: File, have: int) -> Iterator[bytes]:
    """The bytes from `have` on that one connection brings, and none beyond the file's end."""
    asked = {**headers, "Accept-Encoding": "identity"}
    if have:
        asked["Range"] = f"bytes={have}-"
    with _stream(url, asked) as (response, pieces):
        position = _first_byte(response, file, have)
        for piece in pieces:
            new = piece[max(0, have - position) : file.size - position]
            position += len(piece)
            if new:
                yield new
            if position >= file.size:
                return


@contextlib.contextmanager
def _stream(url: str, headers: dict[str, str]) -> Iterator[tuple[Any, Iterator[bytes]]]:
    """A response and its bytes as they come. huggingface_hub's client knows proxies, certificates
    and redirects (to another host it sends no token), and is httpx since 1.0, requests before."""
    session: Any = huggingface_hub.get_session()
    if callable(session.stream):
        options = {"timeout": STALL_SECONDS, "follow_redirects": True}
        with session.stream("GET", url, headers=headers, **options) as response:
            yield response, response.iter_raw()
    else:
        with session.get(url, headers=headers, timeout=STALL_SECONDS, stream=True) as response:
            read = getattr(
                response.raw, "read1", response.raw.read
            )  # the second waits for all 16 kB
            yield response, iter(lambda: read(2**14), b"")


def _first_byte(response: Any, file: File, have: int) -> int:
    """The place in the file of the first byte that comes: `have`, or 0 from a server that cannot
    resume. Raises unless the response is known to be of this file, before a byte of it is used."""
    status, headers = response.status_code, response.headers
    if status in (408, 425, 429) or status >= 500:
        raise Busy(status, headers.get("Retry-After", ""))
    UTILS.hf_raise_for_status(response)
    length, encoding = headers.get("Content-Length", "?"), headers.get("Content-Encoding", "none")
    part = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", headers.get("Content-Range", ""))
    begin, total = ("0", length) if status == 200 else part.groups() if part else ("0", "?")
    if not total.isdecimal() or int(total) != file.size or int(begin) > have or encoding != "none":
        kind = headers.get("Content-Type", "no type")
        raise NotThisFile(
            f"found status {status} with {total} bytes of {kind} from byte {begin} on, encoding"
            f" {encoding}; expected the file's {file.size}. Does this network ask for a login?"
        )
    return int(begin)


@contextlib.contextmanager
def _alone(blobs: Path, file: File) -> Iterator[Path]:
    """Wait until no other process fetches this file; yields where to write what comes of it.

    Where the system has no lock to wait for (some network drives), every writer has a name of its
    own, so that it can go on where it stopped and nobody destroys another's.
    """
    locks = blobs.parents[1] / ".locks" / blobs.parent.name  # huggingface_hub's own are there, too
    locks.mkdir(parents=True, exist_ok=True)
    name = f"{file.digest}.gptoss_edu"
    with open(locks / f"{name}.lock", "r+b", opener=_create) as lock:
        own = "" if _lock(lock) else f"-{WRITER}{os.getpid()}-{threading.get_ident()}"
        yield blobs / (name + own)


def _lock(file: BinaryIO) -> bool:
    """Wait for a lock that ends with its process; False where there is none."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)  # gives up after ten seconds
            return True
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX)
        with open(file.name, "rb") as other:  # some network drives say yes to everybody
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (ImportError, OSError):
        pass
    return False


def _create(path: str, flags: int) -> int:
    """Open a file that may be new, but nothing that lies elsewhere behind a link."""
    return os.open(path, flags | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)


def digest(path: Path, digits: int) -> str:
    """The hash of a file's bytes that the Hub publishes: sha256 of 64 digits, or git's sha1."""
    hasher = hashlib.sha256()
    if digits == 40:
        header = f"blob {path.stat().st_size}\0".encode()
        hasher = hashlib.sha1(header, usedforsecurity=False)
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hasher).hexdigest()


def is_whole(path: Path, file: File) -> bool:
    """Whether there is a file with this one's number of bytes."""
    return path.is_file() and path.stat().st_size == file.size


def plain(found: object) -> str:
    """What came from elsewhere, for a message: control characters made visible, and not long."""
    error = isinstance(found, Exception)
    text = repr(f"{type(found).__name__}: {found}")[1:-1] if error else repr(found)
    return text if len(text) <= 300 else f"{text[:300]}…"
