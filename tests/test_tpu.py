"""The TPU compiler on small programs, where it is installed; its refusals and absence anywhere."""

import dataclasses

import pytest

from gptoss_edu import fit, precision, tpu
from gptoss_edu.config import TINY

installed = pytest.mark.skipif(tpu.absent() is not None, reason=str(tpu.absent()))
CONFIG = dataclasses.replace(TINY, num_layers=2, layer_types=())


def test_absence_is_a_sentence(monkeypatch):
    monkeypatch.setattr(tpu.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'gptoss-edu\[tpu\]'"):
        tpu.compile_decode(fit.CHIPS["v5e-1"], CONFIG, "mxfp4", 64)


def test_a_gpu_is_no_tpu():
    with pytest.raises(ValueError, match="h100 is no TPU"):
        tpu.describe_devices(fit.CHIPS["h100"])


def test_a_refusal_keeps_the_two_figures():
    message = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 22.1G of 15.75G hbm."
    assert tpu._refusal(message).endswith("needs 22.1G of memory, there are 15.75G")
    assert "no table" in tpu._refusal("RESOURCE_EXHAUSTED: no table")


@installed
def test_a_small_program_is_compiled_and_counted():
    found = tpu.compile_decode(fit.CHIPS["v5e-1"], CONFIG, "bf16", 64)
    assert found.compiled
    ours = precision.weight_bytes(CONFIG, "bf16") + precision.cache_bytes(CONFIG, 64)
    assert found.argument_bytes >= ours  # shapes are padded on a TPU, a lot where they are small
    assert 0 < found.temp_bytes < 2**24
