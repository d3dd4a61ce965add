"""Is this checkpoint what it should be? `python -m gptoss_edu verify` says so in a table.

Three kinds of evidence, each blind to something. Sizes and sha256 see any changed bit, but only of
files whose digests are known. Names, shapes and finite values can be checked of any checkpoint, but
tell no good weight from a wrong one. Answers see everything that matters to the model, nibbles in
the wrong order and exchanged experts above all, but only roughly, and only where answers are known.
So the table keeps apart what passed, what failed, and what could not be checked.

What is known of the published checkpoints lies in data/published.json; of any other in the file
answers.json beside its weights, which `record` writes for a copy that is known to be good.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import textwrap
import warnings
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from gptoss_edu.cache import capacity_for, empty_cache
from gptoss_edu.config import GPT_OSS_20B, GPT_OSS_120B, Config
from gptoss_edu.generation import decode_step, prefill
from gptoss_edu.harmony import render
from gptoss_edu.model import Layer, Model, Params
from gptoss_edu.mxfp4 import Mxfp4
from gptoss_edu.tokenizer import NoText, Tokenizer
from gptoss_edu.weights.checkpoint import (
    CONFIG,
    SYNTHETIC,
    find_folder,
    load_model,
    read_config,
    read_tokenizer,
)
from gptoss_edu.weights.layout import Layout, check_tensors, find_layout, places
from gptoss_edu.weights.mapped import MANIFEST, read_manifest, write_json
from gptoss_edu.weights.shards import DTYPES, Tensor, find_tensors

PASSED, FAILED, UNCHECKED = "passed", "failed", "not checked"
PUBLISHED = Path(__file__).parents[1] / "data" / "published.json"
ANSWERS = "answers.json"
MODELS = {"openai/gpt-oss-20b": GPT_OSS_20B, "openai/gpt-oss-120b": GPT_OSS_120B}
PIECE = 1 << 22
EXPONENT = {"BF16": 0x7F80, "F16": 0x7C00, "F32": 0x7F800000}  # all ones: infinite, or no number
LARGEST_SCALE = 134  # one weight of 6 * 2^7 or more would drown all others
OWN_TOLERANCE = {"absolute": 0.01, "relative": 0.01}  # the same weights, other processors
NIBBLES = (
    "nothing in the bytes shows which half of a byte comes first, only answers do, and none are"
    " known"
)
Known = dict[str, Any]


class Row(NamedTuple):
    """One line of the table: what was checked, how it ended, and what was found."""

    check: str
    state: str
    detail: str


class Report(NamedTuple):
    """All rows, the folder that was looked at, what it was compared with, and who says so."""

    folder: Path
    compared_with: str
    rows: list[Row]
    note: str = ""

    def count(self, state: str) -> int:
        """How many checks ended like that."""
        return sum(row.state == state for row in self.rows)


def verify(path_or_id: str | Path | None = None, *, answers: bool = True) -> Report:
    """Check a checkpoint as far as possible; without `answers` the weights are read, not loaded.

    Takes what `load_model` takes. What is wrong with the checkpoint is in the report; raised is
    only that there is none: FileNotFoundError, ConnectionError.
    """
    folder = find_folder(path_or_id)
    rows: list[Row] = []
    config = attempt(rows, "config.json", lambda: look_at_config(folder))
    tensors = layout = None
    if config is not None:
        tensors, layout = attempt(
            rows, "names, shapes, types", lambda: look_at_headers(folder, config)
        ) or (None, None)
        attempt(rows, "vocabulary", lambda: look_at_vocabulary(folder, config))
    known, source = attempt(rows, ANSWERS, lambda: find_known(folder, config)) or ({}, "nothing")
    kinds = kinds_of(layout, config) if layout else {}
    seen = scan(folder, tensors or {}, kinds, known.get("experts", ()))
    rows += compare_files(folder, seen, known)
    if layout is not None:
        rows += compare_values(seen, layout)
        rows += compare_experts(seen, layout, known)
        rows += check_answers(folder, layout, known, source) if answers else skip_answers(layout)
    return Report(folder, source, rows, known.get("source", ""))


def attempt(rows: list[Row], check: str, look: Callable[[], tuple[Any, str]]) -> Any:
    """What was found, with a row about it (unless there is nothing to say); None if it failed."""
    try:
        value, detail = look()
    except (OSError, ValueError) as error:
        rows.append(Row(check, FAILED, str(error)))
        return None
    if detail:
        rows.append(Row(check, PASSED, detail))
    return value


# ------------------------------------------------------------------------- what the folder says


def look_at_config(folder: Path) -> tuple[Config, str]:
    """The configuration; it must be a published one where the weights have published names."""
    config = read_config(folder)
    model = next((name for name, expected in MODELS.items() if config == expected), None)
    claimed = model or claims_to_be(folder)
    if claimed and config != MODELS[claimed]:
        found, expected = dataclasses.asdict(config), dataclasses.asdict(MODELS[claimed])
        wrong = [
            f"{k} {found[k]}, expected {expected[k]}" for k in found if found[k] != expected[k]
        ]
        raise ValueError(
            f"the weights are in files of the sizes of {claimed}, but found {'; '.join(wrong)};"
            " take config.json from the same checkpoint"
        )
    if model is None:
        return config, f"{config.num_layers} layers, consistent in itself"
    digest = hashlib.sha256((folder / CONFIG).read_bytes()).hexdigest()
    same = digest == published()[model]["files"][CONFIG]["sha256"]
    return config, f"the numbers of {model}" + (", byte for byte as published" if same else "")


def claims_to_be(folder: Path) -> str | None:
    """The published checkpoint whose names and sizes of files these are."""
    for model, known in published().items():
        files = {n: f["bytes"] for n, f in known["files"].items() if n.endswith(".safetensors")}
        if any((p := folder / n).is_file() and p.stat().st_size == files[n] for n in files):
            return model
    return None


def look_at_headers(folder: Path, config: Config) -> tuple[tuple[dict, Layout], str]:
    """(tensors, layout), all of them as the configuration demands."""
    tensors = find_tensors(folder)
    layout = find_layout(tensors, config)
    check_tensors(tensors, layout, config, folder)
    experts = "packed in MXFP4" if any(field.half for field in layout) else "not packed"
    return (tensors, layout), f"{len(tensors)} tensors as expected, experts {experts}"


def look_at_vocabulary(folder: Path, config: Config) -> tuple[Tokenizer | NoText, str]:
    """The tokenizer, where something says what the rows stand for."""
    tokenizer = read_tokenizer(folder, config)
    said = "whose ids nothing tells" if isinstance(tokenizer, NoText) else "each with its id"
    return tokenizer, f"{config.vocab_size:,} rows, {said}"


def published() -> dict[str, Known]:
    """What is known about the published checkpoints: sizes, sha256, answers, and who says so."""
    return json.loads(PUBLISHED.read_text(encoding="utf-8"))


def find_known(folder: Path, config: Config | None) -> tuple[tuple[Known, str], str]:
    """((what is known of this checkpoint, from where), nothing to say about it).

    A converted checkpoint is known by its manifest, and by what lies beside its source.
    """
    manifest = read_manifest(folder)
    homes = [folder, *([Path(manifest["source"])] if manifest else [])]
    model = next((m for m in MODELS if config == MODELS[m]), None) or claims_to_be(folder)
    known, source = {}, "nothing: no digests and no answers of this checkpoint are known"
    if path := next((home / ANSWERS for home in homes if (home / ANSWERS).is_file()), None):
        known, source = read_answers(path), f"{ANSWERS} beside the weights"
    elif any((home / SYNTHETIC).is_file() for home in homes):
        source = f"nothing: the weights are random ({SYNTHETIC}), so there is no right answer"
    elif model:
        known = published()[model]
        source = f"{model} at revision {known['revision'][:12]}"
    if manifest:
        known = known | {"files": manifest["files"]}
        source += f"; files with {MANIFEST}, which `convert` wrote"
    return (known, source), ""


def read_answers(path: Path) -> Known:
    """What `record` wrote, or the like: digests, answers, and how near answers must come."""
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        {name: (file["bytes"], file["sha256"]) for name, file in known["files"].items()}
        [(answer["prompt"], answer["log_probabilities"]) for answer in known["answers"]]
        known["tolerance"]["absolute"] + known["tolerance"]["relative"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is not what `verify --record` writes ({error!r}); delete it, or record a good"
            " copy again"
        ) from error
    return known


# -------------------------------------------------------------------------- every byte, one time


@dataclasses.dataclass
class Seen:
    """What a look at every byte found. Experts: a checksum of each in every tensor of experts."""

    files: dict[str, tuple[int, str]] = dataclasses.field(default_factory=dict)
    not_finite: dict[str, int] = dataclasses.field(default_factory=dict)
    scales: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict)
    experts: dict[str, list[int]] = dataclasses.field(default_factory=dict)


def kinds_of(layout: Layout, config: Config) -> dict[str, str]:
    """Name of each packed tensor -> "blocks" or "scales"."""
    return {
        entry.name: field.half
        for layer in range(config.num_layers)
        for field, entry in places(layout, layer)
        if field.half
    }


def scan(
    folder: Path, tensors: dict[str, Tensor], kinds: dict[str, str], experts: Collection[str]
) -> Seen:
    """Read every weight file once: digest, values that are no numbers, scales, experts.

    `kinds` names the packed tensors, `experts` those whose experts are wanted one by one.
    """
    seen = Seen()
    tensors = {name: tensor for name, tensor in tensors.items() if tensor.dtype in DTYPES}
    paths = sorted(folder.glob("*.safetensors"))
    total = sum(path.stat().st_size for path in paths)
    bar = tqdm(total=total, unit="B", unit_scale=True, desc="reading", delay=2, disable=None)
    with bar:
        for path in paths:
            inside = {name: tensor for name, tensor in tensors.items() if tensor.path == path}
            digest, size = hashlib.sha256(), 0
            for name, expert, piece in pieces(path, inside, experts):
                digest.update(piece)
                size += len(piece)
                bar.update(len(piece))
                if name is not None:
                    look_at_values(seen, name, kinds.get(name, tensors[name].dtype), piece)
                if expert is not None:
                    sums = seen.experts.setdefault(name, [0] * tensors[name].shape[0])
                    sums[expert] = zlib.crc32(piece, sums[expert])
            seen.files[path.name] = size, digest.hexdigest()
    return seen


def pieces(
    path: Path, tensors: dict[str, Tensor], experts: Collection[str]
) -> Iterator[tuple[str | None, int | None, bytes]]:
    """All bytes of a file in order: (tensor, expert, bytes); no tensor for the header."""
    with open(path, "rb") as file:
        for name, tensor in sorted(tensors.items(), key=lambda item: item[1].begin):
            if gap := tensor.begin - file.tell():
                yield None, None, file.read(gap)
            single = name in experts
            for expert in range(tensor.shape[0] if single else 1):
                rest = tensor.num_bytes // (tensor.shape[0] if single else 1)
                while rest and (piece := file.read(min(PIECE, rest))):
                    rest -= len(piece)
                    yield name, expert if single else None, piece
        while piece := file.read(PIECE):
            yield None, None, piece


def look_at_values(seen: Seen, name: str, kind: str, piece: bytes) -> None:
    """Count what is no number, and note the range of scales. Any nibble is a number."""
    if kind == "scales":
        scales = np.frombuffer(piece, np.uint8)
        low, high = seen.scales.get(name, (255, 0))
        seen.scales[name] = min(low, int(scales.min())), max(high, int(scales.max()))
        wrong = int(np.count_nonzero(scales == 255))
    elif kind in EXPONENT:
        bits = np.frombuffer(piece, f"<u{DTYPES[kind].itemsize}")
        wrong = int(np.count_nonzero((bits & EXPONENT[kind]) == EXPONENT[kind]))
    else:
        wrong = 0
    if wrong:
        seen.not_finite[name] = seen.not_finite.get(name, 0) + wrong


def compare_files(folder: Path, seen: Seen, known: Known) -> list[Row]:
    """Two rows: sizes, sha256."""
    prefix = "original/" if folder.name == "original" else ""
    expected = {
        name.removeprefix(prefix): entry
        for name, entry in known.get("files", {}).items()
        if name.endswith(".safetensors") and ("/" in name) == bool(prefix)
    }
    if not expected.keys() & seen.files.keys():
        why = f"no published file is called {', '.join(sorted(seen.files)[:3])}"
        why = why if expected else "none are known for this checkpoint"
        return [Row("file sizes", UNCHECKED, why), Row("sha256", UNCHECKED, why)]
    wrong_sizes, wrong_bytes, unknown = [], [], 0
    for name, entry in expected.items():
        size, digest = seen.files.get(name, (None, None))
        if size != entry["bytes"]:
            found = "nothing" if size is None else f"{size:,} bytes"
            wrong_sizes.append(f"{name}: found {found}, expected {entry['bytes']:,} bytes")
        if entry["sha256"] is None:
            unknown += 1
        elif digest not in (None, entry["sha256"]):
            wrong_bytes.append(f"{name}: found {digest[:16]}…, expected {entry['sha256'][:16]}…")
    again = "; download or copy these files again (a changed model fails here by right)"
    count = len(expected)
    rows = [summary("file sizes", wrong_sizes, f"{count} of {count} files as expected", again)]
    if unknown == count:
        return [*rows, Row("sha256", UNCHECKED, "the size is published, no sha256 was found")]
    return [*rows, summary("sha256", wrong_bytes, f"{count} of {count} files, every bit", again)]


def summary(check: str, problems: Sequence[str], fine: str, advice: str = "") -> Row:
    """A row that passed, or failed with the first problems."""
    if not problems:
        return Row(check, PASSED, fine)
    more = f", and {len(problems) - 3} more" if len(problems) > 3 else ""
    return Row(check, FAILED, "; ".join(problems[:3]) + more + advice)


def compare_values(seen: Seen, layout: Layout) -> list[Row]:
    """Finite values, and for packed experts a range of scales that a trained model can have."""
    wrong = [
        f"{name}: {count:,} {'scales of 255' if name in seen.scales else 'NaN or infinite'}"
        for name, count in seen.not_finite.items()
    ]
    rows = [summary("finite values", wrong, "no NaN, nothing infinite")]
    if not any(field.half for field in layout):
        return rows
    low = min(low for low, _ in seen.scales.values())
    high = max(high for _, high in seen.scales.values())
    wrong = [
        f"{name}: found a scale of {top}, expected {LARGEST_SCALE} at most"
        for name, (_, top) in seen.scales.items()
        if LARGEST_SCALE < top < 255
    ]
    fine = f"from {low} to {high}: the largest weight is below {6 * 2.0 ** (high - 127):.3g}"
    return [*rows, summary("MXFP4 scales", wrong, fine)]


def compare_experts(seen: Seen, layout: Layout, known: Known) -> list[Row]:
    """Each expert in its place, where checksums of them are known."""
    if not any(field.half for field in layout) and "experts" not in known:
        return []
    expected = {n: sums for n, sums in known.get("experts", {}).items() if n in seen.experts}
    if not expected:
        why = "no checksums of experts are known; sha256 or answers show what is exchanged"
        return [Row("expert order", UNCHECKED, why)]
    wrong = []
    for name, sums in expected.items():
        found = seen.experts[name]
        moved = [e for e, (a, b) in enumerate(zip(found, sums, strict=True)) if a != b]
        if moved and sorted(found) == sorted(sums):
            wrong.append(f"{name}: experts {', '.join(map(str, moved))} have changed places")
        elif moved:
            wrong.append(f"{name}: expert {', '.join(map(str, moved))} is not as recorded")
    return [summary("expert order", wrong, f"each in its place in {len(expected)} tensors")]


# --------------------------------------------------------------------------------------- answers


def skip_answers(layout: Layout) -> list[Row]:
    """The rows of answers that were not asked for."""
    rows = [Row("answers", UNCHECKED, "not asked for")]
    packed = any(field.half for field in layout)
    return rows + ([Row("nibble order", UNCHECKED, NIBBLES)] if packed else [])


def check_answers(folder: Path, layout: Layout, known: Known, source: str) -> list[Row]:
    """A row for each known answer, and one for the order of nibbles, which only they show."""
    packed = any(field.half for field in layout)
    nibbles = [Row("nibble order", UNCHECKED, NIBBLES)] if packed else []
    if not known.get("answers"):
        why = source.removeprefix("nothing: ") if source.startswith("nothing") else "none are known"
        return [Row("answers", UNCHECKED, why), *nibbles]
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            model, params = load_model(folder)
        rows = [judge(model, params, answer, known) for answer in known["answers"]]
    except MemoryError as error:
        return [Row("answers", UNCHECKED, str(error)), *nibbles]
    except (OSError, ValueError, RuntimeError) as error:
        return [Row("answers", FAILED, f"the model cannot answer: {error}"), *nibbles]
    del params
    notes = [Row("conversion", UNCHECKED, str(warning.message)) for warning in caught]
    return rows + notes + ([find_nibble_order(folder, rows, known)] if packed else [])


def find_nibble_order(folder: Path, rows: list[Row], known: Known) -> Row:
    """Low nibble first, as it should be? Wrong answers are tried once more the other way around."""
    wrong = next((i for i, row in enumerate(rows) if row.state == FAILED), None)
    if wrong is None:
        return Row("nibble order", PASSED, "low half first: answers would be wrong otherwise")
    model, params = load_model(folder, each_layer=exchange_nibbles)
    if judge(model, params, known["answers"][wrong], known).state == PASSED:
        detail = (
            "exchanged: answers are right once the halves of each byte change places. The earlier"
            " of two weights belongs in the low half; whoever wrote this file put it in the high"
        )
        return Row("nibble order", FAILED, detail)
    return Row("nibble order", UNCHECKED, "answers are wrong in either order")


def exchange_nibbles(layer: Layer) -> Layer:
    """The layer as it would be if the high half of each byte came first."""

    def exchange(w: Any) -> Any:
        if not isinstance(w, Mxfp4):
            return w
        return dataclasses.replace(w, blocks_EJUO=(w.blocks_EJUO << 4) | (w.blocks_EJUO >> 4))

    return jax.tree.map(exchange, layer, is_leaf=lambda leaf: isinstance(leaf, Mxfp4))


def judge(model: Model, params: Params, answer: Known, known: Known) -> Row:
    """Feed the known answer token by token: is each the likeliest, as likely as it should be?

    After a wrong token the right one is fed, so that one near tie does not decide about all that
    follows. A token counts as the likeliest, too, if no more than the tolerance separates it: 16
    bits round the logits of a real model to steps of 0.1, and programs differ in such near ties.
    """
    absolute, relative = (known["tolerance"][key] for key in ("absolute", "relative"))
    prompt, rows, expected = rows_of(answer, model.tokenizer)
    problems, worst, ties = [], 0.0, 0
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
    fine = f"{len(rows)} tokens are the likeliest"
    fine += f" ({ties} of them as likely as another, within the tolerance)" if ties else ""
    if expected:
        allowed = f"{absolute:g} + {relative:.0%}"
        fine += f", {len(expected)} log-probabilities within {worst:.2g} ({allowed} is allowed)"
    return summary(f"answer to {answer['prompt'][:28]!r}", problems, fine)


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


QUESTIONS = ("How many r's are in strawberry?", "What is 17 + 25?")


def record(path_or_id: str | Path | None = None, *, tokens: int = 16) -> Path:
    """Write answers.json beside a checkpoint that is known to be good; return its path.

    Digests of the files, checksums of every expert, and what the model answers now, greedily: a
    copy that `verify` passes is this checkpoint. It says nothing about whether this one is good.
    """
    folder = find_folder(path_or_id)
    config = read_config(folder)
    (tensors, layout), _ = look_at_headers(folder, config)
    layers = (None, *range(config.num_layers))
    entries = [entry for layer in layers for _, entry in places(layout, layer)]
    experts = [e.name for e in entries if e.axes[0] == "E" and len(e.axes) > 2]
    seen = scan(folder, tensors, kinds_of(layout, config), experts)
    model, params = load_model(folder)
    known = {
        "source": "recorded by `python -m gptoss_edu verify --record`",
        "tolerance": OWN_TOLERANCE,
        "files": {n: {"bytes": size, "sha256": digest} for n, (size, digest) in seen.files.items()},
        "experts": seen.experts,
        "answers": [record_answer(model, params, q, tokens) for q in QUESTIONS],
    }
    path = folder / ANSWERS
    write_json(path, known, indent=None)
    return path


def record_answer(model: Model, params: Params, question: str, tokens: int) -> Known:
    """What the model answers to a question; without a tokenizer, to rows that stand for it."""
    if isinstance(model.tokenizer, NoText):
        prompt = [byte % model.config.vocab_size for byte in question.encode()]
    else:
        prompt = model.tokenizer.to_rows(model.tokenizer.fit(render(question)))
    rows: list[int] = []
    steps = follow(model, params, prompt, rows, tokens)
    log = [round(float(log_V[rows[step]]), 6) for step, log_V in enumerate(steps)]
    return {"prompt": question, "prompt_rows": prompt, "rows": rows, "log_probabilities": log}


# ------------------------------------------------------------------------------------- for people


def describe(report: Report) -> str:
    """The table."""
    width = max(len(row.check) for row in report.rows)
    lines = [f"{report.folder}", f"compared with {report.compared_with}", ""]
    for check, state, detail in report.rows:
        shown = state.upper() if state == FAILED else state
        lines.append(f"  {shown:<11}  {check:<{width}}  {detail}")
    counts = (report.count(state) for state in (PASSED, FAILED, UNCHECKED))
    lines += ["", *textwrap.wrap(report.note, 100)]
    lines += ["{} passed, {} failed, {} could not be checked".format(*counts)]
    return "\n".join(lines)


def as_dict(report: Report) -> dict[str, Any]:
    """The same for JSON."""
    return {
        "folder": str(report.folder),
        "compared_with": report.compared_with,
        "note": report.note,
        "passed": report.count(FAILED) == 0,
        "checks": [row._asdict() for row in report.rows],
    }
