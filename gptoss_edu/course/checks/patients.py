"""The ten patients of chapter a2. Do not read on before you have named what ails them.

    from gptoss_edu.course.checks import patients
    patient = patients.patient(3)
    logits_BTV, seen = patient.observe(params, tokens_BT, config)

A patient runs the library's own code with a few functions replaced, so whatever it does differently
comes from those. Each was seen in a public implementation of GPT-OSS, or of a model with the same
part: the chapter links to where.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

import gptoss_edu.attention
import gptoss_edu.model
import gptoss_edu.moe
import gptoss_edu.mxfp4
from gptoss_edu.attention import Attention, attention, grouped_scores, grouped_values, visible
from gptoss_edu.config import Config
from gptoss_edu.model import Model, Params, observe, rms_norm
from gptoss_edu.moe import Routing, route, swiglu
from gptoss_edu.mxfp4 import dequantize
from gptoss_edu.rope import inverse_frequencies
from gptoss_edu.tokenizer import END

ROOM = 128  # rows are padded to a multiple of this, so that one length is compiled
Place = tuple[Any, str]  # a module or class, and the name in it that is replaced


@dataclasses.dataclass(frozen=True)
class Patient:
    """A model with something wrong in it, and the means to look at it.

    `replaced` maps places to wrong functions; `stops` are ids that end a reply beside the right
    ones.
    """

    number: int
    replaced: Mapping[Place, Callable[..., Any]]
    stops: tuple[int, ...] = ()

    def __repr__(self) -> str:
        return f"patient {self.number}"

    @contextlib.contextmanager
    def _ill(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for (owner, name), wrong in self.replaced.items():
                stack.enter_context(mock.patch.object(owner, name, wrong))
            yield

    def version_of(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The patient's version of one of the library's functions, to be called like the original.

        It runs with everything that is wrong in place, also in what the function calls.
        """
        name = getattr(function, "__name__", repr(function))
        wrong = next((w for (_, n), w in self.replaced.items() if n == name), function)

        @functools.wraps(function)
        def version(*arguments: Any, **options: Any) -> Any:
            with self._ill():
                return wrong(*arguments, **options)

        return version

    @functools.cached_property
    def _compiled(self) -> Callable[..., Any]:
        # A new function for each patient: jit would hand one patient's program to another.
        def observe_ill(params: Params, tokens_BT: jax.Array, config: Config) -> Any:
            with self._ill():
                return observe(params, tokens_BT, config)

        return jax.jit(observe_ill, static_argnames="config")

    def observe(self, params: Params, tokens_BT: Any, config: Config) -> Any:
        """What `gptoss_edu.model.observe` returns, (logits_BTV, seen), as this patient has it."""
        T = np.shape(tokens_BT)[1]
        padded_BT = np.pad(np.asarray(tokens_BT, np.int32), ((0, 0), (0, -T % ROOM)))
        found = self._compiled(params, padded_BT, config)
        return jax.tree.map(lambda array: _cut(array, T, padded_BT.shape[1]), found)

    def reply(
        self, model: Model, params: Params, prompt_ids: list[int], max_tokens: int = 64
    ) -> list[int]:
        """Ids that the patient writes after a prompt, each the likeliest, up to its stop.

        Without a cache, so that nothing but the patient's own ailment can be to blame.
        """
        tokenizer = model.tokenizer
        rows = tokenizer.to_rows(prompt_ids)
        stops = {*tokenizer.stop_rows, *tokenizer.to_rows(list(self.stops))}
        room = -(-(len(rows) + max_tokens) // ROOM) * ROOM
        tokens_1T = np.zeros((1, room), np.int32)
        tokens_1T[0, : len(rows)] = rows
        for at in range(len(rows), len(rows) + max_tokens):
            logits_BTV, _ = self._compiled(params, tokens_1T, model.config)
            tokens_1T[0, at] = int(jnp.argmax(logits_BTV[0, at - 1]))
            if int(tokens_1T[0, at]) in stops:
                break
        return tokenizer.to_ids(tokens_1T[0, len(rows) : at + 1].tolist())


def _cut(array: jax.Array, T: int, padded: int) -> jax.Array:
    """Without what padding added: the padding comes last, so nothing before it saw it."""
    return array[tuple(slice(T) if size == padded else slice(None) for size in array.shape)]


def patient(number: int) -> Patient:
    """Patient 1 to 10; patient 0 is healthy."""
    if number not in PATIENTS:
        raise ValueError(
            f"there is no patient {number}, expected 0 (healthy) to {len(PATIENTS) - 1}"
        )
    return PATIENTS[number]


# What follows gives everything away.
#
#
#
#
#
#
#
#
#
#
#
#


def _wide(position_BT: jax.Array, position_BS: jax.Array, window: int | None) -> jax.Array:
    return visible(position_BT, position_BS, None if window is None else window + 1)


def _twice(x_BTD: jax.Array, w_DE: jax.Array, b_E: jax.Array, experts_per_token: int) -> Routing:
    right = route(x_BTD, w_DE, b_E, experts_per_token)
    p_BTE = jax.nn.softmax(right.logits_BTE, axis=-1)
    p_BTX, expert_BTX = jax.lax.top_k(p_BTE, experts_per_token)
    return Routing(right.logits_BTE, expert_BTX, jax.nn.softmax(p_BTX, axis=-1))


def _rounded(head_dim: int, **settings: Any) -> tuple[np.ndarray, float]:
    return inverse_frequencies(head_dim, **{**settings, "truncate": True})


def _split(gate_up_P: jax.Array, limit: float, alpha: float = 1.702) -> jax.Array:
    gate_F, up_F = jnp.split(gate_up_P, 2, axis=-1)
    return swiglu(jnp.stack([gate_F, up_F], axis=-1).reshape(gate_up_P.shape), limit, alpha)


def _closed(p: Attention, *arguments: Any) -> Any:
    if arguments[-1] is None:
        p = dataclasses.replace(p, sinks_N=jnp.full_like(p.sinks_N, -1e4))
    return attention(p, *arguments)


def _early(x_BTD: jax.Array, scale_D: jax.Array, eps: float) -> jax.Array:
    y_BTD = rms_norm(x_BTD, jnp.ones_like(scale_D), eps).astype(jnp.bfloat16)
    return (y_BTD * scale_D.astype(jnp.bfloat16)).astype(x_BTD.dtype)


def _odd(config: Config, layer: int) -> int | None:
    return config.sliding_window if layer % 2 else None


def _turned(blocks_JUO: jax.Array, scales_JO: jax.Array) -> jax.Array:
    return dequantize((blocks_JUO >> 4) | (blocks_JUO << 4), scales_JO)


def _turned_product(x_TI: jax.Array, blocks_JUO: jax.Array, scales_JO: jax.Array) -> jax.Array:
    w_IO = _turned(blocks_JUO, scales_JO)
    return jnp.einsum("TI,IO->TO", x_TI, w_IO.astype(x_TI.dtype))


def _dealt(x_NH: jax.Array, K: int, axis: int) -> jax.Array:
    """Heads 0, K, 2K, ... first: so that grouping them in order deals them out in turn."""
    N = x_NH.shape[axis]
    return jnp.take(x_NH, np.arange(N).reshape(N // K, K).T.reshape(-1), axis=axis)


def _gathered(x_NH: jax.Array, K: int, axis: int) -> jax.Array:
    N = x_NH.shape[axis]
    return jnp.take(x_NH, np.arange(N).reshape(K, N // K).T.reshape(-1), axis=axis)


def _tiled_scores(q_BTNH: jax.Array, k_BSKH: jax.Array) -> jax.Array:
    K = k_BSKH.shape[2]
    return _gathered(grouped_scores(_dealt(q_BTNH, K, 2), k_BSKH), K, 1)


def _tiled_values(weights_BNTS: jax.Array, v_BSKH: jax.Array) -> jax.Array:
    K = v_BSKH.shape[2]
    return _gathered(grouped_values(_dealt(weights_BNTS, K, 1), v_BSKH), K, 2)


_A, _M, _E, _4 = gptoss_edu.attention, gptoss_edu.model, gptoss_edu.moe, gptoss_edu.mxfp4
PATIENTS: dict[int, Patient] = {
    0: Patient(0, {}),
    1: Patient(1, {(_A, "visible"): _wide}),
    2: Patient(2, {(_E, "route"): _twice}),
    3: Patient(3, {(_M, "inverse_frequencies"): _rounded}),
    4: Patient(4, {}, stops=(END,)),
    5: Patient(5, {(_E, "swiglu"): _split}),
    6: Patient(6, {(_M, "attention"): _closed}),
    7: Patient(7, {(_M, "rms_norm"): _early}),
    8: Patient(8, {(Config, "window"): _odd}),
    9: Patient(9, {(_4, "dequantize"): _turned, (_4, "packed_product"): _turned_product}),
    10: Patient(10, {(_A, "grouped_scores"): _tiled_scores, (_A, "grouped_values"): _tiled_values}),
}
