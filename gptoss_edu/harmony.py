"""Messages to ids: the Harmony format that GPT-OSS was trained to read and write.

A conversation is one string of tokens. Every message has a header (who speaks, on which channel, to
whom) and a body, set apart by control tokens:

    <|start|>assistant<|channel|>analysis<|message|>Count the r's: ...<|end|>
    <|start|>assistant<|channel|>final<|message|>Three.<|return|>

The model thinks on `analysis`, calls tools on `commentary`, answers on `final`. `render` turns a
conversation into ids that end in `<|start|>assistant`, where the model takes over; `StreamParser`
in parser.py reads what it then writes.

Source: openai-harmony 0.0.8, which does the rendering.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import openai_harmony as oh

from gptoss_edu.parser import CHANNELS, FUNCTION_NAME, HEADER_WORD, Message
from gptoss_edu.schemas import as_text, tool_descriptions
from gptoss_edu.tokenizer import bounded, check_text, load_encoding

EFFORTS = ("low", "medium", "high")
ROLES = ("system", "developer", "user", "assistant", "tool")
# Instructions and tool schemas are rendered as one text, which cannot be cut without copying the
# template: 20,000 equal characters in a row cost 0.1 s, a million crash the encoder.
MAX_TEMPLATE_RUN = 20_000


class Conversation(Protocol):
    """An `openai_harmony.Conversation`: that package brings no types."""

    messages: list[Any]


Prompt: TypeAlias = "str | Sequence[Mapping[str, Any] | Message] | Conversation"


def render(
    prompt: Prompt,
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
    leading = [] if instructions is None else [as_text(instructions, "instructions")]
    while messages and messages[0]["role"] in ("system", "developer"):
        leading.append(_text(messages.pop(0)))
    leading = [text for text in leading if text]
    system = _system(reasoning_effort, current_date)
    rendered = [oh.Message.from_role_and_content(oh.Role.SYSTEM, system)]
    if leading or tools:
        demanded = "\n\n".join(leading) if leading else None
        rendered.append(_developer(demanded, tool_descriptions(tools)))
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
        return as_text(content, what)
    if isinstance(content, (list, tuple)):
        parts = []
        for part in content:
            if not (isinstance(part, Mapping) and part.get("type") == "text"):
                kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
                raise ValueError(
                    f'{what} has a part of type {kind!r}, but only {{"type": "text", "text": …}} '
                    f"was expected: GPT-OSS reads text only"
                )
            parts.append(as_text(part.get("text"), what))
        return "".join(parts)
    raise ValueError(
        f"{what} is a {type(content).__name__}, but a str was expected; turn data into text with "
        f"json.dumps"
    )


def _system(reasoning_effort: str, current_date: str | datetime.date | None) -> Any:
    """OpenAI's system message: identity, knowledge cutoff, date, effort, channels."""
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


def _developer(instructions: str | None, functions: list[Any]) -> oh.Message:
    """The developer message: "# Instructions", then "# Tools"."""
    content = oh.DeveloperContent.new()
    if instructions is not None:
        content = content.with_instructions(instructions)
    if functions:
        content = content.with_function_tools(functions)
    return oh.Message.from_role_and_content(oh.Role.DEVELOPER, content)


def _harmony_messages(message: dict[str, Any], names: dict[str, str]) -> list[Any]:
    """One chat message -> one or more Harmony messages. `names` maps tool_call_id -> function."""
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
    name = message.get("name")
    name = name and _word(name, f"name of message {message['index']}")
    return oh.Author(role=oh.Role(message["role"]), name=name)


def _assistant_messages(message: dict[str, Any], text: str, names: dict[str, str]) -> list[Any]:
    """Thinking, then text, then tool calls of an assistant message."""
    where = f"message {message['index']}"
    calls = _tool_calls(message.get("tool_calls", ()), where)
    channel = message.get("channel", "commentary" if calls else "final")
    if channel not in CHANNELS:
        raise ValueError(
            f"{where} has channel {channel!r}, but one of {', '.join(CHANNELS)} was expected"
        )
    author, messages = _author(message), []
    if thinking := as_text(message.get("thinking", ""), f"thinking of {where}"):
        analysis = oh.Message.from_author_and_content(author, thinking)
        messages.append(analysis.with_channel("analysis"))
    if text or "recipient" in message or not (calls or thinking):
        spoken = oh.Message.from_author_and_content(author, text).with_channel(channel)
        if "recipient" in message:
            spoken = spoken.with_recipient(_word(message["recipient"], f"recipient of {where}"))
        if "content_type" in message:
            kind = as_text(message["content_type"], f"content_type of {where}")
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
        function: Any = call.get("function", call) if isinstance(call, Mapping) else None
        name = function.get("name") if isinstance(function, Mapping) else None
        if not (isinstance(name, str) and FUNCTION_NAME.fullmatch(name)):
            raise ValueError(
                f"tool call {index} of {where} is {str(call)[:80]!r}, but "
                f'{{"id", "type": "function", "function": {{"name", "arguments"}}}} was expected'
            )
        arguments = function.get("arguments", "{}")
        if isinstance(arguments, Mapping):
            arguments = json.dumps(arguments, ensure_ascii=False)
        arguments = as_text(arguments, f"arguments of tool call {index} of {where}")
        checked.append((name, arguments, str(call.get("id", f"{where} call {index}"))))
    return checked


def _word(word: Any, what: str) -> str:
    """A name that goes into a header: a space would end it, and `<|` would read as a command."""
    if not (isinstance(word, str) and HEADER_WORD.fullmatch(word)):
        raise ValueError(
            f"{what} is {str(word)[:80]!r}, but one word without spaces, '<' or '>' was expected"
        )
    return word


def _render_conversation(conversation: oh.Conversation) -> list[int]:
    """Renders with openai-harmony, after cutting the stretches that would crash its encoder."""
    if not conversation.messages:
        raise ValueError("the Conversation is empty; give it at least one message")
    messages = []
    for message in conversation.messages:
        contents = []
        for content in message.content:
            if isinstance(content, oh.TextContent):
                text = as_text(content.text, "text of a message")
                contents += [oh.TextContent(text=piece) for piece in bounded(text)]
            else:
                _check_template(content.model_dump())
                contents.append(content)
        messages.append(message.model_copy(update={"content": contents}))
    try:
        whole = oh.Conversation.from_messages(messages)
        return list(load_encoding().render_conversation_for_completion(whole, oh.Role.ASSISTANT))
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
