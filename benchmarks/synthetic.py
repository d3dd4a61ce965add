"""A checkpoint of the exact shape and layout of GPT-OSS, with random weights.

Speed, memory and loading do not depend on what the weights say, so all of them can be measured
without the 13.8 GB of the published ones. The bits are drawn so that a forward pass stays in a
realistic range: every matrix keeps the size of what it multiplies, the router prefers some experts
to others, and logits spread by 2.5. What such a model says is noise.

    python -m benchmarks.synthetic --layers 24 --out DIR     # the whole 20B, 13.8 GB
    python -m benchmarks.synthetic --layers 4 --out DIR      # a slice, 4.2 GB

The same seed gives the same bytes, and a slice has the first layers of the whole. The file
synthetic.json beside the weights tells such a checkpoint from a real one.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import math
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from statistics import NormalDist
from typing import Any

import ml_dtypes
import numpy as np
from tqdm import tqdm

from gptoss_edu.config import GPT_OSS_20B, GPT_OSS_120B, TINY, Config
from gptoss_edu.mxfp4 import VALUES
from gptoss_edu.weights.checkpoint import DRAFT, SYNTHETIC, replacing, side_files
from gptoss_edu.weights.layout import HF_PACKED, HF_PLAIN, places, shape_on_disk
from gptoss_edu.weights.published import arranged, write_as_published
from gptoss_edu.weights.writing import Pending, write_json, write_shards

MODELS = {"20b": GPT_OSS_20B, "120b": GPT_OSS_120B, "tiny": TINY}
PIECE = 1 << 21  # bytes drawn at a time: they stay in the cache until they are written
SHARD_BYTES = 5_000_000_000
LOGIT_SPREAD = 2.5


def spread(name: str, sizes: dict[str, int]) -> tuple[float, float]:
    """(mean, standard deviation) of a field's weights.

    One over the root of the input size keeps the size of the input: a residual stream of 1 grows by
    what 24 layers add, not by powers.
    """
    if name == "norm_D":
        return 1.0, 0.1
    if name.startswith("b_"):
        return 0.0, 0.02
    if name in ("embedding_VD", "sinks_N"):
        return 0.0, 1.0
    inputs = {"w_o_NHD": sizes["N"] * sizes["H"], "w_down_EFD": sizes["F"]}
    std = inputs.get(name, sizes["D"]) ** -0.5
    return 0.0, std * (LOGIT_SPREAD if name == "unembedding_DV" else 1)


@functools.lru_cache
def normal_table(mean: float, std: float) -> np.ndarray:
    """The 65,536 equally likely values of a normal distribution in bf16: 16 bits draw one."""
    draw = NormalDist(mean, std).inv_cdf
    values = np.array([draw((i + 0.5) / 65536) for i in range(65536)])
    return values.astype(ml_dtypes.bfloat16)


@functools.lru_cache
def scale_table(std: float) -> np.ndarray:
    """Three neighboring scale bytes, so that nibbles drawn evenly have the standard deviation."""
    even = np.sqrt(np.mean(np.square(VALUES, dtype=np.float64)))
    three = math.sqrt((0.25 + 1 + 4) / 3)
    middle = round(127 + math.log2(std / (even * three)))
    return (middle - 1 + np.arange(256) % 3).astype(np.uint8)


def draw(seed: int, name: str, count: int, table: np.ndarray | None, bar: Any) -> Iterator[Any]:
    """`count` items in pieces: entries of the table drawn evenly, or without one random bytes.

    Each tensor has a stream of its own, so that a slice agrees with the whole.
    """
    bits = np.random.SFC64(np.random.SeedSequence([seed, zlib.crc32(name.encode())]))
    item = 1 if table is None else table.itemsize
    for begin in range(0, count * item, PIECE):
        size = min(PIECE, count * item - begin)
        raw = bits.random_raw(-(-size // 8)).view(np.uint8)[:size]
        index = raw.view(f"u{item}")
        yield raw if table is None else np.take(table, index, mode="wrap")
        bar.update(size)


def pending(config: Config, experts: str, seed: int, bar: Any) -> dict[str, Pending]:
    """Every tensor of the checkpoint, ready to be drawn while it is written."""
    tensors = {}
    for layer in (None, *range(config.num_layers)):
        for field, entry in places(HF_PACKED if experts == "packed" else HF_PLAIN, layer):
            shape = shape_on_disk(field, entry, config)
            mean, std = spread(field.name, config.sizes)
            table = scale_table(std) if field.half == "scales" else normal_table(mean, std)
            table = None if field.half == "blocks" else table
            values = functools.partial(draw, seed, entry.name, math.prod(shape), table, bar)
            dtype = "U8" if field.half else "BF16"
            tensors[entry.name] = Pending(dtype, shape, values)
    return tensors


def write_synthetic(
    folder: str | Path, config: Config, *, seed: int = 0, experts: str = "packed"
) -> int:
    """Write the checkpoint; return its bytes.

    With the 20B's 24 layers packed, each tensor lies where it lies in the published files, which
    then have the published sizes. Anything else is cut into two shards or more.

    All or nothing, as `save_checkpoint` does it: a synthetic checkpoint that was there is replaced.
    Raises FileExistsError for anything else that was there, OSError if the disk is too full or
    another process writes the same checkpoint.
    """
    folder = Path(folder).expanduser().resolve()
    check_free(folder)
    bar = tqdm(unit="B", unit_scale=True, desc=f"writing {folder.name}", delay=1, disable=None)
    tensors = pending(config, experts, seed, bar)
    total = sum(tensor.num_bytes for tensor in tensors.values())
    bar.reset(total)
    about = {
        "note": "random weights, written by benchmarks/synthetic.py: what this model says is noise",
        "seed": seed,
        "experts": experts,
    }
    files = side_files(config, None, dtype="bfloat16", packed=experts == "packed")
    with bar, replacing(folder, total) as (draft, stem):
        if arranged(tensors):
            write_as_published(draft, tensors, stem)
        else:
            write_shards(draft, tensors, min(SHARD_BYTES, -(-total // 2)), first=0, stem=stem)
        for name, content in (files | {SYNTHETIC: about}).items():
            write_json(draft / name, content)
    return total


def check_free(folder: Path) -> None:
    """Refuse to replace anything but an empty folder or a synthetic checkpoint."""
    if not folder.exists() or (folder / SYNTHETIC).is_file():
        return
    if not folder.is_dir() or any(not path.name.startswith(DRAFT) for path in folder.iterdir()):
        raise FileExistsError(
            f"{folder} is there and is no synthetic checkpoint (it holds no {SYNTHETIC}), expected"
            " a new or empty folder, or one written by this program; choose another name"
        )


def main() -> int:
    """Write one checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--model", choices=MODELS, default="20b", help="default: 20b")
    parser.add_argument("--layers", type=int, help="default: all of the model's")
    parser.add_argument("--vocab", type=int, help="rows of the embedding; default: the model's")
    parser.add_argument("--experts", choices=("packed", "plain"), default="packed")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    config = MODELS[options.model]
    try:
        config = dataclasses.replace(
            config,
            num_layers=config.num_layers if options.layers is None else options.layers,
            vocab_size=config.vocab_size if options.vocab is None else options.vocab,
            layer_types=(),
        )
        start = time.perf_counter()
        total = write_synthetic(options.out, config, seed=options.seed, experts=options.experts)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    seconds = time.perf_counter() - start
    rate = total / seconds / 1e6
    print(f"{options.out}: {total / 1e9:.2f} GB in {seconds:.1f} s ({rate:.0f} MB/s), random")
    return 0


if __name__ == "__main__":
    sys.exit(main())
