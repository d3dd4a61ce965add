"""Downloads from a Hub that fails in every way: one whole verified copy, or a sentence."""

from __future__ import annotations

import contextlib
import gzip
import json
import random
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import huggingface_hub.constants
import pytest
from fake_hub import REPO, SHA, Hub, running, sibling, use_endpoint
from hypothesis import strategies as st

from fuzz.edits import Change, Edit, changes
from fuzz.oracles import examine, fuzz, untouched
from gptoss_edu.weights import fetch, hub

AREA, TOKEN = "fake Hub", "hf_secret"
DATA = random.Random(0).randbytes(60_000)
SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
WEIGHT_MAP = {"a": SHARDS[0], "b": SHARDS[1]}


def shard(name: str, data: bytes) -> bytes:
    """A weight file of one tensor."""
    entry = {"dtype": "U8", "shape": [len(data)], "data_offsets": [0, len(data)]}
    header = json.dumps({name: entry}).encode()
    return len(header).to_bytes(8, "little") + header + data


FILES = {
    "config.json": b'{"model_type": "gpt_oss"}',
    "model.safetensors.index.json": json.dumps({"weight_map": WEIGHT_MAP}).encode(),
    SHARDS[0]: shard("a", DATA[:20_000]),
    SHARDS[1]: shard("b", DATA[20_000:]),
}
API = f"api/models/{REPO}"
PAGE = b"<html>\x1b[2Jplease log in</html>"
BOMB = gzip.compress(bytes(5_000_000))


class Fault(NamedTuple):
    """An answer in a file's place. As `body`: a page, a bomb, or so many bytes of the file."""

    status: int
    headers: dict[str, str]
    body: str | int

    def answer(self, data: bytes) -> tuple[int, dict[str, str], bytes]:
        """As the fake Hub sends it."""
        bodies: dict[str | int, bytes] = {"page": PAGE, "bomb": BOMB, "file": data, "": b""}
        bodies |= {"wrong": bytes(len(data)), "more": data + b"more"}
        body = data[: self.body] if isinstance(self.body, int) else bodies[self.body]
        return self.status, self.headers, body


HEADERS = [
    ("Content-Type", "text/html; \x07\x1b[2J"), ("Content-Type", "x" * 5_000),
    ("Content-Encoding", "gzip"), ("Content-Encoding", "br"), ("Content-Length", "99999999"),
    ("Content-Length", "1"), ("Content-Length", "x"), ("Content-Range", "bytes 5-9/10"),
    ("Content-Range", "bytes */100"), ("Content-Range", "bytes 0-0/99999999999999999999"),
    ("Content-Range", "x"), ("Transfer-Encoding", "chunked"), ("Location", "/loop"),
    ("Location", f"/{REPO}/resolve/{SHA}/config.json"), ("Location", "file:///etc/hostname"),
    ("Location", "http://127.0.0.1:1/x"), ("Location", "ELSEWHERE"), ("Retry-After", "9999999"),
    ("Retry-After", "Fri, 31 Dec 9999 23:59:59 GMT"), ("Retry-After", "-1"), ("ETag", "/x/ESC"),
    ("ETag", '"../../x"'), ("X-Linked-Etag", "../x"), ("X-Linked-Size", "x"),
    ("X-Repo-Commit", ".."),
    ("X-Error-Code", "EntryNotFound"), ("X-Error-Message", "y" * 5_000),
]  # fmt: skip
STATUS = [200, 204, 206, 301, 302, 307, 400, 401, 403, 404, 408, 416, 418, 425, 429, 500, 502, 503]
faults = st.builds(
    Fault,
    st.sampled_from(STATUS),
    st.lists(st.sampled_from(HEADERS), max_size=2).map(dict),
    st.sampled_from(["page", "bomb", "file", "", "wrong", "more", 1, 5_000, 19_999]),
)
TARGETS = [*FILES, API]


class Scenario(NamedTuple):
    """What goes wrong: answers for some names, one after another; breaks; another description."""

    faults: dict[str, list[Fault]]
    breaks: list[int]
    described: Change


scenarios = st.builds(
    Scenario,
    st.dictionaries(st.sampled_from(TARGETS), st.lists(faults, min_size=1, max_size=6), max_size=2),
    st.lists(st.integers(0, 40_000), max_size=6),
    st.just(Change()) | st.just(Change()) | changes,
)


def failing(name: str, *faults: Fault) -> Scenario:
    return Scenario({name: list(faults)}, [], Change())


PORTAL = Fault(200, {"Content-Type": "text/html"}, "page")
LFS = {"sha256": "/x/ESCAPED", "size": 9, "pointerSize": 130}
SEEDS = [
    *(failing(name, PORTAL) for name in TARGETS),
    Scenario({SHARDS[1]: [PORTAL, PORTAL]}, [30_000], Change()),
    *(failing(SHARDS[0], *[Fault(status, {}, "page")] * 3) for status in (416, 429, 403, 500)),
    failing(SHARDS[0], *[Fault(302, {"Location": f"/{REPO}/resolve/{SHA}/{SHARDS[0]}"}, "")] * 99),
    failing(SHARDS[0], *[Fault(302, {"Location": "ELSEWHERE"}, "")] * 9),
    failing(SHARDS[0], *[Fault(200, {}, "more")] * 6),
    failing(SHARDS[0], Fault(200, {}, "wrong")),
    failing("config.json", *[Fault(200, {}, "wrong")] * 6),
    failing("config.json", *[Fault(200, {"Content-Encoding": "gzip"}, "bomb")] * 6),
    *(Scenario({}, [], Change((Edit("replace", place, None),))) for place in range(12)),
    *(Scenario({}, [], Change((Edit("all", 0, value),))) for value in ([], {}, None, "x")),
    Scenario({}, [], Change((Edit("replace", 14, LFS),))),
    Scenario({}, [0, 1, 19_999, 20_000, 39_999], Change()),
]


@pytest.fixture
def servers(monkeypatch) -> Iterator[tuple[Hub, Hub]]:
    monkeypatch.setattr(fetch, "PAUSES", (0.0, 0.0, 0.0))
    for module in (fetch, hub):
        monkeypatch.setattr(module, "STALL_SECONDS", 0.3)
    with running(FILES) as server, running(FILES) as elsewhere:
        use_endpoint(monkeypatch, server.url)
        yield server, elsewhere


def prepare(server: Hub, elsewhere: Hub, scenario: Scenario) -> None:
    """Let it go wrong in this way."""
    place = f"{elsewhere.url}/{REPO}/resolve/{SHA}/"
    for name, several in scenario.faults.items():
        answers = [fault.answer(FILES.get(name, b"")) for fault in several]
        for _, headers, _ in answers:
            if headers.get("Location") == "ELSEWHERE":
                headers["Location"] = place + name
        server.instead[name] = [(s, dict(h), b) for s, h, b in answers]
    breaks = iter(scenario.breaks)
    moving = type("Breaks", (dict,), {"__getitem__": lambda *_: next(breaks, 10**9)})
    server.cut, server.cuts_left = moving(dict.fromkeys(SHARDS, 0)), len(scenario.breaks)


def heal(server: Hub) -> None:
    server.instead, server.cut, server.cuts_left = {}, {}, 0
    server.siblings = [sibling(name, data) for name, data in FILES.items()]


@contextlib.contextmanager
def empty_cache() -> Iterator[Path]:
    """A cache of nobody's, and beside it what nothing may touch."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as root:
        (Path(root) / "others").mkdir()
        (Path(root) / "others" / "precious.txt").write_text("mine")
        with pytest.MonkeyPatch.context() as patch, untouched(Path(root) / "others"):
            patch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", f"{root}/cache")
            yield Path(root) / "cache"
            assert {path.name for path in Path(root).iterdir()} <= {"cache", "others"}


@fuzz(60, scenario=scenarios)
def test_a_copy_is_whole_or_a_sentence_says_why_and_the_next_call_goes_on(servers, scenario):
    check_scenario(*servers, scenario)


@pytest.mark.parametrize("number", range(len(SEEDS)))
def test_what_once_went_wrong(servers, number):
    check_scenario(*servers, SEEDS[number])


def check_scenario(server: Hub, elsewhere: Hub, scenario: Scenario) -> None:
    heal(server)
    with empty_cache() as cache:
        described: Any = server.siblings
        with contextlib.suppress(ValueError):  # no JSON: the api says so in its place
            server.siblings = json.loads(scenario.described.of(described))
        prepare(server, elsewhere, scenario)
        folder, _ = examine(AREA, lambda: hub.download(REPO, token=TOKEN))
        expected = FILES
        if folder is not None and scenario.described != Change():  # it may list fewer files
            expected = {path.name: FILES[path.name] for path in folder.iterdir()}
        kept = received(cache)
        heal(server)
        server.log.clear()
        folder, error = examine(AREA, lambda: hub.download(REPO, token=TOKEN))
        assert error is None
        found = {path.name: path.read_bytes() for path in folder.iterdir()}
        assert expected.items() <= found.items() <= FILES.items()
        for name, begin in server.log:
            if name in SHARDS:
                assert begin >= kept.get(fetch_name(name), 0), "thrown away, and fetched again"
        left = [path.name for path in (folder.parents[1] / "blobs").iterdir()]
        assert all(re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", name) for name in left), left
    assert set(elsewhere.tokens) <= {None}, "the token went to another host"


def fetch_name(name: str) -> str:
    """How the partial file of a shard is called."""
    return f"{sibling(name, FILES[name])['lfs']['sha256']}.gptoss_edu"


def received(cache: Path) -> dict[str, int]:
    """Bytes of shards that have come, by the name of their file."""
    return {path.name: path.stat().st_size for path in cache.rglob("*.gptoss_edu")}
