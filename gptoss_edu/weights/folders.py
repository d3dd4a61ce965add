"""A folder with a checkpoint: where it is, and what it holds, by its small files and headers.

Every name, shape and dtype is checked against the name map (layout.py), which takes a few kilobytes
of the files: what does not fit together is refused before 13.8 GB are read.

Source: the checkpoints that OpenAI publishes as openai/gpt-oss-20b and openai/gpt-oss-120b.
"""

from __future__ import annotations

import dataclasses
import os
import re
import warnings
from pathlib import Path
from typing import NamedTuple

from gptoss_edu.config import Config
from gptoss_edu.tokenizer import CALL, FULL_VOCAB, NoText, Tokenizer
from gptoss_edu.weights.dialects import published_names
from gptoss_edu.weights.files import is_there, read_json, read_small, visible
from gptoss_edu.weights.hub import download
from gptoss_edu.weights.layout import Layout, check_tensors, find_layout, places
from gptoss_edu.weights.shards import INDEX, Tensor, find_tensors, weight_files

POCKET = Path(__file__).parents[1] / "data" / "pocket"
CONFIG, KEPT_IDS = "config.json", "o200k_ids.json"
ADAPTER = "adapter_model.safetensors"  # what PEFT calls its own
DRAFT = ".saving-"  # how the folder begins in which a checkpoint is written
SPARE = 512  # rows that a small vocabulary may have beyond its ids, if they are padding
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def find_folder(
    path_or_id: str | Path | None, revision: str | None = None, token: str | None = None
) -> Path:
    """The folder with the weights: of the pocket model, on this disk, or from the Hub.

    Also inside what was given: `original/`, or the one snapshot in a folder of the Hub's cache.
    Raises FileNotFoundError where there is none, ValueError for a `revision` of a folder.
    """
    given, shown = os.fspath(POCKET if path_or_id is None else path_or_id), visible(path_or_id, 200)
    folder = Path(os.path.expanduser(given))
    if os.path.isfile(folder):
        raise ValueError(f"{folder} is a file, expected its folder: pass {folder.parent}")
    is_id = isinstance(path_or_id, str) and HUB_ID.fullmatch(path_or_id) is not None
    if given and os.path.isdir(folder):
        if revision is not None:
            raise ValueError(
                f"revision is {revision!r}, which only a repository on the Hub has, but {folder} is"
                " a folder; leave it out"
            )
        inside = _inside(folder)
        if is_id and not is_there(inside / CONFIG):
            raise FileNotFoundError(
                f"there is a folder {shown!r} here without {CONFIG}, so the Hub is not asked for"
                " the repository of that name; remove or rename the folder, or call from another"
            )
        return inside
    if is_id:
        return download(given, revision=revision, token=token)
    raise FileNotFoundError(
        f"there is no folder {shown!r}; expected a folder that holds config.json and"
        " *.safetensors, or a Hub id such as 'openai/gpt-oss-20b'"
    )


def _inside(folder: Path) -> Path:
    """Where in this folder the checkpoint is; the folder itself if it is not further down."""
    original = folder / "original"
    commits = folder if folder.name == "snapshots" else folder / "snapshots"
    if weight_files(folder) or is_there(folder / INDEX):
        return folder
    if original.is_dir() or not commits.is_dir():
        return original if original.is_dir() else folder
    found = sorted(path for path in commits.iterdir() if path.is_dir())
    main = commits.parent / "refs" / "main"
    if len(found) > 1 and is_there(main):
        named = commits / read_small(main).decode("ascii", "replace").strip()
        found = [named] if named in found else found
    if len(found) != 1:
        names = ", ".join(visible(path.name, 60) for path in found[:5]) or "none"
        raise ValueError(
            f"{folder} is a folder of the Hub's cache, found snapshots {names}, expected one, or"
            f" one that refs/main names; pass {commits / 'COMMIT'} itself"
        )
    return found[0]


class Headers(NamedTuple):
    """What a folder of weights holds, before any is read: names, shapes and types all fit together.

    `tensors` go by the names of `layout`, and have the vocabulary of `config`.
    """

    config: Config
    tokenizer: Tokenizer | NoText
    tensors: dict[str, Tensor]
    layout: Layout


def look(folder: Path) -> Headers:
    """Read the small files and the headers of a checkpoint, and compare them.

    Rows of the vocabulary that no text is known of are cut off here, so that nobody ever reads or
    draws them: on disk they are the last of the embedding and the unembedding.
    """
    config = read_config(folder)
    tensors = published_names(find_tensors(folder))
    layout = find_layout(tensors, config)
    tokenizer = read_tokenizer(folder, config)
    known = dataclasses.replace(config, vocab_size=tokenizer.vocab_size)
    converted = any(entry.own for entry in layout.values())  # then they were cut off before
    check_tensors(tensors, layout, known if converted else config, folder)
    for _, entry in () if converted else places(layout, None):
        if entry.axes[0] == "V":
            tensor = tensors[entry.name]
            tensors[entry.name] = tensor._replace(shape=(known.vocab_size, *tensor.shape[1:]))
    if is_there(folder / ADAPTER):  # the index does not name it, or it would have been refused
        said = f"{visible(folder / ADAPTER)} is not added to the weights beside it: merge it first"
        warnings.warn(
            f"{said} (PEFT: merge_and_unload), if that is the model you mean", stacklevel=3
        )
    return Headers(known, tokenizer, tensors, layout)


def read_config(folder: Path) -> Config:
    """config.json of a checkpoint's folder, in either dialect."""
    path = folder / CONFIG
    if is_there(path):
        return Config.from_dict(read_json(path))
    advice = "copy it from where the weights came from"
    if (draft := next(folder.glob(DRAFT + "*"), None)) is not None:
        advice = f"a save was cut off, whose files are partly in {draft.name} still: save again"
    if is_there(folder / "adapter_config.json"):
        advice = "this is an adapter: merge it into its model first (PEFT: merge_and_unload)"
    raise FileNotFoundError(
        f"there is no {CONFIG} in {folder}, expected beside the weights; {advice}"
    )


def read_tokenizer(folder: Path, config: Config) -> Tokenizer | NoText:
    """The vocabulary that the embedding's rows stand for; `NoText` where nothing says so.

    Its rows are those of o200k_ids.json, or else o200k_harmony's. Fine-tunes append rows, for
    tokens of their own or to have a round number, and nothing here says what text those stand for:
    the tokenizer has fewer rows than the embedding then. Others cut off rows that no token needs.
    """
    rows, path = config.vocab_size, folder / KEPT_IDS
    if is_there(path):
        ids = read_json(path)
        spare = rows - len(ids) if isinstance(ids, list) else -1
        if spare and not (0 < spare < SPARE and rows % 64 == 0):
            found = f"{len(ids)} ids" if isinstance(ids, list) else f"a {type(ids).__name__}"
            raise ValueError(
                f"{visible(path)} holds {found}, expected a list of {rows}, one per row of the"
                " embedding; take it and config.json from the same checkpoint"
            )
        try:
            tokenizer = Tokenizer(kept_ids=tuple(ids))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{visible(path)}: {visible(error, 300)}") from error
    elif rows > CALL:
        tokenizer = Tokenizer() if rows >= FULL_VOCAB else Tokenizer(kept_ids=tuple(range(rows)))
    else:
        return NoText(rows)
    expected = tokenizer.vocab_size if is_there(path) else FULL_VOCAB
    if rows != expected:
        lost = f", and the text of the other {rows - expected:,}, if they have any, is lost"
        warnings.warn(
            f"{visible(folder)} has {rows:,} rows of vocabulary, expected {expected:,}: the first"
            f" are taken for those{lost if rows > expected else ''}",
            stacklevel=4,
        )
    return tokenizer
