"""Chapter 07: write `needed_gib`, `pick`, `spec`, `first_flip`, `nearest_fp8`, `must_stay_wide` and
`summed_down`.

    from gptoss_edu.course.checks import precision
    precision.needed_gib(my_needed_gib)

Source: gptoss_edu/chips/precision.py, fit.py and sharding.py, which the right answers come from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
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

# ------------------------------------------------------------------------------------ exercise 5


def fp8_cases() -> Iterator[tuple[np.ndarray]]:
    """Arguments of `nearest_fp8`: numbers of both signs, ties, tiny ones, and some too large."""
    yield (np.array([1.28, 6.0, -0.75, 0.0, 17.0, -19.0, 1.0625, 1.1875], np.float32),)
    yield (np.array([0.0019, -0.0137, 0.001, -0.0009, 0.0145], np.float32),)
    yield (np.array([448.0, -460.0, 1e6, 431.9, -433.0], np.float32),)
    yield (np.random.default_rng(3).standard_normal((40, 5)).astype(np.float32) * 30,)


def _nearest(x: np.ndarray) -> np.ndarray:
    x = np.clip(np.asarray(x, np.float32), -448, 448)
    _, exponent = np.frexp(x)  # x is a fraction in [0.5, 1) times two to this
    step = np.ldexp(np.float32(1), np.maximum(exponent - 1, -6) - 3)
    return np.asarray(np.round(x / step) * step)


nearest_fp8 = Exercise(
    "nearest_fp8", _nearest, ("the nearest fp8 numbers",), fp8_cases,
    mistakes_in(_nearest, {
        "one bit too few": ("your steps are twice too wide. E4M3 has three bits of mantissa:"
            " between two powers of two there are eight numbers.", " - 3)", " - 2)"),
        "no subnormal numbers": ("your smallest numbers are too exact. The exponent ends at -6;"
            " below 2**-6 the steps stay 2**-9.",
            "np.maximum(exponent - 1, -6)", "exponent - 1"),
        "too large": ("numbers above 448 stay what they are. 448 is the largest: whatever is above"
            " it becomes 448.", "np.clip(np.asarray(x, np.float32), -448, 448)",
            "np.asarray(x, np.float32)"),
        "cut off": ("you cut off what does not fit. Round to the nearest: half a step is the most"
            " that may be lost.", "np.round(", "np.trunc("),
        "half up": ("half a step goes up in your function. Of two equally near numbers take the"
            " even one, as every processor does: np.round does, too.",
            "np.round(x / step)", "np.floor(x / step + 0.5)"),
    }),
    praise="That is all that a cast to fp8 does. In JAX: `x.astype(jnp.float8_e4m3fn)`.",
)  # fmt: skip

# ------------------------------------------------------------------------------------ exercise 6


def _to_bf16(x: np.ndarray) -> np.ndarray:
    return x.astype(ml_dtypes.bfloat16).astype(np.float32)


def _score(parts: Mapping[str, np.ndarray]) -> np.ndarray:
    """One rotated query against one rotated key for each position: what chapter 02 computes."""
    angle = parts["position"] * parts["frequency"]
    turned = parts["query"] * np.cos(angle) + parts["key"] * np.sin(angle)
    return np.asarray(turned.sum(axis=-1) * parts["scale"])


def _far(parts: Mapping[str, np.ndarray]) -> np.ndarray:
    """Two large numbers that nearly cancel, and a small one."""
    return np.asarray(parts["level"] + parts["ripple"] - parts["offset"] * parts["gain"])


def _saturated(parts: Mapping[str, np.ndarray]) -> np.ndarray:
    """A large number that tanh makes harmless, and a small one that is multiplied."""
    return np.asarray(np.tanh(parts["level"]) + parts["shift"] * parts["slope"])


def _floats(**values: list[float]) -> dict[str, np.ndarray]:
    return {name: np.array(value, np.float32) for name, value in values.items()}


def wide_cases() -> Iterator[tuple[Callable[..., np.ndarray], dict[str, np.ndarray]]]:
    """Arguments of `must_stay_wide`: a network, and its tensors by name."""
    near = np.random.default_rng(5).standard_normal((6, 8)).astype(np.float32)
    places = np.array([257, 1023, 2001, 3331, 4001, 4095], np.float32)
    yield (
        _score,
        {"query": near, "position": places[:, None], "key": near[::-1].copy()}
        | {"frequency": np.float32(2) ** -np.arange(8, dtype=np.float32)}
        | _floats(scale=[0.35]),
    )
    yield _saturated, _floats(level=[1001.0, 999.0], slope=[64.0, 32.0], shift=[3.01, -2.03])
    yield _far, _floats(level=[1001.0], ripple=[257.9], offset=[1.0], gain=[1.0])


def _widest(network: Any, tensors: dict[str, np.ndarray]) -> str:
    right, moved = network(tensors), {}
    for name in tensors:
        rounded = tensors | {name: _to_bf16(tensors[name])}
        moved[name] = float(np.abs(network(rounded) - right).max())
    return max(moved, key=lambda name: moved[name])


must_stay_wide = Exercise(
    "must_stay_wide", _widest, ("the name of a tensor",), wide_cases,
    mistakes_in(_widest, {
        "all at once": ("you left one tensor as it is and rounded all others. Then every result is"
            " bad. Round a single one, and leave the rest exact.",
            "rounded = tensors | {name: _to_bf16(tensors[name])}",
            "rounded = {n: x if n == name else _to_bf16(x) for n, x in tensors.items()}"),
        "the harmless one": ("you return the tensor that matters least. Take the largest change.",
            "max(moved", "min(moved"),
        "the rounding itself": ("you compare a tensor with its rounded self. What counts is what"
            " the network makes of it: a large error may vanish, and a small one grow.",
            "network(rounded) - right", "rounded[name] - tensors[name]"),
        "signed": ("you take the largest difference with its sign. A change downward is a change,"
            " too.", "np.abs(network(rounded) - right)", "(network(rounded) - right)"),
        "the last one": ("you return the last name, whatever happened to its tensor.",
            "max(moved, key=lambda name: moved[name])", "list(moved)[-1]"),
    }),
    praise="Positions, as in chapter 02, and whatever is nearly canceled later.",
)  # fmt: skip

# ------------------------------------------------------------------------------------ exercise 7


def summed_cases() -> Iterator[tuple[jax.Array, jax.Array, jax.Array]]:
    """Arguments of `summed_down` for R devices: x_RTF and w_RFD, a part of F each, and b_D."""
    for R, T, F, D in ((2, 1, 3, 2), (4, 3, 5, 6), (8, 2, 16, 7)):
        keys = jax.random.split(jax.random.key(F), 3)
        shapes = (R, T, F), (R, F, D), (D,)
        x, w, b = (jax.random.normal(k, s, jnp.bfloat16) for k, s in zip(keys, shapes, strict=True))
        yield x, w, b


def _device(x_TF: jax.Array, w_FD: jax.Array, b_D: jax.Array) -> Any:
    part_TD = jnp.einsum("TF,FD->TD", x_TF, w_FD, preferred_element_type=jnp.float32)
    return jax.lax.psum(part_TD, "tensor") + b_D


class OnDevices(Exercise):
    """The function is that of one device; it runs on as many as the arguments have parts."""

    def _run(self, attempt: Callable[..., Any], case: tuple[Any, ...]) -> Any:
        def last(*parts: Any) -> Any:  # of the devices, which should all have the same
            over = jax.vmap(attempt, in_axes=(0, 0, None), axis_name="tensor")
            return jax.tree.map(lambda y: y[-1], over(*parts))

        return super()._run(last, case)


summed_down = OnDevices(
    "summed_down", _device, ("y_TD",), summed_cases,
    mistakes_in(_device, {
        "no sum over devices": ("each device has the sum over its own part of F only. Add the"
            " parts of all: jax.lax.psum(y_TD, \"tensor\").",
            'jax.lax.psum(part_TD, "tensor")', "part_TD"),
        "bias on every device": ("you add the bias before the sum over devices, so it is added as"
            " often as there are devices. Add it after.",
            'jax.lax.psum(part_TD, "tensor") + b_D', 'jax.lax.psum(part_TD + b_D, "tensor")'),
        "the mean": ("you take the mean over the devices. Parts of a sum are added.",
            "psum", "pmean"),
        "added in bf16": ("your products are added in bfloat16, and so are the parts. Ask for"
            " preferred_element_type=jnp.float32.",
            'jnp.einsum("TF,FD->TD", x_TF, w_FD, preferred_element_type=jnp.float32)',
            'jnp.einsum("TF,FD->TD", x_TF, w_FD).astype(jnp.float32)'),
        "no bias": ("the bias is missing.", " + b_D", ""),
    }),
    praise="XLA writes this psum for you, in the place where you have put it.",
    atol=1e-4,
)  # fmt: skip
