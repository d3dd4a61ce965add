"""Chapters in a real browser: JupyterLab in headless Chromium, driven as a reader would drive it.

A copy of the notebooks is opened in a JupyterLab of this environment, with an empty configuration.
The test chooses Run, Run All Cells from the menu, waits, looks for errors, drags a slider and
watches its figure change, and saves from the menu. What it saw is kept in build/screenshots.
Chromium comes from the system (`apt-get install chromium`, as .ci/run does); without it this is
skipped. tests/course/browser.py says why nothing else has to be installed.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from urllib.request import Request, urlopen

import browser
import pytest

ROOT = Path(__file__).resolve().parents[2]
SCREENSHOTS = ROOT / "build" / "screenshots"
CHAPTERS = ("03", "04")
PATIENCE = 300  # seconds; on a quiet machine nothing comes near it
CHROMIUM = browser.find_chromium()
TOKEN = "only-for-this-test"
QUIET = {"fetchNews": "false", "checkForUpdates": False}  # no question in the corner of the page
HIDDEN = ("JUPYTER", "IPYTHON", "GPTOSS_EDU", "TQDM")  # a reader has none of the tests' settings
IDLE = "document.querySelector('.jp-Notebook-ExecutionIndicator')?.dataset.status === 'idle'"
ALL_DONE = f"""
    {IDLE} && ![...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')]
        .some(prompt => prompt.textContent.includes('*'))
"""
ERRORS = """[...document.querySelectorAll('[data-mime-type="application/vnd.jupyter.error"]')]
    .map(output => output.textContent)"""
UNNAMED = """[...document.querySelectorAll('.jp-OutputArea-output img')]
    .filter(image => !image.alt).map(image => image.outerHTML.slice(0, 80))"""

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on the PATH (on Debian: apt-get install chromium)"
)


class Lab:
    """A JupyterLab server: where it is, and what it can be told."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def ask(self, path: str, method: str = "GET"):
        """The answer of the server's own interface, or None while it is not there."""
        headers = {"Authorization": f"token {TOKEN}"}
        try:
            with urlopen(
                Request(self.url + path, headers=headers, method=method), timeout=30
            ) as got:
                return json.loads(got.read() or "true")
        except OSError:
            return None

    def stop_kernels(self) -> None:
        for kernel in self.ask("/api/kernels") or []:
            self.ask(f"/api/kernels/{kernel['id']}", "DELETE")


def environment(home: Path) -> dict[str, str]:
    """A reader's environment with nobody's settings in it."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(HIDDEN)}
    settings = home / "settings"
    news = settings / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    news.parent.mkdir(parents=True)
    news.write_text(json.dumps(QUIET), encoding="utf-8")
    return kept | {
        "IPYTHONDIR": str(home / "ipython"),
        "JAX_PLATFORMS": "cpu",
        "JUPYTERLAB_SETTINGS_DIR": str(settings),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "JUPYTER_TOKEN": TOKEN,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}",
    }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A copy of the notebooks, so that nothing here is changed by running them."""
    copy = tmp_path_factory.mktemp("lab") / "notebooks"
    shutil.copytree(ROOT / "notebooks", copy, ignore=shutil.ignore_patterns(".*"))
    return copy


@pytest.fixture(scope="module")
def lab(folder):
    home, port = folder.parent / "home", free_port()
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += ["--ip=127.0.0.1", f"--port={port}", "--ServerApp.port_retries=0"]
    with (folder.parent / "lab.log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment(home), stdout=log, stderr=subprocess.STDOUT
        )
    server = Lab(port)

    def answers():
        assert process.poll() is None, (folder.parent / "lab.log").read_text()[-2000:]
        return server.ask("/api/status")

    try:
        browser.wait_for(answers, "JupyterLab", PATIENCE)
        yield server
    finally:
        server.stop_kernels()
        process.terminate()
        process.wait(60)


@pytest.fixture
def page(lab, tmp_path):
    with browser.opened(CHROMIUM, tmp_path) as opened:
        yield opened
        opened.screenshot(SCREENSHOTS / "last.png")  # where it stood, also when a test failed
    lab.stop_kernels()


def labeled(kind: str, text: str) -> str:
    """JavaScript for the item of a menu, or of the menu bar, with this text."""
    items = f"[...document.querySelectorAll('.lm-{kind}-itemLabel')]"
    return f"{items}.find(item => item.textContent.startsWith({text!r}))"


def choose(page, menu: str, item: str) -> None:
    page.click(labeled("MenuBar", menu), f"the menu {menu}")
    page.click(labeled("Menu", item), f"{menu}, {item}")


def open_notebook(page, lab, path: Path) -> None:
    """The notebook with all its cells, in an empty workspace, and one kernel that waits."""
    cells = len(json.loads(path.read_text(encoding="utf-8"))["cells"])
    address = f"{lab.url}/lab/workspaces/{path.stem}/tree/{path.name}?token={TOKEN}"
    page.send("Page.navigate", url=address)
    shown = "document.querySelectorAll('.jp-Notebook .jp-Cell').length"
    page.wait(f"{shown} === {cells}", f"{cells} cells of {path.name}", PATIENCE)
    calm = 0

    def settled() -> bool:
        """JupyterLab may start a kernel twice when it is slow, and drop what the first was told."""
        nonlocal calm
        kernels = [kernel["execution_state"] for kernel in lab.ask("/api/kernels") or []]
        calm = calm + 1 if kernels == ["idle"] and page.evaluate(IDLE) else 0
        return calm >= 5

    browser.wait_for(settled, "one kernel that waits", PATIENCE, every=0.4)


def run_all(page) -> None:
    """Run, Run All Cells; returns when every cell has run, and fails when one has failed."""
    choose(page, "Run", "Run All Cells")
    page.wait(f"!({ALL_DONE})", "a cell that runs")
    page.wait(f"({ERRORS}).length || ({ALL_DONE})", "the last cell", 2 * PATIENCE)
    assert page.evaluate(ERRORS) == []


def drag_a_slider(page) -> None:
    """Drag the handle of the first slider to the right end of its track."""
    x, y = page.place("document.querySelector('.noUi-handle')", "a slider")
    width = page.evaluate("document.querySelector('.noUi-base').getBoundingClientRect().width")
    held = {"y": y, "button": "left", "buttons": 1, "clickCount": 1}
    page.send("Input.dispatchMouseEvent", type="mousePressed", x=x, **held)
    for step in (0.25, 0.5, 0.75, 1):
        page.send("Input.dispatchMouseEvent", type="mouseMoved", x=x + step * width, **held)
    page.send("Input.dispatchMouseEvent", type="mouseReleased", x=x + width, **held)


def saved(page, path: Path) -> dict:
    """The notebook as File, Save Notebook leaves it on disk."""
    before = path.stat().st_mtime_ns

    def written():
        try:  # Jupyter writes in place, so half a file may be there
            return path.stat().st_mtime_ns != before and json.loads(path.read_bytes())
        except ValueError:
            return None

    choose(page, "File", "Save Notebook")
    return browser.wait_for(written, "the saved notebook", 60)


def look_of(page, element: str) -> str:
    """The pixels of an element as the browser paints them, in base64."""
    page.place(element, "the element")
    box = page.evaluate(f"({element}).getBoundingClientRect().toJSON()")
    clip = {key: box[key] for key in ("x", "y", "width", "height")} | {"scale": 1}
    return page.send("Page.captureScreenshot", clip=clip)["data"]


def check_outputs(notebook: dict) -> None:
    """Every cell has run, from the first to the last, and none has failed."""
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    kinds = {output["output_type"] for cell in code for output in cell["outputs"]}
    assert kinds & {"display_data", "execute_result"}
    assert "error" not in kinds


def check_slider(page, screenshots: str) -> None:
    """A slider that is dragged changes its figure: another sentence, other pixels."""
    figure = "document.querySelector('.widget-vbox .widget-html img')"
    sentence, pixels = page.evaluate(f"{figure}.alt"), look_of(page, figure)
    page.screenshot(SCREENSHOTS / f"{screenshots}_before.png")
    drag_a_slider(page)
    page.wait(f"{figure}.alt !== {json.dumps(sentence)}", "another sentence", 60)
    assert look_of(page, figure) != pixels
    page.screenshot(SCREENSHOTS / f"{screenshots}_after.png")


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_chapter(chapter, page, lab, folder):
    (path,) = folder.glob(f"{chapter}_*.ipynb")
    open_notebook(page, lab, path)
    page.screenshot(SCREENSHOTS / f"{chapter}_opened.png")
    run_all(page)
    page.screenshot(SCREENSHOTS / f"{chapter}_run.png")
    assert page.evaluate(UNNAMED) == [], "images without alternative text"
    check_slider(page, f"{chapter}_slider")
    check_outputs(saved(page, path))
    assert page.log == [], "the page threw errors"
