"""One file over connections that break: resumed, verified, whole or not there.

What comes is written to a partial file, which outlives its process. Only bytes that give the
published hash get the file's name, and nothing that came is thrown away before it was compared.

Source: RFC 9110, sections 10.2.3 (Retry-After) and 14 (Range).
"""

from __future__ import annotations

import contextlib
import datetime
import email.utils
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
TRICKLE = 4096  # bytes: fewer in that time, or in a whole attempt, are as good as none
PAUSES = (1.0, 2.0, 4.0, 8.0)  # seconds before the next attempt, after 0, 1, … that brought nothing
LONGEST_PAUSE = 60.0  # seconds, however long a server asks us to wait
LOOK_SECONDS = 0.2  # between looks whether another process is done
WRITER = f"{uuid.uuid4().hex[:8]}-"  # this process, where names must keep processes apart


class File(NamedTuple):
    """One file of a repository, as the Hub describes it.

    `digest`: 64 hex digits, the sha256 of a large file; 40, git's sha1 of a small one. The cache
    stores the file under it.
    """

    name: str
    size: int
    digest: str

    @property
    def is_large(self) -> bool:
        """Whether it lies in the Hub's store for large files, as shards do."""
        return len(self.digest) == 64


def fetch(url: str, headers: dict[str, str], file: File, blobs: Path) -> None:
    """Fetch one file to blobs/<its hash>, going on from what an earlier call left there.

    Everything from "is it there" to the new name happens under a lock, so that of two processes one
    fetches and the other waits, and goes on if the first dies: a lock ends with its process.
    """
    target = blobs / file.digest
    with _alone(blobs, file) as partial:
        if is_intact(target, file):  # by another process, while this one waited
            partial.unlink(missing_ok=True)
            return
        with open(partial, "r+b", opener=_create) as out:
            have = min(out.seek(0, os.SEEK_END), file.size)
            out.seek(have)
            _write(out, url, headers, file, have)
        found = digest(partial, len(file.digest))
        if found != file.digest:
            partial.unlink()
            raise ValueError(
                f"{file.name} arrived damaged: found hash {found}, expected {file.digest};"
                " it was deleted, call again to download it anew"
            )
        partial.replace(target)


def _write(out: BinaryIO, url: str, headers: dict[str, str], file: File, have: int) -> None:
    """Write to `out` what it lacks, each byte at its own place, and wait for the disk."""
    with _progress(file, have, file.name) as bar:
        for piece in receive(url, headers, file, have):
            out.write(piece)
            bar.update(len(piece))
    out.truncate(file.size)
    out.flush()
    os.fsync(out.fileno())


def _progress(file: File, have: int, text: str) -> Any:
    return UTILS.tqdm(total=file.size, initial=have, desc=text, unit="B", unit_scale=True)


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
        fruitless = 0 if have - before >= TRICKLE else fruitless + 1
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
        self.pause = _seconds(retry_after)


def _seconds(retry_after: str) -> float:
    """Until when a server asks us to wait: seconds, or a date; 0 where it says neither."""
    if re.fullmatch(r"[0-9]{1,6}", retry_after):
        return float(retry_after)
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        then = email.utils.parsedate_to_datetime(retry_after)
        return (then - datetime.datetime.now(datetime.UTC)).total_seconds()
    return 0.0


def attempt(url: str, headers: dict[str, str], file: File, have: int) -> Iterator[bytes]:
    """The bytes from `have` on that one connection brings, and none beyond the file's end."""
    asked = {**headers, "Accept-Encoding": "identity"}
    if have:
        asked["Range"] = f"bytes={have}-"
    with _stream(url, asked) as (response, pieces):
        position = _first_byte(response, file, have)
        for piece in _flowing(pieces):
            new = piece[max(0, have - position) : file.size - position]
            position += len(piece)
            if new:
                yield new
            if position >= file.size:
                return


def _flowing(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The same pieces. TimeoutError where they trickle: a byte now and then keeps a line open."""
    since, came = time.monotonic(), 0
    for piece in pieces:
        yield piece
        came += len(piece)
        if came >= TRICKLE:
            since, came = time.monotonic(), 0
        elif time.monotonic() - since > STALL_SECONDS:
            raise TimeoutError(f"found {came:,} bytes in {STALL_SECONDS:.0f} s")


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
    plainly = encoding in ("none", "identity")
    if not total.isdecimal() or int(total) != file.size or int(begin) > have or not plainly:
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
    partial = blobs / f"{file.digest}.gptoss_edu"
    with open(locks / f"{partial.name}.lock", "r+b", opener=_create) as lock:
        if not _wait(lock, file, partial):
            writer = f"{WRITER}{os.getpid()}-{threading.get_ident()}"
            partial = partial.with_name(f"{partial.name}-{writer}")
        yield partial


def _wait(lock: BinaryIO, file: File, partial: Path) -> bool:
    """Wait for a lock that ends with its process, and show how far that is; False without locks."""
    with contextlib.ExitStack() as stack:
        bar = None
        while (taken := _lock(lock)) is None:
            if bar is None:
                bar = stack.enter_context(_progress(file, 0, f"{file.name}, by another process"))
            with contextlib.suppress(FileNotFoundError):  # not begun, or done just now
                bar.update(partial.stat().st_size - bar.n)
            time.sleep(LOOK_SECONDS)
    return taken


def _lock(file: BinaryIO) -> bool | None:
    """Is it ours now? None while another process has it, False where the system has no locks."""
    try:
        if sys.platform == "win32":
            import msvcrt

            with contextlib.suppress(PermissionError):
                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
                return True
            return None
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None
    except (ImportError, OSError):
        return False
    try:
        with open(file.name, "rb") as other:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False  # some network drives say yes to everybody


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


def is_intact(path: Path, file: File) -> bool:
    """Whether this is the file. A large one was compared when it came: now its size will do."""
    whole = path.is_file() and path.stat().st_size == file.size
    return whole and (file.is_large or digest(path, len(file.digest)) == file.digest)


def plain(found: object) -> str:
    """What came from elsewhere, for a message: control characters made visible, and not long."""
    error = isinstance(found, Exception)
    text = repr(f"{type(found).__name__}: {found}")[1:-1] if error else repr(found)
    return text if len(text) <= 300 else f"{text[:300]}…"
