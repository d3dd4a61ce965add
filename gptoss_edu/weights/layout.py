"""Where every weight lies on disk: one name map for each published layout.

The map says in which tensor a field of our parameter tree is found, and in which order of axes. How
to turn the axes follows from the letters and is written nowhere.

Source: the checkpoints that OpenAI publishes as openai/gpt-oss-20b and openai/gpt-oss-120b.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from gptoss_edu.config import Config
from gptoss_edu.cpu.tiles import tiled_shape
from gptoss_edu.mxfp4 import BLOCK
from gptoss_edu.weights.shards import PADDING, Tensor

TILED = ".tiles"  # how names of tensors end that are stored in tiles
MXFP4_FIELDS = {"blocks": "blocks_EJUO", "scales": "scales_EJO"}


class Entry(NamedTuple):
    """Where a field lies: tensor name ({n} is the layer) and its axes on disk, slowest first.

    Axes are separated by blanks. `NH` is one axis that fuses two, head by head; `NH+KH+KH` is one
    axis along which three parts follow one another, of which the field is number `part`. The
    letters are those of the dimension key, and J blocks of 32 along D, L blocks of 32 along F. The
    axes of a field in tiles (tiles.py) are written as numbers.
    """

    name: str
    axes: str
    part: int = 0


# Field of our tree -> Entry. The field's own suffix says the order in memory, so the turn between
# the two follows from the letters and is written nowhere. On disk a matrix is [output, input].
_HF = "model.layers.{n}."
HF = {
    "embedding_VD": Entry("model.embed_tokens.weight", "V D"),
    "unembedding_DV": Entry("lm_head.weight", "V D"),
    "norm_D": Entry("model.norm.weight", "D"),
    "attention.norm_D": Entry(_HF + "input_layernorm.weight", "D"),
    "attention.w_q_DNH": Entry(_HF + "self_attn.q_proj.weight", "NH D"),
    "attention.b_q_NH": Entry(_HF + "self_attn.q_proj.bias", "NH"),
    "attention.w_k_DKH": Entry(_HF + "self_attn.k_proj.weight", "KH D"),
    "attention.b_k_KH": Entry(_HF + "self_attn.k_proj.bias", "KH"),
    "attention.w_v_DKH": Entry(_HF + "self_attn.v_proj.weight", "KH D"),
    "attention.b_v_KH": Entry(_HF + "self_attn.v_proj.bias", "KH"),
    "attention.sinks_N": Entry(_HF + "self_attn.sinks", "N"),
    "attention.w_o_NHD": Entry(_HF + "self_attn.o_proj.weight", "D NH"),
    "attention.b_o_D": Entry(_HF + "self_attn.o_proj.bias", "D"),
    "moe.norm_D": Entry(_HF + "post_attention_layernorm.weight", "D"),
    "moe.w_router_DE": Entry(_HF + "mlp.router.weight", "E D"),
    "moe.b_router_E": Entry(_HF + "mlp.router.bias", "E"),
    "moe.b_gate_up_EP": Entry(_HF + "mlp.experts.gate_up_proj_bias", "E P"),
    "moe.b_down_ED": Entry(_HF + "mlp.experts.down_proj_bias", "E D"),
}
HF_PACKED = HF | {
    "moe.w_gate_up_EDP.blocks_EJUP": Entry(_HF + "mlp.experts.gate_up_proj_blocks", "E P J U"),
    "moe.w_gate_up_EDP.scales_EJP": Entry(_HF + "mlp.experts.gate_up_proj_scales", "E P J"),
    "moe.w_down_EFD.blocks_ELUD": Entry(_HF + "mlp.experts.down_proj_blocks", "E D L U"),
    "moe.w_down_EFD.scales_ELD": Entry(_HF + "mlp.experts.down_proj_scales", "E D L"),
}
HF_PLAIN = HF | {  # re-exports: the one place where the input axis comes first on disk, too
    "moe.w_gate_up_EDP": Entry(_HF + "mlp.experts.gate_up_proj", "E D P"),
    "moe.w_down_EFD": Entry(_HF + "mlp.experts.down_proj", "E F D"),
}

_OAI = "block.{n}."
ORIGINAL = {
    "embedding_VD": Entry("embedding.weight", "V D"),
    "unembedding_DV": Entry("unembedding.weight", "V D"),
    "norm_D": Entry("norm.scale", "D"),
    "attention.norm_D": Entry(_OAI + "attn.norm.scale", "D"),
    "attention.w_q_DNH": Entry(_OAI + "attn.qkv.weight", "NH+KH+KH D", 0),
    "attention.b_q_NH": Entry(_OAI + "attn.qkv.bias", "NH+KH+KH", 0),
    "attention.w_k_DKH": Entry(_OAI + "attn.qkv.weight", "NH+KH+KH D", 1),
    "attention.b_k_KH": Entry(_OAI + "attn.qkv.bias", "NH+KH+KH", 1),
    "attention.w_v_DKH": Entry(_OAI + "attn.qkv.weight", "NH+KH+KH D", 2),
    "attention.b_v_KH": Entry(_OAI + "attn.qkv.bias", "NH+KH+KH", 2),
    "attention.sinks_N": Entry(_OAI + "attn.sinks", "N"),
    "attention.w_o_NHD": Entry(_OAI + "attn.out.weight", "D NH"),
    "attention.b_o_D": Entry(_OAI + "attn.out.bias", "D"),
    "moe.norm_D": Entry(_OAI + "mlp.norm.scale", "D"),
    "moe.w_router_DE": Entry(_OAI + "mlp.gate.weight", "E D"),
    "moe.b_router_E": Entry(_OAI + "mlp.gate.bias", "E"),
    "moe.b_gate_up_EP": Entry(_OAI + "mlp.mlp1_bias", "E P"),
    "moe.b_down_ED": Entry(_OAI + "mlp.mlp2_bias", "E D"),
}
ORIGINAL_PACKED = ORIGINAL | {
    "moe.w_gate_up_EDP.blocks_EJUP": Entry(_OAI + "mlp.mlp1_weight.blocks", "E P J U"),
    "moe.w_gate_up_EDP.scales_EJP": Entry(_OAI + "mlp.mlp1_weight.scales", "E P J"),
    "moe.w_down_EFD.blocks_ELUD": Entry(_OAI + "mlp.mlp2_weight.blocks", "E D L U"),
    "moe.w_down_EFD.scales_ELD": Entry(_OAI + "mlp.mlp2_weight.scales", "E D L"),
}
ORIGINAL_PLAIN = ORIGINAL | {
    "moe.w_gate_up_EDP": Entry(_OAI + "mlp.mlp1_weight", "E P D"),
    "moe.w_down_EFD": Entry(_OAI + "mlp.mlp2_weight", "E D F"),
}
Layout = dict[str, Entry]


def own_layout(published: Layout, tiled: dict[str, tuple[int, ...]] | None = None) -> Layout:
    """The layout of a converted checkpoint: names and order of axes are those of our fields.

    `tiled` gives the shapes of fields that are stored in tiles; their names say so.
    """

    def own(field: str, entry: Entry) -> Entry:
        name = ("layers.{n}." if "{n}" in entry.name else "") + field
        if tiled and field in tiled:
            return Entry(name + TILED, " ".join(map(str, tiled[field])))
        return Entry(name, " ".join(field.split("_")[-1]))

    return {field: own(field, entry) for field, entry in published.items()}


OWN_PACKED, OWN_PLAIN = own_layout(HF_PACKED), own_layout(HF_PLAIN)


def find_own_layout(names: Collection[str], config: Config) -> Layout:
    """The layout of a converted checkpoint with tensors of these names."""
    plain = OWN_PACKED if any(".blocks_" in name for name in names) else OWN_PLAIN
    shapes = {field: tiled_shape(field, sizes_of(config)) for field in plain}
    there = {name for name in names if name.endswith(TILED)}
    tiled = {f: s for f, s in shapes.items() if s and plain[f].name.format(n=0) + TILED in there}
    return own_layout(plain, tiled)


def find_layout(tensors: dict[str, Tensor], config: Config) -> Layout:
    """Which layout these tensors are in, judged by their names and not by their folder's.

    Raises ValueError for names of no layout, and for packed experts whose input dimension is not a
    multiple of 32.
    """
    if any(name.startswith("layers.") for name in tensors):
        return find_own_layout(tensors, config)
    hf = any(name.startswith("model.layers.") for name in tensors)
    if not hf and not any(name.startswith("block.") for name in tensors):
        raise ValueError(
            f"these are no GPT-OSS weights: found {sorted(tensors)[:3]}, expected names like"
            " model.layers.0.self_attn.q_proj.weight or block.0.attn.qkv.weight"
        )
    if not any(name.endswith(("_blocks", ".blocks")) for name in tensors):
        return HF_PLAIN if hf else ORIGINAL_PLAIN
    if config.hidden_size % BLOCK or config.intermediate_size % BLOCK:
        raise ValueError(
            f"experts are packed in blocks of {BLOCK}, but config.json says hidden_size"
            f" {config.hidden_size} and intermediate_size {config.intermediate_size}; take weights"
            " and config.json from the same checkpoint"
        )
    return HF_PACKED if hf else ORIGINAL_PACKED


def places(layout: Layout, layer: int | None) -> Iterator[tuple[str, Entry]]:
    """(field, entry with its final name) of one layer, or of what belongs to no layer (None)."""
    for field, entry in layout.items():
        if ("{n}" in entry.name) == (layer is not None):
            yield field, entry._replace(name=entry.name.format(n=layer))


def sizes_of(config: Config) -> dict[str, int]:
    """Letter -> size, with those that only the name map uses."""
    return config.sizes | {
        "J": config.hidden_size // BLOCK,
        "L": config.intermediate_size // BLOCK,
    }


def shape_on_disk(axes: str, sizes: dict[str, int]) -> tuple[int, ...]:
    """Sizes of the axes of an `Entry`: "NH+KH+KH D" is (N*H + K*H + K*H, D)."""

    def size(axis: str) -> int:
        if axis.isdigit():
            return int(axis)
        return sum(math.prod(sizes[letter] for letter in part) for part in axis.split("+"))

    return tuple(size(axis) for axis in axes.split())


def stored_bytes(config: Config, layout: Layout) -> int:
    """Bytes of all tensors of a checkpoint: one per packed number, two (bf16) for any other."""
    sizes, tensors = sizes_of(config), {}
    for layer in (None, *range(config.num_layers)):
        for field, entry in places(layout, layer):
            count = math.prod(shape_on_disk(entry.axes, sizes))
            tensors[entry.name] = count if is_packed(field) else 2 * count
    return sum(tensors.values())


def check_tensors(tensors: dict[str, Tensor], layout: Layout, config: Config, folder: Path) -> None:
    """Compare headers with the name map: nothing missing, nothing more, every shape and dtype.

    A tensor that nobody asked for is an error: whatever it is for, the numbers would be wrong
    without it. Only rotary frequencies, which some exporters add, are computed here anyway.
    """
    sizes = sizes_of(config)
    expected: dict[str, tuple[tuple[int, ...], tuple[str, ...]]] = {}
    for layer in (None, *range(config.num_layers)):
        for field, entry in places(layout, layer):
            dtypes = ("U8",) if is_packed(field) else ("BF16", "F16", "F32")
            expected[entry.name] = shape_on_disk(entry.axes, sizes), dtypes
    extra = [n for n in tensors if n not in expected and not is_idle(n)]
    problems = [f"missing {name}" for name in expected if name not in tensors]
    problems += [f"unexpected {name}" for name in extra]
    for name, (shape, dtypes) in expected.items():
        tensor = tensors.get(name)
        if tensor and tensor.shape != shape:
            problems.append(f"{name} has shape {list(tensor.shape)}, expected {list(shape)}")
        if tensor and tensor.dtype not in dtypes:
            problems.append(f"{name} has dtype {tensor.dtype}, expected {' or '.join(dtypes)}")
    if problems:
        more = f", and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise ValueError(
            f"weights and config.json in {folder} do not fit together: {'; '.join(problems[:5])}"
            f"{more}. Take all files from one checkpoint, and all of its shards"
        )


def is_idle(name: str) -> bool:
    """May a tensor of this name be left unread? Rotary frequencies and padding may."""
    return name.endswith("rotary_emb.inv_freq") or name.startswith(PADDING)


def is_own(field: str, entry: Entry) -> bool:
    """Does the field lie on disk as an array of our own, in a converted checkpoint?"""
    return entry.name.endswith(field)


def is_tiled(entry: Entry) -> bool:
    """Does the field lie on disk in tiles?"""
    return entry.name.endswith(TILED)


def is_packed(field: str) -> bool:
    """Is this field half of an `Mxfp4`: its blocks or its scales?"""
    return field.count(".") == 2
