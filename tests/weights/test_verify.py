"""Planted damage: each kind is found, and named by the line of the table that should name it."""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
from layouts import original_tensors, random_params, write_file, write_layout

from benchmarks.synthetic import write_synthetic
from gptoss_edu.commands import main as cli
from gptoss_edu.config import TINY
from gptoss_edu.weights import answers, verify
from gptoss_edu.weights.convert import convert
from gptoss_edu.weights.shards import find_tensors
from gptoss_edu.weights.verify import ANSWERS, FAILED, PASSED, UNCHECKED

CONFIG = dataclasses.replace(TINY, num_layers=2, layer_types=())
EXPERTS = "model.layers.1.mlp.experts."


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A checkpoint whose answers and digests are recorded beside it."""
    folder = tmp_path_factory.mktemp("good") / "m"
    write_layout(folder, random_params(CONFIG, packed=True), CONFIG, "hf_packed")
    verify.record(folder, tokens=6)
    return folder


@pytest.fixture
def folder(good, tmp_path):
    """A copy of the good one, to be damaged."""
    return shutil.copytree(good, tmp_path / "m")


def forget(folder, *keys):
    """Take digests away: only what is left can be compared."""
    known = json.loads((folder / ANSWERS).read_text())
    for key in keys:
        known[key] = {}
    (folder / ANSWERS).write_text(json.dumps(known))


def edit(folder, name, change):
    """Change the values of one tensor in the file: `change` gets a view that can be written."""
    tensor = find_tensors(folder)[name]
    raw = np.memmap(tensor.path, np.uint8, "r+", tensor.begin, (tensor.num_bytes,))
    change(raw if tensor.dtype == "U8" else raw.view("<u2"), tensor.shape)
    raw.flush()


def outcome(report, state):
    """Names of the checks that ended so; answers under one name."""
    rows = [row for row in report.rows if row.state == state]
    return {"answers" if row.check.startswith("answer to") else row.check for row in rows}


def detail(report, check):
    return next(row.detail for row in report.rows if row.check.startswith(check))


# ---- clean --------------------------------------------------------------------------------------


def test_a_clean_checkpoint_passes_every_check(folder):
    report = verify.verify(folder)
    assert outcome(report, FAILED) == outcome(report, UNCHECKED) == set(), verify.describe(report)
    assert {"sha256", "finite values", "MXFP4 scales", "answers"} <= outcome(report, PASSED)
    text = verify.describe(report)
    assert "9 passed, 0 failed, 0 could not be checked" in text
    assert "6 tokens are the likeliest, 6 log-probabilities within" in text


def test_the_pocket_model_is_as_it_was_recorded():
    report = verify.verify()
    unchecked = outcome(report, FAILED) | outcome(report, UNCHECKED)
    assert not unchecked, (
        f"{verify.describe(report)}\nNew weights? python -m gptoss_edu verify --record"
    )


def test_without_known_answers_nothing_is_claimed(folder):
    (folder / ANSWERS).unlink()
    report = verify.verify(folder)
    assert outcome(report, FAILED) == set()
    assert outcome(report, UNCHECKED) == {"file sizes", "sha256", "answers"}
    assert "3 could not be checked" in verify.describe(report)


def test_answers_may_be_left_out(folder, monkeypatch):
    monkeypatch.setattr(verify, "load_model", None)
    report = verify.verify(folder, answers=False)
    assert outcome(report, UNCHECKED) == {"answers"}
    assert "sha256" in outcome(report, PASSED)


# ---- planted damage -----------------------------------------------------------------------------


def test_a_flipped_bit_is_seen_by_its_digest(folder):
    def flip(bits, _):
        bits[1000] ^= 1  # the last bit of a weight: no answer changes

    edit(folder, "model.layers.0.self_attn.q_proj.weight", flip)
    report = verify.verify(folder)
    assert outcome(report, FAILED) == {"sha256"}
    found = re.search(r"model.safetensors: found (\w{16})…, expected (\w{16})…", str(report.rows))
    assert found[1] != found[2]


@pytest.mark.parametrize(
    "name, value, said",
    [
        ("model.layers.0.self_attn.q_proj.weight", 0x7F80, "1 NaN or infinite"),
        ("model.norm.weight", 0xFFC0, "1 NaN or infinite"),
        (EXPERTS + "down_proj_scales", 255, "1 scales of 255"),
    ],
)
def test_a_number_that_is_not_finite_is_found_without_a_digest(folder, name, value, said):
    forget(folder, "files")
    edit(folder, name, lambda bits, _: bits.__setitem__(77, value))
    report = verify.verify(folder, answers=False)
    assert outcome(report, FAILED) == {"finite values"}
    assert detail(report, "finite values") == f"{name}: {said}"


def test_a_scale_beyond_all_measure_is_found(folder):
    forget(folder, "files")
    name = EXPERTS + "gate_up_proj_scales"
    edit(folder, name, lambda bits, _: bits.__setitem__(5, 200))
    report = verify.verify(folder, answers=False)
    assert outcome(report, FAILED) == {"MXFP4 scales"}
    assert f"{name}: found a scale of 200, expected 134 at most" in detail(report, "MXFP4")


def exchange_experts(folder):
    def change(bits, shape):
        bits = bits.reshape(shape)
        bits[:] = np.roll(bits, 1, axis=0)

    for half in ("blocks", "scales"):
        edit(folder, EXPERTS + "gate_up_proj_" + half, change)


def exchange_halves_of_bytes(folder):
    for name in find_tensors(folder):
        if name.endswith("_blocks"):
            edit(folder, name, lambda bits, _: np.copyto(bits, (bits << 4) | (bits >> 4)))


@pytest.mark.parametrize("known", ["answers only", "everything"])
@pytest.mark.parametrize("exchange", [exchange_experts, exchange_halves_of_bytes])
def test_what_no_header_shows_answers_do(folder, exchange, known):
    """Experts in another order, and the halves of each byte: all numbers stay finite and small."""
    if known == "answers only":
        forget(folder, "files")
    exchange(folder)
    report = verify.verify(folder)
    assert outcome(report, FAILED) == {"answers"} | ({"sha256"} if known == "everything" else set())
    assert outcome(report, PASSED) >= {"finite values", "MXFP4 scales", "names, shapes, types"}


def test_another_models_answers_differ(folder, tmp_path):
    params = random_params(CONFIG, packed=True, seed=1)
    other = write_layout(tmp_path / "other", params, CONFIG, "hf_packed")
    shutil.copy(folder / ANSWERS, other)
    forget(other, "files")
    report = verify.verify(other)
    assert outcome(report, FAILED) == {"answers"}
    assert re.search(r"token 1 is row \d+, expected row \d+", detail(report, "answer to"))
    assert "has log-probability" in detail(report, "answer to")


def test_a_file_that_broke_off(folder):
    with open(folder / "model.safetensors", "r+b") as file:
        file.truncate(5000)
    report = verify.verify(folder)
    assert outcome(report, FAILED) == {"names, shapes, types", "file sizes", "sha256"}
    assert "found 5,000 bytes" in detail(report, "file sizes")


def test_weights_that_do_not_fit_their_config(folder):
    larger = dataclasses.replace(CONFIG, intermediate_size=192).to_dict()
    (folder / "config.json").write_text(json.dumps(larger))
    report = verify.verify(folder)
    assert outcome(report, FAILED) == {"names, shapes, types"}
    assert "sha256" in outcome(report, PASSED)


def test_a_config_that_cannot_be_read(folder):
    (folder / "config.json").write_text("{}")
    report = verify.verify(folder)
    assert outcome(report, FAILED) == {"config.json"}


def test_answers_that_cannot_be_read(folder):
    (folder / ANSWERS).write_text('{"files": {}}')
    report = verify.verify(folder)
    assert outcome(report, FAILED) == {ANSWERS}
    assert "answers" in outcome(report, UNCHECKED)


def test_text_from_files_is_harmless_in_a_terminal(folder):
    known = json.loads((folder / ANSWERS).read_text())
    known["source"] = "\x1b]0;evil\x07 \x9b2J"
    known["files"]["\x1b[2J.safetensors"] = {"bytes": 3, "sha256": "0" * 64}
    (folder / ANSWERS).write_text(json.dumps(known))
    report = verify.verify(folder, answers=False)
    assert outcome(report, FAILED) == {"file sizes"}
    assert all(map(str.isprintable, verify.describe(report).split("\n")))
    assert r"\x1b]0;evil\x07 \x9b2J" in verify.describe(report)
    assert r"\x1b[2J.safetensors: found nothing" in verify.as_dict(report)["checks"][3]["detail"]


def test_too_little_memory_is_no_failure(folder, monkeypatch):
    def refuse(*_, **options):
        raise MemoryError("too little memory: planted")

    monkeypatch.setattr(verify, "load_model", refuse)
    report = verify.verify(folder)
    assert outcome(report, FAILED) == set()
    assert detail(report, "answers") == "too little memory: planted"


# ---- other checkpoints --------------------------------------------------------------------------


def test_random_weights_have_no_right_answer(tmp_path):
    write_synthetic(tmp_path / "m", CONFIG)
    report = verify.verify(tmp_path / "m")
    assert "random" in report.compared_with
    assert outcome(report, FAILED) == set()
    assert "there is no right answer" in detail(report, "answers")


@pytest.mark.parametrize("layout", ["hf_sharded", "hf_plain", "original_packed"])
def test_every_layout_can_be_read(tmp_path, layout):
    params = random_params(CONFIG, packed=layout != "hf_plain")
    folder = write_layout(tmp_path / "m", params, CONFIG, layout)
    report = verify.verify(folder, answers=False)
    assert outcome(report, FAILED) == set()
    checks = {row.check for row in report.rows}
    assert ("MXFP4 scales" in checks) == (layout != "hf_plain")


def test_a_conversion_is_compared_with_its_manifest_and_its_sources_answers(folder, tmp_path):
    converted = convert(folder, tmp_path / "converted")
    report = verify.verify(converted)
    assert outcome(report, FAILED) == set(), verify.describe(report)
    assert {"file sizes", "sha256", "answers"} <= outcome(report, PASSED)
    edit(converted, "layers.1.attention.sinks_N", lambda bits, _: bits.__setitem__(0, 0))
    report = verify.verify(converted, answers=False)
    assert outcome(report, FAILED) == {"sha256"}
    assert "layer-01.safetensors" in detail(report, "sha256")


@pytest.fixture
def tiny_is_published(monkeypatch, tmp_path, good):
    """As if the good checkpoint were the published 20B."""
    known = json.loads((good / ANSWERS).read_text()) | {"revision": "0123456789abcdef"}
    text = (good / "config.json").read_bytes()
    known["files"]["config.json"] = {"bytes": len(text), "sha256": "0" * 64}
    known["files"]["original/model.safetensors"] = {"bytes": 5, "sha256": None}
    path = tmp_path / "published.json"
    path.write_text(json.dumps({"openai/gpt-oss-20b": known}))
    monkeypatch.setattr(answers, "PUBLISHED", path)
    for module in (answers, verify):
        monkeypatch.setattr(module, "MODELS", {"openai/gpt-oss-20b": CONFIG})


@pytest.mark.usefixtures("tiny_is_published")
def test_a_published_checkpoint_is_known_by_its_numbers(folder):
    (folder / ANSWERS).unlink()
    report = verify.verify(folder)
    assert report.compared_with == "openai/gpt-oss-20b at revision 0123456789ab"
    assert outcome(report, FAILED) == outcome(report, UNCHECKED) == set()
    assert detail(report, "config.json") == "the numbers of openai/gpt-oss-20b"


@pytest.mark.usefixtures("tiny_is_published")
def test_published_weights_with_another_config(folder):
    (folder / ANSWERS).unlink()
    wrong = dataclasses.replace(CONFIG, rope_theta=10000.0).to_dict()
    (folder / "config.json").write_text(json.dumps(wrong))
    report = verify.verify(folder, answers=False)
    assert outcome(report, FAILED) == {"config.json"}
    assert "rope_theta 10000.0, expected 150000.0" in detail(report, "config.json")
    assert "sha256" in outcome(report, PASSED)


@pytest.mark.usefixtures("tiny_is_published")
def test_the_original_layout_has_a_published_size_only(tmp_path):
    folder = write_layout(
        tmp_path / "original", random_params(CONFIG, packed=True), CONFIG, "original_packed"
    )
    (folder / "config.json").write_text(json.dumps(CONFIG.to_dict()))
    report = verify.verify(folder, answers=False)
    assert {"file sizes"} <= outcome(report, FAILED)
    assert "only the sizes are known" in detail(report, "sha256")


@pytest.mark.usefixtures("tiny_is_published")
def test_a_reexport_is_judged_by_its_answers(folder, tmp_path):
    params = random_params(CONFIG, packed=True)
    folder = write_layout(tmp_path / "again", params, CONFIG, "original_packed")
    (folder / "model.safetensors").unlink()
    write_file(folder / "weights.safetensors", original_tensors(params))
    (folder / "config.json").write_text(json.dumps(CONFIG.to_dict()))
    report = verify.verify(folder)
    assert outcome(report, FAILED) == set()
    assert {"answers"} <= outcome(report, PASSED)
    assert "no published file is called weights.safetensors" in detail(report, "sha256")


# ---- command line -------------------------------------------------------------------------------


def test_command_line(folder, capsys):
    assert cli.main(["verify", str(folder)]) == 0
    assert "9 passed, 0 failed" in capsys.readouterr().out
    edit(folder, "model.norm.weight", lambda bits, _: bits.__setitem__(3, bits[3] ^ 1))
    assert cli.main(["verify", str(folder), "--json", "--no-answers"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["passed"] is False
    states = {row["check"]: row["state"] for row in found["checks"]}
    assert states["sha256"] == FAILED
    assert states["answers"] == UNCHECKED
    assert cli.main(["verify", str(folder), "--record"]) == 0
    assert ANSWERS in capsys.readouterr().out
    assert cli.main(["verify", str(folder), "--no-answers"]) == 0


def test_nothing_there(tmp_path, capsys):
    assert cli.main(["verify", str(tmp_path / "none")]) == 1
    assert "there is no folder" in capsys.readouterr().err
