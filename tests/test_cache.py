"""Cached equals uncached, ring equals full, and a rewound cache is as good as a fresh one."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptoss_edu.attention import visible
from gptoss_edu.cache import (
    FullKV,
    RingKV,
    TurnCache,
    capacity_for,
    copy_rings,
    empty_cache,
    grow,
    to_host,
)
from gptoss_edu.config import FULL, TINY

WINDOW = 6


def keys(position_BT):
    """Keys that spell their own position, so that a misplaced one is seen."""
    return jnp.broadcast_to(
        position_BT[..., None, None].astype(jnp.float32), (*position_BT.shape, 3, 20)
    )


def feed(store, *chunks):
    """Append chunks of positions; return the store and what the last chunk was handed."""
    for chunk in chunks:
        position_BT = jnp.asarray(chunk)
        store, k, v, position_BS = store.append(keys(position_BT), -keys(position_BT), position_BT)
    return store, k, v, position_BS


def empty(kind, room):
    zeros = jnp.zeros((2, 3, room, 20), jnp.float32)
    return kind(zeros, zeros, jnp.full((2, room), -1, jnp.int32))


def seen_positions(kind, room, chunks, window):
    """For each query of the last chunk and row: the set of positions it attends to."""
    _, k, v, position_BS = feed(empty(kind, room), *chunks)
    mask_BTS = np.asarray(visible(jnp.asarray(chunks[-1]), position_BS, window))
    occupied = np.asarray(position_BS) >= 0
    np.testing.assert_array_equal(
        np.asarray(k)[occupied][:, 0, 0], np.asarray(position_BS)[occupied]
    )
    np.testing.assert_array_equal(np.asarray(v), -np.asarray(k))
    return [
        [sorted(np.asarray(position_BS)[b][mask].tolist()) for mask in mask_TS]
        for b, mask_TS in enumerate(mask_BTS)
    ]


SCHEDULES = {
    "token by token": [[[p], [p]] for p in range(15)],
    "one long chunk": [[list(range(15))] * 2],
    "short chunks": [[list(range(b, b + 3))] * 2 for b in range(0, 15, 3)],
    "chunks longer than the ring": [[list(range(8))] * 2, [list(range(8, 17))] * 2],
    "rows of different lengths": [[[0, 1, 2, 3, -1, -1], [0, 1, -1, -1, -1, -1]], [[4, 5], [2, 3]]],
    "one row waits": [[[0, 1, 2], [0, 1, 2]], [[3], [-1]], [[4], [3]]],
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_ring_shows_what_a_full_cache_shows_through_a_window(name):
    chunks = SCHEDULES[name]
    ring = seen_positions(RingKV, WINDOW, chunks, WINDOW)
    full = seen_positions(FullKV, 32, chunks, WINDOW)
    assert ring == full
    for row, queries in zip(ring, chunks[-1], strict=True):
        for found, query in zip(row, queries, strict=True):
            expected = list(range(max(0, query - WINDOW + 1), query + 1)) if query >= 0 else []
            assert found == expected


@pytest.mark.parametrize("length", range(1, 20))
def test_no_two_keys_of_a_chunk_get_one_slot(length):
    """On a CPU the later one would win; in what order an accelerator scatters, nobody promises."""
    ring = empty(RingKV, WINDOW)
    position_BT = jnp.stack([jnp.arange(5, 5 + length), jnp.full(length, -1)])
    slot_BT = np.asarray(ring.slots(position_BT))
    kept = slot_BT[0][slot_BT[0] < WINDOW].tolist()
    assert kept == [p % WINDOW for p in range(5, 5 + length)][-WINDOW:]
    assert len(set(kept)) == len(kept) == min(length, WINDOW)
    assert (slot_BT[1] == WINDOW).all(), "padding is dropped"


@pytest.mark.parametrize("length", [1, 2])
def test_a_single_token_looks_at_the_ring_alone(length):
    """Every later step would otherwise copy the ring, to lay the one new key beside it."""
    _, k_BSKH, v_BSKH, position_BS = feed(empty(RingKV, WINDOW), [list(range(length))] * 2)
    room = WINDOW if length == 1 else WINDOW + length
    assert k_BSKH.shape[1] == v_BSKH.shape[1] == position_BS.shape[1] == room


@pytest.fixture
def x64():
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


@pytest.mark.parametrize("kind", [FullKV, RingKV])
def test_positions_of_64_bits_are_stored_as_32(kind, x64, recwarn):
    """JAX warns of scattering int64 into int32, and will refuse it one day."""
    for chunk in ([[0, 1, 2], [0, -1, -1]], [[3], [1]]):
        position_BT = jnp.asarray(chunk)
        assert position_BT.dtype == jnp.int64
        k_BTKH = keys(position_BT)
        store, _, _, position_BS = empty(kind, WINDOW).append(k_BTKH, -k_BTKH, position_BT)
        assert store.position_BS.dtype == position_BS.dtype == jnp.int32
    assert not [w for w in recwarn if "scatter" in str(w.message)]


def test_padding_leaves_no_trace():
    store = empty(FullKV, 8)
    after, *_ = feed(store, [[-1, -1], [-1, 0]])
    np.testing.assert_array_equal(after.k_BKSH[0], store.k_BKSH[0])
    np.testing.assert_array_equal(after.position_BS[:, 0], [-1, 0])


def test_capacity_grows_in_powers_of_two_up_to_the_model():
    assert [capacity_for(n, 131072) for n in (1, 256, 257, 5000)] == [256, 256, 512, 8192]
    assert capacity_for(300, 400) == 400
    with pytest.raises(ValueError, match=r"401 tokens do not fit: .* 400 positions"):
        capacity_for(401, 400)


def test_growing_keeps_what_is_stored_and_leaves_rings_alone():
    cache = empty_cache(TINY, 2, 16)
    filled, *_ = feed(cache.layers[1], [list(range(16))] * 2)
    cache = dataclasses.replace(cache, layers=(cache.layers[0], filled, *cache.layers[2:]))
    wider = grow(cache, 40)
    assert (cache.capacity, wider.capacity) == (16, 40)
    assert wider.layers[0] is cache.layers[0]
    np.testing.assert_array_equal(wider.layers[1].k_BKSH[:, :, :16], filled.k_BKSH)
    np.testing.assert_array_equal(wider.layers[1].position_BS[0], [*range(16), *[-1] * 24])


def test_layers_follow_the_config():
    cache = empty_cache(TINY, 2, 64, jnp.bfloat16)
    assert [type(kv) for kv in cache.layers] == [RingKV, FullKV, RingKV, FullKV]
    assert cache.layers[0].k_BKSH.shape == (2, 3, TINY.sliding_window, 20)
    assert cache.layers[1].k_BKSH.shape == (2, 3, 64, 20)
    assert {leaf.dtype for kv in cache.layers for leaf in (kv.k_BKSH, kv.v_BKSH)} == {
        jnp.dtype(jnp.bfloat16)
    }


def test_a_model_that_only_slides_never_fills_up():
    slides = dataclasses.replace(TINY, layer_types=("sliding_attention",) * 4)
    assert empty_cache(slides, 1, 64).capacity is None
    everything = dataclasses.replace(TINY, layer_types=(FULL,) * 4)
    assert copy_rings(empty_cache(everything, 1, 64)) == (None,) * 4


def test_what_lies_here_is_not_gathered(monkeypatch):
    """Gathering is a program that all machines have to run."""
    gather = "gptoss_edu.cache.multihost_utils.process_allgather"
    monkeypatch.setattr(gather, lambda *_, **__: pytest.fail("gathered"))
    assert to_host(jnp.arange(3)).tolist() == [0, 1, 2]


def test_a_turn_is_a_value():
    turn = TurnCache((1, 2), 1, (), empty_cache(TINY, 1, 16))
    with pytest.raises(dataclasses.FrozenInstanceError):
        turn.prompt_length = 2


def test_a_cache_passes_through_jit_as_a_tree():
    cache = empty_cache(TINY, 1, 16)
    assert jax.tree.structure(jax.jit(lambda c: c)(cache)) == jax.tree.structure(cache)


def test_a_turn_whose_first_token_differs_is_not_resumed():
    turn = TurnCache((1, 2), 1, (), empty_cache(TINY, 1, 16))
    assert turn.resume([9, 2, 3]) is None
