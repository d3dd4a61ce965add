"""The third witness: GPT-OSS in float64 NumPy, with loops instead of tricks.

It shares no code with the package and follows the model card: one token, one head, one expert at a
time. Weights come in as the package's own tree, since only the arithmetic is in question.
"""

import math

import numpy as np


def f64(array):
    """Any array, in double precision."""
    return np.asarray(array).astype(np.float64)


def frequencies(config):
    """(angle per position of each pair, concentration) by YaRN, without rounding its bounds."""
    H, theta = config.head_dim, config.rope_theta
    inverse = []
    for pair in range(H // 2):
        plain = theta ** (-2 * pair / H)
        low, high = (
            H * math.log(config.initial_context / (2 * math.pi * beta)) / (2 * math.log(theta))
            for beta in (config.beta_fast, config.beta_slow)
        )
        slow = min(1.0, max(0.0, (pair - low) / (high - low)))
        inverse.append(slow * plain / config.rope_factor + (1 - slow) * plain)
    return np.array(inverse), 0.1 * math.log(config.rope_factor) + 1


def rotate(x_H, position, config):
    """One head at one position: pair (i, i + H/2) turns by its angle."""
    inverse, concentration = frequencies(config)
    half, y_H = len(inverse), np.empty_like(x_H)
    for pair, per_position in enumerate(inverse):
        cos, sin = math.cos(position * per_position), math.sin(position * per_position)
        a, b = x_H[pair], x_H[pair + half]
        y_H[pair] = concentration * (a * cos - b * sin)
        y_H[pair + half] = concentration * (b * cos + a * sin)
    return y_H


def rms_norm(x_D, scale_D, eps):
    """Root mean square normalization of one vector."""
    return x_D / math.sqrt(float(np.mean(x_D * x_D)) + eps) * f64(scale_D)


def attention(p, x_TD, config, window):
    """All tokens of one sequence: (output [T, D], weights [N, T, T], sink mass [N, T])."""
    T, N, K = len(x_TD), config.num_heads, config.num_kv_heads
    q = np.einsum("TD,DNH->TNH", x_TD, f64(p.w_q_DNH)) + f64(p.b_q_NH)
    k = np.einsum("TD,DKH->TKH", x_TD, f64(p.w_k_DKH)) + f64(p.b_k_KH)
    v = np.einsum("TD,DKH->TKH", x_TD, f64(p.w_v_DKH)) + f64(p.b_v_KH)
    q = np.array([[rotate(q[t, n], t, config) for n in range(N)] for t in range(T)])
    k = np.array([[rotate(k[t, n], t, config) for n in range(K)] for t in range(T)])
    out, weights, sink = np.zeros(q.shape), np.zeros((N, T, T)), np.zeros((N, T))
    for n in range(N):
        kv, logit = n // (N // K), float(f64(p.sinks_N)[n])
        for t in range(T):
            first = 0 if window is None else max(0, t - window + 1)
            scores = np.array([q[t, n] @ k[s, kv] for s in range(first, t + 1)])
            scores = scores / math.sqrt(config.head_dim)
            largest = max(float(scores.max()), logit)
            e = np.exp(scores - largest)
            total = e.sum() + math.exp(logit - largest)
            weights[n, t, first : t + 1] = e / total
            sink[n, t] = math.exp(logit - largest) / total
            out[t, n] = weights[n, t, first : t + 1] @ v[first : t + 1, kv]
    y = np.einsum("TNH,NHD->TD", out, f64(p.w_o_NHD)) + f64(p.b_o_D)
    return y, weights, sink


def experts(p, x_TD, config):
    """All tokens through the mixture: (output [T, D], chosen experts, their weights)."""
    logits = x_TD @ f64(p.w_router_DE) + f64(p.b_router_E)
    up_weights, down_weights = f64(p.w_gate_up_EDP[:]), f64(p.w_down_EFD[:])
    y_TD, chosen, shares = np.zeros_like(x_TD), [], []
    for t, x_D in enumerate(x_TD):
        best = sorted(range(config.num_experts), key=lambda e, t=t: -logits[t, e])
        best = best[: config.experts_per_token]
        share = np.exp(logits[t, best] - logits[t, best].max())
        share /= share.sum()
        for expert, weight in zip(best, share, strict=True):
            h = x_D @ up_weights[expert] + f64(p.b_gate_up_EP)[expert]
            gate, up = h[0::2], h[1::2]
            gate = np.minimum(gate, config.swiglu_limit)
            up = np.clip(up, -config.swiglu_limit, config.swiglu_limit)
            h = gate / (1 + np.exp(-1.702 * gate)) * (up + 1)
            y_TD[t] += weight * (h @ down_weights[expert] + f64(p.b_down_ED)[expert])
        chosen.append(best)
        shares.append(share)
    return y_TD, np.array(chosen), np.array(shares)


def logits(params, tokens_T, config):
    """The whole model on one sequence of rows: logits [T, V]."""
    x = f64(params.embedding_VD)[list(tokens_T)]
    for index, layer in enumerate(params.layers):
        window = config.sliding_window if index % 2 == 0 else None
        normed = np.array([rms_norm(r, layer.attention.norm_D, config.rms_eps) for r in x])
        x = x + attention(layer.attention, normed, config, window)[0]
        normed = np.array([rms_norm(r, layer.moe.norm_D, config.rms_eps) for r in x])
        x = x + experts(layer.moe, normed, config)[0]
    normed = np.array([rms_norm(r, params.norm_D, config.rms_eps) for r in x])
    return normed @ f64(params.unembedding_DV)
