"""Attempts at the exercises of chapters 06 to 09, a1 and a2, as readers made them.

An attempt is a function, or pieces of the folded solution and what stands there instead.
"""

import hashlib

import jax.numpy as jnp
import numpy as np

from gptoss_edu.cache import Cache
from gptoss_edu.course.checks import bugs, colab, full_model, precision, speed, training
from gptoss_edu.model import block as library_block


def by_loop(logits_V, p):
    order = sorted(range(len(logits_V)), key=lambda v: -logits_V[v])
    share = np.exp(logits_V - np.max(logits_V)).astype(np.float64)
    share /= share.sum()
    kept, total = [], 0.0
    for v in order:
        if total >= p and p < 1:
            break
        kept.append(v)
        total += share[v]
    return [float(x) if v in kept else -np.inf for v, x in enumerate(logits_V)]


def as_a_list(params, token_B, cache, config):
    logits_BV, new = full_model.right_decode_step(params, token_B, cache, config)
    return logits_BV, Cache(list(new.layers), new.length_B)


def sums(combine):
    def attempt(truth_LTX, other_LTX):
        return np.argwhere(combine(truth_LTX) != combine(other_LTX))[0]

    return attempt


def sha(text):
    return hashlib.sha256(text.encode()).hexdigest()


def digest(text):
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") % 10 == 0


def with_assert(visible):
    q_BT, k_BS = np.array([[7, 8]]), np.array([[-1, 0, 3, 4, 5, 6, 7, 8, 9]])
    for window in (4, None):
        for q, row in zip(q_BT[0], np.asarray(visible(q_BT, k_BS, window))[0], strict=True):
            wanted = [0 <= k <= q and (window is None or q - k < window) for k in k_BS[0]]
            assert row.tolist() == wanted
    return True


def counts_only(visible):
    q_BT, k_BS = np.arange(9)[None], np.arange(9)[None]
    return bool(np.asarray(visible(q_BT, k_BS, 4)).sum(-1).max() == 4)


def differs(rule):
    def attempt(right, wrong, atol):
        pairs = enumerate(zip(right, wrong, strict=True))
        return next((i for i, (a, b) in pairs if rule(a, b, atol)), -1)

    return attempt


def shaped(rule):
    return differs(lambda a, b, atol: a.shape != b.shape or rule(a, b, atol))


def check_first(seconds, received, limit):
    since, most = seconds[0], received[0]
    for now, count in zip(seconds, received, strict=True):
        if now - since >= limit:
            return now
        if count > most:
            since, most = now, count
    return -1


AGREE = "abs(x - y) > 0.1 + 0.1 * abs(y)"
CHOSEN = 'size * chosen / experts if name.endswith("experts") else size'
TOUCHED = "experts * (1 - (1 - chosen / experts) ** tokens)"
SPEC = '"tensor" if letter in "NKPFVO"'
EPS = "config.rms_eps"
DIFFERS = "a.shape != b.shape or not np.abs(a - b).max() <= atol"

RIGHT = {
    ("full_model", "block"): {"the library's three results": library_block},
    ("full_model", "decode_step"): {"stores in a list": as_a_list},
    ("full_model", "top_p"): {
        "loop and list": by_loop,
        "jax": lambda logits_V, p: jnp.asarray(full_model._top_p(logits_V, p)),
        "float64": lambda logits_V, p: full_model._top_p(logits_V, p).astype(np.float64),
    },
    ("precision", "needed_gib"): {"numpy": lambda *case: np.float64(precision._needed(*case))},
    ("precision", "pick"): {
        "loop": lambda m, needs: max(
            ((gib, name) for name, gib in needs.items() if gib <= m), default=(0, "nothing")
        )[1],
    },
    ("precision", "spec"): {"tuple": lambda name: tuple(precision._spec(name))},
    ("precision", "first_flip"): {
        "array": lambda a, b: np.argwhere((np.sort(a, -1) != np.sort(b, -1)).any(-1))[0],
        "sets": lambda a, b: next(
            [l, t] for l, t in np.ndindex(a.shape[:2]) if {*a[l, t]} != {*b[l, t]}
        ),
    },
    ("speed", "token_bytes"): {"numpy": lambda *case: np.float32(speed._token(*case))},
    ("speed", "steps_that_agree"): {
        "isclose": ("a != b or " + AGREE, "a != b or not np.isclose(x, y, rtol=0.1, atol=0.1)")
    },
    ("speed", "context_bytes"): {"numpy": lambda *case: np.int64(speed._context(*case))},
    ("speed", "prefill_bytes"): {"jax": lambda *case: np.float64(speed._prefill(*case))},
    ("colab", "next_range"): {"numpy text": lambda *case: np.str_(colab._range(*case))},
    ("colab", "stalled"): {
        "int": lambda *case: int(colab._stalled(*case)),
        "most 0": ("seconds[0], received[0]", "seconds[0], 0"),
    },
    ("colab", "first_token"): {
        "list": lambda *case: list(colab._first(*case)),
        "array": lambda *case: np.array(colab._first(*case)),
    },
    ("training", "loss_positions"): {
        "jax": lambda t, at: (jnp.arange(at - 1, len(t) - 1), jnp.array(t[at:])),
        "int32": lambda t, at: (np.arange(at - 1, len(t) - 1, dtype=np.int32), t[at:]),
        "lists": lambda t, at: (list(range(at - 1, len(t) - 1)), t[at:].tolist()),
        "range": lambda t, at: [[*range(at - 1, len(t) - 1)], [*map(int, t[at:])]],
    },
    ("training", "uneven"): {"jax": lambda *case: jnp.asarray(training.right_uneven(*case))},
    ("training", "held_out"): {
        "np.bool_": lambda *case: np.bool_(training.right_held_out(*case)),
        "hexdigest": lambda task, pair: int(sha(f"{task}|{pair}")[:8], 16) % 10 == 0,
    },
    ("bugs", "first_difference"): {
        "allclose": (DIFFERS, "a.shape != b.shape or not np.allclose(a, b, rtol=0, atol=atol)"),
        "numpy": lambda *case: np.int64(bugs.right_first(*case)),
    },
    ("bugs", "reach"): {"numpy": lambda weights: np.int64(bugs.right_reach(weights))},
    ("bugs", "window_test"): {
        "assert": with_assert,
        "np.bool_": lambda visible: np.bool_(bugs.right_window_test(visible)),
    },
}

WRONG = {
    ("full_model", "block"): {
        "no clamp": ("config.swiglu_limit", "1e9"),
        "alpha": ("config.swiglu_alpha", "1.0"),
        "epsilon": (EPS, "1e-6"),
        "window - 1": ("kv, window)", "kv, window and window - 1)"),
        "cos and sin": ("h_BTD, cos_BTC, sin_BTC", "h_BTD, sin_BTC, cos_BTC"),
        "one expert": ("config.experts_per_token", "1"),
    },
    ("full_model", "decode_step"): {
        "epsilon": (f"unembed(params, x_B1D, {EPS})", "unembed(params, x_B1D, 1e-6)"),
        "sliding everywhere": ("config.window(index)", "config.window(0)"),
        "length of one": ("cache.length_B + 1)", "cache.length_B.at[0].add(1))"),
    },
    ("full_model", "top_p"): {
        "one too many": ("p_V < p", "p_V <= p"),
        "-1e9": ("-np.inf", "-1e9"),
        "log-probabilities": (
            "allowed_V, logits_V",
            "allowed_V, logits_V - np.log(np.exp(logits_V).sum())",
        ),
        "1 - p": ("p_V < p", "p_V < 1 - p"),
        "no crossing": ("np.cumsum(p_V) - p_V < p", "np.cumsum(p_V) < p"),
        "scaled": ("p_V = p_V / p_V.sum()", "p_V = p_V / p_V.max()"),
    },
    ("precision", "needed_gib"): {
        "cache not spread": (
            "(weights + cache) / 2**30 / devices",
            "(weights / devices + cache) / 2**30",
        ),
        "workspace": ("weights + cache", "weights + cache + 2**30"),
        "MiB": ("2**30", "2**20"),
        "floor": (" / 2**30 / devices", " // 2**30 / devices"),
    },
    ("precision", "pick"): {
        "hard-coded order": lambda m, needs: next(
            (n for n in ("bf16", "fp8", "int8", "mxfp4") if needs.get(n, 1e9) <= m), "nothing"
        ),
        "alphabet": ("max(fitting, key=needs.get)", "max(fitting)"),
        "None": ('"nothing"', "None"),
        "empty": ('"nothing"', '""'),
        "size": ("max(fitting, key=needs.get)", "max(needs[f] for f in fitting)"),
    },
    ("precision", "spec"): {
        "no F": (SPEC, SPEC.replace("F", "")),
        "no O": (SPEC, SPEC.replace("O", "")),
        "no V": (SPEC, SPEC.replace("V", "")),
        "S, too": (SPEC, SPEC.replace("V", "VS")),
        "H, too": (SPEC, SPEC.replace("V", "VH")),
        "None": ('else "whole"\n', "else None\n"),
        "text": ("return found", 'return " ".join(found)'),
    },
    ("precision", "first_flip"): {
        "sums": sums(lambda chosen: chosen.sum(-1)),
        "products": sums(lambda chosen: chosen.prod(-1)),
        "largest": sums(lambda chosen: chosen.max(-1)),
        "most different": lambda a, b: np.unravel_index(np.argmax((a != b).sum(-1)), a.shape[:2]),
    },
    ("speed", "token_bytes"): {
        "floor": ("chosen / experts", "chosen // experts"),
        "no norm": ('if name != "embedding":', 'if name not in ("embedding", "last norm"):'),
        "no router": (
            'if name != "embedding":',
            'if name != "embedding" and "router" not in name:',
        ),
        "times": ("size * chosen / experts", "size * chosen"),
        "any embedding": ('name != "embedding"', '"embedding" not in name'),
    },
    ("speed", "steps_that_agree"): {
        "own tolerance": (AGREE, "abs(x - y) > 0.1 + 0.1 * abs(x)"),
        "isclose, swapped": (AGREE, "not np.isclose(y, x, rtol=0.1, atol=0.1)"),
        "larger of two": (AGREE, "abs(x - y) > max(0.1, 0.1 * abs(y))"),
        "probabilities": (AGREE, "abs(np.exp(x) - np.exp(y)) > 0.1"),
        "one side": (AGREE, "x - y > 0.1 + 0.1 * abs(y)"),
        "signed": (AGREE, "abs(x - y) > 0.1 + 0.1 * y"),
        "a percent": (AGREE, "abs(x - y) > 0.1 + 0.01 * abs(y)"),
    },
    ("speed", "context_bytes"): {
        "2 bytes": ("2 * 4", "2 * 2"),
        "one layer": (
            "sum(min(context, window or context) for window in windows)",
            "min(context, windows[0] or context)",
        ),
        "window of 128": ("window or context", "128 if window else context"),
        "query heads": ("kv_heads * head_dim", "8 * kv_heads * head_dim"),
        "sum of windows": (
            "sum(min(context, window or context) for window in windows)",
            "min(context, sum(windows) or context)",
        ),
    },
    ("speed", "prefill_bytes"): {
        "rounded": (TOUCHED, f"round({TOUCHED})"),
        "chosen only": (TOUCHED, "chosen"),
        "no rest": ("touched * expert_bytes + other_bytes", "touched * expert_bytes"),
        "one more": ("** tokens", "** (tokens + 1)"),
    },
    ("colab", "next_range"): {
        "an end": ('f"bytes={have}-"', 'f"bytes={have}-{size - 1}"'),
        "a header": ('f"bytes={have}-"', 'f"Range: bytes={have}-"'),
        "None": ('return ""', "return None"),
        "number": ('f"bytes={have}-"', "have"),
        "minus": ('f"bytes={have}-"', 'f"bytes=-{size - have}"'),
    },
    ("colab", "stalled"): {
        "0, 0": ("seconds[0], received[0]", "0, 0"),
        "since 0": ("since, most = seconds[0]", "since, most = 0"),
        "check first": check_first,
        "None": ("return -1", "return None"),
        "the wait": ("return now", "return now - since"),
    },
    ("colab", "first_token"): {
        "all from prefill": ("began - before", "began - before - after"),
        "tokens per second": ("decode / (len(ticks) - 1)", "(len(ticks) - 1) / decode"),
        "whole decode": ("decode / (len(ticks) - 1)", "decode"),
        "the longest": ("before + after", "max(before, after)"),
    },
    ("training", "loss_positions"): {
        "one less": ("reply_at - 1, len", "reply_at - 2, len"),
        "targets before": ("where_L + 1", "where_L - 1"),
        "swapped": ("where_L, tokens[where_L + 1]", "tokens[where_L + 1], where_L"),
        "floats": (
            "np.arange(reply_at - 1, len(tokens) - 1)",
            "np.arange(reply_at - 1, len(tokens) - 1)",
            "return where_L",
            "return where_L.astype(float)",
        ),
    },
    ("training", "uneven"): {
        "no minlength": (", minlength=E", ""),
        "without E": ("E * (", "("),
        "all tokens": ("expert_MX[real_M]", "expert_MX"),
        "sum of p": (".mean(axis=0)", ".sum(axis=0)"),
        "max": ("(share_E * ", "(share_E.max() * "),
    },
    ("training", "held_out"): {
        "hexdigest ends in 0": lambda task, pair: sha(f"{task}|{pair}").endswith("0"),
        "a digit of it": lambda task, pair: sha(f"{task}|{pair}")[7] == "0",
        "no bar": lambda task, pair: digest(task + pair),
        "spaces": lambda task, pair: digest(f"{task} | {pair}"),
        "sha1": ("sha256", "sha1"),
        "whole digest": lambda task, pair: int(sha(f"{task}|{pair}"), 16) % 10 == 0,
        "swapped": ("{task}|{pair}", "{pair}|{task}"),
        "below": (" % 10 == 0", " < 2**32 / 10"),
    },
    ("bugs", "first_difference"): {
        "allclose": shaped(lambda a, b, atol: not np.allclose(a, b, atol=atol)),
        "NaN in wrong": shaped(lambda a, b, atol: np.isnan(b).any() or np.abs(a - b).max() > atol),
        "NaN in right": shaped(lambda a, b, atol: np.isnan(a).any() or np.abs(a - b).max() > atol),
        "equal_nan": shaped(
            lambda a, b, atol: not np.allclose(a, b, rtol=0, atol=atol, equal_nan=True)
        ),
        "size": differs(lambda a, b, atol: a.size != b.size or not np.abs(a - b).max() <= atol),
        "one NaN only": shaped(
            lambda a, b, atol: np.isnan(a).any() != np.isnan(b).any() or np.abs(a - b).max() > atol
        ),
        "len": differs(lambda a, b, atol: len(a) != len(b) or not np.abs(a - b).max() <= atol),
        "ndim": differs(lambda a, b, atol: a.ndim != b.ndim or not np.abs(a - b).max() <= atol),
        "sum": shaped(lambda a, b, atol: not abs((a - b).sum()) <= atol),
        "relative": shaped(lambda a, b, atol: not np.abs((a - b) / b).max() <= atol),
    },
    ("bugs", "reach"): {
        "threshold": lambda w: bugs.right_reach(np.where(w > 1e-2, w, 0)),
        "tiny threshold": lambda w: bugs.right_reach(np.where(w > 1e-5, w, 0)),
        "mean distance": lambda w: round(float((w.mean(0) * np.arange(w.shape[1])).sum())) + 1,
        "first layer's columns": lambda w: int(np.nonzero(w.sum((0, 1)))[0].max()) + 1,
        "mean over heads above": lambda w: bugs.right_reach(np.where(w > 1e-3, w, 0)),
    },
    ("bugs", "window_test"): {
        "by its name": lambda visible: visible.__name__ == "visible",
        "always": lambda visible: True,
        "counts only": counts_only,
        "no padding": lambda visible: np.array_equal(
            visible(np.arange(9)[None], np.arange(9)[None], 4)[0].sum(-1),
            [1, 2, 3, 4, 4, 4, 4, 4, 4],
        ),
    },
}

# (module, exercise, attempt) -> the mistake that it must not be told: it does not have it.
NOT_TOLD = {
    ("training", "held_out", "hexdigest ends in 0"): "Python's own hash",
    ("training", "held_out", "a digit of it"): "Python's own hash",
    ("training", "held_out", "no bar"): "the wrong side",
    ("training", "held_out", "spaces"): "the wrong side",
    ("training", "held_out", "sha1"): "the wrong side",
    ("training", "held_out", "whole digest"): "the last four bytes",
    ("colab", "stalled", "check first"): "any report counts",
    ("speed", "steps_that_agree", "larger of two"): "absolute only",
    ("speed", "prefill_bytes", "rounded"): "no overlap",
    ("precision", "pick", "alphabet"): "the narrowest",
    ("precision", "spec", "S, too"): "backwards",
    ("bugs", "reach", "mean distance"): "the first head only",
}
