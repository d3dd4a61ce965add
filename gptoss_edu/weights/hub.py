"""A checkpoint from the Hugging Face Hub: one copy of it, resumed, verified, in the usual cache.

`huggingface_hub` knows repositories, revisions, accounts and the cache that all programs share, but
a file whose connection breaks it may start over, and a connection that falls asleep it may wait for
without end. A shard has 5 GB, so shards are fetched here: watched while they come, appended to what
is already there, compared with their published sha256, and put into that cache under the name by
which it knows them.

Source: https://huggingface.co/docs/huggingface_hub/guides/manage-cache for the cache's layout.
"""

from __future__ import annotations

import fnmatch
import hashlib
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import huggingface_hub.constants
import huggingface_hub.errors

from gptoss_edu.weights.shards import INDEX, find_tensors

# Of the top folder only: `original/` and `metal/` hold the same 13.8 GB again.
WANTED = ("config.json", "generation_config.json", "o200k_ids.json", INDEX, "*.safetensors")
ATTEMPTS = 100  # per file, and each must bring something
STALL_SECONDS = 60.0  # without a byte, and the watchdog gives the connection up
STALLS = 3  # in a row that brought nothing: then the network is to blame, not one connection
PIECE = 2**20  # bytes between two signs of life; huggingface_hub's own 10 MB are minutes on a phone


def download(repo_id: str) -> Path:
    """The folder of a Hub repository's checkpoint, downloaded now if it is not in the cache.

    A complete copy in the cache is used as it is, without asking the network. Raises
    FileNotFoundError if there is no such repository, ValueError if it holds no safetensors or a
    file arrives damaged, ConnectionError if the Hub is out of reach or the connection breaks (call
    again to go on from there), OSError before fetching if the disk has too little room.
    """
    cached = find_cached(repo_id)
    if cached is not None:
        return cached
    revision, files = describe(repo_id)
    blobs = cache_folder() / f"models--{repo_id.replace('/', '--')}" / "blobs"
    blobs.mkdir(parents=True, exist_ok=True)
    large = [file for file in files if file.lfs and not _is_whole(blobs / file.lfs.sha256, file)]
    partial = [path for file in large if (path := _partial(blobs, file)).exists()]
    present = sum(path.stat().st_size for path in partial)
    check_disk(blobs, sum(file.size for file in large) - present)
    for file in large:
        fetch(huggingface_hub.hf_hub_url(repo_id, file.rfilename, revision=revision), file, blobs)
    return _assemble(repo_id, files)


def cache_folder() -> Path:
    """Where huggingface_hub keeps what it downloads; HF_HOME and HF_HUB_CACHE move it."""
    return Path(huggingface_hub.constants.HF_HUB_CACHE)


def find_cached(repo_id: str) -> Path | None:
    """The folder of a complete copy in the cache, or None. Asks no network."""
    try:
        folder = huggingface_hub.snapshot_download(
            repo_id, local_files_only=True, allow_patterns=list(WANTED), ignore_patterns=["*/*"]
        )
        find_tensors(Path(folder))
    except (OSError, ValueError):  # not there, or not all of it
        return None
    return Path(folder) if (Path(folder) / "config.json").is_file() else None


def describe(repo_id: str) -> tuple[str, list[Any]]:
    """(newest revision, its wanted files: each with `rfilename`, `size` and, if large, `lfs`)."""
    try:
        info = huggingface_hub.HfApi().model_info(repo_id, files_metadata=True)
    except huggingface_hub.errors.RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"found neither a folder {repo_id!r} here nor a repository of that name on the Hub,"
            " expected one of them; check the spelling, or `hf auth login` if it is private"
        ) from error
    except Exception as error:  # the HTTP library underneath has changed twice
        raise _out_of_reach(repo_id, error) from error
    names = [file.rfilename for file in info.siblings or []]
    files = [
        file
        for file in info.siblings or []
        if "/" not in file.rfilename
        and any(fnmatch.fnmatch(file.rfilename, pattern) for pattern in WANTED)
    ]
    if not any(file.rfilename.endswith(".safetensors") for file in files):
        raise ValueError(
            f"the repository {repo_id!r} has no *.safetensors in its top folder, only"
            f" {names[:5]}; expected a GPT-OSS checkpoint such as 'openai/gpt-oss-20b'"
        )
    return info.sha, files


def _out_of_reach(repo_id: str, error: Exception) -> ConnectionError:
    return ConnectionError(
        f"found no complete copy of {repo_id!r} in {cache_folder()}, and the Hub is out of reach"
        f" ({type(error).__name__}: {error}). Connect once, or on another machine run `hf download"
        f" {repo_id} --exclude 'original/*' 'metal/*' --local-dir FOLDER` and load the folder"
    )


def check_disk(folder: Path, needed: int) -> None:
    """Refuse with OSError to write `needed` bytes to a disk that has less room."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(
            f"too little disk: {folder} has {free / 1e9:.2f} GB free, but {needed / 1e9:.2f} GB are"
            " needed; free some space, or choose a folder on a larger disk (for downloads: HF_HOME)"
        )


def fetch(url: str, file: Any, blobs: Path) -> None:
    """Fetch one large file to blobs/<its sha256>, going on from what an earlier call left there."""
    name, size, sha256 = file.rfilename, file.size, file.lfs.sha256
    partial = _partial(blobs, file)
    with open(partial, "ab") as out:
        _lock(out)
        if _is_whole(blobs / sha256, file):  # by another process, while this one waited
            return
        append(url, out, name, size)
    with open(partial, "rb") as received:
        found = hashlib.file_digest(received, "sha256").hexdigest()
    if found != sha256:
        partial.unlink()
        raise ValueError(
            f"{name} arrived damaged: found sha256 {found}, expected {sha256};"
            " it was deleted, call again to download it anew"
        )
    partial.replace(blobs / sha256)


def append(url: str, out: BinaryIO, name: str, size: int) -> None:
    """Append to `out` what it lacks of `size` bytes, as long as each attempt brings some."""
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    stalls = 0
    for attempt in range(ATTEMPTS):
        if out.tell() > size:  # a server that cannot resume sent everything once more
            out.seek(0)
            out.truncate()
        before = out.tell()
        options = {"resume_size": before, "headers": build_hf_headers(), "expected_size": size}
        try:
            return watch(
                lambda sink, o=options: http_get(url, sink, displayed_filename=name, **o), out
            )
        except Exception as error:
            out.flush()
            came = out.tell() != before
            stalls = 0 if came or not isinstance(error, TimeoutError) else stalls + 1
            if attempt == ATTEMPTS - 1 or not (came or 0 < stalls < STALLS):
                raise ConnectionError(
                    f"the download of {name} broke off after {out.tell():,} of {size:,} bytes"
                    f" ({type(error).__name__}: {error}); what came is kept, call again to go on"
                ) from error
        time.sleep(1)
    return None


class Sink:
    """The file of a download, with a lid: once `close` is called, nobody can write to it."""

    def __init__(self, out: BinaryIO) -> None:
        self._out, self._lock, self._open = out, threading.Lock(), True
        self.touched = time.monotonic()

    def write(self, data: bytes) -> int:
        """As the file's; raises BrokenPipeError after `close`."""
        return self._do("write", data)

    def seek(self, position: int) -> int:
        """As the file's."""
        return self._do("seek", position)

    def truncate(self) -> int:
        """As the file's."""
        return self._do("truncate")

    def tell(self) -> int:
        """As the file's."""
        return self._do("tell")

    def close(self) -> None:
        """Put the lid on. The file itself stays open for the next attempt."""
        with self._lock:
            self._open = False

    def _do(self, name: str, *arguments: Any) -> int:
        with self._lock:
            if not self._open:
                raise BrokenPipeError("this connection was given up")
            self.touched = time.monotonic()
            return getattr(self._out, name)(*arguments)


def watch(get: Callable[[Sink], None], out: BinaryIO) -> None:
    """Run `get(sink)`, which writes to `out`, and raise TimeoutError when nothing has come for
    STALL_SECONDS.

    A thread that waits for a byte cannot be interrupted, so it is left behind: the lid on its sink
    keeps it from writing into the file that the next attempt goes on with.
    """
    sink, errors = Sink(out), []

    def run() -> None:
        try:
            get(sink)
        except Exception as error:
            errors.append(error)

    worker = threading.Thread(target=run, daemon=True)
    usual = huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE
    huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE = min(usual, PIECE)
    try:
        worker.start()
        while worker.is_alive():
            worker.join(min(1.0, STALL_SECONDS / 4))
            if worker.is_alive() and time.monotonic() - sink.touched > STALL_SECONDS:
                raise TimeoutError(f"no data for {STALL_SECONDS:g} seconds")
    finally:
        sink.close()
        huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE = usual
    if errors:
        raise errors[0]


def _partial(blobs: Path, file: Any) -> Path:
    return blobs / f"{file.lfs.sha256}.gptoss_edu"


def _is_whole(path: Path, file: Any) -> bool:
    return path.is_file() and path.stat().st_size == file.size


def _lock(file: Any) -> None:
    """Wait until no other process writes this file, where the system can tell (not on Windows)."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX)
    except (ImportError, OSError):
        pass


def _assemble(repo_id: str, files: list[Any]) -> Path:
    """Let huggingface_hub fetch the small files and put all of them into one folder."""
    names = [file.rfilename for file in files]
    try:
        folder = Path(huggingface_hub.snapshot_download(repo_id, allow_patterns=names))
    except Exception as error:
        raise _out_of_reach(repo_id, error) from error
    for file in files:
        if not _is_whole(folder / file.rfilename, file):
            raise ValueError(
                f"{folder / file.rfilename} does not have its {file.size:,} bytes; delete"
                f" {folder.parent.parent} and call again"
            )
    return folder
