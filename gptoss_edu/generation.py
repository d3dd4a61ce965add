"""From a prompt to a reply: prefill reads the prompt, decode writes one token at a time.

`generate` and `stream` speak Harmony; below them `generate_tokens` knows only rows of the
vocabulary, and is built from `prefill`, one decoding step and `sample`. The network is compiled
(`jax.jit`) here and nowhere else: one program per chunk length, batch size and cache size.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from gptoss_edu.cache import Cache, TurnCache, capacity_for, copy_rings, empty_cache, grow
from gptoss_edu.config import Config
from gptoss_edu.harmony import render
from gptoss_edu.model import Model, Params, num_bytes, run_blocks, unembed
from gptoss_edu.parser import Message, Piece, StreamParser
from gptoss_edu.reply import Clock, Reply, make_reply
from gptoss_edu.sampling import GREEDY, Sampling, sample
from gptoss_edu.system import available_memory
from gptoss_edu.tokenizer import CALL, Tokenizer

CHUNK = 256  # tokens that prefill reads at once, at most
SMALLEST_CHUNK = 16
SCORE_BYTES = 2**28  # attention scores of one chunk and layer, at most: 256 MiB


@functools.partial(jax.jit, static_argnames=("config", "dtype"), donate_argnames=("cache",))
def _read_chunk(
    params: Params, tokens_BT: Any, cache: Cache, last_BD: Any, *, config: Config, dtype: Any
) -> tuple[Cache, jax.Array]:
    """Read a chunk of prompts; rows of -1 are padding on the right. Logits are left for later:
    only each prompt's last residual stream, last_BD, will need them.
    """
    B, T = tokens_BT.shape
    count_B = jnp.sum(tokens_BT >= 0, axis=1)
    position_BT = jnp.where(tokens_BT >= 0, cache.length_B[:, None] + jnp.arange(T), -1)
    rows_BT = jnp.maximum(tokens_BT, 0)
    x_BTD, kvs, _ = run_blocks(params, rows_BT, position_BT, cache.layers, config, dtype)
    newest_BD = x_BTD[jnp.arange(B), jnp.maximum(count_B - 1, 0)]
    last_BD = jnp.where(count_B[:, None] > 0, newest_BD, last_BD)
    return Cache(kvs, cache.length_B + count_B), last_BD


@functools.partial(jax.jit, static_argnames=("eps",))
def _last_logits(params: Params, last_BD: jax.Array, *, eps: float) -> jax.Array:
    return unembed(params, last_BD[:, None], eps)[:, 0]


@functools.partial(jax.jit, static_argnames=("config", "dtype"), donate_argnames=("cache",))
def _decode(
    params: Params, token_B: Any, cache: Cache, *, config: Config, dtype: Any
) -> tuple[jax.Array, Cache]:
    """One token per row in, the next token's logits out; a row of -1 has finished and waits."""
    position_B1 = jnp.where(token_B >= 0, cache.length_B, -1)[:, None]
    rows_B1 = jnp.maximum(token_B, 0)[:, None]
    x_B1D, kvs, _ = run_blocks(params, rows_B1, position_B1, cache.layers, config, dtype)
    logits_BV = unembed(params, x_B1D, config.rms_eps)[:, 0]
    return logits_BV, Cache(kvs, cache.length_B + (token_B >= 0))


@jax.jit
def _pick(
    logits_BV: jax.Array, seed_B: Any, step: Any, active: dict[str, Any], seen_BV: Any
) -> tuple[jax.Array, Any]:
    """Sample, and remember what was sampled where a repetition penalty wants to know."""
    token_B = sample(logits_BV, seed_B, step, active, seen_BV)
    if seen_BV is not None:
        seen_BV = seen_BV.at[jnp.arange(token_B.shape[0]), token_B].set(True)
    return token_B, seen_BV


@jax.jit
def _next_rows(token_B: jax.Array, open_B: Any, stop_I: Any) -> jax.Array:
    """What to feed of sampled tokens: -1 where a row has ended, now or before."""
    stopped_B = (token_B[:, None] == stop_I).any(axis=1)
    return jnp.where(open_B & ~stopped_B, token_B, -1)


def _to_host(array_B: jax.Array) -> np.ndarray:
    """All rows, also those that lie on the devices of other machines."""
    if array_B.is_fully_addressable or array_B.is_fully_replicated:
        return np.asarray(array_B)
    return np.asarray(multihost_utils.process_allgather(array_B, tiled=True))


def chunk_size(config: Config, batch: int, capacity: int) -> int:
    """Tokens to read at once: CHUNK, or fewer where the scores would outgrow SCORE_BYTES."""
    size = CHUNK
    while size > SMALLEST_CHUNK and 4 * batch * config.num_heads * size * capacity > SCORE_BYTES:
        size //= 2
    return size


def prefill(
    model: Model, params: Params, prompts: Sequence[Sequence[int]], cache: Cache
) -> tuple[jax.Array, Cache]:
    """Read prompts (lists of vocabulary rows, of any lengths) into the cache.

    Returns the logits of the token after each prompt, logits_BV, and the fuller cache; the cache
    passed in is used up. Long prompts are read in chunks, so memory stays bounded. Raises
    ValueError for an empty prompt, for rows outside the vocabulary and where the cache lacks room.
    """
    config = model.config
    check_rows(prompts, config.vocab_size)
    _check_room(cache, [len(prompt) for prompt in prompts], config)
    B, longest = len(prompts), max(map(len, prompts))
    size = chunk_size(config, B, cache.capacity or config.max_positions)
    last_BD = jnp.zeros((B, config.hidden_size), model.dtype)
    for begin in range(0, longest, size):
        rest = longest - begin
        width = size if rest >= size else max(SMALLEST_CHUNK, 1 << (rest - 1).bit_length())
        tokens_BT = np.full((B, width), -1, np.int32)
        for row_T, prompt in zip(tokens_BT, prompts, strict=True):
            part = prompt[begin : begin + size]
            row_T[: len(part)] = part
        cache, last_BD = _read_chunk(
            params, tokens_BT, cache, last_BD, config=config, dtype=model.dtype
        )
    return _last_logits(params, last_BD, eps=config.rms_eps), cache


def decode_step(
    model: Model, params: Params, token_B: Any, cache: Cache
) -> tuple[jax.Array, Cache]:
    """Append one token per row (vocabulary rows) and return logits_BV of the next, and the cache.

    The cache passed in is used up. Raises ValueError when it is full (see `grow`) and for rows
    outside the vocabulary; XLA would say nothing and compute something else.
    """
    check_rows([[int(token)] for token in np.asarray(token_B)], model.config.vocab_size)
    _check_room(cache, [1] * len(token_B), model.config)
    token_B = jnp.asarray(token_B, jnp.int32)
    return _decode(params, token_B, cache, config=model.config, dtype=model.dtype)


def check_rows(prompts: Sequence[Sequence[int]], vocab_size: int) -> None:
    """Raise ValueError unless there are prompts, none empty, with rows from 0 to vocab_size - 1."""
    if not len(prompts):
        raise ValueError("no prompts found, expected at least one")
    for index, prompt in enumerate(prompts):
        if not len(prompt):
            raise ValueError(f"prompt {index} has no tokens, expected at least one")
        low, high = min(prompt), max(prompt)
        if low < 0 or high >= vocab_size:
            wrong = low if low < 0 else high
            raise ValueError(
                f"prompt {index} holds row {wrong}, expected 0 to {vocab_size - 1}: the rows of"
                " this model's vocabulary (Tokenizer.to_rows makes them from ids)"
            )


def _check_room(cache: Cache, added: Sequence[int], config: Config) -> None:
    """Raise ValueError unless row b of the cache has room for added[b] tokens more."""
    if cache.length_B.is_deleted():
        raise ValueError(
            "this cache was used up by an earlier call; go on with the one it returned"
        )
    if len(added) != len(cache.length_B):
        raise ValueError(
            f"found {len(added)} rows for a cache of {len(cache.length_B)}, expected as many"
        )
    length = int(np.max(_to_host(cache.length_B) + np.asarray(added)))
    room = cache.capacity or config.max_positions
    if length > room:
        raise ValueError(
            f"the cache is full: {length} tokens would have to fit, it has room for {room};"
            f" grow(cache, capacity) makes room, up to the model's {config.max_positions} positions"
        )


def generate_tokens(
    model: Model,
    params: Params,
    prompts: Sequence[Sequence[int]],
    *,
    max_tokens: int,
    sampling: Sampling = GREEDY,
    seeds: Sequence[int] | None = None,
    stop_rows: Sequence[int] = (),
    cache: TurnCache | None = None,
    clock: Clock | None = None,
) -> Iterator[np.ndarray]:
    """Yield token_B, the next vocabulary row of each prompt, until all have stopped.

    A row that has stopped yields -1. The generator's return value is the `TurnCache` of a single
    prompt (None for a batch); `cache` takes one back. The next step is already under way when a
    token is yielded, so the caller's printing costs no time (see `runs_ahead`).
    """
    config, B, clock = model.config, len(prompts), clock or Clock()
    state, held, prompts_left = _start(model, prompts, max_tokens, cache)
    clock.prefilled = sum(map(len, prompts_left))
    logits_BV, state = prefill(model, params, prompts_left, state)
    rings = copy_rings(state) if B == 1 else ()
    seed_B = np.asarray(seeds if seeds is not None else [0] * B, np.uint32)
    seen_BV = _seen(prompts, config.vocab_size) if sampling.repetition_penalty != 1 else None
    length_B = np.array([held + len(p) for p in prompts_left])
    alive_B, fed, ahead = np.ones(B, bool), list(prompts[0]), runs_ahead(logits_BV)
    stop_I = np.array(list(stop_rows), np.int32)
    for step in range(max_tokens):
        token_B, seen_BV = _pick(logits_BV, seed_B, step, sampling.active, seen_BV)
        open_B = alive_B & (length_B < config.max_positions)
        more = step + 1 < max_tokens and open_B.any()
        if more and ahead:
            next_B = _next_rows(token_B, open_B, stop_I)
            logits_BV, state = _step(model, params, next_B, state, int(length_B[open_B].max()))
        token_B = _to_host(token_B)
        clock.tick()
        yielded_B = np.where(alive_B, token_B, -1)
        alive_B = open_B & ~np.isin(token_B, stop_I)
        if more and alive_B.any():
            if not ahead:
                next_B = np.where(alive_B, token_B, -1).astype(np.int32)
                logits_BV, state = _step(model, params, next_B, state, int(length_B[alive_B].max()))
            length_B += alive_B
            fed.append(int(token_B[0]))
        yield yielded_B
        if not alive_B.any():
            break
    return TurnCache(tuple(fed), len(prompts[0]), rings, state) if B == 1 else None


def runs_ahead(logits_BV: jax.Array) -> bool:
    """May the next step begin before the host has seen this step's token?

    An accelerator would wait for the host's check at every token, so there the device itself holds
    back rows that have stopped, and after the last token one step runs for nothing. On a CPU there
    is no way to wait for, and that step would cost as much as a token.
    """
    return next(iter(logits_BV.devices())).platform != "cpu"


def _step(
    model: Model, params: Params, token_B: Any, state: Cache, length: int
) -> tuple[jax.Array, Cache]:
    """Decode with room for one token more than `length`."""
    state = _with_room(state, length + 1, model.config)
    return _decode(params, token_B, state, config=model.config, dtype=model.dtype)


def _start(
    model: Model, prompts: Sequence[Sequence[int]], max_tokens: int, kept: TurnCache | None
) -> tuple[Cache, int, list[list[int]]]:
    """(a cache with room, tokens it holds already, what is left to read of each prompt)."""
    config = model.config
    check_rows(prompts, config.vocab_size)
    longest = max(map(len, prompts))
    if longest >= config.max_positions:
        raise ValueError(
            f"the prompt has {longest} tokens, but this model has {config.max_positions} positions"
            " for prompt and answer together; shorten the prompt"
        )
    room = capacity_for(
        min(longest + min(max_tokens, 256), config.max_positions), config.max_positions
    )
    resumed = None if kept is None else _resume(model, prompts, kept)
    if resumed is None:
        _check_memory(config, len(prompts), room, model.dtype)
        return empty_cache(config, len(prompts), room, model.dtype), 0, [list(p) for p in prompts]
    state, held = resumed
    return _with_room(state, room, config), held, [list(prompts[0][held:])]


def _resume(
    model: Model, prompts: Sequence[Sequence[int]], kept: TurnCache
) -> tuple[Cache, int] | None:
    """`TurnCache.resume`, where the cache is one that this model could have made."""
    if len(prompts) != 1:
        raise ValueError(f"found a cache and {len(prompts)} prompts, expected one: it holds one")
    made = empty_cache(model.config, 1, 1, model.dtype).layers
    sizes = [[kv.k_BKSH.shape[1::2] for kv in layers] for layers in (made, kept.cache.layers)]
    if sizes[0] != sizes[1]:
        raise ValueError(
            "this cache is of a model with other layers, heads or sizes; leave it out, or pass the"
            " `cache` of this model's last reply"
        )
    if made[0].k_BKSH.dtype != (found := kept.cache.layers[0].k_BKSH.dtype):
        raise ValueError(
            f"this cache holds {found}, but this model computes in {model.dtype}; leave it out,"
            " or pass the `cache` of this model's last reply"
        )
    return kept.resume(list(prompts[0]))


def _with_room(state: Cache, length: int, config: Config) -> Cache:
    if state.capacity is None or length <= state.capacity:
        return state
    room = capacity_for(length, config.max_positions)
    _check_memory(config, len(state.length_B), room, state.layers[0].k_BKSH.dtype)
    return grow(state, room)


def _check_memory(config: Config, batch: int, room: int, dtype: Any) -> None:
    """Raise MemoryError for keys and values that do not fit; the system would kill the process."""
    needed = num_bytes(jax.eval_shape(lambda: empty_cache(config, batch, room, dtype)))
    available, where = available_memory()
    if available is not None and needed > available:
        raise MemoryError(
            f"too little memory: keys and values of {batch} x {room:,} tokens take"
            f" {needed / 2**30:.2f} GiB, {where} has {available / 2**30:.2f} GiB available;"
            " shorten the prompt, lower max_tokens, or answer fewer prompts at once"
        )


def _seen(prompts: Sequence[Sequence[int]], vocab_size: int) -> jax.Array:
    seen_BV = np.zeros((len(prompts), vocab_size), bool)
    for seen_V, prompt in zip(seen_BV, prompts, strict=True):
        seen_V[list(prompt)] = True
    return jnp.asarray(seen_BV)


@dataclasses.dataclass(frozen=True)
class Options:
    """What `generate` can be told; see there. Raises ValueError for anything out of range."""

    max_tokens: int = 1024
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | Sequence[int] = 0
    reasoning_effort: str = "medium"
    instructions: str | None = None
    tools: Sequence[dict[str, Any]] | None = None
    current_date: Any = None
    cache: TurnCache | None = None

    def __post_init__(self) -> None:
        if not _is_int(self.max_tokens) or self.max_tokens < 1:
            raise ValueError(
                f"max_tokens is {self.max_tokens!r}, expected a whole number, 1 or more"
            )
        if self.cache is not None and not isinstance(self.cache, TurnCache):
            kind = type(self.cache).__name__
            raise ValueError(f"cache is a {kind}, expected the `cache` of an earlier reply")
        _ = self.sampling

    @property
    def sampling(self) -> Sampling:
        """The settings of the draw, checked."""
        return Sampling(
            self.temperature, self.top_k, self.top_p, self.min_p, self.repetition_penalty
        )

    def seeds(self, batch: int) -> list[int]:
        """One seed per prompt; a single one serves all, as it would serve each alone."""
        many = isinstance(self.seed, (Sequence, np.ndarray)) and not isinstance(self.seed, str)
        seeds = list(self.seed) if many else [self.seed] * batch
        if len(seeds) != batch or not all(_is_int(s) and 0 <= s < 2**32 for s in seeds):
            raise ValueError(
                f"seed is {self.seed!r}, expected a whole number from 0 to 2**32 - 1,"
                f" or one for each of the {batch} prompts"
            )
        return seeds


def _is_int(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def answer(
    model: Model, params: Params, prompts: Sequence[Any], options: Options
) -> Iterator[tuple[int, Piece]]:
    """Yield (prompt index, piece) as text comes; the return value is one Reply per prompt."""
    clock, tokenizer = Clock(), _tokenizer(model)
    names = ("reasoning_effort", "instructions", "tools", "current_date")
    settings = {name: getattr(options, name) for name in names}
    prompt_ids = [tokenizer.fit(render(prompt, **settings)) for prompt in prompts]
    steps = generate_tokens(
        model,
        params,
        [tokenizer.to_rows(ids) for ids in prompt_ids],
        max_tokens=options.max_tokens,
        sampling=options.sampling,
        seeds=options.seeds(len(prompts)),
        stop_rows=tokenizer.stop_rows,
        cache=options.cache,
        clock=clock,
    )
    parsers = [StreamParser() for _ in prompts]
    token_ids: list[list[int]] = [[] for _ in prompts]
    kept = yield from _pieces(steps, tokenizer, parsers, token_ids)
    return [
        make_reply(
            parsers[index],
            prompt_ids=prompt_ids[index],
            token_ids=ids,
            finish_reason=_finish_reason(ids[-1], tokenizer),
            stats=clock.stats(len(prompt_ids[index]), len(ids)),
            cache=kept,
        )
        for index, ids in enumerate(token_ids)
    ]


def _tokenizer(model: Model) -> Tokenizer:
    if model.tokenizer is None:
        raise ValueError(
            f"this checkpoint's {model.config.vocab_size} vocabulary rows have no text: expected"
            " o200k_harmony's 201088 or an o200k_ids.json beside the weights;"
            " generate_tokens works on rows"
        )
    return model.tokenizer


def _pieces(
    steps: Iterator[np.ndarray],
    tokenizer: Tokenizer,
    parsers: list[StreamParser],
    token_ids: list[list[int]],
) -> Iterator[tuple[int, Piece]]:
    """Note and parse each row's tokens as they come; the return value is that of `steps`."""
    while True:
        try:
            token_B = next(steps)
        except StopIteration as end:
            kept = end.value
            break
        for index in np.flatnonzero(token_B >= 0).tolist():
            token_ids[index] += tokenizer.to_ids([int(token_B[index])])
            yield from ((index, piece) for piece in parsers[index].feed(token_ids[index][-1]))
    for index, parser in enumerate(parsers):
        yield from ((index, piece) for piece in parser.finish())
    return kept


def _finish_reason(last_id: int, tokenizer: Tokenizer) -> str:
    if last_id == CALL:
        return "tool_call"
    return "stop" if tokenizer.to_rows([last_id])[0] in tokenizer.stop_rows else "length"


class Stream:
    """Pieces of one answer as they come; `reply` holds the whole once they have all come."""

    def __init__(self, pieces: Iterator[tuple[int, Piece]]) -> None:
        self._pieces = pieces
        self.reply: Reply | None = None

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> Piece:
        try:
            return next(self._pieces)[1]
        except StopIteration as end:
            self.reply = end.value[0] if end.value else self.reply
            raise StopIteration from None


def stream(model: Model, params: Params, prompt: Any, **options: Any) -> Stream:
    """`generate` for one prompt, piece by piece: `for piece in stream(...)`, then `.reply`.

    Each piece has its `channel` ("analysis", "commentary" or "final") and its `text`. Takes every
    option of `generate`.
    """
    if _is_batch(prompt):
        raise ValueError("stream takes one prompt, found a list of them; generate takes a batch")
    return Stream(answer(model, params, [prompt], Options(**options)))


def generate(
    model: Model,
    params: Params,
    prompt: Any,
    *,
    max_tokens: int = 1024,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    seed: int | Sequence[int] = 0,
    reasoning_effort: str = "medium",
    instructions: str | None = None,
    tools: Sequence[dict[str, Any]] | None = None,
    current_date: Any = None,
    cache: TurnCache | None = None,
) -> Reply | list[Reply]:
    """Answer a prompt: a string, a list of {"role", "content"} messages, or a Conversation.

    A list of prompts is a batch and gives a list of replies, each what its prompt would get alone.
    Ends on `<|return|>`, `<|call|>` or `<|endoftext|>`, or after `max_tokens`. Temperature 0 is
    greedy; OpenAI recommends 1.0 for the published models. To go on with a conversation, pass its
    messages and `cache=reply.cache`: what was read once is not read again. Raises ValueError, in
    words, for settings out of range and prompts that do not fit.
    """
    given = dict(locals())
    options = Options(**{f.name: given[f.name] for f in dataclasses.fields(Options)})
    prompts = prompt if _is_batch(prompt) else [prompt]
    pieces = answer(model, params, prompts, options)
    while True:
        try:
            next(pieces)
        except StopIteration as end:
            return end.value if _is_batch(prompt) else end.value[0]


def _is_batch(prompt: Any) -> bool:
    """A list of prompts, as against a list of messages."""
    if not isinstance(prompt, (list, tuple)):
        return False
    return not any(isinstance(entry, (Mapping, Message)) for entry in prompt)
