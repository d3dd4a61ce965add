"""A checkpoint from the Hugging Face Hub: one copy of it, resumed, verified, in the usual cache.

`huggingface_hub` knows repositories, revisions, accounts and the cache that all programs share. But
what came of a file whose connection breaks for good it throws away, and a shard has 5 GB; small
files it compares by their size alone; and where it stores them a header of the server says, which
may be any path. So files are fetched by fetch.py and put into that cache under the names by which
it knows them, once they have the hash that was published.

Source: https://huggingface.co/docs/huggingface_hub/guides/manage-cache for the cache's layout.
"""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import uuid
from pathlib import Path
from typing import Any

import huggingface_hub
import huggingface_hub.constants
import huggingface_hub.errors

from gptoss_edu.weights.fetch import STALL_SECONDS, UTILS, File, digest, fetch, is_intact, plain
from gptoss_edu.weights.shards import INDEX, find_tensors

# Of the top folder only: `original/` and `metal/` hold the same 13.8 GB again.
WANTED = ("config.json", "generation_config.json", "o200k_ids.json", INDEX, "*.safetensors")


def download(repo_id: str, revision: str | None = None, token: str | None = None) -> Path:
    """The folder of a Hub repository's checkpoint, downloaded now if it is not in the cache.

    `revision` is a branch, a tag or a commit, None for the main branch; all files are those of the
    one commit that it means when the download begins. `token` is an account's, None for the one
    that `hf auth login` keeps. A complete copy in the cache is used as it is, without asking the
    network. Two processes may call this at once: one of them fetches a shard, the other waits.

    Raises FileNotFoundError if there is no such repository or revision, ValueError if it holds no
    safetensors or a file arrives damaged, ConnectionError if the Hub is out of reach or the
    connection breaks (call again to go on from there), OSError before fetching if the disk has too
    little room.
    """
    if revision is not None and not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)*", revision):
        raise ValueError(f"found revision {revision!r}, expected a branch, a tag or a commit")
    cached = find_cached(repo_id, revision)
    if cached is not None:
        return cached
    commit, files = describe(repo_id, revision, token)
    blobs = _storage(repo_id) / "blobs"
    blobs.mkdir(parents=True, exist_ok=True)
    check_disk(blobs, sum(file.size - _present(blobs, file) for file in files))
    headers = UTILS.build_hf_headers(token=token)
    for file in sorted(files, key=lambda file: file.is_large):
        fetch(huggingface_hub.hf_hub_url(repo_id, file.name, revision=commit), headers, file, blobs)
    folder = _storage(repo_id) / "snapshots" / commit
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        _place(blobs / file.digest, folder / file.name, file)
    _remember(repo_id, revision or "main", commit)
    return folder


def cache_folder() -> Path:
    """Where huggingface_hub keeps what it downloads; HF_HOME and HF_HUB_CACHE move it."""
    return Path(huggingface_hub.constants.HF_HUB_CACHE)


def find_cached(repo_id: str, revision: str | None = None) -> Path | None:
    """The folder of a complete copy in the cache, or None. Asks no network."""
    try:
        folder = Path(
            huggingface_hub.snapshot_download(
                repo_id,
                revision=revision,
                local_files_only=True,
                allow_patterns=list(WANTED),
                ignore_patterns=["*/*"],
            )
        )
        find_tensors(folder)
        small = [path for name in WANTED[:-1] if (path := folder / name).is_file()]
        intact = all(fits_its_name(path.resolve()) for path in small)
    except (OSError, ValueError):  # not there, or not all of it
        return None
    return folder if intact and (folder / "config.json").is_file() else None


def describe(repo_id: str, revision: str | None, token: str | None) -> tuple[str, list[File]]:
    """(the commit that `revision` means now, its wanted files)."""
    try:
        info = huggingface_hub.HfApi(token=token).model_info(
            repo_id, revision=revision, files_metadata=True, timeout=STALL_SECONDS
        )
    except huggingface_hub.errors.RevisionNotFoundError as error:
        raise FileNotFoundError(
            f"the repository {repo_id!r} has no revision {revision!r}; expected a branch, a tag or"
            " a commit of it, as its page lists them"
        ) from error
    except huggingface_hub.errors.RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"found neither a folder {repo_id!r} here nor a repository of that name on the Hub,"
            " expected one of them; check the spelling, or `hf auth login` if it is gated"
        ) from error
    except Exception as error:  # the HTTP library underneath has changed twice
        raise _out_of_reach(repo_id, error) from error
    siblings = info.siblings or []
    files = [_checked(sibling) for sibling in siblings if _is_wanted(sibling.rfilename)]
    if not any(file.name.endswith(".safetensors") for file in files):
        names = plain([sibling.rfilename for sibling in siblings[:5]])
        raise ValueError(
            f"the repository {repo_id!r} has no *.safetensors in its top folder, only {names};"
            " expected a GPT-OSS checkpoint such as 'openai/gpt-oss-20b'"
        )
    if not re.fullmatch(r"[0-9a-f]{40}", info.sha or ""):
        raise ValueError(f"the Hub names no commit for {repo_id!r}, but {plain(info.sha)}")
    return str(info.sha), files


def _is_wanted(name: object) -> bool:
    """Names from a server become names of files here: plain ones in the top folder, or none."""
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]{,127}", name, re.ASCII):
        return False
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in WANTED)


def _checked(sibling: Any) -> File:
    lfs = sibling.lfs
    file = File(sibling.rfilename, sibling.size, lfs.sha256 if lfs else sibling.blob_id)
    digits = r"[0-9a-f]{64}" if lfs else r"[0-9a-f]{40}"
    hashed = isinstance(file.digest, str) and re.fullmatch(digits, file.digest)
    if type(file.size) is not int or file.size < 0 or not hashed:
        raise ValueError(
            f"the Hub describes {file.name} with size {plain(file.size)} and hash"
            f" {plain(file.digest)}, expected a number of bytes and {digits}; is HF_ENDPOINT a Hub?"
        )
    return file


def _out_of_reach(repo_id: str, error: Exception) -> ConnectionError:
    commits = [path.name for path in (_storage(repo_id) / "snapshots").glob("*")]
    whole = [commit for commit in commits if find_cached(repo_id, commit)]
    return ConnectionError(
        f"found no complete copy of {repo_id!r} in {cache_folder()}, and the Hub is out of reach"
        f" ({plain(error)}). Connect and call again, or on another machine run `hf download"
        f" {repo_id} --exclude 'original/*' 'metal/*' --local-dir FOLDER` and load the folder"
        + "".join(f". Revision {commit!r} is in the cache" for commit in whole[:1])
    )


def check_disk(folder: Path, needed: int) -> None:
    """Refuse with OSError to write `needed` bytes to a disk that has less room."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(
            f"too little disk: {folder} has {free / 1e9:.2f} GB free, but {needed / 1e9:.2f} GB are"
            f" needed ({free:,} and {needed:,} bytes); free some space, or choose a folder on a"
            " larger disk (for downloads: HF_HOME)"
        )


def _present(blobs: Path, file: File) -> int:
    """Bytes of a large file that need no room any more."""
    for path in (blobs / str(file.digest), blobs / f"{file.digest}.gptoss_edu"):
        if path.is_file():
            return min(path.stat().st_size, file.size)
    return 0


def _storage(repo_id: str) -> Path:
    return cache_folder() / f"models--{repo_id.replace('/', '--')}"


def _place(blob: Path, path: Path, file: File) -> None:
    """Let a blob be found at `path`: by a link, or as a copy on a disk that has no links."""
    if is_intact(path, file):
        return
    path.unlink(missing_ok=True)
    try:
        path.symlink_to(os.path.relpath(blob, path.parent))
    except OSError:
        if not is_intact(path, file):  # by another process, a moment ago
            shutil.copyfile(blob, path)


def fits_its_name(blob: Path) -> bool:
    """Whether a file of the cache has the bytes of which its name is the hash."""
    digits = re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", blob.name)
    return not digits or digest(blob, len(blob.name)) == blob.name


def _remember(repo_id: str, revision: str, commit: str) -> None:
    """Write down what a branch or tag was, where it is looked for without a network."""
    ref = _storage(repo_id) / "refs" / revision
    if revision != commit:
        ref.parent.mkdir(parents=True, exist_ok=True)
        draft = ref.with_name(f"{ref.name}.{uuid.uuid4().hex}")
        draft.write_text(commit)
        draft.replace(ref)
