"""The conformance kit: our own forward pass is let through, and each kind of wrong one is not."""

import jax
import numpy as np
import pytest

from gptoss_edu import forward, load_model
from gptoss_edu.course import conformance
from gptoss_edu.course.checks import Verdict

B, T = 2, 141  # every input is padded to it, on the right, where nobody sees it: compiled once


@pytest.fixture(scope="module")
def ours():
    """The package's forward pass, with what it has computed kept."""
    model, params = load_model()
    compiled = jax.jit(lambda tokens_BT: forward(params, tokens_BT, model.config))
    known = {}

    def run(tokens_BT):
        b, t = tokens_BT.shape
        key = tokens_BT.tobytes() + bytes([b])
        if key not in known:
            padded_BT = np.pad(tokens_BT, ((0, B - b), (0, T - t)))
            known[key] = np.asarray(compiled(padded_BT))[:b, :t]
        return known[key].copy()

    return run


def test_our_own_forward_conforms(ours):
    report = conformance.check(ours)
    assert report.passed
    assert len(report.answers) == 6
    assert max(answer.error for answer in report.answers) < 1e-4
    assert repr(report).count("✓") == 6
    assert "allowed 0.0001" in report._repr_html_()


def late(logits_BTV, first):
    logits_BTV[:, first:] += 1e-3
    return logits_BTV


def mixed(logits_BTV):
    return logits_BTV + 0.01 * (len(logits_BTV) > 1)


def with_nan(logits_BTV):
    logits_BTV[:, -1, 0] = np.nan
    return logits_BTV


CALLS = []
WRONG = {
    "everything": (lambda x: x * 1.001, 0),
    "from the window on": (lambda x: late(x, 32), 1),
    "from the first context on": (lambda x: late(x, 128), 2),
    "a NaN at the end": (with_nan, 2),
    "the length of the input": (lambda x: x + (x.shape[1] < T) * 0.01, 3),
    "the batch": (mixed, 4),
    "a memory": (lambda x: x + 0.01 * (CALLS.append(1) or len(CALLS) == 5), 5),
}


@pytest.mark.parametrize("wrong, first", WRONG.values(), ids=WRONG)
def test_the_first_question_that_fails_is_named(ours, wrong, first):
    report = conformance.check(lambda tokens_BT: wrong(ours(tokens_BT)))
    assert report.failed
    assert report.failed[0] is report.answers[first]
    assert report.answers[first].look_at in repr(report)


def test_stubs_shapes_and_errors_become_sentences(ours):
    def stub(tokens_BT):
        raise NotImplementedError

    verdict = conformance.check(stub)
    assert isinstance(verdict, Verdict)
    assert verdict.status == "not attempted yet"
    short = conformance.check(lambda tokens_BT: ours(tokens_BT)[..., :5])
    assert "expected logits of shape (1, 141, 3122), found (1, 141, 5)" in short.sentence
    assert "ZeroDivisionError" in conformance.check(lambda tokens_BT: 1 / 0).sentence
