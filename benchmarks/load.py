"""How much memory does loading a checkpoint take at its peak, and how long?

The promise: never more than the loaded weights plus one layer. A synthetic checkpoint of the 20B's
width is written to disk, and each precision is loaded in a process of its own, whose peak resident
memory (mapped pages of the file included) is compared with that limit.

    python -m benchmarks.load --layers 2 --vocab 16384
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.synthetic import write_synthetic
from gptoss_edu.config import GPT_OSS_20B

LOADS = {"packed": ("auto", "bf16", "f32"), "plain": ("auto", "f32")}  # experts on disk


def peak_bytes() -> int:
    """Largest resident memory of this process so far."""
    try:  # unlike ru_maxrss, this starts anew with the program
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def measure(folder: str, precision: str) -> dict[str, float]:
    """Load in this process: bytes of weights, of a layer and of the peak above the start."""
    import jax

    from gptoss_edu.checkpoint import load_model

    jax.block_until_ready(jax.numpy.ones(8) + 1)  # JAX's own memory belongs to the start
    before, start = peak_bytes(), time.perf_counter()
    _, params = load_model(folder, precision=precision)
    jax.block_until_ready(params)
    seconds = time.perf_counter() - start
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    layer = sum(leaf.nbytes for leaf in jax.tree.leaves(params.layers[0]))
    return {
        "weights": weights,
        "layer": layer,
        "peak": peak_bytes() - before,
        "seconds": seconds,
    }


def row(folder: str, experts: str, precision: str, repeats: int) -> tuple[str, bool]:
    """(a line of the Markdown table, is the largest peak within the limit?)"""
    command = [sys.executable, "-m", "benchmarks.load", "--measure", precision, folder]
    runs = [json.loads(subprocess.check_output(command, text=True)) for _ in range(repeats)]
    worst = max(runs, key=lambda run: run["peak"])
    limit = worst["weights"] + worst["layer"]
    seconds = sorted(run["seconds"] for run in runs)[len(runs) // 2]
    numbers = (worst["weights"], worst["layer"], limit, worst["peak"])
    sizes = " | ".join(f"{number / 1e9:.2f}" for number in numbers)
    share = worst["peak"] / limit
    return f"| {experts} | {precision} | {sizes} | {share:.2f} | {seconds:.1f} |", share <= 1


def main() -> int:
    """Write the checkpoints, load them in every precision, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--vocab", type=int, default=16384)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--experts", choices=LOADS, nargs="*", default=list(LOADS))
    parser.add_argument("--precision", nargs="*", default=["auto", "bf16", "f32"])
    parser.add_argument("--measure", nargs=2, metavar=("PRECISION", "FOLDER"), help="one load")
    options = parser.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    if options.measure:
        print(json.dumps(measure(options.measure[1], options.measure[0])))
        return 0
    print("| experts | precision | weights GB | layer | limit | peak | peak / limit | seconds |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    sizes = {"num_layers": options.layers, "vocab_size": options.vocab, "layer_types": ()}
    config, kept = dataclasses.replace(GPT_OSS_20B, **sizes), True
    for experts in options.experts:
        with tempfile.TemporaryDirectory() as folder:
            write_synthetic(folder, config, experts=experts)
            for precision in [p for p in LOADS[experts] if p in options.precision]:
                line, within = row(folder, experts, precision, options.repeats)
                print(line, flush=True)
                kept = kept and within
    print("within the limit" if kept else "ABOVE THE LIMIT")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
