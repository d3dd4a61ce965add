"""What `generate` can be asked for, said once: names, types, defaults, explanations and checks.

`generate`, `stream`, `Chat` and the command line take their options from the fields of `Options`. A
name that is not among them is answered with the nearest one that is.
"""

from __future__ import annotations

import dataclasses
import datetime
import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from reprlib import repr as brief
from typing import Any, TypeVar

import numpy as np

from gptoss_edu.cache import TurnCache
from gptoss_edu.harmony import EFFORTS, Prompt, render
from gptoss_edu.sampling import Sampling, option
from gptoss_edu.shapes import whole_numbers

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(Sampling):
    """The settings of the draw, and all else that shapes an answer, checked like them."""

    max_tokens: int = option(1024, "most tokens to write")
    seed: int | Sequence[int] = option(0, "another seed, another draw")
    reasoning_effort: str = option("medium", "how much to think", flag="effort", choices=EFFORTS)
    instructions: str | None = option(None, "what the developer demands")
    tools: Sequence[Mapping[str, Any]] | None = option(None, "functions, as for OpenAI", flag=None)
    current_date: str | datetime.date | None = option(None, "today, as YYYY-MM-DD", flag="date")
    cache: TurnCache | None = option(None, "a reply's `cache`: it is not read again", flag=None)
    keep_cache: bool = option(False, "leave a `cache` in the reply, to go on with", flag=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("max_tokens", "a whole number, 1 or more", 1, whole=True)
        object.__setattr__(self, "max_tokens", int(self.max_tokens))  # NumPy's ones overflow
        if not isinstance(self.keep_cache, bool):
            raise ValueError(f"keep_cache is {brief(self.keep_cache)}, expected True or False")
        if not isinstance(self.cache, TurnCache | None):
            kind = type(self.cache).__name__
            raise ValueError(
                f"cache is a {kind}, expected the `cache` of an earlier reply (keep_cache=True)"
            )

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        """The prompt, rendered: o200k ids. Raises ValueError where it cannot be."""
        return render(
            prompt, reasoning_effort=self.reasoning_effort, instructions=self.instructions,
            tools=self.tools, current_date=self.current_date,
        )  # fmt: skip

    def seeds(self, batch: int) -> list[int]:
        """One seed per prompt; a single one serves all, as it would serve each alone."""
        seeds = whole_numbers(self.seed)
        if seeds is None or seeds.shape not in ((), (batch,)) or (seeds >> 32).any():
            raise ValueError(
                f"seed is {brief(self.seed)}, expected a whole number from 0 to 2**32 - 1,"
                f" or one for each of the {batch} prompts"
            )
        return list(np.broadcast_to(seeds, batch).tolist())


def changed(options: Options, changes: Mapping[str, Any]) -> Options:
    """The same options but for `changes`. Raises TypeError for an unknown name."""
    names = [field.name for field in dataclasses.fields(Options)]
    for name in changes:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(names)}"
            raise TypeError(f"there is no option {name}; {hint}")
    return dataclasses.replace(options, **changes)


def lists_options(function: Function) -> Function:
    """Decorate a function of `**options`, so that Jupyter shows the fields of `Options`."""
    *own, _ = inspect.signature(function).parameters.values()
    fields = inspect.signature(Options).parameters.values()
    keywords = [field.replace(kind=field.KEYWORD_ONLY) for field in fields]
    vars(function)["__signature__"] = inspect.Signature([*own, *keywords])
    lines = [f"    {f.name}: {f.metadata['help']}" for f in dataclasses.fields(Options)]
    function.__doc__ = "\n".join([inspect.getdoc(function) or "", "", "Options:", *lines])
    return function
