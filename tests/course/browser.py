"""A small driver for a real browser: Chromium, asked over its DevTools protocol.

Why not selenium or playwright: playwright brings browsers of its own (hundreds of megabytes, and
not Debian's), selenium wants a chromedriver of exactly the browser's version. What a test needs is
to evaluate a line of JavaScript, to click, to press a key and to take a picture: four messages over
a websocket, and `websocket-client` is here already, because Jupyter's server depends on it.
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import websocket

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome")
KEYS = {"ArrowRight": 39, "ArrowLeft": 37, "Escape": 27, "Enter": 13}
FLAGS = (
    "--headless=new",
    "--no-sandbox",  # Chromium refuses root otherwise; it sees nothing but our own pages
    "--disable-dev-shm-usage",  # containers give /dev/shm 64 MB
    "--disable-gpu",
    "--disable-extensions",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--remote-debugging-port=0",  # Chromium chooses one and writes it down
)


def find_chromium() -> str | None:
    """The path of a browser that speaks the protocol, or None."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def wait_for(ask: Any, what: str, seconds: float, every: float = 0.2) -> Any:
    """The first answer of `ask()` that is true; TimeoutError names what did not come."""
    end = time.monotonic() + seconds
    while not (answer := ask()):
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {seconds:.0f} s")
        time.sleep(every)
    return answer


class Page:
    """One tab. `log` keeps what the page complained about."""

    def __init__(self, address: str) -> None:
        self.socket = websocket.create_connection(address, timeout=60, suppress_origin=True)
        self.number = 0
        self.log: list[str] = []
        self.send("Page.enable")
        self.send("Runtime.enable")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One message and its answer; events that arrive in between are skimmed for errors."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        self.socket.send(json.dumps(message))
        while True:
            answer = json.loads(self.socket.recv())
            if answer.get("method") == "Runtime.exceptionThrown":
                details = answer["params"]["exceptionDetails"]
                self.log.append(details.get("exception", {}).get("description", details["text"]))
            if answer.get("id") == self.number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]

    def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression."""
        answer = self.send("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, f"{script}: {answer['exceptionDetails']}"
        return answer["result"].get("value")

    def wait(self, script: str, what: str, seconds: float = 60) -> None:
        """Wait until a JavaScript expression is true; an element is, null is not."""
        wait_for(lambda: self.evaluate(f"!!({script})"), what, seconds)

    def place(self, element: str, what: str, seconds: float = 60) -> tuple[float, float]:
        """Scroll the element that `element` evaluates to into view; where its middle is then."""
        script = f"""(() => {{
            const found = {element};
            if (!found) return null;
            found.scrollIntoView({{block: 'center'}});
            const box = found.getBoundingClientRect();
            return box.width ? [box.x + box.width / 2, box.y + box.height / 2] : null;
        }})()"""
        return tuple(wait_for(lambda: self.evaluate(script), what, seconds))

    def click(self, element: str, what: str, seconds: float = 60) -> None:
        """A press and a release of the left button, where a person would click."""
        x, y = self.place(element, what, seconds)
        mouse = {"x": x, "y": y, "button": "left", "clickCount": 1}
        self.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        self.send("Input.dispatchMouseEvent", type="mousePressed", **mouse)
        self.send("Input.dispatchMouseEvent", type="mouseReleased", **mouse)

    def press(self, key: str, modifiers: int = 0) -> None:
        """One key, to whatever has the focus."""
        code = KEYS.get(key, ord(key[0].upper()))
        pressed = {"key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": modifiers}
        self.send("Input.dispatchKeyEvent", type="rawKeyDown", **pressed)
        self.send("Input.dispatchKeyEvent", type="keyUp", **pressed)

    def screenshot(self, path: Path) -> Path:
        """What the page looks like now, as a PNG file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot")["data"]))
        return path


@contextmanager
def opened(executable: str, folder: Path, width: int = 1280, height: int = 960) -> Iterator[Page]:
    """Chromium with an empty profile in `folder` and one blank page; closed at the end."""
    size = f"--window-size={width},{height}"
    command = [executable, *FLAGS, size, f"--user-data-dir={folder}", "about:blank"]
    with (folder / "chromium.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        port_file = folder / "DevToolsActivePort"

        def port() -> str | None:
            assert process.poll() is None, (folder / "chromium.log").read_text()[-2000:]
            lines = port_file.read_text().splitlines() if port_file.exists() else []
            return lines[0] if len(lines) == 2 else None

        found = wait_for(port, "Chromium's port", 60)
        yield Page(_page_address(int(found)))
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _page_address(port: int) -> str:
    """The websocket of the first tab."""
    from urllib.request import urlopen

    def tabs() -> list[dict[str, str]]:
        with urlopen(f"http://127.0.0.1:{port}/json/list", timeout=30) as answer:
            return [tab for tab in json.load(answer) if tab["type"] == "page"]

    return wait_for(tabs, "a tab", 30)[0]["webSocketDebuggerUrl"]
