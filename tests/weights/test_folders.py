"""Folders as the world leaves them: loaded right, or refused in words that fit."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from layouts import hf_tensors, original_tensors, random_params, write_file, write_layout
from special import SPECIAL, make, posix

from gptoss_edu.commands import main as cli
from gptoss_edu.config import TINY
from gptoss_edu.model import forward
from gptoss_edu.tokenizer import CALL, FULL_VOCAB, STOP_TOKENS, NoText, Tokenizer, byte_ids
from gptoss_edu.weights import folders, mapped, reading, shards, verify
from gptoss_edu.weights.checkpoint import load_model, save_checkpoint
from gptoss_edu.weights.convert import convert
from gptoss_edu.weights.folders import find_folder, look, read_tokenizer

CONFIG = dataclasses.replace(TINY, num_layers=2, layer_types=())
NAME = "model.safetensors"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    monkeypatch.setattr(folders, "download", lambda *_, **__: pytest.fail("asked the network"))


@pytest.fixture(scope="module")
def params():
    return random_params(CONFIG, packed=True)


@pytest.fixture
def folder(tmp_path, params):
    return write_layout(tmp_path / "m", params, CONFIG, "hf_packed")


def assert_same(found, expected) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def refused(folder, kind: type[Exception], message: str) -> str:
    """By loading and converting, and verify has seen it."""
    with pytest.raises(kind, match=message) as error:
        load_model(folder)
    with pytest.raises(kind, match=message):
        convert(folder)
    text = str(error.value)
    assert text.isprintable()
    assert len(text) < 1500
    try:
        seen = verify.verify(folder, answers=False).count(verify.FAILED) > 0
    except (FileNotFoundError, ValueError) as also:  # there is no such folder
        seen = str(also) == text
    assert seen
    return text


# ---- files beside the weights --------------------------------------------------------------------

SIDECAR = bytes.fromhex("0005160700020000") + bytes(4000)


@pytest.mark.parametrize("layout", ["hf_packed", "hf_sharded"])
@pytest.mark.parametrize("index", ["with its index", "without"])
def test_rows_32_33_35_hidden_files_are_no_weights(tmp_path, params, layout, index):
    """macOS leaves them on disks that are not its own, and so do editors and synchronizers."""
    folder = write_layout(tmp_path / "m", params, CONFIG, layout)
    if index == "without":
        (folder / shards.INDEX).unlink(missing_ok=True)
    for path in shards.weight_files(folder):
        (folder / f"._{path.name}").write_bytes(SIDECAR)
    (folder / ".sync.safetensors").write_bytes(b"")
    (folder / ".DS_Store").write_bytes(SIDECAR)
    assert_same(load_model(folder)[1], params)
    assert_same(load_model(convert(folder))[1], params)
    report = verify.verify(folder, answers=False)
    assert not report.count(verify.FAILED), verify.describe(report)


def test_row_33_an_index_decides_what_belongs_to_the_model(tmp_path, params):
    folder = write_layout(tmp_path / "m", params, CONFIG, "hf_sharded")
    write_file(folder / "optimizer.safetensors", {"state.exp_avg": np.zeros(3, np.float32)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same(load_model(folder)[1], params)
    write_file(folder / "adapter_model.safetensors", {"a.lora_A.weight": np.zeros(3, np.float32)})
    with pytest.warns(UserWarning, match=r"adapter_model.safetensors is not added to the weights"):
        assert_same(load_model(folder)[1], params)


STRANGERS = {
    "optimizer.safetensors": {"state.exp_avg": np.zeros(3, np.float32)},
    "consolidated.safetensors": {"layers.0.attention.wq.weight": np.zeros((2, 3), np.float32)},
    "\x1b[2J.safetensors": {"\x1b]0;evil\x07" * 99: np.zeros(3, np.float32)},
}


@pytest.mark.parametrize("name", STRANGERS)
def test_a_file_of_another_kind_is_named(folder, name):
    write_file(folder / name, STRANGERS[name])
    shown = repr(name)[1:-1]
    said = refused(folder, ValueError, "unexpected .*to another folder: nothing in there belongs")
    assert f"Move {shown} to another" in said
    assert "Take all files" not in said


def test_the_original_layout_beside_the_other_is_named(folder, params):
    write_file(folder / "consolidated.safetensors", original_tensors(params))
    refused(folder, ValueError, "Move consolidated.safetensors to another folder")


def test_a_second_download_is_named(folder):
    shutil.copy(folder / NAME, folder / "model (1).safetensors")
    refused(folder, ValueError, r"found twice, in model \(1\).safetensors and model.safetensors of")


LORA = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


def test_an_adapter_is_not_left_out_in_silence(folder):
    write_file(folder / "adapter_model.safetensors", {LORA: np.zeros((2, 3), np.float32)})
    refused(folder, ValueError, r"adapter_model.safetensors holds an adapter .*merge_and_unload")


def test_an_adapter_alone_is_called_one(tmp_path):
    write_file(tmp_path / "adapter_model.safetensors", {LORA: np.zeros((2, 3), np.float32)})
    (tmp_path / "adapter_config.json").write_text("{}")
    refused(tmp_path, FileNotFoundError, "no config.json .*this is an adapter: merge it")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG.to_dict()))
    refused(tmp_path, ValueError, "holds an adapter")


@pytest.mark.parametrize(
    "name, array",
    [
        ("model.layers.0.self_attn.k_proj.k_scale", np.zeros(1, np.float32)),
        ("model.layers.0.self_attn.q_proj.weight.absmax", np.zeros(4, np.float32)),
        ("model.layers.0.self_attn.q_proj.weight_scale_inv", np.zeros((1, 1), np.float32)),
    ],
)
def test_row_37_scales_of_another_quantization_are_called_that(tmp_path, params, name, array):
    folder = tmp_path / "m"
    write_layout(folder, params, CONFIG, "hf_packed")
    write_file(folder / NAME, hf_tensors(params) | {name: array})
    refused(folder, ValueError, f"unexpected {name} in {NAME}. Some of these are the scales")


def test_row_36_bytes_after_the_end(folder):
    with open(folder / NAME, "ab") as file:
        file.write(bytes(8))
    refused(folder, ValueError, "longer than its header says")


# ---- the index -----------------------------------------------------------------------------------


def stale(folder, *names: str) -> None:
    listed = {
        name: names[i % len(names)] for i, name in enumerate(shards.read_header(folder / NAME))
    }
    (folder / shards.INDEX).write_text(json.dumps({"weight_map": listed}))


GONE = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def test_row_34_an_index_of_which_nothing_is_there_is_stale(folder, params):
    stale(folder, *GONE)
    assert_same(load_model(folder)[1], params)
    assert_same(load_model(convert(folder))[1], params)


def test_row_34_what_is_there_instead_must_be_all_of_it(folder, params):
    tensors = hf_tensors(params)
    stale(folder, *GONE)
    del tensors["lm_head.weight"]
    write_file(folder / NAME, tensors)
    refused(folder, ValueError, "missing lm_head.weight")


def test_rows_34_38_an_index_of_which_a_part_is_there(folder, params):
    """Which is the model, nobody knows."""
    stale(folder, *GONE)
    write_file(folder / GONE[0], {"lm_head.weight": np.zeros((2, 3), np.float32)})
    said = refused(folder, FileNotFoundError, f"expects {GONE[1]}, which is not in")
    assert f"where {NAME} is all of the model, delete {shards.INDEX}" in said


def test_row_38_a_shard_that_is_missing(tmp_path, params):
    folder = write_layout(tmp_path / "m", params, CONFIG, "hf_sharded")
    (folder / "model-00001-of-00002.safetensors").unlink()
    said = refused(folder, FileNotFoundError, "missing shard: .* download that file")
    assert "delete" not in said
    for path in shards.weight_files(folder):
        path.unlink()
    refused(folder, FileNotFoundError, "missing shard: .* expects model-00000-of-00002")


@pytest.mark.parametrize(
    "name", ["../x.safetensors", "/etc/passwd", "..", "", ".x.safetensors", "a\0.safetensors",
             "a\\b.safetensors", "c.bin", 5, None, ["x"], {"\x1b[2J": 1}],
)  # fmt: skip
def test_names_in_an_index_are_names_in_its_folder(folder, name):
    (folder / shards.INDEX).write_text(json.dumps({"weight_map": {"lm_head.weight": name}}))
    refused(folder, ValueError, "weight_map must name .* files of its own folder, found")


# ---- what is no file -----------------------------------------------------------------------------


@posix
@pytest.mark.parametrize("kind", [kind for kind in SPECIAL if kind != "socket"])
@pytest.mark.parametrize("name", [NAME, "config.json", "o200k_ids.json", shards.INDEX])
def test_special_files_are_refused_by_what_they_are(folder, name, kind):
    (folder / name).unlink(missing_ok=True)
    make(folder / name, kind)
    refused(folder, ValueError, f"{name} {SPECIAL[kind]}")


@posix
@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "dangling", "loop"])
def test_special_files_in_place_of_what_describes_a_folder(folder, params, kind):
    make(folder / verify.ANSWERS, kind)
    report = verify.verify(folder)
    assert [row.check for row in report.rows if row.state == verify.FAILED] == [verify.ANSWERS]
    place = folder / mapped.FOLDER
    place.mkdir()
    make(place / mapped.MANIFEST, kind)
    with pytest.warns(UserWarning, match="is not the manifest of a conversion .*loaded instead"):
        assert_same(load_model(folder)[1], params)
    with pytest.raises(ValueError, match="is not the manifest of a conversion"):
        load_model(place)


@pytest.mark.parametrize("name", ["config.json", "o200k_ids.json", shards.INDEX])
@pytest.mark.parametrize("text", ["[" * 100_000, "[" + "9" * 10_000 + "]", "\xff", '{"a":1,"a":2}'])
def test_json_that_is_none_is_refused(folder, name, text):
    (folder / name).write_bytes(text.encode("latin-1"))
    refused(folder, ValueError, f"{name} is not JSON")


# ---- where a checkpoint is -----------------------------------------------------------------------


def test_row_39_a_folder_that_hides_a_repository_is_named(tmp_path, monkeypatch):
    (tmp_path / "openai" / "gpt-oss-20b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    message = "a folder 'openai/gpt-oss-20b' here without config.json, so the Hub is not asked"
    refused("openai/gpt-oss-20b", FileNotFoundError, message)
    refused("./openai/gpt-oss-20b", FileNotFoundError, "no config.json in .*openai/gpt-oss-20b, ")


def snapshot(tmp_path, params, commit="a" * 40):
    """A repository in the Hub's cache, as huggingface_hub lays it out."""
    repo = tmp_path / "models--openai--gpt-oss-20b"
    folder = write_layout(repo / "snapshots" / commit, params, CONFIG, "hf_packed")
    (repo / "blobs").mkdir(exist_ok=True)
    for path in list(folder.iterdir()):
        blob = repo / "blobs" / f"{commit[0]}{path.name}"
        path.rename(blob)
        path.symlink_to(f"../../blobs/{blob.name}")
    return repo, folder


@posix
def test_row_40_a_folder_of_the_hubs_cache(tmp_path, params):
    repo, folder = snapshot(tmp_path, params)
    for given in (folder, repo / "snapshots", repo):
        assert find_folder(given) == folder
        assert_same(load_model(given)[1], params)


@posix
def test_row_40_of_several_snapshots_refs_main_is_taken(tmp_path, params):
    repo, _ = snapshot(tmp_path, params)
    _, second = snapshot(tmp_path, random_params(CONFIG, packed=True, seed=1), "b" * 40)
    refused(repo, ValueError, rf"found snapshots {'a' * 40}, {'b' * 40}, expected one.*COMMIT")
    (repo / "refs").mkdir()
    for text in ("b" * 40, "b" * 40 + "\n"):
        (repo / "refs" / "main").write_text(text)
        assert find_folder(repo) == second
    for text in ("../../..", "c" * 40, "", "\x1b[2J"):
        (repo / "refs" / "main").write_text(text)
        refused(repo, ValueError, "found snapshots")


@posix
def test_a_blob_that_is_gone_is_a_link_to_nothing(tmp_path, params):
    repo, folder = snapshot(tmp_path, params)
    (repo / "blobs" / f"a{NAME}").unlink()
    refused(folder, ValueError, rf"{NAME} is a link to ../../blobs/a{NAME}, where no file can be")


@pytest.mark.parametrize("path", ["", "~nobodyhere/x", "x" * 5000, "a\0b", "\x1b[2J", " "])
def test_a_path_that_cannot_be_one(path):
    refused(path, FileNotFoundError, "there is no folder '?")


# ---- vocabularies --------------------------------------------------------------------------------

WIDTHS = {"hidden_size": 32, "intermediate_size": 32, "num_layers": 1, "num_experts": 2}
WIDTHS |= {"num_heads": 2, "num_kv_heads": 1, "head_dim": 4, "layer_types": ()}
SMALL = dataclasses.replace(TINY, **WIDTHS)


def resized(tmp_path, rows: int, layout="hf_packed", ids=None, base=None):
    """(folder, its parameters): a fine-tune whose embedding has so many rows."""
    config = dataclasses.replace(base or SMALL, vocab_size=rows)
    params = random_params(config, packed="plain" not in layout)
    folder = write_layout(tmp_path / "resized", params, config, layout)
    if ids is not None:
        (folder / "o200k_ids.json").write_text(json.dumps(list(ids)))
    return folder, params


# +1; to multiples of 64, 128 and more; beyond.
@pytest.mark.parametrize("rows", [201_089, 201_152, 201_216, 201_728])
def test_row_41_added_rows_are_never_read_or_drawn(tmp_path, rows):
    layout = {201_089: "original_packed", 201_152: "hf_plain"}.get(rows, "hf_packed")
    folder, params = resized(tmp_path, rows, layout)
    said = (
        f"has {rows:,} rows of vocabulary, expected 201,088: .*the other {rows - FULL_VOCAB:,}, if"
    )
    with pytest.warns(UserWarning, match=said):
        model, found = load_model(folder)
    assert model.tokenizer == Tokenizer()
    assert model.config.vocab_size == FULL_VOCAB
    known = dataclasses.replace(
        params,
        embedding_VD=params.embedding_VD[:FULL_VOCAB],
        unembedding_DV=params.unembedding_DV[:, :FULL_VOCAB],
    )
    assert_same(found, known)
    logits_BTV = forward(found, jnp.array([[5, 200_006]]), model.config)
    config = dataclasses.replace(SMALL, vocab_size=rows)
    whole_BTV = forward(params, jnp.array([[5, 200_006]]), config)
    np.testing.assert_allclose(logits_BTV, whole_BTV[..., :FULL_VOCAB], rtol=0, atol=1e-5)
    if rows == 201_216:
        with pytest.warns(UserWarning, match=said):
            converted = convert(folder)
        for path in (folder, converted):
            with pytest.warns(UserWarning, match=said):
                assert_same(load_model(path)[1], known)
        report = verify.verify(folder, answers=False)
        assert not report.count(verify.FAILED), verify.describe(report)
        row = next(row for row in report.rows if row.check == "vocabulary")
        assert "201,216 rows, each of 201,088 with its id; " in row.detail


def test_row_41_the_commands_say_it_in_one_line(tmp_path, capsys):
    folder, _ = resized(tmp_path, 201_089)
    said = "gptoss_edu: .* has 201,089 rows of vocabulary, expected 201,088: [^\n]*lost\n"
    for command in ("convert", "ask hi --max-tokens 1 --model"):
        assert cli.main([*command.split(), str(folder)]) == 0
        assert re.match(said, capsys.readouterr().err), command
    assert cli.main(["verify", "--no-answers", str(folder)]) == 0
    found = capsys.readouterr()
    assert not found.err
    assert "201,089 rows, each of 201,088 with its id; " in found.out


@pytest.mark.parametrize("rows", [CALL + 1, 200_019, 201_087])
def test_row_41_a_vocabulary_without_its_last_rows(tmp_path, rows):
    """Resized to the length of the published tokenizer, 200,019: all tokens of text are there."""
    config = dataclasses.replace(SMALL, vocab_size=rows)
    with pytest.warns(UserWarning, match=f"has {rows:,} rows of vocabulary, expected 201,088"):
        tokenizer = read_tokenizer(tmp_path, config)
    assert tokenizer == Tokenizer(kept_ids=tuple(range(rows)))
    assert tokenizer.stop_rows == STOP_TOKENS
    ids = Tokenizer().encode("Grüße, 東京 🙂")
    assert tokenizer.encode("Grüße, 東京 🙂") == ids == tokenizer.to_rows(ids)


def test_row_41_fewer_rows_than_messages_need_have_no_text(tmp_path):
    config = dataclasses.replace(SMALL, vocab_size=CALL)
    assert read_tokenizer(tmp_path, config) == NoText(CALL)


def test_the_whole_vocabulary_is_no_news(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        config = dataclasses.replace(SMALL, vocab_size=FULL_VOCAB)
        assert read_tokenizer(tmp_path, config) == Tokenizer()


IDS = (*byte_ids(), *STOP_TOKENS)


@pytest.mark.parametrize("rows", [320, 384])
def test_row_41_a_small_vocabulary_may_be_padded(tmp_path, rows):
    folder, params = resized(tmp_path, rows, ids=IDS)
    with pytest.warns(UserWarning, match=f"has {rows} rows of vocabulary, expected {len(IDS)}"):
        model, found = load_model(folder)
    assert model.tokenizer == Tokenizer(kept_ids=IDS)
    np.testing.assert_array_equal(found.embedding_VD, params.embedding_VD[: len(IDS)])
    save_checkpoint(found, model.config, tmp_path / "again", kept_ids=IDS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same(load_model(tmp_path / "again")[1], found)


@pytest.mark.parametrize("rows", [len(IDS) - 1, len(IDS) + 1, 832])
def test_ids_of_another_model_are_refused(tmp_path, rows):
    """With one of them lost, all that follow would stand for something else."""
    folder, _ = resized(tmp_path, rows, ids=IDS)
    refused(folder, ValueError, f"holds {len(IDS)} ids, expected a list of {rows}, one per row")


@pytest.mark.parametrize("rows", [201_216, 109])
def test_row_41_who_needs_text_is_told_before_anything_is_read(tmp_path, monkeypatch, rows):
    monkeypatch.setattr(reading, "read", lambda *_: pytest.fail("read a tensor"))
    folder, _ = resized(tmp_path, rows)
    if rows == 109:
        with pytest.raises(ValueError, match="109 vocabulary rows have no text"):
            load_model(folder, needs_text=True)
    else:
        with pytest.warns(
            UserWarning, match="the text of the other 128, if they have any, is lost"
        ):
            assert isinstance(look(folder).tokenizer, Tokenizer)


@pytest.mark.parametrize("bad", [0.5, "1", None, [], {}, -1, 201_088, 1e400, "\x1b[2J" * 999])
def test_ids_that_are_none_are_refused(tmp_path, bad):
    folder, _ = resized(tmp_path, len(IDS), ids=[*IDS[:-1], bad])
    said = refused(folder, ValueError, "o200k_ids.json: ")
    assert len(said) < 600


# ---- numbers that are none -----------------------------------------------------------------------

LAYER = "model.layers.1."
SINKS = [LAYER + "self_attn.sinks", LAYER + "mlp.router.weight", LAYER + "mlp.router.bias"]
SINKS += [LAYER + "input_layernorm.weight", LAYER + "self_attn.k_proj.bias", "model.norm.weight"]
SINKS += [LAYER + "mlp.experts.gate_up_proj_bias", LAYER + "mlp.experts.down_proj_bias"]


def plant(folder, name: str, value) -> None:
    tensor = shards.find_tensors(folder)[name]
    bits = np.memmap(tensor.path, np.uint8, "r+", tensor.begin, (tensor.num_bytes,))
    typed = bits if tensor.dtype == "U8" else bits.view(shards.DTYPES[tensor.dtype])
    typed[3] = value
    bits.flush()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", SINKS)
def test_small_tensors_are_looked_at_while_loading(folder, name, value):
    plant(folder, name, value)
    refused(
        folder, ValueError, f"{NAME}: {name} holds 1 of [0-9,]+ values that are NaN or infinite"
    )


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_numbers_that_are_none_in_every_dtype(tmp_path, dtype):
    """What overflows where it is merged into float16, above all."""
    params = random_params(CONFIG, dtype, packed=True)
    folder = write_layout(tmp_path / "m", params, CONFIG, "hf_packed")
    plant(folder, "model.norm.weight", np.inf)
    refused(folder, ValueError, "model.norm.weight holds 1 of 128 values")


def test_a_scale_of_255_is_no_number(folder):
    plant(folder, LAYER + "mlp.experts.down_proj_scales", 255)
    refused(folder, ValueError, "down_proj_scales holds 1 of 5,760 values that are NaN")


def test_large_tensors_are_looked_at_when_they_are_converted(folder, monkeypatch):
    """While loading, that would take as long as reading them."""
    monkeypatch.setattr(reading, "LOOKED_AT", 1000)
    name = LAYER + "self_attn.q_proj.weight"
    plant(folder, name, np.nan)
    load_model(folder)
    with pytest.raises(ValueError, match=f"{name} holds 1 of"):
        convert(folder)
    assert not (folder / mapped.FOLDER).exists()


def test_of_a_conversion_nothing_is_looked_at_again(folder, monkeypatch):
    converted = convert(folder)
    monkeypatch.setattr(reading, "check_numbers", lambda *_: pytest.fail("looked at a tensor"))
    load_model(converted)
