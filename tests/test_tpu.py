"""The TPU compiler on small programs, where it is installed; its refusals and absence anywhere."""

import dataclasses

import pytest

from gptoss_edu import fit, tpu
from gptoss_edu.config import TINY

installed = pytest.mark.skipif(tpu.absent() is not None, reason=str(tpu.absent()))
CONFIG = dataclasses.replace(TINY, num_layers=2, layer_types=())


def test_absence_is_a_sentence(monkeypatch):
    monkeypatch.setattr(tpu.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'gptoss-edu\[tpu\]'"):
        tpu.compile_decode(fit.CHIPS["v5e-1"], CONFIG, "mxfp4", 64)


def test_a_gpu_is_no_tpu():
    with pytest.raises(ValueError, match="h100 is no TPU"):
        tpu.describe_device(fit.CHIPS["h100"])


def test_a_refusal_keeps_the_two_figures():
    message = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 22.1G of 15.75G hbm."
    assert tpu._refusal(message).endswith("needs 22.1G of memory, there are 15.75G")
    assert "no table" in tpu._refusal("RESOURCE_EXHAUSTED: no table")
