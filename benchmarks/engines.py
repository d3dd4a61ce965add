"""The engines that benchmarks.cpu compares, each in a process of its own.

    python -m benchmarks.engines ours FOLDER --threads 2

starts one of them: it reads requests from its input, a line of JSON each, and answers in kind. So
engines stay loaded and warm, and are asked in turns; none shares memory, threads or settings with
another. Every engine does the same work: reads the same rows of the vocabulary, then is fed the
same rows one at a time, and after each picks the largest of its logits.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import importlib.util
import json
import mmap
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOM = 64  # tokens that follow a prompt, at most


class Ours:
    """gptoss_edu through its public functions."""

    needs = ("jax",)
    install = "pip install gptoss-edu"

    def __init__(self, path: str, threads: int, **options: str) -> None:
        import jax

        from gptoss_edu import load_model

        self.threads = threads
        self.model, self.params = load_model(path, **options)
        jax.block_until_ready(self.params)

    def read(self, rows: list[int]) -> np.ndarray:
        """Forget everything, read a prompt; logits of the token that follows."""
        from gptoss_edu.cache import capacity_for, empty_cache
        from gptoss_edu.generation import prefill

        config = self.model.config
        room = capacity_for(len(rows) + ROOM, config.max_positions)
        cache = empty_cache(config, 1, room, self.model.dtype)
        logits_BV, self.cache = prefill(self.model, self.params, [rows], cache)
        return np.asarray(logits_BV)[0]

    def step(self, row: int) -> np.ndarray:
        """Read one token more."""
        from gptoss_edu.generation import decode_step

        logits_BV, self.cache = decode_step(self.model, self.params, [row], self.cache)
        return np.asarray(logits_BV)[0]

    def hold(self, length: int, room: int, sliding: bool) -> int:
        """A cache of `length` made-up tokens, as if they had been read; returns its bytes.

        With `sliding` every layer slides: what is left of a step's time then is what does not
        depend on the context.
        """
        from gptoss_edu.config import SLIDING
        from gptoss_edu.shapes import num_bytes

        config = self.model.config
        if not hasattr(self, "as_loaded"):
            self.as_loaded = config.layer_types
        types = (SLIDING,) * config.num_layers if sliding else self.as_loaded
        config = dataclasses.replace(config, layer_types=types)
        self.model = dataclasses.replace(self.model, config=config)
        self.cache = None
        self.cache = filled_cache(config, length, room, self.model.dtype)
        return int(num_bytes(self.cache))

    def compiled(self, since: float) -> float:
        """Seconds that compiling took since a reading of time.perf_counter."""
        from gptoss_edu.reply import compile_seconds

        return compile_seconds(since, time.perf_counter())


class OursInJax(Ours):
    """gptoss_edu without kernels of its own: what XLA makes of the plain functions."""

    def __init__(self, path: str, threads: int) -> None:
        super().__init__(path, threads, backend="jax")


class OursInt8(Ours):
    """gptoss_edu with attention and unembedding rounded to 8 bits."""

    def __init__(self, path: str, threads: int) -> None:
        super().__init__(path, threads, dense="int8")


class Llama:
    """llama.cpp through llama-cpp-python, with its defaults: mapped file, batches of 512."""

    needs = ("llama_cpp",)
    install = 'CMAKE_ARGS="-DGGML_NATIVE=ON" pip install llama-cpp-python==0.3.36 gguf'

    def __init__(self, path: str, threads: int) -> None:
        import llama_cpp

        self.model = llama_cpp.Llama(
            path, n_ctx=1024, n_threads=threads, n_threads_batch=threads, verbose=False
        )

    def read(self, rows: list[int]) -> np.ndarray:
        """Forget everything, read a prompt; logits of the token that follows."""
        self.model.reset()
        return self._eval(rows)

    def step(self, row: int) -> np.ndarray:
        """Read one token more."""
        return self._eval([row])

    def _eval(self, rows: list[int]) -> np.ndarray:
        self.model.eval(rows)
        logits = self.model._ctx.get_logits_ith(-1)
        return np.ctypeslib.as_array(logits, (self.model.n_vocab(),))


class Transformers:
    """Hugging Face transformers in bf16, experts unpacked by from_pretrained."""

    needs = ("torch", "transformers")
    install = "pip install 'gptoss-edu[parity]'"

    def __init__(self, path: str, threads: int) -> None:
        import torch
        from transformers import GptOssForCausalLM, Mxfp4Config

        torch.set_num_threads(threads)
        self.torch = torch
        self.model = GptOssForCausalLM.from_pretrained(
            path, quantization_config=Mxfp4Config(dequantize=True), dtype=torch.bfloat16
        ).eval()

    def read(self, rows: list[int]) -> np.ndarray:
        """Forget everything, read a prompt; logits of the token that follows."""
        self.past = None
        return self._forward(rows)

    def step(self, row: int) -> np.ndarray:
        """Read one token more."""
        return self._forward([row])

    def _forward(self, rows: list[int]) -> np.ndarray:
        with self.torch.inference_mode():
            tokens = self.torch.tensor([rows])
            out = self.model(tokens, past_key_values=self.past, use_cache=True, logits_to_keep=1)
            self.past = out.past_key_values
            return out.logits[0, -1].float().numpy()


class Memory:
    """No engine: how fast this machine reads memory that no cache holds.

    Each thread takes the largest number of its own piece of an array, again and again: NumPy does
    that in vector instructions, faster than memory delivers, and lets go of Python's lock.
    """

    needs = ()
    install = ""

    def __init__(self, path: str, threads: int) -> None:
        megabytes = int(path)
        pieces = [megabytes * 2**20 // 4 // threads] * threads
        self.pieces = [np.ones(size, np.int32) for size in pieces]  # written, so pages exist

    def bandwidth(self, seconds: float = 0.5) -> float:
        """Bytes per second, all threads together, over at least `seconds`."""
        began, done = time.perf_counter(), [0] * len(self.pieces)

        def read(which: int) -> None:
            while time.perf_counter() - began < seconds:
                self.pieces[which].max()
                done[which] += self.pieces[which].nbytes

        workers = [threading.Thread(target=read, args=(n,)) for n in range(len(self.pieces))]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return sum(done) / (time.perf_counter() - began)


ENGINES: dict[str, Any] = {
    "ours": Ours,
    "ours-jax": OursInJax,
    "ours-int8": OursInt8,
    "llama": Llama,
    "transformers": Transformers,
    "memory": Memory,
}


def missing(engine: str) -> str | None:
    """What to install for an engine, as a sentence; None where all of it is there."""
    kind = ENGINES[engine]
    absent = [name for name in kind.needs if importlib.util.find_spec(name) is None]
    if not absent:
        return None
    return f"{engine} is left out, {' and '.join(absent)} not being installed: {kind.install}"


def filled_cache(config: Any, length: int, room: int, dtype: Any) -> Any:
    """A cache as it would be after `length` tokens, with made-up keys and values."""
    import jax
    import jax.numpy as jnp

    from gptoss_edu.cache import Cache, FullKV, empty_cache

    rng = np.random.default_rng(0)

    def fill(kv: Any) -> Any:
        slot_S = np.arange(kv.position_BS.shape[1])
        if isinstance(kv, FullKV):
            position_S = np.where(slot_S < length, slot_S, -1)
        else:  # the newest position that belongs into the slot
            position_S = length - 1 - (length - 1 - slot_S) % len(slot_S)
            position_S = np.where(position_S < 0, -1, position_S)
        made = rng.random(kv.k_BKSH.shape, np.float32) - 0.5
        k_BKSH, v_BKSH = (jnp.asarray(x, kv.k_BKSH.dtype) for x in (made, made[:, ::-1]))
        position_BS = jnp.asarray(position_S[None], jnp.int32)
        return dataclasses.replace(kv, k_BKSH=k_BKSH, v_BKSH=v_BKSH, position_BS=position_BS)

    empty = jax.eval_shape(lambda: empty_cache(config, 1, room, dtype))
    layers = tuple(fill(kv) for kv in empty.layers)
    return jax.block_until_ready(Cache(layers, jnp.array([length], jnp.int32)))


# --- what a worker can be asked ---


def rows_for(vocab: int, count: int, seed: int) -> list[int]:
    """The same rows for every engine."""
    return np.random.default_rng(seed).integers(0, vocab, count).tolist()


class Timed:
    """Wall time, time spent compiling, and cores kept busy, of what happens inside `with`."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine

    def __enter__(self) -> Timed:
        self.began, self.cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: Any) -> None:
        seconds = time.perf_counter() - self.began
        compiled = self.engine.compiled(self.began) if hasattr(self.engine, "compiled") else 0.0
        cores = (time.process_time() - self.cpu) / seconds
        self.told = {"seconds": seconds - compiled, "compiled": compiled, "cores": cores}


def answer(engine: Any, request: dict[str, Any], vocab: int) -> dict[str, Any]:
    """Do what one request says; see the names below."""
    do, count = request["do"], request.get("tokens", 0)
    if do == "bandwidth":
        return {"bytes_per_second": engine.bandwidth(request["seconds"])}
    if do == "memory":
        return memory_of_this_process()
    if do == "prefill":
        rows = rows_for(vocab, count, request["seed"])
        with Timed(engine) as timed:
            engine.read(rows).argmax()
        return timed.told
    if do == "decode":
        engine.read(rows_for(vocab, request["prompt"], request["seed"]))
        return decode(engine, rows_for(vocab, count, request["seed"] + 1))
    if do == "context":
        held = engine.hold(request["length"] - count, request["length"], request["sliding"])
        told = decode(engine, rows_for(vocab, count, request["seed"]))
        return told | {"cache_bytes": held}
    if do == "logits":
        first = engine.read(rows_for(vocab, request["prompt"], request["seed"])).copy()
        fed = rows_for(vocab, count - 1, request["seed"] + 1)
        np.save(request["file"], np.stack([first, *(engine.step(row).copy() for row in fed)]))
        return {}
    raise ValueError(f"found the request {do!r}, expected prefill, decode, context or memory")


def decode(engine: Any, rows: list[int]) -> dict[str, Any]:
    """Feed rows one at a time; the median of the steps is there for what comes in bursts."""
    engine.step(rows[0]).argmax()  # outside the clock: a new length may compile
    with Timed(engine) as timed:
        steps = []
        for row in rows[1:]:
            began = time.perf_counter()
            engine.step(row).argmax()
            steps.append(time.perf_counter() - began)
    return timed.told | {"steps": len(steps), "median_step": float(np.median(steps))}


def memory_of_this_process() -> dict[str, int]:
    """Bytes resident at the peak and now, and how many of these are pages of files."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return {"peak": peak * (1 if sys.platform == "darwin" else 1024)}
    found = dict(line.split(":", 1) for line in lines)
    names = {"peak": "VmHWM", "resident": "VmRSS", "of_files": "RssFile"}
    return {name: int(found[field].split()[0]) * 1024 for name, field in names.items()}


# --- files in and out of memory ---


def files_of(path: str | Path) -> Iterator[Path]:
    """The file itself, or those that lie in a folder."""
    path = Path(path)
    yield from (file for file in (path.iterdir() if path.is_dir() else [path]) if file.is_file())


def drop_from_memory(path: str | Path) -> float:
    """Ask the system to forget the pages of these files; the share that stayed nevertheless."""
    if not hasattr(os, "posix_fadvise"):
        raise OSError("this system cannot forget a file's pages: cold loads need Linux")
    for file in files_of(path):
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # what is not written yet would stay
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
    return share_in_memory(path)


def share_in_memory(path: str | Path) -> float:
    """Which share of these files' pages the system holds in memory, by mincore(2)."""
    libc, held, total = ctypes.CDLL(None, use_errno=True), 0, 0
    for file in files_of(path):
        if not (size := file.stat().st_size):
            continue
        with open(file, "rb") as handle:
            pages = mmap.mmap(handle.fileno(), size, access=mmap.ACCESS_READ)
        mapped = np.frombuffer(pages, np.uint8)
        flags = np.zeros(-(-size // mmap.PAGESIZE), np.uint8)
        place = (ctypes.c_void_p(mapped.ctypes.data), ctypes.c_size_t(size))
        if libc.mincore(*place, ctypes.c_void_p(flags.ctypes.data)):
            raise OSError(ctypes.get_errno(), "mincore failed")
        held, total = held + int((flags & 1).sum()), total + len(flags)
    return held / max(total, 1)


def pin(threads: int) -> None:
    """Let this process use as many cores as it may have threads; before any library starts its own.

    XLA and torch count the cores that they may use; NPROC and OMP_NUM_THREADS say it again.
    """
    os.environ |= {"NPROC": str(threads), "OMP_NUM_THREADS": str(threads), "JAX_PLATFORMS": "cpu"}
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def main() -> None:
    """Answer requests until the input ends."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engines", description=__doc__)
    parser.add_argument("engine", choices=ENGINES)
    parser.add_argument("path")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--vocab", type=int, default=201088)
    options = parser.parse_args()
    out = os.fdopen(os.dup(1), "w")  # libraries print: let them, elsewhere
    os.dup2(2, 1)
    pin(options.threads)
    for name in ENGINES[options.engine].needs:
        importlib.import_module(name)
    import_everything(options.engine)
    engine = None
    print(json.dumps({"ready": True}), file=out, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if request["do"] == "load":
                began = time.perf_counter()
                engine = ENGINES[options.engine](options.path, options.threads)
                told = {"seconds": time.perf_counter() - began}
            else:
                told = answer(engine, request, options.vocab)
        except Exception as error:
            told = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(told), file=out, flush=True)


def import_everything(engine: str) -> None:
    """Loading a model is timed; importing libraries is not."""
    if engine.startswith("ours"):
        import jax

        import gptoss_edu  # noqa: F401

        jax.block_until_ready(jax.numpy.ones(8) + 1)
    if engine == "transformers":
        from transformers import GptOssForCausalLM, Mxfp4Config  # noqa: F401


if __name__ == "__main__":
    main()
