"""A folder is there whole or not at all, and nobody removes what somebody else is writing."""

from __future__ import annotations

import os
import sys
import threading
import time
import uuid

import pytest

from gptoss_edu.weights.drafts import drafted, locked

posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs POSIX locks")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "folder"


@pytest.fixture
def left(folder):
    """What a killed process left."""
    path = folder.with_name(f".folder.{uuid.uuid4().hex}.partial")
    path.mkdir()
    (path / "half").write_text("half")
    return path


def write(folder, note=lambda text: None, text="new"):
    with locked(folder, note), drafted(folder) as draft:
        assert not list(draft.iterdir())
        (draft / "file").write_text(text)


def test_the_name_comes_at_the_end(folder):
    with locked(folder), drafted(folder) as draft:
        (draft / "file").write_text("new")
        assert not folder.exists()
    assert (folder / "file").read_text() == "new"
    assert [path.name for path in folder.parent.iterdir()] == ["folder"]


def test_what_was_there_stays_where_the_block_fails_and_goes_where_it_ends(folder):
    write(folder, text="old")
    opened = open(folder / "file")
    with pytest.raises(TypeError):
        write(folder, text=None)
    assert (folder / "file").read_text() == "old"
    write(folder)
    assert (folder / "file").read_text() == "new"
    assert [path.name for path in folder.parent.iterdir()] == ["folder"]
    with opened:
        assert opened.read() == "old", "whoever uses it keeps it"


def test_what_others_can_write_is_not_made(folder):
    before = os.umask(0)
    try:
        write(folder)
    finally:
        os.umask(before)
    assert folder.stat().st_mode & 0o777 == 0o755


@posix
def test_who_waits_is_told_so_and_leaves_the_others_draft_alone(folder, left):
    import fcntl

    notes, handle = [], os.open(folder.parent, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    thread = threading.Thread(target=write, args=(folder, notes.append))
    thread.start()
    while not notes and thread.is_alive():
        time.sleep(0.01)
    assert (left / "half").exists()
    os.close(handle)
    thread.join(600)
    assert notes == [f"another process is writing to {folder.parent}; waiting for it"]
    assert [path.name for path in folder.parent.iterdir()] == ["folder"]


def test_without_locks_only_old_drafts_are_removed(folder, left, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    write(folder)
    assert left.exists()
    os.utime(left, (1, 1))
    write(folder)
    assert not left.exists()


def test_only_drafts_of_this_folder_are_removed_and_links_are_not_followed(folder, left, tmp_path):
    others = [f".other.{uuid.uuid4().hex}.partial", ".folder.notes.partial", "folder.partial"]
    for name in others:
        (tmp_path / name).mkdir()
    link = tmp_path / f".folder.{uuid.uuid4().hex}.partial"
    link.symlink_to(tmp_path / others[0])
    (tmp_path / others[0] / "precious").write_text("mine")
    write(folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [*others, link.name, "folder"]
    )
    assert (tmp_path / others[0] / "precious").exists()
