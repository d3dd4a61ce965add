"""Every layout gives the same parameters and logits, every damaged checkpoint a clear error."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from layouts import (
    hf_tensors,
    random_params,
    write_file,
    write_layout,
)

from gptoss_edu.chips.sharding import make_mesh
from gptoss_edu.config import TINY
from gptoss_edu.model import Params, forward
from gptoss_edu.mxfp4 import Mxfp4
from gptoss_edu.shapes import num_bytes
from gptoss_edu.tokenizer import STOP_TOKENS, NoText, Tokenizer, byte_ids
from gptoss_edu.weights import checkpoint, folders, progress, reading, shards
from gptoss_edu.weights.checkpoint import load_model, save_checkpoint

CONFIG = dataclasses.replace(TINY, num_layers=2, layer_types=())
PACKED = ("hf_packed", "hf_sharded", "original_packed")
PLAIN = ("hf_plain", "original_plain")
DENSE = "model.layers.1.self_attn.q_proj.weight"


@pytest.fixture(scope="module")
def packed() -> Params:
    return random_params(CONFIG, packed=True)


@pytest.fixture(scope="module")
def plain() -> Params:
    return random_params(CONFIG)


@pytest.fixture
def folder(tmp_path, packed):
    return write_layout(tmp_path / "model", packed, CONFIG, "hf_packed")


def assert_same(found: Params, expected: Params) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected), strict=True
    ):
        assert (a.dtype, a.shape) == (b.dtype, b.shape), path
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b), err_msg=str(path))


def change_tensors(folder, change) -> None:
    """Rewrite a single-file checkpoint with its dictionary of tensors changed."""
    path = folder / "model.safetensors"
    tensors = {}
    for name, tensor in shards.find_tensors(folder).items():
        tensors[name] = np.array(reading.map_array(tensor))
    change(tensors)
    write_file(path, tensors)


def change_json(path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


# Layouts


@pytest.mark.parametrize("layout", PACKED)
def test_packed_layouts_give_every_leaf_as_stored(tmp_path, packed, layout):
    model, params = load_model(write_layout(tmp_path, packed, CONFIG, layout))
    assert_same(params, packed)
    assert model.config == CONFIG
    assert model.dtype == jnp.float32


@pytest.mark.parametrize("layout", PLAIN)
def test_plain_layouts_give_every_leaf_as_stored(tmp_path, plain, layout):
    model, params = load_model(write_layout(tmp_path, plain, CONFIG, layout))
    assert_same(params, plain)
    assert model.config == CONFIG


def test_all_layouts_give_the_same_logits(tmp_path):
    config = dataclasses.replace(CONFIG, num_layers=1, layer_types=())
    packed = random_params(config, packed=True)
    unpacked = decoded(packed, jnp.bfloat16)
    compute, logits = jax.jit(forward, static_argnums=2), {}
    for layout in (*PACKED, *PLAIN):
        stored = packed if layout in PACKED else unpacked
        _, params = load_model(write_layout(tmp_path / layout, stored, config, layout))
        logits[layout] = np.asarray(compute(params, np.array([[5, 17, 29, 108]]), config))
    assert np.ptp(logits["hf_packed"]) > 1
    for layout, found in logits.items():
        # Same numbers; whether XLA sums them in the same order depends on how they are packed.
        np.testing.assert_allclose(found, logits["hf_packed"], rtol=0, atol=1e-5, err_msg=layout)


def decoded(params: Params, dtype) -> Params:
    """All arrays in one dtype, packed experts decoded."""
    return jax.tree.map(
        lambda leaf: jnp.asarray(leaf[:] if isinstance(leaf, Mxfp4) else leaf).astype(dtype),
        params,
        is_leaf=lambda leaf: isinstance(leaf, Mxfp4),
    )


def test_the_parent_of_original_will_do(tmp_path, packed):
    write_layout(tmp_path / "original", packed, CONFIG, "original_packed")
    assert_same(load_model(tmp_path)[1], packed)


def test_the_hf_copy_is_taken_where_both_are(tmp_path, packed):
    write_layout(tmp_path, packed, CONFIG, "hf_packed")
    (tmp_path / "original").mkdir()
    assert_same(load_model(str(tmp_path))[1], packed)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rotary_frequencies_of_an_exporter_are_ignored(folder, packed, dtype):
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    change_tensors(folder, lambda tensors: tensors.update({name: np.zeros(10, dtype)}))
    assert_same(load_model(folder)[1], packed)


def test_parameters_do_not_depend_on_the_file_once_loaded(folder, packed):
    _, params = load_model(folder)
    path = folder / "model.safetensors"
    with open(path, "r+b") as file:  # in place: the same pages that were mapped
        file.write(bytes(path.stat().st_size))
    assert_same(params, packed)


@pytest.mark.parametrize("layout", ["hf_packed", "original_packed"])
def test_the_progress_bar_ends_at_its_total(tmp_path, packed, layout, monkeypatch):
    bars = []

    class Bar(progress.tqdm):
        def __init__(self, **options):
            super().__init__(**options | {"disable": False, "file": io.StringIO()})
            bars.append(self)

    monkeypatch.setattr(progress, "tqdm", Bar)
    load_model(write_layout(tmp_path, packed, CONFIG, layout))
    assert [bar.n for bar in bars] == [bar.total for bar in bars]
    assert len(bars) == 1


# Precisions


@pytest.mark.parametrize("precision, dtype", [("bf16", jnp.bfloat16), ("f32", jnp.float32)])
@pytest.mark.parametrize("stored", [ml_dtypes.bfloat16, np.float32])
def test_one_dtype_for_everything(tmp_path, precision, dtype, stored):
    params = random_params(CONFIG, stored, packed=True)
    write_layout(tmp_path, params, CONFIG, "hf_packed")
    model, loaded = load_model(tmp_path, precision=precision)
    assert_same(loaded, decoded(params, dtype))
    assert model.dtype == dtype


@pytest.mark.parametrize("stored", [ml_dtypes.bfloat16, np.float32, np.float16])
def test_mxfp4_keeps_experts_packed_and_the_rest_in_bf16(tmp_path, stored):
    params = random_params(CONFIG, stored, packed=True)
    write_layout(tmp_path, params, CONFIG, "hf_packed")
    model, loaded = load_model(tmp_path, precision="mxfp4")
    expected = jax.tree.map(
        lambda leaf: leaf if leaf.dtype == jnp.uint8 else leaf.astype(jnp.bfloat16), params
    )
    assert_same(loaded, expected)
    assert model.dtype == jnp.float32


@pytest.mark.parametrize("stored", [np.float32, np.float16])
def test_auto_keeps_other_dtypes_as_stored(tmp_path, stored):
    params = random_params(CONFIG, stored, packed=True)
    write_layout(tmp_path, params, CONFIG, "hf_packed")
    assert_same(load_model(tmp_path)[1], params)


def test_mxfp4_refuses_experts_that_are_not_packed(tmp_path, plain):
    write_layout(tmp_path, plain, CONFIG, "hf_plain")
    with pytest.raises(ValueError, match=r"'mxfp4' needs experts that are packed on disk.*'auto'"):
        load_model(tmp_path, precision="mxfp4")


def test_an_unknown_precision_is_refused_with_the_choices(folder):
    with pytest.raises(ValueError, match=r"precision is 'fp4', expected one of auto, .*mxfp4"):
        load_model(folder, precision="fp4")


# Vocabulary


def test_rows_without_a_known_vocabulary_have_no_tokenizer(folder):
    model, _ = load_model(folder)
    assert model.tokenizer == NoText(model.config.vocab_size)


def test_kept_ids_give_a_tokenizer_of_as_many_rows(tmp_path):
    ids = [*byte_ids(), *STOP_TOKENS]
    config = dataclasses.replace(CONFIG, vocab_size=len(ids))
    save_checkpoint(random_params(config), config, tmp_path / "m", kept_ids=ids)
    tokenizer = load_model(tmp_path / "m")[0].tokenizer
    assert tokenizer == Tokenizer(kept_ids=tuple(ids))
    stops = json.loads((tmp_path / "m" / "generation_config.json").read_text())["eos_token_id"]
    assert stops == [256, 257, 258]


def test_kept_ids_that_cannot_be_a_vocabulary_are_refused(folder):
    (folder / "o200k_ids.json").write_text(json.dumps([7] * CONFIG.vocab_size))
    with pytest.raises(ValueError, match=r"o200k_ids.json: kept id 7 occurs twice"):
        load_model(folder)


@pytest.mark.parametrize("content, found", [([7] * 110, "110 ids"), ({"a": 1}, "a dict")])
def test_kept_ids_that_do_not_match_the_embedding_are_refused(folder, content, found):
    (folder / "o200k_ids.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"holds {found}, expected a list of {CONFIG.vocab_size}"):
        load_model(folder)


def test_saving_kept_ids_of_another_length_is_refused(tmp_path, packed):
    with pytest.raises(ValueError, match="kept_ids has 2 ids, expected one per row"):
        save_checkpoint(packed, CONFIG, tmp_path / "m", kept_ids=[1, 2])
    assert list(tmp_path.iterdir()) == []


# Saving


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float32, np.float16])
@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("shard_bytes", [10**9, 500_000])
def test_what_is_saved_is_loaded(tmp_path, dtype, packing, shard_bytes):
    params = random_params(CONFIG, dtype, packing)
    save_checkpoint(params, CONFIG, tmp_path / "m", shard_bytes=shard_bytes)
    model, loaded = load_model(tmp_path / "m")
    assert_same(loaded, params)
    assert model.config == CONFIG
    assert len(list((tmp_path / "m").glob("model-*"))) != 1


def test_saving_writes_the_published_names_and_order(tmp_path, packed, plain):
    for params in (packed, plain):
        save_checkpoint(params, CONFIG, tmp_path)
        expected = hf_tensors(params)
        found = shards.find_tensors(tmp_path)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            view = reading.map_array(found[name])
            np.testing.assert_array_equal(view, value, err_msg=name)


def test_config_says_that_experts_are_packed(tmp_path, packed, plain):
    for params, expected in ((packed, "mxfp4"), (plain, None)):
        save_checkpoint(params, CONFIG, tmp_path)
        written = json.loads((tmp_path / "config.json").read_text())
        assert written.get("quantization_config", {}).get("quant_method") == expected
        assert written["dtype"] == "bfloat16"


@pytest.mark.parametrize("breaking", ["write_shards", "write_json", "take_places"])
def test_a_save_that_fails_leaves_the_good_checkpoint(tmp_path, packed, monkeypatch, breaking):
    save_checkpoint(packed, CONFIG, tmp_path / "m")
    names = sorted(path.name for path in (tmp_path / "m").iterdir())
    whole = getattr(checkpoint, breaking)

    def break_off(*args, **options):
        if breaking == "write_shards":
            whole(*args, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, breaking, break_off)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(random_params(CONFIG, seed=1), CONFIG, tmp_path / "m")
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == names
    assert_same(load_model(tmp_path / "m")[1], packed)


def test_saving_again_replaces_the_checkpoint_and_nothing_else(tmp_path, packed, plain):
    save_checkpoint(
        packed, CONFIG, tmp_path / "m", kept_ids=range(CONFIG.vocab_size), shard_bytes=500_000
    )
    (tmp_path / "m" / "README.md").write_text("mine")
    (tmp_path / "m" / "notes").mkdir()
    save_checkpoint(plain, CONFIG, tmp_path / "m")
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "notes",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    assert_same(load_model(tmp_path / "m")[1], plain)


def test_a_dtype_that_checkpoints_do_not_hold_is_refused(tmp_path, packed):
    params = dataclasses.replace(packed, norm_D=packed.norm_D.astype(jnp.int8))
    with pytest.raises(ValueError, match="norm_D is int8, expected bfloat16, float16, float32"):
        save_checkpoint(params, CONFIG, tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_saving_to_a_full_disk_is_refused_before_writing(tmp_path, packed, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("usage", (), {"free": 1000}))
    with pytest.raises(OSError, match="too little disk"):
        save_checkpoint(packed, CONFIG, tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


# What can be wrong with a checkpoint


def refused(folder, kind: type[Exception], message: str, **options) -> None:
    with pytest.raises(kind, match=message):
        load_model(folder, **options)


def test_a_missing_folder_is_named(tmp_path):
    refused(tmp_path / "nothing", FileNotFoundError, "there is no folder .*nothing.* or a Hub id")


@pytest.mark.parametrize("name", ["./models/x", "models/gpt/oss", "~/nothing-here", "gpt-oss-20b"])
def test_what_is_no_folder_and_no_hub_id_asks_no_network(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(folders, "download", lambda *_, **__: pytest.fail("asked the network"))
    refused(name, FileNotFoundError, "there is no folder")


def test_a_file_in_place_of_its_folder_is_named(folder):
    refused(folder / "model.safetensors", ValueError, f"is a file, .*pass {re.escape(str(folder))}")


def test_an_empty_folder_has_no_config(tmp_path):
    refused(tmp_path, FileNotFoundError, r"there is no config.json in .*copy it")


def test_a_folder_without_weights_is_named(folder):
    (folder / "model.safetensors").unlink()
    refused(folder, FileNotFoundError, "no weights in")


def test_a_config_that_is_no_json_is_refused(folder):
    (folder / "config.json").write_text("{")
    refused(folder, ValueError, "config.json is not JSON")


def test_another_architecture_is_refused(folder):
    change_json(folder / "config.json", lambda c: c.update(model_type="llama", architectures=None))
    refused(folder, ValueError, "describes 'llama', expected model_type 'gpt_oss'")


def test_a_config_without_yarn_is_refused(folder):
    change_json(folder / "config.json", lambda c: c.update(rope_scaling=None))
    refused(folder, ValueError, "YaRN")


def test_a_config_whose_dialects_disagree_is_refused(folder):
    change_json(folder / "config.json", lambda c: c.update(num_experts=10))
    refused(folder, ValueError, "contradicts itself about num_experts")


def test_weights_of_another_model_are_refused(folder):
    write_file(folder / "model.safetensors", {"transformer.wte.weight": np.zeros(3, np.float32)})
    refused(folder, ValueError, r"not GPT-OSS weights: found \['transformer.wte.weight'\]")


def test_a_missing_shard_is_named(tmp_path, packed):
    folder = write_layout(tmp_path, packed, CONFIG, "hf_sharded")
    (folder / "model-00001-of-00002.safetensors").unlink()
    refused(folder, FileNotFoundError, "missing shard: .*expects model-00001-of-00002.safetensors")


def test_a_truncated_shard_is_refused_before_anything_is_read(tmp_path, packed, monkeypatch):
    folder = write_layout(tmp_path, packed, CONFIG, "hf_sharded")
    path = folder / "model-00002-of-00002.safetensors"
    os.truncate(path, path.stat().st_size - 100)
    monkeypatch.setattr(reading, "read", lambda *args: pytest.fail("read a tensor"))
    refused(folder, ValueError, r"00002.safetensors is truncated: found [\d,]+ bytes, expected")


def test_an_index_with_a_tensor_that_is_nowhere_is_refused(tmp_path, packed):
    folder = write_layout(tmp_path, packed, CONFIG, "hf_sharded")
    shard = "model-00000-of-00002.safetensors"
    index = folder / "model.safetensors.index.json"
    change_json(index, lambda c: c["weight_map"].update({"model.ghost": shard}))
    refused(folder, ValueError, f"puts model.ghost in {shard}, but it was found in no shard")


def test_a_missing_tensor_is_named(folder):
    change_tensors(folder, lambda tensors: tensors.pop(DENSE))
    refused(folder, ValueError, f"missing {DENSE}. Take all files")


def test_an_unexpected_tensor_is_named(folder):
    change_tensors(folder, lambda tensors: tensors.update(adapter=np.zeros(3, np.float32)))
    refused(folder, ValueError, "unexpected adapter in model.safetensors. Take all files")


def test_a_transposed_tensor_is_named_with_both_shapes(folder):
    change_tensors(folder, lambda tensors: tensors.update({DENSE: tensors[DENSE].T.copy()}))
    refused(folder, ValueError, rf"{DENSE} has shape \[128, 420\], expected \[420, 128\]")


@pytest.mark.parametrize("name", [DENSE, "model.layers.0.mlp.experts.down_proj_blocks"])
def test_a_wrong_dtype_is_named(folder, name):
    change_tensors(folder, lambda tensors: tensors.update({name: tensors[name].astype(np.int64)}))
    refused(folder, ValueError, f"{name} has dtype I64, expected (BF16 or F16 or F32|U8)")


def test_floats_in_place_of_packed_bytes_are_refused(folder):
    name = "model.layers.0.mlp.experts.down_proj_scales"
    change_tensors(folder, lambda tensors: tensors.update({name: tensors[name].astype(np.float32)}))
    refused(folder, ValueError, f"{name} has dtype F32, expected U8")


def test_a_config_of_another_size_lists_the_first_differences(folder):
    change_json(folder / "config.json", lambda c: c.update(num_hidden_layers=3, layer_types=None))
    refused(folder, ValueError, r"missing model.layers.2.*, and 14 more. Take all files")


def test_packed_experts_of_a_width_that_is_no_multiple_of_32_are_refused(folder):
    change_json(folder / "config.json", lambda c: c.update(hidden_size=120))
    refused(folder, ValueError, "packed in blocks of 32, but config.json says hidden_size 120")


def test_the_same_tensor_in_two_files_is_refused(folder, packed):
    write_file(folder / "again.safetensors", {"lm_head.weight": np.zeros((2, 3), np.float32)})
    refused(folder, ValueError, r"lm_head.weight is found twice")


def test_a_full_size_model_has_the_full_vocabulary(tmp_path):
    config = dataclasses.replace(CONFIG, vocab_size=201088)
    assert folders.read_tokenizer(tmp_path, config) == Tokenizer()


# Memory


@pytest.mark.parametrize("precision", checkpoint.PRECISIONS)
def test_the_memory_that_is_asked_for_is_what_is_used(folder, precision, monkeypatch):
    asked = []
    monkeypatch.setattr(reading, "check_memory", lambda *needed: asked.append(needed))
    _, params = load_model(folder, precision=precision)
    assert asked == [(num_bytes(params), num_bytes(params.layers[1]))]


def test_too_little_memory_is_refused_before_anything_is_read(folder, monkeypatch):
    monkeypatch.setattr(reading, "available_memory", lambda: (2**20, "this machine"))
    monkeypatch.setattr(reading, "read", lambda *args: pytest.fail("read a tensor"))
    message = r"this machine has 0.00 GiB available, but this checkpoint needs 0.0\d GiB"
    refused(folder, MemoryError, message, precision="f32")


def test_what_goes_to_a_mesh_is_counted_as_what_it_leaves_here(folder, monkeypatch):
    """The memory is checked there, too, and the weights are the same, bit for bit."""
    _, whole = load_model(folder)
    needed = num_bytes(whole) + num_bytes(whole.layers[0])
    mesh = make_mesh(devices=jax.devices()[:1])
    monkeypatch.setattr(reading, "available_memory", lambda: (needed, "this machine"))
    _, params = load_model(folder, mesh=mesh)
    assert {leaf.sharding.mesh for leaf in jax.tree.leaves(params)} == {mesh}
    assert_same(params, whole)
    monkeypatch.setattr(reading, "available_memory", lambda: (needed - 1, "this machine"))
    refused(folder, MemoryError, "too little memory", mesh=mesh)


def test_layers_go_to_the_mesh_one_by_one_after_they_are_changed(folder, monkeypatch):
    placed, changed, send = [], [], reading.shard
    monkeypatch.setattr(reading, "shard", lambda x, mesh: placed.append(x) or send(x, mesh))
    _, params = load_model(folder, mesh=make_mesh(), each_layer=lambda x: changed.append(x) or x)
    assert isinstance(placed[0], Params)
    assert placed[0].layers == ()
    assert [id(layer) for layer in placed[1:]] == [id(layer) for layer in changed]
    assert len(params.layers) == len(changed) == CONFIG.num_layers


def test_a_system_that_does_not_say_is_believed(folder, packed, monkeypatch):
    """Then nothing is too large; where it does say, the same checkpoint is."""
    monkeypatch.setattr(reading, "available_memory", lambda: (None, "this machine"))
    reading.check_memory(2**60, 2**60)
    assert_same(load_model(folder)[1], packed)
    monkeypatch.setattr(reading, "available_memory", lambda: (0, "this machine"))
    refused(folder, MemoryError, "this machine has 0.00 GiB available")


# A version on the Hub


def test_revision_and_token_go_to_the_download(monkeypatch, folder):
    asked = []
    monkeypatch.setattr(
        folders, "download", lambda repo, **options: asked.append((repo, options)) or folder
    )
    load_model("a/b", revision="abc", token="secret")
    load_model("a/b")
    assert asked == [
        ("a/b", {"revision": "abc", "token": "secret"}),
        ("a/b", {"revision": None, "token": None}),
    ]


@pytest.mark.parametrize("path", ["folder", None])
def test_a_folder_has_no_revision(path, folder):
    path = path and folder
    refused(path, ValueError, "'abc', which only a repository on the Hub has", revision="abc")
