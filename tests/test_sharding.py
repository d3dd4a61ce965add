"""Many devices give the answers of one. The devices are eight threads of a CPU, in a process of
their own, since their number is fixed when JAX starts.
"""

import json
import os
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from gptoss_edu import precision, sharding
from gptoss_edu.cache import empty_cache
from gptoss_edu.config import GPT_OSS_20B

SCRIPT = """
    import dataclasses, json
    import jax, jax.numpy as jnp
    from gptoss_edu import precision, sharding
    from gptoss_edu.cache import empty_cache
    from gptoss_edu.config import TINY
    from gptoss_edu.generate import _decode
    from gptoss_edu.model import forward, init_params

    # Every axis that is cut can be divided by four.
    config = dataclasses.replace(
        TINY, num_layers=2, layer_types=(), num_experts=12, experts_per_token=3, vocab_size=152,
        hidden_size=96, intermediate_size=128, num_heads=8, num_kv_heads=4,
    )
    params = precision.convert(init_params(config, jax.random.key(0)), "{kind}")
    tokens_BT = jnp.arange(22).reshape(2, 11) * 5 % 152
    mesh = sharding.make_mesh({tensor}, {expert})
    spread = sharding.shard(params, mesh)

    def answers(params, place):
        logits_BTV = jax.jit(forward, static_argnums=2)(params, tokens_BT, config)
        cache, steps = place(empty_cache(config, 2, 16)), []
        for token_B in tokens_BT.T:
            step_BV, cache = _decode(
                params, token_B, cache, config=config, dtype=jnp.dtype(jnp.float32)
            )
            steps.append(step_BV)
        return logits_BTV, jnp.stack(steps, axis=1), cache

    whole_BTV, _, _ = answers(params, lambda cache: cache)
    found_BTV, steps_BTV, cache = answers(spread, lambda cache: sharding.shard(cache, mesh))
    shares = [leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(spread)]
    print(json.dumps({{
        "devices": len(found_BTV.devices()),
        "error": float(jnp.abs(found_BTV - whole_BTV).max()),
        "step_error": float(jnp.abs(steps_BTV - whole_BTV).max()),
        "size": float(jnp.abs(whole_BTV).max()),
        "share": sum(shares), "told": sharding.bytes_per_device(params, mesh),
        "all": sum(leaf.nbytes for leaf in jax.tree.leaves(params)),
        "cache": [str(kv.k_BSKH.sharding.spec) for kv in cache.layers],
    }}))
"""


@pytest.mark.parametrize("tensor, expert", [(4, 1), (1, 4), (4, 2)])
@pytest.mark.parametrize("kind", ["bf16", "mxfp4"])
def test_sharded_equals_whole(kind, tensor, expert):
    script = textwrap.dedent(SCRIPT).format(kind=kind, tensor=tensor, expert=expert)
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    run = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | flags, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-3000:]
    found = json.loads(run.stdout)
    assert found["devices"] == tensor * expert
    assert max(found["error"], found["step_error"]) < 2e-5 * max(1, found["size"]), found
    assert found["share"] == found["told"] < 0.7 * found["all"], found
    assert tensor == 1 or all("tensor" in spec for spec in found["cache"]), found


@pytest.mark.parametrize(
    "name, spec",
    [
        ("w_q_DNH", (None, "tensor", None)),
        ("w_gate_up_EDP", ("expert", None, "tensor")),
        ("w_down_EFD", ("expert", "tensor", None)),
        ("blocks_EJUO", ("expert", None, None, "tensor")),
        ("k_BSKH", (None, None, "tensor", None)),
        ("norm_D", (None,)),
        ("embedding_VD", ("tensor", None)),
        ("scores_NK", ("tensor", None)),
    ],
)
def test_letters_decide(name, spec):
    assert sharding.spec_of(name) == PartitionSpec(*spec)


def test_eight_devices_hold_an_eighth_of_the_20b():
    mesh = jax.sharding.AbstractMesh((8, 1), ("tensor", "expert"))
    params = precision.abstract_params(GPT_OSS_20B, "bf16")
    share = sharding.bytes_per_device(params, mesh) / precision.weight_bytes(GPT_OSS_20B, "bf16")
    assert share == pytest.approx(1 / 8, rel=0.01)
    cache = jax.eval_shape(lambda: empty_cache(GPT_OSS_20B, 1, 4096, jnp.bfloat16))
    assert sharding.bytes_per_device(cache, mesh) < 0.13 * precision.cache_bytes(GPT_OSS_20B, 4096)


def test_too_few_devices_is_a_clear_error():
    with pytest.raises(ValueError, match="needs 4096 devices, found"):
        sharding.make_mesh(64, 64)


def test_what_cannot_be_divided_is_named():
    mesh = jax.sharding.AbstractMesh((7, 1), ("tensor", "expert"))
    with pytest.raises(ValueError, match="201088 cannot be divided among 7 devices"):
        sharding.shardings(precision.abstract_params(GPT_OSS_20B, "bf16"), mesh)
