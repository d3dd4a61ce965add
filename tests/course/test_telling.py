"""What a checker accepts in place of the usual form, and how it tells the place of a mistake."""

import dataclasses
import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptoss_edu.course.checks import Exercise, comparing, telling


def exercise(function, *cases, parts=("the result",), **more):
    """A checker of a function on a few cases."""
    return Exercise("one", function, parts, lambda: cases, **more)


FORMS = [  # what is wanted, what is as good, what is not
    (True, np.bool_(True), 1),
    (True, np.array(True), np.array(1)),
    (3, np.int8(3), True),
    (3, jnp.asarray(3), "3"),
    (0.5, np.float32(0.5), [0.5]),
    ([1, 2], np.array([1, 2]), {1, 2}),
    ([1, 2], (1, 2), [1, [2]]),
    ([(1, "a")], [[1, "a"]], [1, "a"]),
    (np.array([1, 2]), [1, 2], [1, 2, 3]),
    (np.array([1, 2]), np.array([1, 2], np.uint8), np.array([1.0, 2.0])),
    (np.array([[0.5], [1.0]]), [[0.5], [1]], [0.5, 1]),
    (np.array([True]), [True], [1]),
    (None, None, []),
    ({"a": None}, {"a": None}, {"a": []}),
    ({"a": "x"}, {"a": np.str_("x")}, {"a": ["x"]}),
    ({"a": ["x"]}, {"a": ("x",)}, {"a": "x"}),
    ({}, {}, None),
    ("", "", None),
]


@pytest.mark.parametrize("want, good, bad", FORMS, ids=[f"{want!r}" for want, _, _ in FORMS])
def test_other_usual_forms_pass_and_other_kinds_do_not(want, good, bad):
    checker = exercise(lambda x: want if x else other, (1,), (0,))
    other = "another" if not isinstance(want, str) or want else "other"
    assert checker(lambda x: good if x else other).passed
    assert not checker(lambda x: bad if x else other).passed
    assert not comparing.same(comparing.fit(bad, want), want, 1e-5)


def test_an_array_serves_for_as_many_results():
    checker = exercise(lambda x: (x, 2 * x), (1,), (2,), parts=("one", "two"))
    assert checker(lambda x: np.array([x, 2 * x])).passed
    assert checker(lambda x: [x, 2 * x]).passed
    assert checker(lambda x: np.array([x, 2 * x, 0])).mistake == "wrong number of results"


def shifted(x_BT, by):
    return x_BT + by


SMALL, LARGE = np.array([[1.0, 2.0]]), np.arange(40.0).reshape(4, 10)


def test_the_smallest_input_and_the_letters_of_the_axes_are_told():
    checker = exercise(shifted, (LARGE, 1), (SMALL, 3), (LARGE, 0), parts=("y_BT",))
    verdict = checker(lambda x_BT, by: x_BT + by * (np.arange(x_BT.shape[1]) < 1))
    assert verdict.sentence == (
        "for x_BT = [[1, 2]], by = 3, y_BT at b=0, t=1: expected 5, found 2 (1 of 2 differ)."
        " 1 of 3 tests pass."
    )
    verdict = exercise(shifted, (LARGE, 1), parts=("y_BT",))(lambda x_BT, by: x_BT + (x_BT < 25))
    assert "x_BT of shape (4, 10), by = 1, y_BT at b=2, t=5 (x_BT = 25): " in verdict.sentence
    verdict = exercise(shifted, (SMALL, 1), parts=("y_BT",))(lambda x_BT, by: x_BT + np.nan)
    assert verdict.mistake == "nan"
    assert "expected 2, found nan" in verdict.sentence


def test_a_cause_is_named_only_if_it_agrees_on_all_cases():
    checker = exercise(lambda x: x, (1,), (5,), mistakes={"doubled": ("twice", lambda x: 2 * x)})
    assert checker(lambda x: 2 * x).mistake == "doubled"
    verdict = checker(lambda x: 2)
    assert verdict.mistake == "unknown"
    assert "for x = 1, the result: expected 1, found 2." in verdict.sentence


@pytest.mark.parametrize(
    "want, got, told",
    [
        ({"a": 1}, {}, "it has no entry 'a'; expected 1 there"),
        ({}, {"b": 2}, "it has an entry 'b', 2, that should not be there"),
        ({"a": [1, 2]}, {"a": [1, 3]}, "it['a']: expected [1, 2], found [1, 3]"),
        ([("a", "b")], [("a", "c")], "it[0]: expected ('a', 'b'), found ('a', 'c')"),
        (["x" * 50] * 2, ["x" * 50], "it at index 1: expected 'xxx"),
        ("a" * 50 + "b", "a" * 50 + "c", "it differs after 'aaaaaaaaaaaaaaaaaaaa': expected 'b'"),
        ("a" * 90, "a" * 89, "expected 'a', found ''"),
        (20_000, 7, "it: expected 20,000, found 7"),
    ],
)
def test_places_in_dicts_lists_and_texts(want, got, told):
    assert told in telling.difference("it", got, want, 1e-5, {}, None)


def test_tokens_are_told_as_text():
    decode = "".join
    names = dict(enumerate("abcdefgh"))
    told = telling.difference(
        "it", [0, 1, 3], [0, 1, 2, 3], 0, {}, lambda ids: decode(names[i] for i in ids)
    )
    assert told == "it at index 2, after 'ab': expected 'cd', found 'd' (2 against 3)"


def test_only_the_stub_itself_is_not_attempted_yet():
    def stub(x):
        raise NotImplementedError

    def inside(x):
        return deeper(x)

    def deeper(x):
        raise NotImplementedError("no rule for this")

    checker = exercise(lambda x: x, (1,), (2,))
    for one in (stub, jax.jit(stub), functools.partial(stub)):
        assert checker(one).status == "not attempted yet"
    verdict = checker(inside)
    assert verdict.mistake == "it raises"
    assert "line 2 of your function with NotImplementedError: no rule for this" in verdict.sentence
    assert "(for x = 1)" in verdict.sentence


def test_leaving_python_and_failed_assertions_are_answers():
    def leaves(x):
        sys.exit("bye")

    checker = exercise(lambda x: x > 1, (1,), (2,), is_test=True)
    assert "line 2 of your function with SystemExit: bye" in checker(leaves).sentence

    def asserts(x):
        assert x > 1
        return True

    assert checker(asserts).passed
    assert dataclasses.replace(checker, is_test=False, _memory={})(asserts).mistake == "it raises"


def test_none_is_told_where_it_is_wrong():
    checker = exercise(lambda x: "x" if x else "", (0,), (1,))
    assert "Is there a `return`" in checker(lambda x: None).sentence
    told = checker(lambda x: "x" if x else None).sentence
    assert "for x = 0, the result: expected '', found None. 1 of 2 tests pass." in told


def test_a_count_that_is_off_says_what_has_as_many():
    sizes = {"layers[0].w": 6, "layers[1].w": 6, "layers[0].b": 2, "layers[1].b": 2, "norm": 5}
    assert telling.as_many(9, 14, sizes) == " That is 5 too few: norm has as many."
    assert "12 too many: layers[…].w has as many" in telling.as_many(26, 14, sizes)
    assert "16 too few: layers[…].w and layers[…].b together have as many" in telling.as_many(
        0, 16, sizes
    )
    assert telling.as_many(1, 1000, sizes) == " That is 999 too few."
    assert telling.as_many(float("inf"), 1000, sizes) == ""
