"""The name map against the shapes of the published 20B, and against itself."""

import jax
import pytest

from gptoss_edu.config import GPT_OSS_20B, GPT_OSS_120B, TINY
from gptoss_edu.model import init_params
from gptoss_edu.shapes import num_bytes
from gptoss_edu.weights.layout import (
    HF_PACKED,
    HF_PLAIN,
    ORIGINAL_PACKED,
    ORIGINAL_PLAIN,
    places,
    shape_on_disk,
    sizes_of,
    stored_bytes,
)

# openai/gpt-oss-20b: names without the layer's prefix, shapes as in the published headers.
PUBLISHED_HF = {
    "model.embed_tokens.weight": (201088, 2880),
    "lm_head.weight": (201088, 2880),
    "model.norm.weight": (2880,),
    "input_layernorm.weight": (2880,),
    "self_attn.q_proj.weight": (4096, 2880),
    "self_attn.q_proj.bias": (4096,),
    "self_attn.k_proj.weight": (512, 2880),
    "self_attn.k_proj.bias": (512,),
    "self_attn.v_proj.weight": (512, 2880),
    "self_attn.v_proj.bias": (512,),
    "self_attn.o_proj.weight": (2880, 4096),
    "self_attn.o_proj.bias": (2880,),
    "self_attn.sinks": (64,),
    "post_attention_layernorm.weight": (2880,),
    "mlp.router.weight": (32, 2880),
    "mlp.router.bias": (32,),
    "mlp.experts.gate_up_proj_blocks": (32, 5760, 90, 16),
    "mlp.experts.gate_up_proj_scales": (32, 5760, 90),
    "mlp.experts.gate_up_proj_bias": (32, 5760),
    "mlp.experts.down_proj_blocks": (32, 2880, 90, 16),
    "mlp.experts.down_proj_scales": (32, 2880, 90),
    "mlp.experts.down_proj_bias": (32, 2880),
}
PUBLISHED_ORIGINAL = {
    "embedding.weight": (201088, 2880),
    "unembedding.weight": (201088, 2880),
    "norm.scale": (2880,),
    "attn.norm.scale": (2880,),
    "attn.qkv.weight": (5120, 2880),
    "attn.qkv.bias": (5120,),
    "attn.out.weight": (2880, 4096),
    "attn.out.bias": (2880,),
    "attn.sinks": (64,),
    "mlp.norm.scale": (2880,),
    "mlp.gate.weight": (32, 2880),
    "mlp.gate.bias": (32,),
    "mlp.mlp1_weight.blocks": (32, 5760, 90, 16),
    "mlp.mlp1_weight.scales": (32, 5760, 90),
    "mlp.mlp1_bias": (32, 5760),
    "mlp.mlp2_weight.blocks": (32, 2880, 90, 16),
    "mlp.mlp2_weight.scales": (32, 2880, 90),
    "mlp.mlp2_bias": (32, 2880),
}


@pytest.mark.parametrize(
    ("layout", "published", "prefix"),
    [
        (HF_PACKED, PUBLISHED_HF, "model.layers.23."),
        (ORIGINAL_PACKED, PUBLISHED_ORIGINAL, "block.23."),
    ],
    ids=["hf", "original"],
)
def test_names_and_shapes_are_the_published_ones(layout, published, prefix):
    entries = [entry for layer in (None, 23) for _, entry in places(layout, layer)]
    sizes = sizes_of(GPT_OSS_20B)
    found = {e.name.removeprefix(prefix): shape_on_disk(e.axes, sizes) for e in entries}
    assert found == published


def test_reexports_are_transposed_against_the_packed_form():
    sizes = sizes_of(TINY)
    shapes = {e.name: shape_on_disk(e.axes, sizes) for _, e in places(HF_PLAIN, 0)}
    assert shapes["model.layers.0.mlp.experts.gate_up_proj"] == (9, 128, 320)
    assert shapes["model.layers.0.mlp.experts.down_proj"] == (9, 160, 128)


@pytest.mark.parametrize("layout", [HF_PACKED, HF_PLAIN, ORIGINAL_PACKED, ORIGINAL_PLAIN])
def test_axes_on_disk_are_those_of_the_field(layout):
    for field, entry in layout.items():
        axes = entry.axes.split()
        part = axes[0].split("+")[entry.part]
        assert sorted(part + "".join(axes[1:])) == sorted(field.rsplit("_", 1)[-1]), field


@pytest.mark.parametrize("config, gib", [(GPT_OSS_20B, 38.957), (GPT_OSS_120B, 217.611)])
@pytest.mark.parametrize("layout", [HF_PLAIN, ORIGINAL_PLAIN], ids=["hf", "original"])
def test_weights_in_bf16_take_two_bytes_each(config, gib, layout):
    assert stored_bytes(config, layout) / 2**30 == pytest.approx(gib, abs=1e-3)


def test_weights_are_counted_as_they_are_made():
    shapes = jax.eval_shape(lambda: init_params(TINY, jax.random.key(0), "bfloat16"))
    assert stored_bytes(TINY, HF_PLAIN) == num_bytes(shapes)


@pytest.mark.parametrize("layout", [HF_PACKED, ORIGINAL_PACKED], ids=["hf", "original"])
def test_packed_experts_take_what_is_published(layout):
    assert stored_bytes(GPT_OSS_20B, layout) / 1e9 == pytest.approx(13.76, abs=0.01)
