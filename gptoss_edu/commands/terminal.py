"""How an answer is shown: on a terminal, in a pipe, as JSON; and notes beside it.

On a terminal everything the model writes is shown as it comes, each message under the label of its
channel, the analysis dimmed. In a pipe only the answer (the final channel) goes to standard output,
since a program that reads it wants nothing else. Notes and errors go to standard error, one line
each.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import sys
from collections.abc import Iterator
from typing import TextIO

from gptoss_edu.generation import Stream
from gptoss_edu.parser import Piece, is_spoken, meant_channel
from gptoss_edu.reply import Reply, Stats

NAME = "gptoss_edu"
INTERRUPTED = 130  # what a shell reports for a program that Ctrl-C ended


class UsageError(Exception):
    """The command itself is wrong: exit status 2, as argparse has it."""


def has_color(out: TextIO) -> bool:
    """May colors be written there? Only to a terminal that knows them, unless NO_COLOR forbids."""
    return out.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


# Escape sequences in a model's answer would be commands to the terminal: show them instead.
HARMLESS = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"}
HARMLESS |= {0x7F: 0x2421} | dict.fromkeys(range(128, 160), 65533)
LABEL_COLORS = {"analysis": "1;35", "commentary": "1;33", "final": "1;32"}
DIM = "2"


class Terminal:
    """Shows every message under its label, as it comes; `said` is what was final so far."""

    def __init__(self, out: TextIO) -> None:
        self._out, self._color = out, has_color(out)
        self._label: str | None = None
        self.said: list[str] = []

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
            color = LABEL_COLORS.get(meant_channel(piece) or piece.channel or "final")
            self._print(start + self.styled(f"[{label.translate(HARMLESS)}]", color) + "\n")
            self._label = label
        if is_answer(piece):
            self.said.append(piece.text)
        style = DIM if meant_channel(piece) == "analysis" else None
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
    """Writes the final channel (`said`) as it comes, tool calls as lines of JSON, and no more; an
    answer on another channel when it is known to be one, at the end.
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self.said: list[str] = []

    def write(self, piece: Piece) -> None:
        """One piece of the answer."""
        if is_answer(piece):
            print(piece.text, end="", file=self._out, flush=True)
            self.said.append(piece.text)

    def end(self, reply: Reply) -> None:
        """What is only known at the end."""
        if reply.final:
            print("" if self.said else reply.final, file=self._out)
        for call in reply.tool_calls:
            print(json.dumps({"name": call.name, "arguments": call.arguments}), file=self._out)
        self._out.flush()
        if note := ending(reply):
            complain(note)

    def stop(self, note: str) -> None:
        """The answer was interrupted."""
        print(file=self._out, flush=True)
        complain(note)


def is_answer(piece: Piece) -> bool:
    """Is this for the user, on the final channel?"""
    return is_spoken(piece) and meant_channel(piece) == "final"


def ending(reply: Reply) -> str | None:
    """Why an answer is not whole, or what it waits for; None after a proper end."""
    if reply.finish_reason == "length":
        none = "" if reply.final else "; no final answer yet"
        return f"cut at {len(reply.token_ids)} tokens (--max-tokens, or the model's context){none}"
    return reply.note and f"the model {reply.note}"


def status(reply: Reply) -> int:
    """Exit status: 0 where there is an answer, or part of one, or a call; 1 where there is none."""
    return 0 if reply.final or reply.tool_calls else 1


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


def make_screen() -> Terminal | Pipe:
    """For whoever reads standard output."""
    return Terminal(sys.stdout) if sys.stdout.isatty() else Pipe(sys.stdout)


def show(pieces: Stream[Piece, Reply], screen: Terminal | Pipe) -> Reply:
    """Write an answer as it comes."""
    with waiting("reading the prompt; the first time also compiles the model"):
        first = next(pieces, None)
    for piece in itertools.chain([first] if first else [], pieces):
        screen.write(piece)
    reply = pieces.finish()
    screen.end(reply)
    return reply
