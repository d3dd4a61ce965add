"""Random models that can read and write: small sizes over a vocabulary of bytes and control tokens.

All tests of generation share them and their shapes, since compiling is what costs time.
"""

import dataclasses
import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np

from gptoss_edu.config import TINY
from gptoss_edu.model import Model, Params, init_params
from gptoss_edu.tokenizer import CHANNEL, END, MESSAGE, RETURN, START, Tokenizer, byte_ids

CONTROL = range(199998, 200020)
SYSTEM, USER, ASSISTANT, ANALYSIS, FINAL = 17360, 1428, 173781, 35644, 17196
KEPT_IDS = tuple(sorted({*byte_ids(), *CONTROL, SYSTEM, USER, ASSISTANT, ANALYSIS, FINAL}))
TOKENIZER = Tokenizer(kept_ids=KEPT_IDS)
# One sliding layer, one full. A prompt of bytes has some 250 tokens: beyond window and context.
CONFIG = dataclasses.replace(
    TINY,
    num_layers=2,
    layer_types=(),
    vocab_size=len(KEPT_IDS),
    sliding_window=128,
    initial_context=256,
    max_positions=1024,
    rope_factor=4.0,
)
MODEL = Model(CONFIG, TOKENIZER)


@functools.lru_cache
def random_params(seed: int = 0) -> Params:
    """Weights that mean nothing: the answers are noise, but every branch is taken.

    `init_params` says the shapes; NumPy draws the numbers, since that compiles nothing.
    """
    source = np.random.default_rng(seed)

    def draw(path, leaf):
        mean = 1.0 if "norm" in path[-1].name else 0.0
        std = 0.1 if mean or leaf.ndim == 1 else 1.0 if leaf.shape[0] == CONFIG.vocab_size else 0.08
        return jnp.asarray(source.normal(mean, std, leaf.shape), leaf.dtype)

    shapes = jax.eval_shape(lambda: init_params(CONFIG, jax.random.key(0)))
    return jax.tree_util.tree_map_with_path(draw, shapes)


def following(successor: dict[int, int], seed: int = 0) -> Params:
    """Weights of a model that writes `successor[id]` after `id`: a chain, by its own arithmetic.

    Attention and experts add nothing, so the residual stream is the last token's embedding; the
    unembedding of a token is the embedding of its predecessor, the likeliest match by far.
    """
    params = random_params(seed)
    before, after = (TOKENIZER.to_rows(ids) for ids in (successor, successor.values()))
    unembedding_DV = np.array(params.unembedding_DV)
    unembedding_DV[:, after] = np.array(params.embedding_VD)[before].T

    def zeroed(part, *names):
        zeros = {name: np.zeros_like(getattr(part, name)) for name in names}
        return dataclasses.replace(part, **{name: jnp.asarray(zeros[name]) for name in names})

    def without_output(layer):
        return dataclasses.replace(
            layer,
            attention=zeroed(layer.attention, "w_o_NHD", "b_o_D"),
            moe=zeroed(layer.moe, "w_down_EFD", "b_down_ED"),
        )

    return dataclasses.replace(
        params,
        layers=tuple(map(without_output, params.layers)),
        norm_D=jnp.asarray(np.ones_like(params.norm_D)),
        unembedding_DV=jnp.asarray(unembedding_DV),
    )


def say(analysis: str, final: str) -> list[int]:
    """Ids of a proper answer, as a model would sample them."""
    thinking = [CHANNEL, ANALYSIS, MESSAGE, *TOKENIZER.encode(analysis), END]
    answer = [START, ASSISTANT, CHANNEL, FINAL, MESSAGE, *TOKENIZER.encode(final), RETURN]
    return thinking + answer


def dictate(monkeypatch, ids: list[int]) -> None:
    """Let the model read and write as ever, but choose its first tokens for it."""
    module = importlib.import_module("gptoss_edu.generation")
    pick, rows = module._pick, TOKENIZER.to_rows(ids)

    def dictated(logits_BV, seed_B, step, active, seen_BV):
        if step < len(rows):
            return jnp.full(logits_BV.shape[0], rows[step], jnp.int32), seen_BV
        return pick(logits_BV, seed_B, step, active, seen_BV)

    monkeypatch.setattr(module, "_pick", dictated)
