"""Converting, and everything that can come in between: kills, a second process, a full disk."""

from __future__ import annotations

import dataclasses
import errno
import importlib
import multiprocessing
import os
import shutil
import signal
import sys
import warnings
from collections import namedtuple
from pathlib import Path

import jax
import numpy as np
import pytest
from layouts import random_params, write_layout

from gptoss_edu.commands import main as cli
from gptoss_edu.commands.flags import load
from gptoss_edu.config import TINY
from gptoss_edu.weights import mapped, progress, shards, writing
from gptoss_edu.weights.checkpoint import POCKET, load_model

module = importlib.import_module("gptoss_edu.weights.convert")
convert = module.convert

CONFIG = dataclasses.replace(TINY, num_layers=2, layer_types=())
SOURCE = {"config.json", "model.safetensors"}
FILES = {"config.json", "top.safetensors", "layer-00.safetensors", "layer-01.safetensors"}
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
        module, "write_file", lambda path, *rest: names.append(path.stem) or write_file(path, *rest)
    )
    return names


def names_in(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


def nothing_else_in(source) -> bool:
    """Besides the checkpoint there is one whole conversion, and nothing was left lying about."""
    return names_in(source) == SOURCE | {mapped.FOLDER} and names_in(
        source / mapped.FOLDER
    ) == FILES | {mapped.MANIFEST}


def damage(path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


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


def test_never_more_than_a_piece_is_transposed_at_once(source, monkeypatch):
    sizes, write_values = [], writing._write_values

    def watch(file, name, tensor):
        pieces = [piece.nbytes for piece in tensor.values()] if name[:3] != "pad" else []
        sizes.extend(pieces if len(pieces) > 1 else [])
        write_values(file, name, tensor)

    monkeypatch.setattr(module, "SLAB", 25_000)  # one expert of TINY has 20,480 bytes
    monkeypatch.setattr(writing, "_write_values", watch)
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

    monkeypatch.setattr(progress, "tqdm", Bar)
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


def test_what_is_damaged_is_written_anew(source, params, written):
    folder = convert(source)
    written.clear()
    damage(folder / "layer-01.safetensors")
    convert(source)
    assert sorted(written) == ["layer-00", "layer-01", "top"]
    assert loads(folder) == bits(params)
    assert nothing_else_in(source)


def test_a_changed_checkpoint_is_converted_anew(source):
    folder = convert(source)
    other = random_params(CONFIG, packed=True, seed=1)
    write_layout(source, other, CONFIG, "hf_packed")
    assert convert(source) == folder
    assert loads(source) == loads(folder) == bits(other)
    assert nothing_else_in(source)


# ---- places --------------------------------------------------------------------------------------


def test_a_checkpoint_that_cannot_be_written_to_is_converted_in_the_cache(
    source, params, cache, monkeypatch
):
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != source)
    notes = []
    folder = convert(source, note=notes.append)
    assert folder.parent == cache
    assert notes == [f"not converting into {source / mapped.FOLDER}: {source} cannot be written to"]
    assert loads(source) == loads(folder) == bits(params)
    assert mapped.find_converted(source, "auto") == folder


def test_what_others_converted_is_used_where_it_is_right(source, cache, monkeypatch, written):
    """In a folder that cannot be written to: as long as it is right, else there is a second one."""
    theirs = convert(source)
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != source)
    written.clear()
    assert convert(source) == theirs
    assert not written
    damage(theirs / "top.safetensors")
    assert convert(source).parent == cache
    assert mapped.find_converted(source, "auto").parent == cache
    loads(source)


@posix
@pytest.mark.parametrize("mode", [0o777, 0o770])
def test_nothing_is_written_where_others_can_write(source, params, cache, mode):
    source.chmod(mode)
    assert convert(source).parent == cache
    assert names_in(source) == SOURCE
    assert loads(source) == bits(params)


def test_nothing_is_written_through_a_link_or_over_other_files(source, cache, tmp_path):
    """A checkpoint may come from anywhere. Whatever lies in it, the user's files stay."""
    precious = tmp_path / "precious"
    precious.mkdir()
    for name in ("config.json", "notes.txt"):
        (precious / name).write_text("mine")
    (source / mapped.FOLDER).symlink_to(precious)
    (source / f".{mapped.FOLDER}.1ab091f9a0234c9b8f4cf2ddac0571b7.partial").symlink_to(precious)
    assert convert(source).parent == cache
    (source / mapped.FOLDER).unlink()
    shutil.copytree(precious, source / mapped.FOLDER)
    assert convert(source).parent == cache
    for folder in (precious, source / mapped.FOLDER):
        assert (folder / "config.json").read_text() == (folder / "notes.txt").read_text() == "mine"


PARTIAL = f".{mapped.MANIFEST}.1ab091f9a0234c9b8f4cf2ddac0571b7.partial"


@pytest.mark.parametrize("name", ["config.json", "o200k_ids.json", "top.safetensors", PARTIAL])
def test_a_folder_that_only_has_our_name_is_the_users(source, cache, name):
    """And so is what lies in it, under whatever name: no manifest says that it comes from us."""
    place = source / mapped.FOLDER
    place.mkdir()
    (place / name).write_text("mine")
    assert convert(source).parent == cache
    with pytest.raises(ValueError, match="holds other files"):
        convert(source, place)
    assert (place / name).read_text() == "mine"


@posix
@pytest.mark.parametrize("kind", ["symbolic", "hard", "folder"])
@pytest.mark.parametrize("name", ["config.json", ".gptoss_edu.lock", mapped.MANIFEST, PARTIAL])
def test_links_and_folders_inside_a_conversion_lead_nowhere(source, params, tmp_path, kind, name):
    """As an archive may bring them: what they lead to, or hold, stays as it is."""
    place, precious = convert(source), tmp_path / "precious"
    precious.write_text("mine")
    (place / name).unlink(missing_ok=True)
    if kind == "symbolic":
        (place / name).symlink_to(precious)
    elif kind == "hard":
        os.link(precious, place / name)
    else:
        (place / name).mkdir()
        precious = precious.rename(place / name / "precious")
    loads_right(source, params)
    loads_right(convert(source), params)
    assert precious.read_text() == "mine"
    loads_right(source, params)


@posix
def test_a_parent_that_is_a_link_is_followed_before_it_is_judged(source, params, tmp_path, cache):
    """The place is inside the folder that the link leads to; others may not write there."""
    (tmp_path / "link").symlink_to(source)
    assert convert(tmp_path / "link") == source / mapped.FOLDER
    shutil.rmtree(source / mapped.FOLDER)
    source.chmod(0o777)
    assert convert(tmp_path / "link").parent == cache


def test_what_is_not_ours_in_a_conversion_is_not_deleted(source):
    folder = convert(source)
    (folder / "notes.txt").write_text("mine")
    damage(folder / "top.safetensors")
    assert convert(source) != folder
    with pytest.raises(ValueError, match=r"holds other files \(notes.txt\)"):
        convert(source, folder)
    assert (folder / "notes.txt").read_text() == "mine"


def test_nothing_is_written_into_the_package(cache):
    assert [place.parent for place in mapped.possible_places(POCKET)] == [cache]


def test_no_place_at_all_is_said(source, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(OSError, match=r"found no folder to write the conversion to.*--out"):
        convert(source)


def test_a_folder_of_ones_choice(source, params, tmp_path, written):
    out = tmp_path / "deep" / "own"
    assert convert(source, out) == out
    written.clear()
    assert convert(source, out) == out
    assert not written
    assert loads(out) == bits(params)
    assert mapped.find_converted(source, "auto") == source, "it was not looked for there"


def test_a_damaged_manifest_in_a_folder_of_ones_choice_is_replaced(source, params, tmp_path):
    (convert(source, tmp_path / "own") / mapped.MANIFEST).write_text("{")
    assert loads(convert(source, tmp_path / "own")) == bits(params)


def test_a_folder_with_something_else_is_left_alone(source, tmp_path):
    with pytest.raises(ValueError, match=r"holds other files \(config.json, model.saf"):
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
    assert names_in(source) == SOURCE


# ---- kills ---------------------------------------------------------------------------------------


class Killed(BaseException):
    """Nobody catches this."""


EVENTS = [(os, name) for name in ("mkdir", "fsync", "rename", "replace", "unlink", "rmdir")]


def stop_at(event: int, stop) -> list[int]:
    """From now on count what reaches the disk, and call `stop` before the event of this number.

    Events are half a tensor (the norms, to have a few in each file), and whatever makes, names or
    removes a file or a folder.
    """
    count, write_values = [0], writing._write_values

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

    writing._write_values = half_first
    for owner, name in EVENTS:
        setattr(owner, name, after_tick(getattr(owner, name)))
    return count


def with_events(monkeypatch, source, event: int, stop) -> int:
    """Convert here, and stop before this event. How many there were."""
    with monkeypatch.context() as patch:
        for owner, name in ((writing, "_write_values"), *EVENTS):
            patch.setattr(owner, name, getattr(owner, name))  # put back at the end
        count = stop_at(event, stop)
        convert(source)
    return count[0]


def kill_oneself():
    os.kill(os.getpid(), signal.SIGKILL)


def convert_until(source: str, event: int) -> None:
    """Runs in a process of its own, which ends where it stands."""
    stop_at(event, kill_oneself)
    convert(source)


def run_until_killed(target, *args) -> None:
    """In a process that has imported this file, but not yet used JAX: it starts in no time."""
    process = children().Process(target=target, args=args)
    process.start()
    process.join(600)
    assert process.exitcode == -signal.SIGKILL


def children():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "gptoss_edu.weights.convert"])
    return context


def loads_right(source, params) -> None:
    """Whatever is there is not taken for a conversion of this checkpoint, unless it is one."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert bits(load_model(source)[1]) == bits(params)
    assert all("loaded instead" in str(warning.message) for warning in caught)


def make_stale(source) -> None:
    """A conversion of another checkpoint, which stood here before this one."""
    content = (source / "model.safetensors").read_bytes()
    damage(source / "model.safetensors")
    convert(source)
    (source / "model.safetensors").write_bytes(content)


@posix
@pytest.mark.parametrize("before", ["nothing", "stale"])
def test_killed_at_many_moments_the_next_start_is_right(source, params, monkeypatch, before):
    """Also where an older conversion is exchanged, and between the two renames of that."""
    if before == "stale":
        make_stale(source)
    shutil.copytree(source, source.with_name("again"), copy_function=shutil.copy2)
    last = with_events(monkeypatch, source, 0, None)
    assert last > 12
    seen = set()
    for event in (1, *range(2, last - 8, last // 4), *range(last - 8, last + 1)):
        shutil.rmtree(source)
        shutil.copytree(source.with_name("again"), source, copy_function=shutil.copy2)
        run_until_killed(convert_until, str(source), event)
        seen.add((source / mapped.FOLDER / mapped.MANIFEST).is_file())
        loads_right(source, params)
        folder = convert(source)
        assert nothing_else_in(source), f"{event=}"
        assert loads(source) == loads(folder) == bits(params)
    assert seen == {False, before == "stale"}, "expected a kill between two renames, too"


@pytest.mark.parametrize("before", ["nothing", "stale"])
def test_stopped_at_every_moment_nothing_is_left(source, params, monkeypatch, before):
    """As Ctrl-C does it: here what was begun is tidied up by whoever began it."""
    if before == "stale":
        make_stale(source)
    there = names_in(source)

    def stop():
        raise Killed

    event, stopped = 0, True
    while stopped:
        event += 1
        try:
            with_events(monkeypatch, source, event, stop)
            stopped = False
        except Killed:
            loads_right(source, params)
            left = names_in(source) - there - {mapped.FOLDER}
            assert len(left) <= 1, "a second interruption, of the tidying itself, may leave one"
    assert event > 12
    assert nothing_else_in(source)
    assert loads(source) == bits(params)


def load_until(folder: str, event: int) -> None:
    """Runs in a process of its own, which ends where it stands."""
    stop_at(event, kill_oneself)
    load_model(folder)


@posix
@pytest.mark.parametrize("event", [1, 2])
def test_a_load_killed_while_it_notes_the_stamps_of_a_copy(source, params, event):
    """The only thing that a load ever writes, before its sync and before its rename."""
    folder = convert(source)
    os.utime(folder / "layer-00.safetensors", ns=(5, 5))
    run_until_killed(load_until, str(folder), event)
    assert loads(source) == loads(folder) == bits(params)
    convert(source)
    assert nothing_else_in(source)


def test_a_checkpoint_that_changes_meanwhile_is_refused(source, params, monkeypatch):
    write_file = module.write_file

    def change(path, *rest):
        os.utime(source / "model.safetensors", ns=(1, 1))
        write_file(path, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_file", change)
        with pytest.raises(ValueError, match="changed while it was converted"):
            convert(source)
    assert names_in(source) == SOURCE
    assert loads(convert(source)) == bits(params)


# ---- two at once ---------------------------------------------------------------------------------


def convert_together(source: str, barrier, log: str, locks: bool) -> None:
    """Runs in a process of its own: convert together with another, and note what is written."""
    write_file = module.write_file

    def noted(path, *rest):
        with open(log, "a") as file:
            file.write(path.stem + "\n")
        if not locks:
            barrier.wait(600)  # so that both are at it at the same time
        write_file(path, *rest)

    module.write_file = noted
    if not locks:
        sys.modules["fcntl"] = None
    barrier.wait(600)
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
        process.join(600)
    assert [process.exitcode for process in processes] == [0, 0]
    assert loads(source) == loads(source / mapped.FOLDER) == bits(params)
    assert sorted(log.read_text().split()) == sorted(["layer-00", "layer-01", "top"] * (2 - locks))
    assert nothing_else_in(source)


# ---- the disk ------------------------------------------------------------------------------------


def test_a_full_disk_is_refused_before_anything_is_written(source, monkeypatch, written):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1000))
    with pytest.raises(OSError, match=r"too little disk: .* free"):
        convert(source)
    assert not written
    assert names_in(source) == SOURCE


@pytest.mark.parametrize("before", ["nothing", "stale"])
def test_a_disk_that_runs_full_leaves_nothing(source, params, monkeypatch, before):
    if before == "stale":
        make_stale(source)
    there, write_file = names_in(source), module.write_file

    def fail(path, *rest):
        if "layer-01" in path.name:
            path.write_bytes(b"as far as there was room")
            raise OSError(errno.ENOSPC, "No space left on device")
        write_file(path, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_file", fail)
        with pytest.raises(OSError, match=r"could not be written to .*No space left.*--out"):
            convert(source)
    assert names_in(source) == there
    loads_right(source, params)
    assert loads(convert(source)) == bits(params)
    assert nothing_else_in(source)


# ---- the command ---------------------------------------------------------------------------------


def test_the_command_says_where_it_wrote_and_checks(source, capsys):
    assert cli.main(["convert", str(source)]) == 0
    folder = source / mapped.FOLDER
    assert capsys.readouterr().out == f"{folder}\n"
    for path in (source, folder):
        assert cli.main(["convert", str(path), "--check"]) == 0
        assert "4 files, every byte as it was written" in capsys.readouterr().out
    damage(folder / "layer-01.safetensors")
    assert cli.main(["convert", str(source), "--check"]) == 1
    error = capsys.readouterr().err
    assert "layer-01.safetensors has changed: found sha256" in error
    assert f"run `python -m gptoss_edu convert {source} --out {folder}` again" in error
    assert cli.main(["convert", str(source), "--out", str(folder)]) == 0


def test_checking_what_was_never_converted_says_how_to(source, capsys):
    assert cli.main(["convert", str(source), "--check"]) == 1
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
    assert cli.main(["convert", *argv]) == 2
    assert message in capsys.readouterr().err


def test_an_interrupted_command_leaves_nothing(source, monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "write_file", interrupt)
    assert cli.main(["convert", str(source)]) == 130
    assert "stopped" in capsys.readouterr().err
    assert names_in(source) == SOURCE


def test_a_conversion_that_is_passed_over_is_a_line_for_the_user(tmp_path, capsys):
    source = shutil.copytree(POCKET, tmp_path / "pocket")  # has text, which `ask` needs
    folder = convert(source)
    (folder / "top.safetensors").unlink()
    args = cli.make_parser().parse_args(["ask", "hi", "--model", str(source)])
    load(args)
    error = capsys.readouterr().err
    assert error.startswith(f"gptoss_edu: {folder / 'top.safetensors'} has changed: found nothing")
    assert len(error.splitlines()) == 1


def test_who_asks_a_model_without_text_is_told_before_it_is_read(source, capsys):
    assert cli.main(["ask", "hi", "--model", str(source)]) == 1
    assert "109 vocabulary rows have no text" in capsys.readouterr().err
