"""Chapter 04: write `route`, `swiglu`, `grouped`, `sorted_mixture`; count active parameters.

    from gptoss_edu.course.checks import moe
    moe.route(my_route)

Source: gptoss_edu/moe.py, which the right answers come from; the count comes from the shapes of
every array of the model.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gptoss_edu import moe as library
from gptoss_edu.config import GPT_OSS_20B, GPT_OSS_120B, TINY, Config
from gptoss_edu.course.checks import Exercise, changed, mistakes_in
from gptoss_edu.course.checks.telling import as_many
from gptoss_edu.model import init_params

Array = np.ndarray

# ------------------------------------------------------------------------------------ exercise 1


def route_cases() -> Iterator[tuple[Any, ...]]:
    """Arguments of `route`: numbers for the head; three sizes, a bias that changes the choice."""
    one = np.ones((1, 1), np.float32)
    for bias in ((0.5, -1, 0, 2), (-3, 3, -3, 0)):
        yield one, np.array([[1, 2, 3, -2]], np.float32), np.array(bias, np.float32), 2
    for seed, (T, D, E, k) in enumerate([(1, 4, 5, 2), (3, 6, 9, 4), (5, 7, 11, 3)]):
        rng = np.random.default_rng(seed)
        x_TD, w_DE, b_E = (rng.standard_normal(shape) for shape in ((T, D), (D, E), (E,)))
        yield *(a.astype(np.float32) for a in (x_TD, w_DE, 2 * b_E)), k


def right_route(x_TD: Array, w_router_DE: Array, b_router_E: Array, k: int) -> Array:
    """The library's router, its weights put in their experts' places: weight_TE."""
    x_BTD, w_DE, b_E = map(jnp.asarray, (x_TD[None], w_router_DE, b_router_E))
    routing = library.route(x_BTD, w_DE, b_E, k)
    weight_TE = np.zeros((len(x_TD), len(b_router_E)), np.float32)
    expert_TX, weight_TX = (np.asarray(a[0]) for a in (routing.expert_BTX, routing.weight_BTX))
    np.put_along_axis(weight_TE, expert_TX, weight_TX, axis=1)
    return weight_TE


def softmax(logits: Array) -> Array:
    """Softmax over the last axis, in NumPy."""
    exp = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(exp / exp.sum(axis=-1, keepdims=True))


def _route(x_TD: Array, w_router_DE: Array, b_router_E: Array, k: int) -> Array:
    """The same in NumPy."""
    logits_TE = x_TD @ w_router_DE + b_router_E
    order_TE = np.argsort(-logits_TE, axis=-1)
    chosen_TE = np.zeros(logits_TE.shape, bool)
    np.put_along_axis(chosen_TE, order_TE[:, :k], True, axis=-1)
    weight_TE = softmax(np.where(chosen_TE, logits_TE, -np.inf))
    return weight_TE.astype(np.float32)


RIGHT = "softmax(np.where(chosen_TE, logits_TE, -np.inf))"

route = Exercise(
    "route", right_route, ("weight_TE",), route_cases,
    mistakes_in(_route, {
        "softmax over all experts": ("your weights do not sum to one: the softmax ran over all"
            " experts, and those that were not chosen kept their part. Choose first, then softmax"
            " over the chosen ones only.", RIGHT, "np.where(chosen_TE, softmax(logits_TE), 0)"),
        "softmax twice": ("there are two softmaxes, one over all experts and one over the"
            " probabilities of the chosen ones. The second flattens what the first has said. One"
            " is enough, over the logits of the chosen.",
            "logits_TE, -np.inf", "softmax(logits_TE), -np.inf"),
        "logits as weights": ("your weights are the logits themselves. They may be negative and do"
            " not sum to one: take the softmax of those that were chosen.",
            RIGHT, "np.where(chosen_TE, logits_TE, 0)"),
        "the least likely experts": ("you chose the experts with the smallest logits. `np.argsort`"
            " sorts upward: sort -logits_TE, or take the last k.", "-logits_TE", "logits_TE"),
        "no bias": ("the router's bias is missing. It can change who is chosen: add b_router_E"
            " first.", " + b_router_E", ""),
        "zero for those not chosen": ("those that were not chosen went into the softmax as zeros,"
            " and exp(0) is 1: they get a weight, too. Use minus infinity, or leave them out.",
            "-np.inf", "0"),
    }),
    praise="The weights of each token sum to one, and they sit where their experts are.",
)  # fmt: skip


# ------------------------------------------------------------------------------------ exercise 2


def swiglu_cases() -> Iterator[tuple[Any, ...]]:
    """Arguments of `swiglu`: one gate and one up; gentle numbers, then some outside of clamps."""
    for pair in ((1, 0.5), (9, 0.5), (-9, -0.5), (0.5, 9), (0.5, -9)):
        yield np.array(pair, np.float32), 7.0, 1.702
    for seed, (shape, size) in enumerate([((6,), 1.0), ((3, 10), 6.0), ((2, 4, 14), 20.0)]):
        gate_up = size * np.random.default_rng(seed).standard_normal(shape)
        yield gate_up.astype(np.float32), 7.0, 1.702
    yield gate_up.astype(np.float32), 3.0, 1.3


def right_swiglu(gate_up_P: Array, limit: float, alpha: float) -> Array:
    """The library's."""
    return np.asarray(library.swiglu(jnp.asarray(gate_up_P), limit, alpha))


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * x))


def _swiglu(gate_up_P: Array, limit: float, alpha: float) -> Array:
    """The same in NumPy."""
    gate_up_P = np.asarray(gate_up_P, np.float64)
    gate_F, up_F = gate_up_P[..., 0::2], gate_up_P[..., 1::2]
    gate_F = np.minimum(gate_F, limit)
    up_F = np.clip(up_F, -limit, limit)
    return np.asarray(gate_F * sigmoid(alpha * gate_F) * (up_F + 1), np.float32)


COLUMNS = "gate_up_P[..., 0::2], gate_up_P[..., 1::2]"

swiglu = Exercise(
    "swiglu", right_swiglu, ("h_F",), swiglu_cases,
    mistakes_in(_swiglu, {
        "halves instead of interleaved": ("you took the first half for gate and the second for up."
            " In GPT-OSS they alternate: gate sits in columns 0, 2, 4, …, up in 1, 3, 5, ….",
            COLUMNS, "np.split(gate_up_P, 2, axis=-1)"),
        "gate and up swapped": ("gate and up are swapped: the even columns are the gate.",
            "gate_F, up_F =", "up_F, gate_F ="),
        "gate not clamped": ("the gate may grow without end. It is cut off at the limit, from"
            " above.", "np.minimum(gate_F, limit)", "gate_F"),
        "up not clamped": ("up may grow without end. It is clamped between -limit and limit.",
            "np.clip(up_F, -limit, limit)", "up_F"),
        "no + 1": ("one is missing: the second factor is up + 1, so that an up of zero lets the"
            " gate through.", "(up_F + 1)", "up_F"),
        "alpha missing": ("alpha is missing: the sigmoid sees alpha * gate, not the gate itself.",
            "alpha * gate_F", "gate_F"),
    }),
    praise="Right inside and outside of the clamps, and for any number of axes in front.",
    atol=1e-6,
)  # fmt: skip


# ------------------------------------------------------------------------------------ exercise 3


@dataclasses.dataclass(frozen=True)
class Experts:
    """Small experts to ask: `ask(expert, x_TD) -> y_TD`, any number of tokens at once."""

    w_EDD: Array
    b_ED: Array
    questions: list[tuple[int, int]]  # of this round: which expert, and about how many tokens

    def __call__(self, expert: int, x_TD: Array) -> Array:
        self.questions.append((int(expert), len(x_TD)))
        return np.asarray(np.tanh(x_TD @ self.w_EDD[expert]) + self.b_ED[expert])


def grouped_cases() -> Iterator[tuple[Any, ...]]:
    """Arguments of `grouped`: one token, then some that choose alike, then many."""
    for seed, (T, D, E, X) in enumerate([(1, 4, 5, 2), (5, 3, 8, 3), (11, 6, 7, 4)]):
        rng = np.random.default_rng(seed)
        w_EDD, b_ED = rng.standard_normal((E, D, D)), rng.standard_normal((E, D))
        x_TD = rng.standard_normal((T, D)).astype(np.float32)
        experts = E - 1  # the last one is never chosen, and should never be asked
        expert_TX = np.array([rng.permutation(experts)[:X] for _ in range(T)])
        weight_TX = softmax(rng.standard_normal((T, X))).astype(np.float32)
        ask = Experts(w_EDD.astype(np.float32), b_ED.astype(np.float32), [])
        yield ask, x_TD, expert_TX, weight_TX


def _grouped(ask: Any, x_TD: Array, expert_TX: Array, weight_TX: Array) -> tuple[Array, int]:
    y_TD = np.zeros(x_TD.shape, np.float64)
    for expert in np.unique(expert_TX):
        token, choice = np.nonzero(expert_TX == expert)
        weight = weight_TX[token, choice][:, None]
        y_TD[token] += weight * ask(expert, x_TD[token])
    asked = len(np.unique(expert_TX))
    return y_TD.astype(np.float32), asked


def _sorted_order(ask: Any, x_TD: Array, expert_TX: Array, weight_TX: Array) -> tuple[Array, int]:
    """Tokens in the order of their first expert, and never sent back."""
    y_TD, asked = _grouped(ask, x_TD, expert_TX, weight_TX)
    return y_TD[np.argsort(expert_TX[:, 0], kind="stable")], asked


ONCE = (
    "the answer is right, but you asked once per choice. Each question means reading all weights of"
    " an expert. Collect an expert's tokens first, and ask it once."
)


def _frugally(attempt: Any, case: tuple[Any, ...]) -> tuple[str, str] | None:
    """What was asked is counted, not believed."""
    ask, _, expert_TX, _ = case
    ask.questions.clear()
    attempt(*case)
    chosen, calls, rows = (
        len(np.unique(expert_TX)),
        len(ask.questions),
        sum(n for _, n in ask.questions),
    )
    if calls != chosen:
        told = f"{chosen} experts were chosen, and you asked {calls} times"
        return f"the answer is right, but {told}: ask each of them once.", "asked too often"
    if rows != expert_TX.size:
        told = f"together {rows} rows, and the tokens have {expert_TX.size} choices"
        return f"you ask each expert about tokens that did not choose it: {told}.", "too many rows"
    return None


grouped = Exercise(
    "grouped", _grouped, ("y_TD", "asked"), grouped_cases,
    mistakes_in(_grouped, {
        "weights forgotten": ("the answers are added up as if all counted the same. Multiply each"
            " by the weight that the router gave it.", "weight * ask", "ask"),
        "the first weight for all choices": ("every answer is multiplied by the weight of the"
            " token's first choice. An expert may be the second choice of one token and the third"
            " of another: use weight_TX[token, choice].",
            "weight_TX[token, choice]", "weight_TX[token, 0]"),
        "the last expert overwrites the others": ("only one answer is left of each token: each"
            " expert overwrites what was there. Add (+=).", "] += ", "] = "),
        "the input is weighed": ("you multiply the expert's input by the weight. An expert is not"
            " linear: multiply its answer.", "weight * ask(expert, ", "ask(expert, weight * "),
        "asked once per choice": (ONCE, "len(np.unique(expert_TX))", "expert_TX.size"),
        "the tokens stay sorted": ("the rows are right, but they stay sorted by expert. Send each"
            " answer back to the place of its token.", _sorted_order),
    }),
    praise="Each chosen expert was asked once, with all of its tokens.",
    also=_frugally,
)  # fmt: skip


# ------------------------------------------------------------------------------------ exercise 4


def count_cases() -> Iterator[tuple[Config]]:
    """Arguments of `active_parameters`: pairwise different sizes first, then the published ones."""
    yield from ((TINY,), (GPT_OSS_20B,), (GPT_OSS_120B,))


@functools.lru_cache
def _sizes(config: Config) -> dict[str, int]:
    """Path of every array of the model -> how many numbers it has, without making any."""
    shapes = jax.eval_shape(lambda key: init_params(config, key), jax.random.key(0))
    leaves = jax.tree_util.tree_leaves_with_path(shapes)
    return {jax.tree_util.keystr(path).lstrip("."): leaf.size for path, leaf in leaves}


def _active(config: Config) -> int:
    total = 0.0
    for path, size in _sizes(config).items():
        share = 1.0
        if "gate_up" in path or "down" in path:  # an expert's weights and biases
            share = config.experts_per_token / config.num_experts
        if path != "embedding_VD":
            total += size * share
    return round(total)


def _working(config: Config) -> dict[str, int]:
    """As `_sizes`, of the experts only those that a token asks."""
    X, E = config.experts_per_token, config.num_experts
    experts = re.compile("gate_up|down")
    return {p: n * X // E if experts.search(p) else n for p, n in _sizes(config).items()}


COUNTED = 'path != "embedding_VD"'


def _without(*names: str) -> Callable[[Config], int]:
    """As the right one, but arrays with one of these names in their path are left out."""
    kept = " and ".join(f"{name!r} not in path" for name in names)
    return changed(_active, COUNTED, f"{COUNTED} and {kept}")


active_parameters = Exercise(
    "active_parameters", _active, ("the number of active parameters",), count_cases,
    mistakes_in(_active, {
        "all experts are counted": ("you counted all experts. A token asks only experts_per_token"
            " of them.", "config.experts_per_token / config.num_experts", "1.0"),
        "everything is counted": ("that is the total of the model. Of the experts only the chosen"
            " ones work for a token, and of the embedding it reads a single row.",
            lambda config: sum(_sizes(config).values())),
        "the embedding is counted": ("the embedding is counted. A token reads one row of it and"
            " multiplies by nothing. By the convention of the model card it is left out.",
            COUNTED, "True"),
        "the unembedding is left out": ("the unembedding is missing. It is as large as the"
            " embedding, but all of it is multiplied for every token.", _without("unembedding")),
        "no biases at all": ("all biases are missing: GPT-OSS has them in attention, router and"
            " experts.", _without(".b_")),
        "as many key heads as query heads": ("keys and values have only num_kv_heads heads, fewer"
            " than the queries.",
            lambda config: _active(dataclasses.replace(config, num_kv_heads=config.num_heads))),
    }),
    praise="3,608,307,264 for the 20B and 5,132,849,472 for the 120B, to the last number.",
    note=lambda case, found, right: as_many(found, right, _working(case[0])),
)  # fmt: skip


# ------------------------------------------------------------------------------------ exercise 5


def sorted_cases() -> Iterator[tuple[Any, ...]]:
    """Arguments of `sorted_mixture`: each has experts that nobody asks, and tokens that agree."""
    rng = np.random.default_rng(45)
    for T, D, O, E, X in ((4, 3, 5, 6, 2), (7, 4, 2, 9, 3), (1, 5, 3, 4, 2)):
        expert_TX = np.stack([rng.permutation(E - 1)[:X] + (t % 2) for t in range(T)])
        weight_TX = softmax(rng.standard_normal((T, X)))
        x_TD, w_EDO = rng.standard_normal((T, D)), rng.standard_normal((E, D, O))
        yield (
            *(jnp.asarray(a, jnp.float32) for a in (x_TD, w_EDO)),
            jnp.asarray(expert_TX, jnp.int32),
            jnp.asarray(weight_TX, jnp.float32),
        )


def _sorted(x_TD: Any, w_EDO: Any, expert_TX: Any, weight_TX: Any) -> Any:
    """As engines do it: sort, one ragged product, and back."""
    (T, X), E = expert_TX.shape, w_EDO.shape[0]
    expert_R = expert_TX.reshape(-1)
    order_R = jnp.argsort(expert_R)
    x_RD = jnp.repeat(x_TD, X, axis=0)[order_R]
    y_RO = jax.lax.ragged_dot(x_RD, w_EDO, jnp.bincount(expert_R, length=E))
    y_RO = jnp.zeros_like(y_RO).at[order_R].set(y_RO)
    return jnp.einsum("TX,TXO->TO", weight_TX, y_RO.reshape(T, X, -1))


def right_sorted(x_TD: Any, w_EDO: Any, expert_TX: Any, weight_TX: Any) -> Any:
    """Choice by choice."""
    return jnp.einsum("TX,TD,TXDO->TO", weight_TX, x_TD, w_EDO[expert_TX])


def _by_choice(x_TD: Any, w_EDO: Any, expert_TX: Any, weight_TX: Any) -> Any:
    """Right, but not to be compiled: it asks which experts there are."""
    y_TO = np.zeros((len(x_TD), w_EDO.shape[2]), np.float32)
    for expert in np.unique(np.asarray(expert_TX)):
        weight_T = np.where(np.asarray(expert_TX) == expert, weight_TX, 0).sum(axis=1)
        y_TO += weight_T[:, None] * np.asarray(x_TD @ w_EDO[int(expert)])
    return y_TO


NOT_COMPILED = (
    "the numbers are right, but `jax.jit` cannot compile it: its shapes or its loops depend on the"
    " values of expert_TX. Sort with jnp.argsort, count with jnp.bincount(..., length=E), and use"
    " jax.lax.ragged_dot."
)


def _compiled(attempt: Any, case: tuple[Any, ...]) -> tuple[str, str] | None:
    """Engines compile it, so `jax.jit` has to take it."""
    try:
        jax.jit(attempt).lower(*case)
    except Exception:  # whatever JAX objects to
        return NOT_COMPILED, "it cannot be compiled"
    return None


sorted_mixture = Exercise(
    "sorted_mixture", right_sorted, ("y_TO",), sorted_cases,
    mistakes_in(_sorted, {
        "it cannot be compiled": (NOT_COMPILED, _by_choice),
        "answers stay sorted": ("your answers are still in the order of the experts. Put each back"
            " into its own row: jnp.zeros_like(y_RO).at[order_R].set(y_RO).",
            "jnp.zeros_like(y_RO).at[order_R].set(y_RO)", "y_RO"),
        "the way back is the way there": ("you sort the answers a second time instead of undoing"
            " the first. y_RO[order_R] takes from the places to which `.at[order_R].set` would"
            " put.", "jnp.zeros_like(y_RO).at[order_R].set(y_RO)", "y_RO[order_R]"),
        "tokens are tiled": ("row r belongs to token r // X: repeat every token X times in a row"
            " (jnp.repeat), do not put X copies of all tokens one after the other (jnp.tile).",
            "jnp.repeat(x_TD, X, axis=0)", "jnp.tile(x_TD, (X, 1))"),
        "no weights": ("the answers of a token's experts are added up without their weights.",
            "weight_TX, y_RO", "jnp.ones_like(weight_TX), y_RO"),
        "rows are not sorted": ("ragged_dot takes the first size_E[0] rows to expert 0, and so on:"
            " the rows have to be in the order of their experts.",
            "[order_R]\n", "\n", "jnp.zeros_like(y_RO).at[order_R].set(y_RO)", "y_RO"),
    }),
    also=_compiled,
    praise="Right, with experts that nobody asks, and it compiles.",
)  # fmt: skip
