"""Random models that can read and write: small sizes over a vocabulary of bytes and control tokens.

All tests of generation share them and their shapes, since compiling is what costs time.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from gptoss_edu.config import TINY
from gptoss_edu.model import Model, Params, init_params
from gptoss_edu.tokenizer import Tokenizer, byte_ids

CONTROL = range(199998, 200020)
WORDS = (17360, 1428, 173781, 35644, 17196)  # system, user, assistant, analysis, final
KEPT_IDS = tuple(sorted({*byte_ids(), *CONTROL, *WORDS}))
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
    """Weights that mean nothing: the answers are noise, but every branch is taken."""
    return init_params(CONFIG, jax.random.key(seed))


def following(successor: dict[int, int], seed: int = 0) -> Params:
    """Weights of a model that writes `successor[id]` after `id`: a chain, by its own arithmetic.

    Attention and experts add nothing, so the residual stream is the last token's embedding; the
    unembedding of a token is the embedding of its predecessor, the likeliest match by far.
    """
    params = random_params(seed)
    before, after = (TOKENIZER.to_rows(ids) for ids in (successor, successor.values()))
    unembedding_DV = jnp.zeros_like(params.unembedding_DV)
    unembedding_DV = unembedding_DV.at[:, jnp.array(after)].set(
        params.embedding_VD[jnp.array(before)].T
    )

    def without_output(layer):
        silent = {"w_o_NHD": 0 * layer.attention.w_o_NHD, "b_o_D": 0 * layer.attention.b_o_D}
        still = {"w_down_EFD": 0 * layer.moe.w_down_EFD, "b_down_ED": 0 * layer.moe.b_down_ED}
        return dataclasses.replace(
            layer,
            attention=dataclasses.replace(layer.attention, **silent),
            moe=dataclasses.replace(layer.moe, **still),
        )

    return dataclasses.replace(
        params,
        layers=tuple(map(without_output, params.layers)),
        norm_D=jnp.ones_like(params.norm_D),
        unembedding_DV=unembedding_DV,
    )
