"""What the doctor says about machines that are not this one."""

import json

import jax
import pytest

from gptoss_edu import __version__
from gptoss_edu.commands import doctor
from gptoss_edu.commands.main import main

GIB = 2**30


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine with so much memory and disk; returns its survey and the names it says yes to."""

    def build(memory_gib, disk_gb, backend="cpu", cached=False):
        memory = None if memory_gib is None else int(memory_gib * GIB)
        monkeypatch.setattr(doctor, "available_memory", lambda: (memory, "this machine"))
        usage = type("Usage", (), {"free": int(disk_gb * 1e9)})
        monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage)
        monkeypatch.setattr(doctor.jax, "default_backend", lambda: backend)
        monkeypatch.setattr(doctor, "find_cached", lambda _: tmp_path if cached else None)
        monkeypatch.setattr(doctor, "pocket", lambda: "ok, 4 layers")
        found = doctor.survey()
        return found, [row["name"] for row in found["can_run"] if row["yes"]]

    return build


POCKET = ["the pocket model", "chapters 00 to 07"]
WITH_20B = ["GPT-OSS-20B, experts packed", "chapter 08: the 20B on a CPU"]


@pytest.mark.parametrize(
    "memory_gib, disk_gb, expected",
    [
        (0.1, 500, []),
        (8, 500, POCKET),
        (16, 500, sorted(POCKET + WITH_20B)),
        (16, 10, POCKET),
        (48, 500, sorted([*POCKET, *WITH_20B, "GPT-OSS-20B in bf16"])),
    ],
)
def test_what_fits_is_a_matter_of_memory_and_disk(machine, memory_gib, disk_gb, expected):
    _, names = machine(memory_gib, disk_gb)
    assert sorted(names) == sorted(expected)


def test_a_model_that_is_in_the_cache_needs_no_more_disk(machine):
    _, names = machine(16, 0.5, cached=True)
    assert "GPT-OSS-20B, experts packed" in names


def test_a_tpu_runs_the_tpu_chapter(machine):
    assert "chapter 09: the 20B on a TPU" in machine(15.75, 100, backend="tpu")[1]
    assert "chapter 09: the 20B on a TPU" not in machine(15.75, 100)[1]


def test_a_refusal_says_what_is_needed_and_what_is_there(machine):
    text = doctor.describe(machine(8, 5)[0])
    assert (
        "no   GPT-OSS-20B, experts packed: needs 15.8 GiB of memory, 8.0 are available;"
        " needs 13.8 GB of disk, 5.0 are free"
    ) in text
    assert "yes  the pocket model\n" in text
    assert "8.0 GiB available on this machine" in text


def test_memory_that_the_system_does_not_tell_is_no_obstacle(machine):
    found, names = machine(None, 500)
    assert "GPT-OSS-120B, experts packed" in names
    assert "unknown available" in doctor.describe(found)


def test_the_doctor_never_faints(machine, monkeypatch):
    machine(16, 500)

    def fail(*_):
        raise RuntimeError("Unable to initialize backend 'cuda': no device\nand more")

    for name in ("load_encoding", "pocket", "available_memory", "find_cached"):
        monkeypatch.setattr(doctor, name, fail)
    monkeypatch.setattr(doctor.jax, "devices", fail)
    monkeypatch.setattr(doctor.jax, "default_backend", fail)
    found = doctor.survey()
    said = "failed: Unable to initialize backend 'cuda': no device"
    assert found["backend"] == found["vocabulary"] == found["pocket"] == said
    assert said in doctor.describe(found)
    assert "no   the pocket model: JAX found no device; the pocket model is not" in (
        doctor.describe(found)
    )


def test_a_package_that_is_not_there_is_said(monkeypatch):
    assert doctor.version("no-such-package") == "not installed"
    assert doctor.version("jax") == jax.__version__


def test_doctor_answers_in_lines_and_in_json(capsys):
    assert main(["doctor"]) == 0
    assert f"gptoss_edu          {__version__}\n" in capsys.readouterr().out
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["versions"]["jax"] == jax.__version__
    assert {row["name"] for row in found["can_run"]} >= {"the pocket model", "chapters 00 to 07"}
