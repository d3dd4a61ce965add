"""Chapter 09's machinery: refusals before the download, one copy of weights."""

import gc
import json
import math
import os
import subprocess
import sys
import textwrap
from types import ModuleType, SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from gptoss_edu.chips import fit
from gptoss_edu.commands import colab
from gptoss_edu.commands.colab import HUB_20B, HUB_120B, Refusal
from gptoss_edu.config import GPT_OSS_20B, GPT_OSS_120B
from gptoss_edu.shapes import num_bytes
from gptoss_edu.weights import reading


def devices(kind="TPU v5 lite", platform="tpu", gib=15.75, count=1):
    stats = {"bytes_limit": int(gib * fit.GIB)} if gib else None
    one = SimpleNamespace(platform=platform, device_kind=kind, memory_stats=lambda: stats)
    return [one] * count


@pytest.fixture(autouse=True)
def _at_home(monkeypatch):
    for name in (colab.MODEL, "KAGGLE_KERNEL_RUN_TYPE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delitem(sys.modules, "google.colab", raising=False)
    yield
    colab.unload()


@pytest.fixture
def on_colab(monkeypatch):
    monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))


def test_the_model_depends_on_the_place_and_on_what_is_asked_for(monkeypatch):
    assert (colab.host(), colab.wanted_model()) == (None, None)
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    assert (colab.host(), colab.wanted_model()) == ("Kaggle", HUB_20B)
    monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
    assert (colab.host(), colab.wanted_model()) == ("Colab", HUB_20B)
    monkeypatch.setenv(colab.MODEL, "pocket")
    assert colab.wanted_model() is None
    monkeypatch.setenv(colab.MODEL, HUB_120B)
    assert colab.wanted_model() == HUB_120B


def test_sizes_are_known_before_the_download(tmp_path):
    assert colab.config_of(None).num_layers == 4
    assert colab.config_of(HUB_20B) is GPT_OSS_20B
    assert colab.config_of(HUB_120B) is GPT_OSS_120B
    (tmp_path / "config.json").write_text(json.dumps(GPT_OSS_120B.to_dict()))
    assert colab.config_of(str(tmp_path)) == GPT_OSS_120B
    with pytest.raises(ValueError, match="is 'gpt2', expected openai/gpt-oss-20b, openai/gpt-oss"):
        colab.config_of("gpt2")


# ------------------------------------------------------------------------------------ refusals


def test_no_tpu_is_refused_and_the_menu_is_named(on_colab):
    with pytest.raises(Refusal, match="no TPU, only a CPU") as refused:
        colab.find_chip(HUB_20B, devices("cpu", "cpu", gib=None))
    told = str(refused.value)
    assert "In Colab, choose Runtime > Change runtime type > v5e-1 TPU > Save" in told
    assert "run %env GPTOSS_EDU_MODEL=pocket in a cell of its own" in told
    assert refused.value._render_traceback_() == [f"Stopped: {told}"]


def test_no_tpu_on_kaggle_names_its_own_menu(monkeypatch):
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    with pytest.raises(Refusal, match="In Kaggle, choose Settings > Accelerator > TPU"):
        colab.find_chip(HUB_20B, devices("cpu", "cpu", gib=None))


def test_a_cpu_is_welcome_at_home_and_for_the_pocket_model(on_colab, monkeypatch):
    assert colab.find_chip(None).name == "cpu"
    monkeypatch.delitem(sys.modules, "google.colab")
    assert colab.find_chip(HUB_20B).memory_bytes > 0


def test_a_tpu_that_somebody_else_holds_is_a_sentence(monkeypatch):
    def busy():
        raise RuntimeError("Unable to initialize backend 'tpu': ABORTED\nlong table")

    monkeypatch.setattr(jax, "devices", busy)
    with pytest.raises(
        Refusal, match=r"cannot start its device \(.*ABORTED\)\. .* shut down other"
    ):
        colab.find_chip(HUB_20B)


@pytest.mark.parametrize(
    "kind, platform, gib, context, needs",
    [("TPU v2", "tpu", 7.48, 4096, 13.41), ("NVIDIA GeForce", "gpu", 7.5, 4096, 13.41),
     ("TPU v5 lite", "tpu", 15.75, 131_072, 16.32)],
)  # fmt: skip
def test_too_little_memory_is_refused_before_the_download(
    kind, platform, gib, context, needs, on_colab, monkeypatch
):
    monkeypatch.setattr(colab, "load_model", lambda *_, **__: pytest.fail("it was downloaded"))
    chip = colab.find_chip(HUB_20B, devices(kind, platform, gib))
    with pytest.raises(Refusal) as refused:
        colab.make_plan(HUB_20B, chip, context)
    told = str(refused.value)
    assert f"has {gib:.2f} GiB, and the smallest plan needs {needs} GiB on each device" in told
    assert "Nothing was downloaded. Shorten the context, or choose Runtime >" in told


def test_a_laptop_with_too_little_memory_is_refused():
    chip = fit.Chip("cpu", 1, 8 * fit.GIB, math.nan, math.nan)
    with pytest.raises(Refusal, match=r"has 8.00 GiB, and .* needs 13.5\d GiB .* Nothing was down"):
        colab.make_plan(HUB_20B, chip)


# --------------------------------------------------------------------------------------- plans


@pytest.mark.parametrize(
    "kind, platform, gib, count, name, precision",
    [
        ("TPU v5 lite", "tpu", 15.75, 1, "v5e-1", "mxfp4"),
        ("TPU v5e", "tpu", None, 1, "v5e-1", "mxfp4"),
        ("TPU v6 lite", "tpu", 31.25, 1, "v6e-1", "fp8"),
        ("TPU v2", "tpu", 7.48, 8, "v2-8", "bf16"),
        ("TPU v5 lite", "tpu", 15.75, 8, "v5e-8", "bf16"),
        ("Tesla T4", "gpu", 14.0, 1, "t4", "mxfp4"),
        ("NVIDIA L4", "gpu", 21.0, 1, "l4", "mxfp4"),
        ("NVIDIA A100-SXM4-40GB", "gpu", 37.5, 1, "a100", "fp8"),
        ("NVIDIA H100 80GB HBM3", "gpu", 75.0, 1, "h100", "bf16"),
        ("NVIDIA H200", "gpu", 130.0, 1, "h200", "bf16"),
        ("NVIDIA GeForce RTX 5090", "gpu", 30.0, 1, "NVIDIA GeForce RTX 5090", "fp8"),
    ],
)
def test_the_chip_chooses_the_precision(kind, platform, gib, count, name, precision):
    chip = colab.find_chip(HUB_20B, devices(kind, platform, gib, count))
    plan = colab.make_plan(HUB_20B, chip)
    assert (chip.name, chip.devices, plan.precision) == (name, count, precision)
    assert plan.ledger.fits
    assert plan.chip.dtype == jnp.bfloat16
    assert "the model needs, in GiB" in plan.reason
    assert gib is None or chip.memory_bytes == int(gib * fit.GIB)


def test_a_precision_can_be_asked_for_and_is_refused_where_it_does_not_fit():
    chip = colab.find_chip(HUB_20B, devices("TPU v6 lite", gib=31.25))
    plan = colab.make_plan(HUB_20B, chip, precision="mxfp4")
    assert (plan.precision, plan.reason) == ("mxfp4", "mxfp4, as was asked for")
    assert plan.roofline.memory > colab.make_plan(HUB_20B, chip).roofline.memory
    with pytest.raises(Refusal, match=r"v6e-1 has 31.25 GiB, and bf16 needs 39.\d\d GiB"):
        colab.make_plan(HUB_20B, chip, precision="bf16")


def test_a_dry_run_keeps_the_pocket_model_as_it_is_stored():
    plan = colab.make_plan(None, colab.find_chip(None), context=10**9)
    assert (plan.precision, plan.chip.dtype) == ("mxfp4", jnp.float32)
    assert plan.context == plan.config.max_positions


# ---------------------------------------------------------------------------------------- load


def living_bytes():
    gc.collect()
    return sum(array.nbytes for array in jax.live_arrays() if not array.is_deleted())


def plan_for(**changes):
    return colab.make_plan(None, colab.find_chip(None))._replace(**changes)


def test_a_second_run_of_the_load_cell_holds_one_copy():
    before = living_bytes()
    _, params = colab.load(plan_for())
    once = living_bytes() - before
    assert once >= num_bytes(params) > 1_000_000
    again = colab.load(plan_for())
    assert again[1] is params
    assert living_bytes() - before == once


def test_another_precision_takes_the_first_copy_away_before_it_loads(monkeypatch):
    _, params = colab.load(plan_for())
    seen = []
    load_model = colab.load_model

    def spy(*arguments, **options):
        seen.append(all(leaf.is_deleted() for leaf in jax.tree.leaves(params)))
        return load_model(*arguments, **options)

    monkeypatch.setattr(colab, "load_model", spy)
    _, converted = colab.load(plan_for(precision="fp8"))
    assert seen == [True]
    assert converted.layers[0].moe.w_gate_up_EDP.numbers_EIO.dtype == jnp.float8_e4m3fn
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(converted))


def test_a_load_that_breaks_leaves_nothing_behind(monkeypatch):
    before = living_bytes()
    in_precision, count = reading.in_precision, []

    def breaks(layer, precision):
        count.append(layer.moe.norm_D.nbytes)
        if len(count) == 3:
            raise ConnectionError("the connection broke")
        return in_precision(layer, precision)

    monkeypatch.setattr(reading, "in_precision", breaks)
    with pytest.raises(ConnectionError, match="the connection broke") as kept:
        colab.load(plan_for())  # like a notebook, `kept` holds the error and its frames
    assert kept.value.__traceback__ is not None
    assert living_bytes() - before < 100_000
    monkeypatch.setattr(reading, "in_precision", in_precision)
    assert colab.load(plan_for())[1].layers


def test_a_broken_download_goes_through_in_words(monkeypatch, on_colab):
    told = "the download of model-00001.safetensors broke off; call again to go on"

    def broken(*_, **__):
        raise ConnectionError(told)

    monkeypatch.setattr(colab, "load_model", broken)
    plan = colab.make_plan(HUB_20B, colab.find_chip(HUB_20B, devices()))
    for _ in range(2):  # and nothing on the shelf pretends to be loaded
        with pytest.raises(ConnectionError, match="call again to go on"):
            colab.load(plan)


def test_on_many_devices_the_weights_are_spread(tmp_path):
    script = """
        import dataclasses, sys
        import jax
        from gptoss_edu.commands import colab
        from gptoss_edu.chips import fit
        from gptoss_edu.weights.checkpoint import save_checkpoint
        from gptoss_edu.config import TINY
        from gptoss_edu.generation import generate_tokens
        from gptoss_edu.model import init_params

        config = dataclasses.replace(
            TINY, num_layers=1, layer_types=(), vocab_size=152, hidden_size=96,
            intermediate_size=128, num_heads=8, num_kv_heads=4,
        )
        save_checkpoint(init_params(config, jax.random.key(0)), config, sys.argv[1])
        chip = dataclasses.replace(fit.CHIPS["v2-8"], devices=4)
        plan = colab.make_plan(sys.argv[1], chip, 64)
        model, params = colab.load(plan)
        assert plan.precision == "bf16", plan
        places = [len(leaf.sharding.device_set) for leaf in jax.tree.leaves(params)]
        assert set(places) == {4}, places
        print([int(t[0]) for t in generate_tokens(model, params, [[5, 7, 11]], max_tokens=4)])
    """
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"
    }  # fmt: skip
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "small")],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert len(json.loads(ran.stdout.splitlines()[-1])) == 4
