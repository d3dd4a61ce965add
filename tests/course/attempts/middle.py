"""Attempts at the exercises of chapters 03 to 05, as readers made them: right ones and wrong ones.

An attempt is a function, or pieces of the folded solution and what stands there instead.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from test_chapter_03 import head_by_head

from gptoss_edu.course.checks import attention, moe, mxfp4
from gptoss_edu.mxfp4 import VALUES


def softmax_in_numpy(dtype, hidden=-np.inf):
    def attempt(scores_BNTS, sinks_N, mask_BTS):
        masked = np.where(np.asarray(mask_BTS)[:, None], np.asarray(scores_BNTS, dtype), hidden)
        sinks = np.asarray(sinks_N, dtype)[None, :, None, None]
        sinks = np.broadcast_to(sinks, (*masked.shape[:3], 1))
        both = np.concatenate([masked, sinks], axis=-1).astype(dtype)
        exp = np.exp(both - both.max(axis=-1, keepdims=True))
        share = exp / exp.sum(axis=-1, keepdims=True)
        return share[..., :-1], share[..., -1]

    return attempt


def by_jax_nn(scores_BNTS, sinks_N, mask_BTS):
    masked = jnp.where(mask_BTS[:, None], scores_BNTS, -jnp.inf)
    sinks = jnp.broadcast_to(sinks_N[None, :, None, None], (*masked.shape[:3], 1))
    share = jax.nn.softmax(jnp.concatenate([masked, sinks], axis=-1), axis=-1)
    return share[..., :-1], share[..., -1]


def times_mask(scores_BNTS, sinks_N, mask_BTS):
    masked = jnp.where(mask_BTS[:, None], scores_BNTS, -jnp.inf)
    sink = sinks_N[None, :, None, None]
    most = jnp.maximum(masked.max(axis=-1, keepdims=True), sink)
    exp = jnp.exp(scores_BNTS - most) * mask_BTS[:, None]
    total = exp.sum(axis=-1, keepdims=True) + jnp.exp(sink - most)
    return exp / total, (jnp.exp(sink - most) / total)[..., 0]


MOST = "jnp.maximum(masked_BNTS.max(axis=-1, keepdims=True), sinks_1N11)"
FULL = "    if window is None:\n        return mask_BTS\n"


def mask_with(rule):
    def attempt(position_BT, position_BS, window):
        return rule(position_BT[:, :, None], position_BS[:, None, :], window)

    return attempt


def empty_only_with_a_window(q, k, window):
    return q >= k if window is None else (q >= k) & (q - k < window) & (k >= 0)


def first_row_only(position_BT, position_BS, window):
    mask = attention.visible(position_BT[:1], position_BS[:1], window)
    return jnp.broadcast_to(mask, (len(position_BT), *mask.shape[1:]))


def mask_by_loops(position_BT, position_BS, window):
    return [
        [[bool(0 <= k <= q and (window is None or q - k < window)) for k in keys] for q in queries]
        for queries, keys in zip(position_BT.tolist(), position_BS.tolist(), strict=True)
    ]


def scores_of(keys, xp=jnp):
    def attempt(q_BTNH, k_BSKH):
        G = q_BTNH.shape[2] // k_BSKH.shape[2]
        k_BSNH = keys(xp.asarray(k_BSKH), G)
        return xp.einsum("BTNH,BSNH->BNTS", q_BTNH, k_BSNH) / np.float32(q_BTNH.shape[3]) ** 0.5

    return attempt


def per_group(q_BTNH, k_BSKH):
    G = q_BTNH.shape[2] // k_BSKH.shape[2]
    parts = [
        scores_of(lambda k, G: jnp.repeat(k, G, axis=2))(
            q_BTNH[:, :, k * G : (k + 1) * G], k_BSKH[:, :, k : k + 1]
        )
        for k in range(k_BSKH.shape[2])
    ]
    return jnp.concatenate(parts, axis=1)


def summed_over_groups(q_BTNH, k_BSKH):
    scores = attention.grouped_scores(q_BTNH, k_BSKH)
    B, N, T, S = scores.shape
    K = k_BSKH.shape[2]
    return jnp.repeat(scores.reshape(B, K, N // K, T, S).sum(2), N // K, axis=1)


def ranked(order, keep):
    """Weights left in the order of rank, or of k chosen otherwise."""

    def attempt(x_TD, w_DE, b_E, k):
        logits = x_TD @ w_DE + b_E
        return keep(logits, np.argsort(order * logits, axis=-1), k, b_E)

    return attempt


def in_rank_order(logits, order, k, _):
    weights = moe.softmax(np.take_along_axis(logits, order[:, :k], 1))
    return np.concatenate([weights, np.zeros((len(logits), logits.shape[1] - k))], axis=1)


def bias_for_choice_only(logits, order, k, b_E):
    chosen = np.zeros(logits.shape, bool)
    np.put_along_axis(chosen, order[:, :k], True, axis=1)
    return moe.softmax(np.where(chosen, logits - b_E, -np.inf))


def bias_late(x_TD, w_DE, b_E, k):
    plain = x_TD @ w_DE
    chosen = np.zeros(plain.shape, bool)
    np.put_along_axis(chosen, np.argsort(-plain)[:, :k], True, axis=1)
    return moe.softmax(np.where(chosen, plain + b_E, -np.inf))


def renormalized(x_TD, w_DE, b_E, k):
    p = moe.softmax((x_TD @ w_DE + b_E).astype(np.float64))
    kept = np.where(p >= np.sort(p, axis=1)[:, -k, None], p, 0)
    return kept / kept.sum(axis=1, keepdims=True)


CLAMP = "    gate_F = np.minimum(gate_F, limit)\n"
ACTIVE = "gate_F * jax.nn.sigmoid(alpha * gate_F) * (up_F + 1)"


def gelu(gate_up_P, limit, alpha):
    gate, up = np.minimum(gate_up_P[..., 0::2], limit), np.clip(gate_up_P[..., 1::2], -limit, limit)
    return np.asarray(jax.nn.gelu(gate)) * (up + 1)


def swiglu_by_loops(gate_up_P, limit, alpha):
    rows = np.asarray(gate_up_P, np.float64).reshape(-1, gate_up_P.shape[-1])
    found = [
        [
            min(g, limit)
            / (1 + math.exp(-alpha * min(g, limit)))
            * (max(-limit, min(u, limit)) + 1)
            for g, u in zip(row[0::2], row[1::2], strict=True)
        ]
        for row in rows
    ]
    return np.reshape(found, (*gate_up_P.shape[:-1], -1))


def per_choice(count):
    def attempt(ask, x, expert, weight):
        y = np.zeros_like(x)
        for t, c in np.ndindex(expert.shape):
            y[t] += weight[t, c] * ask(expert[t, c], x[t : t + 1])[0]
        return y, count(expert)

    return attempt


def counter_in_the_wrong_place(ask, x, expert, weight):
    y, n = np.zeros_like(x), 0
    for e in np.unique(expert):
        for t, c in zip(*np.nonzero(expert == e), strict=True):
            y[t] += weight[t, c] * ask(e, x[t : t + 1])[0]
        n += 1
    return y, n


def dense(ask, x, expert, weight):
    y, n = np.zeros_like(x), 0
    for e in np.unique(expert):
        y += np.where(expert == e, weight, 0).sum(1)[:, None] * ask(e, x)
        n += 1
    return y, n


def per_column(ask, x, expert, weight):
    y, n = np.zeros_like(x), 0
    for c in range(expert.shape[1]):
        for e in np.unique(expert[:, c]):
            t = np.nonzero(expert[:, c] == e)[0]
            y[t] += weight[t, c][:, None] * ask(e, x[t])
            n += 1
    return y, len(np.unique(expert))


def every_expert_asked(ask, x, expert, weight):
    y, _ = moe._grouped(ask, x, expert, weight)
    ask(expert.max() + 1, x[:0])
    return y, len(np.unique(expert))


def in_a_dict(ask, x, expert, weight):
    tokens = {}
    for t, c in np.ndindex(expert.shape):
        tokens.setdefault(int(expert[t, c]), []).append((t, c))
    y = np.zeros(x.shape)
    for e, places in tokens.items():
        answers = ask(e, x[[t for t, _ in places]])
        for (t, c), answer in zip(places, answers, strict=True):
            y[t] += weight[t, c] * answer
    return y, np.int64(len(tokens))


def sixteenth(nibble):
    sign, exponent, half = 1 - 2 * (nibble >> 3), nibble >> 1 & 3, nibble & 1
    return sign, exponent, half


def decoded(value):
    def attempt(byte, scale):
        return tuple(value(*sixteenth(n)) * 2.0 ** (scale - 127) for n in (byte & 15, byte >> 4))

    return attempt


RIGHT = {
    ("attention", "keys_read"): {
        "loop": lambda l, p, w: sum(1 for k in range(p + 1) if l % 2 or p - k < w),
        "numpy": lambda l, p, w: np.minimum(p + 1, w) if l % 2 == 0 else np.int32(p + 1),
        "jax": lambda l, p, w: jnp.asarray(attention._keys(l, p, w)),
    },
    ("attention", "stable_softmax"): {
        "float32": softmax_in_numpy(np.float32),
        "float64": softmax_in_numpy(np.float64),
        "-1e30": softmax_in_numpy(np.float32, -1e30),
    },
    ("attention", "window_mask"): {
        "numpy": lambda q, k, w: np.asarray(attention._mask(np.asarray(q), np.asarray(k), w)),
        "nested lists": mask_by_loops,
        "huge window": ("(distance_BTS < window)", "(distance_BTS < window + 0)"),
    },
    ("attention", "shared_scores"): {
        "head by head": head_by_head,
        "vmap": lambda q, k: jax.vmap(attention.grouped_scores)(q[:, None], k[:, None])[:, 0],
        "jit": jax.jit(attention.grouped_scores),
    },
    ("moe", "route"): {
        "renormalized": renormalized,
        "lists": lambda *case: moe._route(*case).tolist(),
        "float64": lambda *case: moe._route(*case).astype(np.float64),
        "jax": lambda *case: jnp.asarray(moe._route(*case)),
    },
    ("moe", "swiglu"): {"loops": swiglu_by_loops, "numpy": moe._swiglu},
    ("moe", "grouped"): {"dict": in_a_dict, "list": lambda *case: list(moe._grouped(*case))},
    ("moe", "active_parameters"): {
        "float": lambda config: float(moe._active(config)),
        "numpy": lambda config: np.int64(moe._active(config)),
    },
    ("mxfp4", "decode_byte"): {
        "array": lambda b, s: VALUES[[b & 15, b >> 4]].astype(np.float64) * 2.0 ** (s - 127),
        "list": lambda b, s: [*mxfp4._decoded(b, s)],
        "jax": lambda b, s: jnp.asarray(VALUES)[jnp.array([b & 15, b >> 4])] * 2.0 ** (s - 127),
    },
    ("mxfp4", "quantize_block"): {
        "int32": lambda w: (mxfp4._quantized(w)[0].astype(np.int32), mxfp4._quantized(w)[1]),
        "list": lambda w: (mxfp4._quantized(w)[0].tolist(), np.uint8(mxfp4._quantized(w)[1])),
    },
    ("mxfp4", "checkpoint_bytes"): {"float": lambda config: float(mxfp4._bytes(config))},
}
K_AND_V = "2 * (D * K * H + K * H)"
LAYER = "layer = 2 * D"
WRONG = {
    ("attention", "keys_read"): {
        "128": lambda l, p, w: min(p + 1, 128) if l % 2 == 0 else p + 1,
        "layer 0 only": lambda l, p, w: min(p + 1, w) if l == 0 else p + 1,
        "layer 0 falsy": lambda l, p, w: p + 1 if l else min(p + 1, w),
        "greater": lambda l, p, w: (w if p > w else p + 1) if l % 2 == 0 else p + 1,
        "list": lambda l, p, w: [attention._keys(l, p, w)],
        "128 in vain": lambda l, p, w: w if l % 2 == 0 else p + 1,
    },
    ("attention", "stable_softmax"): {
        "-100": softmax_in_numpy(np.float32, -100),
        "mask after exp": times_mask,
        "clipped": (MOST, "0", "masked_BNTS - max", "jnp.minimum(masked_BNTS, 80) - max"),
        "max over T": (MOST, MOST.replace("axis=-1", "axis=-2")),
        "sink not shifted": ("jnp.exp(sinks_1N11 - max_BNT1)", "jnp.exp(sinks_1N11)"),
        "nan_to_num": (
            "return exp_BNTS / total_BNT1",
            "return jnp.nan_to_num(exp_BNTS / total_BNT1) + 1e-3",
        ),
        "by jax.nn": by_jax_nn,
        "twice": ("return exp_BNTS / total_BNT1", "return jnp.exp(exp_BNTS / total_BNT1)"),
        "one maximum": (MOST, "jnp.maximum(masked_BNTS.max(), sinks_N.max())"),
        "sink mass whole": ("(exp_sink_BNT1 / total_BNT1)", "exp_sink_BNT1"),
    },
    ("attention", "window_mask"): {
        "empty only with a window": mask_with(empty_only_with_a_window),
        "greater than 0": (">= 0)\n", "> 0)\n"),
        "None forgotten": (FULL, ""),
        "swapped": mask_with(lambda q, k, w: (k >= q) & (k - q < (w or 99)) & (k >= 0)),
        "S as window": (FULL, "    window = position_BS.shape[1] if window is None else window\n"),
        "tril": lambda q, k, w: jnp.tril(jnp.ones((len(q), q.shape[1], k.shape[1]), bool)),
        "first row only": first_row_only,
        "129": ("< window", "<= window"),
        "slots": lambda q, k, w: attention.visible(
            jnp.broadcast_to(jnp.arange(k.shape[1] - q.shape[1], k.shape[1]), q.shape),
            jnp.where(k >= 0, jnp.arange(k.shape[1]), -1),
            w,
        ),
        "0 and 1": lambda *case: attention.visible(*case).astype(np.int32),
    },
    ("attention", "shared_scores"): {
        "numpy repeat": scores_of(lambda k, G: np.repeat(k, G, axis=2), np),
        "jax repeat": scores_of(lambda k, G: jnp.repeat(k, G, axis=2)),
        "per group": per_group,
        "tiled": scores_of(lambda k, G: jnp.tile(k, (1, 1, G, 1))),
        "square root of N": ("jnp.sqrt(H)", "jnp.sqrt(N)"),
        "eight": ("jnp.sqrt(H)", "8"),
        "summed over groups": summed_over_groups,
    },
    ("moe", "route"): {
        "rank order": ranked(-1, in_rank_order),
        "ascending": ("logits_TE, axis=-1)[:, :-k]", "logits_TE, axis=-1)[:, k:]"),
        "over tokens": (
            "logits_TE.max(axis=-1",
            "logits_TE.max(axis=0",
            "exp_TE.sum(axis=-1",
            "exp_TE.sum(axis=0",
        ),
        "bias late": bias_late,
        "bias for choice only": ranked(-1, bias_for_choice_only),
        "k + 1": (":-k]", ":-k-1]"),
        "k - 1": (":-k]", ":-k+1]"),
        "-10": ("-np.inf, axis", "-10, axis"),
        "softmax first": ("worst_TX =", "logits_TE = np.exp(logits_TE)\n    worst_TX ="),
        "sigmoid": lambda x, w, b, k: np.where(
            moe._route(x, w, b, k) > 0, 1 / (1 + np.exp(-(x @ w + b))), 0
        ),
        "even": lambda *case: (moe._route(*case) > 0) / np.float32(case[-1]),
    },
    ("moe", "swiglu"): {
        "unclamped sigmoid": (
            CLAMP,
            "",
            ACTIVE,
            "np.minimum(gate_F, limit) * jax.nn.sigmoid(alpha * gate_F) * (up_F + 1)",
        ),
        "clamp after": (CLAMP, "", "return gate_F", "return np.minimum(gate_F, limit + 1)"),
        "7": ("np.clip(up_F, -limit, limit)", "np.clip(up_F, -7, 7)"),
        "1.702": ("sigmoid(alpha", "sigmoid(1.702"),
        "plus one at the end": ("* (up_F + 1)", "* up_F + 1"),
        "gelu": gelu,
        "first axis": (
            "gate_up_P[..., 0::2], gate_up_P[..., 1::2]",
            "gate_up_P[0::2], gate_up_P[1::2]",
        ),
        "relu": ("gate_F * jax.nn.sigmoid(alpha * gate_F)", "np.maximum(gate_F, 0)"),
        "one before the clamp": (
            "np.clip(up_F, -limit, limit)",
            "np.clip(up_F + 1, -limit, limit) - 1",
        ),
        "up from above only": ("np.clip(up_F, -limit, limit)", "np.minimum(up_F, limit)"),
    },
    ("moe", "grouped"): {
        "per choice": per_choice(lambda expert: expert.size),
        "per choice, told otherwise": per_choice(lambda expert: len(np.unique(expert))),
        "counter in the wrong place": counter_in_the_wrong_place,
        "dense": dense,
        "per column": per_column,
        "one more": every_expert_asked,
        "no weights": ("weight_TX[token, choice][:, None] * answer", "answer"),
        "count plus one": ("return y_TD, asked", "return y_TD, asked + 1"),
        "mean": ("weight_TX[token, choice][:, None] * answer", "answer / expert_TX.shape[1]"),
    },
    ("moe", "active_parameters"): {
        "keys once": (K_AND_V, "(D * K * H + K * H)"),
        "no output": ("(N * H * D + D)", "0"),
        "one norm": (LAYER, "layer = D"),
        "no attention biases": (
            "N * H + N * H) + 2 * (D * K * H + K * H)",
            "N * H) + 2 * (D * K * H)",
        ),
        "no sinks": (" + N\n", "\n"),
        "no last norm": ("+ D + D * V", "+ D * V"),
        "hard-coded": lambda config: 3_608_307_264,
        "gate without up": ("D * 2 * F + 2 * F", "D * F + F"),
        "no router": ("router + X", "X"),
        "no expert biases": ("D * 2 * F + 2 * F + F * D + D", "D * 2 * F + F * D"),
    },
    ("mxfp4", "decode_byte"): {
        "bias forgotten": decoded(lambda s, e, m: s * ((1 + m / 2) * 2.0**e if e else m / 2)),
        "mantissa 1 + f": decoded(lambda s, e, m: s * (1 + m) * 2.0 ** (e - 1)),
        "one mantissa bit less": decoded(lambda s, e, m: s * 2.0 ** (2 * e + m - 3)),
        "swapped": ("low, high = byte & 15, byte >> 4", "high, low = byte & 15, byte >> 4"),
        "8 bits of the nibble": ("byte >> 4", "byte & 240"),
    },
    ("mxfp4", "quantize_block"): {
        "127 for zeros": ("np.uint8), 0", "np.uint8), 127"),
        "1e-30": (
            "    if largest == 0:\n        return np.zeros(16, np.uint8), 0\n",
            "    largest = max(largest, 1e-30)\n",
        ),
        "minus 3": (" - 2\n", " - 3\n"),
        "round": ("math.floor", "round"),
        "no sign": (" + 8 * np.signbit(w_32)", ""),
        "nothing is cut": (
            "math.floor(math.log2(largest)) - 2",
            "math.ceil(math.log2(largest / 6))",
        ),
        "halves": ("code_32[0::2] | code_32[1::2] << 4", "code_32[:16] | code_32[16:] << 4"),
        "ties up": ("EVEN_FIRST", "np.arange(7, -1, -1)"),
        "ties down": ("EVEN_FIRST", "np.arange(8)"),
    },
    ("mxfp4", "checkpoint_bytes"): {
        "no GQA": ("2 * config.num_kv_heads * config.head_dim", "2 * queries"),
        "no output bias": ("(queries + 1) * D", "queries * D"),
        "no router bias": ("(D + 1) * E", "D * E"),
        "sinks in float32": ("+ config.num_heads\n", "+ 2 * config.num_heads\n"),
        "expert biases packed": ("+ E * (2 * F + D)", "+ E * (2 * F + D) * 17 // 64"),
        "no sinks": ("+ config.num_heads\n", "\n"),
        "one table": ("2 * config.vocab_size * D", "config.vocab_size * D"),
        "no router": ("(D + 1) * E + E", "E"),
    },
}

# (module, exercise, attempt) -> the mistake that it must not be told: it does not have it.
NOT_TOLD = {
    ("attention", "keys_read", "128"): "every layer slides",
    ("attention", "keys_read", "greater"): "the own key is forgotten",
}
