"""The published files of GPT-OSS-20B, to the byte, without the weights.

config.json, generation_config.json and the index lie in data/gpt-oss-20b, as published. The index
says which of three files holds a tensor. The rest are two rules: in a file bfloat16 comes first and
bytes after it, each sorted by name; and the header is compact JSON without metadata, padded to 8.
Layers stand in the order of their names as text, 0, 1, 10, …, so layers 18 and 6 lie in two files
each. The sizes that follow are the published ones, which proves every name, shape and type.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path

from gptoss_edu.weights.files import write_json
from gptoss_edu.weights.shards import INDEX
from gptoss_edu.weights.writing import Pending, header_of, large_first, write_file

FOLDER = Path(__file__).parents[1] / "data" / "gpt-oss-20b"


@functools.lru_cache
def weight_map() -> Mapping[str, str]:
    """Tensor -> file."""
    index = json.loads((FOLDER / INDEX).read_text(encoding="utf-8"))
    return dict(index["weight_map"])


def arranged(tensors: Mapping[str, Pending]) -> dict[str, dict[str, Pending]]:
    """File -> its tensors, in their order; {} for tensors other than the 20B's."""
    if tensors.keys() != weight_map().keys():
        return {}
    files: dict[str, dict[str, Pending]] = {file: {} for file in sorted({*weight_map().values()})}
    for name in sorted(tensors):
        files[weight_map()[name]][name] = tensors[name]
    return {file: large_first(inside) for file, inside in files.items()}


def file_sizes(tensors: Mapping[str, Pending]) -> dict[str, int]:
    """File -> bytes, header and all."""
    return {
        file: len(header_of(inside)) + sum(tensor.num_bytes for tensor in inside.values())
        for file, inside in arranged(tensors).items()
    }


def write_as_published(folder: Path, tensors: Mapping[str, Pending], stem: str = "model") -> None:
    """Write the three files and the index; their names begin with `stem` (`model` as published).

    Raises ValueError for tensors other than the 20B's.
    """
    if not (files := arranged(tensors)):
        wrong = sorted(tensors.keys() ^ weight_map().keys())
        raise ValueError(
            f"found {len(tensors)} tensors, expected the 20B's {len(weight_map())}; only in one of"
            f" the two: {', '.join(wrong[:3])}"
        )
    names = {file: file.replace("model", stem, 1) for file in files}
    for file, inside in files.items():
        write_file(folder / names[file], inside, about=None)
    total = sum(tensor.num_bytes for tensor in tensors.values())
    where = {name: names[file] for name, file in weight_map().items()}
    write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": where})
