"""`ask`: one question, one answer."""

from __future__ import annotations

import argparse
import sys

from gptoss_edu.commands.flags import (
    add_answer_flags,
    add_model_flags,
    check_prompt,
    load,
    read_options,
)
from gptoss_edu.commands.terminal import (
    UsageError,
    as_json,
    complain,
    ending,
    make_screen,
    show,
    status,
    waiting,
)
from gptoss_edu.generation import generate, stream
from gptoss_edu.options import Options

HELP = "answer one question"
EPILOG = """\
In a pipe only the answer is written; --json gives analysis and statistics as well.
Exit status 1: there is no answer; standard error says why.
NO_COLOR=1 turns colors off."""


def add_flags(command: argparse.ArgumentParser) -> None:
    """The question, and what `chat` takes, too."""
    command.add_argument("prompt", nargs="?", help="the question; `-` or none: read standard input")
    command.add_argument(
        "--tools", metavar="FILE", help="JSON file with a list of function schemas"
    )
    command.add_argument("--json", action="store_true", help="one JSON object, nothing else")
    add_model_flags(command)
    add_answer_flags(command)


def run(args: argparse.Namespace) -> int:
    """Answer; what is wrong with the question is said before a model is loaded."""
    options, prompt = read_options(args), read_prompt(args.prompt)
    check_prompt(prompt, Options(**options))
    model, params = load(args)
    if args.json:
        with waiting("answering"):
            reply = generate(model, params, prompt, **options)
        print(as_json(reply), flush=True)
        if status(reply):
            complain(ending(reply))
        return status(reply)
    return status(show(stream(model, params, prompt, **options), make_screen()))


def read_prompt(given: str | None) -> str:
    """The question from the command line, or everything on standard input."""
    if given is not None and given != "-":
        return given
    if given is None and sys.stdin.isatty():
        raise UsageError('found no question; expected ask "…", or text on standard input')
    return sys.stdin.read().rstrip("\r\n")
