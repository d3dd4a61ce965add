"""What is written can be read by the safetensors package, and nothing is written over."""

from __future__ import annotations

import json

import numpy as np
import pytest
import safetensors
from test_shards import ARRAYS, DTYPE_NAMES, pending

from gptoss_edu.weights import shards
from gptoss_edu.weights.shards import find_tensors, read_header
from gptoss_edu.weights.writing import Pending, write_file, write_shards


@pytest.fixture
def path(tmp_path):
    write_file(tmp_path / "model.safetensors", pending())
    return tmp_path / "model.safetensors"


def test_the_safetensors_package_reads_what_is_written(path):
    found = dict(safetensors.deserialize(path.read_bytes()))
    assert found.keys() == ARRAYS.keys()
    for name, value in ARRAYS.items():
        assert found[name]["dtype"] == DTYPE_NAMES[name]
        assert tuple(found[name]["shape"]) == value.shape
        assert bytes(found[name]["data"]) == value.tobytes()


def test_every_tensor_starts_at_a_multiple_of_its_item_size(path):
    for name, tensor in read_header(path).items():
        assert tensor.begin % ARRAYS[name].itemsize == 0


def test_shards_hold_everything_once_and_none_exceeds_its_limit(tmp_path):
    write_shards(tmp_path, pending(), shard_bytes=14)
    assert len(list(tmp_path.glob("*.safetensors"))) == 3  # 7 + 4, 12, 8 bytes
    assert find_tensors(tmp_path).keys() == ARRAYS.keys()
    index = json.loads((tmp_path / shards.INDEX).read_text())
    assert index["metadata"]["total_size"] == 7 + 4 + 12 + 8


@pytest.mark.parametrize(
    "values, message",
    [
        (
            lambda: np.zeros(3, np.float32),
            r"x cannot be written: found shape \(3,\), expected \(4,\)",
        ),
        (lambda: iter([np.zeros(4)]), "found dtype float64, expected float32"),
        (lambda: iter([np.zeros(3, np.float32)]), "found bytes 12, expected 16"),
    ],
)
def test_values_that_were_not_announced_are_refused(tmp_path, values, message):
    with pytest.raises(ValueError, match=message):
        write_file(tmp_path / "x.safetensors", {"x": Pending("F32", (4,), values)})


def test_no_file_is_written_over(path):
    """Through a link, it could be somebody else's."""
    with pytest.raises(FileExistsError):
        write_file(path, pending())
