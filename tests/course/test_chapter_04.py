"""Chapter 04 quotes an answer of transformers: here transformers is asked again."""

import ast

import exercises
import jax.numpy as jnp
import numpy as np
import pytest

from gptoss_edu.moe import Moe, moe

PATH = exercises.ROOT / "notebooks" / "04_moe_routing.ipynb"
T, D, E, X, F = 3, 6, 5, 2, 4


def quoted():
    """The numbers that stand in the chapter."""
    for cell in exercises.cells_of(PATH):
        for node in exercises.parse(cell["source"]) if cell["cell_type"] == "code" else ():
            if ast.unparse(node).startswith("TRANSFORMERS"):
                return np.array(ast.literal_eval(node.value))
    raise AssertionError(f"{PATH.name} quotes no answer of transformers")


def wave(*shape, size=1.0):
    return (size * np.sin(1.0 + np.arange(np.prod(shape)))).reshape(shape).astype(np.float32)


X_TD = wave(T, D, size=3.0)
WEIGHTS = {
    "router.weight": wave(D, E).T,
    "router.bias": wave(E),
    "experts.gate_up_proj": wave(E, D, 2 * F, size=3.0),
    "experts.gate_up_proj_bias": wave(E, 2 * F),
    "experts.down_proj": wave(E, F, D),
    "experts.down_proj_bias": wave(E, D),
}


def test_the_package_gives_the_quoted_answer():
    router, *others = WEIGHTS.values()
    p = Moe(jnp.ones(D), *map(jnp.asarray, (router.T, *others)))
    y_BTD, _ = moe(p, jnp.asarray(X_TD)[None], X, 7.0, 1.702)
    np.testing.assert_allclose(y_BTD[0], quoted(), atol=2e-4)


def test_the_quoted_example_hits_every_clamp():
    h_TEP = np.einsum("TD,EDP->TEP", X_TD, WEIGHTS["experts.gate_up_proj"])
    h_TEP = h_TEP + WEIGHTS["experts.gate_up_proj_bias"]
    gate, up = h_TEP[..., 0::2], h_TEP[..., 1::2]
    assert (gate > 7).any()
    assert (up > 7).any()
    assert (up < -7).any()


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
def test_transformers_gives_the_quoted_answer():
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from transformers.models.gpt_oss.modeling_gpt_oss import GptOssMLP

    config = transformers.GptOssConfig(
        hidden_size=D, intermediate_size=F, num_local_experts=E, num_experts_per_tok=X
    )
    mlp = GptOssMLP(config).float().eval()
    weights = {name: torch.tensor(np.ascontiguousarray(w)) for name, w in WEIGHTS.items()}
    mlp.load_state_dict(weights)
    with torch.no_grad():
        answer = mlp(torch.tensor(X_TD)[None])[0]
    np.testing.assert_allclose(answer[0].numpy(), quoted(), atol=1e-4)
