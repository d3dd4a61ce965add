"""The exercises of the course, read out of the notebooks: what stands there is what is tested.

An exercise is a code cell whose last statement checks a function (`rope.rotate(my_rotate)`), the
stub in that cell, and the first folded solution after it. Nothing is registered by hand: a new
module in gptoss_edu/checks and a new notebook are found by looking.
"""

import ast
import contextlib
import dataclasses
import functools
import importlib
import json
import pkgutil
import re
import types
from pathlib import Path

from gptoss_edu.course import checks
from gptoss_edu.course.checks import Exercise

ROOT = Path(__file__).resolve().parents[2]
FOLDED = re.compile(
    r"<summary>Solution[^<]*</summary>\s*```python\n(.*?)```\s*</details>", re.DOTALL
)


@dataclasses.dataclass(frozen=True)
class Written:
    """An exercise as a notebook has it."""

    notebook: Path
    module: str
    name: str
    function: str  # what the reader's function is called
    stub: str
    solution: str | None


def modules() -> list[str]:
    """Every module of checkers."""
    return sorted(module.name for module in pkgutil.iter_modules(checks.__path__))


def checkers() -> dict[tuple[str, str], Exercise]:
    """(module, name) -> checker."""
    return {
        (module, name): value
        for module in modules()
        for name, value in vars(
            importlib.import_module(f"gptoss_edu.course.checks.{module}")
        ).items()
        if isinstance(value, Exercise)
    }


def notebooks() -> list[Path]:
    """The chapters that are there, in order."""
    return sorted([*ROOT.glob("notebooks/*.ipynb"), *ROOT.glob("colab/*.ipynb")])


def cells_of(path: Path) -> list[dict]:
    """The cells of a notebook with their sources joined."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell | {"source": "".join(cell["source"])} for cell in cells]


def parse(source: str) -> list[ast.stmt]:
    """The statements of a cell; lines that only Jupyter understands are left out."""
    lines = [line for line in source.split("\n") if not re.match(r"\s*[%!]", line)]
    return ast.parse("\n".join(lines)).body


def aliases(cells: list[dict]) -> dict[str, str]:
    """What a notebook calls its modules of checkers: `... import precision as check`."""
    known = modules()
    return {
        alias.asname or alias.name: alias.name
        for cell in cells
        if cell["cell_type"] == "code" and "gptoss_edu.course.checks" in cell["source"]
        for node in parse(cell["source"])
        if isinstance(node, ast.ImportFrom) and node.module == "gptoss_edu.course.checks"
        for alias in node.names
        if alias.name in known
    }


def checked(source: str, known: dict[str, str]) -> tuple[str, str, str] | None:
    """(module, name, function) if the last statement of a cell is `module.name(function)`."""
    body = parse(source)
    call = body[-1].value if body and isinstance(body[-1], ast.Expr) else None
    match call:
        case ast.Call(
            func=ast.Attribute(value=ast.Name(id=module), attr=name),
            args=[ast.Name(id=function)],
            keywords=[],
        ) if module in known:
            return known[module], name, function
    return None


def written_in(path: Path, cells: list[dict]) -> list[Written]:
    """The exercises of a notebook, in order."""
    known, found = aliases(cells), []
    for index, cell in enumerate(cells):
        if cell["cell_type"] != "code" or (key := checked(cell["source"], known)) is None:
            continue
        solution = None
        for later in cells[index + 1 :]:
            if later["cell_type"] == "code" and checked(later["source"], known):
                break
            if later["cell_type"] == "markdown" and (folded := FOLDED.search(later["source"])):
                solution = folded[1]
                break
        found.append(Written(path, *key, cell["source"], solution))
    return found


@functools.lru_cache
def written() -> dict[tuple[str, str], Written]:
    """(module, name) -> the exercise, for all notebooks."""
    found = [one for path in notebooks() for one in written_in(path, cells_of(path))]
    assert len({(one.module, one.name) for one in found}) == len(found), "an exercise stands twice"
    return {(one.module, one.name): one for one in found}


@functools.lru_cache
def _background(path: Path) -> tuple[types.CodeType, ...]:
    """What a notebook imports, defines and writes down as numbers, without what it computes."""
    kept = []
    for cell in cells_of(path):
        for node in parse(cell["source"]) if cell["cell_type"] == "code" else ():
            constant = isinstance(node, ast.Assign) and _is_literal(node.value)
            definition = isinstance(node, ast.FunctionDef | ast.ClassDef)
            if constant or definition or isinstance(node, ast.Import | ast.ImportFrom):
                kept.append(compile(ast.Module([node], type_ignores=[]), path.name, "exec"))
    return tuple(kept)


def _is_literal(node: ast.expr) -> bool:
    try:
        ast.literal_eval(node)
    except ValueError:
        return False
    return True


def background(path: Path) -> dict:
    """The names that a reader has after the notebook's imports and definitions."""
    scope: dict = {}
    for code in _background(path):
        with contextlib.suppress(NameError):  # a definition that needs what was computed
            exec(code, scope)
    return scope


def defined(one: Written, source: str):
    """The reader's function after a cell with this source has run."""
    scope = background(one.notebook)
    exec(compile(source, "<cell>", "exec"), scope)
    return scope[one.function]


def stub(one: Written):
    """The function as the reader finds it: everything of its cell but the line that checks."""
    body = parse(one.stub)[:-1]
    scope = background(one.notebook)
    exec(compile(ast.Module(body, type_ignores=[]), "<cell>", "exec"), scope)
    return scope[one.function]
