"""What tools/course.py writes: heads and links of the notebooks, maps, twins, the README's table.

The first half looks at the repository: everything generated is as it should be. The second half
works on a small course of two chapters in a temporary folder.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as xml
from pathlib import Path

import course
import course_map
import nbformat
import pytest
from looks import contrast

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


def test_the_course_fits_into_a_quarter_of_an_hour_and_a_small_laptop():
    runs = course.measured().values()
    assert sum(run["seconds"] for run in runs) <= 900, "of Run All, one notebook after the other"
    assert all(run["gigabytes"] <= 4 for run in runs), "of 8 GB, with a browser beside it"


def test_notebooks_ask_for_no_name_that_nobody_owns():
    """What is installed from GitHub is the address that its owner set, or nothing."""
    named = re.compile(r"(?:git\+|colab\.research\.google\.com/)\S+")
    owner = (course.address() or {"url": "https://github.com/"})["url"].split("github.com/")[1]
    for path in [*ROOT.glob("*/*.ipynb"), *ROOT.glob("*/blank/*.ipynb")]:
        found = named.findall(path.read_text(encoding="utf-8"))
        assert [one for one in found if not owner or owner not in one] == [], path.name


def test_the_commit_that_notebooks_install_has_their_version():
    if (published := course.address()) is None:
        return
    show = ["git", "show", f"{published['commit']}:gptoss_edu/__init__.py"]
    seen = subprocess.run(show, cwd=ROOT, capture_output=True, text=True)
    if seen.returncode:
        pytest.skip("not a git checkout, or not all of its history")
    assert f'"{course.version()}"' in seen.stdout, "run `python tools/course.py address URL`"


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


def test_map_can_be_read_without_good_eyes():
    for color in (course_map.BLUE, course_map.VERMILION, course_map.INK, "#5f5b53"):
        assert contrast(course_map.PAPER, color) >= 4.5, color


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
    assert head.startswith("# 00 · Start\n\n![Colab: ")
    assert "![Map of the course. You are here: 00 start here. Ahead: 01 go on" in head
    assert "**00** · [01](01_go_on.ipynb) · [glossary](glossary.md)" in head
    assert "| not measured yet; 10 minutes to read, 25 for the exercises |" in head
    assert "nothing: the pocket model" in head
    assert setup == course.setup(small)
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


HASH = "0123456789abcdef0123456789abcdef01234567"


def test_the_address_is_unset_then_set_everywhere_and_taken_back(small):
    course.write(small)
    paths = [*small.rglob("*.ipynb"), small / "notebooks" / "map" / "colab.svg"]
    unset = [path.read_bytes() for path in paths]
    head, setup, *_ = sources(paths[0])
    assert "![Colab: this copy has no address yet](map/colab.svg)" in head
    assert "no address yet" in paths[-1].read_text(encoding="utf-8")
    assert not any(b"http" in source.replace(b"http://www.w3.org", b"") for source in unset)
    course.move("https://github.com/ada/lessons", HASH, small)
    course.write(small)
    for name, folder in (("00_start", ""), ("00_start", "blank/"), ("01_go_on", "")):
        head, setup, *_ = sources(small / "notebooks" / f"{folder}{name}.ipynb")
        at = f"github/ada/lessons/blob/main/notebooks/{folder}{name}.ipynb)"
        assert f"map/colab.svg)](https://colab.research.google.com/{at}" in head
        assert '"git+https://github.com/ada/lessons"' in setup
        assert HASH in setup
        assert ".zip" not in setup
    course.move("unset", root=small)
    course.write(small)
    assert [path.read_bytes() for path in paths] == unset


@pytest.mark.parametrize(
    "url, commit", [("http://x.y", HASH), ("https://github.com/a/b/c", HASH), ("", HASH),
                    ("https://github.com/ada/x", "main"), ("https://github.com/ada/x", HASH[:7])],
)  # fmt: skip
def test_an_address_is_an_owner_a_name_and_a_whole_hash(small, url, commit):
    with pytest.raises(ValueError, match=r"expected (https:|all 40 digits)"):
        course.move(url, commit, small)
    assert course.address(small) is None


def test_the_command_takes_the_commit_that_is_checked_out(small, monkeypatch, capsys):
    monkeypatch.setattr(course, "ROOT", small)  # as if the script lay there
    for function in (course.move, course.write):
        defaults = tuple(small if value == ROOT else value for value in function.__defaults__)
        monkeypatch.setattr(function, "__defaults__", defaults)
    assert course.main(["address", "https://github.com/ada/lessons"]) == 1
    assert "found the commit ''" in capsys.readouterr().err, "it is no git repository yet"
    git = ["git", "-C", small, "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "-m", "a"], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True).stdout
    assert course.main(["address", "https://github.com/ada/lessons"]) == 0
    assert course.address(small)["commit"] == head.strip()
    assert head.strip() in sources(small / "notebooks" / "00_start.ipynb")[1]


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
    (tmp_path / "tools").mkdir()
    shutil.copy(ROOT / "tools" / "peak.py", tmp_path / "tools")  # which it imports
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
