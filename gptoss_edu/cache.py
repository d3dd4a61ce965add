"""The key-value cache: what earlier tokens left behind, so that each new token costs one step.

Layers that see everything keep every key, in `FullKV`, whose room grows in steps. Sliding layers
keep only the newest `window` keys, in `RingKV`: position p lives in slot p % window, where it
overwrites the key that just left the window. GPT-OSS-20B at 131,072 tokens then needs half.

Keys of one head lie together (BKSH), since a head reads all of its keys at each step. With the
heads side by side at each position (BSKH), XLA on a CPU would transpose the whole cache for every
token, which took ten times as long at 16,384 tokens.

XLA drops or shifts a write past the end without a word, so room is checked on the host, before.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from reprlib import repr as brief
from typing import Self, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.typing import DTypeLike

from gptoss_edu.config import Config
from gptoss_edu.shapes import check_shapes, num_bytes, summary, whole_numbers
from gptoss_edu.system import available_memory

SMALLEST = 256  # tokens of room in the smallest cache
Tree = TypeVar("Tree")


@dataclasses.dataclass(frozen=True)
class Slots:
    """Keys and values in S slots, and which position is in each; an empty slot has position -1."""

    k_BKSH: jax.Array
    v_BKSH: jax.Array
    position_BS: jax.Array

    def slots(self, position_BT: jax.Array) -> jax.Array:
        """slot_BT, here the position itself. Slot S is past the end and means: drop it."""
        return jnp.where(position_BT < 0, self.position_BS.shape[1], position_BT)

    def append(
        self, k_BTKH: jax.Array, v_BTKH: jax.Array, position_BT: jax.Array
    ) -> tuple[Self, jax.Array, jax.Array, jax.Array]:
        """Store new keys; give (store, keys, values, their positions). Padding (-1) is dropped."""
        check_shapes(k_BTKH=k_BTKH, v_BTKH=v_BTKH, position_BT=position_BT)
        position_BT = position_BT.astype(self.position_BS.dtype)
        slot_BT = self.slots(position_BT)
        row_B1 = jnp.arange(slot_BT.shape[0])[:, None]

        def scattered(old: Self) -> Self:
            return dataclasses.replace(
                old,
                k_BKSH=old.k_BKSH.at[row_B1, :, slot_BT].set(k_BTKH, mode="drop"),
                v_BKSH=old.v_BKSH.at[row_B1, :, slot_BT].set(v_BTKH, mode="drop"),
                position_BS=old.position_BS.at[row_B1, slot_BT].set(position_BT, mode="drop"),
            )

        store = opaque_on_cpu(scattered, self, jnp.any(position_BT >= 0))
        return store, *store.read()

    def read(self) -> tuple[jax.Array, jax.Array, jax.Array]:
        """(k_BSKH, v_BSKH, position_BS) for `attention`. Under jit this only renames axes."""
        return jnp.swapaxes(self.k_BKSH, 1, 2), jnp.swapaxes(self.v_BKSH, 1, 2), self.position_BS


def opaque_on_cpu(write: Callable[[Tree], Tree], tree: Tree, needed: jax.Array) -> Tree:
    """`write(tree)`, on a CPU behind a branch into which XLA does not look (`needed`: take it).

    XLA would fuse the write into each of its readers there, and copy the whole cache for each of
    them: 46 instead of 5 ms a layer at 16,384 tokens.
    """
    written: Tree = jax.lax.platform_dependent(
        tree, cpu=lambda old: jax.lax.cond(needed, write, lambda same: same, old), default=write
    )
    return written


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FullKV(Slots):
    """Keys and values of every position: slot = position.

    A rewound cache needs no cleaning: what lies beyond a query's position is not visible, and is
    overwritten before it could be.
    """


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RingKV(Slots):
    """Keys and values of the newest S positions, S = the window: slot = position % S."""

    def slots(self, position_BT: jax.Array) -> jax.Array:
        """slot_BT, or S where a key is not kept: padding, and what the chunk itself overwrites.

        No two keys get one slot: in a scatter nobody promises that the later one wins.
        """
        S = self.position_BS.shape[1]
        newest_B1 = jnp.max(position_BT, axis=1, keepdims=True)
        kept_BT = (position_BT >= 0) & (position_BT > newest_B1 - S)
        return jnp.where(kept_BT, position_BT % S, S)

    def append(
        self, k_BTKH: jax.Array, v_BTKH: jax.Array, position_BT: jax.Array
    ) -> tuple[Self, jax.Array, jax.Array, jax.Array]:
        """The same, but of a chunk longer than the ring only the end is kept.

        Its first queries still need the keys that its last keys overwrite: so a chunk is handed the
        old ring and itself, side by side. A single token overwrites a key that has just left.
        """
        appended = super().append(k_BTKH, v_BTKH, position_BT)
        if position_BT.shape[1] == 1:
            return appended
        k_BSKH, v_BSKH, position_BS = self.read()
        k_BSKH = jnp.concatenate([k_BSKH, k_BTKH], axis=1)
        v_BSKH = jnp.concatenate([v_BSKH, v_BTKH], axis=1)
        position_BT = position_BT.astype(position_BS.dtype)
        return appended[0], k_BSKH, v_BSKH, jnp.concatenate([position_BS, position_BT], axis=1)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
    """One store per layer, and how many tokens of each row they hold."""

    layers: tuple[FullKV | RingKV, ...]
    length_B: jax.Array
    __repr__ = summary

    @property
    def capacity(self) -> int | None:
        """Tokens that fit; None if every layer is a ring, which never fills up."""
        rooms = [kv.position_BS.shape[1] for kv in self.layers if isinstance(kv, FullKV)]
        return min(rooms) if rooms else None


def capacity_for(length: int, max_positions: int) -> int:
    """Room for `length` tokens: a power of two, so that few programs are compiled. Raises
    ValueError when the model has fewer positions than that.
    """
    if length > max_positions:
        raise ValueError(
            f"{length} tokens do not fit: this model has {max_positions} positions;"
            " shorten the prompt or lower max_tokens"
        )
    return min(max(SMALLEST, 1 << (length - 1).bit_length()), max_positions)


def empty_cache(config: Config, batch: int, capacity: int, dtype: DTypeLike = jnp.float32) -> Cache:
    """A cache without keys: room for `capacity` tokens on full layers, for a window on others."""
    sizes = whole_numbers([batch, capacity])
    if not isinstance(config, Config) or sizes is None or sizes.shape != (2,) or sizes.min() < 1:
        found = f"a {type(config).__name__}, batch {brief(batch)}, capacity {brief(capacity)}"
        raise ValueError(f"found {found}; expected model.config and whole numbers, 1 or more")

    def store(window: int | None) -> FullKV | RingKV:
        kind, room = (FullKV, capacity) if window is None else (RingKV, window)
        shape = (batch, config.num_kv_heads, room, config.head_dim)
        position_BS = jnp.full((batch, room), -1, jnp.int32)
        return kind(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype), position_BS)

    layers = tuple(store(config.window(layer)) for layer in range(config.num_layers))
    return Cache(layers, jnp.zeros(batch, jnp.int32))


def grow(cache: Cache, capacity: int) -> Cache:
    """The same cache with room for `capacity` tokens on full layers; rings stay as they are."""

    def wider(kv: FullKV | RingKV) -> FullKV | RingKV:
        extra = capacity - kv.position_BS.shape[1]
        if isinstance(kv, RingKV) or extra <= 0:
            return kv
        slots = ((0, 0), (0, 0), (0, extra), (0, 0))
        position_BS = jnp.pad(kv.position_BS, ((0, 0), (0, extra)), constant_values=-1)
        return FullKV(jnp.pad(kv.k_BKSH, slots), jnp.pad(kv.v_BKSH, slots), position_BS)

    return Cache(tuple(wider(kv) for kv in cache.layers), cache.length_B)


def to_host(array_B: jax.Array) -> np.ndarray:
    """All rows, also those that lie on the devices of other machines."""
    if array_B.is_fully_addressable or array_B.is_fully_replicated:
        return np.asarray(array_B)
    return np.asarray(multihost_utils.process_allgather(array_B, tiled=True))


def check_room(cache: Cache, added: Sequence[int], config: Config, dtype: DTypeLike) -> None:
    """Raise ValueError unless row b of a cache of this model has room for added[b] tokens more."""
    stores = [kv.k_BKSH for kv in cache.layers] if isinstance(cache, Cache) else []
    found = [(*k_BKSH.shape[1::2], str(k_BKSH.dtype)) for k_BKSH in stores]
    each = config.num_kv_heads, config.head_dim, str(np.dtype(dtype))
    if found != [each] * config.num_layers:
        raise ValueError(
            f"this {type(cache).__name__} is not of this model: {len(found)} layers, the first with"
            f" heads, size and dtype {found[:1]}, expected {config.num_layers} and {each}; make one"
            " with `empty_cache`, or pass the `cache` of this model's last reply"
        )
    if cache.length_B.is_deleted():
        raise ValueError("cache used up by an earlier call; go on with the one that it returned")
    if (B := len(cache.length_B)) != len(added):
        raise ValueError(f"found {len(added)} rows for a cache of {B}, expected as many")
    length = int(np.max(to_host(cache.length_B) + np.asarray(added)))
    room = cache.capacity or config.max_positions
    if length > room:
        raise ValueError(
            f"the cache is full: {length} tokens would have to fit, it has room for {room};"
            f" grow(cache, capacity) makes room, up to the model's {config.max_positions} positions"
        )


def new_cache(config: Config, batch: int, length: int, dtype: DTypeLike) -> Cache:
    """An empty cache in which `length` tokens fit."""
    return empty_cache(config, batch, room_for(config, batch, length, dtype), dtype)


def with_room(state: Cache, length: int, config: Config) -> Cache:
    """The cache itself, or a copy that has grown so that `length` tokens fit."""
    if state.capacity is None or length <= state.capacity:
        return state
    return grow(state, room_for(config, len(state.length_B), length, state.layers[0].k_BKSH.dtype))


def room_for(config: Config, batch: int, length: int, dtype: DTypeLike) -> int:
    """`capacity_for`, where there is memory for it; else MemoryError, before the system kills."""
    room = capacity_for(length, config.max_positions)
    needed = num_bytes(jax.eval_shape(lambda: empty_cache(config, batch, room, dtype)))
    available, where = available_memory()
    if available is not None and needed > available:
        raise MemoryError(
            f"too little memory: keys and values of {batch} x {room:,} tokens take"
            f" {needed / 2**30:.2f} GiB, {where} has {available / 2**30:.2f} GiB available;"
            " shorten the prompt, lower max_tokens, or answer fewer prompts at once"
        )
    return room


@dataclasses.dataclass(frozen=True)
class TurnCache:
    """What one turn of a conversation leaves to the next; a value, never changed by its use.

    Harmony drops a turn's analysis from the history once it is answered, so the next prompt
    usually agrees with this turn up to the end of its prompt and no further. Full layers can be
    rewound to there; a ring has overwritten its slots, so `prompt_rings` keeps copies from then.
    """

    rows: tuple[int, ...]
    prompt_length: int
    prompt_rings: tuple[RingKV | None, ...]
    cache: Cache

    def check(self, config: Config, dtype: DTypeLike) -> None:
        """Raise ValueError if another model made this, MemoryError where a copy does not fit."""
        check_room(self.cache, [0], config, dtype)
        room_for(config, 1, self.cache.capacity or 1, dtype)

    def resume(self, rows: list[int]) -> tuple[Cache, int] | None:
        """(a copy of the cache, tokens it holds) for a prompt of `rows`; None if none can be kept.

        At least the last token is left to be read again, since its logits are needed.
        """
        shared = 0
        while shared < min(len(self.rows), len(rows) - 1) and self.rows[shared] == rows[shared]:
            shared += 1
        if shared == len(self.rows):
            layers, length = self.cache.layers, shared
        elif shared >= self.prompt_length:
            pairs = zip(self.prompt_rings, self.cache.layers, strict=True)
            layers, length = tuple(ring or full for ring, full in pairs), self.prompt_length
        else:
            return None
        return jax.tree.map(jnp.copy, Cache(layers, jnp.array([length], jnp.int32))), length


def copy_rings(cache: Cache) -> tuple[RingKV | None, ...]:
    """Copies of the ring layers, None in place of the full ones; see `TurnCache`."""
    return tuple(
        jax.tree.map(jnp.copy, kv) if isinstance(kv, RingKV) else None for kv in cache.layers
    )
