"""Switches that a reader may have set: JAX_ENABLE_X64, python -O; each in a process of its own."""

import ast
import os
import subprocess
import sys

ANSWERS = """
import warnings
warnings.simplefilter("error")  # from here on: importing JAX is not what is tested
question, settings = "How many r's are in strawberry?", {"max_tokens": 60}
ids = [list(generate(model, params, question, **settings).token_ids)]
settings |= {"temperature": 1.0, "top_k": 40, "top_p": 0.95, "min_p": 0.01, "seed": 3}
settings |= {"repetition_penalty": 1.1}
for prompt in (question, ["Count to ten.", "Hello!"]):
    replies = generate(model, params, prompt, **settings)
    replies = replies if isinstance(replies, list) else [replies]
    ids += [list(reply.token_ids) for reply in replies]
print(ids)
"""

LOADED = """
import jax
from gptoss_edu import generate, load_model
model, params = load_model()
"""

# Under -O no assert runs: what would read or write where it must not raises all the same.
REFUSED = """
import dataclasses, pathlib, sys
import numpy as np
from gptoss_edu import save_checkpoint
from gptoss_edu.cache import empty_cache
from gptoss_edu.generation import decode_step, prefill
from gptoss_edu.sampling import Sampling
from gptoss_edu.weights import shards
assert False, "asserts are on"
folder = pathlib.Path(sys.argv[1])
full = empty_cache(model.config, 1, 16)
_, full = prefill(model, params, [list(range(16))], full)
_, used = prefill(model, params, [[1]], unused := empty_cache(model.config, 1, 16))
short = shards.Pending("F32", (4,), lambda: np.zeros(3, np.float32))
other = shards.Pending("F32", (4,), lambda: np.zeros(4, np.int32))
narrow = dataclasses.replace(params, norm_D=params.norm_D[:-1])
cases = {
    "token past the vocabulary": lambda: decode_step(model, params, [10**6], used),
    "prompt past the vocabulary": lambda: prefill(model, params, [[10**6]], used),
    "cache full, one token": lambda: decode_step(model, params, [1], full),
    "cache full, a prompt": lambda: prefill(model, params, [[1, 2]], full),
    "cache used up": lambda: decode_step(model, params, [1], unused),
    "two tokens for one row": lambda: decode_step(model, params, [1, 1], used),
    "fewer numbers than promised": lambda: shards.write_file(folder / "a", {"x": short}),
    "numbers of another kind": lambda: shards.write_file(folder / "b", {"x": other}),
    "weights of another size": lambda: save_checkpoint(narrow, model.config, folder / "c"),
    "a sense that settings lack": lambda: Sampling(top_p=2),
}
for name, wrong in cases.items():
    try:
        wrong()
        raise SystemExit(f"{name}: nothing was raised")
    except ValueError as error:
        if not str(error):
            raise SystemExit(f"{name}: no word about it") from error
print(len(cases))
"""


def run(program: str, *flags: str, arguments: tuple[str, ...] = (), **environment: str) -> object:
    """What a process prints, read as Python."""
    command = [sys.executable, *flags, "-c", LOADED + program, *arguments]
    done = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return ast.literal_eval(done.stdout.splitlines()[-1])


def test_64_bits_are_never_wider_than_what_the_model_computes_in():
    """The same tokens, greedy, sampled and in a batch, and not one warning."""
    usual, wide = (run(ANSWERS, JAX_ENABLE_X64=switch) for switch in ("0", "1"))
    assert wide == usual
    assert min(map(len, usual)) > 1


def test_without_asserts_nothing_wrong_is_read_or_written(tmp_path):
    assert run(REFUSED, "-O", arguments=(str(tmp_path),)) == 10
