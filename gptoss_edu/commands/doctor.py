"""`doctor`: what is installed, what this machine has, and which models and chapters it can run.

Everything is looked up, nothing is downloaded, loaded or changed. What cannot be found out is said
in words, never raised: a doctor that faints is of no use.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from gptoss_edu import __version__
from gptoss_edu.config import GPT_OSS_20B, GPT_OSS_120B
from gptoss_edu.system import available_memory, cores
from gptoss_edu.tokenizer import load_encoding
from gptoss_edu.weights.folders import POCKET, read_config
from gptoss_edu.weights.hub import cache_folder, find_cached
from gptoss_edu.weights.layout import HF_PACKED, HF_PLAIN, stored_bytes
from gptoss_edu.weights.shards import find_tensors

PACKAGES = ("jax", "jaxlib", "numpy", "openai-harmony", "huggingface_hub")
HUB_20B = "openai/gpt-oss-20b"
GIB = 2**30
WORKSPACE = 3 * GIB  # keys and values, activations, the largest matrix in float32, Python itself
NOTEBOOK = 2 * GIB


HELP = "versions, memory, disk, and what can run here"


def add_flags(command: argparse.ArgumentParser) -> None:
    """For people, or for programs."""
    command.add_argument("--json", action="store_true", help="one JSON object, nothing else")


def run(args: argparse.Namespace) -> int:
    """Facts about this machine. Nothing is downloaded or loaded."""
    found = survey()
    print(json.dumps(found, ensure_ascii=False, indent=2) if args.json else describe(found))
    return 0


def survey() -> dict[str, Any]:
    """Everything that `describe` shows, as plain values for JSON."""
    devices = attempt(lambda: [f"{d.id}: {d.device_kind}" for d in jax.devices()])
    found: dict[str, Any] = {
        "versions": {"gptoss_edu": __version__, "python": platform.python_version()}
        | {package: version(package) for package in PACKAGES},
        "system": f"{platform.system()} {platform.machine()}",
        "cores": cores(),
        "backend": attempt(jax.default_backend),
        "devices": devices if isinstance(devices, list) else [devices],
        "memory": memory(),
        "disk": disk(),
        "vocabulary": attempt(lambda: load_encoding() and "ok"),
        "pocket": attempt(pocket),
        "hub_cache": attempt(lambda: str(find_cached(HUB_20B) or "not there")),
    }
    return found | {"can_run": verdicts(found)}


def attempt(look: Callable[[], Any]) -> Any:
    """What was found, or why it was not, in a line."""
    try:
        return look()
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return f"failed: {lines[0]}"


def version(package: str) -> str:
    """Version of an installed package."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def memory() -> dict[str, Any]:
    """Bytes where JAX puts arrays: all there are, and those not in use; None where unknown."""
    available, where = None, "unknown"
    result = attempt(available_memory)
    if isinstance(result, tuple):
        available, where = result
    total = None
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {"where": where, "available_bytes": available, "machine_total_bytes": total}


def disk() -> dict[str, Any]:
    """Free bytes where downloads go."""
    folder = cache_folder()
    there: Path = next((path for path in (folder, *folder.parents) if path.is_dir()), Path("."))
    return {"folder": str(folder), "free_bytes": shutil.disk_usage(there).free}


def pocket() -> str:
    """Is the model of this package complete? Judged by its headers."""
    layers = read_config(POCKET).num_layers
    find_tensors(POCKET)
    return f"ok, {layers} layers"


def verdicts(found: dict[str, Any]) -> list[dict[str, Any]]:
    """What can run here, and if not, what is missing."""
    packed, large = stored_bytes(GPT_OSS_20B, HF_PACKED), stored_bytes(GPT_OSS_120B, HF_PACKED)
    plain = stored_bytes(GPT_OSS_20B, HF_PLAIN)
    download = 0 if os.path.isdir(found["hub_cache"]) else packed
    course = "" if found["pocket"].startswith("ok") else "the pocket model is not there"
    on_tpu = "" if found["backend"] == "tpu" else "needs a TPU, as Google Colab lends them"
    rows = [
        ("the pocket model", WORKSPACE // 6, 0, course),
        ("GPT-OSS-20B, experts packed", packed + WORKSPACE, download, ""),
        ("GPT-OSS-20B in bf16", plain + WORKSPACE, download, ""),
        ("GPT-OSS-120B, experts packed", large + WORKSPACE, large, ""),
        ("chapters 00 to 07", NOTEBOOK, 0, course),
        ("chapter 08: the 20B on a CPU", packed + WORKSPACE, download, ""),
        ("chapter 09: the 20B on a TPU", packed + WORKSPACE // 2, download, on_tpu),
    ]
    return [verdict(found, *row) for row in rows]


def verdict(
    found: dict[str, Any], name: str, memory_bytes: int, disk_bytes: int, obstacle: str
) -> dict[str, Any]:
    """One row of the table."""
    reasons = [] if has_device(found) else ["JAX found no device"]
    reasons += [obstacle] if obstacle else []
    available, free = found["memory"]["available_bytes"], found["disk"]["free_bytes"]
    if available is not None and available < memory_bytes:
        reasons.append(
            f"needs {memory_bytes / GIB:.1f} GiB of memory, {available / GIB:.1f} are available"
        )
    if free < disk_bytes:
        reasons.append(f"needs {disk_bytes / 1e9:.1f} GB of disk, {free / 1e9:.1f} are free")
    return {
        "name": name,
        "yes": not reasons,
        "reason": "; ".join(reasons),
        "memory_bytes": memory_bytes,
        "disk_bytes": disk_bytes,
    }


def describe(found: dict[str, Any]) -> str:
    """The survey as lines for people."""
    total, available = found["memory"]["machine_total_bytes"], found["memory"]["available_bytes"]
    rows = list(found["versions"].items())
    rows += [
        ("system", f"{found['system']}, {found['cores']} cores"),
        ("JAX runs on", describe_devices(found)),
        ("memory", f"{gib(total)} in this machine"),
        ("", f"{gib(available)} available on {found['memory']['where']}"),
        ("disk", f"{found['disk']['free_bytes'] / 1e9:.1f} GB free for {found['disk']['folder']}"),
        ("vocabulary", found["vocabulary"]),
        ("pocket model", found["pocket"]),
        (f"{HUB_20B}", found["hub_cache"]),
    ]
    lines = [f"{name:<20}{value}" for name, value in rows]
    lines += ["", "What this machine can run now:"]
    for row in found["can_run"]:
        answer = "yes" if row["yes"] else "no "
        lines.append(f"  {answer}  {row['name']}" + (f": {row['reason']}" if row["reason"] else ""))
    return "\n".join(lines)


def describe_devices(found: dict[str, Any]) -> str:
    """Where arrays live, or why there is no such place."""
    if not has_device(found):
        asked = os.environ.get("JAX_PLATFORMS")
        return f"nothing, {found['backend']} (JAX_PLATFORMS is {asked!r}; unset it)"
    return f"{found['backend']} (device {', '.join(found['devices'])})"


def has_device(found: dict[str, Any]) -> bool:
    """Could JAX start at all?"""
    return not found["backend"].startswith("failed")


def gib(count: int | None) -> str:
    """Bytes for people."""
    return "unknown" if count is None else f"{count / GIB:.1f} GiB"
