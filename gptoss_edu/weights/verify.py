"""Is this checkpoint what it should be? `python -m gptoss_edu verify` says so in a table.

Three kinds of evidence, each blind to something. Sizes and sha256 see any changed bit, but only of
files whose digests are known. Names, shapes and finite values can be checked of any checkpoint, but
tell no good weight from a wrong one. Answers see everything that matters to the model, halves of
bytes in the wrong order and exchanged experts above all, but only roughly, and only where answers
are known. So the table keeps apart what passed, what failed, and what could not be checked.

What a checkpoint should be, answers.py knows. Text from files is shown with its control characters
made visible.
"""

from __future__ import annotations

import dataclasses
import hashlib
import textwrap
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from gptoss_edu.config import Config
from gptoss_edu.tokenizer import NoText, Tokenizer
from gptoss_edu.weights.answers import (
    ANSWERS,
    MODELS,
    Known,
    claims_to_be,
    find_known,
    judge,
    published,
    record_answer,
)
from gptoss_edu.weights.checkpoint import load_model
from gptoss_edu.weights.files import opened, read_small, replace_json, visible
from gptoss_edu.weights.folders import (
    CONFIG,
    Headers,
    find_folder,
    look,
    read_config,
    read_tokenizer,
)
from gptoss_edu.weights.layout import places
from gptoss_edu.weights.progress import bar
from gptoss_edu.weights.shards import (
    Tensor,
    count_no_numbers,
    find_tensors,
    weight_files,
)

PASSED, FAILED, UNCHECKED = "passed", "failed", "not checked"
PIECE = 1 << 22
LARGEST_SCALE = 134  # one weight of 6 * 2^7 or more would drown all others
OWN_TOLERANCE = {"absolute": 0.01, "relative": 0.01}  # the same weights, other processors
QUESTIONS = ("How many r's are in strawberry?", "What is 17 + 25?")
Found = TypeVar("Found")


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
    headers = None
    if config and attempt(rows, "vocabulary", lambda: look_at_vocabulary(folder, config)):
        headers = attempt(rows, "names, shapes, types", lambda: look_at_headers(folder))
    found = attempt(rows, ANSWERS, lambda: (find_known(folder, config), ""))
    known, source = found or ({}, "nothing")
    seen = scan(folder, find_tensors(folder), scales_in(headers)) if headers else scan(folder)
    rows += compare_files(folder, seen, known)
    if headers:
        rows += compare_values(seen)
        asked = check_answers(folder, known, source) if answers else None
        rows += asked or [Row("answers", UNCHECKED, "not asked for")]
    rows = [Row(*map(visible, row)) for row in rows]
    return Report(folder, visible(source), rows, visible(str(known.get("source", ""))))


def attempt(rows: list[Row], check: str, ask: Callable[[], tuple[Found, str]]) -> Found | None:
    """What was found, with a row about it (unless there is nothing to say); None if it failed."""
    try:
        value, detail = ask()
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
    digest = hashlib.sha256(read_small(folder / CONFIG)).hexdigest()
    same = digest == published()[model]["files"][CONFIG]["sha256"]
    return config, f"the numbers of {model}" + (", byte for byte as published" if same else "")


def look_at_vocabulary(folder: Path, config: Config) -> tuple[Tokenizer | NoText, str]:
    """The tokenizer, where something says what the rows stand for."""
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        tokenizer = read_tokenizer(folder, config)
    known = isinstance(tokenizer, Tokenizer)
    said = [f"each of {tokenizer.vocab_size:,} with its id" if known else "whose ids nothing tells"]
    said += [str(note.message) for note in notes]
    return tokenizer, f"{config.vocab_size:,} rows, {'; '.join(said)}"


def look_at_headers(folder: Path) -> tuple[Headers, str]:
    """All tensors, as the configuration demands them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on the vocabulary, which has a row of its own
        headers = look(folder)
    experts = "packed in MXFP4" if scales_in(headers) else "not packed"
    return headers, f"{len(headers.tensors)} tensors as expected, experts {experts}"


# -------------------------------------------------------------------------- every byte, one time


@dataclasses.dataclass
class Seen:
    """What a look at every byte found: (size, sha256) of files; of tensors how many values are
    not finite, and the smallest and the largest scale.
    """

    files: dict[str, tuple[int, str]] = dataclasses.field(default_factory=dict)
    not_finite: dict[str, int] = dataclasses.field(default_factory=dict)
    scales: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict)


def scales_in(headers: Headers) -> set[Tensor]:
    """All tensors of scales."""
    layers = range(headers.config.num_layers)
    entries = (item for layer in layers for item in places(headers.layout, layer))
    return {headers.tensors[entry.name] for field, entry in entries if field.half == "scales"}


def scan(
    folder: Path, tensors: Mapping[str, Tensor] | None = None, scales: Collection[Tensor] = ()
) -> Seen:
    """Read every weight file once: digest, values that are not finite, range of the `scales`."""
    seen = Seen()
    paths = [path for path in weight_files(folder) if path.is_file()]
    total = sum(path.stat().st_size for path in paths)
    with bar(total, "reading", leave=True) as shown:
        for path in paths:
            inside = {n: t for n, t in (tensors or {}).items() if t.path == path}
            digest, size = hashlib.sha256(), 0
            for name, piece in pieces(path, inside):
                digest.update(piece)
                size += len(piece)
                shown.update(len(piece))
                if name is not None:
                    kind = "scales" if inside[name] in scales else inside[name].dtype
                    look_at_values(seen, name, kind, piece)
            seen.files[path.name] = size, digest.hexdigest()
    return seen


def pieces(path: Path, tensors: dict[str, Tensor]) -> Iterator[tuple[str | None, bytes]]:
    """All bytes of a file in order: (tensor, bytes); no tensor for the header."""
    with opened(path) as file:
        for name, tensor in sorted(tensors.items(), key=lambda item: item[1].begin):
            if gap := tensor.begin - file.tell():
                yield None, file.read(gap)
            rest = tensor.num_bytes
            while rest and (piece := file.read(min(PIECE, rest))):
                rest -= len(piece)
                yield name, piece
        while piece := file.read(PIECE):
            yield None, piece


def look_at_values(seen: Seen, name: str, kind: str, piece: bytes) -> None:
    """Count what is not finite, and note the range of scales. Half a byte is always a number."""
    if kind == "scales":
        scales, (low, high) = np.frombuffer(piece, np.uint8), seen.scales.get(name, (255, 0))
        seen.scales[name] = min(low, int(np.min(scales))), max(high, int(np.max(scales)))
    if wrong := count_no_numbers(piece, kind):
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
        elif digest is not None and digest != entry["sha256"]:
            wrong_bytes.append(f"{name}: found {digest[:16]}…, expected {entry['sha256'][:16]}…")
    again = "; download or copy these files again (a changed model fails here by right)"
    count = len(expected)
    rows = [summary("file sizes", wrong_sizes, f"{count} of {count} files as expected", again)]
    if unknown == count:
        return [*rows, Row("sha256", UNCHECKED, "only the sizes are known")]
    return [*rows, summary("sha256", wrong_bytes, f"{count} of {count} files, every bit", again)]


def summary(check: str, problems: Sequence[str], passed: str, advice: str = "") -> Row:
    """A row that passed, or failed with the first problems."""
    if not problems:
        return Row(check, PASSED, passed)
    more = f", and {len(problems) - 3} more" if len(problems) > 3 else ""
    return Row(check, FAILED, "; ".join(problems[:3]) + more + advice)


def compare_values(seen: Seen) -> list[Row]:
    """Finite values, and for packed experts a range of scales that a trained model can have."""
    wrong = [
        f"{name}: {count:,} {'scales of 255' if name in seen.scales else 'NaN or infinite'}"
        for name, count in seen.not_finite.items()
    ]
    rows = [summary("finite values", wrong, "no NaN, nothing infinite")]
    if not seen.scales:
        return rows
    low = min(low for low, _ in seen.scales.values())
    high = max(high for _, high in seen.scales.values())
    wrong = [
        f"{name}: found a scale of {top}, expected {LARGEST_SCALE} at most"
        for name, (_, top) in seen.scales.items()
        if LARGEST_SCALE < top < 255
    ]
    passed = f"from {low} to {high}: the largest weight is below {6 * 2.0 ** (high - 127):.3g}"
    return [*rows, summary("MXFP4 scales", wrong, passed)]


# --------------------------------------------------------------------------------------- answers


def check_answers(folder: Path, known: Known, source: str) -> list[Row]:
    """A row for each known answer."""
    if not known.get("answers"):
        why = source.removeprefix("nothing: ") if source.startswith("nothing") else "none are known"
        return [Row("answers", UNCHECKED, why)]
    try:
        model, params = load_model(folder)
        judged = [(a["prompt"], judge(model, params, a, known)) for a in known["answers"]]
    except MemoryError as error:
        return [Row("answers", UNCHECKED, str(error))]
    except (OSError, ValueError, RuntimeError) as error:
        return [Row("answers", FAILED, f"the model cannot answer: {error}")]
    return [summary(f"answer to {prompt[:28]!r}", *found) for prompt, found in judged]


def record(path_or_id: str | Path | None = None, *, tokens: int = 16) -> Path:
    """Write answers.json beside a checkpoint that is known to be good; return its path.

    Sizes and digests of the files, and what the model answers now, greedily: a copy that `verify`
    passes is this checkpoint. It says nothing about whether this one is good.
    """
    folder = find_folder(path_or_id)
    look_at_headers(folder)
    files = scan(folder).files
    model, params = load_model(folder)
    known = {
        "source": "recorded by `python -m gptoss_edu verify --record`",
        "tolerance": OWN_TOLERANCE,
        "files": {n: {"bytes": size, "sha256": digest} for n, (size, digest) in files.items()},
        "answers": [record_answer(model, params, q, tokens) for q in QUESTIONS],
    }
    path = folder / ANSWERS
    replace_json(path, known, indent=None)
    return path


# ------------------------------------------------------------------------------------- for people


def describe(report: Report) -> str:
    """The table."""
    width = max(len(row.check) for row in report.rows)
    lines = [visible(str(report.folder)), f"compared with {report.compared_with}", ""]
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
