"""Synthetic checkpoints: the published shape, a realistic range, and no half file ever."""

import dataclasses
import json
import subprocess
import sys
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import synthetic
from benchmarks.synthetic import write_synthetic
from gptoss_edu import load_model
from gptoss_edu.config import GPT_OSS_20B, GPT_OSS_120B, TINY
from gptoss_edu.model import observe
from gptoss_edu.mxfp4 import Mxfp4
from gptoss_edu.weights import checkpoint
from gptoss_edu.weights.checkpoint import SYNTHETIC, save_checkpoint
from gptoss_edu.weights.layout import HF_PACKED, check_tensors, stored_bytes
from gptoss_edu.weights.shards import DTYPES, find_tensors, map_array

CONFIG = dataclasses.replace(TINY, num_layers=2, layer_types=())


class NoBar:
    def update(self, count):
        pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthetic") / "tiny"
    write_synthetic(folder, CONFIG)
    return folder


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("config", [GPT_OSS_20B, GPT_OSS_120B], ids=["20b", "120b"])
def test_shape_is_that_of_the_published_checkpoint(config):
    tensors = synthetic.pending(config, "packed", 0, NoBar())
    assert sum(tensor.num_bytes for tensor in tensors.values()) == stored_bytes(config, HF_PACKED)
    check_tensors(tensors, HF_PACKED, config, "nowhere")  # names, shapes, dtypes


def test_files_are_those_of_the_published_layout(folder):
    shards = [f"model-0000{n}-of-00002.safetensors" for n in range(3)]
    side = ["config.json", "model.safetensors.index.json", SYNTHETIC]
    assert names(folder) == sorted(shards + side)
    assert json.loads((folder / "config.json").read_text())["quantization_config"]
    about = json.loads((folder / SYNTHETIC).read_text())
    assert about["seed"] == 0
    assert "noise" in about["note"]


def test_it_loads_packed(folder):
    model, params = load_model(folder)
    assert model.config == CONFIG
    assert isinstance(params.layers[0].moe.w_gate_up_EDP, Mxfp4)


def test_activations_stay_in_a_realistic_range(folder):
    model, params = load_model(folder)
    tokens_BT = jnp.arange(60).reshape(1, 60)
    look = jax.jit(observe, static_argnames="config")
    logits_BTV, seen = look(params, tokens_BT, config=model.config)
    for block in seen:
        assert 0.5 < float(jnp.std(block.residual_BTD)) < 5
        used = np.unique(np.asarray(block.routing.expert_BTX))
        assert len(used) > CONFIG.num_experts / 2, f"only experts {used} are ever chosen"
        assert 0.3 < float(jnp.std(block.routing.logits_BTE)) < 3
    assert 1.5 < float(jnp.std(logits_BTV)) < 4
    assert len(np.unique(jnp.argmax(logits_BTV, -1))) > 10


def test_each_field_has_its_spread():
    rng = {"D": 2880, "F": 96, "N": 64, "H": 64}
    assert synthetic.spread("w_o_NHD", rng) == (0, 1 / 64)
    assert synthetic.spread("w_down_EFD", rng)[1] == pytest.approx(96**-0.5)
    assert synthetic.spread("norm_D", rng) == (1, 0.1)
    table = synthetic.normal_table(1.0, 0.1).astype(np.float64)
    assert np.mean(table) == pytest.approx(1, abs=1e-3)
    assert np.std(table) == pytest.approx(0.1, rel=0.01)


def test_packed_experts_have_the_spread_of_plain_ones(folder):
    _, params = load_model(folder, precision="f32")
    for name, inputs in (("w_gate_up_EDP", 128), ("w_down_EFD", 160)):
        found = float(jnp.std(getattr(params.layers[0].moe, name)))
        assert 0.7 < found * inputs**0.5 < 1.4  # a power of two is as near as scales come


def test_the_seed_decides_every_byte(folder, tmp_path):
    write_synthetic(tmp_path / "same", CONFIG)
    write_synthetic(tmp_path / "other", CONFIG, seed=1)
    for path in folder.glob("*.safetensors"):
        assert path.read_bytes() == (tmp_path / "same" / path.name).read_bytes()
        assert path.read_bytes() != (tmp_path / "other" / path.name).read_bytes()


def test_a_slice_has_the_first_layers_of_the_whole(folder, tmp_path):
    write_synthetic(tmp_path / "slice", dataclasses.replace(CONFIG, num_layers=1, layer_types=()))
    whole, part = find_tensors(folder), find_tensors(tmp_path / "slice")
    assert {name for name in whole if "layers.1." not in name} == part.keys()
    for name, tensor in part.items():
        np.testing.assert_array_equal(map_array(tensor), map_array(whole[name]))


def test_layers_differ(folder):
    tensors = find_tensors(folder)
    name = "model.layers.{}.mlp.experts.gate_up_proj_blocks"
    one, two = (map_array(tensors[name.format(layer)]) for layer in (0, 1))
    assert np.mean(one == two) < 0.01


def test_plain_experts(tmp_path):
    write_synthetic(tmp_path / "m", CONFIG, experts="plain")
    _, params = load_model(tmp_path / "m")
    assert params.layers[0].moe.w_gate_up_EDP.dtype == DTYPES["BF16"]


def test_it_streams(tmp_path):
    config = dataclasses.replace(CONFIG, vocab_size=200_000)  # two matrices of 51 MB
    synthetic.normal_table(0.0, 1.0)
    tracemalloc.start()
    write_synthetic(tmp_path / "m", config)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6, f"{peak / 1e6:.1f} MB at once, expected pieces of 2 MB"


# ---- nothing is lost, and nothing is half --------------------------------------------------------


def test_what_is_not_synthetic_is_never_replaced(tmp_path):
    real = tmp_path / "real"
    real.mkdir()
    (real / "model.safetensors").write_bytes(b"precious")
    with pytest.raises(FileExistsError, match="is no synthetic checkpoint"):
        write_synthetic(real, CONFIG)
    with pytest.raises(FileExistsError, match="choose another name"):
        write_synthetic(real / "model.safetensors", CONFIG)
    assert names(real) == ["model.safetensors"]
    assert names(tmp_path) == ["real"]


def test_a_synthetic_one_is_replaced_whole(tmp_path):
    write_synthetic(tmp_path / "m", CONFIG)
    write_synthetic(tmp_path / "m", dataclasses.replace(CONFIG, num_layers=1, layer_types=()))
    assert load_model(tmp_path / "m")[0].config.num_layers == 1
    assert names(tmp_path) == ["m"]


def test_real_weights_saved_over_it_are_not_called_synthetic(tmp_path):
    write_synthetic(tmp_path / "m", CONFIG)
    model, params = load_model(tmp_path / "m")
    save_checkpoint(params, model.config, tmp_path / "m")
    assert names(tmp_path / "m") == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError])
def test_an_interrupted_write_leaves_what_was_there(tmp_path, monkeypatch, stop):
    write_synthetic(tmp_path / "m", CONFIG)

    def break_off(folder, *_, **options):
        (folder / "model-00000-of-00002.safetensors").write_bytes(b"half")
        raise stop

    monkeypatch.setattr(synthetic, "write_shards", break_off)
    with pytest.raises(stop):
        write_synthetic(tmp_path / "m", CONFIG, seed=1)
    assert names(tmp_path) == ["m"]
    load_model(tmp_path / "m")


def test_what_a_killed_process_left_is_cleared(tmp_path):
    draft = tmp_path / "m" / ".saving-of-a-killed-process"
    draft.mkdir(parents=True)
    (draft / "model-00000-of-00001.safetensors").write_bytes(b"half")
    write_synthetic(tmp_path / "m", CONFIG)
    assert not draft.exists()
    load_model(tmp_path / "m")


def test_two_processes_do_not_write_the_same_checkpoint(tmp_path):
    pytest.importorskip("fcntl")
    (tmp_path / "m").mkdir()
    with (
        checkpoint.locked(tmp_path / "m"),
        pytest.raises(OSError, match="another process is writing"),
    ):
        write_synthetic(tmp_path / "m", CONFIG)


def test_a_full_disk_is_noticed_before_writing(tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("gptoss_edu.weights.hub.shutil.disk_usage", lambda _: usage)
    with pytest.raises(OSError, match="too little disk"):
        write_synthetic(tmp_path / "m", CONFIG)
    assert names(tmp_path) == []


def test_command_line(tmp_path, monkeypatch, capsys):
    def run(*words):
        monkeypatch.setattr(sys, "argv", ["synthetic", *map(str, words)])
        return synthetic.main()

    out = tmp_path / "m"
    assert run("--model", "tiny", "--layers", 1, "--vocab", 50, "--seed", 3, "--out", out) == 0
    assert "random" in capsys.readouterr().out
    config = load_model(out)[0].config
    assert (config.num_layers, config.vocab_size) == (1, 50)
    assert json.loads((out / SYNTHETIC).read_text())["seed"] == 3
    assert run("--model", "tiny", "--layers", 0, "--out", out) == 1
    assert "at least 1" in capsys.readouterr().err
    assert run("--model", "tiny", "--out", __file__) == 1
    assert "is no synthetic checkpoint" in capsys.readouterr().err


def test_killed_in_the_middle_the_next_start_works(tmp_path):
    pytest.importorskip("fcntl")
    program = (
        "import os, sys; from benchmarks import synthetic as s; write = s.write_shards\n"
        "def half(folder, tensors, *_, **options):\n"
        "    (folder / 'model-00000-of-00002.safetensors').write_bytes(b'half'); os._exit(9)\n"
        "s.write_shards = half; s.write_synthetic(sys.argv[1], s.TINY)"
    )
    run = subprocess.run([sys.executable, "-c", program, str(tmp_path / "m")], timeout=600)
    assert run.returncode == 9
    (left,) = names(tmp_path / "m")
    assert left.startswith(".saving-")
    write_synthetic(tmp_path / "m", CONFIG)
    assert left not in names(tmp_path / "m")
    assert jax.tree.leaves(load_model(tmp_path / "m")[1])
