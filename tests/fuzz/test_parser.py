"""Streams of ids: proper ones, broken ones, and ones that end anywhere."""

from __future__ import annotations

import dataclasses
import time
from typing import Any, NamedTuple

import pytest
from hypothesis import strategies as st
from openai_harmony import Role

from fuzz.oracles import TIMES, examine, fuzz
from gptoss_edu.parser import Message, Piece, StreamParser
from gptoss_edu.reply import Reply, make_reply
from gptoss_edu.tokenizer import CHANNEL, RETURN, START, Tokenizer, byte_ids, load_encoding

CONTROL = ["start", "end", "message", "channel", "constrain", "return", "call", "endoftext"]
CONTROL = [f"<|{name}|>" for name in (*CONTROL, "startoftext", "reserved_200013")]
PLANTED = "Planted 🌱."
FINAL = ["<|start|>", "assistant", "<|channel|>", "final", "<|message|>", PLANTED, "<|end|>"]
Part = str | int | bytes  # text or a control token by name, an id, bytes of one token each


def to_ids(parts: list[Part]) -> list[int]:
    """What a model would sample. Control tokens are those that stand alone."""
    ids: list[int] = []
    for part in parts:
        if isinstance(part, str):
            allowed: Any = "all" if part in CONTROL else set()
            ids += load_encoding().encode(part, allowed_special=allowed, disallowed_special=())
        elif isinstance(part, bytes):
            ids += [byte_ids()[byte] for byte in part]
        else:
            ids.append(part)
    return ids


def parse(ids: list[int], *, looking: bool = False) -> tuple[list[Piece], list[Message]]:
    """Pieces and messages; `looking` reads what can be read at every step."""
    parser, pieces = StreamParser(), []
    for token in ids:
        pieces += parser.feed(token)
        if looking:
            assert len(parser.messages) <= len(ids)
            assert parser.channel is None or isinstance(parser.channel, str)
    pieces += parser.finish()
    return pieces, parser.messages


def check_stream(ids: list[int]) -> list[Message]:
    """What holds of any stream; -> its messages."""
    (pieces, messages), error = examine("parser", lambda: parse(ids))
    assert error is None
    assert (pieces, messages) == parse(ids, looking=True)
    assert "".join(piece.text for piece in pieces) == "".join(m.text for m in messages)
    later = iter(ids)
    assert all(token in later for piece in pieces for token in piece.token_ids)
    return messages


def reply_to(ids: list[int], reason: str = "length") -> Reply:
    parser = StreamParser()
    for token in ids:
        parser.feed(token)
    return make_reply(parser, prompt_ids=(1, 2), token_ids=ids, finish_reason=reason, stats=None)


# ---- proper streams ------------------------------------------------------------------------------


class Said(NamedTuple):
    """A message as a trained model writes it."""

    channel: str
    recipient: str | None
    before: bool  # does the recipient stand before the channel?
    kind: str
    text: str

    def parts(self) -> list[Part]:
        """Its tokens, from behind `<|start|>assistant` to before what closes it."""
        to = f" to={self.recipient}" if self.recipient else ""
        first, second = (to, "") if self.before else ("", to)
        kind: list[Part] = [f" {self.kind}"] if self.kind and self.recipient else []
        if kind and self.kind.startswith("<|constrain|>"):
            kind = [" ", "<|constrain|>", self.kind.removeprefix("<|constrain|>")]
        head = [first, "<|channel|>", self.channel + second, *kind, "<|message|>"]
        return [*head, self.text]


names = st.from_regex(r"[a-z][a-zA-Z0-9_-]{0,12}", fullmatch=True)
recipients = st.one_of(
    st.none(), names.map("functions.".__add__), st.sampled_from(["python", "browser.search"])
)
said = st.builds(
    Said,
    st.sampled_from(["analysis", "commentary", "final"]),
    recipients,
    st.booleans(),
    st.sampled_from(["", "json", "code", "<|constrain|>json"]),
    st.text(max_size=30),
)


def conversation(messages: list[Said], last: str) -> list[Part]:
    parts: list[Part] = []
    for number, message in enumerate(messages):
        closing = last if number + 1 == len(messages) else "<|end|>"
        parts += [*(["<|start|>", "assistant"] if number else []), *message.parts(), closing]
    return parts


@fuzz(
    500,
    st.lists(said, min_size=1, max_size=4),
    st.sampled_from(["<|return|>", "<|end|>", "<|call|>"]),
    seeds=[
        (
            [Said("analysis", None, False, "", "s-t-r 🍓"), Said("final", None, False, "", "3")],
            "<|return|>",
        ),
        ([Said("commentary", "functions.f", True, "json", '{"a": [1]}')], "<|call|>"),
        ([Said("commentary", "functions.f", False, "<|constrain|>json", "{}")], "<|call|>"),
        ([Said("analysis", "python", False, "code", "print(1)")], "<|call|>"),
        ([Said("final", None, False, "", "")], "<|return|>"),
    ],
)
def test_proper_streams_are_read_as_openai_harmony_reads_them(messages, last):
    ids = to_ids(conversation(messages, last))
    official = load_encoding().parse_messages_from_completion_tokens(ids, Role.ASSISTANT)
    ours = check_stream(ids)
    assert all(message.complete for message in ours)
    assert [(m.role, m.channel, m.recipient, m.content_type, m.text) for m in ours] == [
        (m.author.role.value, m.channel, m.recipient, m.content_type, m.content[0].text)
        for m in official
    ]


@fuzz(200, st.lists(said, min_size=1, max_size=3), st.floats(0, 1))
def test_a_stream_that_ends_anywhere_keeps_what_was_said(messages, share):
    ids = to_ids(conversation(messages, "<|return|>"))
    whole, cut = parse(ids)[1], check_stream(ids[: int(share * len(ids))])
    assert len(cut) <= len(whole)
    assert cut[:-1] == whole[: max(0, len(cut) - 1)]
    for ours, meant in zip(cut[-1:], whole[len(cut) - 1 :], strict=False):
        if dataclasses.replace(ours, text="", complete=True) == dataclasses.replace(meant, text=""):
            assert meant.text.startswith(ours.text.rstrip("\ufffd"))


# ---- broken streams ------------------------------------------------------------------------------

WORDS = ["assistant", "user", "system", "functions.f", "final", "analysis", "commentary", " to="]
WORDS += [" to=functions.f", " to=python", "json", " ", "\n", '{"a": 1}', "final.", "??", "é", "🤖"]
MARKERS = [f"zq{number}x" for number in range(6)]
garbage = st.one_of(
    st.sampled_from(CONTROL),
    st.sampled_from(WORDS),
    st.sampled_from(MARKERS),
    st.sampled_from(MARKERS).map(" ".__add__),
    st.text(max_size=6),
    st.binary(max_size=4),
    st.integers(-(2**40), 2**70) | st.integers(199_990, 201_100),
    st.sampled_from(["word " * 80, "x" * 400]),
)
# Every stream of a review or a report that once went wrong.
BROKEN: list[list[Part]] = [
    ["<|channel|>", MARKERS[0], "<|return|>"],
    ["<|start|>", MARKERS[0], "<|end|>"],
    ["<|start|>", "assistant", "<|channel|>", MARKERS[0], "<|return|>"],
    ["to=" + MARKERS[0], "<|return|>"],
    ["<|channel|>", "final " + MARKERS[0], "<|return|>"],
    ["<|channel|>", 'commentary to=functions.f{"a":1}' + MARKERS[0], "<|call|>"],
    ["<|channel|>", 'commentary to=functions.f{"city": "New ' + MARKERS[0] + '"}', "<|call|>"],
    ["<|channel|>", "commentary to=python code print(" + MARKERS[0] + ")", "<|call|>"],
    ["<|channel|>", "commentary––commentary", "<|message|>", MARKERS[0], "<|call|>"],
    ["<|channel|>", "commentary json to=functions.f", "<|message|>", MARKERS[0], "<|call|>"],
    ["<|channel|>", "commentary 2?commentary?", "<|message|>", MARKERS[0], "<|end|>"],
    ["<|channel|>", "analysis", "<|message|>", "a", "<|end|>", MARKERS[0], "<|return|>"],
    ["<|channel|>", "analysis", "<|message|>", "a", "<|end|>", "<|channel|>", MARKERS[0]],
    ["<|start|>", "assistantfinal", "<|message|>", MARKERS[0], "<|return|>"],
    ["<|channel|>", "final", "<|message|>", b"\xf0\x9f", "<|return|>"],
    ["<|channel|>", "final", "<|message|>", -1, 2**70, 201_088, MARKERS[0]],
]


def all_words(messages: list[Message]) -> str:
    fields = ("role", "name", "channel", "recipient", "content_type", "text")
    return "\n".join(str(getattr(m, field)) for m in messages for field in fields)


@fuzz(700, st.lists(garbage, max_size=14), seeds=[(parts,) for parts in BROKEN])
def test_whatever_comes_no_word_is_lost(parts):
    messages = check_stream(to_ids(parts))
    found = all_words(messages)
    for marker in MARKERS:
        written = sum(part.count(marker) for part in parts if isinstance(part, str))
        assert found.count(marker) >= written, f"{marker} of {parts} in {messages}"


@fuzz(
    500,
    st.lists(garbage, max_size=10),
    st.lists(garbage, max_size=6),
    seeds=[(parts, []) for parts in BROKEN],
)
def test_a_final_that_stands_in_garbage_is_found(before, after):
    ids = to_ids([*before, *FINAL, *after])
    planted = Message("assistant", "final", None, None, PLANTED)
    assert planted in check_stream(ids)
    reply = reply_to(ids)
    assert PLANTED in reply.final
    assert [call.id for call in reply.tool_calls] == [*{c.id: 0 for c in reply.tool_calls}]
    for message in reply.to_messages():
        assert message["role"] == "assistant"


@pytest.mark.parametrize("seed", range(5 if TIMES else 1))
def test_a_long_stream_takes_time_in_proportion(seed):
    parts = [CONTROL[seed], "word", "<|channel|>", "final", b"\xf0\x9f\xa4\x96", "x" * 50]
    ids = to_ids(parts)
    length = 200_000 if TIMES else 20_000
    ids = (ids * (length // len(ids) + 1))[:length]
    began = time.process_time()
    (_, messages), error = examine("parser", lambda: parse(ids))
    assert error is None
    assert messages
    assert time.process_time() - began < length / 2_000


def test_markers_are_words_that_nothing_else_says():
    text = " ".join(part for part in [*WORDS, *CONTROL] if isinstance(part, str))
    assert not any(marker in text for marker in MARKERS)
    assert Tokenizer().decode(to_ids(["a", b"\xc3\xa9"])) == "aé"
    assert {CHANNEL, RETURN, START} <= set(to_ids([*CONTROL]))
