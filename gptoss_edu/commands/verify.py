"""`verify`: is a checkpoint what it should be? A table of what passed, failed, was not checked."""

from __future__ import annotations

import argparse
import json

from gptoss_edu.commands.flags import warnings_as_notes
from gptoss_edu.weights import verify

HELP = "is a checkpoint what it should be: every byte, every number, known answers"


def add_flags(command: argparse.ArgumentParser) -> None:
    """What to look at, and how closely."""
    command.add_argument(
        "path", nargs="?", metavar="PATH_OR_ID", help="a folder or a Hub id; default: pocket"
    )

    def add(name: str, text: str) -> None:
        command.add_argument(name, action="store_true", help=text)

    add("--no-answers", "read every byte, but do not load the model and ask it")
    add("--record", "the checkpoint is good: write answers.json, to verify copies of it")
    add("--json", "one JSON object, nothing else")


def run(args: argparse.Namespace) -> int:
    """Status 1 if a check failed."""
    with warnings_as_notes():
        if args.record:
            print(f"wrote {verify.record(args.path)}")
            return 0
        report = verify.verify(args.path, answers=not args.no_answers)
    found = verify.as_dict(report)
    print(json.dumps(found, ensure_ascii=False, indent=2) if args.json else verify.describe(report))
    return 0 if found["passed"] else 1
