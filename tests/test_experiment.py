import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ddpm_jax.optimizers import make_optimizer


@pytest.mark.parametrize("name", ["adam", "adamw"])
@pytest.mark.parametrize("size", [0.0, 0.1, 30.0])
def test_the_optimizer_is_optaxs_chain(name, size):
    """Clipping, moments, decay and learning rate against Optax's own, over several steps."""

    def course(step):
        return 0.1 / (1 + step)

    decay = {"adam": 0.0, "adamw": 0.3}[name]
    extra = {"weight_decay": decay} if name == "adamw" else {}
    ours = make_optimizer(name, course, clip=1.0, beta2=0.9, **extra)
    theirs = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.scale_by_adam(b2=0.9),
        optax.add_decayed_weights(decay),
        optax.scale_by_learning_rate(course),
    )
    rng = np.random.default_rng(0)
    params = {"a": jnp.asarray(rng.normal(size=(3, 2))), "b": jnp.asarray(rng.normal(size=4))}
    state, other = ours.init(params), theirs.init(params)
    p, q = params, params
    for step in range(4):
        grads = jax.tree.map(lambda x: size * jnp.asarray(rng.normal(size=x.shape)), params)
        updates, state = ours.update(grads, state, p, step=step)
        p = optax.apply_updates(p, updates)
        updates, other = theirs.update(grads, other, q)
        q = optax.apply_updates(q, updates)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-5, atol=1e-7), p, q)
