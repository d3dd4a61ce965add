"""Orbax: there and back without a changed bit, in one piece or not at all."""

from __future__ import annotations

import dataclasses
import importlib.util
import shutil
import sys
import uuid
import warnings

import jax
import numpy as np
import pytest
from layouts import random_params, write_layout

from gptoss_edu.commands import main as cli
from gptoss_edu.config import TINY
from gptoss_edu.weights import orbax
from gptoss_edu.weights.checkpoint import POCKET, load_model
from gptoss_edu.weights.convert import convert

CONFIG = dataclasses.replace(TINY, num_layers=2, layer_types=())


def has_orbax() -> bool:
    try:
        return importlib.util.find_spec("orbax.checkpoint") is not None
    except ModuleNotFoundError:
        return False


needs_orbax = pytest.mark.skipif(
    not has_orbax(), reason="orbax-checkpoint is not installed (pip install 'gptoss-edu[orbax]')"
)
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:orbax")


def bits(params) -> list:
    return [(leaf.dtype, np.asarray(leaf).tobytes()) for leaf in jax.tree.leaves(params)]


@pytest.fixture(scope="module")
def params():
    return random_params(CONFIG, packed=True)


@pytest.fixture
def folder(tmp_path, params):
    source = write_layout(tmp_path / "source", params, CONFIG, "hf_packed")
    return convert(source, tmp_path / "own")


@pytest.fixture
def exported(folder, tmp_path):
    return orbax.to_orbax(folder, tmp_path / "exported")


@needs_orbax
def test_the_pocket_model_there_and_back_keeps_every_bit(tmp_path, capsys):
    own, exported, back = (str(tmp_path / name) for name in ("own", "exported", "back"))
    assert cli.main(["convert", str(POCKET), "--out", own, "--to-orbax", exported]) == 0
    assert cli.main(["convert", "--from-orbax", exported, "--out", back]) == 0
    assert capsys.readouterr().out.split() == [own, exported, back]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (model, params), (again, back_params) = load_model(), load_model(back)
    assert again == model
    assert jax.tree.structure(back_params) == jax.tree.structure(params)
    assert bits(back_params) == bits(params)


@needs_orbax
@pytest.mark.parametrize("packed", [True, False])
def test_others_read_it_with_orbax_alone(tmp_path, packed):
    import orbax.checkpoint as ocp

    params = random_params(CONFIG, packed=packed)
    layout = "hf_packed" if packed else "hf_plain"
    source = write_layout(tmp_path / "source", params, CONFIG, layout)
    exported = orbax.to_orbax(convert(source), tmp_path / "exported")
    shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, params)
    arguments = ocp.checkpoint_utils.construct_restore_args(shapes)
    with ocp.PyTreeCheckpointer() as checkpointer:
        found = checkpointer.restore(exported / "params", item=shapes, restore_args=arguments)
    assert jax.tree.structure(found) == jax.tree.structure(params)
    assert bits(found) == bits(params)
    assert bits(load_model(orbax.from_orbax(exported, tmp_path / "back"))[1]) == bits(params)


@needs_orbax
def test_an_import_goes_through_the_door_of_convert(exported, tmp_path, params, monkeypatch):
    """All or nothing; once more only where it is not whole, or was made of other bytes."""
    read_leaf, out, there = orbax.read_leaf, tmp_path / "back", sorted(tmp_path.iterdir())

    def stop(ocp, path, tree, name):
        if name.startswith("layers.1."):
            raise KeyboardInterrupt
        return read_leaf(ocp, path, tree, name)

    with monkeypatch.context() as patch:
        patch.setattr(orbax, "read_leaf", stop)
        with pytest.raises(KeyboardInterrupt):
            orbax.from_orbax(exported, out)
    assert sorted(tmp_path.iterdir()) == there
    assert bits(load_model(orbax.from_orbax(exported, out))[1]) == bits(params)
    inode = out.stat().st_ino
    assert orbax.from_orbax(exported, out).stat().st_ino == inode
    with open(out / "top.safetensors", "r+b") as file:
        file.truncate(1000)
    with pytest.raises(ValueError, match=f"convert --from-orbax {exported} --out {out}"):
        load_model(out)
    assert orbax.from_orbax(exported, out).stat().st_ino != inode
    assert bits(load_model(out)[1]) == bits(params)


@needs_orbax
def test_what_a_killed_export_left_goes_with_the_next(folder, tmp_path):
    left = tmp_path / f".exported.{uuid.uuid4().hex}.partial"
    (left / "params").mkdir(parents=True)
    orbax.to_orbax(folder, tmp_path / "exported")
    assert not left.exists()


@needs_orbax
def test_an_export_that_fails_leaves_nothing(folder, tmp_path, monkeypatch):
    def fail(_):
        raise OSError("No space left on device")

    monkeypatch.setattr(orbax, "side_files", fail)
    with pytest.raises(OSError, match="No space left"):
        orbax.to_orbax(folder, tmp_path / "exported")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["own", "source"]


@needs_orbax
def test_an_existing_folder_is_not_written_over(folder, exported):
    with pytest.raises(ValueError, match="exists, expected the name of a new folder"):
        orbax.to_orbax(folder, exported)


@needs_orbax
def test_what_was_not_exported_by_us_is_refused(folder, exported, tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder 'params' in"):
        orbax.from_orbax(folder, tmp_path / "back")
    config = (exported / "config.json").read_text()
    (exported / "config.json").write_text(config.replace('"hidden_size": 128', '"hidden_size": 64'))
    with pytest.raises(ValueError, match="do not fit together: embedding_VD has shape"):
        orbax.from_orbax(exported, tmp_path / "back")
    (exported / "config.json").write_text(config)
    shutil.rmtree(exported / "params")
    (exported / "params").mkdir()
    with pytest.raises(ValueError, match="cannot be read by Orbax"):
        orbax.from_orbax(exported, tmp_path / "back")


def test_without_orbax_the_package_is_named(folder, tmp_path, monkeypatch, capsys):
    for name in [name for name in sys.modules if name.split(".")[0] == "orbax"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "orbax", None)
    assert cli.main(["convert", str(folder), "--to-orbax", str(tmp_path / "x")]) == 1
    assert "pip install orbax-checkpoint" in capsys.readouterr().err
    with pytest.raises(ImportError, match=r"gptoss-edu\[orbax\]"):
        orbax.from_orbax(tmp_path, tmp_path / "y")
