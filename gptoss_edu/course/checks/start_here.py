"""Chapter 00: write `by_channel`, `count_parameters`, `largest_difference` and `hidden_steps`.

from gptoss_edu.course.checks import start_here
start_here.by_channel(my_by_channel)
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gptoss_edu.config import TINY
from gptoss_edu.course.checks import Exercise, mistakes_in
from gptoss_edu.course.checks.telling import as_many
from gptoss_edu.model import Params, init_params
from gptoss_edu.mxfp4 import BLOCK, Mxfp4
from gptoss_edu.parser import Piece
from gptoss_edu.shapes import Weight

# ------------------------------------------------------------------------------------ exercise 1


def piece_cases() -> Iterator[tuple[list[Piece]]]:
    """Arguments of `by_channel`: two channels, three and one that comes back, one, none."""
    for spoken in (
        (("analysis", "r in"), ("analysis", " rose: r1"), ("final", "There is"), ("final", " 1.")),
        (("analysis", "add "), ("commentary", "call"), ("analysis", " again"), ("final", " 42 ")),
        (("final", "Yes"), ("final", ".")),
        (),
    ):
        yield ([Piece(channel, text, ()) for channel, text in spoken],)


def right_by_channel(pieces: Sequence[Piece]) -> dict[str | None, str]:
    """Channel -> all of its text."""
    texts: dict[str | None, str] = {}
    for piece in pieces:
        texts[piece.channel] = texts.get(piece.channel, "") + piece.text
    return texts


def _joined(join: Callable[[list[str]], Any]) -> Callable[..., Any]:
    def by_channel(pieces: Sequence[Piece]) -> dict[str | None, Any]:
        channels = dict.fromkeys(piece.channel for piece in pieces)
        return {name: join([p.text for p in pieces if p.channel == name]) for name in channels}

    return by_channel


def _last_stretch(pieces: Sequence[Piece]) -> dict[str | None, str]:
    """A channel that comes back begins anew."""
    texts: dict[str | None, str] = {}
    before: str | None = None
    for piece in pieces:
        texts[piece.channel] = texts[piece.channel] if piece.channel == before else ""
        texts[piece.channel] += piece.text
        before = piece.channel
    return texts


by_channel = Exercise(
    "by_channel", right_by_channel, ("texts",), piece_cases,
    {
        "only the last piece": ("each channel has only its last piece. Add to what is there"
            " instead of replacing it.", _joined(lambda texts: texts[-1])),
        "joined with spaces": ("there are spaces that the model did not write. A piece brings its"
            " own: join with the empty string.", _joined(" ".join)),
        "spaces are stripped": ("spaces at the edges are gone. They belong to the text: do not"
            " strip.", _joined(lambda texts: "".join(texts).strip())),
        "spaces of each piece are stripped": ("words have grown together. A piece may begin with a"
            " space: do not strip.",
            _joined(lambda texts: "".join(text.strip() for text in texts))),
        "a channel that comes back begins anew": ("a channel that comes back loses what it had"
            " said before. Keep one text per channel from the first piece to the last.",
            _last_stretch),
    },
    praise="Every channel has its whole text.",
)  # fmt: skip


# ------------------------------------------------------------------------------------ exercise 2


def parameter_cases() -> Iterator[tuple[Params]]:
    """Arguments of `count_parameters`: a small model with plain experts, another with packed."""
    yield (_zeros(2),)
    plain = _zeros(3)  # another count: the answer of the first case must not pass
    layers = [
        dataclasses.replace(
            layer,
            moe=dataclasses.replace(
                layer.moe,
                w_gate_up_EDP=_packed(layer.moe.w_gate_up_EDP),
                w_down_EFD=_packed(layer.moe.w_down_EFD),
            ),
        )
        for layer in plain.layers
    ]
    yield (dataclasses.replace(plain, layers=tuple(layers)),)


def _zeros(num_layers: int) -> Params:
    config = dataclasses.replace(TINY, num_layers=num_layers, layer_types=())
    shapes = jax.eval_shape(lambda key: init_params(config, key), jax.random.key(0))
    zeros: Params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    return zeros


def _packed(w_EIO: Weight) -> Mxfp4:
    E, I, O = w_EIO.shape
    J = I // BLOCK
    return Mxfp4(jnp.zeros((E, J, BLOCK // 2, O), jnp.uint8), jnp.zeros((E, J, O), jnp.uint8))


def _weights(tree: Any) -> list[Any]:
    """Leaves of a tree, where a packed matrix is one leaf that has the shape it unpacks to."""
    return jax.tree.leaves(tree, is_leaf=lambda leaf: isinstance(leaf, Mxfp4))


def right_count(params: Params) -> int:
    """Numbers that the model multiplies with, however they are stored."""
    return sum(math.prod(leaf.shape) for leaf in _weights(params))


def _told_count(case: tuple[Params], found: Any, expected: int) -> str:
    leaves = jax.tree_util.tree_leaves_with_path(case[0])
    sizes = {jax.tree_util.keystr(path).lstrip("."): leaf.size for path, leaf in leaves}
    return as_many(found, expected, sizes)


count_parameters = Exercise(
    "count_parameters", right_count, ("the count",), parameter_cases,
    {
        "bytes": ("these are bytes. A float32 takes four of them: count numbers.",
            lambda params: sum(leaf.nbytes for leaf in jax.tree.leaves(params))),
        "layers only": ("only the layers are counted. Embedding, last norm and unembedding are"
            " weights, too.", lambda params: right_count(params.layers)),
        "tied embedding": ("one of the two large matrices is missing. In GPT-OSS embedding and"
            " unembedding are each a matrix of its own.",
            lambda params: right_count(params) - params.unembedding_DV.size),
        "a byte is one weight": ("the packed experts are counted by byte. A byte holds two"
            " weights, and the scales are no weights: count what an Mxfp4 unpacks to.",
            lambda params: sum(leaf.size for leaf in jax.tree.leaves(params))),
        "packed experts are skipped": ("the packed experts are missing. Their blocks are bytes,"
            " but weights all the same: an Mxfp4 has the shape that it unpacks to.",
            lambda params: sum(a.size for a in jax.tree.leaves(params) if a.dtype != np.uint8)),
        "scales are counted once": ("the blocks are right, but the scales are counted as weights."
            " They only say how large a block's weights are.",
            lambda params: (
                right_count(params)
                + sum(leaf.scales_EJO.size for leaf in _weights(params) if isinstance(leaf, Mxfp4))
            )),
    },
    praise="Right for plain and for packed experts.",
    note=_told_count,
)  # fmt: skip


# ------------------------------------------------------------------------------------ exercise 3


def difference_cases() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Arguments of `largest_difference`: both signs, NaN on either side, shapes that broadcast."""
    a, b = np.array([1.0, 5.0]), np.array([2.0, 3.5])
    yield from ((a, b), (b, a), (a, a), (a - 9, np.array([-8.5, -7.25])))
    rng = np.random.default_rng(5)
    a, noise = rng.standard_normal((2, 3, 5)) * 3, rng.standard_normal((2, 3, 5)) / 8
    noise[1, 2, 3] = -1.25
    yield from ((a, a - noise), (a, a + noise), (1e4 * a, 1e4 * a - noise))
    one, other = np.array([1.0, np.nan]), np.array([np.nan, np.nan])
    yield from ((one, b), (b, one), (one, one), (other, b))
    yield from ((a, a[:1]), (a, a[:, :1]), (a[:1], a))
    row, column = np.ones((1, 3)), np.ones((3, 1))  # as many numbers, and as many axes
    yield from ((row, column), (column, row), (row, row[0]), (np.ones((2, 3)), np.ones((3, 2))))


def right_difference(a: np.ndarray, b: np.ndarray) -> float:
    """The largest absolute difference; infinite for a NaN and for shapes that differ."""
    if a.shape != b.shape:
        return math.inf
    largest = float(np.max(np.abs(a - b)))
    return math.inf if math.isnan(largest) else largest


MAX = "np.max(np.abs(a - b))"

largest_difference = Exercise(
    "largest_difference", right_difference, ("the difference",), difference_cases,
    mistakes_in(right_difference, {
        "signed": ("a negative difference is never the maximum: take absolute values first.",
             MAX, "np.max(a - b)"),
        "absolute value of the maximum": ("you take the absolute value of the maximum. Take the"
            " maximum of the absolute values.", MAX, "abs(np.max(a) - np.max(b))"),
        "mean": ("a mean hides one wrong number among a million right ones. Take the maximum.",
            "np.max", "np.mean"),
        "NaN is skipped": ("a NaN is skipped, so a broken result passes. It should give math.inf.",
            "np.max", "np.nanmax"),
        "NaN is returned": ("a NaN comes out. NaN <= tolerance is false, but so is NaN >"
            " tolerance, and a check written the second way would pass: return math.inf.",
            "math.inf if math.isnan(largest) else largest", "largest"),
        "shapes are broadcast": ("arrays of different shapes are compared, because NumPy repeats"
            " the smaller one. Different shapes should give math.inf.",
            "a.shape != b.shape", "False"),
    }),
    praise="It sees negative differences, NaN, and shapes that only look alike.",
)  # fmt: skip


# ------------------------------------------------------------------------------------ exercise 4

Scores = Callable[[Sequence[int]], np.ndarray]


def _model(seed: int, off: float = 0.0, from_step: int = 99, wrong: float = 0.0) -> Scores:
    """A model of 7 tokens, always the same; from a length on its scores are wrong."""

    def scores(ids: Sequence[int]) -> np.ndarray:
        rng = np.random.default_rng([seed, *ids])
        score_V = rng.standard_normal(7) * 3
        noise_V = np.random.default_rng([9, *ids]).uniform(-1, 1, 7)
        return score_V + off * noise_V + (wrong * noise_V if len(ids) >= from_step else 0)

    return scores


def hidden_cases() -> Iterator[tuple[Scores, Scores, tuple[int, ...], int]]:
    """Arguments of `hidden_steps`: late, never, at once, by a NaN, and a shrinking difference."""
    yield _model(1), _model(1, 0.02, 6, 9.0), (3, 1), 12
    yield _model(2), _model(2, 0.01), (5,), 6
    yield _model(3), _model(4), (1, 2, 0), 5
    yield _model(5), _model(5, 0.05, 5, np.nan), (2, 2), 9
    yield _model(6, 0.3), _model(6), (4,), 1
    yield _model(7), _model(7, 0.4), (6, 0, 1, 2), 30


def right_hidden(right: Scores, wrong: Scores, ids: Sequence[int], most: int) -> tuple[int, float]:
    """Tokens until the two would choose differently, and the largest difference of scores."""
    largest = 0.0
    for step in range(most):
        a, b = right(ids), wrong(ids)
        gap = float(np.abs(a - b).max())
        largest = max(largest, math.inf if math.isnan(gap) else gap)
        if np.argmax(a) != np.argmax(b):
            return step, largest
        ids = (*ids, int(np.argmax(a)))
    return most, largest


hidden_steps = Exercise(
    "hidden_steps", right_hidden, ("the steps", "the difference"), hidden_cases,
    mistakes_in(right_hidden, {
        "counted from 1": ("you count the token that differs. Return how many came before it.",
            "return step,", "return step + 1,"),
        "the last difference": ("you return the difference of the last step. The largest of all"
            " steps is wanted: it may come long before the choices differ.",
            "largest = max(largest, math.inf if math.isnan(gap) else gap)",
            "largest = math.inf if math.isnan(gap) else gap"),
        "signed": ("a difference may be negative, too: take absolute values first.",
            "np.abs(a - b).max()", "(a - b).max()"),
        "NaN is no difference": ("a NaN in the scores gets lost, since max() and > are blind to"
            " it. It should give math.inf.", "math.inf if math.isnan(gap) else gap",
            "0.0 if math.isnan(gap) else gap"),
        "the text does not grow": ("both are asked about the same text again and again. Append the"
            " token that was chosen.", "(*ids, int(np.argmax(a)))", "ids"),
    }),
    praise="The text may look right for a long time; the scores tell at the first step.",
)  # fmt: skip
