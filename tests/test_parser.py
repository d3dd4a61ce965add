"""Streams of ids: well formed ones as openai-harmony reads them, malformed ones without a loss."""

import random
import re

import numpy as np
import openai_harmony as oh
import pytest
from openai_harmony import Role
from test_harmony import CASES

from gptoss_edu.parser import Message, StreamParser, is_spoken
from gptoss_edu.tokenizer import (
    CHANNEL,
    END,
    MESSAGE,
    RETURN,
    START,
    Tokenizer,
    load_encoding,
)


def ids_of(text: str) -> list[int]:
    """Text -> ids, with control tokens written by name."""
    return load_encoding().encode(text, allowed_special="all")


def fed(ids, functions=()) -> StreamParser:
    parser = StreamParser(functions)
    for token in ids:
        parser.feed(token)
    return parser


def parse(ids, finish=True):
    """Feeds ids one by one; checks what must hold for any ids; -> pieces, messages."""
    parser, pieces = StreamParser(), []
    for token in ids:
        pieces += parser.feed(token)
    if finish:
        pieces += parser.finish()
        assert parser.finish() == []
        assert "".join(p.text for p in pieces) == "".join(m.text for m in parser.messages)
    assert all(piece.text for piece in pieces)
    later = iter(ids)  # every id is told once, in order
    assert all(token in later for piece in pieces for token in piece.token_ids)
    return pieces, parser.messages


def brief(messages) -> list[tuple]:
    return [(m.channel, m.recipient, m.content_type, m.text) for m in messages]


WELL_FORMED = [
    "<|channel|>final<|message|>Three.<|return|>",
    "<|channel|>analysis<|message|>Count: s-t-r 🍓 日本<|end|>"
    "<|start|>assistant<|channel|>final<|message|>Three.\n\n**3**<|return|>",
    "<|channel|>analysis<|message|>x<|end|><|start|>assistant<|channel|>commentary"
    ' to=functions.get_weather <|constrain|>json<|message|>{"city":"Oslo"}<|call|>',
    ' to=functions.f<|channel|>commentary <|constrain|>json<|message|>{"a": [1]}<|call|>',
    ' to=functions.f<|channel|>commentary json<|message|>{"a": [1]}<|call|>',
    "<|channel|>commentary to=functions.f<|message|>{}<|call|>",
    "<|channel|>commentary<|message|>I will look.<|end|><|start|>assistant"
    "<|channel|>analysis to=python code<|message|>1+1<|call|>",
    "<|channel|>unheard<|message|>x<|end|>",
    "<|message|>no channel<|end|>",
    "<|channel|>final<|message|><|return|>",
    "<|channel|>final<|message|>written <|message|> again<|return|>",
    "<|channel|>analysis<|message|>a<|end|><|start|>functions.f to=assistant<|channel|>commentary"
    "<|message|>made up<|end|><|start|>user<|message|>me too<|end|>",
]


@pytest.mark.parametrize("text", WELL_FORMED)
def test_parses_like_openai_harmony(text):
    ids = ids_of(text)
    _, messages = parse(ids)
    official = load_encoding().parse_messages_from_completion_tokens(ids, Role.ASSISTANT)
    assert len(messages) == len(official)
    for ours, theirs in zip(messages, official, strict=True):
        assert ours.complete
        assert (ours.role, ours.name) == (theirs.author.role.value, theirs.author.name)
        assert (ours.channel, ours.recipient) == (theirs.channel, theirs.recipient)
        assert ours.content_type == theirs.content_type
        assert ours.text == theirs.content[0].text


@pytest.mark.parametrize("text", WELL_FORMED)
def test_streams_like_openai_harmony(text):
    official = oh.StreamableParser(load_encoding(), Role.ASSISTANT)
    parser = StreamParser()
    for token in ids_of(text):
        delta = official.process(token).last_content_delta
        pieces = parser.feed(token)
        if "made up" not in text:
            assert "".join(piece.text for piece in pieces) == (delta or "")
        for piece in pieces:
            assert piece.token_ids[-1] == token
            assert (piece.channel, piece.recipient) == (
                official.current_channel,
                official.current_recipient,
            )


@pytest.mark.parametrize("name", CASES)
def test_reads_back_what_was_rendered(name):
    """Each assistant message of a rendered conversation, parsed as if it had been sampled."""
    messages = [m for m in CASES[name][2] if m.author.role == Role.ASSISTANT]
    for message in messages:
        ids = load_encoding().render(message)
        _, (parsed,) = parse(ids[2:])  # after <|start|>assistant
        kind, text = message.content_type, message.content[0].text
        assert brief([parsed]) == [(message.channel, message.recipient, kind, text)]


MALFORMED = {
    # no <|message|>: the text is kept, and so is the next message
    "<|channel|>final Hello<|return|>": [("final", None, None, "Hello")],
    "<|channel|>analysis hm<|end|><|start|>assistant<|channel|>final<|message|>x<|return|>": [
        ("analysis", None, None, "hm"),
        ("final", None, None, "x"),
    ],
    "<|channel|>analysis hm<|channel|>final<|message|>x": [
        ("analysis", None, None, "hm"),
        ("final", None, None, "x"),
    ],
    '<|channel|>commentary to=functions.f <|constrain|>json{"a":1}<|call|>': [
        ("commentary", "functions.f", "<|constrain|>json", '{"a":1}')
    ],
    # no header at all
    "Hello there": [(None, None, None, "Hello there")],
    "  Hello <|return|>": [(None, None, None, "  Hello ")],
    "Hello there<|channel|>final<|message|>x<|return|>": [
        (None, None, None, "Hello there"),
        ("final", None, None, "x"),
    ],
    # a marker in the recipient's place, or glued to it
    "<|channel|>final <|constrain|>json<|message|>{}<|return|>": [
        ("final", None, "<|constrain|>json", "{}")
    ],
    "<|channel|>commentary to=functions.f<|constrain|>json<|message|>{}<|call|>": [
        ("commentary", "functions.f", "<|constrain|>json", "{}")
    ],
    "<|channel|>commentary functions.f<|message|>{}<|call|>": [
        ("commentary", "functions.f", None, "{}")
    ],
    "<|channel|>commentary <|constrain|>json to=functions.f<|message|>{}<|call|>": [
        ("commentary", "functions.f", "<|constrain|>json", "{}")
    ],
    "<|channel|>commentary json<|message|>{}<|call|>": [("commentary", None, "json", "{}")],
    # words that stand alone where a header breaks off
    "<|channel|>42<|return|>": [(None, None, None, "42")],
    "<|channel|>finally<|return|>": [(None, None, None, "finally")],
    "<|channel|>finalHello<|return|>": [("final", None, None, "Hello")],
    "<|channel|>final final words<|return|>": [("final", None, None, "final words")],
    "<|channel|>final json<|return|>": [("final", None, None, "json")],
    "<|start|>Hello<|end|>": [(None, None, None, "Hello")],
    "<|start|>assistant<|channel|>Paris<|return|>": [(None, None, None, "Paris")],
    "<|start|>assistant Paris<|return|>": [(None, None, None, "Paris")],
    "user manual<|return|>": [(None, None, None, "user manual")],
    "to=Paris<|return|>": [(None, "Paris", None, "")],
    "<|channel|>commentary to=functions.f Paris<|return|>": [
        ("commentary", "functions.f", None, "Paris")
    ],
    # a recipient ends where a name ends
    '<|channel|>commentary to=functions.f{"a":1}<|call|>': [
        ("commentary", "functions.f", None, '{"a":1}')
    ],
    '<|channel|>commentary to=functions.f{"city": "New York"}<|call|>': [
        ("commentary", "functions.f", None, '{"city": "New York"}')
    ],
    '<|channel|>commentary to=functions.f\n{"a":1}<|call|>': [
        ("commentary", "functions.f", None, '{"a":1}')
    ],
    '<|channel|>commentary to=functions.f["a"]<|call|>': [
        ("commentary", "functions.f", None, '["a"]')
    ],
    '<|channel|>commentary to=functions.f json{"a":1}<|call|>': [
        ("commentary", "functions.f", "json", '{"a":1}')
    ],
    '<|channel|>commentary json to=functions.f{"a":1}<|call|>': [
        ("commentary", "functions.f", "json", '{"a":1}')
    ],
    '<|channel|>commentary functions.f{"a":1}<|call|>': [
        ("commentary", "functions.f", None, '{"a":1}')
    ],
    ' to=functions.f{"a":1}<|call|>': [(None, "functions.f", None, '{"a":1}')],
    '<|channel|>commentary to=functions.f{"a":1}<|message|><|call|>': [
        ("commentary", "functions.f", None, '{"a":1}')
    ],
    '<|channel|>commentaryto=functions.f json<|message|>{"a":1}<|call|>': [
        ("commentary", "functions.f", "json", '{"a":1}')
    ],
    "<|channel|>analysis to=python code print(1)<|call|>": [
        ("analysis", "python", "code", "print(1)")
    ],
    "<|channel|>analysis to=python print(1)<|call|>": [("analysis", "python", None, "print(1)")],
    # a header begun anew, with and without a text before
    "<|channel|>commentary to=functions.f<|channel|>commentary json<|message|>{}<|call|>": [
        ("commentary", "functions.f", "json", "{}")
    ],
    '<|channel|>commentary to=functions.f {"a":1}<|channel|>final<|message|>x<|return|>': [
        ("commentary", "functions.f", None, '{"a":1}'),
        ("final", None, None, "x"),
    ],
    " to=functions.f<|channel|>commentary to=functions.g json<|message|>{}<|call|>": [
        ("commentary", "functions.f", "to=functions.g json", "{}")
    ],
    # a channel in the place of who speaks
    "<|start|>final<|message|>x<|return|>": [("final", None, None, "x")],
    "<|start|>assistantfinal<|message|>x<|return|>": [("final", None, None, "x")],
    "<|start|>assistant final<|message|>x<|return|>": [("final", None, None, "x")],
    "<|start|>assistantanalysis hm<|end|><|start|>assistantfinal x<|return|>": [
        ("analysis", None, None, "hm"),
        ("final", None, None, "x"),
    ],
    "final<|message|>x<|return|>": [("final", None, None, "x")],
    "<|start|>Bob<|channel|>final<|message|>x<|return|>": [("final", None, None, "x")],
    # messages that do not end, or do not begin
    "<|channel|>analysis<|message|>hm<|start|>assistant<|channel|>final<|message|>x": [
        ("analysis", None, None, "hm"),
        ("final", None, None, "x"),
    ],
    "<|channel|>analysis<|message|>hm<|channel|>final<|message|>x<|return|>": [
        ("analysis", None, None, "hm"),
        ("final", None, None, "x"),
    ],
    "<|channel|>analysis<|message|>hm<|end|>assistant<|channel|>final<|message|>x<|return|>": [
        ("analysis", None, None, "hm"),
        ("final", None, None, "x"),
    ],
    "<|channel|>analysis<|message|>hm<|end|><|end|><|end|><|channel|>final<|message|>x": [
        ("analysis", None, None, "hm"),
        ("final", None, None, "x"),
    ],
    "<|start|>assistant<|channel|>final<|message|>x<|return|><|return|>": [
        ("final", None, None, "x")
    ],
    "<|channel|>final<|message|>x<|endoftext|>": [("final", None, None, "x")],
    "<|channel|><|message|>x<|end|>": [(None, None, None, "x")],
    "<|channel|><|channel|>final<|message|>x<|end|>": [("final", None, None, "x")],
    # cut short within a header: no message, unless it says something that a header need not say
    "": [],
    "<|channel|>": [],
    "<|channel|>fin": [],
    "<|channel|>final": [],
    "<|start|>assist": [],
    "<|channel|>commentary to=": [],
    "<|channel|>commentary <|constrain|>": [],
    "<|channel|>commentary <|constrain|>json": [],
    "<|channel|>commentary to=functions.": [("commentary", "functions.", None, "")],
    "<|channel|>commentary to=functions.f <|constrain|>": [
        ("commentary", "functions.f", "<|constrain|>", "")
    ],
    "<|channel|>commentary to=functions.f <|constrain|>js": [
        ("commentary", "functions.f", "<|constrain|>", "")
    ],
    " to=functions.f<|channel|>commentary json": [("commentary", "functions.f", "json", "")],
    "<|channel|>analysis<|message|>hm<|end|><|start|>": [("analysis", None, None, "hm")],
    "<|channel|>analysis<|message|>hm<|end|><|start|>assistant": [("analysis", None, None, "hm")],
    # other control tokens, and markers spelled in letters, are text
    "<|channel|>final<|message|>a<|constrain|>b<|reserved_200013|><|startoftext|>": [
        ("final", None, None, "a<|constrain|>b<|reserved_200013|><|startoftext|>")
    ],
}


@pytest.mark.parametrize("text", MALFORMED)
def test_malformed_streams(text):
    assert brief(parse(ids_of(text))[1]) == MALFORMED[text]


@pytest.mark.parametrize(
    "header",
    [
        "<|channel|>commentary functions.f to=functions.g",
        " to=functions.f json<|channel|>commentary",
        " to=functions.f a<|channel|>commentary json",
    ],
)
def test_the_first_recipient_counts_wherever_other_words_stand(header):
    (message,) = parse(ids_of(f"{header}<|message|>{{}}<|call|>"))[1]
    assert (message.channel, message.function, message.text) == ("commentary", "f", "{}")


def test_plain_text_shows_before_it_ends():
    ids = ids_of("word " * 200)
    pieces, messages = parse(ids, finish=False)
    assert not messages
    assert len("".join(piece.text for piece in pieces)) > 600
    assert brief(parse(ids)[1]) == [(None, None, None, "word " * 200)]


def test_a_header_that_grows_too_long_is_text():
    """64 ids may be one; with the next it is shown as it is, and goes on being shown."""
    parser = StreamParser()
    (word,) = ids_of(" word")
    assert [parser.feed(word) for _ in range(StreamParser.MAX_HEADER)] == [[]] * 64
    (piece,) = parser.feed(word)
    assert piece.text == " word" * 65
    assert [piece.text for piece in parser.feed(word)] == [" word"]


def single(data: bytes) -> list[int]:
    return [Tokenizer().encode(chr(b))[0] if b < 128 else BYTE_IDS[b] for b in data]


BYTE_IDS = {Tokenizer().token_bytes(token)[0]: token for token in range(256)}
FINAL = [CHANNEL, 17196, MESSAGE]


def test_a_character_over_several_tokens_comes_whole():
    ids = [BYTE_IDS[byte] for byte in "🤖é".encode()]
    pieces, _ = parse([*FINAL, *ids, RETURN])
    assert [(p.text, p.token_ids) for p in pieces] == [
        ("🤖", tuple(ids[:4])),
        ("é", tuple(ids[4:])),
    ]


@pytest.mark.parametrize("closing", [[RETURN], [END], [START], [CHANNEL], [], [MESSAGE]])
def test_half_a_character_is_never_lost(closing):
    ids = [BYTE_IDS[byte] for byte in b"ok\xf0\x9f"]
    _, messages = parse([*FINAL, *ids, *closing])
    assert messages[0].text == "ok\ufffd" + ("<|message|>" if closing == [MESSAGE] else "")


@pytest.mark.parametrize(
    "data", [b"\xff\xfe", b"\xe6\x97A", b"a\x80\x80b", b"\xf0\x9f\xf0\x9f\xa4\x96", b"\xc3\xc3\xa9"]
)
def test_bytes_that_are_no_utf8(data):
    expected = data.decode("utf-8", "replace")
    for ids in ([*FINAL, *(BYTE_IDS[b] for b in data), RETURN], [BYTE_IDS[b] for b in data]):
        assert parse(ids)[1][0].text == expected
    header = [CHANNEL, 17196, BYTE_IDS[0xE6], BYTE_IDS[0x97], END]  # half a character in a header
    assert parse(header)[1][0].text == "\ufffd"


@pytest.mark.parametrize("token", [201_088, 999_999, -1, 2**70, np.int64(201_088)])
def test_an_id_outside_the_vocabulary_is_a_replacement(token):
    ids = [*FINAL, *ids_of("before"), token, *ids_of(" after"), RETURN]
    assert brief(parse(ids)[1]) == [("final", None, None, "before\ufffd after")]


def test_what_is_no_id_is_refused():
    with pytest.raises(TypeError):
        StreamParser().feed(1.5)


# ------------------------------------------------------------------------------ nothing gets lost

HEADER_WORDS = "assistant|user|system|developer|analysis|commentary|final|to=|json|code"


def found_again(text: str, messages) -> list[str]:
    """The words of a stream that are in no field of any message."""
    fields = [(m.role, m.name, m.channel, m.recipient, m.content_type, m.text) for m in messages]
    kept = " ".join(word for field in fields for word in field if word)
    words = re.sub(rf"<\|\w+\|>|{HEADER_WORDS}", " ", text)
    return [word for word in re.findall(r"\w+", words) if word not in kept]


@pytest.mark.parametrize("text", MALFORMED)
def test_no_word_of_a_malformed_stream_is_lost(text):
    broken = {"fin", "assist", "js"}  # cut short in the middle of a word that a header has
    assert set(found_again(text, parse(ids_of(text))[1])) <= broken


def test_no_word_is_lost_wherever_a_header_breaks_off():
    draw = random.Random(5)
    control = ["<|start|>", "<|channel|>", "<|message|>", "<|constrain|>", "<|end|>", "<|call|>"]
    control += ["<|return|>", "<|channel|>", "<|start|>assistant<|channel|>"]
    header = ["assistant", " to=functions.f", "to=python", "commentary", "analysis", "final"]
    header += [
        "json",
        " json",
        " code",
        "final.",
        "functions.g",
        ' {"a":',
        "user",
        ":",
        "(",
        " to=",
    ]
    for _ in range(1500):
        parts = [
            draw.choice([control, header, header, ["w"]]) for _ in range(draw.randrange(1, 14))
        ]
        drawn = [draw.choice(part) for part in parts]
        spaced = [
            f"{draw.choice(['', ' '])}q{draw.randrange(9999)}z" if d == "w" else d for d in drawn
        ]
        text = "".join(spaced) + draw.choice(["<|return|>", "<|end|>", "<|call|>", "<|start|>"])
        assert not found_again(text, parse(ids_of(text))[1]), text


# ------------------------------------------------------- recipients that can only mean one function

FUNCTIONS = ("get_weather", "web-search", "f", "mcp__files__read", "search")
MEANT = {
    "get_weather": "get_weather",
    "web-search": "web-search",
    "web_search": "web-search",
    "Get_Weather": "get_weather",
    "function.get_weather": "get_weather",
    "functions.ns.f": "f",
    "functions/f": "f",
    "functions:f": "f",
    "tools.f": "f",
    "tool:get_weather": "get_weather",
    "mcp__server.f": "f",
    "mcp__server__f": "f",
    "mcp__files.read": "mcp__files__read",
    "functions.mcp__files__read": "mcp__files__read",
    "functions.get_weatherjson": "get_weather",
    "functions.get_weathercommentary": "get_weather",
    "get_weatherjson": "get_weather",
    "functions.other": "other",  # of a function that is not there, but a call
}
NOT_MEANT = ["python", "browser.search", "browser.f", "container.f", "user", "assistant", "all"]
NOT_MEANT += ["weather", "get_weather_now", "other"]


@pytest.mark.parametrize("recipient", MEANT)
def test_a_recipient_that_can_only_mean_one_function_is_its_call(recipient):
    text = f'<|channel|>commentary to={recipient} <|constrain|>json<|message|>{{"a":1}}<|call|>'
    (message,) = fed(ids_of(text), FUNCTIONS).messages
    assert (message.function, message.text) == (MEANT[recipient], '{"a":1}')
    (message,) = fed(ids_of(text.replace(" <|constrain|>json<|message|>", "")), FUNCTIONS).messages
    assert (message.function, message.text) == (MEANT[recipient], '{"a":1}')


@pytest.mark.parametrize("recipient", NOT_MEANT)
def test_a_recipient_that_means_somebody_else_is_no_function(recipient):
    text = f"<|channel|>commentary to={recipient} <|constrain|>json<|message|>{{}}<|call|>"
    (message,) = fed(ids_of(text), FUNCTIONS).messages
    assert (message.recipient, message.function) == (recipient, None)


def test_a_function_may_have_the_name_of_a_built_in_tool():
    """Whoever gives the model a function `python` means it; without one it is OpenAI's."""
    text = "<|channel|>commentary to=python json<|message|>{}<|call|>"
    assert fed(ids_of(text)).messages[0].function is None
    assert fed(ids_of(text), ["python"]).messages[0].function == "python"
    assert fed(ids_of(text.replace("python", "user")), ["user"]).messages[0].function is None


def test_two_functions_that_a_name_could_mean_are_none():
    text = "<|channel|>commentary to=web.search json<|message|>{}<|call|>"
    functions = ["web-search", "web_search"]
    assert fed(ids_of(text), functions).messages[0].recipient == "web.search"


def test_a_function_named_without_to():
    for kind in (" json<|message|>", "<|message|>", " <|constrain|>json<|message|>", ""):
        text = f'<|channel|>commentary get_weather{kind}{{"a":1}}<|call|>'
        (message,) = fed(ids_of(text), FUNCTIONS).messages
        assert (message.function, message.text) == ("get_weather", '{"a":1}'), text
    for text in ("search", "<|channel|>commentary search it<|end|>", "f {x}"):  # a word is no call
        parser = fed(ids_of(text), FUNCTIONS)
        parser.finish()
        assert parser.messages[0].function is None


def test_only_the_assistant_speaks_and_only_to_readers():
    said = {
        role: is_spoken(Message(role, "final", None, None, "hi"))
        for role in ("assistant", "user", "tool")
    }
    assert said == {"assistant": True, "user": False, "tool": False}
    assert not is_spoken(Message("assistant", "commentary", "functions.f", None, "{}"))


@pytest.mark.parametrize("call_id, more", [("call_1", {"id": "call_1"}), (None, {})])
def test_a_call_has_the_id_that_it_was_given(call_id, more):
    message = Message("assistant", "commentary", "functions.f", "json", "{}")
    (call,) = message.to_dict(call_id)["tool_calls"]
    function = {"name": "f", "arguments": "{}"}
    assert call == {"type": "function", "function": function} | more
