"""The programs of generation are shaped for an accelerator: read from what XLA makes of them."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptoss_edu import cache as cache_module
from gptoss_edu import generation as generate_module
from gptoss_edu.cache import empty_cache
from gptoss_edu.chips import hlo
from gptoss_edu.chips.precision import convert
from gptoss_edu.config import TINY
from gptoss_edu.generation import Stream, _pick, _to_feed, decode, generate_tokens, read_chunk
from gptoss_edu.model import Model, init_params
from gptoss_edu.tokenizer import NoText

F32 = jnp.dtype(jnp.float32)
MODEL = Model(TINY, NoText(TINY.vocab_size))
PROMPTS = [[5, 17, 90, 3], [44, 2, 61], [7, 8]]
TALK = {"infeed", "outfeed", "send", "recv", "send-done", "recv-done"}


@pytest.fixture(scope="module")
def params():
    return convert(init_params(TINY, jax.random.key(3)), "mxfp4")


def cache_of(batch):
    return empty_cache(TINY, batch, 32)


@pytest.fixture(scope="module")
def programs(params):
    """Name -> (compiled, leaves of the cache that it is given)."""
    chunk_BT, last_BD = jnp.zeros((1, 16), jnp.int32), jnp.zeros((1, TINY.hidden_size))
    options = {"config": TINY, "dtype": F32}
    step = decode.lower(params, jnp.zeros(3, jnp.int32), cache_of(3), **options)
    chunk = read_chunk.lower(params, chunk_BT, cache_of(1), last_BD, **options)
    return {"decode": step.compile(), "prefill": chunk.compile()}


@pytest.mark.parametrize("name", ["decode", "prefill"])
def test_the_cache_is_updated_in_place(programs, name):
    """Every array of the cache that comes out lies where one lay that went in."""
    text = programs[name].as_text()
    aliases = re.search(r"input_output_alias=\{(.*?)\}, entry", text)[1]
    assert aliases.count("alias)") == len(jax.tree.leaves(cache_of(1)))


@pytest.mark.parametrize("name", ["decode", "prefill"])
def test_nothing_is_asked_of_the_host_on_the_way(programs, name):
    text = programs[name].as_text()
    kinds = {op.kind for op, _, _ in hlo.walk(hlo.parse(text), inside=("fusion",))}
    assert "parameter" in kinds
    assert not kinds & TALK
    assert "callback" not in text


@pytest.mark.parametrize("name", ["decode", "prefill"])
def test_every_shape_is_known_in_advance(programs, name):
    assert "<=" not in programs[name].as_text().split("ENTRY")[1]


@pytest.fixture
def watch(monkeypatch):
    """Call `note` with each array that generation fetches from the device, from now on."""

    def watch(note):
        class Watched:
            def __getattr__(self, name):
                return getattr(np, name)

            def asarray(self, array, *rest, **options):
                if isinstance(array, jax.Array):
                    note(array)
                return np.asarray(array, *rest, **options)

        for module in (generate_module, cache_module):
            monkeypatch.setattr(module, "np", Watched())

    return watch


def test_of_a_step_only_its_tokens_come_to_the_host(params, watch):
    """Sampling happens on the device: the host fetches four bytes per row and token."""
    fetched = []
    steps = 5
    tokens = generate_tokens(MODEL, params, PROMPTS, max_tokens=steps)
    next(tokens)  # prefill checks the room of the cache
    watch(lambda array: fetched.append(array.nbytes))
    assert len(list(tokens)) == steps - 1
    assert fetched == [4 * len(PROMPTS)] * (steps - 1)


@pytest.fixture
def ahead(monkeypatch):
    monkeypatch.setattr(generate_module, "runs_ahead", lambda logits_BV: True)


def answers(params, prompts=PROMPTS, **options):
    return np.stack(list(generate_tokens(MODEL, params, prompts, **options))).tolist()


def test_running_ahead_changes_no_answer(params, monkeypatch):
    plain = answers(params, max_tokens=9)
    stops = sorted({plain[2][0], plain[4][1]})
    expected = answers(params, max_tokens=9, stop_rows=stops)
    assert -1 in np.array(expected)
    monkeypatch.setattr(generate_module, "runs_ahead", lambda logits_BV: True)
    assert answers(params, max_tokens=9) == plain
    assert answers(params, max_tokens=9, stop_rows=stops) == expected


def turn(params, prompts, **options):
    steps = Stream(generate_tokens(MODEL, params, prompts, keep_cache=True, **options))
    return [int(token_B[0]) for token_B in steps], steps.reply


def test_a_cache_that_ran_ahead_holds_what_was_fed(params, ahead):
    """The step after the stop token wrote nothing: the next turn reads on from there."""
    free, _ = turn(params, PROMPTS[:1], max_tokens=6)
    rows, kept = turn(params, PROMPTS[:1], max_tokens=6, stop_rows=[free[3]])
    rows_fed = PROMPTS[0] + rows[:-1]
    assert list(kept.rows) == rows_fed
    assert int(kept.cache.length_B[0]) == len(rows_fed)
    longer = [[*rows_fed, rows[-1], 9]]
    expected, _ = turn(params, longer, max_tokens=4)
    assert turn(params, longer, max_tokens=4, cache=kept)[0] == expected


def test_the_next_step_is_under_way_before_a_token_is_seen(params, ahead, watch, monkeypatch):
    """No stall: when the host looks at a token, the step that follows has been handed over."""
    events = []
    program = generate_module.decode

    def noted(*arguments, **options):
        events.append("step")
        return program(*arguments, **options)

    monkeypatch.setattr(generate_module, "decode", noted)
    tokens = generate_tokens(MODEL, params, PROMPTS, max_tokens=3)
    next(tokens)
    watch(lambda array: array.dtype == jnp.int32 and events.append("look"))
    events.clear()
    assert len(list(tokens)) == 2
    assert events == ["step", "look", "look"]  # after the last token nothing follows


def test_rows_that_have_ended_feed_nothing():
    token_B, open_B = np.array([7, 8, 9], np.int32), np.array([True, False, True])
    assert _to_feed(token_B, open_B, np.array([9, 4], np.int32)).tolist() == [7, -1, -1]
    assert _to_feed(token_B, open_B, np.array([], np.int32)).tolist() == [7, -1, 9]


def test_a_token_is_picked_on_the_device():
    logits_BV = jnp.eye(3, 5)
    token_B, _ = _pick(logits_BV, np.zeros(3, np.uint32), 0, {}, None)
    assert isinstance(token_B, jax.Array)
    assert token_B.tolist() == [0, 1, 2]
