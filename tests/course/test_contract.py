"""The contract of a chapter, judged from the notebook's JSON.

What a reader may rely on in every chapter: a box with measured times, a failure that is shown,
three exercises with hints, a quiz that explains, pictures with words. Each rule is a function from
the cells of a notebook to complaints; the second half breaks a good notebook in one place for each.
Kernel, order of execution, widget state and compared outputs are judged in test_notebooks.py.
"""

import copy
import re
from collections.abc import Iterator

import exercises
import pytest
from course import HEAD, LINKS, TAGS

MAX_LINES = 30  # of a code cell
MIN_PROSE = 4  # words of prose for each line of code, over a whole notebook
ROWS = ("You will learn", "You need", "Time on two cores", "Memory", "Download")
NOTEBOOKS = exercises.notebooks()
IMAGE = re.compile(r"!\[([^\]]*)\]\(([^)]*)\)")
LINK = re.compile(r"\]\(([^)\s]+)\)")
TAG = re.compile(r"<(?:img|image)\b[^>]*>")
DETAILS = re.compile(
    r"<details>\s*<summary>(.*?)</summary>(.*?)</details>", re.DOTALL | re.IGNORECASE
)
EMOJI = re.compile("[\U0001f300-\U0001faff\u2600-\u26ff\u2705\u274c\u2728]")
TIMING = re.compile(r"^\s*%%?time", re.MULTILINE)


def tagged(cell, tag):
    return tag in cell["metadata"].get("tags", [])


def own(cells, kind=None):
    """The author's cells, without those that tools/course.py writes."""
    return [
        cell
        for cell in cells
        if kind in (None, cell["cell_type"]) and not any(tagged(cell, tag) for tag in TAGS)
    ]


def sections(cells) -> dict[str, list[dict]]:
    """Title of a `## ` section -> its cells; a cell that begins a section belongs to it."""
    found, title = {}, ""
    for cell in own(cells):
        if cell["cell_type"] == "markdown" and (m := re.search(r"^## (.+)$", cell["source"], re.M)):
            title = m[1]
        found.setdefault(title, []).append(cell)
    return found


def section(cells, name) -> list[dict]:
    """The cells of the section with this title, after its number."""
    return next((v for k, v in sections(cells).items() if re.sub(r"^\d+ · ", "", k) == name), [])


def top(cells) -> Iterator[str]:
    """Title, badge, map with alternative text, box with measured time and memory."""
    if not cells or not tagged(cells[0], HEAD):
        yield "the first cell is not the head that tools/course.py writes"
        return
    text = cells[0]["source"]
    if not re.match(r"# (\d\d|a\d) · \S", text):
        yield "the title is not '# NN · Name'"
    if not re.search(
        r"colab\.svg\)(\]\(https://colab\.research\.google\.com/|$)", text, re.MULTILINE
    ):
        yield "no badge opens the notebook in Colab, or says that it has no address"
    if "You are here: " not in text:
        yield "no map says 'You are here'"
    for row in ROWS:
        if not (found := re.search(rf"^\| \*\*{row}\*\* \| (.+) \|$", text, re.MULTILINE)):
            yield f"the box has no row {row!r}"
        elif "not measured" in found[1]:
            yield f"{row}: not measured yet; `make test` measures and writes it"


def bottom(cells) -> Iterator[str]:
    """What was proved, words for the glossary, and the way on."""
    proved = "\n".join(cell["source"] for cell in section(cells, "What you proved"))
    if proved.count("\n- ") < 2:
        yield "'## What you proved' lists fewer than two things"
    if not re.search(r"^\*\*Words for the glossary:\*\* \S.* · ", proved, re.MULTILINE):
        yield "no '**Words for the glossary:** a · b'"
    if not tagged(cells[-1], LINKS) or not LINK.search(cells[-1]["source"]):
        yield "the last cell has no links to the chapters before and after"


def order(cells) -> Iterator[str]:
    """Sections are numbered from 1, and one of them breaks something."""
    titles = [title for title in sections(cells) if title]
    numbered = [title for title in titles if title not in ("What you proved", "Further reading")]
    for number, title in enumerate(numbered, 1):
        if not title.startswith(f"{number} · "):
            yield f"section {title!r}, expected '{number} · ...'"
    if not any(re.match(r"\d+ · Break it", title) for title in titles):
        yield "no section is called 'Break it'"


def code(cells) -> Iterator[str]:
    """Code comes in small cells, each after some prose; it imports and proves."""
    written, told = own(cells, "code"), own(cells, "markdown")
    for cell in written:
        if (lines := cell["source"].count("\n") + 1) > MAX_LINES:
            yield f"cell {cell['id']} has {lines} lines, expected at most {MAX_LINES}"
        if TIMING.search(cell["source"]):
            yield f"cell {cell['id']} prints a time that is never the same twice"
        reason = "#" in cell["source"] or "compare" in _before(cells, cell)
        if tagged(cell, "nbval-ignore-output") and not reason:
            yield f"cell {cell['id']} is not compared, and nothing says why"
    if len(told) < len(written):
        yield f"{len(told)} cells of prose for {len(written)} of code, expected one for each"
    lines = sum(len(cell["source"].split("\n")) for cell in written)
    words = sum(len(DETAILS.sub("", cell["source"]).split()) for cell in told)
    if words < MIN_PROSE * lines:
        yield f"{words} words of prose for {lines} lines of code, expected {MIN_PROSE} for each"
    everything = "\n".join(cell["source"] for cell in written)
    if not re.search(r"^(?:from gptoss_edu|import gptoss_edu)", everything, re.MULTILINE):
        yield "nothing is imported from gptoss_edu"
    if "assert" not in everything:
        yield "nothing is asserted"


def _before(cells, cell) -> str:
    at = cells.index(cell)
    return cells[at - 1]["source"] if at and cells[at - 1]["cell_type"] == "markdown" else ""


def tasks(cells) -> Iterator[str]:
    """At least three exercises: what it takes, a stub that is checked, three hints, a solution."""
    found = section(cells, "Exercises")
    told = [cell for cell in found if re.search(r"^### Exercise \d+ · \S", cell["source"], re.M)]
    if len(told) < 3:
        yield f"{len(told)} exercises, expected at least 3"
    bounds = [found.index(cell) for cell in told] + [len(found)]
    for number, cell in enumerate(told, 1):
        where = f"exercise {number}"
        if f"### Exercise {number} · " not in cell["source"]:
            yield f"{where}: its title is not '### Exercise {number} · Name'"
        if not re.search(
            r"^\*Difficulty [1-5] of 5 · \d+ minutes · [^*]+\*$", cell["source"], re.MULTILINE
        ):
            yield f"{where}: no '*Difficulty d of 5 · m minutes · why.*'"
        inside = found[bounds[number - 1] : bounds[number]]
        yield from (f"{where}: {line}" for line in _task(inside, exercises.aliases(cells)))


def _task(cells, known) -> Iterator[str]:
    stubs = [c for c in cells if c["cell_type"] == "code" and exercises.checked(c["source"], known)]
    if len(stubs) != 1:
        yield f"{len(stubs)} cells end in a line that checks, expected 1"
    for cell in stubs:
        if "raise NotImplementedError" not in cell["source"]:
            yield "no stub raises NotImplementedError"
        if "not attempted yet" not in str(cell["outputs"]):
            yield "its output is not 'not attempted yet'"
    prose = "\n".join(cell["source"] for cell in cells if cell["cell_type"] == "markdown")
    folded = [summary for summary, _ in DETAILS.findall(prose)]
    hints = [summary[:6] for summary in folded if summary.startswith("Hint")]
    if hints != ["Hint 1", "Hint 2", "Hint 3"]:
        yield f"folded hints {hints}, expected Hint 1, Hint 2 and Hint 3"
    if len(exercises.FOLDED.findall(prose)) != 1:
        yield "expected one folded solution with a block of Python"


def quiz(cells) -> Iterator[str]:
    """Three questions; one choice is right, and each wrong one says why it is wrong."""
    prose = "\n".join(cell["source"] for cell in section(cells, "Quiz"))
    questions = re.split(r"^(?=\*\*\d+\. )", prose, flags=re.MULTILINE)[1:]
    if len(questions) != 3:
        yield f"the quiz has {len(questions)} questions, expected 3"
    for number, question in enumerate(questions, 1):
        if not re.match(rf"\*\*{number}\. .+\*\*$", question, re.MULTILINE):
            yield f"question {number} does not begin '**{number}. ...**'"
        choices = DETAILS.findall(question)
        if len(choices) < 3:
            yield f"question {number} has {len(choices)} choices, expected 3"
        right = [answer for _, answer in choices if answer.strip().startswith("Yes")]
        if len(right) != 1:
            yield f"question {number} has {len(right)} right choices, expected 1"
        for choice, answer in choices:
            if len(re.sub(r"^(Yes|No)\.", "", answer.strip()).split()) < 3:
                yield f"question {number}, {choice!r}: no reason is given"


def pictures(cells) -> Iterator[str]:
    """Every image has words for those who cannot see it, and comes from this repository."""
    for cell in cells:
        where = f"cell {cell['id']}"
        images = IMAGE.findall(cell["source"]) if cell["cell_type"] == "markdown" else []
        for words, target in images:
            if len(words.split()) < 2:
                yield f"{where}: the image {target} has the alternative text {words!r}"
            if re.match(r"(?:https?:)?//", target):
                yield f"{where}: the image {target} is remote"
        shown = [output.get("data", {}) for output in cell.get("outputs", [])]
        pages = ["".join(data.get(kind, "")) for data in shown for kind in ("text/html",)]
        if cell["cell_type"] == "markdown":
            pages.append(cell["source"])
        for tag in TAG.findall("\n".join(pages)):
            if not re.search(r"""\b(?:alt|aria-label)=["'][^"']""", tag):
                yield f"{where}: an image without alternative text"
            if re.search(r"""(?:src|href)=["'](?:https?:)?//""", tag):
                yield f"{where}: a remote image"
        for output in cell.get("outputs", []):
            data, metadata = output.get("data", {}), output.get("metadata", {})
            if "image/png" in data:
                alt = metadata.get("image/png", {}).get("alt", "")
                if len(alt.split()) < 4 or alt != "".join(data.get("text/plain", "")):
                    yield f"{where}: a figure whose words are {alt!r}"
            if "image/svg+xml" in data and "<title" not in "".join(data["image/svg+xml"]):
                yield f"{where}: a drawing without a title"


def manners(cells) -> Iterator[str]:
    """No emoji but as an example, in code or in quotes."""
    for cell in cells:
        told = re.sub(r"`[^`]*`|[\"“][^\"”]*[\"”]", "", cell["source"])
        if cell["cell_type"] == "markdown" and (found := EMOJI.search(told)):
            yield f"cell {cell['id']}: {found[0]}, expected words"


RULES = [top, bottom, order, code, tasks, quiz, pictures, manners]


def complaints(cells) -> list[str]:
    return [line for rule in RULES for line in rule(cells)]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_chapter_keeps(path, rule):
    found = list(rule(exercises.cells_of(path)))
    assert not found, f"{rule.__doc__}\n" + "\n".join(found)


# ------------------------------------------------------------------------- planted violations


def markdown(source, **metadata):
    return {"cell_type": "markdown", "id": "m", "metadata": metadata, "source": source}


def python(source, *outputs, **metadata):
    shown = [{"output_type": "stream", "text": text} for text in outputs]
    cell = {"cell_type": "code", "id": "c", "metadata": metadata, "source": source}
    return cell | {"outputs": shown}


HINTS = "".join(f"<details><summary>Hint {n}: a</summary>\n\nb\n\n</details>\n" for n in (1, 2, 3))
FOLD = "<details><summary>Solution</summary>\n\n```python\ndef my_a():\n    pass\n```\n\n</details>"
CHOICES = (
    "<details><summary>a) one</summary>No. It is two and not one.</details>\n"
    "<details><summary>b) two</summary>Yes. One more than one is two.</details>\n"
    "<details><summary>c) three</summary>Only if you counted one of them twice.</details>\n"
)
PNG = {
    "output_type": "display_data",
    "metadata": {"image/png": {"alt": "A line that goes up."}},
    "data": {"image/png": "", "text/plain": "A line that goes up."},
}


def good():
    """A small notebook that keeps every rule."""
    rows = "\n".join(f"| **{row}** | something |" for row in ROWS)
    head = (
        "# 04 · MoE\n\n[![Open in Colab](map/colab.svg)](https://colab.research.google.com/x)\n\n"
        f"![Map. You are here: 04.](map/04.svg)\n\n| | |\n|---|---|\n{rows}"
    )
    stub = "def my_a():\n    raise NotImplementedError\n\n\nstart_here.by_channel(my_a)"
    cells = [markdown(head, tags=[HEAD])]
    cells += [markdown("## 1 · Why\n\n" + "word " * 60)]
    cells += [
        python("from gptoss_edu.course.checks import start_here\n\nassert 1"),
        markdown("## 2 · Break it: x"),
    ]
    cells += [python("1 + 1", "2"), markdown("## 3 · Exercises")]
    for number in (1, 2, 3):
        text = f"### Exercise {number} · A\n\n*Difficulty 2 of 5 · 5 minutes · why not.*\n\nDo it."
        cells += [markdown(text), python(stub, "· a: not attempted yet"), markdown(HINTS + FOLD)]
    asked = [f"**{number}. How many?**\n\n{CHOICES}" for number in (1, 2, 3)]
    cells += [markdown("## 4 · Quiz\n\n" + "\n".join(asked))]
    proved = "## What you proved\n\n- One.\n- Two.\n\n**Words for the glossary:** a · b."
    return [*cells, markdown(proved), markdown("[next](05_mxfp4.ipynb) →", tags=[LINKS])]


def edit(at, old, new):
    def change(cells):
        assert old in cells[at]["source"], (old, cells[at]["source"])
        cells[at]["source"] = cells[at]["source"].replace(old, new)

    return change


def shows(output):
    return lambda cells: cells[4].update(outputs=[output])


HTML = {"output_type": "display_data", "data": {"text/html": ['<img src="https://x.y/a.png">']}}
NO_ALT = PNG | {"metadata": {}}
OTHER_ALT = PNG | {"data": PNG["data"] | {"text/plain": "<Figure size 640x480 with 1 Axes>"}}
SVG = {"output_type": "display_data", "data": {"image/svg+xml": "<svg></svg>"}}
QUIZ, PROVED = 15, 16
PLANTED = [
    (top, lambda cells: cells[0].update(metadata={}), "not the head"),
    (top, edit(0, "# 04 · MoE", "# MoE"), "the title is not"),
    (top, edit(0, "https://colab.research.google.com/x", "https://example.org"), "no badge"),
    (top, edit(0, "You are here", "Here"), "no map"),
    (top, edit(0, "**Memory**", "**Room**"), "no row 'Memory'"),
    (top, edit(0, "| **Memory** | something", "| **Memory** | not measured yet"), "`make test`"),
    (bottom, edit(PROVED, "\n- Two.", ""), "fewer than two"),
    (bottom, edit(PROVED, "**Words", "Words"), "glossary"),
    (bottom, lambda cells: cells[-1].update(metadata={}), "no links"),
    (order, edit(3, "## 2 · Break it", "## 2 · Mend it"), "no section is called"),
    (order, edit(5, "## 3 · E", "## 4 · E"), "expected '3 · ...'"),
    (code, edit(4, "1 + 1", "\n".join(["1 + 1"] * 31)), "has 31 lines"),
    (code, edit(4, "1 + 1", "%timeit 1 + 1"), "never the same"),
    (code, lambda cells: cells[4]["metadata"].update(tags=["nbval-ignore-output"]), "says why"),
    (code, edit(4, "1 + 1", "\n".join(["1 + 1"] * 30)), "words of prose"),
    (code, lambda cells: cells.extend([python("2")] * 9), "expected one for each"),
    (code, edit(2, "from gptoss_edu.course.checks", "from course"), "nothing is imported"),
    (code, edit(2, "assert 1", "1"), "nothing is asserted"),
    (tasks, lambda cells: cells.__delitem__(slice(12, 15)), "2 exercises"),
    (tasks, edit(6, "Exercise 1", "Exercise 7"), "its title is not"),
    (tasks, edit(6, "5 minutes", "soon"), "*Difficulty d of 5"),
    (tasks, edit(7, "start_here.by_channel(my_a)", "my_a"), "0 cells end in a line that checks"),
    (tasks, edit(7, "raise NotImplementedError", "pass"), "no stub raises"),
    (tasks, lambda cells: cells[7].update(outputs=[]), "'not attempted yet'"),
    (tasks, edit(8, "Hint 2", "Tip 2"), "['Hint 1', 'Hint 3']"),
    (tasks, edit(8, "```python", "```text"), "one folded solution"),
    (quiz, edit(QUIZ, "**3. How many?**", "3. How many?"), "has 2 questions"),
    (quiz, edit(QUIZ, "Yes. One more", "No. One more"), "0 right choices"),
    (quiz, edit(QUIZ, "No. It is two and not one.", "Yes. Why should it not be?"), "2 right"),
    (quiz, edit(QUIZ, "No. It is two and not one.", "No."), "no reason"),
    (pictures, edit(0, "Map. You are here: 04.", ""), "alternative text ''"),
    (pictures, edit(0, "(map/04.svg)", "(https://x.y/04.svg)"), "is remote"),
    (pictures, edit(1, "word", '<img src="map/04.svg">'), "without alternative text"),
    (pictures, shows(HTML), "a remote image"),
    (pictures, shows(NO_ALT), "whose words are ''"),
    (pictures, shows(OTHER_ALT), "whose words are 'A line"),
    (pictures, shows(SVG), "without a title"),
    (manners, edit(1, "word", "\N{ROCKET}"), "expected words"),
]


@pytest.mark.parametrize("rule, spoil, expected", PLANTED, ids=[entry[2] for entry in PLANTED])
def test_violation_is_noticed(rule, spoil, expected):
    cells = good()
    assert complaints(cells) == []
    broken = copy.deepcopy(cells)
    spoil(broken)
    found = list(rule(broken))
    assert any(expected in line for line in found), found


def test_a_picture_with_words_is_fine():
    cells = good()
    cells[4]["outputs"] = [PNG]
    assert complaints(cells) == []
