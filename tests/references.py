"""The two witnesses: Hugging Face transformers and OpenAI's own torch model, both in float32.

Their code runs as it was published. OpenAI's modules create their parameters in bfloat16; nothing
in their forward passes names a dtype, so `.float()` after loading is all it takes. Its experts copy
the weights of every token's choices, gigabytes at these lengths, so their block is fed slices of
the prompt: it treats tokens one by one.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import transformers
from cases import PARTS, Answers, Case, draw_block_input, draw_tokens, frequencies
from gpt_oss.torch.model import Transformer
from torch import nn

# Two test processes share two cores: torch's threads would wait for each other most of the time.
torch.set_num_threads(1)


def inputs(tokens: Sequence[int]) -> torch.Tensor:
    """A prompt as torch wants it, [T]."""
    return torch.as_tensor(np.asarray(tokens, np.int64))


class Transformers:
    """GptOssForCausalLM of Hugging Face transformers, eager attention, eager experts."""

    def __init__(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        packed = "quantization_config" in json.loads((folder / "config.json").read_text())
        mxfp4 = {"quantization_config": transformers.Mxfp4Config(dequantize=True)} if packed else {}
        self.model = transformers.AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            attn_implementation="eager",
            experts_implementation="eager",
            **mxfp4,
        ).eval()
        assert {p.dtype for p in self.model.parameters()} == {dtype}

    def export(self, folder: Path, dtype: torch.dtype, **options: str) -> None:
        """Save as people do who re-export the model, experts unpacked.

        From a model without history: transformers 5.23 remembers that it has unpacked the experts,
        and would save the unpacked numbers under the names of packed blocks.
        """
        config = type(self.model.config).from_dict(self.model.config.to_dict())
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        plain = type(self.model)(config)
        plain.load_state_dict(self.model.state_dict())
        plain.to(dtype).save_pretrained(folder, **options)

    @property
    def frequencies(self) -> np.ndarray:
        return self.model.model.rotary_emb.inv_freq.numpy().copy()

    @frequencies.setter
    def frequencies(self, inv_C: np.ndarray) -> None:
        self.model.model.rotary_emb.inv_freq.copy_(torch.from_numpy(inv_C))

    @torch.inference_mode()
    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        return self.model(inputs(tokens)[None]).logits[0].float().numpy()

    @torch.inference_mode()
    def routers(self, tokens: Sequence[int]) -> np.ndarray:
        """What the router said in every layer, [L, T, E]."""
        out = self.model(inputs(tokens)[None], output_router_logits=True)
        return torch.stack(out.router_logits).float().numpy()

    @torch.inference_mode()
    def blocks(self, inputs_LTD: list[np.ndarray]) -> list[tuple[np.ndarray, ...]]:
        """One run, in which every layer is handed its own input instead of its neighbor's output:
        masks and rotations are then the model's own."""
        layers, answers = self.model.model.layers, []
        streams = [torch.from_numpy(x_TD).to(self.model.dtype)[None] for x_TD in inputs_LTD]
        seen: dict[tuple[str, int], torch.Tensor] = {}
        hooks = []
        for index, (layer, x_1TD) in enumerate(zip(layers, streams, strict=True)):
            replace = lambda _, args, kwargs, x=x_1TD: ((x, *args[1:]), kwargs)  # noqa: E731
            hooks.append(layer.register_forward_pre_hook(replace, with_kwargs=True))
            for part, module in (("attention", layer.self_attn), ("block", layer)):
                keep = lambda _, __, out, at=(part, index): seen.update(  # noqa: E731
                    {at: out[0] if isinstance(out, tuple) else out}
                )
                hooks.append(module.register_forward_hook(keep))
        self.model.model(inputs_embeds=streams[0], use_cache=False)
        for hook in hooks:
            hook.remove()
        for index, (layer, x_1TD) in enumerate(zip(layers, streams, strict=True)):
            mixed_1TD = layer.mlp(layer.post_attention_layernorm(x_1TD))[0]
            parts = seen["attention", index], mixed_1TD, seen["block", index]
            answers.append(tuple(part.float()[0].numpy() for part in parts))
        return answers

    @torch.inference_mode()
    def continuation(self, tokens: Sequence[int], length: int, guess: Sequence[int]) -> list[int]:
        """Greedy decoding with transformers' own cache; it needs no guess."""
        out, chosen = self.model(inputs(tokens)[None], use_cache=True), []
        while True:
            chosen.append(int(out.logits[0, -1].argmax()))
            if len(chosen) == length:
                return chosen
            newest = inputs(chosen[-1:])[None]
            out = self.model(newest, past_key_values=out.past_key_values, use_cache=True)


class Sliced(nn.Module):
    """A module that treats tokens one by one, fed a few at a time; others pass unchanged."""

    def __init__(self, module: nn.Module, size: int, only: slice | list[int]) -> None:
        super().__init__()
        self.module, self.size, self.only = module, size, only

    def forward(self, x_TD: torch.Tensor) -> torch.Tensor:
        y_TD = x_TD.clone()
        parts = x_TD[self.only].split(self.size)
        y_TD[self.only] = torch.cat([self.module(part) for part in parts])
        return y_TD


class OpenAI:
    """`gpt_oss.torch.model` of OpenAI's gpt-oss package; it has no cache and no batch.

    `only`: positions to answer for, in a model of one layer, where it takes minutes.
    """

    def __init__(self, folder: Path, only: list[int] | None = None) -> None:
        self.model = Transformer.from_checkpoint(str(folder), device="cpu").float()
        self.only = slice(None) if only is None else only
        for block in self.model.block:
            floats = block.mlp.experts_per_token * block.mlp.mlp1_weight[0].numel()
            block.mlp = Sliced(block.mlp, max(1, 2**28 // floats), self.only)

    def unsliced(self) -> nn.Module:
        """The model as OpenAI made it."""
        for block in self.model.block:
            block.mlp = block.mlp.module
        return self.model

    @property
    def frequencies(self) -> np.ndarray:
        return self.model.block[0].attn.rope._compute_concentration_and_inv_freq()[1].numpy()

    @frequencies.setter
    def frequencies(self, inv_C: np.ndarray) -> None:
        for block in self.model.block:
            concentration, _ = type(block.attn.rope)._compute_concentration_and_inv_freq(
                block.attn.rope
            )
            pair = concentration, torch.from_numpy(inv_C)
            block.attn.rope._compute_concentration_and_inv_freq = lambda pair=pair: pair

    @torch.inference_mode()
    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        return self.model(inputs(tokens))[self.only].numpy()

    @torch.inference_mode()
    def blocks(self, inputs_LTD: list[np.ndarray]) -> list[tuple[np.ndarray, ...]]:
        """Attention and experts come with the residual added: it is taken off again."""
        answers = []
        for block, x_TD in zip(self.model.block, map(torch.from_numpy, inputs_LTD), strict=True):
            parts = block.attn(x_TD) - x_TD, block.mlp(x_TD) - x_TD, block(x_TD)
            answers.append(tuple(part[self.only].numpy() for part in parts))
        return answers

    def continuation(self, tokens: Sequence[int], length: int, guess: Sequence[int]) -> list[int]:
        """Greedy decoding of a model without a cache. A guess saves time and changes nothing: one
        pass says what the model chooses after each token of it, up to the first wrong one."""
        tokens, chosen, guess = list(tokens), [], list(guess)[: length - 1]
        while len(chosen) < length:
            said = self.logits(tokens + guess)[len(tokens) - 1 :].argmax(-1).tolist()
            wrong = [said[i] != row for i, row in enumerate(guess)]
            agreed = wrong.index(True) if any(wrong) else len(guess)
            chosen = said[: agreed + 1]
            guess = chosen + guess[agreed + 1 :]
        return chosen[:length]


def load(witness: str, folder: Path, case: Case) -> Transformers | OpenAI:
    """A reference with the checkpoint of a case, ready to answer."""
    if witness == "openai" and case.sparse:
        return OpenAI(folder, only=list(case.kept))
    return OpenAI(folder) if witness == "openai" else Transformers(folder)


def answers(reference: Transformers | OpenAI, case: Case, guess: np.ndarray | None) -> Answers:
    """Everything that a witness says about a case; `guess` only saves time, see `continuation`."""
    prompts = draw_tokens(case)
    found = {"frequencies": reference.frequencies}
    if case.continuation:
        found["continuation"] = np.array(
            [
                reference.continuation(tokens.tolist(), case.continuation, row_guess.tolist())
                for tokens, row_guess in zip(prompts, guess, strict=True)
            ]
        )
    if case.rounded:
        for row, tokens in enumerate(prompts):
            found[f"shipped.{row}"] = reference.logits(tokens)
        reference.frequencies = frequencies(case.config)
    for row, tokens in enumerate(prompts):
        found[f"logits.{row}"] = reference.logits(tokens)
    return found | blocks_of(reference, case)


def blocks_of(reference: Transformers | OpenAI, case: Case) -> Answers:
    """[T, D] for each part of each block."""
    streams = [draw_block_input(case, layer)[0] for layer in range(case.config.num_layers)]
    return {
        f"{part}.{layer}": array
        for layer, parts in enumerate(reference.blocks(streams))
        for part, array in zip(PARTS, parts, strict=True)
    }


def answers_in(precision: str, folder: Path, case: Case) -> Answers:
    """What transformers says in "f32" or in "bf16"."""
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[precision]
    reference, found = Transformers(folder, dtype), {}
    for row, tokens in enumerate(draw_tokens(case)):
        found[f"logits.{row}"] = reference.logits(tokens)
        found[f"router.{row}"] = reference.routers(tokens)
    return found | blocks_of(reference, case)
