"""Chapter 07: write `needed_gib`, `pick`, `spec` and `first_flip`.

    from gptoss_edu.course.checks import precision
    precision.needed_gib(my_needed_gib)

Source: gptoss_edu/chips/precision.py, fit.py and sharding.py, which the right answers come from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from gptoss_edu.chips.sharding import AXES, spec_of
from gptoss_edu.course.checks import Exercise

GIB = 2**30
NOTHING, WHOLE = "nothing", "whole"

# ------------------------------------------------------------------------------------ exercise 1


def needed_cases() -> Iterator[tuple[int, int, float, int, int]]:
    """Arguments of `needed_gib`: the 20B in four formats, then the 120B on eight devices."""
    for bits in (16.0, 8.0, 4.25, 32.0):
        yield 19_110_297_600, 1_804_459_584, bits, 105_710_000, 1
    yield 114_661_785_600, 2_167_371_072, 4.25, 3_221_225_472, 8
    yield 1_000_000, 7_000_000, 4.25, 0, 3


def _needed(
    per_byte: float = 8.0,
    gib: float = GIB,
    cached: bool = True,
    spread: bool = True,
    dense_bits: float | None = 16.0,
) -> Callable[[int, int, float, int, int], float]:
    """A count from what people vary in it; the defaults are right."""

    def needed_gib(experts: int, others: int, bits: float, cache: int, devices: int) -> float:
        dense = bits if dense_bits is None else dense_bits
        weights = (experts * bits + others * dense) / per_byte
        total = weights + (cache if cached else 0)
        return total / gib / (devices if spread else 1)

    return needed_gib


needed_gib = Exercise(
    "needed_gib",
    _needed(),
    ("the GiB that one device holds",),
    needed_cases,
    {
        "everything in few bits": ("you gave all weights the experts' bits. Only the experts are"
            " packed; the others stay in bfloat16, 16 bits each.", _needed(dense_bits=None)),
        "others in 32 bits": ("you gave the other weights 32 bits. They are published, and kept,"
            " in bfloat16: 16.", _needed(dense_bits=32.0)),
        "bits for bytes": ("your number is eight times too large: a byte has eight bits.",
            _needed(per_byte=1.0)),
        "GB": ("you divided by a thousand million. That is a GB, which sells disks; memory is"
            " counted in GiB, 2**30 bytes.", _needed(gib=1e9)),
        "no cache": ("the cache is missing. Keys and values must be there beside the weights.",
            _needed(cached=False)),
        "one device holds all": ("you forgot to divide by the devices: each of them holds its"
            " share.", _needed(spread=False)),
    },
    praise="That is the first line of every ledger in this chapter.",
)  # fmt: skip

# ------------------------------------------------------------------------------------ exercise 2


def pick_cases() -> Iterator[tuple[float, dict[str, float]]]:
    """Arguments of `pick`: memory in GiB, and format -> GiB, not in the order of their size."""
    needs = {"mxfp4": 13.4, "bf16": 39.6, "fp8": 21.8}
    for memory in (15.75, 31.25, 79.1, 39.6, 13.4, 8.0):
        yield memory, needs
    yield 5.0, {"int8": 4.0, "fp8": 4.5, "mxfp4": 3.0}


def _pick(
    best: Callable[..., str] = max,
    fits: Callable[[float, float], bool] = lambda need, memory: need <= memory,
    none: Callable[[dict[str, float]], str] = lambda needs: NOTHING,
) -> Callable[[float, dict[str, float]], str]:
    def pick(memory: float, needs: dict[str, float]) -> str:
        fitting = [name for name, need in needs.items() if fits(need, memory)]
        return best(fitting, key=lambda name: needs[name]) if fitting else none(needs)

    return pick


pick = Exercise(
    "pick",
    _pick(),
    ("the name of a format",),
    pick_cases,
    {
        "the narrowest": ("you take the smallest that fits. Decoding few bits is work: take the"
            " largest that fits, and save the work.", _pick(best=min)),
        "the first": ("you take the first in the dict that fits. A dict has no order of size:"
            " compare what they need.", _pick(best=lambda names, key: names[0])),
        "exactly full": ("what needs exactly as much as there is fits, too: use <=.",
            _pick(fits=lambda need, memory: need < memory)),
        "the wrong way round": ("you pick among those that do not fit.",
            _pick(fits=lambda need, memory: need > memory)),
        "something anyway": ("nothing fits, and you return the smallest all the same. It would"
            " fail after a long download; say 'nothing' before it.",
            _pick(none=lambda needs: min(needs, key=needs.__getitem__))),
    },
    praise="`choose_precision` does this, and says why in words.",
)  # fmt: skip

# ------------------------------------------------------------------------------------ exercise 3


def spec_cases() -> Iterator[tuple[str]]:
    """Arguments of `spec`: names of arrays, without attribute or layer."""
    yield from (
        ("w_q_DNH",),
        ("w_gate_up_EDP",),
        ("norm_D",),
        ("k_BSKH",),
        ("blocks_EJUO",),
        ("sinks_N",),
        ("scores_NK",),
        ("unembedding_DV",),
    )


def _right_spec(name: str) -> list[str]:
    return [axis or WHOLE for axis in spec_of(name)]


def _spec(
    letters: Callable[[str], str] = lambda name: name.rsplit("_", 1)[-1],
    axes: dict[str, str] = AXES,
    twice: bool = False,
    short: bool = False,
) -> Callable[[str], list[str]]:
    def spec(name: str) -> list[str]:
        found: list[str] = []
        for letter in letters(name):
            axis = axes.get(letter, WHOLE)
            found.append(WHOLE if axis in found and not twice else axis)
        return [axis for axis in found if axis != WHOLE] if short else found

    return spec


spec = Exercise(
    "spec",
    _right_spec,
    ("the mesh axis, or 'whole', for each letter",),
    spec_cases,
    {
        "an axis twice": ("you use a mesh axis twice in one array. Devices can be laid out along"
            " it only once: the first letter has it, a later one stays whole.", _spec(twice=True)),
        "letters of the name": ("you read letters in front of the last underscore as well. Only"
            " the suffix names axes.", _spec(letters=lambda name: name.replace("_", ""))),
        "backwards": ("your list is in reverse. The suffix is in memory order, the first axis"
            " first.", _spec(letters=lambda name: name.rsplit("_", 1)[-1][::-1])),
        "whole axes left out": ("an axis that is not cut needs an entry, too: 'whole'. Otherwise"
            " the next axis is taken for it.", _spec(short=True)),
        "keys left whole": ("kv heads are left whole. K is cut like N, so that a query head and"
            " its kv head are on one device.",
            _spec(axes={letter: axis for letter, axis in AXES.items() if letter != "K"})),
        "width cut": ("you cut the width D. Every block reads and adds to all of it: leave it"
            " whole.", _spec(axes=AXES | {"D": "tensor"})),
    },
    praise="Eleven lines place every weight of the 20B on eight devices.",
)  # fmt: skip

# ------------------------------------------------------------------------------------ exercise 4


def flip_cases() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Arguments of `first_flip`: chosen experts [L, T, X], by two precisions."""
    rng = np.random.default_rng(7)
    for changes in ([(2, 1), (1, 4)], [(0, 5), (2, 1), (3, 4)], [(3, 6)]):
        truth_LTX = np.argsort(rng.random((4, 7, 12)), axis=-1)[..., :3]
        other_LTX = truth_LTX.copy()
        other_LTX[1, 0] = other_LTX[1, 0][::-1]  # the same experts, in another order
        for layer, token in changes:
            other_LTX[layer, token, 1] = next(
                e for e in range(12) if e not in truth_LTX[layer, token]
            )
        yield truth_LTX, other_LTX


def _flip(
    ordered: bool = False, by_token: bool = False, last: bool = False, swapped: bool = False
) -> Callable[[np.ndarray, np.ndarray], tuple[int, ...]]:
    def first_flip(truth_LTX: np.ndarray, other_LTX: np.ndarray) -> tuple[int, ...]:
        if not ordered:
            truth_LTX, other_LTX = np.sort(truth_LTX, -1), np.sort(other_LTX, -1)
        flipped_LT = (np.asarray(truth_LTX) != np.asarray(other_LTX)).any(-1)
        places = np.argwhere(flipped_LT.T)[:, ::-1] if by_token else np.argwhere(flipped_LT)
        found = tuple(places[-1 if last else 0].tolist())
        return found[::-1] if swapped else found

    return first_flip


first_flip = Exercise(
    "first_flip",
    _flip(),
    ("layer", "token"),
    flip_cases,
    {
        "order counts": ("you found a token with the same experts in another order. That changes"
            " nothing: their answers are added. Sort before you compare.", _flip(ordered=True)),
        "token first": ("you went through the tokens first. An error travels up the layers: what"
            " flips in the lowest layer is the cause, the rest may be its consequence.",
            _flip(by_token=True)),
        "the last": ("you return the last flip. The cause is the first.", _flip(last=True)),
        "swapped": ("you return the token and then the layer; asked for is the layer first.",
            _flip(swapped=True)),
    },
    praise="With this you can explain any answer that changed with the precision.",
)  # fmt: skip
