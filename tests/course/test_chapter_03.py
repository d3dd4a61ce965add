"""What the checker of chapter 03 does beyond comparing numbers: it looks for copies of the keys."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptoss_edu.attention import grouped_scores, sink_softmax
from gptoss_edu.config import GPT_OSS_20B
from gptoss_edu.course.checks import attention


def head_by_head(q_BTNH, k_BSKH):
    G = q_BTNH.shape[2] // k_BSKH.shape[2]
    scores = [
        jnp.einsum("BTH,BSH->BTS", q_BTNH[:, :, n], k_BSKH[:, :, n // G])
        for n in range(q_BTNH.shape[2])
    ]
    return jnp.stack(scores, axis=1) / jnp.sqrt(q_BTNH.shape[3])


def in_numpy(q_BTNH, k_BSKH):
    return np.asarray(grouped_scores(np.asarray(q_BTNH), np.asarray(k_BSKH)))


@pytest.mark.parametrize("attempt", [head_by_head, in_numpy, grouped_scores])
def test_other_ways_without_copies_pass(attempt):
    assert attention.shared_scores(attempt).passed


def broadcast(q_BTNH, k_BSKH):
    B, S, K, H = k_BSKH.shape
    G = q_BTNH.shape[2] // K
    k_BSNH = jnp.broadcast_to(k_BSKH[:, :, :, None], (B, S, K, G, H)).reshape(B, S, K * G, H)
    return jnp.einsum("BTNH,BSNH->BNTS", q_BTNH, k_BSNH) / jnp.sqrt(H)


def taken(q_BTNH, k_BSKH):
    heads_N = jnp.arange(q_BTNH.shape[2]) // (q_BTNH.shape[2] // k_BSKH.shape[2])
    k_BSNH = jnp.take(k_BSKH, heads_N, axis=2)
    return jnp.einsum("BTNH,BSNH->BNTS", q_BTNH, k_BSNH) / jnp.sqrt(q_BTNH.shape[3])


@pytest.mark.parametrize("attempt", [broadcast, taken])
def test_copies_are_found_whatever_they_are_made_with(attempt):
    verdict = attention.shared_scores(attempt)
    assert verdict.mistake == "the keys are copied", verdict


def per_group(q_BTNH, k_BSKH, xp=jnp):
    G = q_BTNH.shape[2] // k_BSKH.shape[2]
    scores = []
    for k in range(k_BSKH.shape[2]):
        k_BSGH, heads = xp.repeat(k_BSKH[:, :, k : k + 1], G, axis=2), slice(k * G, (k + 1) * G)
        scores.append(xp.einsum("BTGH,BSGH->BGTS", q_BTNH[:, :, heads], k_BSGH))
    return xp.concatenate(scores, axis=1) / xp.sqrt(xp.float32(q_BTNH.shape[3]))


def test_copies_are_seen_group_by_group_and_in_numpy_too():
    assert attention.shared_scores(per_group).mistake == "the keys are copied"
    assert attention.shared_scores(jax.jit(per_group)).mistake == "the keys are copied"

    def repeated(q_BTNH, k_BSKH):
        G = q_BTNH.shape[2] // k_BSKH.shape[2]
        k_BSNH = np.repeat(np.asarray(k_BSKH), G, axis=2)
        return np.einsum("BTNH,BSNH->BNTS", q_BTNH, k_BSNH) / np.float32(q_BTNH.shape[3]) ** 0.5

    assert attention.shared_scores(repeated).mistake == "the keys are copied"
    in_numpy = attention.shared_scores(lambda q, k: per_group(np.asarray(q), np.asarray(k), np))
    assert in_numpy.sentence == attention.UNSEEN, "what cannot be seen is not praised"


def test_keys_are_counted_as_the_20b_reads_them():
    for layer, position in ((0, 4000), (1, 4000), (23, 127), (22, 127), (22, 128)):
        window = GPT_OSS_20B.window(layer)
        assert (window is None) == (layer % 2 == 1)
        expected = min(position + 1, window or position + 1)
        assert attention.right_keys_read(layer, position, 128) == expected


def test_a_mistake_of_another_shape_has_its_own_sentence():
    def with_column(scores_BNTS, sinks_N, mask_BTS):
        weights_BNTS, mass_BNT = sink_softmax(scores_BNTS, sinks_N, mask_BTS)
        return np.append(weights_BNTS, mass_BNT[..., None], axis=-1), mass_BNT

    assert attention.stable_softmax(with_column).mistake == "the sink is kept as a key"
    other = attention.stable_softmax(lambda s, n, m: (sink_softmax(s, n, m)[0][..., :1], s))
    assert other.mistake == "wrong form"
    assert "should have shape (1, 2, 1, 3), found (1, 2, 1, 1)" in other.sentence
