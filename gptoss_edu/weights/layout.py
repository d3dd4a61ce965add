"""Where every weight lies on disk: one name map for each published layout.

The map says in which tensor a field of our parameter tree is found, and in which order of axes. How
to transpose them follows from the letters and is written nowhere.

Source: the checkpoints that OpenAI publishes as openai/gpt-oss-20b and openai/gpt-oss-120b.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from gptoss_edu.config import Config
from gptoss_edu.cpu.tiles import STEP, tile_width
from gptoss_edu.mxfp4 import BLOCK
from gptoss_edu.weights.files import visible
from gptoss_edu.weights.shards import PADDING, Tensor

TILED = ".tiles"  # how names of tensors end that are stored in tiles
# How names of tensors end that say how others are quantized.
SCALE = re.compile(r"scale|absmax|quant|qweight|qzeros|zero_point|packed|g_idx")
# What the kernels of a CPU multiply with, beside packed experts -> how many axes are summed over.
SUMMED = {"w_q_DNH": 1, "w_k_DKH": 1, "w_v_DKH": 1, "w_o_NHD": 2, "w_router_DE": 1}
SUMMED |= {"unembedding_DV": 1}


class Field(NamedTuple):
    """A leaf of `Params`: its name, the part of a layer that it belongs to ("" for none), and of
    packed experts the half of the `Mxfp4`, "blocks" or "scales".
    """

    name: str
    part: str = ""
    half: str = ""

    def __str__(self) -> str:
        """What a converted checkpoint calls it: moe.w_down_EFD.blocks_EJUD."""
        half = f"{self.half}_{self.axes}" if self.half else ""
        return ".".join(filter(None, (self.part, self.name, half)))

    @property
    def axes(self) -> str:
        """A letter for each axis, in memory order. J: blocks along the inputs of [E, I, O]."""
        letters = self.name.rsplit("_", 1)[-1]
        if not self.half:
            return letters
        E, O = letters[0], letters[-1]
        return f"{E}JU{O}" if self.half == "blocks" else f"{E}J{O}"

    @property
    def path(self) -> tuple[str, ...]:
        """The attributes that lead to it, from `Params` or from a `Layer`."""
        half = {"blocks": "blocks_EJUO", "scales": "scales_EJO"}.get(self.half, "")
        return tuple(filter(None, (self.part, self.name, half)))

    def sizes(self, config: Config) -> dict[str, int]:
        """Letter -> size."""
        sizes = config.sizes
        if not self.half:
            return sizes
        inputs = self.name.rsplit("_", 1)[-1][1]
        return sizes | {"J": sizes[inputs] // BLOCK}

    def shape(self, config: Config) -> tuple[int, ...]:
        """Its shape in memory, as a plain array."""
        sizes = self.sizes(config)
        return tuple(sizes[letter] for letter in self.axes)


class Entry(NamedTuple):
    """Where a field lies: tensor name ({n} is the layer) and its axes on disk, slowest first.

    An axis of several letters fuses them: "NH" goes head by head. Fields that follow one another
    along the first axis of one tensor share a `stack`, the first axis of each, in which this one
    has number `part`. `own`: it lies there as in memory, in a file of ours that nobody writes into,
    so that its pages can be used; then `tiles` is its shape in tiles (tiles.py), if it has them.
    """

    name: str
    axes: tuple[str, ...]
    stack: tuple[str, ...] = ()
    part: int = 0
    own: bool = False
    tiles: tuple[int, ...] | None = None


Layout = dict[Field, Entry]


def _attention(name: str) -> Field:
    return Field(name, "attention")


def _moe(name: str, half: str = "") -> Field:
    return Field(name, "moe", half)


# The field's own suffix says the order in memory. On disk a matrix is [output, input].
_HF = "model.layers.{n}."
HF: Layout = {
    Field("embedding_VD"): Entry("model.embed_tokens.weight", ("V", "D")),
    Field("unembedding_DV"): Entry("lm_head.weight", ("V", "D")),
    Field("norm_D"): Entry("model.norm.weight", ("D",)),
    _attention("norm_D"): Entry(_HF + "input_layernorm.weight", ("D",)),
    _attention("w_q_DNH"): Entry(_HF + "self_attn.q_proj.weight", ("NH", "D")),
    _attention("b_q_NH"): Entry(_HF + "self_attn.q_proj.bias", ("NH",)),
    _attention("w_k_DKH"): Entry(_HF + "self_attn.k_proj.weight", ("KH", "D")),
    _attention("b_k_KH"): Entry(_HF + "self_attn.k_proj.bias", ("KH",)),
    _attention("w_v_DKH"): Entry(_HF + "self_attn.v_proj.weight", ("KH", "D")),
    _attention("b_v_KH"): Entry(_HF + "self_attn.v_proj.bias", ("KH",)),
    _attention("sinks_N"): Entry(_HF + "self_attn.sinks", ("N",)),
    _attention("w_o_NHD"): Entry(_HF + "self_attn.o_proj.weight", ("D", "NH")),
    _attention("b_o_D"): Entry(_HF + "self_attn.o_proj.bias", ("D",)),
    _moe("norm_D"): Entry(_HF + "post_attention_layernorm.weight", ("D",)),
    _moe("w_router_DE"): Entry(_HF + "mlp.router.weight", ("E", "D")),
    _moe("b_router_E"): Entry(_HF + "mlp.router.bias", ("E",)),
    _moe("b_gate_up_EP"): Entry(_HF + "mlp.experts.gate_up_proj_bias", ("E", "P")),
    _moe("b_down_ED"): Entry(_HF + "mlp.experts.down_proj_bias", ("E", "D")),
}
HF_PACKED = HF | {
    _moe("w_gate_up_EDP", "blocks"): Entry(_HF + "mlp.experts.gate_up_proj_blocks", tuple("EPJU")),
    _moe("w_gate_up_EDP", "scales"): Entry(_HF + "mlp.experts.gate_up_proj_scales", tuple("EPJ")),
    _moe("w_down_EFD", "blocks"): Entry(_HF + "mlp.experts.down_proj_blocks", tuple("EDJU")),
    _moe("w_down_EFD", "scales"): Entry(_HF + "mlp.experts.down_proj_scales", tuple("EDJ")),
}
HF_PLAIN = HF | {  # re-exports: the one place where the input axis comes first on disk, too
    _moe("w_gate_up_EDP"): Entry(_HF + "mlp.experts.gate_up_proj", tuple("EDP")),
    _moe("w_down_EFD"): Entry(_HF + "mlp.experts.down_proj", tuple("EFD")),
}
HF_LINEAR = {  # fine-tunes: each expert a linear layer (dialects.py), so the output comes first
    field: entry for field, entry in HF.items() if field.name not in ("b_gate_up_EP", "b_down_ED")
} | {
    _moe("b_gate_up_EP"): Entry(_HF + "mlp.experts.gate_up_proj.bias", ("E", "P")),
    _moe("b_down_ED"): Entry(_HF + "mlp.experts.down_proj.bias", ("E", "D")),
    _moe("w_gate_up_EDP"): Entry(_HF + "mlp.experts.gate_up_proj.weight", tuple("EPD")),
    _moe("w_down_EFD"): Entry(_HF + "mlp.experts.down_proj.weight", tuple("EDF")),
}

_OAI, QKV = "block.{n}.", ("NH", "KH", "KH")
ORIGINAL = {
    Field("embedding_VD"): Entry("embedding.weight", ("V", "D")),
    Field("unembedding_DV"): Entry("unembedding.weight", ("V", "D")),
    Field("norm_D"): Entry("norm.scale", ("D",)),
    _attention("norm_D"): Entry(_OAI + "attn.norm.scale", ("D",)),
    _attention("w_q_DNH"): Entry(_OAI + "attn.qkv.weight", ("NH", "D"), QKV, 0),
    _attention("b_q_NH"): Entry(_OAI + "attn.qkv.bias", ("NH",), QKV, 0),
    _attention("w_k_DKH"): Entry(_OAI + "attn.qkv.weight", ("KH", "D"), QKV, 1),
    _attention("b_k_KH"): Entry(_OAI + "attn.qkv.bias", ("KH",), QKV, 1),
    _attention("w_v_DKH"): Entry(_OAI + "attn.qkv.weight", ("KH", "D"), QKV, 2),
    _attention("b_v_KH"): Entry(_OAI + "attn.qkv.bias", ("KH",), QKV, 2),
    _attention("sinks_N"): Entry(_OAI + "attn.sinks", ("N",)),
    _attention("w_o_NHD"): Entry(_OAI + "attn.out.weight", ("D", "NH")),
    _attention("b_o_D"): Entry(_OAI + "attn.out.bias", ("D",)),
    _moe("norm_D"): Entry(_OAI + "mlp.norm.scale", ("D",)),
    _moe("w_router_DE"): Entry(_OAI + "mlp.gate.weight", ("E", "D")),
    _moe("b_router_E"): Entry(_OAI + "mlp.gate.bias", ("E",)),
    _moe("b_gate_up_EP"): Entry(_OAI + "mlp.mlp1_bias", ("E", "P")),
    _moe("b_down_ED"): Entry(_OAI + "mlp.mlp2_bias", ("E", "D")),
}
ORIGINAL_PACKED = ORIGINAL | {
    _moe("w_gate_up_EDP", "blocks"): Entry(_OAI + "mlp.mlp1_weight.blocks", tuple("EPJU")),
    _moe("w_gate_up_EDP", "scales"): Entry(_OAI + "mlp.mlp1_weight.scales", tuple("EPJ")),
    _moe("w_down_EFD", "blocks"): Entry(_OAI + "mlp.mlp2_weight.blocks", tuple("EDJU")),
    _moe("w_down_EFD", "scales"): Entry(_OAI + "mlp.mlp2_weight.scales", tuple("EDJ")),
}
ORIGINAL_PLAIN = ORIGINAL | {
    _moe("w_gate_up_EDP"): Entry(_OAI + "mlp.mlp1_weight", tuple("EPD")),
    _moe("w_down_EFD"): Entry(_OAI + "mlp.mlp2_weight", tuple("EDF")),
}


def own_layout(published: Layout, tiled: dict[Field, tuple[int, ...]] | None = None) -> Layout:
    """The layout of a converted checkpoint: names and order of axes are those of our fields.

    `tiled` gives the shapes of fields that are stored in tiles; their names say so.
    """

    def own(field: Field) -> Entry:
        tiles = (tiled or {}).get(field)
        name = ("layers.{n}." if field.part else "") + str(field)
        return Entry(name + TILED if tiles else name, tuple(field.axes), own=True, tiles=tiles)

    return {field: own(field) for field in published}


OWN_PACKED, OWN_PLAIN = own_layout(HF_PACKED), own_layout(HF_PLAIN)


def find_own_layout(names: Collection[str], config: Config) -> Layout:
    """The layout of a converted checkpoint with tensors of these names."""
    plain = OWN_PACKED if any(".blocks_" in name for name in names) else OWN_PLAIN
    shapes = {field: tiled_shape(field, config) for field in plain}
    tiled = {f: s for f, s in shapes.items() if s and plain[f].name.format(n=0) + TILED in names}
    return own_layout(plain, tiled)


def tiled_shape(field: Field, config: Config) -> tuple[int, ...] | None:
    """Shape of a field in tiles, [E, tiles, inputs, outputs of a tile] or without E; None where the
    kernels have no product for it.
    """
    matrices, inputs = (1, len(field.axes) - 2) if field.half else (0, SUMMED.get(field.name, 0))
    shape = field.shape(config)
    rest = shape[matrices:]
    rows, outputs = math.prod(rest[:inputs]), math.prod(rest[inputs:])
    width = tile_width(outputs)
    if not inputs or width is None or (rows % STEP and not field.half):
        return None
    return (*shape[:matrices], outputs // width, rows, width)


def find_layout(tensors: dict[str, Tensor], config: Config) -> Layout:
    """Which layout these tensors are in, judged by their names and not by their folder's.

    Raises ValueError for names of no layout, and for packed experts whose input dimension is not a
    multiple of 32.
    """
    if str(Field("embedding_VD")) in tensors:
        return find_own_layout(tensors, config)
    refuse_adapters(tensors)
    hf = any(name.startswith("model.layers.") for name in tensors)
    if not hf and not any(name.startswith("block.") for name in tensors):
        raise ValueError(
            f"these are not GPT-OSS weights: found {visible(sorted(tensors)[:3], 300)}, expected"
            " names like model.layers.0.self_attn.q_proj.weight or block.0.attn.qkv.weight"
        )
    if any(name.endswith(".experts.down_proj.weight") for name in tensors):
        return HF_LINEAR
    if not any(name.endswith(("_blocks", ".blocks")) for name in tensors):
        return HF_PLAIN if hf else ORIGINAL_PLAIN
    if config.hidden_size % BLOCK or config.intermediate_size % BLOCK:
        raise ValueError(
            f"experts are packed in blocks of {BLOCK}, but config.json says hidden_size"
            f" {config.hidden_size} and intermediate_size {config.intermediate_size}; take weights"
            " and config.json from the same checkpoint"
        )
    return HF_PACKED if hf else ORIGINAL_PACKED


def places(layout: Layout, layer: int | None) -> Iterator[tuple[Field, Entry]]:
    """(field, entry with its final name) of one layer, or of what belongs to no layer (None)."""
    for field, entry in layout.items():
        if bool(field.part) == (layer is not None):
            yield field, entry._replace(name=entry.name.format(n=layer))


def shape_on_disk(field: Field, entry: Entry, config: Config) -> tuple[int, ...]:
    """The shape of the tensor that holds this field, with all that is stacked in it."""
    sizes = field.sizes(config)
    if entry.tiles:
        return entry.tiles
    first, *others = (_product(axis, sizes) for axis in entry.axes)
    return (sum(_product(axis, sizes) for axis in entry.stack) or first, *others)


def _product(axis: str, sizes: dict[str, int]) -> int:
    return math.prod(sizes[letter] for letter in axis)


def stored_bytes(config: Config, layout: Layout) -> int:
    """Bytes of all tensors of a checkpoint: one per packed number, two (bf16) for any other."""
    tensors = {}
    for layer in (None, *range(config.num_layers)):
        for field, entry in places(layout, layer):
            count = math.prod(shape_on_disk(field, entry, config))
            tensors[entry.name] = count if field.half else 2 * count
    return sum(tensors.values())


def check_tensors(tensors: dict[str, Tensor], layout: Layout, config: Config, folder: Path) -> None:
    """Compare headers with the name map: nothing missing, nothing more, every shape and dtype.

    A tensor that nobody asked for is an error: whatever it is for, the numbers would be wrong
    without it. Only rotary frequencies, which some exporters add, are computed here anyway.
    """
    expected: dict[str, tuple[tuple[int, ...], tuple[str, ...]]] = {}
    for layer in (None, *range(config.num_layers)):
        for field, entry in places(layout, layer):
            kinds = ("U8",) if field.half else ("BF16", "F16", "F32")
            expected[entry.name] = shape_on_disk(field, entry, config), kinds
    extra = {n: t for n, t in tensors.items() if n not in expected and not is_idle(n)}
    problems = [f"missing {name}" for name in expected if name not in tensors]
    problems += [
        f"unexpected {visible(n, 100)} in {visible(t.path.name, 100)}" for n, t in extra.items()
    ]
    for name, (shape, dtypes) in expected.items():
        tensor = tensors.get(name)
        if tensor and tensor.shape != shape:
            found = visible(list(tensor.shape), 100)
            problems.append(f"{name} has shape {found}, expected {list(shape)}")
        if tensor and tensor.dtype not in dtypes:
            problems.append(f"{name} has dtype {tensor.dtype}, expected {' or '.join(dtypes)}")
    if problems:
        more = f", and {len(problems) - 5} more" if len(problems) > 5 else ""
        used = {tensors[name].path.name for name in expected if name in tensors}
        strangers = sorted({tensor.path.name for tensor in extra.values()} - used)
        raise ValueError(
            f"weights and config.json in {visible(folder)} do not fit together:"
            f" {'; '.join(problems[:5])}{more}. {_cure(strangers, extra)}"
        )


def _cure(strangers: Collection[str], extra: Collection[str]) -> str:
    """What to do about tensors that nobody asked for, in files where nothing else is, or not."""
    if strangers:
        files = visible(", ".join(strangers), 200)
        return f"Move {files} to another folder: nothing in there belongs to this model"
    if any(SCALE.search(name) for name in extra):
        return (
            "Some of these are the scales of a quantization that is not read here: take the"
            " published checkpoint in MXFP4, or an export in bfloat16"
        )
    return "Take all files from one checkpoint, and all of its shards"


def refuse_adapters(tensors: dict[str, Tensor]) -> None:
    """Refuse with ValueError what is to be added to the weights of a model."""
    if name := next((name for name in tensors if ".lora_" in name), None):
        raise ValueError(
            f"{visible(tensors[name].path)} holds an adapter ({visible(name, 100)}), which is not"
            " added to weights here: merge it into its model first (PEFT: merge_and_unload), or"
            " move it to another folder to load the model without it"
        )


def is_idle(name: str) -> bool:
    """May a tensor of this name be left unread? Rotary frequencies and padding may."""
    return name.endswith("rotary_emb.inv_freq") or name.startswith(PADDING)
