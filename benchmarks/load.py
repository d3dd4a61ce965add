"""How much memory does loading a checkpoint take at its peak, and how long?

The promise: never more than the loaded weights plus one layer. A synthetic checkpoint of the 20B's
width is written to disk, and each precision is loaded in a process of its own, whose peak resident
memory (mapped pages of the file included) is compared with that limit. `converted` is the packed
checkpoint after `python -m gptoss_edu convert`. Mapping reads nothing, so the time until every
weight has been read once is given, too; and all of it once with the files in the system's memory
and, with --cold, once from the disk.

    python -m benchmarks.load --layers 2 --vocab 16384
    python -m benchmarks.load --checkpoint DIR --cold      # published layout against converted
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.engines import drop_from_memory, memory_of_this_process
from benchmarks.synthetic import write_synthetic
from gptoss_edu.config import GPT_OSS_20B

LOADS = {  # experts on disk
    "packed": ("auto", "bf16", "f32"),
    "plain": ("auto", "f32"),
    "converted": ("auto",),
}
TITLES = ("experts", "precision", "weights GB", "layer", "limit", "peak", "peak / limit", "seconds")


PAGE = 4096


def peak_bytes() -> int:
    """Largest resident memory of this process so far."""
    return memory_of_this_process()["peak"]


def measure(folder: str, precision: str) -> dict[str, float]:
    """Load in this process: bytes of weights, of a layer and of the peak above the start."""
    import jax

    from gptoss_edu.weights import checkpoint
    from gptoss_edu.weights.mapped import is_conversion

    if not is_conversion(Path(folder)):  # nor is one that lies beside it to be loaded
        checkpoint.find_converted = lambda folder, _: folder
    jax.block_until_ready(jax.numpy.ones(8) + 1)  # JAX's own memory belongs to the start
    before, start = peak_bytes(), time.perf_counter()
    _, params = checkpoint.load_model(folder, precision=precision)
    jax.block_until_ready(params)
    seconds = time.perf_counter() - start
    for leaf in jax.tree.leaves(params):
        np.asarray(leaf).view(np.uint8).reshape(-1)[::PAGE].max()
    seconds_read = time.perf_counter() - start
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    layer = sum(leaf.nbytes for leaf in jax.tree.leaves(params.layers[0]))
    return {
        "weights": weights,
        "layer": layer,
        "peak": peak_bytes() - before,
        "seconds": seconds,
        "seconds_read": seconds_read,
    }


def row(
    folder: str, experts: str, precision: str, repeats: int, cold: bool = False
) -> tuple[str, bool]:
    """(a line of the Markdown table, is the largest peak within the limit?)"""
    command = [sys.executable, "-m", "benchmarks.load", "--measure", precision, folder]

    def run(from_disk: bool) -> dict[str, float]:
        if from_disk:
            drop_from_memory(folder)
        return json.loads(subprocess.check_output(command, text=True))

    frozen = [run(True) for _ in range(repeats)] if cold else []
    runs = [run(False) for _ in range(repeats)]
    worst = max(runs + frozen, key=lambda run: run["peak"])
    limit = worst["weights"] + worst["layer"]
    numbers = (worst["weights"], worst["layer"], limit, worst["peak"])
    cells = [experts, precision, *(f"{number / 1e9:.2f}" for number in numbers)]
    cells.append(f"{worst['peak'] / limit:.2f}")
    for some in (runs, frozen) if cold else (runs,):
        for key in ("seconds", "seconds_read"):
            cells.append(f"{median(run[key] for run in some):.1f}")
    return f"| {' | '.join(cells)} |", worst["peak"] <= limit


def print_head(cold: bool) -> None:
    """The first two lines of the table."""
    titles = [*TITLES, "all read"]
    titles += ["cold: seconds", "cold: all read"] if cold else []
    print(f"| {' | '.join(titles)} |")
    print("|---" * len(titles) + "|", flush=True)


def converted(source: str, folder: str) -> str:
    """Convert, and say on standard error how long that took."""
    from gptoss_edu.weights.convert import convert

    start = time.perf_counter()
    made = convert(source, folder)
    size = sum(path.stat().st_size for path in made.glob("*.safetensors"))
    seconds = time.perf_counter() - start
    print(f"converted {size / 1e9:.2f} GB in {seconds:.1f} s", file=sys.stderr, flush=True)
    return str(made)


def main() -> int:
    """Write the checkpoints, load them in every precision, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--vocab", type=int, default=16384)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--experts", choices=LOADS, nargs="*", default=list(LOADS))
    parser.add_argument("--precision", nargs="*", default=["auto", "bf16", "f32"])
    parser.add_argument("--checkpoint", metavar="DIR", help="this one, as it is and converted")
    parser.add_argument("--cold", action="store_true", help="also load from the disk (Linux)")
    parser.add_argument("--measure", nargs=2, metavar=("PRECISION", "FOLDER"), help="one load")
    options = parser.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    if options.measure:
        print(json.dumps(measure(options.measure[1], options.measure[0])))
        return 0
    print_head(options.cold)
    sizes = {"num_layers": options.layers, "vocab_size": options.vocab, "layer_types": ()}
    config, kept = dataclasses.replace(GPT_OSS_20B, **sizes), True
    kinds = ("packed", "converted") if options.checkpoint else options.experts
    for experts in kinds:
        with tempfile.TemporaryDirectory(dir=options.checkpoint) as scratch:
            source = options.checkpoint or f"{scratch}/source"
            if not options.checkpoint:
                stored = "plain" if experts == "plain" else "packed"
                write_synthetic(source, config, experts=stored)
            folder = converted(source, f"{scratch}/own") if experts == "converted" else source
            wanted = ["auto"] if options.checkpoint else options.precision
            for precision in [p for p in LOADS[experts] if p in wanted]:
                line, within = row(folder, experts, precision, options.repeats, options.cold)
                print(line, flush=True)
                kept = kept and within
    print("within the limit" if kept else "ABOVE THE LIMIT")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
