"""Chapter 09: write `next_range`, `stalled` and `first_token`.

    from gptoss_edu.course.checks import colab
    colab.next_range(my_next_range)

Source: gptoss_edu/weights/fetch.py and reply.py do the same for real downloads and replies.
"""

from __future__ import annotations

from collections.abc import Iterator

from gptoss_edu.course.checks import Exercise, mistakes_in

# ------------------------------------------------------------------------------------ exercise 1


def range_cases() -> Iterator[tuple[int, int]]:
    """Arguments of `next_range`: bytes that a file has, and bytes that are here."""
    yield from ((1000, 400), (1000, 0), (4_792_272_488, 4_792_272_487), (1000, 1000), (1000, 1200))


def _range(size: int, have: int) -> str:
    if have == size:
        return ""
    start = have if have < size else 0
    return f"bytes={start}-"


next_range = Exercise(
    "next_range", _range, ("the range to ask for",), range_cases,
    mistakes_in(_range, {
        "from the start": ("you ask for everything again. Half of a file of 5 GB is worth keeping:"
            " begin where it ends.", "{start}", "0"),
        "one too far": ("you skip a byte. Bytes are counted from 0, so the first one that is"
            " missing has the number of those that are here.", "{start}", "{start + 1}"),
        "whole and asked again": ("the file is whole, and you ask for what comes after its end. A"
            " server answers that with an error, 416: return an empty text.",
            "have == size", "have == -1", "have < size", "have <= size"),
        "too long and kept": ("more is here than the file has. It cannot be this file: begin again"
            " at 0.", "have == size", "have >= size"),
    }),
    praise="With this line a download survives any number of broken connections.",
)  # fmt: skip

# ------------------------------------------------------------------------------------ exercise 2


def stall_cases() -> Iterator[tuple[list[float], list[int], float]]:
    """Arguments of `stalled`: seconds, bytes that had come by then, and the patience."""
    yield [100.0, 120.0, 140.0], [5_000_000_000] * 3, 30.0  # a download that goes on
    yield [7.0, 20.0, 40.0], [5, 9, 9], 30.0
    yield [0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0], [0, 5, 9, 9, 9, 9, 9], 30.0
    yield [0.0, 20.0, 40.0, 60.0, 80.0], [0, 4, 8, 12, 16], 30.0
    yield [0.0, 10.0, 25.0, 45.0, 70.0, 90.0], [0, 0, 3, 3, 7, 7], 60.0
    yield [0.0, 5.0, 45.0, 50.0, 60.0, 91.0], [0, 2, 6, 6, 6, 6], 40.0
    yield [0.0, 15.0, 30.0, 45.0, 60.0], [0, 0, 0, 0, 1], 35.0


def _stalled(seconds: list[float], received: list[int], limit: float) -> float:
    since, most = seconds[0], received[0]
    for now, count in zip(seconds, received, strict=True):
        if count > most:
            since, most = now, count
        if now - since >= limit:
            return now
    return -1


stalled = Exercise(
    "stalled", _stalled, ("the second",), stall_cases,
    mistakes_in(_stalled, {
        "since the beginning": ("you measure from the beginning. A long download is not a stalled"
            " one: measure from the last second at which the count grew.",
            "since, most = now, count", "most = count"),
        "any report counts": ("every look at the clock begins the wait anew. A look brings no"
            " bytes: measure from the last second at which the count grew.",
            "if count > most", "if True"),
        "one look late": ("you wait longer than `limit`. Give up as soon as `limit` seconds are"
            " over: use >=.", ">=", ">"),
        "the place": ("you return the place in the list; asked for is the second that stands"
            " there.", "return now", "return seconds.index(now)"),
    }),
    praise="A socket's time-out does this for `gptoss_edu.weights.fetch`, after half a minute.",
)  # fmt: skip

# ------------------------------------------------------------------------------------ exercise 3


def token_cases() -> Iterator[tuple[float, list[tuple[float, float]], list[float]]]:
    """Arguments of `first_token`: begin, compilations as (begin, end), and when tokens came."""
    yield 100.0, [(101.0, 131.0), (134.0, 144.0)], [133.0, 145.5, 146.0, 146.5]
    yield 10.0, [], [12.0, 12.25, 12.75]
    yield 0.0, [(0.5, 20.5), (21.0, 41.0)], [43.0, 43.5]


def _first(
    began: float, compilations: list[tuple[float, float]], ticks: list[float]
) -> tuple[float, float, float]:
    before = sum(end - begin for begin, end in compilations if end <= ticks[0])
    after = sum(end - begin for begin, end in compilations if end > ticks[0])
    prefill = ticks[0] - began - before
    decode = ticks[-1] - ticks[0] - after
    return before + after, prefill, decode / (len(ticks) - 1)


first_token = Exercise(
    "first_token",
    _first,
    ("seconds of compiling", "seconds of prefill", "seconds per decoded token"),
    token_cases,
    mistakes_in(_first, {
        "compiling counted as prefill": ("your prefill contains the compilation before the first"
            " token. The next prompt will not pay that: take it out.", "began - before", "began"),
        "compiling counted as decode": ("your decode contains the compilation after the first"
            " token: the program that decodes is compiled when it is first needed. Take it out.",
            "ticks[0] - after", "ticks[0]"),
        "only the first program": ("you counted what was compiled before the first token. The"
            " decoding step is compiled after it.", "before + after", "before"),
        "posts for gaps": ("you divided by the number of tokens. Between n tokens lie n − 1 steps.",
            "len(ticks) - 1", "len(ticks)"),
    }),
    praise="`reply.stats` is made like this, from what JAX reports of its compiler.",
)  # fmt: skip
