"""A conversation that goes on: what was said, functions that the model may call, and the one live
cache, so that each turn reads only what is new.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Generator, Mapping
from typing import Any

from gptoss_edu.cache import TurnCache
from gptoss_edu.generation import Stream, answer_one
from gptoss_edu.model import Model, Params
from gptoss_edu.options import Options, changed
from gptoss_edu.parser import Piece
from gptoss_edu.reply import Reply, ToolCall

Functions = Mapping[str, tuple[Callable[..., Any], Mapping[str, Any]]]
ROUNDS = 8  # answers of the model within one turn: one that calls for more goes in circles
OWN = {"tools": "`functions` says them", "cache": "it is kept here", "keep_cache": "it is kept"}


class Chat:
    """`generate` and `stream` with a memory: `say` and `stream`.

    `functions`: name -> (function, its description in OpenAI's format). The function is called with
    the arguments that the model writes, and its result, as text, is handed back. Options given here
    are those of `generate` and hold for every turn. `messages` is the conversation, as `render`
    reads it; it may be changed between turns. A turn that fails or is stopped leaves messages and
    cache as they were.
    """

    def __init__(
        self, model: Model, params: Params, *, functions: Functions | None = None, **options: Any
    ) -> None:
        self.model, self.params = model, params
        self.functions = dict(functions or {})
        self.messages: list[dict[str, Any]] = []
        self.cache: TurnCache | None = None
        self.options = self._changed(Options(), options)

    def say(self, text: str, **options: Any) -> Reply:
        """Say something and return the reply; functions are called on the way."""
        return self.stream(text, **options).finish()

    def stream(self, text: str, **options: Any) -> Stream[Piece, Reply]:
        """`say`, piece by piece. `options` differ from those of the chat for this turn only."""
        return Stream(self._turn(text, self._changed(self.options, options)))

    def set(self, **options: Any) -> None:
        """Other options from the next turn on."""
        self.options = self._changed(self.options, options)

    def reset(self) -> None:
        """Forget everything said so far."""
        self.messages, self.cache = [], None

    def _changed(self, options: Options, changes: Mapping[str, Any]) -> Options:
        for name in OWN.keys() & changes.keys():
            raise TypeError(f"a Chat takes no option {name}: {OWN[name]}")
        return changed(options, changes)

    def _turn(self, text: str, options: Options) -> Generator[Piece, None, Reply]:
        """Nothing of the chat is changed before the last piece has come."""
        messages, cache = [*self.messages, {"role": "user", "content": text}], self.cache
        tools = [description for _, description in self.functions.values()] or None
        rows: tuple[int, ...] = ()  # of the first prompt
        for _ in range(ROUNDS):
            asked = dataclasses.replace(options, tools=tools, cache=cache, keep_cache=True)
            reply = yield from answer_one(self.model, self.params, messages, asked)
            messages, cache = messages + reply.to_messages(), reply.cache
            if not rows and cache:
                rows, rings = cache.rows[: cache.prompt_length], cache.prompt_rings
            if not reply.tool_calls:
                break
            messages += [self._result(call) for call in reply.tool_calls]
        # The next prompt lacks this turn's thoughts: it agrees with the first, so resume there.
        if cache and cache.rows[: len(rows)] == rows and not reply.tool_calls:
            cache = dataclasses.replace(cache, prompt_length=len(rows), prompt_rings=rings)
        self.messages, self.cache = messages, cache
        return dataclasses.replace(reply, cache=None)

    def _result(self, call: ToolCall) -> dict[str, Any]:
        """What a function answers. The model gets to read errors, too, and can try again."""
        if call.name not in self.functions:
            content = f"error: there is no {call.name}, only {', '.join(self.functions) or 'none'}"
        else:
            try:
                result = self.functions[call.name][0](**call.parsed())
                content = result if isinstance(result, str) else json.dumps(result)
            except Exception as error:
                content = f"error: {type(error).__name__}: {error}"
        return {"role": "tool", "tool_call_id": call.id, "content": content}

    def __repr__(self) -> str:
        held = f"a cache of {len(self.cache.rows):,} tokens" if self.cache else "no cache"
        functions = ", ".join(self.functions) or "none"
        return f"Chat({len(self.messages)} messages, {held}, functions: {functions})"
