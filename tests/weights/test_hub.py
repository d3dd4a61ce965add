"""Downloads, against a small Hub on this machine: complete, interrupted, damaged, out of reach."""

from __future__ import annotations

import hashlib
import http.server
import json
import shutil
import threading
from collections import namedtuple

import huggingface_hub.constants
import jax
import numpy as np
import pytest
from huggingface_hub import file_download
from layouts import random_params

from gptoss_edu.config import TINY
from gptoss_edu.weights import hub
from gptoss_edu.weights.checkpoint import load_model, save_checkpoint

REPO, SHA = "edu/tiny", "0123456789abcdef0123456789abcdef01234567"


class Hub(http.server.ThreadingHTTPServer):
    """The four requests that a download makes, with a log and with faults to switch on.

    `cut[name]` is the number of bytes after which the connection breaks, again and again, or with
    `asleep` stays open and sends nothing more.
    """

    def __init__(self, files: dict[str, bytes]):
        super().__init__(("127.0.0.1", 0), Answer)
        self.files, self.log = files, []
        self.cut: dict[str, int] = {}
        self.cuts_left = 0
        self.asleep, self.over = False, threading.Event()
        self.ranges = True
        self.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request, client_address):
        """A broken connection is what some of these tests are about."""


class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        path = self.path.split("?")[0]
        files = self.server.files
        if path.startswith(f"/api/models/{REPO}/tree/"):
            return self.send_json([tree_entry(name, data) for name, data in files.items()])
        if path.startswith(f"/api/models/{REPO}"):
            siblings = [sibling(name, data) for name, data in files.items()]
            return self.send_json({"id": REPO, "sha": SHA, "siblings": siblings})
        prefix = f"/{REPO}/resolve/"
        name = path.removeprefix(prefix).partition("/")[2]
        if path.startswith(prefix) and name in files:
            return self.send_file(name, files[name], body)
        return self.send_json({"error": "Repository Not Found"}, 404, "RepoNotFound")

    def send_json(self, value, status=200, error=None) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if error:
            self.send_header("X-Error-Code", error)
        self.end_headers()
        self.wfile.write(data)

    def send_file(self, name: str, data: bytes, body: bool) -> None:
        asked = self.headers.get("Range") if self.server.ranges else None
        begin = int(asked.removeprefix("bytes=").split("-")[0]) if asked else 0
        self.send_response(206 if asked else 200)
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", SHA)
        self.send_header("Content-Length", str(len(data) - begin))
        if asked:
            self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if not body:
            return
        self.server.log.append((name, begin))
        sent = data[begin:]
        if name in self.server.cut and self.server.cuts_left:
            self.server.cuts_left -= 1
            sent = data[begin : max(begin, self.server.cut[name])]
            self.close_connection = True
            if self.server.asleep:
                self.wfile.write(sent)
                self.wfile.flush()
                self.server.over.wait(20)
                return
        self.wfile.write(sent)


def is_large(name: str) -> bool:
    return name.endswith((".safetensors", "tokenizer.json"))


def sibling(name: str, data: bytes) -> dict:
    entry = {"rfilename": name, "size": len(data), "blobId": "0" * 40}
    if is_large(name):
        sha256 = hashlib.sha256(data).hexdigest()
        entry["lfs"] = {"sha256": sha256, "size": len(data), "pointerSize": 130}
    return entry


def tree_entry(name: str, data: bytes) -> dict:
    entry = {"type": "file", "path": name, "size": len(data), "oid": "0" * 40}
    if is_large(name):
        entry["lfs"] = {
            "oid": hashlib.sha256(data).hexdigest(),
            "size": len(data),
            "pointerSize": 130,
        }
    return entry


@pytest.fixture(scope="module")
def params():
    return random_params(TINY, packed=True)


@pytest.fixture(scope="module")
def files(params, tmp_path_factory):
    folder = tmp_path_factory.mktemp("published") / "tiny"
    save_checkpoint(params, TINY, folder, shard_bytes=1_000_000)
    assert len(list(folder.glob("*.safetensors"))) == 3
    files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    others = ["README.md", "tokenizer.json", "original/model.safetensors", "metal/model.bin"]
    return files | dict.fromkeys(others, b"not asked for")


@pytest.fixture
def server(files, tmp_path, monkeypatch):
    server = Hub(dict(files))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    use_endpoint(monkeypatch, server.url)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    yield server
    server.over.set()
    server.shutdown()
    server.server_close()
    thread.join()


def use_endpoint(monkeypatch, url: str) -> None:
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    if hasattr(file_download, "HUGGINGFACE_CO_URL_TEMPLATE"):  # older versions keep a copy
        monkeypatch.setattr(file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 50_000)
    monkeypatch.setattr(file_download.time, "sleep", lambda seconds: None)


def wanted(files) -> set[str]:
    return {name for name in files if "/" not in name} - {"README.md", "tokenizer.json"}


def test_one_copy_is_downloaded_once_and_then_used_without_a_network(server, params, monkeypatch):
    _, loaded = load_model(REPO)
    jax.tree.map(np.testing.assert_array_equal, loaded, params)
    assert {name for name, _ in server.log} == wanted(server.files)
    assert len(server.log) == len(wanted(server.files))
    use_endpoint(monkeypatch, "http://127.0.0.1:1")  # nobody listens there
    _, again = load_model(REPO)
    jax.tree.map(np.testing.assert_array_equal, again, params)


def test_a_connection_that_breaks_is_resumed_within_the_call(server):
    name = "model-00001-of-00003.safetensors"
    server.cut, server.cuts_left = {name: 300_000}, 1
    hub.download(REPO)
    assert [begin for file, begin in server.log if file == name] == [0, 300_000]


def test_a_download_that_broke_off_goes_on_where_it_stopped(server):
    name = "model-00002-of-00003.safetensors"
    server.cut, server.cuts_left = {name: 400_000}, 100
    with pytest.raises(ConnectionError, match=r"broke off after 400,000 of .* call again"):
        hub.download(REPO)
    server.cuts_left, server.log = 0, []
    folder = hub.download(REPO)
    shards = [(file, begin) for file, begin in server.log if file.endswith(".safetensors")]
    assert shards == [(name, 400_000), ("model-00003-of-00003.safetensors", 0)]
    for file in wanted(server.files):
        assert (folder / file).read_bytes() == server.files[file]


def test_a_connection_that_falls_asleep_is_given_up_and_resumed(server, monkeypatch):
    monkeypatch.setattr(hub, "STALL_SECONDS", 0.4)
    name = "model-00001-of-00003.safetensors"
    server.cut, server.cuts_left, server.asleep = {name: 300_000}, 1, True
    folder = hub.download(REPO)
    assert [begin for file, begin in server.log if file == name] == [0, 300_000]
    assert (folder / name).read_bytes() == server.files[name]


def test_a_network_that_sleeps_on_is_told_and_what_came_is_kept(server, monkeypatch):
    monkeypatch.setattr(hub, "STALL_SECONDS", 0.3)
    name = "model-00001-of-00003.safetensors"
    server.cut, server.cuts_left, server.asleep = {name: 300_000}, 100, True
    told = r"broke off after 300,000 of .*\(TimeoutError: no data for 0.3 seconds\).* call again"
    with pytest.raises(ConnectionError, match=told):
        hub.download(REPO)
    begins = [begin for file, begin in server.log if file == name]
    assert begins == [0] + [300_000] * hub.STALLS
    server.cuts_left, server.log = 0, []
    assert (hub.download(REPO) / name).read_bytes() == server.files[name]
    assert (name, 300_000) in server.log


def test_a_connection_that_was_given_up_cannot_write_any_more(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "STALL_SECONDS", 0.1)
    wake, woken = threading.Event(), []

    def get(sink):
        sink.write(b"first")
        wake.wait(20)
        try:
            sink.write(b"too late")
        except BrokenPipeError as error:
            woken.append(str(error))

    with open(tmp_path / "file", "ab") as out:
        with pytest.raises(TimeoutError, match=r"no data for 0\.1 seconds"):
            hub.watch(get, out)
        wake.set()
        while not woken:
            threading.Event().wait(0.01)
    assert (tmp_path / "file").read_bytes() == b"first"
    assert woken == ["this connection was given up"]


def test_a_server_that_cannot_resume_sends_the_file_again(server):
    name = "model-00001-of-00003.safetensors"
    server.cut, server.cuts_left, server.ranges = {name: 300_000}, 1, False
    folder = hub.download(REPO)
    assert (folder / name).read_bytes() == server.files[name]


def test_a_damaged_file_is_refused_and_fetched_anew(server, monkeypatch):
    name = "model-00001-of-00003.safetensors"
    good = server.files[name]
    described = hub.describe(REPO)
    monkeypatch.setattr(hub, "describe", lambda repo_id: described)
    server.files[name] = good[:-1] + bytes([good[-1] ^ 1])
    with pytest.raises(ValueError, match=r"arrived damaged: found sha256 .*, expected"):
        hub.download(REPO)
    server.files[name] = good
    assert (hub.download(REPO) / name).read_bytes() == good


def test_an_incomplete_copy_in_the_cache_is_completed(server):
    folder = hub.download(REPO)
    shard = folder / "model-00003-of-00003.safetensors"
    shard.resolve().unlink()
    shard.unlink(missing_ok=True)
    assert hub.find_cached(REPO) is None
    hub.download(REPO)
    assert shard.read_bytes() == server.files[shard.name]


def test_no_network_and_no_cache_says_what_to_do(server, monkeypatch):
    use_endpoint(monkeypatch, "http://127.0.0.1:1")
    with pytest.raises(ConnectionError, match=r"no complete copy .* out of reach .*hf download"):
        load_model(REPO)


def test_offline_mode_says_the_same(server, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match="out of reach"):
        load_model(REPO)


def test_an_unknown_repository_is_neither_folder_nor_hub_id(server):
    with pytest.raises(FileNotFoundError, match="neither a folder 'edu/tinny' here nor a repos"):
        load_model("edu/tinny")


def test_a_repository_without_safetensors_is_refused(server):
    server.files = {"model.gguf": b"GGUF", "original/model.safetensors": b"x"}
    with pytest.raises(ValueError, match=r"no \*.safetensors in its top folder, only \['model.gg"):
        load_model(REPO)


def test_a_full_disk_is_refused_before_fetching(server, monkeypatch):
    usage = namedtuple("usage", "total used free")(10**9, 10**9 - 1000, 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OSError, match=r"too little disk: .* has 0.00 GB free, but 0.0\d GB"):
        load_model(REPO)
    assert server.log == []
