import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.models.conditioning import ConditionEmbedding, timestep_embedding
from ddpm_jax.ops import AUTO


@pytest.mark.parametrize("dim", [4, 10, 11])
def test_timestep_embedding_is_its_closed_form(dim):
    t = np.array([0, 1, 17, 999])
    half = dim // 2
    frequency = 10_000.0 ** (-np.arange(half) / (half - 1))
    angle = t[:, None] * frequency
    embedding = timestep_embedding(jnp.array(t), dim)
    assert embedding.dtype == jnp.float32
    # Where t is 999, float32 angles are known to 999 * 2^-23.
    np.testing.assert_allclose(embedding[:, :half], np.sin(angle), atol=3e-4)
    np.testing.assert_allclose(embedding[:, half : 2 * half], np.cos(angle), atol=3e-4)
    assert embedding.shape == (4, dim)
    assert not embedding[:, 2 * half :].any()
    np.testing.assert_array_equal(timestep_embedding(jnp.array(17), dim), embedding[2:3])


def test_openais_embedding_has_cosines_first_and_a_higher_last_frequency():
    t, half = np.array([0, 17.5, 999]), 5
    angle = t[:, None] * 10_000.0 ** (-np.arange(half) / half)
    embedding = timestep_embedding(jnp.array(t), 10, "openai")
    np.testing.assert_allclose(embedding[:, :half], np.cos(angle), atol=3e-4)
    np.testing.assert_allclose(embedding[:, half:], np.sin(angle), atol=3e-4)


def test_timestep_embedding_needs_two_frequencies():
    with pytest.raises(ValueError, match="at least 4"):
        timestep_embedding(jnp.array(1), 3)


def test_the_first_time_is_zero_to_the_network(random_params):
    module, t = ConditionEmbedding(32, 0, "swish", "float32", AUTO), jnp.array([1])
    params = random_params(module, t, None)
    first, second = params["params"]["time_in"], params["params"]["time_out"]
    angles_of_zero = np.repeat([0.0, 1.0], 4)
    h = jax.nn.silu(angles_of_zero @ first["kernel"] + first["bias"])
    expected = h @ second["kernel"] + second["bias"]
    condition = jax.jit(module.apply)(params, t, None)
    np.testing.assert_allclose(condition[0], expected, atol=1e-6)
