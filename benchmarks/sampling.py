"""What does the draw of one token cost, over the 20B's whole vocabulary?

Every setting is compiled once; then all take turns, so that whatever else the machine does hits
them alike. The last line is a sort of the same logits, which is what the filters do without.

    python -m benchmarks.sampling [--repeats 101]
"""

from __future__ import annotations

import argparse
import functools
import statistics
import sys
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from gptoss_edu.config import GPT_OSS_20B
from gptoss_edu.sampling import Sampling, sample

SETTINGS = {
    "greedy": Sampling(),
    "temperature 1": Sampling(1.0),
    "top-k 40": Sampling(1.0, top_k=40),
    "top-p 0.95": Sampling(1.0, top_p=0.95),
    "min-p 0.05": Sampling(1.0, min_p=0.05),
    "all three": Sampling(1.0, top_k=40, top_p=0.95, min_p=0.05),
}


def runs() -> dict[tuple[str, str], Callable[[], object]]:
    """(logits, setting) -> a compiled draw of one token."""
    V = GPT_OSS_20B.vocab_size
    noise_1V = np.random.default_rng(0).normal(size=(1, V)).astype(np.float32)
    seed_B = jnp.zeros(1, jnp.uint32)
    made: dict[tuple[str, str], Callable[[], object]] = {}
    for kind, spread in {"2.5": 2.5, "10": 10.0, "0: all alike": 0.0}.items():
        logits_BV = jnp.asarray(spread * noise_1V)
        for name, setting in SETTINGS.items():
            draw = jax.jit(sample).lower(logits_BV, seed_B, 0, setting.active).compile()
            active = {key: jnp.asarray(value) for key, value in setting.active.items()}
            made[kind, name] = functools.partial(draw, logits_BV, seed_B, jnp.asarray(0), active)
        sort = jax.jit(lambda x_BV: jnp.argsort(-x_BV, stable=True)).lower(logits_BV).compile()
        made[kind, "a sort"] = functools.partial(sort, logits_BV)
    return made


def measure(repeats: int) -> dict[tuple[str, str], list[float]]:
    """Milliseconds of each run, in turns."""
    made = runs()
    taken: dict[tuple[str, str], list[float]] = {key: [] for key in made}
    for turn in range(repeats + 1):
        for key, run in made.items():
            began = time.perf_counter()
            jax.block_until_ready(run())
            if turn:  # the first warms up
                taken[key].append(1e3 * (time.perf_counter() - began))
    return taken


def main(arguments: list[str]) -> None:
    """Print a table: medians, and the fastest of all in brackets."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=101)
    taken = measure(parser.parse_args(arguments).repeats)
    kinds = list(dict.fromkeys(kind for kind, _ in taken))
    print("| spread of the logits | " + " | ".join(kinds) + " |")
    print("|---" * (len(kinds) + 1) + "|")
    for name in [*SETTINGS, "a sort"]:
        cells = [
            f"{statistics.median(taken[kind, name]):.2f} ({min(taken[kind, name]):.2f})"
            for kind in kinds
        ]
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main(sys.argv[1:])
