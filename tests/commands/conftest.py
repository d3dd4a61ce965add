"""A checkpoint that is in memory already, for every test of the command line."""

import importlib
import io
import sys

import pytest
from models import CONFIG, KEPT_IDS, MODEL, random_params

from gptoss_edu.commands import flags
from gptoss_edu.commands.main import main
from gptoss_edu.weights.checkpoint import save_checkpoint


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A checkpoint of a model that writes noise, unless it is dictated something."""
    folder = tmp_path_factory.mktemp("models") / "noise"
    save_checkpoint(random_params(), CONFIG, folder, kept_ids=KEPT_IDS)
    return str(folder)


@pytest.fixture
def quick_load(monkeypatch, folder):
    """Loading is tested elsewhere: here the one folder is in memory already."""
    load_model = flags.load_model

    def load(path_or_id=None, **options):
        if path_or_id == folder:
            return MODEL, random_params()
        return load_model(path_or_id, **options)

    monkeypatch.setattr(flags, "load_model", load)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    # One size of cache, so that all tests share what is compiled.
    monkeypatch.setattr(importlib.import_module("gptoss_edu.cache"), "SMALLEST", 512)


@pytest.fixture
def failing(capsys):
    """Run a command that must fail: its exit status and its one line on standard error."""

    def run(*argv):
        try:
            status = main(list(argv))
        except SystemExit as end:
            status = end.code
        out, err = capsys.readouterr()
        assert out == ""
        assert "Traceback" not in err
        return status, err

    return run
