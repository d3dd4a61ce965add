"""What this machine gives: the memory that is left, so that what does not fit is refused before
anything is allocated; its cores; and a folder for what is kept from one run to the next.
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def available_memory() -> tuple[int | None, str]:
    """(bytes that can still be allocated where JAX puts arrays, name of that place).

    None where the system does not say. In a container the limit is the container's.
    """
    import jax

    device = jax.devices()[0]
    if device.platform != "cpu":
        stats = device.memory_stats() or {}
        if "bytes_limit" not in stats:
            return None, device.device_kind
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0), device.device_kind
    limits = [limit for limit in (_meminfo(), _cgroup()) if limit is not None]
    if not limits and hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    return min(limits, default=None), "this machine"


def _meminfo() -> int | None:
    try:
        match = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
        return int(match[1]) * 1024 if match else None
    except OSError:
        return None


def _cgroup(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What a container may still allocate: its limit, less what it uses and cannot drop."""
    for limit, used, cache in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            allowed = int((root / limit).read_text())  # "max", no limit, is no number
            stat = dict(
                map(str.split, (root / limit).with_name("memory.stat").read_text().splitlines())
            )
            return allowed - int((root / used).read_text()) + int(stat.get(cache, 0))
        except (OSError, ValueError):
            continue
    return None


def cache_folders() -> list[Path]:
    """Where files may be kept: the user's cache, else a temporary folder."""
    folders = []
    if base := os.environ.get("XDG_CACHE_HOME"):
        folders.append(Path(base) / "gptoss_edu")
    else:
        home = os.path.expanduser("~")
        if os.path.isabs(home):
            folders.append(Path(home) / ".cache" / "gptoss_edu")
    user = getattr(os, "getuid", lambda: "user")()
    return [*folders, Path(tempfile.gettempdir()) / f"gptoss_edu-{user}"]
