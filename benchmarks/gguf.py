"""A GGUF file with the very numbers of a packed safetensors checkpoint, for llama.cpp to read.

    pip install gguf
    python -m benchmarks.gguf FOLDER FILE.gguf

Nothing is rounded: experts stay MXFP4, matrices stay bf16, and vectors and the router become
float32, as llama.cpp wants them. Only the order changes. llama.cpp keeps gate and up apart, puts
the scale in front of its 16 bytes, and lets elements j and j + 16 of a block share byte j; the
published files pair 2j and 2j + 1. One tensor is in memory at a time, and the file gets its name
when it is complete.

The vocabulary is a list of placeholders, one per row: the benchmark feeds rows, not text.

Source: the GGUF specification and the loader of llama.cpp's `gpt-oss` architecture.
"""

from __future__ import annotations

import argparse
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from gptoss_edu.config import Config
from gptoss_edu.weights.checkpoint import read_config
from gptoss_edu.weights.layout import HF_PACKED, check_tensors, find_layout
from gptoss_edu.weights.shards import Tensor, find_tensors, map_array

INSTALL = "the package that writes GGUF files is not installed: pip install gguf"
# Tensor of the published layout -> tensor of llama.cpp, and how its numbers are kept.
WHOLE = {
    "model.embed_tokens.weight": ("token_embd.weight", "BF16"),
    "lm_head.weight": ("output.weight", "BF16"),
    "model.norm.weight": ("output_norm.weight", "F32"),
}
LAYER = {
    "input_layernorm.weight": ("attn_norm.weight", "F32"),
    "self_attn.q_proj.weight": ("attn_q.weight", "BF16"),
    "self_attn.q_proj.bias": ("attn_q.bias", "F32"),
    "self_attn.k_proj.weight": ("attn_k.weight", "BF16"),
    "self_attn.k_proj.bias": ("attn_k.bias", "F32"),
    "self_attn.v_proj.weight": ("attn_v.weight", "BF16"),
    "self_attn.v_proj.bias": ("attn_v.bias", "F32"),
    "self_attn.o_proj.weight": ("attn_output.weight", "BF16"),
    "self_attn.o_proj.bias": ("attn_output.bias", "F32"),
    "self_attn.sinks": ("attn_sinks.weight", "F32"),
    "post_attention_layernorm.weight": ("post_attention_norm.weight", "F32"),
    "mlp.router.weight": ("ffn_gate_inp.weight", "F32"),
    "mlp.router.bias": ("ffn_gate_inp.bias", "F32"),
    "mlp.experts.down_proj_bias": ("ffn_down_exps.bias", "F32"),
}
GATE, UP = slice(0, None, 2), slice(1, None, 2)  # rows of gate_up: gate is even, up is odd


class Written(NamedTuple):
    """One tensor of the new file: its shape in bytes or numbers, its kind, and its values."""

    name: str
    kind: str
    shape: tuple[int, ...]
    values: Callable[[], np.ndarray]


def llama_nibbles(blocks: np.ndarray) -> np.ndarray:
    """Blocks [..., 16] in llama.cpp's order: byte j holds elements j (low nibble) and j + 16."""
    assert blocks.shape[-1] == 16, f"{blocks.shape=} needs 16 bytes per block"
    first, second = blocks[..., :8], blocks[..., 8:]  # elements 0 to 15 and 16 to 31, in pairs
    swapped = np.empty_like(blocks)
    swapped[..., 0::2] = (first & 0x0F) | (second << 4)
    swapped[..., 1::2] = (first >> 4) | (second & 0xF0)
    return swapped


def llama_blocks(blocks: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Blocks [E, O, J, 16] and scales [E, O, J] as llama.cpp's rows of bytes, [E, O, J * 17]."""
    E, O, J, _ = blocks.shape
    rows = np.empty((E, O, J, 17), np.uint8)
    rows[..., 0] = scales
    for expert in range(E):
        rows[expert, ..., 1:] = llama_nibbles(blocks[expert])
    return rows.reshape(E, O, J * 17)


def written_tensors(tensors: dict[str, Tensor], config: Config) -> list[Written]:
    """Every tensor of the GGUF file, in the order in which it is written."""
    found = [plain(tensors[source], *target) for source, target in WHOLE.items()]
    for layer in range(config.num_layers):
        ours, theirs = f"model.layers.{layer}.", f"blk.{layer}."
        found += [
            plain(tensors[ours + source], theirs + name, kind)
            for source, (name, kind) in LAYER.items()
        ]
        gate_up = [tensors[f"{ours}mlp.experts.gate_up_proj_{p}"] for p in ("blocks", "scales")]
        down = [tensors[f"{ours}mlp.experts.down_proj_{p}"] for p in ("blocks", "scales")]
        bias = tensors[ours + "mlp.experts.gate_up_proj_bias"]
        found.append(packed(*down, f"{theirs}ffn_down_exps.weight", slice(None)))
        for name, rows in (("gate", GATE), ("up", UP)):
            found.append(packed(*gate_up, f"{theirs}ffn_{name}_exps.weight", rows))
            found.append(plain(bias, f"{theirs}ffn_{name}_exps.bias", "F32", rows))
    return found


def plain(tensor: Tensor, name: str, kind: str, columns: slice = slice(None)) -> Written:
    """A tensor whose numbers are kept in bf16, or widened to float32; both are exact."""
    if kind == "BF16" and tensor.dtype != "BF16":
        raise ValueError(
            f"{name} is {tensor.dtype} on disk, expected BF16, which both engines read"
        )
    *lead, last = tensor.shape
    shape = (*lead, len(range(*columns.indices(last))))

    def values() -> np.ndarray:
        array = map_array(tensor)[..., columns]
        return array.view(np.uint16) if kind == "BF16" else array.astype(np.float32)

    return Written(name, kind, shape, values)


def packed(blocks: Tensor, scales: Tensor, name: str, rows: slice) -> Written:
    """Experts, or every second row of them."""
    E, O, J, _ = blocks.shape
    shape = (E, len(range(*rows.indices(O))), J * 17)
    take = (slice(None), rows)
    return Written(
        name, "MXFP4", shape, lambda: llama_blocks(map_array(blocks)[take], map_array(scales)[take])
    )


def add_config(writer: Any, config: Config) -> None:
    """The numbers that llama.cpp asks for, under its names."""
    from gguf import RopeScalingType

    writer.add_context_length(config.max_positions)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_expert_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_expert_count(config.num_experts)
    writer.add_expert_used_count(config.experts_per_token)
    writer.add_sliding_window(config.sliding_window)
    writer.add_layer_norm_rms_eps(config.rms_eps)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_rope_scaling_type(RopeScalingType.YARN)
    writer.add_rope_scaling_factor(config.rope_factor)
    writer.add_rope_scaling_orig_ctx_len(config.initial_context)
    writer.add_rope_scaling_yarn_beta_fast(config.beta_fast)
    writer.add_rope_scaling_yarn_beta_slow(config.beta_slow)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-4o")
    writer.add_token_list([f"row{row}" for row in range(config.vocab_size)])
    writer.add_token_merges(["r o"])  # the loader insists on a list that is not empty


def write_gguf(folder: str | Path, path: str | Path) -> Path:
    """Write the checkpoint of `folder` as the GGUF file `path`; all of it, or nothing.

    Raises ImportError without the gguf package, ValueError for experts that are not packed.
    """
    try:
        import gguf
    except ImportError as error:
        raise ImportError(INSTALL) from error
    folder, path = Path(folder), Path(path)
    config, tensors = read_config(folder), find_tensors(folder)
    layout = find_layout(tensors, config)
    if layout is not HF_PACKED:
        raise ValueError(
            f"{folder} holds experts that are not packed, or another layout; expected names like"
            " model.layers.0.mlp.experts.gate_up_proj_blocks: take the published packed checkpoint"
        )
    check_tensors(tensors, layout, config, folder)
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    writer = gguf.GGUFWriter(draft, "gpt-oss")
    try:
        add_config(writer, config)
        pending = written_tensors(tensors, config)
        for name, kind, shape, _ in pending:
            dtype = {"BF16": np.uint16, "F32": np.float32, "MXFP4": np.uint8}[kind]
            size = int(np.prod(shape)) * np.dtype(dtype).itemsize
            writer.add_tensor_info(name, shape, dtype, size, gguf.GGMLQuantizationType[kind])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in tqdm(pending, desc=f"Writing {path.name}", unit="tensor"):
            writer.write_tensor_data(np.ascontiguousarray(tensor.values()))
        writer.flush()
        os.fsync(writer.fout[0].fileno())
        writer.close()
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    return path


def main() -> None:
    """Write one file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gguf", description=__doc__)
    parser.add_argument("folder", type=Path, help="a checkpoint with packed experts")
    parser.add_argument("file", type=Path, help="the GGUF file to write")
    options = parser.parse_args()
    write_gguf(options.folder, options.file)
    print(f"{options.file}: {options.file.stat().st_size / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
