"""What this machine gives: the memory that is left, so that what does not fit is refused before
anything is allocated; its cores; and a folder for what is kept from one run to the next.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import re
import shutil
import stat
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def available_memory() -> tuple[int | None, str]:
    """(bytes that can still be allocated where JAX puts arrays, name of that place). None where the
    system does not say. Limits of a container, a job or a shell count, too.
    """
    import jax

    device = jax.devices()[0]
    if device.platform != "cpu":
        stats = device.memory_stats() or {}
        if "bytes_limit" not in stats:
            return None, device.device_kind
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0), device.device_kind
    limits = (_free(), _cgroup(), _rlimit())
    return min((limit for limit in limits if limit is not None), default=None), "this machine"


def _free() -> int | None:
    """What the kernel says is left; where it does not say, all memory that there is."""
    if os.access("/proc/meminfo", os.R_OK):
        match = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
        return int(match[1]) * 1024 if match else None
    if sys.platform == "win32" or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _cgroup(
    root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> int | None:
    """What the control groups may still allocate: this process's own and all above it.

    Containers, SLURM jobs and systemd's slices nest them, and the tightest one kills. Each has a
    limit, of which is gone what it uses and cannot drop.
    """
    lines = own.read_text().splitlines() if os.access(own, os.R_OK) else []
    left = []
    for line in lines or ["0::/", "1:memory:/"]:
        _, controllers, path = line.split(":", 2)
        if controllers == "":  # version 2, whose tree some systems hang below version 1's
            tops, names = [root, root / "unified"], "memory.max memory.current inactive_file"
        else:
            tops = [root / "memory"] if "memory" in controllers.split(",") else []
            names = "memory.limit_in_bytes memory.usage_in_bytes total_inactive_file"
        group = Path("/" if ".." in path else path)  # above what this container sees
        for place in (group, *group.parents):
            left += [_left(top / place.relative_to("/"), *names.split()) for top in tops]
    return min((bytes_ for bytes_ in left if bytes_ is not None), default=None)


def _left(group: Path, limit: str, used: str, cache: str) -> int | None:
    try:
        allowed = int((group / limit).read_text())  # "max", no limit, is no number
        stat_of = dict(map(str.split, (group / "memory.stat").read_text().splitlines()))
        return max(0, allowed - int((group / used).read_text()) + int(stat_of.get(cache, 0)))
    except (OSError, ValueError):
        return None


def _rlimit() -> int | None:
    """What `ulimit -v` and `ulimit -d` leave to this process."""
    if sys.platform != "linux":
        return None
    import resource

    pages = Path("/proc/self/statm").read_text().split()
    left = []
    for which, used in ((resource.RLIMIT_AS, pages[0]), (resource.RLIMIT_DATA, pages[5])):
        if (limit := resource.getrlimit(which)[0]) != resource.RLIM_INFINITY:
            left.append(max(0, limit - int(used) * resource.getpagesize()))
    return min(left, default=None)


def cache_folders() -> Iterator[Path]:
    """Folders for what is kept, best first: the user's cache, else one of this process alone, where
    nobody else can write: what is read back from there may be code.
    """
    if folder := user_cache():
        yield folder
    with contextlib.suppress(OSError):  # there may be no room for temporary files either
        yield _process_folder(os.getpid())


def user_cache() -> Path | None:
    """The user's cache folder, made now if need be; None, with a warning, where others own it."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    if not os.path.isabs(base):
        return None
    folder = Path(os.path.realpath(base)) / "gptoss_edu"
    try:
        if not (problem := why_shared(folder)):
            folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.mkdir(mode=0o700, exist_ok=True)
            problem = why_shared(folder)
    except OSError:
        return None
    if problem:
        said = f"nothing is kept in {folder}, where others could put what we then run: {problem}"
        warnings.warn(f"{said}; set XDG_CACHE_HOME to a folder that is yours alone", stacklevel=1)
    return None if problem else folder


def why_shared(path: Path) -> str | None:
    """How somebody else could change a folder or file (an absolute path without links).

    None where nobody can: it is the user's own, others may not write to it, nor put another one in
    its place, which takes the right to write in a folder above it. Places that do not exist yet are
    passed over. On Windows, where rights are not in the mode, the home folder counts as closed.
    """
    if sys.platform == "win32":
        home = Path.home().resolve()
        return None if path.is_relative_to(home) else f"it is not inside {home}"
    for place in (path, *path.parents):
        try:
            found = os.lstat(place)
        except FileNotFoundError:
            continue
        if stat.S_IFMT(found.st_mode) not in (stat.S_IFDIR, stat.S_IFREG):
            return f"{place} is neither a folder nor a file"
        if found.st_uid != os.geteuid() and (place == path or found.st_uid != 0):
            return f"{place} belongs to another user (number {found.st_uid})"
        # In a sticky folder, as /tmp is, nobody can rename what belongs to somebody else.
        if found.st_mode & 0o022 and (place == path or not found.st_mode & stat.S_ISVTX):
            return f"others may write to {place}"
    return None


@functools.cache
def _process_folder(process: int) -> Path:
    """A new folder for this process, which nobody can have prepared; it goes with the process."""
    folder = Path(tempfile.mkdtemp(prefix="gptoss_edu-"))

    def remove() -> None:
        if os.getpid() == process:  # not in a child that was forked
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return folder
