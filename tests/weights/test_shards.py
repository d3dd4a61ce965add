"""The file format: what is written can be read by the safetensors package, and damage is seen."""

from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import pytest
import safetensors
from layouts import write_file as reference_write

from gptoss_edu.weights import shards
from gptoss_edu.weights.shards import Pending, find_tensors, map_array, read_header

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
    shards.write_file(tmp_path / "model.safetensors", pending())
    return tmp_path / "model.safetensors"


def test_the_safetensors_package_reads_what_is_written(path):
    found = dict(safetensors.deserialize(path.read_bytes()))
    assert found.keys() == ARRAYS.keys()
    for name, value in ARRAYS.items():
        assert found[name]["dtype"] == DTYPE_NAMES[name]
        assert tuple(found[name]["shape"]) == value.shape
        assert bytes(found[name]["data"]) == value.tobytes()


def test_what_the_safetensors_package_writes_is_read(tmp_path):
    reference_write(tmp_path / "x.safetensors", ARRAYS)
    found = read_header(tmp_path / "x.safetensors")
    assert found.keys() == ARRAYS.keys()
    for name, value in ARRAYS.items():
        view = map_array(found[name])
        assert view.dtype == value.dtype
        assert not view.flags.writeable
        np.testing.assert_array_equal(view, value)


def test_every_tensor_starts_at_a_multiple_of_its_item_size(path):
    for name, tensor in read_header(path).items():
        assert tensor.begin % ARRAYS[name].itemsize == 0


def test_shards_hold_everything_once_and_none_exceeds_its_limit(tmp_path):
    shards.write_shards(tmp_path, pending(), shard_bytes=14)
    assert len(list(tmp_path.glob("*.safetensors"))) == 3  # 7 + 4, 12, 8 bytes
    assert find_tensors(tmp_path).keys() == ARRAYS.keys()
    index = json.loads((tmp_path / shards.INDEX).read_text())
    assert index["metadata"]["total_size"] == 7 + 4 + 12 + 8


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


@pytest.mark.parametrize(
    "header",
    [
        b"not json",
        b"[1, 2]",
        b'{"a": 3}',
        b'{"a": {"dtype": "F32", "shape": [1]}}',
        b'{"a": {"dtype": "F32", "shape": 1, "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": ["0", "4"]}}',
    ],
)
def test_a_header_that_is_none_is_refused(tmp_path, header):
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(ValueError, match="not a safetensors header"):
        read_header(path)


@pytest.mark.parametrize(
    "shape, offsets", [([2], [0, 4]), ([1], [-4, 0]), ([1], [4, 8]), ([-1], [0, 4])]
)
def test_a_byte_range_that_does_not_fit_its_shape_is_refused(tmp_path, shape, offsets):
    entry = {"dtype": "F32", "shape": shape, "data_offsets": offsets}
    header = json.dumps({"a": entry}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(max(offsets[1], 0)))
    with pytest.raises(ValueError, match=r"model.safetensors: a takes bytes .* again"):
        read_header(path)


def test_a_shard_missing_from_the_folder_is_named(tmp_path):
    shards.write_shards(tmp_path, pending(), shard_bytes=12)
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
    shards.write_shards(tmp_path, pending(), shard_bytes=14)
    shard = sorted(tmp_path.glob("*.safetensors"))[0].name
    edit_index(tmp_path, lambda names: names.update(ghost=shard))
    with pytest.raises(ValueError, match=f"puts ghost in {shard}, but it was found in no shard"):
        find_tensors(tmp_path)


def test_a_tensor_that_the_index_does_not_know_is_refused(tmp_path):
    shards.write_shards(tmp_path, pending(), shard_bytes=14)
    edit_index(tmp_path, lambda names: names.pop("odd"))
    with pytest.raises(ValueError, match="puts odd in no shard, but it was found in model-00001"):
        find_tensors(tmp_path)


def test_an_index_that_puts_a_tensor_in_another_shard_is_refused(tmp_path):
    shards.write_shards(tmp_path, pending(), shard_bytes=14)
    edit_index(tmp_path, lambda names: names.update(odd=names["half"]))
    with pytest.raises(ValueError, match="the index puts odd in model-00003"):
        find_tensors(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {}}'])
def test_an_index_that_cannot_be_read_is_refused(tmp_path, text):
    (tmp_path / shards.INDEX).write_text(text)
    with pytest.raises(ValueError, match="weight_map"):
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
