"""A conversation: what is remembered, what is read again, and what an interruption leaves."""

import contextlib
import gc
import itertools

import jax
import pytest
from models import MODEL, TOKENIZER, dictate, random_params, say

from gptoss_edu import Chat, generate
from gptoss_edu import chat as chat_module
from gptoss_edu.parser import StreamParser
from gptoss_edu.reply import ToolCall
from gptoss_edu.tokenizer import CALL, CHANNEL, CONSTRAIN, END, MESSAGE, RETURN, START
from gptoss_edu.weights.checkpoint import load_model
from pocket.tasks import CALCULATOR

NOW = {"type": "function", "function": {"name": "now", "description": "what time is it"}}


@pytest.fixture(scope="module")
def params():
    return random_params()


@pytest.fixture(autouse=True)
def one_capacity(monkeypatch):
    monkeypatch.setattr("gptoss_edu.cache.SMALLEST", 512)


def read_by(reply):
    """Tokens that this turn really read: those that no cache held."""
    return round(reply.stats.prefill_tokens_per_s * reply.stats.time_to_first_token_s)


def call_now():
    """Ids of a call of the function `now`."""
    spell = TOKENIZER.encode
    header = [CHANNEL, *spell("commentary to=functions.now "), CONSTRAIN, *spell("json")]
    return [*header, MESSAGE, *spell("{}"), CALL]


def test_a_conversation_reads_each_text_once(params, monkeypatch):
    dictate(monkeypatch, say("let me see", "it is so"))
    chat, read = Chat(MODEL, params), 0
    for question in ("2 + 2?", "and 5?", "and 6?"):
        reply = chat.say(question)
        read += read_by(reply)
    assert read == len(reply.prompt_ids)  # the last prompt holds all that was said
    roles = [message["role"] for message in chat.messages]
    assert roles == ["user", "assistant"] * 3
    alone = generate(MODEL, params, chat.messages[:-1])
    assert alone.token_ids == reply.token_ids


def leave(pieces, at, how):
    """Read up to one letter, and stop there: as Ctrl-C does, or a loop that has read enough."""
    for piece in pieces:
        if piece.text == at and how == "in the loop":
            raise KeyboardInterrupt
        if piece.text == at and how == "closed":
            pieces.close()


@pytest.mark.parametrize("how", ["in the loop", "in the model", "closed"])
@pytest.mark.parametrize("at", ["l", "i"])
def test_an_interruption_leaves_conversation_and_cache(params, monkeypatch, at, how):
    """The cache was thrown away once, for the belief that reading uses it up. It is a value."""
    dictate(monkeypatch, say("let me see", "it is so"))
    chat = Chat(MODEL, params)
    first = chat.say("2 + 2?")
    messages, cache = list(chat.messages), chat.cache
    assert cache is not None
    feed, (stop,) = StreamParser.feed, TOKENIZER.encode(at)

    def interrupted(parser, token):
        if token == stop:
            raise KeyboardInterrupt
        return feed(parser, token)

    with monkeypatch.context() as patch:
        if how == "in the model":
            patch.setattr(StreamParser, "feed", interrupted)
        with contextlib.nullcontext() if how == "closed" else pytest.raises(KeyboardInterrupt):
            leave(chat.stream("and 5?"), at, how)
    assert chat.messages == messages
    assert chat.cache is cache
    after = chat.say("and 6?")
    assert read_by(after) == len(after.prompt_ids) - len(first.prompt_ids)


def test_an_error_leaves_conversation_and_cache(params, monkeypatch):
    dictate(monkeypatch, say("hm", "four"))
    chat = Chat(MODEL, params)
    chat.say("2 + 2?")
    messages, cache = list(chat.messages), chat.cache
    with pytest.raises(ValueError, match="1024 positions"):
        chat.say("too long " * 200)
    assert (chat.messages, chat.cache is cache) == (messages, True)


def test_a_chat_lives_with_one_cache(params, monkeypatch):
    """However many turns: the bytes of the arrays that are held stay those of one cache."""
    dictate(monkeypatch, say("a", "b"))

    def living():
        gc.collect()
        return sum(array.nbytes for array in jax.live_arrays() if not array.is_deleted())

    chat, replies = Chat(MODEL, params), [generate(MODEL, params, "x")]
    replies.append(chat.say("1"))
    held = living()
    for question in "234":
        replies.append(chat.say(question))
        assert living() == held
    assert {reply.cache for reply in replies} == {None}
    chat.reset()
    assert living() < held
    assert chat.messages == []


def test_options_hold_for_all_turns_or_for_one(params, monkeypatch):
    asked = []

    def noted(model, params, prompt, options):
        asked.append((options.reasoning_effort, options.max_tokens, options.seed))
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(chat_module, "answer_one", noted)
    chat = Chat(MODEL, params, reasoning_effort="low", seed=4)
    for turn in (
        lambda: chat.say("a"),
        lambda: chat.say("a", max_tokens=3, reasoning_effort="high"),
        lambda: chat.say("a"),
        lambda: chat.set(seed=5) or chat.say("a"),
    ):
        with pytest.raises(KeyboardInterrupt):
            turn()
    assert asked == [("low", 1024, 4), ("high", 3, 4), ("low", 1024, 4), ("low", 1024, 5)]


def test_an_option_that_does_not_exist_is_answered_with_the_nearest(params):
    chat = Chat(MODEL, params)
    for wrong in (
        lambda: chat.say("a", temprature=1),
        lambda: chat.stream("a", temprature=1),
        lambda: chat.set(temprature=1),
        lambda: Chat(MODEL, params, temprature=1),
    ):
        with pytest.raises(TypeError, match="no option temprature; did you mean temperature"):
            wrong()
    for name in ("tools", "cache", "keep_cache"):
        with pytest.raises(TypeError, match=f"a Chat takes no option {name}: "):
            chat.say("a", **{name: None})
    with pytest.raises(ValueError, match="max_tokens is 0"):
        chat.say("a", max_tokens=0)


def test_a_chat_is_one_line(params, monkeypatch):
    dictate(monkeypatch, say("hm", "four"))
    chat = Chat(MODEL, params, functions={"now": (lambda: "noon", NOW)})
    assert repr(chat) == "Chat(0 messages, no cache, functions: now)"
    chat.say("2 + 2?")
    assert (
        repr(chat) == f"Chat(2 messages, a cache of {len(chat.cache.rows)} tokens, functions: now)"
    )


# ---- functions ----------------------------------------------------------------------------------


def test_a_model_that_calls_without_end_is_stopped(params, monkeypatch):
    dictate(monkeypatch, call_now())
    called = []
    chat = Chat(MODEL, params, functions={"now": (lambda: called.append(1), NOW)}, max_tokens=60)
    reply = chat.say("what time is it?")
    assert len(called) == chat_module.ROUNDS == 8
    assert reply.finish_reason == "tool_call"
    assert [message["role"] for message in chat.messages] == ["user"] + ["assistant", "tool"] * 8


def test_ids_of_calls_are_unique_in_a_conversation(params, monkeypatch):
    """Each answer must find its call, in this turn and among those of earlier turns."""
    dictate(monkeypatch, call_now())
    chat = Chat(MODEL, params, functions={"now": (lambda: "noon", NOW)}, max_tokens=60)
    monkeypatch.setattr(chat_module, "ROUNDS", 2)
    chat.say("what time is it?")
    chat.say("and now?")
    called = [m["tool_calls"][0]["id"] for m in chat.messages if "tool_calls" in m]
    answered = [m["tool_call_id"] for m in chat.messages if m["role"] == "tool"]
    assert len(set(called)) == 4
    assert called == answered


@pytest.fixture(scope="module")
def pocket():
    return load_model()


def multiply(expression):
    left, right = expression.split("*")
    return int(left) * int(right)


def test_a_chat_calls_functions_and_goes_on(pocket):
    chat = Chat(*pocket, functions={"calculator": (multiply, CALCULATOR)})
    pieces = chat.stream("What is 4821 * 77?")
    assert {piece.channel for piece in pieces} == {"analysis", "commentary", "final"}
    assert pieces.reply.final == "The answer is 371217."
    roles = [message["role"] for message in chat.messages]
    assert (roles[0], roles[-2:]) == ("user", ["tool", "assistant"])
    assert chat.messages[-2]["content"] == "371217"
    assert chat.cache is not None


def shared(one, other):
    """Ids at the beginning of both."""
    pairs = zip(one, other, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def test_a_tool_loop_reads_on_from_its_first_prompt(params, monkeypatch):
    """Four turns, two rounds each: each round's prompt begins with the whole prompt before it, but
    for thoughts of a turn that was answered; and no round reads what an earlier one has read.
    """
    replies, real = [], chat_module.answer_one
    spell = TOKENIZER.encode
    thought = [CHANNEL, *spell("analysis"), MESSAGE, *spell("look at it"), END, START]

    def noted(*args):
        calling = [*thought, *spell("assistant"), *call_now()]
        dictate(monkeypatch, say("so", "noon") if len(replies) % 2 else calling)
        replies.append((yield from real(*args)))
        return replies[-1]

    monkeypatch.setattr(chat_module, "answer_one", noted)
    chat = Chat(MODEL, params, functions={"now": (lambda: "noon", NOW)})
    for _ in range(4):
        assert chat.say("what time is it?").final == "noon"
    assert [bool(reply.tool_calls) for reply in replies] == [True, False] * 4
    held = 0
    for turn in range(0, 8, 2):
        first, second = replies[turn].prompt_ids, replies[turn + 1].prompt_ids
        assert read_by(replies[turn]) == len(first) - held
        assert shared(first, second) == len(first)
        assert read_by(replies[turn + 1]) == len(second) - len(first)
        if turn < 6:  # the thoughts of the turn are gone
            following = replies[turn + 2].prompt_ids
            assert len(first) <= shared(second, following) < len(second)
        held = len(first)
    # What was held is what would have been read.
    fresh = generate(MODEL, params, chat.messages[:-1], tools=[NOW])
    assert fresh.prompt_ids == replies[-1].prompt_ids
    assert fresh.token_ids == replies[-1].token_ids


def test_a_cache_is_not_rewound_to_a_prompt_that_is_none_of_its_own(params, monkeypatch):
    """A call and an answer in one reply: the answer takes thoughts out of what was read already."""
    spell = TOKENIZER.encode
    thought = [CHANNEL, *spell("analysis"), MESSAGE, *spell("hm"), CALL]
    dictate(monkeypatch, thought)
    chat = Chat(MODEL, params, functions={"now": (lambda: "noon", NOW)}, max_tokens=60)
    chat.say("what time is it?")  # a thought without an answer stays
    assert [m.get("channel") for m in chat.messages] == [None, "analysis"]
    both = [*call_now()[:-1], END, *say("hm", "noon")]
    dictate(monkeypatch, both)
    monkeypatch.setattr(chat_module, "ROUNDS", 2)
    last = chat.say("and now?")
    assert last.tool_calls
    dictate(monkeypatch, say("hm", "noon"))
    after = chat.say("and now?")
    alone = generate(MODEL, params, chat.messages[:-1], tools=[NOW], max_tokens=60)
    assert (after.prompt_ids, after.token_ids) == (alone.prompt_ids, alone.token_ids)


def test_commentary_alone_is_the_answer_of_a_turn(params, monkeypatch):
    spell = TOKENIZER.encode
    dictate(monkeypatch, [CHANNEL, *spell("commentary"), MESSAGE, *spell("four"), RETURN])
    chat = Chat(MODEL, params)
    assert chat.say("2 + 2?").final == "four"
    assert chat.messages[-1] == {"role": "assistant", "channel": "commentary", "content": "four"}


def test_a_call_without_the_namespace_is_made(params, monkeypatch):
    """vllm#42454: models write the bare name, in long conversations."""
    spell = TOKENIZER.encode
    header = [CHANNEL, *spell("commentary to=now "), CONSTRAIN, *spell("json")]
    dictate(monkeypatch, [*header, MESSAGE, *spell("{}"), CALL])
    monkeypatch.setattr(chat_module, "ROUNDS", 1)
    called = []
    chat = Chat(MODEL, params, functions={"now": (lambda: called.append(1), NOW)}, max_tokens=60)
    reply = chat.say("what time is it?")
    assert (called, reply.finish_reason, reply.tool_calls[0].name) == ([1], "tool_call", "now")
    reply = generate(MODEL, params, "time?", tools=[NOW], max_tokens=60)
    assert [call.name for call in reply.tool_calls] == ["now"]
    reply = generate(MODEL, params, "time?", max_tokens=60)
    assert (reply.tool_calls, reply.finish_reason) == ((), "stop")
    assert "now was asked, which is no function here" in reply.note


def test_a_chat_without_functions_answers_as_generate_does(pocket):
    question = "How many r's are in strawberry?"
    reply = Chat(*pocket).say(question, reasoning_effort="low", max_tokens=200)
    alone = generate(*pocket, question, reasoning_effort="low", max_tokens=200)
    assert (reply.final, reply.token_ids) == (alone.final, alone.token_ids)


def test_what_goes_wrong_in_a_function_is_said_to_the_model(params):
    chat = Chat(MODEL, params, functions={"calculator": (multiply, CALCULATOR)})
    found = [
        chat._result(ToolCall(name, arguments, "call_1"))
        for name, arguments in (
            ("calculator", '{"expression": "6 * 7"}'),
            ("calculator", '{"expression": "six"}'),
            ("calculator", "{"),
            ("weather", "{}"),
        )
    ]
    assert {message["tool_call_id"] for message in found} == {"call_1"}
    texts = [message["content"] for message in found]
    assert texts[0] == "42"
    assert texts[1].startswith("error: ValueError")
    assert texts[2].startswith("error: ValueError: arguments of calculator are not JSON")
    assert texts[3] == "error: there is no weather, only calculator"
