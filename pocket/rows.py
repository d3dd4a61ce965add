"""From examples to arrays: token rows, which of them count in the loss, and batches by length.

`harmony.render` builds every prompt from messages; here the same ids are put together from cached
pieces, a hundred times faster, and a test proves them equal.
"""

from __future__ import annotations

import functools
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from gptoss_edu import harmony, tokenizer
from gptoss_edu.tokenizer import CALL, CHANNEL, CONSTRAIN, END, MESSAGE, RETURN, START, Tokenizer
from pocket import tasks

# Row lengths behind the shared prefix, and rows of each length per step: the shares that the
# mixture of tasks has, so that every step is a fair sample of it.
BUCKETS = {40: 9, 56: 27, 80: 27, 104: 22, 144: 13, 360: 2, 720: 1}


@functools.lru_cache(maxsize=200_000)
def encode(text: str) -> tuple[int, ...]:
    """Text -> true o200k ids, control tokens as plain text."""
    return tuple(tokenizer.load_encoding().encode(text, disallowed_special=()))


@functools.lru_cache(maxsize=1024)
def header(effort: str, tools: bool, instructions: str | None) -> tuple[int, ...]:
    """Ids of the system message, and of the developer's if there is one."""
    offered = [tasks.CALCULATOR] if tools else None
    rendered = harmony.render(
        "x", reasoning_effort=effort, tools=offered, instructions=instructions
    )
    return tuple(rendered[: -len(message_ids("user", "x")) - 2])


def message_ids(role: str, text: str, channel: str | None = None) -> tuple[int, ...]:
    """Ids of one finished message."""
    where = () if channel is None else (CHANNEL, *encode(channel))
    return (START, *encode(role), *where, MESSAGE, *encode(text), END)


def call_ids(name: str, arguments: str) -> tuple[int, ...]:
    """Ids of a tool call, after `<|start|>assistant`."""
    head = (*encode(f" to=functions.{name}"), CHANNEL, *encode("commentary "), CONSTRAIN)
    return (*head, *encode("json"), MESSAGE, *encode(arguments), CALL)


def prompt_ids(example: tasks.Example) -> list[int]:
    """Ids of everything before the model's turn, ending in `<|start|>assistant`."""
    ids = list(header(example.effort, example.tools, example.instructions))
    for message in example.messages:
        role, text = message["role"], message.get("content")
        if role == "tool":
            ids += (START, *encode(f"functions.{message['name']} to=assistant"), CHANNEL)
            ids += (*encode("commentary"), MESSAGE, *encode(text), END)
        elif message.get("tool_calls"):
            if message.get("thinking"):
                ids += message_ids("assistant", message["thinking"], "analysis")
            function = message["tool_calls"][0]["function"]
            ids += (START, *encode("assistant"), *call_ids(function["name"], function["arguments"]))
        else:
            ids += message_ids(role, text, "final" if role == "assistant" else None)
    return [*ids, START, *encode("assistant")]


def reply_ids(example: tasks.Example) -> list[int]:
    """Ids that the model should write, up to and with the stop token."""
    ids: list[int] = []
    for step in example.reply:
        ids += (START, *encode("assistant")) if ids else ()
        if step.recipient:
            ids += call_ids(step.recipient.removeprefix("functions."), step.text)
        else:
            stop = RETURN if step.channel == "final" else END
            ids += (CHANNEL, *encode(step.channel), MESSAGE, *encode(step.text), stop)
    return ids


def choose_vocabulary(sample: int = 40_000, least: int = 12, seed: int = 0) -> tuple[int, ...]:
    """The o200k ids that the pocket model keeps: bytes, control tokens, numbers, and what its
    conversations use at least `least` times in a sample. Sorted."""
    letters = [*tasks.LETTERS, *tasks.LETTERS.upper()]
    texts = [*letters, *(f" {letter}" for letter in letters)]
    texts += [f"{number:0{width}}" for width in (1, 2, 3) for number in range(10**width)]
    texts += [f" {word}" for word in tasks.WORDS]
    texts += [answer for questions, answer in tasks.FACTS for _ in questions]
    texts += [question for questions, _ in tasks.FACTS for question in questions]
    kept = {token for text in texts for token in encode(text)} | set(tokenizer.byte_ids())
    kept |= {tokenizer.STARTOFTEXT, tokenizer.ENDOFTEXT, RETURN, CONSTRAIN, CHANNEL, START, END}
    kept |= {MESSAGE, CALL}
    counts: Counter[int] = Counter()
    for example in itertools.islice(tasks.stream(seed), sample):
        counts.update([*prompt_ids(example), *reply_ids(example)])
    for effort, tools, brief in itertools.product(tasks.EFFORTS, (False, True), tasks.BRIEF):
        kept |= set(header(effort, tools, brief))
    return tuple(sorted(kept | {token for token, count in counts.items() if count >= least}))


class Row(NamedTuple):
    """One training row behind the shared prefix: vocabulary rows, and where the reply begins."""

    tokens: list[int]
    reply_at: int
    effort: int


def shared_prefix() -> np.ndarray:
    """Ids [effort, P] that all prompts of one effort begin with: most of the system message."""
    rows = []
    for effort in tasks.EFFORTS:
        pair = zip(header(effort, False, None), header(effort, True, None), strict=False)
        rows.append([a for a, _ in itertools.takewhile(lambda both: both[0] == both[1], pair)])
    return np.array(rows, np.int32)


def to_row(example: tasks.Example, tok: Tokenizer, prefix: int) -> Row:
    """An example as vocabulary rows, without the first `prefix` tokens."""
    prompt, reply = prompt_ids(example)[prefix:], reply_ids(example)
    prompt, reply = tok.to_rows(tok.fit(prompt)), tok.to_rows(tok.fit(reply))
    return Row(prompt + reply, len(prompt), tasks.EFFORTS.index(example.effort))


class Batch(NamedTuple):
    """One step's rows: per bucket tokens, lengths and efforts, and the loss positions of all.

    Positions count through the buckets laid end to end; unused entries have target -1.
    """

    tokens: tuple[np.ndarray, ...]
    lengths: tuple[np.ndarray, ...]
    efforts: tuple[np.ndarray, ...]
    where_L: np.ndarray
    target_L: np.ndarray


def to_batch(chosen: dict[int, list[Row]], loss_share: float = 0.52) -> Batch:
    """Rows grouped by bucket length -> arrays of fixed shapes."""
    size = sum(length * len(rows) for length, rows in chosen.items())
    where, target, start = [], [], 0
    tokens, lengths, efforts = [], [], []
    for length, rows in chosen.items():
        block = np.zeros((len(rows), length), np.int32)
        for index, row in enumerate(rows):
            block[index, : len(row.tokens)] = row.tokens
            at = np.arange(row.reply_at - 1, len(row.tokens) - 1)
            where.append(start + index * length + at)
            target.append(row.tokens[row.reply_at :])
        tokens.append(block)
        lengths.append(np.array([len(row.tokens) for row in rows], np.int32))
        efforts.append(np.array([row.effort for row in rows], np.int32))
        start += block.size
    places, targets = np.concatenate(where), np.concatenate(target)
    limit = int(size * loss_share)
    where_L, target_L = np.zeros(limit, np.int32), np.full(limit, -1, np.int32)
    kept = min(limit, len(places))
    where_L[:kept], target_L[:kept] = places[:kept], targets[:kept]
    return Batch(tuple(tokens), tuple(lengths), tuple(efforts), where_L, target_L)


def batches(
    seed: int, tok: Tokenizer, scale: float = 1.0, shares: dict[str, int] | None = None
) -> Iterator[Batch]:
    """Batches without end. Rows that find their bucket full wait for the next step."""
    prefix = shared_prefix().shape[1]
    quota = {length: max(1, round(rows * scale)) for length, rows in BUCKETS.items()}
    waiting: dict[int, list[Row]] = defaultdict(list)
    drawn = tasks.stream(seed, shares)
    while True:
        while any(len(waiting[length]) < rows for length, rows in quota.items()):
            row = to_row(next(drawn), tok, prefix)
            length = next((size for size in quota if len(row.tokens) <= size), None)
            if length is not None and len(waiting[length]) < 4 * quota[length]:
                waiting[length].append(row)
        yield to_batch({length: waiting[length][:rows] for length, rows in quota.items()})
        for length, rows in quota.items():
            del waiting[length][:rows]
