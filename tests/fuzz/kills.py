"""Kill -9 at random moments of a conversion, a save, a download and compiling the kernels: is the
next start right?

`PYTHONPATH=tests python -m fuzz kills 100` kills each a hundred times; test_kills.py a few times.
After each kill the next start must find every number and every byte, and once the same work has
been done again, nothing may be left lying about.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import random
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import huggingface_hub.constants
import jax
import numpy as np
import pytest
from fake_hub import REPO, running, use_endpoint

from gptoss_edu.cpu import build
from gptoss_edu.weights import hub
from gptoss_edu.weights.checkpoint import POCKET, load_model, save_checkpoint
from gptoss_edu.weights.convert import convert
from gptoss_edu.weights.mapped import FOLDER

SHARD = 1_000_000  # bytes: a save of several files
Begin = Callable[[], None]  # says that from now on it may be killed


def opposite(params: Any) -> Any:
    """Other weights of the same shapes."""
    return jax.tree.map(lambda leaf: leaf if leaf.dtype == np.uint8 else -leaf, params)


def is_equal(params: Any, expected: Any) -> bool:
    """To the last bit."""
    return bool(jax.tree.all(jax.tree.map(np.array_equal, params, expected)))


# ---- a conversion --------------------------------------------------------------------------------


def before_convert(root: Path) -> None:
    """A copy of the pocket model; every second time with an older conversion that is damaged."""
    shutil.copytree(POCKET, root / "model")
    if random.random() < 0.5:
        path = convert(root / "model") / "top.safetensors"
        path.write_bytes(path.read_bytes()[:-1] + b"?")


def do_convert(root: Path, begin: Begin) -> None:
    """Convert it."""
    begin()
    convert(root / "model")


def after_convert(root: Path) -> None:
    """The checkpoint loads as ever; converted again, there is one whole conversion, and no more."""
    folder, (_, expected) = root / "model", load_model()
    with warnings.catch_warnings():  # of the damaged one, if it is there still
        warnings.simplefilter("ignore", UserWarning)
        assert is_equal(load_model(folder)[1], expected)
    assert is_equal(load_model(convert(folder))[1], expected)
    names = {path.name for path in folder.iterdir()}
    assert names == {path.name for path in POCKET.iterdir()} | {FOLDER}, names
    assert not [*root.rglob("*.partial")]


# ---- a save --------------------------------------------------------------------------------------


def save(params: Any, folder: Path) -> None:
    """Write weights of the pocket model's shapes, in several files."""
    model, _ = load_model()
    ids = model.tokenizer.kept_ids
    save_checkpoint(params, model.config, folder, kept_ids=ids, shard_bytes=SHARD)


def before_save(root: Path) -> None:
    """The pocket model, as a user has saved it."""
    save(load_model()[1], root / "model")


def do_save(root: Path, begin: Begin) -> None:
    """Save other weights in its place."""
    other = opposite(load_model()[1])
    begin()
    save(other, root / "model")


def after_save(root: Path) -> None:
    """The old weights or the new; saved again, the new, and no file of the old."""
    folder, (_, old) = root / "model", load_model()
    found, new = load_model(folder)[1], opposite(old)
    assert is_equal(found, old) or is_equal(found, new)
    save(new, folder)
    assert is_equal(load_model(folder)[1], new)
    index = (folder / "model.safetensors.index.json").read_text()
    names = {path.name for path in folder.iterdir()}
    assert {name for name in names if name.endswith(".safetensors")} <= {*index.split('"')}
    assert not [name for name in names if name.startswith(".")], names


# ---- a download ----------------------------------------------------------------------------------


def published() -> dict[str, bytes]:
    """The pocket model as the fake Hub has it."""
    return {path.name: path.read_bytes() for path in POCKET.iterdir() if hub._is_wanted(path.name)}


@contextlib.contextmanager
def cached_in(root: Path) -> Iterator[None]:
    """Downloads come from the Hub that runs for this test."""
    with pytest.MonkeyPatch.context() as patch:
        use_endpoint(patch, (root / "address").read_text())
        patch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(root / "downloads"))
        yield


def do_download(root: Path, begin: Begin) -> None:
    """Fetch all of it."""
    with cached_in(root):
        begin()
        hub.download(REPO)


def after_download(root: Path) -> None:
    """The next call ends in one whole copy, and in the cache is nothing else."""
    with cached_in(root):
        folder = hub.download(REPO)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == published()
    assert is_equal(load_model(folder)[1], load_model()[1])
    blobs = {path.name for path in (folder.parents[1] / "blobs").iterdir()}
    assert blobs == {path.resolve().name for path in folder.iterdir()}
    assert {path.name for path in (folder.parents[1] / "refs").iterdir()} == {"main"}


# ---- the kernels ---------------------------------------------------------------------------------


def do_kernels(root: Path, begin: Begin) -> None:
    """Compile them, with the real compiler."""
    begin()
    build.built_library(build.find_compiler())


def after_kernels(root: Path) -> None:
    """The next call has a whole library, and in the user's cache is nothing else."""
    library = build.built_library(build.find_compiler())
    assert build.is_whole(library)
    ctypes.CDLL(str(library))
    assert [*library.parent.iterdir()] == [library]


# ---- killing -------------------------------------------------------------------------------------


class Work(NamedTuple):
    """What is prepared, what is killed, and what must hold at the next start."""

    before: Callable[[Path], None]
    do: Callable[[Path, Begin], None]
    after: Callable[[Path], None]


WORKS = {
    "convert": Work(before_convert, do_convert, after_convert),
    "save": Work(before_save, do_save, after_save),
    "download": Work(lambda root: None, do_download, after_download),
    "kernels": Work(lambda root: None, do_kernels, after_kernels),
}


def perform(name: str, root: str, connection: Connection) -> None:
    """In a process of its own: do it, and say when it begins."""
    os.environ["XDG_CACHE_HOME"] = str(Path(root, "cache"))  # the server that forks knows another
    WORKS[name].do(Path(root), lambda: connection.send("begin"))


def start(name: str, root: Path) -> multiprocessing.process.BaseProcess:
    """Such a process, at the moment when it begins."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fuzz.kills"])  # imported once; no device is touched
    here, there = context.Pipe()
    process = context.Process(target=perform, args=(name, str(root), there))
    process.start()
    there.close()
    with here:
        here.recv()
    return process


@contextlib.contextmanager
def prepared(name: str, address: str) -> Iterator[Path]:
    """A folder in which the work can begin, with a cache of its own."""
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        root = Path(folder)
        (root / "address").write_text(address)
        with mock.patch.dict(os.environ, XDG_CACHE_HOME=str(root / "cache")):
            WORKS[name].before(root)
            yield root


def kill(name: str, times: int) -> tuple[int, int]:
    """(how often it was killed at work and not just after, how often the next start was right)."""
    killed = right = 0
    with running(published()) as server:
        server.drip, server.piece = 0.001, 50_000
        with prepared(name, server.url) as root:
            process, began = start(name, root), time.monotonic()
            process.join()
            longest = time.monotonic() - began
            assert process.exitcode == 0
            WORKS[name].after(root)
        for _ in range(times):
            with prepared(name, server.url) as root:
                process = start(name, root)
                time.sleep(random.uniform(0, longest))
                process.kill()
                process.join()
                killed += process.exitcode != 0
                WORKS[name].after(root)
                right += 1
    return killed, right


def main(times: int, *only: str) -> None:
    """A line for each kind of work, or for some."""
    warnings.simplefilter("ignore")  # a damaged conversion is one of the things that are begun with
    for name in only or WORKS:
        began = time.monotonic()
        killed, right = kill(name, times)
        seconds = time.monotonic() - began
        print(f"| {name} | {times} kills, {killed} at work | {right} right | {seconds:.0f} s |")
