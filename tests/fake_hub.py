"""A small Hub on this machine, with faults to switch on."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import threading

import huggingface_hub.constants
from huggingface_hub import file_download

REPO, SHA = "edu/tiny", "0123456789abcdef0123456789abcdef01234567"


class Hub(http.server.ThreadingHTTPServer):
    """The four requests that a download makes, with a log.

    `log`: (name, first byte asked for) of each file that was sent, `asked`: paths. `cut[name]` is
    the number of bytes after which the connection breaks, `cuts_left` times; with `asleep` it stays
    open and sends nothing more until `over` is set, and then up to `further`. `instead[name]` is a
    list of (status, headers, body) that are sent first in the file's place, `instead["HEAD name"]`
    where only its headers are asked for. `tokens` are those that came. `beyond` is sent after
    a file's last byte. A file comes in pieces of so many bytes, `drip` seconds apart if that is
    not 0.
    """

    def __init__(self, files: dict[str, bytes]):
        super().__init__(("127.0.0.1", 0), Answer)
        self.files, self.log, self.asked, self.tokens = files, [], [], []
        self.siblings = [sibling(name, data) for name, data in files.items()]
        self.cut: dict[str, int] = {}
        self.cuts_left = 0
        self.asleep, self.over = False, threading.Event()
        self.further, self.closed = None, threading.Event()
        self.instead: dict[str, list[tuple[int, dict[str, str], bytes]]] = {}
        self.ranges, self.beyond, self.sha, self.drip = True, b"", SHA, 0.0
        self.piece = 1
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
        server = self.server
        server.asked.append(path)
        prefix = f"/{REPO}/resolve/"
        name = path.removeprefix(prefix).partition("/")[2]
        server.tokens.append(self.headers.get("Authorization"))
        if faults := server.instead.get(name if body else f"HEAD {name}"):
            return self.send(*faults.pop(0), body=body)
        if path.startswith(f"/api/models/{REPO}/tree/"):
            return self.send_json([tree_entry(name, data) for name, data in server.files.items()])
        if path.startswith(f"/api/models/{REPO}/revision/missing"):
            return self.send(404, {"X-Error-Code": "RevisionNotFound"}, b"{}")
        if path.startswith(f"/api/models/{REPO}"):
            sha = path.rpartition("/revision/")[2] if path.endswith(SHA) else server.sha
            return self.send_json({"id": REPO, "sha": sha, "siblings": server.siblings})
        if path.startswith(prefix) and name in server.files:
            return self.send_file(name, server.files[name], body)
        return self.send(404, {"X-Error-Code": "RepoNotFound"}, b'{"error": "no such repository"}')

    def send_json(self, value) -> None:
        self.send(200, {"Content-Type": "application/json"}, json.dumps(value).encode())

    def send(self, status: int, headers: dict[str, str], data: bytes, body: bool = True) -> None:
        self.send_response(status)
        length = {} if "Transfer-Encoding" in headers else {"Content-Length": str(len(data))}
        for key, value in (length | headers).items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def send_file(self, name: str, data: bytes, body: bool) -> None:
        asked = self.headers.get("Range") if self.server.ranges else None
        begin = int(asked.removeprefix("bytes=").split("-")[0]) if asked else 0
        self.send_response(206 if asked else 200)
        self.send_header("ETag", f'"{hash_of(name, data)}"')
        self.send_header("X-Repo-Commit", self.path.split("/")[4])
        self.send_header("Content-Length", str(len(data) - begin + len(self.server.beyond)))
        if asked:
            self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if not body:
            return
        self.server.log.append((name, begin))
        sent = data[begin:]
        while self.server.drip and sent and not self.server.over.wait(self.server.drip):
            self.wfile.write(sent[: self.server.piece])
            sent = sent[self.server.piece :]
        if name in self.server.cut and self.server.cuts_left:
            self.server.cuts_left -= 1
            sent = data[begin : max(begin, self.server.cut[name])]
            self.close_connection = True
            if self.server.asleep:
                self.wfile.write(sent)
                self.wfile.flush()
                self.server.over.wait(60)
                sent = data[begin + len(sent) : self.server.further]
                if self.server.further:
                    self.wfile.write(sent)
                    self.server.closed.wait(60)
                    return
        self.wfile.write(sent + self.server.beyond)


def is_large(name: str) -> bool:
    return name.endswith((".safetensors", "tokenizer.json"))


def hash_of(name: str, data: bytes) -> str:
    """As the Hub names a file: sha256 of a large one, git's sha1 of a small one."""
    if is_large(name):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def sibling(name: str, data: bytes) -> dict:
    entry = {"rfilename": name, "size": len(data), "blobId": hash_of(name, data)}
    if is_large(name):
        sha256 = hash_of(name, data)
        entry |= {"blobId": "0" * 40}  # of the pointer that git keeps in its place
        entry["lfs"] = {"sha256": sha256, "size": len(data), "pointerSize": 130}
    return entry


def tree_entry(name: str, data: bytes) -> dict:
    entry = {"type": "file", "path": name, "size": len(data), "oid": hash_of(name, data)}
    if is_large(name):
        entry["lfs"] = {"oid": hash_of(name, data), "size": len(data), "pointerSize": 130}
    return entry


@contextlib.contextmanager
def running(files: dict[str, bytes]):
    """A Hub with these files, served from a thread."""
    server = Hub(dict(files))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.over.set()
    server.closed.set()
    server.shutdown()
    server.server_close()
    thread.join()


def use_endpoint(monkeypatch, url: str) -> None:
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    if hasattr(file_download, "HUGGINGFACE_CO_URL_TEMPLATE"):  # older versions keep a copy
        monkeypatch.setattr(file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(file_download.time, "sleep", lambda seconds: None)
