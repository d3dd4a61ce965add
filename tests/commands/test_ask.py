"""`ask` as its users meet it: in a pipe, as JSON, with tools, with mistakes."""

import json
import sys

import pytest
from models import TOKENIZER, dictate, say

from commands.console import FakeTerminal, run_python, typed
from gptoss_edu.commands import ask
from gptoss_edu.commands.main import main
from gptoss_edu.reply import Reply
from gptoss_edu.tokenizer import CALL, CHANNEL, CONSTRAIN, MESSAGE, load_encoding

pytestmark = pytest.mark.usefixtures("quick_load")


def test_a_pipe_gets_the_answer_and_nothing_else(monkeypatch, capsys, folder):
    dictate(monkeypatch, say("let me think", "It is four ✓\nReally."))
    assert main(["ask", "2 + 2?", "--model", folder]) == 0
    out, err = capsys.readouterr()
    assert out == "It is four ✓\nReally.\n"
    assert err == ""


def test_an_answer_cut_short_is_said_on_standard_error(capsys, folder):
    assert main(["ask", "2 + 2?", "--model", folder, "--max-tokens", "3"]) == 0
    assert "cut at 3 tokens (--max-tokens" in capsys.readouterr().err


def test_json_is_one_object_with_everything(monkeypatch, capsys, folder):
    dictate(monkeypatch, say("let me think", "four ✓"))
    assert main(["ask", "2 + 2?", "--model", folder, "--json"]) == 0
    out, err = capsys.readouterr()
    reply = json.loads(out)
    assert list(reply) == ["analysis", "final", "tool_calls", "finish_reason", "stats"]
    assert (reply["analysis"], reply["final"]) == ("let me think", "four ✓")
    assert (reply["tool_calls"], reply["finish_reason"]) == ([], "stop")
    assert reply["stats"]["completion_tokens"] == len(say("let me think", "four ✓"))
    assert reply["stats"]["decode_tokens_per_s"] > 0
    assert err == ""


ANSWERED = Reply("four", "", (), "stop")


def spelled(text):
    """Ids of a text, with control tokens written by name."""
    return TOKENIZER.fit(load_encoding().encode(text, allowed_special="all"))


@pytest.mark.parametrize(
    "text",
    [
        "<|channel|>commentary<|message|>four<|return|>",
        "<|channel|>final to=assistant<|message|>four<|return|>",
        "<|channel|>final.<|message|>four<|return|>",
        "<|start|>assistantfinal<|message|>four<|return|>",
        "<|channel|>final<|message|>four<|return|>",
    ],
)
def test_the_answer_is_written_wherever_it_stands(monkeypatch, capsys, folder, text):
    dictate(monkeypatch, spelled(text))
    assert main(["ask", "2 + 2?", "--model", folder]) == 0
    assert capsys.readouterr() == ("four\n", "")


NOTHING = "<|channel|>analysis<|message|>hm<|return|>"


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_no_answer_is_said_and_is_an_exit_status(monkeypatch, capsys, folder, flags):
    dictate(monkeypatch, spelled(NOTHING))
    assert main(["ask", "2 + 2?", "--model", folder, *flags]) == 1
    out, err = capsys.readouterr()
    assert (json.loads(out)["final"] == "") if flags else (out == "")
    assert err == "gptoss_edu: the model ended without a final answer\n"


def test_a_call_of_what_is_no_function_is_said(monkeypatch, capsys, folder):
    dictate(monkeypatch, spelled("<|channel|>analysis to=python code<|message|>2+2<|call|>"))
    assert main(["ask", "2 + 2?", "--model", folder]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "without a final answer: python was asked, which is no function here" in err


def test_an_answer_cut_before_it_began_is_said(monkeypatch, capsys, folder):
    dictate(monkeypatch, spelled("<|channel|>analysis<|message|>hm, let me think of it"))
    assert main(["ask", "2 + 2?", "--model", folder, "--max-tokens", "5"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "cut at 5 tokens (--max-tokens, or the model's context); no final answer yet" in err


WEATHER = {
    "name": "weather",
    "description": "today's weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}


@pytest.mark.parametrize("as_list", [True, False])
def test_a_tool_call_is_a_line_of_json(monkeypatch, capsys, folder, tmp_path, as_list):
    file = tmp_path / "tools.json"
    file.write_text(json.dumps([WEATHER] if as_list else WEATHER))
    spell = TOKENIZER.encode
    header = [CHANNEL, *spell("commentary to=functions.weather "), CONSTRAIN, *spell("json")]
    dictate(monkeypatch, [*header, MESSAGE, *spell('{"city": "Rome"}'), CALL])
    ask = ["ask", "weather?", "--model", folder, "--tools", str(file)]
    assert main(ask) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == {"name": "weather", "arguments": '{"city": "Rome"}'}
    assert "waits for the result of weather" in err
    assert main([*ask, "--json"]) == 0
    reply = json.loads(capsys.readouterr().out)
    assert reply["finish_reason"] == "tool_call"
    assert [call["name"] for call in reply["tool_calls"]] == ["weather"]


@pytest.mark.parametrize("prompt", [["-"], []])
def test_the_question_may_come_from_standard_input(monkeypatch, capsys, folder, prompt):
    typed(monkeypatch, "from a\nfile\n")
    asked = []
    monkeypatch.setattr(ask, "stream", lambda m, p, prompt, **_: asked.append(prompt) or iter(()))
    monkeypatch.setattr(ask, "show", lambda pieces, screen: ANSWERED)
    assert main(["ask", *prompt, "--model", folder]) == 0
    assert asked == ["from a\nfile"]


def test_every_option_reaches_generate(monkeypatch, folder, tmp_path):
    given = {}
    monkeypatch.setattr(ask, "stream", lambda m, p, prompt, **settings: given.update(settings))
    monkeypatch.setattr(ask, "show", lambda pieces, screen: ANSWERED)
    (tmp_path / "tools.json").write_text(json.dumps([WEATHER]))
    line = "ask hi --max-tokens 7 --temperature .5 --top-k 3 --top-p .9 --min-p .1 --seed 4"
    line += " --repetition-penalty 1.1 --effort high --instructions brief --date 2026-01-02"
    options = [*line.split(), "--tools", str(tmp_path / "tools.json"), "--model", folder]
    assert main(options) == 0
    assert given == {
        "max_tokens": 7,
        "temperature": 0.5,
        "top_k": 3,
        "top_p": 0.9,
        "min_p": 0.1,
        "repetition_penalty": 1.1,
        "seed": 4,
        "reasoning_effort": "high",
        "instructions": "brief",
        "current_date": "2026-01-02",
        "tools": [WEATHER],
    }


def test_a_terminal_that_says_nothing_is_asked_for_a_question(monkeypatch, failing):
    monkeypatch.setattr(sys, "stdin", FakeTerminal())
    status, err = failing("ask")
    assert (status, err) == (
        2,
        'gptoss_edu: found no question; expected ask "…", or text on standard input\n',
    )


def test_a_malformed_tool_schema_is_refused(failing, tmp_path):
    file = tmp_path / "tools.json"
    file.write_text('[{"name": "spaces in it"}]')
    status, err = failing("ask", "hi", "--tools", str(file))
    assert status == 2
    assert "tools[0] has name 'spaces in it'" in err


def test_a_missing_folder_is_said_in_one_line(failing, tmp_path):
    status, err = failing("ask", "hi", "--model", str(tmp_path / "nothing"))
    assert status == 1
    assert err.startswith("gptoss_edu: there is no folder")
    assert len(err.splitlines()) == 1


def test_the_pocket_model_answers_the_question_of_the_readme():
    done = run_python("-m", "gptoss_edu", "ask", "How many r's are in strawberry?", text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 1
    assert "3" in done.stdout
