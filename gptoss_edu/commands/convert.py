"""`convert`: write a checkpoint as it lies in memory, once; to Orbax and from it."""

from __future__ import annotations

import argparse

from gptoss_edu.commands.flags import warnings_as_notes
from gptoss_edu.commands.terminal import INTERRUPTED, UsageError, complain
from gptoss_edu.weights import convert, mapped, orbax
from gptoss_edu.weights.folders import find_folder

HELP = "write a checkpoint as it lies in memory, once: later starts only map it (on a CPU)"


def add_flags(command: argparse.ArgumentParser) -> None:
    """From where, and to where."""

    def add(name: str, text: str) -> None:
        command.add_argument(name, metavar="DIR", help=text)

    command.add_argument("source", nargs="?", metavar="PATH_OR_ID", help="a folder or a Hub id")
    add("--out", "write here, not into the checkpoint's folder or the user's cache folder")
    command.add_argument(
        "--check", action="store_true", help="read every byte of a conversion and compare"
    )
    add("--to-orbax", "then write an Orbax checkpoint, too")
    add("--from-orbax", "convert what --to-orbax wrote, in place of PATH_OR_ID; needs --out")


def run(args: argparse.Namespace) -> int:
    """Write a conversion, or check one."""
    if (args.source is None) == (args.from_orbax is None):
        raise UsageError("expected either PATH_OR_ID or --from-orbax DIR")
    if args.from_orbax is not None and (args.out is None or args.check):
        raise UsageError("--from-orbax DIR needs --out DIR, and goes without --check")
    if args.check:
        folder = mapped.existing_conversion(find_folder(args.source))
        manifest = mapped.check_conversion(folder, every_byte=True)
        print(f"{folder}: {len(manifest['files'])} files, every byte as it was written")
        return 0
    try:
        with warnings_as_notes():
            if args.from_orbax is not None:
                folder = orbax.from_orbax(args.from_orbax, args.out, note=complain)
            elif args.to_orbax and mapped.is_conversion(find_folder(args.source)):
                folder = find_folder(args.source)
            else:
                folder = convert.convert(args.source, args.out, note=complain)
            print(folder)
            if args.to_orbax is not None:
                print(orbax.to_orbax(folder, args.to_orbax))
    except KeyboardInterrupt:
        complain("stopped; nothing of it is kept, and an earlier conversion is as it was")
        return INTERRUPTED
    return 0
