"""To and from Orbax, the checkpoint format of JAX's training programs. Needs orbax-checkpoint.

What is written is a folder with `params`, an Orbax checkpoint of the `Params` tree under its own
names, and config.json (and o200k_ids.json) beside it. Other programs restore it as nested dicts, or
with `Params` as the target:

    import orbax.checkpoint as ocp
    tree = ocp.PyTreeCheckpointer().restore(folder / "params")

Only bytes are moved: packed experts stay packed, and the way there and back changes no bit.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gptoss_edu.config import Config
from gptoss_edu.cpu.tiles import to_tiles
from gptoss_edu.shapes import num_bytes
from gptoss_edu.weights.checkpoint import load_model
from gptoss_edu.weights.convert import (
    Job,
    check_out,
    plan_weights,
    side_files,
    stamps_of,
    write_conversion,
)
from gptoss_edu.weights.drafts import drafted, keep_quiet, locked
from gptoss_edu.weights.files import visible
from gptoss_edu.weights.folders import read_config
from gptoss_edu.weights.hub import check_disk
from gptoss_edu.weights.layout import (
    OWN_PACKED,
    OWN_PLAIN,
    Entry,
    Field,
    check_tensors,
    places,
)
from gptoss_edu.weights.mapped import COMMANDS, ORBAX, check_conversion
from gptoss_edu.weights.shards import DTYPES, Tensor

CONCURRENT_GB = 4  # what Orbax may have in flight; more than the largest array, 1.2 GB


def _orbax() -> Any:
    try:
        import orbax.checkpoint as ocp
    except ImportError as error:
        raise ImportError(
            f"Orbax is not installed ({error}), expected the package orbax-checkpoint;"
            " install it with `pip install orbax-checkpoint` or `pip install 'gptoss-edu[orbax]'`"
        ) from error
    return ocp


def _checkpointer(ocp: Any) -> Any:
    limits = {"save_concurrent_gb": CONCURRENT_GB, "restore_concurrent_gb": CONCURRENT_GB}
    return ocp.Checkpointer(ocp.PyTreeCheckpointHandler(**limits))


def to_orbax(folder: str | Path, out: str | Path) -> Path:
    """Write the Orbax checkpoint `out` from a converted checkpoint, whose files are mapped.

    All or nothing. Raises ImportError without Orbax, ValueError for an `out` that exists, OSError
    before writing to a disk that is too full.
    """
    ocp, folder, out = _orbax(), Path(folder), Path(out).expanduser().resolve()
    if out.exists():
        raise ValueError(
            f"{out} exists, expected the name of a new folder for the Orbax checkpoint"
        )
    check_conversion(folder)
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        params = load_model(folder, backend="jax")[1]  # tiles are for this package's kernels
    out.parent.mkdir(parents=True, exist_ok=True)
    check_disk(out.parent, num_bytes(params))
    with locked(out), drafted(out) as draft:
        with _checkpointer(ocp) as checkpointer:
            checkpointer.save(draft / ORBAX, args=ocp.args.PyTreeSave(params))
        for name, data in side_files(folder).items():
            (draft / name).write_bytes(data)
        if out.exists():
            raise ValueError(f"{out} was written by somebody else meanwhile")
    return out


def from_orbax(
    folder: str | Path, out: str | Path, *, note: Callable[[str], None] = keep_quiet
) -> Path:
    """Convert what `to_orbax` wrote, one array at a time; return the folder for `load_model`.

    All or nothing, as `convert`. Raises ImportError without Orbax, FileNotFoundError and ValueError
    for a folder that is no such checkpoint.
    """
    ocp, folder = _orbax(), Path(folder).expanduser().resolve()
    if not (folder / ORBAX).is_dir():
        raise FileNotFoundError(
            f"there is no folder {ORBAX!r} in {folder}, expected an Orbax checkpoint as"
            " `python -m gptoss_edu convert PATH_OR_ID --to-orbax DIR` writes it"
        )
    stamps, config, tree = stamps_of(folder), read_config(folder), _metadata(ocp, folder / ORBAX)
    leaves = {_dotted(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    layout = OWN_PACKED if any(".blocks_" in name for name in leaves) else OWN_PLAIN
    dtypes = {dtype: name for name, dtype in DTYPES.items()}
    names = {
        path_in_tree(field, layer): entry.name
        for layer in (None, *range(config.num_layers))
        for field, entry in places(layout, layer)
    }
    paths = {name: path for path, name in names.items()}
    tensors = {}
    for path, leaf in leaves.items():
        dtype = dtypes.get(np.dtype(leaf.dtype), str(leaf.dtype))
        tensors[names.get(path, path)] = Tensor(folder, dtype, leaf.shape, 0)
    check_tensors(tensors, layout, config, folder)

    def values(tensor: Tensor, field: Field, entry: Entry, _: Config, shape: Any) -> np.ndarray:
        array = read_leaf(ocp, folder / ORBAX, tree, paths[entry.name])
        return array if array.shape == shape else to_tiles(array, shape)

    weights = plan_weights(tensors, layout, config, values)
    job = Job(folder, COMMANDS[1], stamps, weights, side_files(folder))
    return write_conversion(job, check_out(Path(out), folder), note)


def path_in_tree(field: Field, layer: int | None) -> str:
    """Where a field lies in `Params`."""
    return ".".join([*([] if layer is None else ["layers", str(layer)]), *field.path])


def _dotted(path: tuple[Any, ...]) -> str:
    return ".".join(str(getattr(key, "key", getattr(key, "idx", key))) for key in path)


def _metadata(ocp: Any, path: Path) -> Any:
    """The tree of a checkpoint, with shapes and dtypes as leaves. Reads no array."""
    try:
        with _checkpointer(ocp) as checkpointer:
            found = checkpointer.metadata(path)
        found = getattr(found, "item_metadata", found)
        tree = getattr(found, "tree", found)
        if not tree:
            raise ValueError("it names no arrays")
        return tree
    except Exception as error:  # each release of Orbax has its own
        raise ValueError(
            f"{path} cannot be read by Orbax ({visible(error)}); export it again"
        ) from error


def read_leaf(ocp: Any, path: Path, tree: Any, name: str) -> np.ndarray:
    """One array of an Orbax checkpoint; the others stay where they are."""
    wanted = jax.tree_util.tree_map_with_path(
        lambda key, leaf: 0 if _dotted(key) == name else ocp.PLACEHOLDER, tree
    )
    restore = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
    with _checkpointer(ocp) as checkpointer:
        found = checkpointer.restore(
            path, args=ocp.args.PyTreeRestore(item=wanted, restore_args=restore)
        )
    leaves = {_dotted(key): leaf for key, leaf in jax.tree_util.tree_leaves_with_path(found)}
    return np.asarray(leaves[name])
