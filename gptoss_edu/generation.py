"""From a prompt to a reply: prefill reads the prompt, decode writes one token at a time.

`generate` and `stream` speak Harmony. Below them `generate_tokens` knows only the model's own
numbers for tokens (`Tokenizer.to_rows` makes them from ids); it is built from `prefill`, one step
and `sample`. Compiled here (`jax.jit`): one program per chunk length, batch and cache size.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, Self, TypeVar, cast, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from gptoss_edu.cache import Cache, TurnCache, check_room, copy_rings, new_cache, to_host, with_room
from gptoss_edu.config import Config
from gptoss_edu.harmony import Prompt
from gptoss_edu.model import Model, Params, check_params, check_tokens, run_blocks, unembed
from gptoss_edu.options import Options, changed, lists_options
from gptoss_edu.parser import Message, Piece, StreamParser
from gptoss_edu.reply import Clock, Reply, make_reply
from gptoss_edu.sampling import GREEDY, Sampling, sample
from gptoss_edu.schemas import tool_descriptions
from gptoss_edu.tokenizer import CALL, STOP_TOKENS

Rows = Sequence[Sequence[int]]  # tokens of each prompt, as the model numbers them
CHUNK = 256  # tokens that prefill reads at once, at most
SMALLEST_CHUNK = 16
NOT_FINITE = -2  # in place of a token
FINISHED = dict.fromkeys(STOP_TOKENS, "stop") | {CALL: "tool_call"}
SCORE_BYTES = 2**28  # attention scores of one chunk and layer, at most: 256 MiB


@functools.partial(jax.jit, static_argnames=("config", "dtype"), donate_argnames=("cache",))
def read_chunk(
    params: Params, token_BT: jax.Array, cache: Cache, last_BD: jax.Array, *,
    config: Config, dtype: DTypeLike,
) -> tuple[Cache, jax.Array]:  # fmt: skip
    """Read a chunk of prompts, -1 is padding on the right; keep each one's last residual stream."""
    B, T = token_BT.shape
    count_B = jnp.sum(token_BT >= 0, axis=1, dtype=jnp.int32)
    position_BT = cache.length_B[:, None] + jnp.arange(T, dtype=jnp.int32)
    position_BT = jnp.where(token_BT >= 0, position_BT, -1)
    token_BT = jnp.maximum(token_BT, 0)
    x_BTD, kvs, _ = run_blocks(params, token_BT, position_BT, cache.layers, config, dtype)
    newest_BD = x_BTD[jnp.arange(B), jnp.maximum(count_B - 1, 0)]
    last_BD = jnp.where(count_B[:, None] > 0, newest_BD, last_BD)
    return Cache(kvs, cache.length_B + count_B), last_BD


@functools.partial(jax.jit, static_argnames=("eps",))
def _last_logits(params: Params, last_BD: jax.Array, *, eps: float) -> jax.Array:
    return unembed(params, last_BD[:, None], eps)[:, 0]


@functools.partial(jax.jit, static_argnames=("config", "dtype"), donate_argnames=("cache",))
def decode(
    params: Params, token_B: jax.Array, cache: Cache, *, config: Config, dtype: DTypeLike
) -> tuple[jax.Array, Cache]:
    """One token per row in, the next token's logits out; a row that gets -1 has ended and waits."""
    position_B1 = jnp.where(token_B >= 0, cache.length_B, -1)[:, None]
    token_B1 = jnp.maximum(token_B, 0)[:, None]
    x_B1D, kvs, _ = run_blocks(params, token_B1, position_B1, cache.layers, config, dtype)
    logits_BV = unembed(params, x_B1D, config.rms_eps)[:, 0]
    return logits_BV, Cache(kvs, cache.length_B + (token_B >= 0).astype(jnp.int32))


@jax.jit
def _pick(
    logits_BV: jax.Array, seed_B: Any, step: Any, active: dict[str, Any], seen_BV: Any
) -> tuple[jax.Array, Any]:
    """Sample, and remember what was sampled where a repetition penalty wants to know.

    Logits that are not all finite give NOT_FINITE: so the host learns of them with the token.
    """
    token_B = sample(logits_BV, seed_B, step, active, seen_BV)
    if seen_BV is not None:
        seen_BV = seen_BV.at[jnp.arange(token_B.shape[0]), token_B].set(True)
    return jnp.where(jnp.isfinite(logits_BV).all(axis=-1), token_B, NOT_FINITE), seen_BV


@jax.jit
def _to_feed(token_B: jax.Array, open_B: jax.Array, stop_I: jax.Array) -> jax.Array:
    """What to feed of sampled tokens: -1 where a row has ended, now or before."""
    return jnp.where(open_B & ~_stopped(token_B, stop_I), token_B, -1)


def _stopped(token_B: Any, stop_I: Any) -> Any:
    return (token_B[:, None] == stop_I[None]).any(axis=1)


def chunk_size(config: Config, batch: int, capacity: int) -> int:
    """Tokens to read at once: CHUNK, or fewer where the scores would outgrow SCORE_BYTES."""
    size = CHUNK
    while size > SMALLEST_CHUNK and 4 * batch * config.num_heads * size * capacity > SCORE_BYTES:
        size //= 2
    return size


def prefill(model: Model, params: Params, prompts: Rows, cache: Cache) -> tuple[jax.Array, Cache]:
    """Read prompts (lists of tokens, of any lengths) into the cache.

    Returns the logits of the token after each prompt, logits_BV, and the fuller cache; the cache
    passed in is used up. Long prompts are read in chunks, so memory stays bounded. Raises
    ValueError for an empty prompt, tokens outside the vocabulary and where the cache lacks room.
    """
    config, dtype = check_params(params, model), model.dtype
    prompts = check_prompts(prompts, config.vocab_size)
    check_room(cache, [len(prompt) for prompt in prompts], config, dtype)
    B, longest = len(prompts), max(map(len, prompts))
    size = chunk_size(config, B, cache.capacity or config.max_positions)
    last_BD = jnp.zeros((B, config.hidden_size), dtype)
    for begin in range(0, longest, size):
        rest = longest - begin
        width = size if rest >= size else max(SMALLEST_CHUNK, 1 << (rest - 1).bit_length())
        token_BT = np.full((B, width), -1, np.int32)
        for token_T, prompt in zip(token_BT, prompts, strict=True):
            part = prompt[begin : begin + size]
            token_T[: len(part)] = part
        cache, last_BD = read_chunk(params, token_BT, cache, last_BD, config=config, dtype=dtype)
    return _last_logits(params, last_BD, eps=config.rms_eps), cache


def decode_step(
    model: Model, params: Params, token_B: ArrayLike | Sequence[int], cache: Cache
) -> tuple[jax.Array, Cache]:
    """Append one token to each row of a batch; return logits_BV of the next, and the cache.

    A row that is given -1 has ended: it waits, and its logits mean nothing. The cache passed in is
    used up. Raises ValueError when it is full (see `grow`) and for tokens outside the vocabulary;
    XLA would say nothing and compute something else.
    """
    config = check_params(params, model)
    given_B = check_tokens("token_B", token_B, config.vocab_size, lowest=-1)
    check_room(cache, (given_B >= 0).tolist(), config, model.dtype)
    logits_BV, cache = decode(params, jnp.asarray(given_B), cache, config=config, dtype=model.dtype)
    return logits_BV, cache


def check_prompts(prompts: Rows, vocab_size: int) -> list[list[int]]:
    """Prompts as lists. Raises ValueError where there is none, and for what holds no tokens."""
    several = isinstance(prompts, Iterable) and getattr(prompts, "ndim", 1) != 0
    given = enumerate(prompts if several else [prompts])
    found = [check_tokens(f"prompt {i}", tokens, vocab_size).tolist() for i, tokens in given]
    if not found:
        raise ValueError("no prompts found, expected at least one")
    return found


def generate_tokens(
    model: Model, params: Params, prompts: Rows, *,
    max_tokens: int, sampling: Sampling = GREEDY, seeds: int | Sequence[int] = 0,
    stop_rows: Sequence[int] = (), cache: TurnCache | None = None, keep_cache: bool = False,
    clock: Clock | None = None,
) -> Generator[np.ndarray, None, TurnCache | None]:  # fmt: skip
    """Yield token_B, the next token of each prompt, until all have stopped; -1 from then on.

    With `keep_cache` the return value is the `TurnCache` of the one prompt; `cache` takes one back.
    The next step is under way when a token is yielded: printing costs no time (see `runs_ahead`).
    """
    config, clock = check_params(params, model), clock or Clock()
    if not isinstance(sampling, Sampling):
        raise ValueError(f"sampling is a {type(sampling).__name__}, expected a Sampling")
    prompts = check_prompts(prompts, config.vocab_size)
    stop_I = check_tokens("stop_rows", stop_rows, config.vocab_size, least=0)
    asked = Options(max_tokens=max_tokens, seed=seeds, cache=cache)
    seed_B, active = np.asarray(asked.seeds(len(prompts)), np.uint32), sampling.active
    state, held, left = _start(model, prompts, asked.max_tokens, cache, keep_cache)
    clock.prefilled = sum(map(len, left))
    logits_BV, state = prefill(model, params, left, state)
    rings, seen_BV = copy_rings(state) if keep_cache else (), None
    if "repetition_penalty" in active:
        seen_BV = jnp.array([np.isin(np.arange(config.vocab_size), prompt) for prompt in prompts])
    length_B = np.array([held + len(prompt) for prompt in left])
    alive_B, fed, ahead = np.ones(len(prompts), bool), [*prompts[0]], runs_ahead(logits_BV)
    for step in range(asked.max_tokens):
        token_B, seen_BV = _pick(logits_BV, seed_B, step, active, seen_BV)
        open_B = alive_B & (length_B < config.max_positions)
        if not ahead:
            token_B = _drawn(token_B, alive_B, step, clock)
            open_B = open_B & ~_stopped(token_B, stop_I)
        if more := step + 1 < asked.max_tokens and open_B.any():
            if ahead:
                next_B = _to_feed(token_B, open_B, stop_I)
            else:  # what the host knows already costs no program
                next_B = np.where(open_B, token_B, -1).astype(np.int32)
            state = with_room(state, int(length_B[open_B].max()) + 1, config)
            logits_BV, state = decode(params, next_B, state, config=config, dtype=model.dtype)
        if ahead:
            token_B = _drawn(token_B, alive_B, step, clock)
            open_B = open_B & ~_stopped(token_B, stop_I)
        alive_B = open_B
        if more and alive_B.any():
            length_B += alive_B
            fed.append(int(token_B[0]))
        yield token_B
        if not alive_B.any():
            break
    return TurnCache(tuple(fed), len(prompts[0]), rings, state) if keep_cache else None


def _drawn(token_B: jax.Array, alive_B: np.ndarray, step: int, clock: Clock) -> np.ndarray:
    """What was drawn, on the host; -1 where a row had ended. Raises ValueError for NOT_FINITE."""
    drawn_B = np.where(alive_B, to_host(token_B), -1)
    clock.tick()
    if NOT_FINITE in drawn_B:
        prompt = drawn_B.tolist().index(NOT_FINITE)
        raise ValueError(
            f"found logits that are NaN or infinite for token {step + 1} of the answer to prompt"
            f" {prompt}, expected finite ones: a weight is damaged (`python -m gptoss_edu verify`"
            " tells), or numbers outgrew a low precision (load the model in another one)"
        )
    return drawn_B


def runs_ahead(logits_BV: jax.Array) -> bool:
    """May the next step begin before the host has seen this step's token?

    An accelerator would wait for the host's check at every token, so there the device itself holds
    back rows that have stopped, and after the last token one step runs for nothing. A CPU has no
    such round trip, and that step would cost as much as a token.
    """
    return bool(next(iter(logits_BV.devices())).platform != "cpu")


def _start(
    model: Model, prompts: Rows, max_tokens: int, kept: TurnCache | None, keep_cache: bool
) -> tuple[Cache, int, Rows]:
    """(a cache with room, tokens it holds already, what is left to read of each prompt)."""
    config = model.config
    longest = max(map(len, prompts))
    if longest >= config.max_positions:
        raise ValueError(
            f"the prompt has {longest} tokens, but this model has {config.max_positions} positions"
            " for prompt and answer together; shorten the prompt"
        )
    if (kept is not None or keep_cache) and len(prompts) != 1:
        found = "a cache" if kept is not None else "keep_cache"
        raise ValueError(f"found {found} and {len(prompts)} prompts, expected one: it holds one")
    length = min(longest + min(max_tokens, 256), config.max_positions)
    if kept is not None:
        kept.check(config, model.dtype)
        if (resumed := kept.resume(list(prompts[0]))) is not None:
            state, held = resumed
            return with_room(state, length, config), held, [prompts[0][held:]]
    return new_cache(config, len(prompts), length, model.dtype), 0, prompts


Y = TypeVar("Y")
R = TypeVar("R")


class Stream(Iterator[Y], Generic[Y, R]):
    """What a generator yields, piece by piece; `reply` is what it returned, None until its end."""

    def __init__(self, pieces: Generator[Y, None, R]) -> None:
        self.reply: R | None = None
        self._pieces, self._lock = self._follow(pieces), threading.RLock()

    def _follow(self, pieces: Generator[Y, None, R]) -> Generator[Y, None, None]:
        self.reply = yield from pieces

    def __next__(self) -> Y:
        with self._lock:  # two threads may share a stream: each piece comes to one of them
            return next(self._pieces)

    def finish(self) -> R:
        """Take the rest; return `reply`. Raises ValueError where it was closed before."""
        for _ in self:
            pass
        if self.reply is None:
            raise ValueError("this stream was stopped before its end, so there is no reply")
        return self.reply

    def close(self, *_: object) -> None:
        """Stop, and free what the rest would have needed; also at the end of `with`."""
        with self._lock:
            self._pieces.close()

    def __enter__(self) -> Self:
        return self

    __exit__ = close


def answer(
    model: Model, params: Params, prompts: Sequence[Prompt], options: Options
) -> Generator[Piece, None, list[Reply]]:
    """Yield text as it comes, of all prompts; the return value is one Reply per prompt."""
    check_params(params, model)
    clock, tokenizer = Clock(), model.tokenizer
    prompt_ids = [tokenizer.fit(options.prompt_ids(prompt)) for prompt in prompts]
    steps = generate_tokens(
        model, params, [tokenizer.to_rows(ids) for ids in prompt_ids],
        max_tokens=options.max_tokens, sampling=options, seeds=options.seed,
        stop_rows=tokenizer.stop_rows, cache=options.cache, keep_cache=options.keep_cache,
        clock=clock,
    )  # fmt: skip
    functions = [tool.name for tool in tool_descriptions(options.tools)]
    parsers = [StreamParser(functions) for _ in prompts]
    token_ids: list[list[int]] = [[] for _ in prompts]
    for token_B in (tokens := Stream(steps)):
        for index in np.flatnonzero(token_B >= 0).tolist():
            token_ids[index] += tokenizer.to_ids([int(token_B[index])])
            yield from parsers[index].feed(token_ids[index][-1])
    for parser in parsers:
        yield from parser.finish()
    return [
        make_reply(
            parser,
            prompt_ids=read,
            token_ids=written,
            finish_reason=FINISHED.get(written[-1], "length"),
            stats=clock.stats(len(read), len(written)),
            cache=tokens.reply,
        )
        for parser, read, written in zip(parsers, prompt_ids, token_ids, strict=True)
    ]


def answer_one(
    model: Model, params: Params, prompt: Prompt, options: Options
) -> Generator[Piece, None, Reply]:
    """`answer` for a single prompt: the return value is its Reply."""
    (reply,) = yield from answer(model, params, [prompt], options)
    return reply


@lists_options
def stream(model: Model, params: Params, prompt: Prompt, **options: Any) -> Stream[Piece, Reply]:
    """`generate` for one prompt, piece by piece: `for piece in stream(...)`, then `.reply`.

    Each piece has its `channel` ("analysis", "commentary" or "final") and its `text`.
    """
    if _is_batch(prompt):
        raise ValueError("stream takes one prompt, found a list of them; generate takes a batch")
    return Stream(answer_one(model, params, prompt, changed(Options(), options)))


# A str is a sequence of str as well: of two overloads that match, the first one counts.
@overload
def generate(model: Model, params: Params, prompt: Prompt, **options: Any) -> Reply: ...
@overload
def generate(
    model: Model, params: Params, prompt: Sequence[Prompt], **options: Any
) -> list[Reply]: ...
@lists_options
def generate(
    model: Model, params: Params, prompt: Prompt | Sequence[Prompt], **options: Any
) -> Reply | list[Reply]:
    """Answer a prompt: a string, a list of {"role", "content"} messages, or a Conversation.

    A list of prompts is a batch and gives a list of replies, each what its prompt would get alone.
    Ends on `<|return|>`, `<|call|>` or `<|endoftext|>`, or after `max_tokens`. To go on with a
    conversation, use `Chat`, or keep the cache and pass it with all messages. Raises ValueError, in
    words, for options out of range and prompts that do not fit.
    """
    batch = _is_batch(prompt)
    prompts = list(cast(Sequence[Prompt], prompt)) if batch else [cast(Prompt, prompt)]
    replies = Stream(answer(model, params, prompts, changed(Options(), options))).finish()
    return replies if batch else replies[0]


def _is_batch(prompt: object) -> bool:
    """A list of prompts, as against a list of messages."""
    return isinstance(prompt, (list, tuple)) and not any(
        isinstance(entry, (Mapping, Message)) for entry in prompt
    )
