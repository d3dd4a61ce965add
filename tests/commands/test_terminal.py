"""How an answer looks on a terminal: labels, colors, statistics, and no commands from the model."""

import sys

import pytest
from models import TOKENIZER, dictate, say

from commands.console import open_terminal
from gptoss_edu.commands.main import main
from gptoss_edu.tokenizer import CHANNEL, MESSAGE, RETURN

pytestmark = pytest.mark.usefixtures("quick_load")


def test_a_terminal_shows_channels_in_color_and_statistics(monkeypatch, folder):
    terminal = open_terminal(monkeypatch)
    dictate(monkeypatch, say("hm", "four"))
    assert main(["ask", "2 + 2?", "--model", folder]) == 0
    shown = terminal.getvalue()
    dim = "\x1b[2m{}\x1b[0m".format
    assert shown.startswith(
        f"\x1b[1;35m[analysis]\x1b[0m\n{dim('h')}{dim('m')}\n\n\x1b[1;32m[final]\x1b[0m\nfour\n\n"
    )
    closing = shown.splitlines()[-1]
    count = len(say("hm", "four"))
    assert closing.startswith(f"\x1b[2m{count} tokens · ")
    assert "tokens/s · first token after " in closing
    assert closing.endswith("\x1b[0m")
    assert sys.stderr.getvalue().endswith("\r\x1b[K")  # what it was waiting for is wiped out


@pytest.mark.parametrize("name, value", [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_color_can_be_turned_off(monkeypatch, folder, name, value):
    terminal = open_terminal(monkeypatch)
    monkeypatch.setenv(name, value)
    dictate(monkeypatch, say("hm", "four"))
    assert main(["ask", "2 + 2?", "--model", folder]) == 0
    assert "\x1b" not in terminal.getvalue()
    assert terminal.getvalue().startswith("[analysis]\nhm\n\n[final]\nfour\n\n")


def test_an_answer_gives_no_commands_to_the_terminal(monkeypatch, folder):
    terminal = open_terminal(monkeypatch)
    dictate(monkeypatch, say("", "a\x1b[31mb\x07\r\x7f\x9bc\td\ne"))
    assert main(["ask", "hi", "--model", folder]) == 0
    assert "a␛[31mb␇␍␡\ufffdc\td\ne" in terminal.getvalue()


def test_a_terminal_says_that_there_is_no_answer(monkeypatch, folder):
    terminal = open_terminal(monkeypatch)
    monkeypatch.setenv("NO_COLOR", "1")
    dictate(monkeypatch, [*say("hm", "")[:3], RETURN])
    assert main(["ask", "2 + 2?", "--model", folder]) == 1
    assert "[analysis]\n" not in terminal.getvalue()  # nothing came
    assert "the model ended without a final answer · " in terminal.getvalue()


def test_a_channel_that_is_misspelled_looks_like_the_one_that_is_meant(monkeypatch, folder):
    terminal = open_terminal(monkeypatch)
    header = [CHANNEL, *TOKENIZER.encode("final."), MESSAGE]
    dictate(monkeypatch, [*header, *TOKENIZER.encode("x"), RETURN])
    assert main(["ask", "hi", "--model", folder]) == 0
    assert terminal.getvalue().startswith("\x1b[1;32m[final.]\x1b[0m\nx\n\n")
