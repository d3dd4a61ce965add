"""Fine-tunes write the same weights under other names: what is loaded is equal, bit for bit."""

from __future__ import annotations

import dataclasses
import json
import re

import jax
import ml_dtypes
import numpy as np
import pytest
from layouts import hf_tensors, random_params, write_file, write_layout, write_shards

from gptoss_edu.config import TINY
from gptoss_edu.weights import verify
from gptoss_edu.weights.checkpoint import load_model
from gptoss_edu.weights.convert import convert
from gptoss_edu.weights.dialects import join, published_names
from gptoss_edu.weights.layout import HF_LINEAR, find_layout
from gptoss_edu.weights.shards import Tensor, find_tensors, map_array

CONFIG = dataclasses.replace(TINY, num_layers=2, layer_types=())
ROUTER = ".mlp.router."


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def params():
    return random_params(CONFIG)


def unsloth(prefix: str, name: str, array: np.ndarray) -> dict[str, np.ndarray]:
    """A linear layer for each expert, gate and up in one, interleaved (unsloth-zoo)."""
    which = name.removesuffix("_bias")
    kind = "bias" if name.endswith("_bias") else "weight"
    return {f"{prefix}{which}s.{n}.{kind}": one.T for n, one in enumerate(array)}


def compressor(prefix: str, name: str, array: np.ndarray) -> dict[str, np.ndarray]:
    """A linear layer for each of gate, up and down of each expert (llm-compressor)."""
    kind = "bias" if name.endswith("_bias") else "weight"
    found = {}
    for n, one in enumerate(array):
        if name.startswith("gate_up"):
            found[f"{prefix}{n}.gate_proj.{kind}"] = one[..., 0::2].T
            found[f"{prefix}{n}.up_proj.{kind}"] = one[..., 1::2].T
        else:
            found[f"{prefix}{n}.down_proj.{kind}"] = one.T
    return found


def older_compressor(prefix: str, name: str, array: np.ndarray) -> dict[str, np.ndarray]:
    """As llm-compressor wrote it at first, with `experts` twice."""
    return compressor(prefix + "experts.", name, array)


def mlx(prefix: str, name: str, array: np.ndarray) -> dict[str, np.ndarray]:
    """Gate and up apart, all experts in one tensor (mlx-lm)."""
    each = compressor(prefix, name, array)
    names = {key.removeprefix(prefix).partition(".")[2] for key in each}
    return {
        prefix + key: np.stack([each[f"{prefix}{n}.{key}"] for n in range(len(array))])
        for key in names
    }


DIALECTS = [unsloth, compressor, older_compressor, mlx]


def in_dialect(params, dialect, router="linear.", prefix="") -> dict[str, np.ndarray]:
    found = {}
    for name, array in hf_tensors(params).items():
        before, experts, which = name.partition("mlp.experts.")
        if experts:
            found |= dialect(before + experts, which, array)
        else:
            found[name.replace(ROUTER, ROUTER + router)] = array
    return {prefix + name: np.ascontiguousarray(array) for name, array in found.items()}


def write(folder, tensors, config=CONFIG, shards=0):
    folder.mkdir()
    if shards:
        write_shards(folder, tensors, shards)
    else:
        write_file(folder / "model.safetensors", tensors)
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    return folder


def assert_same(found, expected) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


# Reports 29 (unsloth#3119's siblings) and 30 (llm-compressor): refused before, with false advice.
@pytest.mark.parametrize("shards", [0, 3])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_rows_29_30_fine_tunes_are_loaded_and_converted(tmp_path, params, dialect, shards):
    folder = write(tmp_path / "m", in_dialect(params, dialect), shards=shards)
    assert find_layout(published_names(find_tensors(folder)), CONFIG) is HF_LINEAR
    assert_same(load_model(folder)[1], params)
    converted = convert(folder)
    assert converted.parent == folder
    assert_same(load_model(folder)[1], params)
    assert_same(load_model(converted)[1], params)


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float32])
def test_row_28_merges_in_any_dtype(tmp_path, dtype):
    """Float16, as unsloth's merges have it."""
    params = random_params(CONFIG, dtype)
    assert_same(load_model(write(tmp_path / "m", in_dialect(params, unsloth)))[1], params)


def test_the_router_alone_may_be_a_linear_layer(tmp_path):
    """Packed experts, and the router of a fine-tune."""
    params = random_params(CONFIG, packed=True)
    tensors = {n.replace(ROUTER, ROUTER + "linear."): t for n, t in hf_tensors(params).items()}
    assert_same(load_model(write(tmp_path / "m", tensors))[1], params)


@pytest.mark.parametrize("prefix", ["base_model.model.", "module.", "_orig_mod."])
@pytest.mark.parametrize("packed", [True, False])
def test_one_prefix_before_all_names_is_none(tmp_path, prefix, packed):
    """What wrappers (PEFT, DDP, torch.compile) put there. Verify looks at scales, too."""
    params = random_params(CONFIG, packed=packed)
    tensors = {prefix + name: array for name, array in hf_tensors(params).items()}
    folder = write(tmp_path / "m", tensors)
    assert_same(load_model(folder)[1], params)
    report = verify.verify(folder, answers=False)
    assert not report.count(verify.FAILED), verify.describe(report)
    assert ("MXFP4 scales" in {row.check for row in report.rows}) == packed


def test_a_prefix_before_some_names_is_refused(tmp_path, params):
    tensors = hf_tensors(params)
    tensors["x.lm_head.weight"] = tensors.pop("lm_head.weight")
    with pytest.raises(ValueError, match=r"missing lm_head.weight; unexpected x.lm_head.weight"):
        load_model(write(tmp_path / "m", tensors))


@pytest.mark.parametrize("dialect", DIALECTS)
def test_verify_reads_every_part(tmp_path, params, dialect):
    """Its own names are shown, and where the part lies."""
    tensors = in_dialect(params, dialect)
    name = next(name for name in tensors if "down_proj" in name and "weight" in name)
    folder = write(tmp_path / "good", tensors)
    assert verify.verify(folder, answers=False).count(verify.FAILED) == 0
    tensors[name] = tensors[name].copy()
    tensors[name].reshape(-1)[5] = np.nan
    report = verify.verify(write(tmp_path / "bad", tensors), answers=False)
    (row,) = [row for row in report.rows if row.state == verify.FAILED]
    assert (row.check, row.detail) == ("finite values", f"{name}: 1 NaN or infinite")


@pytest.mark.parametrize("dialect", DIALECTS[:3])
@pytest.mark.parametrize("number", [0, 4])
def test_an_expert_that_is_missing_is_named(tmp_path, params, dialect, number):
    tensors = in_dialect(params, dialect)
    which = rf"(experts\.{number}|{number}\.down_proj|down_projs\.{number})\."
    gone = re.compile(rf".*layers\.1\.mlp\.experts\.{which}.*")
    tensors = {name: t for name, t in tensors.items() if not gone.fullmatch(name)}
    with pytest.raises(ValueError, match=rf"layers.1.*_proj.*number {number} of 9 is missing"):
        load_model(write(tmp_path / "m", tensors))


def test_the_last_expert_is_missed_by_its_shape(tmp_path, params):
    tensors = {n: t for n, t in in_dialect(params, unsloth).items() if "projs.8." not in n}
    with pytest.raises(ValueError, match=r"gate_up_proj.weight has shape \[8, 320, 128\], expe"):
        load_model(write(tmp_path / "m", tensors))


@pytest.mark.parametrize(
    "change, found",
    [(lambda w: w.T.copy(), r"BF16 \[128, 320\]"), (lambda w: w.astype(np.float32), "F32")],
)
def test_experts_that_are_not_alike_are_refused(tmp_path, params, change, found):
    tensors = in_dialect(params, unsloth)
    name = "model.layers.0.mlp.experts.gate_up_projs.3.weight"
    tensors[name] = change(tensors[name])
    with pytest.raises(ValueError, match=rf"number 3 is {found} .*and number 0 BF16 \[320, 128\]"):
        load_model(write(tmp_path / "m", tensors))


def test_all_experts_transposed_are_refused(tmp_path, params):
    tensors = in_dialect(params, unsloth)
    tensors = {n: np.ascontiguousarray(t.T) if "projs" in n else t for n, t in tensors.items()}
    with pytest.raises(ValueError, match=r"has shape \[9, 128, 320\], expected \[9, 320, 128\]"):
        load_model(write(tmp_path / "m", tensors))


def test_one_tensor_under_two_names_is_refused(tmp_path, params):
    tensors = in_dialect(params, compressor) | in_dialect(params, older_compressor)
    with pytest.raises(ValueError, match=r"experts.0.* is there under another name, too"):
        load_model(write(tmp_path / "m", tensors))
    tensors = hf_tensors(params)
    tensors["model.layers.0.mlp.router.linear.bias"] = tensors["model.layers.0.mlp.router.bias"]
    with pytest.raises(ValueError, match=r"router.linear.bias in .* under another name, too"):
        load_model(write(tmp_path / "n", tensors))


def test_gate_without_up_is_missing_something(tmp_path, params):
    tensors = {n: t for n, t in in_dialect(params, mlx).items() if ".up_proj.weight" not in n}
    with pytest.raises(ValueError, match=r"missing .*gate_up_proj.weight"):
        load_model(write(tmp_path / "m", tensors))


def test_parts_are_joined_by_headers_alone(tmp_path):
    arrays = {"a": np.full((2, 3), 0, np.uint8), "b": np.full((2, 3), 1, np.uint8)}
    write_file(tmp_path / "x.safetensors", arrays)
    a, b = (find_tensors(tmp_path)[name] for name in "ab")
    assert isinstance(join("x", [a, b], 0), Tensor)
    expected = {0: np.stack([map_array(a), map_array(b)])}
    expected |= {1: [[0] * 3, [1] * 3] * 2, 2: [[0, 1] * 3] * 2}
    for axis, values in expected.items():
        joined = join("x", [a, b], axis)
        assert joined.num_bytes == 12
        np.testing.assert_array_equal(map_array(joined), values)


def test_published_names_are_left_alone(tmp_path):
    for layout in ("hf_packed", "original_packed", "hf_sharded"):
        folder = write_layout(tmp_path / layout, random_params(CONFIG, packed=True), CONFIG, layout)
        tensors = find_tensors(folder)
        assert published_names(tensors) == tensors
