"""Random checkpoints on disk in each published layout, written without the package's own writer.

The library derives every turn of axes from one table. Here each is spelled out in NumPy, and the
files are written by the `safetensors` package, so that a mistake in the table cannot hide.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from gptoss_edu.config import TINY, Config
from gptoss_edu.cpu.tiles import Tiled, in_tiles, tile_layer
from gptoss_edu.model import Params, init_params
from gptoss_edu.mxfp4 import Mxfp4

LAYOUTS = ("hf_packed", "hf_sharded", "hf_plain", "original_packed", "original_plain")
# Every width of a tile occurs, and a head is narrower than a tile.
IN_TILES = dataclasses.replace(
    TINY, num_layers=2, layer_types=(), hidden_size=96, intermediate_size=64, num_heads=6,
    num_kv_heads=2, head_dim=32, num_experts=16, vocab_size=112,
)  # fmt: skip


def random_params(
    config: Config, dtype=ml_dtypes.bfloat16, packed: bool = False, seed: int = 0
) -> Params:
    """Random parameters like `init_params`, drawn by NumPy: nothing to compile."""
    rng = np.random.default_rng(seed)
    letters = jax.eval_shape(lambda key: init_params(config, key), jax.random.key(0))

    def draw(path, leaf):
        name = path[-1].name
        if packed and name in ("w_gate_up_EDP", "w_down_EFD"):
            E, I, O = leaf.shape
            blocks = rng.integers(0, 256, (E, I // 32, 16, O), np.uint8)
            return Mxfp4(jnp.asarray(blocks), jnp.asarray(scales(rng, E, I // 32, O)))
        scale = 0.1 if name.startswith("w_") else 0.3
        values = (name == "norm_D") + scale * rng.standard_normal(leaf.shape, np.float32)
        return jnp.asarray(values.astype(dtype))

    return jax.tree_util.tree_map_with_path(draw, letters)


def all_in_tiles(params: Params) -> Params:
    """Everything that kernels can read in tiles, as `load_model` reads it from a file."""
    layers = tuple(map(tile_layer, params.layers))
    top = in_tiles(params.unembedding_DV)
    return dataclasses.replace(params, layers=layers, unembedding_DV=top)


def all_plain(params: Params) -> Params:
    """The other way around: arrays and `Mxfp4`, whose products are pure JAX."""
    return jax.tree.map(
        lambda leaf: leaf.plain if isinstance(leaf, Tiled) else leaf,
        params,
        is_leaf=lambda leaf: isinstance(leaf, Tiled),
    )


def scales(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Scale bytes around 2^-6, so that the values are of the size of real weights."""
    return rng.integers(119, 123, shape).astype(np.uint8)


def hf_tensors(params: Params) -> dict[str, np.ndarray]:
    """The Hugging Face layout; experts packed or, as in re-exports, plain."""
    tensors = {
        "model.embed_tokens.weight": params.embedding_VD,
        "lm_head.weight": np.asarray(params.unembedding_DV).T,
        "model.norm.weight": params.norm_D,
    }
    for n, layer in enumerate(params.layers):
        prefix = f"model.layers.{n}."
        a, m = layer.attention, layer.moe
        tensors[prefix + "input_layernorm.weight"] = a.norm_D
        tensors[prefix + "post_attention_layernorm.weight"] = m.norm_D
        tensors[prefix + "self_attn.sinks"] = a.sinks_N
        for letter, w, b in (
            ("q", a.w_q_DNH, a.b_q_NH),
            ("k", a.w_k_DKH, a.b_k_KH),
            ("v", a.w_v_DKH, a.b_v_KH),
        ):
            tensors[prefix + f"self_attn.{letter}_proj.weight"] = output_first(w)
            tensors[prefix + f"self_attn.{letter}_proj.bias"] = np.ravel(b)
        D = a.w_o_NHD.shape[-1]
        tensors[prefix + "self_attn.o_proj.weight"] = np.asarray(a.w_o_NHD).reshape(-1, D).T
        tensors[prefix + "self_attn.o_proj.bias"] = a.b_o_D
        tensors[prefix + "mlp.router.weight"] = np.asarray(m.w_router_DE).T
        tensors[prefix + "mlp.router.bias"] = m.b_router_E
        for name, w, b in (
            ("gate_up_proj", m.w_gate_up_EDP, m.b_gate_up_EP),
            ("down_proj", m.w_down_EFD, m.b_down_ED),
        ):
            key = prefix + "mlp.experts." + name
            tensors[key + "_bias"] = b
            if isinstance(w, Mxfp4):
                tensors[key + "_blocks"], tensors[key + "_scales"] = published(w)
            else:
                tensors[key] = w
    return {name: np.ascontiguousarray(value) for name, value in tensors.items()}


def original_tensors(params: Params) -> dict[str, np.ndarray]:
    """OpenAI's layout: q, k and v fused, experts packed, or plain with the output axis first."""
    tensors = {
        "embedding.weight": params.embedding_VD,
        "unembedding.weight": np.asarray(params.unembedding_DV).T,
        "norm.scale": params.norm_D,
    }
    for n, layer in enumerate(params.layers):
        attn, mlp = f"block.{n}.attn.", f"block.{n}.mlp."
        a, m = layer.attention, layer.moe
        weights = [output_first(w) for w in (a.w_q_DNH, a.w_k_DKH, a.w_v_DKH)]
        biases = [np.ravel(b) for b in (a.b_q_NH, a.b_k_KH, a.b_v_KH)]
        tensors[attn + "norm.scale"] = a.norm_D
        tensors[attn + "sinks"] = a.sinks_N
        tensors[attn + "qkv.weight"] = np.concatenate(weights)
        tensors[attn + "qkv.bias"] = np.concatenate(biases)
        tensors[attn + "out.weight"] = output_first(np.moveaxis(np.asarray(a.w_o_NHD), 2, 0)).T
        tensors[attn + "out.bias"] = a.b_o_D
        tensors[mlp + "norm.scale"] = m.norm_D
        tensors[mlp + "gate.weight"] = np.asarray(m.w_router_DE).T
        tensors[mlp + "gate.bias"] = m.b_router_E
        for name, w, b in (
            ("mlp1", m.w_gate_up_EDP, m.b_gate_up_EP),
            ("mlp2", m.w_down_EFD, m.b_down_ED),
        ):
            tensors[mlp + name + "_bias"] = b
            key = mlp + name + "_weight"
            if isinstance(w, Mxfp4):
                tensors[key + ".blocks"], tensors[key + ".scales"] = published(w)
            else:
                tensors[key] = np.swapaxes(np.asarray(w), 1, 2)
    return {name: np.ascontiguousarray(value) for name, value in tensors.items()}


def output_first(w_DNH) -> np.ndarray:
    """[D, heads, H] as a linear layer's weight [heads * H, D]."""
    return np.asarray(w_DNH).reshape(w_DNH.shape[0], -1).T


def published(w: Mxfp4) -> tuple[np.ndarray, np.ndarray]:
    """Blocks [E, O, J, 16] and scales [E, O, J]."""
    return np.moveaxis(np.asarray(w.blocks_EJUO), 3, 1), np.swapaxes(np.asarray(w.scales_EJO), 1, 2)


def original_config(config: Config) -> dict:
    """config.json in OpenAI's dialect, with the keys that the published file has."""
    return {
        "num_hidden_layers": config.num_layers,
        "num_experts": config.num_experts,
        "experts_per_token": config.experts_per_token,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "swiglu_limit": config.swiglu_limit,
        "head_dim": config.head_dim,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "sliding_window": config.sliding_window,
        "initial_context_length": config.initial_context,
        "rope_theta": config.rope_theta,
        "rope_scaling_factor": config.rope_factor,
        "rope_ntk_alpha": config.beta_slow,
        "rope_ntk_beta": config.beta_fast,
    }


def write_file(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """One safetensors file, by the safetensors package."""
    save_file(tensors, path)


def write_shards(folder: Path, tensors: dict[str, np.ndarray], count: int) -> None:
    """`count` shards, numbered from 0 as the published ones are, and their index."""
    weight_map = {}
    names = sorted(tensors)
    for number in range(count):
        file = f"model-{number:05}-of-{count - 1:05}.safetensors"
        part = names[number::count]
        write_file(folder / file, {name: tensors[name] for name in part})
        weight_map |= dict.fromkeys(part, file)
    text = json.dumps({"metadata": {}, "weight_map": weight_map})
    (folder / "model.safetensors.index.json").write_text(text)


def write_layout(folder: Path, params: Params, config: Config, layout: str) -> Path:
    """Write `params` to `folder` in one of LAYOUTS; "packed" ones need packed experts."""
    folder.mkdir(parents=True, exist_ok=True)
    if layout.startswith("original"):
        write_file(folder / "model.safetensors", original_tensors(params))
        (folder / "config.json").write_text(json.dumps(original_config(config)))
        return folder
    if layout == "hf_sharded":
        write_shards(folder, hf_tensors(params), 3)
    else:
        write_file(folder / "model.safetensors", hf_tensors(params))
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    return folder
