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
from collections.abc import Iterable, Sequence
from typing import Any

from gptoss_edu.tokenizer import CALL, CHANNEL, END, MESSAGE, START, STOP_TOKENS, Tokenizer

CHANNELS = ("analysis", "commentary", "final")
FUNCTION_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
HEADER_WORD = re.compile(r"[^\s<>]{1,128}")
NAME = r"[\w.-]+(?:[:/@][\w.-]+)*"  # of a recipient
TO = rf"to=({NAME})"
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
    began before its text; `announced` when no `<|message|>` stood before the text.
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
            if HEADER_WORD.fullmatch(word.removeprefix("<|constrain|>")):
                fields[key] = word
        return fields


# Where text may follow, a channel is one that is known, not the beginning of another word.
_KNOWN = "(" + "|".join(CHANNELS) + ")"
SURE_CHANNEL = rf"{_KNOWN}(?=to=|[^a-z]|$)"
SURE_KIND = r"(<\|constrain\|>)\s*(?:(json|code)(?!\w))?|(json|code)(?!\w)"
ANY_CHANNEL = r"(?!to=|functions\.)([^\s<]+?)(?=to=|\s|<|$)"
# `<|start|>final`, `<|start|>assistantfinal`: a channel in the place of who speaks.
CHANNEL_AS_AUTHOR = rf"assistant{_KNOWN}(?![a-z])|(?:assistant\s+)?{_KNOWN}(?=\s*(?:$|to=|<\|c))"
HEADER_WORDS = (*CHANNELS, "assistant", "to=", "json", "code")


def meant_channel(part: Piece | Message) -> str | None:
    """The channel that is meant: "final" also where the model wrote "final." or "Final"; None for
    any other word, and for none.
    """
    match = re.match(r"\W*(analysis|commentary|final)(?![a-z])", part.channel or "", re.IGNORECASE)
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
        bare = "|".join([rf"functions\.{NAME}", *map(re.escape, self._functions)])
        self._recipient = rf"{TO}|({bare})(?=\s*(?:[{{<]|json\b|$))"
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
        first, *parts = _split(ids)
        role, name, channel, rest = self._parse_author(first, announced, bool(parts))
        recipient, rest = _take(self._recipient if announced or parts else TO, rest)
        for part in parts:
            word, part = _take(ANY_CHANNEL if announced else SURE_CHANNEL, part)
            late, part = _take(self._recipient, part)
            if recipient and late and late != recipient:
                part = f" to={late}{part}"
            recipient, channel = recipient or late, word or channel
            rest = f"{rest} {part}" if rest.strip() else part
        if announced:
            recipient, kind, text = self._parse_words(recipient, rest)
        else:
            kind, text = _take(SURE_KIND, rest)
            if recipient is None:
                recipient, text = _take(TO, text)
            if kind and not (recipient or kind.startswith("<")):
                kind, text = None, rest
            text = text.lstrip() if parts or text != first else text
        if role == "tool" and recipient is None and channel in ("analysis", "final"):
            role = "assistant"  # under another name: no tool thinks or answers
        recipient = recipient and function_meant(recipient, self._functions)
        name, channel, kind = map(_shown, (name, channel, kind))
        return Message(role, channel, recipient, kind, "", name, announced=announced), text

    def _parse_words(self, recipient: str | None, rest: str) -> tuple[str | None, str | None, str]:
        """What a whole header says after its channel -> recipient, content type, text."""
        text = ""
        if recipient and rest[:1] in [*"{[("]:  # arguments, glued to it
            rest, text = "", rest
        words = rest.replace("<|constrain|>", " <|constrain|>").split()
        for index, word in enumerate(words if recipient is None else ()):
            # `functions.f` is a call even without "to=", or after the type; `json` alone is a type.
            if word.startswith(("to=", "functions.")) or word in self._functions:
                recipient, glued = _take(rf"(?:to=)?({NAME})", word)
                words[index : index + 1] = [glued] if glued else []
                break
        words = [word for word in words if word != f"to={recipient}"]
        return recipient, " ".join(words) or None, text

    def _parse_author(
        self, header: str, announced: bool, labeled: bool
    ) -> tuple[str, str | None, str | None, str]:
        """The part before the channel -> role, name of the author, a channel named there, rest."""
        if not (announced or labeled or self._explicit):
            return "assistant", None, None, header  # as it is: no header in sight
        channel, rest = _take(CHANNEL_AS_AUTHOR, header)
        if channel is not None:
            return "assistant", None, channel, rest
        author, rest = _take(r"((?:assistant|user|system|developer)(?::\S+)?)(?=\s|$)", header)
        if author is not None:
            role, _, name = author.partition(":")
            return role, name or None, None, rest
        # After <|start|> a tool speaks under its own name: `functions.f to=assistant`.
        sure = rf"({NAME})(?=\s+to=)" if not labeled else rf"({NAME})(?=\s+to=|\s*$)"
        tool, rest = _take(r"(?!to=)(\S+)" if announced else sure, header)
        if tool is None or not self._explicit:
            return "assistant", None, None, header
        return "tool", tool, None, rest


def function_meant(recipient: str, functions: Sequence[str]) -> str:
    """functions.NAME where a recipient can only mean that one of `functions`; else itself.

    Models write the name alone, behind another prefix (`tools.f`, `function.f`, `functions.ns.f`,
    `mcp__server.f`), with other signs in it (`web-search`), or glued to the next word
    (`functions.fjson`). A tool of OpenAI's, like `python` or `browser.open`, is itself, unless a
    function has just that name; so is whoever reads along.
    """
    if recipient in READERS or (
        recipient.partition(".")[0] in BUILT_IN and recipient not in functions
    ):
        return recipient
    tails = [recipient[match.end() :] for match in re.finditer(r"^|[.:/]|__", recipient)]
    glued = [tail.removesuffix(word) for tail in tails for word in (*CHANNELS, "json", "code")]
    for likeness in (str, lambda name: re.sub(r"[\W_]+", "_", name.lower())):
        for name in (*tails, *(glued if likeness is str else ())):
            alike = [each for each in functions if likeness(each) == likeness(name)]
            if len(alike) == 1:
                return f"functions.{alike[0]}"
    return recipient


def _take(pattern: str, header: str) -> tuple[str | None, str]:
    """What the groups of `pattern` match at the start of `header`, if it is there; and the rest."""
    match = re.match(rf"\s*(?:{pattern})", header)
    return (
        ("".join(filter(None, match.groups())), header[match.end() :]) if match else (None, header)
    )


def _split(ids: Iterable[int]) -> list[str]:
    """The parts of a header before, between and after `<|channel|>`; a byte that is no UTF-8 is a
    surrogate, and so survives.
    """
    parts: list[list[int]] = [[]]
    for token in ids:
        if token == CHANNEL:
            parts.append([])
        else:
            parts[-1].append(token)
    return [_bytes(part).decode("utf-8", "surrogateescape") for part in parts]


def _shown(word: str | None) -> str | None:
    return word and word.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _bytes(ids: Iterable[int]) -> bytes:
    whole = Tokenizer()
    known = range(whole.vocab_size)
    return b"".join(whole.token_bytes(i) if i in known else "\ufffd".encode() for i in ids)
