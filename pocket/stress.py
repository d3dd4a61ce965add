"""What no table of right answers shows: is every reply well formed, and does the model know its
limits?

`sampled` draws replies at temperature 1.0 to conversations of all kinds (efforts, tools, several
turns) and parses each strictly with openai-harmony. `out_of_scope` asks 500 prompts about things
that the model never learned. `python -m pocket.stress --write` puts the counts into the model card
and results.json, and prints what failed.
"""

from __future__ import annotations

import argparse
import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import openai_harmony

from gptoss_edu import load_model
from gptoss_edu.model import Model, Params
from gptoss_edu.reply import Reply
from gptoss_edu.tokenizer import load_encoding
from gptoss_edu.weights.checkpoint import POCKET
from pocket import tasks
from pocket.evaluate import answers, keep, to_table
from pocket.out_of_scope import prompts

CHANNELS = {"analysis", "commentary", "final"}


def complaint(reply: Reply) -> str | None:
    """What is malformed in a reply; None if it parses strictly, on known channels, to a stop."""
    if reply.finish_reason not in ("stop", "tool_call"):
        return f"finish reason {reply.finish_reason!r} after {len(reply.token_ids)} tokens"
    role = openai_harmony.Role.ASSISTANT
    try:
        messages = load_encoding().parse_messages_from_completion_tokens(
            list(reply.token_ids), role, strict=True
        )
    except openai_harmony.HarmonyError as error:
        return f"openai-harmony: {error}"
    channels = {message.channel for message in messages}
    if not messages or not channels <= CHANNELS:
        return f"channels {channels}"
    roles = {message.author.role for message in messages}
    return None if roles == {role} else f"roles {roles}"


def sampled(model: Model, params: Params, count: int, batch: int) -> list[tuple[Any, Reply, Any]]:
    """(example, reply, complaint or None) for `count` conversations, drawn at temperature 1.0."""
    examples = list(itertools.islice(tasks.stream(77), count))
    replies = answers(model, params, examples, batch, temperature=1.0, max_tokens=400)
    return [(e, r, complaint(r)) for e, r in zip(examples, replies, strict=True)]


def out_of_scope(
    model: Model, params: Params, count: int, batch: int
) -> list[tuple[str, str, Reply, Any]]:
    """(kind, prompt, reply, complaint or None) for prompts whose answer should be "sorry".

    Efforts take turns. A complaint is either a malformed reply, which no prompt excuses, or
    another answer than the polite sentence.
    """
    asked = prompts(count)
    examples = [
        tasks.Example(kind, "", tasks.EFFORTS[k % 3], (tasks.user(text),), (), tasks.SORRY)
        for k, (kind, text) in enumerate(asked)
    ]
    long = {k for k, (_, text) in enumerate(asked) if len(text) > 500}
    found = []
    for part, size in ((set(range(len(asked))) - long, batch), (long, 4)):  # attention is square
        order = sorted(part, key=lambda k: len(asked[k][1]))  # like lengths in a batch
        replies = answers(model, params, [examples[k] for k in order], size, max_tokens=400)
        for k, reply in zip(order, replies, strict=True):
            wrong = None if reply.final == tasks.SORRY else "another answer"
            found.append((*asked[k], reply, complaint(reply) or wrong))
    return found


def main(arguments: list[str] | None = None) -> None:
    """Run both, print what failed, and write if asked."""
    parser = argparse.ArgumentParser(prog="python -m pocket.stress", description=__doc__)
    add = parser.add_argument
    add("--model", type=Path, default=POCKET, help="folder of the checkpoint")
    add("--sampled", type=int, default=2000, help="replies to sample")
    add("--prompts", type=int, default=500, help="out-of-scope prompts to ask")
    add("--batch", type=int, default=50)
    add("--write", action="store_true", help="update README.md and results.json")
    options = parser.parse_args(arguments)
    model, params = load_model(options.model)
    drawn = sampled(model, params, options.sampled, options.batch)
    bad = [(e, r, c) for e, r, c in drawn if c]
    for example, reply, why in bad[:20]:
        print(f"  {example.task} {example.effort} {example.messages[-1]['content']!r}: {why}")
        print(f"    {reply.messages}")
    print(f"sampled at temperature 1.0: {len(drawn) - len(bad)} of {len(drawn)} well formed")
    asked = out_of_scope(model, params, options.prompts, options.batch)
    for kind, text, reply, why in asked:
        if why:
            print(f"  {kind} {text[:80]!r}: {why}: {[m.text[:80] for m in reply.messages]}")
    counts, good = Counter(k for k, *_ in asked), Counter(k for k, *_, why in asked if not why)
    table = {kind: {"polite or right": [good[kind], counts[kind]]} for kind in counts}
    table["all"] = {"polite or right": [good.total(), counts.total()]}
    malformed = sum(complaint(reply) is not None for _, _, reply, _ in asked)
    print(to_table(table), f"\nmalformed or endless: {malformed}")
    if options.write:
        sentence = (
            f"{len(drawn) - len(bad):,} of {len(drawn):,} replies sampled at temperature 1.0 parse"
            " strictly and end on a stop token."
        )
        keep("sampled", [len(drawn) - len(bad), len(drawn)], sentence)
        ended = f"\n\nMalformed or endless among them: {malformed}."
        keep("out_of_scope", table, to_table(table) + ended)


if __name__ == "__main__":
    main()
