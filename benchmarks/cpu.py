"""How fast are 20 billion parameters on this machine's processor, beside the fastest engines?

    python -m benchmarks.cpu --model FOLDER --layers-model FOLDER_OF_4_LAYERS

The same weights, the same rows in, in the same minutes: this package, llama.cpp and Hugging Face
transformers, each in a process of its own (benchmarks/engines.py). Where memory has room for all,
as it has for 4 layers, engines stay loaded and are asked in turns, each being first equally often.
Whole models do not fit beside one another, so there an engine is loaded, asked and ended before the
next one comes, in as many rounds. Every number that was measured is kept; medians are taken when
the table is written (benchmarks/cpu_report.py).

This package loads the conversion of FOLDER (`python -m gptoss_edu convert FOLDER`) if there is one.
llama.cpp reads a GGUF file beside the folder, FOLDER.gguf, which is written when it is not there.
transformers unpacks the experts to bf16, so whole models are measured without it.
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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import cpu_report
from benchmarks.engines import ENGINES, drop_from_memory, missing
from gptoss_edu.system import cores

ROOT = Path(__file__).resolve().parent.parent
SLICE = 8  # layers; more of them unpacked are too much for most machines
# Memory of an engine by the bytes of its weights, as seen: llama.cpp keeps a second copy of the
# experts in another order. transformers needs half as much again while it loads, but comes first.
FOOTPRINT = {"ours": 1.15, "ours-jax": 1.15, "ours-int8": 1.0, "llama": 1.5, "transformers": 1.0}


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is measured; the small plan proves that everything runs."""

    prefills: tuple[int, ...] = (128, 512)
    prompt: int = 128  # tokens before those that decoding is timed with
    decoded: int = 33  # the first is not timed
    contexts: tuple[int, ...] = (128, 1024, 4096, 16384)
    bandwidth_s: float = 0.5
    megabytes: int = 1024  # of the array that measures the memory: caches hold 5 % of it at most


QUICK = Plan((16, 32), 16, 5, (128, 256), 0.05, 64)


class Worker:
    """An engine in a process of its own."""

    def __init__(self, engine: str, path: str | Path, threads: int, vocab: int) -> None:
        self.engine, self.log = engine, tempfile.TemporaryFile("w+")
        command = [sys.executable, "-m", "benchmarks.engines", engine, str(path)]
        command += ["--threads", str(threads), "--vocab", str(vocab)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self.log}
        self.process = subprocess.Popen(command, cwd=ROOT, text=True, **pipes)
        self._answer()

    def ask(self, do: str, **details: Any) -> dict[str, Any]:
        """Send a request and wait. Raises RuntimeError with what the engine said."""
        if self.process.poll() is None:
            self.process.stdin.write(json.dumps({"do": do} | details) + "\n")
            self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        line = self.process.stdout.readline()
        told = json.loads(line) if line else {"error": f"ended with {self.process.wait()}"}
        if "error" in told:
            self.log.seek(0)
            raise RuntimeError(f"{self.engine}: {told['error']}\n{self.log.read()[-2000:]}")
        return told

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: Any) -> None:
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
        self.log.close()


@dataclasses.dataclass(frozen=True)
class Bench:
    """One model, its files, and who is asked with how many threads."""

    paths: dict[str, Path]  # engine -> what it loads
    config: Any
    threads: int
    repeats: int
    plan: Plan
    note: Callable[[str], None]

    def worker(self, engine: str, path: str | Path | None = None) -> Worker:
        """Start an engine."""
        return Worker(engine, path or self.paths[engine], self.threads, self.config.vocab_size)

    def loaded(self, engine: str) -> Worker:
        """Start an engine, load, and compile what will be asked."""
        worker = self.worker(engine)
        worker.ask("load")
        self.warm(worker)
        return worker

    def warm(self, worker: Worker) -> None:
        """Once, outside all clocks: programs are compiled, pages touched."""
        worker.ask("prefill", tokens=self.plan.prefills[0], seed=99)
        worker.ask("decode", prompt=self.plan.prompt, tokens=3, seed=99)

    def measure(self, worker: Worker, seed: int) -> dict[str, dict[str, Any]]:
        """What is asked of an engine in each round."""
        found = {
            f"prefill_{count}": worker.ask("prefill", tokens=count, seed=seed) | {"tokens": count}
            for count in self.plan.prefills
        }
        details = {"prompt": self.plan.prompt, "tokens": self.plan.decoded, "seed": seed}
        return found | {"decode": worker.ask("decode", **details)}

    def memory_reader(self) -> Worker:
        """The process that measures the memory's speed."""
        worker = self.worker("memory", str(self.plan.megabytes))
        worker.ask("load")
        return worker

    def in_turns(self, round_: int) -> list[str]:
        """Engines in the order of this round: each is first equally often."""
        engines = list(self.paths)
        first = round_ % len(engines)
        return engines[first:] + engines[:first]


def side_by_side(bench: Bench) -> dict[str, Any]:
    """All engines loaded at once, in rounds."""
    found = empty_results(bench)
    # What takes the most while loading is loaded first, while the rest is not there.
    order = sorted(bench.paths, key=lambda engine: engine != "transformers")
    workers: dict[str, Worker] = {}
    with bench.memory_reader() as memory:
        try:
            for engine in order:
                bench.note(f"{engine}: load")
                workers[engine] = bench.loaded(engine)
            for round_ in range(bench.repeats):
                bench.note(f"round {round_ + 1} of {bench.repeats}")
                add_bandwidth(found, memory, bench.plan)
                for engine in bench.in_turns(round_):
                    add(found["engines"][engine], bench.measure(workers[engine], round_))
            if len(workers) > 1:
                found["agreement"] = agreement(workers, bench.plan)
            for engine, worker in workers.items():
                found["engines"][engine]["memory"] = [worker.ask("memory")]
        finally:
            for worker in workers.values():
                worker.__exit__()
    return found


def one_at_a_time(bench: Bench, warm_loads: bool) -> dict[str, Any]:
    """Each engine is loaded from disk, asked, and ended, in rounds; then loaded once more."""
    found = empty_results(bench)
    for round_ in range(bench.repeats):
        for engine in bench.in_turns(round_):
            bench.note(f"round {round_ + 1} of {bench.repeats}: {engine}")
            results = found["engines"][engine]
            stayed = cold(bench.paths[engine])
            with bench.worker(engine) as worker:
                add(results, {"load_cold": load(worker) | {"stayed": stayed}})
                bench.warm(worker)
                add(results, bench.measure(worker, round_))
                results.setdefault("memory", []).append(worker.ask("memory"))
            with bench.memory_reader() as memory:
                add_bandwidth(found, memory, bench.plan)
            if warm_loads:
                with bench.worker(engine) as worker:
                    add(results, {"load_warm": load(worker)})
    return found


def loads(bench: Bench, published: Path) -> dict[str, Any]:
    """Load times alone, from disk and from memory: each in a fresh process, in rounds.

    `published`: the safetensors folder. Where `ours` loads a conversion of it, both are measured.
    """
    paths = dict(bench.paths)
    with tempfile.TemporaryDirectory() as folder:
        if paths.get("ours", published) != published:
            paths["ours, as published"] = unconverted(published, Path(folder))
        found: dict[str, Any] = {label: {} for label in paths}
        for round_ in range(bench.repeats):
            bench.note(f"loads, round {round_ + 1} of {bench.repeats}")
            for label, path in paths.items():
                engine = label.split(",")[0]
                stayed = cold(path)
                with bench.worker(engine, path) as worker:
                    add(found[label], {"load_cold": load(worker) | {"stayed": stayed}})
                with bench.worker(engine, path) as worker:
                    add(found[label], {"load_warm": load(worker)})
    return {"engines": found}


def unconverted(folder: Path, links: Path) -> Path:
    """The files of a checkpoint as links in another folder, for which no conversion is known."""
    for file in folder.iterdir():
        if file.is_file():
            (links / file.name).symlink_to(file.resolve())
    return links


def load(worker: Worker) -> dict[str, Any]:
    """Seconds until an engine is ready, and until its first token after a prompt of 16.

    A mapped file is ready before it is read, so only the second figure is the whole truth.
    Compilation is part of what one waits for, and is told apart.
    """
    seconds = worker.ask("load")["seconds"]
    first = worker.ask("prefill", tokens=16, seed=98)
    told = {"seconds": seconds, "compiled": first["compiled"]}
    return told | {"first_token": seconds + first["seconds"] + first["compiled"]}


def cold(path: Path) -> float | None:
    """Make the next load a cold one; None where the system offers no way."""
    try:
        return drop_from_memory(path)
    except OSError:
        return None


def contexts(bench: Bench) -> dict[str, Any]:
    """Our decoding by length of context, all layers as they are and all of them sliding."""
    found: dict[str, Any] = {"lengths": {}, "sliding": {}}
    plan = bench.plan
    with bench.worker("ours") as worker, bench.memory_reader() as memory:
        worker.ask("load")
        for round_ in range(bench.repeats):
            bench.note(f"contexts, round {round_ + 1} of {bench.repeats}")
            add_bandwidth(found, memory, plan)
            for name, sliding in (("lengths", False), ("sliding", True)):
                for length in plan.contexts:
                    count = min(plan.decoded, length)
                    details = {"length": length, "tokens": count, "seed": round_}
                    told = worker.ask("context", sliding=sliding, **details)
                    told |= worker.ask("memory")
                    add(found[name], {str(length): told})
    return found


def agreement(workers: dict[str, Worker], plan: Plan) -> dict[str, Any]:
    """Do engines say the same? Logits of all against the first's, over one fed sequence."""
    with tempfile.TemporaryDirectory() as folder:
        logits = {}
        for engine, worker in workers.items():
            file = str(Path(folder) / f"{engine}.npy")
            worker.ask("logits", prompt=plan.prompt, tokens=plan.decoded, seed=7, file=file)
            logits[engine] = np.load(file)
    first = next((engine for engine in logits if engine.startswith("ours")), next(iter(logits)))
    return {
        f"{engine} and {first}": compare(logits[first], theirs)
        for engine, theirs in logits.items()
        if engine != first
    }


def compare(ours_TV: np.ndarray, theirs_TV: np.ndarray) -> dict[str, float]:
    """Share of equal picks, smallest correlation, largest difference in standard deviations."""
    same = ours_TV.argmax(1) == theirs_TV.argmax(1)
    pairs = zip(ours_TV, theirs_TV, strict=True)
    correlations = [float(np.corrcoef(a, b)[0, 1]) for a, b in pairs]
    largest = np.abs(ours_TV - theirs_TV).max() / ours_TV.std()
    return {
        "positions": len(same),
        "equal_picks": float(same.mean()),
        "smallest_correlation": min(correlations),
        "median_correlation": float(np.median(correlations)),
        "largest_difference": float(largest),
    }


def empty_results(bench: Bench) -> dict[str, Any]:
    """The shape of what a run returns."""
    return {"engines": {engine: {} for engine in bench.paths}, "bandwidth": []}


def add(results: dict[str, Any], measured: dict[str, dict[str, Any]]) -> None:
    """Append one round's figures."""
    for name, figures in measured.items():
        results.setdefault(name, []).append(figures)


def add_bandwidth(found: dict[str, Any], memory: Worker, plan: Plan) -> None:
    """Append the memory's speed of this round."""
    told = memory.ask("bandwidth", seconds=plan.bandwidth_s)
    found.setdefault("bandwidth", []).append(told["bytes_per_second"])


# --- the command ---


def main(arguments: list[str] | None = None) -> int:
    """Measure what was asked for; keep each result as soon as it is there."""
    options = parse(arguments)
    if options.report:
        cpu_report.write(options.out)
        return 0
    engines = []
    for engine in options.engines:
        if (sentence := missing(engine)) is not None:
            print(sentence, file=sys.stderr)
        else:
            engines.append(engine)
    if not engines:
        print(f"nothing to measure: none of {options.engines} is installed", file=sys.stderr)
        return 1
    began = time.perf_counter()

    def note(text: str) -> None:
        print(f"{time.perf_counter() - began:6.0f} s  {text}", file=sys.stderr, flush=True)

    for folder in models(options):
        for threads in options.threads:
            note(f"{folder.name}, threads: {threads}")
            measure_model(folder, engines, threads, options, note)
    cpu_report.write(options.out)
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu", description=__doc__)
    formatter = argparse.RawDescriptionHelpFormatter
    parser.formatter_class = formatter
    told = "folder of a checkpoint with packed experts (default: the pocket model)"
    parser.add_argument("--model", type=Path, help=told)
    parser.add_argument("--layers-model", type=Path, help="a slice of it, such as 4 layers")
    names = [name for name in ENGINES if name != "memory"]
    default = ["ours", "llama", "transformers"]
    parser.add_argument("--engines", nargs="+", choices=names, default=default)
    parser.add_argument("--threads", nargs="+", type=int, default=sorted({cores(), 1})[::-1])
    parser.add_argument("--repeats", type=int, default=5)
    parts = ("speed", "rounded", "loads", "contexts")
    told = "rounded: speed once more, attention and unembedding in 8 bits"
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts, help=told)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one round: does it run?")
    told = "results; runs of other models, threads and parts are kept"
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "cpu.json", help=told)
    parser.add_argument("--report", action="store_true", help="only write tables and plots again")
    options = parser.parse_args(arguments)
    if options.quick:
        options.repeats = 1
        options.threads = options.threads[:1]
    return options


def models(options: argparse.Namespace) -> Iterator[Path]:
    """Folders of checkpoints, the slice first: it takes less time."""
    from gptoss_edu.weights.checkpoint import POCKET

    if options.layers_model:
        yield options.layers_model
    if options.model or not options.layers_model:
        yield options.model or POCKET


def measure_model(
    folder: Path,
    engines: list[str],
    threads: int,
    options: argparse.Namespace,
    note: Callable[[str], None],
) -> None:
    """Everything about one model with one number of threads."""
    from gptoss_edu.weights.checkpoint import read_config
    from gptoss_edu.weights.mapped import find_converted

    config, plan = read_config(folder), QUICK if options.quick else Plan()
    small = config.num_layers <= SLICE
    if not small and "transformers" in engines:
        note("transformers is left out: it unpacks experts, and whole models do not fit")
        engines = [engine for engine in engines if engine != "transformers"]
    paths = dict.fromkeys(engines, folder)
    paths |= {e: find_converted(folder, "auto") for e in engines if e.startswith("ours")}
    if "llama" in paths:
        paths["llama"] = find_gguf(folder, note)
    bench = Bench(paths, config, threads, options.repeats, plan, note)
    key = {"layers": config.num_layers, "width": config.hidden_size, "threads": threads}
    key |= {"quick": options.quick}

    def keep(part: str, found: dict[str, Any]) -> None:
        about = {"part": part, "repeats": options.repeats, "when": time.strftime("%Y-%m-%d")}
        about |= {"sizes": cpu_report.sizes(config), "plan": dataclasses.asdict(plan)}
        cpu_report.keep(options.out, key | about | found)

    # How long loading takes, and what a context costs, is asked with the most threads only.
    parts = options.parts if threads == max(options.threads) else ["speed"]
    rounded = {"ours-int8" if e == "ours" else e: path for e, path in paths.items()}
    for part, asked in (("speed", bench), ("rounded", dataclasses.replace(bench, paths=rounded))):
        if part not in options.parts:
            continue
        if fits(asked, note):
            keep(part, side_by_side(asked))
        else:
            keep(part, one_at_a_time(asked, part == "speed" and "loads" in parts and not small))
    if "loads" in parts and small:
        keep("loads", loads(bench, folder))
    if "contexts" in parts and "ours" in paths:
        keep("contexts", contexts(bench))


def fits(bench: Bench, note: Callable[[str], None]) -> bool:
    """Is there memory for all engines at once? Linux would end one of them, or something else."""
    from gptoss_edu.system import available_memory

    bytes_ = cpu_report.sizes(bench.config)
    needed = 2**30 + sum(
        FOOTPRINT[e] * bytes_["weight_bytes_bf16" if e == "transformers" else "weight_bytes"]
        for e in bench.paths
    )
    available, _ = available_memory()
    if available is None or needed <= available:
        return True
    told = f"all need {needed / 2**30:.1f} GiB, {available / 2**30:.1f} are available"
    note(f"one engine at a time: {told}")
    return False


def find_gguf(folder: Path, note: Callable[[str], None]) -> Path:
    """The GGUF file of a folder, which is written when it is not there."""
    from benchmarks.gguf import write_gguf
    from gptoss_edu.weights.checkpoint import POCKET

    path = folder.with_name(folder.name + ".gguf")
    if folder == POCKET:  # nothing is written into an installed package
        path = Path(tempfile.gettempdir()) / f"gptoss-edu-pocket-{os.getuid()}.gguf"
    if not path.exists() or path.stat().st_mtime < (folder / "config.json").stat().st_mtime:
        note(f"writing {path.name}")
        write_gguf(folder, path)
    return path


if __name__ == "__main__":
    sys.exit(main())
