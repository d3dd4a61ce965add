"""From a run's state to a checkpoint in the Hugging Face layout: MXFP4 experts, the rest in bf16.

`python -m pocket.export --run main` writes the checkpoint that ships inside the package: the moving
average of the weights, which is the better choice while the rate is high. At the end of a run whose
rate has fallen to zero the last step's weights (`--last`) are. `--also RUN SHARE` mixes in that
share of another run of the same beginning: what one has learned last and the other has kept.
`--begin RUN` makes these weights the beginning of a new run instead.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from gptoss_edu.config import Config
from gptoss_edu.model import Layer, Params
from gptoss_edu.mxfp4 import quantize
from gptoss_edu.tokenizer import Tokenizer
from gptoss_edu.weights.checkpoint import POCKET, save_checkpoint
from gptoss_edu.weights.verify import record
from pocket import train
from pocket.curves import CURVES, LOG, draw, read_log
from pocket.evaluate import CARD, put_between


def packed(params: Params) -> Params:
    """Experts in MXFP4, everything else in bf16: how the published models are stored."""

    def layer_of(layer: Layer) -> Layer:
        attention, moe = jax.tree.map(lambda w: w.astype(jnp.bfloat16), layer.attention), layer.moe
        rest: dict[str, Any] = {
            field.name: getattr(moe, field.name).astype(jnp.bfloat16)
            for field in dataclasses.fields(moe)
        }
        rest["w_gate_up_EDP"] = quantize(moe.w_gate_up_EDP)
        rest["w_down_EFD"] = quantize(moe.w_down_EFD)
        return Layer(attention, type(moe)(**rest))

    top = {
        name: getattr(params, name).astype(jnp.bfloat16)
        for name in ("embedding_VD", "norm_D", "unembedding_DV")
    }
    return Params(layers=tuple(layer_of(layer) for layer in params.layers), **top)


def read_run(name: str) -> tuple[train.State, Config, Tokenizer]:
    """A run's state, its sizes and its vocabulary."""
    run = train.RUNS / name
    if not (run / "state.npz").exists():
        raise FileNotFoundError(f"there is no {run / 'state.npz'}; start one with pocket.train")
    tok = Tokenizer(kept_ids=train.vocabulary(run))
    config = train.pocket_config(tok.vocab_size)
    rate = train.warm(1.0, 1)
    optimizer = train.make_optimizer(train.optimizer_of(run), rate)
    state = jax.eval_shape(lambda: train.start(config, 0, optimizer))
    return train.restore(state, run / "state.npz"), config, tok


def document(run: str, step: int) -> None:
    """Put the run's log beside the model card, and its length into the card."""
    lines = [line for line in read_log(train.RUNS / run / "log.jsonl") if line["step"] <= step]
    LOG.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    steps = [0, *(line["step"] for line in lines)]
    pairs = zip(lines, steps[1:], steps, strict=False)
    tokens = sum(line["tokens_per_step"] * (after - before) for line, after, before in pairs)
    words = f"{step:,} steps and {tokens / 1e6:.1f} million tokens"
    card = put_between(CARD.read_text(encoding="utf-8"), "training", words)
    CARD.write_text(card, encoding="utf-8")
    draw(lines, CURVES)


def begin(run: str, of: str, state: train.State) -> None:
    """A new run that goes on from `state`, with all else as in the run `of`, its log, too."""
    if (train.RUNS / run).exists():
        raise SystemExit(f"there is a run {run!r}; choose another name, or remove it")
    shutil.copytree(train.RUNS / of, train.RUNS / run)
    train.save(state, train.RUNS / run / "state.npz")
    print(f"run {run!r} begins at step {int(state.step)}")


def main(arguments: list[str] | None = None) -> None:
    """Export a run; where it goes into the package, document it, too."""
    parser = argparse.ArgumentParser(prog="python -m pocket.export", description=__doc__)
    parser.add_argument("--run", default="main", help="name of the folder in pocket/runs/")
    parser.add_argument("--to", type=Path, default=POCKET, help="folder to write")
    parser.add_argument("--last", action="store_true", help="the last step's weights, no average")
    parser.add_argument("--also", nargs=2, metavar=("RUN", "SHARE"), help="another run to mix in")
    parser.add_argument("--unrounded", action="store_true", help="experts in bf16, too")
    parser.add_argument("--begin", metavar="RUN", help="begin this run with them, export nothing")
    options = parser.parse_args(arguments)
    state, config, tok = read_run(options.run)
    params = state.params if options.last else state.average
    if options.also:
        run, share = options.also[0], float(options.also[1])
        other = read_run(run)[0]
        others = other.params if options.last else other.average
        params = jax.tree.map(lambda one, two: one + share * (two - one), params, others)
    if options.begin:
        begin(options.begin, options.run, dataclasses.replace(state, params=params, average=params))
        return
    if options.unrounded and options.to == POCKET:
        raise SystemExit("--unrounded is for comparing: say where with --to FOLDER")
    stored = jax.tree.map(lambda w: w.astype(jnp.bfloat16), params)
    stored = stored if options.unrounded else packed(params)
    save_checkpoint(stored, config, options.to, kept_ids=tok.kept_ids)
    size = sum(path.stat().st_size for path in options.to.iterdir())
    print(f"step {int(state.step)}: {size / 1e6:.2f} MB in {options.to}")
    if options.to == POCKET:
        document(options.run, int(state.step))
        record()  # what `python -m gptoss_edu verify` compares with


if __name__ == "__main__":
    main()
