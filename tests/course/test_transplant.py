"""The pocket model answers with a reader's function, and with its own again afterwards."""

import jax.numpy as jnp
import numpy as np
import pytest

from gptoss_edu import generate, load_model
from gptoss_edu.course import transplant
from gptoss_edu.course.checks import Verdict
from gptoss_edu.rope import rotate

QUESTION = "How many r's are in strawberry?"
RIGHT = "There are 3 r's in strawberry."


def in_jax(x_BTNH, cos_BTC, sin_BTC):
    x1, x2 = jnp.split(x_BTNH, 2, axis=-1)
    cos, sin = cos_BTC[:, :, None], sin_BTC[:, :, None]
    return jnp.concatenate([x1 * cos - x2 * sin, x2 * cos + x1 * sin], axis=-1)


def in_numpy(x_BTNH, cos_BTC, sin_BTC):
    x1, x2 = np.split(np.asarray(x_BTNH), 2, axis=-1)
    cos, sin = np.asarray(cos_BTC)[:, :, None], np.asarray(sin_BTC)[:, :, None]
    return np.concatenate([x1 * cos - x2 * sin, x2 * cos + x1 * sin], axis=-1)


@pytest.mark.parametrize("function", [in_jax, in_numpy])
def test_a_right_function_answers(function):
    assert transplant.ask(QUESTION, rotate=function).final == RIGHT


def test_a_wrong_one_does_not_and_nothing_of_it_is_left():
    reply = transplant.ask(QUESTION, rotate=lambda x_BTNH, cos_BTC, sin_BTC: x_BTNH)
    assert reply.final != RIGHT, reply
    assert generate(*load_model(), QUESTION).final == RIGHT


def stub(*arguments):
    raise NotImplementedError


def inside_of_jax():
    raise NotImplementedError("as jax raises it")


@pytest.mark.parametrize(
    "function, status",
    [
        (stub, "not attempted yet"),
        (lambda *arguments: stub(*arguments), "not attempted yet"),
        (lambda x, cos, sin: x[..., :3], "not yet right"),
        (lambda x, cos, sin: inside_of_jax(), "not yet right"),
    ],
    ids=["a stub", "a stub inside", "a wrong shape", "what JAX does not know"],
)
def test_what_does_not_run_is_said_in_a_sentence(function, status):
    verdict = transplant.ask(QUESTION, rotate=function)
    assert isinstance(verdict, Verdict)
    assert verdict.status == status, verdict


def test_a_name_that_no_lesson_file_defines():
    with pytest.raises(ValueError, match="no lesson file defines a function 'rotat'"):
        transplant.ask(QUESTION, rotat=rotate)
