"""Rules 9 to 15 of a chapter: formulas, sources, numbers, a panel, hard questions, a folded setup.

Made like test_contract.py: each rule is a function from the cells of a notebook to complaints, and
the second half breaks a good notebook in one place for each. English is judged in test_english.py,
addresses in test_links.py, checkers in test_checks.py.
"""

import copy
import re
from collections.abc import Iterator

import exercises
import pytest
from course import SETUP
from test_contract import DETAILS, NOTEBOOKS, edit, markdown, own, python, section, tagged

from gptoss_edu.course.viz.panel import LARGEST

MECHANISMS = {"02", "03", "04", "05", "06", "07", "a1"}  # what a paper writes as a formula
TRANSPLANTS = {"02", "03", "04", "05", "06"}
PANEL = 'class="gptoss-panel"'
CODE = re.compile(r"^ *```.*?^ *```|`[^`\n]+`", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"\$\$(.*?)\$\$", re.DOTALL)
# Once a `$` is a formula, GitHub wants it to hug its content, and no digit behind it.
INLINE = re.compile(r"\$(?!\s)[^$\n]*(?<!\s)\$(?!\d)")
ENVIRONMENTS = {"aligned", "cases", "matrix", "pmatrix", "bmatrix", "array"}
FORBIDDEN = re.compile(
    r"\\(?:(?:re)?newcommand|def|let|bm|tag|label|ref|eqref|require|operatorname)\b"
)
BARE = re.compile(r"^(?:True|False)$|(?:: |\bis |= )True\.?$")
REMOTE = re.compile(r"""https?://(?!www\.w3\.org/)[^"'\s]+|(?:src|href)=["']//""")


def key(cells) -> str:
    """The number of a chapter, out of its title."""
    return (re.match(r"# (\w\w) · ", cells[0]["source"]) or ["", ""])[1]


def prose(cells) -> Iterator[tuple[str, str]]:
    """(id, Markdown) of the author's cells."""
    for cell in own(cells, "markdown"):
        yield cell["id"], cell["source"]


def formulas(cells) -> Iterator[str]:
    """A mechanism has its formula, set by MathJax, beside the names that our code has for it."""
    told = [source for _, source in prose(cells) if BLOCK.search(CODE.sub("", source))]
    if key(cells) in MECHANISMS and not told:
        yield "no formula between $$ and $$"
    if told and not any(re.search(r"\$\$[^$]+\$\$.*?`\w+`", text, re.DOTALL) for text in told):
        yield "no cell with a formula goes on with one of our names in backticks"


def mathjax(cells) -> Iterator[str]:
    r"""Formulas use what GitHub, Colab and JupyterLab document; `\$` is money."""
    for where, source in prose(cells):
        text = CODE.sub("", source).replace(r"\$", "")
        inside = [match[1] for match in BLOCK.finditer(text)]
        for line in text.split("\n"):
            if "$$" in line and not re.match(r"^[> ]*\$\$|.*\$\$$", line):
                yield f"cell {where}: $$ neither begins nor ends its line: {line[:60]!r}"
        rest = BLOCK.sub("", text)
        inside += INLINE.findall(rest)
        if "$" in INLINE.sub("", rest):
            yield f"cell {where}: a single $, one with a blank inside, or a digit behind it"
        for one in inside:
            yield from (f"cell {where}: {line}" for line in _commands(one))
        for line in rest.split("\n"):
            if line.startswith("|") and any("|" in one for one in INLINE.findall(line)):
                yield rf"cell {where}: | in a formula in a table, expected \lvert: {line[:50]!r}"


def _commands(formula: str) -> Iterator[str]:
    if found := FORBIDDEN.search(formula):
        yield f"{found[0]} is not understood everywhere"
    for name in set(re.findall(r"\\begin\{(\w+\*?)\}", formula)) - ENVIRONMENTS:
        yield f"environment {name!r}, expected one of {sorted(ENVIRONMENTS)}"
    if formula.count("{") != formula.count("}"):
        yield f"braces do not match: {formula[:60]!r}"


def sources(cells) -> Iterator[str]:
    """Five to eight references, each with a link and a sentence."""
    text = "\n".join(cell["source"] for cell in section(cells, "Further reading"))
    bullets = re.findall(r"^- (.+(?:\n  .+)*)", text, re.MULTILINE)
    if not 5 <= len(bullets) <= 8:
        yield f"'## Further reading' has {len(bullets)} references, expected 5 to 8"
    for bullet in bullets:
        link = re.match(r"[^\[]{0,60}\[[^\]]+\]\(https://[^)\s]+\)", bullet)
        words = re.sub(r"\[[^\]]*\]\([^)]*\)", "", bullet).split()
        if not link or len(words) < 6 or bullet.rstrip()[-1] not in ".)":
            yield f"expected '- [name](https://…): a sentence.', found {bullet[:70]!r}"


def numbers(cells) -> Iterator[str]:
    """What proves something prints the figure and the tolerance, and not True."""
    for cell in own(cells, "code"):
        for output in cell["outputs"]:
            shown = "".join(output.get("text", output.get("data", {}).get("text/plain", "")))
            for line in shown.split("\n"):
                if BARE.search(line.strip()):
                    yield f"cell {cell['id']} shows {line.strip()[-70:]!r}, expected a figure"


def panels(cells) -> Iterator[str]:
    """One interactive picture needs no kernel: script, inputs and numbers in one output."""
    pages = [
        "".join(output.get("data", {}).get("text/html", ""))
        for cell in own(cells, "code")
        for output in cell["outputs"]
    ]
    pages = [page for page in pages if PANEL in page]
    if not pages:
        yield "no output is a viz.panel"
    for page in pages:
        if (size := len(page.encode())) > LARGEST:
            yield f"a panel has {size:,} bytes, expected at most {LARGEST:,}"
        if remote := REMOTE.search(page):
            yield f"a panel asks for {remote[0]}, expected nothing from outside"
        if "<script" not in page or '"controls":{"' not in page:
            yield "a panel has no script with inputs"
        if not re.search(r"""<img [^>]*alt=["'][^"']{20}""", page):
            yield "a panel has no picture, with words, for where no script may run"


def depth(cells) -> Iterator[str]:
    """One exercise is hard; one question is open, with a rubric."""
    text = "\n".join(cell["source"] for cell in section(cells, "Exercises"))
    if not re.search(r"^\*Difficulty [45] of 5 ·", text, re.MULTILINE):
        yield "no exercise has the difficulty 4 or 5"
    found = re.search(r"^### Open question\b.*?\n(.*?)(?=^### |\Z)", text, re.MULTILINE | re.DOTALL)
    if not found:
        yield "no '### Open question' after the exercises"
        return
    folded = [
        inside for summary, inside in DETAILS.findall(found[1]) if "rubric" in summary.lower()
    ]
    if len(folded) != 1 or len(re.findall(r"^(?:- |\d\. |\| )", folded[0], re.MULTILINE)) < 3:
        yield "the open question has no folded rubric of at least three lines"
    if len(DETAILS.sub("", found[1]).split()) < 15:
        yield "the open question is shorter than 15 words"


def transplants(cells) -> Iterator[str]:
    """In 02 to 06 the reader's function answers a question inside the pocket model."""
    calls = re.compile(r"\btransplant\.ask\(.*?=\s*my_\w+", re.DOTALL)
    if key(cells) in TRANSPLANTS and not any(calls.search(c["source"]) for c in own(cells, "code")):
        yield "nothing calls transplant.ask(question, name=my_function)"


def setup(cells) -> Iterator[str]:
    """The setup cell is folded in JupyterLab and in Colab, and has words for a failure."""
    found = [cell for cell in cells if tagged(cell, SETUP)]
    if len(found) != 1:
        yield f"{len(found)} cells are tagged {SETUP!r}, expected 1"
        return
    about, source = found[0]["metadata"], found[0]["source"]
    if about.get("jupyter", {}).get("source_hidden") is not True:
        yield "the setup cell is not folded in JupyterLab"
    if about.get("cellView") != "form" or not source.startswith("# @title "):
        yield "the setup cell is not folded in Colab (cellView form, # @title)"
    if not re.search(r"could not be set up|is not installed here", source):
        yield "the setup cell does not say in words that it failed"


RULES = [formulas, mathjax, sources, numbers, panels, depth, transplants, setup]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_chapter_keeps(path, rule):
    found = list(rule(exercises.cells_of(path)))
    assert not found, f"{rule.__doc__}\n" + "\n".join(found)


# ------------------------------------------------------------------------- planted violations

FORMULA = "$$\n\\begin{aligned} a &= b_{1} \\\\ c &= d \\end{aligned}\n$$\n\nHere $a$ is `x_BTD`."
READING = "\n".join(
    f"- [Paper {n}](https://arxiv.org/abs/{n}): it says why the scores are divided."
    for n in "12345"
)
OPEN = (
    "### Open question · Why?\n\n" + "word " * 15 + "\n\n<details><summary>A rubric</summary>\n\n"
    "- one\n- two\n- three\n\n</details>"
)
PICTURE = f'<div {PANEL}><img alt="Two keys and a sink share one softmax."></div>'
SCRIPT = """<script>show(root, {"controls":{"sink":[1,2]}}, draw);</script>"""


def good():
    """The parts of a chapter that these rules look at."""
    folded = {"jupyter": {"source_hidden": True}, "cellView": "form"}
    return [
        markdown("# 04 · MoE", tags=["course-head"]),
        python("# @title Set up\n'could not be set up'", tags=[SETUP], **folded),
        markdown(f"## 1 · Why\n\n{FORMULA} It costs \\$5, or `$6`."),
        python("1 + 1", "largest error 3e-07, allowed 1e-06\n") | {"id": "figures"},
        python("panel()") | {"outputs": [{"data": {"text/html": PICTURE + SCRIPT}}]},
        markdown("## 2 · Exercises\n\n### Exercise 1 · A\n\n*Difficulty 4 of 5 · 9 minutes · a.*"),
        python("transplant.ask('Why (so)?', swiglu=my_swiglu)"),
        markdown(OPEN),
        markdown("## What you proved\n\n- a"),
        markdown(f"## Further reading\n\n{READING}"),
    ]


def shows(text):
    return lambda cells: cells[3].update(outputs=[{"output_type": "stream", "text": text}])


def page(text):
    return lambda cells: cells[4].update(outputs=[{"data": {"text/html": text}}])


PLANTED = [
    (formulas, edit(2, "$$", ""), "no formula"),
    (formulas, edit(2, "`x_BTD`", "x"), "goes on with one of our names"),
    (mathjax, edit(2, "$a$", "$ a$"), "a single $"),
    (mathjax, edit(2, "$a$", "$a"), "a single $"),
    (mathjax, edit(2, "$a$", "$a$2"), "a single $"),
    (mathjax, edit(2, "\\$5", "$5"), "a single $"),
    (mathjax, edit(2, "$$\n\\begin", "Let $$ \\begin"), "neither begins nor ends"),
    (mathjax, edit(2, "aligned", "align"), "environment 'align'"),
    (mathjax, edit(2, "$a$", "$\\bm a$"), "\\bm is not"),
    (mathjax, edit(2, "b_{1}", "b_{1"), "braces do not match"),
    (mathjax, edit(2, "Here", "| a |\n|---|\n| $|a|$ |\n\nHere"), "in a table"),
    (sources, edit(9, "- [Paper 5]", "[Paper 5]"), "has 4 references"),
    (sources, edit(9, "https://arxiv.org/abs/3", "http://arxiv.org/abs/3"), "expected '- [name]"),
    (sources, edit(9, ": it says why the scores are divided.", "."), "expected '- [name]"),
    (sources, edit(9, "## Further reading", "## Literature"), "has 0 references"),
    (numbers, shows("True"), "shows 'True'"),
    (numbers, shows("a\nbelow 1e-6 is True\nb"), "shows 'below 1e-6 is True'"),
    (numbers, shows("over a hundred tokens: True\n"), "expected a figure"),
    (panels, page(SCRIPT), "no output is"),
    (panels, page(PICTURE), "no script with inputs"),
    (panels, page(PICTURE + "<script>draw()</script>"), "no script with inputs"),
    (panels, page(PICTURE + SCRIPT + "x" * LARGEST), "expected at most 150,000"),
    (panels, page(PICTURE + SCRIPT + "<a href='https://x.y/a.js'>"), "asks for https://x.y"),
    (panels, page(f"<div {PANEL}>" + SCRIPT), "no picture"),
    (depth, edit(5, "Difficulty 4", "Difficulty 3"), "no exercise"),
    (depth, edit(7, "### Open question", "### A question"), "no '### Open question'"),
    (depth, edit(7, "- three", "three"), "no folded rubric"),
    (depth, edit(7, "A rubric", "Hint"), "no folded rubric"),
    (depth, edit(7, "word " * 15, "Why?"), "shorter than 15 words"),
    (transplants, edit(6, "my_swiglu", "swiglu"), "nothing calls transplant"),
    (setup, lambda cells: cells.pop(1), "0 cells are tagged"),
    (setup, lambda cells: cells[1]["metadata"].update(jupyter={}), "in JupyterLab"),
    (setup, lambda cells: cells[1]["metadata"].update(cellView="code"), "in Colab"),
    (setup, edit(1, "could not be set up", ""), "in words"),
]


@pytest.mark.parametrize("rule, spoil, expected", PLANTED, ids=[entry[2] for entry in PLANTED])
def test_violation_is_noticed(rule, spoil, expected):
    cells = good()
    assert [line for one in RULES for line in one(cells)] == []
    broken = copy.deepcopy(cells)
    spoil(broken)
    found = list(rule(broken))
    assert any(expected in line for line in found), found


def test_a_chapter_without_a_mechanism_needs_no_formula():
    cells = good()
    cells[0]["source"] = "# a0 · JAX"
    edit(2, "$$", "")(cells)
    edit(6, "my_swiglu", "swiglu")(cells)
    assert list(formulas(cells)) == list(transplants(cells)) == []
