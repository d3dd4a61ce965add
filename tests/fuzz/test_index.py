"""An index, and what lies beside it in the folder: the same weights, or a sentence."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from hypothesis import strategies as st

from fuzz.checkpoints import SHARDED, WHOLE, is_same, load, sandbox
from fuzz.edits import Change, Cut, Edit, changes
from fuzz.oracles import examine, fuzz
from gptoss_edu.weights.shards import INDEX

SIDECAR = bytes.fromhex("0005160700020000") + bytes(4000)  # macOS keeps a file's icon in it
SEEDS = [
    *(Edit("all", 0, value) for value in ([], "x", None, {"weight_map": []}, {"weight_map": {}})),
    *(Edit("replace", 5, value) for value in ("../others/x", "a" * 300, "a\x00", "..", "")),
    *(Edit("replace", 5, value) for value in (None, 5, [], "/etc/hostname", "a\\b", "\ud800")),
]
TEXTS = [b"[" * 100_000, b"\xff" * 20_000, b""]


@fuzz(
    150,
    changes,
    seeds=[
        *((Change((edit,)),) for edit in SEEDS),
        *((Change((), (Cut(0, 10**9, text),)),) for text in TEXTS),
    ],
)
def test_another_index_is_refused_or_the_same(change):
    with sandbox(SHARDED) as folder:
        path = folder / INDEX
        path.write_bytes(change.of(json.loads(path.read_bytes())))
        loaded, _ = examine("index", lambda: load(folder))
        assert loaded is None or is_same(loaded)


# ---- what lies in a folder -----------------------------------------------------------------------


def fifo(path: Path) -> None:
    if hasattr(os, "mkfifo"):
        os.mkfifo(path)


def broken(shard: Path) -> None:
    shard.write_bytes(shard.read_bytes()[:-1])


def dangling(path: Path) -> None:
    path.symlink_to("nowhere")


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def outside(path: Path) -> None:
    path.symlink_to("../others/precious.txt")


def folder_there(path: Path) -> None:
    path.mkdir()


def sidecar(path: Path) -> None:
    path.write_bytes(SIDECAR)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def text(path: Path) -> None:
    path.write_text("hello")


MAKERS: list[Callable[[Path], None]] = [fifo, dangling, loop, device, outside, folder_there]
MAKERS += [sidecar, empty, text]
NAMES = ["model.safetensors", "._model.safetensors", ".hidden.safetensors", "model (1).safetensors"]
NAMES += ["adapter_model.safetensors", "optimizer.safetensors", "consolidated.safetensors"]
NAMES += ["._model-00001-of-00009.safetensors", INDEX, "config.json", "o200k_ids.json"]
NAMES += ["generation_config.json", "README.md", "gptoss_edu-converted", "original"]
NAMES += ["x\x1b[2J.safetensors"]


@fuzz(
    200,
    st.sampled_from([WHOLE, SHARDED]),
    st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(MAKERS)), min_size=1, max_size=2),
    seeds=[
        *((WHOLE, [("model.safetensors", make)]) for make in MAKERS),
        *((WHOLE, [("config.json", make)]) for make in MAKERS),
        *((WHOLE, [("o200k_ids.json", make)]) for make in MAKERS),
        *((SHARDED, [(INDEX, make)]) for make in MAKERS),
        *((kind, [("._model.safetensors", sidecar)]) for kind in (WHOLE, SHARDED)),
        (WHOLE, [("x\x1b[2J.safetensors", text)]),
    ],
)
def test_special_and_foreign_files_are_refused_or_left_alone(kind, things):
    with sandbox(kind) as folder:
        for name, make in dict(things).items():
            path = folder / name
            if path.is_symlink() or path.is_file():
                path.unlink()
            elif path.is_dir():
                shutil.rmtree(path)
            make(path)
        loaded, _ = examine("folder", lambda: load(folder))
        if loaded is not None and not is_same(loaded):
            vocabulary = folder / "o200k_ids.json"  # without it rows have no text
            assert not os.path.lexists(vocabulary), "neither the same nor refused"


@fuzz(
    60,
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=3),
    st.sampled_from(["remove", "swap", "copy", "rename", "cut"]),
    st.booleans(),
)
def test_shards_that_go_astray_are_noticed(pairs, what, indexed):
    with sandbox(SHARDED) as folder:
        shards = sorted(folder.glob("model-*.safetensors"))
        if not indexed:
            (folder / INDEX).unlink()
        for one, two in pairs:
            here, there = shards[one % len(shards)], shards[two % len(shards)]
            if not here.exists() or not there.exists():
                continue
            if what == "remove":
                here.unlink()
            elif what == "copy":
                there.write_bytes(here.read_bytes())
            elif what == "rename":
                here.rename(folder / f"other-{two}.safetensors")
            elif what == "cut":
                broken(here)
            else:
                first, second = here.read_bytes(), there.read_bytes()
                here.write_bytes(second)
                there.write_bytes(first)
        loaded, _ = examine("index", lambda: load(folder))
        assert loaded is None or is_same(loaded)
