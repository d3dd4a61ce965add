"""What chapter a1 says of optimizers, against optax."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gptoss_edu.course.checks import training


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_the_exercise_is_optax_adamw(decay):
    rng = np.random.default_rng(0)
    w = theirs = rng.standard_normal(5).astype(np.float32)
    m = v = np.zeros(5)
    rule = optax.adamw(0.1, b1=0.9, b2=0.95, eps=1e-8, weight_decay=decay)
    state = rule.init(jnp.asarray(theirs))
    for t in range(1, 5):
        g = rng.standard_normal(5).astype(np.float32)
        w, m, v = training.right_adamw(w, g, m, v, t, 0.1, 0.9, 0.95, 1e-8, decay)
        step, state = rule.update(jnp.asarray(g), state, jnp.asarray(theirs))
        theirs = np.asarray(optax.apply_updates(jnp.asarray(theirs), step))
        np.testing.assert_allclose(w, theirs, rtol=1e-5, atol=1e-6)
