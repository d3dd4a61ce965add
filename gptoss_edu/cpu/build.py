"""The C++ kernels, compiled once per machine and registered with XLA.

A library that is compiled here runs in the processes of this user ever after. So it is kept only in
folders that nobody else can write (`cache_folders`), and its name holds a hash of its bytes: what a
full disk or a kill cut short does not bear its name, and is compiled again.
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
import subprocess
import time
import uuid
from pathlib import Path

import jax
import jaxlib.version

from gptoss_edu.system import cache_folders, why_shared

SOURCE = Path(__file__).with_name("native.cc")
KERNELS = ("mxfp4_products", "bf16_product", "int8_product")
FLAGS = ("-O3", "-std=c++17", "-shared", "-fPIC", "-ffp-contract=fast")
PATIENCE = 600  # seconds for the compiler, which needs ten when nothing else runs
INSTEAD = 'load the model with backend="jax" (and without dense="int8", which only kernels read)'


@functools.lru_cache(maxsize=1)
def load_kernels() -> None:
    """Compile the kernels if that was not done before, and register them with XLA.

    Raises RuntimeError with the reason, and what to do, where that is not possible.
    """
    compiler = find_compiler()
    if compiler is None:
        raise RuntimeError(
            "the CPU kernels need a C++ compiler, found none (looked for $CXX, c++, g++, clang++);"
            " install one (Debian: apt-get install g++; macOS: xcode-select --install), or"
            f" {INSTEAD}"
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
    for name in [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]:
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
    version = run([*compiler, "--version"]).stdout
    parts = (SOURCE.read_text(encoding="utf-8"), version, *compiler, *flags)
    key = hash_of("\0".join((*parts, jaxlib.version.__version__, processor())).encode())
    problems = []
    for folder in cache_folders():
        try:
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
    """Compile under a draft's name, then rename: whoever looks for a library sees all or nothing.

    Raises RuntimeError with the compiler's last words if it fails, OSError where nothing can be
    written.
    """
    for old in folder.glob(".native-*"):  # what a killed process left; its compiler has ended, too
        if old.stat().st_mtime < time.time() - PATIENCE:
            old.unlink(missing_ok=True)
    draft = folder / f".native-{uuid.uuid4().hex}.so"
    draft.touch(mode=0o600, exist_ok=False)  # a folder that cannot be written says so at once
    try:
        headers = ("-isystem", jax.ffi.include_dir())
        done = run([*compiler, *flags, *headers, str(SOURCE), "-o", str(draft)])
        if done.returncode:
            raise RuntimeError(
                f"{shlex.join(compiler)} could not compile {SOURCE.name}:"
                f" {done.stderr.strip()[-500:]}; set $CXX to another compiler (GCC 9 or Clang 10 at"
                f" least), or {INSTEAD}"
            )
        draft.chmod(0o700)  # whatever the umask: nobody else writes here
        path = folder / f"native-{key}-{hash_of(draft.read_bytes())}.so"
        os.replace(draft, path)
        return path
    finally:
        draft.unlink(missing_ok=True)


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run the compiler. Raises RuntimeError where it cannot be started or does not end."""
    try:
        return subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=PATIENCE
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RuntimeError(
            f"the C++ compiler does not run: {error}; set $CXX to another one, or {INSTEAD}"
        ) from error


def processor() -> str:
    """What tells one processor from another: its model and the instructions that it has."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        wanted = ("model name", "flags", "Features", "CPU part")
        return "\n".join(line for line in lines if line.startswith(wanted))
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
