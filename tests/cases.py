"""What the references are asked: models with known weights, inputs, and how answers are compared.

No weights are stored anywhere. They are made of the raw output of NumPy's PCG64, which NumPy
promises never to change, by arithmetic that rounds the same way everywhere; so a seed and a hash
stand for a checkpoint, and whoever has no torch builds the very model that the references ran.
"""

import dataclasses
import functools
import hashlib
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from layouts import original_config, write_file, write_shards

from gptoss_edu.attention import NoCache, attention
from gptoss_edu.config import GPT_OSS_20B, TINY, Config
from gptoss_edu.generation import generate_tokens
from gptoss_edu.model import (
    Layer,
    Model,
    Params,
    block,
    observe,
    rms_norm,
    rope_frequencies,
    rope_tables,
)
from gptoss_edu.moe import moe

GOLDEN = Path(__file__).parent / "golden"
WITNESSES = ("transformers", "openai")
CONTINUATION = 256  # tokens of greedy decoding
BLOCK_LIMIT, LOGIT_LIMIT = 1e-5, 1e-4  # relative, of a token's vector; absolute, of one logit
SHIPPED_LIMIT = 4e-4  # of a logit where the last bit of a frequency counts; see test_parity.py
Answers = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Case:
    """One question to the references.

    `lengths` are the prompts, in tokens; `kept` are the positions whose numbers go into the golden
    file; `strength` scales what blocks add to the residual stream, and `faint` every third
    embedding, both by a power of two; `rounded`: lend the references this package's inverse
    frequencies, after asking them with their own; `sparse`: where a reference takes minutes, ask it
    about the kept positions only (possible with one layer).
    """

    name: str
    config: Config
    seed: int
    lengths: tuple[int, ...]
    kept: tuple[int, ...]
    strength: float = 1.0
    faint: float = 1 / 32
    rounded: bool = False
    sparse: bool = False
    continuation: int = CONTINUATION


# Every size differs; a window of 6 and an initial context of 32 are crossed many times.
SMALL = Case(
    name="small",
    config=dataclasses.replace(TINY, max_positions=1024, rope_factor=32.0),
    seed=1,
    lengths=(300, 177),
    kept=(0, 1, 5, 6, 7, 31, 32, 33, 127, 128, 129, 176, 299),
)
# The published rotation and window, beyond the 4,096 positions that YaRN stretches.
YARN = Case(
    name="yarn",
    config=dataclasses.replace(
        GPT_OSS_20B,
        num_layers=2,
        layer_types=(),
        num_experts=9,
        vocab_size=211,
        hidden_size=160,
        intermediate_size=96,
        num_heads=6,
        num_kv_heads=2,
    ),
    seed=2,
    lengths=(4200,),
    kept=(0, 1, 126, 127, 128, 129, 2047, 4094, 4095, 4096, 4097, 4198, 4199),
    rounded=True,
)
# One layer of the real thing; only the vocabulary is small.
WIDE = Case(
    name="wide",
    config=dataclasses.replace(GPT_OSS_20B, num_layers=1, layer_types=(), vocab_size=211),
    seed=3,
    lengths=(160,),
    kept=(0, 1, 64, 127, 128, 129, 159),
    sparse=True,
    continuation=0,
)
# For bfloat16. In the model of SMALL one expert that is chosen otherwise changes everything after
# it; here the residual stream outweighs what blocks add, as it does in a trained model.
CALM = dataclasses.replace(SMALL, name="calm", strength=0.125, faint=1.0, continuation=0)
YARN_CALM = dataclasses.replace(YARN, name="yarn_calm", strength=0.125, faint=1.0, continuation=0)
CASES = {case.name: case for case in (SMALL, YARN, WIDE)}


class Source:
    """Numbers that are the same on every machine and in every version of NumPy."""

    def __init__(self, seed: int) -> None:
        self.raw = np.random.PCG64(seed).random_raw

    def uniform(self, shape: tuple[int, ...], std: float, mean: float = 0.0) -> np.ndarray:
        """Float32 numbers with this standard deviation, evenly spread around the mean."""
        unit = (self.raw(int(np.prod(shape))) >> 40).astype(np.float32) * np.float32(2**-24)
        half_width = np.float32(std * 3**0.5)
        return ((unit * 2 - 1) * half_width + np.float32(mean)).reshape(shape)

    def below(self, limit: int, shape: tuple[int, ...]) -> np.ndarray:
        """Whole numbers from 0 to limit - 1."""
        return (self.raw(int(np.prod(shape))) >> 32).reshape(shape).astype(np.int64) % limit

    def bytes(self, shape: tuple[int, ...]) -> np.ndarray:
        """Bytes, all 256 equally likely."""
        count = int(np.prod(shape))
        return self.raw(-(-count // 8)).astype("<u8").view(np.uint8)[:count].reshape(shape)


def draw_weights(case: Case) -> dict[str, np.ndarray]:
    """A checkpoint with packed experts under the published names: bfloat16 and bytes.

    The spreads are chosen so that everything counts: gates and ups beyond the clamp of 7, sinks as
    large as scores, tokens so faint that the epsilon of the norm shows.
    """
    source, sizes = Source(case.seed), case.config.sizes
    V, D, F, P, E, N, H = (sizes[letter] for letter in "VDFPENH")
    NH, KH = N * H, sizes["K"] * H
    weights: dict[str, np.ndarray] = {}

    def add(name: str, *shape: int, std: float, mean: float = 0.0) -> None:
        weights[name] = source.uniform(shape, std, mean).astype(ml_dtypes.bfloat16)

    def add_experts(name: str, outputs: int, inputs: int, std: float, bias: float) -> None:
        # The 16 values of a nibble have a standard deviation of 2.93 when all are equally likely.
        middle = round(np.log2(std * inputs**-0.5 / 2.93)) + 127
        shape = (E, outputs, inputs // 32)
        weights[name + "_blocks"] = source.bytes((*shape, 16))
        weights[name + "_scales"] = (middle - 1 + source.below(3, shape)).astype(np.uint8)
        add(name + "_bias", E, outputs, std=bias)

    add("model.embed_tokens.weight", V, D, std=1.0)
    weights["model.embed_tokens.weight"][::3] *= case.faint
    for layer in range(case.config.num_layers):
        at = f"model.layers.{layer}."
        add(at + "input_layernorm.weight", D, std=0.2, mean=1.0)
        add(at + "self_attn.sinks", N, std=1.0)
        for name, outputs in (("q", NH), ("k", KH), ("v", KH)):
            add(at + f"self_attn.{name}_proj.weight", outputs, D, std=1.4 * D**-0.5)
            add(at + f"self_attn.{name}_proj.bias", outputs, std=0.2)
        add(at + "self_attn.o_proj.weight", D, NH, std=case.strength * NH**-0.5)
        add(at + "self_attn.o_proj.bias", D, std=case.strength * 0.2)
        add(at + "post_attention_layernorm.weight", D, std=0.2, mean=1.0)
        add(at + "mlp.router.weight", E, D, std=D**-0.5)
        add(at + "mlp.router.bias", E, std=0.2)
        add_experts(at + "mlp.experts.gate_up_proj", P, D, std=3.0, bias=0.2)
        down = {"std": case.strength * 0.2, "bias": case.strength * 0.2}
        add_experts(at + "mlp.experts.down_proj", D, F, **down)
    add("model.norm.weight", D, std=0.2, mean=1.0)
    add("lm_head.weight", V, D, std=3 * D**-0.5)
    return weights


ORIGINAL_NAMES = {
    "model.embed_tokens.weight": "embedding.weight",
    "lm_head.weight": "unembedding.weight",
    "model.norm.weight": "norm.scale",
    "input_layernorm.weight": "attn.norm.scale",
    "self_attn.sinks": "attn.sinks",
    "self_attn.o_proj.weight": "attn.out.weight",
    "self_attn.o_proj.bias": "attn.out.bias",
    "post_attention_layernorm.weight": "mlp.norm.scale",
    "mlp.router.weight": "mlp.gate.weight",
    "mlp.router.bias": "mlp.gate.bias",
    "mlp.experts.gate_up_proj_blocks": "mlp.mlp1_weight.blocks",
    "mlp.experts.gate_up_proj_scales": "mlp.mlp1_weight.scales",
    "mlp.experts.gate_up_proj_bias": "mlp.mlp1_bias",
    "mlp.experts.down_proj_blocks": "mlp.mlp2_weight.blocks",
    "mlp.experts.down_proj_scales": "mlp.mlp2_weight.scales",
    "mlp.experts.down_proj_bias": "mlp.mlp2_bias",
}


def original(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same numbers under OpenAI's own names, where queries, keys and values are one matrix."""
    renamed, fused = {}, {}
    for name, array in weights.items():
        prefix, _, rest = name.rpartition("self_attn.") if "_proj" in name else ("", "", "")
        if rest[:6] in ("q_proj", "k_proj", "v_proj"):
            layer, kind = prefix.split(".")[2], rest.split(".")[1]
            fused.setdefault(f"block.{layer}.attn.qkv.{kind}", []).append(array)
        elif name.startswith("model.layers."):
            _, _, layer, rest = name.split(".", 3)
            renamed[f"block.{layer}.{ORIGINAL_NAMES[rest]}"] = array
        else:
            renamed[ORIGINAL_NAMES[name]] = array
    return renamed | {name: np.concatenate(parts) for name, parts in fused.items()}


LAYOUTS = ("packed", "sharded", "original")


def write(folder: Path, case: Case, weights: dict[str, np.ndarray], layout: str) -> Path:
    """Write a checkpoint as it is published, in one of LAYOUTS; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    config = case.config.to_dict() | {"quantization_config": {"quant_method": "mxfp4"}}
    if layout == "original":
        weights, config = original(weights), original_config(case.config)
    (folder / "config.json").write_text(json.dumps(config))
    if layout == "sharded":
        write_shards(folder, weights, 3)
    else:
        write_file(folder / "model.safetensors", weights)
    return folder


def digest(weights: dict[str, np.ndarray]) -> str:
    """One hash for all names, shapes and numbers."""
    total = hashlib.sha256()
    for name, array in sorted(weights.items()):
        total.update(f"{name} {array.dtype} {array.shape}".encode())
        total.update(np.ascontiguousarray(array).view(np.uint8))
    return total.hexdigest()


def draw_tokens(case: Case) -> list[np.ndarray]:
    """The prompts, as rows of the vocabulary."""
    source = Source(case.seed + 1000)
    return [source.below(case.config.vocab_size, (length,)) for length in case.lengths]


def draw_block_input(case: Case, layer: int) -> np.ndarray:
    """A residual stream for one block alone, [1, T, D]: loud and faint channels and tokens."""
    source = Source(case.seed + 2000 + layer)
    D = case.config.hidden_size
    x_BTD = source.uniform((1, case.lengths[0], D), std=2.0) * source.uniform((D,), 0.3, 1.0)
    x_BTD[:, ::3] /= 32
    return x_BTD


# ---- answers, and what is compared in them -------------------------------------------------------

PARTS = ("attention", "experts", "block")


def kept(case: Case, answers: Answers) -> Answers:
    """What goes into the golden file: of answers about every position, those that are kept."""
    return {
        key: array if key in ("continuation", "frequencies") else at_kept(case, array)
        for key, array in answers.items()
    }


def at_kept(case: Case, array: np.ndarray) -> np.ndarray:
    """The rows at `case.kept` of an array about every position."""
    return array[[position for position in case.kept if position < len(array)]]


def aligned(case: Case, found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """`found` at the positions that `expected` is about: all, or those that are kept."""
    return found if len(found) == len(expected) else at_kept(case, found)


def token_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest relative error of a token's vector: |found - expected| / |expected|, last axis."""
    assert found.shape == expected.shape, f"{found.shape=}, {expected.shape=}"
    expected = expected.astype(np.float64)
    norms = np.linalg.norm(expected, axis=-1)
    return float((np.linalg.norm(found - expected, axis=-1) / norms).max())


def check_blocks(case: Case, ours: Answers, theirs: Answers, limit: float) -> None:
    """Each part of each block: relative error of every token's vector."""
    keys = [key for key in theirs if key.split(".")[0] in PARTS]
    assert len(keys) == len(PARTS) * case.config.num_layers, keys
    errors = {key: token_error(aligned(case, ours[key], theirs[key]), theirs[key]) for key in keys}
    assert max(errors.values()) <= limit, f"{errors} > {limit}"


def check_logits(case: Case, ours: Answers, theirs: Answers, limit: float, key: str) -> None:
    """Every logit of every prompt, and which of them is the largest."""
    for row in range(len(case.lengths)):
        expected_TV = theirs[f"{key}.{row}"]
        found_TV = aligned(case, ours[f"logits.{row}"], expected_TV)
        error = np.abs(found_TV - expected_TV).max()
        assert error <= limit, f"{key}.{row}: {error} > {limit}"
        np.testing.assert_array_equal(found_TV.argmax(-1), expected_TV.argmax(-1))


def check_bfloat16(case: Case, ours: Answers, theirs: Answers) -> dict[str, float]:
    """Every token is the reference's, or a tie at the resolution of bfloat16: its logit is within
    four steps of the best, or an expert was chosen by a margin that bfloat16 cannot see, at this
    token or at one that its window still shows (jax 0.7.2 has one such token of 477)."""
    counts = {"tokens": 0, "same": 0, "logits tie": 0, "experts tie": 0}
    X = case.config.experts_per_token
    for row in range(len(case.lengths)):
        found_TV, expected_TV = ours[f"logits.{row}"], theirs[f"logits.{row}"]
        best_T = expected_TV.max(-1)
        step_T = np.exp2(np.floor(np.log2(best_T)) - 7)
        chosen_T1 = found_TV.argmax(-1)[:, None]
        gap_T = best_T - np.take_along_axis(expected_TV, chosen_T1, -1)[:, 0]
        router_LTE = theirs[f"router.{row}"]
        ranked_LTE = np.sort(router_LTE, -1)[..., ::-1]
        margin_LT = ranked_LTE[..., X - 1] - ranked_LTE[..., X]
        flipped_LT = (choices(ours[f"router.{row}"], X) != choices(router_LTE, X)).any(-1)
        first_LT = flipped_LT & (np.cumsum(flipped_LT, axis=0) == 1)  # others may follow from it
        assert margin_LT[first_LT].max(initial=0) <= ROUTER_TIE, margin_LT[first_LT]
        same_T, tie_T = gap_T == 0, gap_T <= 4 * step_T
        excused_T = np.convolve(flipped_LT.any(0), np.ones(case.config.sliding_window))[
            : len(gap_T)
        ]
        wrong_T = ~same_T & ~tie_T & (excused_T == 0)
        assert not wrong_T.any(), (np.flatnonzero(wrong_T), gap_T[wrong_T])
        counts["tokens"] += len(gap_T)
        counts["same"] += int(same_T.sum())
        counts["logits tie"] += int((tie_T & ~same_T).sum())
        counts["experts tie"] += int((~same_T & ~tie_T).sum())
    return counts


ROUTER_TIE = 0.06  # four steps of bfloat16 at 2, the size of these router logits


def choices(router_LTE: np.ndarray, experts_per_token: int) -> np.ndarray:
    """The chosen experts, in the order of their numbers."""
    return np.sort(np.argsort(-router_LTE, -1, kind="stable")[..., :experts_per_token], -1)


# ---- the same answers from this package ----------------------------------------------------------


def frequencies(config: Config) -> np.ndarray:
    """The inverse frequencies of this package, inv_C."""
    return rope_frequencies(config)[0]


@functools.partial(jax.jit, static_argnames=("config", "window"))
def block_answers(layer: Layer, x_BTD: jax.Array, config: Config, window: int | None) -> tuple:
    """(attention, experts, whole block) of one layer, each on the same residual stream."""
    B, T, _ = x_BTD.shape
    position_BT = jnp.broadcast_to(jnp.arange(T), (B, T))
    rotation = *rope_tables(position_BT, config), position_BT, NoCache()
    normed_BTD = rms_norm(x_BTD, layer.attention.norm_D, config.rms_eps)
    attended_BTD, _, _ = attention(layer.attention, normed_BTD, *rotation, window)
    normed_BTD = rms_norm(x_BTD, layer.moe.norm_D, config.rms_eps)
    mixed_BTD, _ = moe(
        layer.moe, normed_BTD, config.experts_per_token, config.swiglu_limit, config.swiglu_alpha
    )
    whole_BTD, _, _ = block(layer, x_BTD, *rotation, config, window)
    return attended_BTD, mixed_BTD, whole_BTD


observed = jax.jit(observe, static_argnames=("config", "dtype"))


def our_blocks(case: Case, params: Params, dtype=jnp.float32) -> Answers:
    """[T, D] for each part of each block."""
    answers = {}
    for index, layer in enumerate(params.layers):
        x_BTD = jnp.asarray(draw_block_input(case, index), dtype)
        parts = block_answers(layer, x_BTD, case.config, case.config.window(index))
        for part, array_BTD in zip(PARTS, parts, strict=True):
            answers[f"{part}.{index}"] = np.asarray(array_BTD[0], np.float32)
    return answers


def our_logits(case: Case, params: Params, dtype=jnp.float32) -> Answers:
    """[T, V] for each prompt, and what the router said in every layer, [L, T, E].

    All prompts in one batch: what fills a short one up stands behind it, where it is not seen.
    """
    prompts, answers = draw_tokens(case), {}
    tokens_BT = np.zeros((len(prompts), max(case.lengths)), np.int32)
    for row, tokens in enumerate(prompts):
        tokens_BT[row, : len(tokens)] = tokens
    logits_BTV, seen = observed(params, jnp.asarray(tokens_BT), case.config, dtype)
    for row, length in enumerate(case.lengths):
        routers = [np.asarray(block.routing.logits_BTE[row, :length]) for block in seen]
        answers[f"logits.{row}"] = np.asarray(logits_BTV[row, :length])
        answers[f"router.{row}"] = np.stack(routers).astype(np.float32)
    return answers


def our_continuation(case: Case, model: Model, params: Params) -> Answers:
    """Greedy rows [B, continuation], through the cache, all prompts in one batch."""
    if not case.continuation:
        return {}
    prompts = [tokens.tolist() for tokens in draw_tokens(case)]
    steps = list(generate_tokens(model, params, prompts, max_tokens=case.continuation))
    return {"continuation": np.stack(steps, axis=1)}


def our_answers(case: Case, model: Model, params: Params) -> Answers:
    """Everything that this package says about a case, in float32."""
    return {
        **our_blocks(case, params),
        **our_logits(case, params),
        **our_continuation(case, model, params),
        "frequencies": frequencies(case.config),
    }


# ---- golden files --------------------------------------------------------------------------------


def read_digest(name: str) -> str:
    """The hash of the weights that the witnesses were given."""
    return (GOLDEN / f"{name}.sha256").read_text().strip()


def read_golden(name: str) -> Answers:
    """What a witness said when the golden file was written."""
    with np.load(GOLDEN / f"{name}.npz") as file:
        return {key: from_bits(file[key]) for key in file.files}


def write_golden(name: str, answers: Answers) -> None:
    """Numbers that bfloat16 holds exactly are stored in its 16 bits."""
    np.savez_compressed(GOLDEN / f"{name}.npz", **{k: to_bits(a) for k, a in answers.items()})


def to_bits(array: np.ndarray) -> np.ndarray:
    if array.dtype != np.float32 or (array.view(np.uint32) & 0xFFFF).any():
        return array
    return (array.view(np.uint32) >> 16).astype(np.uint16)


def from_bits(array: np.ndarray) -> np.ndarray:
    if array.dtype != np.uint16:
        return array
    return (array.astype(np.uint32) << 16).view(np.float32)
