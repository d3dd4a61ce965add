"""The command line: `ask` one question, `chat`; `doctor` says what this machine can run, and `fit`
what another could; `convert` writes a checkpoint once more so that later starts are quick;
`verify` says whether a checkpoint is what it should be.

On a terminal everything the model writes is shown as it comes, each message under the label of its
channel, the analysis dimmed. In a pipe only the answer (the final channel) goes to standard output,
since a program that reads it wants nothing else; `--json` gives all of it as one object. Notes and
errors go to standard error, one line each; exit status 2 says that the command was wrong, 1 that it
could not be done.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import json
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import jax

from gptoss_edu import __version__
from gptoss_edu.chips import preflight
from gptoss_edu.chips.fit import CHIPS
from gptoss_edu.chips.precision import PRECISIONS as WIDTHS
from gptoss_edu.commands.doctor import describe, survey
from gptoss_edu.generation import Options, Stream, generate, stream
from gptoss_edu.harmony import EFFORTS, render
from gptoss_edu.parser import Piece
from gptoss_edu.reply import Reply, Stats
from gptoss_edu.weights import verify
from gptoss_edu.weights.checkpoint import DENSE, PRECISIONS, load_model

NAME = "gptoss_edu"
INTERRUPTED, BROKEN_PIPE = 130, 141  # what a shell reports for a program that the signal ended
CONVERT = "write a checkpoint as it lies in memory, once: later starts only map it (on a CPU)"
VERIFY = "is a checkpoint what it should be: every byte, every number, known answers"
EPILOG = """\
In a pipe only the answer is written; --json gives analysis and statistics as well.
NO_COLOR=1 turns colors off."""


class UsageError(Exception):
    """The command itself is wrong: exit status 2, as argparse has it."""


# ------------------------------------------------------------------------------------- arguments


def make_parser() -> argparse.ArgumentParser:
    """Commands and options; those of `generate` carry its names, with dashes."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {NAME}", description="GPT-OSS in pure JAX.", epilog=EPILOG
    )
    parser.add_argument("--version", action="version", version=f"gptoss-edu {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    ask = commands.add_parser("ask", help="answer one question", epilog=EPILOG)
    ask.add_argument("prompt", nargs="?", help="the question; `-` or none: read standard input")
    ask.add_argument("--tools", metavar="FILE", help="JSON file with a list of function schemas")
    ask.add_argument("--json", action="store_true", help="one JSON object, nothing else")
    chat = commands.add_parser("chat", help="talk, turn by turn", epilog="Type /help inside.")
    for command in (ask, chat):
        _add_model_options(command)
        _add_sampling_options(command)
    doctor = commands.add_parser("doctor", help="versions, memory, disk, and what can run here")
    doctor.add_argument("--json", action="store_true", help="one JSON object, nothing else")
    fit = commands.add_parser("fit", help="would the 20B or 120B run on a machine, and how fast")
    _add_fit_options(fit)
    check = commands.add_parser("verify", help=VERIFY, description=f"{VERIFY}.")
    _add_verify_options(check)
    convert = commands.add_parser("convert", help=CONVERT, description=f"{CONVERT}.")
    _add_convert_options(convert)
    runs = ((ask, run_ask), (chat, run_chat), (doctor, run_doctor), (fit, run_fit))
    for command, function in (*runs, (convert, run_convert), (check, run_verify)):
        command.set_defaults(run=function)
        command.add_argument(
            "--traceback", action="store_true", help="when it fails, show where in the code"
        )
    return parser


def _add_model_options(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("model and prompt")
    group.add_argument(
        "--model", metavar="PATH_OR_ID", help="a folder or a Hub id; default: the pocket model"
    )
    group.add_argument("--precision", choices=PRECISIONS, default="auto", help="default: auto")
    group.add_argument(
        "--dense", choices=DENSE, default="stored", help="int8: faster on a CPU, and less exact"
    )
    group.add_argument(
        "--effort", choices=EFFORTS, default="medium", help="reasoning effort, default: medium"
    )
    group.add_argument("--instructions", metavar="TEXT", help="what the developer demands")
    group.add_argument("--date", metavar="YYYY-MM-DD", help="tell the model the date")


def _add_fit_options(command: argparse.ArgumentParser) -> None:
    chips = ", ".join(("cpu", *CHIPS))
    command.add_argument("--chip", default="cpu", help=f"one of {chips}; default: cpu, this one")
    command.add_argument("--model", choices=preflight.MODELS, default="20b", help="default: 20b")
    command.add_argument(
        "--precision",
        choices=("auto", *WIDTHS),
        default="auto",
        help="default: the widest that fits",
    )
    command.add_argument("--context", type=int, default=4096, metavar="N", help="default: 4096")
    command.add_argument("--compile", action="store_true", help="ask the TPU compiler (minutes)")
    command.add_argument("--json", action="store_true", help="one JSON object, nothing else")


def _add_convert_options(command: argparse.ArgumentParser) -> None:
    def add(name: str, text: str) -> None:
        command.add_argument(name, metavar="DIR", help=text)

    command.add_argument("source", nargs="?", metavar="PATH_OR_ID", help="a folder or a Hub id")
    add("--out", "write here, not into the checkpoint's folder or the user's cache folder")
    command.add_argument(
        "--check", action="store_true", help="read every byte of a conversion and compare"
    )
    add("--to-orbax", "then write an Orbax checkpoint, too")
    add("--from-orbax", "convert what --to-orbax wrote, in place of PATH_OR_ID; needs --out")


def _add_verify_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "path", nargs="?", metavar="PATH_OR_ID", help="a folder or a Hub id; default: pocket"
    )

    def add(name: str, text: str) -> None:
        command.add_argument(name, action="store_true", help=text)

    add("--no-answers", "read every byte, but do not load the model and ask it")
    add("--record", "the checkpoint is good: write answers.json, to verify copies of it")
    add("--json", "one JSON object, nothing else")


def _add_sampling_options(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("answer")

    def add(name: str, kind: type, default: Any, text: str) -> None:
        group.add_argument(f"--{name}", type=kind, default=default, metavar="N", help=text)

    add("max-tokens", int, 1024, "most tokens to write, default: 1024")
    add("temperature", float, 0.0, "0: always the likeliest token (default); OpenAI recommends 1")
    add("top-k", int, None, "draw from the N likeliest tokens")
    add("top-p", float, 1.0, "draw from the likeliest tokens that reach probability N")
    add("min-p", float, 0.0, "draw from tokens at least N times as likely as the likeliest")
    add("repetition-penalty", float, 1.0, "above 1: avoid tokens that were there already")
    add("seed", int, 0, "another seed, another draw; default: 0")


def make_settings(args: argparse.Namespace) -> dict[str, Any]:
    """The keyword arguments of `generate`, checked. Raises UsageError."""
    names = ("max_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed")
    settings = {name: getattr(args, name) for name in names}
    settings |= {
        "reasoning_effort": args.effort,
        "instructions": args.instructions,
        "current_date": args.date,
        "tools": read_tools(args.tools) if getattr(args, "tools", None) else None,
    }
    try:
        Options(**settings).seeds(1)
    except ValueError as error:
        raise UsageError(error) from error
    return settings


def check_prompt(prompt: Any, settings: dict[str, Any]) -> None:
    """Render once before 13 GB are loaded, so that a wrong prompt is refused at once."""
    names = ("reasoning_effort", "instructions", "tools", "current_date")
    try:
        render(prompt, **{name: settings[name] for name in names})
    except ValueError as error:
        raise UsageError(error) from error


def read_tools(path: str) -> list[Any]:
    """The schemas in a JSON file; a single one may stand without a list."""
    try:
        with open(path, encoding="utf-8") as file:
            tools = json.load(file)
    except OSError as error:
        raise UsageError(f"--tools {path}: {error.strerror}; expected a JSON file") from error
    except ValueError as error:
        raise UsageError(
            f"--tools {path} is not JSON ({error}); expected a list of function schemas"
        ) from error
    return tools if isinstance(tools, list) else [tools]


def read_prompt(given: str | None) -> str:
    """The question from the command line, or everything on standard input."""
    if given not in (None, "-"):
        return given
    if given is None and sys.stdin.isatty():
        raise UsageError('found no question; expected ask "…", or text on standard input')
    return sys.stdin.read().rstrip("\r\n")


# ---------------------------------------------------------------------------------------- output


def has_color(out: Any) -> bool:
    """May colors be written there? Only to a terminal that knows them, unless NO_COLOR forbids."""
    return out.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


# Escape sequences in a model's answer would be commands to the terminal: show them instead.
HARMLESS = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"}
HARMLESS |= {0x7F: 0x2421} | dict.fromkeys(range(128, 160), 65533)
LABEL_COLORS = {"analysis": "1;35", "commentary": "1;33", "final": "1;32"}
DIM = "2"


class Terminal:
    """Shows every message under its label, as it comes."""

    def __init__(self, out: Any) -> None:
        self._out, self._color = out, has_color(out)
        self._label: str | None = None

    def styled(self, text: str, style: str | None) -> str:
        """The text between escape sequences. Each piece resets: what stops midway leaves no dim."""
        return f"\x1b[{style}m{text}\x1b[0m" if style and self._color and text else text

    def write(self, piece: Piece) -> None:
        """One piece of the answer."""
        label = piece.channel or "no channel"
        if piece.recipient:
            label += f" → {piece.recipient}"
        if label != self._label:
            start = "" if self._label is None else "\n\n"
            color = LABEL_COLORS.get(piece.channel or "final")
            self._print(start + self.styled(f"[{label.translate(HARMLESS)}]", color) + "\n")
            self._label = label
        style = DIM if piece.channel == "analysis" else None
        self._print(self.styled(piece.text.translate(HARMLESS), style))

    def end(self, reply: Reply) -> None:
        """The closing line: why it ended, if not by itself, and how fast it was."""
        facts = [note for note in [ending(reply)] if note]
        facts += describe_stats(reply.stats) if reply.stats else []
        start = "" if self._label is None else "\n\n"
        self._print(start + self.styled(" · ".join(facts), DIM) + "\n")

    def stop(self, note: str) -> None:
        """The answer was interrupted."""
        self._print("\n" + self.styled(note, DIM) + "\n")

    def _print(self, text: str) -> None:
        print(text, end="", file=self._out, flush=True)


class Pipe:
    """Writes the final channel as it comes, and tool calls as lines of JSON; nothing else."""

    def __init__(self, out: Any) -> None:
        self._out, self._written = out, False

    def write(self, piece: Piece) -> None:
        """One piece of the answer."""
        if piece.channel == "final" and piece.recipient is None:
            print(piece.text, end="", file=self._out, flush=True)
            self._written = True

    def end(self, reply: Reply) -> None:
        """What is only known at the end."""
        print("" if self._written else reply.final, file=self._out)
        for call in reply.tool_calls:
            print(json.dumps({"name": call.name, "arguments": call.arguments}), file=self._out)
        self._out.flush()
        if note := ending(reply):
            complain(note)

    def stop(self, note: str) -> None:
        """The answer was interrupted."""
        print(file=self._out, flush=True)
        complain(note)


def ending(reply: Reply) -> str | None:
    """Why an answer is not whole, or what it waits for; None after a proper end."""
    if reply.finish_reason == "length":
        return f"cut at {len(reply.token_ids)} tokens (--max-tokens, or the model's context)"
    if reply.finish_reason == "tool_call":
        names = ", ".join(call.name for call in reply.tool_calls)
        return f"the model waits for the result of {names or 'a call that names no function'}"
    return None


def describe_stats(stats: Stats) -> list[str]:
    """Numbers for a line that people read."""
    facts = [f"{stats.completion_tokens:,} tokens"]
    if stats.completion_tokens > 1:
        facts.append(f"{stats.decode_tokens_per_s:,.1f} tokens/s")
    facts.append(f"first token after {stats.time_to_first_token_s:.2f} s")
    if stats.compile_s >= 0.1:
        facts.append(f"compiling took {stats.compile_s:.1f} s")
    return facts


def as_json(reply: Reply) -> str:
    """What `ask --json` writes."""
    found = {
        "analysis": reply.analysis,
        "final": reply.final,
        "tool_calls": [dataclasses.asdict(call) for call in reply.tool_calls],
        "finish_reason": reply.finish_reason,
        "stats": dataclasses.asdict(reply.stats) if reply.stats else None,
    }
    return json.dumps(found, ensure_ascii=False, indent=2)


def complain(text: object) -> None:
    """A line on standard error."""
    print(f"{NAME}: {text}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def waiting(text: str) -> Iterator[None]:
    """Say what takes so long, on a terminal, and take it back when it is over."""
    shown = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    if shown:
        print(f"{text} …", end="", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        if shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


# -------------------------------------------------------------------------------------- commands


def load(args: argparse.Namespace) -> tuple[Any, Any]:
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
    with waiting(text), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        loaded = load_model(args.model, precision=args.precision, dense=args.dense)
    for warning in caught:
        complain(warning.message)
    return loaded


def show(pieces: Stream, screen: Terminal | Pipe, answer: list[str] | None = None) -> Reply:
    """Write an answer as it comes, and gather in `answer` what has come of its final channel."""
    with waiting("reading the prompt; the first time also compiles the model"):
        first = next(pieces, None)
    for piece in itertools.chain([first] if first else [], pieces):
        screen.write(piece)
        if answer is not None and piece.channel == "final":
            answer.append(piece.text)
    screen.end(pieces.reply)
    return pieces.reply


def make_screen() -> Terminal | Pipe:
    """For whoever reads standard output."""
    return Terminal(sys.stdout) if sys.stdout.isatty() else Pipe(sys.stdout)


def run_ask(args: argparse.Namespace) -> int:
    """`ask`: one question, one answer."""
    settings, prompt = make_settings(args), read_prompt(args.prompt)
    check_prompt(prompt, settings)
    model, params = load(args)
    if args.json:
        with waiting("answering"):
            reply = generate(model, params, prompt, **settings)
        print(as_json(reply), flush=True)
        return 0
    show(stream(model, params, prompt, **settings), make_screen())
    return 0


HELP = """\
/effort low|medium|high  think less or more from the next answer on
/reset                   forget everything said so far
/quit                    leave (so does Ctrl-D); Ctrl-C stops an answer, and only that"""


class Chat:
    """A conversation: what was said, and the cache that saves reading it again."""

    def __init__(self, model: Any, params: Any, settings: dict[str, Any]) -> None:
        self._model, self._params, self._settings = model, params, settings
        self._said: list[dict[str, Any]] = []
        self._cache: Any = None

    def answer(self, text: str) -> None:
        """One turn. When it is interrupted, what was shown of the answer stays part of the talk."""
        prompt = [*self._said, {"role": "user", "content": text}]
        check_prompt(prompt, self._settings)
        screen, shown = make_screen(), []
        pieces = stream(self._model, self._params, prompt, cache=self._cache, **self._settings)
        try:
            reply = show(pieces, screen, shown)
        except KeyboardInterrupt:
            screen.stop("stopped" if shown else "stopped; this question is forgotten")
            if shown:
                self._said = [*prompt, {"role": "assistant", "content": "".join(shown)}]
            return
        self._said, self._cache = prompt + reply.to_messages(), reply.cache

    def command(self, line: str) -> str:
        """Do what a line that begins with a slash says, and return what to tell."""
        name, *words = line[1:].split()
        if name == "help":
            return HELP
        if name == "reset":
            self._said, self._cache = [], None
            return "forgotten"
        if name == "effort" and words and words[0] in EFFORTS:
            self._settings = self._settings | {"reasoning_effort": words[0]}
        elif name != "effort" or words:
            return f"found {line!r}, expected one of\n{HELP}"
        return f"effort: {self._settings['reasoning_effort']}"


def run_chat(args: argparse.Namespace) -> int:
    """`chat`: turns until the end of input or /quit."""
    settings = make_settings(args)
    model, params = load(args)
    chat, on_terminal = Chat(model, params, settings), sys.stdout.isatty()
    if on_terminal:
        print(f"{args.model or 'the pocket model'} · /help for commands, Ctrl-D to leave")
    for line in read_lines():
        if line in ("/quit", "/exit"):
            break
        try:
            if line.startswith("/"):
                print(chat.command(line), file=sys.stdout if on_terminal else sys.stderr)
            else:
                chat.answer(line)
        except (UsageError, ValueError, MemoryError) as error:
            complain(f"{error}; /reset forgets the conversation")
        except KeyboardInterrupt:
            complain("stopped")
    return 0


def read_lines() -> Iterator[str]:
    """What the user types, without empty lines. Ctrl-C at the prompt only clears the line."""
    typed = sys.stdin.isatty()
    if typed and sys.stdout.isatty():
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  (gives `input` arrow keys and a history)
    while True:
        try:
            if typed and sys.stdout.isatty():
                print()
                line = input("> ")
            else:
                line = sys.stdin.readline()
                if not line:
                    return
                if sys.stdout.isatty():
                    print(f"\n> {line.rstrip()}")
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print()
            continue
        if line.strip():
            yield line.strip()


def run_doctor(args: argparse.Namespace) -> int:
    """`doctor`: facts about this machine. Nothing is downloaded or loaded."""
    found = survey()
    print(json.dumps(found, ensure_ascii=False, indent=2) if args.json else describe(found))
    return 0


def run_fit(args: argparse.Namespace) -> int:
    """`fit`: a ledger before anything is allocated; status 1 where it does not fit."""
    with waiting("asking the TPU compiler") if args.compile else contextlib.nullcontext():
        found = preflight.preflight(
            args.chip, args.model, args.precision, args.context, ask_compiler=args.compile
        )
    print(json.dumps(found, indent=2) if args.json else preflight.describe(found))
    return 0 if found["fits"] else 1


def run_convert(args: argparse.Namespace) -> int:
    """`convert`: write a conversion, go on with one that was stopped, or check one."""
    if (args.source is None) == (args.from_orbax is None):
        raise UsageError("expected either PATH_OR_ID or --from-orbax DIR")
    if args.from_orbax is not None and (args.out is None or args.check):
        raise UsageError("--from-orbax DIR needs --out DIR, and goes without --check")
    from gptoss_edu.weights import convert, mapped, orbax

    if args.check:
        folder = mapped.existing_conversion(convert.find_folder(args.source))
        manifest = mapped.check_conversion(folder, every_byte=True)
        print(f"{folder}: {len(manifest['files'])} files, every byte as it was written")
        return 0
    try:
        if args.from_orbax is not None:
            folder = orbax.from_orbax(args.from_orbax, args.out, note=complain)
        elif args.to_orbax and mapped.is_conversion(convert.find_folder(args.source)):
            folder = convert.find_folder(args.source)
        else:
            folder = convert.convert(args.source, args.out, note=complain)
        print(folder)
        if args.to_orbax is not None:
            print(orbax.to_orbax(folder, args.to_orbax))
    except KeyboardInterrupt:
        complain("stopped; files that are finished are kept, and the same command goes on")
        return INTERRUPTED
    return 0


def run_verify(args: argparse.Namespace) -> int:
    """`verify`: a table of what passed, failed, could not be checked; 1 if one failed."""
    if args.record:
        print(f"wrote {verify.record(args.path)}")
        return 0
    report = verify.verify(args.path, answers=not args.no_answers)
    found = verify.as_dict(report)
    print(json.dumps(found, ensure_ascii=False, indent=2) if args.json else verify.describe(report))
    return 0 if found["passed"] else 1


# ------------------------------------------------------------------------------------------ main


def be_quiet() -> None:
    """Standard error is for this program's user: no greetings from the libraries underneath."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for name in ("jax", "jax._src.xla_bridge", "absl", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit status. What can be foreseen ends in a line, not a traceback.

    Raises SystemExit where argparse does: after --help and --version, and for unknown options.
    """
    args = make_parser().parse_args(argv)
    be_quiet()
    for text in (sys.stdin, sys.stdout, sys.stderr):
        if hasattr(text, "reconfigure"):  # a letter that cannot be shown is no reason to stop
            text.reconfigure(errors="surrogateescape" if text is sys.stdin else "replace")
    try:
        status = args.run(args)
        sys.stdout.flush()  # a reader who has left is noticed here, not when Python ends
        return status
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Python will flush standard output once more when it ends: let that go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except (UsageError, ValueError, OSError, ImportError, MemoryError, RuntimeError) as error:
        if args.traceback:
            traceback.print_exc()
        complain(explain(error))
        return 2 if isinstance(error, UsageError) else 1


def explain(error: BaseException) -> str:
    """One message for people. Errors of this package already are; others get their kind's name."""
    text = str(error).strip()
    if isinstance(error, jax.errors.JaxRuntimeError):
        if "RESOURCE_EXHAUSTED" in text:
            text = f"the device ran out of memory; a shorter prompt needs less ({text})"
        return f"JAX failed: {text.splitlines()[0]}"
    if isinstance(error, MemoryError) and not text:
        return "this machine ran out of memory; free some, or choose a smaller --precision"
    return text or type(error).__name__
