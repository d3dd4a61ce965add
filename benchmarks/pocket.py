"""How fast does the pocket model answer, beside Hugging Face transformers on the same weights?

Both read the same prompt of about 100 tokens and decode the same number of tokens greedily, batch
1, in the same process and in turns, after one run each to warm up. Without transformers installed
(`make parity` installs it) only this package is measured.

    python -m benchmarks.pocket
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from typing import Any

QUESTION = (
    "Please tell me, step by step and with care, taking all the time that you need for it:"
    " how many r's are there in the word strawberry? Write the letters down one by one."
)


def ours(tokens: int) -> tuple[Any, list[int]]:
    """(a function that runs once: seconds to the first token, tokens per second; the prompt)."""
    import jax

    from gptoss_edu import load_model
    from gptoss_edu.generation import generate_tokens
    from gptoss_edu.harmony import render
    from gptoss_edu.reply import Clock

    model, params = load_model()
    jax.block_until_ready(params)
    tokenizer = model.tokenizer
    rows = tokenizer.to_rows(tokenizer.fit(render(QUESTION)))

    def run() -> tuple[float, float]:
        clock = Clock()  # no stop rows: every run decodes as many tokens
        for _ in generate_tokens(model, params, [rows], max_tokens=tokens, clock=clock):
            pass
        stats = clock.stats(len(rows), tokens)
        return stats.time_to_first_token_s, stats.decode_tokens_per_s

    return run, rows


def transformers_run(rows: list[int], tokens: int) -> Any:
    """The same through transformers: float32, eager attention, its own cache, two threads."""
    import torch
    from transformers import GptOssForCausalLM, Mxfp4Config

    from gptoss_edu.weights.checkpoint import POCKET

    torch.set_num_threads(os.cpu_count() or 1)
    model = GptOssForCausalLM.from_pretrained(
        POCKET,
        quantization_config=Mxfp4Config(dequantize=True),
        dtype=torch.float32,
        attn_implementation="eager",
    ).eval()

    @torch.inference_mode()
    def run() -> tuple[float, float]:
        began = time.perf_counter()
        out = model(torch.tensor([rows]), use_cache=True)
        token = out.logits[:, -1].argmax(-1, keepdim=True)
        first = time.perf_counter()
        for _ in range(tokens - 1):
            out = model(token, past_key_values=out.past_key_values, use_cache=True)
            token = out.logits[:, -1].argmax(-1, keepdim=True)
        token.item()
        return first - began, (tokens - 1) / (time.perf_counter() - first)

    return run


def main() -> None:
    """Measure in turns and print one row for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=150)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="one object instead of a table")
    options = parser.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    run, rows = ours(options.tokens)
    runs = {"gptoss_edu": run}
    try:
        runs["transformers"] = transformers_run(rows, options.tokens)
    except ImportError:
        print("transformers is not installed: measured without it", file=sys.stderr)
    for run in runs.values():
        run()
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for _ in range(options.repeats):
        for name, run in runs.items():
            measured[name].append(run())
    result = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "prompt_tokens": len(rows),
        "decoded_tokens": options.tokens,
    }
    for name, figures in measured.items():
        first, speed = (statistics.median(column) for column in zip(*figures, strict=True))
        result[name] = {"first_token_ms": 1000 * first, "decode_tokens_per_s": speed}
    if options.json:
        print(json.dumps(result, indent=2))
        return
    print(f"{result['machine']}; prompt {len(rows)} tokens, {options.tokens} decoded")
    print("| | first token ms | decode tokens/s |\n|---|---|---|")
    for name in runs:
        figures = result[name]
        print(
            f"| {name} | {figures['first_token_ms']:.1f} | {figures['decode_tokens_per_s']:.0f} |"
        )


if __name__ == "__main__":
    main()
