"""The TPU compiler on small programs, where it is installed; its refusals and absence anywhere.

The product's own programs at full size: test_tpu_full_size.py.
"""

import dataclasses

import pytest

from gptoss_edu.chips import fit, precision, tpu
from gptoss_edu.config import TINY

installed = pytest.mark.skipif(tpu.absent() is not None, reason=str(tpu.absent()))
CONFIG = dataclasses.replace(TINY, num_layers=2, layer_types=())
# Every axis that is cut can be divided by eight.
EVEN = dataclasses.replace(
    CONFIG, num_heads=16, num_kv_heads=8, num_experts=8, vocab_size=256, hidden_size=256,
    intermediate_size=128,
)  # fmt: skip


def test_absence_is_a_sentence(monkeypatch):
    monkeypatch.setattr(tpu.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'gptoss-edu\[tpu\]'"):
        tpu.compile_decode(fit.CHIPS["v5e-1"], CONFIG, "mxfp4", 64)


def test_a_gpu_is_no_tpu():
    with pytest.raises(ValueError, match="h100 is no TPU"):
        tpu.describe_devices(fit.CHIPS["h100"])


@pytest.mark.parametrize(
    "words",
    [
        "Ran out of memory in memory space hbm. Used 22.1G of 15.75G hbm.",
        "Ran out of memory on HBM, the total memory required for HLO temporaries (22.1G) exceeds"
        " available HBM (15.75G).",
    ],
)
def test_a_refusal_keeps_the_two_figures(words):
    found = tpu._refusal(f"RESOURCE_EXHAUSTED: {words}")
    assert found.endswith("needs 22.1G of memory, there are 15.75G")
    assert "no table" in tpu._refusal("RESOURCE_EXHAUSTED: no table")


@installed
def test_a_small_program_is_compiled_and_counted():
    found = tpu.compile_decode(fit.CHIPS["v5e-1"], CONFIG, "bf16", 64)
    assert found.compiled
    ours = precision.weight_bytes(CONFIG, "bf16") + precision.cache_bytes(CONFIG, 64)
    assert found.argument_bytes >= ours  # shapes are padded on a TPU, a lot where they are small
    assert 0 < found.temp_bytes < 2**24
    assert found.read_bytes >= fit.read_bytes(CONFIG, "bf16", 64)
    assert found.messages == {}


@installed
@pytest.mark.parametrize("precision_name", ["mxfp4", "fp8"])
@pytest.mark.parametrize("experts, kinds", [(1, {"all-reduce", "all-gather"}), (8, {"all-reduce"})])
def test_a_small_program_is_cut_for_eight_devices(precision_name, experts, kinds):
    """Cut by columns: three messages a layer. Whole experts on each device: two, which only add."""
    found = tpu.compile_decode(fit.CHIPS["v5e-8"], EVEN, precision_name, 64, experts)
    assert found.compiled
    assert set(found.messages) == kinds
    count = sum(each.count for each in found.messages.values())
    assert count == (3 * 2 + 1 if experts == 1 else 2 * 2), found.messages


@installed
def test_a_small_chunk_is_compiled():
    found = tpu.compile_prefill(fit.CHIPS["v6e-1"], EVEN, "mxfp4", 64)
    assert found.compiled
    weights = precision.weight_bytes(EVEN, "mxfp4") - 2 * EVEN.vocab_size * EVEN.hidden_size
    assert weights < found.read_bytes < 4 * weights  # every expert is read, and what passes through
