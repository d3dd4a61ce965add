"""Chapter a1 opened alone: `pocket/` is found, fetched at the right commit, or asked for."""

import importlib.metadata
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from gptoss_edu.course import pocket_code

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def nothing_around(monkeypatch):
    monkeypatch.setattr(sys, "path", [at for at in sys.path if not (Path(at) / "pocket").is_dir()])


def installed_from(monkeypatch, noted):
    class Installed:
        def read_text(self, name):
            return noted if name == "direct_url.json" else None

    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Installed())


def git(folder, *words):
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    done = subprocess.run(["git", "-C", folder, *identity, *words], capture_output=True, check=True)
    return done.stdout.decode().strip()


def test_it_lies_above_the_notebook():
    assert pocket_code.bring_pocket(ROOT / "notebooks") == ROOT
    assert sys.path[0] == str(ROOT)


def test_the_very_commit_is_fetched(tmp_path, monkeypatch):
    origin = tmp_path / "origin"
    (origin / "pocket").mkdir(parents=True)
    git(origin, "init", "--quiet")
    for text in ("first", "second"):
        (origin / pocket_code.CODE).write_text(text, encoding="utf-8")
        git(origin, "add", ".")
        git(origin, "commit", "--quiet", "--message", text)
    noted = {"url": origin.as_uri(), "vcs_info": {"commit_id": git(origin, "rev-parse", "HEAD~1")}}
    installed_from(monkeypatch, json.dumps(noted))
    folder = pocket_code.bring_pocket(tmp_path)
    assert (folder / pocket_code.CODE).read_text(encoding="utf-8") == "first"


@pytest.mark.parametrize("noted", [None, '{"url": "file:///x", "dir_info": {}}'])
def test_without_an_address_it_says_what_to_do(tmp_path, monkeypatch, noted):
    installed_from(monkeypatch, noted)
    with pytest.raises(FileNotFoundError, match=r"clone it .* or in Colab upload its folder"):
        pocket_code.bring_pocket(tmp_path)


def test_an_address_that_does_not_answer(tmp_path, monkeypatch):
    noted = {"url": (tmp_path / "nothing").as_uri(), "vcs_info": {"commit_id": "0" * 40}}
    installed_from(monkeypatch, json.dumps(noted))
    with pytest.raises(FileNotFoundError, match="could not be cloned at 0000"):
        pocket_code.bring_pocket(tmp_path)


def test_optax_that_cannot_be_installed(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(pocket_code, "_run", lambda *command: "no network")
    with pytest.raises(ImportError, match=r"training needs optax.*no network"):
        pocket_code.bring_pocket(ROOT)
