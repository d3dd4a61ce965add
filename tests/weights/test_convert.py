"""Converting, and everything that can come in between: kills, a second process, a full disk."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import importlib
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
import warnings
from collections import namedtuple
from pathlib import Path

import jax
import numpy as np
import pytest
from layouts import random_params, write_layout

from gptoss_edu.commands import flags
from gptoss_edu.commands.main import main, make_parser
from gptoss_edu.config import TINY
from gptoss_edu.weights import mapped, shards
from gptoss_edu.weights.checkpoint import POCKET, load_model

module = importlib.import_module("gptoss_edu.weights.convert")
convert = module.convert

CONFIG = dataclasses.replace(TINY, num_layers=2, layer_types=())
FILES = {"config.json", "top.safetensors", "layer-00.safetensors", "layer-01.safetensors"}
WEIGHTS = sorted(FILES - {"config.json"})
posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs POSIX processes and locks")


def bits(params) -> list:
    return [(leaf.dtype, np.asarray(leaf).tobytes()) for leaf in jax.tree.leaves(params)]


def loads(folder) -> list:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return bits(load_model(folder)[1])


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "gptoss_edu" / "converted"


@pytest.fixture(scope="module")
def params():
    return random_params(CONFIG, packed=True)


@pytest.fixture
def source(tmp_path, params):
    return write_layout(tmp_path / "source", params, CONFIG, "hf_packed")


@pytest.fixture
def written(monkeypatch):
    """Names of the files of weights that are written."""
    names, write_file = [], module.write_file
    monkeypatch.setattr(
        module,
        "write_file",
        lambda path, *rest: names.append(path.name.split(".")[1]) or write_file(path, *rest),
    )
    return names


def names_in(folder) -> set[str]:
    return {path.name for path in folder.iterdir()} - {module.LOCK}


# ---- the conversion itself -----------------------------------------------------------------------


def test_every_tensor_starts_at_a_multiple_of_64_and_has_our_name(source):
    folder = convert(source)
    assert names_in(folder) == FILES | {mapped.MANIFEST}
    tensors = shards.find_tensors(folder)
    assert all(t.begin % 64 == 0 for name, t in tensors.items() if name[:8] != "padding.")
    assert tensors["layers.1.moe.w_down_EFD.blocks_EJUD"].dtype == "U8"
    assert any(name.startswith("padding.") for name in tensors), "TINY needs some"
    sizes = CONFIG.sizes
    assert tensors["unembedding_DV"].shape == (sizes["D"], sizes["V"])


@pytest.mark.parametrize("slab", [1, 3000])
def test_the_size_of_a_piece_changes_nothing(source, params, monkeypatch, slab):
    monkeypatch.setattr(module, "SLAB", slab)
    assert loads(convert(source)) == bits(params)


def test_never_more_than_a_piece_is_turned_at_once(source, monkeypatch):
    sizes, write_values = [], shards._write_values

    def watch(file, name, tensor):
        pieces = [piece.nbytes for piece in tensor.values()] if name[:3] != "pad" else []
        sizes.extend(pieces if len(pieces) > 1 else [])
        write_values(file, name, tensor)

    monkeypatch.setattr(module, "SLAB", 25_000)  # one expert of TINY has 20,480 bytes
    monkeypatch.setattr(shards, "_write_values", watch)
    convert(source)
    assert len(sizes) > 30
    assert max(sizes) <= 25_000


def test_the_progress_bar_ends_at_its_total(source, monkeypatch):
    bars = []

    class Bar:
        def __init__(self, total, **_):
            self.total, self.n = total, 0
            bars.append(self)

        def update(self, n):
            self.n += n

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(module, "tqdm", Bar)
    convert(source)
    assert bars[0].n == bars[0].total > 0


def test_a_second_call_writes_nothing(source, written):
    folder = convert(source)
    assert sorted(written) == ["layer-00", "layer-01", "top"]
    written.clear()
    manifest = (folder / mapped.MANIFEST).read_bytes()
    assert convert(source) == folder
    assert not written
    assert (folder / mapped.MANIFEST).read_bytes() == manifest


def test_only_what_is_damaged_is_written_again(source, params, written):
    folder = convert(source)
    written.clear()
    (folder / "layer-01.safetensors").write_bytes(b"no weights")
    (folder / "config.json").write_text("{}")
    convert(source)
    assert written == ["layer-01"]
    assert loads(folder) == bits(params)


# ---- places --------------------------------------------------------------------------------------


def test_a_checkpoint_that_cannot_be_written_to_is_converted_in_the_cache(
    source, params, cache, monkeypatch
):
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).parent != source)
    folder = convert(source)
    assert folder.parent == cache
    assert loads(source) == loads(folder) == bits(params)
    assert mapped.find_converted(source, "auto") == folder


def test_nothing_is_written_into_the_package(cache):
    assert [place.parent for place in mapped.possible_places(POCKET)] == [cache]


def test_no_place_at_all_is_said(source, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(OSError, match=r"found no folder to write the conversion to.*--out"):
        convert(source)


def test_a_folder_of_ones_choice(source, params, tmp_path):
    out = tmp_path / "deep" / "own"
    assert convert(source, out) == out
    assert convert(source, out) == out
    assert loads(out) == bits(params)
    assert mapped.find_converted(source, "auto") == source, "it was not looked for there"


def test_a_folder_with_something_else_is_left_alone(source, tmp_path):
    with pytest.raises(ValueError, match=r"holds other files \(config.json, model.safetensors\)"):
        convert(source, source)
    with pytest.raises(ValueError, match="is a file, expected a new or empty folder"):
        convert(source, source / "config.json")
    convert(source, tmp_path / "own")
    shutil.copytree(source, tmp_path / "other")
    with pytest.raises(ValueError, match=r"holds a conversion of .*source, not of .*other"):
        convert(tmp_path / "other", tmp_path / "own")


def test_a_conversion_is_not_converted(source):
    with pytest.raises(ValueError, match="is a conversion already"):
        convert(convert(source))


def test_a_checkpoint_with_mistakes_is_refused_before_anything_is_written(source):
    (source / "config.json").write_text((source / "config.json").read_text().replace("109", "110"))
    with pytest.raises(ValueError, match="do not fit together"):
        convert(source)
    assert not (source / mapped.FOLDER).exists()


# ---- kills ---------------------------------------------------------------------------------------


class Killed(BaseException):
    """Nobody catches this."""


def stop_at(event: int, stop) -> list[int]:
    """From now on count what reaches the disk, and call `stop` before the event of this number.

    Events are half a tensor (the norms, to have a few in each file), a sync and a rename.
    """
    count, write_values = [0], shards._write_values

    def tick():
        count[0] += 1
        if count[0] == event:
            stop()

    def after_tick(function):
        return lambda *args, **options: (tick(), function(*args, **options))[1]

    def half_first(file, name, tensor):
        if name.endswith("norm_D"):
            begin = file.tell()
            file.write(b"half of a tensor")
            file.flush()
            tick()
            file.seek(begin)
        write_values(file, name, tensor)

    shards._write_values = half_first
    os.fsync, os.replace = after_tick(os.fsync), after_tick(os.replace)
    return count


def kill_oneself():
    os.kill(os.getpid(), signal.SIGKILL)


def convert_until(source: str, event: int) -> None:
    """Runs in a process of its own, which ends where it stands."""
    stop_at(event, kill_oneself)
    convert(source)


def children():
    """Processes that have imported this file, but not yet used JAX: they start in no time."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "gptoss_edu.weights.convert"])
    return context


def count_events(source, monkeypatch) -> int:
    for owner, name in ((shards, "_write_values"), (os, "fsync"), (os, "replace")):
        monkeypatch.setattr(owner, name, getattr(owner, name))  # put back at the end
    count = stop_at(0, None)
    convert(source)
    return count[0]


def check_after_stop(source, params) -> None:
    """Whatever is there is not taken for a whole conversion, unless it is one."""
    folder = source / mapped.FOLDER
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert bits(load_model(source)[1]) == bits(params)
    if not (folder / mapped.MANIFEST).exists():
        assert all("loaded instead" in str(warning.message) for warning in caught)
        if mapped.is_conversion(folder):
            assert len(caught) == 1
            with pytest.raises(ValueError, match="is not finished"):
                load_model(folder)


@posix
@pytest.mark.parametrize("part", [0.0, 0.1, 0.3, 0.5, 0.7, 0.95, 1.0])
def test_killed_at_any_moment_the_next_start_works(source, params, monkeypatch, part, written):
    events = count_events(source, monkeypatch)
    monkeypatch.undo()
    shutil.rmtree(source / mapped.FOLDER)
    event = 1 + round(part * (events - 1))
    process = children().Process(target=convert_until, args=(str(source), event))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    check_after_stop(source, params)
    folder = convert(source)
    assert names_in(folder) == FILES | {mapped.MANIFEST}, "something was left lying about"
    assert loads(source) == loads(folder) == bits(params)


def test_stopped_at_every_moment_the_next_start_works(source, params, monkeypatch):
    """As above, at each write, sync and rename, in one process and so without the kill itself."""
    folder = source / mapped.FOLDER
    events = count_events(source, monkeypatch)
    finished = []
    for event in range(1, events + 1):
        monkeypatch.undo()
        monkeypatch.setenv("XDG_CACHE_HOME", str(source.parent / "cache"))
        shutil.rmtree(folder)
        for owner, name in ((shards, "_write_values"), (os, "fsync"), (os, "replace")):
            monkeypatch.setattr(owner, name, getattr(owner, name))

        def stop():
            raise Killed

        stop_at(event, stop)
        with contextlib.suppress(Killed):
            convert(source)
        assert not list(folder.glob(".*.partial"))
        monkeypatch.undo()
        monkeypatch.setenv("XDG_CACHE_HOME", str(source.parent / "cache"))
        check_after_stop(source, params)
        journal = mapped.read_manifest(folder, mapped.JOURNAL)
        finished.append(len(journal["files"]) if journal else 0)
        convert(source)
        assert loads(folder) == bits(params)
    assert {0, 2, 3, 4} <= set(finished), "no kill fell between two files"


def load_until(folder: str, event: int) -> None:
    """Runs in a process of its own, which ends where it stands."""
    stop_at(event, kill_oneself)
    load_model(folder)


@posix
@pytest.mark.parametrize("event", [1, 2])
def test_a_load_killed_while_it_notes_the_time_of_a_copy(source, params, event):
    """The only thing that a load ever writes, before its sync and before its rename."""
    folder = convert(source)
    os.utime(folder / "layer-00.safetensors", ns=(5, 5))
    process = children().Process(target=load_until, args=(str(folder), event))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert loads(source) == loads(folder) == bits(params)


def test_what_a_killed_process_finished_is_kept(source, monkeypatch, written):
    write_file = module.write_file

    def interrupt(path, *rest):
        if "layer-01" in path.name:
            path.write_bytes(b"half")
            raise KeyboardInterrupt
        write_file(path, *rest)

    monkeypatch.setattr(module, "write_file", interrupt)
    folder = source / mapped.FOLDER
    with pytest.raises(KeyboardInterrupt):
        convert(source)
    assert names_in(folder) == FILES - {"layer-01.safetensors"} | {mapped.JOURNAL}
    before = (folder / "layer-00.safetensors").stat()
    monkeypatch.setattr(module, "write_file", write_file)
    written.clear()
    convert(source)
    assert written == ["layer-01"]
    assert (folder / "layer-00.safetensors").stat().st_ino == before.st_ino


def test_a_finished_file_that_was_damaged_meanwhile_is_written_again(source, params, written):
    folder = convert(source)
    (folder / mapped.MANIFEST).rename(folder / mapped.JOURNAL)
    data = bytearray((folder / "top.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "top.safetensors").write_bytes(data)
    written.clear()
    convert(source)
    assert written == ["top"]
    assert loads(folder) == bits(params)


def test_a_checkpoint_that_changes_meanwhile_is_refused(source, params, monkeypatch):
    write_file = module.write_file

    def change(path, *rest):
        os.utime(source / "model.safetensors", ns=(1, 1))
        write_file(path, *rest)

    monkeypatch.setattr(module, "write_file", change)
    with pytest.raises(ValueError, match="changed while it was converted"):
        convert(source)
    with pytest.warns(UserWarning, match="is not finished"):
        load_model(source)
    assert loads(convert(source)) == bits(params)


# ---- two at once ---------------------------------------------------------------------------------


def convert_together(source: str, barrier, log: str, locks: bool) -> None:
    """Runs in a process of its own: convert together with another, and note what is written."""
    write_file = module.write_file

    def noted(path, *rest):
        with open(log, "a") as file:
            file.write(path.name.split(".")[1] + "\n")
        time.sleep(0.05)
        write_file(path, *rest)

    module.write_file = noted
    if not locks:
        sys.modules["fcntl"] = None
    barrier.wait(60)
    convert(source)


@posix
@pytest.mark.parametrize("locks", [True, False])
def test_two_processes_at_once(source, params, tmp_path, locks):
    context, log = children(), tmp_path / "log"
    barrier = context.Barrier(2)
    args = (str(source), barrier, str(log), locks)
    processes = [context.Process(target=convert_together, args=args) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert loads(source) == loads(source / mapped.FOLDER) == bits(params)
    lines = sorted(log.read_text().split())
    assert sorted(set(lines)) == ["layer-00", "layer-01", "top"]
    assert len(lines) == 3 if locks else len(lines) > 3
    assert names_in(source / mapped.FOLDER) == FILES | {mapped.MANIFEST}


@posix
def test_who_waits_is_told_so(source, params):
    import fcntl

    folder, notes = source / mapped.FOLDER, []
    folder.mkdir()
    with open(folder / module.LOCK, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        thread = threading.Thread(target=convert, args=(source,), kwargs={"note": notes.append})
        thread.start()
        while not notes and thread.is_alive():
            time.sleep(0.01)
        assert names_in(folder) == set()
    thread.join(60)
    assert notes == [f"another process is writing to {folder}; waiting for it"]
    assert loads(folder) == bits(params)


# ---- the disk ------------------------------------------------------------------------------------


def test_a_full_disk_is_refused_before_anything_is_written(source, monkeypatch, written):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1000))
    with pytest.raises(OSError, match=r"too little disk: .* has 0.00 GB free"):
        convert(source)
    assert not written


def test_a_disk_that_runs_full_keeps_what_is_finished(source, params, monkeypatch, written):
    write_file = module.write_file

    def fail(path, *rest):
        if "layer-01" in path.name:
            path.write_bytes(b"as far as there was room")
            raise OSError(errno.ENOSPC, "No space left on device")
        write_file(path, *rest)

    monkeypatch.setattr(module, "write_file", fail)
    with pytest.raises(OSError, match=r"layer-01\.safetensors could not be written.*No space left"):
        convert(source)
    folder = source / mapped.FOLDER
    assert not list(folder.glob(".*.partial"))
    monkeypatch.setattr(module, "write_file", write_file)
    written.clear()
    assert loads(convert(source)) == bits(params)
    assert written == ["layer-01"]


# ---- the command ---------------------------------------------------------------------------------


def test_the_command_says_where_it_wrote_and_checks(source, capsys):
    assert main(["convert", str(source)]) == 0
    folder = source / mapped.FOLDER
    assert capsys.readouterr().out == f"{folder}\n"
    for path in (source, folder):
        assert main(["convert", str(path), "--check"]) == 0
        assert "4 files, every byte as it was written" in capsys.readouterr().out
    data = bytearray((folder / "layer-01.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "layer-01.safetensors").write_bytes(data)
    assert main(["convert", str(source), "--check"]) == 1
    error = capsys.readouterr().err
    assert f"layer-01.safetensors is damaged: found sha256" in error  # noqa: F541
    assert f"run `python -m gptoss_edu convert {source} --out {folder}` again" in error
    assert main(["convert", str(source), "--out", str(folder)]) == 0


def test_checking_what_was_never_converted_says_how_to(source, capsys):
    assert main(["convert", str(source), "--check"]) == 1
    assert "`python -m gptoss_edu convert PATH_OR_ID` makes one" in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv, message",
    [
        ([], "expected either PATH_OR_ID or --from-orbax DIR"),
        (["x", "--from-orbax", "y"], "expected either PATH_OR_ID or --from-orbax DIR"),
        (["--from-orbax", "y"], "needs --out DIR"),
    ],
)
def test_a_wrong_command_is_refused(capsys, argv, message):
    assert main(["convert", *argv]) == 2
    assert message in capsys.readouterr().err


def test_an_interrupted_command_says_that_it_goes_on(source, monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "write_file", interrupt)
    assert main(["convert", str(source)]) == 130
    assert "stopped; files that are finished are kept" in capsys.readouterr().err


def test_a_conversion_that_is_passed_over_is_a_line_for_the_user(source, capsys):
    folder = convert(source)
    (folder / "top.safetensors").unlink()
    args = make_parser().parse_args(["ask", "hi", "--model", str(source)])
    flags.load(args)
    error = capsys.readouterr().err
    assert error.startswith(f"gptoss_edu: {folder / 'top.safetensors'} is damaged: found nothing")
    assert len(error.splitlines()) == 1
