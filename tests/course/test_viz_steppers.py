"""Panels of the first chapters: their data is what the notebook computed, their words are right."""

import numpy as np
from looks import check

from gptoss_edu.course import viz
from gptoss_edu.tokenizer import MESSAGE, Tokenizer

ENCODE = Tokenizer().encode


def test_loop_shows_the_likeliest_tokens_of_each_step():
    ids = [*ENCODE("How many"), MESSAGE, *ENCODE(" r's in rose")]
    vocabulary = [*ENCODE(" rose"), *ENCODE(" tulip"), *ENCODE(" s"), 11, 12, 13]
    next_TV = np.full((7, len(vocabulary)), 0.02)
    next_TV[:, 0] = 0.9
    panel = viz.writing_loop({"low": (ids, next_TV), "high": (ids, next_TV[2:])}, vocabulary)
    alt = check(panel.picture)
    assert "·rose 0.90" in alt
    assert panel.data["low"]["begin"] == len(ids) - 7
    assert panel.data["high"]["begin"] == len(ids) - 5
    assert len(panel.data["low"]["steps"][0]) == 5
    assert "‹message›" in panel.data["low"]["texts"]
    assert panel.controls == {"effort": ("low", "high"), "token": tuple(range(7))}


def test_merges_stop_where_the_longest_word_stops():
    ranks = {bytes([byte]): byte for byte in range(256)} | {b"ab": 300}
    steps = {"ab": [[b"a", b"b"], [b"ab"]], "c": [[b"c"]]}
    panel = viz.merge_stepper(steps, ranks)
    assert "1 merges" in check(panel.picture)
    assert panel.controls["merges"] == (0, 1)
    assert panel.data["ab"][1] == [["ab", 300, 2]]


def test_arrows_begin_where_the_text_begins():
    panel = viz.turning_arrows()
    assert "query at 5, key at 3: q at 150°, k at 90°, 60° apart" in check(panel.picture)
    assert panel.controls["query at"][panel.start["query at"]] == 5


def test_calls_that_fit_a_program_run():
    calls = [("(3,)", "float32", "a"), ("(3,)", "float32", "a"), ("(3,)", "int32", "a")]
    panel = viz.compile_stepper(calls)
    alt = check(panel.picture)
    assert alt.startswith("3 calls of a compiled function, 2 programs: (3,) float32 a compiles;")
    assert "(3,) float32 a runs" in alt
    assert panel.controls == {"calls": (1, 2, 3)}
