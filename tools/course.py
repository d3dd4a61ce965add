"""Writes what stands in many places from the one place where it is kept, notebooks/course.yml.

    python tools/course.py write         head and links of every notebook, maps, badges, blank
                                         twins, and the README's table
    python tools/course.py check         say what `write` would change; exit status 1 if anything
    python tools/course.py address URL   the repository is published there: notebooks install its
                                         commit HEAD, or that of --commit; "unset" takes it back

Times and memory come from build/measured.json, which a run of the notebooks under pytest leaves
behind (conftest.py). They are rounded coarsely into notebooks/measured.json, which is committed, so
that a second run on a similar machine changes nothing. `make test` measures, then writes.

Generated cells carry the tags below; all other cells belong to the author of the chapter.
"""

from __future__ import annotations

import argparse
import base64
import json
import math
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import yaml
from course_map import alt_text, badge, course_map
from nbformat import NotebookNode

from notebooks import normalize, serialize, write_atomically

ROOT = Path(__file__).resolve().parent.parent
HEAD, SETUP, LINKS = "course-head", "course-setup", "course-links"
TAGS = (HEAD, SETUP, LINKS)
BEGIN, END = "<!-- table of chapters: tools/course.py writes it -->", "<!-- end of the table -->"
TIMES = {10: "10 s", 20: "20 s", 30: "30 s", 60: "1 min", 120: "2 min", 180: "3 min", 300: "5 min"}
# Either Colab and Kaggle have it, or a reader there never sees it.
BROUGHT = {"jax", "numpy", "jupyterlab", "ipykernel"}
WORDS_PER_MINUTE = 100  # slow: figures are looked at, and code is read twice
ADDRESS = re.compile(r"https://github\.com/[\w.-]+/[\w.-]+")
COMMIT = re.compile(r"[0-9a-f]{40}")  # a branch or a tag can be moved to other code, a hash cannot
BLUE, GREEN, GRAY = "#0072b2", "#00704f", "#5f5b53"


def load(root: Path = ROOT) -> dict[str, Any]:
    """The course as notebooks/course.yml has it."""
    return yaml.safe_load((root / "notebooks" / "course.yml").read_text(encoding="utf-8"))


def address(root: Path = ROOT) -> dict[str, str] | None:
    """Where the repository is published ("url", "commit"); None as long as nobody has said so."""
    path = root / "notebooks" / "address.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def stations(course: dict[str, Any]) -> list[tuple[str, str]]:
    """(key, label) of everything on the map."""
    return [(one["key"], one["label"]) for one in course["chapters"] + course["pages"]]


# ------------------------------------------------------------------------- times and memory


def about(seconds: float, before: int | None = None) -> int:
    """A rounded time; the one from before stays as long as it is not wrong by half."""
    if before is not None and (before / 2 <= seconds <= 1.5 * before or seconds <= before == 10):
        return before
    return min(TIMES, key=lambda known: abs(math.log(known / max(seconds, 10))))


def memory(gigabytes: float, before: float | None = None) -> float:
    """Memory rounded up to half a gigabyte; the number from before stays while it is enough."""
    if before is not None and before - 0.8 <= gigabytes <= before:
        return before
    return math.ceil(2 * gigabytes) / 2


def measured(root: Path = ROOT) -> dict[str, dict[str, float]]:
    """Path -> rounded seconds and gigabytes, as committed."""
    path = root / "notebooks" / "measured.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def record(root: Path = ROOT) -> dict[str, dict[str, float]]:
    """The same after the last run of the notebooks, as far as its numbers are other ones."""
    fresh, known = root / "build" / "measured.json", measured(root)
    found = json.loads(fresh.read_text(encoding="utf-8")) if fresh.is_file() else {}
    for path, run in found.items():
        before = known.get(path, {})
        known[path] = {
            "seconds": about(run["seconds"], before.get("seconds")),
            "gigabytes": memory(run["bytes"] / 1e9, before.get("gigabytes")),
        }
    there = {one["file"] for one in load(root)["chapters"] if (root / one["file"]).is_file()}
    return {path: known[path] for path in sorted(known) if path in there}


def minutes_of(cells: list[NotebookNode]) -> tuple[int, int]:
    """Minutes to read a notebook, and minutes that its exercises say they take."""
    own = [cell for cell in cells if not set(TAGS) & set(cell.metadata.get("tags", []))]
    told = "\n".join(cell.source for cell in own if cell.cell_type == "markdown")
    exercises = sum(map(int, re.findall(r"\*Difficulty \d of 5 · (\d+) minutes", told)))
    folded = re.sub(r"<details>.*?</details>", "", told, flags=re.DOTALL)
    words = sum(len(cell.source.split()) for cell in own if cell.cell_type == "code")
    words += len(folded.split())
    return 5 * max(1, round(words / WORDS_PER_MINUTE / 5)), exercises


# -------------------------------------------------------------------- the cells of a notebook


def relative(target: str, file: str) -> str:
    """The path of one file of the repository as a link in another has to name it."""
    up = len(Path(file).parent.parts)
    there, here = Path(target).parts, Path(file).parts
    common = 0
    while common < min(len(there), len(here)) - 1 and there[common] == here[common]:
        common += 1
    return "/".join([*[".."] * (up - common), *there[common:]])


def head(one: dict[str, Any], cells: list[NotebookNode], root: Path = ROOT) -> str:
    """Title, badge, map and box of a chapter."""
    course, file = load(root), one["file"]
    reading, exercises = minutes_of(cells)
    run = measured(root).get(file)
    time = f"about {TIMES[int(run['seconds'])]} for Run All" if run else "not measured yet"
    time += f"; {reading} minutes to read"
    time += f", {exercises} for the exercises" if exercises else ""
    enough = f"{run['gigabytes']:g} GB" if run else "not measured yet"
    row = [
        f"**{other['key']}**" if other == one else f"[{other['key']}]({relative(path, file)})"
        for other in course["chapters"] + course["pages"]
        if (root / (path := other["file"])).is_file()
    ]
    lines = [
        f"# {one['key']} · {one['title']}",
        "",
        colab(file, root),
        "",
        f"![{alt_text(stations(course), one['key'])}]"
        f"({relative('notebooks/map/' + one['key'] + '.svg', file)})",
        "",
        " · ".join(row),
        "",
        "| | |",
        "|---|---|",
        f"| **You will learn** | {one['learn']} |",
        f"| **You need** | {one['need']} |",
        f"| **Time on two cores** | {time} |",
        f"| **Memory** | {enough} |",
        f"| **Download** | {one.get('download', 'nothing: the pocket model is in the package')} |",
        *([f"| **With the real 20B** | {one['real']} |"] if "real" in one else []),
    ]
    return "\n".join(lines)


def colab(file: str, root: Path = ROOT) -> str:
    """The badge that opens a notebook in Colab, or says why it cannot."""
    drawing, published = relative("notebooks/map/colab.svg", file), address(root)
    if published is None:
        return f"![Colab: this copy has no address yet]({drawing})"
    place = published["url"].replace(
        "https://github.com", "https://colab.research.google.com/github"
    )
    return f"[![Open in Colab]({drawing})]({place}/blob/main/{file})"


def version(root: Path = ROOT) -> str:
    """The version of the package in this tree."""
    text = (root / "gptoss_edu" / "__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)[1]


def added(root: Path = ROOT) -> list[str]:
    """What a chapter imports and JAX does not bring along, by the names of the modules."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = project["dependencies"] + project["optional-dependencies"]["course"]
    names = [re.match(r"[\w-]+", line)[0].replace("-", "_") for line in lines]
    return [name for name in names if name not in BROUGHT]


SETUP_CELL = """\
# @title Set up the course: run this cell first. It is silent unless it fails.
def set_up_the_course():
    # Where the course is installed, this does nothing. Else it looks for it, or installs it.
    import importlib.util
    import runpy
    from pathlib import Path

    if getattr(importlib.util.find_spec("gptoss_edu"), "origin", None):
        return
    here, set_up = Path.cwd(), "gptoss_edu/course/set_up.py"
    folders = [here, *here.parents[:2]]  # of the repository, if this notebook lies in one
    # @zip@
    source = next((at for at in folders if (at / set_up).is_file()), None)
    if source is None:
        # @otherwise@
    modules = "@modules@"
    runpy.run_path(str(source / set_up))["complete"](source, "@version@", modules)


set_up_the_course()"""
UNPACK = """\
    for file in [*here.glob("gptoss_edu*.zip"), *Path("/content").glob("gptoss_edu*.zip")]:
        zipfile.ZipFile(file).extractall(here / "unpacked")
        folders += [here / "unpacked", *(here / "unpacked").iterdir()]
"""
REFUSE = """\
        raise ImportError(
            "The course is not installed here, and this copy has no address to install it from. "
            "Open the notebook in the folder of the course, where `make lab` sets up all, or "
            "pack that folder as gptoss_edu.zip, put it beside this notebook (in Colab: upload it "
            "under Files) and run this cell again."
        )
"""
INSTALL = """\
        address = "git+@url@"
        commit = "@commit@"
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        pip.append(f"{address}@{commit}")
        said = subprocess.run(pip, capture_output=True, text=True).stderr
        importlib.invalidate_caches()
        if (spec := importlib.util.find_spec("gptoss_edu")) is None:
            said = f"expected version @version@, found none. What pip said:\\n{said[-600:]}"
            raise ImportError(f"The course could not be set up: {said}")
        source = Path(spec.origin).parents[1]
"""


def setup(root: Path = ROOT) -> str:
    """A cell that installs the course where a notebook was opened without it.

    The address is in it, or it asks for the folder: code is never taken from a name that somebody
    else may own one day, nor from a branch or a tag, which can be moved to other code.
    """
    published = address(root)
    cell = SETUP_CELL.replace("    # @zip@\n", "" if published else UNPACK)
    cell = cell.replace("        # @otherwise@\n", INSTALL if published else REFUSE)
    more = ["subprocess", "sys"] if published else ["zipfile"]
    cell = cell.replace("import runpy\n", "\n    import ".join(["import runpy", *more]) + "\n", 1)
    words = {"modules": " ".join(added(root)), "version": version(root), **(published or {})}
    for word, value in words.items():
        cell = cell.replace(f"@{word}@", value)
    return cell


def links(one: dict[str, Any], root: Path = ROOT) -> str:
    """The way on: the chapter before, the one after, and the glossary."""
    course = load(root)
    there = [other for other in course["chapters"] if (root / other["file"]).is_file()]
    at = there.index(one)
    parts = []
    if at:
        parts.append(f"← {_link(there[at - 1], one['file'])}")
    if at + 1 < len(there):
        parts.append(f"{_link(there[at + 1], one['file'])} →")
    for page in course["pages"]:
        if (root / page["file"]).is_file():
            parts.append(f"[{page['title']}]({relative(page['file'], one['file'])})")
    return " · ".join(parts)


def _link(other: dict[str, Any], file: str) -> str:
    return f"[{other['key']} {other['title']}]({relative(other['file'], file)})"


def framed(one: dict[str, Any], notebook: NotebookNode, root: Path = ROOT) -> NotebookNode:
    """The notebook with its generated cells as they should be, and everything else untouched."""
    cells = [c for c in notebook.cells if not set(TAGS) & set(c.metadata.get("tags", []))]
    had_setup = any(SETUP in c.metadata.get("tags", []) for c in notebook.cells)
    code = [c for c in notebook.cells if c.cell_type == "code" and c.source.strip()]
    counts = [c.get("execution_count") for c in code]
    if not had_setup and counts == list(range(1, len(code) + 1)):
        for number, cell in enumerate(code, 2):  # one more cell comes first, and shows nothing
            cell.execution_count = number
    first = NotebookNode(
        cell_type="code",
        # Folded in JupyterLab by the one, in Colab by the other and the title.
        metadata=NotebookNode(tags=[SETUP], jupyter={"source_hidden": True}, cellView="form"),
        source=setup(root),
        id=SETUP,
        outputs=[],
        execution_count=1 if counts and counts[0] else None,
    )
    top = _markdown(HEAD, head(one, cells, root))
    notebook.cells = [top, first, *cells, _markdown(LINKS, links(one, root))]
    return normalize(notebook)


def _markdown(tag: str, source: str) -> NotebookNode:
    tags = NotebookNode(tags=[tag]) if tag else NotebookNode()
    return NotebookNode(cell_type="markdown", metadata=tags, source=source, id=tag)


# ------------------------------------------------------------------------------- blank twins

SOLUTION = re.compile(r"\n*<details>\s*<summary>Solution.*?</details>", re.DOTALL)
TARGET = re.compile(r"(\]\()([^)\s]+)(\))")


def blank(notebook: NotebookNode, file: str, root: Path = ROOT) -> NotebookNode:
    """The same notebook to be filled in: no outputs, no solutions, links from one folder deeper."""
    twin = nbformat.from_dict(notebook)
    for cell in twin.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        else:
            cell.source = SOLUTION.sub("", cell.source)
            cell.source = TARGET.sub(lambda m: m[1] + _deeper(m[2], file, root) + m[3], cell.source)
            cell.source = cell.source.replace(f"/blob/main/{file}", f"/blob/main/{_twin(file)}")
    return normalize(twin)


def _twin(file: str) -> str:
    return f"notebooks/blank/{Path(file).name}"


def _deeper(target: str, file: str, root: Path) -> str:
    """Where a link leads from the twin: to another twin if there is one, else up and over."""
    if re.match(r"[a-z]+:|#", target):
        return target
    path, hash_, anchor = target.partition("#")
    full = (root / file).parent.joinpath(path).resolve()
    inside = full.relative_to(root.resolve()).as_posix() if full.is_relative_to(root) else path
    has_twin = inside in {one["file"] for one in load(root)["chapters"]}
    return relative(_twin(inside) if has_twin else inside, _twin(file)) + hash_ + anchor


# ------------------------------------------------------------------------------ the front page


def table(root: Path = ROOT) -> str:
    """The chapters, with what a reader can do afterwards, and what a run was measured to take."""
    runs = measured(root)
    lines = ["| chapter | afterwards you can | Run All | memory |", "|---|---|---|---|"]
    for one in load(root)["chapters"]:
        name, run = f"{one['key']} {one['title']}", runs.get(one["file"])
        there = (root / one["file"]).is_file()
        took = ("", "") if there else ("planned", "")
        if run and there:
            took = TIMES[int(run["seconds"])], f"{run['gigabytes']:g} GB"
        link = f"[{name}]({one['file']})" if there else name
        lines.append("| " + " | ".join([link, one["afterwards"], *took]) + " |")
    return "\n".join(lines)


def readme(root: Path = ROOT) -> str:
    """README.md with its table written again."""
    text = (root / "README.md").read_text(encoding="utf-8")
    before, marker, rest = text.partition(BEGIN)
    assert marker, f"README.md has no line {BEGIN!r}"
    _, marker, after = rest.partition(END)
    assert marker, f"README.md has no line {END!r}"
    return f"{before}{BEGIN}\n\n{table(root)}\n\n{END}{after}"


def picture(root: Path = ROOT) -> bytes | None:
    """The figure of the front page, out of the notebook that draws it."""
    wanted = load(root)["picture"]
    if not (root / wanted["file"]).is_file():
        return None
    notebook = nbformat.read(root / wanted["file"], as_version=4)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" in data and data["text/plain"].startswith(wanted["begins"]):
                return base64.b64decode(data["image/png"])
    return None


def badges(root: Path = ROOT) -> Iterator[tuple[str, str]]:
    """(name, SVG) of the small signs: what pyproject.toml and the notebooks say, in two words."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (jax,) = [line[5:] for line in project["dependencies"] if line.startswith("jax>=")]
    there = [one for one in load(root)["chapters"] if (root / one["file"]).is_file()]
    known = address(root) is not None
    yield "colab", badge("Open in", "Colab") if known else badge("Colab", "no address yet", GRAY)
    yield "python", badge("Python", project["requires-python"].replace(">=", "") + " or newer")
    yield "jax", badge("JAX", f"{jax} or newer")
    yield "license", badge("license", project["license"])
    yield "notebooks", badge("notebooks", f"{len(there)}, all executed by the tests", GREEN)
    yield "network", badge("network", "not needed", GREEN)


# -------------------------------------------------------------------------------------- files


def files(root: Path = ROOT) -> Iterator[tuple[Path, str | bytes]]:
    """Every generated file with what should stand in it."""
    course = load(root)
    for key, _ in stations(course):
        yield root / "notebooks" / "map" / f"{key}.svg", course_map(stations(course), key)
    for name, svg in badges(root):
        yield root / "notebooks" / "map" / f"{name}.svg", svg
    for one in course["chapters"]:
        path = root / one["file"]
        if path.is_file():
            notebook = framed(one, nbformat.read(path, as_version=4), root)
            yield path, serialize(notebook)
            yield root / _twin(one["file"]), serialize(blank(notebook, one["file"], root))
    yield root / "README.md", readme(root)
    if (png := picture(root)) is not None:
        yield root / "notebooks" / "map" / "figure.png", png


def stale(root: Path = ROOT) -> Iterator[tuple[Path, str | bytes]]:
    """The generated files that are not as they should be."""
    for path, content in files(root):
        data = content if isinstance(content, bytes) else content.encode()
        if not path.is_file() or path.read_bytes() != data:
            yield path, content


def write(root: Path = ROOT) -> list[Path]:
    """Write what is out of date, and take away twins whose notebook has gone."""
    path, written = root / "notebooks" / "measured.json", []
    if (found := record(root)) != measured(root):
        write_atomically(path, json.dumps(found, indent=1) + "\n")
        written.append(path)
    for path, content in stale(root):
        if isinstance(content, bytes):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        else:
            write_atomically(path, content)
        written.append(path)
    for path in orphans(root):
        path.unlink()
        written.append(path)
    return written


def orphans(root: Path = ROOT) -> list[Path]:
    """Blank twins of notebooks that are not there."""
    twins = {root / _twin(one["file"]) for one in load(root)["chapters"]
             if (root / one["file"]).is_file()}  # fmt: skip
    return sorted(set((root / "notebooks" / "blank").glob("*.ipynb")) - twins)


def move(url: str, commit: str | None = None, root: Path = ROOT) -> None:
    """Set where the repository is published, and the commit that notebooks install; or "unset"."""
    path = root / "notebooks" / "address.json"
    if url == "unset":
        path.unlink(missing_ok=True)
        return
    if not ADDRESS.fullmatch(url):
        raise ValueError(f"found {url!r}, expected https://github.com/OWNER/NAME, or unset")
    if commit is None:
        git = ["git", "-C", str(root), "rev-parse", "HEAD"]
        commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    if not COMMIT.fullmatch(commit):
        raise ValueError(f"found the commit {commit!r}, expected all 40 digits of its hash")
    write_atomically(path, json.dumps({"url": url, "commit": commit}, indent=1) + "\n")


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=("write", "check", "address"))
    parser.add_argument("url", nargs="?", help="https://github.com/OWNER/NAME, or unset")
    parser.add_argument("--commit", help="what notebooks install (default: HEAD)")
    options = parser.parse_args(arguments)
    if options.action == "address":
        try:
            move(options.url or "", options.commit)
        except ValueError as error:
            print(error, file=sys.stderr)
            return 1
    if options.action == "check":
        found = [*[path for path, _ in stale()], *orphans()]
        for path in found:
            print(f"{path.relative_to(ROOT)} is out of date: run `python tools/course.py write`")
        return 1 if found else 0
    for path in write():
        print(f"wrote {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
