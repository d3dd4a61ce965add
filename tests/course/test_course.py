"""What tools/course.py writes: heads and links of the notebooks, maps, twins, the README's table.

The first half looks at the repository: everything generated is as it should be. The second half
works on a small course of two chapters in a temporary folder.
"""

import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import types
import xml.etree.ElementTree as xml
from pathlib import Path

import course
import course_map
import nbformat
import pytest

import notebooks

ROOT = Path(__file__).resolve().parents[2]


def test_everything_generated_is_up_to_date():
    stale = [path.relative_to(ROOT).as_posix() for path, _ in course.stale()]
    stale += [path.name for path in course.orphans()]
    assert not stale, f"{stale} differ: run `python tools/course.py write`"


def test_course_names_every_notebook_and_each_fact_once():
    chapters = course.load()["chapters"]
    for field in ("key", "title", "label", "file", "learn", "afterwards"):
        assert len({one[field] for one in chapters}) == len(chapters), field
    there = {
        path.relative_to(ROOT).as_posix()
        for folder in ("notebooks", "colab")
        for path in (ROOT / folder).glob("*.ipynb")
    }
    assert there <= {one["file"] for one in chapters}
    assert all(one["file"].split("/")[1].startswith(one["key"]) for one in chapters)


def test_the_course_fits_into_ten_minutes_and_a_small_laptop():
    runs = course.measured().values()
    assert sum(run["seconds"] for run in runs) <= 600, "of Run All, one notebook after the other"
    assert all(run["gigabytes"] <= 4 for run in runs), "of 8 GB, with a browser beside it"


def test_address_stands_in_one_place():
    """The address is a placeholder until the repository is published: one command changes it."""
    listed = subprocess.run(["git", "grep", "-lF", course.address()], cwd=ROOT, text=True,
                            capture_output=True)  # fmt: skip
    if listed.returncode > 1:
        pytest.skip("not a git checkout")
    by_hand = [path for path in listed.stdout.split() if not path.endswith(".ipynb")]
    assert by_hand == ["pyproject.toml"]


@pytest.mark.parametrize("path", sorted(ROOT.glob("notebooks/map/*.svg")), ids=lambda p: p.stem)
def test_drawings_are_drawings(path):
    root = xml.fromstring(path.read_text(encoding="utf-8"))
    name = "{http://www.w3.org/2000/svg}"
    assert root.tag == f"{name}svg"
    assert root.find(f"{name}title").text
    assert not re.search(r"href|url\((?!#)|<script|@import", path.read_text(encoding="utf-8"))


def test_the_picture_of_the_readme_is_a_figure_of_the_course():
    assert course.picture() == (ROOT / "notebooks" / "map" / "figure.png").read_bytes()
    page = course.readme()
    assert re.search(r'<img src="notebooks/map/figure\.png" width="\d+" alt="[^"]{40,}">', page)


def luminance(color):
    levels = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in levels]
    return sum(part * weight for part, weight in zip(linear, (0.2126, 0.7152, 0.0722), strict=True))


def test_map_can_be_read_without_good_eyes():
    paper = luminance(course_map.PAPER)
    for color in (course_map.BLUE, course_map.VERMILION, course_map.INK, "#5f5b53"):
        assert (paper + 0.05) / (luminance(color) + 0.05) >= 4.5, color


# ------------------------------------------------------------------------------ a small course

STATIONS = [("00", "start|here"), ("01", "tokenizer"), ("a1", "training"), ("glossary", "glossary")]
YAML = """
chapters:
  - {key: "00", title: Start, label: start here, file: notebooks/00_start.ipynb,
     learn: a, need: b, afterwards: begin}
  - {key: "01", title: Go on, label: go on, file: notebooks/01_go_on.ipynb,
     learn: c, need: d, afterwards: continue, download: 3 GB}
pages:
  - {key: glossary, title: Glossary, label: glossary, file: notebooks/glossary.md}
picture: {file: notebooks/00_start.ipynb, begins: A line}
"""
PNG = "iVBORw0KGgo="
CELLS = [
    ("markdown", "## 1 · One\n\n" + "word " * 990 + "[on](01_go_on.ipynb#a) ![p](map/00.svg)"),
    ("code", "print(1)"),
    ("markdown", "*Difficulty 1 of 5 · 25 minutes · why.*"),
    ("markdown", "Hint.\n\n<details><summary>Solution</summary>\n\nsecret\n\n</details>"),
    ("markdown", "## What you proved\n\n- a"),
]


def small_notebook(cells):
    made = nbformat.v4.new_notebook()
    for kind, source in cells:
        cell = nbformat.v4.new_markdown_cell(source)
        if kind == "code":
            data = {"image/png": PNG, "text/plain": "A line."}
            output = nbformat.v4.new_output("display_data", data=data)
            cell = nbformat.v4.new_code_cell(source, execution_count=1, outputs=[output])
        made.cells.append(cell)
    return notebooks.serialize(notebooks.normalize(made))


@pytest.fixture
def small(tmp_path):
    """A repository with two chapters and a glossary, nothing generated yet."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    (folder / "course.yml").write_text(YAML, encoding="utf-8")
    (folder / "glossary.md").write_text("# Glossary\n", encoding="utf-8")
    (folder / "00_start.ipynb").write_text(small_notebook(CELLS), encoding="utf-8")
    (folder / "01_go_on.ipynb").write_text(small_notebook(CELLS[:2]), encoding="utf-8")
    (tmp_path / "README.md").write_text(f"a\n{course.BEGIN}\nold\n{course.END}\nb\n")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "gptoss_edu").mkdir()
    (tmp_path / "gptoss_edu" / "__init__.py").write_text('__version__ = "7.8.9"\n')
    return tmp_path


def sources(path):
    return [cell.source for cell in nbformat.read(path, as_version=4).cells]


def test_write_frames_a_notebook_and_leaves_its_author_alone(small):
    course.write(small)
    path = small / "notebooks" / "00_start.ipynb"
    head, setup, *own, links = sources(path)
    assert head.startswith("# 00 · Start\n\n[![Open in Colab](map/colab.svg)](https://colab.")
    assert "![Map of the course. You are here: 00 start here. Ahead: 01 go on" in head
    assert "**00** · [01](01_go_on.ipynb) · [glossary](glossary.md)" in head
    assert "| not measured yet; 10 minutes to read, 25 for the exercises |" in head
    assert "nothing: the pocket model" in head
    assert "google.colab" in setup
    assert own == [source for _, source in CELLS]
    assert links == "[01 Go on](01_go_on.ipynb) → · [Glossary](glossary.md)"
    assert "← [00 Start](00_start.ipynb)" in sources(small / "notebooks" / "01_go_on.ipynb")[-1]
    counts = [cell.get("execution_count") for cell in nbformat.read(path, 4).cells]
    assert [count for count in counts if count] == [1, 2]
    assert course.write(small) == [], "writing twice changes nothing"
    assert list(course.stale(small)) == []


def test_blank_twin_has_no_outputs_and_no_solutions_and_its_links_work(small):
    course.write(small)
    twin = small / "notebooks" / "blank" / "00_start.ipynb"
    text = "\n".join(sources(twin))
    assert "secret" not in text
    assert "Hint." in text
    assert "[on](01_go_on.ipynb#a) ![p](../map/00.svg)" in text
    assert "[glossary](../glossary.md)" in text
    assert "/blob/main/notebooks/blank/00_start.ipynb" in text
    cells = nbformat.read(twin, 4).cells
    assert all(not cell.outputs for cell in cells if cell.cell_type == "code")
    (small / "notebooks" / "00_start.ipynb").rename(small / "notebooks" / "01_go_on.ipynb")
    assert course.orphans(small) == [twin]


def test_measured_times_reach_notebook_and_readme_and_stay(small):
    course.write(small)
    table = course.readme(small)
    assert "| [00 Start](notebooks/00_start.ipynb) | begin |  |  |" in table
    measured = small / "build" / "measured.json"
    measured.parent.mkdir()
    runs = {"notebooks/00_start.ipynb": {"seconds": 47.0, "bytes": 1_234_000_000}}
    measured.write_text(json.dumps(runs))
    course.write(small)
    assert "| begin | 1 min | 1.5 GB |" in (small / "README.md").read_text(encoding="utf-8")
    head = sources(small / "notebooks" / "00_start.ipynb")[0]
    assert "| about 1 min for Run All; 10 minutes to read" in head
    assert "| **Memory** | 1.5 GB |" in head
    runs["notebooks/00_start.ipynb"] = {"seconds": 38.0, "bytes": 1_100_000_000}
    measured.write_text(json.dumps(runs))
    assert course.write(small) == [], "a run that is a little faster changes nothing"


@pytest.mark.parametrize(
    "seconds, before, expected",
    [(3, None, 10), (17, None, 20), (44, None, 60), (400, None, 300), (3, 10, 10), (11, 10, 10),
     (16, 10, 20), (44, 30, 30), (46, 30, 60), (31, 60, 60), (29, 60, 30), (9, 20, 10)],
)  # fmt: skip
def test_times_are_rounded_and_stay(seconds, before, expected):
    assert course.about(seconds, before) == expected


@pytest.mark.parametrize(
    "found, before, expected",
    [(0.6, None, 1), (1.5, None, 1.5), (1.51, None, 2), (1.1, 1.5, 1.5), (1.6, 1.5, 2),
     (0.6, 1.5, 1)],
)  # fmt: skip
def test_memory_is_rounded_up_and_stays(found, before, expected):
    assert course.memory(found, before) == expected


def test_the_address_is_changed_everywhere_at_once(small):
    course.move("https://github.com/ada/lessons", small)
    course.write(small)
    head, setup, *_ = sources(small / "notebooks" / "00_start.ipynb")
    assert "colab.research.google.com/github/ada/lessons/blob/main/notebooks/00_start" in head
    assert '"git+https://github.com/ada/lessons@v7.8.9"' in setup
    with pytest.raises(ValueError, match="expected https:"):
        course.move("http://x.y", small)


@pytest.mark.parametrize("place", ["Colab", "Kaggle", "at home", "installed"])
def test_the_setup_cell_adds_what_is_missing_and_leaves_jax_alone(small, place, monkeypatch):
    here = {"Colab": "google.colab", "at home": "nothing"}.get(place)
    monkeypatch.setitem(sys.modules, here or "nothing", types.ModuleType("there"))
    monkeypatch.delenv("KAGGLE_KERNEL_RUN_TYPE", raising=False)
    if place in ("Kaggle", "installed"):
        monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    gone = {"openai_harmony", "safetensors"} | ({"gptoss_edu"} if place != "installed" else set())
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in gone else find(name)
    )
    ran = []
    shell = types.SimpleNamespace(system=ran.append)
    exec(compile(course.setup(small), "<setup>", "exec"), {"get_ipython": lambda: shell})
    expected = [f"--no-deps git+{course.address()}@v7.8.9", "safetensors", "openai_harmony"]
    start = f"{sys.executable} -m pip install --quiet "
    assert ran == ([start + what for what in expected] if place in ("Colab", "Kaggle") else [])


def test_nothing_that_the_setup_cell_adds_asks_for_another_jax():
    """So plain `pip install` of what is missing cannot replace it."""
    added = course.added()
    assert {"safetensors", "huggingface_hub", "openai_harmony", "tqdm"} <= set(added)
    for name in added:
        required = importlib.metadata.requires(name) or []
        needed = [line for line in required if "extra ==" not in line]
        assert not [line for line in needed if re.match(r"(jax|jaxlib|libtpu)\b", line)], name


def test_map_says_where_you_are():
    svg = course_map.course_map(STATIONS, "01")
    assert svg.count("you are here") == 1
    assert "You are here: 01 tokenizer. Behind you: 00 start here. Ahead: a1 training" in svg
    with pytest.raises(AssertionError, match="none of"):
        course_map.course_map(STATIONS, "07")
    with pytest.raises(AssertionError, match="no place on the map"):
        course_map.course_map([*STATIONS, ("12", "x")], "01")


def test_relative_paths():
    assert course.relative("notebooks/map/a.svg", "notebooks/x.ipynb") == "map/a.svg"
    assert course.relative("notebooks/map/a.svg", "colab/x.ipynb") == "../notebooks/map/a.svg"
    assert course.relative("README.md", "notebooks/blank/x.ipynb") == "../../README.md"
    assert course.relative("notebooks/x.ipynb", "notebooks/x.ipynb") == "x.ipynb"


def test_a_run_under_pytest_is_measured(tmp_path):
    """conftest.py writes what a whole notebook took, and nothing about one that failed."""
    shutil.copy(ROOT / "conftest.py", tmp_path)
    for name, source in (("good", 'x = b"x" * 300_000_000'), ("bad", "1 / 0")):
        made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
        made.cells[0].execution_count = 1
        nbformat.write(made, tmp_path / f"{name}.ipynb")
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "--dist", "loadfile", "--nbval"]
    command += ["--nbval-current-env", "-c", os.devnull, "--rootdir", str(tmp_path), "."]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert "1 failed, 1 passed" in ran.stdout, ran.stdout + ran.stderr
    found = json.loads((tmp_path / "build" / "measured.json").read_text(encoding="utf-8"))
    assert found.keys() == {"good.ipynb"}
    assert found["good.ipynb"]["bytes"] > 300_000_000
    assert found["good.ipynb"]["seconds"] > 0
