"""What the TPU compiler says of the product's programs, on chips that are not there.

    python -m benchmarks.tpu --out gptoss_edu/data/tpu.json      # chapter 07 shows it
    python -m benchmarks.tpu --chips v5e-1 --programs decode --layers 2

Needs libtpu (`pip install 'gptoss-edu[tpu]'`) and a quarter of an hour of two quiet cores; what is
done is written after every program. Nothing runs on a TPU: programs are compiled, and the bytes
that they hold and read are put beside our own count.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import time
from pathlib import Path

import jax

from gptoss_edu.chips import fit, precision, tpu
from gptoss_edu.chips.preflight import MODELS
from gptoss_edu.weights.mapped import replace_json

# Chip, model, precision; the last one is there to be refused.
PROGRAMS = (
    ("v5e-1", "20b", "mxfp4"),
    ("v6e-1", "20b", "fp8"),
    ("v6e-1", "20b", "mxfp4"),
    ("v5e-8", "20b", "bf16"),
    ("v2-8", "20b", "bf16"),
    ("v6e-8", "120b", "mxfp4"),
    ("v5e-1", "20b", "fp8"),
)
COMPILE = {"decode": tpu.compile_decode, "prefill": tpu.compile_prefill}


def report(
    chip: str, model: str, name: str, program: str, context: int, layers: int | None = None
) -> dict[str, object]:
    """One program: what it holds and reads, by the compiler's count and by ours, per device."""
    machine, config = fit.CHIPS[chip], MODELS[model]
    if layers is not None:
        types = config.layer_types[:layers]
        config = dataclasses.replace(config, num_layers=layers, layer_types=types)
    began = time.perf_counter()
    found = COMPILE[program](machine, config, name, context)._asdict()
    ours = precision.weight_bytes(config, name) + precision.cache_bytes(config, context)
    found["messages"] = {kind: dataclasses.asdict(each) for kind, each in found["messages"].items()}
    ideal = fit.read_bytes(config, name, context) if program == "decode" else ours
    return {
        "chip": chip,
        "model": model,
        "program": program,
        "layers": config.num_layers,
        "precision": name,
        "context": context,
        **found,
        "available_bytes": machine.memory_bytes,
        "ledger_bytes": round(ours / machine.devices),
        "ideal_read_bytes": round(ideal / machine.devices),  # a chunk of a prompt needs all experts
        "seconds": round(time.perf_counter() - began),
    }


def main() -> None:
    """Compile, print, and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tpu", description=__doc__)
    parser.add_argument("--layers", type=int, help="compile only the first layers")
    parser.add_argument("--context", type=int, default=32768)
    parser.add_argument("--chips", nargs="+", choices=fit.CHIPS, default=list(fit.CHIPS))
    parser.add_argument("--programs", nargs="+", choices=COMPILE, default=list(COMPILE))
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args()
    found = {
        "jax": jax.__version__,
        "libtpu": importlib.metadata.version("libtpu"),
        "reports": [report("v5e-1", "20b", "mxfp4", "decode", 4096, layers=2)],
        "programs": [],
    }
    for chip, model, name in PROGRAMS:
        for program in options.programs if chip in options.chips else ():
            each = report(chip, model, name, program, options.context, options.layers)
            print(json.dumps(each), flush=True)
            found["programs"].append(each)
            if options.out:
                replace_json(options.out, found)


if __name__ == "__main__":
    main()
