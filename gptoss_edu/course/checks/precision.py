"""Chapter 07: write `needed_gib`, `pick`, `spec` and `first_flip`.

    from gptoss_edu.course.checks import precision
    precision.needed_gib(my_needed_gib)

Source: gptoss_edu/chips/precision.py, fit.py and sharding.py, which the right answers come from.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gptoss_edu.chips.sharding import AXES, spec_of
from gptoss_edu.course.checks import Exercise, mistakes_in

GIB = 2**30
NOTHING, WHOLE = "nothing", "whole"

# ------------------------------------------------------------------------------------ exercise 1


def needed_cases() -> Iterator[tuple[int, int, float, int, int]]:
    """Arguments of `needed_gib`: the 20B in four formats, then the 120B on eight devices."""
    for bits in (16.0, 8.0, 4.25, 32.0):
        yield 19_110_297_600, 1_804_459_584, bits, 105_710_000, 1
    yield 114_661_785_600, 2_167_371_072, 4.25, 3_221_225_472, 8
    yield 1_000_000, 7_000_000, 4.25, 0, 3


def _needed(experts: int, others: int, bits: float, cache: int, devices: int) -> float:
    weights = (experts * bits + others * 16) / 8
    total = weights + cache
    return total / GIB / devices


needed_gib = Exercise(
    "needed_gib", _needed, ("the GiB that one device holds",), needed_cases,
    mistakes_in(_needed, {
        "everything in few bits": ("you gave all weights the experts' bits. Only the experts are"
            " packed; the others stay in bfloat16, 16 bits each.", "others * 16", "others * bits"),
        "others in 32 bits": ("you gave the other weights 32 bits. They are published, and kept,"
            " in bfloat16: 16.", "others * 16", "others * 32"),
        "bits for bytes": ("your number is eight times too large: a byte has eight bits.",
            " / 8", ""),
        "GB": ("you divided by a thousand million. That is a GB, which sells disks; memory is"
            " counted in GiB, 2**30 bytes.", "GIB", "1e9"),
        "no cache": ("the cache is missing. Keys and values must be there beside the weights.",
            " + cache", ""),
        "one device holds all": ("you forgot to divide by the devices: each of them holds its"
            " share.", " / devices", ""),
    }),
    praise="That is the first line of every ledger in this chapter.",
)  # fmt: skip

# ------------------------------------------------------------------------------------ exercise 2


def pick_cases() -> Iterator[tuple[float, dict[str, float]]]:
    """Arguments of `pick`: memory in GiB, and format -> GiB, not in the order of their size."""
    needs = {"mxfp4": 13.4, "bf16": 39.6, "fp8": 21.8}
    for memory in (15.75, 31.25, 79.1, 39.6, 13.4, 8.0):
        yield memory, needs
    yield 20.0, {"fp6": 15.0, "fp8": 40.0, "bf16": 12.0}
    yield 5.0, {"int8": 4.0, "fp8": 4.5, "mxfp4": 3.0}


def _pick(memory: float, needs: dict[str, float]) -> str:
    fitting = [name for name in needs if needs[name] <= memory]
    return max(fitting, key=lambda name: needs[name]) if fitting else NOTHING


pick = Exercise(
    "pick", _pick, ("the name of a format",), pick_cases,
    mistakes_in(_pick, {
        "the narrowest": ("you take the smallest that fits. Decoding few bits is work: take the"
            " largest that fits, and save the work.", "max(", "min("),
        "the first": ("you take the first in the dict that fits. A dict has no order of size:"
            " compare what they need.", "max(fitting, key=lambda name: needs[name])", "fitting[0]"),
        "exactly full": ("what needs exactly as much as there is fits, too: use <=.", "<=", "<"),
        "the wrong way round": ("you pick among those that do not fit.", "<=", ">"),
        "something anyway": ("nothing fits, and you return the smallest all the same. It would"
            " fail after a long download; say 'nothing' before it.",
            "NOTHING", "min(needs, key=needs.__getitem__)"),
    }),
    praise="`choose_precision` does this, and says why in words.",
)  # fmt: skip

# ------------------------------------------------------------------------------------ exercise 3


def spec_cases() -> Iterator[tuple[str]]:
    """Arguments of `spec`: names of arrays, without attribute or layer."""
    for letter in "NKPFVOEDH":
        yield (f"w_{letter}",)
    names = "w_q_DNH w_gate_up_EDP w_down_EFD norm_D k_BSKH x_BTH blocks_EJUO sinks_N mask_NDF"
    for name in f"{names} scores_NK logits_BTV unembedding_DV".split():
        yield (name,)


def _right_spec(name: str) -> list[str]:
    return [axis or WHOLE for axis in spec_of(name)]


def _spec(name: str) -> list[str]:
    """From the mesh axes of the letters."""
    found: list[str] = []
    for letter in name.rsplit("_", 1)[-1]:
        axis = AXES.get(letter, WHOLE)
        found.append(WHOLE if axis in found else axis)
    return found


spec = Exercise(
    "spec", _right_spec, ("the mesh axis, or 'whole', for each letter",), spec_cases,
    mistakes_in(_spec, {
        "an axis twice": ("you use a mesh axis twice in one array. Devices can be laid out along"
            " it only once: the first letter has it, a later one stays whole.",
            "WHOLE if axis in found else axis", "axis"),
        "letters of the name": ("you read letters in front of the last underscore as well. Only"
            " the suffix names axes.", 'name.rsplit("_", 1)[-1]', 'name.replace("_", "")'),
        "backwards": ("your list is in reverse. The suffix is in memory order, the first axis"
            " first.", "[-1]", "[-1][::-1]"),
        "whole axes left out": ("an axis that is not cut needs an entry, too: 'whole'. Otherwise"
            " the next axis is taken for it.",
            lambda name: [axis for axis in _right_spec(name) if axis != WHOLE]),
        "None for whole": ("an axis that is not cut is called 'whole' here. None is what JAX's own"
            " PartitionSpec says for it.",
            lambda name: [None if axis == WHOLE else axis for axis in _right_spec(name)]),
    }),
    praise="Eleven lines place every weight of the 20B on eight devices.",
)  # fmt: skip

# ------------------------------------------------------------------------------------ exercise 4


def flip_cases() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Arguments of `first_flip`: chosen experts [L, T, X], by two precisions."""
    truth_LTX = np.array([[[1, 4], [0, 5]], [[2, 3], [3, 4]]])
    for pair in ([4, 1], [1, 6]):  # the same sum as 2 and 3, and the same product
        yield truth_LTX, np.array([[[4, 1], [0, 5]], [pair, [3, 4]]])
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


def _flip(truth_LTX: np.ndarray, other_LTX: np.ndarray) -> tuple[int, ...]:
    sorted_LTX, others_LTX = np.sort(truth_LTX, -1), np.sort(other_LTX, -1)
    places = np.argwhere((sorted_LTX != others_LTX).any(-1))
    return tuple(places[0].tolist())


first_flip = Exercise(
    "first_flip", _flip, ("layer", "token"), flip_cases,
    mistakes_in(_flip, {
        "order counts": ("you found a token with the same experts in another order. That changes"
            " nothing: their answers are added. Sort before you compare.",
            "np.sort(truth_LTX, -1), np.sort(other_LTX, -1)", "truth_LTX, other_LTX"),
        "token first": ("you went through the tokens first. An error travels up the layers: what"
            " flips in the lowest layer is the cause, the rest may be its consequence.",
            ".any(-1))", ".any(-1).T)[:, ::-1]"),
        "the last": ("you return the last flip. The cause is the first.", "[0]", "[-1]"),
        "swapped": ("you return the token and then the layer; asked for is the layer first.",
            "places[0]", "places[0, ::-1]"),
    }),
    praise="With this you can explain any answer that changed with the precision.",
)  # fmt: skip
