"""o200k_ids.json: the ids of the rows, as they stand there, or a sentence."""

from __future__ import annotations

import json

from hypothesis import strategies as st

from fuzz.checkpoints import IDS, WHOLE, is_same, load, sandbox
from fuzz.edits import Change, Cut, Edit, changes
from fuzz.oracles import examine, fuzz, legally_other
from gptoss_edu.tokenizer import FULL_VOCAB, Tokenizer

FILE, AREA = "o200k_ids.json", "vocabulary file"
SEEDS = [Edit("replace", 0, value) for value in (0.5, "1", None, [], True, 10**30, -1, FULL_VOCAB)]
SEEDS += [Edit("all", 0, value) for value in ({}, "x", None, 0, [], [0] * len(IDS), {"0": 1})]
TEXTS = [b"[" * 100_000, b"[" + b"1," * 10_000 + b"1]", b"\xff\xfe[", b"[" + b"9" * 5_000 + b"]"]


@fuzz(
    200,
    changes,
    seeds=[
        *((Change((edit,)),) for edit in SEEDS),
        *((Change((), (Cut(0, 10**9, text),)),) for text in TEXTS),
    ],
)
def test_a_file_of_ids_is_refused_or_means_what_it_says(change):
    with sandbox(WHOLE) as folder:
        (folder / FILE).write_bytes(change.of(list(IDS)))
        loaded, _ = examine(AREA, lambda: load(folder))
        if loaded is None:
            return
        if not is_same(loaded):
            legally_other(AREA)
        said = json.loads((folder / FILE).read_bytes())
        assert all(type(each) is int and 0 <= each < FULL_VOCAB for each in said), said
        assert len(set(said)) == len(said) == len(IDS)
        assert loaded[0].tokenizer == Tokenizer(kept_ids=tuple(said))


@fuzz(100, st.text(max_size=200), st.permutations(IDS[:20]))
def test_any_text_comes_back(text, first):
    tokenizer = Tokenizer(kept_ids=(*first, *IDS[20:]))
    ids, error = examine(AREA, lambda: tokenizer.encode(text))
    assert error is None
    assert tokenizer.decode(ids) == text
    assert tokenizer.to_ids(tokenizer.to_rows(ids)) == ids
