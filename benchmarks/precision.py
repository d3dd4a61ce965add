"""What each precision loses against truth: on the pocket model, and on one layer of full width.

    python -m benchmarks.precision --out benchmarks/precision.json

Truth is float32 everywhere, with the weights that the packed experts stand for. Per precision:
divergence of the next-token distributions (nats), share of tokens with the same likeliest
successor, share of tokens per layer whose experts changed, right answers of held-out questions, and
the relative error of one layer of the 20B's width with random weights and eight experts.

"mxfp4, dense int8" is mxfp4 with attention and unembedding rounded as `load_model(dense="int8")`
does, but computed in JAX, since the pocket model is too small for some of the kernels' tiles.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from gptoss_edu import load_model
from gptoss_edu.chips import precision
from gptoss_edu.config import GPT_OSS_20B, Config
from gptoss_edu.cpu.scaled import to_int8
from gptoss_edu.model import Layer, Model, Params, init_params
from gptoss_edu.mxfp4 import BLOCK
from gptoss_edu.weights.mapped import replace_json
from pocket import rows, tasks
from pocket.evaluate import TASKS, measure

EXPERTS = 8  # a token sees four, however many there are
DENSE_INT8 = "mxfp4, dense int8"


def conversations(model: Model, batch: int, length: int) -> jax.Array:
    """Beginnings of true conversations, tokens_BT, all of one length."""
    tok = model.tokenizer
    ids = (tok.fit([*rows.prompt_ids(e), *rows.reply_ids(e)]) for e in tasks.stream(99))
    long = itertools.islice((tok.to_rows(row) for row in ids if len(row) >= length), batch)
    return jnp.array([row[:length] for row in long])


def full_width() -> tuple[Config, Layer]:
    """One layer of the 20B's width, packed."""
    config = dataclasses.replace(
        GPT_OSS_20B, num_layers=1, layer_types=GPT_OSS_20B.layer_types[:1], num_experts=EXPERTS,
        vocab_size=64,
    )  # fmt: skip
    params = init_params(config, jax.random.key(0), jnp.bfloat16)
    return config, precision.convert_layer(params.layers[0], "mxfp4")


def rounded(w: jax.Array, inputs: int = 1) -> jax.Array:
    """A weight whose first `inputs` axes are summed over, rounded to 8 bits and decoded again."""
    rows = math.prod(w.shape[:inputs])
    w_IO = w.astype(jnp.bfloat16).reshape(rows, -1)
    return to_int8(w_IO, BLOCK, jnp.bfloat16)[...].reshape(w.shape)


def in_form(layer: Layer, name: str) -> Layer:
    """A layer in one of the formats of the table."""
    if name != DENSE_INT8:
        return precision.convert_layer(layer, name)
    a = layer.attention
    names = {"w_q_DNH": 1, "w_k_DKH": 1, "w_v_DKH": 1, "w_o_NHD": 2}
    dense = {field: rounded(getattr(a, field), inputs) for field, inputs in names.items()}
    exact = precision.convert_layer(layer, "mxfp4")
    return dataclasses.replace(exact, attention=dataclasses.replace(exact.attention, **dense))


def all_in_form(params: Params, name: str) -> Params:
    """All weights in one of the formats of the table."""
    if name != DENSE_INT8:
        return precision.convert(params, name)
    layers = tuple(in_form(layer, name) for layer in params.layers)
    return dataclasses.replace(params, layers=layers, unembedding_DV=rounded(params.unembedding_DV))


def table(count: int, batch: int, length: int) -> dict[str, dict[str, Any]]:
    """Precision -> its errors."""
    model, params = load_model(backend="jax")
    tokens_BT = conversations(model, batch, length)
    truth = precision.convert(params, "f32")
    config, packed = full_width()
    exact = precision.convert_layer(packed, "f32")
    x_BTD = jax.random.normal(jax.random.key(1), (1, 16, config.hidden_size))
    found: dict[str, dict[str, Any]] = {}
    for name in (*precision.FORMATS, DENSE_INT8):
        other = all_in_form(params, name)
        lost = precision.divergence(truth, other, tokens_BT, model.config, name)
        asked = dataclasses.replace(model, dtype=precision.activation_dtype(name)), other
        scores = measure(*asked, TASKS, ("high",), count, min(count, 50)) if count else {}
        wide = in_form(packed, name)
        found[name] = {
            "kl_nats": lost.kl,
            "top1": lost.top1,
            "flips_per_layer": lost.flips_L.round(5).tolist(),
            "right_of_asked": [sum(row["high"][n] for row in scores.values()) for n in (0, 1)],
            "by_task": {task: row["high"] for task, row in scores.items()},
            "layer_error": precision.layer_error(exact, wide, x_BTD, config, name),
        }
    return found


def to_markdown(found: dict[str, dict[str, Any]]) -> str:
    """The table for benchmarks/README.md."""
    lines = [
        "| precision | KL nats | same top token | most flips in a layer | answers right | layer |"
    ]
    lines.append("|---|---:|---:|---:|---:|---:|")
    for name, row in found.items():
        right, asked = row["right_of_asked"]
        lines.append(
            f"| {name} | {row['kl_nats']:.1e} | {row['top1']:.2%} |"
            f" {max(row['flips_per_layer']):.2%} | {right} of {asked} | {row['layer_error']:.1e} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.precision", description=__doc__)
    parser.add_argument("--count", type=int, default=20, help="questions per task; 0: none")
    parser.add_argument("--batch", type=int, default=8, help="conversations to compare")
    parser.add_argument("--length", type=int, default=128, help="tokens of each")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args()
    found = table(options.count, options.batch, options.length)
    print(to_markdown(found))
    if options.out:
        replace_json(options.out, found)


if __name__ == "__main__":
    main()
