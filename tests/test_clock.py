"""The clock of a reply: what is counted, and that compiling is not."""

import time

import jax
import jax.numpy as jnp
import pytest

from gptoss_edu import reply
from gptoss_edu.reply import Clock, compile_seconds


@pytest.fixture
def at(monkeypatch):
    """Set the time by hand, with no compilation remembered."""
    reply._compilations.clear()
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def move(seconds):
        now[0] = 100.0 + seconds

    yield move
    reply._compilations.clear()


def compiled(duration, event="/jax/core/compile/backend_compile_duration"):
    reply._remember(event, duration)


def test_speeds_leave_compiling_out(at):
    timer = Clock()
    timer.prefilled = 60
    at(3)
    compiled(2.5)
    at(3.5)
    timer.tick()  # first token: 3.5 s, of which 2.5 compiling
    at(5.5)
    compiled(1.5)
    at(5.9)
    timer.tick()
    at(6.0)
    timer.tick()  # two more tokens in 2.5 s, of which 1.5 compiling
    stats = timer.stats(prompt_tokens=100, completion_tokens=3)
    assert stats.time_to_first_token_s == pytest.approx(1.0)
    assert stats.prefill_tokens_per_s == pytest.approx(60)
    assert stats.decode_tokens_per_s == pytest.approx(2.0)
    assert stats.compile_s == pytest.approx(4.0)
    assert (stats.prompt_tokens, stats.completion_tokens) == (100, 3)


def test_one_token_has_no_decode_speed(at):
    timer = Clock()
    at(0.5)
    timer.tick()
    stats = timer.stats(10, 1)
    assert stats.decode_tokens_per_s == 0
    assert stats.time_to_first_token_s == pytest.approx(0.5)


def test_a_compilation_inside_another_counts_once(at):
    at(2)
    compiled(0.5)  # 1.5 to 2
    at(3)
    compiled(2.0)  # 1 to 3, around the first
    at(4)
    compiled(0.5, event="/jax/some/other/event")
    assert compile_seconds(100, 105) == pytest.approx(2.0)
    assert compile_seconds(102.5, 105) == pytest.approx(0.5)
    assert compile_seconds(103, 105) == 0


def test_jax_reports_what_it_compiles_and_nothing_the_second_time():
    function = jax.jit(lambda x: jnp.sin(x) @ jnp.cos(x))
    x = jnp.ones((3, 3))
    Clock()  # from here on jax reports
    begin = time.perf_counter()
    jax.block_until_ready(function(x))
    end = time.perf_counter()
    assert 0 < compile_seconds(begin, end) <= end - begin
    jax.block_until_ready(function(x))
    assert compile_seconds(end, time.perf_counter()) == 0
