"""Messages and ids: the Harmony format that GPT-OSS was trained to read and write.

A conversation is one string of tokens. Every message has a header (who speaks, on which channel, to
whom) and a body, set apart by control tokens:

    <|start|>assistant<|channel|>analysis<|message|>Count the r's: ...<|end|>
    <|start|>assistant<|channel|>final<|message|>Three.<|return|>

The model thinks on `analysis`, calls tools on `commentary`, answers on `final`. `render` turns a
conversation into ids that end in `<|start|>assistant`, where the model takes over. `StreamParser`
turns the ids it samples back into pieces of text with their channel, one token at a time. A sampled
header may be malformed in any way, so the parser never raises and never drops text.

Source: openai-harmony 0.0.8, which does the rendering; the parser here is our own, because the
library's either raises on malformed output or loses it.
"""

from __future__ import annotations

import codecs
import dataclasses
import datetime
import html
import json
import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

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
    bounded,
    check_text,
    load_encoding,
)

if TYPE_CHECKING:
    import openai_harmony

CHANNELS = ("analysis", "commentary", "final")
EFFORTS = ("low", "medium", "high")
ROLES = ("system", "developer", "user", "assistant", "tool")
# Instructions and tool schemas are rendered as one text, which cannot be cut without copying the
# template: 20,000 equal characters in a row cost 0.1 s, a million crash the encoder.
MAX_TEMPLATE_RUN = 20_000

_FUNCTION_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_HEADER_WORD = re.compile(r"[^\s<>]{1,128}")


# ------------------------------------------------------------------------------------- rendering


def render(
    prompt: str | Sequence[Mapping[str, Any] | Message] | openai_harmony.Conversation,
    *,
    reasoning_effort: str = "medium",
    instructions: str | None = None,
    tools: Sequence[Mapping[str, Any]] | None = None,
    current_date: str | datetime.date | None = None,
) -> list[int]:
    """A conversation -> o200k ids that end in `<|start|>assistant`: the model continues from there.

    `prompt` is the user's text, or a list of messages in OpenAI's chat format, or an
    `openai_harmony.Conversation`, which is rendered as it is (and then refuses the keywords, since
    its own messages say all that). In a list, roles are system, developer, user, assistant, tool:
    - leading system and developer texts follow `instructions` in the one developer message: to
      GPT-OSS the *system* message is OpenAI's, with effort, date and channels;
    - assistant: "content" goes to "channel" (final; commentary beside tool calls), "thinking" goes
      to analysis, "tool_calls" to commentary; tool: "name" or "tool_call_id" says which function.
    `tools` are OpenAI function schemas. `current_date` is "YYYY-MM-DD", a date, or None: left out.
    Once the last answer was given, openai-harmony drops the analysis before the *first* answer;
    `Reply.to_messages` leaves out the rest.
    Raises ValueError with what was found, what was expected and what to do.
    Source: openai-harmony 0.0.8, `render_conversation_for_completion`.
    """
    import openai_harmony as oh

    if isinstance(prompt, oh.Conversation):
        given = {"instructions": instructions, "tools": tools, "current_date": current_date}
        given["reasoning_effort"] = None if reasoning_effort == "medium" else reasoning_effort
        if extra := [name for name, value in given.items() if value]:
            raise ValueError(
                f"{', '.join(extra)} given together with a Conversation, which is rendered as it "
                f"is; put them into its system and developer messages, or pass a list of messages"
            )
        return _render_conversation(prompt)
    messages = _as_dicts(prompt)
    leading = [] if instructions is None else [_checked(instructions, "instructions")]
    while messages and messages[0]["role"] in ("system", "developer"):
        leading.append(_text(messages.pop(0)))
    leading = [text for text in leading if text]
    system = _system(reasoning_effort, current_date)
    rendered = [oh.Message.from_role_and_content(oh.Role.SYSTEM, system)]
    if leading or tools:
        rendered.append(_developer("\n\n".join(leading) if leading else None, _functions(tools)))
    names: dict[str, str] = {}
    for message in messages:
        rendered += _harmony_messages(message, names)
    return _render_conversation(oh.Conversation.from_messages(rendered))


def _as_dicts(prompt: Any) -> list[dict[str, Any]]:
    """The prompt as a fresh list of dicts, each with a known role."""
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    if not isinstance(prompt, (list, tuple)):
        raise ValueError(
            f"prompt is a {type(prompt).__name__}, but a str, a list of messages "
            f'{{"role": …, "content": …}} or an openai_harmony.Conversation was expected'
        )
    if not prompt:
        raise ValueError('prompt is an empty list; give it at least {"role": "user", "content": …}')
    messages = []
    for index, message in enumerate(prompt):
        if isinstance(message, Message):
            message = message.to_dict()
        if not isinstance(message, Mapping):
            raise ValueError(
                f'message {index} is a {type(message).__name__}, but a dict with "role" and '
                f'"content" was expected; wrap openai_harmony messages in a Conversation'
            )
        if message.get("role") not in ROLES:
            raise ValueError(
                f"message {index} has role {message.get('role')!r}, but one of {', '.join(ROLES)} "
                f"was expected"
            )
        messages.append(_known_keys(message, index))
    return messages


def _known_keys(message: Mapping[str, Any], index: int) -> dict[str, Any]:
    """The message without empty entries. A key that would be ignored is an error."""
    role = message["role"]
    allowed = {"role", "content"} | ({"name"} if role in ("user", "assistant", "tool") else set())
    if role == "assistant":
        allowed |= {"channel", "thinking", "tool_calls", "recipient", "content_type"}
    elif role == "tool":
        allowed |= {"tool_call_id"}
    message = {key: value for key, value in message.items() if value not in (None, [], {}, ())}
    if unknown := [str(key) for key in message if key not in allowed]:
        raise ValueError(
            f"message {index} ({role}) has unknown entries {', '.join(unknown)}; known are "
            f"{', '.join(sorted(allowed))}. Remove them: they would not reach the model"
        )
    if role == "user" and message.get("content", "") == "":
        raise ValueError(
            f"the user's text is empty (message {index}); a prompt needs at least one character"
        )
    return message | {"index": index}


def _text(message: Mapping[str, Any]) -> str:
    """The content of a message: a str, or OpenAI's list of text parts."""
    content, what = message.get("content", ""), f"content of message {message['index']}"
    if isinstance(content, str):
        return _checked(content, what)
    if isinstance(content, (list, tuple)):
        parts = []
        for part in content:
            if not (isinstance(part, Mapping) and part.get("type") == "text"):
                kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
                raise ValueError(
                    f'{what} has a part of type {kind!r}, but only {{"type": "text", "text": …}} '
                    f"was expected: GPT-OSS reads text only"
                )
            parts.append(_checked(part.get("text"), what))
        return "".join(parts)
    raise ValueError(
        f"{what} is a {type(content).__name__}, but a str was expected; turn data into text with "
        f"json.dumps"
    )


def _checked(text: Any, what: str) -> str:
    try:
        return check_text(text, what)
    except TypeError as error:
        raise ValueError(str(error)) from None


def _system(reasoning_effort: str, current_date: str | datetime.date | None) -> Any:
    """OpenAI's system message: identity, knowledge cutoff, date, effort, channels."""
    import openai_harmony as oh

    if reasoning_effort not in EFFORTS:
        raise ValueError(
            f"reasoning_effort is {reasoning_effort!r}, but one of {', '.join(EFFORTS)} was "
            f"expected"
        )
    effort = oh.ReasoningEffort(reasoning_effort.capitalize())
    system = oh.SystemContent.new().with_reasoning_effort(effort)
    if current_date is None:
        return system
    if isinstance(current_date, datetime.date):
        return system.with_conversation_start_date(current_date.isoformat()[:10])
    try:
        # fromisoformat alone also takes 20250628 and 2025-W26-6, which the model has not seen.
        if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", current_date):
            raise ValueError
        datetime.date.fromisoformat(current_date)
    except (TypeError, ValueError):
        raise ValueError(
            f"current_date is {current_date!r}, but 'YYYY-MM-DD', a datetime.date or None was "
            f"expected"
        ) from None
    return system.with_conversation_start_date(current_date)


def _developer(instructions: str | None, functions: list[Any]) -> openai_harmony.Message:
    """The developer message: "# Instructions", then "# Tools"."""
    import openai_harmony as oh

    content = oh.DeveloperContent.new()
    if instructions is not None:
        content = content.with_instructions(instructions)
    if functions:
        content = content.with_function_tools(functions)
    return oh.Message.from_role_and_content(oh.Role.DEVELOPER, content)


def _functions(tools: Sequence[Mapping[str, Any]] | None) -> list[Any]:
    """OpenAI function schemas, checked -> openai-harmony's tool descriptions."""
    import openai_harmony as oh

    if tools is None:
        return []
    if isinstance(tools, (str, Mapping)) or not isinstance(tools, Sequence):
        raise ValueError(f"tools is a {type(tools).__name__}, but a list of schemas was expected")
    functions, seen = [], set()
    for index, tool in enumerate(tools):
        name, description, parameters = _checked_schema(tool, f"tools[{index}]")
        if name in seen:
            raise ValueError(f"tools[{index}] repeats the name {name!r}; names must differ")
        seen.add(name)
        functions.append(oh.ToolDescription.new(name, description, parameters=parameters))
    return functions


def _checked_schema(tool: Any, where: str) -> tuple[str, str, dict[str, Any] | None]:
    """One schema, nested or flat -> name, description, parameters."""
    expected = '{"type": "function", "function": {"name", "description", "parameters"}}'
    if not isinstance(tool, Mapping):
        raise ValueError(f"{where} is a {type(tool).__name__}, but {expected} was expected")
    if tool.get("type", "function") != "function":
        raise ValueError(f"{where} has type {tool['type']!r}, but only 'function' is supported")
    function = tool.get("function", tool)
    if not isinstance(function, Mapping):
        raise ValueError(f"{where}['function'] is a {type(function).__name__}, not a dict")
    name, parameters = function.get("name"), function.get("parameters")
    if not (isinstance(name, str) and _FUNCTION_NAME.fullmatch(name)):
        raise ValueError(
            f"{where} has name {name!r}, but 1 to 64 letters, digits, '_' or '-' were expected"
        )
    description = _checked(function.get("description") or "", f"description of {where}")
    if not parameters:
        if parameters not in (None, {}):
            raise ValueError(f"parameters of {where} are {parameters!r}, but a dict was expected")
        return name, description, None
    _check_parameters(parameters, f"parameters of {where} ({name})")
    return name, description, dict(parameters)


def _check_parameters(parameters: Any, where: str) -> None:
    """A JSON schema of an object: what openai-harmony turns into a TypeScript type."""
    if not isinstance(parameters, Mapping) or parameters.get("type") != "object":
        found = parameters.get("type") if isinstance(parameters, Mapping) else parameters
        raise ValueError(
            f'{where}: found {found!r}, but a schema {{"type": "object", "properties": …}} was '
            f"expected"
        )
    properties = parameters.get("properties", {})
    if not isinstance(properties, Mapping):
        raise ValueError(f"{where}: properties is a {type(properties).__name__}, not a dict")
    for name, schema in properties.items():
        if not isinstance(name, str) or not isinstance(schema, Mapping):
            raise ValueError(f"{where}: property {name!r} has schema {schema!r}, which is no dict")
    required = parameters.get("required", [])
    if not isinstance(required, (list, tuple)):
        raise ValueError(f"{where}: required is {required!r}, but a list of names was expected")
    if unknown := [name for name in required if name not in properties]:
        raise ValueError(f"{where}: required names {unknown[0]!r}, which is not in properties")
    try:
        json.dumps(parameters, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{where} cannot be written as JSON: {error}") from None


def _harmony_messages(message: dict[str, Any], names: dict[str, str]) -> list[Any]:
    """One chat message -> one or more Harmony messages. `names` maps tool_call_id -> function."""
    import openai_harmony as oh

    role, where = message["role"], f"message {message['index']}"
    text = _text(message)
    if role == "assistant":
        return _assistant_messages(message, text, names)
    if role in ("system", "developer"):
        return [_developer(text, [])]
    if role == "user":
        return [oh.Message.from_author_and_content(_author(message), text)]
    name = message.get("name") or names.get(str(message.get("tool_call_id")))
    if not name and "tool_call_id" not in message and len(set(names.values())) == 1:
        name = next(iter(names.values()))
    if not name:
        raise ValueError(
            f"{where} (tool) does not say which function answered: found tool_call_id "
            f'{message.get("tool_call_id")!r}, known ids {sorted(names)}; give it "name"'
        )
    name = _word(name, f"name of {where}")
    author = oh.Author(role=oh.Role.TOOL, name=name if "." in name else f"functions.{name}")
    result = oh.Message.from_author_and_content(author, text)
    return [result.with_recipient("assistant").with_channel("commentary")]


def _author(message: dict[str, Any]) -> Any:
    """Role and, if given, name: the header reads `user:name`."""
    import openai_harmony as oh

    name = message.get("name")
    name = name and _word(name, f"name of message {message['index']}")
    return oh.Author(role=oh.Role(message["role"]), name=name)


def _assistant_messages(message: dict[str, Any], text: str, names: dict[str, str]) -> list[Any]:
    """Thinking, then text, then tool calls of an assistant message."""
    import openai_harmony as oh

    where = f"message {message['index']}"
    calls = _tool_calls(message.get("tool_calls", ()), where)
    channel = message.get("channel", "commentary" if calls else "final")
    if channel not in CHANNELS:
        raise ValueError(
            f"{where} has channel {channel!r}, but one of {', '.join(CHANNELS)} was expected"
        )
    author, messages = _author(message), []
    if thinking := _checked(message.get("thinking", ""), f"thinking of {where}"):
        analysis = oh.Message.from_author_and_content(author, thinking)
        messages.append(analysis.with_channel("analysis"))
    if text or "recipient" in message or not (calls or thinking):
        spoken = oh.Message.from_author_and_content(author, text).with_channel(channel)
        if "recipient" in message:
            spoken = spoken.with_recipient(_word(message["recipient"], f"recipient of {where}"))
        if "content_type" in message:
            kind = _checked(message["content_type"], f"content_type of {where}")
            _word(kind.removeprefix("<|constrain|>"), f"content_type of {where}")
            spoken = spoken.with_content_type(kind)
        messages.append(spoken)
    for name, arguments, call_id in calls:
        names[call_id] = name
        call = oh.Message.from_author_and_content(author, arguments)
        call = call.with_channel("commentary").with_recipient(f"functions.{name}")
        messages.append(call.with_content_type("<|constrain|>json"))
    return messages


def _tool_calls(calls: Any, where: str) -> list[tuple[str, str, str]]:
    """OpenAI's tool_calls -> (function name, arguments as JSON text, id)."""
    if not isinstance(calls, (list, tuple)):
        raise ValueError(f"tool_calls of {where} is a {type(calls).__name__}, not a list")
    checked = []
    for index, call in enumerate(calls):
        function = call.get("function", call) if isinstance(call, Mapping) else None
        name = function.get("name") if isinstance(function, Mapping) else None
        if not (isinstance(name, str) and _FUNCTION_NAME.fullmatch(name)):
            raise ValueError(
                f"tool call {index} of {where} is {str(call)[:80]!r}, but "
                f'{{"id", "type": "function", "function": {{"name", "arguments"}}}} was expected'
            )
        arguments = function.get("arguments", "{}")
        if isinstance(arguments, Mapping):
            arguments = json.dumps(arguments, ensure_ascii=False)
        arguments = _checked(arguments, f"arguments of tool call {index} of {where}")
        checked.append((name, arguments, str(call.get("id", f"{where} call {index}"))))
    return checked


def _word(word: Any, what: str) -> str:
    """A name that goes into a header: a space would end it, and `<|` would read as a command."""
    if not (isinstance(word, str) and _HEADER_WORD.fullmatch(word)):
        raise ValueError(
            f"{what} is {str(word)[:80]!r}, but one word without spaces, '<' or '>' was expected"
        )
    return word


def _render_conversation(conversation: openai_harmony.Conversation) -> list[int]:
    """Renders with openai-harmony, after cutting the stretches that would crash its encoder."""
    import openai_harmony as oh

    if not conversation.messages:
        raise ValueError("the Conversation is empty; give it at least one message")
    messages = []
    for message in conversation.messages:
        contents = []
        for content in message.content:
            if isinstance(content, oh.TextContent):
                text = _checked(content.text, "text of a message")
                contents += [oh.TextContent(text=piece) for piece in bounded(text)]
            else:
                _check_template(content.model_dump())
                contents.append(content)
        messages.append(message.model_copy(update={"content": contents}))
    try:
        return load_encoding().render_conversation_for_completion(
            oh.Conversation.from_messages(messages), oh.Role.ASSISTANT
        )
    except (ValueError, oh.HarmonyError) as error:
        raise ValueError(f"openai-harmony cannot render this conversation: {error}") from error


def _check_template(value: Any) -> None:
    """Every text inside system and developer content: no lone surrogate, no endless stretch."""
    if isinstance(value, Mapping):
        value = [*value.keys(), *value.values()]
    if isinstance(value, (list, tuple)):
        for item in value:
            _check_template(item)
    elif isinstance(value, str):
        check_text(value, "text of instructions or tools")
        if len(list(bounded(value, MAX_TEMPLATE_RUN))) > 1:
            raise ValueError(
                f"instructions or tools have more than {MAX_TEMPLATE_RUN:,} spaces, letters or "
                f"symbols in one stretch; shorten it, or move it into a user message"
            )


# --------------------------------------------------------------------------------------- parsing


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
        return name if is_call and _FUNCTION_NAME.fullmatch(name) else None

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
            if value and _HEADER_WORD.fullmatch(value.removeprefix("<|constrain|>")) is None:
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
        if not text:
            return []
        ids, self._pending = tuple(self._pending), []
        self._texts.append(text)
        return [Piece(self._open.channel, text, ids, self._open.recipient, self._open.role)]

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


# --------------------------------------------------------------------------------------- replies


@dataclasses.dataclass(frozen=True)
class ToolCall:
    """The model asks for a function: its name, the arguments as JSON text, an id to answer to."""

    name: str
    arguments: str
    id: str

    def parsed(self) -> Any:
        """The arguments as Python values. Raises ValueError when the model wrote no valid JSON."""
        try:
            return json.loads(self.arguments)
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"arguments of {self.name} are not JSON ({error}): {self.arguments[:200]!r}; "
                f"tell the model so in a tool message, and let it try again"
            ) from None


@dataclasses.dataclass(frozen=True)
class Stats:
    """Counts, and speeds without compilation, whose seconds stand apart."""

    prompt_tokens: int
    completion_tokens: int
    time_to_first_token_s: float
    prefill_tokens_per_s: float
    decode_tokens_per_s: float
    compile_s: float


@dataclasses.dataclass(frozen=True)
class Reply:
    """What the model answered. `print(reply)` shows the final channel; notebooks show all in color.

    `finish_reason` is "stop", "tool_call" or "length" (the token limit came first: `final` may be
    cut or empty). `token_ids` are the sampled ids, `prompt_ids` what they continue. A conversation
    goes on with `prompt + reply.to_messages() + [{"role": "user", "content": …}]`.
    """

    final: str
    analysis: str
    tool_calls: tuple[ToolCall, ...]
    finish_reason: str
    stats: Stats | None = None
    token_ids: tuple[int, ...] = dataclasses.field(default=(), repr=False)
    prompt_ids: tuple[int, ...] = dataclasses.field(default=(), repr=False)
    messages: tuple[Message, ...] = dataclasses.field(default=(), repr=False)
    cache: Any = dataclasses.field(default=None, repr=False, compare=False)

    def __str__(self) -> str:
        return self.final

    def to_messages(self, *, analysis: bool | None = None) -> list[dict[str, Any]]:
        """The reply as history: dicts in OpenAI's chat format, which `render` takes.

        `analysis` None keeps the thinking only while there is no final answer (a tool call needs
        it): GPT-OSS was trained to see old answers without it. True and False decide by force.
        """
        answered = any(message.channel == "final" for message in self.messages)
        keep = not answered if analysis is None else analysis
        call_ids = iter(call.id for call in self.tool_calls)
        history = []
        for message in self.messages:
            if _is_call(message):
                history.append(message.to_dict(next(call_ids)))
            elif message.role != "assistant" or message.function:
                continue  # a tool's answer made up by the model; a call cut short, never made
            elif message.text and (keep or message.channel != "analysis"):
                history.append(message.to_dict())
        return history

    def _repr_html_(self) -> str:
        rows = [_message_html(message) for message in self.messages] or ["(no message)"]
        footer = html.escape(_footer(self))
        return (
            f'<div style="max-width:60em">{"".join(rows)}'
            f'<div style="font-size:85%;opacity:0.75">{footer}</div></div>'
        )


def make_reply(
    parser: StreamParser,
    *,
    prompt_ids: Iterable[int],
    token_ids: Iterable[int],
    finish_reason: str,
    stats: Stats | None,
    cache: Any = None,
) -> Reply:
    """Finishes `parser` and gathers what it saw. A call cut short is no tool call: it might run."""
    assert finish_reason in ("stop", "tool_call", "length"), f"finish_reason {finish_reason!r}"
    parser.finish()
    messages, prompt_ids = tuple(parser.messages), tuple(prompt_ids)
    spoken = [m for m in messages if m.role == "assistant" and m.recipient in (None, "all", "user")]
    calls = [m for m in messages if _is_call(m)]
    # Without any channel (a small model that forgot it) the text still is the answer.
    answers = [m for m in spoken if m.channel == "final"] or [m for m in spoken if not m.channel]
    # Unique in a conversation, because every later turn has a longer prompt.
    tool_calls = tuple(
        ToolCall(m.function, m.text, f"call_{len(prompt_ids)}_{index}")
        for index, m in enumerate(calls)
    )
    return Reply(
        final="\n\n".join(m.text for m in answers),
        analysis="\n\n".join(m.text for m in spoken if m.channel == "analysis"),
        tool_calls=tool_calls,
        finish_reason=finish_reason,
        stats=stats,
        token_ids=tuple(token_ids),
        prompt_ids=prompt_ids,
        messages=messages,
        cache=cache,
    )


def _is_call(message: Message) -> bool:
    return message.function is not None and message.complete


# White on each is at least 4.5 to 1, so labels read alike on light and dark pages; the text itself
# keeps the page's own color.
_COLORS = {"analysis": "#6b4fbb", "commentary": "#9a5b00", "final": "#1a7340"}


def _message_html(message: Message) -> str:
    color = _COLORS.get(message.channel or "final", "#5c5c5c")
    label = message.channel or "no channel"
    if message.role != "assistant":
        label = f"{message.name or message.role} · {label}"
    if message.recipient:
        label += f" → {message.recipient}"
    if not message.complete:
        label += " (cut off)"
    label, text = html.escape(label), html.escape(message.text)
    return (
        f'<div role="group" aria-label="{label}" style="border-left:4px solid {color};'
        f'margin:0 0 0.6em 0;padding:0.1em 0 0.1em 0.8em">'
        f'<span style="background:{color};color:#ffffff;border-radius:3px;padding:0.1em 0.5em;'
        f'font-size:85%">{label}</span>'
        f'<div dir="auto" style="white-space:pre-wrap;overflow-wrap:anywhere;margin-top:0.3em">'
        f"{text}</div></div>"
    )


def _footer(reply: Reply) -> str:
    parts = [
        {"length": "stopped at the token limit", "tool_call": "waits for a tool"}.get(
            reply.finish_reason, "finished"
        )
    ]
    if reply.stats is not None:
        parts.append(f"{reply.stats.completion_tokens:,} tokens")
        parts.append(f"{reply.stats.decode_tokens_per_s:.1f} tokens/s")
        parts.append(f"first after {reply.stats.time_to_first_token_s:.2f} s")
    return " · ".join(parts)
