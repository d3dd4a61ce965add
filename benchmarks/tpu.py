"""What the TPU compiler says of the decoding step, on chips that are not there.

    python -m benchmarks.tpu --layers 2 --out benchmarks/tpu.json

Needs libtpu (`pip install 'gptoss-edu[tpu]'`). Two layers at full width take half a minute on two
quiet cores. Nothing runs on a TPU: programs are compiled, and the compiler's own count of bytes is
put beside ours.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import os
import time
from pathlib import Path

import jax

from gptoss_edu import fit, precision, tpu
from gptoss_edu.config import GPT_OSS_20B


def report(chip: str, layers: int, name: str, context: int) -> dict[str, object]:
    """One program: its size by the compiler's count and by ours."""
    types = GPT_OSS_20B.layer_types[:layers]
    config = dataclasses.replace(GPT_OSS_20B, num_layers=layers, layer_types=types)
    began = time.perf_counter()
    found = tpu.compile_decode(fit.CHIPS[chip], config, name, context)
    ours = precision.weight_bytes(config, name) + precision.cache_bytes(config, context)
    return {
        "chip": chip,
        "layers": layers,
        "precision": name,
        "context": context,
        **found._asdict(),
        "ledger_bytes": ours,
        "seconds": round(time.perf_counter() - began),
    }


def main() -> None:
    """Compile, print, and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tpu", description=__doc__)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--context", type=int, default=4096)
    parser.add_argument("--chips", nargs="+", default=["v5e-1"])
    parser.add_argument("--precisions", nargs="+", default=["mxfp4"])
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args()
    reports = [
        report(chip, options.layers, name, options.context)
        for chip in options.chips
        for name in options.precisions
    ]
    found = {
        "jax": jax.__version__,
        "libtpu": importlib.metadata.version("libtpu"),
        "reports": reports,
    }
    text = json.dumps(found, indent=1) + "\n"
    print(text)
    if options.out:
        partial = options.out.with_name(f".{options.out.name}.partial")
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, options.out)


if __name__ == "__main__":
    main()
