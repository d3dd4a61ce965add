"""What each precision loses against truth: on the pocket model, and on one layer of full width.

    python -m benchmarks.precision --out benchmarks/precision.json

Truth is float32 everywhere, with the weights that the packed experts stand for. Per precision:
divergence of the next-token distributions (nats), share of tokens with the same likeliest
successor, share of tokens per layer whose experts changed, right answers of held-out questions, and
the relative error of one layer of the 20B's width with random weights and eight experts.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from gptoss_edu import load_model, precision
from gptoss_edu.config import GPT_OSS_20B, Config
from gptoss_edu.conversion import write_json
from gptoss_edu.model import Layer, Model, init_params
from pocket import rows, tasks
from pocket.evaluate import TASKS, measure

EXPERTS = 8  # a token sees four, however many there are


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


def table(count: int, batch: int, length: int) -> dict[str, dict[str, Any]]:
    """Precision -> its errors."""
    model, params = load_model(kernels="jax")
    tokens_BT = conversations(model, batch, length)
    truth = precision.convert(params, "f32")
    config, packed = full_width()
    exact = precision.convert_layer(packed, "f32")
    x_BTD = jax.random.normal(jax.random.key(1), (1, 16, config.hidden_size))
    found: dict[str, dict[str, Any]] = {}
    for name in precision.PRECISIONS:
        other = precision.convert(params, name)
        lost = precision.divergence(truth, other, tokens_BT, model.config, name)
        settings = {"precision": name, "dtype": precision.activation_dtype(name)}
        asked = dataclasses.replace(model, **settings), other
        scores = measure(*asked, TASKS, ("high",), count, min(count, 50)) if count else {}
        wide = precision.convert_layer(packed, name)
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
        write_json(options.out, found)


if __name__ == "__main__":
    main()
