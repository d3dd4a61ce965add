"""Compiled code comes only from where nobody else can put it, whole, or it is compiled again."""

import os
import re
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


WRITE = 'while [ "$1" != -o ]; do shift; done; '
BAD_COMPILERS = {
    "it never ends": ("sleep 600", "timed out after 1 seconds"),
    "it is silent and never ends": ("exec >&- 2>&-; sleep 600", "timed out after 1 seconds"),
    "it waits for input": ("cat; exit 3", "exit status 3.*it said nothing"),
    "it never stops talking": ("yes", r"exit status -?\d+.*y\ny"),
    "it leaves a child with the pipe": ("sleep 600 & exit 1", "exit status 1"),
    "it is killed": ("kill -9 $$", "exit status -9.*it said nothing"),
    "it says that all is well": ("exit 0", "exit status 1.*native.so"),
    "it writes garbage": (WRITE + 'echo garbage > "$2"', "exit status 1.*native.so"),
    "it writes nothing": (WRITE + ': > "$2"', "exit status 1.*native.so"),
    "it writes a folder": (WRITE + 'mkdir "$2"', "exit status 1.*native.so"),
    "it writes half": (WRITE + 'head -c 5000 /bin/sh > "$2"', "exit status -?[0-9]+"),
    "it writes another library": (WRITE + 'cp /proc/self/exe "$2"', "exit status 1"),
    "it speaks": (
        "echo broken >&2; exit 1",
        r"could not compile tiny.cc \(exit status 1\): broken",
    ),
    "it speaks no UTF-8": ("printf '\\377\\376' >&2; exit 1", "exit status 1.*: \ufffd\ufffd;"),
    "it is no program": (None, "does not run"),
}


@posix
@pytest.mark.parametrize("text, words", BAD_COMPILERS.values(), ids=BAD_COMPILERS)
def test_auto_goes_on_without_the_kernels(cache, tmp_path, monkeypatch, text, words):
    """Whatever is wrong with the compiler, one warning says it, and the model is there."""
    compiler = tmp_path / "c++"
    if text is None:
        compiler.write_bytes(b"\x7fELF, not quite")
        compiler.chmod(0o755)
    else:
        script(compiler, f'echo $$ >> {tmp_path}/groups; [ "$1" = --version ] && exit; {text}')
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setattr(build, "PATIENCE", 1)
    monkeypatch.setattr(native, "WORTHWHILE", 1)
    with pytest.warns(UserWarning, match=f"(?s){words}") as said:
        load_model()
    assert len(said) == 1
    assert "$CXX" in str(said[0].message)
    assert len(str(said[0].message)) < 1500
    assert list(cache.iterdir()) == [], "the next start compiles again"
    groups = (tmp_path / "groups").read_text().split() if text else []
    running = subprocess.check_output(["ps", "-axo", "pgid=,stat="], text=True).splitlines()
    ours = [line.split() for line in running if line.split()[0] in groups]
    assert [state for _, state in ours if not state.startswith("Z")] == []


@posix
@needs_compiler
def test_auto_mends_what_a_bad_compiler_made(cache, tmp_path, monkeypatch, registered):
    """One warning, and the next start with a good compiler has its kernels."""
    monkeypatch.setattr(native, "WORTHWHILE", 1)
    monkeypatch.setenv(
        "CXX", script(tmp_path / "c++", WRITE + '[ "$1" ] && echo bad > "$2"; exit 0')
    )
    with pytest.warns(UserWarning, match="could not compile tiny.cc"):
        assert native.wanted("auto", 2880) is False
    monkeypatch.delenv("CXX")
    assert native.wanted("auto", 2880) is True
    assert len(registered) == len(build.KERNELS)


# ---- killed while compiling ---------------------------------------------------------------------


def starting(cache: Path, compiler: str, **settings: str) -> subprocess.Popen:
    """A process that compiles the kernels of one line, with this compiler."""
    code = (
        "from pathlib import Path; from gptoss_edu.cpu import build;"
        f"build.SOURCE = Path({str(build.SOURCE)!r}); build.FLAGS = {build.FLAGS!r};"
        "print(build.built_library(build.find_compiler()))"
    )
    settings |= {"CXX": compiler, "XDG_CACHE_HOME": str(cache.parent)}
    return subprocess.Popen(
        [sys.executable, "-c", code], env=os.environ | settings, stdout=subprocess.PIPE, text=True
    )


def wait_for(sign: Path) -> None:
    while not sign.exists():
        time.sleep(0.01)


@posix
@needs_compiler
def test_a_compiler_that_outlives_its_process_leaves_nothing(cache, tmp_path):
    """kill -9 in the middle; the next start is right, and what the orphan writes goes nowhere."""
    (compiler,) = build.find_compiler()
    started, go, done = (tmp_path / name for name in ("started", "go", "done"))
    slow = script(
        tmp_path / "slow",
        f'[ "$1" = --version ] && exit; touch {started}; : > "$TMPDIR/scratch"\n'
        f'while [ ! -e {go} ]; do sleep 0.02; done; {compiler} "$@"; touch {done}',
    )
    killed = starting(cache, slow)
    wait_for(started)
    killed.kill()
    killed.communicate()
    assert [path.name[:8] for path in cache.iterdir()] == [".native-"]
    path = library()
    assert list(cache.iterdir()) == [path]
    go.touch()
    wait_for(done)
    assert list(cache.iterdir()) == [path]


@posix
@needs_compiler
def test_who_is_still_compiling_is_left_in_peace(cache, tmp_path):
    (compiler,) = build.find_compiler()
    started, go = tmp_path / "started", tmp_path / "go"
    slow = script(
        tmp_path / "slow",
        f'[ "$1" = --version ] && exit; touch {started}\n'
        f'while [ ! -e {go} ]; do sleep 0.02; done; exec {compiler} "$@"',
    )
    with starting(cache, slow) as other:
        wait_for(started)
        mine = library()
        assert len(list(cache.iterdir())) == 2
        go.touch()
        theirs = Path(other.communicate()[0].strip())
    assert sorted(cache.iterdir()) == sorted({mine, theirs})
    assert build.is_whole(theirs)


@posix
@needs_compiler
def test_a_folder_taken_for_a_leftover_is_made_again(cache, monkeypatch):
    """Between its making and its lock another process may have removed it."""
    cache.mkdir(parents=True, mode=0o700)
    made, mkdtemp = [], build.tempfile.mkdtemp

    def lose_the_first(**options):
        made.append(mkdtemp(**options))
        if len(made) == 1:
            os.rmdir(made[0])
        return made[-1]

    monkeypatch.setattr(build.tempfile, "mkdtemp", lose_the_first)
    path = library()
    assert list(cache.iterdir()) == [path]
    assert len(made) == 2


@needs_compiler
def test_without_locks_age_decides(cache, monkeypatch):
    """Windows, and network drives that know none."""
    monkeypatch.setitem(sys.modules, "fcntl", None)
    cache.mkdir(parents=True, mode=0o700)
    old, young = cache / ".native-old", cache / ".native-young"
    for draft in (old, young):
        draft.mkdir()
    os.utime(old, (0, time.time() - build.PATIENCE - 1))
    path = library()
    assert sorted(cache.iterdir()) == sorted([young, path])


@posix
@pytest.mark.parametrize("cxx", ["no-such-compiler -O2", "/no/such/folder/g++"])
def test_a_compiler_that_is_not_there_is_named(monkeypatch, cxx):
    monkeypatch.setenv("CXX", cxx)
    build.load_kernels.cache_clear()
    with pytest.raises(
        RuntimeError, match=re.escape(f"found none (looked for $CXX, which is {cxx!r})")
    ):
        build.load_kernels()


def test_without_a_compiler(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    build.load_kernels.cache_clear()
    monkeypatch.delenv("CXX", raising=False)
    found = r"found none \(looked for c\+\+, g\+\+, clang\+\+\); install one.*backend=\"jax\""
    with pytest.raises(RuntimeError, match=found):
        build.load_kernels()
