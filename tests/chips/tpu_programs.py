"""What the full-size tests of the TPU compiler share: compile once, and skip where it is absent.

The compiler takes up to 4 GB for a program, and returns little of it while its process lives. So
each program is compiled in a process of its own, one at a time, however many workers pytest has.
"""

from __future__ import annotations

import functools
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gptoss_edu.chips import fit, precision, tpu
from gptoss_edu.chips.preflight import MODELS

CONTEXT = 32768
installed = pytest.mark.skipif(tpu.absent() is not None, reason=str(tpu.absent()))


@contextmanager
def alone() -> Iterator[None]:
    """Only one worker at a time is in here; the system opens the door again if it dies."""
    import fcntl  # not on Windows, where there is no TPU compiler either

    build = Path(__file__).parents[2] / "build"
    build.mkdir(exist_ok=True)
    with open(build / "tpu.lock", "w") as door:
        fcntl.flock(door, fcntl.LOCK_EX)
        yield


def compiled(name: str, chip: str, model: str, kind: str) -> tpu.Report:
    """The report on `decode` or `prefill`, as `fit --compile` and benchmarks/tpu.py get it."""
    compile_it = {"decode": tpu.compile_decode, "prefill": tpu.compile_prefill}[name]
    return compile_it(fit.CHIPS[chip], MODELS[model], kind, CONTEXT)


@functools.cache
def program(name: str, chip: str, model: str, kind: str) -> tpu.Report:
    """The same, from a process that ends with it."""
    with alone():
        done = subprocess.run(
            [sys.executable, __file__, name, chip, model, kind],
            env=os.environ
            | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "MALLOC_ARENA_MAX": "2"},
            capture_output=True,
        )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return pickle.loads(done.stdout)


def check_memory(chip: str, model: str, kind: str) -> None:
    """Both programs compile, and what lies in memory while either runs is less than there is.

    Prefill does not read the unembedding, so the compiler leaves it out; it is there all the same.
    """
    decode, prefill = (program(name, chip, model, kind) for name in ("decode", "prefill"))
    assert decode.compiled, decode.reason
    assert prefill.compiled, prefill.reason
    machine, config = fit.CHIPS[chip], MODELS[model]
    held, extra = decode.argument_bytes, max(decode.temp_bytes, prefill.temp_bytes)
    assert held + extra <= machine.memory_bytes
    weights, cache = precision.weight_bytes(config, kind), precision.cache_bytes(config, CONTEXT)
    assert weights + cache <= held * machine.devices < 1.08 * (weights + cache)
    assert extra < precision.WORKSPACE  # what the ledger of `fit` sets aside
    assert fit.ledger(machine, config, kind, CONTEXT).fits


def read_ratio(chip: str, model: str, kind: str) -> float:
    """Bytes that decode reads for a token, over the weights that take part and the cache."""
    found, machine = program("decode", chip, model, kind), fit.CHIPS[chip]
    return found.read_bytes * machine.devices / fit.read_bytes(MODELS[model], kind, CONTEXT)


def messages(chip: str, model: str, kind: str) -> dict[str, int]:
    """Collectives of one decoded token."""
    found = program("decode", chip, model, kind).messages
    return {name: each.count for name, each in found.items()}


if __name__ == "__main__":
    report = compiled(*sys.argv[1:])
    sys.stdout.buffer.write(pickle.dumps(report._replace(messages=dict(report.messages))))
