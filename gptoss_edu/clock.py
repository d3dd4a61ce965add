"""The times of a reply, compilation kept apart: a first call compiles, the next ones do not."""

from __future__ import annotations

import collections
import time
from typing import Any

import jax

from gptoss_edu.reply import Stats

# (begin, end) of each compilation in this process, as jax reports them.
_compilations: collections.deque[tuple[float, float]] = collections.deque(maxlen=10_000)


def _remember(event: str, duration: float, **_: Any) -> None:
    """Called by jax at the end of each tracing, lowering and compilation, inner ones first."""
    if not event.startswith("/jax/core/compile/"):
        return
    end = time.perf_counter()
    while _compilations and _compilations[-1][0] >= end - duration:
        _compilations.pop()  # it happened inside this one: do not count it twice
    _compilations.append((end - duration, end))


jax.monitoring.register_event_duration_secs_listener(_remember)


def compile_seconds(begin: float, end: float) -> float:
    """Seconds between two readings of `time.perf_counter` that went into compiling programs."""
    return sum(max(0.0, min(e, end) - max(b, begin)) for b, e in list(_compilations))


class Clock:
    """Starts when made; `tick` at every token; `stats` reads it."""

    def __init__(self) -> None:
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
        compile_first_s = compile_seconds(self.began, first)
        compile_rest_s = compile_seconds(first, last)
        first_s = max(first - self.began - compile_first_s, 1e-9)
        decode_s = max(last - first - compile_rest_s, 1e-9)
        return Stats(
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            time_to_first_token_s=first_s,
            prefill_tokens_per_s=self.prefilled / first_s,
            decode_tokens_per_s=(len(self.ticks) - 1) / decode_s,
            compile_s=compile_first_s + compile_rest_s,
        )
