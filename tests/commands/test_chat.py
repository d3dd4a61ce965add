"""`chat`: turns, commands with a slash, interruptions."""

import sys

import pytest
from models import dictate, say

from commands.console import FakeTerminal, open_terminal, typed
from gptoss_edu import chat as chat_module
from gptoss_edu.commands import chat, terminal
from gptoss_edu.commands.main import main

pytestmark = pytest.mark.usefixtures("quick_load")


@pytest.fixture
def turns(monkeypatch, folder):
    """Chat from standard input; what it asks of the model is noted."""
    given = []
    real = chat_module.answer_one

    def recording(model, params, prompt, options):
        given.append({"prompt": prompt, **vars(options)})
        return real(model, params, prompt, options)

    monkeypatch.setattr(chat_module, "answer_one", recording)

    def run(text):
        typed(monkeypatch, text)
        return main(["chat", "--model", folder, "--max-tokens", "40"]), given

    return run


def test_chat_in_a_pipe_answers_line_by_line_and_remembers(monkeypatch, capsys, turns):
    dictate(monkeypatch, say("hm", "four"))
    status, given = turns("2 + 2?\n\n  and 5?  \n")
    assert status == 0
    assert capsys.readouterr() == ("four\nfour\n", "")
    assert given[0]["cache"] is None
    assert given[1]["cache"] is not None
    assert given[1]["prompt"] == [
        {"role": "user", "content": "2 + 2?"},
        {"role": "assistant", "content": "four", "channel": "final"},
        {"role": "user", "content": "and 5?"},
    ]


def test_chat_obeys_its_commands(monkeypatch, capsys, turns):
    dictate(monkeypatch, say("hm", "four"))
    text = "/effort\n2 + 2?\n/effort high\n/reset\n3 + 1?\n/effort huge\n/dance\n/quit\nnever\n"
    status, given = turns(text)
    assert status == 0
    out, err = capsys.readouterr()
    assert out == "four\nfour\n"
    assert [turn["reasoning_effort"] for turn in given] == ["medium", "high"]
    assert [len(turn["prompt"]) for turn in given] == [1, 1]
    assert [turn["cache"] for turn in given] == [None, None]
    assert err.startswith("effort: medium\neffort: high\nforgotten\nfound '/effort huge', expected")
    assert "found '/dance', expected one of\n/effort low|medium|high" in err


def test_chat_survives_what_cannot_be_answered(monkeypatch, capsys, turns):
    dictate(monkeypatch, say("hm", "four"))
    status, given = turns(f"{'too long ' * 200}\n\udcff\n2 + 2?\n")
    assert status == 0
    out, err = capsys.readouterr()
    assert out == "four\n"
    assert "this model has 1024 positions" in err
    assert "lone surrogate" in err
    assert "/reset forgets the conversation" in err
    assert len(given[-1]["prompt"]) == 1  # the questions that failed are forgotten


@pytest.mark.parametrize("at, remembered", [("m", None), ("u", "fo")])
def test_interrupting_an_answer_ends_the_answer_and_not_the_chat(
    monkeypatch, capsys, turns, at, remembered
):
    dictate(monkeypatch, say("hm", "four"))
    real, interrupts = terminal.Pipe.write, [KeyboardInterrupt]

    def write(self, piece):
        if piece.text == at and interrupts:
            raise interrupts.pop()
        real(self, piece)

    monkeypatch.setattr(terminal.Pipe, "write", write)
    status, given = turns("2 + 2?\nand 5?\n")
    assert status == 0
    out, err = capsys.readouterr()
    assert out == f"{remembered or ''}\nfour\n"
    assert err.startswith("gptoss_edu: stopped")
    said = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": remembered}]
    last = {"role": "user", "content": "and 5?"}
    assert given[1]["prompt"] == ([*said, last] if remembered else [last])


def test_chat_on_a_terminal_prompts_and_ends_with_ctrl_d(monkeypatch, folder):
    terminal = open_terminal(monkeypatch)
    dictate(monkeypatch, say("hm", "four"))
    lines = iter(["2 + 2?", KeyboardInterrupt, "/help", EOFError])
    asked = []

    def typing(prompt):
        asked.append(prompt)
        line = next(lines)
        if isinstance(line, str):
            return line
        raise line

    monkeypatch.setattr(sys, "stdin", FakeTerminal())
    monkeypatch.setattr("builtins.input", typing)
    assert main(["chat", "--model", folder]) == 0
    shown = terminal.getvalue()
    assert shown.startswith(f"{folder} · /help for commands, Ctrl-D to leave\n")
    assert "[final]\x1b[0m\nfour\n\n\x1b[2m" in shown
    assert shown.endswith(f"{chat.COMMANDS}\n\n\n")
    assert asked == ["> "] * 4
