"""Ids to messages: what a model writes, as it comes, one token at a time.

A sampled header may be malformed in any way, so the parser never raises and never drops text. It is
our own, because openai-harmony's either raises on malformed output or loses it; on well-formed
output the two agree.

Source: the Harmony format, as openai-harmony 0.0.8 parses it.
"""

from __future__ import annotations

import codecs
import dataclasses
import itertools
import operator
import re
from collections.abc import Iterable, Sequence
from typing import Any

from gptoss_edu.tokenizer import CALL, CHANNEL, END, MESSAGE, START, STOP_TOKENS, Tokenizer

CHANNELS = ("analysis", "commentary", "final")
FUNCTION_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
HEADER_WORD = re.compile(r"[^\s<>]{1,128}")
NAME = r"[\w.-]+(?:[:/@][\w.-]+)*"  # of a recipient
READERS = (None, "user", "assistant", "all")  # recipients that are no tool: they read along
BUILT_IN = ("python", "browser", "container")  # tools of OpenAI's own, which nobody runs here


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
    """One parsed message. `complete` is False when it broke off: the ids ended, or another message
    began before its text; `announced` is False when no `<|message|>` stood before the text.
    """

    role: str
    channel: str | None
    recipient: str | None
    content_type: str | None
    text: str
    name: str | None = None
    complete: bool = True
    announced: bool = True

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
            word = (meant_channel(self) if key == "channel" else getattr(self, key)) or ""
            prefix = "<|constrain|>" if key == "content_type" else ""
            if HEADER_WORD.fullmatch(word.removeprefix(prefix)):
                fields[key] = word
        return fields


MARK = "\ud800"  # in the text of a header: `<|channel|>` itself, not its name in letters
_KNOWN = "|".join(CHANNELS)
# Who speaks, after <|start|> also a tool under its own name: `functions.f to=assistant`.
AUTHOR = rf"""\s*(?:(?P<role>assistant|user|system|developer)(?::(?P<name>[^\s{MARK}]+))?
    (?=\s|{MARK}|$|{_KNOWN})|(?!to=|(?:{_KNOWN})(?!\w))(?P<tool>[^\s{MARK}]+)(?=\s+to=|\s*{MARK}"""
RECIPIENT = rf"to=(?P<recipient>{NAME})"
# What a whole header says: a channel may stand in the place of who speaks, any word may follow.
WHOLE = rf"""{MARK}\s*(?P<channel>(?!to=|functions\.)[^\s<{MARK}]+?(?=to=|[\s<{MARK}]|$))?
    |(?P<channel2>{_KNOWN})(?!\w)|{RECIPIENT}|(?P<recipient2>functions\.{NAME}%s)(?![\w.-])
    |(?P<word>(?:<\|constrain\|>)?[^\s<{MARK}]+|<\|constrain\|>|<)"""
# What is certainly a header where text may follow.
SURE = rf"""{MARK}\s*(?P<channel>(?:{_KNOWN})(?=to=|[^a-z]|$))?|(?P<channel2>{_KNOWN})(?![a-z])
    |{RECIPIENT}|(?P<recipient2>functions\.{NAME}%s)(?=\s*(?:[{{<]|json\b|$))
    |(?P<kind><\|constrain\|>\s*(?:(?:json|code)(?!\w))?)|(?P<kind2>(?:json|code)(?!\w))"""
HEADER_WORDS = (*CHANNELS, "assistant", "to=", "json", "code")


def meant_channel(part: Piece | Message) -> str | None:
    """The channel that is meant, "final" also by "final." and "Final"; None by any other word."""
    match = re.match(rf"\W*({_KNOWN})(?![a-z])", part.channel or "", re.IGNORECASE)
    return match and match[1].lower()


def is_spoken(part: Piece | Message) -> bool:
    """Is it for those who read along: said by the assistant, and to no tool?"""
    return part.role == "assistant" and part.recipient in READERS


class StreamParser:
    """Sampled ids -> pieces of text, one id at a time, in constant time, without ever raising.

    Starts where `render` stops: after `<|start|>assistant`. What a model may do wrong, and what
    becomes of it:
    - no `<|message|>`: what is certainly a header is one, and the rest is the text. If nothing is
      left for a text but somebody is named, that is a message without text, and not complete;
    - `<|start|>` or `<|channel|>` inside a text: a new message begins;
    - `<|end|>` twice, or no `<|start|>` after it: ignored, or understood;
    - a recipient ends where a name ends: in `to=functions.f{"a":1}` the arguments are text;
    - a recipient that can only mean one of `functions`, the names of the tools that the model was
      given, is written as it should be: see `function_meant`;
    - unknown channel or recipient: kept as it is; other control tokens in a text: shown as text;
    - bytes that are not UTF-8, ids outside the vocabulary: U+FFFD, once no later byte can help.
    The texts of the pieces of a message always join to the message's text.
    """

    # A header is about ten tokens. Beyond 64 it is not a header but text, to be shown as it comes.
    MAX_HEADER = 64
    CLOSING = frozenset((END, START, *STOP_TOKENS))

    def __init__(self, functions: Iterable[str] = ()) -> None:
        self._functions = tuple(functions)
        names = "".join("|" + re.escape(name) for name in self._functions)
        self._sure, self._whole = (
            re.compile(rf"\s*(?:{each % names})", re.X) for each in (SURE, WHOLE)
        )
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
            return self._open_message(announced=True)
        self._header.append(token)
        return self._open_message() if len(self._header) > self.MAX_HEADER else []

    def finish(self) -> list[Piece]:
        """No more ids: returns the held back rest, and closes the last message as incomplete."""
        return self._close(None)

    def _is_new_message(self) -> bool:
        """A channel is named: does that open a message, after a text without its proper end?"""
        if self._open is not None:
            return True
        message, text = self._parse_header([*self._header, CHANNEL])
        return bool(text.strip()) and (message.recipient is None or CHANNEL in self._header)

    def _piece(self, data: bytes, *, final: bool = False) -> list[Piece]:
        """The text that `data` completes: bytes, since a character may span several tokens."""
        message, text = self._open, self._decoder.decode(data, final)
        if not text or message is None:
            return []
        ids, self._pending = tuple(self._pending), []
        self._texts.append(text)
        return [Piece(message.channel, text, ids, message.recipient, message.role)]

    def _open_message(self, *, announced: bool = False, cut: bool = False) -> list[Piece]:
        """The text begins: after `<|message|>`, or with what does not belong to a header."""
        self._open, text = self._parse_header(self._header, announced=announced)
        in_header = self._explicit or CHANNEL in self._header
        if cut and in_header and any(word.startswith(text.strip()) for word in HEADER_WORDS):
            text = ""  # the beginning of a word that the header would have had
        self._pending, self._header = self._header if text else [], []
        return self._piece(text.encode("utf-8", "surrogateescape"))

    def _close(self, token: int | None) -> list[Piece]:
        """The message is over: closed by a token, or cut off (None)."""
        pieces, is_text = [], self._open is not None
        if not is_text:
            pieces = self._open_message(cut=token is None)
            is_text = bool(pieces or self._pending)
        message = self._open
        # A header without a text is a message only where it names somebody.
        if message is not None and (is_text or message.recipient or message.name):
            pieces += self._piece(b"", final=True)
            # A call without arguments is made where `<|call|>` says so; else it broke off.
            complete = token == CALL or (token is not None and is_text)
            text = "".join(self._texts)
            self._messages.append(dataclasses.replace(message, text=text, complete=complete))
        self._begin(token)
        return pieces

    def _parse_header(self, ids: list[int], *, announced: bool = False) -> tuple[Message, str]:
        """Header ids -> the message they announce, and what belongs to its text.

        With `<|message|>` (announced) every word has its place: role, channel, to=recipient,
        content type. Without it only what is certain is taken, and the rest is text.
        """
        text = header = _header_text(ids)
        role, name, pattern = "assistant", None, self._whole if announced else self._sure
        end = "|$))" if announced else "))"
        author = re.match(AUTHOR + end, header, re.X)
        if not (announced or self._explicit or MARK in header):
            pattern = re.compile(rf"\s*{RECIPIENT}")  # no header in sight
        elif author and (author["role"] or self._explicit):
            role, name = author["role"] or "tool", author["name"] or author["tool"]
            text = text[author.end() :]
        fields: dict[str, str | None] = dict.fromkeys(("channel", "recipient", "kind"))
        words: list[str] = []
        while match := pattern.match(text):
            group = match.lastgroup or "channel"
            key, word, known = group.rstrip("2"), match[group], fields.get(group.rstrip("2"), "")
            if group == "kind2" and not (fields["recipient"] or "to=" in text):
                break  # a word like any other
            if group == "channel" or known is None or (known == word and group != "channel2"):
                fields[key] = word or known
            elif announced:
                words.append(match[0].strip())
            else:
                break
            text = text[match.end() :]
            if announced and key == "recipient" and text[:1] in [*"{[("]:
                break  # arguments, glued to it
        else:
            text = "" if announced else text
        channel, recipient = fields["channel"], fields["recipient"]
        if role == "tool" and recipient is None and channel in ("analysis", "final"):
            role = "assistant"  # under another name: no tool thinks or answers
        recipient = recipient and function_meant(recipient, self._functions)
        kind = " ".join(words) or "".join((fields["kind"] or "").split()) or None
        name, channel, kind = map(_shown, (name, channel, kind))
        text = (text if text == header else text.lstrip()).replace(MARK, "<|channel|>")
        return Message(role, channel, recipient, kind, "", name, announced=announced), text


def function_meant(recipient: str, functions: Sequence[str]) -> str:
    """functions.NAME where a recipient can only mean that one of `functions`; else itself.

    Models write it alone, behind another prefix (`tools.f`, `functions.ns.f`, `mcp__server.f`),
    with other signs in it (`web-search`), or glued to the next word (`functions.fjson`). OpenAI's
    own tools, like `browser.open`, stay, unless a function has just that name; so do readers.
    """
    built_in = recipient.partition(".")[0] in BUILT_IN and recipient not in functions
    if built_in or recipient in READERS:
        return recipient
    tails = [recipient[match.end() :] for match in re.finditer(r"^|[.:/]|__", recipient)]
    glued = [tail.removesuffix(word) for tail in tails for word in HEADER_WORDS]
    alike = [[each for each in functions if each == name] for name in (*tails, *glued)]
    alike += [[each for each in functions if _same(each) == _same(tail)] for tail in tails]
    return next((f"functions.{each[0]}" for each in alike if len(each) == 1), recipient)


def _same(name: str) -> str:
    return re.sub(r"[\W_]+", "_", name.lower())


def _header_text(ids: Iterable[int]) -> str:
    """Text of a header, with MARK; a byte that is no UTF-8 is a surrogate, and so survives."""
    runs = [[*run] for _, run in itertools.groupby(ids, lambda token: token == CHANNEL)]
    texts = [_bytes(run).decode("utf-8", "surrogateescape") for run in runs]
    marks = [MARK * len(run) if CHANNEL in run else "" for run in runs]
    return "".join(mark or text for mark, text in zip(marks, texts, strict=True))


def _shown(word: str | None) -> str | None:
    return word and word.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _bytes(ids: Iterable[int]) -> bytes:
    whole = Tokenizer()
    known = range(whole.vocab_size)
    return b"".join(whole.token_bytes(i) if i in known else "\ufffd".encode() for i in ids)
