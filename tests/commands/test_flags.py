"""Flags made from `Options`, and the model that they choose."""

import dataclasses
import os

import jax
import pytest

from gptoss_edu.commands import flags
from gptoss_edu.commands.main import make_parser
from gptoss_edu.options import Options

pytestmark = pytest.mark.usefixtures("quick_load")


@pytest.mark.parametrize(
    "argv, message",
    [
        ([], "COMMAND"),
        (["frobnicate"], "invalid choice"),
        (["ask", "hi", "--effort", "extreme"], "choose from"),
        (["ask", "hi", "--precision", "fp64"], "choose from"),
        (["ask", "hi", "--max-tokens", "many"], "invalid int value: 'many'"),
        (["ask", "hi", "--max-tokens", "0"], "max_tokens is 0, expected a whole number, 1 or"),
        (["ask", "hi", "--max-tokens", "-5"], "max_tokens is -5"),
        (["ask", "hi", "--temperature", "-1"], "temperature is -1.0, expected a finite number"),
        (["ask", "hi", "--temperature", "nan"], "temperature is nan"),
        (["ask", "hi", "--top-p", "0"], "top_p is 0.0, expected above 0"),
        (["ask", "hi", "--top-k", "0"], "top_k is 0"),
        (["ask", "hi", "--seed", "-1"], "seed is -1"),
        (["ask", "hi", "--date", "tomorrow"], "current_date is 'tomorrow'"),
        (["ask", "hi", "--tools", "no/such.json"], "--tools: no/such.json cannot be read (No such"),
        (["ask", "hi", "--tools", "/dev/zero"], "/dev/zero is a device, expected a file"),
        (["ask", "hi", "--tools", "."], ". is a folder, expected a file"),
        (["ask", "hi", "--tools", ""], "is a folder, expected a file"),
        (["ask", "hi", "--tools", __file__], "is not JSON"),
        (["ask", ""], "text is empty"),
        (["ask"], "text is empty"),
        (["ask", "\udcff"], "lone surrogate"),
        (["chat", "--min-p", "2"], "min_p is 2.0"),
    ],
)
def test_a_wrong_command_is_refused_before_anything_is_loaded(monkeypatch, failing, argv, message):
    monkeypatch.setattr(flags, "load_model", lambda *_, **__: pytest.fail("loaded a model"))
    status, err = failing(*argv)
    assert status == 2
    assert message in err


def test_dense_weights_in_8_bits_are_for_the_kernels(failing):
    status, err = failing("ask", "hi", "--dense", "int8", "--precision", "f32")
    assert status == 1
    assert "dense='int8' rounds bfloat16 weights" in err
    assert "found precision='f32'; leave out one or the other" in err


def test_a_machine_without_the_device_that_was_asked_for_is_said(monkeypatch, failing):
    monkeypatch.setattr(flags, "load_model", lambda *_, **__: pytest.fail("loaded a model"))

    def no_device():
        raise AssertionError  # what JAX does when JAX_PLATFORMS names what is not installed

    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    monkeypatch.setattr(jax, "devices", no_device)
    status, err = failing("ask", "hi")
    assert status == 1
    assert "found no device to run on, expected at least a CPU (JAX_PLATFORMS is 'cuda'" in err


def test_every_option_is_a_flag_with_its_default_or_is_said_to_have_none(capsys):
    with pytest.raises(SystemExit):
        make_parser().parse_args(["ask", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    args = make_parser().parse_args(["chat"])
    for field in dataclasses.fields(Options):
        flag = field.metadata.get("flag", field.name)
        if flag is None:
            assert field.name in ("tools", "cache", "keep_cache")
            continue
        assert vars(args)[field.name] == field.default
        assert f"--{flag.replace('_', '-')} " in shown
        assert field.metadata["help"] in shown


def test_types_of_flags_are_those_of_the_options():
    line = "chat --top-k 3 --seed 4 --temperature 1 --max-tokens 5 --instructions 7"
    args = make_parser().parse_args(line.split())
    found = [args.top_k, args.seed, args.temperature, args.max_tokens, args.instructions]
    assert [type(value) for value in found] == [int, int, float, int, str]


def test_model_flags_reach_the_loader(monkeypatch):
    given = []
    monkeypatch.setattr(flags, "load_model", lambda *a, **k: given.append((a, k)) or (1, 2))
    line = "ask hi --model x --precision bf16 --dense int8 --backend cpu --revision abc"
    assert flags.load(make_parser().parse_args(line.split())) == (1, 2)
    named = {"precision": "bf16", "dense": "int8", "backend": "cpu", "revision": "abc"}
    named["needs_text"] = True  # refused before 13.8 GB are read
    assert given == [(("x",), named)]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_who_opens_a_named_pipe_waits_for_ever_and_nobody_does(failing, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    status, err = failing("ask", "hi", "--tools", str(tmp_path / "pipe"))
    assert status == 2
    assert "is a named pipe, expected a file" in err


@pytest.mark.parametrize("content", [b"[" * 100_000, b"1" * 10_000, b"\xff\xfe", b"", b"x" * 2**25])
def test_schemas_that_are_none_are_refused_in_a_line(failing, tmp_path, content):
    (tmp_path / "tools.json").write_bytes(content)
    status, err = failing("ask", "hi", "--tools", str(tmp_path / "tools.json"))
    assert status == 2
    assert len(err) < 1000
    assert "expected a list of function schemas" in err
