"""Measure the pocket model on held-out questions, through `generate` and with the packed weights.

An answer counts only if the whole final message (or the whole tool call) is the expected one, word
for word. `python -m pocket.evaluate` prints the table; `--write` puts it into the model card,
between its markers, and the numbers into results.json.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gptoss_edu import generate, load_model
from gptoss_edu.attention import NoCache
from gptoss_edu.model import Model, Params, run_blocks
from gptoss_edu.weights.checkpoint import POCKET
from pocket import tasks

HERE = Path(__file__).parent
CARD, RESULTS = HERE / "README.md", HERE / "results.json"
TASKS = (*tasks.TASKS, "follow", "tool", "tool_result")
MAX_TOKENS = 200


def answers(
    model: Model, params: Params, examples: Sequence[tasks.Example], batch: int, **settings: Any
) -> list:
    """One Reply per example, in order; examples that share effort and tools go in batches.

    `settings` go to `generate`: greedy with at most 200 tokens, unless they say otherwise.
    """
    groups: dict[Any, list[int]] = defaultdict(list)
    for index, example in enumerate(examples):
        groups[example.effort, example.tools, example.instructions].append(index)
    replies: list[Any] = [None] * len(examples)
    for (effort, tools, instructions), members in groups.items():
        for begin in range(0, len(members), batch):
            part = members[begin : begin + batch]
            full = part + part[:1] * (batch - len(part))  # one batch size compiles once
            found = generate(
                model,
                params,
                [list(examples[index].messages) for index in full],
                reasoning_effort=effort,
                instructions=instructions,
                tools=[tasks.CALCULATOR] if tools else None,
                **({"max_tokens": MAX_TOKENS, "temperature": 0.0} | settings),
            )
            for index, reply in zip(part, found, strict=False):
                replies[index] = reply
    return replies


def right(example: tasks.Example, reply: Any) -> bool:
    """Is the last message exactly the expected one, and did the model stop?"""
    wanted = example.reply[-1]
    if wanted.recipient is None:
        return reply.finish_reason == "stop" and reply.final == wanted.text
    texts = [m.text for m in reply.messages if m.recipient == wanted.recipient]
    return reply.finish_reason == "tool_call" and texts == [wanted.text]


def measure(
    model: Model, params: Params, names: Sequence[str], efforts: Sequence[str], count: int,
    batch: int, show: int = 0,
) -> dict[str, dict[str, list[int]]]:  # fmt: skip
    """task -> effort -> [right, asked] on held-out examples; `show` mistakes are printed."""
    table: dict[str, dict[str, list[int]]] = {}
    for name in names:
        table[name] = {}
        for effort in efforts:
            examples = plain(tasks.held_out_examples(name, effort, count))
            replies = answers(model, params, examples, batch)
            hits = [right(e, r) for e, r in zip(examples, replies, strict=True)]
            table[name][effort] = [sum(hits), len(hits)]
            wrong = [(e, r) for e, r, hit in zip(examples, replies, hits, strict=True) if not hit]
            for example, reply in wrong[:show]:
                said = [message.text for message in reply.messages]
                print(f"  {example.messages[-1]['content']!r} -> {said}")
            print(f"{name:12} {effort:7} {sum(hits)}/{len(hits)}", flush=True)
    return table


def plain(examples: Sequence[tasks.Example]) -> list[tasks.Example]:
    """Without the rare developer messages, so that batches are large."""
    fixed = ("tool", "tool_result")
    return [
        tasks.dataclasses.replace(e, instructions=None, tools=e.tools and e.task in fixed)
        for e in examples
    ]


def expert_shares(model: Model, params: Params, count: int = 128) -> list[list[float]]:
    """Layer -> expert -> its share of choices, relative to a fair share, on true conversations."""
    from pocket import rows

    tok, config = model.tokenizer, model.config
    examples = [e for _, e in zip(range(count), tasks.stream(99), strict=False)]
    ids = [tok.to_rows(tok.fit([*rows.prompt_ids(e), *rows.reply_ids(e)])) for e in examples]
    width = 256
    tokens_BT, position_BT = np.zeros((count, width), np.int32), np.full((count, width), -1)
    for index, row in enumerate(ids):
        row = row[:width]
        tokens_BT[index, : len(row)], position_BT[index, : len(row)] = row, range(len(row))
    kvs = (NoCache(),) * config.num_layers
    see = jax.jit(
        lambda p, t, q: [
            seen.routing.expert_BTX for seen in run_blocks(p, t, q, kvs, config, jnp.float32)[2]
        ]
    )
    shares = np.zeros((config.num_layers, config.num_experts))
    for begin in range(0, count, 16):
        part = slice(begin, begin + 16)
        for layer, expert_BTX in enumerate(see(params, tokens_BT[part], position_BT[part])):
            chosen = np.asarray(expert_BTX)[position_BT[part] >= 0]
            shares[layer] += np.bincount(chosen.reshape(-1), minlength=config.num_experts)
    shares *= config.num_experts / shares.sum(axis=1, keepdims=True)
    return np.round(shares, 3).tolist()


def to_table(table: dict[str, dict[str, list[int]]]) -> str:
    """Markdown: one line per task, one column per effort."""
    efforts = list(next(iter(table.values())))
    lines = [f"| task | {' | '.join(efforts)} |", f"|---|{'---:|' * len(efforts)}"]
    for name, row in table.items():
        cells = [f"{100 * hits / max(asked, 1):.1f} % of {asked}" for hits, asked in row.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def put_between(text: str, marker: str, content: str) -> str:
    """Text with everything between `<!-- marker -->` and `<!-- /marker -->` replaced."""
    begin, end = f"<!-- {marker} -->", f"<!-- /{marker} -->"
    if begin not in text or end not in text:
        raise ValueError(f"the model card lacks {begin} ... {end}; put the two lines back")
    head, rest = text.split(begin)
    return f"{head}{begin}\n{content}\n{end}{rest.split(end)[1]}"


def fingerprint(folder: Path) -> str:
    """sha256 of a checkpoint's weights, shortened."""
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()[:16]


def keep(name: str, found: Any, words: str) -> None:
    """Put one result into results.json, and its words into the model card.

    The fingerprint of the shipped weights goes with it: a test finds results of older weights.
    """
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    weights = results.get("weights", {}) | {name: fingerprint(POCKET)}
    results |= {name: found, "weights": weights}
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    CARD.write_text(put_between(CARD.read_text(encoding="utf-8"), name, words), encoding="utf-8")


def beside_unrounded(
    model: Model, params: Params, folder: Path, options: argparse.Namespace
) -> dict[str, dict[str, list[int]]]:
    """task -> high effort packed and unrounded -> [right, asked], on the same questions."""
    other = load_model(folder)
    names, count, batch = options.tasks, options.count, options.batch
    columns = {
        "packed": measure(model, params, names, ("high",), count, batch),
        "bf16": measure(*other, names, ("high",), count, batch),
    }
    return {
        name: {title: table[name]["high"] for title, table in columns.items()} for name in names
    }


def main(arguments: list[str] | None = None) -> None:
    """Evaluate, print, and write if asked."""
    parser = argparse.ArgumentParser(prog="python -m pocket.evaluate", description=__doc__)
    add = parser.add_argument
    add("--model", type=Path, default=POCKET, help="folder of the checkpoint")
    add("--tasks", nargs="+", default=TASKS, choices=TASKS)
    add("--efforts", nargs="+", default=tasks.EFFORTS, choices=tasks.EFFORTS)
    add("--count", type=int, default=100, help="questions per task and effort")
    add("--batch", type=int, default=50)
    add("--show", type=int, default=0, help="mistakes to print per task and effort")
    add("--unrounded", type=Path, help="folder of the same weights in bf16, to compare with")
    add("--write", action="store_true", help="update README.md and results.json")
    options = parser.parse_args(arguments)
    model, params = load_model(options.model)
    began = time.monotonic()
    if options.unrounded:
        table = beside_unrounded(model, params, options.unrounded, options)
        print(to_table(table))
        if options.write:
            keep("unrounded", table, to_table(table))
        return
    table = measure(
        model, params, options.tasks, options.efforts, options.count, options.batch, options.show
    )
    shares = expert_shares(model, params)
    least = f"Least used expert of any layer: {min(map(min, shares)):.2f} of its fair share."
    print(f"{to_table(table)}\n{least}\n{time.monotonic() - began:.0f} s")
    if options.write:
        keep("accuracy", table, to_table(table))
        keep("expert_shares", shares, least)


if __name__ == "__main__":
    main()
