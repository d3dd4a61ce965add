"""Saving over a checkpoint: whoever is killed meanwhile leaves the old one, the new one or a
sentence, and a folder is nobody's to replace.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest
from layouts import random_params

from gptoss_edu.config import TINY
from gptoss_edu.tokenizer import STOP_TOKENS, NoText, byte_ids
from gptoss_edu.weights import checkpoint
from gptoss_edu.weights.checkpoint import load_model, save_checkpoint
from gptoss_edu.weights.convert import convert
from gptoss_edu.weights.shards import find_tensors

IDS = (*byte_ids(), *STOP_TOKENS)
CONFIG = dataclasses.replace(TINY, num_layers=1, layer_types=(), vocab_size=len(IDS))
MANY = 200_000  # bytes of a shard: several of them
ONE = 10**9


class Save(NamedTuple):
    """What is saved, and how."""

    seed: int
    shard_bytes: int = ONE
    ids: tuple[int, ...] = IDS
    theta: float = 150_000.0

    def to(self, folder: Path) -> None:
        config = dataclasses.replace(CONFIG, rope_theta=self.theta)
        ids = self.ids or None
        save_checkpoint(
            PARAMS[self.seed], config, folder, kept_ids=ids, shard_bytes=self.shard_bytes
        )

    def is_in(self, folder: Path) -> bool:
        """Is it this that is loaded from there, all of it?"""
        model, params = load_model(folder)
        same = jax.tree.map(np.array_equal, params, PARAMS[self.seed])
        ids = () if isinstance(model.tokenizer, NoText) else model.tokenizer.kept_ids
        return jax.tree.all(same) and (model.config.rope_theta, ids) == (self.theta, self.ids)


PARAMS = [random_params(CONFIG, packed=True, seed=seed) for seed in (0, 1)]
OLD = Save(0)
# (before, after, may a kill leave neither)
CHANGES = {
    "nothing before": (None, Save(1), True),
    "one file for one": (Save(0), Save(1), False),
    "shards for shards": (Save(0, MANY), Save(1, MANY), False),
    "fewer shards": (Save(0, MANY), Save(1, 2 * MANY), False),
    "shards for one file": (Save(0), Save(1, MANY), True),
    "one file for shards": (Save(0, MANY), Save(1), True),
    "another vocabulary": (Save(0, MANY), Save(1, MANY, IDS[::-1]), True),
    "no vocabulary": (Save(0), Save(1, ids=()), True),
    "another configuration": (Save(0), Save(1, theta=10_000.0), True),
}


class Killed(BaseException):
    """From a step on the process changes no file any more, not even to clean up."""


class Killer:
    """Counts what a process changes below `folder`, and lets nothing happen after `steps`."""

    def __init__(self) -> None:
        self.folder: Path | None = None
        sys.addaudithook(self.hear)

    def watch(self, folder: Path | None, steps: int = sys.maxsize) -> None:
        self.folder, self.left, self.seen = folder, steps, []

    def hear(self, event: str, arguments: tuple) -> None:
        if self.folder is None or not event.startswith(("open", "os.", "shutil.")):
            return
        path = str(arguments[0]) if arguments else ""
        if event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
        if event in ("os.listdir", "os.scandir") or not path.startswith(str(self.folder)):
            return
        if self.left <= 0:
            raise Killed
        self.left -= 1
        self.seen.append((event, path))


@pytest.fixture(scope="module")
def killer():
    killer = Killer()
    yield killer
    killer.watch(None)


@pytest.mark.parametrize("change", CHANGES)
def test_killed_at_any_step_old_or_new_or_a_sentence(tmp_path, killer, change):
    old, new, may_be_neither = CHANGES[change]
    states, steps = [], 0
    while "done" not in states:
        folder = tmp_path / f"{steps}"
        folder.mkdir()
        if old:
            old.to(folder)
        killer.watch(folder, steps)
        try:
            new.to(folder)
            states.append("done")
        except Killed:
            pass
        finally:
            killer.watch(None)
        states.append(state(folder, old, new))
        if states[-1] == "a sentence" or steps % 4 == 0:
            new.to(folder)
            assert new.is_in(folder)
            assert not list(folder.glob(".saving-*"))
            used = {tensor.path for tensor in find_tensors(folder).values()}
            assert used == {*folder.glob("*.safetensors")}
        steps += 1
    assert states[-2:] == ["done", "new"]
    assert steps > 6, "it was killed at every step"
    order = [s for s in states if s != "done"]
    assert order == sorted(order, key=["old", "a sentence", "new"].index), order
    assert may_be_neither or "a sentence" not in order


def state(folder: Path, old: Save | None, new: Save) -> str:
    """What is loaded from a folder; a mix of both is neither."""
    try:
        load_model(folder)
    except FileNotFoundError:
        return "a sentence"
    found = [name for name, save in (("old", old), ("new", new)) if save and save.is_in(folder)]
    assert len(found) == 1, "a mix"
    return found[0]


def test_a_save_that_was_cut_off_is_named(tmp_path, killer):
    Save(0).to(tmp_path)
    killer.watch(tmp_path, 100)
    Save(1, theta=10_000.0).to(tmp_path)
    removed = killer.seen.index(("os.remove", str(tmp_path / "config.json")))
    killer.watch(tmp_path, removed + 1)
    with pytest.raises(Killed):
        Save(0).to(tmp_path)
    killer.watch(None)
    with pytest.raises(
        FileNotFoundError, match=r"a save was cut off, .* in \.saving-\w+ still: save again"
    ):
        load_model(tmp_path)


def test_a_process_that_is_really_killed(tmp_path):
    """The system lets go of its lock, and the next one removes what it left."""
    OLD.to(tmp_path / "m")
    program = (
        "import os, sys; from test_saving import *\n"
        "checkpoint.take_places = lambda *_: os._exit(9)\n"
        "Save(1, MANY).to(Path(sys.argv[1]))"
    )
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1]), *sys.path])
    run = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "m")],
        env=os.environ | {"PYTHONPATH": paths}, timeout=120,
    )  # fmt: skip
    assert run.returncode == 9
    (left,) = (tmp_path / "m").glob(".saving-*")
    assert list(left.glob("*.safetensors"))
    assert OLD.is_in(tmp_path / "m")
    OLD.to(tmp_path / "m")
    assert not left.exists()


# What is not ours


def test_the_folder_stays_what_it_is(tmp_path, monkeypatch, killer):
    """Its inode and mode, whoever stands in it, and what else lies there; it is never renamed."""
    folder = tmp_path / "private"
    folder.mkdir(mode=0o700)
    OLD.to(folder)
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").write_text("mine")
    (folder / "model.txt").write_text("mine")
    (folder / "adapter").mkdir(mode=0o750)
    before = folder.stat()
    monkeypatch.chdir(folder)
    killer.watch(tmp_path)
    Save(1, MANY).to(Path())
    Save(1, MANY).to(folder)
    changes = [*killer.seen]
    killer.watch(None)
    after = folder.stat()
    assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)
    assert os.path.samefile(".", folder)
    assert {event for event, path in changes if path == str(folder)} == {"os.mkdir"}, "tried"
    assert {"config.json", "model.txt", ".git", "adapter"} <= {*os.listdir(".")}
    assert (folder / ".git" / "HEAD").read_text() == (folder / "model.txt").read_text() == "mine"
    assert Save(1, MANY).is_in(folder)


def test_links_are_kept_or_replaced_and_never_written_through(tmp_path):
    """A folder by another name stays a link; a file that is a link, as in the Hub's cache, goes."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    OLD.to(tmp_path / "link")
    blob = tmp_path / "blob"
    os.rename(tmp_path / "real" / "model.safetensors", blob)
    (tmp_path / "real" / "model.safetensors").symlink_to(blob)
    whole = blob.read_bytes()
    assert OLD.is_in(tmp_path / "link")
    Save(1).to(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert not (tmp_path / "real" / "model.safetensors").is_symlink()
    assert blob.read_bytes() == whole
    assert Save(1).is_in(tmp_path / "real")


def test_whoever_has_the_old_shards_mapped_keeps_them(tmp_path):
    Save(0, MANY).to(tmp_path)
    tensor = find_tensors(tmp_path)["lm_head.weight"]
    view = np.memmap(tensor.path, np.uint8, "r", tensor.begin, (tensor.num_bytes,))
    before = view.copy()
    Save(1, MANY).to(tmp_path)
    assert not tensor.path.exists()
    np.testing.assert_array_equal(view, before)


def test_old_shards_go_and_new_ones_are_published_names_where_there_were_none(tmp_path):
    Save(0, MANY).to(tmp_path)
    first = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert first[0].startswith("model-00001-of-0000")
    Save(1, MANY).to(tmp_path)
    second = {path.name for path in tmp_path.glob("*.safetensors")}
    assert len(second) == len(first)
    assert not second & {*first}


def test_two_processes_do_not_save_to_one_folder(tmp_path):
    pytest.importorskip("fcntl")
    OLD.to(tmp_path)
    with checkpoint.locked(tmp_path) as alone:
        assert alone
        with pytest.raises(OSError, match=r"another process is writing to .*; wait for it"):
            Save(1).to(tmp_path)
    assert OLD.is_in(tmp_path)


def test_where_there_are_no_locks_drafts_of_others_stay(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    other = tmp_path / ".saving-of-another"
    other.mkdir()
    OLD.to(tmp_path)
    assert other.exists()
    assert OLD.is_in(tmp_path)


def test_a_conversion_is_not_saved_over(tmp_path):
    """Its manifest would go on to describe the files that are loaded."""
    OLD.to(tmp_path / "m")
    folder = convert(tmp_path / "m", tmp_path / "converted")
    with pytest.raises(ValueError, match="is a converted checkpoint, expected another folder"):
        Save(1).to(folder)
    assert OLD.is_in(folder)


def test_weights_of_another_shape_are_not_saved(tmp_path):
    message = r"embedding_VD has shape \(259, 128\), expected \(259, 96\) as the configuration says"
    with pytest.raises(ValueError, match=message):
        save_checkpoint(PARAMS[0], dataclasses.replace(CONFIG, hidden_size=96), tmp_path / "m")
    assert not (tmp_path / "m").exists()
