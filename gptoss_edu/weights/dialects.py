"""The same weights under other names: how fine-tunes write them, in the terms of layout.py.

Programs that train or quantize experts take each for a linear layer of its own. What they save has
a tensor for each expert, [output, input], and gate and up lie in one (unsloth, interleaved as
published), or in two (llm-compressor, and MLX, which keeps the experts in one tensor). Here such
tensors are put together again: by name, from headers alone. `map_array` copies one when it is read.

Source: as saved by unsloth-zoo's GptOssExperts (`gate_up_projs.N`, `router.linear`), by
llm-compressor's linear experts (`experts.N.gate_proj`, earlier `experts.experts.N.gate_proj`) and
by mlx-lm (`experts.gate_proj.weight`); gate is the even, up the odd part of `gate_up_proj`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from gptoss_edu.weights.files import visible
from gptoss_edu.weights.shards import Tensor

ROUTER = re.compile(r"(.*\.mlp\.router)\.linear(\.weight|\.bias)")
EXPERT = re.compile(
    r"(?P<experts>.*\.mlp\.experts)\.(?:experts\.)?"
    r"(?:(?P<n>\d{1,6})\.(?P<one>gate|up|down)_proj|(?P<list>gate_up|down)_projs\.(?P<m>\d{1,6}))"
    r"\.(?P<kind>weight|bias)"
)
HALF = re.compile(r"(.*\.mlp\.experts)\.gate_proj\.(weight|bias)")


def published_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by the names of the Hugging Face layout; of others, whatever they are called.

    Raises ValueError for experts that are not all there, or not all alike.
    """
    found: dict[str, Tensor] = {}
    experts: dict[str, dict[int, Tensor]] = {}
    for name, tensor in _without_prefix(tensors).items():
        if match := EXPERT.fullmatch(name):
            whole = f"{match['experts']}.{match['one'] or match['list']}_proj.{match['kind']}"
            _put(experts.setdefault(whole, {}), int(match["n"] or match["m"]), tensor, name)
        else:
            _put(found, ROUTER.sub(r"\1\2", name), tensor, name)
    for name, parts in experts.items():
        missing = [number for number in range(max(parts)) if number not in parts]
        if missing:
            raise ValueError(
                f"{visible(name, 100)} is stored expert by expert, and number {missing[0]} of"
                f" {max(parts) + 1} is missing; take all shards of the checkpoint"
            )
        _put(found, name, join(name, [parts[number] for number in sorted(parts)], 0), name)
    for gate in [name for name in found if HALF.fullmatch(name)]:
        if (up := gate.replace(".gate_proj.", ".up_proj.")) in found:
            both = gate.replace(".gate_proj.", ".gate_up_proj.")
            _put(found, both, join(both, [found.pop(gate), found.pop(up)], 2), both)
    return found


def _put(found: dict[Any, Tensor], key: str | int, tensor: Tensor, name: str) -> None:
    if key in found:
        raise ValueError(
            f"{visible(name, 100)} in {visible(tensor.path)} is there under another name, too;"
            " remove the file that does not belong there"
        )
    found[key] = tensor


def join(name: str, parts: Sequence[Tensor], axis: int) -> Tensor:
    """One tensor of several, stacked along a new axis; what follows that axis is fused with the one
    before, if there is one: gate and up, [E, F, D] each, become [E, 2F, D].
    """
    first = parts[0]
    for number, part in enumerate(parts):
        if (part.dtype, part.shape) != (first.dtype, first.shape):
            raise ValueError(
                f"{visible(name, 100)} is stored in parts, of which number {number} is"
                f" {part.dtype} {list(part.shape)} and number 0 {first.dtype} {list(first.shape)};"
                " take all shards from one checkpoint"
            )
    shape = [*first.shape[:axis], len(parts), *first.shape[axis:]]
    if axis:
        shape[axis - 1 : axis + 1] = [shape[axis - 1] * len(parts)]
    return Tensor(first.path, first.dtype, tuple(shape), first.begin, tuple(parts), axis)


def _without_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Wrappers (PEFT's `base_model.model.`) put one prefix before all names."""
    last = "lm_head.weight"
    prefix = next((name.removesuffix(last) for name in tensors if name.endswith("." + last)), "")
    whole = prefix and all(name.startswith(prefix) for name in tensors)
    return {name.removeprefix(prefix): t for name, t in tensors.items()} if whole else tensors
