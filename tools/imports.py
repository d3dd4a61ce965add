"""The import graph of the package: files, rooms, arrows, circles, and the law of the house.

    python tools/imports.py [FOLDER]

A lesson file imports lesson files of its own or earlier chapters. A room imports lesson files and
the rooms before it. Only the package's front door imports all. Imports inside of functions count.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

LIBRARY = "gptoss_edu"
# Lesson files in the order in which they are read -> their chapter.
LESSONS = {
    "config": 0, "shapes": 0, "system": 0,
    "tokenizer": 1, "parser": 1, "schemas": 1, "harmony": 1, "reply": 1,
    "rope": 2,
    "attention": 3,
    "moe": 4,
    "mxfp4": 5,
    "model": 6, "cache": 6, "sampling": 6, "options": 6, "generation": 6, "chat": 6,
}  # fmt: skip
ROOMS = ("cpu", "chips", "weights", "bridges", "inside", "course", "commands")
FRONT_DOOR = {"__init__", "__main__"}
UNKNOWN = "which is neither a lesson file nor a room"


class Import(NamedTuple):
    """One import statement's target, as dotted names below the package, and its line."""

    target: str
    line: int


def name_of(path: str | Path) -> str | None:
    """`gptoss_edu/cpu/tiles.py` is cpu.tiles, `gptoss_edu/cpu/__init__.py` is cpu; else None."""
    parts = Path(path).with_suffix("").parts
    if LIBRARY not in parts or Path(path).suffix != ".py":
        return None
    below = parts[len(parts) - parts[::-1].index(LIBRARY) :]
    return ".".join(below[:-1] if below[-1] == "__init__" and len(below) > 1 else below)


def imports(path: str | Path, text: str) -> Iterator[Import]:
    """What a file of the package imports of the package; `""` is the package itself."""
    here = [LIBRARY, *(name_of(path) or "").split(".")]
    inside = here if Path(path).name == "__init__.py" else here[:-1]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*inside[: len(inside) - node.level + 1], *filter(None, [base])])
            names = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            first, _, rest = name.partition(".")
            if first == LIBRARY:
                yield Import(rest, node.lineno)


def room_of(name: str) -> str:
    """The room of a module, or the lesson file itself."""
    return name.partition(".")[0]


def complaint(importer: str, target: str) -> str | None:
    """Why `importer` may not import `target`; None if it may. Both are names below the package."""
    mine, other = room_of(importer), room_of(target)
    if mine in FRONT_DOOR or mine == other:
        return None
    if other == "__version__":
        return None  # not a module
    if other not in LESSONS and other not in ROOMS:
        return f"imports `{other or LIBRARY}` of the front door, expected the file that defines it"
    if mine in LESSONS and other in ROOMS:
        return f"a lesson file imports `{other}`, expected no room"
    if mine in LESSONS and LESSONS[other] > LESSONS[mine]:
        return (
            f"chapter {LESSONS[mine]} imports `{other}` of chapter {LESSONS[other]}, expected an"
            " earlier chapter or its own"
        )
    if mine in ROOMS and other in ROOMS and ROOMS.index(other) > ROOMS.index(mine):
        return f"the room `{mine}` imports `{other}`, which comes after it"
    return None


def graph(folder: Path) -> dict[str, set[str]]:
    """Module -> modules that it imports, for all files of a package below `folder`."""
    files = {name: path for path in sorted(folder.rglob("*.py")) if (name := name_of(path))}
    found: dict[str, set[str]] = {}
    for name, path in files.items():
        targets = {each.target for each in imports(path, path.read_text(encoding="utf-8"))}
        known = {longest(target, files) for target in targets}
        found[name] = known - {name, None}
    return found


def longest(target: str, files: dict[str, Path]) -> str | None:
    """The module that a dotted name leads to: `cpu.tiles.tile` is in cpu.tiles."""
    while target and target not in files:
        target = target.rpartition(".")[0]
    return target or None


def by_room(edges: dict[str, set[str]]) -> dict[str, set[str]]:
    """The same graph with every room as one node."""
    rooms: dict[str, set[str]] = {}
    for name, targets in edges.items():
        mine = room_of(name)
        rooms.setdefault(mine, set()).update({room_of(t) for t in targets} - {mine})
    return rooms


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Groups of nodes that reach one another, each once."""
    reach = {name: _reachable(name, edges) for name in edges}
    groups = {
        tuple(sorted(n for n in reach[name] if name in reach.get(n, ())))
        for name in edges
        if name in reach[name]
    }
    return [list(group) for group in sorted(groups)]


def _reachable(start: str, edges: dict[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    waiting = list(edges[start])
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += edges.get(name, ())
    return seen


def summary(folder: Path) -> str:
    """Files and rooms, arrows between them, and circles, one line each."""
    lines = []
    without_door = {n: t for n, t in graph(folder).items() if n not in FRONT_DOOR}
    for what, edges in (("files", without_door), ("rooms", by_room(without_door))):
        arrows, rings = sum(map(len, edges.values())), circles(edges)
        told = "; ".join(", ".join(ring) for ring in rings) or "none"
        lines.append(f"{len(edges)} {what}, {arrows} arrows, circles: {told}")
    return "\n".join(lines)


if __name__ == "__main__":
    root = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).resolve().parents[1] / LIBRARY)
    print(summary(root))
