"""What a finished conversion is: mapped as it lies, and nothing damaged, old or half is taken for
one."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest
from layouts import LAYOUTS, random_params, write_layout

from gptoss_edu.config import TINY
from gptoss_edu.weights import mapped
from gptoss_edu.weights.checkpoint import load_model
from gptoss_edu.weights.convert import convert

CONFIG = dataclasses.replace(TINY, num_layers=2, layer_types=())
needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self")


def bits(params) -> list:
    return [
        (leaf.dtype, leaf.shape, np.asarray(leaf).tobytes()) for leaf in jax.tree.leaves(params)
    ]


def load_quietly(*args, **options):
    """Parameters, after making sure that nothing was warned of."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return load_model(*args, **options)[1]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def params():
    return random_params(CONFIG, packed=True)


@pytest.fixture
def source(tmp_path, params):
    return write_layout(tmp_path / "source", params, CONFIG, "hf_packed")


@pytest.fixture
def folder(source):
    return convert(source)


# ---- mapped --------------------------------------------------------------------------------------


def file_behind(array: jax.Array) -> str:
    """The file whose pages an array consists of, or ""."""
    address = array.unsafe_buffer_pointer()
    for line in Path("/proc/self/maps").read_text().splitlines():
        begin, end = (int(part, 16) for part in line.split()[0].split("-"))
        if begin <= address < end:
            return line.partition("/")[2]
    return ""


@needs_proc
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_array_is_the_pages_of_its_file(tmp_path, layout):
    params = random_params(CONFIG, packed="plain" not in layout)
    source = write_layout(tmp_path / "source", params, CONFIG, layout)
    before = load_quietly(source)
    folder = convert(source)
    for path in (source, folder):
        loaded = load_quietly(path)
        assert bits(loaded) == bits(before)
        assert jax.tree.structure(loaded) == jax.tree.structure(before)
        for leaf in jax.tree.leaves(loaded.layers[1]):
            assert file_behind(leaf) == str(folder / "layer-01.safetensors")[1:]
        assert file_behind(loaded.unembedding_DV) == str(folder / "top.safetensors")[1:]


def own_memory() -> int:
    """Bytes that this process has for itself alone; mapped files are not among them."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024


@needs_proc
def test_loading_and_reading_takes_no_memory(tmp_path):
    config = dataclasses.replace(CONFIG, vocab_size=60_000)
    params = random_params(config, packed=True)
    folder = convert(write_layout(tmp_path / "source", params, config, "hf_packed"))
    total = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    before = own_memory()
    loaded = load_quietly(folder)
    read = sum(int(np.asarray(leaf).view(np.uint8).max()) for leaf in jax.tree.leaves(loaded))
    assert read > 0
    assert own_memory() - before < total / 4, f"{total=}"


@pytest.mark.parametrize("precision", ["mxfp4", "bf16", "f32"])
@pytest.mark.parametrize("dtype", [np.float32, "bfloat16"])
def test_other_precisions_come_out_as_from_the_checkpoint(tmp_path, precision, dtype):
    params = random_params(CONFIG, dtype=jax.numpy.dtype(dtype), packed=True)
    source = write_layout(tmp_path / "source", params, CONFIG, "hf_packed")
    before = bits(load_quietly(source, precision=precision))
    folder = convert(source)
    assert bits(load_quietly(source, precision=precision)) == before
    assert bits(load_quietly(folder, precision=precision)) == before


def test_what_needs_other_bytes_or_another_device_reads_the_checkpoint(folder, source, monkeypatch):
    assert mapped.find_converted(source, "auto") == folder
    assert mapped.find_converted(source, "mxfp4") == folder
    assert mapped.find_converted(source, "bf16") == source
    device = type("Device", (), {"platform": "tpu"})
    monkeypatch.setattr(jax, "devices", lambda: [device])
    assert mapped.find_converted(source, "auto") == source


def test_mapped_pages_need_no_memory_and_unpacked_experts_do(folder, monkeypatch):
    module = sys.modules["gptoss_edu.weights.reading"]
    monkeypatch.setattr(module, "available_memory", lambda: (100, "this machine"))
    load_quietly(folder)
    with pytest.raises(MemoryError, match="too little memory"):
        load_model(folder, precision="f32")


def test_too_little_memory_for_all_pages_is_a_warning(source, folder, monkeypatch):
    monkeypatch.setattr(mapped, "available_memory", lambda: (100, "this machine"))
    for path in (source, folder):
        with pytest.warns(UserWarning, match="0.00 GiB of memory available for 0.00 GiB of weig"):
            load_model(path)
    load_quietly(folder, precision="f32")


def test_experts_that_are_not_packed_stay_refused(tmp_path):
    source = write_layout(tmp_path / "s", random_params(CONFIG), CONFIG, "hf_plain")
    with pytest.raises(ValueError, match="needs experts that are packed"):
        load_model(convert(source), precision="mxfp4")


# ---- not whole -----------------------------------------------------------------------------------


def truncate(folder):
    with open(folder / "layer-00.safetensors", "r+b") as file:
        file.truncate(1000)


def flip(folder, name="layer-00.safetensors", at=-5):
    data = bytearray((folder / name).read_bytes())
    data[at] ^= 16
    (folder / name).write_bytes(data)


def remove(folder):
    (folder / "layer-01.safetensors").unlink()


def swap_layers(folder):
    """Same sizes, same names inside would be a coincidence: each file is checked by its name."""
    a, b = folder / "layer-00.safetensors", folder / "layer-01.safetensors"
    a.rename(folder / "x")
    b.rename(a)
    (folder / "x").rename(b)


def edit(folder, **changes):
    path = folder / mapped.MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


DAMAGES = {
    "truncated": (truncate, "layer-00.safetensors has changed: found 1,000 bytes, expected"),
    "a bit": (flip, "layer-00.safetensors has changed: found sha256"),
    "a bit of the header": (lambda f: flip(f, at=30), "has changed: found sha256"),
    "a letter of the config": (lambda f: flip(f, "config.json", 9), "config.json has changed"),
    "missing": (remove, "layer-01.safetensors has changed: found nothing"),
    "swapped": (swap_layers, "has changed: found sha256"),
    "another format": (lambda f: edit(f, format=0), "is of format 0, expected 4"),
    "half a manifest": (lambda f: (f / mapped.MANIFEST).write_text("{"), "is not the manifest"),
    "a foreign name": (lambda f: edit(f, files={"../x": {}}), "is not the manifest"),
    "a number": (lambda f: edit(f, made_of={"x": {"bytes": "1"}}), "is not the manifest"),
    "a command": (lambda f: edit(f, command="doctor; rm -r ~ #"), "is not the manifest"),
    "depth": (lambda f: (f / mapped.MANIFEST).write_text("[" * 10**5), "is not the manifest"),
    "length": (lambda f: (f / mapped.MANIFEST).write_text(" " * 2**23), "is not the manifest"),
}


@pytest.mark.parametrize("damage, message", DAMAGES.values(), ids=DAMAGES)
def test_damage_is_refused_or_the_checkpoint_is_loaded(source, folder, params, damage, message):
    damage(folder)
    with pytest.raises(ValueError, match=message):
        load_model(folder)
    with pytest.warns(UserWarning, match=f"{message}.*loaded instead"):
        loaded = load_model(source)[1]
    assert bits(loaded) == bits(params)
    assert convert(source) == folder
    assert bits(load_quietly(folder)) == bits(params)


def test_a_folder_without_a_manifest_is_no_conversion(tmp_path):
    assert not mapped.is_conversion(tmp_path)
    assert mapped.contents(tmp_path) is None
    with pytest.raises(FileNotFoundError, match="convert PATH_OR_ID"):
        mapped.check_conversion(tmp_path)


def test_what_a_manifest_says_is_harmless_in_a_terminal(folder):
    edit(folder, source="x\x1b]0;evil\x07 $(rm -r ~)")
    remove(folder)
    with pytest.raises(
        ValueError, match=r"convert 'x\\x1b\]0;evil\\x07 \$\(rm -r ~\)' --out"
    ) as told:
        mapped.check_conversion(folder)
    assert str(told.value).isprintable()


# ---- bound to the bytes that it was made of ------------------------------------------------------


@pytest.mark.parametrize("how", ["written", "exchanged"])
@pytest.mark.parametrize("changed", ["another model", "a bit"])
def test_equal_size_and_time_do_not_fool_anybody(source, folder, tmp_path, how, changed):
    path = source / "model.safetensors"
    times, content = path.stat(), bytearray(path.read_bytes())
    content[-1] ^= 1
    if changed == "another model":
        other = random_params(CONFIG, seed=1, packed=True)
        write_layout(tmp_path / "other", other, CONFIG, "hf_packed")
        content = (tmp_path / "other" / path.name).read_bytes()
    target = path if how == "written" else source / "new"
    target.write_bytes(content)
    os.utime(target, ns=(times.st_atime_ns, times.st_mtime_ns))
    target.replace(path)
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (times.st_size, times.st_mtime_ns)
    with pytest.warns(UserWarning, match=r"another state of .*model.safetensors has changed"):
        found = load_model(source)[1]
    shutil.rmtree(folder)
    assert bits(found) == bits(load_quietly(source))


def test_a_changed_checkpoint_is_loaded_until_it_is_converted_again(source, folder):
    other = random_params(CONFIG, packed=True, seed=1)
    loaded = load_quietly(source)
    before = bits(loaded)
    write_layout(source, other, CONFIG, "hf_packed")
    with pytest.warns(UserWarning, match="another state of"):
        assert bits(load_model(source)[1]) == bits(other)
    assert convert(source) == folder
    assert bits(load_quietly(source)) == bits(other)
    assert bits(loaded) == before, "what was mapped before changed under its user"


def test_a_file_that_came_to_the_checkpoint_is_noticed(source, folder):
    (source / "generation_config.json").write_text("{}")
    with pytest.warns(UserWarning, match="generation_config.json has come or gone"):
        load_model(source)


def test_a_second_conversion_serves_where_the_first_is_wrong(source, folder, params):
    inside, cached = mapped.possible_places(source)
    shutil.copytree(inside, cached)
    remove(inside)
    assert bits(load_quietly(source)) == bits(params)
    assert mapped.find_converted(source, "auto") == cached


def test_a_start_reads_no_file(source, folder, readings):
    load_quietly(source)
    load_quietly(folder)
    assert not readings


def test_a_bit_that_a_disk_forgot_is_found_by_reading_every_byte(folder):
    path = folder / "layer-01.safetensors"
    flip(folder, path.name)
    manifest = json.loads((folder / mapped.MANIFEST).read_text())
    manifest["files"][path.name]["stamp"] = mapped.stamp(path)  # as if no program had written
    edit(folder, **manifest)
    mapped.check_conversion(folder)
    with pytest.raises(ValueError, match=r"layer-01\.safetensors has changed"):
        mapped.check_conversion(folder, every_byte=True)


# ---- copied --------------------------------------------------------------------------------------


@pytest.fixture
def readings(monkeypatch):
    """Names of the files that were read whole."""
    names, record_of = [], mapped.record_of
    monkeypatch.setattr(
        mapped, "record_of", lambda path, *rest: names.append(path.name) or record_of(path)
    )
    return names


def test_a_copy_is_read_once_and_then_believed(tmp_path, source, folder, params, readings):
    """With the checkpoint around it: both are read. The times of the copy are others, too."""
    copy = tmp_path / "copy"
    shutil.copytree(source, copy, copy_function=shutil.copyfile)
    assert bits(load_quietly(copy)) == bits(params)
    weights = ["layer-00.safetensors", "layer-01.safetensors", "top.safetensors"]
    assert sorted(readings) == ["config.json"] * 2 + sorted([*weights, "model.safetensors"])
    readings.clear()
    load_quietly(copy)
    load_quietly(copy / mapped.FOLDER)
    assert not readings


@needs_proc
@pytest.mark.parametrize("reason", ["read-only", "a link", "another user's"])
def test_a_copy_that_is_not_ours_is_read_each_time(folder, tmp_path, monkeypatch, readings, reason):
    os.utime(folder / "config.json", ns=(5, 5))
    before = (folder / mapped.MANIFEST).read_bytes()

    def refuse(*_):
        raise PermissionError("read-only")

    if reason == "read-only":
        monkeypatch.setattr(mapped, "replace_json", refuse)
    if reason == "another user's":
        monkeypatch.setattr(os, "geteuid", lambda: folder.stat().st_uid + 1)
    if reason == "a link":
        (tmp_path / "link").symlink_to(folder)
        folder = tmp_path / "link"
    for _ in range(2):
        load_quietly(folder)
    assert readings == ["config.json"] * 2
    assert (folder / mapped.MANIFEST).read_bytes() == before


def test_converting_anew_while_loading_is_noticed(source, folder):
    def meanwhile(layer):
        (folder / mapped.MANIFEST).unlink(missing_ok=True)
        return layer

    with pytest.raises(ValueError, match="converted anew while it was being loaded"):
        load_model(source, each_layer=meanwhile)


def test_a_load_that_is_interrupted_leaves_nothing_behind(source, folder, params):
    def interrupt(layer):
        raise KeyboardInterrupt

    for path in (source, folder):
        with pytest.raises(KeyboardInterrupt):
            load_model(path, each_layer=interrupt)
        assert bits(load_quietly(path)) == bits(params)


@needs_proc
def test_a_cache_that_all_users_can_write_to_is_not_searched(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "gptoss_edu").mkdir(exist_ok=True)
    (tmp_path / "gptoss_edu").chmod(0o777)
    with pytest.warns(UserWarning, match="others may write"):
        assert mapped.possible_places(tmp_path) == [tmp_path / mapped.FOLDER]


def test_the_name_of_a_cached_conversion_tells_the_model(tmp_path):
    snapshot = tmp_path / "models--openai--gpt-oss-20b" / "snapshots" / "0123"
    inside, cached = mapped.possible_places(snapshot)
    assert inside.parent == snapshot
    assert cached.name.startswith("models--openai--gpt-oss-20b-")
    assert mapped.possible_places(snapshot.with_name("4567"))[1] != cached
