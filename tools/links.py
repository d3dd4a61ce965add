"""The external links of the course, and what is known about each.

notebooks/links.toml says for every address that a chapter or page links to what it is, and when a
stored copy of it was read, or "not checked": no test needs a network.

    python tools/links.py check         is every link listed, every entry linked to and well formed?
    python tools/links.py add FILE...   takes in lines `URL | 2026-12-01 | what it is`, sorted
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIST = "notebooks/links.toml"
HEAD = """\
# Where the course links to. For each address: what it is, and the day on which a stored copy of it
# was read, or "not checked". `python tools/links.py check` compares this list with the chapters.
"""
NOT_CHECKED = "not checked"
SETS = ("notebooks/*.ipynb", "colab/*.ipynb", "notebooks/*.md")
GENERATED = {"course-head", "course-setup", "course-links"}  # by tools/course.py: badges, ways on
CODE = re.compile(r"^ *```.*?^ *```|`[^`\n]+`", re.MULTILINE | re.DOTALL)
ADDRESS = re.compile(r"""https?://[^\s<>"'`|\]]+""")


def addresses(text: str) -> list[str]:
    """The external addresses in Markdown, without those in code."""
    found = ADDRESS.findall(CODE.sub("", text))
    return [_closed(address) for address in found]


def _closed(address: str) -> str:
    """Without the bracket and the full stop of the sentence around it."""
    while address and (address[-1] in ".,;:!?*" or address.count(")") > address.count("(")):
        address = address[:-1]
    return address


def linked(root: Path = ROOT) -> dict[str, list[str]]:
    """Address -> the chapters and pages that link to it."""
    found: dict[str, list[str]] = {}
    for path in sorted(path for pattern in SETS for path in root.glob(pattern)):
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".ipynb":
            cells = [c for c in json.loads(text)["cells"] if c["cell_type"] == "markdown"]
            cells = [c for c in cells if not GENERATED & set(c["metadata"].get("tags", []))]
            text = "\n\n".join("".join(cell["source"]) for cell in cells)
        for address in addresses(text):
            if path.name not in found.setdefault(address, []):
                found[address].append(path.name)
    return found


def listed(root: Path = ROOT) -> dict[str, list[str]]:
    """Address -> [what it is, when it was read]; a list that is no TOML is a ValueError."""
    text = (root / LIST).read_text(encoding="utf-8") if (root / LIST).is_file() else ""
    return tomllib.loads(text)


def same_place(address: str) -> str:
    """What two spellings of one address have in common."""
    bare = re.sub(r"^https?://(www\.)?", "", address.lower())
    return re.sub(r"\.git$|/$", "", bare.replace("arxiv.org/pdf/", "arxiv.org/abs/"))


def problems(root: Path = ROOT) -> Iterator[str]:
    """What is wrong with the list, or with a link."""
    try:
        known = listed(root)
    except tomllib.TOMLDecodeError as error:  # a double entry is one, too
        yield f"{LIST}: {error}"
        return
    used = linked(root)
    for address, pages in sorted(used.items()):
        if address not in known:
            yield f"{', '.join(pages)}: {address} is not in {LIST}"
    for address, entry in known.items():
        if address not in used:
            yield f"{LIST}: no chapter links to {address}"
        yield from (f"{LIST}: {address}: {line}" for line in _entry(address, entry))
    if list(known) != sorted(known):
        yield f"{LIST}: its entries are not sorted"
    for place, times in Counter(map(same_place, known)).items():
        if times > 1:
            yield f"{LIST}: {place} stands there in {times} spellings"


def _entry(address: str, entry: object) -> Iterator[str]:
    if not re.match(r"https://[\w.-]+\.[a-z]{2,}(/|$)", address):
        yield "expected an address that begins with https:// and a name"
    match entry:
        case [str() as what, str() as read] if what.strip():
            if read != NOT_CHECKED and not _is_past(read):
                yield f"read {read!r}, expected a past day as 2026-12-01, or {NOT_CHECKED!r}"
        case _:
            yield f"found {entry!r}, expected [what it is, the day it was read]"


def _is_past(day: str) -> bool:
    try:
        return datetime.date.fromisoformat(day) <= datetime.date.today()
    except ValueError:
        return False


def written(entries: Mapping[str, list[str]]) -> str:
    """The file for these entries, sorted."""
    quoted = {address: json.dumps(entries[address], ensure_ascii=False) for address in entries}
    return HEAD + "".join(f'"{address}" = {quoted[address]}\n' for address in sorted(quoted))


def take(lines: list[str], entries: dict[str, list[str]]) -> dict[str, list[str]]:
    """The entries with those of `URL | day | what` added; a copy that was read stays read."""
    taken = dict(entries)
    for line in lines:
        if not line.strip() or line.startswith("#"):
            continue
        parts = [part.strip() for part in line.split("|", 2)]
        if len(parts) != 3:
            raise ValueError(f"found {line!r}, expected URL | 2026-12-01 | what it is")
        address, read, what = parts
        if taken.get(address, ["", NOT_CHECKED])[1] == NOT_CHECKED:
            taken[address] = [what, read]
    return taken


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=("check", "add"))
    parser.add_argument("files", nargs="*", type=Path)
    options = parser.parse_args(arguments)
    if options.action == "add":
        entries = listed(root)
        for file in options.files:
            entries = take(file.read_text(encoding="utf-8").splitlines(), entries)
        used = linked(root)  # an address that no chapter kept is left out
        entries = {address: entry for address, entry in entries.items() if address in used}
        (root / LIST).write_text(written(entries), encoding="utf-8")
    found = list(problems(root))
    print("\n".join(found), file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
