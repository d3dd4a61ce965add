"""Chapter 09 on a borrowed machine: which chip is this, what fits, load it once.

A machine in a browser may be taken away at any time, and mistakes that show late waste it. So
everything that can be refused is refused before the download, in a sentence that names the menu to
use; and what is expensive (weights in the memory of the chip) is there once, however often a cell
runs.
"""

from __future__ import annotations

import dataclasses
import math
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from gptoss_edu.chips import fit, sharding
from gptoss_edu.chips.fit import CHIPS, GIB, Chip, Ledger, Roofline
from gptoss_edu.chips.precision import Choice, choose_precision
from gptoss_edu.config import GPT_OSS_20B, GPT_OSS_120B, Config
from gptoss_edu.model import Model, Params
from gptoss_edu.shapes import num_bytes
from gptoss_edu.system import available_memory
from gptoss_edu.weights.checkpoint import POCKET, load_model, read_config

HUB_20B, HUB_120B = "openai/gpt-oss-20b", "openai/gpt-oss-120b"
MODEL = "GPTOSS_EDU_MODEL"  # environment variable: a folder, a Hub id, or "pocket"
MENUS = {
    "Colab": "choose Runtime > Change runtime type > v5e-1 TPU > Save, then Runtime > Run all",
    "Kaggle": "choose Settings > Accelerator > TPU, then Run > Restart & run all",
}
# Part of what JAX calls a device -> the family of the chip.
FAMILIES = {
    "TPU v2": "v2", "TPU v5 lite": "v5e", "TPU v5e": "v5e", "TPU v6 lite": "v6e", "TPU v6e": "v6e",
    "H200": "h200", "H100": "h100", "A100": "a100", "L4": "l4", "T4": "t4",
}  # fmt: skip


class Refusal(RuntimeError):
    """Why this machine will not do, and what to choose; a notebook shows no traceback with it."""

    def _render_traceback_(self) -> list[str]:
        return [f"Stopped: {self}"]


def host() -> str | None:
    """Whose notebook service this is; None for a machine of your own."""
    if "google.colab" in sys.modules:
        return "Colab"
    return "Kaggle" if "KAGGLE_KERNEL_RUN_TYPE" in os.environ else None


def wanted_model() -> str | None:
    """What to load: as GPTOSS_EDU_MODEL says, else the 20B on Colab and Kaggle, and elsewhere the
    pocket model, which is None.
    """
    asked = os.environ.get(MODEL, HUB_20B if host() else "pocket")
    return None if asked in ("", "pocket") else asked


def config_of(model: str | None) -> Config:
    """The sizes of a model that is not here yet. Raises ValueError for an unknown Hub id."""
    known = {HUB_20B: GPT_OSS_20B, HUB_120B: GPT_OSS_120B}
    if model is None or Path(model).expanduser().is_dir():
        return read_config(POCKET if model is None else Path(model).expanduser())
    if model not in known:
        raise ValueError(
            f"{MODEL} is {model!r}, expected {HUB_20B}, {HUB_120B}, a folder with a checkpoint, or"
            " pocket"
        )
    return known[model]


def find_chip(model: str | None, devices: Sequence[Any] | None = None) -> Chip:
    """The chip that this notebook runs on; `devices` are those of JAX.

    Raises Refusal where a large model is wanted on Colab or Kaggle and there is neither a TPU nor a
    GPU, or where another process holds the TPU.
    """
    menu = MENUS.get(host() or "Colab")
    try:
        found = list(jax.devices() if devices is None else devices)
    except RuntimeError as error:
        raise Refusal(
            f"JAX cannot start its device ({str(error).splitlines()[0]}). A TPU belongs to one"
            f" process: shut down other notebooks on this machine, restart this one, or {menu}"
        ) from None
    first = found[0]
    if first.platform == "cpu":
        if model is not None and host():
            raise Refusal(
                f"this runtime has no TPU, only a CPU, too small or too slow for {model}. In"
                f" {host()}, {menu}. To try the notebook on the pocket model instead, run"
                f" %env {MODEL}=pocket in a cell of its own, and then this one again"
            )
        available, _ = available_memory()
        mine = sum(num_bytes(params) for _, params in _shelf.values())
        return Chip("cpu", 1, (available or 0) + mine, math.nan, math.nan)
    return _accelerator(found)


def _accelerator(devices: Sequence[Any]) -> Chip:
    """A chip of the table, with as many devices and as much memory as JAX reports."""
    kind, count = devices[0].device_kind, len(devices)
    stats = devices[0].memory_stats() or {}
    family = next((name for part, name in FAMILIES.items() if part in kind), None)
    like = next((chip for name, chip in CHIPS.items() if name.split("-")[0] == family), None)
    memory = stats.get("bytes_limit") or (like.memory_bytes if like else 0)
    if like is None:
        return Chip(kind, count, memory, math.nan, math.nan)
    name = f"{family}-{count}" if devices[0].platform == "tpu" else str(family)
    return dataclasses.replace(like, name=name, devices=count, memory_bytes=memory)


class Plan(NamedTuple):
    """What will lie where, decided before anything is downloaded."""

    model: str | None
    config: Config
    chip: Chip
    precision: str
    context: int
    ledger: Ledger
    roofline: Roofline
    reason: str


def make_plan(
    model: str | None, chip: Chip, context: int = 4096, precision: str | None = None
) -> Plan:
    """Choose a precision for a chip, or take the one that is asked for, and add up what it needs.

    Raises Refusal where it does not fit: before a download of 13.8 GB, not after it.
    """
    config = config_of(model)
    context = min(context, config.max_positions)
    choice = choose_precision(
        chip.name, chip.memory_bytes, config, context=context, devices=chip.devices
    )
    if precision is not None:
        choice = Choice(precision, f"{precision}, as was asked for")
    entry = fit.ledger(chip, config, choice.precision or "mxfp4", context)
    if choice.precision is None or not entry.fits:
        has, needs = entry.available / GIB, entry.total / GIB
        smallest = f"{precision} needs" if precision else "the smallest plan needs"
        raise Refusal(
            f"too little memory: {chip.name} has {has:.2f} GiB, and {smallest}"
            f" {needs:.2f} GiB on each device ({entry.weights / GIB:.2f} for weights,"
            f" {entry.cache / GIB:.2f} for {context:,} tokens of context,"
            f" {entry.workspace / GIB:.2f} to work). Nothing was downloaded. Shorten the context,"
            f" or {MENUS.get(host() or 'Colab')}"
        )
    roof = fit.roofline(chip, config, choice.precision, context)
    return Plan(model, config, chip, choice.precision, context, entry, roof, choice.reason)


# Model and weights by what was asked for: a cell that runs twice must not load twice.
_shelf: dict[tuple[Any, ...], tuple[Model, Params]] = {}


def load(plan: Plan) -> tuple[Model, Params]:
    """(model, params) as planned: the same again if they are here already.

    Layers go to the device one by one and take their precision there. What an earlier plan loaded,
    or half loaded, is taken off the device first, whoever still has a name for it: two copies of
    the 20B fit nowhere. Raises what `load_model` raises.
    """
    key = plan.model, plan.precision, plan.chip.name, plan.chip.devices
    if key in _shelf:
        return _shelf[key]
    unload()
    mesh = None if plan.chip.name == "cpu" else sharding.make_mesh(plan.chip.devices)
    precision = "auto" if plan.precision == "mxfp4" else plan.precision  # packed is as stored
    try:
        model, params = load_model(plan.model, precision=precision, mesh=mesh)
    except BaseException as error:
        # A notebook keeps the last error, its frames, and so the layers that were read by then.
        traceback.clear_frames(error.__traceback__)
        raise
    _shelf[key] = dataclasses.replace(model, dtype=plan.chip.dtype), params
    return _shelf[key]


def unload() -> None:
    """Free the memory of everything that `load` has loaded."""
    while _shelf:
        _, (_, params) = _shelf.popitem()
        for leaf in jax.tree.leaves(params):
            leaf.delete()
