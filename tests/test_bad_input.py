"""Bad input, all of it: where each kind is tested, and here those kinds that reach `generate`.

Every refusal says what was found, what was expected and what to do. It comes before any compiled
program runs: beyond that point XLA clamps, wraps and drops without a word.
"""

import dataclasses
import importlib
import math
import time
from concurrent.futures import ThreadPoolExecutor

import jax.numpy as jnp
import numpy as np
import openai_harmony as oh
import pytest
from models import CONFIG, MODEL, following, random_params

from gptoss_edu import cache as cache_module
from gptoss_edu.cache import TurnCache, empty_cache, new_cache, with_room
from gptoss_edu.chat import Chat
from gptoss_edu.generation import decode_step, generate, generate_tokens, prefill, stream
from gptoss_edu.model import forward
from gptoss_edu.tokenizer import NoText


@pytest.fixture
def nothing_runs(monkeypatch):
    """Fail as soon as one of the compiled programs is reached."""
    module = importlib.import_module("gptoss_edu.generation")
    for program in ("read_chunk", "decode", "_last_logits", "_pick"):
        monkeypatch.setattr(module, program, lambda *_, **__: pytest.fail("a program ran"))


@pytest.fixture(scope="module")
def params():
    return random_params()


USER = {"role": "user", "content": "hi"}
TOOL = {"name": "now", "parameters": {"type": "object", "properties": ["x"]}}
SENSELESS = [
    ({"prompt": ""}, "text is empty"),
    ({"prompt": []}, "no prompts found, expected at least one"),
    ({"prompt": [""]}, "text is empty"),
    ({"prompt": ["hi", ""]}, "text is empty"),
    ({"prompt": [[]]}, "empty list"),
    ({"prompt": None}, "prompt is a NoneType, but a str"),
    ({"prompt": b"hi"}, "prompt is a bytes, but a str"),
    ({"prompt": USER}, "prompt is a dict, but a str, a list"),
    ({"prompt": oh.Conversation(messages=[])}, "Conversation is empty"),
    ({"prompt": [{"role": "robot", "content": "hi"}]}, "has role 'robot', but one of system"),
    ({"prompt": "\ud800"}, "lone surrogate"),
    ({"prompt": "hi", "instructions": "\udfff"}, "instructions has a lone surrogate"),
    *(({"max_tokens": n}, f"max_tokens is {n!r}, expected a whole") for n in (0, -1, 2.0, True)),
    *(({"temperature": t}, "temperature is .*, expected a finite") for t in (-0.1, math.nan)),
    *(({"top_p": p}, "top_p is .*, expected above 0 and at most 1") for p in (0, -1, 1.5)),
    ({"top_k": 0}, "top_k is 0, expected a whole number of at least 1"),
    ({"min_p": 2}, "min_p is 2, expected at least 0"),
    ({"repetition_penalty": 0}, "repetition_penalty is 0, expected a finite number above 0"),
    ({"seed": -1}, "seed is -1, expected a whole number from 0"),
    ({"seed": [1, 2]}, "seed is .*, or one for each of the 1 prompts"),
    ({"reasoning_effort": "extreme"}, "reasoning_effort is 'extreme', but one of low, medium"),
    ({"tools": [TOOL]}, "properties is a list"),
    ({"tools": "now"}, "tools is a str, but a list"),
    ({"current_date": "tomorrow"}, "current_date is 'tomorrow', but 'YYYY-MM-DD'"),
    ({"cache": "mine"}, "cache is a str, expected the `cache` of an earlier reply"),
]


@pytest.mark.parametrize("changes, message", SENSELESS)
def test_a_prompt_or_setting_that_makes_no_sense_is_refused(nothing_runs, params, changes, message):
    with pytest.raises(ValueError, match=message):
        generate(MODEL, params, **{"prompt": "hi"} | changes)
    if not isinstance(changes.get("prompt"), list) or "role" in str(changes):
        with pytest.raises(ValueError, match=message):
            list(stream(MODEL, params, **{"prompt": "hi"} | changes))


@pytest.mark.parametrize("text", [" " * 1_000_000, "word " * 2000, "🙂" * 300])
def test_a_prompt_longer_than_the_context_is_refused(nothing_runs, params, text):
    began = time.process_time()  # a busy machine takes nothing of it
    for prompt in (text, ["short", text]):
        with pytest.raises(ValueError, match=r"prompt has \d+ tokens, but this model has 1024 pos"):
            generate(MODEL, params, prompt)
    assert time.process_time() - began < 30


@pytest.mark.parametrize("row", [-1, CONFIG.vocab_size, 2**31, 201_088])
def test_rows_outside_the_vocabulary_are_refused(nothing_runs, params, row):
    message = rf"prompt \d holds row {row}, expected 0 to 282: the rows of this model's vocabulary"
    with pytest.raises(ValueError, match=message):
        list(generate_tokens(MODEL, params, [[1, 2], [3, row]], max_tokens=2))
    with pytest.raises(ValueError, match=message):
        prefill(MODEL, params, [[3, row]], empty_cache(CONFIG, 1, 16))
    row = -2 if row == -1 else row  # -1 waits
    message = rf"token_B holds row {row}, expected -1 to 282"
    with pytest.raises(ValueError, match=message):
        decode_step(MODEL, params, np.array([row]), empty_cache(CONFIG, 1, 16))


def test_prompts_without_tokens_are_refused(nothing_runs, params):
    with pytest.raises(ValueError, match="prompt 1 has no tokens, expected at least one"):
        list(generate_tokens(MODEL, params, [[1], []], max_tokens=2))
    with pytest.raises(ValueError, match="found 2 rows for a cache of 3, expected as many"):
        prefill(MODEL, params, [[1], [2]], empty_cache(CONFIG, 3, 16))


def test_a_cache_that_does_not_fit_in_memory_is_refused(nothing_runs, params, monkeypatch):
    monkeypatch.setattr(cache_module, "available_memory", lambda: (100_000, "this machine"))
    with pytest.raises(MemoryError, match=r"keys and values of 2 x 512 .*0.00 GiB available"):
        generate(MODEL, params, ["hi", "ho"])
    monkeypatch.setattr(cache_module, "available_memory", lambda: (3 * 2**28, "this machine"))
    with pytest.raises(MemoryError, match=r"1.18 GiB, this machine has 0.75 GiB available"):
        new_cache(CONFIG, 4096, 512, jnp.float32)
    monkeypatch.setattr(cache_module, "available_memory", lambda: (100_000, "this machine"))
    state = empty_cache(CONFIG, 1, 16)
    with pytest.raises(MemoryError, match=r"1 x 1,024 .*shorten the prompt, lower max_tokens"):
        with_room(state, 1000, CONFIG)
    assert with_room(state, 16, CONFIG) is state


def test_a_cache_is_copied_only_where_the_copy_fits(params, monkeypatch):
    """Going on with a cache keeps the old one, too: its copy is checked like a new one."""
    kept = generate(MODEL, params, "hi", max_tokens=1, keep_cache=True).cache
    monkeypatch.setattr(cache_module, "available_memory", lambda: (100_000, "this machine"))
    monkeypatch.setattr(TurnCache, "resume", lambda *_: pytest.fail("it was copied"))
    with pytest.raises(MemoryError, match=r"too little memory: keys and values of 1 x 256 tokens"):
        generate(MODEL, params, "hi", cache=kept)


def test_a_cache_of_another_model_is_refused(params):
    cache = generate(MODEL, params, "hi", max_tokens=1, keep_cache=True).cache
    narrow = dataclasses.replace(CONFIG, num_kv_heads=1)
    for model, message in (
        (dataclasses.replace(MODEL, config=narrow), r"model do not belong together: .*w_k_DKH"),
        (
            dataclasses.replace(MODEL, dtype=jnp.dtype(jnp.bfloat16)),
            r"'float32'\)\], .*'bfloat16'\)",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            generate(model, params, "hi", cache=cache)
    with pytest.raises(ValueError, match="found a cache and 2 prompts, expected one"):
        generate(MODEL, params, ["hi", "ho"], cache=cache)
    with pytest.raises(ValueError, match="found keep_cache and 2 prompts, expected one"):
        generate(MODEL, params, ["hi", "ho"], keep_cache=True)


def test_a_model_without_a_vocabulary_says_what_it_can_do(nothing_runs, params):
    mute = dataclasses.replace(MODEL, tokenizer=NoText(CONFIG.vocab_size))
    with pytest.raises(ValueError, match=r"283 vocabulary rows have no text: expected .* work"):
        generate(mute, params, "hi")


# ---- wrong kinds: each of the public functions, called as people call them by mistake -----------

ROWS = [3, 1, 4]
NO_ROWS = {
    "half a row": [[1.5]],
    "text": ["abc"],
    "digits": [["1", "2"]],
    "bytes": [b"abc"],
    "a list too deep": [[[1, 2]]],
    "ragged": [[[1], [1, 2]]],
    "one list": ROWS,
    "true": [[True]],
    "none of it": [None],
    "none": None,
    "a number": 5,
    "one string": "abc",
    "a mapping": {"rows": ROWS},
    "too large for NumPy": [[2**70]],
    "an object": [[object()]],
}


@pytest.mark.parametrize("rows", NO_ROWS.values(), ids=NO_ROWS)
def test_what_are_no_rows_is_refused(nothing_runs, params, rows):
    cache = empty_cache(CONFIG, 1, 16)
    for call in (
        lambda: prefill(MODEL, params, rows, cache),
        lambda: next(generate_tokens(MODEL, params, rows, max_tokens=1)),
    ):
        with pytest.raises(ValueError, match=r"prompt 0 is .*, expected whole numbers on 1 axes"):
            call()
    if rows is not ROWS:
        with pytest.raises(ValueError, match=r"token_B is .*, expected whole numbers on 1 axes"):
            decode_step(MODEL, params, rows, cache)
        with pytest.raises(ValueError, match=r"tokens_BT is .*, expected whole numbers on 2 axes"):
            forward(params, rows, CONFIG)
    with pytest.raises(ValueError, match=r"stop_rows is .*, expected whole numbers"):
        next(
            generate_tokens(
                MODEL, params, [ROWS], max_tokens=1, stop_rows=rows[0] if rows is ROWS else rows
            )
        )


@pytest.mark.parametrize("row", [-1, CONFIG.vocab_size, 10**6])
@pytest.mark.parametrize("kind", [list, np.array, jnp.array])
def test_forward_refuses_rows_outside_the_vocabulary_where_it_sees_them(params, row, kind):
    """XLA reads the last row for what lies beyond, and counts from the end for what is negative."""
    with pytest.raises(ValueError, match=rf"tokens_BT holds row {row}, expected 0 to 282"):
        forward(params, kind([[1, 2, row]]), CONFIG)


WRONG_OPTIONS = [
    ({"max_tokens": "3"}, "max_tokens is '3', expected a whole number"),
    ({"max_tokens": 2.5}, "max_tokens is 2.5"),
    ({"max_tokens": None}, "max_tokens is None"),
    ({"max_tokens": [3]}, r"max_tokens is \[3\]"),
    ({"seeds": [1]}, r"seed is \[1\], .* or one for each of the 2 prompts"),
    ({"seeds": [1, 2, 3]}, "for each of the 2 prompts"),
    ({"seeds": [[1], [2, 3]]}, "for each of the 2 prompts"),
    ({"seeds": [0.5, 1]}, "for each of the 2 prompts"),
    ({"seeds": b"ab"}, "for each of the 2 prompts"),
    ({"seeds": None}, "for each of the 2 prompts"),
    ({"stop_rows": ["x"]}, "stop_rows is .*, expected whole numbers"),
    ({"stop_rows": None}, "stop_rows is None"),
    ({"stop_rows": [CONFIG.vocab_size]}, "stop_rows holds row 283"),
    ({"cache": 7}, "cache is a int, expected the `cache` of an earlier reply"),
    ({"sampling": None}, "sampling is a NoneType, expected a Sampling"),
    ({"sampling": {"temperature": 1}}, "sampling is a dict, expected a Sampling"),
]


@pytest.mark.parametrize("options, message", WRONG_OPTIONS)
def test_generate_tokens_refuses_wrong_options(nothing_runs, params, options, message):
    with pytest.raises(ValueError, match=message):
        next(generate_tokens(MODEL, params, [ROWS, ROWS], **{"max_tokens": 1} | options))


EXCHANGED = [
    (lambda params: (params, MODEL), "found Model, expected Params"),
    (lambda params: (MODEL, None), "found NoneType, expected Params"),
    (lambda params: (None, params), "found NoneType, expected Config"),
    (lambda params: (MODEL, {"embedding": 1}), "found dict, expected Params"),
    (lambda params: ("pocket", params), "found str, expected Config"),
]


def calls(model, params, cache):
    """Every public function that takes a model and its weights."""
    return [
        lambda: generate(model, params, "hi"),
        lambda: generate(model, params, ["hi", "ho"]),
        lambda: next(stream(model, params, "hi")),
        lambda: Chat(model, params).say("hi"),
        lambda: next(generate_tokens(model, params, [ROWS], max_tokens=1)),
        lambda: prefill(model, params, [ROWS], cache),
        lambda: decode_step(model, params, [1], cache),
        lambda: forward(params, jnp.array([ROWS]), getattr(model, "config", model)),
    ]


@pytest.mark.parametrize("exchange, message", EXCHANGED)
def test_a_model_and_params_that_are_none_are_refused(nothing_runs, params, exchange, message):
    for call in calls(*exchange(params), empty_cache(CONFIG, 1, 16)):
        with pytest.raises(ValueError, match=f"{message}; `load_model` gives"):
            call()


def of_another_model(params):
    """Weights that do not belong to CONFIG, by one number each."""
    layer = params.layers[1]
    attention = dataclasses.replace(layer.attention, sinks_N=layer.attention.sinks_N[:-1])
    experts = dataclasses.replace(layer.moe, w_down_EFD=layer.moe.w_down_EFD[:-1])
    return {
        "a layer less": dataclasses.replace(params, layers=params.layers[:-1]),
        "a row less": dataclasses.replace(params, embedding_VD=params.embedding_VD[:-1]),
        "a column less": dataclasses.replace(params, unembedding_DV=params.unembedding_DV[:, :-1]),
        "a head less": dataclasses.replace(
            params, layers=(params.layers[0], dataclasses.replace(layer, attention=attention))
        ),
        "an expert less": dataclasses.replace(
            params, layers=(params.layers[0], dataclasses.replace(layer, moe=experts))
        ),
    }


@pytest.mark.parametrize("which", of_another_model(random_params()))
def test_params_of_another_model_are_refused(nothing_runs, params, which):
    message = (
        r"params and model do not belong together: found \(.*\), expected \(.*\); `load_model`"
    )
    for call in calls(MODEL, of_another_model(params)[which], empty_cache(CONFIG, 1, 16)):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize("cache", [None, {}, 7, "other", "dtype", "turn"])
def test_what_is_no_cache_of_this_model_is_refused(nothing_runs, params, cache):
    if cache == "other":
        cache = empty_cache(dataclasses.replace(CONFIG, num_kv_heads=1), 1, 16)
    if cache == "dtype":
        cache = empty_cache(CONFIG, 1, 16, jnp.bfloat16)
    if cache == "turn":
        cache = TurnCache((1,), 1, (None, None), empty_cache(CONFIG, 1, 16))
    message = r"this \w+ is not of this model: \d layers, .*expected 2 and .*`empty_cache`"
    for call in calls(MODEL, params, cache)[5:7]:
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize(
    "sizes", [(0, 16), (1, 0), (-1, 16), (1, 2.5), ("1", 16), (1, None), ([1], 16), (True, 16.0)]
)
def test_an_empty_cache_has_a_size(sizes):
    with pytest.raises(ValueError, match=r"found a Config, batch .*, capacity .*whole numbers, 1"):
        empty_cache(CONFIG, *sizes)
    with pytest.raises(
        ValueError, match=r"found a Model, batch 1, capacity 16; expected model.con"
    ):
        empty_cache(MODEL, 1, 16)


def test_numbers_of_numpy_are_numbers(params):
    """np.int64(3) passed every check, and then had no bit_length; np.uint8 overflows."""
    expected = generate(MODEL, params, "hi", max_tokens=3, temperature=1.0, seed=2, top_k=5)
    for kind in (np.int64, np.uint8, np.int16):
        found = generate(
            MODEL, params, "hi", max_tokens=kind(3), temperature=np.float32(1), seed=kind(2),
            top_k=kind(5),
        )  # fmt: skip
        assert found.token_ids == expected.token_ids
    steps = generate_tokens(
        MODEL, params, np.array([ROWS], np.uint8), max_tokens=np.uint8(3), seeds=np.array(2),
        stop_rows=np.array([], np.uint8), cache=None,
    )  # fmt: skip
    assert len(list(steps)) == 3
    prefill(
        MODEL,
        params,
        (tuple(ROWS), jnp.array(ROWS)),
        empty_cache(CONFIG, np.int64(2), np.uint8(16)),
    )


# ---- logits that are not finite end in a sentence, whatever draws from them ---------------------


DAMAGE = {
    "NaN in a norm": lambda p, bad: dataclasses.replace(p, norm_D=p.norm_D.at[3].set(bad)),
    "NaN for one token": lambda p, bad: dataclasses.replace(
        p, unembedding_DV=p.unembedding_DV.at[5, 77].set(bad)
    ),
}
DRAWS = {
    "greedy": {},
    "sampled": {"temperature": 1.0},
    "filtered": {"temperature": 1.0, "top_k": 5, "top_p": 0.9, "min_p": 0.1},
    "penalty": {"repetition_penalty": 1.2},
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_logits_that_are_not_finite_end_in_a_sentence(params, damage, draw):
    for bad in (np.nan, np.inf, -np.inf):
        broken = damage(params, bad)
        message = r"NaN or infinite for token 1 of the answer to prompt 0.*verify.*precision"
        with pytest.raises(ValueError, match=message):
            generate(MODEL, broken, "hi", **draw)
        with pytest.raises(ValueError, match=message):
            list(stream(MODEL, broken, "hi", **draw))


def test_one_row_of_a_batch_is_named_and_so_is_the_token(params):
    """Row 7 has a damaged embedding: only who reads it meets it, and only then."""
    broken = dataclasses.replace(params, embedding_VD=params.embedding_VD.at[7].set(jnp.inf))
    steps = generate_tokens(MODEL, broken, [[1, 2], [3, 7], [5, 6]], max_tokens=3)
    with pytest.raises(ValueError, match="for token 1 of the answer to prompt 1, expected finite"):
        next(steps)
    chain = following({1: 2, 2: 3, 3: 3})  # ids, which here are bytes
    one, two, three = (MODEL.tokenizer.to_rows([i])[0] for i in (1, 2, 3))
    chain = dataclasses.replace(chain, embedding_VD=chain.embedding_VD.at[two].set(jnp.nan))
    steps = generate_tokens(MODEL, chain, [[three], [one]], max_tokens=3)
    assert next(steps)[1] == two
    with pytest.raises(ValueError, match="for token 2 of the answer to prompt 1"):
        next(steps)


def test_a_row_that_has_ended_may_hold_what_it_likes(params, monkeypatch):
    """It is fed nothing, and its logits mean nothing: only rows that go on are looked at."""
    module = importlib.import_module("gptoss_edu.generation")
    pick = module._pick

    def spoiled(logits_BV, seed_B, step, active, seen_BV):
        return pick(
            logits_BV.at[0].set(jnp.nan) if step else logits_BV, seed_B, step, active, seen_BV
        )

    monkeypatch.setattr(module, "_pick", spoiled)
    first = next(generate_tokens(MODEL, params, [ROWS], max_tokens=1))[0]
    steps = generate_tokens(MODEL, params, [ROWS, [9]], max_tokens=3, stop_rows=[first])
    assert [token_B[0] for token_B in steps] == [first, -1, -1]


# ---- two threads --------------------------------------------------------------------------------


def test_two_threads_may_share_a_stream(params):
    """Each piece comes to one of them, and none is lost; Python's own error was no help."""
    expected = [piece.text for piece in stream(MODEL, params, "hi", max_tokens=40)]
    pieces, found = stream(MODEL, params, "hi", max_tokens=40), []
    with ThreadPoolExecutor(4) as pool:
        for taken in pool.map(lambda _: [(time.monotonic(), p.text) for p in pieces], range(4)):
            found += taken
    assert sorted(text for _, text in found) == sorted(expected)
    assert pieces.finish().token_ids
