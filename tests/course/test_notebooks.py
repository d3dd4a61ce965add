"""The notebooks as files: normalized, executed in order, and really compared by nbval.

`make test` executes them; here their JSON is judged, so that a notebook cannot pass by showing
nothing or by having its outputs ignored. The script that writes them is tested on a small one.
"""

import copy
import json
import re
from pathlib import Path

import nbformat
import pytest

import notebooks as tool

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted([*ROOT.glob("notebooks/*.ipynb"), *ROOT.glob("colab/*.ipynb")])
MIN_COMPARED = 0.8
IGNORED = {"nbval-ignore-output", "nbval-skip", "pytest-validate-ignore-output"}
IGNORE_COMMENT = re.compile(r"^\s*#+\s*(NBVAL_IGNORE_OUTPUT|NBVAL_SKIP|PYTEST_VALIDATE_\w+)", re.M)
NEVER_COMPARED = {"image/png", "image/jpeg"}  # nbval skips them: fonts differ between machines
SAYS_NOTHING = re.compile(r"<Figure size|<[\w.]+ at 0x|Text\(|\[<matplotlib")
LIVE_BAR = re.compile(r"tqdm\.(auto|notebook)|tqdm_notebook")  # deaf to TQDM_DISABLE
WIDGET = "application/vnd.jupyter.widget-view+json"


def complaints(notebook) -> list[str]:
    """What a reader or nbval would stumble over, one sentence each."""
    cells, found = notebook["cells"], []
    kernel = notebook["metadata"].get("kernelspec", {}).get("name")
    if kernel != "python3":
        found.append(f"the kernel is {kernel!r}, expected 'python3'")
    if "widgets" in notebook["metadata"]:
        found.append("the metadata holds widget state, expected none")
    if not cells or cells[0]["cell_type"] != "markdown" or not _source(cells[0]).startswith("# "):
        found.append("the first cell is no title, expected markdown that starts with '# '")
    code = [cell for cell in cells if cell["cell_type"] == "code" and _source(cell).strip()]
    counts = [cell.get("execution_count") for cell in code]
    if counts != list(range(1, len(code) + 1)):
        found.append(f"the cells were executed as {counts}, expected 1 to {len(code)} in order")
    ids = [cell.get("id") for cell in cells]
    if None in ids or len(set(ids)) != len(ids):
        found.append(f"cell ids are missing or double: {ids}")
    for cell in code:
        where = f"cell {cell.get('id')}"
        if any(output["output_type"] == "error" for output in cell["outputs"]):
            found.append(f"{where} ended in an error")
        if any(WIDGET in output.get("data", {}) for output in cell["outputs"]):
            found.append(f"{where} shows a live widget, expected its static panel")
        if LIVE_BAR.search(_source(cell)):
            found.append(f"{where} has a bar that tests cannot silence, expected `tqdm.tqdm`")
    return found + _not_compared(code)


def _not_compared(code) -> list[str]:
    """A sentence if nbval looks at too few of the cells that show something."""
    shown = [cell for cell in code if cell["outputs"]]
    compared = [cell for cell in shown if _is_compared(cell)]
    if not shown:
        return ["no cell shows an output, so nothing would be compared"]
    if len(compared) < MIN_COMPARED * len(shown):
        return [
            f"nbval compares {len(compared)} of {len(shown)} cells with outputs,"
            f" expected at least {MIN_COMPARED:.0%}"
        ]
    return []


def _is_compared(cell) -> bool:
    """Does nbval look at one output at least, and does that output say something?

    It ignores tagged cells, and images always: a figure alone leaves `<Figure size 640x480 ...>`.
    """
    if IGNORED & set(cell["metadata"].get("tags", [])) or IGNORE_COMMENT.search(_source(cell)):
        return False
    for output in cell["outputs"]:
        data = output.get("data", {"stream": output.get("text", "")})
        for kind in set(data) - NEVER_COMPARED:
            if not SAYS_NOTHING.match("".join(data[kind])):
                return True
    return False


def _source(cell) -> str:
    return "".join(cell["source"])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    nbformat.validate(notebook)
    assert not complaints(notebook), path.name
    tool.check(path)


@pytest.fixture
def project(tmp_path):
    """A repository with one small notebook, written as text and not yet pushed."""
    text = tmp_path / "build" / "notebooks" / "00_small.py"
    text.parent.mkdir(parents=True)
    text.write_text(
        "# %% [markdown]\n# # Small\n#\n# Two lines.\n\n"
        "# %%\nimport sys\n\nprint('one')\nsys.stdout.flush()\nprint('two')\n\n"
        '# %% tags=["nbval-ignore-output"]\n6 * 7\n',
        encoding="utf-8",
    )
    return tmp_path


def test_write_execute_and_edit(project):
    path, text = project / "notebooks" / "00_small.ipynb", project / "build/notebooks/00_small.py"
    tool.push(path, project)
    tool.run(path)
    tool.check(path)
    notebook = tool.read(path)
    assert [output["text"] for output in notebook.cells[1].outputs] == ["one\ntwo\n"]
    assert notebook.cells[2].outputs[0].data["text/plain"] == "42"
    assert notebook.cells[2].metadata.tags == ["nbval-ignore-output"]
    assert complaints(notebook) == [
        "nbval compares 1 of 2 cells with outputs, expected at least 80%"
    ]

    written = path.read_bytes()
    tool.pull(path, project)
    tool.push(path, project)
    assert path.read_bytes() == written, "pull and push without an edit must change nothing"

    edited = text.read_text(encoding="utf-8").replace("6 * 7", "6 * 9").replace("Two", "2")
    text.write_text(edited + "\n# %%\nNone\n", encoding="utf-8")
    tool.push(path, project)
    after = tool.read(path)
    assert [cell.id for cell in after.cells[:3]] == [cell.id for cell in notebook.cells]
    assert after.cells[1].outputs == notebook.cells[1].outputs
    assert after.cells[2].outputs == []
    assert after.cells[3].id not in {cell.id for cell in notebook.cells}


def test_failed_run_leaves_the_file_alone(project, capsys):
    path, text = project / "notebooks" / "00_small.ipynb", project / "build/notebooks/00_small.py"
    text.write_text("# %%\n1 / 0\n", encoding="utf-8")
    tool.push(path, project)
    written = path.read_bytes()
    assert tool.main(["run", str(path)]) == 1
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert path.read_bytes() == written
    assert list(path.parent.iterdir()) == [path]


def test_missing_notebook_is_a_sentence(tmp_path, capsys):
    assert tool.main(["run", str(tmp_path / "no.ipynb")]) == 1
    assert "expected a notebook (.ipynb)" in capsys.readouterr().err


def small_notebook():
    """What `complaints` has nothing to say about."""
    cells = [{"cell_type": "markdown", "id": "a", "metadata": {}, "source": ["# Title\n"]}]
    for count in range(1, 6):
        output = {"output_type": "stream", "name": "stdout", "text": ["1\n"]}
        cells.append(
            {
                "cell_type": "code",
                "id": f"c{count}",
                "metadata": {},
                "source": ["print(1)"],
                "execution_count": count,
                "outputs": [output],
            }
        )
    metadata = {"kernelspec": dict(tool.KERNEL), "language_info": {"name": "python"}}
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


FIGURE = {"image/png": "", "text/plain": ["<Figure size 640x480 with 1 Axes>"]}
IMAGE = {"output_type": "display_data", "metadata": {}, "data": FIGURE}
LIVE = {"output_type": "display_data", "metadata": {}, "data": {WIDGET: {}, "text/plain": "x"}}
ERROR = {"output_type": "error", "ename": "E", "evalue": "", "traceback": []}
PLANTED = {
    "the kernel is 'python'": lambda nb: nb["metadata"]["kernelspec"].update(name="python"),
    "widget state": lambda nb: nb["metadata"].update(widgets={}),
    "no title": lambda nb: nb["cells"][0].update(source=["## Title"]),
    "executed as": lambda nb: nb["cells"][2].update(execution_count=7),
    "executed as [None": lambda nb: nb["cells"][1].update(execution_count=None),
    "missing or double": lambda nb: nb["cells"][2].update(id="a"),
    "missing": lambda nb: nb["cells"][2].pop("id"),
    "ended in an error": lambda nb: nb["cells"][2].update(outputs=[ERROR]),
    "live widget": lambda nb: nb["cells"][2].update(outputs=[LIVE]),
    "cannot silence": lambda nb: nb["cells"][2].update(source=["import tqdm.auto"]),
    "nothing would": lambda nb: [cell.update(outputs=[]) for cell in nb["cells"][1:]],
    "compares 3 of 5": lambda nb: [
        nb["cells"][1]["metadata"].update(tags=["nbval-skip"]),
        nb["cells"][2].update(source=["# NBVAL_IGNORE_OUTPUT\n", "print(1)"]),
    ],
    "compares 2 of 5": lambda nb: [cell.update(outputs=[IMAGE]) for cell in nb["cells"][1:4]],
}


@pytest.mark.parametrize("expected", PLANTED)
def test_complaint(expected):
    notebook = small_notebook()
    assert complaints(notebook) == []
    broken = copy.deepcopy(notebook)
    PLANTED[expected](broken)
    assert len(complaints(broken)) == 1, complaints(broken)
    assert expected in complaints(broken)[0]
