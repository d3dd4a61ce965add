"""Messages to ids: the Harmony format that GPT-OSS was trained to read and write.

A conversation is one string of tokens. Every message has a header (who speaks, on which channel, to
whom) and a body, set apart by control tokens:

    <|start|>assistant<|channel|>analysis<|message|>Count the r's: ...<|end|>
    <|start|>assistant<|channel|>final<|message|>Three.<|return|>

The model thinks on `analysis`, calls tools on `commentary`, answers on `final`. `render` ends where
it takes over, after `<|start|>assistant`; `StreamParser` in parser.py reads what it then writes.

Source: openai-harmony 0.0.8, which does the rendering.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
from collections.abc import Iterator, Mapping, Sequence
from reprlib import repr as brief  # bounded, whatever a prompt holds
from typing import Any, Protocol, TypeAlias

import openai_harmony as oh

from gptoss_edu.parser import CHANNELS, FUNCTION_NAME, HEADER_WORD, READERS, Message
from gptoss_edu.schemas import as_json, as_text, check_kind, expected, is_empty, tool_descriptions
from gptoss_edu.tokenizer import bounded, check_text, load_encoding

EFFORTS = ("low", "medium", "high")
# Role -> what a message of it may hold beside "role" and "content".
ENTRIES = {"system": "", "developer": "", "user": "name", "tool": "name tool_call_id"}
ENTRIES["assistant"] = "name channel thinking tool_calls recipient content_type"
THINKING = ("reasoning_content", "reasoning")  # what other programs call it
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

    `prompt` is the user's text, a list of messages in OpenAI's chat format, or a Conversation of
    openai-harmony, rendered as it is: it says itself what the keywords say, and refuses them. In a
    list, roles are system, developer, user, assistant, tool:
    - leading system and developer texts follow `instructions` in the one developer message: to
      GPT-OSS the *system* message is OpenAI's, with effort, date and channels;
    - assistant: "content" goes to "channel" (final; commentary beside tool calls), "thinking" (or
      "reasoning_content", "reasoning") goes to analysis, "tool_calls" to commentary; tool: "name"
      or "tool_call_id" says which function.
    `tools` are OpenAI function schemas. `current_date` is "YYYY-MM-DD", a date, or None: left out.
    Analysis before a final message is left out, as the model's own chat template does it, so each
    prompt of a tool loop begins with the one before. openai-harmony, and so a Conversation, drops
    what is before the *first* final, if the last word is final. Text beside tool calls is thinking
    to the template; here, as in the Harmony guide, it is commentary, and stays.
    Raises ValueError with what was found, what was expected and what to do.
    Source: openai-harmony 0.0.8; the chat_template.jinja of openai/gpt-oss-20b.
    """
    if isinstance(prompt, oh.Conversation):
        effort: Any = brief(reasoning_effort) != "'medium'" or None
        given = {"instructions": instructions, "tools": tools, "current_date": current_date}
        given["reasoning_effort"] = effort
        if extra := [name for name, value in given.items() if not is_empty(value)]:
            raise ValueError(
                f"{', '.join(extra)} given together with a Conversation, which is rendered as it"
                " is; put them into its system and developer messages, or pass a list of messages"
            )
        return _render_conversation(prompt)
    messages, names = _as_dicts(prompt), dict[str, str]()
    leading = [] if instructions is None else [as_text(instructions, "instructions")]
    while messages and messages[0]["role"] in ("system", "developer"):
        leading.append(_text(messages.pop(0)))
    rendered = [_system(reasoning_effort, current_date)]
    demanded, functions = "\n\n".join(filter(None, leading)), tool_descriptions(tools)
    if demanded or functions:
        rendered.append(_developer(demanded or None, functions))
    for message in messages:
        rendered += _harmony_messages(message, names)
    last = max((at for at, each in enumerate(rendered) if each.channel == "final"), default=0)
    # Thoughts have no recipient: on analysis with one, a tool like python is called.
    kept = [m for m in rendered[:last] if m.channel != "analysis" or m.recipient] + rendered[last:]
    return _render_conversation(oh.Conversation.from_messages(kept), drop_analysis=False)


def _as_dicts(prompt: Any) -> list[dict[str, Any]]:
    """The prompt as a fresh list of dicts, each with a known role."""
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    wanted = 'a str, a list of messages {"role": …, "content": …} or an openai_harmony.Conversation'
    check_kind(prompt, (list, tuple), "prompt", wanted)
    if not prompt:
        raise ValueError('prompt is an empty list; give it at least {"role": "user", "content": …}')
    return [_as_dict(message, f"message {index}") for index, message in enumerate(prompt)]


def _as_dict(given: Any, where: str) -> dict[str, Any]:
    """The message without empty entries. An entry that would be ignored is an error."""
    given = given.to_dict() if isinstance(given, Message) else given
    wanted = 'a dict with "role" and "content" (wrap openai_harmony messages in a Conversation)'
    check_kind(given, Mapping, where, wanted)
    role = given.get("role")
    if not (isinstance(role, str) and role in ENTRIES):
        raise expected(f"{where} has role {brief(role)}", f"one of {', '.join(ENTRIES)}")
    known = ["role", "content", *ENTRIES[role].split()]
    message = {key: value for key, value in given.items() if not is_empty(value)}
    for other in THINKING if role == "assistant" else ():
        if other in message:
            thought = as_text(message.pop(other), f"{other} of {where}")
            if as_text(message.setdefault("thinking", thought), f"thinking of {where}") != thought:
                raise ValueError(f"{where} has {other} and another thinking beside it; keep one")
    if unknown := [brief(key) for key in message if key not in known]:
        raise ValueError(
            f"{where} ({role}) has unknown entries {', '.join(unknown[:9])}; known are"
            f" {', '.join(known)}. Remove them: they would not reach the model"
        )
    if role == "user" and "content" not in message:
        raise expected(f"the user's text is empty ({where})", "at least one character")
    return message | {"where": where}


def _text(message: dict[str, Any]) -> str:
    """The content of a message: a str, or OpenAI's list of text parts."""
    content, what = message.get("content", ""), f"content of {message['where']}"
    if isinstance(content, str):
        return as_text(content, what)
    check_kind(content, (list, tuple), what, "a str (turn data into text with json.dumps)")
    for part in content:
        found = part.get("type") if isinstance(part, Mapping) else type(part).__name__
        if not isinstance(found, str) or found != "text":
            wanted = 'only {"type": "text", "text": …} (GPT-OSS reads text only)'
            raise expected(f"{what} has a part of type {brief(found)}", wanted)
    return "".join(as_text(part.get("text"), what) for part in content)


def _system(reasoning_effort: str, current_date: str | datetime.date | None) -> oh.Message:
    """OpenAI's system message: identity, knowledge cutoff, date, effort, channels."""
    if not (isinstance(reasoning_effort, str) and reasoning_effort in EFFORTS):
        raise expected(
            f"reasoning_effort is {brief(reasoning_effort)}", f"one of {', '.join(EFFORTS)}"
        )
    effort, date = oh.ReasoningEffort(reasoning_effort.capitalize()), _date(current_date)
    return _say("system", oh.SystemContent(reasoning_effort=effort, conversation_start_date=date))


def _date(given: str | datetime.date | None) -> str | None:
    if given is None or isinstance(given, datetime.date):
        return given.isoformat()[:10] if given else None
    with contextlib.suppress(TypeError, ValueError):
        # fromisoformat alone also takes 20250628 and 2025-W26-6, which the model has not seen.
        if datetime.date.fromisoformat(given).isoformat() == given:
            return given
    raise expected(f"current_date is {brief(given)}", "'YYYY-MM-DD', a datetime.date or None")


def _developer(instructions: str | None, functions: list[Any]) -> oh.Message:
    """The developer message: "# Instructions", then "# Tools"."""
    content = oh.DeveloperContent(instructions=instructions)
    return _say("developer", content.with_function_tools(functions) if functions else content)


def _say(role: str, content: Any, name: str | None = None, **header: str) -> oh.Message:
    """One Harmony message; `header` may hold channel, recipient and content_type."""
    author = oh.Author(role=oh.Role(role), name=name)  # is written as `role:name`
    return oh.Message.from_author_and_content(author, content).model_copy(update=header)


def _harmony_messages(message: dict[str, Any], names: dict[str, str]) -> list[oh.Message]:
    """One chat message -> one or more Harmony messages. `names` maps tool_call_id -> function."""
    role, where, text = message["role"], message["where"], _text(message)
    if role in ("system", "developer"):
        return [_developer(text, [])]
    name: Any = message.get("name")
    if role == "tool" and name is None:
        call_id, called = message.get("tool_call_id"), {*names.values()}
        name = called.pop() if call_id is None and len(called) == 1 else names.get(_id(call_id))
        if name is None:
            raise ValueError(
                f"{where} (tool) does not say which function answered: found tool_call_id"
                f' {brief(call_id)}, known ids {brief(sorted(names))}; give it "name"'
            )
    name = None if name is None else _word(name, f"name of {where}")
    if role == "assistant":
        return _assistant(message, text, names)
    if role == "user":
        return [_say("user", text, name)]
    name = name if "." in name else f"functions.{name}"
    return [_say("tool", text, name, recipient="assistant", channel="commentary")]


def _assistant(message: dict[str, Any], text: str, names: dict[str, str]) -> list[oh.Message]:
    """Thinking, then text, then tool calls of an assistant message."""
    where, say = message["where"], functools.partial(_say, "assistant", name=message.get("name"))
    calls = list(_tool_calls(message.get("tool_calls", ()), where))
    channel = message.get("channel", "commentary" if calls else "final")
    if not (isinstance(channel, str) and channel in CHANNELS):
        raise expected(f"{where} has channel {brief(channel)}", f"one of {', '.join(CHANNELS)}")
    messages = []
    if thinking := as_text(message.get("thinking", ""), f"thinking of {where}"):
        messages.append(say(thinking, channel="analysis"))
    if text or "recipient" in message or not (calls or thinking):
        header = {"channel": channel}
        for key, prefix in {"recipient": "", "content_type": "<|constrain|>"}.items():
            if key in message:
                word = _word(message[key], f"{key} of {where}", prefix)
                if word not in READERS:  # they read along: no call, which <|call|> would close
                    header[key] = word
        messages.append(say(text, **header))
    for function, arguments, call_id in calls:
        names[call_id] = function
        header = {"recipient": f"functions.{function}", "content_type": "<|constrain|>json"}
        messages.append(say(arguments, channel="commentary", **header))
    return messages


def _id(given: object) -> str:
    return given if isinstance(given, str) else brief(given)


def _tool_calls(calls: Any, where: str) -> Iterator[tuple[str, str, str]]:
    """OpenAI's tool_calls -> (function name, arguments as JSON text, id)."""
    check_kind(calls, (list, tuple), f"tool_calls of {where}", "a list")
    for index, call in enumerate(calls):
        this = f"tool call {index} of {where}"
        function: Any = call.get("function", call) if isinstance(call, Mapping) else None
        name = function.get("name") if isinstance(function, Mapping) else None
        if not (isinstance(name, str) and FUNCTION_NAME.fullmatch(name)):
            wanted = '{"id", "type": "function", "function": {"name", "arguments"}}'
            raise expected(f"{this} is {brief(call)}", wanted)
        arguments = function.get("arguments", "{}")
        if isinstance(arguments, Mapping):
            arguments = as_json(dict(arguments), f"arguments of {this}")
        call_id = _id(call.get("id", f"{where} call {index}"))
        yield name, as_text(arguments, f"arguments of {this}"), call_id


def _word(word: Any, what: str, prefix: str = "") -> str:
    """A name that goes into a header: a space would end it, and `<|` would read as a command."""
    text = as_text(word, what)
    if not HEADER_WORD.fullmatch(text.removeprefix(prefix)):
        raise expected(f"{what} is {text[:80]!r}", "one word without spaces, '<' or '>'")
    return text


def _render_conversation(conversation: oh.Conversation, drop_analysis: bool = True) -> list[int]:
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
    config = oh.RenderConversationConfig(auto_drop_analysis=drop_analysis)
    try:
        whole = oh.Conversation.from_messages(messages)
        render = load_encoding().render_conversation_for_completion
        return list(render(whole, oh.Role.ASSISTANT, config=config))
    except (ValueError, oh.HarmonyError) as error:
        raise ValueError(f"openai-harmony cannot render this conversation: {error}") from error


def _check_template(value: Any) -> None:
    """Every text inside system and developer content: no lone surrogate, no endless stretch."""
    if isinstance(value, Mapping):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list | tuple):
        for item in value:
            _check_template(item)
    elif isinstance(value, str):
        check_text(value, "text of instructions or tools")
        if len(list(bounded(value, MAX_TEMPLATE_RUN))) > 1:
            raise ValueError(
                f"instructions or tools have more than {MAX_TEMPLATE_RUN:,} spaces, letters or"
                " symbols in one stretch; shorten it, or move it into a user message"
            )
