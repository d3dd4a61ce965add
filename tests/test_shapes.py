"""A suffix nobody checks becomes a lie: `check_shapes` finds every kind of lie. And what else every
chapter stands on: products that ask no weight for its kind, and trees that fit on a screen.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptoss_edu import load_model
from gptoss_edu.chips.precision import FORMATS, abstract_params
from gptoss_edu.config import GPT_OSS_20B
from gptoss_edu.shapes import check_shapes, matmul, num_bytes, product, products, summary


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


@dataclasses.dataclass(frozen=True)
class Negative:
    """A kind of weight that nobody has heard of: minus an array."""

    array_EIO: np.ndarray

    @property
    def shape(self):
        return self.array_EIO.shape


@product.register(Negative)
def _(w, equation, x, expert):
    return -product(w.array_EIO, equation, x, expert)


class AtOnce(Negative):
    """One that takes all rows together."""


@products.register(AtOnce)
def _(w, equation, x_RI, expert_R, loop):
    return -jnp.einsum("RI,RIO->RO", x_RI, w.array_EIO[expert_R])


def one_by_one(one_expert, x_RI, expert_R, shape):
    assert shape == (3, 5, 7)
    pairs = zip(expert_R, x_RI, strict=True)
    return jnp.concatenate([one_expert(expert, x_I[None]) for expert, x_I in pairs])


def never(*arguments):
    raise AssertionError("a weight that takes all rows at once needs no loop")


def test_products_of_every_kind_of_weight():
    """A matrix, one of E matrices, and one for each row; new kinds need only say how."""
    rng = np.random.default_rng(0)
    w_EIO, x_RI = (jnp.asarray(rng.standard_normal(s), jnp.float32) for s in ((3, 5, 7), (4, 5)))
    expert_R = jnp.array([2, 0, 2, 1])
    whole = np.einsum("RI,RIO->RO", x_RI, np.asarray(w_EIO)[expert_R])
    one = x_RI @ w_EIO[2]
    for w, sign in ((w_EIO, 1), (Negative(w_EIO), -1), (AtOnce(w_EIO), -1)):
        loop = never if isinstance(w, AtOnce) else one_by_one
        found_RO = matmul("RI,EIO->RO", x_RI, w, expert_R, loop)
        np.testing.assert_allclose(found_RO, sign * whole, atol=1e-5)
        found_TO = matmul("TI,EIO->TO", x_RI, w, 2)
        np.testing.assert_allclose(found_TO, sign * one, atol=1e-5)
    plain = matmul("RI,IO->RO", x_RI.astype(jnp.bfloat16), w_EIO[2])
    assert plain.dtype == jnp.bfloat16


def test_a_model_fits_on_a_screen_and_nothing_is_fetched_for_it():
    """The arrays are deleted: whoever asks for a number gets an error."""
    params = jax.tree.map(jnp.copy, load_model()[1])
    jax.tree.map(lambda array: array.delete(), params)
    lines = repr(params).splitlines()
    assert len(lines) < 40
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    assert lines[0] == f"Params, {num_bytes(params):,} bytes"
    assert "embedding_VD: bfloat16 [3122, 160]" in text
    assert text.count("4 x Layer") == 1
    assert "w_gate_up_EDP: Mxfp4" in text
    assert "blocks_EJUO: uint8 [10, 5, 16, 192]" in text
    layer = params.layers[0]
    for part in (layer, layer.attention, layer.moe, layer.moe.w_down_EFD):
        assert repr(part) == summary(part)
        assert repr(part).startswith(f"{type(part).__name__}, ")


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_of_the_20b_fits_on_a_screen(name):
    text = repr(abstract_params(GPT_OSS_20B, name))
    assert len(text.splitlines()) < 40
    assert "24 x Layer" in text


def test_neighbors_that_differ_are_told_apart():
    trees = (jnp.zeros(2), jnp.zeros(2), jnp.zeros(3), jnp.zeros(2), None)
    assert summary(trees).splitlines() == [
        "tuple of 5, 36 bytes",
        "  2 x float32 [2], 8 bytes",
        "  1 x float32 [3], 12 bytes",
        "  1 x float32 [2], 8 bytes",
        "  1 x None",
    ]
