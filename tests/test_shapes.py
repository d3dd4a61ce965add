"""A suffix nobody checks becomes a lie: `check_shapes` finds every kind of lie."""

import numpy as np
import pytest

from gptoss_edu.shapes import check_shapes


def test_letters_are_bound_by_their_first_use():
    sizes = check_shapes(x_BTD=np.zeros((2, 3, 4)), w_DE=np.zeros((4, 5)))
    assert sizes == {"B": 2, "T": 3, "D": 4, "E": 5}


def test_given_sizes_come_first():
    with pytest.raises(AssertionError, match="D is 4, but 5 in the given sizes"):
        check_shapes({"D": 5}, x_D=np.zeros(4))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x_BTD": np.zeros((2, 3))}, "3 letters, but shape"),
        ({"x_TD": np.zeros((3, 4)), "w_DT": np.zeros((4, 4))}, "T is 4, but 3 in x_TD"),
        ({"x_B1": np.zeros((2, 2))}, "1 is 2, but 1 in unit axis"),
    ],
)
def test_each_mismatch_is_named(arrays, message):
    with pytest.raises(AssertionError, match=message):
        check_shapes(**arrays)
