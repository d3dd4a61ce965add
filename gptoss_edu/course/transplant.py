"""A reader's function inside the pocket model, which then answers a question with it.

    from gptoss_edu.course import transplant
    transplant.ask("How many r's are in strawberry?", rotate=my_rotate)

Wherever a lesson file calls its own `rotate`, the reader's is called instead. Programs are compiled
anew for it, and forgotten afterwards.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import jax
import numpy as np

from gptoss_edu.course.checks import Verdict, stopped
from gptoss_edu.generation import generate
from gptoss_edu.reply import Reply
from gptoss_edu.weights.checkpoint import load_model

FILES = [
    importlib.import_module(f"gptoss_edu.{name}")
    for name in ("rope", "attention", "mxfp4", "moe", "model", "cache", "sampling", "generation")
]
BY_NUMPY = (jax.errors.TracerArrayConversionError, jax.errors.ConcretizationTypeError)


def ask(
    question: str, reasoning_effort: str = "high", **functions: Callable[..., Any]
) -> Reply | Verdict:
    """The pocket model's greedy answer, computed with the reader's functions in their places.

    A function may be written in JAX or in NumPy. A stub gives "not attempted yet", and an error in
    a function the sentence of a `Verdict`. Raises ValueError for a name that no lesson file
    defines, AssertionError where the model never calls it.
    """
    model, params = load_model(backend="jax")
    calls: dict[str, int] = dict.fromkeys(functions, 0)
    with transplanted(calls, **functions):
        try:
            reply = generate(
                model, params, question, reasoning_effort=reasoning_effort, max_tokens=128
            )
        except Exception as error:  # whatever a reader's code may raise becomes a sentence
            title = f"{' and '.join(functions)} inside the pocket model"
            return stopped(title, error)
    assert all(calls.values()), f"the model never called {[n for n, c in calls.items() if not c]}"
    return reply


@contextlib.contextmanager
def transplanted(calls: dict[str, int], **functions: Callable[..., Any]) -> Iterator[None]:
    """Inside, lesson files call these functions in place of their own; `calls` counts how often."""
    with contextlib.ExitStack() as stack:
        for name, function in functions.items():
            original = _original(name)
            stand_in = _counted(function, original, calls, name)
            for file in FILES:
                if vars(file).get(name) is original:
                    stack.enter_context(patch.object(file, name, stand_in))
        stack.callback(jax.clear_caches)  # programs in which the reader's function was compiled
        jax.clear_caches()  # and those in which ours was
        yield


def _counted(
    function: Callable[..., Any], original: Callable[..., Any], calls: dict[str, int], name: str
) -> Callable[..., Any]:
    """The function, counting; what NumPy computes is called back from the compiled program."""

    def stand_in(*arguments: Any, **options: Any) -> Any:
        calls[name] += 1
        try:
            return function(*arguments, **options)
        except BY_NUMPY:
            form = jax.eval_shape(original, *arguments, **options)

            def called_back(*arrays: Any) -> Any:
                found = function(*map(np.asarray, arrays), **options)
                return jax.tree.map(lambda x, y: np.asarray(y, x.dtype), form, found)

            return jax.pure_callback(called_back, form, *arguments, vmap_method="sequential")

    return stand_in


def _original(name: str) -> Callable[..., Any]:
    """The function of this name where it is defined."""
    for file in FILES:
        if getattr(vars(file).get(name), "__module__", None) == file.__name__:
            return vars(file)[name]  # type: ignore[no-any-return]
    raise ValueError(f"no lesson file defines a function {name!r}; expected one such as 'rotate'")
