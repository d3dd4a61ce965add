"""Chapter a0: write `compilations`, `weighted_values` and `moving_averages`.

    from gptoss_edu.course.checks import primer
    primer.compilations(my_compilations)

Source: jax.jit itself counts what is compiled, NumPy and a plain loop compute the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gptoss_edu.course.checks import Exercise, mistakes_in

# ------------------------------------------------------------------------------------ exercise 1

Call = tuple[tuple[int, ...], str, float, str]  # shape, dtype, a number in it, a static argument


def call_cases() -> Iterator[tuple[list[Call]]]:
    """Arguments of `compilations`: what is called again, and what only looks so."""
    yield ([((3,), "float32", 1.0, "a"), ((3,), "float32", 2.0, "a"), ((4,), "float32", 1.0, "a")],)
    yield ([((2, 6), "float32", 0.0, "a"), ((6, 2), "float32", 0.0, "a"),
            ((12,), "float32", 5.0, "a"), ((2, 6), "int32", 0.0, "a")],)  # fmt: skip
    yield ([((8,), "float32", 1.0, "low"), ((8,), "float32", 1.0, "high"),
            ((8,), "float32", 1.0, "low"), ((8,), "float32", 3.0, "high")],)  # fmt: skip
    yield ([],)
    yield ([((5,), "bfloat16", float(i), "a") for i in range(6)],)


def right_compilations(calls: Sequence[Call]) -> int:
    """What `jax.jit` does: one program for each shape, dtype and static argument."""
    return len({(shape, dtype, static) for shape, dtype, _, static in calls})


KEY = "(shape, dtype, static) for"

compilations = Exercise(
    "compilations", right_compilations, ("the count",), call_cases,
    mistakes_in(right_compilations, {
        "every call": ("you count calls. A program is kept, and used again by any call that fits.",
            "{(shape, dtype, static) for shape, dtype, _, static in calls}", "calls"),
        "values count": ("you count a new value as a reason to compile. Values may change as they"
            " like: only shape, dtype and static arguments are built in.",
            KEY, "(shape, dtype, static, _) for"),
        "the dtype does not count": ("you ignore the dtype. A program for float32 cannot add whole"
            " numbers.", KEY, "(shape, static) for"),
        "static arguments do not count": ("you ignore the static argument. Its value is built into"
            " the program, so another one needs another program.", KEY, "(shape, dtype) for"),
        "sizes": ("you compare how many numbers there are. (2, 6) and (6, 2) have as many, and are"
            " two shapes.", KEY, "(int(np.prod(shape)), dtype, static) for"),
    }),
    praise="That is how often XLA would be called.",
)  # fmt: skip


# ------------------------------------------------------------------------------------ exercise 2


def value_cases() -> Iterator[tuple[jax.Array, jax.Array]]:
    """Arguments of `weighted_values`: sizes that all differ, and two that are equal."""
    for seed, (B, T, S, H) in enumerate([(2, 3, 5, 4), (3, 2, 2, 7)]):
        rng = np.random.default_rng(seed)
        w_BTS, v_BSH = rng.standard_normal((B, T, S)), rng.standard_normal((B, S, H))
        yield jnp.asarray(w_BTS, jnp.float32), jnp.asarray(v_BSH, jnp.float32)


def right_values(w_BTS: jax.Array, v_BSH: jax.Array) -> jax.Array:
    """For every token the sum of all values, each with its weight."""
    return jnp.einsum("BTS,BSH->BTH", w_BTS, v_BSH)


LETTERS = '"BTS,BSH->BTH", w_BTS, v_BSH'

weighted_values = Exercise(
    "weighted_values", right_values, ("y_BTH",), value_cases,
    mistakes_in(right_values, {
        "a mean": ("you divide by the number of values. The weights are all that is asked for.",
            LETTERS, '"BTS,BSH->BTH", w_BTS / w_BTS.shape[2], v_BSH'),
        "conversations are mixed": ("the sum runs over all conversations. B has to be in every"
            " term, and in the result.", LETTERS, '"BTS,ASH->BTH", w_BTS, v_BSH'),
        "the weights of the first token": ("each token uses the weights of the first one. T has to"
            " be kept.", LETTERS, '"BTS,BSH->BTH", w_BTS[:, :1].repeat(w_BTS.shape[1], 1), v_BSH'),
        "absolute weights": ("negative weights have lost their sign.",
            LETTERS, '"BTS,BSH->BTH", jnp.abs(w_BTS), v_BSH'),
    }),
    praise="One line, and no axis had to be moved.",
)  # fmt: skip


# ------------------------------------------------------------------------------------ exercise 3


def average_cases() -> Iterator[tuple[Any, float]]:
    """Arguments of `moving_averages`: trees of different forms, over different lengths."""
    rng = np.random.default_rng(3)

    def array(*shape: int) -> jax.Array:
        return jnp.asarray(rng.standard_normal(shape), jnp.float32)

    yield {"loss": array(6)}, 0.5
    yield {"layers": (array(5, 2, 3), array(5, 4)), "norm": array(5, 3)}, 0.9
    yield (array(1, 2), {"a": array(1)}), 0.75


def right_averages(tree: Any, keep: float) -> Any:
    """Each leaf has a step axis in front; y[0] = x[0], y[t] = keep y[t-1] + (1 - keep) x[t]."""

    def step(carry: Any, new: Any) -> tuple[Any, Any]:
        carry = jax.tree.map(lambda y, x: keep * y + (1 - keep) * x, carry, new)
        return carry, carry

    first = jax.tree.map(lambda leaf: leaf[0], tree)
    return jax.lax.scan(step, first, tree)[1]


BLEND = "keep * y + (1 - keep) * x"

moving_averages = Exercise(
    "moving_averages", right_averages, ("the tree",), average_cases,
    mistakes_in(right_averages, {
        "the parts are swapped": ("you keep the share of the new value. `keep` is the share of what"
            " was there.", BLEND, "keep * x + (1 - keep) * y"),
        "it begins at zero": ("the average begins at zero, so early values are too small. It begins"
            " with the first value.", "leaf[0], tree)", "0 * leaf[0], tree)"),
        "only the last": ("you return the carry at the end, repeated. The averages of all steps"
            " are wanted: what scan stacks up.", "tree)[1]",
            "tree)[0] if False else jax.tree.map(lambda y, x: 0 * x + y,"
            " jax.lax.scan(step, first, tree)[0], tree)"),
        "nothing is carried": ("each step looks at the first value instead of the average so far:"
            " return the new average as the carry, too.", "return carry, carry",
            "return first, carry"),
    }),
    praise="A tree went through a compiled loop, and came out with the same form.",
)  # fmt: skip
