import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.ops import AUTO, REFERENCE


def test_products_that_would_overflow_the_exponential_do_not():
    rng = np.random.default_rng(0)
    query, key, value, weight = (
        jnp.asarray(rng.normal(size=(2, 5, 3, 4)) + shift, jnp.float32) for shift in (30, 30, 0, 0)
    )

    def all_of(attend):
        y, pull = jax.vjp(attend, query, key, value)
        return y, *pull(weight)

    # A product of 30² is known to 2e-4, and the gradients grow as query and key do.
    for ours, theirs in zip(all_of(AUTO.attention), all_of(REFERENCE.attention), strict=True):
        assert jnp.isfinite(ours).all()
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=2e-5 * (1 + 30**2 / 10))
