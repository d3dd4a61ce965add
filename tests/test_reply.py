"""Replies: channels, tool calls, history and HTML, from streams of every kind."""

import dataclasses
import random
from html.parser import HTMLParser

import pytest
from test_harmony import (
    NOW,
    STRAWBERRY,
    USER,
    assistant,
    call,
    developer,
    directly,
    result,
    system,
    user,
)
from test_parser import fed, ids_of, parse

from gptoss_edu import reply as reply_module
from gptoss_edu.harmony import render
from gptoss_edu.parser import Message
from gptoss_edu.reply import Reply, Stats, make_reply
from gptoss_edu.tokenizer import CALL, CHANNEL, END, MESSAGE, RETURN, START


def reply_to(text: str, finish_reason="stop", **more) -> Reply:
    ids = ids_of(text)
    defaults = {"prompt_ids": [1, 2, 3], "token_ids": ids, "stats": None} | more
    return make_reply(fed(ids), finish_reason=finish_reason, **defaults)


THOUGHT = "<|channel|>analysis<|message|>s-t-r<|end|><|start|>assistant"
ANSWER = f"{THOUGHT}<|channel|>final<|message|>Three.<|return|>"
CALLING = f'{THOUGHT} to=functions.now<|channel|>commentary json<|message|>{{"zone": "é"}}<|call|>'


def test_a_reply_has_its_channels():
    reply = reply_to(ANSWER, cache="the cache")
    assert (reply.final, reply.analysis, reply.tool_calls) == ("Three.", "s-t-r", ())
    assert str(reply) == "Three."
    assert reply.cache == "the cache"
    assert reply.prompt_ids == (1, 2, 3)
    assert reply.token_ids == tuple(ids_of(ANSWER))
    assert "cache" not in repr(reply)
    assert "200005" not in repr(reply)
    with pytest.raises(dataclasses.FrozenInstanceError):
        reply.final = "Four."


def test_a_reply_with_a_tool_call():
    reply = reply_to(CALLING, "tool_call")
    (tool_call,) = reply.tool_calls
    assert (tool_call.name, tool_call.arguments) == ("now", '{"zone": "é"}')
    assert tool_call.parsed() == {"zone": "é"}
    assert reply.final == ""
    assert reply.analysis == "s-t-r"


def test_ids_of_calls_are_unique_in_a_conversation():
    """In one reply, and from one turn to the next: each prompt holds more than the one before."""
    now = "<|channel|>commentary to=functions.now json<|message|>{}<|call|>"
    twice = f"{now}<|start|>assistant{now}"
    calls = [
        call
        for prompt_ids in ([1, 2, 3], [1, 2, 3, 4], [1, 2, 3, 4, 5])
        for call in reply_to(twice, "tool_call", prompt_ids=prompt_ids).tool_calls
    ]
    assert len({call.id for call in calls}) == len(calls) == 6


def test_what_was_said_is_a_value():
    for value in (reply_to(CALLING, "tool_call").tool_calls[0], Stats(3, 12, 0.25, 100.0, 20.5, 1)):
        with pytest.raises(dataclasses.FrozenInstanceError):
            value.name = "changed"


def test_a_call_cut_short_is_none():
    text = ids_of(CALLING)[:-3]
    parser = fed(text)
    reply = make_reply(parser, prompt_ids=[], token_ids=text, finish_reason="length", stats=None)
    assert reply.tool_calls == ()
    assert reply.messages[-1].function == "now"
    assert not reply.messages[-1].complete
    assert [m["content"] for m in reply.to_messages()] == ["s-t-r"]


def test_arguments_that_are_no_json_are_said():
    (tool_call,) = reply_to(CALLING.replace("}", ","), "tool_call").tool_calls
    with pytest.raises(ValueError, match="arguments of now are not JSON"):
        tool_call.parsed()


def test_text_without_a_channel_is_the_answer_only_when_there_is_no_other():
    assert reply_to("Three.").final == "Three."
    assert reply_to("Well<|channel|>final<|message|>Three.<|return|>").final == "Three."
    assert reply_to("<|start|>user<|message|>me<|end|>").final == ""
    assert reply_to("<|channel|>commentary<|message|>Wait.<|end|>").final == ""


def test_a_reply_is_history():
    prompt = [USER]
    reply = reply_to(ANSWER)
    assert reply.to_messages() == [{"role": "assistant", "channel": "final", "content": "Three."}]
    history = [*prompt, *reply.to_messages(), {"role": "user", "content": "Sure?"}]
    expected = directly([system(), STRAWBERRY, assistant("Three."), user("Sure?")])
    assert render(history) == expected
    # With its thinking, or as Message objects: openai-harmony drops the thinking itself.
    thinking = reply.to_messages(analysis=True)
    assert [m["content"] for m in thinking] == ["s-t-r", "Three."]
    assert render([*prompt, *thinking, history[-1]]) == expected
    assert render([*prompt, *reply.messages, history[-1]]) == expected


def test_a_tool_call_is_history():
    reply = reply_to(CALLING, "tool_call")
    answer = {"role": "tool", "tool_call_id": reply.tool_calls[0].id, "content": "noon"}
    history = [USER, *reply.to_messages(), answer]
    messages = [
        system(),
        developer(tools=[NOW]),
        STRAWBERRY,
        assistant("s-t-r", "analysis"),
        call('{"zone": "é"}', "now"),
        result("noon", "now"),
    ]
    assert render(history, tools=[NOW]) == directly(messages)


def test_a_malformed_header_does_not_end_the_conversation():
    for header in ("to=functions.a:b c d", "to=<b> json", "to=x>y", "<|constrain|>", "a b c"):
        (message,) = reply_to(f"<|channel|>odd {header}<|message|>x<|end|>").to_messages()
        assert "channel" not in message
        assert render([USER, message, USER])


def test_pieces_tell_who_speaks():
    text = f"{THOUGHT[:-9]}user<|message|>me<|end|><|start|>functions.f<|message|>made up"
    pieces, messages = parse(ids_of(text))
    assert {(p.role, p.channel) for p in pieces} == {
        ("assistant", "analysis"),
        ("user", None),
        ("tool", None),
    }
    assert [m.name for m in messages] == [None, None, "functions.f"]


def test_history_leaves_out_what_the_model_made_up():
    made_up = "<|start|>functions.now to=assistant<|channel|>commentary<|message|>noon<|end|>"
    assert [m["content"] for m in reply_to(THOUGHT + "<|end|>" + made_up).to_messages()] == [
        "s-t-r"
    ]
    odd = "<|channel|>commentary to=browser.search code<|message|>q<|call|>"
    (message,) = reply_to(odd).to_messages()
    assert message["recipient"] == "browser.search"
    assert render([USER, message]) == directly(
        [system(), STRAWBERRY, assistant("q", "commentary", to="browser.search", kind="code")]
    )


class Reader(HTMLParser):
    """Collects text and labels, and checks that every element is closed."""

    def __init__(self, page: str):
        super().__init__()
        self.open, self.text, self.labels, self.tags = [], "", [], set()
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.tags.add(tag)
        self.labels += [value for name, value in attrs if name == "aria-label"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_html_shows_channels_in_words_and_color():
    stats = Stats(3, 12, 0.25, 100.0, 20.5, 1.0)
    read = Reader(reply_to(ANSWER, stats=stats)._repr_html_())
    assert read.labels == ["analysis", "final"]
    for word in ("analysis", "s-t-r", "Three.", "12 tokens", "20.5 tokens/s", "0.25 s"):
        assert word in read.text
    read = Reader(reply_to(CALLING[:-8], "length")._repr_html_())
    assert read.labels[-1] == "commentary → functions.now (cut off)"
    assert "stopped at the token limit" in read.text
    made_up = "<|start|>user<|message|>me<|end|><|start|>functions.now<|message|>noon<|end|>"
    read = Reader(reply_to(made_up)._repr_html_())
    assert read.labels == ["user · no channel", "functions.now · no channel"]


def test_html_is_escaped():
    evil = "<script>alert(1)</script>\"'&<b>"
    for text in (
        f"<|channel|>final<|message|>{evil}<|return|>",
        f"<|channel|>{evil}<|message|>x<|return|>",
        f"<|channel|>commentary to={evil}<|message|>x<|return|>",
        f"<|start|>{evil}<|channel|>final<|message|>x<|return|>",
    ):
        read = Reader(reply_to(text)._repr_html_())
        assert read.tags == {"div", "span"}


def test_labels_have_contrast():
    """WCAG: white on the label's color at least 4.5 to 1."""
    for color in [*reply_module.COLORS.values(), "#5c5c5c"]:
        channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
        assert 1.05 / (luminance + 0.05) >= 4.5, color


def test_a_message_knows_its_function():
    message = Message("assistant", "commentary", "functions.f", None, "{}")
    assert message.function == "f"
    for change in ({"recipient": "functions."}, {"recipient": None}, {"role": "tool"}):
        assert dataclasses.replace(message, **change).function is None


def test_no_ids_at_all_raise():
    """Chaos: random control tokens, header words, bytes and wrong ids, in any order."""
    draw = random.Random(3)
    control = [START, END, CHANNEL, MESSAGE, RETURN, CALL, 200003, 199998, 199999]
    words = [173781, 35644, 17196, *ids_of(" to=functions.f commentary json user tool Hello 🤖")]
    for length in range(200):
        choices = [control, words, list(range(256)), [201_088, -5, 10**9]]
        weights = draw.choice([(5, 5, 1, 0), (1, 5, 5, 1), (9, 1, 1, 1)])
        drawn = draw.choices(choices, weights, k=length % 90)
        ids = [draw.choice(group) for group in drawn]
        pieces, messages = parse(ids)
        reply = make_reply(
            fed(ids), prompt_ids=[], token_ids=ids, finish_reason="length", stats=None
        )
        Reader(reply._repr_html_())
        for analysis in (True, False, None):  # whatever was sampled, the conversation goes on
            render([USER, *reply.to_messages(analysis=analysis), USER])
        # Text comes message by message, in order: what was shown is what is kept.
        texts, shown = [m.text for m in messages if m.text], iter(pieces)
        for text in texts:
            joined = ""
            while joined != text:
                joined += next(shown).text
        assert next(shown, None) is None
