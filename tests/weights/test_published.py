"""The published files of the 20B, to the byte, and a synthetic checkpoint laid out like them."""

import dataclasses
import hashlib
import json

import numpy as np
import pytest

from benchmarks import synthetic
from gptoss_edu import load_model
from gptoss_edu.config import GPT_OSS_20B, TINY, Config
from gptoss_edu.weights.answers import published
from gptoss_edu.weights.layout import HF_PACKED, places
from gptoss_edu.weights.published import (
    FOLDER,
    arranged,
    file_sizes,
    weight_map,
    write_as_published,
)
from gptoss_edu.weights.shards import INDEX, find_tensors, map_array, read_header

KNOWN = published()["openai/gpt-oss-20b"]["files"]
SIZES = {name: file["bytes"] for name, file in KNOWN.items() if name.startswith("model-")}


class NoBar:
    def update(self, count):
        pass


def tensors(config=GPT_OSS_20B):
    return synthetic.pending(config, "packed", 0, NoBar())


def test_the_configuration_is_the_published_file():
    data = (FOLDER / "config.json").read_bytes()
    assert hashlib.sha256(data).hexdigest() == KNOWN["config.json"]["sha256"]
    assert Config.from_dict(json.loads(data)) == GPT_OSS_20B


def test_our_names_are_the_published_ones():
    names = {e.name for at in (None, *range(24)) for _, e in places(HF_PACKED, at)}
    assert names == weight_map().keys()
    index = json.loads((FOLDER / INDEX).read_text())
    assert index["metadata"]["total_size"] == sum(one.num_bytes for one in tensors().values())


def test_headers_and_tensors_have_the_published_sizes():
    assert file_sizes(tensors()) == SIZES
    assert sum(SIZES.values()) == 13_761_316_904


@pytest.mark.parametrize(
    "name, dtype",
    [
        ("model.norm.weight", "F32"),
        ("model.layers.7.self_attn.sinks", "F32"),
        ("model.layers.0.mlp.router.bias", "F32"),
    ],
)
def test_one_other_type_and_the_sizes_are_others(name, dtype):
    changed = tensors() | {name: tensors()[name]._replace(dtype=dtype)}
    assert file_sizes(changed) != SIZES


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """All layers, so all names; small ones."""
    folder = tmp_path_factory.mktemp("published") / "tiny"
    config = dataclasses.replace(TINY, num_layers=24, layer_types=())
    synthetic.write_synthetic(folder, config)
    return folder


def test_a_synthetic_checkpoint_has_this_layout(folder):
    assert json.loads((folder / INDEX).read_text())["weight_map"] == weight_map()
    for file in SIZES:
        headers = list(read_header(folder / file).values())
        kinds = [tensor.dtype for tensor in headers]
        assert kinds == sorted(kinds, key="BF16 U8".split().index)
        raw = (folder / file).read_bytes()
        header = raw[8 : 8 + int.from_bytes(raw[:8], "little")]
        assert b"__metadata__" not in header
        assert b" " not in header.rstrip()
        assert len(header) % 8 == 0
    split = {n.split(".")[2] for n in weight_map() if "layers" in n}
    files = {at: {f for n, f in weight_map().items() if f".{at}." in n} for at in split}
    assert {at for at, inside in files.items() if len(inside) > 1} == {"18", "6"}


def test_it_loads_and_written_again_it_is_the_same(folder):
    before = {file: (folder / file).read_bytes() for file in SIZES}
    model, params = load_model(folder)
    assert len(params.layers) == 24
    stored = find_tensors(folder)
    name = "model.layers.18.mlp.experts.gate_up_proj_blocks"
    np.testing.assert_array_equal(
        np.concatenate(list(tensors(model.config)[name].values())), map_array(stored[name]).ravel()
    )
    synthetic.write_synthetic(folder, model.config)  # beside the old files, so under other names
    files = sorted({*json.loads((folder / INDEX).read_text())["weight_map"].values()})
    assert [(folder / file).read_bytes() for file in files] == [before[file] for file in SIZES]


def test_other_tensors_are_refused(tmp_path):
    assert arranged(tensors(TINY)) == {}
    with pytest.raises(ValueError, match="expected the 20B's 459; only in one of the two: model"):
        write_as_published(tmp_path, tensors(TINY))
