"""Chapter 09 and another one, one click, where JAX is as old as it may be: `make oldest`.

A virtual environment gets what Colab's TPU image has, but neither this course nor openai-harmony.
The notebooks run there as a reader's would: their first cell installs both by itself, from the
commit that it names. A copy of this working tree stands in for the published repository: git is
told to fetch from it whatever the notebooks ask GitHub for. At the end JAX has to be the one from
before.

Everything lies in build/oldest; a second run uses the same environment again.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import nbformat
from course import SETUP, move, setup

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / "build" / "oldest"
NOTEBOOKS = ("colab/09_generate_20b_colab_tpu.ipynb", "notebooks/03_sink_attention.ipynb")
TESTS = ("tests/course/test_viz_explore.py", "tests/test_clock.py")
# Colab's TPU image of August 2026, as far as the course notices. JAX comes from pyproject.toml.
IMAGE = (
    "numpy==2.1.*", "huggingface_hub==1.27.*", "safetensors==0.8.*", "ipython==7.34.0",
    "ipython_genutils", "ipykernel<7", "matplotlib", "tqdm",
)  # fmt: skip
WIDGETS = "ipywidgets==7.7.1"  # without its dependencies: they are the whole of JupyterLab
# Errors only: an index may warn, and the notebooks in the repository show no warnings.
SILENT = {"PIP_ROOT_USER_ACTION": "ignore", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_QUIET": "2"}
# An owner whose name nobody can register: GitHub allows no underscore in it.
ADDRESS = "https://github.com/no_such_owner/gptoss_edu"
RUNNERS = ("pytest>=8.2", "nbval>=0.11", "setuptools<81")


def oldest_jax(root: Path = ROOT) -> str:
    """The oldest JAX that pyproject.toml allows."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (line,) = [line for line in project["dependencies"] if re.match(r"jax\W", line)]
    return line.removeprefix("jax>=")


def make_environment(folder: Path, jax: str) -> Path:
    """The Python of an environment like Colab's, without the course."""
    python = folder / "bin" / "python"
    wanted = "\n".join([f"jax=={jax}", *IMAGE, *RUNNERS, WIDGETS])
    stamp = folder / "installed.txt"
    if not stamp.is_file() or stamp.read_text(encoding="utf-8") != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True)
        run(python, "-m", "pip", "install", *wanted.split("\n")[:-1])
        run(python, "-m", "pip", "install", "--no-deps", WIDGETS)
        stamp.write_text(wanted, encoding="utf-8")
    run(python, "-m", "pip", "uninstall", "--yes", "gptoss-edu", "openai-harmony")
    return python


def make_repository(folder: Path, root: Path = ROOT) -> str:
    """A git repository with the working tree as it is, published at ADDRESS; returns its commit."""
    shutil.rmtree(folder, ignore_errors=True)
    skip = shutil.ignore_patterns(".*", "build", "dist", "runs", "__pycache__", "*.ipynb")
    shutil.copytree(root, folder, ignore=skip)
    git = ("git", "-C", str(folder))
    run(*git, "init", "--quiet")
    run(*git, "config", "uploadpack.allowFilter", "true")  # pip asks for what it needs, no more
    run(*git, "add", "--all")
    who = ("-c", "user.name=oldest", "-c", "user.email=oldest@localhost")
    run(*git, *who, "commit", "--quiet", "--message", "as it is")
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    commit = head.stdout.strip()
    move(ADDRESS, commit, folder)
    return commit


def as_on_kaggle(repository: Path) -> dict[str, str]:
    """Environment variables: a borrowed machine, the pocket model, and where GitHub is."""
    return {
        "KAGGLE_KERNEL_RUN_TYPE": "Batch",
        "GPTOSS_EDU_MODEL": "pocket",
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{repository.as_uri()}.insteadOf",
        "GIT_CONFIG_VALUE_0": ADDRESS,
        "JAX_PLATFORMS": "cpu",
        "TQDM_DISABLE": "1",
        "GPTOSS_EDU_STATIC": "1",
    }


def run(*command: object, cwd: Path | None = None, env: dict[str, str] | None = None) -> None:
    """Run a command; the exit status of one that fails becomes ours."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=environment | SILENT | (env or {}))
    if done.returncode:
        sys.exit(f"failed with status {done.returncode}: {' '.join(map(str, command))}")


def main() -> None:
    """Set up, read the notebooks, and look at JAX again."""
    jax = oldest_jax()
    python = make_environment(HOME / "venv", jax)
    repository, desk = HOME / "repository", HOME / "desk"
    make_repository(repository)
    shutil.rmtree(desk, ignore_errors=True)
    for path in (*NOTEBOOKS, *TESTS):  # away from the package: it has to be installed
        (desk / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, desk / path)
    for path in NOTEBOOKS:
        notebook = nbformat.read(desk / path, as_version=4)
        (cell,) = [cell for cell in notebook.cells if cell.id == SETUP]
        cell.source = setup(repository)
        nbformat.write(notebook, desk / path)
    borrowed = as_on_kaggle(repository)
    pytest = (python, "-m", "pytest", "-q", "-c", os.devnull, "--rootdir", desk)
    run(*pytest, "--nbval", "--nbval-current-env", *NOTEBOOKS, cwd=desk, env=borrowed)
    run(*pytest, *TESTS, cwd=desk, env=borrowed)
    look = f"import jax, gptoss_edu as g; assert jax.__version__ == '{jax}'; print(g.__file__)"
    run(python, "-c", look, cwd=desk, env=borrowed)


if __name__ == "__main__":
    main()
