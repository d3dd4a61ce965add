"""Chapter a1: write `loss_positions`, `uneven` and `held_out`.

    from gptoss_edu.course.checks import training
    training.loss_positions(my_loss_positions)

Source: pocket/rows.py, pocket/train.py and pocket/tasks.py, which the right answers agree with.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np

from gptoss_edu.course.checks import Exercise, mistakes_in

# ------------------------------------------------------------------------------------ exercise 1


def loss_cases() -> Iterator[tuple[np.ndarray, int]]:
    """Arguments of `loss_positions`: a conversation, and the index of the reply's first token."""
    rng = np.random.default_rng(0)
    for length, reply_at in ((9, 5), (14, 3), (6, 1), (4, 2)):
        yield rng.permutation(100)[:length].astype(np.int32), reply_at


def right_positions(tokens: np.ndarray, reply_at: int) -> tuple[np.ndarray, np.ndarray]:
    """Each position is judged by the token after it: (where_L, target_L)."""
    where_L = np.arange(reply_at - 1, len(tokens) - 1)
    return where_L, tokens[where_L + 1]


loss_positions = Exercise(
    "loss_positions", right_positions, ("where_L", "target_L"), loss_cases,
    mistakes_in(right_positions, {
        "every token counts": ("the prompt counts as well. The model would learn to write users'"
            " questions, and questions are what most of a conversation consists of. Begin where"
            " the reply begins.", "reply_at - 1", "0"),
        "each token is asked for itself": ("each position is asked for the token that it has just"
            " read. That is not a prediction: the logits at position t are judged by token t + 1.",
            "reply_at - 1, len(tokens) - 1", "reply_at, len(tokens)", "where_L + 1", "where_L"),
        "the first token of the reply is left out": ("the reply's first token is never asked for."
            " It is predicted one position earlier, at the last token of the prompt: begin at"
            " reply_at - 1.", "reply_at - 1", "reply_at"),
        "the stop token is left out": ("the last token is never asked for. It is the stop token: a"
            " model that never learned to write it never stops.",
            "len(tokens) - 1", "len(tokens) - 2"),
        "the targets are not moved": ("the positions are right, but each is paired with the token"
            " that stands there. The logits at position t are judged by token t + 1.",
            "where_L + 1", "where_L"),
    }),
    praise="Right: the reply counts from its first token to its stop token, and nothing else does.",
)  # fmt: skip


# ------------------------------------------------------------------------------------ exercise 2


def uneven_cases() -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Arguments of `uneven`: M tokens, X choices among E experts, and which tokens are real."""
    p_ME = np.array([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.0, 0.0, 1.0]], np.float32)
    yield np.array([[0], [1], [2]]), p_ME, np.array([True, True, False])  # nobody asks expert 2
    for seed, (M, X, E) in enumerate(((7, 2, 5), (11, 3, 4))):
        rng = np.random.default_rng(seed)
        exp_ME = np.exp(rng.standard_normal((M, E)))
        probability_ME = (exp_ME / exp_ME.sum(axis=1, keepdims=True)).astype(np.float32)
        expert_MX = np.argsort(-exp_ME, axis=1)[:, :X]
        yield expert_MX, probability_ME, np.arange(M) < M - 2


def right_uneven(expert_MX: np.ndarray, probability_ME: np.ndarray, real_M: np.ndarray) -> float:
    """E times the sum over experts of (share of choices) x (mean probability), real tokens only."""
    expert_MX, probability_ME = expert_MX[real_M], probability_ME[real_M]
    E = probability_ME.shape[1]
    share_E = np.bincount(expert_MX.ravel(), minlength=E) / expert_MX.size
    mean_E = probability_ME.mean(axis=0)
    return float(E * (share_E * mean_E).sum())


uneven = Exercise(
    "uneven", right_uneven, ("the number",), uneven_cases,
    mistakes_in(right_uneven, {
        "padding counts": ("padding counts as if it were text. It is thrown away after the step,"
            " so it should not push the router anywhere: use the rows where real_M is True.",
            "[real_M]", ""),
        "E is forgotten": ("your number is too small by a factor: the number of experts. With it a"
            " perfectly even router scores exactly 1, however many experts there are.",
            "E * (", "("),
        "the first choice only": ("only each token's first choice counts. All of its X choices are"
            " work for somebody.", "expert_MX[real_M]", "expert_MX[real_M, :1]"),
        "choices per token": ("your shares sum to X, not to 1: you divided the counts by the"
            " number of tokens. Divide by the number of choices.",
            "expert_MX.size", "len(expert_MX)"),
        "shares alone": ("you squared the shares. Counting has no slope, so nothing could be"
            " learned from that: one of the two factors must be the probability, which has one.",
            "share_E * mean_E", "share_E * share_E"),
        "probabilities alone": ("you squared the mean probabilities. A probability that is a"
            " little too high does no harm; being chosen does. One of the two factors must be the"
            " share of choices.", "share_E * mean_E", "mean_E * mean_E"),
    }),
    praise="Right: 1 when the load is even, and more the more one-sided it is.",
)  # fmt: skip


# ------------------------------------------------------------------------------------ exercise 3


def held_out_cases() -> Iterator[tuple[str, str]]:
    """Arguments of `held_out`: tasks and pairs, some of them on either side of the split."""
    for number in range(60):
        yield ("count", "add", "spell")[number % 3], f"word{number} r"


def right_held_out(task: str, pair: str) -> bool:
    """The split of pocket/tasks.py, without the one question that is held out by hand."""
    digest = hashlib.sha256(f"{task}|{pair}".encode()).digest()
    return int.from_bytes(digest[:4], "big") % 10 == 0


held_out = Exercise(
    "held_out", right_held_out, ("the verdict",), held_out_cases,
    mistakes_in(right_held_out, {
        "the task is left out": ("you hash the pair alone. Then a word that is held out of"
            " spelling is held out of counting too, and its letters are never seen at all. Hash"
            " task and pair.", 'f"{task}|{pair}"', "pair"),
        "smallest byte first": ("you read the four bytes with the smallest first. Another machine"
            ' that reads them the other way would train on your test questions: say "big".',
            "big", "little"),
        "the last four bytes": ("you take the last four bytes of the digest. As good as any, but"
            " the split has to be the same everywhere: take the first four.", "[:4]", "[-4:]"),
        "Python's own hash": ("Python's hash() of a text changes with every start of Python. After"
            " a restart you would train on yesterday's test questions. Use sha256.",
            lambda task, pair: hash(f"{task}|{pair}") % 10 == 0),
        "the wrong side": ("you have the two sides swapped: nine tenths are held out, and one"
            " tenth is trained on.", "== 0", "!= 0"),
    }),
    praise="Right, and the same on every machine and in every year.",
)  # fmt: skip


# ------------------------------------------------------------------------------------ exercise 4


def adamw_cases() -> Iterator[tuple[object, ...]]:
    """Arguments of `adamw`: a first step, a later one, and gradients of almost zero."""
    rng = np.random.default_rng(5)
    settings = 0.1, 0.9, 0.95, 1e-8, 0.1  # rate, b1, b2, eps, decay
    w, g = rng.standard_normal(4), rng.standard_normal(4)
    yield w, g, np.zeros(4), np.zeros(4), 1, *settings
    m, v = 0.3 * rng.standard_normal(4), rng.random(4)
    yield 20 * w, g[::-1].copy(), m, v, 3, *settings
    yield w, 1e-8 * g, np.zeros(4), np.zeros(4), 1, *settings


def right_adamw(
    w: np.ndarray, g: np.ndarray, m: np.ndarray, v: np.ndarray, t: int,
    rate: float, b1: float, b2: float, eps: float, decay: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """One step of AdamW: the weights after it, and both running means."""
    m = b1 * m + (1 - b1) * g
    v = b2 * v + (1 - b2) * g**2
    fair_m = m / (1 - b1**t)
    fair_v = v / (1 - b2**t)
    update = fair_m / (np.sqrt(fair_v) + eps) + decay * w
    return w - rate * update, m, v


adamw = Exercise(
    "adamw", right_adamw, ("w", "m", "v"), adamw_cases,
    mistakes_in(right_adamw, {
        "no bias correction": ("the means are used as they are. They began at 0, so after t steps"
            " they are too small by the factor 1 - b**t: divide by it, each by its own.",
            "m / (1 - b1**t)", "m", "v / (1 - b2**t)", "v"),
        "decay goes through the gradient": ("the decay is part of the gradient, so it is divided by"
            " the root of v, too. That is Adam with an L2 penalty; the W of AdamW says that the"
            " decay goes past both means, straight to the weights.",
            "m = b1 * m + (1 - b1) * g", "g = g + decay * w\n    m = b1 * m + (1 - b1) * g",
            " + decay * w\n    return", "\n    return"),
        "ε inside the root": ("ε stands inside the root. There it is 1e-4 to a gradient, and the"
            " smallest gradients stop counting: add it after the root.",
            "(np.sqrt(fair_v) + eps)", "np.sqrt(fair_v + eps)"),
        "the decay forgets the rate": ("the decay is not multiplied by the rate: at rate 0 nothing"
            " may move.", "w - rate * update", "w - rate * (update - decay * w) - decay * w"),
        "v averages the gradients": ("v averages the gradients themselves. It is the mean of their"
            " squares: otherwise opposite signs cancel.", "g**2", "np.abs(g)"),
    }),
    praise="Right at the first step, at a later one, and for gradients of almost zero.",
)  # fmt: skip
