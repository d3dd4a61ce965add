"""Ask transformers and OpenAI's own model to rotate queries as GPT-OSS does, and keep the answers.

    python tools/rope_reference.py

The file that this writes lets chapter 02 compare its rotation with both where torch is not
installed. It depends on no weights. Run this in the environment of `make parity`.
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
HEADS = 2


def queries() -> np.ndarray:
    """Random heads to be rotated, x_TNH in float32, one token for each of POSITIONS."""
    shape = (len(POSITIONS), HEADS, GPT_OSS_20B.head_dim)
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def ask_transformers(x_TNH: np.ndarray) -> dict[str, Any]:
    """Frequencies, and x_TNH rotated, as transformers computes them in float32."""
    import torch
    import transformers
    from transformers.models.gpt_oss import modeling_gpt_oss

    rotary = modeling_gpt_oss.GptOssRotaryEmbedding(
        transformers.GptOssConfig(**GPT_OSS_20B.to_dict())
    )
    cos_1TC, sin_1TC = rotary(torch.zeros(1), torch.tensor([POSITIONS]))
    x_1NTH = torch.from_numpy(x_TNH).permute(1, 0, 2)[None]
    y_1NTH, _ = modeling_gpt_oss.apply_rotary_pos_emb(x_1NTH, x_1NTH, cos_1TC, sin_1TC)
    return {
        "transformers": f"transformers {transformers.__version__}",
        "transformers_inv_C": rotary.inv_freq.numpy(),
        "transformers_y_TNH": y_1NTH[0].permute(1, 0, 2).numpy(),
    }


def ask_openai(x_TNH: np.ndarray) -> dict[str, Any]:
    """The same from OpenAI's torch model, which calls the betas ntk_alpha and ntk_beta."""
    import importlib.metadata

    import torch
    from gpt_oss.torch import model

    c = GPT_OSS_20B
    rotary = model.RotaryEmbedding(
        c.head_dim,
        int(c.rope_theta),
        torch.float32,
        initial_context_length=c.initial_context,
        scaling_factor=c.rope_factor,
        ntk_alpha=c.beta_slow,
        ntk_beta=c.beta_fast,
    )
    _, inv_C = rotary._compute_concentration_and_inv_freq()
    cos_TC, sin_TC = (a[list(POSITIONS)] for a in rotary._compute_cos_sin(max(POSITIONS) + 1))
    y_TNH = model._apply_rotary_emb(torch.from_numpy(x_TNH), cos_TC, sin_TC)
    return {
        "openai": f"gpt-oss {importlib.metadata.version('gpt-oss')}",
        "openai_inv_C": inv_C.numpy(),
        "openai_y_TNH": y_TNH.numpy(),
    }


def ask() -> dict[str, Any]:
    """Both, and what they were asked."""
    x_TNH = queries()
    asked = {"position_T": np.array(POSITIONS, np.int32), "x_TNH": x_TNH}
    return asked | ask_transformers(x_TNH) | ask_openai(x_TNH)


if __name__ == "__main__":
    np.savez_compressed(REFERENCE, **ask())
    sys.stdout.write(f"wrote {REFERENCE.relative_to(ROOT)}\n")
