"""The name map against the shapes of the published 20B, and against itself."""

from pathlib import Path

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
    Field,
    check_tensors,
    find_own_layout,
    own_layout,
    places,
    shape_on_disk,
    stored_bytes,
    tiled_shape,
)
from gptoss_edu.weights.shards import Tensor

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
    found = {
        entry.name.removeprefix(prefix): shape_on_disk(field, entry, GPT_OSS_20B)
        for layer in (None, 23)
        for field, entry in places(layout, layer)
    }
    assert found == published


def test_reexports_are_transposed_against_the_packed_form():
    shapes = {e.name: shape_on_disk(f, e, TINY) for f, e in places(HF_PLAIN, 0)}
    assert shapes["model.layers.0.mlp.experts.gate_up_proj"] == (9, 128, 320)
    assert shapes["model.layers.0.mlp.experts.down_proj"] == (9, 160, 128)


@pytest.mark.parametrize("layout", [HF_PACKED, HF_PLAIN, ORIGINAL_PACKED, ORIGINAL_PLAIN])
def test_axes_on_disk_are_those_of_the_field(layout):
    for field, entry in layout.items():
        assert sorted("".join(entry.axes)) == sorted(field.axes), field
        assert not entry.stack or entry.stack[entry.part] == entry.axes[0], field


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


def test_a_field_says_its_letters_its_path_and_its_name():
    whole, half = Field("w_q_DNH", "attention"), Field("w_down_EFD", "moe", "blocks")
    assert (str(whole), whole.path, whole.axes) == (
        "attention.w_q_DNH", ("attention", "w_q_DNH"), "DNH",
    )  # fmt: skip
    assert (str(half), half.axes) == ("moe.w_down_EFD.blocks_EJUD", "EJUD")
    assert half.path == ("moe", "w_down_EFD", "blocks_EJUO")
    assert Field("w_down_EFD", "moe", "scales").axes == "EJD"
    assert str(Field("embedding_VD")) == "embedding_VD"


def test_blocks_are_counted_along_the_inputs_of_their_matrix():
    """Width and hidden size of TINY differ: 128 is 4 blocks, 160 is 5."""
    assert Field("w_gate_up_EDP", "moe", "blocks").shape(TINY) == (9, 4, 16, 320)
    assert Field("w_down_EFD", "moe", "blocks").shape(TINY) == (9, 5, 16, 128)
    assert Field("w_down_EFD", "moe", "scales").shape(TINY) == (9, 5, 128)


@pytest.mark.parametrize("layout", [HF_PACKED, HF_PLAIN], ids=["packed", "plain"])
def test_a_conversion_is_known_by_the_names_of_its_tensors(layout):
    tiled = {field: shape for field in layout if (shape := tiled_shape(field, GPT_OSS_20B))}
    assert len(tiled) == 6 + 4 * (layout is HF_PACKED)
    for expected in (own_layout(layout), own_layout(layout, tiled)):
        names = [entry.name for layer in (None, 0) for _, entry in places(expected, layer)]
        assert find_own_layout(names, GPT_OSS_20B) == expected


def as_expected() -> dict[str, Tensor]:
    """Headers that fit TINY, as of a file."""
    return {
        entry.name: Tensor(
            Path("x"), "U8" if field.half else "BF16", shape_on_disk(field, entry, TINY), 0
        )
        for layer in (None, *range(TINY.num_layers))
        for field, entry in places(HF_PACKED, layer)
    }


def test_a_tensor_that_nobody_asked_for_is_refused():
    """Whatever it is for, the numbers would be wrong without it."""
    tensors = as_expected()
    check_tensors(tensors, HF_PACKED, TINY, Path("folder"))
    idle = {"model.layers.0.self_attn.rotary_emb.inv_freq", "padding.lm_head.weight"}
    some = tensors["model.norm.weight"]
    check_tensors(tensors | dict.fromkeys(idle, some), HF_PACKED, TINY, Path("folder"))
    with pytest.raises(ValueError, match=r"folder do not fit together: unexpected adapter in x\."):
        check_tensors(tensors | {"adapter": some}, HF_PACKED, TINY, Path("folder"))


def test_a_tensor_that_is_missing_or_of_another_kind_is_refused():
    tensors = as_expected()
    del tensors["lm_head.weight"]
    tensors["model.norm.weight"] = tensors["model.norm.weight"]._replace(shape=(1,), dtype="U8")
    with pytest.raises(ValueError, match="fit together") as refused:
        check_tensors(tensors, HF_PACKED, TINY, Path("folder"))
    for problem in ("missing lm_head.weight", "shape [1], expected [128]", "dtype U8, expected BF"):
        assert problem in str(refused.value)
