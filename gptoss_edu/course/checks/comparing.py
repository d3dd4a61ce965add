"""Is a result right? Other usual forms are converted first, then kinds and numbers are compared.

A list serves where an array is wanted, an array or a list where a tuple is, any width of integer
where whole numbers are, and NumPy's truth value where Python's is. What is left must be of the same
kind: None is not an empty list, a list of one text is not that text, and True is not 1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np


def fit(got: Any, want: Any) -> Any:
    """`got` in the form of `want`, where that loses nothing; else as it is."""
    if isinstance(want, bool):
        return bool(got) if _is_truth(got) else got
    if _is_number(want):
        return got.item() if is_array(got) and np.shape(got) == () else got
    if dataclasses.is_dataclass(want):
        if isinstance(want, type) or type(got) is not type(want):
            return got
        names = [field.name for field in dataclasses.fields(want)]
        return type(want)(**{n: fit(getattr(got, n), getattr(want, n)) for n in names})
    if isinstance(want, dict):
        if not isinstance(got, Mapping):
            return got
        return {key: fit(one, want[key]) if key in want else one for key, one in got.items()}
    if isinstance(want, list | tuple):
        return _fit_list(got, want)
    if is_array(want) and isinstance(got, list | tuple | int | float):
        return _fit_array(got, want)
    return got


def _fit_list(got: Any, want: list[Any] | tuple[Any, ...]) -> Any:
    if is_array(got) and np.ndim(got) > 0:
        plain = all(isinstance(one, int | float) for one in want)
        got = np.asarray(got).tolist() if plain else list(got)
    if not isinstance(got, list | tuple):
        return got
    paired = [fit(x, want[i]) if i < len(want) else x for i, x in enumerate(got)]
    return type(want)(paired) if type(want) in (list, tuple) else paired


def _fit_array(got: Any, want: Any) -> Any:
    try:
        made = np.asarray(got)
    except (ValueError, TypeError):  # rows of different lengths
        return got
    if made.dtype.kind in "iu" and np.dtype(want.dtype).kind == "f":
        made = made.astype(np.float64)
    return made if made.dtype.kind in "biuf" else got


def form(name: str, got: Any, want: Any) -> str | None:
    """A sentence if `got` has not the kind, shape or dtype of `want`; None if it has."""
    if got is None:  # said better by what is expected
        return None
    if _is_number(want):
        return None if _is_number(got) else f"{name} should be a number, found {kind(got)}."
    if not is_array(want):
        return _form_of_kind(name, got, want)
    if not is_array(got):
        return f"{name} should be an array, found {kind(got)}."
    if tuple(got.shape) != tuple(want.shape):
        return f"{name} should have shape {tuple(want.shape)}, found {tuple(got.shape)}."
    wanted, found = np.dtype(want.dtype), np.dtype(got.dtype)
    fits = found.itemsize >= wanted.itemsize or _sort(want) == "i"
    return (
        None if fits and _sort(got) == _sort(want) else f"{name} should be {wanted}, found {found}."
    )


def _form_of_kind(name: str, got: Any, want: Any) -> str | None:
    lists = isinstance(want, list | tuple) and isinstance(got, list | tuple)
    texts = isinstance(want, str) and isinstance(got, str)  # also a NumPy text
    if not (lists or texts or type(got) is type(want)):
        return f"{name} should be {kind(want)}, found {kind(got)}."
    if not dataclasses.is_dataclass(want):
        return None
    for field in dataclasses.fields(want):
        left, right = getattr(got, field.name), getattr(want, field.name)
        pairs = [(f"{name}.{field.name}", left, right)]
        if isinstance(left, tuple) and isinstance(right, tuple) and len(left) == len(right):
            both = enumerate(zip(left, right, strict=True))
            pairs += [(f"{name}.{field.name}[{i}]", *pair) for i, pair in both]
        for one in pairs:
            if complaint := form(*one):
                return complaint
    return None


def same(a: Any, b: Any, atol: float) -> bool:
    """Are two results of one kind and equal, arrays up to `atol` and everything else exactly?"""
    if isinstance(b, dict):
        fits = isinstance(a, dict) and a.keys() == b.keys()
        return fits and all(same(a[key], b[key], atol) for key in b)
    if isinstance(b, list | tuple):
        fits = isinstance(a, list | tuple) and len(a) == len(b)
        return fits and all(same(x, y, atol) for x, y in zip(a, b, strict=True))
    if dataclasses.is_dataclass(b):
        names = [field.name for field in dataclasses.fields(b)]
        return type(a) is type(b) and all(same(getattr(a, n), getattr(b, n), atol) for n in names)
    if is_array(b) or _is_number(b):
        alike = is_array(a) if is_array(b) else _is_number(a)
        alike = alike and np.shape(a) == np.shape(b) and (not is_array(b) or _sort(a) == _sort(b))
        return alike and not differing(a, b, atol).any()
    if isinstance(a, str) and isinstance(b, str):
        return a == b
    return type(a) is type(b) and bool(a == b)


def differing(a: Any, b: Any, atol: float) -> np.ndarray:
    """Where two arrays of one shape differ: whole numbers exactly, others up to `atol`."""
    x, y = np.asarray(a), np.asarray(b)
    if y.dtype.kind in "biu" or x.dtype.kind not in "biuf":
        return np.asarray(x != y)
    return ~np.isclose(
        x.astype(np.float64), y.astype(np.float64), rtol=1e-5, atol=atol, equal_nan=True
    )


def is_array(value: Any) -> bool:
    """Also of JAX; `np.float16`, the type, has a shape only for its instances."""
    return hasattr(value, "shape") and hasattr(value, "dtype") and not isinstance(value, type)


def _sort(array: Any) -> str:
    """Truth values, whole numbers of any width, or others."""
    return str(np.dtype(array.dtype).kind).replace("u", "i")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def _is_truth(value: Any) -> bool:
    return is_array(value) and np.shape(value) == () and np.dtype(value.dtype) == bool


def kind(value: Any) -> str:
    """What a value is, in words."""
    if value is None:
        return "None"
    if is_array(value):
        return f"an array of shape {tuple(value.shape)}" if np.shape(value) else "a number"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"
