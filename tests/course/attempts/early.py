"""Attempts at the exercises of chapters 00 to 02, as readers made them: right ones and wrong ones.

An attempt is a function, or pieces of the folded solution and what stands there instead.
"""

import collections
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np

from gptoss_edu.course.checks import rope, start_here, tokens
from gptoss_edu.mxfp4 import Mxfp4
from gptoss_edu.tokenizer import load_encoding


def grouped_by(pieces):
    groups = itertools.groupby(pieces, key=lambda piece: piece.channel)
    return {channel: "".join(piece.text for piece in group) for channel, group in groups}


def prefilled(*channels):
    return lambda pieces: dict.fromkeys(channels, "") | start_here.right_by_channel(pieces)


def in_a_defaultdict(pieces):
    texts = collections.defaultdict(str)
    for piece in pieces:
        texts[piece.channel] += piece.text
    return texts


def without_abs(largest):
    def attempt(a, b):
        if a.shape != b.shape:
            return math.inf
        most = float(largest(a, b))
        return math.inf if math.isnan(most) else most

    return attempt


def by_loops(a, b):
    if a.shape != b.shape:
        return math.inf
    most = 0.0
    for x, y in zip(a.ravel().tolist(), b.ravel().tolist(), strict=True):
        if math.isnan(x - y):
            return math.inf
        most = max(most, abs(x - y))
    return most


def leaves_of(params):
    return jax.tree.leaves(params, is_leaf=lambda leaf: isinstance(leaf, Mxfp4))


FROM_THE_RIGHT = """
            glued = list(pieces)
            for i in range(len(glued) - 2, -1, -1):
                if i + 1 < len(glued) and (glued[i], glued[i + 1]) == best:
                    glued[i : i + 2] = [glued[i] + glued[i + 1]]
            at = len(pieces)
            while at < len(pieces):"""
ONCE = "for pair in {p for p in zip(pieces, pieces[1:])}:"
APART = """pairs = list(zip(pieces, pieces[1:]))
            for i, pair in enumerate(pairs):
                if i and pairs[i - 1] == pair and pair[0] == pair[1]:
                    continue"""
CALLS = 'calls = message.role == "assistant" and message.recipient is not None'
WHERE = 'found["recipient"] = word.removeprefix("to=")'


def listed(header):
    before, _, after = header.partition("<|channel|>")
    first = before.replace("<|constrain|>", " ").split()
    rest = after.replace("<|constrain|>", " ").split()
    author = first.pop(0) if first and not first[0].startswith("to=") else "assistant"
    channel = rest.pop(0) if rest else None
    return {
        "author": author,
        "channel": channel,
        "recipient": [word[3:] for word in first + rest if word.startswith("to=")],
        "content_type": [word for word in first + rest if not word.startswith("to=")],
    }


def template(messages, encode):
    text = ""
    for m in messages:
        who = m.name if m.role == "tool" else m.role
        text += f"<|start|>{who}" + (f" to={m.recipient}" if m.recipient else "")
        text += f"<|channel|>{m.channel}" if m.channel else ""
        text += f" {m.content_type}" if m.content_type else ""
        calls = m.role == "assistant" and m.recipient
        text += f"<|message|>{m.text}" + ("<|call|>" if calls else "<|end|>")
    return load_encoding().encode(text + "<|start|>assistant", allowed_special="all")


def by_complex_numbers(x_BTNH, cos_BTC, sin_BTC):
    x = np.asarray(x_BTNH, np.float64)
    half = x.shape[-1] // 2
    turn = (np.asarray(cos_BTC) + 1j * np.asarray(sin_BTC))[:, :, None]
    turned = (x[..., :half] + 1j * x[..., half:]) * turn
    return np.concatenate([turned.real, turned.imag], axis=-1)


def by_rotate_half(x_BTNH, cos_BTC, sin_BTC):
    first, second = jnp.split(x_BTNH, 2, axis=-1)
    cos, sin = (jnp.concatenate([t, t], axis=-1)[:, :, None] for t in (cos_BTC, sin_BTC))
    return x_BTNH * cos + jnp.concatenate([-second, first], axis=-1) * sin


def aliased(x_BTNH, cos_BTC, sin_BTC):
    x = np.array(x_BTNH)
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    cos, sin = np.asarray(cos_BTC)[:, :, None], np.asarray(sin_BTC)[:, :, None]
    first[:] = first * cos - second * sin
    second[:] = second * cos + first * sin
    return x


def even_odd_along(axis):
    def attempt(w_DNH):
        even, odd = (np.take(w_DNH, range(i, w_DNH.shape[axis], 2), axis) for i in (0, 1))
        return np.concatenate([even, odd], axis=axis)

    return attempt


BORDER = "return head_dim * math.log(turns) / (2 * math.log(theta))"
BLEND = "plain_C * (1 - slow_C) + plain_C / factor * slow_C"
COUNT = "initial_context / (2"

RIGHT = {
    ("start_here", "by_channel"): {
        "defaultdict": in_a_defaultdict,
        "comprehension": lambda pieces: {
            c: "".join(p.text for p in pieces if p.channel == c)
            for c in {p.channel for p in pieces}
        },
    },
    ("start_here", "count_parameters"): {
        "numpy": lambda params: np.sum([np.prod(leaf.shape) for leaf in leaves_of(params)]),
        "jax scalar": lambda params: jnp.asarray(start_here.right_count(params)),
    },
    ("start_here", "largest_difference"): {
        "loops": by_loops,
        "numpy scalar": lambda a, b: np.float64(start_here.right_difference(a, b)),
    },
    ("tokens", "merges"): {
        "lists": lambda words, count: [list(pair) for pair in tokens.right_merges(words, count)],
        "tuple": lambda words, count: tuple(tokens.right_merges(words, count)),
    },
    ("tokens", "conversation"): {
        "numpy array": lambda messages, encode: np.array(tokens._told(messages, encode)),
        "tuple": lambda messages, encode: tuple(tokens._told(messages, encode)),
    },
    ("tokens", "header"): {
        "other order": lambda header: dict(reversed(tokens.right_header(header).items())),
    },
    ("rope", "rotate"): {"complex": by_complex_numbers, "rotate_half": by_rotate_half},
    ("rope", "to_half_split"): {
        "swapaxes": lambda w: w.reshape(*w.shape[:-1], -1, 2).swapaxes(-1, -2).reshape(w.shape),
        "index": lambda w: w[..., [*range(0, w.shape[-1], 2), *range(1, w.shape[-1], 2)]],
        "nested lists": lambda w: rope.right_half_split(w).tolist(),
    },
    ("rope", "yarn"): {
        "float64": ("inv_C.astype(np.float32)", "inv_C"),
        "list": ("inv_C.astype(np.float32)", "inv_C.tolist()"),
        "jax": ("inv_C.astype(np.float32)", "jnp.asarray(inv_C, jnp.float32)"),
    },
    ("rope", "first_lost_position"): {
        "float": lambda dtype: 2.0 / float(jnp.finfo(dtype).eps) + 1,
        "jax": lambda dtype: jnp.asarray(rope.right_lost(dtype)),
    },
}

WRONG = {
    ("start_here", "by_channel"): {
        "groupby": grouped_by,
        "three channels prefilled": prefilled("analysis", "commentary", "final"),
        "two channels prefilled": prefilled("analysis", "final"),
        "prepends": (
            'texts.get(piece.channel, "") + piece.text',
            'piece.text + texts.get(piece.channel, "")',
        ),
        "return in the loop": ("    return texts", "        return texts"),
        "lists": lambda pieces: {
            p.channel: [q.text for q in pieces if q.channel == p.channel] for p in pieces
        },
    },
    ("start_here", "count_parameters"): {
        "uint8 skipped": lambda params: sum(
            x.size for x in jax.tree.leaves(params) if x.dtype != np.uint8
        ),
        "sum of shapes": ("math.prod(leaf.shape)", "sum(leaf.shape)"),
        "no embedding": lambda p: start_here.right_count(p) - p.embedding_VD.size,
        "matrices only": ("for leaf in leaves)", "for leaf in leaves if len(leaf.shape) > 1)"),
        "arrays": lambda params: len(jax.tree.leaves(params)),
    },
    ("start_here", "largest_difference"): {
        "max of b - a": without_abs(lambda a, b: np.max(b - a)),
        "minus the min": without_abs(lambda a, b: -np.min(a - b)),
        "max of a - b": without_abs(lambda a, b: np.max(a - b)),
        "size": ("a.shape != b.shape", "a.size != b.size"),
        "len": ("a.shape != b.shape", "len(a) != len(b)"),
        "ndim": ("a.shape != b.shape", "a.ndim != b.ndim"),
        "builtin max": without_abs(lambda a, b: max(np.abs(a - b).ravel())),
        "nan_to_num": ("np.abs(a - b)", "np.nan_to_num(np.abs(a - b))"),
        "== nan": ("math.isnan(largest)", "largest == math.nan"),
        "rms": ("np.max(np.abs(a - b))", "np.sqrt(np.mean((a - b) ** 2))"),
        "relative": ("np.max(np.abs(a - b))", "np.max(np.abs(a - b) / np.abs(b))"),
    },
    ("tokens", "merges"): {
        "from the right": ("            while at < len(pieces):", FROM_THE_RIGHT),
        "ties by joined text": ("(-counts[pair], pair)", '(-counts[pair], "".join(pair))'),
        "first seen": ("(-counts[pair], pair)", "-counts[pair]"),
        "at least two": ("if not counts:", "if not counts or max(counts.values()) < 4:"),
        "not twice in aaa": ("for pair in zip(pieces, pieces[1:]):", APART),
        "once per word": ("for pair in zip(pieces, pieces[1:]):", ONCE),
        "overlapping": ("at += 2 if found else 1", "at += 1"),
        "no stop": ("        if not counts:\n            break\n", ""),
        "pieces": ("merges.append(best)", 'merges.append("".join(best))'),
    },
    ("tokens", "conversation"): {
        "call for commentary": (CALLS, 'calls = message.channel == "commentary"'),
        "call if content type": (CALLS, "calls = message.content_type"),
        "call for functions": (CALLS, 'calls = (message.recipient or "").startswith("functions.")'),
        "call for all but tools": (CALLS, 'calls = message.role != "tool" and message.recipient'),
        "json": ("encode(kind)", 'encode("json")'),
        "thinking dropped": (
            "for message in messages:",
            'for message in (m for m in messages if m.channel != "analysis"):',
        ),
        "space after the marker": ("encode(kind)", 'encode(" " + kind)'),
        "stripped": ("encode(message.text)", "encode(message.text.strip())"),
        "empty skipped": (
            "for message in messages:",
            "for message in (m for m in messages if m.text):",
        ),
        "template": template,
        "no channel": ("message.channel is not None", "False"),
    },
    ("tokens", "header"): {
        "empty text": (
            '{"recipient": None, "content_type": None}',
            '{"recipient": "", "content_type": ""}',
        ),
        "lists": listed,
        "empty lists": (
            '{"recipient": None, "content_type": None}',
            '{"recipient": [], "content_type": []}',
        ),
        "no channel mark": ("before, _, after = header.partition", "before, after = header.split"),
        "keys missing": ('    found |= {"recipient": None, "content_type": None}\n', ""),
        "only json": ("        else:", '        elif word == "json":'),
        "only functions": (
            WHERE,
            'found["recipient"] = word[3:] if "functions." in word else None',
        ),
        "to= kept": ('.removeprefix("to=")', ""),
    },
    ("rope", "rotate"): {
        "cos repeated": ("cos_BTC[:, :, None, :]", "jnp.cos(cos_BTC)[:, :, None, :]"),
        "halves reversed": ("jnp.split(x_BTNH, 2, axis=-1)", "jnp.split(x_BTNH, 2, axis=-1)[::-1]"),
        "aliased": aliased,
        "tokens reversed": ("cos_BTC[:, :, None, :]", "cos_BTC[:, ::-1, None, :]"),
        "wrong axis": (
            "cos_BTC[:, :, None, :], sin_BTC[:, :, None, :]",
            "cos_BTC[:, None], sin_BTC[:, None]",
        ),
        "joined in turn": (
            "jnp.concatenate([new_first, new_second], axis=-1)",
            "jnp.stack([new_first, new_second], -1).reshape(x_BTNH.shape)",
        ),
    },
    ("rope", "to_half_split"): {
        "the other way": lambda w: np.stack(np.split(w, 2, -1), -1).reshape(w.shape),
        "axis 0": even_odd_along(0),
        "axis N": even_odd_along(1),
        "joined on axis 0": ("axis=-1", "axis=0"),
        "eight": lambda w: w[..., [0, 2, 4, 6, 1, 3, 5, 7]],
        "odd first": ("0::2], w_DNH[..., 1::2", "1::2], w_DNH[..., 0::2"),
    },
    ("rope", "yarn"): {
        "geometric": (BLEND, "plain_C * factor**-slow_C"),
        "rounded": (BORDER, f"return round({BORDER[7:]})"),
        "floor": (BORDER, f"return math.floor({BORDER[7:]})"),
        "sqrt": ("0.1 * math.log(factor) + 1", "math.sqrt(0.1 * math.log(factor) + 1)"),
        "no plus one": ("0.1 * math.log(factor) + 1", "0.1 * math.log(factor)"),
        "log2": ("0.1 * math.log(factor)", "0.1 * math.log2(factor)"),
        "4096": (COUNT, "4096 / (2"),
        "64": ("return head_dim", "return 64"),
        "150000": ("math.log(theta)", "math.log(150000)"),
        "no ramp": ("np.clip((pair_C - low) / (high - low), 0, 1)", "(pair_C > low)"),
        "not clipped": (
            "np.clip((pair_C - low) / (high - low), 0, 1)",
            "(pair_C - low) / (high - low)",
        ),
        "order": ("border(beta_fast), border(beta_slow)", "border(beta_slow), border(beta_fast)"),
        "exponent": ("-2 * pair_C", "-pair_C"),
    },
    ("rope", "first_lost_position"): {
        "257": lambda dtype: 257,
        "one over eps and one": lambda dtype: round(1 / float(jnp.finfo(dtype).eps)) + 1,
        "equal neighbors": lambda dtype: rope.right_lost(dtype) + 2,
    },
}

# (module, exercise, attempt) -> the mistake that it must not be told: it does not have it.
NOT_TOLD = {
    ("rope", "to_half_split", "axis N"): "nothing moves",
    ("tokens", "header", "only functions"): "no recipient after the channel",
}
