"""Generation against the plain forward pass, and against itself done another way.

Tolerance: the logits of these models spread over about ±4, and two ways of summing the same float32
terms stay within 2e-5 of each other. Sampled tokens must be equal.
"""

import dataclasses
import gc
import inspect
import re
import sys
import traceback
import warnings
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import (
    ANALYSIS,
    ASSISTANT,
    CONFIG,
    MODEL,
    TOKENIZER,
    dictate,
    following,
    random_params,
    say,
)

from gptoss_edu import cache as cache_module
from gptoss_edu import generation as generate_module
from gptoss_edu import moe
from gptoss_edu.cache import empty_cache, grow
from gptoss_edu.config import FULL, GPT_OSS_20B
from gptoss_edu.generation import Stream, decode_step, generate, generate_tokens, prefill, stream
from gptoss_edu.harmony import render
from gptoss_edu.model import forward
from gptoss_edu.mxfp4 import quantize
from gptoss_edu.options import Options
from gptoss_edu.parser import Message
from gptoss_edu.sampling import GREEDY, Sampling
from gptoss_edu.tokenizer import CALL, CHANNEL, END, ENDOFTEXT, MESSAGE, RETURN, START

TOLERANCE = 2e-5
LENGTHS = (1, 127, 128, 129, 300)  # the window is 128, the initial context 256
ROOM = 512
SAMPLED = Sampling(temperature=1.0, top_k=50, top_p=0.95, min_p=0.01)

whole = jax.jit(forward, static_argnames="config")


@pytest.fixture(autouse=True)
def one_capacity(monkeypatch):
    """Every cache has one size, so that a few compiled programs serve all tests."""
    monkeypatch.setattr(cache_module, "SMALLEST", ROOM)


@pytest.fixture(scope="module")
def params():
    return random_params()


def draw_rows(seed, length):
    return np.random.default_rng(seed).integers(0, CONFIG.vocab_size, length).tolist()


PROMPTS = [draw_rows(seed, length) for seed, length in enumerate(LENGTHS)]


def rows_of(steps):
    """What each row of a batch wrote, from token_B after token_B."""
    return [row[row >= 0].tolist() for row in np.stack(list(steps), axis=1)]


def read(params, prompts, *, chunk=256, room=ROOM, store=CONFIG):
    """Logits after the prompts, and the cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generate_module, "CHUNK", chunk)
        return prefill(MODEL, params, prompts, empty_cache(store, len(prompts), room))


# ---- logits: the same numbers, however they are computed ----------------------------------------


@pytest.fixture(scope="module")
def uncached(params):
    """A sequence of 301 tokens, and the logits after each from the plain forward pass."""
    rows = draw_rows(99, 301)
    return rows, np.asarray(whole(params, jnp.array([rows]), config=CONFIG)[0])


@pytest.mark.parametrize("length", LENGTHS)
def test_cached_equals_uncached(params, uncached, length):
    rows, expected_TV = uncached
    logits_BV, cache = read(params, [rows[:length]])
    np.testing.assert_allclose(logits_BV[0], expected_TV[length - 1], atol=TOLERANCE)
    logits_BV, cache = decode_step(MODEL, params, [rows[length]], cache)
    np.testing.assert_allclose(logits_BV[0], expected_TV[length], atol=TOLERANCE)
    assert int(cache.length_B[0]) == length + 1


def test_decoding_across_the_window_and_the_initial_context_equals_uncached(params, uncached):
    rows, expected_TV = uncached
    _, cache = read(params, [rows[:120]])
    for position in range(120, 301):
        logits_BV, cache = decode_step(MODEL, params, [rows[position]], cache)
        np.testing.assert_allclose(logits_BV[0], expected_TV[position], atol=TOLERANCE)


@pytest.mark.parametrize("size", [16, 64, 512])
def test_chunks_of_any_size_equal_the_whole(params, uncached, size):
    rows, expected_TV = uncached
    logits_BV, cache = read(params, [rows[:300]], chunk=size)
    np.testing.assert_allclose(logits_BV[0], expected_TV[299], atol=TOLERANCE)
    logits_BV, _ = decode_step(MODEL, params, [rows[300]], cache)
    np.testing.assert_allclose(logits_BV[0], expected_TV[300], atol=TOLERANCE)


def test_many_heads_or_a_long_cache_make_chunks_smaller():
    assert generate_module.chunk_size(CONFIG, 1, ROOM) == 256
    assert generate_module.chunk_size(CONFIG, 5, 2**17) == 16
    sizes = [generate_module.chunk_size(GPT_OSS_20B, 1, n) for n in (4096, 8192, 131072)]
    assert sizes == [256, 128, 16]


@pytest.fixture(scope="module")
def batch(params):
    """Logits after the prompts of all lengths in one batch, and after one more token."""
    logits_BV, cache = read(params, PROMPTS, chunk=64)
    assert cache.length_B.tolist() == list(LENGTHS)
    return np.asarray(logits_BV), np.asarray(decode_step(MODEL, params, [7] * 5, cache)[0])


def test_batched_equals_alone(params, batch):
    for index, prompt in enumerate(PROMPTS):
        logits_BV, cache = read(params, [prompt])
        np.testing.assert_allclose(logits_BV[0], batch[0][index], atol=TOLERANCE)
        logits_BV, _ = decode_step(MODEL, params, [7], cache)
        np.testing.assert_allclose(logits_BV[0], batch[1][index], atol=TOLERANCE)


def test_a_ring_equals_a_full_cache(params, batch):
    everything = dataclasses.replace(CONFIG, layer_types=(FULL, FULL))
    logits_BV, cache = read(params, PROMPTS, chunk=64, store=everything)
    np.testing.assert_allclose(logits_BV, batch[0], atol=TOLERANCE)
    logits_BV, cache = decode_step(MODEL, params, [7] * 5, cache)
    np.testing.assert_allclose(logits_BV, batch[1], atol=TOLERANCE)
    assert {kv.position_BS.shape for kv in cache.layers} == {(5, ROOM)}


def with_experts(params, change):
    """The same model with its expert matrices changed."""
    names = ("w_gate_up_EDP", "w_down_EFD")
    layers = []
    for layer in params.layers:
        changed = {name: change(getattr(layer.moe, name)) for name in names}
        layers.append(dataclasses.replace(layer, moe=dataclasses.replace(layer.moe, **changed)))
    return dataclasses.replace(params, layers=tuple(layers))


def test_packed_equals_dequantized(params):
    experts = jnp.arange(CONFIG.num_experts)
    packed = jax.jit(lambda tree: with_experts(tree, quantize))(params)
    plain = jax.jit(lambda tree: with_experts(tree, lambda w: w[experts].astype(jnp.float32)))(
        packed
    )
    found_BV, cache = read(packed, PROMPTS, chunk=64)
    expected_BV, plain_cache = read(plain, PROMPTS, chunk=64)
    np.testing.assert_allclose(found_BV, expected_BV, atol=TOLERANCE)
    found_BV, _ = decode_step(MODEL, packed, [7] * 5, cache)
    expected_BV, _ = decode_step(MODEL, plain, [7] * 5, plain_cache)
    np.testing.assert_allclose(found_BV, expected_BV, atol=TOLERANCE)
    assert np.abs(np.asarray(found_BV) - read(params, PROMPTS, chunk=64)[0]).max() > 0.1


def test_a_batch_ends_row_by_row(params):
    """A row that is given -1 waits: nothing is written for it, and it goes on where it was."""
    rows = [draw_rows(1, 40), draw_rows(2, 30)]
    _, cache = read(params, [row[:20] for row in rows])
    for step in range(20, 30):
        _, cache = decode_step(MODEL, params, [row[step] for row in rows], cache)
    for step in range(30, 40):
        logits_BV, cache = decode_step(MODEL, params, [rows[0][step], -1], cache)
    assert cache.length_B.tolist() == [40, 30]
    expected_BV, _ = read(params, [rows[0]])
    np.testing.assert_allclose(logits_BV[0], expected_BV[0], atol=TOLERANCE)
    logits_BV, cache = decode_step(MODEL, params, [-1, 7], cache)
    expected_BV, _ = read(params, [[*rows[1], 7]])
    np.testing.assert_allclose(logits_BV[1], expected_BV[0], atol=TOLERANCE)
    assert cache.length_B.tolist() == [40, 31]


def test_a_row_that_waits_needs_no_room(params):
    _, cache = read(params, [draw_rows(1, ROOM), draw_rows(2, 5)])
    _, cache = decode_step(MODEL, params, [-1, 7], cache)
    with pytest.raises(ValueError, match="full: 513 tokens"):
        decode_step(MODEL, params, [7, -1], cache)


def test_64_bit_integers_change_no_type_of_the_cache(params):
    """With JAX_ENABLE_X64=1 positions were int64 and were scattered into int32, with a warning."""
    options = {"config": CONFIG, "dtype": MODEL.dtype}
    shapes = jax.eval_shape(lambda: empty_cache(CONFIG, 2, 64))
    token_BT = jax.ShapeDtypeStruct((2, 16), np.int32)
    last_BD = jax.ShapeDtypeStruct((2, CONFIG.hidden_size), np.float32)
    try:
        jax.config.update("jax_enable_x64", True)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            chunk, step = generate_module.read_chunk, generate_module.decode
            read_cache, _ = chunk.eval_shape(params, token_BT, shapes, last_BD, **options)
            token_B = jax.ShapeDtypeStruct((2,), np.int32)
            _, written = step.eval_shape(params, token_B, shapes, **options)
    finally:
        jax.config.update("jax_enable_x64", False)
    for cache in (read_cache, written):
        assert jax.tree.map(lambda leaf: leaf.dtype, cache) == jax.tree.map(
            lambda leaf: leaf.dtype, shapes
        )


# ---- tokens -------------------------------------------------------------------------------------


@pytest.fixture
def short_chunks(monkeypatch):
    """Of the programs for a batch of five, one reads and one writes."""
    monkeypatch.setattr(generate_module, "CHUNK", 64)


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_a_batch_writes_what_each_prompt_gets_alone(params, short_chunks, sampling):
    seeds = [3, 1, 4, 1, 5]
    settings = {"max_tokens": 7, "sampling": sampling}
    together = rows_of(generate_tokens(MODEL, params, PROMPTS, seeds=seeds, **settings))
    assert [len(row) for row in together] == [7] * 5
    for prompt, seed, expected in zip(PROMPTS, seeds, together, strict=True):
        alone = generate_tokens(MODEL, params, [prompt], seeds=[seed], **settings)
        assert rows_of(alone) == [expected]


def test_a_row_that_stops_waits_without_disturbing_the_others(params, short_chunks):
    free = rows_of(generate_tokens(MODEL, params, PROMPTS, max_tokens=7))
    stop = free[0][2]
    expected = [row[: row.index(stop) + 1] if stop in row else row for row in free]
    stopped = generate_tokens(MODEL, params, PROMPTS, max_tokens=7, stop_rows=[stop])
    assert rows_of(stopped) == expected
    assert len(expected[0]) <= 3
    assert max(map(len, expected)) == 7


def test_a_row_that_has_stopped_is_fed_no_more(params, short_chunks, monkeypatch):
    fed, decode = [], generate_module.decode

    def noted(params, token_B, cache, **options):
        fed.append(np.asarray(token_B).tolist())
        return decode(params, token_B, cache, **options)

    monkeypatch.setattr(generate_module, "decode", noted)
    free = list(generate_tokens(MODEL, params, PROMPTS, max_tokens=3))
    assert fed == [token_B.tolist() for token_B in free[:2]]
    fed.clear()
    stop = int(free[0][0])
    list(generate_tokens(MODEL, params, PROMPTS, max_tokens=3, stop_rows=[stop]))
    assert fed[0] == [-1 if token == stop else token for token in free[0].tolist()]


def test_a_chunk_is_as_wide_as_the_next_power_of_two(params, monkeypatch):
    widths = []

    def noted(params, token_BT, cache, last_BD, **options):
        widths.append(token_BT.shape[1])
        return cache, last_BD

    monkeypatch.setattr(generate_module, "read_chunk", noted)
    for length in (1, 16, 17, 32, 256, 257, 300):
        read(params, [[7] * length])
    assert widths == [16, 16, 32, 32, 256, 256, 16, 256, 64]


def test_growing_in_the_middle_changes_nothing(params, monkeypatch):
    prompt = draw_rows(11, ROOM - 9)
    expected = rows_of(generate_tokens(MODEL, params, [prompt], max_tokens=20))
    # Unasked, the cache would be large enough for this short answer from the start.
    rooms = iter([ROOM, 2 * ROOM])
    monkeypatch.setattr(cache_module, "capacity_for", lambda length, limit: next(rooms))
    assert rows_of(generate_tokens(MODEL, params, [prompt], max_tokens=20)) == expected
    assert next(rooms, None) is None


def test_the_end_of_the_context_ends_the_answer(params):
    limit = CONFIG.max_positions
    (answer,) = rows_of(generate_tokens(MODEL, params, [draw_rows(5, limit - 4)], max_tokens=50))
    assert len(answer) == 5  # four are read again, the fifth needs no more room
    with pytest.raises(ValueError, match=r"prompt has 1024 tokens, but this model has 1024 pos"):
        next(generate_tokens(MODEL, params, [draw_rows(5, limit)], max_tokens=1))


def test_a_repetition_penalty_ends_a_loop():
    loop = following({ASSISTANT: ASSISTANT})
    prompt = TOKENIZER.to_rows([START, ASSISTANT])
    (stuck,) = rows_of(generate_tokens(MODEL, loop, [prompt], max_tokens=8))
    penalty = Sampling(repetition_penalty=1000.0)
    (free,) = rows_of(generate_tokens(MODEL, loop, [prompt], max_tokens=8, sampling=penalty))
    assert set(stuck) == {prompt[-1]}
    assert len(set(free)) > 1


# ---- replies ------------------------------------------------------------------------------------


def chain(last):
    """Ids that a model writes after `<|start|>assistant`; no id may come twice."""
    return [CHANNEL, ANALYSIS, MESSAGE, TOKENIZER.encode("a")[0], END, START, last]


@pytest.mark.parametrize("last", [RETURN, CALL, ENDOFTEXT])
def test_stops_on_return_call_and_endoftext_but_never_on_end(last):
    ids = chain(last)  # that calls no function, whatever it ends with
    params = following(dict(zip([ASSISTANT, *ids[:-1]], ids, strict=True)))
    reply = generate(MODEL, params, "hi", max_tokens=20)
    assert list(reply.token_ids) == ids
    assert reply.finish_reason == "stop"
    assert reply.analysis == "a"
    assert reply.stats.completion_tokens == len(ids)


def test_max_tokens_cuts_and_says_so(params):
    reply = generate(MODEL, params, "hi", max_tokens=3)
    assert (len(reply.token_ids), reply.finish_reason) == (3, "length")


def test_streamed_pieces_join_to_the_reply(params, monkeypatch):
    dictate(monkeypatch, say("2 + 2: vier → 4", "four ✓!"))
    pieces = stream(MODEL, params, "2 + 2?")
    assert pieces.reply is None
    text = {"analysis": "", "final": ""}
    for piece in pieces:
        text[piece.channel] += piece.text
    reply = pieces.reply
    assert (reply.analysis, reply.final) == (text["analysis"], text["final"])
    assert (reply.analysis, str(reply)) == ("2 + 2: vier → 4", "four ✓!")
    assert reply.finish_reason == "stop"
    assert list(reply.prompt_ids) == TOKENIZER.fit(render("2 + 2?"))
    again = generate(MODEL, params, "2 + 2?")
    assert dataclasses.replace(again, stats=None) == dataclasses.replace(reply, stats=None)


class Interruption:
    """Counts the lines that the package runs, and raises KeyboardInterrupt at one of them, as the
    handler of a real Ctrl-C would: at a place that is known, however busy the machine is.
    """

    def __init__(self, at=None):
        self.at, self.lines = at, 0

    def __enter__(self):
        self.before = sys.gettrace()
        sys.settrace(self.called)
        return self

    def __exit__(self, *_):
        sys.settrace(self.before)

    def called(self, frame, event, _):
        # Files only: JAX itself unpacks dataclasses, and goes on where that was interrupted.
        return (
            self.ran
            if frame.f_code.co_filename.startswith(str(Path(moe.__file__).parent))
            else None
        )

    def ran(self, frame, event, _):
        self.lines += event == "line"
        if self.lines == self.at:
            self.at = None
            raise KeyboardInterrupt
        return self.ran


def test_ctrl_c_at_any_moment_leaves_model_and_weights_usable(params):
    """Forty moments, from the first line to the last ones."""
    before = jax.tree.map(np.array, params)

    def answer():
        return generate(MODEL, params, "hi", max_tokens=12, temperature=1.0)

    answer()  # compiles
    with Interruption() as uninterrupted:
        expected = answer()
    assert uninterrupted.lines > 500
    for line in np.linspace(1, 0.98 * uninterrupted.lines, 40).astype(int).tolist():
        with Interruption(line) as interrupted, pytest.raises(KeyboardInterrupt):
            answer()
        assert interrupted.lines >= line
    again = answer()
    assert dataclasses.replace(again, stats=None) == dataclasses.replace(expected, stats=None)
    assert jax.tree.all(jax.tree.map(np.array_equal, params, before))


def test_streaming_comes_token_by_token(params, monkeypatch):
    dictate(monkeypatch, say("ab", "cd"))
    pieces = stream(MODEL, params, "hi")
    assert [next(pieces).text for _ in range(3)] == ["a", "b", "c"]
    assert pieces.reply is None


def test_a_stream_can_be_left_and_can_be_finished(params, monkeypatch):
    dictate(monkeypatch, say("ab", "cd"))
    with stream(MODEL, params, "hi") as pieces:
        assert next(pieces).text == "a"
    assert list(pieces) == []
    assert pieces.reply is None
    with pytest.raises(ValueError, match="stopped before its end, so there is no reply"):
        pieces.finish()
    pieces = stream(MODEL, params, "hi")
    next(pieces)
    assert pieces.finish().final == "cd"
    assert pieces.finish() is pieces.reply


def living_bytes():
    gc.collect()
    return sum(array.nbytes for array in jax.live_arrays() if not array.is_deleted())


def test_replies_that_are_kept_cost_text_alone(params):
    """A kept cache is what a hundred pages of text are: nobody gets one who did not ask."""
    replies = [generate(MODEL, params, "hi", max_tokens=2)]
    before = living_bytes()
    replies += [generate(MODEL, params, "hi", max_tokens=2) for _ in range(20)]
    with_stream = stream(MODEL, params, "hi", max_tokens=2)
    replies += [with_stream.finish(), *generate(MODEL, params, ["hi", "ho"], max_tokens=2)]
    assert living_bytes() == before
    assert {reply.cache for reply in replies} == {None}
    kept = generate(MODEL, params, "hi", max_tokens=2, keep_cache=True)
    assert living_bytes() - before > 100_000
    assert kept.cache.rows[:-1] == tuple(TOKENIZER.to_rows(kept.prompt_ids))


CONTRIBUTING = Path(__file__).resolve().parents[1] / "CONTRIBUTING.md"


def test_a_token_passes_through_the_files_that_contributing_lists(params, monkeypatch):
    """Who calls whom, from `generate` to `swiglu`, at the moment when `swiglu` runs."""
    text = CONTRIBUTING.read_text(encoding="utf-8")
    listed = re.findall(r"^\d+\. `(\w+)` \((\w+)\.py\)", text, re.MULTILINE)
    stacks, swiglu = [], moe.swiglu

    def noted(*arguments):
        stacks.append(traceback.extract_stack()[:-1])
        return swiglu(*arguments)

    monkeypatch.setattr(moe, "swiglu", noted)
    anew = dataclasses.replace(CONFIG, rms_eps=2e-5)  # what is compiled already calls nobody
    generate(dataclasses.replace(MODEL, config=anew), params, "hi", max_tokens=2)
    assert len(stacks) >= 2 * CONFIG.num_layers  # prefill and decode
    package = str(Path(moe.__file__).parent)
    for stack in stacks:
        frames = [frame for frame in stack if frame.filename.startswith(package)]
        calls = [(frame.name, Path(frame.filename).stem) for frame in frames]
        assert calls[0] == ("generate", "generation")
        assert {file for _, file in calls} == {file for _, file in listed}
    assert len({file for _, file in listed}) <= 4
    decode = iter([*calls, ("swiglu", "moe")])
    assert listed == [call for call in listed if call in decode], calls  # in this order


@pytest.fixture(scope="module")
def pair(params):
    """Two prompts in a batch, answered twice: the first time compiles, the second does not. Each
    time with the number of programs that JAX compiled.
    """
    prompts = ["hi", [{"role": "user", "content": "a longer question, in two parts"}]]
    settings = {"max_tokens": 6, "temperature": 1.0}
    events, answers = [], []
    jax.monitoring.register_event_duration_secs_listener(lambda name, *_, **__: events.append(name))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache_module, "SMALLEST", ROOM)
        for _ in range(2):
            events.clear()
            replies = generate(MODEL, params, prompts, seed=[8, 9], **settings)
            programs = events.count("/jax/core/compile/backend_compile_duration")
            answers.append((replies, programs))
    return prompts, answers


def test_a_list_of_prompts_gives_each_the_reply_it_gets_alone(params, pair):
    prompts, ((replies, _), _) = pair
    assert [reply.cache for reply in replies] == [None, None]
    for prompt, seed, reply in zip(prompts, [8, 9], replies, strict=True):
        alone = generate(MODEL, params, prompt, seed=seed, max_tokens=6, temperature=1.0)
        assert (alone.token_ids, alone.prompt_ids) == (reply.token_ids, reply.prompt_ids)


def test_statistics_keep_compiling_apart(pair):
    _, ((first_replies, programs), (second_replies, programs_again)) = pair
    assert programs > 0
    assert programs_again == 0
    for first, second in zip(first_replies, second_replies, strict=True):
        assert first.token_ids == second.token_ids
        assert first.stats.compile_s > second.stats.compile_s >= 0
        for stats in (first.stats, second.stats):
            assert stats.completion_tokens == 6
            assert stats.prompt_tokens == len(first.prompt_ids)
            assert 0 < stats.time_to_first_token_s < 60
            assert 0 < stats.prefill_tokens_per_s < 1e6
            assert 0 < stats.decode_tokens_per_s < 1e6


def test_messages_are_one_prompt_whatever_their_type(params):
    text = generate(MODEL, params, "hi", max_tokens=2)
    parsed = Message("user", None, None, None, "hi")
    for prompt in ([{"role": "user", "content": "hi"}], [parsed], (parsed,)):
        assert generate(MODEL, params, prompt, max_tokens=2).prompt_ids == text.prompt_ids


def tokens_read(reply):
    """Tokens that this turn really read: those that no cache held."""
    return round(reply.stats.prefill_tokens_per_s * reply.stats.time_to_first_token_s)


def test_a_second_turn_with_the_cache_reads_less_and_says_the_same(params, monkeypatch):
    first = [{"role": "user", "content": "2 + 2?"}]
    with monkeypatch.context() as patch:
        dictate(patch, say("2 + 2 is 4", "four"))
        reply = generate(MODEL, params, first, keep_cache=True)
    second = [*first, *reply.to_messages(), {"role": "user", "content": "and 5?"}]
    fresh = generate(MODEL, params, second, max_tokens=6)
    reused = generate(MODEL, params, second, max_tokens=6, cache=reply.cache)
    assert reused.token_ids == fresh.token_ids
    assert tokens_read(fresh) == fresh.stats.prompt_tokens == len(fresh.prompt_ids)
    assert tokens_read(reused) == len(fresh.prompt_ids) - len(reply.prompt_ids)
    # A cache is a value: used once more it gives the same once more.
    once_more = generate(MODEL, params, second, max_tokens=6, cache=reply.cache)
    assert once_more.token_ids == fresh.token_ids


def test_a_cache_of_another_conversation_does_no_harm(params, monkeypatch):
    with monkeypatch.context() as patch:
        dictate(patch, say("?", "!"))
        options = {"reasoning_effort": "high", "keep_cache": True}
        other = generate(MODEL, params, "something else", **options).cache
    fresh = generate(MODEL, params, "hi", max_tokens=4)
    reused = generate(MODEL, params, "hi", max_tokens=4, cache=other)
    assert reused.token_ids == fresh.token_ids
    assert tokens_read(reused) == len(fresh.prompt_ids)


@pytest.fixture(scope="module")
def turn(params):
    """A turn that has written 150 tokens after 200: its rings no longer hold the prompt's end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache_module, "SMALLEST", ROOM)
        options = {"max_tokens": 150, "keep_cache": True}
        return Stream(generate_tokens(MODEL, params, [draw_rows(21, 200)], **options)).finish()


@pytest.mark.parametrize(
    "agreeing, new, held",
    [
        (349, 60, 349),  # all of it, and more
        (349, 1, 349),
        (200, 60, 200),  # the prompt
        (210, 50, 200),  # the prompt and a little: back to the prompt
        (349, 0, 200),  # the same once more: the last token must be read for its logits
        (150, 60, None),
        (200, 0, None),
        (0, 60, None),
    ],
)
def test_a_cache_taken_up_again_gives_the_logits_of_a_fresh_one(params, turn, agreeing, new, held):
    rows = [*turn.rows[:agreeing], *draw_rows(22, new)]
    resumed = turn.resume(rows)
    assert (resumed and resumed[1]) == held
    if held is not None:
        expected_BV, _ = read(params, [rows], chunk=64)
        for _ in range(2):  # a cache is a value: taking it up does not use it up
            state, _ = turn.resume(rows)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(generate_module, "CHUNK", 64)
                logits_BV, _ = prefill(MODEL, params, [rows[held:]], state)
            np.testing.assert_allclose(logits_BV, expected_BV, atol=TOLERANCE)


def test_a_conversation_of_three_turns_reads_each_text_once(params, monkeypatch):
    dictate(monkeypatch, say("let me see", "it is so"))
    talk, cache, read_so_far, longest = [], None, 0, 0
    for question in ("2 + 2?", "and 5?", "and 6?"):
        talk.append({"role": "user", "content": question})
        reply = generate(MODEL, params, talk, cache=cache, keep_cache=True)
        talk, cache = talk + reply.to_messages(), reply.cache
        read_so_far += tokens_read(reply)
        longest = len(reply.prompt_ids)
    assert read_so_far == longest  # the last prompt holds all that was said, and nothing twice


# ---- statistics and settings --------------------------------------------------------------------


def test_a_cache_that_was_used_up_says_so(params):
    _, cache = read(params, [[1, 2]])
    decode_step(MODEL, params, [3], cache)
    for again in (
        lambda: decode_step(MODEL, params, [3], cache),
        lambda: prefill(MODEL, params, [[3]], cache),
    ):
        with pytest.raises(ValueError, match=r"used up by an earlier call; go on with the one"):
            again()


def test_a_full_cache_is_refused_and_grown(params):
    rows = draw_rows(1, ROOM)
    _, cache = read(params, [rows])
    for again in (
        lambda: decode_step(MODEL, params, [3], cache),
        lambda: prefill(MODEL, params, [[3]], cache),
    ):
        with pytest.raises(ValueError, match=r"full: 513 tokens .* room for 512; grow\("):
            again()
    logits_BV, _ = decode_step(MODEL, params, [3], grow(cache, 2 * ROOM))
    expected_BV, _ = read(params, [[*rows, 3]], room=2 * ROOM)
    np.testing.assert_allclose(logits_BV, expected_BV, atol=TOLERANCE)


def test_generate_lists_every_option_for_its_reader():
    """What Shift-Tab shows in a notebook, and what a typo is answered with."""
    for function in (generate, stream):
        shown = inspect.signature(function).parameters
        assert list(shown)[:3] == ["model", "params", "prompt"]
        for field in dataclasses.fields(Options):
            parameter = shown[field.name]
            assert parameter.kind is parameter.KEYWORD_ONLY
            assert (parameter.default, parameter.annotation) == (field.default, field.type)
            assert f"{field.name}: {field.metadata['help']}\n" in f"{function.__doc__}\n"
        assert len(shown) == 3 + len(dataclasses.fields(Options))


@pytest.mark.parametrize("function", [generate, stream])
def test_an_option_that_does_not_exist_is_answered_with_the_nearest(params, function):
    with pytest.raises(TypeError, match="no option temprature; did you mean temperature"):
        function(MODEL, params, "hi", temprature=1)
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'prompt'"):
        function(MODEL, params, max_tokens=1)
    with pytest.raises(TypeError, match="takes 3 positional arguments but 4 were given"):
        function(MODEL, params, "hi", 5)


def test_a_stream_takes_one_prompt(params):
    with pytest.raises(ValueError, match="stream takes one prompt"):
        stream(MODEL, params, ["a", "b"])


def test_weights_in_bf16_answer_too(params):
    """Close to float32, not equal to it; keys and values are bfloat16, too."""
    low = jax.tree.map(lambda leaf: jnp.asarray(leaf).astype(jnp.bfloat16), params)
    model = dataclasses.replace(MODEL, dtype=jnp.dtype(jnp.bfloat16))
    prompts = [draw_rows(1, 200)]
    expected_BV, _ = read(params, prompts)
    found_BV, cache = prefill(model, low, prompts, empty_cache(CONFIG, 1, ROOM, model.dtype))
    assert {leaf.dtype for kv in cache.layers for leaf in (kv.k_BKSH, kv.v_BKSH)} == {model.dtype}
    step = [int(expected_BV[0].argmax())]
    _, float_cache = read(params, prompts)
    for found, expected in (
        (found_BV, expected_BV),
        (decode_step(model, low, step, cache)[0], decode_step(MODEL, params, step, float_cache)[0]),
    ):
        assert 1e-3 < np.abs(found - expected).max() < 0.2
    reply = generate(model, low, "hi", max_tokens=3)
    assert reply.token_ids[0] == generate(MODEL, params, "hi", max_tokens=1).token_ids[0]
    assert len(reply.token_ids) == 3


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu", "METAL"])
def test_the_host_is_waited_for_on_a_cpu_alone(platform):
    there = SimpleNamespace(devices=lambda: [SimpleNamespace(platform=platform)])
    assert generate_module.runs_ahead(there) is (platform != "cpu")


def test_a_row_outside_is_told_the_rows_there_are():
    with pytest.raises(ValueError, match=r"prompt 0 holds row 7, expected 0 to 6:"):
        generate_module.check_prompts([[7]], 7)
