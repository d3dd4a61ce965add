"""`fit`: would the 20B or 120B run on a machine, and how fast? A ledger, before anything is
allocated.
"""

from __future__ import annotations

import argparse
import contextlib
import json

from gptoss_edu.chips import preflight
from gptoss_edu.chips.fit import CHIPS
from gptoss_edu.chips.precision import PRECISIONS
from gptoss_edu.commands.terminal import waiting

HELP = "would the 20B or 120B run on a machine, and how fast"


def add_flags(command: argparse.ArgumentParser) -> None:
    """The machine, the model, and how much it shall hold."""
    chips = ", ".join(("cpu", *CHIPS))
    command.add_argument("--chip", default="cpu", help=f"one of {chips}; default: cpu, this one")
    command.add_argument("--model", choices=preflight.MODELS, default="20b", help="default: 20b")
    command.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="auto",
        help="default: the widest that fits",
    )
    command.add_argument("--context", type=int, default=4096, metavar="N", help="default: 4096")
    command.add_argument("--compile", action="store_true", help="ask the TPU compiler (minutes)")
    command.add_argument("--json", action="store_true", help="one JSON object, nothing else")


def run(args: argparse.Namespace) -> int:
    """Status 1 where it does not fit."""
    with waiting("asking the TPU compiler") if args.compile else contextlib.nullcontext():
        found = preflight.preflight(
            args.chip, args.model, args.precision, args.context, ask_compiler=args.compile
        )
    print(json.dumps(found, indent=2) if args.json else preflight.describe(found))
    return 0 if found["fits"] else 1
