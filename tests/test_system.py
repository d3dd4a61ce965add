"""What is left, by the machine and by all limits on the way; and a cache that is the user's own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gptoss_edu import system

posix = pytest.mark.skipif(sys.platform == "win32", reason="rights are not in the mode on Windows")
root = pytest.mark.skipif(
    sys.platform == "win32" or os.geteuid() != 0, reason="only root can give a folder away"
)


@pytest.mark.skipif(sys.platform != "linux", reason="a process is held to some cores only there")
def test_cores_are_those_of_this_process(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5, 7})
    assert system.cores() == 3


def test_available_memory_is_a_plausible_number():
    available, where = system.available_memory()
    assert where == "this machine"
    assert 2**24 < available < 2**45


def group(folder: Path, limit: str, used: int, cache: int, version: int = 2) -> None:
    """A control group as the kernel shows it."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ["memory.max", "memory.current", "inactive_file"]
    if version == 1:
        names = ["memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"]
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 500\n{names[2]} {cache}\n")


def test_a_container_allows_what_it_has_left(tmp_path):
    group(tmp_path, "1000", 700, 150)
    assert system._cgroup(tmp_path, tmp_path / "no list") == 450
    group(tmp_path, "max", 700, 150)
    assert system._cgroup(tmp_path, tmp_path / "no list") is None


@pytest.mark.parametrize("version, line, top", [(2, "0::", ""), (1, "7:cpu,memory:", "memory")])
def test_the_tightest_group_counts(tmp_path, version, line, top):
    """The process's own, or one above it: SLURM and systemd nest them."""
    own, tree = tmp_path / "cgroup", tmp_path / "tree"
    own.write_text(f"12:pids:/elsewhere\n{line}/slurm/job_7/step_0\n")
    limits = {"slurm/job_7/step_0": "9000", "slurm/job_7": "5000", "slurm": "8000", "": "9000"}
    for name, limit in limits.items():
        group(tree / top / name, limit, 1000, 0, version)
    group(tree / top / "elsewhere", "1001", 1000, 0, version)
    assert system._cgroup(tree, own) == 4000
    group(tree / top / "slurm/job_7/step_0", "3000", 1000, 500, version)
    assert system._cgroup(tree, own) == 2500
    group(tree / top / "slurm/job_7/step_0", "900", 1000, 0, version)
    assert system._cgroup(tree, own) == 0


@pytest.mark.parametrize("path", ["/host/only", "/../../outside"])
def test_a_group_that_cannot_be_seen_from_here(tmp_path, path):
    """A container may know its group by the host's path: then the root is its own group."""
    own = tmp_path / "cgroup"
    own.write_text(f"0::{path}\n")
    group(tmp_path / "tree", "1000", 700, 150)
    group(tmp_path, "10", 9, 0)
    assert system._cgroup(tmp_path / "tree", own) == 450


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux holds on to these limits")
@pytest.mark.parametrize("name, flag", [("RLIMIT_AS", "v"), ("RLIMIT_DATA", "d")])
def test_a_limit_of_the_shell_counts(name, flag):
    code = "from gptoss_edu.system import _rlimit; print(_rlimit())"
    shell = f'ulimit -S -{flag} 3000000; exec "$0" -c "$1"'
    found = subprocess.check_output(["bash", "-c", shell, sys.executable, code], text=True)
    assert 3_000_000 * 1024 * 0.5 < int(found) < 3_000_000 * 1024, name


def test_without_limits_there_are_none():
    if sys.platform == "linux":
        import resource

        for which in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
            assert resource.getrlimit(which)[0] == resource.RLIM_INFINITY, "this test needs it"
    assert system._rlimit() is None


# --- the user's cache ---


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Where the cache is going to be, and where temporary files are."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "base"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(system.tempfile, "gettempdir", lambda: str(tmp_path / "tmp"))
    system._process_folder.cache_clear()
    yield tmp_path / "base" / "gptoss_edu"
    system._process_folder.cache_clear()


@posix
def test_the_cache_is_closed_to_others(cache):
    """Whatever the umask: folders that are made here are made for the user alone."""
    before = os.umask(0)
    try:
        assert system.user_cache() == cache
    finally:
        os.umask(before)
    for folder in (cache, cache.parent):
        assert folder.stat().st_mode & 0o777 == 0o700


def refused(cache: Path) -> None:
    """Not used, said why, and a folder of this process serves instead."""
    with pytest.warns(UserWarning, match=r"nothing is kept in .*XDG_CACHE_HOME") as said:
        assert system.user_cache() is None
    assert len(said) == 1
    with pytest.warns(UserWarning, match="nothing is kept in"):
        (folder,) = system.cache_folders()
    assert folder.parent.name == "tmp"
    assert folder.stat().st_mode & 0o777 == 0o700


@posix
@pytest.mark.parametrize("mode", [0o777, 0o775, 0o757, 0o1777])
def test_a_folder_that_others_can_write_is_not_used(cache, mode):
    cache.mkdir(parents=True)
    cache.chmod(mode)
    refused(cache)


@posix
def test_a_folder_that_others_can_replace_is_not_used(cache):
    """It is the user's own, but lies where others may rename it. Not so where that is sticky."""
    cache.mkdir(mode=0o700, parents=True)
    cache.parent.chmod(0o777)
    refused(cache)
    cache.parent.chmod(0o1777)
    assert system.user_cache() == cache


@root
@pytest.mark.parametrize("which", ["folder", "above"])
def test_a_folder_of_another_user_is_not_used(cache, which):
    """Prepared by somebody else, or root in the home folder of a user (`sudo -E`)."""
    cache.mkdir(mode=0o700, parents=True)
    os.chown(cache if which == "folder" else cache.parent, 12345, 12345)
    refused(cache)


@root
def test_what_root_owns_above_is_no_danger(cache, monkeypatch):
    """As for every ordinary user: / and /home are root's."""
    cache.mkdir(mode=0o700, parents=True)
    os.chown(cache, 12345, 12345)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert system.why_shared(cache.resolve()) is None


@root
def test_nothing_is_made_in_the_home_folder_of_another_user(cache):
    cache.parent.mkdir()
    os.chown(cache.parent, 12345, 12345)
    refused(cache)
    assert not cache.exists()


@posix
def test_a_link_is_not_used(cache, tmp_path):
    """Nor is where it leads; but the user may link the whole of his cache to a larger disk."""
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    cache.parent.mkdir(mode=0o700)
    cache.symlink_to(tmp_path / "elsewhere")
    refused(cache)
    cache.unlink()
    cache.parent.rmdir()
    cache.parent.symlink_to(tmp_path / "elsewhere")
    assert system.user_cache() == tmp_path / "elsewhere" / "gptoss_edu"


def test_without_a_home_only_the_process_has_a_folder(cache, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "nowhere")
    monkeypatch.setenv("USERPROFILE", "nowhere")
    assert system.user_cache() is None
    (folder,) = system.cache_folders()
    assert folder.parent.name == "tmp"
    assert next(system.cache_folders()) == folder, "one is enough for a process"


@posix
def test_no_name_in_the_temporary_folder_is_known_in_advance(cache, monkeypatch):
    """Two processes of one user get two names, and each takes its folder along when it ends."""
    code = "from gptoss_edu.system import cache_folders as c; f, = c(); print(f, f.is_dir())"
    environment = os.environ | {"XDG_CACHE_HOME": "/dev/null/no", "TMPDIR": str(cache.parents[1])}
    runs = [
        subprocess.check_output([sys.executable, "-c", code], env=environment, text=True).split()
        for _ in range(2)
    ]
    names = {Path(name) for name, there in runs if there == "True"}
    assert len(names) == 2
    assert not any(name.exists() for name in names)


def test_windows_goes_by_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(system.sys, "platform", "win32")
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "me")
    assert system.why_shared((tmp_path / "me" / ".cache").resolve()) is None
    assert "is not inside" in system.why_shared((tmp_path / "all").resolve())


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells the truth only there")
def test_where_the_kernel_does_not_say_what_is_left_all_memory_counts(monkeypatch):
    told = Path("/proc/meminfo").read_text()
    total = 1024 * int(re.search(r"MemTotal:\s+(\d+) kB", told)[1])
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert system._free() == pytest.approx(total, rel=0.05)
