"""One large file over bad connections, and several processes that want it at once."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import random
import subprocess
import sys
import threading
import time

import pytest
from fake_hub import REPO, SHA, running

from gptoss_edu.weights import fetch as module
from gptoss_edu.weights.fetch import File, fetch

NAME = "m.safetensors"
DATA = random.Random(0).randbytes(2_000_000)
FILE = File(NAME, len(DATA), hashlib.sha256(DATA).hexdigest())
CHILD = """
import importlib.util, pathlib, sys, time
spec = importlib.util.spec_from_file_location("fetch", sys.argv[1])
fetch = sys.modules["fetch"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fetch)
hashed, wait = fetch.digest, float(sys.argv[7])
def slow(*arguments):
    print("hashing", flush=True)
    time.sleep(wait)
    return hashed(*arguments)
fetch.digest = slow
file = fetch.File(sys.argv[4], int(sys.argv[5]), sys.argv[6])
print("started", flush=True)
fetch.fetch(sys.argv[2], {}, file, pathlib.Path(sys.argv[3]))
"""


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(module, "PAUSES", (0.0, 0.0, 0.0))
    with running({NAME: DATA}) as server:
        yield server


@pytest.fixture
def blobs(tmp_path):
    blobs = tmp_path / "models--edu--tiny" / "blobs"
    blobs.mkdir(parents=True)
    return blobs


def url(server) -> str:
    return f"{server.url}/{REPO}/resolve/{SHA}/{NAME}"


def begins(server) -> list[int]:
    return [begin for _, begin in server.log]


def partial(blobs):
    return blobs / f"{FILE.digest}.gptoss_edu"


def leave(blobs, data: bytes) -> None:
    partial(blobs).write_bytes(data)


def assert_whole(blobs) -> None:
    assert [path.name for path in blobs.iterdir()] == [FILE.digest]
    assert (blobs / FILE.digest).read_bytes() == DATA


# ------------------------------------------------------------------------------ several processes


@pytest.fixture
def start(server, blobs):
    children = []

    def start(hash_seconds: float = 0.0) -> subprocess.Popen:
        arguments = [module.__file__, url(server), blobs, NAME, len(DATA), FILE.digest]
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, *map(str, arguments), str(hash_seconds)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"HF_HUB_DISABLE_PROGRESS_BARS": "1"},
        )
        children.append(child)
        assert child.stdout.readline() == "started\n", child.stderr.read()
        return child

    yield start
    for child in children:
        child.kill()
        child.communicate()


def kill(child) -> None:
    child.kill()
    child.wait()


def finish(child) -> None:
    _, errors = child.communicate(timeout=60)
    assert child.returncode == 0, errors


def until_received(blobs, count: int) -> None:
    end = time.monotonic() + 60
    while not partial(blobs).exists() or partial(blobs).stat().st_size < count:
        assert time.monotonic() < end, "the first process received nothing"
        time.sleep(0.01)


def gate(server, count: int) -> None:
    """The next connection stays open after this many bytes and sends nothing more."""
    server.cut, server.cuts_left, server.asleep = {NAME: count}, 1, True


def test_of_two_at_once_one_fetches_and_the_other_waits(server, blobs, start):
    gate(server, 1_000_000)
    first = start()
    until_received(blobs, 900_000)
    second = start()
    time.sleep(0.5)  # would be enough for a request
    assert begins(server) == [0]
    server.over.set()
    finish(first)
    finish(second)
    assert begins(server) == [0]
    assert_whole(blobs)


def test_the_second_goes_on_where_the_first_was_killed(server, blobs, start):
    gate(server, 300_000)
    server.further = 1_000_000
    first = start()
    until_received(blobs, 200_000)
    second = start()
    time.sleep(0.5)  # it waits for the lock by now, and has opened all that it can open before
    server.over.set()
    until_received(blobs, 900_000)
    kill(first)
    finish(second)
    assert len(begins(server)) == 2
    assert 900_000 <= begins(server)[1] <= 1_000_000
    assert_whole(blobs)


def test_who_waits_sees_how_far_the_other_is(server, blobs, start, monkeypatch):
    seen = []

    class Bar(contextlib.nullcontext):
        def __init__(self, file, have, text):
            self.enter_result, self.text, self.n = self, text, have

        def update(self, more):
            self.n += more
            seen.append((self.text, self.n))

    gate(server, 1_000_000)
    first = start()
    until_received(blobs, 900_000)
    monkeypatch.setattr(module, "_progress", Bar)
    waiting = threading.Thread(target=fetch, args=(url(server), {}, FILE, blobs))
    waiting.start()
    time.sleep(0.5)
    server.over.set()
    waiting.join(60)
    finish(first)
    assert {text for text, _ in seen} == {f"{NAME}, by another process"}
    assert seen[0][1] >= 900_000
    assert begins(server) == [0]
    assert_whole(blobs)


def test_while_the_first_compares_the_hash_the_second_waits(server, blobs, start):
    first = start(hash_seconds=2.0)
    assert first.stdout.readline() == "hashing\n"
    second = start()
    finish(first)
    finish(second)
    assert begins(server) == [0]
    assert_whole(blobs)


def test_killed_while_it_compares_the_hash_nothing_is_sent_again(server, blobs, start):
    first = start(hash_seconds=60.0)
    assert first.stdout.readline() == "hashing\n"
    second = start()
    kill(first)
    finish(second)
    assert begins(server) == [0]
    assert_whole(blobs)


def test_both_killed_a_third_goes_on(server, blobs, start):
    for count in (500_000, 1_200_000):
        gate(server, count)
        child = start()
        until_received(blobs, count - 100_000)
        kill(child)
    left = partial(blobs).stat().st_size
    finish(start())
    assert begins(server)[0] == 0
    assert 400_000 <= begins(server)[1] <= 500_000
    assert begins(server)[2:] == [left]
    assert_whole(blobs)


@pytest.mark.skipif(sys.platform == "win32", reason="takes the lock of POSIX away")
@pytest.mark.parametrize("answer", ["refuses", "says yes to everybody"])
def test_without_locks_every_writer_has_a_file_of_its_own(server, blobs, monkeypatch, answer):
    def flock(*_):
        if answer == "refuses":
            raise OSError("no locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    leave(blobs, b"another process is writing here")
    server.cut, server.cuts_left = {NAME: 700_000}, 100
    with pytest.raises(ConnectionError, match="broke off after 700,000"):
        fetch(url(server), {}, FILE, blobs)
    server.cuts_left = 0
    fetch(url(server), {}, FILE, blobs)
    assert begins(server)[-1] == 700_000  # this process knows its own
    assert partial(blobs).read_bytes() == b"another process is writing here"
    assert (blobs / FILE.digest).read_bytes() == DATA


# ------------------------------------------------------------------------------- bad connections


def test_a_break_at_any_byte_is_resumed_at_that_byte(server, blobs):
    for cut in (1, 8_191, 65_537, 1_234_567, len(DATA) - 1):
        server.log.clear()
        server.cut, server.cuts_left = {NAME: cut}, 1
        fetch(url(server), {}, FILE, blobs)
        assert begins(server) == [0, cut]
        assert_whole(blobs)
        (blobs / FILE.digest).unlink()


def test_many_breaks_are_survived_as_long_as_each_attempt_brings_something(server, blobs):
    server.cuts_left = 40
    answers = ((50_000 * (i + 1)) for i in itertools.count())
    server.cut = type("Moving", (dict,), {"__getitem__": lambda *_: next(answers)})({NAME: 0})
    fetch(url(server), {}, FILE, blobs)
    assert begins(server) == [50_000 * i for i in range(40)]
    assert_whole(blobs)


def test_a_connection_that_stalls_is_given_up_and_resumed(server, blobs, monkeypatch):
    monkeypatch.setattr(module, "STALL_SECONDS", 1.0)
    gate(server, 300_000)
    fetch(url(server), {}, FILE, blobs)
    assert begins(server) == [0, 300_000]
    assert_whole(blobs)


def test_a_network_that_stalls_again_and_again_is_named_and_what_came_is_kept(
    server, blobs, monkeypatch
):
    monkeypatch.setattr(module, "STALL_SECONDS", 1.0)
    gate(server, 300_000)
    server.cuts_left = 100
    expected = r"broke off after 300,000 of 2,000,000 bytes \(\w*Time\w*: .* call again"
    with pytest.raises(ConnectionError, match=expected):
        fetch(url(server), {}, FILE, blobs)
    assert begins(server) == [0, 300_000, 300_000, 300_000]
    server.cuts_left = 0
    server.log.clear()
    fetch(url(server), {}, FILE, blobs)
    assert begins(server) == [300_000]
    assert_whole(blobs)


def test_a_server_that_cannot_resume_sends_all_and_nothing_here_is_thrown_away(server, blobs):
    server.ranges = False
    leave(blobs, DATA[:700_000])
    server.cut, server.cuts_left = {NAME: 300_000}, 1  # breaks before it reaches what is new
    fetch(url(server), {}, FILE, blobs)
    assert len(begins(server)) == 2
    assert_whole(blobs)


def test_single_errors_of_a_server_are_survived(server, blobs):
    server.instead[NAME] = [(500, {}, b"oops"), (503, {}, b"")]
    leave(blobs, DATA[:100_000])
    fetch(url(server), {}, FILE, blobs)
    assert begins(server) == [100_000]
    assert_whole(blobs)


def test_a_connection_that_trickles_is_given_up_and_resumed(server, blobs, monkeypatch):
    monkeypatch.setattr(module, "STALL_SECONDS", 0.5)
    server.drip = 0.1
    expected = r"broke off after [1-9]\d* of 2,000,000 bytes \(TimeoutError: found \d bytes in"
    with pytest.raises(ConnectionError, match=expected):
        fetch(url(server), {}, FILE, blobs)
    assert len(server.log) == len(module.PAUSES)
    server.drip, left = 0.0, partial(blobs).stat().st_size
    server.log.clear()
    fetch(url(server), {}, FILE, blobs)
    assert begins(server) == [left]
    assert_whole(blobs)


@pytest.mark.parametrize(
    ("asked", "waited"),
    [
        ("7", 7.0),
        ("999999", 60.0),
        ("9" * 400, 0.5),
        ("-1", 0.5),
        ("Fri, 31 Dec 1999 23:59:59 GMT", 0.5),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 60.0),
        ("Fri, 31 Dec 9999 23:59:59 -0000", 0.5),
        ("Fri, 31 Dec 99999 99:99:99 GMT", 0.5),
        ("soon", 0.5),
    ],
)
def test_a_busy_server_is_asked_again_when_it_says(server, blobs, monkeypatch, asked, waited):
    pauses = []
    monkeypatch.setattr(module.time, "sleep", pauses.append)
    monkeypatch.setattr(module, "PAUSES", (0.0, 0.5, 0.5))
    server.instead[NAME] = [(429, {"Retry-After": asked}, b"too many requests")]
    fetch(url(server), {}, FILE, blobs)
    assert pauses == [waited]
    assert_whole(blobs)


def test_a_server_that_stays_busy_is_named(server, blobs):
    server.instead[NAME] = [(500, {}, b"oops")] * 9
    leave(blobs, DATA[:100_000])
    with pytest.raises(ConnectionError, match=r"after 100,000 of .* status 500.*call again"):
        fetch(url(server), {}, FILE, blobs)
    assert len(server.instead[NAME]) == 9 - len(module.PAUSES)
    assert partial(blobs).read_bytes() == DATA[:100_000]


PAGE = b"<html>please log in</html>"
HTML = {"Content-Type": "text/html"}
CHUNKED = {"Transfer-Encoding": "chunked"}
WRONG = {
    "a captive portal": (200, HTML, PAGE),
    "a portal that says no length": (200, CHUNKED, b"1a\r\n" + PAGE + b"\r\n0\r\n\r\n"),
    "another part": (206, {"Content-Range": "bytes 900000-1999999/2000000"}, DATA[900_000:]),
    "another file": (206, {"Content-Range": "bytes 800000-2999999/3000000"}, DATA[800_000:]),
    "a longer file": (200, {}, DATA + b"more"),
    "compressed": (200, {"Content-Encoding": "gzip", "Content-Length": "2000000"}, DATA),
    "forbidden": (403, HTML, PAGE),
    "no such file": (404, HTML, PAGE),
    "no such part": (416, {"Content-Range": "bytes */100"}, b""),
}


@pytest.mark.parametrize("there", [0, 800_000])
@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_not_this_file_is_refused_at_once_and_nothing_is_lost(server, blobs, wrong, there):
    leave(blobs, DATA[:there])
    server.instead[NAME] = [WRONG[wrong]]
    with pytest.raises(ConnectionError, match=r"broke off after .* what came is kept, call again"):
        fetch(url(server), {}, FILE, blobs)
    assert partial(blobs).read_bytes() == DATA[:there]
    assert server.instead[NAME] == []
    fetch(url(server), {}, FILE, blobs)
    assert begins(server) == [there]
    assert_whole(blobs)


def test_bytes_beyond_the_files_end_are_not_taken(server, blobs):
    leave(blobs, DATA[:500_000])
    server.beyond = b"and more, and more" * 1000
    assert b"".join(module.attempt(url(server), {}, FILE, 500_000)) == DATA[500_000:]
    server.log.clear()
    fetch(url(server), {}, FILE, blobs)
    assert begins(server) == [500_000]
    assert_whole(blobs)


def test_wrong_bytes_are_deleted_and_nothing_else(server, blobs):
    server.files[NAME] = DATA[:-1] + bytes([DATA[-1] ^ 1])
    other = blobs / "other"
    other.write_bytes(b"of somebody else")
    with pytest.raises(ValueError, match=r"arrived damaged: found hash .*, expected"):
        fetch(url(server), {}, FILE, blobs)
    assert list(blobs.iterdir()) == [other]
    server.files[NAME] = DATA
    fetch(url(server), {}, FILE, blobs)
    assert (blobs / FILE.digest).read_bytes() == DATA


def test_a_partial_file_that_is_too_long_is_cut_and_not_fetched_again(server, blobs):
    leave(blobs, DATA + b"written twice")
    fetch(url(server), {}, FILE, blobs)
    assert begins(server) == []
    assert_whole(blobs)


def test_a_full_disk_is_no_broken_connection(server, blobs, monkeypatch):
    def receive(*_):
        yield b"x"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "receive", receive)
    with pytest.raises(OSError, match="No space left"):
        fetch(url(server), {}, FILE, blobs)


@pytest.mark.skipif(not hasattr(os, "O_NOFOLLOW"), reason="has no links to refuse")
def test_nothing_is_written_through_a_link(server, blobs, tmp_path):
    precious = tmp_path / "precious.txt"
    precious.write_text("mine")
    partial(blobs).symlink_to(precious)
    with pytest.raises(OSError, match="symbolic links"):
        fetch(url(server), {}, FILE, blobs)
    assert precious.read_text() == "mine"


def test_a_token_goes_to_the_hub_and_to_no_other_host(server, blobs):
    with running({NAME: DATA}) as other:
        server.instead[NAME] = [(302, {"Location": url(other)}, b"")]
        fetch(url(server), {"Authorization": "Bearer hf_secret"}, FILE, blobs)
        assert (server.tokens, other.tokens) == (["Bearer hf_secret"], [None])
    assert_whole(blobs)


def test_text_of_a_server_is_shown_plain_and_short(server, blobs):
    kind = "text/html;\x1b[2J" + "x" * 5_000
    server.instead[NAME] = [(200, {"Content-Type": kind}, PAGE)]
    with pytest.raises(ConnectionError) as caught:
        fetch(url(server), {}, FILE, blobs)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600
