"""Chapter 04: write `route`, `swiglu` and `grouped`, and count the active parameters.

    from gptoss_edu.course.checks import moe
    moe.route(my_route)

Source: gptoss_edu/moe.py, which the right answers come from; the count comes from the shapes of
every array of the model.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gptoss_edu import moe as library
from gptoss_edu.config import GPT_OSS_20B, GPT_OSS_120B, TINY, Config
from gptoss_edu.course.checks import Exercise
from gptoss_edu.model import init_params

Array = np.ndarray

# ------------------------------------------------------------------------------------ exercise 1


def route_cases() -> Iterator[tuple[Any, ...]]:
    """Arguments of `route`: three sizes, and a bias that changes who is chosen."""
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


def _route(
    weigh: Callable[[Array, Array], Array],
    choose: Callable[[Array], Array] = lambda logits_TE: np.argsort(-logits_TE, axis=-1),
    bias: bool = True,
) -> Callable[..., Array]:
    """A router from what people vary in it: weigh(logits_TE, chosen_TE) -> weight_TE."""

    def route(x_TD: Array, w_router_DE: Array, b_router_E: Array, k: int) -> Array:
        logits_TE = x_TD @ w_router_DE + (b_router_E if bias else 0)
        chosen_TE = np.zeros(logits_TE.shape, bool)
        np.put_along_axis(chosen_TE, choose(logits_TE)[:, :k], True, axis=-1)
        return weigh(logits_TE, chosen_TE).astype(np.float32)

    return route


def _of_chosen(logits_TE: Array, chosen_TE: Array) -> Array:
    return softmax(np.where(chosen_TE, logits_TE, -np.inf))


def _divided(values_TE: Array, chosen_TE: Array) -> Array:
    kept_TE = np.where(chosen_TE, values_TE, 0)
    return kept_TE / kept_TE.sum(axis=-1, keepdims=True)


route = Exercise(
    "route",
    right_route,
    ("weight_TE",),
    route_cases,
    {
        "softmax over all experts": ("your weights do not sum to one: the softmax ran over all"
            " experts, and those that were not chosen kept their part. Choose first, then softmax"
            " over the chosen ones only.",
            _route(lambda logits, chosen: np.where(chosen, softmax(logits), 0))),
        "softmax twice": ("there are two softmaxes, one over all experts and one over the"
            " probabilities of the chosen ones. The second flattens what the first has said. One"
            " is enough, over the logits of the chosen.",
            _route(lambda logits, chosen: _of_chosen(softmax(logits), chosen))),
        "logits as weights": ("your weights are the logits themselves. They may be negative and do"
            " not sum to one: take the softmax of those that were chosen.",
            _route(lambda logits, chosen: np.where(chosen, logits, 0))),
        "logits divided by their sum": ("you divide the logits by their sum. Logits may be"
            " negative, and their sum may be zero: take exp first. That, together, is a softmax.",
            _route(_divided)),
        "sigmoid": ("you weigh by sigmoids, as some other models do. GPT-OSS takes a softmax over"
            " the logits of the chosen experts.",
            _route(lambda logits, chosen: _divided(1 / (1 + np.exp(-logits)), chosen))),
        "a sigmoid for each": ("each weight is the sigmoid of its own logit, so they do not sum to"
            " one. The chosen experts share a softmax.",
            _route(lambda logits, chosen: np.where(chosen, 1 / (1 + np.exp(-logits)), 0))),
        "even weights": ("the right experts, but all with the same weight. The router also says"
            " how much each one counts: softmax of their logits.",
            _route(lambda logits, chosen: _divided(np.ones_like(logits), chosen))),
        "the least likely experts": ("you chose the experts with the smallest logits. `np.argsort`"
            " sorts upward: sort -logits_TE, or take the last k.",
            _route(_of_chosen, choose=lambda logits_TE: np.argsort(logits_TE, axis=-1))),
        "all tokens to the same experts": ("every token is sent to the experts that the first one"
            " chose. Choose for each token alone: sort along the last axis.",
            _route(
                _of_chosen,
                choose=lambda x_TE: np.repeat(np.argsort(-x_TE[:1], axis=-1), len(x_TE), axis=0),
            )),
        "no bias": ("the router's bias is missing. It can change who is chosen: add b_router_E"
            " first.", _route(_of_chosen, bias=False)),
        "zero for those not chosen": ("those that were not chosen went into the softmax with the"
            " logit 0. exp(0) is 1, so they get a weight, too: use minus infinity, or leave them"
            " out.", _route(lambda logits, chosen: softmax(np.where(chosen, logits, 0)))),
    },
    praise="The weights of each token sum to one, and they sit where their experts are.",
)  # fmt: skip


# ------------------------------------------------------------------------------------ exercise 2


def swiglu_cases() -> Iterator[tuple[Any, ...]]:
    """Arguments of `swiglu`: gentle numbers, then some far outside of every clamp."""
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


Clamp = Callable[[Array, float], Array]


def _below(x: Array, limit: float) -> Array:
    return np.asarray(np.minimum(x, limit))


def _between(x: Array, limit: float) -> Array:
    return np.asarray(np.clip(x, -limit, limit))


def _free(x: Array, limit: float) -> Array:
    return x


def _one_more(up: Array) -> Array:
    return up + 1


def _swiglu(
    split: Callable[[Array], tuple[Array, Array]] = lambda x: (x[..., 0::2], x[..., 1::2]),
    clamp_gate: Clamp = _below,
    clamp_up: Clamp = _between,
    activate: Callable[[Array, float], Array] = lambda gate, alpha: gate * sigmoid(alpha * gate),
    lift: Callable[[Array], Array] = _one_more,
) -> Callable[..., Array]:
    """A SwiGLU from what people vary in it; the defaults are right."""

    def swiglu(gate_up_P: Array, limit: float, alpha: float) -> Array:
        gate_F, up_F = split(np.asarray(gate_up_P, np.float64))
        gate_F, up_F = clamp_gate(gate_F, limit), clamp_up(up_F, limit)
        return np.asarray(activate(gate_F, alpha) * lift(up_F), np.float32)

    return swiglu


def _halves(x: Array) -> tuple[Array, Array]:
    gate, up = np.split(x, 2, axis=-1)
    return gate, up


swiglu = Exercise(
    "swiglu",
    right_swiglu,
    ("h_F",),
    swiglu_cases,
    {
        "halves instead of interleaved": ("you took the first half for gate and the second for up."
            " In GPT-OSS they alternate: gate sits in columns 0, 2, 4, …, up in 1, 3, 5, ….",
            _swiglu(split=_halves)),
        "gate and up swapped": ("gate and up are swapped: the even columns are the gate.",
            _swiglu(split=lambda x: (x[..., 1::2], x[..., 0::2]))),
        "up is the gate, in halves": ("you took the second half for gate and the first for up."
            " They are not halves but alternate, and gate comes first: columns 0, 2, 4, …, of the"
            " last axis.", _swiglu(split=lambda x: _halves(x)[::-1])),
        "gate not clamped": ("the gate may grow without end. It is cut off at the limit, from"
            " above.", _swiglu(clamp_gate=_free)),
        "gate clamped on both sides": ("the gate is clamped from below, too. It should only be"
            " clamped from above. (You would hardly see it in a text: the sigmoid makes those"
            " gates tiny anyway.)", _swiglu(clamp_gate=_between)),
        "up not clamped": ("up may grow without end. It is clamped between -limit and limit.",
            _swiglu(clamp_up=_free)),
        "up clamped from above only": ("up is clamped from above only. Unlike the gate it is"
            " clamped on both sides.", _swiglu(clamp_up=_below)),
        "nothing clamped": ("nothing is clamped: the gate should stop at the limit, and up at both"
            " -limit and limit.", _swiglu(clamp_gate=_free, clamp_up=_free)),
        "no + 1": ("one is missing: the second factor is up + 1, so that an up of zero lets the"
            " gate through.", _swiglu(lift=lambda up: up)),
        "+ 1 before the clamp": ("you add one before clamping up. Clamp first: the factor goes up"
            " to limit + 1.",
            _swiglu(clamp_up=lambda up, limit: np.clip(up + 1, -limit, limit), lift=lambda up: up)),
        "alpha missing": ("alpha is missing: the sigmoid sees alpha * gate, not the gate itself.",
            _swiglu(activate=lambda gate, alpha: gate * sigmoid(gate))),
        "alpha outside of the sigmoid": ("alpha multiplies the result. It belongs inside the"
            " sigmoid: sigmoid(alpha * gate).",
            _swiglu(activate=lambda gate, alpha: alpha * gate * sigmoid(gate))),
        "only the sigmoid": ("the first factor is only the sigmoid. It is gate * sigmoid(alpha *"
            " gate).", _swiglu(activate=lambda gate, alpha: sigmoid(alpha * gate))),
    },
    praise="Right inside and outside of the clamps, and for any number of axes in front.",
    atol=1e-6,
)  # fmt: skip


# ------------------------------------------------------------------------------------ exercise 3


@dataclasses.dataclass(frozen=True)
class Experts:
    """Small experts to ask: `ask(expert, x_TD) -> y_TD`, any number of tokens at once."""

    w_EDD: Array
    b_ED: Array

    def __call__(self, expert: int, x_TD: Array) -> Array:
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
        yield Experts(w_EDD.astype(np.float32), b_ED.astype(np.float32)), x_TD, expert_TX, weight_TX


def _grouped(
    weigh: Callable[[Array, Array], Array] | None = None,
    x_weighed: bool = False,
    add: Callable[[Array, Array], Array] = lambda old, new: old + new,
    one_by_one: bool = False,
    count: Callable[[Array], int] = lambda expert_TX: len(np.unique(expert_TX)),
) -> Callable[..., tuple[Array, int]]:
    """Grouping from what people vary in it: weigh(weight_TX, choice_T) -> weight_T."""

    def grouped(ask: Any, x_TD: Array, expert_TX: Array, weight_TX: Array) -> tuple[Array, int]:
        y_TD = np.zeros(x_TD.shape, np.float64)
        for expert in np.unique(expert_TX):
            token, choice = np.nonzero(expert_TX == expert)
            weight = weight_TX[token, choice] if weigh is None else weigh(weight_TX[token], choice)
            if x_weighed:
                answer = ask(expert, weight[:, None] * x_TD[token])
            else:
                answer = weight[:, None] * ask(expert, x_TD[token])
            y_TD[token] = add(y_TD[token], answer)
        asked = expert_TX.size if one_by_one else count(expert_TX)
        return y_TD.astype(np.float32), int(asked)

    return grouped


right_grouped = _grouped()


def _first_only(ask: Any, x_TD: Array, expert_TX: Array, weight_TX: Array) -> tuple[Array, int]:
    return right_grouped(ask, x_TD, expert_TX[:, :1], weight_TX[:, :1])


def _sorted_order(ask: Any, x_TD: Array, expert_TX: Array, weight_TX: Array) -> tuple[Array, int]:
    """Tokens in the order of their first expert, and never sent back."""
    y_TD, asked = right_grouped(ask, x_TD, expert_TX, weight_TX)
    return y_TD[np.argsort(expert_TX[:, 0], kind="stable")], asked


grouped = Exercise(
    "grouped",
    right_grouped,
    ("y_TD", "asked"),
    grouped_cases,
    {
        "weights forgotten": ("the answers are added up as if all counted the same. Multiply each"
            " by the weight that the router gave it.",
            _grouped(weigh=lambda weight_TX, choice: np.ones(len(choice)))),
        "plain mean": ("you take the mean of the answers. The router said how much each one"
            " counts: multiply each answer by its weight.",
            _grouped(weigh=lambda weight_TX, choice: np.full(len(choice), 1 / weight_TX.shape[1]))),
        "the first weight for all choices": ("every answer is multiplied by the weight of the"
            " token's first choice. An expert may be the second choice of one token and the third"
            " of another: use weight_TX[token, choice].",
            _grouped(weigh=lambda weight_TX, choice: weight_TX[:, 0])),
        "the last expert overwrites the others": ("only one answer is left of each token: each"
            " expert overwrites what was there. Add (+=).", _grouped(add=lambda old, new: new)),
        "the input is weighed": ("you multiply the expert's input by the weight. An expert is not"
            " linear: multiply its answer.", _grouped(x_weighed=True)),
        "only the first choice": ("only the first choice of each token is asked. All columns of"
            " expert_TX count.", _first_only),
        "asked once per choice": ("the answer is right, but you asked once per choice. Each"
            " question means reading all weights of an expert. Collect an expert's tokens first,"
            " and ask it once.", _grouped(one_by_one=True)),
        "all experts are asked": ("the answer is right, but you asked an expert that nobody had"
            " chosen. Skip those: their weights need not be read.",
            _grouped(count=lambda expert_TX: expert_TX.max() + 2)),
        "the tokens stay sorted": ("the rows are right, but in the order of the experts. Send each"
            " answer back to the place of its token.", _sorted_order),
    },
    praise="Each chosen expert was asked once, with all of its tokens.",
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
    return {jax.tree_util.keystr(path): leaf.size for path, leaf in leaves}


def _active(
    counts: Callable[[str], bool] = lambda path: True,
    embedding: bool = False,
    change: Callable[[Config], Config] = lambda config: config,
    share: Callable[[str, Config], float] | None = None,
) -> Callable[[Config], int]:
    """A count from what people vary in it: which arrays, and what part of an expert array."""

    def part(path: str, config: Config) -> float:
        if share is not None:
            return share(path, config)
        return _chosen_part(path, config)

    def active_parameters(config: Config) -> int:
        sizes = _sizes(change(config)).items()
        kept = [
            (path, size) for path, size in sizes if counts(path) and (embedding or not _table(path))
        ]
        return round(sum(size * part(path, config) for path, size in kept))

    return active_parameters


def _table(path: str) -> bool:
    return path.endswith("embedding_VD") and "unembedding" not in path


def _expert_array(path: str) -> bool:
    return "gate_up" in path or "down" in path


def _chosen_part(path: str, config: Config) -> float:
    return config.experts_per_token / config.num_experts if _expert_array(path) else 1


right_active = _active()

active_parameters = Exercise(
    "active_parameters",
    right_active,
    ("the number of active parameters",),
    count_cases,
    {
        "all experts are counted": ("you counted all experts. A token asks only experts_per_token"
            " of them.", _active(share=lambda path, config: 1)),
        "everything is counted": ("that is the total of the model. Of the experts only the chosen"
            " ones work for a token, and of the embedding it reads a single row.",
            _active(share=lambda path, config: 1, embedding=True)),
        "the embedding is counted": ("the embedding is counted. A token reads one row of it and"
            " multiplies by nothing. By the convention of the model card it is left out.",
            _active(embedding=True)),
        "the unembedding is left out": ("the unembedding is missing. It is as large as the"
            " embedding, but all of it is multiplied for every token.",
            _active(lambda path: "unembedding" not in path)),
        "gate and up counted as one": ("an expert's first matrix makes gate and up, 2 * F numbers."
            " You counted F.",
            _active(
                share=lambda path, config: (
                    _chosen_part(path, config) * (0.5 if "gate_up" in path else 1)
                )
            )),
        "the experts' biases are left out": ("the experts' biases are missing: 2 * F after the"
            " first matrix, D after the second.",
            _active(lambda path: "b_gate_up" not in path and "b_down" not in path)),
        "no biases at all": ("all biases are missing: GPT-OSS has them in attention, router and"
            " experts.", _active(lambda path: ".b_" not in path)),
        "the router only looks at the chosen": ("you counted the router's columns of the chosen"
            " experts only. To choose, it must compute a logit for every expert: D * E + E.",
            _active(
                share=lambda path, config: (
                    config.experts_per_token / config.num_experts
                    if _expert_array(path) or "router" in path
                    else 1
                )
            )),
        "no router": ("the router itself is missing: D * E weights and E biases.",
            _active(lambda path: "router" not in path)),
        "as many key heads as query heads": ("keys and values have only num_kv_heads heads, fewer"
            " than the queries.",
            _active(
                change=lambda config: dataclasses.replace(config, num_kv_heads=config.num_heads)
            )),
        "the sinks are left out": ("nearly: the sinks are missing, one number per query head and"
            " layer.", _active(lambda path: "sinks" not in path)),
        "the norms are left out": ("nearly: the norms are missing, two of D numbers in each layer,"
            " and one at the end.", _active(lambda path: "norm_D" not in path)),
        "the last norm is left out": ("nearly: the norm before unembedding is missing, D numbers.",
            _active(lambda path: path != ".norm_D")),
        "one layer": ("that is one layer's worth, together with the unembedding. Count every"
            " layer.",
            _active(change=lambda config: dataclasses.replace(
                config, num_layers=1, layer_types=config.layer_types[:1]
            ))),
    },
    praise="3,608,307,264 for the 20B and 5,132,849,472 for the 120B, to the last number.",
)  # fmt: skip  # fmt: skip
