"""Glossary and symptoms: every word and letter leads to its section, every cause to its proof."""

import ast
import importlib
import json
import re
from functools import cache
from pathlib import Path
from textwrap import indent
from urllib.parse import unquote

import pytest

from gptoss_edu import shapes
from gptoss_edu.config import GPT_OSS_20B
from gptoss_edu.weights.checkpoint import POCKET, read_config

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
CHAPTERS = sorted([*NOTEBOOKS.glob("*.ipynb"), *NOTEBOOKS.parent.glob("colab/*.ipynb")])
LINK = re.compile(r"\[([^]]+)\]\(([^)\s]+)\)")


def page(name: str) -> str:
    return (NOTEBOOKS / name).read_text(encoding="utf-8")


def rows(text: str, heading: str) -> list[list[str]]:
    """The cells of the table under a heading, without its two top lines."""
    (section,) = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [
        [cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in lines[2:]
    ]


@cache
def sections(path: Path) -> dict[str, str]:
    """Anchor -> text of a notebook or page, by heading, as JupyterLab and GitHub name them.

    In a notebook an anchor is the heading with hyphens for blanks; in a page it is what GitHub
    makes of it. The text under a heading includes that of the headings below it.
    """
    notebook = path.suffix == ".ipynb"
    text = path.read_text(encoding="utf-8")
    if notebook:
        cells = [(c["cell_type"], "".join(c["source"])) for c in json.loads(text)["cells"]]
        # A comment in code is no heading: indented, it does not look like one.
        text = "\n\n".join(t if kind == "markdown" else indent(t, " ") for kind, t in cells)
    found, open_ = {"": text}, []
    for line in re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL).splitlines():
        if heading := re.match(r"(#+) (.+)", line):
            title = heading[2].replace("`", "").strip()
            if not notebook:
                title = re.sub(r"[^\w\- ]", "", title.lower())
            open_ = [(depth, name) for depth, name in open_ if depth < len(heading[1])]
            open_.append((len(heading[1]), title.replace(" ", "-")))
            found[open_[-1][1]] = ""
        for _, name in open_:
            found[name] += line + "\n"
    return found


def target(address: str) -> str | None:
    """The text that a relative link of notebooks/ leads to, or None if it leads nowhere."""
    path, _, anchor = address.partition("#")
    file = NOTEBOOKS / path if path else NOTEBOOKS / "glossary.md"
    if not file.is_file():
        return None
    if file.suffix not in {".ipynb", ".md"}:
        return "" if not anchor else None
    return sections(file).get(unquote(anchor))


def words_of(path: Path) -> list[str]:
    """What a chapter hands to the glossary."""
    found = re.findall(r"\*\*Words for the glossary:\*\* (.+)", sections(path)[""])
    return [word.strip().rstrip(".") for line in found for word in line.split(" · ")]


@pytest.mark.parametrize("name", ["glossary.md", "symptoms.md"])
def test_links_lead_somewhere(name):
    inside = [a for _, a in LINK.findall(page(name)) if not a.startswith("https://")]
    dead = [address for address in inside if target(address) is None]
    assert not dead, f"{name} links to {dead}: was a section renamed?"


def test_link_to_nowhere_is_noticed():
    assert target("00_start_here.ipynb#1-·-Ask-it-something").startswith("## 1 · Ask")
    assert target("glossary.md#words")
    assert target("00_start_here.ipynb#7-·-No-such-section") is None
    assert target("no_such_chapter.ipynb") is None


@pytest.mark.parametrize("heading", ["Shape letters", "Symbols", "Words"])
def test_sorted_without_double_entries(heading):
    entries = [row[0].strip("*`") for row in rows(page("glossary.md"), heading)]
    assert entries == sorted(entries, key=str.casefold)
    assert len({entry.casefold() for entry in entries}) == len(entries) > 0


def test_every_shape_letter_of_the_package():
    key = re.findall(r"^    ( *\S.*)$", shapes.__doc__, re.MULTILINE)
    letters = set(re.findall(r"(?<![\w(*])([A-Z])(?=[ ,])", "\n".join(key)))
    assert {"B", "T", "S", "I", "O", "J"} < letters, "the key in shapes.py reads otherwise now"
    shown = {row[0]: row[2:4] for row in rows(page("glossary.md"), "Shape letters")}
    assert letters | set(GPT_OSS_20B.sizes) <= set(shown)
    pocket = read_config(POCKET)
    for letter, size in GPT_OSS_20B.sizes.items():
        assert shown[letter] == [f"{size:,}", f"{pocket.sizes[letter]:,}"], letter
    assert shown["L"] == [str(GPT_OSS_20B.num_layers), str(pocket.num_layers)]


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.name[:2])
def test_words_of_each_chapter(path):
    explained = {row[0].strip("*") for row in rows(page("glossary.md"), "Words")}
    missing = [word for word in words_of(path) if word not in explained]
    assert not missing, f"{path.name} gives {missing} to the glossary, which lacks them"


def test_the_section_speaks_of_the_word():
    """A link to the wrong section is as bad as none; inflected forms count."""
    silent = []
    for word, _, where in rows(page("glossary.md"), "Words"):
        parts = re.split(r"[\s-]", word.strip("*").lower())
        stems = [part[: max(3, 2 * len(part) // 3)] for part in parts if len(part) > 1]
        for label, address in LINK.findall(where):
            text = (target(address) or "").lower()
            if not any(stem in text for stem in stems):
                silent.append(f"{word} {label}")
    assert not silent, f"these sections never use the word: {silent}"


def symptom_rows() -> list[list[str]]:
    text = page("symptoms.md")
    return [
        row
        for heading in re.findall(r"^## (.+)$", text, re.MULTILINE)
        for row in rows(text, heading)
    ]


def test_symptoms_have_a_cause_a_proof_and_a_guard():
    found = symptom_rows()
    assert len(found) >= 25
    seen = [row[0] for row in found]
    assert len(set(seen)) == len(seen)
    for row in found:
        assert len(row) == 4, row
        assert all(row), f"an empty cell: {row}"
        ast.parse(row[2].strip("`"), mode="eval")
        tests = re.findall(r"`((?:\w+/)?test_\w+\.py)::(test_\w+)`", row[3])
        assert LINK.search(row[3]), f"no section explains: {row[0]}"
        assert tests, f"no test catches: {row[0]}"
        for file, name in tests:
            source = (NOTEBOOKS.parent / "tests" / file).read_text(encoding="utf-8")
            assert f"def {name}(" in source, f"{file} has no {name}"


def test_symptoms_name_what_exists():
    """Quick, and says more than the exception that the next test would end in."""
    (setup,) = re.findall(r"^```python\n(.*?)^```$", page("symptoms.md"), re.MULTILINE | re.DOTALL)
    for node in ast.walk(ast.parse(setup)):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module)
            missing = [alias.name for alias in node.names if not hasattr(module, alias.name)]
            assert not missing, f"{node.module} has no {missing}"


def test_proofs_are_true_where_all_is_well():
    (setup,) = re.findall(r"^```python\n(.*?)^```$", page("symptoms.md"), re.MULTILINE | re.DOTALL)
    names = {}
    exec(setup, names)
    for symptom, _, proof, _ in symptom_rows():
        assert eval(proof.strip("`"), names) is True, f"{symptom}: {proof}"
