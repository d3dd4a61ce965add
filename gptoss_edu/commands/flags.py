"""What `ask` and `chat` are told: which model to load, and the options of `generate`, whose flags
are made from the fields of `Options`.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import typing
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from gptoss_edu.commands.terminal import UsageError, complain, waiting
from gptoss_edu.cpu.native import BACKENDS
from gptoss_edu.harmony import Prompt
from gptoss_edu.model import Model, Params
from gptoss_edu.options import Options
from gptoss_edu.weights.checkpoint import DENSE, PRECISIONS, load_model
from gptoss_edu.weights.files import read_json


def add_model_flags(command: argparse.ArgumentParser) -> None:
    """`--model` and how its weights are kept and multiplied."""
    group = command.add_argument_group("model")
    group.add_argument(
        "--model", metavar="PATH_OR_ID", help="a folder or a Hub id; default: the pocket model"
    )
    group.add_argument(
        "--revision", metavar="REV", help="a commit, tag or branch on the Hub; default: the newest"
    )
    group.add_argument("--precision", choices=PRECISIONS, default="auto", help="default: auto")
    group.add_argument(
        "--dense", choices=DENSE, default="stored", help="int8: faster on a CPU, and less exact"
    )
    group.add_argument(
        "--backend", choices=BACKENDS, default="auto",
        help="who multiplies: jax, or cpu, kernels in C++; default: auto",
    )  # fmt: skip


def add_answer_flags(command: argparse.ArgumentParser) -> None:
    """A flag for each field of `Options` that can be typed."""
    group = command.add_argument_group("answer")
    types = typing.get_type_hints(Options)
    for field in dataclasses.fields(Options):
        flag = field.metadata.get("flag", field.name)
        if flag is None:
            continue
        kind = (typing.get_args(types[field.name]) or (types[field.name],))[0]
        choices = field.metadata.get("choices")
        default = "" if field.default is None else f" (default: {field.default})"
        group.add_argument(
            "--" + flag.replace("_", "-"), dest=field.name, type=kind, default=field.default,
            choices=choices, metavar=None if choices else "TEXT" if kind is str else "N",
            help=field.metadata["help"] + default,
        )  # fmt: skip


def read_options(args: argparse.Namespace) -> dict[str, Any]:
    """The options of `generate` that were given, checked. Raises UsageError."""
    names = [field.name for field in dataclasses.fields(Options)]
    found = {name: vars(args)[name] for name in names if name != "tools" and name in vars(args)}
    if vars(args).get("tools") is not None:
        found["tools"] = read_tools(args.tools)
    try:
        Options(**found).seeds(1)
    except ValueError as error:
        raise UsageError(error) from error
    return found


def read_tools(path: str) -> list[Any]:
    """The schemas in a JSON file; a single one may stand without a list."""
    try:
        tools = read_json(Path(path))
    except (OSError, ValueError) as error:
        raise UsageError(f"--tools: {error}; expected a list of function schemas") from error
    return tools if isinstance(tools, list) else [tools]


def check_prompt(prompt: Prompt, options: Options) -> None:
    """Render once before 13 GB are loaded, so that a wrong prompt is refused at once."""
    try:
        options.prompt_ids(prompt)
    except ValueError as error:
        raise UsageError(error) from error


def load(args: argparse.Namespace) -> tuple[Model, Params]:
    """The model that was asked for."""
    try:
        jax.devices()
    except Exception as error:  # JAX fails in several ways, one of them a bare assertion
        asked = os.environ.get("JAX_PLATFORMS")
        raise RuntimeError(
            f"JAX found no device to run on, expected at least a CPU (JAX_PLATFORMS is {asked!r};"
            f" unset it, or install what it names): {str(error) or type(error).__name__}"
        ) from error
    text = f"loading {args.model or 'the pocket model'}"
    with warnings_as_notes(), waiting(text):
        return load_model(
            args.model,
            precision=args.precision,
            dense=args.dense,
            backend=args.backend,
            revision=args.revision,
            needs_text=True,
        )


@contextlib.contextmanager
def warnings_as_notes() -> Iterator[None]:
    """Say in a line what Python would show with the place in the code, once it is over."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            yield
        finally:
            for text in dict.fromkeys(str(warning.message) for warning in caught):
                complain(text)
