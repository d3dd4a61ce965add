"""What the model answered: final text, thinking, tool calls and figures, with a rich display; and
the clock that takes its times, compilation kept apart: a first call compiles, the next do not.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import html
import json
import time
import zlib
from collections.abc import Iterable
from typing import Any

from gptoss_edu.parser import READERS, Message, StreamParser, is_spoken, meant_channel


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
            found = f"arguments of {self.name} are not JSON ({error}): {self.arguments[:200]!r}"
            advice = "tell the model so in a tool message, and let it try again"
            raise ValueError(f"{found}; {advice}") from None


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
    """What the model answered. `print(reply)` shows the final text; notebooks show all in color.

    `final` is what the model says on the final channel; where it names none, what it says without;
    and where it ended by itself, calling nothing, its commentary. Where it is empty, `note` says
    why, and so does `print`. `finish_reason` is
    - "tool_call" exactly when there are `tool_calls`, also if more was said (or cut) after them;
    - else "length" if the token limit came first: `final` may be cut, and a call cut short is none;
    - else "stop", also after a call of what is no function here, like `to=python`.
    `token_ids` are the sampled ids, `prompt_ids` what they continue. A conversation goes on with
    `prompt + reply.to_messages() + [{"role": "user", "content": …}]`; with `cache` (large, so there
    only if `keep_cache=True`) it reads only what is new.
    """

    final: str
    analysis: str
    tool_calls: tuple[ToolCall, ...]
    finish_reason: str
    stats: Stats | None = None
    token_ids: tuple[int, ...] = dataclasses.field(default=(), repr=False)
    prompt_ids: tuple[int, ...] = dataclasses.field(default=(), repr=False)
    messages: tuple[Message, ...] = dataclasses.field(default=(), repr=False)
    # A `cache.TurnCache`: chapter 01 cannot name a type of chapter 06.
    cache: Any = dataclasses.field(default=None, repr=False, compare=False)

    def __str__(self) -> str:
        return self.final or f"({self.note})"

    @property
    def note(self) -> str | None:
        """Why this is not a whole answer: what cut it, what it waits for; None where it is one."""
        if self.finish_reason == "tool_call":
            return f"waits for the result of {', '.join(call.name for call in self.tool_calls)}"
        if self.finish_reason == "length":
            none = "" if self.final else " before any answer"
            return f"stopped at the token limit{none}, after {len(self.token_ids)} tokens"
        if self.final:
            return None
        asked = [m.recipient for m in self.messages if m.recipient not in READERS]
        why = f": {asked[-1]} was asked, which is no function here" if asked else ""
        return f"ended without a final answer{why}"

    def to_messages(self, *, analysis: bool | None = None) -> list[dict[str, Any]]:
        """The reply as history: dicts in OpenAI's chat format, which `render` takes.

        `analysis` None keeps the thinking only while there is no final answer (a tool call needs
        it), as `render` does; True and False decide by force. What the model made up of others, and
        what is left of headers that it began anew, is left out.
        """
        answers = _answers(self.messages, self.finish_reason)
        keep = not answers if analysis is None else analysis
        call_ids = iter(call.id for call in self.tool_calls)
        history = []
        for message in self.messages:
            channel = meant_channel(message)
            if _is_call(message):
                history.append(message.to_dict(next(call_ids)))
            elif message.role != "assistant" or message.function or not message.text:
                continue  # a tool's answer made up by the model; a call cut short, never made
            elif message in answers or not is_spoken(message):
                history.append(message.to_dict())
            elif keep if channel == "analysis" else channel and message.announced:
                history.append(message.to_dict())
        return history

    def _repr_html_(self) -> str:
        footer, stats = html.escape(self.note or "finished"), self.stats
        if stats is not None:
            footer += f" · {stats.completion_tokens:,} tokens"
            footer += f" · {stats.decode_tokens_per_s:.1f} tokens/s"
            footer += f" · first after {stats.time_to_first_token_s:.2f} s"
        rows = "".join(map(_message_html, self.messages)) or "(no message)"
        footer = f'<div style="font-size:85%;opacity:0.75">{footer}</div>'
        return f'<div style="max-width:60em">{rows}{footer}</div>'


def make_reply(
    parser: StreamParser,
    *,
    prompt_ids: Iterable[int],
    token_ids: Iterable[int],
    finish_reason: str,
    stats: Stats | None,
    cache: Any = None,
) -> Reply:
    """Finishes `parser` and gathers what it saw. A call cut short is left out: it might run.

    `finish_reason` is what the last id says; a call, or that there is none, overrules it.
    """
    assert finish_reason in ("stop", "tool_call", "length"), f"finish_reason {finish_reason!r}"
    parser.finish()
    messages, prompt_ids = tuple(parser.messages), tuple(prompt_ids)
    if any(map(_is_call, messages)):
        finish_reason = "tool_call"
    elif finish_reason == "tool_call":
        finish_reason = "stop"
    # Unique in a conversation: no prompt comes twice. (Its length may, since analysis is dropped.)
    turn = f"call_{zlib.crc32(repr(prompt_ids).encode()):08x}"
    calls = enumerate(filter(_is_call, messages))
    tool_calls = (ToolCall(m.function or "", m.text, f"{turn}_{i}") for i, m in calls)
    return Reply(
        final="\n\n".join(m.text for m in _answers(messages, finish_reason)),
        analysis="\n\n".join(m.text for m in _heard(messages, "analysis")),
        tool_calls=tuple(tool_calls),
        finish_reason=finish_reason,
        stats=stats,
        token_ids=tuple(token_ids),
        prompt_ids=prompt_ids,
        messages=messages,
        cache=cache,
    )


def _heard(messages: Iterable[Message], channel: str | None) -> list[Message]:
    """What was said to the reader on a channel, None: on none that is known."""
    return [m for m in messages if m.text and is_spoken(m) and meant_channel(m) == channel]


def _answers(messages: Iterable[Message], finish_reason: str) -> list[Message]:
    """What is meant for the user: commentary only where nothing else, and no tool, follows."""
    answers = _heard(messages, "final") or _heard(messages, None)
    return answers or (_heard(messages, "commentary") if finish_reason == "stop" else [])


def _is_call(message: Message) -> bool:
    return message.function is not None and message.complete


# White on each is at least 4.5 to 1, so labels read alike on light and dark pages; the text itself
# keeps the page's own color.
COLORS = {"analysis": "#6b4fbb", "commentary": "#9a5b00", "final": "#1a7340"}


def _message_html(message: Message) -> str:
    color = COLORS.get(message.channel or "final", "#5c5c5c")
    speaker = "" if message.role == "assistant" else f"{message.name or message.role} · "
    recipient = f" → {message.recipient}" if message.recipient else ""
    ending = "" if message.complete else " (cut off)"
    label = html.escape(f"{speaker}{message.channel or 'no channel'}{recipient}{ending}")
    return (
        f'<div role="group" aria-label="{label}" style="border-left:4px solid {color};'
        f'margin:0 0 0.6em 0;padding:0.1em 0 0.1em 0.8em">'
        f'<span style="background:{color};color:#ffffff;border-radius:3px;padding:0.1em 0.5em;'
        f'font-size:85%">{label}</span>'
        f'<div dir="auto" style="white-space:pre-wrap;overflow-wrap:anywhere;margin-top:0.3em">'
        f"{html.escape(message.text)}</div></div>"
    )


# (begin, end) of each compilation in this process, as jax reports them.
_compilations: collections.deque[tuple[float, float]] = collections.deque(maxlen=10_000)


def _remember(event: str, duration_secs: float, **_: str | int) -> None:
    """Called by jax at the end of each tracing, lowering and compilation, inner ones first."""
    if not event.startswith("/jax/core/compile/"):
        return
    end = time.perf_counter()
    while _compilations and _compilations[-1][0] >= end - duration_secs:
        _compilations.pop()  # it happened inside this one: do not count it twice
    _compilations.append((end - duration_secs, end))


@functools.lru_cache(maxsize=1)
def _listen() -> None:
    """Let jax report compilations from now on; parsing a reply alone does not need jax."""
    import jax

    jax.monitoring.register_event_duration_secs_listener(_remember)


def compile_seconds(begin: float, end: float) -> float:
    """Seconds between two readings of `time.perf_counter` that went into compiling programs."""
    return sum(max(0.0, min(e, end) - max(b, begin)) for b, e in list(_compilations))


class Clock:
    """Starts when made; `tick` at every token; `stats` reads it."""

    def __init__(self) -> None:
        _listen()
        self.began = time.perf_counter()
        self.prefilled = 0
        self.ticks: list[float] = []

    def tick(self) -> None:
        """A token has come."""
        self.ticks.append(time.perf_counter())

    def stats(self, prompt_tokens: int, completion_tokens: int) -> Stats:
        """The figures of one reply, in seconds and tokens per second, compilation not counted.

        Prefill speed counts the tokens that were read, not those a cache held already; decode
        speed is per row, that is in steps per second.
        """
        first, last = self.ticks[0], self.ticks[-1]
        before, after = compile_seconds(self.began, first), compile_seconds(first, last)
        first_s = max(first - self.began - before, 1e-9)
        prefill = self.prefilled / first_s
        decode = (len(self.ticks) - 1) / max(last - first - after, 1e-9)
        return Stats(prompt_tokens, completion_tokens, first_s, prefill, decode, before + after)
