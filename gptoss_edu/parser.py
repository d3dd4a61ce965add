"""Ids to messages: what a model writes, as it comes, one token at a time.

A sampled header may be malformed in any way, so the parser never raises and never drops text. It is
our own, because openai-harmony's either raises on malformed output or loses it; on well-formed
output the two agree.

Source: the Harmony format, as openai-harmony 0.0.8 parses it.
"""

from __future__ import annotations

import codecs
import dataclasses
import operator
import re
from collections.abc import Iterable
from typing import Any

from gptoss_edu.tokenizer import CHANNEL, END, FULL_VOCAB, MESSAGE, START, STOP_TOKENS, Tokenizer

CHANNELS = ("analysis", "commentary", "final")
FUNCTION_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
HEADER_WORD = re.compile(r"[^\s<>]{1,128}")


@dataclasses.dataclass(frozen=True)
class Piece:
    """New text as it comes: its channel, its recipient if any, and the ids that spelled it.

    An id may end inside a character: it comes with the first piece that has text of it. The role is
    assistant, unless the model makes up what a user or a tool says.
    """

    channel: str | None
    text: str
    token_ids: tuple[int, ...]
    recipient: str | None = None
    role: str = "assistant"


@dataclasses.dataclass(frozen=True)
class Message:
    """One parsed message. `complete` is False when the ids ended before the message did."""

    role: str
    channel: str | None
    recipient: str | None
    content_type: str | None
    text: str
    name: str | None = None
    complete: bool = True

    @property
    def function(self) -> str | None:
        """NAME when the recipient is functions.NAME: then this message is a tool call."""
        prefix, _, name = (self.recipient or "").partition(".")
        is_call = prefix == "functions" and self.role == "assistant"
        return name if is_call and FUNCTION_NAME.fullmatch(name) else None

    def to_dict(self, call_id: str | None = None) -> dict[str, Any]:
        """The message in OpenAI's chat format, as `render` reads it; malformed fields left out."""
        if self.function is not None:
            function = {"name": self.function, "arguments": self.text}
            call = {"type": "function", "function": function} | ({"id": call_id} if call_id else {})
            return {"role": "assistant", "content": None, "tool_calls": [call]}
        keys = {"user": "name", "tool": "name", "assistant": "channel name recipient content_type"}
        fields = {"role": self.role, "content": self.text}
        for key in keys.get(self.role, "").split():
            word = getattr(self, key) or ""
            known = key != "channel" or word in CHANNELS
            if known and HEADER_WORD.fullmatch(word.removeprefix("<|constrain|>")):
                fields[key] = word
        return fields


class StreamParser:
    """Sampled ids -> pieces of text, one id at a time, in constant time, without ever raising.

    Starts where `render` stops: after `<|start|>assistant`. What a model may do wrong, and what
    becomes of it:
    - no `<|message|>`: what follows the channel (or, without one, everything) is the text;
    - `<|start|>` or `<|channel|>` inside a text: a new message begins;
    - `<|end|>` twice, or no `<|start|>` after it: ignored, or understood;
    - unknown channel or recipient: kept as it is; other control tokens in a text: shown as text;
    - bytes that are not UTF-8, ids outside the vocabulary: U+FFFD, once no later byte can help.
    The texts of the pieces of a message always join to the message's text.
    """

    # A header is about ten tokens. Beyond 64 it is not a header but text, to be shown as it comes.
    MAX_HEADER = 64
    CLOSING = frozenset((END, START, *STOP_TOKENS))

    def __init__(self) -> None:
        self._messages: list[Message] = []
        self._begin(None)

    def _begin(self, after: int | None) -> None:
        """Expect the header of a message, `after` the token that closed the one before."""
        self._explicit = after == START
        self._header = [CHANNEL] if after == CHANNEL else []
        self._open: Message | None = None
        self._texts: list[str] = []
        self._pending: list[int] = []
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    @property
    def messages(self) -> list[Message]:
        """The messages that are over; after `finish`, all of them."""
        return list(self._messages)

    @property
    def channel(self) -> str | None:
        """The channel of the message whose text is coming now."""
        return self._open.channel if self._open else None

    def feed(self, token: int) -> list[Piece]:
        """Takes one sampled id; returns the pieces of text that it completed, often one or none."""
        token = operator.index(token)
        if token in self.CLOSING or (token == CHANNEL and self._is_new_message()):
            return self._close(token)
        if self._open is not None:
            self._pending.append(token)
            return self._piece(_bytes([token]))
        if token == MESSAGE:
            self._open, _ = self._parse_header(finished=True)
            self._header = []
            return []
        self._header.append(token)
        return self._give_up_header() if len(self._header) > self.MAX_HEADER else []

    def finish(self) -> list[Piece]:
        """No more ids: returns the held back rest, and closes the last message as incomplete."""
        return self._close(None)

    def _is_new_message(self) -> bool:
        """A channel is named: does that open a message, after a text without its proper end?"""
        if self._open is not None or CHANNEL in self._header:
            return True
        message, text = self._parse_header(finished=False)
        return message.recipient is None and bool(text.strip())

    def _piece(self, data: bytes, *, final: bool = False) -> list[Piece]:
        """The text that `data` completes: bytes, since a character may span several tokens."""
        message, text = self._open, self._decoder.decode(data, final)
        if not text or message is None:
            return []
        ids, self._pending = tuple(self._pending), []
        self._texts.append(text)
        return [Piece(message.channel, text, ids, message.recipient, message.role)]

    def _give_up_header(self) -> list[Piece]:
        """Without `<|message|>`: what does not belong to a header is the text."""
        self._open, text = self._parse_header(finished=False)
        self._pending, self._header = self._header, []
        return self._piece(text)

    def _close(self, token: int | None) -> list[Piece]:
        """The message is over: closed by a token, or cut off (None)."""
        pieces = []
        if self._open is None and self._header:
            pieces = self._give_up_header()
            if not pieces and not self._decoder.getstate()[0]:
                self._open = None  # nothing but a header, cut short: no message
        if self._open is not None:
            pieces += self._piece(b"", final=True)
            text, complete = "".join(self._texts), token is not None
            self._messages.append(dataclasses.replace(self._open, text=text, complete=complete))
        self._begin(token)
        return pieces

    def _parse_header(self, *, finished: bool) -> tuple[Message, bytes]:
        """Header ids -> the message they announce, and the bytes that belong to its text.

        With `<|message|>` (finished) every word has its place: role, channel, to=recipient, content
        type. Without it only what is certain is taken, and the rest is text.
        """
        ids = self._header
        channels = [index for index, token in enumerate(ids) if token == CHANNEL]
        role, name, rest = self._parse_role(_bytes(ids[: channels[0]] if channels else ids))
        recipient, rest = _parse(RECIPIENT, rest)
        channel = None
        if channels:
            leftover = rest.strip()
            pattern = rb"([^\s<]+)" if finished else CHANNEL_BEFORE_TEXT
            channel, rest = _parse(pattern, _bytes(ids[channels[-1] + 1 :]))
            channel = channel and channel.strip()
            late, rest = _parse(RECIPIENT, rest)
            recipient = recipient or late
            rest = leftover + b" " + rest if leftover else rest
        if not finished:
            kind, rest = _parse(rb"(<\|constrain\|>)\s*([A-Za-z]*)", rest)
            if kind is None and recipient is not None:
                kind, rest = _parse(rb"([a-z]+)\s*$", rest)
            text = rest.lstrip() if channels or recipient else rest
            return Message(role, channel, recipient, kind, "", name), text
        words = rest.replace(b"<|constrain|>", b" <|constrain|>").decode("utf-8", "replace").split()
        # `functions.f` is a call even without "to=", or after the type; `json` alone is a type.
        calls = [word for word in words if word.startswith(("to=", "functions."))]
        if recipient is None and calls:
            words.remove(calls[0])
            recipient = calls[0].removeprefix("to=") or None
        return Message(role, channel, recipient, " ".join(words) or None, "", name), b""

    def _parse_role(self, header: bytes) -> tuple[str, str | None, bytes]:
        """The part before the channel -> role, name of the author, rest."""
        author, rest = _parse(rb"((?:assistant|user|system|developer)(?::\S+)?)(?=\s|$)", header)
        if author is not None:
            role, _, name = author.partition(":")
            return role, name or None, rest
        # After <|start|> a tool speaks under its own name: `functions.f to=assistant`.
        tool, rest = _parse(rb"(?!to=)(\S+)", header) if self._explicit else (None, header)
        return "assistant" if tool is None else "tool", tool, rest


RECIPIENT = rb"to=([^\s<]+)"
# Where text may follow: a known channel, or a word that is all there is (a header cut short).
CHANNEL_BEFORE_TEXT = rb"(?:(analysis|commentary|final)|([^\s<]+)\s*$)"


def _parse(pattern: bytes, header: bytes) -> tuple[str | None, bytes]:
    """What the groups of `pattern` match at the start of `header`, if it is there; and the rest."""
    match = re.match(rb"\s*" + pattern, header)
    if match is None:
        return None, header
    return b"".join(filter(None, match.groups())).decode("utf-8", "replace"), header[match.end() :]


def _bytes(ids: Iterable[int]) -> bytes:
    known = Tokenizer().token_bytes
    return b"".join(known(i) if 0 <= i < FULL_VOCAB else "\ufffd".encode() for i in ids)
