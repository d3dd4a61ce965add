"""Headers of weight files: refused is what the safetensors package refuses, the rest is equal."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import safetensors
from hypothesis import strategies as st

from fuzz.checkpoints import WHOLE, is_same, load, master, sandbox
from fuzz.edits import Change, Cut, Edit, changes
from fuzz.oracles import examine, fuzz, legally_other
from gptoss_edu.weights.shards import DTYPES, find_tensors, map_array, read_header

FILE = "model.safetensors"
SMALL = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "F32", "shape": [2, 1], "data_offsets": [0, 8]},
    "b": {"dtype": "U8", "shape": [0, 3], "data_offsets": [8, 8]},
    "c": {"dtype": "BF16", "shape": [2, 1], "data_offsets": [8, 12]},
}
STRICTER = ("a name is there twice", "expected dtype, shape and data_offsets", "has dtype")


def file_of(header: bytes, body: bytes, lie: int = 0) -> bytes:
    """A weight file; `lie` is added to the length that it says its header has."""
    return ((len(header) + lie) % 2**64).to_bytes(8, "little") + header + body


def theirs(path: Path) -> dict[str, tuple]:
    """Name -> (dtype, shape, bytes), as the safetensors package reads them."""
    found = safetensors.deserialize(path.read_bytes())
    return {name: (t["dtype"], tuple(t["shape"]), bytes(t["data"])) for name, t in found}


def ours(path: Path) -> dict[str, tuple]:
    """The same, by this package."""
    raw = path.read_bytes()
    return {
        name: (t.dtype, t.shape, raw[t.begin : t.begin + t.num_bytes])
        for name, t in read_header(path).items()
    }


def change(text: bytes) -> Change:
    """The header becomes this."""
    return Change((), (Cut(0, 10**9, text),))


def entry(**fields: object) -> Change:
    """Fields of the first tensor become these."""
    return Change(tuple(Edit("replace", PLACES[name], value) for name, value in fields.items()))


PLACES = {"dtype": 3, "shape": 4, "offsets": 7}
SEEDS = [
    *(entry(shape=shape) for shape in ("160", [None], ["160"], [10.0, 2.0], [2**64], [2**63, 4])),
    *(entry(dtype=dtype) for dtype in ([], None, {"F32": None})),
    *(entry(offsets=offsets) for offsets in ([0, "8"], [0, 8, 8], [-8, 0], [0.0, 8.0], {})),
    *(change(text) for text in (b"[" * 100_000, b'{"a":' * 50_000, b"\xff" * 20_000, b"{}", b"")),
    Change((), (Cut(0, 0, b"\xef\xbb\xbf"),)),
]


@fuzz(
    500,
    changes | st.just(Change()),
    st.sampled_from([0, 0, 0, 0, 0, 1, -1, 2**40, 2**63]),
    st.sampled_from([12, 12, 12, 12, 0, 11, 13]),
    seeds=[(seed, 0, 12) for seed in SEEDS],
)
def test_header_for_header_we_agree_with_the_safetensors_package(change, lie, size):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / FILE
        path.write_bytes(file_of(change.of(SMALL), bytes(range(size)), lie))
        found, error = examine("safetensors header", lambda: ours(path))
        try:
            expected = theirs(path)
        except safetensors.SafetensorError:
            assert found is None, "they refuse it"
        else:
            stricter = any(words in str(error) for words in STRICTER)
            assert found == expected or (error and stricter), error


@fuzz(120, changes, st.sampled_from([b"", b"", b"", b"\x00" * 8, b"more"]))
def test_weights_with_another_header_are_refused_or_what_they_say(change, more):
    """Accepted is what the safetensors package finds under the same names: the same model, or the
    one that the file now describes, which only `verify` could know to be another."""
    raw = (master() / WHOLE / FILE).read_bytes()
    length = int.from_bytes(raw[:8], "little")
    with sandbox(WHOLE) as folder:
        header = change.of(json.loads(raw[8 : 8 + length]))
        (folder / FILE).write_bytes(file_of(header, raw[8 + length :] + more))
        loaded, _ = examine("safetensors header", lambda: load(folder))
        if loaded is None:
            return
        expected = theirs(folder / FILE)
        for name, tensor in find_tensors(folder).items():
            dtype, shape, data = expected[name]
            assert (tensor.dtype, tensor.shape) == (dtype, shape)
            array = np.frombuffer(data, DTYPES[dtype]).reshape(shape)
            np.testing.assert_array_equal(map_array(tensor), array)
        if not is_same(loaded):
            legally_other("safetensors header")
            assert {name: t[:2] for name, t in expected.items()} == {
                name: t[:2] for name, t in theirs(master() / WHOLE / FILE).items()
            }, "tensors of one shape exchanged, and nothing else"
