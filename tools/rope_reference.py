"""Ask transformers and OpenAI's own model for GPT-OSS's frequencies, and keep the answers.

    python tools/rope_reference.py

The file that this writes lets chapter 02 compare its frequencies with both where torch is not
installed. They depend on no weights. Run this in the environment of `make parity`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from gptoss_edu.config import GPT_OSS_20B  # noqa: E402

REFERENCE = ROOT / "gptoss_edu" / "data" / "rope_reference.npz"
POSITIONS = (0, 1, 127, 257, 1000, 4095)


def ask_transformers() -> dict[str, Any]:
    """inv_C, cos_TC and sin_TC at POSITIONS, as transformers computes them in float32."""
    import torch
    import transformers
    from transformers.models.gpt_oss import modeling_gpt_oss

    config = transformers.GptOssConfig(**GPT_OSS_20B.to_dict())
    rotary = modeling_gpt_oss.GptOssRotaryEmbedding(config)
    cos_1TC, sin_1TC = rotary(torch.zeros(1), torch.tensor([POSITIONS]))
    return {
        "transformers_inv_C": rotary.inv_freq.numpy(),
        "transformers_cos_TC": cos_1TC[0].numpy(),
        "transformers_sin_TC": sin_1TC[0].numpy(),
        "transformers": f"transformers {transformers.__version__}",
    }


def ask_openai() -> dict[str, Any]:
    """The same from OpenAI's torch model, which calls the betas ntk_alpha and ntk_beta."""
    import importlib.metadata

    import torch
    from gpt_oss.torch.model import RotaryEmbedding

    c = GPT_OSS_20B
    rotary = RotaryEmbedding(
        c.head_dim,
        int(c.rope_theta),
        torch.float32,
        initial_context_length=c.initial_context,
        scaling_factor=c.rope_factor,
        ntk_alpha=c.beta_slow,
        ntk_beta=c.beta_fast,
    )
    _, inv_C = rotary._compute_concentration_and_inv_freq()
    cos_TC, sin_TC = rotary._compute_cos_sin(max(POSITIONS) + 1)
    return {
        "openai_inv_C": inv_C.numpy(),
        "openai_cos_TC": cos_TC[list(POSITIONS)].numpy(),
        "openai_sin_TC": sin_TC[list(POSITIONS)].numpy(),
        "openai": f"gpt-oss {importlib.metadata.version('gpt-oss')}",
    }


def ask() -> dict[str, Any]:
    """Both, and the positions that they were asked for."""
    return {"positions": np.array(POSITIONS, np.int32)} | ask_transformers() | ask_openai()


if __name__ == "__main__":
    np.savez_compressed(REFERENCE, **ask())
    sys.stdout.write(f"wrote {REFERENCE.relative_to(ROOT)}\n")
