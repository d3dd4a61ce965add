"""Bad input, all of it: where each kind is tested, and here those kinds that reach `generate`.

Every refusal says what was found, what was expected and what to do. It comes before any compiled
program runs: beyond that point XLA clamps, wraps and drops without a word.
"""

import dataclasses
import importlib
import math
import time

import jax.numpy as jnp
import numpy as np
import openai_harmony as oh
import pytest
from models import CONFIG, MODEL, random_params

from gptoss_edu import cache as cache_module
from gptoss_edu.cache import TurnCache, empty_cache, new_cache, with_room
from gptoss_edu.generation import decode_step, generate, generate_tokens, prefill, stream
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
TOOL = {"name": "now", "parameters": {"type": "object", "properties": []}}
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
    message = rf"prompt \d holds row {row}, expected -1 to 282"
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
        (dataclasses.replace(MODEL, config=narrow), r"of another model: 2 .* \(1, 20, 'float32'\)"),
        (dataclasses.replace(MODEL, dtype=jnp.dtype(jnp.bfloat16)), r"'float32'\), .*'bfloat16'\)"),
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
