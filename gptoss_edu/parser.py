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
from typing import Any

from gptoss_edu.tokenizer import (
    CALL,
    CHANNEL,
    END,
    ENDOFTEXT,
    FULL_VOCAB,
    MESSAGE,
    RETURN,
    START,
    Tokenizer,
)

CHANNELS = ("analysis", "commentary", "final")
FUNCTION_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
HEADER_WORD = re.compile(r"[^\s<>]{1,128}")


@dataclasses.dataclass(frozen=True)
class Piece:
    """New text as it comes: its channel, its recipient if any, and the ids that spelled it.

    An id may end inside a character: it is told with the first piece that has text of it. The role
    is assistant, unless the model makes up what a user or a tool says.
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
        fields = {"channel": self.channel, "name": self.name}
        fields |= {"recipient": self.recipient, "content_type": self.content_type}
        if self.role != "assistant":
            fields = {"name": self.name} if self.role in ("user", "tool") else {}
        elif self.channel not in CHANNELS:
            del fields["channel"]
        for key, value in fields.items():
            if value and HEADER_WORD.fullmatch(value.removeprefix("<|constrain|>")) is None:
                fields[key] = None
        fields = {key: value for key, value in fields.items() if value}
        return {"role": self.role, "content": self.text, **fields}


class StreamParser:
    """Sampled ids -> pieces of text, one id at a time, in constant time, without ever raising.

    Starts where `render` stops: after `<|start|>assistant`. What a model may do wrong, and what
    becomes of it:
    - no `<|message|>`: what follows the channel (or, without one, everything) is the text;
    - `<|start|>` or `<|channel|>` inside a text: a new message begins;
    - `<|end|>` twice, or no `<|start|>` after it: ignored, or understood;
    - unknown channel or recipient: kept as it is; other control tokens in a text: shown as text;
    - bytes that are no UTF-8, ids outside the vocabulary: U+FFFD, once no later byte can help.
    The texts of the pieces of a message always join to the message's text.
    """

    # A header is about ten tokens. Beyond 64 it is no header but text, to be shown as it comes.
    MAX_HEADER = 64
    CLOSING = frozenset((END, RETURN, CALL, ENDOFTEXT))

    def __init__(self) -> None:
        self._tokenizer = Tokenizer()
        self._messages: list[Message] = []
        self._header: list[int] = []
        self._explicit = False
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
        if token in self.CLOSING:
            return self._close()
        if token == START:
            pieces = self._close()
            self._explicit = True
            return pieces
        if token == CHANNEL and self._is_new_message():
            pieces = self._close()
            self._header = [token]
            return pieces
        if self._open is not None:
            return self._take(token)
        if token == MESSAGE:
            self._open, _ = self._parse_header(finished=True)
            self._header = []
            return []
        self._header.append(token)
        return self._give_up_header() if len(self._header) > self.MAX_HEADER else []

    def finish(self) -> list[Piece]:
        """No more ids: returns the held back rest, and closes the last message as incomplete."""
        return self._close(complete=False)

    def _is_new_message(self) -> bool:
        """A channel is named: does that open a message, after a text without its proper end?"""
        if self._open is not None or CHANNEL in self._header:
            return True
        message, text = self._parse_header(finished=False)
        return message.recipient is None and bool(text.strip())

    def _bytes(self, token: int) -> bytes:
        inside = 0 <= token < FULL_VOCAB
        return self._tokenizer.token_bytes(token) if inside else "\ufffd".encode()

    def _piece(self, text: str) -> list[Piece]:
        message = self._open
        if not text or message is None:
            return []
        ids, self._pending = tuple(self._pending), []
        self._texts.append(text)
        return [Piece(message.channel, text, ids, message.recipient, message.role)]

    def _take(self, token: int) -> list[Piece]:
        self._pending.append(token)
        return self._piece(self._decoder.decode(self._bytes(token)))

    def _give_up_header(self) -> list[Piece]:
        """Without `<|message|>`: what does not belong to a header is the text."""
        self._open, text = self._parse_header(finished=False)
        self._pending, self._header = self._header, []
        # The header may end inside a character: bytes, not text, go to the decoder.
        return self._piece(self._decoder.decode(text))

    def _close(self, *, complete: bool = True) -> list[Piece]:
        pieces = []
        if self._open is None and self._header:
            pieces = self._give_up_header()
            if not pieces and not self._decoder.getstate()[0]:
                self._open = None  # nothing but a header, cut short: no message
        if self._open is not None:
            pieces += self._piece(self._decoder.decode(b"", True))
            text = "".join(self._texts)
            self._messages.append(dataclasses.replace(self._open, text=text, complete=complete))
        self._open, self._texts, self._pending, self._header = None, [], [], []
        self._explicit = False
        return pieces

    def _parse_header(self, *, finished: bool) -> tuple[Message, bytes]:
        """Header ids -> the message they announce, and the bytes that belong to its text.

        With `<|message|>` (finished) every word has its place: role, channel, to=recipient, content
        type. Without it only what is certain is taken, and the rest is text.
        """
        ids = self._header
        channels = [index for index, token in enumerate(ids) if token == CHANNEL]
        before = ids[: channels[0]] if channels else ids
        after = ids[channels[-1] + 1 :] if channels else []
        role, name, rest = self._parse_role(b"".join(map(self._bytes, before)))
        recipient, rest = _parse_recipient(rest)
        channel = None
        if channels:
            leftover = rest.strip()
            channel, rest = _parse_channel(b"".join(map(self._bytes, after)), finished)
            late, rest = _parse_recipient(rest)
            recipient = recipient or late
            rest = leftover + b" " + rest if leftover else rest
        if not finished:
            kind, rest = _parse_content_type(rest, alone=recipient is not None)
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
        match = re.match(rb"\s*(assistant|user|system|developer)(?::([^\s]+))?(?=\s|$)", header)
        if match:
            name = match.group(2).decode("utf-8", "replace") if match.group(2) else None
            return match.group(1).decode(), name, header[match.end() :]
        # After <|start|> a tool speaks under its own name: `functions.f to=assistant`.
        tool = re.match(rb"\s*([^\s]+)", header) if self._explicit else None
        if tool and not tool.group(1).startswith(b"to="):
            return "tool", tool.group(1).decode("utf-8", "replace"), header[tool.end() :]
        return "assistant", None, header


def _parse_recipient(header: bytes) -> tuple[str | None, bytes]:
    match = re.match(rb"\s*to=([^\s<]+)", header)
    if not match:
        return None, header
    return match.group(1).decode("utf-8", "replace"), header[match.end() :]


def _parse_channel(header: bytes, finished: bool) -> tuple[str | None, bytes]:
    """The part after `<|channel|>` -> channel, rest.

    Without `<|message|>` text may follow directly: then only a known channel, or a word that is all
    there is (a header cut short), is taken for one.
    """
    pattern = rb"\s*([^\s<]+)" if finished else rb"\s*(analysis|commentary|final|[^\s<]+\s*$)"
    match = re.match(pattern, header)
    if not match:
        return None, header
    return match.group(1).decode("utf-8", "replace").strip(), header[match.end() :]


def _parse_content_type(header: bytes, alone: bool) -> tuple[str | None, bytes]:
    """A content type in a header without `<|message|>`: marked, or (alone) all that is left."""
    match = re.match(rb"\s*(<\|constrain\|>)\s*([A-Za-z]*)", header)
    if not match and alone:
        match = re.match(rb"\s*()([a-z]+)\s*$", header)
    if not match:
        return None, header
    return (match.group(1) + match.group(2)).decode(), header[match.end() :]
