"""benchmarks.gpu: what it counts and prints, and that it runs, on a CPU with the pocket model."""

import json

import pytest

from benchmarks import gpu
from gptoss_edu.chips import fit, precision
from gptoss_edu.config import GPT_OSS_20B
from gptoss_edu.weights.checkpoint import POCKET, read_config


@pytest.mark.parametrize("name", ["mxfp4", "bf16"])
def test_a_batch_reads_more_experts_but_none_twice(name):
    config, context = GPT_OSS_20B, 192
    alone = gpu.step_bytes(config, name, context, 1)
    assert alone == pytest.approx(fit.read_bytes(config, name, context))
    steps = [gpu.step_bytes(config, name, context, batch) for batch in (1, 8, 32, 1000)]
    assert steps == sorted(steps)
    caches = precision.cache_bytes(config, context, 1000)
    table = config.vocab_size * config.hidden_size * 2  # of the embedding, one row is read
    everything = precision.weight_bytes(config, name) - table + caches
    assert steps[-1] == pytest.approx(everything, rel=1e-3)
    assert steps[1] < 8 * alone


def test_prompts_are_the_same_each_time_and_differ_in_a_batch():
    rows_BT = gpu.rows_of(4, 16, 1000)
    assert (rows_BT == gpu.rows_of(4, 16, 1000)).all()
    assert len({tuple(row_T) for row_T in rows_BT.tolist()}) == 4
    assert rows_BT.min() >= 0
    assert rows_BT.max() < 1000


def test_the_first_run_is_not_counted():
    assert gpu.figures(64, [99.0, 2.0, 1.0, 4.0])["tokens_per_s"] == 32


def run(tmp_path, *arguments):
    out = tmp_path / "gpu.json"
    status = gpu.main(["--quick", "--out", str(out), *arguments])
    return status, json.loads(out.read_text())


KEYS = {"prefill_16", "prefill_32", "decode_1", "decode_2"}


def test_it_runs_on_a_cpu(tmp_path, capsys):
    status, found = run(tmp_path, "--engines", "ours")
    page = capsys.readouterr().out
    assert status == 0, page
    ours = found["engines"]["ours"]
    assert KEYS < ours.keys()
    assert all(ours[key]["tokens_per_s"] > 0 for key in KEYS)
    assert ours["peak_bytes"] > 1e6
    assert found["machine"]["platform"] == "cpu"
    assert found["layers"] == read_config(POCKET).num_layers
    assert 0 < found["limits"]["decode_1"] < found["limits"]["decode_2"] < 1e9
    assert "| decode, batch 1 |" in page
    assert "| prefill, tokens 32 |" in page
    assert "| peak memory GB |" in page


@pytest.mark.parity
def test_transformers_is_asked_the_same(tmp_path, capsys):
    status, found = run(tmp_path, "--engines", "ours", "transformers")
    assert status == 0, capsys.readouterr().out
    assert KEYS < found["engines"]["transformers"].keys()


def test_an_engine_that_fails_is_a_line_below_the_table(tmp_path, capsys, monkeypatch):
    def ask(task, folder, quick, vocab):
        if task == "memory":
            return {"bytes_per_second": 4e12, "machine": {"device": "NVIDIA H200"}}
        if task == "transformers":
            return {"error": "OutOfMemoryError: CUDA out of memory"}
        return {"decode_1": gpu.figures(8, [1.0, 0.5]), "peak_bytes": 13_000_000_000}

    monkeypatch.setattr(gpu, "ask", ask)
    status, _ = run(tmp_path)
    page = capsys.readouterr().out
    assert status == 1
    assert "NVIDIA H200, 4 layers; memory reads 4,000 GB/s" in page
    assert "| decode, batch 1 | 16.0 |" in page
    assert "| peak memory GB | 13.0 | – | – |" in page
    assert page.endswith("transformers: OutOfMemoryError: CUDA out of memory\n")
