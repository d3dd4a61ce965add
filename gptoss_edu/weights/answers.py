"""What is known of a checkpoint, and what it answers: the evidence that `verify` (verify.py) needs.

What is known of the published checkpoints lies in data/published.json; of any other in the file
answers.json beside its weights, which `record` writes for a copy that is known to be good. An
answer is known token by token, with how likely each of them was; it is compared by feeding it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gptoss_edu.cache import capacity_for, empty_cache
from gptoss_edu.config import GPT_OSS_20B, GPT_OSS_120B, Config
from gptoss_edu.generation import decode_step, prefill
from gptoss_edu.harmony import render
from gptoss_edu.model import Model, Params
from gptoss_edu.tokenizer import NoText, Tokenizer
from gptoss_edu.weights.checkpoint import SYNTHETIC
from gptoss_edu.weights.files import is_there, read_json, visible
from gptoss_edu.weights.mapped import MANIFEST, read_manifest

PUBLISHED = Path(__file__).parents[1] / "data" / "published.json"
ANSWERS = "answers.json"
MODELS = {"openai/gpt-oss-20b": GPT_OSS_20B, "openai/gpt-oss-120b": GPT_OSS_120B}
Known = dict[str, Any]  # see `record` in verify.py, which writes one


def published() -> dict[str, Known]:
    """What is known about the published checkpoints: sizes, sha256, answers, and who says so."""
    known: dict[str, Known] = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    return known


def find_known(folder: Path, config: Config | None) -> tuple[Known, str]:
    """(what is known of this checkpoint, from where).

    A conversion is known by its manifest, and by what lies beside its source.
    """
    manifest = read_manifest(folder)
    homes = [folder, *([Path(manifest["source"])] if manifest else [])]
    model = next((m for m in MODELS if config == MODELS[m]), None) or claims_to_be(folder)
    known: Known = {}
    source = "nothing: no digests and no answers of this checkpoint are known"
    if path := next((home / ANSWERS for home in homes if is_there(home / ANSWERS)), None):
        known, source = read_answers(path), f"{ANSWERS} beside the weights"
    elif any((home / SYNTHETIC).is_file() for home in homes):
        source = f"nothing: the weights are random ({SYNTHETIC}), so there is no right answer"
        if claimed := claims_to_be(folder):  # laid out as published: sizes can be compared
            files = published()[claimed]["files"].items()
            known = {"files": {name: file | {"sha256": None} for name, file in files}}
    elif model:
        known = published()[model]
        source = f"{model} at revision {known['revision'][:12]}"
    if manifest:
        known = known | {"files": manifest["files"]}
        source += f"; files with {MANIFEST}, which `convert` wrote"
    return known, source


def read_answers(path: Path) -> Known:
    """What `record` wrote, or the like: digests, answers, and how near answers must come."""
    try:
        known: Known = read_json(path)
        numbers = [known["tolerance"]["absolute"], known["tolerance"]["relative"]]
        whole = [file["bytes"] for file in known["files"].values()]
        texts = [file["sha256"] for file in known["files"].values()]
        for answer in known["answers"]:
            numbers += answer["log_probabilities"]
            texts.append(answer["prompt"])
            if "rows" in answer:
                whole += [answer["rows"][0], *answer["rows"], *answer["prompt_rows"]]
            else:
                texts.append(answer["continuation"])
        right = all(type(number) is int and number >= 0 for number in whole)
        right &= all(type(number) in (int, float) and math.isfinite(number) for number in numbers)
        if not right or not all(isinstance(text, str) for text in texts):
            raise ValueError("found something else where a number or a text is expected")
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is not what `verify --record` writes ({visible(repr(error), 400)}); delete it,"
            " or record a good copy again"
        ) from error
    return known


def claims_to_be(folder: Path) -> str | None:
    """The published checkpoint whose names and sizes of files these are."""
    for model, known in published().items():
        files = {n: f["bytes"] for n, f in known["files"].items() if n.endswith(".safetensors")}
        if any((p := folder / n).is_file() and p.stat().st_size == files[n] for n in files):
            return model
    return None


def judge(model: Model, params: Params, answer: Known, known: Known) -> tuple[list[str], str]:
    """Feed the known answer token by token: is each the likeliest, as likely as it should be?

    Returns what is wrong, and what to say if nothing is.

    After a wrong token the right one is fed, so that one near tie does not decide about all that
    follows. A token counts as the likeliest, too, if no more than the tolerance separates it: 16
    bits round the logits of a real model to steps of 0.1, and programs differ in such near ties.
    """
    absolute, relative = (known["tolerance"][key] for key in ("absolute", "relative"))
    prompt, rows, expected = rows_of(answer, model.tokenizer)
    if wrong := [row for row in (*prompt, *rows) if row >= model.config.vocab_size]:
        rows_known = f"{model.config.vocab_size:,} rows"
        raise ValueError(f"a known answer has row {wrong[0]} of a vocabulary of {rows_known}")
    problems: list[str] = []
    worst, ties = 0.0, 0
    for step, log_V in enumerate(follow(model, params, prompt, rows)):
        token, best = rows[step], int(np.argmax(log_V))
        ties += token != best
        near = absolute + relative * abs(log_V[best])
        if not log_V[token] >= log_V[best] - near:  # also where there is no number
            names = (name_of(row, model.tokenizer) for row in (best, token))
            problems.append("token {} is {}, expected {}".format(step + 1, *names))
        if step < len(expected):
            difference, allowed = log_V[token] - expected[step], relative * abs(expected[step])
            worst = max(worst, abs(difference))
            if not abs(difference) <= absolute + allowed:
                problems.append(
                    f"token {step + 1} has log-probability {log_V[token]:.3f}, expected"
                    f" {expected[step]:.3f} ± {absolute + allowed:.3f}"
                )
    passed = f"{len(rows)} tokens are the likeliest"
    passed += f" ({ties} of them as likely as another, within the tolerance)" if ties else ""
    if expected:
        allowed = f"{absolute:g} + {relative:.0%}"
        passed += f", {len(expected)} log-probabilities within {worst:.2g} ({allowed} is allowed)"
    return problems, passed


def rows_of(
    answer: Known, tokenizer: Tokenizer | NoText
) -> tuple[list[int], list[int], list[float]]:
    """(rows of the prompt, rows of the answer, log-probabilities of its first tokens)."""
    expected = answer["log_probabilities"]
    if "rows" in answer:
        return answer["prompt_rows"], answer["rows"], expected
    if isinstance(tokenizer, NoText):
        raise ValueError(f"no tokenizer reads {answer['prompt']!r}: nothing tells the rows' ids")
    prompt, rows = (
        tokenizer.to_rows(tokenizer.encode(answer[key])) for key in ("prompt", "continuation")
    )
    return prompt, rows, expected


def name_of(row: int, tokenizer: Tokenizer | NoText) -> str:
    """A token for people."""
    if isinstance(tokenizer, NoText):
        return f"row {row}"
    return repr(tokenizer.decode(tokenizer.to_ids([row])))


def follow(
    model: Model, params: Params, prompt: Sequence[int], rows: list[int], count: int | None = None
) -> Iterator[np.ndarray]:
    """Yield log_V, the log-probability of every token, before each of the `rows`.

    With `count`, so many are written greedily, and appended to `rows`.
    """
    count, config = count or len(rows), model.config
    room = capacity_for(len(prompt) + count, config.max_positions)
    cache = empty_cache(config, 1, room, model.dtype)
    logits_BV, cache = prefill(model, params, [list(prompt)], cache)
    for step in range(count):
        log_V = np.asarray(jax.nn.log_softmax(logits_BV[0].astype(jnp.float32)), np.float64)
        if step == len(rows):
            rows.append(int(np.argmax(log_V)))
        yield log_V
        if step + 1 < count:
            logits_BV, cache = decode_step(model, params, [rows[step]], cache)


def record_answer(model: Model, params: Params, question: str, tokens: int) -> Known:
    """What the model answers to a question; without a tokenizer, to rows that stand for it."""
    if isinstance(model.tokenizer, Tokenizer):
        prompt = model.tokenizer.to_rows(model.tokenizer.fit(render(question)))
    else:
        prompt = [byte % model.config.vocab_size for byte in question.encode()]
    rows: list[int] = []
    steps = follow(model, params, prompt, rows, tokens)
    log = [round(float(log_V[rows[step]]), 6) for step, log_V in enumerate(steps)]
    return {"prompt": question, "prompt_rows": prompt, "rows": rows, "log_probabilities": log}
