"""benchmarks.cpu: what it computes, how it writes, and that it runs, without the other engines."""

import json
import sys

import numpy as np
import pytest

from benchmarks import cpu, cpu_report, engines
from benchmarks import gguf as gguf_file
from gptoss_edu.cache import FullKV
from gptoss_edu.config import SLIDING, TINY
from gptoss_edu.course.checks.mxfp4 import dequantize_obvious
from gptoss_edu.cpu.build import find_compiler
from gptoss_edu.mxfp4 import VALUES
from gptoss_edu.weights.checkpoint import POCKET, read_config
from gptoss_edu.weights.shards import find_tensors, map_array

# --- GGUF ---


def decode_llama(rows: np.ndarray) -> np.ndarray:
    """The slow twin: blocks of 17 bytes as llama.cpp reads them, one element after the other."""
    *lead, size = rows.shape
    weights = np.zeros((*lead, size // 17 * 32), np.float32)
    for index in np.ndindex(*lead):
        for block, row in enumerate(rows[index].reshape(-1, 17)):
            scale = 2.0 ** (int(row[0]) - 127)
            for j in range(16):
                byte = int(row[1 + j])
                weights[(*index, 32 * block + j)] = VALUES[byte & 15] * scale
                weights[(*index, 32 * block + j + 16)] = VALUES[byte >> 4] * scale
    return weights


def random_blocks(E=2, O=6, J=3):
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (E, O, J, 16), np.uint8)
    return blocks, rng.integers(120, 130, (E, O, J), np.uint8)


def test_llama_reads_the_same_numbers():
    blocks, scales = random_blocks()
    rows = gguf_file.llama_blocks(blocks, scales)
    assert rows.shape == (2, 6, 3 * 17)
    np.testing.assert_array_equal(decode_llama(rows), dequantize_obvious(blocks, scales))


def test_unswapped_nibbles_would_be_noticed():
    blocks, scales = random_blocks()
    rows = np.concatenate([scales[..., None], blocks], -1).reshape(2, 6, 51)
    assert (decode_llama(rows) != dequantize_obvious(blocks, scales)).any()


def test_every_number_of_a_checkpoint_goes_over():
    config, tensors = read_config(POCKET), find_tensors(POCKET)
    written = {tensor.name: tensor for tensor in gguf_file.written_tensors(tensors, config)}
    assert len(written) == 3 + 19 * config.num_layers
    for tensor in written.values():
        values = tensor.values()
        assert values.shape == tensor.shape, tensor.name
        assert (
            values.dtype == {"BF16": np.uint16, "F32": np.float32, "MXFP4": np.uint8}[tensor.kind]
        )
    experts = "model.layers.1.mlp.experts."
    rows = slice(0, 9)
    gate_up = dequantize_obvious(
        map_array(tensors[experts + "gate_up_proj_blocks"])[:1, rows],
        map_array(tensors[experts + "gate_up_proj_scales"])[:1, rows],
    )
    gate = decode_llama(written["blk.1.ffn_gate_exps.weight"].values()[:1, :5])
    up = decode_llama(written["blk.1.ffn_up_exps.weight"].values()[:1, :4])
    np.testing.assert_array_equal(gate, gate_up[:, 0::2])
    np.testing.assert_array_equal(up, gate_up[:, 1::2])
    bias = map_array(tensors[experts + "gate_up_proj_bias"]).astype(np.float32)
    np.testing.assert_array_equal(written["blk.1.ffn_up_exps.bias"].values(), bias[:, 1::2])


def test_the_writer_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ImportError, match="pip install gguf"):
        gguf_file.write_gguf(POCKET, tmp_path / "x.gguf")
    assert not list(tmp_path.iterdir())


def test_a_gguf_file_reads_back(tmp_path):
    gguf = pytest.importorskip("gguf")
    reader = gguf.GGUFReader(gguf_file.write_gguf(POCKET, tmp_path / "x.gguf"))
    found = {tensor.name: tensor for tensor in reader.tensors}
    norm = map_array(find_tensors(POCKET)["model.norm.weight"]).astype(np.float32)
    np.testing.assert_array_equal(found["output_norm.weight"].data, norm)
    assert found["blk.0.ffn_down_exps.weight"].tensor_type.name == "MXFP4"
    assert [path.name for path in tmp_path.iterdir()] == ["x.gguf"]


# --- engines ---


def test_what_is_absent_is_said_with_its_remedy(monkeypatch):
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: None)
    assert "llama_cpp not being installed: CMAKE_ARGS" in engines.missing("llama")
    assert "pip install 'gptoss-edu[parity]'" in engines.missing("transformers")
    assert cpu.main(["--engines", "llama"]) == 1


@pytest.mark.parametrize("length", [3, 20])
def test_a_made_up_cache_is_what_reading_leaves(length):
    """Positions as after prefill, which every mask is made of."""
    from gptoss_edu.cache import empty_cache

    made = engines.filled_cache(TINY, length, 24, np.float32)
    assert int(made.length_B[0]) == length
    for layer, kv in enumerate(made.layers[:2]):
        position = np.arange(length)[None]
        keys = np.zeros((1, length, TINY.num_kv_heads, TINY.head_dim), np.float32)
        empty = empty_cache(TINY, 1, 24).layers[layer]
        read, *_ = empty.append(keys, keys, position)
        np.testing.assert_array_equal(kv.position_BS, read.position_BS)
        assert isinstance(kv, FullKV) == (TINY.window(layer) is None)
        assert float(np.abs(kv.k_BKSH).max()) > 0


def test_all_sliding_holds_the_same_at_any_length():
    import dataclasses

    from gptoss_edu.shapes import num_bytes

    sliding = dataclasses.replace(TINY, layer_types=(SLIDING,) * TINY.num_layers)
    short, long = (num_bytes(engines.filled_cache(sliding, n - 4, n, np.float32)) for n in (16, 64))
    assert short == long


@pytest.mark.skipif(not hasattr(engines.os, "posix_fadvise"), reason="Linux only")
def test_files_leave_memory(tmp_path):
    file = tmp_path / "weights"
    file.write_bytes(bytes(2**22))
    file.read_bytes()
    assert engines.share_in_memory(tmp_path) == 1
    try:
        stayed = engines.drop_from_memory(tmp_path)
    except OSError as error:
        pytest.skip(f"no way to tell here: {error}")
    if stayed == 1:
        pytest.skip("this file system keeps its files in memory")
    assert stayed < 0.1


def test_the_same_rows_for_every_engine():
    assert engines.rows_for(109, 50, 3) == engines.rows_for(109, 50, 3)
    assert engines.rows_for(109, 50, 3) != engines.rows_for(109, 50, 4)
    assert set(engines.rows_for(5, 100, 0)) == set(range(5))


def test_agreement_is_measured():
    logits = np.random.default_rng(0).standard_normal((8, 100))
    same = cpu.compare(logits, logits + 1e-6)
    assert same["equal_picks"] == 1
    assert same["smallest_correlation"] > 0.999
    other = cpu.compare(logits, logits[:, ::-1])
    assert other["equal_picks"] < 0.2
    assert other["median_correlation"] < 0.5


def test_each_engine_is_first_in_turn():
    bench = cpu.Bench(dict.fromkeys("abc", POCKET), TINY, 1, 3, cpu.QUICK, print)
    assert [bench.in_turns(n)[0] for n in range(4)] == ["a", "b", "c", "a"]
    assert sorted(bench.in_turns(2)) == ["a", "b", "c"]


# --- tables ---


def entry(tokens, seconds, **more):
    return {"tokens": tokens, "steps": tokens, "seconds": seconds, "cores": 1.9} | more


def a_run(threads=2, layers=4):
    ours = {
        "decode": [entry(10, s) for s in (1.0, 0.5, 2.0)],
        "prefill_128": [entry(128, s) for s in (1.0, 2.0, 4.0)],
        "memory": [{"peak": 3 * 2**30, "of_files": 2**30}],
    }
    llama = {
        "decode": [entry(10, s) for s in (2.0, 1.0, 3.0)],
        "prefill_128": [entry(128, s) for s in (1.0, 1.0, 1.0)],
    }
    return {
        "part": "speed", "layers": layers, "width": 2880, "threads": threads, "quick": False,
        "repeats": 3, "sizes": {"token_bytes": 2e9, "token_bytes_bf16": 4e9},
        "plan": {"prefills": [128]}, "bandwidth": [30e9, 40e9, 50e9],
        "engines": {"ours": ours, "llama": llama},
        "agreement": {
            "llama and ours": {
                "positions": 5, "equal_picks": 0.8, "smallest_correlation": 0.9,
                "median_correlation": 0.99,
            }
        },
    }  # fmt: skip


def context_run():
    def entries(ms, size):
        return [
            {"median_step": ms / 1000 * f, "cache_bytes": size, "peak": 2**30} for f in (1, 2, 0.5)
        ]

    lengths = {"128": entries(50, 10e6), "1024": entries(52, 50e6)}
    sliding = {"128": entries(49, 5e6), "1024": entries(49, 5e6)}
    return a_run() | {"part": "contexts", "lengths": lengths, "sliding": sliding}


def loads_run():
    load = {"seconds": 2.0, "first_token": 3.0, "compiled": 0.5}
    results = {"load_cold": [load], "load_warm": [load | {"seconds": 1.0}]}
    engines_ = {"ours": results, "ours, as published": results, "llama": results}
    run = a_run() | {"part": "loads", "engines": engines_}
    return {name: value for name, value in run.items() if name not in ("bandwidth", "agreement")}


def test_medians_and_ratios_of_rounds():
    run = a_run()
    speeds = cpu_report.speeds(run)
    assert cpu_report.median(speeds["ours"]["decode"]) == 10
    assert cpu_report.median([]) is None
    ratio = cpu_report.ratio(speeds["ours"]["decode"], speeds["llama"]["decode"])
    assert ratio == 2  # 2, 2 and 1.5 in the three rounds; of the medians it would be 2 as well
    assert cpu_report.ratio([3, 10, 12], [1, 5, 2]) == 3
    assert cpu_report.share_of_limit(run, "ours") == pytest.approx(10 * 2 / 40)
    run["sizes"]["token_bytes_int8"] = 1e9
    run["engines"]["ours-int8"] = run["engines"]["transformers"] = run["engines"]["ours"]
    assert cpu_report.share_of_limit(run, "ours-int8") == pytest.approx(10 * 1 / 40)
    assert cpu_report.share_of_limit(run, "transformers") == pytest.approx(10 * 4 / 40)


def test_tables_say_what_was_measured():
    lines = list(cpu_report.speed_table(a_run()))
    assert lines[2] == "| gptoss_edu | 10.0 | 50% | 64.0 | 1.9 | 3.0 | 1.0 |"
    assert lines[4] == "| **gptoss_edu by llama.cpp** | **2.00** |  | **0.50** |  |  |  |"
    assert len({line.count("|") for line in lines}) == 1
    lines = list(cpu_report.context_table(context_run()))
    assert lines[3] == "| 1,024 | 52.0 | 19.2 | 50.0 | 2.0 | 1.0 | 49.0 | 1.0 |"
    lines = list(cpu_report.load_table(loads_run()))
    assert lines[3] == "| gptoss_edu, not converted | 2.0 | 3.0 | 1.0 | 3.0 | 0.5 |"


def test_section_and_plots_come_from_the_file(tmp_path):
    pytest.importorskip("matplotlib")
    path, readme = tmp_path / "cpu.json", tmp_path / "README.md"
    for run in (a_run(), a_run(threads=1), context_run(), loads_run()):
        cpu_report.keep(path, run)
    cpu_report.keep(path, a_run(threads=1) | {"repeats": 7})
    assert len(json.loads(path.read_text())["runs"]) == 4, "a new run takes the old one's place"
    readme.write_text(f"before\n{cpu_report.BEGIN}\nold\n{cpu_report.END}\nafter\n")
    cpu_report.write(path)
    text = readme.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "\nold\n" not in text
    assert "**4 layers, 2 threads**, medians of 3 rounds" in text
    assert "the limit is 20.0 tokens/s" in text
    assert "correlation of the logits 0.9900" in text
    assert "4 layers, decode: gptoss_edu 10.0, llama.cpp 5.0;" in text
    assert "50 at 128, 52 at 1,024.](cpu_context.svg)" in text
    plots = {name: (tmp_path / name).read_bytes() for name in ("cpu_speed.svg", "cpu_context.svg")}
    assert all(b"<svg" in plot for plot in plots.values())
    cpu_report.write(path)
    assert readme.read_text() == text
    assert all((tmp_path / name).read_bytes() == plot for name, plot in plots.items())


def test_marks_must_be_there():
    with pytest.raises(ValueError, match="put the marks back"):
        cpu_report.with_section(f"{cpu_report.END} {cpu_report.BEGIN}", "new")


def test_committed_section_is_what_the_results_say():
    path = cpu.ROOT / "benchmarks" / "cpu.json"
    if not path.is_file():
        pytest.skip("nothing was measured yet")
    text = path.with_name("README.md").read_text(encoding="utf-8")
    expected = cpu_report.with_section(text, cpu_report.section(json.loads(path.read_text())))
    assert text == expected, "run `python -m benchmarks.cpu --report`"


# --- the command ---


def test_the_command_runs(tmp_path):
    """Two processes, the smallest plan: everything but the numbers."""
    out = tmp_path / "cpu.json"
    assert cpu.main(["--quick", "--engines", "ours", "--parts", "speed", "--out", str(out)]) == 0
    (run,) = json.loads(out.read_text())["runs"]
    ours = run["engines"]["ours"]
    assert run["quick"]
    assert ours["decode"][0]["steps"] == cpu.QUICK.decoded - 1
    assert all(ours[name][0]["seconds"] > 0 for name in ("prefill_16", "prefill_32", "decode"))
    assert ours["memory"][0]["peak"] > 2**26
    assert run["bandwidth"][0] > 1e8
    assert (tmp_path / "cpu_speed.svg").is_file()


@pytest.mark.skipif(find_compiler() is None, reason="there is no C++ compiler")
def test_rounded_weights_are_a_part_of_their_own(tmp_path):
    """The slice once more, in 8 bits: fewer bytes a token, and its own row in the tables."""
    out = tmp_path / "cpu.json"
    command = ["--quick", "--engines", "ours", "--parts", "rounded", "--out", str(out)]
    assert cpu.main(command) == 0
    (run,) = json.loads(out.read_text())["runs"]
    assert list(run["engines"]) == ["ours-int8"]
    assert run["engines"]["ours-int8"]["decode"][0]["seconds"] > 0
    sizes = run["sizes"]
    assert 0.5 * sizes["token_bytes"] < sizes["token_bytes_int8"] < 0.8 * sizes["token_bytes"]
    assert f"a token {sizes['token_bytes_int8'] / 1e9:.2f} GB" in cpu_report.heading(run)
    text = "\n".join(cpu_report.speed_table(run))
    assert "| gptoss_edu, dense in int8 |" in text


def test_an_engine_that_fails_says_why():
    with cpu.Worker("ours", "no/such/folder", 1, 109) as worker:
        with pytest.raises(RuntimeError, match=r"ours: FileNotFoundError: .*no/such/folder"):
            worker.ask("load")
        with pytest.raises(RuntimeError, match="expected prefill"):
            worker.ask("dance")
