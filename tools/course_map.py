"""Draws the map of the course, one SVG for each chapter, with "you are here", and small badges.

Plain text, no library: the same input gives the same bytes. A map stands on its own light card with
the colors of the course's figures, so it can be read on light and dark pages. Where the reader is,
has been and will go differs in size, filling and words, not in color alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

PAPER, INK, PALE, LINE = "#fcfbf8", "#1f1f1f", "#e9e6df", "#8a867d"
BLUE, VERMILION, TINT = "#0072b2", "#c04f00", "#cfe3f0"  # white text is readable on the first two
FONT = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', Verdana, sans-serif"
WIDTH, HEIGHT = 960, 308
MAIN, SIDE = 150, 250  # heights of the two lines
PLACES = {
    **{f"0{number}": (58 + 102 * number, MAIN) for number in range(8)},
    "08": (892, MAIN - 41),
    "09": (892, MAIN + 41),
    "a0": (58, SIDE),
    "a1": (612, SIDE),
    "a2": (450, SIDE),
    "symptoms": (296, SIDE),
    "glossary": (160, SIDE),
}
GROUPS = (
    ("the pieces", 116, 612),
    ("the whole", 626, 714),
    ("the chip", 728, 816),
    ("the real 20B", 830, 950),
)
MAIN_LINE = f"M 58 {MAIN} H 790"
BRANCHES = (
    f"M 772 {MAIN} C 830 {MAIN} 830 {MAIN - 41} 892 {MAIN - 41}",
    f"M 772 {MAIN} C 830 {MAIN} 830 {MAIN + 41} 892 {MAIN + 41}",
)
SIDE_LINE = f"M 670 {MAIN} C 735 {MAIN} 735 {SIDE} 660 {SIDE} H 160"


def course_map(stations: Sequence[tuple[str, str]], here: str) -> str:
    """The map as SVG: `stations` are (key, label) in order, `here` is the key of one of them.

    A label may be broken into two lines by a "|". Stations before `here` are filled.
    """
    keys = [key for key, _ in stations]
    assert here in keys, f"{here!r} is none of {keys}"
    unknown = set(keys) - set(PLACES)
    assert not unknown, f"no place on the map for {sorted(unknown)}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}"'
        f' height="{HEIGHT}" role="img" font-family="{FONT}">',
        f"<title>{escape(alt_text(stations, here))}</title>",
        f'<rect x="1" y="1" width="{WIDTH - 2}" height="{HEIGHT - 2}" rx="14" fill="{PAPER}"'
        f' stroke="{PALE}" stroke-width="2"/>',
        *(_group(*group) for group in GROUPS),
        f'<g fill="none" stroke="{TINT}" stroke-width="7" stroke-linecap="round">',
        f'<path d="{SIDE_LINE}" stroke-width="4" stroke-dasharray="1 9"/>',
        *(f'<path d="{path}"/>' for path in (MAIN_LINE, *BRANCHES)),
        "</g>",
        *_traveled(here),
    ]
    for index, (key, label) in enumerate(stations):
        past = _numbered(key) and _numbered(here) and index < keys.index(here)
        state = "here" if key == here else "past" if past else "ahead"
        parts.append(_station(key, label, state))
    return "\n".join([*parts, "</svg>"]) + "\n"


def alt_text(stations: Sequence[tuple[str, str]], here: str) -> str:
    """One sentence that replaces the map."""
    keys = [key for key, _ in stations]
    names = {key: _named(key, label) for key, label in stations}
    at = keys.index(here)
    ahead = ", ".join(names[key] for key in keys[at + 1 :])
    return (
        f"Map of the course. You are here: {names[here]}."
        + (f" Behind you: {', '.join(names[key] for key in keys[:at])}." if at else "")
        + (f" Ahead: {ahead}." if ahead else "")
    )


def _named(key: str, label: str) -> str:
    label = label.replace("|", " ")
    return label if key == label else f"{key} {label}"


def _group(name: str, left: int, right: int) -> str:
    middle = (left + right) / 2
    return (
        f'<path d="M {left} 46 V 40 H {right} V 46" fill="none" stroke="{LINE}"/>'
        f'<text x="{middle:g}" y="30" text-anchor="middle" font-size="13" fill="#5f5b53">'
        f"{name}</text>"
    )


def _numbered(key: str) -> bool:
    """Chapters have short keys; the other pages are places that one may visit at any time."""
    return len(key) == 2


def _traveled(here: str) -> list[str]:
    """The way that the reader has come, in full color."""
    end = min(PLACES[here][0] if here < "a" else WIDTH, PLACES["07"][0])
    ways = [f'<path d="M 58 {MAIN} H {end}"/>'] if _numbered(here) and end > 58 else []
    if here in ("08", "09"):
        ways.append(f'<path d="{BRANCHES[here == "09"]}"/>')
    group = f'<g fill="none" stroke="{BLUE}" stroke-width="7" stroke-linecap="round">'
    return [group, *ways, "</g>"]


def _station(key: str, label: str, state: str) -> str:
    x, y = PLACES[key]
    numbered = _numbered(key)
    radius = (21 if state == "here" else 16) if numbered else (12 if state == "here" else 7)
    fill, text = {
        "here": (VERMILION, "#ffffff"),
        "past": (BLUE, "#ffffff"),
        "ahead": (PAPER, BLUE),
    }[state]
    edge = VERMILION if state == "here" else BLUE
    parts = []
    if state == "here":
        parts.append(f'<circle cx="{x}" cy="{y}" r="{radius + 6}" fill="{PAPER}"/>')
    parts.append(
        f'<circle cx="{x}" cy="{y}" r="{radius}" fill="{fill}" stroke="{edge}" stroke-width="2.5"/>'
    )
    if numbered:
        parts.append(
            f'<text x="{x}" y="{y + 5}" text-anchor="middle" font-size="14" font-weight="600"'
            f' fill="{text}">{key}</text>'
        )
    weight = "700" if state == "here" else "400"
    for number, line in enumerate(label.split("|")):
        parts.append(
            f'<text x="{x}" y="{y + (34 if y == SIDE else 40) + 16 * number}" text-anchor="middle"'
            f' font-size="13" font-weight="{weight}" fill="{INK}">{escape(line)}</text>'
        )
    if state == "here":
        parts.append(_flag(key, x, y, radius))
    return "\n".join(parts)


def _flag(key: str, x: int, y: int, radius: int) -> str:
    """A sign that points at the station from where no label is: above, below or from the left."""
    if y == SIDE and x > radius + 112:  # else there is no room at its left
        left, top = x - radius - 112, y - 10
        tip = f"{left + 95},{y - 6} {x - radius - 8},{y} {left + 95},{y + 6}"
    else:
        left = min(x - 48, WIDTH - 108)
        below = key == "09"
        top = y + 55 if below else y - radius - (31 if y == SIDE else 36)
        base, end = (top + 1, top - 7) if below else (top + 20, top + 28)
        tip = f"{x - 6},{base} {x},{end} {x + 6},{base}"
    return (
        f'<g fill="{VERMILION}"><rect x="{left}" y="{top}" width="96" height="21" rx="6"/>'
        f'<polygon points="{tip}"/></g>'
        f'<text x="{left + 48}" y="{top + 15}" text-anchor="middle" font-size="12"'
        f' font-weight="600" fill="#ffffff">you are here</text>'
    )


def badge(left: str, right: str, color: str = BLUE) -> str:
    """Two words side by side, as SVG: what it is about, and what is so."""
    widths = [round(6.9 * len(text)) + 18 for text in (left, right)]
    total = sum(widths)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total} 24" width="{total}"'
        f' height="24" role="img" font-family="{FONT}" font-size="12.5">\n'
        f"<title>{escape(left)}: {escape(right)}</title>\n"
        f'<clipPath id="c"><rect width="{total}" height="24" rx="5"/></clipPath>\n'
        f'<g clip-path="url(#c)"><rect width="{widths[0]}" height="24" fill="#3d3b37"/>'
        f'<rect x="{widths[0]}" width="{widths[1]}" height="24" fill="{color}"/></g>\n'
        f'<g fill="#ffffff" text-anchor="middle">'
        f'<text x="{widths[0] / 2:g}" y="16.5">{escape(left)}</text>'
        f'<text x="{widths[0] + widths[1] / 2:g}" y="16.5">{escape(right)}</text></g>\n'
        "</svg>\n"
    )
