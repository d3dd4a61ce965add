"""Where a result is wrong: the input, the place in the letters of its axes, expected and found."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from gptoss_edu.course.checks.comparing import differing, form, is_array, same

Decode = Callable[[list[int]], str]
NEAR = 12  # arrays up to this many numbers are shown whole


def difference(
    name: str, got: Any, want: Any, atol: float, arguments: Mapping[str, Any], decode: Decode | None
) -> str:
    """The first place where two results part, and what stands there in either."""
    inner: Any = (atol, arguments, decode)
    if isinstance(want, dict) and isinstance(got, dict):
        for key in [key for key in want if key not in got]:
            return f"{name} has no entry {key!r}; expected {shown(want[key])} there"
        for key in [key for key in got if key not in want]:
            return f"{name} has an entry {key!r}, {shown(got[key])}, that should not be there"
        key = next(key for key in want if not same(got[key], want[key], atol))
        return difference(f"{name}[{key!r}]", got[key], want[key], *inner)
    if isinstance(want, list | tuple) and isinstance(got, list | tuple):
        return _in_list(name, got, want, *inner)
    if dataclasses.is_dataclass(want) and type(got) is type(want):
        names = [field.name for field in dataclasses.fields(want)]
        pairs = {f"{name}.{n}": (getattr(got, n), getattr(want, n)) for n in names}
        place = next(n for n, (a, b) in pairs.items() if not same(a, b, atol))
        return difference(place, *pairs[place], *inner)
    if is_array(want) and is_array(got) and want.shape == got.shape and want.shape:
        return _in_array(name, got, want, atol, arguments)
    if isinstance(want, str) and isinstance(got, str) and len(want) + len(got) > 80:
        at = next((i for i, (a, b) in enumerate(zip(got, want, strict=False)) if a != b), -1)
        at = at if at >= 0 else min(len(got), len(want))
        return (
            f"{name} differs after {want[max(0, at - 20) : at]!r}: expected"
            f" {want[at : at + 20]!r}, found {got[at : at + 20]!r}"
        )
    return f"{name}: expected {shown(want)}, found {shown(got)}"


def _in_list(
    name: str, got: Any, want: Any, atol: float, arguments: Mapping[str, Any], decode: Decode | None
) -> str:
    both = enumerate(zip(got, want, strict=False))
    at = next((i for i, (a, b) in both if not same(a, b, atol)), min(len(got), len(want)))
    if decode is not None and all(isinstance(one, int) for one in got):
        before, wanted, found = (
            decode(list(part)) for part in (want[max(0, at - 8) : at], want[at:], got[at:])
        )
        return (
            f"{name} at index {at}, after {before!r}: expected {wanted[:24]!r}, found"
            f" {found[:24]!r} ({_at(want, at)} against {_at(got, at)})"
        )
    short = len(repr(want)) + len(repr(got)) < 90
    if short and all(
        isinstance(one, str | bytes | int | float) or one is None for one in (*got, *want)
    ):
        return f"{name}: expected {want!r}, found {got!r}"
    if at < min(len(got), len(want)):
        return difference(f"{name}[{at}]", got[at], want[at], atol, arguments, decode)
    return f"{name} at index {at}: expected {_at(want, at)}, found {_at(got, at)}"


def _at(values: Any, at: int) -> str:
    return shown(values[at]) if at < len(values) else "the end"


def _in_array(name: str, got: Any, want: Any, atol: float, arguments: Mapping[str, Any]) -> str:
    wrong = differing(got, want, atol)
    place = tuple(int(i) for i in np.argwhere(wrong)[0])
    letters = suffix(name, want) or "ijklmnop"[: len(place)]
    where = ", ".join(f"{a.lower()}={i}" for a, i in zip(letters, place, strict=True) if a != "1")
    index = dict(zip(letters, place, strict=True))
    seen = []
    for argument, value in arguments.items():  # what the arguments have at this place
        axes = suffix(argument, value)
        if axes and set(axes) <= set(letters) and np.size(value) > NEAR:
            seen.append(f"{argument} = {shown(value[tuple(index[a] for a in axes)])}")
    there = f" ({', '.join(seen)})" if seen else ""
    share = "" if wrong.size == 1 else f" ({int(wrong.sum())} of {wrong.size} differ)"
    return (
        f"{name} at {where}{there}: expected {shown(np.asarray(want)[place])}, found"
        f" {shown(np.asarray(got)[place])}{share}"
    )


def suffix(name: str, value: Any) -> str:
    """The letters of an array's axes, from its name; "" if it does not carry them."""
    letters = name.rsplit("_", 1)[-1] if "_" in name else ""
    fits = re.fullmatch(r"[A-Z1]+", letters) and len(letters) == np.ndim(value)
    return letters if is_array(value) and fits else ""


def shown(value: Any) -> str:
    """A value on one line, short."""
    if isinstance(value, bool | np.bool_):
        return str(bool(value))
    if isinstance(value, float | np.floating) or (is_array(value) and not np.shape(value)):
        number = np.asarray(value).item()
        return f"{number:.7g}" if isinstance(number, float) else str(number)
    if isinstance(value, int | np.integer):
        return f"{int(value):,}" if abs(int(value)) >= 10**4 else str(int(value))
    if is_array(value):
        small = np.size(value) <= NEAR
        return _row(np.asarray(value).tolist()) if small else f"shape {tuple(value.shape)}"
    if dataclasses.is_dataclass(value):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        said = [f"{name}={one!r}" for name, one in fields.items() if one is not None and one != ()]
        return _cut(f"{type(value).__name__}({', '.join(said)})", 190)
    if isinstance(value, list) and any(is_array(x) or dataclasses.is_dataclass(x) for x in value):
        return _cut(f"[{', '.join(map(shown, value))}]", 200)
    return _cut(repr(value))


def _row(values: Any) -> str:
    if isinstance(values, list):
        return f"[{', '.join(map(_row, values))}]"
    return str(values) if isinstance(values, bool) else f"{values:.4g}"


def _cut(text: str, most: int = 100) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."


def inputs(arguments: Mapping[str, Any]) -> str:
    """The arguments of a case, as far as they can be said in a few words."""
    told = []
    for name, value in arguments.items():
        if is_array(value) and np.size(value) > NEAR:
            all_zero = " full of zeros" if not np.asarray(value).any() else ""
            told.append(f"{name} of shape {tuple(value.shape)}{all_zero}")
        elif not callable(value) and (is_array(value) or not _is_large(value)):
            told.append(f"{name} = {shown(value)}")
    return ", ".join(told)


def _is_large(value: Any) -> bool:
    """Parameters, caches, and lists of more than a few numbers."""
    arrays = any(map(is_array, jax.tree.leaves(value)))
    return arrays and not (isinstance(value, list) and size_of(value) <= 2 * NEAR)


def size_of(value: Any) -> int:
    """How much there is to read in an argument."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(map(size_of, value.values()))
    if isinstance(value, list | tuple):
        return sum(map(size_of, value)) + len(value)
    return sum(int(np.size(leaf)) for leaf in jax.tree.leaves(value) if is_array(leaf)) or 1


def has_nan(result: Any) -> bool:
    """Is there a NaN anywhere in it?"""
    arrays = [np.asarray(leaf) for leaf in jax.tree.leaves(result)]
    return any(array.dtype.kind == "f" and bool(np.isnan(array).any()) for array in arrays)


def misshapen(parts: tuple[str, ...], got: Any, want: Any) -> str | None:
    """What is wrong with the form of a result, if anything."""
    for name, x, y in _by_part(parts, got, want):
        if said := form(name, x, y):
            return said
    return None


def misplaced(
    parts: tuple[str, ...],
    got: Any,
    want: Any,
    atol: float,
    arguments: Mapping[str, Any],
    decode: Decode | None = None,
) -> str:
    """The first place of the first part that is wrong, in a result of the right form."""
    name, x, y = next(one for one in _by_part(parts, got, want) if not same(*one[1:], atol))
    return difference(name, x, y, atol, arguments, decode) + "."


def _by_part(parts: tuple[str, ...], got: Any, want: Any) -> list[tuple[str, Any, Any]]:
    return list(zip(parts, got, want, strict=True)) if len(parts) > 1 else [(parts[0], got, want)]


def as_many(found: Any, expected: int, sizes: Mapping[str, int]) -> str:
    """How far a count is off, and what has just that many; the name of a layer is left out."""
    if not np.isfinite(found):
        return ""
    gap = abs(int(found) - expected)
    kinds = {name: re.sub(r"\[\d+\]", "[…]", name) for name in sizes}
    sums: dict[str, int] = {}
    for name, size in sizes.items():
        for whole in (kinds[name], name):
            sums[whole] = sums.get(whole, 0) + size if whole != name else size
    names = [name for name, size in sums.items() if size == gap][:3] or next(
        ([a, b] for a, b in itertools.combinations(sums, 2) if sums[a] + sums[b] == gap), []
    )
    together = len(names) == 2 and sums[names[0]] != gap
    have = "together have" if together else "each have" if names[1:] else "has"
    same_size = f": {' and '.join(names)} {have} as many" if names else ""
    return f" That is {gap:,} too {'many' if found > expected else 'few'}{same_size}."
