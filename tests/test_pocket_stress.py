"""The shipped pocket model does what its card says: a sample of every promise, asked again."""

import itertools
import json

import pytest

from gptoss_edu import load_model
from gptoss_edu.parser import StreamParser
from gptoss_edu.reply import make_reply
from gptoss_edu.tokenizer import CALL, CHANNEL, END, MESSAGE, RETURN, START, Tokenizer
from gptoss_edu.weights.checkpoint import POCKET
from pocket import evaluate, out_of_scope, stress, tasks

BATCH = 25


@pytest.fixture(scope="module")
def shipped():
    return load_model()


@pytest.fixture(scope="module")
def results():
    return json.loads(evaluate.RESULTS.read_text(encoding="utf-8"))


# --- what was measured belongs to what ships, and reaches the bars ---


def test_results_belong_to_the_weights_that_ship(results):
    measured = {"accuracy", "expert_shares", "unrounded", "sampled", "out_of_scope"}
    assert results["weights"].keys() >= measured
    assert set(results["weights"].values()) == {evaluate.fingerprint(POCKET)}


def shares(results, effort):
    return {task: row[effort][0] / row[effort][1] for task, row in results["accuracy"].items()}


def test_measured_tasks_are_all_tasks(results):
    assert set(results["accuracy"]) == {*tasks.TASKS, "follow", "tool", "tool_result"}
    assert all(asked >= 150 for row in results["accuracy"].values() for _, asked in row.values())


BARS = dict.fromkeys(("count", "spell", "reverse", "add", "subtract", "tool_result"), 0.98)


@pytest.mark.parametrize("task", evaluate.TASKS)
def test_high_effort_reaches_the_bar(results, task):
    assert shares(results, "high")[task] >= (BARS | {"tool": 0.99}).get(task, 0.95)


def test_rounding_changes_at_most_a_point(results):
    for task, row in results["unrounded"].items():
        (packed, asked), (unrounded, again) = row["packed"], row["bf16"]
        assert asked == again
        assert 100 * abs(packed - unrounded) <= asked, task


def test_nothing_out_of_scope_was_malformed_or_endless(results):
    polite, asked = results["out_of_scope"]["all"]["polite or right"]
    assert asked == 500
    assert polite >= 0.95 * asked
    assert "Malformed or endless among them: 0." in evaluate.CARD.read_text(encoding="utf-8")


@pytest.mark.parametrize("task", ["count", "add"])
def test_reasoning_pays(results, task):
    assert shares(results, "high")[task] > shares(results, "low")[task] + 0.3


def test_no_expert_is_dead(results):
    assert min(itertools.chain(*results["expert_shares"])) >= 0.25


# --- the same, asked again on fewer questions ---


@pytest.mark.parametrize("task", ["count", "spell", "reverse", "add", "subtract", "tool"])
def test_it_answers_held_out_questions(shipped, task):
    table = evaluate.measure(*shipped, [task], ["high"], BATCH, BATCH)
    hits, asked = table[task]["high"]
    assert asked == BATCH
    assert hits >= BATCH - 1, f"{hits} of {asked}"


def test_what_is_sampled_is_well_formed(shipped):
    drawn = stress.sampled(*shipped, 60, 20)
    assert len(drawn) == 60
    assert len({reply.token_ids for _, reply, _ in drawn}) > 40
    assert [why for _, _, why in drawn if why] == []


def test_it_knows_its_limits(shipped, monkeypatch):
    every_tenth = out_of_scope.prompts()[::10]
    monkeypatch.setattr(stress, "prompts", lambda count: every_tenth)
    asked = stress.out_of_scope(*shipped, len(every_tenth), BATCH)
    assert sum(why is None for *_, why in asked) >= 0.9 * len(asked)
    assert [stress.complaint(reply) for _, _, reply, _ in asked] == [None] * len(asked)


# --- the instruments ---


def test_prompts_are_500_and_new():
    asked = out_of_scope.prompts()
    texts = {text for _, text in asked}
    assert len(texts) == len(asked) == 500
    assert len({kind for kind, _ in asked}) == 7
    assert sum(1900 < len(text) < 2600 for text in texts) >= 40
    trained = {e.messages[-1]["content"] for e in itertools.islice(tasks.stream(1), 3000)}
    assert texts & (trained | set(tasks.UNKNOWN)) <= {"hello"}  # it has learned to greet


def reply_of(ids, finish_reason="stop"):
    parser = StreamParser()
    for token in ids:
        parser.feed(token)
    return make_reply(
        parser, prompt_ids=[1], token_ids=ids, finish_reason=finish_reason, stats=None
    )


def message(channel, text, last):
    encode = Tokenizer().encode
    return [CHANNEL, *encode(channel), MESSAGE, *encode(text), last]


@pytest.mark.parametrize(
    "ids, finish_reason, expected",
    [
        (message("final", "1", RETURN), "stop", None),
        (message("commentary to=functions.calculator", "{}", CALL), "tool_call", None),
        (message("final", "1", RETURN), "length", "finish reason 'length' after 5 tokens"),
        (message("finale", "1", RETURN), "stop", "channels {'finale'}"),
        ([*message("analysis", "1", END), START, 0, RETURN], "stop", "openai-harmony"),
    ],
    ids=["right", "call", "endless", "channel", "broken"],
)
def test_a_malformed_reply_is_found(ids, finish_reason, expected):
    found = stress.complaint(reply_of(ids, finish_reason))
    assert found is None if expected is None else found.startswith(expected), found
