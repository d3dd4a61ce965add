"""benchmarks/chapter_08.py: runs a notebook on another model and keeps what it measured."""

import json

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError

from benchmarks import chapter_08

RUN = {"layers": 24, "kind": "random", "loading": "mapped", "measured": {"writing, tokens/s": 8.0}}


@pytest.fixture
def notebook(tmp_path, monkeypatch):
    """A chapter of one cell. What `execute` sets in the environment is forgotten afterwards."""
    for name in ("GPTOSS_EDU_MODEL", "TQDM_DISABLE", "GPTOSS_EDU_STATIC", "JAX_PLATFORMS"):
        monkeypatch.setenv(name, "cpu")

    def write(*lines):
        cell = nbformat.v4.new_code_cell("\n".join(("import json, os", *lines)))
        path = tmp_path / "small.ipynb"
        nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
        return path

    return write


def test_the_notebook_runs_on_the_model_that_was_named(notebook, tmp_path):
    path = notebook("kind = os.environ['GPTOSS_EDU_MODEL']", "measured = {'cells': 1}", "kind")
    written = path.read_bytes()
    told = chapter_08.execute("some/model", path, tmp_path / "run" / "copy.ipynb")
    assert told == {"kind": "some/model", "measured": {"cells": 1}}
    assert path.read_bytes() == written, "the chapter itself stays as it was"
    assert "some/model" in (tmp_path / "run" / "copy.ipynb").read_text(encoding="utf-8")


def test_a_run_that_fails_leaves_what_it_had(notebook, tmp_path):
    path = notebook("print('so far')", "1 / 0")
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        chapter_08.execute("some/model", path, tmp_path / "copy.ipynb")
    assert "so far" in (tmp_path / "copy.ipynb").read_text(encoding="utf-8")


def test_a_new_run_takes_the_place_of_its_predecessor(tmp_path):
    record = tmp_path / "runs.json"
    for entry in (RUN, RUN | {"loading": "transposed while loading"}, RUN | {"layers": 4}):
        chapter_08.remember(entry, record)
    chapter_08.remember(RUN | {"measured": {"writing, tokens/s": 9.0}}, record)
    runs = json.loads(record.read_text(encoding="utf-8"))
    assert [(run["layers"], run["loading"]) for run in runs] == [
        (4, "mapped"),
        (24, "mapped"),
        (24, "transposed while loading"),
    ]
    assert runs[1]["measured"] == {"writing, tokens/s": 9.0}
    assert list(tmp_path.iterdir()) == [record]


def test_numbers_are_kept_to_three_digits():
    assert [chapter_08.rounded(x) for x in (8.1234, 1234.5, 0.0)] == [8.12, 1230.0, 0.0]
    assert "cores of" in chapter_08.machine()


@pytest.mark.parametrize(
    "asked, expected", [(None, None), ("", None), ("pocket", None), ("a/folder", "a/folder")]
)
def test_the_notebook_knows_pocket_as_chapter_09_does(monkeypatch, asked, expected):
    monkeypatch.delenv("GPTOSS_EDU_MODEL", raising=False)
    if asked is not None:
        monkeypatch.setenv("GPTOSS_EDU_MODEL", asked)
    cells = nbformat.read(chapter_08.NOTEBOOK, as_version=4).cells
    (plain,) = [cell.source for cell in cells if "\nwhere = " in cell.source]
    chosen = [
        line for line in plain.split("\n") if line.startswith(("import os", "asked", "where"))
    ]
    scope = {}
    exec("\n".join(chosen), scope)
    assert scope["where"] == expected
