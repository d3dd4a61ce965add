"""Panels: what stands in them, and that a browser without any kernel lets a keyboard move them."""

import json
import re
from pathlib import Path

import browser
import numpy as np
import pytest

from gptoss_edu.course.viz.look import draw
from gptoss_edu.course.viz.panel import FOLDER, LARGEST, panel, rounded

ROOT = Path(__file__).resolve().parents[2]
SINK = {
    "score of key 0": (-2, 0, 2),
    "score of key 1": (-2, 0, 2),
    "sink": (-4, 0, 4),
}
OPENS = 'class="gptoss-panel"'


def picture():
    return draw(lambda figure: None, "Two keys and a sink.", width=1, height=1)


def committed():
    """(notebook, HTML) of every panel that a notebook shows."""
    for path in sorted([*ROOT.glob("notebooks/*.ipynb"), *ROOT.glob("colab/*.ipynb")]):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            for output in cell.get("outputs", []):
                page = "".join(output.get("data", {}).get("text/html", ""))
                if OPENS in page:
                    yield path.name, page


def test_a_panel_holds_everything_and_fetches_nothing():
    page = panel("sink", picture(), SINK)._repr_html_()
    assert 'alt="Two keys and a sink."' in page
    assert len(page.encode()) < LARGEST
    assert not re.search(r"https?://|\bimport\b|fetch\(", page)


@pytest.mark.parametrize(
    "controls, start, data, words",
    [
        ({"sink": ()}, {}, None, "input 'sink' has no values"),
        ({"sink": (1, 2)}, {"sink": 3}, None, "cannot begin with 3: expected one of"),
        ({"sink": (1, 2)}, {}, np.zeros(99_999), "bytes, expected 150,000 at most"),
    ],
    ids=["no values", "a foreign start", "too much"],
)
def test_what_cannot_be_a_panel_is_refused(controls, start, data, words):
    with pytest.raises(ValueError, match=words):
        panel("sink", picture(), controls, data, start)


def test_numbers_are_kept_to_four_digits():
    found = rounded({"a": np.array([1.23456789, 2e-9], np.float32), "b": [True, 3, "x", None]})
    assert found == {"a": [1.235, 2e-9], "b": [True, 3, "x", None]}


def test_text_cannot_end_the_script():
    page = panel("sink", picture(), SINK, data="</script><script>alert(1)</script>")._repr_html_()
    assert page.count("</script>") == 1


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    if browser.find_chromium() is None:
        pytest.skip("no Chromium on the PATH (on Debian: apt-get install chromium)")
    with browser.opened(browser.find_chromium(), tmp_path_factory.mktemp("profile")) as page:
        yield page


def show(tab, folder: Path, *pages: str) -> None:
    file = folder / "page.html"
    file.write_text("<!DOCTYPE html><meta charset=utf-8>" + "\n".join(pages), encoding="utf-8")
    tab.log.clear()
    tab.send("Page.navigate", url=file.as_uri())
    tab.wait(f"document.querySelectorAll('.gptoss-panel p').length === {len(pages)}", "panels")


TEXTS = "[...document.querySelectorAll('.gptoss-panel p')].map(p => p.textContent).join('|')"
DRAWN = "document.querySelector('.gptoss-panel svg').outerHTML"


def test_a_keyboard_moves_one_of_two_equal_panels(tab, tmp_path):
    page = panel("sink", picture(), SINK, start={"sink": 0})._repr_html_()
    show(tab, tmp_path, page, page)
    before = tab.evaluate(TEXTS).split("|")
    tab.evaluate("document.querySelectorAll('.gptoss-panel input')[2].focus()")
    tab.press("ArrowRight")
    after = tab.evaluate(TEXTS).split("|")
    assert before[0] == before[1] == after[1] != after[0]
    assert "0.333 goes to the sink" in before[0]
    assert "0.965 goes to the sink" in after[0]
    assert tab.log == []


PANELS = list(committed())


def test_every_script_is_shown_somewhere_but_the_kit():
    shown = {name.stem for name in FOLDER.glob("*.js")} - {"kit"}
    text = "".join(page for _, page in PANELS)
    scripts = {name: (FOLDER / f"{name}.js").read_text(encoding="utf-8") for name in shown}
    assert [name for name, script in scripts.items() if script.strip() not in text] == []


@pytest.mark.parametrize("chapter, page", PANELS, ids=[name for name, _ in PANELS])
def test_every_panel_of_the_course_draws_and_obeys(chapter, page, tab, tmp_path):
    show(tab, tmp_path, page)
    assert tab.evaluate("document.querySelector('.gptoss-panel img')") is None, "it did not draw"
    inputs = tab.evaluate("document.querySelectorAll('.gptoss-panel :is(input, select)').length")
    assert inputs, "nothing to move"
    for number in range(inputs):
        one = f"document.querySelectorAll('.gptoss-panel :is(input, select)')[{number}]"
        before = tab.evaluate(TEXTS + "+" + DRAWN)
        tab.evaluate(f"{one}.focus()")
        if tab.evaluate(f"{one}.type === 'text'"):
            tab.evaluate(f"{one}.value = 'papaya'; {one}.dispatchEvent(new Event('input'))")
        else:
            at_end = tab.evaluate(f"{one}.value === {one}.max || {one}.selectedIndex > 0")
            tab.press("ArrowLeft" if at_end else "ArrowRight")
        assert tab.evaluate(TEXTS + "+" + DRAWN) != before, f"input {number} changes nothing"
    bad = tab.evaluate(f"/NaN|undefined|Infinity/.exec({TEXTS} + {DRAWN})")
    assert not bad, bad
    assert tab.log == []
