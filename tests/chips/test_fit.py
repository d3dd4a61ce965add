"""Ledgers and rooflines against the published sizes, counted by hand where that can be done."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import pytest

from gptoss_edu.chips import fit, precision
from gptoss_edu.config import GPT_OSS_20B, GPT_OSS_120B, TINY

CONTEXT = 4096


@pytest.mark.parametrize("name, gb", [("mxfp4", 3.71), ("fp8", 4.83), ("bf16", 7.22)])
def test_a_token_of_the_20b_reads_what_is_known(name, gb):
    assert fit.read_bytes(GPT_OSS_20B, name) / 1e9 == pytest.approx(gb, abs=0.01)


def test_a_token_reads_every_weight_if_every_expert_is_chosen():
    config = dataclasses.replace(TINY, experts_per_token=TINY.num_experts)
    unread = 2 * config.hidden_size * (config.vocab_size - 1)  # the other rows of the embedding
    assert fit.read_bytes(config, "bf16") == precision.weight_bytes(config, "bf16") - unread


def test_the_cache_is_read_too():
    grown = fit.read_bytes(GPT_OSS_20B, "mxfp4", CONTEXT) - fit.read_bytes(GPT_OSS_20B, "mxfp4")
    assert grown == precision.cache_bytes(GPT_OSS_20B, CONTEXT)


def test_operations_are_two_per_active_parameter():
    """3.6 billion parameters take part; what they leave out of that count is the embedding."""
    assert fit.token_flops(GPT_OSS_20B) / 2 / 1e9 == pytest.approx(3.61, abs=0.01)
    assert fit.token_flops(GPT_OSS_120B) / 2 / 1e9 == pytest.approx(5.13, abs=0.03)
    seen = 12 * 1000 + 12 * 128
    extra = fit.token_flops(GPT_OSS_20B, 1000) - fit.token_flops(GPT_OSS_20B)
    assert extra == 4 * 64 * 64 * seen


@pytest.mark.parametrize(
    "chip, config, name, fits",
    [
        ("v5e-1", GPT_OSS_20B, "mxfp4", True),
        ("v5e-1", GPT_OSS_20B, "fp8", False),
        ("v6e-1", GPT_OSS_20B, "fp8", True),
        ("v6e-1", GPT_OSS_20B, "bf16", False),
        ("v2-8", GPT_OSS_20B, "bf16", True),
        ("v6e-8", GPT_OSS_120B, "mxfp4", True),
        ("h100", GPT_OSS_120B, "mxfp4", True),
        ("t4", GPT_OSS_20B, "mxfp4", True),
    ],
)
def test_what_fits_where(chip, config, name, fits):
    found = fit.ledger(fit.CHIPS[chip], config, name, CONTEXT)
    assert found.fits is fits, found
    assert found.total == found.weights + found.cache + found.workspace
    assert found.workspace == precision.WORKSPACE > 2**28, "programs need room to work, too"


def test_what_fits_to_the_last_byte():
    """Weights, cache and room to work, each rounded up on each device: not one byte less does."""
    chip = fit.Chip("seven", 7, 10**12, 1e9, 1e12)
    needed = fit.ledger(chip, GPT_OSS_20B, "bf16", CONTEXT)
    assert needed.weights == -(-precision.weight_bytes(GPT_OSS_20B, "bf16") // 7)
    assert needed.cache == -(-precision.cache_bytes(GPT_OSS_20B, CONTEXT) // 7)
    total = needed.weights + needed.cache + precision.WORKSPACE
    for memory, fits in ((total, True), (total - 1, False)):
        chip = dataclasses.replace(chip, memory_bytes=memory)
        assert fit.ledger(chip, GPT_OSS_20B, "bf16", CONTEXT).fits is fits


def test_long_contexts_need_room():
    short, long = (fit.ledger(fit.CHIPS["v5e-1"], GPT_OSS_20B, "mxfp4", n) for n in (32768, 131072))
    assert short.fits
    assert not long.fits
    assert long.total == long.weights + long.cache + long.workspace
    assert long.cache > long.workspace


def test_the_roofline_is_bandwidth_over_bytes():
    chip = fit.CHIPS["v5e-1"]
    found = fit.roofline(chip, GPT_OSS_20B, "mxfp4", CONTEXT)
    expected = 819e9 / fit.read_bytes(GPT_OSS_20B, "mxfp4", CONTEXT)
    assert found.tokens_per_second == found.memory == pytest.approx(expected)
    assert 200 < expected < 220
    many = fit.roofline(chip, GPT_OSS_20B, "mxfp4", batch=4096)
    assert many.tokens_per_second == many.arithmetic < many.memory
    eight = fit.roofline(fit.CHIPS["v5e-8"], GPT_OSS_20B, "mxfp4")
    assert eight.memory == 8 * 819e9 / fit.read_bytes(GPT_OSS_20B, "mxfp4")
    assert eight.arithmetic == 8 * 197e12 / fit.token_flops(GPT_OSS_20B)


def test_a_slice_is_so_many_of_its_chip():
    for name, chip in fit.CHIPS.items():
        assert chip.devices == (8 if name.endswith("-8") else 1)
        assert chip.dtype == jnp.bfloat16
        one = fit.CHIPS.get(name.replace("-8", "-1"), chip)
        for what in ("memory_bytes", "bytes_per_second", "flops"):
            assert getattr(one, what) == getattr(chip, what), name


def test_on_a_cpu_keys_and_values_are_float32():
    v5e, mine = fit.CHIPS["v5e-1"], fit.Chip("cpu", 1, 2**35, 5e10, 1e12)
    entries = [fit.ledger(chip, GPT_OSS_20B, "mxfp4", CONTEXT) for chip in (v5e, mine)]
    assert entries[1].cache == pytest.approx(2 * entries[0].cache, rel=0.01)
    reads = [fit.roofline(c, GPT_OSS_20B, "mxfp4", CONTEXT).memory / c.bytes_per_second
             for c in (v5e, mine)]  # fmt: skip
    assert 1 / reads[1] - 1 / reads[0] == pytest.approx(entries[0].cache, rel=0.01)
    choice = precision.choose_precision("cpu", 2**40, GPT_OSS_20B, context=CONTEXT)
    assert choice.precision == "mxfp4"


def test_this_machine_is_measured():
    chip = fit.this_machine(size=2**22)
    assert 1e8 < chip.bytes_per_second < 1e13
    assert 1e8 < chip.flops < 1e15
    assert chip.memory_bytes > 2**28
    assert fit.find_chip("cpu").devices == 1


def test_speeds_are_bytes_and_operations_by_seconds(monkeypatch):
    """On a chip one program reads; a product of matrices of side n takes 2 n^3 operations."""
    read = {}

    def two_seconds(function, *arrays):
        read[function] = sum(array.nbytes for array in arrays)
        return 2.0

    monkeypatch.setattr(fit, "_fastest", two_seconds)
    monkeypatch.setattr(fit.jax, "default_backend", lambda: "gpu")
    chip = fit.this_machine(size=2**20)
    assert (read[jnp.sum], chip.bytes_per_second) == (2**20, 2**19)
    assert (read[jnp.matmul], chip.flops) == (2 * 4 * 1024**2, 1024**3)


def test_every_core_reads(monkeypatch):
    """With one core the pieces are one, with three they are three; nothing is read twice."""
    seen = []
    monkeypatch.setattr(fit.np, "max", lambda part: seen.append(part.nbytes))
    for cores in (1, 3):
        monkeypatch.setattr(fit, "cores", lambda n=cores: n)
        seen.clear()
        assert fit.read_speed(size=3 * 2**12) > 0
        assert seen == [3 * 2**12 // cores] * cores * 7


def test_an_unknown_chip_is_a_clear_error():
    with pytest.raises(ValueError, match="'v9' is unknown; expected cpu or one of v2-8"):
        fit.find_chip("v9")


def test_fastest_leaves_out_the_compilation(monkeypatch):
    """Compiled before the clock is read for the first time; then the fastest run counts."""
    happened, times = [], iter([0.0, 5.0, 10.0, 12.0, 20.0, 23.0])

    def now():
        happened.append("clock")
        return next(times)

    def traced(x):
        happened.append("compiled")
        return x + 1

    monkeypatch.setattr(fit, "time", types.SimpleNamespace(perf_counter=now))
    assert fit._fastest(traced, jax.device_put(jnp.ones(3)), times=3) == 2.0
    assert happened == ["compiled"] + ["clock"] * 6
