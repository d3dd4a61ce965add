"""`chat`: turn by turn, until the end of input or /quit."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator

from gptoss_edu.chat import Chat
from gptoss_edu.commands.flags import (
    add_answer_flags,
    add_model_flags,
    check_prompt,
    load,
    read_options,
)
from gptoss_edu.commands.terminal import UsageError, complain, make_screen, show
from gptoss_edu.harmony import EFFORTS

HELP = "talk, turn by turn"
EPILOG = "Type /help inside."
COMMANDS = """\
/effort low|medium|high  think less or more from the next answer on
/reset                   forget everything said so far
/quit                    leave (so does Ctrl-D); Ctrl-C stops an answer, and only that"""


def add_flags(command: argparse.ArgumentParser) -> None:
    """Which model, and how it answers."""
    add_model_flags(command)
    add_answer_flags(command)


def run(args: argparse.Namespace) -> int:
    """Answer line by line; what cannot be answered is said, and the talk goes on."""
    options = read_options(args)
    chat, on_terminal = Chat(*load(args), **options), sys.stdout.isatty()
    if on_terminal:
        print(f"{args.model or 'the pocket model'} · /help for commands, Ctrl-D to leave")
    for line in read_lines():
        if line in ("/quit", "/exit"):
            break
        try:
            if line.startswith("/"):
                print(obey(chat, line), file=sys.stdout if on_terminal else sys.stderr)
            else:
                answer(chat, line)
        except (UsageError, ValueError, MemoryError) as error:
            complain(f"{error}; /reset forgets the conversation")
        except KeyboardInterrupt:
            complain("stopped")
    return 0


def answer(chat: Chat, text: str) -> None:
    """One turn. When it is stopped, what was shown of the answer stays part of the talk."""
    question = {"role": "user", "content": text}
    check_prompt([*chat.messages, question], chat.options)
    screen = make_screen()
    try:
        show(chat.stream(text), screen)
    except KeyboardInterrupt:
        screen.stop("stopped" if screen.said else "stopped; this question is forgotten")
        if screen.said:
            said = {"role": "assistant", "content": "".join(screen.said)}
            chat.messages += [question, said]


def obey(chat: Chat, line: str) -> str:
    """Do what a line that begins with a slash says, and return what to tell."""
    name, *words = line[1:].split()
    if name == "help":
        return COMMANDS
    if name == "reset":
        chat.reset()
        return "forgotten"
    if name == "effort" and words and words[0] in EFFORTS:
        chat.set(reasoning_effort=words[0])
    elif name != "effort" or words:
        return f"found {line!r}, expected one of\n{COMMANDS}"
    return f"effort: {chat.options.reasoning_effort}"


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
