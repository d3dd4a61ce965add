"""The command line: which commands there are, and what becomes of their errors.

A command is a file of this room with HELP, `add_flags` and `run`. What it cannot do ends in one
line on standard error; exit status 2 says that the command was wrong, 1 that it could not be done,
70 that this program has a bug. `--traceback` shows where in the code.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import io
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

import jax

from gptoss_edu import __version__
from gptoss_edu.commands import ask, chat, convert, doctor, fit, verify
from gptoss_edu.commands.terminal import INTERRUPTED, NAME, UsageError, complain
from gptoss_edu.weights.files import visible

COMMANDS = {
    "ask": ask, "chat": chat, "doctor": doctor, "fit": fit, "verify": verify, "convert": convert,
}  # fmt: skip
BROKEN_PIPE, BUG = 141, 70  # what a shell reports for the signal; sysexits.h's EX_SOFTWARE
FORESEEN = (UsageError, ValueError, OSError, ImportError, MemoryError, RuntimeError)
UNFORESEEN = (RecursionError, NotImplementedError)  # kinds of RuntimeError


class Parser(argparse.ArgumentParser):
    """Says what was wrong without sending it to the terminal as commands."""

    def error(self, message: str) -> NoReturn:
        """Exit status 2."""
        super().error(visible(message))


def make_parser() -> argparse.ArgumentParser:
    """All commands with their flags."""
    parser = Parser(prog=f"python -m {NAME}", description="GPT-OSS in pure JAX.", epilog=ask.EPILOG)
    parser.add_argument("--version", action="version", version=f"gptoss-edu {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, module in COMMANDS.items():
        description, epilog = f"{module.HELP}.", vars(module).get("EPILOG")
        command = commands.add_parser(
            name, help=module.HELP, description=description, epilog=epilog
        )
        module.add_flags(command)
        command.set_defaults(run=module.run, parser=command)
        command.add_argument(
            "--traceback", action="store_true", help="when it fails, show where in the code"
        )
    return parser


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Arguments as they were given. A flag that does not exist is answered with the nearest."""
    args, unknown = make_parser().parse_known_args(argv)
    if unknown:
        flags = [flag for action in args.parser._actions for flag in action.option_strings]
        near = difflib.get_close_matches(unknown[0].partition("=")[0], flags, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]}?" if near else ""
        args.parser.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
    return args


def be_quiet() -> None:
    """Standard error is for this program's user: no greetings from the libraries underneath."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for name in ("jax", "jax._src.xla_bridge", "absl", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def open_streams() -> None:
    """Lead closed streams (`<&-`) nowhere, and let no letter that cannot be shown stop the others.

    Otherwise the next file to be opened would take the place of a closed stream, and what libraries
    write to number 2 would end in it.
    """
    for name, mode, errors in (
        ("stdin", "r", "surrogateescape"), ("stdout", "w", "replace"), ("stderr", "w", "replace")
    ):  # fmt: skip
        text = getattr(sys, name) or open(os.devnull, mode, encoding="utf-8")
        setattr(sys, name, text)
        if isinstance(text, io.TextIOWrapper):
            text.reconfigure(errors=errors)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit status. What goes wrong ends in a line, not a traceback.

    Raises SystemExit where argparse does: after --help and --version, and for unknown flags.
    """
    closed = sys.stdout is None
    open_streams()
    args = parse(argv)
    be_quiet()
    try:
        if closed:
            raise OSError("standard output is closed, expected a terminal, a file or a pipe")
        status = int(args.run(args))
        sys.stdout.flush()  # a reader who has left is noticed here, not when Python ends
        return status
    except SystemExit:
        raise
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Python will flush standard output once more when it ends: let that go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except BaseException as error:  # also those that are no Exception: panics of Rust libraries
        with contextlib.suppress(OSError):  # standard error may be full, too
            if args.traceback:
                traceback.print_exc()
            complain(visible(explain(error), 4000))
        return 2 if isinstance(error, UsageError) else 1 if foreseen(error) else BUG


def foreseen(error: BaseException) -> bool:
    """Is it one that says what is wrong with the world, and not with this program?"""
    return isinstance(error, FORESEEN) and not isinstance(error, UNFORESEEN)


def explain(error: BaseException) -> str:
    """One message for people: what was found, what was expected, what to do. Errors of this package
    are such messages already.
    """
    text = str(error).strip()
    if isinstance(error, jax.errors.JaxRuntimeError):
        if "RESOURCE_EXHAUSTED" in text:
            text = f"the device ran out of memory; a shorter prompt needs less ({text})"
        return f"JAX failed: {text.partition(chr(10))[0]}"
    if isinstance(error, MemoryError) and not text:
        return "this machine ran out of memory; free some, or choose a smaller --precision"
    if not foreseen(error):
        what = " ".join(f"{type(error).__name__}: {text}".split())
        return (
            f"found a bug in this program ({what}), expected none; please report it, with what"
            " the same command says with --traceback"
        )
    return text or type(error).__name__
