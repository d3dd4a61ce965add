"""How fast is the 20B on an accelerator, beside Hugging Face transformers and beside its memory?

    python -m benchmarks.gpu --out benchmarks/gpu.json           # random weights, 13.8 GB of disk
    python -m benchmarks.gpu --model FOLDER                      # weights that are there already
    python -m benchmarks.gpu --quick                             # the pocket model, on any machine

The same weights and the same rows go to both engines, one after the other, each in a process of its
own that has the accelerator to itself. This package keeps the experts packed and computes in
bfloat16; transformers unpacks them to bfloat16. A batch has prompts that differ, so its rows choose
different experts. Every figure is the median of some runs after one that compiles; all are kept.

The limit is what the memory of this machine, measured here, could deliver: its bandwidth over the
bytes that a step has to read (`step_bytes`).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parent.parent


class Plan(NamedTuple):
    """What is measured."""

    batches: tuple[int, ...] = (1, 8, 32)
    prefills: tuple[int, ...] = (512, 4096)
    prompt: int = 128  # tokens before those that decoding is timed with
    decoded: int = 64
    repeats: int = 5
    bandwidth_bytes: int = 2**32


QUICK = Plan((1, 2), (16, 32), 16, 8, 2, 2**26)


def rows_of(batch: int, length: int, vocab: int) -> np.ndarray:
    """Rows of the vocabulary for a batch of prompts, always the same, no two alike."""
    return np.random.default_rng(batch * 100_003 + length).integers(0, vocab, (batch, length))


def step_bytes(config: Any, precision: str, context: int, batch: int) -> float:
    """Bytes that one step of a batch reads: caches, and weights once for all rows.

    Each row takes X of E experts. If rows choose independently, an expert is read with probability
    1 - (1 - X / E)^B: 4 of 32 for one row, 31.6 for 32 rows.
    """
    from gptoss_edu.chips import fit
    from gptoss_edu.chips import precision as formats

    alone = fit.read_bytes(config, precision)
    experts = sum(
        leaf.size * leaf.dtype.itemsize
        for layer in formats.abstract_params(config, precision).layers
        for leaf in expert_leaves(layer)
    )
    share = config.experts_per_token / config.num_experts
    touched = 1 - (1 - share) ** batch
    return alone + experts * (touched - share) + formats.cache_bytes(config, context, batch)


def expert_leaves(layer: Any) -> list[Any]:
    """The arrays of a layer that have one part for each expert."""
    import jax

    found = jax.tree_util.tree_leaves_with_path(layer.moe)
    fields = [(str(getattr(path[0], "name", "")), leaf) for path, leaf in found]
    return [leaf for name, leaf in fields if name.rsplit("_", 1)[-1].startswith("E")]


def bandwidth(size: int, repeats: int = 9) -> float:
    """Bytes per second that JAX's device reads: the fastest sum of a large array."""
    import jax
    import jax.numpy as jnp

    many_IO = jnp.ones((size // 2**13, 2**12), jnp.bfloat16)
    add = jax.jit(lambda x_IO: jnp.sum(x_IO, axis=0, dtype=jnp.float32))
    jax.block_until_ready(add(many_IO))
    best = float("inf")
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(add(many_IO))
        best = min(best, time.perf_counter() - began)
    return many_IO.nbytes / best


class Ours:
    """gptoss_edu: packed experts, bfloat16 elsewhere on an accelerator, float32 on a CPU."""

    def __init__(self, folder: str | None) -> None:
        import dataclasses

        import jax

        from gptoss_edu import load_model

        self.jax, accelerated = jax, jax.devices()[0].platform != "cpu"
        model, self.params = load_model(folder, precision="mxfp4")
        dtype = jax.numpy.dtype("bfloat16") if accelerated else model.dtype
        self.model = dataclasses.replace(model, dtype=dtype)

    def prefill(self, rows_BT: np.ndarray) -> float:
        """Seconds to read prompts and pick the tokens that follow."""
        from gptoss_edu.cache import empty_cache
        from gptoss_edu.generation import prefill

        config, room = self.model.config, rows_BT.shape[1] + 1
        cache = self.jax.block_until_ready(
            empty_cache(config, len(rows_BT), room, self.model.dtype)
        )
        began = time.perf_counter()
        logits_BV, _ = prefill(self.model, self.params, rows_BT.tolist(), cache)
        np.asarray(logits_BV.argmax(-1))
        return time.perf_counter() - began

    def decode(self, rows_BT: np.ndarray, tokens: int) -> float:
        """Seconds for `tokens` greedy tokens of each row after the first."""
        from gptoss_edu.generation import generate_tokens

        prompts, began = rows_BT.tolist(), 0.0
        steps = generate_tokens(self.model, self.params, prompts, max_tokens=tokens + 1)
        for step, _ in enumerate(steps):
            if step == 0:
                began = time.perf_counter()
        return time.perf_counter() - began

    def peak_bytes(self) -> int:
        """The most memory that was in use."""
        from benchmarks.load import peak_bytes

        stats = self.jax.devices()[0].memory_stats() or {}
        return stats.get("peak_bytes_in_use") or peak_bytes()


class Transformers:
    """Hugging Face transformers in bfloat16, experts unpacked by from_pretrained."""

    def __init__(self, folder: str | None) -> None:
        import torch
        from transformers import GptOssForCausalLM, Mxfp4Config

        from gptoss_edu.weights.checkpoint import POCKET

        self.torch, self.device = torch, "cuda" if torch.cuda.is_available() else "cpu"
        self.model = GptOssForCausalLM.from_pretrained(
            folder or POCKET,
            quantization_config=Mxfp4Config(dequantize=True),
            dtype=torch.bfloat16,
        )
        self.model = self.model.to(self.device).eval()

    def _read(self, rows_BT: Any, past: Any = None) -> tuple[Any, Any]:
        out = self.model(rows_BT, past_key_values=past, use_cache=True, logits_to_keep=1)
        return out.logits[:, -1].argmax(-1, keepdim=True), out.past_key_values

    def prefill(self, rows_BT: np.ndarray) -> float:
        """Seconds to read prompts and pick the tokens that follow."""
        rows_BT = self.torch.tensor(rows_BT, device=self.device)
        with self.torch.inference_mode():
            self._wait()
            began = time.perf_counter()
            self._read(rows_BT)
            self._wait()
        return time.perf_counter() - began

    def decode(self, rows_BT: np.ndarray, tokens: int) -> float:
        """Seconds for `tokens` greedy tokens of each row after the first."""
        with self.torch.inference_mode():
            token_B1, past = self._read(self.torch.tensor(rows_BT, device=self.device))
            self._wait()
            began = time.perf_counter()
            for _ in range(tokens):
                token_B1, past = self._read(token_B1, past)
            self._wait()
        return time.perf_counter() - began

    def _wait(self) -> None:
        if self.device == "cuda":
            self.torch.cuda.synchronize()

    def peak_bytes(self) -> int:
        """The most memory that was in use."""
        from benchmarks.load import peak_bytes

        return self.torch.cuda.max_memory_allocated() if self.device == "cuda" else peak_bytes()


ENGINES: dict[str, Callable[[str | None], Any]] = {"ours": Ours, "transformers": Transformers}


def measure(name: str, folder: str | None, plan: Plan, vocab: int) -> dict[str, Any]:
    """All figures of one engine; this process belongs to it."""
    began = time.perf_counter()
    engine = ENGINES[name](folder)
    found: dict[str, Any] = {"load_s": time.perf_counter() - began}
    for length in plan.prefills:
        rows_BT = rows_of(1, length, vocab)
        seconds = [engine.prefill(rows_BT) for _ in range(plan.repeats + 1)]
        found[f"prefill_{length}"] = figures(length, seconds)
    for batch in plan.batches:
        rows_BT = rows_of(batch, plan.prompt, vocab)
        seconds = [engine.decode(rows_BT, plan.decoded) for _ in range(plan.repeats + 1)]
        found[f"decode_{batch}"] = figures(batch * plan.decoded, seconds)
    return found | {"peak_bytes": engine.peak_bytes()}


def figures(tokens: int, seconds: list[float]) -> dict[str, Any]:
    """Tokens per second, from the median of all runs but the first, which compiles."""
    return {"tokens_per_s": tokens / statistics.median(seconds[1:]), "seconds": seconds}


def machine() -> dict[str, Any]:
    """What this was measured on."""
    import jax

    device = jax.devices()[0]
    return {
        "device": device.device_kind,
        "platform": device.platform,
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "jax": jax.__version__,
    }


def ask(task: str, folder: str | None, quick: bool, vocab: int) -> dict[str, Any]:
    """Run one task in a process of its own: what it held on the device goes with it."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--task", task, "--vocab", str(vocab)]
    command += ["--model", folder] if folder else []
    command += ["--quick"] if quick else []
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "ended"}
    return json.loads(done.stdout.splitlines()[-1])


def limits(config: Any, plan: Plan, rate: float) -> dict[str, float]:
    """Tokens per second that memory allows, packed, for each batch."""
    context = plan.prompt + plan.decoded
    return {
        f"decode_{batch}": batch * rate / step_bytes(config, "mxfp4", context, batch)
        for batch in plan.batches
    }


def table(found: dict[str, Any]) -> str:
    """The result as a Markdown table."""
    names = [name for name in found["engines"] if "error" not in found["engines"][name]]
    lines = [
        f"{found['machine']['device']}, {found['layers']} layers; memory reads"
        f" {found['bytes_per_second'] / 1e9:,.0f} GB/s; tokens per second",
        "| | " + " | ".join(names) + " | limit of memory | ours / limit |",
        "|---|" + "---|" * (len(names) + 2),
    ]
    for key in next(iter(found["engines"][name] for name in names)):
        if not key.startswith(("decode_", "prefill_")):
            continue
        speeds = {name: found["engines"][name][key]["tokens_per_s"] for name in names}
        limit = found["limits"].get(key)
        share = f"{speeds['ours'] / limit:.2f}" if limit and "ours" in speeds else "–"
        told = [f"{speed:,.1f}" for speed in speeds.values()]
        told += [f"{limit:,.0f}" if limit else "–", share]
        lines.append(f"| {key.replace('_', ', batch ' if 'dec' in key else ', tokens ')} | "
                     + " | ".join(told) + " |")  # fmt: skip
    peaks = [f"{found['engines'][name]['peak_bytes'] / 1e9:.1f}" for name in names]
    lines.append("| peak memory GB | " + " | ".join(peaks) + " | – | – |")
    errors = [f"{n}: {e['error']}" for n, e in found["engines"].items() if "error" in e]
    return "\n".join([*lines, *errors])


def compare(folder: str | None, quick: bool, engines: list[str]) -> dict[str, Any]:
    """Everything: the machine's memory, then one engine after the other."""
    from gptoss_edu.weights.checkpoint import POCKET, read_config

    plan, config = QUICK if quick else Plan(), read_config(Path(folder) if folder else POCKET)
    told = ask("memory", folder, quick, config.vocab_size)
    if "error" in told:
        sys.exit(f"the memory could not be measured: {told['error']}")
    result = {
        "machine": told["machine"],
        "layers": config.num_layers,
        "plan": plan._asdict(),
        "bytes_per_second": told["bytes_per_second"],
        "limits": limits(config, plan, told["bytes_per_second"]),
        "engines": {},
    }
    for name in engines:
        result["engines"][name] = ask(name, folder, quick, config.vocab_size)
    return result


def main(arguments: list[str] | None = None) -> int:
    """The command line; a failed engine is a line below the table, and status 1."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--model", help="folder of a checkpoint with packed experts")
    parser.add_argument("--layers", type=int, default=24, help="of the random weights")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--quick", action="store_true", help="small sizes; the pocket model")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--task", choices=("memory", *ENGINES), help=argparse.SUPPRESS)
    parser.add_argument("--vocab", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    plan = QUICK if options.quick else Plan()
    if options.task == "memory":
        rate = bandwidth(plan.bandwidth_bytes)
        print(json.dumps({"bytes_per_second": rate, "machine": machine()}))
        return 0
    if options.task:
        print(json.dumps(measure(options.task, options.model, plan, options.vocab)))
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.model
        if folder is None and not options.quick:
            folder = str(Path(scratch) / "random")
            make = [sys.executable, "-m", "benchmarks.synthetic", "--out", folder]
            subprocess.run([*make, "--layers", str(options.layers)], cwd=ROOT, check=True)
        result = compare(folder, options.quick, options.engines)
    print(table(result))
    if options.out:
        from gptoss_edu.weights.mapped import replace_json

        replace_json(options.out, result)
    return int(any("error" in engine for engine in result["engines"].values()))


if __name__ == "__main__":
    sys.exit(main())
