"""Ask Hugging Face transformers what the pocket model says, and keep the answer.

    python tools/pocket_reference.py

The file that this writes lets chapter 06 compare its logits with transformers where torch is not
installed. It holds the hash of the weights that it was made from, so it cannot outlive them: run
this again after training, with the environment of `make parity`.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from gptoss_edu.harmony import render  # noqa: E402
from gptoss_edu.weights.folders import POCKET, read_config, read_tokenizer  # noqa: E402

REFERENCE = POCKET.with_name("pocket_reference.npz")
CONVERSATION = (
    {"role": "user", "content": "What is 58 + 67?"},
    {"role": "assistant", "content": "58 + 67 = 125."},
    {"role": "user", "content": "Spell penguin."},
    {"role": "assistant", "content": "Spelled: p e n g u i n."},
    {"role": "user", "content": "Reverse the letters of garden."},
    {"role": "assistant", "content": "Reversed: n e d r a g."},
    {"role": "user", "content": "How many r's are in strawberry?"},
)
EVERY = 12  # keep the logits of every twelfth position, counted from the last


def weights_sha256(folder: Path = POCKET) -> str:
    """The hash that ties a reference to its weights."""
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def conversation_rows(folder: Path = POCKET) -> list[int]:
    """Vocabulary rows of the conversation: longer than the window and than the initial context."""
    tokenizer = read_tokenizer(folder, read_config(folder))
    return tokenizer.to_rows(tokenizer.fit(render(list(CONVERSATION))))


def ask_transformers(folder: Path = POCKET) -> dict[str, Any]:
    """Logits of the pocket model in float32, as transformers computes them on a CPU."""
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.float32,
        attn_implementation="eager",
        quantization_config=transformers.Mxfp4Config(dequantize=True),
    ).eval()
    rows_T = np.array(conversation_rows(folder), np.int32)
    with torch.no_grad():
        logits_TV = model(torch.tensor(rows_T[None].astype(np.int64))).logits[0].numpy()
    kept = np.arange(len(rows_T) - 1, -1, -EVERY)[::-1]
    return {
        "rows_T": rows_T,
        "positions": kept,
        "logits": logits_TV[kept],
        "sha256": weights_sha256(folder),
        "made_by": f"transformers {transformers.__version__}, torch {torch.__version__}",
    }


def main() -> None:
    """Write the file and say what is in it."""
    reference = ask_transformers()
    np.savez_compressed(REFERENCE, **reference)
    shape = reference["logits"].shape
    print(f"{REFERENCE.name}: logits {shape} over {len(reference['rows_T'])} tokens")


if __name__ == "__main__":
    main()
