"""Chapter 08 on a model of full size: run the notebook, keep what it measured.

    python -m benchmarks.synthetic --layers 24 --out FOLDER    # or the real weights
    python -m benchmarks.chapter_08 FOLDER                     # transposed while loading
    python -m gptoss_edu convert FOLDER
    python -m benchmarks.chapter_08 FOLDER                     # mapped

The notebook runs unchanged, with GPTOSS_EDU_MODEL set, as a copy under build/, where its outputs
can be read. Its table goes to gptoss_edu/data/chapter_08.json, which the chapter shows: one entry
per number of layers, kind of weights and way of loading; a new one replaces the old.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
from pathlib import Path

import jax
import nbformat
from nbclient import NotebookClient

from benchmarks import cpu_report
from gptoss_edu.system import cores
from gptoss_edu.weights.checkpoint import find_folder, read_config
from gptoss_edu.weights.mapped import find_converted, is_conversion, replace_json

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "notebooks" / "08_generate_20b_cpu.ipynb"
RECORD = ROOT / "gptoss_edu" / "data" / "chapter_08.json"
ASKED = "print(json.dumps({'kind': kind, 'measured': measured}))"
TIMEOUT = 1800  # seconds for one cell


def execute(model: str, notebook: Path = NOTEBOOK, copy: Path | None = None) -> dict:
    """Run the notebook on this model; what `ASKED` prints at its end."""
    page = nbformat.read(notebook, as_version=4)
    page.cells.append(nbformat.v4.new_code_cell(ASKED))
    os.environ |= {"GPTOSS_EDU_MODEL": model, "TQDM_DISABLE": "1", "GPTOSS_EDU_STATIC": "1"}
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    folder = {"metadata": {"path": str(notebook.parent)}}
    try:
        NotebookClient(page, timeout=TIMEOUT, kernel_name="python3", resources=folder).execute()
    finally:  # also what it had until it failed
        if copy is not None:
            copy.parent.mkdir(parents=True, exist_ok=True)
            nbformat.write(page, copy)
    return json.loads(page.cells[-1].outputs[0].text)


def machine() -> str:
    """The machine in a line."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    name = cpu_report.machine()["processor"]
    return f"{cores()} cores of {name}, {memory:.0f} GiB, jax {jax.__version__}"


def rounded(value: float) -> float:
    """Three digits: the fourth is another one at the next run."""
    return float(f"{value:.3g}")


def remember(entry: dict, record: Path = RECORD) -> None:
    """Put an entry into the file in the place of its predecessor."""
    runs = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else []
    same = [[run[key] for key in ("layers", "kind", "loading")] for run in runs]
    mine = [entry[key] for key in ("layers", "kind", "loading")]
    kept = [run for run, its in zip(runs, same, strict=True) if its != mine]
    kept = sorted([*kept, entry], key=lambda run: (run["kind"], run["layers"], run["loading"]))
    replace_json(record, kept)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="a folder or a Hub id, as load_model takes it")
    parser.add_argument("--dry", action="store_true", help="run, and write no record")
    options = parser.parse_args()
    folder = find_folder(options.model).resolve()
    mapped = is_conversion(find_converted(folder, "auto"))
    told = execute(str(folder), copy=ROOT / "build" / "chapter_08" / f"{folder.name}.ipynb")
    entry = {
        "layers": read_config(folder).num_layers,
        "kind": told["kind"],
        "loading": "mapped" if mapped else "transposed while loading",
        "machine": machine(),
        "date": datetime.date.today().isoformat(),
        "measured": {name: rounded(value) for name, value in told["measured"].items()},
    }
    print(json.dumps(entry, indent=1))
    if not options.dry:
        remember(entry)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
