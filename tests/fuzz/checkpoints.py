"""A small checkpoint that a fuzzer may break; is what is loaded then still the same model?"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import jax
import numpy as np
from layouts import random_params

from fuzz.oracles import check_words, untouched
from gptoss_edu.config import TINY
from gptoss_edu.model import Model, Params
from gptoss_edu.tokenizer import STOP_TOKENS, Tokenizer, byte_ids
from gptoss_edu.weights.checkpoint import load_model, save_checkpoint
from gptoss_edu.weights.convert import convert

IDS = (*byte_ids(), *STOP_TOKENS)
CONFIG = dataclasses.replace(
    TINY, num_layers=2, layer_types=(), vocab_size=len(IDS), hidden_size=32, intermediate_size=32,
    num_experts=5, num_heads=6, num_kv_heads=2, head_dim=4, sliding_window=3,
)  # fmt: skip
WHOLE, SHARDED, CONVERTED = "whole", "sharded", "converted"


@functools.cache
def params() -> Params:
    """The weights of all of them."""
    return random_params(CONFIG, packed=True)


@functools.cache
def master() -> Path:
    """A folder with the checkpoint in one file, in shards, and with a conversion in it."""
    root = Path(tempfile.mkdtemp(prefix="fuzz-"))
    for name, shard_bytes in ((WHOLE, 10**9), (SHARDED, 20_000), (CONVERTED, 10**9)):
        save_checkpoint(params(), CONFIG, root / name, kept_ids=IDS, shard_bytes=shard_bytes)
    convert(root / CONVERTED)
    return root


@contextlib.contextmanager
def sandbox(kind: str) -> Iterator[Path]:
    """A copy of one of them to break. Beside it lies what belongs to others, and stays as it is."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as root:
        others, folder = Path(root) / "others", Path(root) / "model"
        others.mkdir()
        (others / "precious.txt").write_text("mine")
        shutil.copytree(master() / kind, folder)
        home = {"XDG_CACHE_HOME": str(Path(root) / "cache")}
        with mock.patch.dict(os.environ, home), untouched(others):
            yield folder


def load(folder: Path) -> tuple[Model, Params]:
    """What a user loads. Warnings are for people, too."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loaded = load_model(folder)
    for warning in caught:
        assert issubclass(warning.category, UserWarning), warning
        check_words(str(warning.message))
    return loaded


def is_same(loaded: tuple[Model, Params]) -> bool:
    """Every number and every token as saved: then every logit is the same, to the last bit."""
    model, found = loaded
    same = jax.tree.structure(found) == jax.tree.structure(params()) and jax.tree.all(
        jax.tree.map(lambda a, b: a.dtype == b.dtype and np.array_equal(a, b), found, params())
    )
    return bool(same and (model.config, model.tokenizer) == (CONFIG, Tokenizer(kept_ids=IDS)))
