"""Before anything is downloaded or allocated: would this model run on that machine, and how fast?

`python -m gptoss_edu fit` prints it. The chip chooses the precision unless one is named.
"""

from __future__ import annotations

from typing import Any

from gptoss_edu.chips import tpu
from gptoss_edu.chips.fit import GIB, Chip, find_chip, ledger, read_bytes, roofline
from gptoss_edu.chips.precision import PRECISIONS, choose_precision
from gptoss_edu.config import GPT_OSS_20B, GPT_OSS_120B, Config
from gptoss_edu.generation import chunk_size

MODELS = {"20b": GPT_OSS_20B, "120b": GPT_OSS_120B}


def preflight(
    chip: str, model: str, precision: str, context: int, *, ask_compiler: bool = False
) -> dict[str, Any]:
    """Everything that `describe` shows, as plain values for JSON. `precision` "auto" lets the chip
    choose. With `ask_compiler` the TPU compiler has the last word on `fits`.

    Raises ValueError for words that are not in the tables, or a context that the model cannot hold.
    """
    if model not in MODELS:
        raise ValueError(f"model {model!r} is unknown; expected one of {', '.join(MODELS)}")
    if precision not in PRECISIONS:
        raise ValueError(
            f"precision {precision!r} is unknown; expected one of {', '.join(PRECISIONS)}"
        )
    machine, config = find_chip(chip), MODELS[model]
    if not 0 < context <= config.max_positions:
        raise ValueError(f"context is {context:,}, expected 1 to {config.max_positions:,} tokens")
    reason = f"{precision} was asked for"
    if precision == "auto":
        size, devices = machine.memory_bytes, machine.devices
        choice = choose_precision(chip, size, config, context=context, devices=devices)
        precision, reason = choice.precision or "mxfp4", choice.reason
    found = ledger(machine, config, precision, context)
    ideal = round(read_bytes(config, precision, context, machine.dtype))
    result = {
        "chip": chip,
        "devices": machine.devices,
        "model": model,
        "precision": precision,
        "context": context,
        "weight_bytes": found.weights,
        "cache_bytes": found.cache,
        "workspace_bytes": found.workspace,
        "available_bytes": found.available,
        "fits": found.fits,
        "bytes_per_token": ideal,
        "ideal_bytes_per_token": ideal,
        "roofline_tokens_per_s": roofline(machine, config, precision, context).tokens_per_second,
        "reason": reason,
        "compiled": False,
        "argument_bytes": None,
        "temp_bytes": None,
        "prefill_tokens": None,
        "prefill_bytes": None,
        "collectives_per_token": None,
        "collective_bytes_per_token": None,
    }
    return result | (_ask(machine, config, precision, context) if ask_compiler else {})


def _ask(machine: Chip, config: Config, precision: str, context: int) -> dict[str, Any]:
    """What the TPU compiler says of decode and prefill, per device; bytes read are of all devices.

    Prefill leaves the unembedding alone, so the compiler does not count it there; it lies in memory
    all the same.
    """
    decode = tpu.compile_decode(machine, config, precision, context)
    if not decode.compiled:
        return {"fits": False, "reason": f"decode: {decode.reason}"}
    prefill = tpu.compile_prefill(machine, config, precision, context)
    if not prefill.compiled:
        return {"fits": False, "reason": f"prefill: {prefill.reason}"}
    held, extra = decode.argument_bytes, max(decode.temp_bytes, prefill.temp_bytes)
    fits, reason = held + extra <= machine.memory_bytes, decode.reason
    if not fits:
        reason = (
            f"prefill needs {extra / GIB:.2f} GiB beside weights and cache of {held / GIB:.2f} GiB,"
            f" there are {machine.memory_bytes / GIB:.2f}"
        )
    return {
        "fits": fits,
        "compiled": True,
        "argument_bytes": held,
        "temp_bytes": extra,
        "bytes_per_token": decode.read_bytes * machine.devices,
        "prefill_tokens": chunk_size(config, 1, context),
        "prefill_bytes": prefill.read_bytes * machine.devices,
        "collectives_per_token": sum(each.count for each in decode.messages.values()),
        "collective_bytes_per_token": sum(each.bytes for each in decode.messages.values()),
        "reason": reason,
    }


def describe(found: dict[str, Any]) -> str:
    """The ledger for people."""
    each = " per device" if found["devices"] > 1 else ""
    title = f"GPT-OSS-{found['model'].upper()} in {found['precision']} on {found['chip']}"
    rows = [
        (f"weights{each}", found["weight_bytes"] / GIB, "GiB"),
        (f"keys and values of {found['context']:,} tokens", found["cache_bytes"] / GIB, "GiB"),
        ("working room", found["workspace_bytes"] / GIB, "GiB"),
        (f"available{each}", found["available_bytes"] / GIB, "GiB"),
        ("read per token", found["bytes_per_token"] / 1e9, "GB"),
        ("ceiling", found["roofline_tokens_per_s"], "tokens/s"),
    ]
    if found["compiled"]:
        rows += [
            ("weights and cache, compiled", found["argument_bytes"] / GIB, "GiB"),
            ("temporaries, compiled", found["temp_bytes"] / GIB, "GiB"),
            ("read per token, without waste", found["ideal_bytes_per_token"] / 1e9, "GB"),
            (f"read per {found['prefill_tokens']} of a prompt", found["prefill_bytes"] / 1e9, "GB"),
        ]
    if found["collectives_per_token"]:
        size = found["collective_bytes_per_token"] / 1e6
        rows += [
            ("collectives per token", found["collectives_per_token"], f"of {size:.2f} MB together")
        ]
    lines = [f"  {name:<36}{value:>9.2f} {unit}" for name, value, unit in rows]
    verdict = "fits" if found["fits"] else "does not fit"
    return "\n".join([title, *lines, f"It {verdict}. {found['reason']}."])
