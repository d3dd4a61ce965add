"""The first cell of a notebook: it finds or installs the course, completes it, or says why not.

Each test runs the cell of a small copy of the course in a Python that has nothing installed.
"""

import importlib.metadata
import os
import re
import shutil
import subprocess
import venv
import zipfile
from pathlib import Path

import course
import pytest

ROOT = Path(__file__).resolve().parents[2]
HASH = "0123456789abcdef0123456789abcdef01234567"
FAKE_PIP = """
import os, pathlib, shutil, sys
here = pathlib.Path(__file__).parent
with (here / "asked.txt").open("a") as file:
    print(*sys.argv[1:], file=file)
if "--no-deps" in sys.argv and os.environ["BRINGS"]:
    shutil.copytree(os.environ["COURSE"], here / "gptoss_edu", dirs_exist_ok=True)
    (here / "gptoss_edu" / "__init__.py").write_text("__version__ = " + repr(os.environ["BRINGS"]))
elif "--no-deps" in sys.argv:
    sys.exit("ERROR: no network")
"""


@pytest.fixture
def small(tmp_path):
    """A repository with what the cell looks for, and the version 7.8.9."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "gptoss_edu" / "course").mkdir(parents=True)
    (tmp_path / "gptoss_edu" / "__init__.py").write_text('__version__ = "7.8.9"\n')
    for path in ("pyproject.toml", "gptoss_edu/course/set_up.py"):
        shutil.copy(ROOT / path, tmp_path / path)
    return tmp_path


@pytest.fixture
def bare(tmp_path, small):
    """Run the setup cell where nothing is installed but a pip that notes what it is asked for."""
    venv.create(tmp_path / "venv", symlinks=os.name != "nt")
    (packages,) = tmp_path.glob("venv/[lL]ib/**/site-packages")
    (packages / "pip.py").write_text(FAKE_PIP, encoding="utf-8")
    python = next(path for path in tmp_path.glob("venv/*/python*") if path.stem == "python")

    def run(cell, folder, brings=""):
        folder.mkdir(parents=True, exist_ok=True)
        environment = {"BRINGS": brings, "COURSE": str(small / "gptoss_edu")}
        environment["SYSTEMROOT"] = os.environ.get("SYSTEMROOT", "")
        look = f"{cell}\nimport gptoss_edu\nprint(gptoss_edu.__file__)"
        ran = subprocess.run(
            [python, "-c", look], cwd=folder, capture_output=True, text=True, env=environment
        )
        asked = packages / "asked.txt"
        return ran, asked.read_text(encoding="utf-8").splitlines() if asked.is_file() else []

    return run


ADD = "install --quiet safetensors huggingface_hub openai_harmony tqdm ipywidgets matplotlib"


def test_the_setup_cell_installs_one_commit_and_looks_whether_it_worked(small, bare, tmp_path):
    course.move("https://github.com/ada/lessons", HASH, small)
    cell, desk = course.setup(small), tmp_path / "a" / "b" / "desk"
    install = f"install --quiet --no-deps git+https://github.com/ada/lessons@{HASH}"
    ran, asked = bare(cell, desk)
    assert asked == [install]
    assert "ImportError: The course could not be set up: expected version 7.8.9, found none." in (
        ran.stderr
    )
    assert "ERROR: no network" in ran.stderr, "what pip said"
    ran, _ = bare(cell, desk, brings="7.8.8")
    assert "expected version 7.8.9, found 7.8.8." in ran.stderr
    shutil.rmtree(next(tmp_path.glob("venv/[lL]ib/**/site-packages/gptoss_edu")))
    ran, _ = bare(cell, desk, brings="7.8.9")
    assert ran.returncode == 0, ran.stderr
    assert "site-packages" in ran.stdout
    ran, asked = bare(cell, desk, brings="9.9.9")
    assert (ran.returncode, len(asked)) == (0, 5), "where it is installed nothing is asked for"


@pytest.mark.parametrize("place", ["notebooks", "notebooks/blank", "colab", "."])
def test_the_setup_cell_uses_the_repository_that_it_lies_in(small, bare, place):
    ran, asked = bare(course.setup(small), small / place)
    assert ran.returncode == 0, ran.stderr
    assert Path(ran.stdout.strip()) == small / "gptoss_edu" / "__init__.py"
    assert asked == ([] if place == "." else [ADD])


@pytest.mark.parametrize("top", ["", "gptoss_edu-main/"])
def test_the_setup_cell_unpacks_an_uploaded_zip(small, bare, tmp_path, top):
    desk = tmp_path / "a" / "b" / "desk"
    desk.mkdir(parents=True)
    with zipfile.ZipFile(desk / "gptoss_edu-main.zip", "w") as file:
        for part in ("__init__.py", "course/set_up.py"):
            file.write(small / "gptoss_edu" / part, f"{top}gptoss_edu/{part}")
    ran, asked = bare(course.setup(small), desk)
    assert ran.returncode == 0, ran.stderr
    assert Path(ran.stdout.strip()) == desk / "unpacked" / top / "gptoss_edu" / "__init__.py"
    assert asked == [ADD]


def test_the_setup_cell_refuses_where_there_is_nothing_to_install_from(small, bare, tmp_path):
    ran, asked = bare(course.setup(small), tmp_path / "a" / "b" / "desk", brings="7.8.9")
    assert ran.returncode == 1
    assert "has no address to install it from. Open the notebook in the folder" in ran.stderr
    assert asked == [], "nothing is asked for"


def test_nothing_that_the_setup_cell_adds_asks_for_another_jax():
    """So plain `pip install` of what is missing cannot replace it."""
    added = course.added()
    assert {"safetensors", "huggingface_hub", "openai_harmony", "tqdm"} <= set(added)
    for name in added:
        required = importlib.metadata.requires(name) or []
        needed = [line for line in required if "extra ==" not in line]
        assert not [line for line in needed if re.match(r"(jax|jaxlib|libtpu)\b", line)], name
