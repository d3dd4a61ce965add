"""Downloads, against a small Hub on this machine: complete, interrupted, damaged, out of reach."""

from __future__ import annotations

import shutil
from collections import namedtuple

import huggingface_hub.constants
import jax
import numpy as np
import pytest
from fake_hub import REPO, SHA, running, sibling, use_endpoint
from layouts import random_params

from gptoss_edu.config import TINY
from gptoss_edu.weights import fetch, hub
from gptoss_edu.weights.checkpoint import load_model, save_checkpoint


@pytest.fixture(scope="module")
def params():
    return random_params(TINY, packed=True)


@pytest.fixture(scope="module")
def files(params, tmp_path_factory):
    folder = tmp_path_factory.mktemp("published") / "tiny"
    save_checkpoint(params, TINY, folder, shard_bytes=1_000_000)
    assert len(list(folder.glob("*.safetensors"))) == 3
    files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    others = ["README.md", "tokenizer.json", "original/model.safetensors", "metal/model.bin"]
    return files | dict.fromkeys(others, b"not asked for")


@pytest.fixture
def server(files, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "PAUSES", (0.0, 0.0))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with running(files) as server:
        use_endpoint(monkeypatch, server.url)
        yield server


def wanted(files) -> set[str]:
    return {name for name in files if "/" not in name} - {"README.md", "tokenizer.json"}


def test_one_copy_is_downloaded_once_and_then_used_without_a_network(server, params, monkeypatch):
    _, loaded = load_model(REPO)
    jax.tree.map(np.testing.assert_array_equal, loaded, params)
    assert {name for name, _ in server.log} == wanted(server.files)
    assert len(server.log) == len(wanted(server.files))
    use_endpoint(monkeypatch, "http://127.0.0.1:1")  # nobody listens there
    _, again = load_model(REPO)
    jax.tree.map(np.testing.assert_array_equal, again, params)


def test_a_connection_that_breaks_is_resumed_within_the_call(server):
    name = "model-00001-of-00003.safetensors"
    server.cut, server.cuts_left = {name: 300_000}, 1
    hub.download(REPO)
    assert [begin for file, begin in server.log if file == name] == [0, 300_000]


def test_a_download_that_broke_off_goes_on_where_it_stopped(server):
    name = "model-00002-of-00003.safetensors"
    server.cut, server.cuts_left = {name: 400_000}, 100
    with pytest.raises(ConnectionError, match=r"broke off after 400,000 of .* call again"):
        hub.download(REPO)
    server.cuts_left, server.log = 0, []
    folder = hub.download(REPO)
    shards = [(file, begin) for file, begin in server.log if file.endswith(".safetensors")]
    assert shards == [(name, 400_000), ("model-00003-of-00003.safetensors", 0)]
    for file in wanted(server.files):
        assert (folder / file).read_bytes() == server.files[file]


def test_a_damaged_file_is_refused_and_fetched_anew(server):
    name = "model-00001-of-00003.safetensors"
    good = server.files[name]
    server.files[name] = good[:-1] + bytes([good[-1] ^ 1])
    with pytest.raises(ValueError, match=r"arrived damaged: found hash .*, expected"):
        hub.download(REPO)
    server.files[name] = good
    assert (hub.download(REPO) / name).read_bytes() == good


def test_a_small_file_with_other_bytes_of_the_right_size_is_refused(server):
    good = server.files["config.json"]
    server.files["config.json"] = good.replace(b"6", b"7")
    with pytest.raises(ValueError, match=r"config.json arrived damaged: .* deleted, call again"):
        hub.download(REPO)
    assert hub.find_cached(REPO) is None
    server.files["config.json"] = good
    assert (hub.download(REPO) / "config.json").read_bytes() == good


def test_a_small_file_that_changed_in_the_cache_is_fetched_again(server):
    config = hub.download(REPO) / "config.json"
    good = config.read_bytes()
    config.write_bytes(good.replace(b"6", b"7"))
    assert hub.find_cached(REPO) is None
    server.log.clear()
    assert (hub.download(REPO) / "config.json").read_bytes() == good
    assert server.log == [("config.json", 0)]


def test_a_file_in_the_place_of_a_link_is_exchanged(server, tmp_path):
    name = "model-00003-of-00003.safetensors"
    folder = hub.download(REPO)
    for other in (name, "config.json"):
        (folder / other).unlink()
        (folder / other).write_bytes(server.files[other] + b"more")
    assert hub.find_cached(REPO) is None
    server.log.clear()
    hub.download(REPO)
    assert server.log == []
    for other in (name, "config.json"):
        assert (folder / other).read_bytes() == server.files[other]


def test_a_disk_without_links_gets_copies(server, monkeypatch):
    def symlink_to(*_):
        raise OSError("a required privilege is not held by the client")

    monkeypatch.setattr(hub.Path, "symlink_to", symlink_to)
    folder = hub.download(REPO)
    assert hub.find_cached(REPO) == folder
    assert not any(path.is_symlink() for path in folder.iterdir())


def test_where_a_file_is_stored_no_server_says(server, tmp_path):
    """Not even by a header that huggingface_hub would believe."""
    for name in wanted(server.files):
        server.instead[f"HEAD {name}"] = [(200, {"ETag": f'"{tmp_path}/ESCAPED"'}, b"x")] * 9
    hub.download(REPO)
    assert {path.name for path in tmp_path.iterdir()} == {"cache"}


def test_all_files_are_of_the_commit_that_was_asked_for(server, monkeypatch):
    folder = hub.download(REPO, revision="v1.0")
    assert folder.name == SHA
    files = {path for path in server.asked if "/resolve/" in path}
    assert {path.split("/")[4] for path in files} == {SHA}
    server.asked.clear()
    assert hub.download(REPO, revision="v1.0") == folder
    assert hub.download(REPO, revision=SHA) == folder
    assert server.asked == []
    assert hub.find_cached(REPO) is None  # nobody has asked what main is
    use_endpoint(monkeypatch, "http://127.0.0.1:1")
    with pytest.raises(ConnectionError, match=f"Revision '{SHA}' is in the cache$"):
        hub.download(REPO)


def test_a_repository_that_moves_on_meanwhile_is_taken_as_it_was(server, monkeypatch):
    described = hub.describe

    def move_on(*arguments):
        result = described(*arguments)
        server.sha = "f" * 40
        return result

    monkeypatch.setattr(hub, "describe", move_on)
    assert hub.download(REPO).name == SHA
    assert hub.find_cached(REPO).name == SHA


def test_an_unknown_revision_is_named(server):
    with pytest.raises(FileNotFoundError, match=r"'edu/tiny' has no revision 'missing'; expected"):
        hub.download(REPO, revision="missing")
    for wrong in ("../main", "a/../b", "", "a\\b", ".hidden"):
        with pytest.raises(ValueError, match=r"expected a branch, a tag or a commit"):
            hub.download(REPO, revision=wrong)


def test_a_token_is_sent_with_every_request(server):
    hub.download(REPO, token="hf_mine")
    assert set(server.tokens) == {"Bearer hf_mine"}


HOSTILE = {
    "a path as hash": {"lfs": {"sha256": "/x/ESCAPED", "size": 9, "pointerSize": 130}},
    "dots as hash": {"lfs": {"sha256": "../" * 21 + "x", "size": 9, "pointerSize": 130}},
    "a hash in capitals": {"lfs": None, "blobId": "A" * 40},
    "no hash": {"lfs": None, "blobId": None},
    "control characters as hash": {"lfs": None, "blobId": "\x1b[2J"},
    "no size": {"size": None},
    "a negative size": {"size": -1},
    "a size in words": {"size": "9"},
    "half a byte": {"size": 0.5},
}


@pytest.mark.parametrize("change", HOSTILE)
def test_a_hub_that_describes_nonsense_is_refused(server, tmp_path, change):
    server.siblings = [sibling("model.safetensors", b"9 bytes..") | HOSTILE[change]]
    with pytest.raises(ValueError, match=r"^the Hub describes model.safetensors") as caught:
        hub.download(REPO)
    assert str(caught.value).isprintable()
    assert not list(tmp_path.rglob("*.gptoss_edu*"))


def test_names_of_a_server_are_names_and_no_paths(server):
    stems = ("../m", "/x/m", "a/m", ".m", "c:m", "..\\m", "-m", "m\x1b[2J", "m" * 999)
    names = [f"{stem}.safetensors" for stem in stems]
    server.siblings += [sibling(name, b"9 bytes..") for name in names]
    folder = hub.download(REPO)
    assert {path.name for path in folder.iterdir()} == wanted(server.files)
    server.siblings = [sibling(names[-1], b"9 bytes..")] * 9
    with pytest.raises(ValueError, match=r"no \*.safetensors in its top folder") as caught:
        hub.describe(REPO, None, None)
    assert len(str(caught.value)) < 600


def test_an_api_that_answers_with_a_page_is_out_of_reach(server, monkeypatch):
    def page(self, value):
        self.send(200, {"Content-Type": "text/html"}, b"<html>\x1b[2J" + b"x" * 9999)

    monkeypatch.setattr(server.RequestHandlerClass, "send_json", page)
    with pytest.raises(ConnectionError, match="out of reach") as caught:
        hub.download(REPO)
    assert len(str(caught.value)) < 900


def test_the_disk_needs_room_only_for_what_is_missing(server, monkeypatch):
    """A download that broke off goes on, on a disk that has room for the rest and for no more."""
    name = "model-00002-of-00003.safetensors"
    server.cut, server.cuts_left = {name: 400_000}, 100
    with pytest.raises(ConnectionError):
        hub.download(REPO)
    server.cuts_left = 0
    rest = len(server.files[name]) - 400_000
    rest += len(server.files["model-00003-of-00003.safetensors"])
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 0, rest - 1))
    with pytest.raises(OSError, match="too little disk"):
        hub.download(REPO)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 0, rest))
    hub.download(REPO)


def test_nothing_but_the_copy_is_left(server, tmp_path):
    folder = hub.download(REPO)
    assert {path.name for path in folder.iterdir()} == wanted(server.files)
    hashes = {path.name for path in (folder.parents[1] / "blobs").iterdir()}
    assert all(len(name) in (40, 64) for name in hashes)
    assert (folder.parents[1] / "refs" / "main").read_text() == SHA


def test_an_incomplete_copy_in_the_cache_is_completed(server):
    folder = hub.download(REPO)
    shard = folder / "model-00003-of-00003.safetensors"
    shard.resolve().unlink()
    shard.unlink(missing_ok=True)
    assert hub.find_cached(REPO) is None
    hub.download(REPO)
    assert shard.read_bytes() == server.files[shard.name]


def test_no_network_and_no_cache_says_what_to_do(server, monkeypatch):
    use_endpoint(monkeypatch, "http://127.0.0.1:1")
    with pytest.raises(ConnectionError, match=r"no complete copy .* out of reach .*hf download"):
        load_model(REPO)


def test_offline_mode_says_the_same(server, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match="out of reach"):
        load_model(REPO)


def test_an_unknown_repository_is_neither_folder_nor_hub_id(server):
    with pytest.raises(FileNotFoundError, match="neither a folder 'edu/tinny' here nor a repos"):
        load_model("edu/tinny")


def test_a_repository_without_safetensors_is_refused(server):
    names = ("model.gguf", "original/model.safetensors")
    server.siblings = [sibling(name, b"x") for name in names]
    with pytest.raises(ValueError, match=r"no \*.safetensors in its top folder, only \['model.gg"):
        load_model(REPO)


def test_a_full_disk_is_refused_before_fetching(server, monkeypatch):
    usage = namedtuple("usage", "total used free")(10**9, 10**9 - 1000, 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OSError, match=r"too little disk: .* has 0.00 GB free, but 0.0\d GB"):
        load_model(REPO)
    assert server.log == []
