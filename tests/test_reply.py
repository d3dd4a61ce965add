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
from gptoss_edu.parser import READERS, Message
from gptoss_edu.reply import Reply, Stats, make_reply
from gptoss_edu.tokenizer import CALL, CHANNEL, END, MESSAGE, RETURN, START, load_encoding


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
    assert reply_to("<|channel|>commentary<|message|>Wait.<|end|>", "length").final == ""
    call = "<|start|>assistant<|channel|>commentary to=functions.now json<|message|>{}<|call|>"
    asked = reply_to("<|channel|>commentary<|message|>Let me look.<|end|>" + call, "tool_call")
    assert (asked.final, asked.finish_reason) == ("", "tool_call")


# Where the answer stands -> what is `final`. The Harmony guide: commentary is shown to the user.
ANSWERS = {
    "<|channel|>final<|message|>4<|return|>": "4",
    "4": "4",
    "<|channel|>4<|return|>": "4",
    "<|channel|>final 4<|return|>": "4",
    "<|channel|>final to=user<|message|>4<|return|>": "4",
    "<|channel|>final to=assistant<|message|>4<|return|>": "4",
    "<|channel|>final to=all<|message|>4<|return|>": "4",
    "<|channel|>final.<|message|>4<|return|>": "4",
    "<|channel|>Final:<|message|>4<|return|>": "4",
    "<|channel|>final_answer<|message|>4<|return|>": "4",
    "<|channel|>answer<|message|>4<|return|>": "4",
    "<|start|>final<|message|>4<|return|>": "4",
    "<|start|>assistantfinal<|message|>4<|return|>": "4",
    "<|start|>assistant final<|message|>4<|return|>": "4",
    "<|channel|>commentary<|message|>4<|return|>": "4",
    "<|channel|>commentary to=assistant<|message|>4<|return|>": "4",
    "<|channel|>commentary<|message|>Let me see.<|end|><|channel|>final<|message|>4": "4",
    "<|channel|>?<|message|>??<|end|><|channel|>final<|message|>4<|return|>": "4",
    "<|channel|>analysis<|message|>hm<|end|><|channel|>commentary<|message|>4<|return|>": "4",
}
NO_ANSWER = {
    "<|channel|>analysis<|message|>4<|return|>": "ended without a final answer",
    "<|channel|>analysis.<|message|>4<|return|>": "ended without a final answer",
    "<|channel|>final<|message|><|return|>": "ended without a final answer",
    "<|channel|>analysis to=python code<|message|>2+2<|call|>": "python was asked, which is no fu",
    "<|channel|>final to=browser.open<|message|>x<|return|>": "browser.open was asked",
    "<|channel|>commentary to=get_weather<|message|>{}<|call|>": "get_weather was asked",
    "<|start|>user<|message|>me<|end|>": "ended without a final answer",
    "": "ended without a final answer",
}


@pytest.mark.parametrize("text", ANSWERS)
def test_what_is_meant_for_the_user_is_final(text):
    reply = reply_to(text)
    assert (reply.final, str(reply), reply.note) == (ANSWERS[text], ANSWERS[text], None)
    assert "finished" in Reader(reply._repr_html_()).text
    (message,) = [m for m in reply.to_messages() if m["content"] == "4"]
    assert message.get("recipient") in READERS
    assert load_encoding().decode(render([USER, message])).count("<|call|>") == 0


@pytest.mark.parametrize("text", NO_ANSWER)
def test_a_reply_without_an_answer_says_so(text):
    reply = reply_to(text)
    assert (reply.final, reply.finish_reason) == ("", "stop")
    assert NO_ANSWER[text] in reply.note
    assert str(reply) == f"({reply.note})"
    assert reply.note in Reader(reply._repr_html_()).text


def test_a_reply_that_was_cut_says_so():
    cut = reply_to("<|channel|>final<|message|>Thr", "length")
    assert (str(cut), cut.note) == ("Thr", "stopped at the token limit, after 4 tokens")
    cut = reply_to("<|channel|>analysis<|message|>Thr", "length")
    assert "token limit before any answer, after 4 tokens" in str(cut)
    cut = reply_to("<|channel|>commentary<|message|>I will", "length")
    assert cut.final == ""  # what would have followed is not known


@pytest.mark.parametrize(
    "text, given, reason, calls",
    [
        (f"{CALLING}", "tool_call", "tool_call", 1),
        (CALLING.replace("<|call|>", "<|return|>"), "stop", "tool_call", 1),
        (CALLING.replace("<|call|>", "<|endoftext|>"), "stop", "tool_call", 1),
        (CALLING.replace("<|call|>", "<|end|>") + ANSWER, "stop", "tool_call", 1),
        (CALLING.replace("<|call|>", "<|end|>") + "<|channel|>final<|message|>T", "length",
         "tool_call", 1),
        (CALLING.replace("<|call|>", ""), "length", "length", 0),
        (CALLING.replace("functions.now", "now"), "tool_call", "stop", 0),
        (CALLING.replace("to=functions.now", ""), "tool_call", "stop", 0),
        ("<|channel|>analysis to=python code<|message|>1<|call|>", "tool_call", "stop", 0),
        ("<|call|>", "tool_call", "stop", 0),
        ('<|channel|>commentary to=functions.f{"a":1}<|call|>', "tool_call", "tool_call", 1),
        ("<|channel|>commentary to=functions.f<|call|>", "tool_call", "tool_call", 1),
        ("<|channel|>commentary to=functions.f<|return|>", "stop", "stop", 0),
    ],
)  # fmt: skip
def test_finish_reason_and_calls_agree(text, given, reason, calls):
    reply = reply_to(text, given)
    assert (reply.finish_reason, len(reply.tool_calls)) == (reason, calls)


def test_junk_between_two_headers_is_not_history():
    """What llama.cpp#27720 saw: `??` and the like, then a proper answer. Kept, but not told."""
    final = "<|channel|>final<|message|>4<|return|>"
    for junk in (
        "<|channel|>commentary??",
        "<|channel|>commentary 2?<|end|><|start|>assistant",
        "<|channel|>??<|message|>?<|end|><|start|>assistant",
        "<|channel|>2?commentary?<|message|>2?commentary?<|end|><|start|>assistant",
        "<|channel|>commentary ?? Well then, 4",
    ):
        reply = reply_to(junk + final)
        assert [m["content"] for m in reply.to_messages()] == ["4"], junk
        assert len(reply.messages) == 2
    said = "<|channel|>commentary<|message|>I will look.<|end|><|start|>assistant"
    assert [m["content"] for m in reply_to(said + final).to_messages()] == ["I will look.", "4"]


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


def test_a_marker_in_a_name_does_not_end_the_conversation():
    for start in ("<|start|><|constrain|>Bob<|channel|>final", "<|start|>assistant:<|constrain|>b"):
        for message in reply_to(f"{start}<|message|>x<|end|>").to_messages(analysis=True):
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
        for given in ("stop", "tool_call", "length"):
            reply = make_reply(
                fed(ids), prompt_ids=[], token_ids=ids, finish_reason=given, stats=None
            )
            assert bool(reply.tool_calls) == (reply.finish_reason == "tool_call")
            assert reply.final or reply.note
        for analysis in (True, False, None):  # whatever was sampled, the conversation goes on
            render([USER, *reply.to_messages(analysis=analysis), USER])
        # Text comes message by message, in order: what was shown is what is kept.
        texts, shown = [m.text for m in messages if m.text], iter(pieces)
        for text in texts:
            joined = ""
            while joined != text:
                joined += next(shown).text
        assert next(shown, None) is None
