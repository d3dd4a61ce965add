"""Switches that a reader may have set, of JAX and of Python, in processes of their own."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from models import CONFIG, random_params

from gptoss_edu.cache import empty_cache
from gptoss_edu.model import forward

# Everything that the package does with a model, small. Switches are read when JAX is imported.
EVERYTHING = """
import pathlib, tempfile, warnings
import jax, jax.numpy as jnp, numpy as np
from gptoss_edu import Chat, forward, generate, load_model, stream
from gptoss_edu.cpu.build import find_compiler
from gptoss_edu.weights.convert import convert
from gptoss_edu.weights.checkpoint import POCKET
warnings.simplefilter("error")  # from here on: importing JAX is not what is tested

def ids(replies):
    return [list(reply.token_ids) for reply in replies]

model, params = load_model()
question, settings = "How many r's are in strawberry?", {"max_tokens": 8}
first = generate(model, params, question, keep_cache=True, **settings)
messages = [{"role": "user", "content": question}, *first.to_messages()]
messages.append({"role": "user", "content": "Hello!"})
again = generate(model, params, messages, cache=first.cache, **settings)
drawn = settings | {"temperature": 1.0, "top_k": 40, "top_p": 0.95, "min_p": 0.01, "seed": 3}
drawn |= {"repetition_penalty": 1.1}
pair = generate(model, params, ["Count to ten.", question], **drawn)
alone = stream(model, params, question, **drawn).finish()
found = {"greedy": ids([first, again]), "drawn": ids([*pair, alone])}
assert pair[1].token_ids == alone.token_ids

tokens_BT = jnp.asarray([model.tokenizer.to_rows(first.prompt_ids[:8])], jnp.int32)
_, plain = load_model(precision="f32")

@jax.jit
@jax.value_and_grad
def loss(params):
    log_BTV = jax.nn.log_softmax(forward(params, tokens_BT[:, :-1], model.config))
    return -jnp.take_along_axis(log_BTV, tokens_BT[:, 1:, None], axis=-1).mean()

nats, grads = loss(plain)
found["loss"] = round(float(nats), 3)
found["gradient"] = round(float(sum(jnp.abs(g).sum() for g in jax.tree.leaves(grads))), 1)

with tempfile.TemporaryDirectory() as folder:
    converted = load_model(convert(POCKET, pathlib.Path(folder) / "converted"))
    found["converted"] = ids([generate(*converted, question, **settings)])
if len(jax.devices()) == 1 and find_compiler():
    found["native"] = ids([generate(*load_model(backend="cpu"), question, **settings)])
print(found)
"""

LOADED = """
import jax
from gptoss_edu import generate, load_model
model, params = load_model()
"""

# What can be set together is, since each process compiles everything anew.
SWITCHES = {
    "64 bits, strict types": ([], {"JAX_ENABLE_X64": "1", "JAX_NUMPY_DTYPE_PROMOTION": "strict"}),
    "NaN and infinity, bf16 products, another generator": (
        [],
        {
            "JAX_DEBUG_NANS": "1",
            "JAX_DEBUG_INFS": "1",
            "JAX_DEFAULT_MATMUL_PRECISION": "bfloat16",
            "JAX_DEFAULT_PRNG_IMPL": "rbg",
        },
    ),
    "no asserts, no docstrings, warnings, leaks, many devices": (
        ["-OO", "-W", "error::DeprecationWarning", "-W", "error::FutureWarning"],
        {
            "JAX_CHECK_TRACER_LEAKS": "1",
            "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        },
    ),
}

# Under -O no assert runs: what would read or write where it must not raises all the same.
REFUSED = """
import dataclasses, pathlib, sys
import numpy as np
from gptoss_edu import save_checkpoint
from gptoss_edu.cache import empty_cache
from gptoss_edu.generation import decode_step, prefill
from gptoss_edu.sampling import Sampling
from gptoss_edu.weights.writing import Pending, write_file
assert False, "asserts are on"
folder = pathlib.Path(sys.argv[1])
full = empty_cache(model.config, 1, 16)
_, full = prefill(model, params, [list(range(16))], full)
_, used = prefill(model, params, [[1]], unused := empty_cache(model.config, 1, 16))
short = Pending("F32", (4,), lambda: np.zeros(3, np.float32))
other = Pending("F32", (4,), lambda: np.zeros(4, np.int32))
narrow = dataclasses.replace(params, norm_D=params.norm_D[:-1])
cases = {
    "token past the vocabulary": lambda: decode_step(model, params, [10**6], used),
    "prompt past the vocabulary": lambda: prefill(model, params, [[10**6]], used),
    "cache full, one token": lambda: decode_step(model, params, [1], full),
    "cache full, a prompt": lambda: prefill(model, params, [[1, 2]], full),
    "cache used up": lambda: decode_step(model, params, [1], unused),
    "two tokens for one row": lambda: decode_step(model, params, [1, 1], used),
    "fewer numbers than promised": lambda: write_file(folder / "a", {"x": short}),
    "numbers of another kind": lambda: write_file(folder / "b", {"x": other}),
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
    command = [sys.executable, *flags, "-c", program, *arguments]
    done = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return ast.literal_eval(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def usual():
    """What comes out where nobody has set anything."""
    return run(EVERYTHING)


@pytest.mark.parametrize("flags, switches", SWITCHES.values(), ids=SWITCHES)
def test_switches_of_jax_and_python_change_nothing(usual, flags, switches):
    """Loading, answers, draws, batches, a cache taken up, gradients, a conversion, the kernels."""
    found = run(EVERYTHING, *flags, **switches)
    assert found == {name: usual[name] for name in found}
    assert len(usual["greedy"][0]) == 8


README = Path(__file__).resolve().parents[1] / "README.md"


def test_switches_that_do_not_work_are_named_in_the_readme():
    """Once they work, this fails, and the README has a sentence too many."""
    text, params = README.read_text(encoding="utf-8"), random_params()
    assert "`jax_numpy_rank_promotion`" in text
    with jax.numpy_rank_promotion("raise"), pytest.raises(ValueError, match="rank_promotion"):
        forward(params, jnp.zeros((1, 2), jnp.int32), CONFIG)
    assert "`jax_transfer_guard`" in text
    with (
        jax.transfer_guard("disallow"),
        pytest.raises(jax.errors.JaxRuntimeError, match="transfer"),
    ):
        empty_cache(CONFIG, 3, 17)


def test_without_asserts_nothing_wrong_is_read_or_written(tmp_path):
    assert run(LOADED + REFUSED, "-O", arguments=(str(tmp_path),)) == 10
