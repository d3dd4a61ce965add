"""Arguments of `generate` and of what is below it: refused before a program runs, or right."""

from __future__ import annotations

import datetime
import importlib
import math
import numbers
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from models import CONFIG, MODEL, random_params

from fuzz.edits import SCALARS, values
from fuzz.oracles import examine, fuzz
from gptoss_edu.cache import empty_cache
from gptoss_edu.generation import decode_step, generate, generate_tokens, prefill
from gptoss_edu.harmony import EFFORTS
from gptoss_edu.weights.checkpoint import check_options

AREA, REACHED = "arguments", "the compiled program"
PYTHON = [
    np.int64(3),
    np.float32(0.5),
    np.array([1, 2]),
    np.array(3),
    b"x",
    {1},
    object(),
    range(3),
]
odd = values | st.sampled_from(PYTHON) | st.sampled_from(SCALARS)


class Reached(Exception):
    """A program would run now: what was given has been accepted."""


@pytest.fixture(autouse=True)
def nothing_runs(monkeypatch):
    module = importlib.import_module("gptoss_edu.generation")

    def stop(*_: object, **__: object) -> None:
        raise Reached

    for program in ("read_chunk", "decode", "_last_logits", "_pick"):
        monkeypatch.setattr(module, program, stop)


def until_reached(call: Callable[[], Any]) -> str | None:
    """REACHED if the arguments were accepted; None if they were refused in words."""

    def tried() -> str:
        try:
            call()
        except Reached:
            pass
        return REACHED

    return examine(AREA, tried)[0]


def whole(least: int, most: float) -> Callable[[Any], bool]:
    def check(value: Any) -> bool:
        value = value[()] if isinstance(value, np.ndarray) and not value.ndim else value
        number = isinstance(value, numbers.Integral) and not isinstance(value, bool)
        return number and least <= value <= most

    return check


def real(holds: Callable[[float], bool]) -> Callable[[Any], bool]:
    def check(value: Any) -> bool:
        number = isinstance(value, numbers.Real) and not isinstance(value, bool)
        return number and -3e38 <= value <= 3e38 and holds(float(value))

    return check


def text(value: Any) -> bool:
    return value is None or isinstance(value, str)


def date(value: Any) -> bool:
    if isinstance(value, str):
        return datetime.date.fromisoformat(value).isoformat() == value
    return value is None or isinstance(value, datetime.date)


def seed(value: Any) -> bool:
    one = whole(0, 2**32 - 1)
    many = isinstance(value, list | tuple | range) or getattr(value, "ndim", 0) > 0
    return len(value) == 1 and one(value[0]) if many else one(value)


# What each option may be, written down anew.
SENSIBLE: dict[str, Callable[[Any], bool]] = {
    "max_tokens": whole(1, math.inf),
    "temperature": real(lambda v: v >= 0),
    "top_p": real(lambda v: 0 < v <= 1),
    "top_k": lambda v: v is None or whole(1, math.inf)(v),
    "min_p": real(lambda v: 0 <= v <= 1),
    "repetition_penalty": real(lambda v: v > 0),
    "seed": seed,
    "reasoning_effort": lambda v: isinstance(v, str) and v in EFFORTS,
    "instructions": text,
    "current_date": date,
    "cache": lambda v: v is None,
    "keep_cache": lambda v: isinstance(v, bool),
}


@fuzz(
    300,
    st.sampled_from(sorted(SENSIBLE)),
    odd,
    seeds=[
        *(("max_tokens", v) for v in (np.int64(3), 0, -1, 2.0, True, 10**9, 10**30)),
        *(("seed", v) for v in ([1, 2], -1, 2**32, np.uint32(7), np.array(3), 0.5, "1")),
        *(("temperature", v) for v in (math.nan, math.inf, -0.1, np.float32(0.5), 10**400)),
        *(("repetition_penalty", v) for v in (0, math.inf, -1)),
        *(("keep_cache", v) for v in (np.array([1, 2]), 1)),
    ],
)
def test_an_option_is_sensible_or_refused(option, value):
    given = {"prompt": "hi", option: value}
    if until_reached(lambda: generate(MODEL, random_params(), **given)):
        assert SENSIBLE[option](value), f"{option} = {value!r} was accepted"


PROMPTS = ["", [], [""], [[]], None, b"hi", "\ud800", "x" * 10**6, {"role": "user"}]


@fuzz(150, odd, seeds=[(prompt,) for prompt in PROMPTS])
def test_a_prompt_is_rendered_or_refused(prompt):
    until_reached(lambda: generate(MODEL, random_params(), prompt))


row = st.integers(-2, CONFIG.vocab_size + 1) | odd
rows = st.lists(st.lists(row, max_size=4) | odd, max_size=3)
ROWS = [[[1.5]], [["1"]], [["x"]], [[[1]]], [[None]], [[1], []], [], "12", [[2**31]], [[-1]]]


@fuzz(
    300,
    rows | odd,
    st.booleans(),
    seeds=[(each, which) for each in ROWS for which in (True, False)],
)
def test_rows_are_whole_numbers_of_the_vocabulary_or_refused(prompts, direct):
    batch = len(prompts) if np.ndim(np.array(prompts, object)) else 1

    def call() -> None:
        if direct:
            prefill(MODEL, random_params(), prompts, empty_cache(CONFIG, batch, 16))
        else:
            list(generate_tokens(MODEL, random_params(), prompts, max_tokens=2))

    if until_reached(call):
        known = whole(0, CONFIG.vocab_size - 1)
        for prompt in prompts:  # beside whole numbers NumPy reads True as 1, as Python does
            assert np.asarray(prompt).dtype != bool
            assert all(known(int(row) if isinstance(row, bool) else row) for row in prompt)


@fuzz(
    150,
    st.sampled_from(["max_tokens", "seeds", "stop_rows", "token_B", "params", "model"]),
    odd,
    seeds=[
        ("max_tokens", np.int64(3)), ("seeds", [1]), ("seeds", []), ("stop_rows", ["x"]),
        ("params", None), ("model", None), ("model", random_params), ("token_B", [1.5]),
    ],
)  # fmt: skip
def test_what_is_below_generate_refuses_as_well(name, value):
    model, params = MODEL, random_params()
    if name == "token_B":
        until_reached(lambda: decode_step(model, params, value, empty_cache(CONFIG, 1, 16)))
    elif name in ("params", "model"):
        given = (value, params) if name == "model" else (model, value)
        assert not until_reached(lambda: generate(*given, "hi")) or name == "params"
    else:
        given = {"max_tokens": 2} | {name: value}
        until_reached(lambda: list(generate_tokens(model, params, [[1], [2]], **given)))


@fuzz(60, odd, odd, odd, seeds=[("auto", "stored", np.array([1, 2])), ("f32", "int8", "cpu")])
def test_options_of_loading_are_known_or_refused(precision, dense, backend):
    examine(AREA, lambda: check_options(precision, dense, backend, None))
