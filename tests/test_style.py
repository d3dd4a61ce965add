"""The house style, as far as a program can judge it.

Each rule is a function from (path, text) to complaints, "path:line: found, expected". The first
test runs every rule over every tracked file; the second proves on planted sources that each rule
can fail, and that it names the line; the third that it leaves good sources alone.
"""

import ast
import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from imports import (
    FRONT_DOOR,
    LESSONS,
    ROOMS,
    by_room,
    circles,
    complaint,
    graph,
    imports,
    name_of,
    room_of,
)

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = "gptoss_edu"
MAX_FUNCTION_LINES = 50
MAX_BYTES = 8_000_000

MAX_LESSON_LINES, MAX_FILE_LINES = 3_700, 400  # an evening's reading; one file of it
MAY_PRINT = {"commands"}
EINSUMS = {"einsum", "matmul"}
# Nothing to test beyond what others do: exported names, `python -m`, the faces of rooms.
UNTESTED = FRONT_DOOR | set(ROOMS)


def in_library(path: str) -> bool:
    """Is this a file of the package?"""
    return path.startswith("gptoss_edu/") and path.endswith(".py")


def docstrings(path: str, text: str) -> Iterator[str]:
    """Whatever is public in the library says what it is."""
    if not in_library(path):
        return
    tree = ast.parse(text)
    if ast.get_docstring(tree) is None:
        yield f"{path}:1: the module has no docstring, expected one"
    for node, name in _public(tree.body):
        if ast.get_docstring(node) is None:
            yield f"{path}:{node.lineno}: `{name}` has no docstring, expected one"


def _public(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[ast.stmt, str]]:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            if any(_name(each) == "overload" for each in node.decorator_list):
                continue  # its types only; the words stand where the function is
            yield node, prefix + node.name
            if isinstance(node, ast.ClassDef):
                yield from _public(node.body, f"{node.name}.")


def function_length(path: str, text: str) -> Iterator[str]:
    """A function fits on a screen, its docstring included."""
    if not path.endswith(".py") or path.startswith("tests/"):
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = node.end_lineno - node.lineno + 1
            if lines > MAX_FUNCTION_LINES:
                yield (
                    f"{path}:{node.lineno}: `{node.name}` has {lines} lines,"
                    f" expected at most {MAX_FUNCTION_LINES}"
                )


def einsum_letters(path: str, text: str) -> Iterator[str]:
    """The letters of an einsum are the letters in the names of what goes in and comes out."""
    if (
        not in_library(path) or name_of(path) == "shapes"
    ):  # shapes.matmul passes on whatever it is given
        return
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _name(node.func) in EINSUMS:
            yield from _einsum_operands(path, node)
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for call in _elementwise(node.value):
                if _name(call.func) not in EINSUMS or not _literal(call):
                    continue
                result = call.args[0].value.replace(" ", "").partition("->")[2]
                for target in targets:
                    if (complaint := _compare(target, result)) is not None:
                        yield f"{path}:{call.lineno}: the result {complaint}"


def _einsum_operands(path: str, call: ast.Call) -> Iterator[str]:
    where = f"{path}:{call.lineno}:"
    if not _literal(call) or "->" not in call.args[0].value:
        yield f"{where} einsum without a literal 'AB,BC->AC' string, expected one"
        return
    inputs = call.args[0].value.replace(" ", "").partition("->")[0].split(",")
    operands = call.args[1:3] if _name(call.func) == "matmul" else call.args[1:]  # then: which one
    if len(inputs) != len(operands):
        yield f"{where} {len(operands)} operands for {inputs}, expected {len(inputs)}"
        return
    for letters, operand in zip(inputs, operands, strict=True):
        if (complaint := _compare(operand, letters)) is not None:
            yield f"{where} the operand {complaint}"


def _literal(call: ast.Call) -> bool:
    return bool(call.args) and isinstance(getattr(call.args[0], "value", None), str)


def _compare(node: ast.expr, letters: str) -> str | None:
    """None if the name's suffix reads as the letters; a digit in it is an axis of any letter."""
    while isinstance(node, ast.Call) and _name(node.func) == "astype":
        node = node.func.value
    if not isinstance(node, ast.Name | ast.Attribute):
        return None
    name = _name(node)
    suffix = re.search(r"_((?:[A-Z]|\d+)+)$", name)
    if suffix is None:
        return f"`{name}` has no shape suffix, expected _{letters}"
    axes = re.findall(r"[A-Z]|1(?![02-9])|\d+", suffix[1])
    same = len(axes) == len(letters) and all(
        axis.isdigit() or axis == letter for axis, letter in zip(axes, letters, strict=True)
    )
    return None if same else f"`{name}` stands for {letters} in the einsum string, expected equal"


def _name(node: ast.expr) -> str:
    return getattr(node, "id", None) or getattr(node, "attr", "")


def _elementwise(node: ast.expr) -> Iterator[ast.Call]:
    """The calls whose shape an expression keeps: through `+ b`, `* c`, `.astype(dtype)`."""
    if isinstance(node, ast.BinOp) and not isinstance(node.op, ast.MatMult):
        yield from _elementwise(node.left)
        yield from _elementwise(node.right)
    elif isinstance(node, ast.Call) and _name(node.func) == "astype":
        yield from _elementwise(node.func.value)
    elif isinstance(node, ast.Call):
        yield node


def import_law(path: str, text: str) -> Iterator[str]:
    """Lesson files import earlier chapters and no room; rooms import the rooms before them."""
    if not in_library(path):
        return
    name = name_of(path)
    if room_of(name) not in {*LESSONS, *ROOMS, *FRONT_DOOR}:
        yield f"{path}:1: `{name}` has no place, expected it in tools/imports.py"
        return
    for each in imports(path, text):
        if (reason := complaint(name, each.target)) is not None:
            yield f"{path}:{each.line}: {reason}"


def no_print(path: str, text: str) -> Iterator[str]:
    """A library returns; only the command line prints."""
    if not in_library(path) or room_of(name_of(path)) in MAY_PRINT:
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "print":
            yield f"{path}:{node.lineno}: calls print, expected a returned value"


def whitespace(path: str, text: str) -> Iterator[str]:
    """Unix line ends, no tabs outside of the Makefile, nothing trailing, one last newline."""
    if text and not text.endswith("\n"):
        yield f"{path}:{text.count(chr(10)) + 1}: the file does not end in a newline"
    if text.endswith("\n\n"):
        yield f"{path}:{text.count(chr(10))}: the file ends in an empty line"
    for number, line in enumerate(text.split("\n"), 1):
        if "\r" in line:
            yield f"{path}:{number}: carriage return, expected Unix line ends"
        elif line != line.rstrip():
            yield f"{path}:{number}: trailing whitespace"
        if "\t" in line and Path(path).name != "Makefile":
            yield f"{path}:{number}: tab, expected spaces"


MACHINE_PATH = re.compile(r"(?<![\w.~-])/(?:home|root|work|Users)/[\w.-]+")
TEMPORARY_PATH = re.compile(r"(?<![\w.~-])/(?:tmp|var/folders|mnt|opt)/[\w.-]+")


def machine_paths(path: str, text: str) -> Iterator[str]:
    """No path of one machine; in a notebook no temporary one either."""
    for number, line in enumerate(text.split("\n"), 1):
        if (found := MACHINE_PATH.search(line)) is not None:
            yield f"{path}:{number}: {found[0]}, expected no path of one machine"
    if path.endswith(".ipynb"):
        for cell in json.loads(text)["cells"]:
            shown = "".join(cell["source"]) + json.dumps(cell.get("outputs", []))
            if (found := TEMPORARY_PATH.search(shown)) is not None:
                yield f"{path}: cell {cell.get('id')}: {found[0]}, expected no temporary path"


BRITISH = re.compile(
    r"\w*(?:(?:col|behavi|fav|hon|neighb|flav)our|(?:cent|fib)re\b|licen[c]e|catalo[g]ue"
    r"|(?:quanti|normali|optimi|recogni|summari|seriali|initiali|organi|reali|utili|generali"
    r"|speciali|visuali|memori|minimi|maximi|tokeni|vectori|materiali|categori|randomi)"
    r"s(?:e|es|ed|er|ers|ing|ation|ations)\b|analy[s]e(?:d|r)?\b|analy[s]ing"
    r"|(?:mode|labe|cance|trave)ll(?:ed|ing|er)\b)\w*",
    re.IGNORECASE,
)


def spelling(path: str, text: str) -> Iterator[str]:
    """One spelling, the American one, in prose and names."""
    if Path(path).suffix not in {".py", ".md", ".ipynb", ".toml", ".yml", ".cff"}:
        return
    for number, line in enumerate(text.split("\n"), 1):
        if (found := BRITISH.search(line)) is not None:
            yield f"{path}:{number}: `{found[0]}`, expected the American spelling"


Rule = Callable[[str, str], Iterator[str]]
RULES: list[Rule] = [
    docstrings,
    function_length,
    einsum_letters,
    import_law,
    no_print,
    whitespace,
    machine_paths,
    spelling,
]


def tracked() -> list[str]:
    """Paths of the files that git tracks, as far as they are there."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a git checkout: which files belong to the repository is unknown")
    return [path for path in listed.stdout.split("\0") if path and (ROOT / path).is_file()]


def texts() -> Iterator[tuple[str, str]]:
    """Each tracked text file: a file with a zero byte, or not in UTF-8, is none."""
    for path in tracked():
        content = (ROOT / path).read_bytes()
        try:
            if b"\0" not in content:
                yield path, content.decode()
        except UnicodeDecodeError:
            continue


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_tree_follows(rule):
    complaints = [line for path, text in texts() for line in rule(path, text)]
    assert not complaints, f"{rule.__doc__}\n" + "\n".join(complaints)


HOME = "/" + "home/ada/model"
NOTEBOOK = '{"cells": [{"id": "ab", "source": [], "outputs": [%s]}]}\n'
ROPE, ATTENTION, MOE, FIT = (
    f"gptoss_edu/{stem}.py" for stem in ("rope", "attention", "moe", "chips/fit")
)
CHECKS = "gptoss_edu/course/checks/rope.py"
TD_DP = 'einsum("TD,DP->TP", '
PLANTED = [
    (docstrings, ROPE, "import math\n", "rope.py:1: the module"),
    (docstrings, ROPE, '"""D."""\n\ndef turn():\n    pass\n', "rope.py:3: `turn`"),
    (docstrings, MOE, '"""D."""\nclass A:\n    "D"\n    def b(self): pass\n', "moe.py:4: `A.b`"),
    (function_length, MOE, "def f():\n" + "    pass\n" * 50, "moe.py:1: `f` has 51"),
    (einsum_letters, MOE, TD_DP + "x_TD, w_PD)\n", "moe.py:1: the operand `w_PD`"),
    (einsum_letters, MOE, TD_DP + "x_BTD, p.w_DP)\n", "`x_BTD`"),
    (einsum_letters, MOE, "jnp." + TD_DP + "x, w_DP)\n", "no shape suffix"),
    (einsum_letters, MOE, TD_DP + "x_TD.astype(d), p.w_PD.astype(d))\n", "`w_PD`"),
    (einsum_letters, MOE, f"e = 1\nh_PT = {TD_DP}x_TD, w_DP)\n", "moe.py:2: the result `h_PT`"),
    (einsum_letters, MOE, f"h_PT = {TD_DP}x_TD, w_DP) + b_P.astype(d)\n", "the result"),
    (einsum_letters, MOE, TD_DP + "x_TD)\n", "1 operands"),
    (einsum_letters, MOE, "einsum(letters, x_TD)\n", "without a literal"),
    (import_law, MOE, "import jax\nfrom gptoss_edu.mxfp4 import Mxfp4\n", "moe.py:2: chapter 4"),
    (import_law, ATTENTION, "from .cache import Cache\n", "`cache` of chapter 6"),
    (import_law, ATTENTION, "from gptoss_edu import cache\n", "`cache` of chapter 6"),
    (import_law, ATTENTION, "import gptoss_edu.cache as c\n", "`cache` of chapter 6"),
    (import_law, ATTENTION, "def f():\n    from gptoss_edu.cpu import tiles\n", "expected no room"),
    (import_law, FIT, "from gptoss_edu.weights.hub import fetch\n", "which comes after it"),
    (import_law, FIT, "from ..weights.hub import fetch\n", "which comes after it"),
    (import_law, FIT, "from gptoss_edu import load_model\n", "front door"),
    (import_law, CHECKS, "from gptoss_edu.commands.main import main\n", "which comes after it"),
    (import_law, "gptoss_edu/new.py", "import jax\n", "`new` has no place"),
    (no_print, MOE, "x = 1\nprint(x)\n", "moe.py:2: calls print"),
    (whitespace, "README.md", "a\r\nb\n", "README.md:1: carriage"),
    (whitespace, "README.md", "a\nb \n", "README.md:2: trailing"),
    (whitespace, MOE, "a\n\tb\n", "moe.py:2: tab"),
    (whitespace, MOE, "a", "moe.py:1: the file does not end"),
    (whitespace, MOE, "a\n\n", "moe.py:2: the file ends in"),
    (machine_paths, "README.md", f"see\n{HOME}/x\n", "README.md:2: /"),
    (machine_paths, "a.ipynb", NOTEBOOK % f'"{HOME}"', "a.ipynb:1: /"),
    (machine_paths, "a.ipynb", NOTEBOOK % '"in /tmp/x1"', "cell ab: /tmp/x1"),
    (machine_paths, "a.ipynb", NOTEBOOK.replace("[],", '["/mnt/x1"],') % "", "cell ab: /mnt/x1"),
    (spelling, "README.md", "the\nbehavi" + "our of\n", "README.md:2: `behavi"),
    (spelling, MOE, "# dequanti" + "sed\n", "moe.py:1: `dequanti"),
]


@pytest.mark.parametrize("rule, path, text, expected", PLANTED)
def test_rule_can_fail(rule, path, text, expected):
    complaints = list(rule(path, text))
    assert len(complaints) == 1, complaints
    assert expected in complaints[0]


GOOD = [
    (docstrings, "tests/test_x.py", "def test_x(): pass\n"),
    (docstrings, ROPE, '"""D."""\ndef _hidden(): pass\n'),
    (docstrings, ROPE, '"""D."""\n@overload\ndef f(): ...\ndef f():\n    "D"\n'),
    (function_length, MOE, "def f():\n" + "    pass\n" * 49),
    (einsum_letters, MOE, 'h_TP = einsum("TD, DP -> TP", x_TD, p.w_DP.astype(d)) + b_P\n'),
    (einsum_letters, MOE, 'einsum("TX,XU->TU", x_T2, w_EDP[expert])\n'),
    (einsum_letters, MOE, 'einsum("ABC,D->ABCD", x_11C, w_D)\n'),
    (import_law, "gptoss_edu/generation.py", "from gptoss_edu.cache import Cache\n"),
    (import_law, "gptoss_edu/commands/main.py", "from gptoss_edu import __version__\n"),
    (import_law, "gptoss_edu/__init__.py", "from gptoss_edu.commands import main\n"),
    (
        import_law,
        "gptoss_edu/course/viz.py",
        "from gptoss_edu.chips.fit import ledger\nimport jax\n",
    ),
    (no_print, "gptoss_edu/commands/main.py", "print(1)\n"),
    (no_print, "benchmarks/cpu.py", "print(1)\n"),
    (whitespace, "Makefile", "a:\n\techo\n"),
    (machine_paths, "README.md", "https://example.org/home/ada and docs/work/a\n"),
    (machine_paths, "a.ipynb", NOTEBOOK % '"models/pocket"'),
    (spelling, "README.md", "color, otherwise, analyses, precise, expertise\n"),
]


@pytest.mark.parametrize("rule, path, text", GOOD)
def test_rule_can_pass(rule, path, text):
    assert list(rule(path, text)) == []


def place_of_tests(path: str) -> str:
    """Where the tests of a file lie: `tests/cpu/test_tiles.py`; one file for each of course's."""
    parts = name_of(path).split(".")
    folder = [] if parts[0] not in ROOMS else parts[:1]
    return "/".join(["tests", *folder, f"test_{parts[min(1, len(parts) - 1)]}.py"])


def untested(paths: list[str]) -> list[str]:
    """Modules of the library without a test file of the same stem."""
    files = [path for path in paths if in_library(path) and name_of(path) not in UNTESTED]
    return sorted({test for path in files if (test := place_of_tests(path)) not in paths})


def test_every_module_has_its_test():
    missing = untested(tracked())
    assert not missing, f"found no {missing}, expected one for each module"


def test_missing_test_is_noticed():
    paths = ["gptoss_edu/moe.py", "gptoss_edu/rope.py", "tests/test_moe.py", "tests/test_tiles.py"]
    paths += ["gptoss_edu/__init__.py", "gptoss_edu/course/checks/a.py", "gptoss_edu/cpu/tiles.py"]
    assert untested(paths) == [
        "tests/course/test_checks.py",
        "tests/cpu/test_tiles.py",
        "tests/test_rope.py",
    ]


def lesson_lines() -> dict[str, int]:
    """Lines of each lesson file."""
    files = {stem: ROOT / "gptoss_edu" / f"{stem}.py" for stem in LESSONS}
    return {
        stem: len(path.read_text(encoding="utf-8").splitlines())
        for stem, path in files.items()
        if path.is_file()
    }


def test_the_lesson_files_are_an_evenings_reading():
    lines = lesson_lines()
    assert sum(lines.values()) <= MAX_LESSON_LINES, f"{sum(lines.values())} lines: {lines}"
    assert max(lines.values()) <= MAX_FILE_LINES, lines


def test_readme_says_how_long_they_are():
    lines = lesson_lines()
    sentence = f"{len(lines)} files, {sum(lines.values()):,} lines"
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert sentence in readme, f"expected in README.md: {sentence!r}"


def test_the_house_has_no_circle():
    edges = graph(ROOT / "gptoss_edu")
    inside = {name: targets for name, targets in edges.items() if name not in FRONT_DOOR}
    assert circles(inside) == [] == circles(by_room(inside))
    assert circles({"a": {"b"}, "b": {"c", "d"}, "c": {"a"}, "d": set()}) == [["a", "b", "c"]]


def too_large(sizes: dict[str, int]) -> list[str]:
    """Files that do not belong into a repository that people clone over a telephone."""
    return [
        f"{path}: {size} bytes, expected at most {MAX_BYTES}"
        for path, size in sizes.items()
        if size > MAX_BYTES
    ]


def test_no_file_is_large():
    assert not too_large({path: (ROOT / path).stat().st_size for path in tracked()})


def test_large_file_is_noticed():
    assert too_large({"a": MAX_BYTES, "b": MAX_BYTES + 1}) == [
        "b: 8000001 bytes, expected at most 8000000"
    ]
