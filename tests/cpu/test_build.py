"""Compiled code comes only from where nobody else can put it, whole, or it is compiled again."""

import os
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gptoss_edu import load_model
from gptoss_edu.cpu import build, native

needs_compiler = pytest.mark.skipif(
    build.find_compiler() is None, reason="there is no C++ compiler: c++, g++ or clang++"
)
posix = pytest.mark.skipif(sys.platform == "win32", reason="rights are not in the mode on Windows")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, and kernels of one line that are compiled in no time."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "base"))
    tiny = tmp_path / "tiny.cc"
    tiny.write_text("".join(f'extern "C" int {name}() {{ return 1; }}\n' for name in build.KERNELS))
    monkeypatch.setattr(build, "SOURCE", tiny)
    monkeypatch.setattr(build, "FLAGS", ("-shared", "-fPIC"))
    build.load_kernels.cache_clear()
    yield tmp_path / "base" / "gptoss_edu"
    build.load_kernels.cache_clear()


@pytest.fixture
def registered(monkeypatch):
    """Kernels that would be handed to XLA, by name."""
    found = {}
    monkeypatch.setattr(build.jax.ffi, "pycapsule", lambda handler: handler())
    monkeypatch.setattr(
        build.jax.ffi, "register_ffi_target", lambda name, it, platform: found.update({name: it})
    )
    return found


def library() -> Path:
    return build.built_library(build.find_compiler())


@needs_compiler
def test_compiled_once(cache, registered):
    """A second start uses the library, which nobody else may write, and leaves it as it is."""
    build.load_kernels()
    assert registered == {f"gptoss_edu_{name}": 1 for name in build.KERNELS}
    (path,) = cache.iterdir()
    made = path.stat()
    assert library() == path
    assert path.stat().st_mtime_ns == made.st_mtime_ns
    assert sys.platform == "win32" or stat.S_IMODE(made.st_mode) == 0o700


@needs_compiler
@pytest.mark.parametrize("damage", ["empty", "short", "garbage", "one byte", "nothing is ours"])
def test_a_library_that_is_not_whole_is_compiled_again(cache, registered, damage):
    """A full disk, a kill, a bad sector: it is never given to the dynamic loader, which crashes."""
    path = library()
    whole = path.read_bytes()
    middle = len(whole) // 2
    broken = {
        "empty": b"",
        "short": whole[:middle],
        "garbage": os.urandom(len(whole)),
        "one byte": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
        "nothing is ours": whole,
    }[damage]
    path.write_bytes(broken)
    if damage == "nothing is ours":
        path.chmod(0o777)
    build.load_kernels()
    assert len(registered) == len(build.KERNELS)
    (again,) = cache.iterdir()
    assert again.read_bytes() == whole
    assert sys.platform == "win32" or stat.S_IMODE(again.stat().st_mode) == 0o700


EVIL = 'extern "C" __attribute__((constructor)) void run() { __builtin_trap(); }'


@posix
@needs_compiler
@pytest.mark.parametrize("how", ["writable", "foreign"])
def test_code_that_others_could_have_put_there_never_runs(cache, tmp_path, how):
    """A folder that was prepared, with a library under the name that will be looked for."""
    if how == "foreign" and os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    path = library()
    evil = tmp_path / "evil.cc"
    evil.write_text(EVIL)
    made = [*build.find_compiler(), "-shared", "-fPIC", str(evil), "-o", str(path)]
    subprocess.run(made, check=True)
    key = path.stem.split("-")[1]
    path = path.rename(path.with_name(f"native-{key}-{build.hash_of(path.read_bytes())}.so"))
    if how == "foreign":
        for each in (path, cache):
            os.chown(each, 12345, 12345)
    else:
        cache.chmod(0o777)
    code = (
        "from pathlib import Path; from gptoss_edu.cpu import build;"
        f"build.SOURCE = Path({str(build.SOURCE)!r}); build.FLAGS = {build.FLAGS!r};"
        "build.jax.ffi.pycapsule = lambda handler: handler();"
        "build.jax.ffi.register_ffi_target = lambda name, it, platform: print(name, it);"
        "build.load_kernels()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [w for n in build.KERNELS for w in (f"gptoss_edu_{n}", "1")]
    assert "nothing is kept in" in done.stderr


@needs_compiler
def test_a_folder_that_cannot_be_written_is_passed_over(tmp_path, cache, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    monkeypatch.setattr(build, "cache_folders", lambda: [blocked / "x", blocked])
    with pytest.raises(RuntimeError, match=r"could not be written: .*file.*XDG_CACHE_HOME"):
        library()
    (tmp_path / "second").mkdir()
    monkeypatch.setattr(build, "cache_folders", lambda: [blocked / "x", tmp_path / "second"])
    assert library().parent == tmp_path / "second"
    monkeypatch.setattr(build, "cache_folders", lambda: [])
    with pytest.raises(RuntimeError, match="no folder is private"):
        library()


@needs_compiler
def test_a_compiler_that_fails(cache):
    """Its last words are shown, and nothing half made stays in the cache."""
    build.SOURCE.write_text("this is no C++")
    with pytest.raises(RuntimeError, match=r"(?s)could not compile tiny.cc.*another compiler"):
        library()
    assert list(cache.iterdir()) == []


@needs_compiler
def test_what_a_killed_process_left_goes(cache):
    """Not at once: another process may be compiling."""
    cache.mkdir(parents=True, mode=0o700)
    old, young = cache / ".native-old.so", cache / ".native-young.so"
    for draft in (old, young):
        draft.write_bytes(b"half")
    os.utime(old, (0, time.time() - build.PATIENCE - 1))
    path = library()
    assert sorted(cache.iterdir()) == sorted([young, path])


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


@posix
@needs_compiler
def test_cxx_may_have_arguments(cache, tmp_path, monkeypatch, registered):
    """`CXX="ccache g++ -DX"`, as build systems write it; a blank one is no compiler."""
    (compiler,) = build.find_compiler()
    wrapper = script(tmp_path / "cc ache", f'echo "$@" >> {tmp_path}/calls; exec "$@"')
    monkeypatch.setenv("CXX", f"'{wrapper}' {compiler} -DANSWER=1")
    assert build.find_compiler() == [wrapper, compiler, "-DANSWER=1"]
    build.load_kernels()
    assert len(registered) == len(build.KERNELS)
    assert f"{compiler} -DANSWER=1 -shared" in (tmp_path / "calls").read_text()
    for nothing in (" ", '"', "no-such-compiler -O2"):
        monkeypatch.setenv("CXX", nothing)
        assert build.find_compiler() is None


@posix
@pytest.mark.parametrize(
    "text, words",
    [
        ("sleep 60", "timed out"),
        ("exit 0", "cannot be loaded"),  # it says that all is well, and wrote nothing
        ('while [ "$1" != -o ]; do shift; done; echo garbage > "$2"', "cannot be loaded"),
        ("echo broken >&2; exit 1", "could not compile tiny.cc: broken"),
        (None, "does not run"),
    ],
)
def test_auto_goes_on_without_the_kernels(cache, tmp_path, monkeypatch, text, words):
    """Whatever is wrong with the compiler, one warning says it, and the model is there."""
    compiler = tmp_path / "c++"
    if text is None:
        compiler.write_bytes(b"\x7fELF, not quite")
        compiler.chmod(0o755)
    else:
        script(compiler, text)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setattr(build, "PATIENCE", 1)
    monkeypatch.setattr(native, "WORTHWHILE", 1)
    with pytest.warns(UserWarning, match=words) as said:
        load_model()
    assert len(said) == 1
    assert not list(cache.glob("*.so")), "the next start compiles again"


def test_without_a_compiler(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    build.load_kernels.cache_clear()
    with pytest.raises(RuntimeError, match=r"found none.*install one.*backend=\"jax\""):
        build.load_kernels()
