"""Files that come from anywhere: limits, special files, and text that no terminal obeys."""

from __future__ import annotations

import json
import os
import tracemalloc
from pathlib import Path

import pytest
from special import SPECIAL, make, posix

from gptoss_edu.weights import files
from gptoss_edu.weights.files import is_there, opened, read_json, read_small, replace_json, visible


@posix
@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("read", [read_json, read_small])
def test_what_is_no_file_is_refused_by_what_it_is(tmp_path, monkeypatch, kind, read):
    """Whoever opens the pipe waits for ever, and the device never ends."""
    monkeypatch.chdir(tmp_path)  # the name of a socket may not be long
    path = make(Path("config.json"), kind)
    assert is_there(path)
    with pytest.raises(ValueError, match=f"config.json {SPECIAL[kind]}"):
        read(path)


def test_what_is_not_there_is_said(tmp_path):
    assert not is_there(tmp_path / "x")
    assert not is_there(tmp_path / ("x" * 5000))
    with pytest.raises(FileNotFoundError, match=r"x cannot be read \(No such file"):
        read_json(tmp_path / "x")
    with pytest.raises(OSError, match=r"cannot be read \(File name too long\)"):
        read_json(tmp_path / ("x" * 5000))


@pytest.mark.parametrize(
    "text, why",
    [
        ("{", "Expecting property name"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a": ' * 100_000, "nested too deeply"),
        ("9" * 10_000, "a number of 10,000 digits"),
        ('{"a": -' + "9" * 10_000 + "}", "a number of 10,001 digits"),
        ('{"a": 1, "a": 2}', "a name is there twice"),
        ('[{"x": {"a": 1, "a": 2}}]', "a name is there twice"),
        ("\x1b[2J", "Expecting value"),
        ("", "Expecting value"),
        ("5" * 2**25, "more than the 16,777,216 bytes"),
        (b"\xff" * 1000, "decode"),
    ],
)
def test_json_that_is_none_is_refused_in_few_words(tmp_path, text, why):
    path = tmp_path / "config.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=why) as refused:
        read_json(path)
    assert len(str(refused.value)) < 500
    assert str(refused.value).isprintable()
    assert "config.json" in str(refused.value)


def test_no_more_is_read_than_the_limit(tmp_path):
    path = tmp_path / "sparse.json"
    path.touch()
    os.truncate(path, 40_000_000_000)
    tracemalloc.start()
    with pytest.raises(ValueError, match="has more than the 16,777,216 bytes"):
        read_small(path)
    assert tracemalloc.get_traced_memory()[1] < 3 * files.LARGEST
    tracemalloc.stop()


def test_a_good_file_is_read_as_it_is(tmp_path):
    content = {"a": [1, -2.5, "ä", None, True, 2**100], "b": {"a": 1e300}}
    path = tmp_path / "x.json"
    for encoding in ("utf-8", "utf-8-sig"):  # Windows' editors begin with a mark
        path.write_text(json.dumps(content, ensure_ascii=False), encoding=encoding)
        assert read_json(path) == content


def test_control_characters_become_visible():
    assert visible("a\x1b[2J\x9b\u202e\nä·🙂") == r"a\x1b[2J\x9b\u202e\nä·🙂"
    assert len(visible("x" * 5000)) == 1000
    assert visible("x" * 50, 10) == "x" * 9 + "…"


@posix
def test_nothing_is_written_through_a_link(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("mine")
    for name, link in (("soft", os.symlink), ("hard", os.link)):
        link(precious, tmp_path / name)
        replace_json(tmp_path / name, {"a": 1})
        assert read_json(tmp_path / name) == {"a": 1}
        assert precious.read_text() == "mine"
        (tmp_path / name).unlink()
        link(precious, tmp_path / name)
        with pytest.raises(FileExistsError):
            files.write_json(tmp_path / name, {})
    assert precious.read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {"precious", "soft", "hard"}


def test_a_file_that_is_opened_is_closed(tmp_path):
    (tmp_path / "x").write_bytes(b"ab")
    with opened(tmp_path / "x") as file:
        assert file.read() == b"ab"
    assert file.closed
