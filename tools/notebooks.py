"""Write, execute and normalize the notebooks of the course.

The .ipynb file, with its outputs, is the only source that is committed. Nobody should edit JSON, so
a chapter travels through text and back:

    python tools/notebooks.py pull notebooks/X.ipynb    writes build/notebooks/X.py, cells as # %%
    python tools/notebooks.py push notebooks/X.ipynb    brings the edited text back
    python tools/notebooks.py run notebooks/X.ipynb     executes from top to bottom, keeps outputs
    python tools/notebooks.py check notebooks/X.ipynb   is the file as this script would write it?

Ids of cells, and outputs of code cells that were not edited, survive a push. What changes from run
to run (timings, widget state, versions) is never written, so that a diff shows what was changed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import time
from pathlib import Path

import jupytext
import nbformat
from jupytext.combine import combine_inputs_with_outputs
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parent.parent
TEXT_FORMAT = "py:percent"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
NOTEBOOK_METADATA = ("accelerator", "colab", "kernelspec", "language_info")
CELL_METADATA = ("cellView", "jupyter", "tags")
WIDGET = "application/vnd.jupyter.widget-view+json"  # names a model that lives in one kernel only
TIMEOUT = 1200  # seconds for one cell


def text_path(path: Path, root: Path = ROOT) -> Path:
    """Where `pull` writes the text of a notebook: under build/, where git does not look."""
    path = path.resolve()
    inside = path.relative_to(root) if path.is_relative_to(root) else Path(path.name)
    return root / "build" / inside.with_suffix(".py")


def normalize(notebook: NotebookNode) -> NotebookNode:
    """The same notebook without what changes from run to run, and with an id for every cell."""
    metadata = notebook.metadata | {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    cells, ids = [], set()
    for cell in notebook.cells:
        kept = {key: cell.metadata[key] for key in CELL_METADATA if cell.metadata.get(key)}
        fields = {"metadata": kept, "source": cell.source.strip("\n")}
        if cell.cell_type == "code":
            fields |= {
                "outputs": _normalize_outputs(cell.get("outputs", [])),
                "execution_count": cell.get("execution_count"),
            }
        fields["id"] = cell.get("id") or _new_id(cell.cell_type, fields["source"], ids)
        ids.add(fields["id"])
        cells.append(NotebookNode(cell_type=cell.cell_type, **fields))
    return nbformat.from_dict(
        {
            "cells": cells,
            "metadata": {key: metadata[key] for key in NOTEBOOK_METADATA if key in metadata},
            "nbformat": 4,
            "nbformat_minor": 5,
        }
    )


def _new_id(cell_type: str, source: str, taken: set[str]) -> str:
    """Eight digits from the content, so that two people who add the same cell agree on its id."""
    attempt = 0
    while True:
        digest = hashlib.sha256(f"{cell_type}\n{attempt}\n{source}".encode()).hexdigest()[:8]
        if digest not in taken:
            return digest
        attempt += 1


def _normalize_outputs(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Join what one stream printed (chunks depend on timing) and drop live widgets."""
    kept: list[NotebookNode] = []
    for output in outputs:
        if output.output_type == "stream":
            if kept and kept[-1].output_type == "stream" and kept[-1].name == output.name:
                kept[-1].text += output.text
                continue
        elif WIDGET in output.get("data", {}):
            continue
        kept.append(NotebookNode(output))
    return kept


def serialize(notebook: NotebookNode) -> str:
    """Validated JSON: sorted keys, one space of indentation, ending in a newline."""
    nbformat.validate(notebook)
    return nbformat.writes(notebook, version=4) + "\n"


def write_atomically(path: Path, text: str) -> None:
    """All of the file or nothing of it, also when the machine stops half-way."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(text, encoding="utf-8", newline="\n")
    os.replace(partial, path)


def read(path: Path) -> NotebookNode:
    """A notebook from disk; a missing one is a clear error."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: expected a notebook (.ipynb)")
    return nbformat.read(path, as_version=4)


def pull(path: Path, root: Path = ROOT) -> Path:
    """Write the notebook as text with `# %%` before each cell and return where."""
    notebook = read(path)
    notebook.metadata = {
        key: value
        for key, value in notebook.metadata.items()
        if key not in ("kernelspec", "language_info")
    }
    notebook.metadata["jupytext"] = {
        "notebook_metadata_filter": "accelerator,colab,-jupytext",
        "cell_metadata_filter": ",".join(CELL_METADATA) + ",-all",
    }
    target = text_path(path, root)
    write_atomically(target, jupytext.writes(notebook, fmt=TEXT_FORMAT))
    return target


def push(path: Path, root: Path = ROOT) -> Path:
    """Bring the text back. Cells keep their ids; code that changed loses its outputs."""
    source = text_path(path, root)
    if not source.is_file():
        raise FileNotFoundError(f"{source} does not exist: `pull` the notebook or write it first")
    notebook = jupytext.reads(source.read_text(encoding="utf-8"), fmt=TEXT_FORMAT)
    for cell in notebook.cells:
        cell.id = ""  # jupytext draws a random one; normalize derives it from the content
    if path.is_file():
        notebook = _carry_over(notebook, read(path))
    write_atomically(path, serialize(normalize(notebook)))
    return path


def _carry_over(new: NotebookNode, old: NotebookNode) -> NotebookNode:
    """Ids from the cells that correspond, outputs where the code is still the same."""
    metadata = {**old.metadata, **new.metadata}
    cell_metadata = [cell.metadata for cell in new.cells]
    combined = combine_inputs_with_outputs(new, old, fmt=TEXT_FORMAT)
    combined.metadata = NotebookNode(metadata)
    before = {cell.id: cell.source for cell in old.cells}
    for cell, written in zip(combined.cells, cell_metadata, strict=True):
        cell.metadata = written
        if cell.cell_type == "code" and cell.source != before.get(cell.id):
            cell.outputs, cell.execution_count = [], None
    return combined


def run(path: Path) -> Path:
    """Execute every cell in a fresh kernel of this environment, in the notebook's own folder."""
    notebook = read(path)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # committed numbers must not depend on a chip
    os.environ["TQDM_DISABLE"] = "1"  # a progress bar is for people, not for a file
    os.environ["GPTOSS_EDU_STATIC"] = "1"  # and so are sliders
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    client = NotebookClient(
        notebook,
        timeout=TIMEOUT,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.resolve().parent)}},
        record_timing=False,
        store_widget_state=False,
    )
    client.execute()
    write_atomically(path, serialize(normalize(notebook)))
    return path


def check(path: Path) -> None:
    """Raise ValueError unless the file is byte for byte what this script would write."""
    if serialize(normalize(read(path))) != path.read_text(encoding="utf-8"):
        raise ValueError(f"{path} is not normalized: run `python tools/notebooks.py run {path}`")


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    actions = {"pull": pull, "push": push, "run": run, "check": check}
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=actions)
    parser.add_argument("notebooks", nargs="*", type=Path, help="paths of .ipynb files")
    options = parser.parse_args(arguments)
    failed = 0
    for path in options.notebooks:
        started = time.perf_counter()
        try:
            done = actions[options.action](path)
        except (FileNotFoundError, ValueError, CellExecutionError) as error:
            failed += 1
            print(f"{path}: {error}", file=sys.stderr)
        else:
            print(f"{options.action} {done or path} ({time.perf_counter() - started:.1f} s)")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
