"""The C++ kernels, compiled once per machine and registered with XLA.

A library that is compiled here runs in the processes of this user ever after. So it is kept only in
folders that nobody else can write (`cache_folders`), and its name holds a hash of its bytes: what a
full disk or a kill cut short does not bear its name, and is compiled again.

$CXX is whatever the user says. So the compiler has a folder of its own, a time, and a limit to what
it may say, and nothing of it is left when it ends: no file, no process.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jaxlib.version

from gptoss_edu.system import cache_folders, why_shared

SOURCE = Path(__file__).with_name("native.cc")
COMPILERS = ("c++", "g++", "clang++")
KERNELS = ("mxfp4_products", "bf16_product", "int8_product")
FLAGS = ("-O3", "-std=c++17", "-shared", "-fPIC", "-ffp-contract=fast")
PATIENCE = 600  # seconds for the compiler, which needs ten when nothing else runs
TRIAL = "import ctypes, sys; path, *names = sys.argv[1:]; library = ctypes.CDLL(path)\n"
TRIAL += "for name in names: getattr(library, name)"
MOST_WORDS = 1_000_000  # bytes of its messages
INSTEAD = 'load the model with backend="jax" (and without dense="int8", which only kernels read)'


@functools.lru_cache(maxsize=1)
def load_kernels() -> None:
    """Compile the kernels if that was not done before, and register them with XLA.

    Raises RuntimeError with the reason, and what to do, where that is not possible.
    """
    compiler = find_compiler()
    if compiler is None:
        asked = os.environ.get("CXX")
        looked = f"$CXX, which is {asked!r}" if asked else ", ".join(COMPILERS)
        raise RuntimeError(
            f"the CPU kernels need a C++ compiler, found none (looked for {looked}); install one"
            " (Debian: apt-get install g++; macOS: xcode-select --install), or unset $CXX where it"
            f" is wrong, or {INSTEAD}"
        )
    path = built_library(compiler)
    try:
        library = ctypes.CDLL(str(path))
        handlers = {name: getattr(library, name) for name in KERNELS}
    except (OSError, AttributeError) as error:
        with contextlib.suppress(OSError):
            path.unlink()  # the next attempt compiles again
        raise RuntimeError(
            f"the CPU kernels were compiled by {shlex.join(compiler)} and cannot be loaded:"
            f" {error}; set $CXX to another compiler, or {INSTEAD}"
        ) from error
    for name, handler in handlers.items():
        capsule = jax.ffi.pycapsule(handler)
        jax.ffi.register_ffi_target(f"gptoss_edu_{name}", capsule, platform="cpu")


def find_compiler() -> list[str] | None:
    """The command of the C++ compiler: $CXX, else the first of c++, g++, clang++ on the PATH.

    $CXX may have arguments ("ccache g++", "g++ -m64").
    """
    for name in [os.environ["CXX"]] if os.environ.get("CXX") else COMPILERS:
        try:
            program, *arguments = shlex.split(name, posix=os.name == "posix")
        except ValueError:  # blank, or a quotation mark is missing
            continue
        if found := shutil.which(program):
            return [found, *arguments]
    return None


def built_library(compiler: list[str]) -> Path:
    """The compiled kernels, from a folder that is the user's own; compiled now if there are none.

    The name says what they were made of and what came out: native-<key>-<hash of the bytes>.so. The
    key holds all that decides the result: source, compiler, flags, jaxlib's headers and the
    processor, since a home folder may be shared by machines that differ.
    """
    native = "-mcpu=native" if platform.machine() == "arm64" else "-march=native"
    flags = (*FLAGS, native)
    _, version = run([*compiler, "--version"])
    parts = (SOURCE.read_text(encoding="utf-8"), version, *compiler, *flags)
    key = hash_of("\0".join((*parts, jaxlib.version.__version__, processor())).encode())
    problems = []
    for folder in cache_folders():
        try:
            remove_leftovers(folder)
            for path in folder.glob(f"native-{key}-*.so"):
                if is_whole(path):
                    return path
                path.unlink()
            return compile_into(folder, key, compiler, flags)
        except OSError as error:
            problems.append(str(error))
    raise RuntimeError(
        f"the CPU kernels could not be written: {'; '.join(problems) or 'no folder is private'};"
        f" set XDG_CACHE_HOME to a folder that can be written, or {INSTEAD}"
    )


def is_whole(path: Path) -> bool:
    """Is this library the user's own, and what was compiled, byte by byte?"""
    return why_shared(path) is None and path.stem.endswith(hash_of(path.read_bytes()))


def hash_of(data: bytes) -> str:
    """The first half of a sha256: enough to tell, and short in a name."""
    return hashlib.sha256(data).hexdigest()[:32]


def compile_into(folder: Path, key: str, compiler: list[str], flags: tuple[str, ...]) -> Path:
    """Compile aside, then move: whoever looks for a library sees all or nothing.

    Raises RuntimeError with the compiler's last words if it fails, OSError where nothing can be
    written.
    """
    with aside(folder) as draft:
        library, headers = draft / "native.so", ("-isystem", jax.ffi.include_dir())
        command = [*compiler, *flags, *headers, str(SOURCE), "-o", str(library)]
        status, words = run(command, TMPDIR=str(draft))
        if not status:  # what is cut short kills the process that loads it: not this one
            status, words = run([sys.executable, "-ISc", TRIAL, str(library), *KERNELS])
        if status:
            raise RuntimeError(
                f"{shlex.join(compiler)} could not compile {SOURCE.name} (exit status {status}):"
                f" {words.strip()[-500:] or 'it said nothing'}; set $CXX to another compiler"
                f" (GCC 9 or Clang 10 at least), or {INSTEAD}"
            )
        library.chmod(0o700)  # whatever the umask: nobody else writes here
        path = folder / f"native-{key}-{hash_of(library.read_bytes())}.so"
        os.replace(library, path)
        return path


@contextlib.contextmanager
def aside(folder: Path) -> Iterator[Path]:
    """An empty folder in this one, gone afterwards; its lock says that somebody works there."""
    while True:
        draft = Path(tempfile.mkdtemp(prefix=".native-", dir=folder))
        with locked(draft) as ours:
            if ours is False or not draft.exists():
                continue  # another process has taken it for a leftover
            try:
                yield draft
            finally:
                shutil.rmtree(draft, ignore_errors=True)
            return


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left. A compiler that lives on misses its folder, and fails."""
    for old in folder.glob(".native-*"):
        with contextlib.suppress(OSError), locked(old) as ours:
            if ours or (ours is None and old.lstat().st_mtime < time.time() - PATIENCE):
                shutil.rmtree(old) if old.is_dir() else old.unlink()


@contextlib.contextmanager
def locked(path: Path) -> Iterator[bool | None]:
    """Is it ours alone, as long as this lasts? A lock ends with its process. None where the system
    has no such locks (Windows, some network drives).
    """
    with contextlib.ExitStack() as stack:
        ours = None
        with contextlib.suppress(ImportError, OSError):
            import fcntl

            try:
                handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
                stack.callback(os.close, handle)
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                ours = True
            except (BlockingIOError, FileNotFoundError):  # somebody else has it, or removed it
                ours = False
        yield ours


def run(command: list[str], **environment: str) -> tuple[int, str]:
    """Run the compiler: (exit status, what it said). All that it has started ends with it.

    Raises RuntimeError where it cannot be started or does not end.
    """
    try:
        process = subprocess.Popen(
            command, env=os.environ | environment, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        words = hear(process)
        try:
            status = process.wait(PATIENCE)
        finally:
            end(process)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RuntimeError(
            f"the C++ compiler does not run: {error}; set $CXX to another one, or {INSTEAD}"
        ) from error
    return status, words()


def hear(process: subprocess.Popen[bytes]) -> Callable[[], str]:
    """What it will have said. Who says more than MOST_WORDS finds that nobody listens any more."""
    said: list[bytes] = []

    def listen() -> None:
        with process.stdout or contextlib.nullcontext() as pipe:
            said.append(pipe.read(MOST_WORDS) if pipe else b"")

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()

    def words() -> str:
        listener.join(10)  # seconds: a program that has left its group may hold on to the pipe
        return b"".join(said).decode("utf-8", "replace")

    return words


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and all that it has started."""
    with contextlib.suppress(OSError):
        process.kill() if sys.platform == "win32" else os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def processor() -> str:
    """What tells one processor from another: its model and the instructions that it has."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        wanted = ("model name", "flags", "Features", "CPU part")
        return "\n".join(line for line in lines if line.startswith(wanted))
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
