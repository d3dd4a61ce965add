"""The file format: what is written can be read by the safetensors package, and damage is seen."""

from __future__ import annotations

import collections
import copy
import json
import os
import random
import re
import socket
import sys
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
import safetensors
from layouts import write_file as reference_write

from gptoss_edu.weights import shards
from gptoss_edu.weights.shards import find_tensors, map_array, read_header
from gptoss_edu.weights.writing import Pending, write_file, write_shards

ARRAYS = {
    "odd": np.arange(7, dtype=np.uint8),
    "scalar_like": np.array([1.5], np.float32),
    "matrix": np.arange(6, dtype=np.float32).reshape(2, 3).astype(ml_dtypes.bfloat16),
    "half": np.arange(4, dtype=np.float16),
}
DTYPE_NAMES = {"odd": "U8", "scalar_like": "F32", "matrix": "BF16", "half": "F16"}


def pending(arrays=ARRAYS) -> dict[str, Pending]:
    return {
        name: Pending(DTYPE_NAMES[name], value.shape, lambda value=value: value)
        for name, value in arrays.items()
    }


@pytest.fixture
def path(tmp_path):
    write_file(tmp_path / "model.safetensors", pending())
    return tmp_path / "model.safetensors"


def test_what_the_safetensors_package_writes_is_read(tmp_path):
    reference_write(tmp_path / "x.safetensors", ARRAYS)
    found = read_header(tmp_path / "x.safetensors")
    assert found.keys() == ARRAYS.keys()
    for name, value in ARRAYS.items():
        view = map_array(found[name])
        assert view.dtype == value.dtype
        assert not view.flags.writeable
        np.testing.assert_array_equal(view, value)


@pytest.mark.parametrize("keep", [0, 5, 8, 40])
def test_a_file_cut_within_its_header_is_truncated(path, keep):
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=f"truncated .*found {keep} bytes .*again"):
        read_header(path)


def test_a_file_cut_within_its_bytes_is_truncated(path):
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    message = f"truncated: found {len(whole) - 1} bytes, expected {len(whole)}; download or copy"
    with pytest.raises(ValueError, match=message):
        read_header(path)


def test_a_file_with_more_than_its_header_says_is_refused(path):
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(ValueError, match="longer than its header says"):
        read_header(path)


def test_a_git_lfs_pointer_is_named_as_one(path):
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4000\n")
    with pytest.raises(ValueError, match=r"Git LFS pointer .*git lfs pull"):
        read_header(path)


def with_header(folder, header: bytes, body: bytes = bytes(4)):
    """A file with this header."""
    path = folder / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + body)
    return path


ENTRY = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
HUGE = 2**64


@pytest.mark.parametrize(
    "header",
    [
        b"not json",
        b"[1, 2]",
        b"\xff\xfe{\x00}\x00",
        b"[" * 100_000,
        b'{"a": {"dtype": NaN, "shape": [1], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [-0, 4]}}',
        b'{"a": {"dtype": "F32", "dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}',
        b'{"\\ud800": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [1]}}',
        b'{"a": {"dtype": "F32", "shape": [' + b"9" * 5000 + b'], "data_offsets": [0, 4]}}',
        *(
            json.dumps({"a": ENTRY | change}).encode()
            for change in (
                *({"shape": s} for s in (1, "1", None, ["x"], [None], [1.0], [True], [-1], [[1]])),
                *({"shape": s} for s in ([HUGE], [0, HUGE], [2**63, 4, 0])),
                *({"data_offsets": o} for o in ([0], [0, 4, 4], ["0", "4"], [0.0, 4.0], [-4, 0])),
                *({"data_offsets": o} for o in ([False, 4], [0, HUGE], {}, None)),
                *({"dtype": d} for d in (["F32"], None, 32, "f32", "F33")),
            )
        ),
        *(json.dumps({"a": entry}).encode() for entry in (3, None, [], "F32", {})),
        *(json.dumps({"__metadata__": m}).encode() for m in ([], 0, "x", {"a": 1}, {"a": None})),
    ],
)
def test_a_header_that_is_none_is_refused_in_words(tmp_path, header):
    """By us with a sentence, and by the safetensors package as well."""
    path = with_header(tmp_path, header)
    with pytest.raises(
        ValueError, match=r"not a safetensors header \(.+\); download or copy"
    ) as no:
        read_header(path)
    assert len(str(no.value)) < 700
    with pytest.raises(safetensors.SafetensorError):
        safetensors.deserialize(path.read_bytes())


@pytest.mark.parametrize(
    "header, why",
    [
        (b'{"a": %b, "a": %b}', "a name is there twice"),
        (b'{"__metadata__": {"x": "1", "x": "2"}, "a": %b}', "a name is there twice"),
        (b'{"a": {"x": 1, %b}', "expected dtype, shape and data_offsets"),
        (b'{"a": ["F32", [1], [0, 4]]}', "expected dtype, shape and data_offsets"),
        (b'{"a": {"dtype": {"F32": null}, "shape": [1], "data_offsets": [0, 4]}}', "has dtype"),
    ],
)
def test_what_may_mean_two_things_is_refused_though_others_take_it(tmp_path, header, why):
    entry = json.dumps(ENTRY).encode()
    entry = entry[1:] if b'"x": 1,' in header else entry
    path = with_header(tmp_path, header.replace(b"%b", entry))
    safetensors.deserialize(path.read_bytes())
    with pytest.raises(ValueError, match=why):
        read_header(path)


VALUES = [None, True, 0, 1, 4, -1, -0.0, 1.0, 2**63, 2**64, "", "x", "U8", "BF16", "F4", "F6_E2M3"]
VALUES += [[], [0], [1, 4], [4, 8], [0, 4, 4], {}, {"dtype": "U8"}, "\x00", "é", "F64", "I128"]


def mutated(rng: random.Random) -> bytes:
    """A good header with a few values, names or characters changed."""
    header = {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "F32", "shape": [2, 1], "data_offsets": [0, 8]},
        "b": {"dtype": "U8", "shape": [0, 3], "data_offsets": [8, 8]},
        "c": {"dtype": "F4", "shape": [4], "data_offsets": [8, 10]},
    }
    for _ in range(rng.randrange(3)):
        node, key = header, rng.choice([*header])
        while isinstance(node[key], dict | list) and node[key] and rng.random() < 0.8:
            node = node[key]
            key = rng.choice([*node]) if isinstance(node, dict) else rng.randrange(len(node))
        what = rng.random()
        if what < 0.2 and isinstance(node, dict):
            node[rng.choice(["a", "d", "dtype", "shape", "x"])] = node.pop(key)
        elif what < 0.3:
            del node[key]
        else:
            node[key] = copy.deepcopy(rng.choice(VALUES))
        if not header:
            break
    text = bytearray(json.dumps(header, ensure_ascii=rng.random() < 0.5).encode())
    for _ in range(rng.choice([0, 0, 1, 2])):
        at = rng.randrange(len(text))
        text[at : at + rng.randrange(2)] = rng.choice(
            [b"", b" ", b"0", b"1", b"-", b",", b"\xff", b"e"]
        )
    return bytes(text)


def test_header_for_header_we_agree_with_the_safetensors_package(tmp_path):
    """Never is something taken that it refuses. What it takes is refused for two reasons alone."""
    rng, agreed = random.Random(0), collections.Counter()
    stricter = re.compile("a name is there twice|expected dtype, shape and data_offsets")
    for _ in range(4000):
        header = mutated(rng)
        path = with_header(tmp_path, header, bytes(rng.choice([8, 10, 10, 10, 12])))
        try:
            safetensors.deserialize(path.read_bytes())
            theirs = True
        except safetensors.SafetensorError:
            theirs = False
        try:
            read_header(path)
            ours, why = True, ""
        except ValueError as error:
            ours, why = False, str(error)
        assert ours == theirs or (theirs and stricter.search(why)), (header, theirs, why)
        agreed[ours, theirs] += 1
    assert min(agreed[True, True], agreed[False, False]) > 500, agreed


def test_a_header_of_a_million_tensors_is_refused_before_they_are_looked_at(tmp_path):
    """Fifty megabytes of names would be compared one by one."""
    empty = json.dumps({"dtype": "U8", "shape": [0], "data_offsets": [0, 0]})
    header = "{" + ",".join(f'"{number}":{empty}' for number in range(100_001)) + "}"
    with pytest.raises(ValueError, match=r"found 100,001 tensors, expected 100,000 at most"):
        read_header(with_header(tmp_path, header.encode(), b""))


def test_a_header_of_garbage_is_not_read_into_memory(tmp_path):
    """A flipped bit in the length makes gigabytes of it: the file is sparse, and read nowhere."""
    path = tmp_path / "model.safetensors"
    path.write_bytes((600_000_000).to_bytes(8, "little"))
    os.truncate(path, 700_000_000)
    tracemalloc.start()
    with pytest.raises(
        ValueError, match="a header of 600,000,000 bytes, expected at most 100,000,000"
    ):
        read_header(path)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


@pytest.mark.parametrize(
    "kind, name",
    [
        ("fifo", "a named pipe"),
        ("folder", "a folder"),
        ("device", "a device"),
        ("socket", "a socket"),
    ],
)
def test_what_is_not_a_file_is_refused_by_what_it_is(tmp_path, kind, name):
    """Opening a pipe would wait for whoever writes into it."""
    path = tmp_path / "model.safetensors"
    if kind == "folder":
        path.mkdir()
    elif sys.platform == "win32":
        pytest.skip("there are none")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to(os.devnull)
    else:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
    with pytest.raises(ValueError, match=f"is {name}, expected a file"):
        find_tensors(tmp_path)
    edit_index_of(tmp_path, {"a": path.name})
    with pytest.raises(ValueError, match=f"is {name}, expected a file"):
        find_tensors(tmp_path)


def edit_index_of(folder, names: dict[str, str]) -> None:
    (folder / shards.INDEX).write_text(json.dumps({"weight_map": names}))


@pytest.mark.parametrize("shape, offsets", [([2], [0, 4]), ([1], [4, 8]), ([2], [4, 0])])
def test_a_byte_range_that_does_not_fit_its_shape_is_refused(tmp_path, shape, offsets):
    header = json.dumps({"a": {"dtype": "F32", "shape": shape, "data_offsets": offsets}}).encode()
    path = with_header(tmp_path, header, bytes(offsets[1]))
    with pytest.raises(ValueError, match=r"model.safetensors: a takes bytes .* again"):
        read_header(path)


def test_a_shard_missing_from_the_folder_is_named(tmp_path):
    write_shards(tmp_path, pending(), shard_bytes=12)
    (tmp_path / "model-00002-of-00004.safetensors").unlink(missing_ok=True)
    name = next(iter(sorted(tmp_path.glob("*.safetensors")))).name
    (tmp_path / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"missing shard: .* expects {name}"):
        find_tensors(tmp_path)


def edit_index(folder, change) -> None:
    path = folder / shards.INDEX
    index = json.loads(path.read_text())
    change(index["weight_map"])
    path.write_text(json.dumps(index))


def test_an_index_that_names_a_tensor_that_is_nowhere_is_refused(tmp_path):
    write_shards(tmp_path, pending(), shard_bytes=14)
    shard = sorted(tmp_path.glob("*.safetensors"))[0].name
    edit_index(tmp_path, lambda names: names.update(ghost=shard))
    with pytest.raises(ValueError, match=f"puts ghost in {shard}, but it was found in no shard"):
        find_tensors(tmp_path)


def test_a_tensor_that_the_index_does_not_know_is_refused(tmp_path):
    write_shards(tmp_path, pending(), shard_bytes=14)
    edit_index(tmp_path, lambda names: names.pop("odd"))
    with pytest.raises(ValueError, match="puts odd in no shard, but it was found in model-00001"):
        find_tensors(tmp_path)


def test_an_index_that_puts_a_tensor_in_another_shard_is_refused(tmp_path):
    write_shards(tmp_path, pending(), shard_bytes=14)
    edit_index(tmp_path, lambda names: names.update(odd=names["half"]))
    with pytest.raises(ValueError, match="the index puts odd in model-00003"):
        find_tensors(tmp_path)


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {}}', "[" * 100_000]
)
def test_an_index_that_cannot_be_read_is_refused(tmp_path, text):
    (tmp_path / shards.INDEX).write_text(text)
    with pytest.raises(ValueError, match=r"no readable weight_map|is not JSON"):
        find_tensors(tmp_path)


def test_an_index_may_not_point_out_of_its_folder(tmp_path):
    (tmp_path / shards.INDEX).write_text('{"weight_map": {"a": "../a.safetensors"}}')
    with pytest.raises(ValueError, match="files of its own folder"):
        find_tensors(tmp_path)


def test_a_tensor_in_two_files_is_refused(path):
    (path.parent / "copy.safetensors").write_bytes(path.read_bytes())
    with pytest.raises(ValueError, match=r"found twice, in copy.safetensors and model.safetensors"):
        find_tensors(path.parent)


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no weights in .*found no \*.safetensors"):
        find_tensors(tmp_path)
