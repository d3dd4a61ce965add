"""What stands beside the code agrees with it: metadata, commands, the README's words and paths."""

import ast
import hashlib
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import gptoss_edu

ROOT = Path(__file__).resolve().parent.parent
APACHE_2 = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
DOCUMENTS = [
    path
    for path in sorted(ROOT.rglob("*.md"))
    if not re.search(r"^\.venv|^build/|/runs/", path.relative_to(ROOT).as_posix())
]
NOTEBOOKS = sorted([*ROOT.glob("notebooks/**/*.ipynb"), *ROOT.glob("colab/*.ipynb")])


def read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def canonical(requirement: str) -> str:
    """`Huggingface_Hub >=0.30` and `huggingface-hub>=0.30` are the same requirement."""
    name, specifier = re.fullmatch(r"\s*([\w.-]+)\s*([^;]*)", requirement).groups()
    return re.sub(r"[-_.]+", "-", name).lower() + ",".join(sorted(specifier.split(",")))


def disagreement(project: dict, environment: dict) -> set[str]:
    """Requirements that stand in one of pyproject.toml and environment.yml only."""
    extras = project["optional-dependencies"]
    named = ("course", "train", "orbax", "test")
    declared = [*project["dependencies"], *(line for name in named for line in extras[name])]
    declared = {canonical(line) for line in declared if not line.startswith(project["name"])}
    declared.add(canonical("python" + project["requires-python"]))
    conda = [line for line in environment["dependencies"] if isinstance(line, str)]
    (pip,) = [line["pip"] for line in environment["dependencies"] if isinstance(line, dict)]
    assert pip.pop() == "--editable ."
    assert "pip" in conda
    return declared ^ {canonical(line) for line in [*conda, *pip] if line != "pip"}


def test_conda_environment_agrees_with_pyproject():
    project = tomllib.loads(read("pyproject.toml"))["project"]
    assert disagreement(project, yaml.safe_load(read("environment.yml"))) == set()
    other = yaml.safe_load(read("environment.yml").replace("numpy>=2.0", "numpy>=1.26"))
    assert disagreement(project, other) == {"numpy>=2.0", "numpy>=1.26"}


def test_license_is_apache_2():
    assert hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest() == APACHE_2
    assert tomllib.loads(read("pyproject.toml"))["project"]["license"] == "Apache-2.0"


def test_version_stands_in_one_place_and_the_citation_follows():
    pyproject = tomllib.loads(read("pyproject.toml"))
    assert "version" in pyproject["project"]["dynamic"]
    assert pyproject["tool"]["hatch"]["version"]["path"] == "gptoss_edu/__init__.py"
    citation = yaml.safe_load(read("CITATION.cff"))
    assert citation["version"] == gptoss_edu.__version__
    assert citation["license"] == "Apache-2.0"
    assert {"cff-version", "message", "title", "authors"} <= set(citation)


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):.*## ", read("Makefile"), re.MULTILINE))


def make_commands(text: str) -> set[str]:
    """Targets that a text tells its reader to make: `make test`, or a line of a code block."""
    return set(re.findall(r"(?:^|`|\$ )make ([a-z]+)", text, re.MULTILINE))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_documented_commands_exist(path):
    unknown = make_commands(path.read_text(encoding="utf-8")) - make_targets()
    assert not unknown, f"{path.name} says `make {unknown}`, the Makefile has {make_targets()}"


def test_makefile_explains_itself():
    shown = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"make ([a-z]+)", shown)) == make_targets()
    assert {"lab", "test", "parity"} <= make_targets()


def test_ci_runs_what_the_readme_tells():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK), ".ci/run is not executable, expected mode 755"
    text = script.read_text(encoding="utf-8")
    assert text.startswith("#!/usr/bin/env bash\n")
    assert "set -euo pipefail" in text
    newest, oldest = 'PYTHON="$newest" VENV=.venv', 'PYTHON="$oldest" VENV=.venv-3.11'
    assert re.findall(r"^make (\w+) (.+)$", text, re.MULTILINE) == [
        ("test", newest), ("subset", oldest), ("oldest", newest), ("parity", oldest),
    ]  # fmt: skip
    assert re.findall(r"^(\w+)=\$\(interpreter (.+)\)$", text, re.MULTILINE) == [
        ("newest", "3.13"), ("oldest", "3.11"),
    ]  # fmt: skip
    lowest = tomllib.loads(read("pyproject.toml"))["project"]["requires-python"]
    assert lowest == ">=3.11"
    assert {"lab", "test", "parity"} <= make_commands(read("README.md"))


def interpreter(version: str, path: str) -> subprocess.CompletedProcess:
    """What .ci/run finds for a version of Python, with this PATH and no home folder."""
    script = re.search(r"^interpreter\(\) \{\n.*?^\}$", read(".ci/run"), re.MULTILINE | re.DOTALL)[
        0
    ]
    return subprocess.run(
        ["bash", "-c", f"set -euo pipefail\n{script}\ninterpreter {version}"],
        env={"PATH": path, "HOME": "/nowhere"}, capture_output=True, text=True,
    )  # fmt: skip


def python(folder: Path, name: str, text: str) -> Path:
    """A program of this name that may pass for a Python."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)
    return folder / name


def test_ci_looks_for_interpreters(tmp_path):
    """A shim that fails is passed over for pyenv's own folder; a missing Python is said."""
    version = "{}.{}".format(*sys.version_info)
    real = f'exec {sys.executable} "$@"'
    python(tmp_path / "shims", f"python{version}", "exit 127")
    python(tmp_path / "shims", "pyenv", f"echo {tmp_path}/pyenv")
    path = f"{tmp_path}/shims:/usr/bin:/bin"
    if shutil.which(f"python{version}", path="/usr/bin:/bin") is None:
        lacking = interpreter(version, path)
        assert lacking.returncode == 1
        assert f"No Python {version} with its venv module" in lacking.stderr
    python(tmp_path / "pyenv" / "versions" / f"{version}.7" / "bin", "python", real)
    found = interpreter(version, path)
    assert found.returncode == 0, found.stderr
    python(tmp_path / "pyenv" / "versions" / "9.9.1" / "bin", "python", real)
    assert interpreter("9.9", path).returncode == 1, "its name says 9.9, and it is not"


@pytest.mark.parametrize(
    "has, asked, said",
    [
        ("3.13", "3.13", None),
        ("3.11", "3.13", "is of Python 3.11, and"),
        ("3.11", None, "not there"),
    ],
)
def test_an_environment_of_another_python_is_not_used(tmp_path, has, asked, said):
    """`make PYTHON=...` either takes that Python or says that it cannot."""
    python(tmp_path / "venv" / "bin", "python", f"echo {has}")
    if asked:
        python(tmp_path, "other", f"echo {asked}")
    command = ["make", "as-asked", f"VENV={tmp_path / 'venv'}", f"PYTHON={tmp_path / 'other'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode == 0) == (said is None), done.stderr
    assert said is None or said in done.stderr
    again = subprocess.run([*command[:3], "PYTHON="], cwd=ROOT, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr


def workflow(name: str) -> dict:
    """A workflow of GitHub's; YAML reads its key `on` as True."""
    found = yaml.safe_load(read(f".github/workflows/{name}.yml"))
    return found | {"on": found.pop(True)}


def test_the_workflow_runs_ci_and_every_system():
    test = workflow("test")
    assert set(test["on"]) == {"push", "pull_request", "schedule"}
    assert test["jobs"]["everything"]["steps"][-1]["run"] == ".ci/run"
    systems = test["jobs"]["systems"]
    assert systems["strategy"]["matrix"] == {
        "os": ["ubuntu-latest", "macos-latest", "windows-latest"],
        "python": ["3.11", "3.13"],
    }
    (subset,) = re.findall(r"^subset:.*\n\t\$\(PYTEST\) (.+)$", read("Makefile"), re.MULTILINE)
    assert systems["steps"][-1]["run"].endswith(f" {subset}")


def test_the_subset_leaves_out_what_is_there():
    """Each line names tests that exist, so that a test that moves does not slip back in."""
    for line in read("tests/subset.txt").split()[1:]:
        option, _, pattern = line.partition("=")
        assert option in ("--ignore", "--ignore-glob")
        assert list(ROOT.glob(pattern.replace("*/", "tests/"))), f"nothing is called {pattern}"


def test_the_address_is_set_by_hand_alone():
    action = workflow("address")
    assert action["on"] == "workflow_dispatch"
    assert action["permissions"] == {"contents": "write"}
    lines = [step["run"] for step in action["jobs"]["address"]["steps"] if "run" in step]
    assert any(line.startswith("python tools/course.py address ") for line in lines)
    assert not any("${{" in line for line in lines), "a name from outside is never code"


def test_lab_opens_a_notebook_that_exists():
    (path,) = re.findall(r"/lab/tree/(\S+\.ipynb)", read("Makefile"))
    assert (ROOT / path).is_file()


def test_default_pytest_needs_no_torch():
    options = tomllib.loads(read("pyproject.toml"))["tool"]["pytest"]["ini_options"]["addopts"]
    assert options[options.index("-m") + 1] == "not parity"
    assert "--strict-markers" in options


def prose(path: Path) -> str:
    """The text of a page, or of the cells of a notebook that are text."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return text
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"]
    return "\n\n".join("".join(cell["source"]) for cell in cells)


def broken_links(text: str, folder: Path) -> list[str]:
    """Relative targets of markdown links and images, and #headings, that lead nowhere."""
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    headings = {
        re.sub(r"[^\w\- ]", "", title.lower()).strip() for title in titles
    }  # GitHub's names
    headings = {title.replace(" ", "-") for title in [*headings, *titles]}  # and Jupyter's
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'src="([^"]+)"', text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        if not (folder / path).exists() or (not path and anchor not in headings):
            broken.append(target)
    return broken


@pytest.mark.parametrize(
    "path", DOCUMENTS + NOTEBOOKS, ids=lambda path: str(path.relative_to(ROOT))
)
def test_links_resolve(path):
    assert broken_links(prose(path), path.parent) == []


def test_broken_link_is_noticed():
    text = "# A b\n[x](#a-b) [y](#c) [z](no/such.md) [w](https://example.org) ![v](README.md)\n"
    text += '<img src="no.png"> <img src="notebooks/map/00.svg">\n'
    assert broken_links(text, ROOT) == ["#c", "no/such.md", "no.png"]


def tree_paths(readme: str) -> set[str]:
    """Paths of the README's tree: a line each, a purpose after the name, folders end in /."""
    (block,) = re.findall(r"^```text\n(gptoss_edu/.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    paths, folders = set(), [""]
    for line in block.splitlines():
        depth, name = (len(line) - len(line.lstrip())) // 2, line.split()[0]
        folders = [*folders[: depth + 1], folders[depth] + name]
        paths.add(folders[-1])
    return paths


def test_tree_in_readme_is_the_tree():
    shown = tree_paths(read("README.md"))
    missing = sorted(path for path in shown if not (ROOT / path).exists())
    assert not missing, f"the README's tree names {missing}, which are not there"
    files = [path.relative_to(ROOT).as_posix() for path in ROOT.glob("gptoss_edu/**/*.py")]
    own = {p for p in files if not p.startswith("gptoss_edu/course/") and p.count("/") < 3}
    faces = {path for path in own if path.count("/") == 2 and path.endswith("__init__.py")}
    assert not own - faces - shown, f"the README's tree leaves out {sorted(own - faces - shown)}"


def test_readme_code_is_valid_and_imports_what_exists():
    blocks = re.findall(r"^```python\n(.*?)^```$", read("README.md"), re.MULTILINE | re.DOTALL)
    assert blocks
    for block in blocks:
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module)
                for alias in node.names:
                    assert hasattr(module, alias.name), f"{node.module} has no {alias.name}"


def test_chapters_in_readme_are_the_notebooks():
    linked = set(re.findall(r"\]\(((?:notebooks|colab)/[^)]+\.ipynb)\)", read("README.md")))
    there = {
        str(path.relative_to(ROOT))
        for folder in ("notebooks", "colab")
        for path in (ROOT / folder).glob("*.ipynb")
    }
    assert linked == there, "the README's chapter table and the notebooks differ"
