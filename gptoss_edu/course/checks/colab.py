"""Chapter 09: write `next_range`, `stalled`, `first_token` and `fetched`.

    from gptoss_edu.course.checks import colab
    colab.next_range(my_next_range)

Source: gptoss_edu/weights/fetch.py and reply.py do the same for real downloads and replies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

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
    yield [50.0, 70.0, 90.0], [0, 0, 0], 30.0
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

# ------------------------------------------------------------------------------------ exercise 4

STALLED, BROKEN = b"", None


class Server:
    """Sends pieces of `data` from where it is asked, as its script says: a number of bytes,
    STALLED, or BROKEN, which raises ConnectionError. After the script it sends nothing.
    """

    def __init__(self, data: bytes, script: Sequence[int | bytes | None]) -> None:
        self.data, self.script, self.step = data, tuple(script), -1

    def __repr__(self) -> str:
        return f"a server of {len(self.data)} bytes with the script {list(self.script)}"

    def again(self) -> Server:
        """The same server, at its beginning."""
        return Server(self.data, self.script)

    def receive(self, begin: int) -> bytes:
        """The next piece, from byte `begin` on."""
        self.step += 1
        what = self.script[self.step] if self.step < len(self.script) else STALLED
        if what is BROKEN:
            raise ConnectionError("the connection broke")
        return self.data[begin : begin + what] if isinstance(what, int) else b""


def fetch_cases() -> Iterator[tuple[Server, int, int]]:
    """Arguments of `fetched`: a server, the size of the file, and how many tries may bring nothing
    one after the other.
    """
    data = bytes(range(40))
    yield Server(data, (10, 30)), 40, 2
    yield Server(data, (10, BROKEN, 30)), 40, 3
    yield Server(data, (10, BROKEN, BROKEN, BROKEN, BROKEN, 30)), 40, 2
    yield Server(data, (10, BROKEN, STALLED, 15, STALLED, BROKEN, 15)), 40, 3
    yield Server(data, (10, BROKEN, STALLED, BROKEN, 30)), 40, 3
    yield Server(data, (STALLED, BROKEN, 20, BROKEN, STALLED, BROKEN, STALLED, 20)), 40, 4
    yield Server(data[:0], ()), 0, 2


def _fetched(server: Server, size: int, patience: int) -> bytes | None:
    have, fruitless = b"", 0
    while len(have) < size:
        try:
            piece = server.receive(len(have))
        except ConnectionError:
            piece = b""
        have += piece
        fruitless = 0 if piece else fruitless + 1
        if fruitless == patience:
            return None
    return have


class Anew(Exercise):
    """A server remembers what it has sent, so each run gets one that is at its beginning."""

    def _run(self, attempt: Callable[..., Any], case: tuple[Any, ...]) -> Any:
        server, *rest = case
        return super()._run(attempt, (server.again(), *rest))


fetched = Anew(
    "fetched", _fetched, ("all bytes, or None",), fetch_cases,
    mistakes_in(_fetched, {
        "always from 0": ("you ask from byte 0 each time, and so the beginning is there more than"
            " once. Ask for what is missing: from len(have) on.",
            "server.receive(len(have))", "server.receive(0)"),
        "gives up at a break": ("you give up at the first broken connection. What has come is kept:"
            " ask again.", 'piece = b""\n        have', 'return None\n        have'),
        "never forgives": ("you count all tries that brought nothing. Only those in a row count:"
            " bytes set the count back to 0.",
            "fruitless = 0 if piece else fruitless + 1",
            "fruitless = fruitless if piece else fruitless + 1"),
        "one try too many": ("you try once more than `patience` allows.",
            "fruitless == patience", "fruitless > patience"),
        "breaks do not count": ("you count tries that stall, and not those that break. Both bring"
            " nothing.", 'piece = b""\n        have', 'continue\n        have'),
    }),
    praise="`gptoss_edu.weights.fetch` does this for 13.8 GB, and compares the sha256 at the end.",
)  # fmt: skip
