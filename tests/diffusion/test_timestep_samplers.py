import jax
import numpy as np
import pytest

from ddpm_jax.diffusion.timestep_samplers import TIMESTEP_SAMPLERS, make_timestep_sampler

T, COUNT = 50, 20_000


@pytest.mark.parametrize("name", TIMESTEP_SAMPLERS)
def test_every_row_draws_times_in_range_with_an_unbiased_mean(name):
    sampler = make_timestep_sampler(name, T)
    state = sampler.init()
    key = jax.random.key(0)
    for step in range(3):
        t, weight = sampler.draw(state, jax.random.fold_in(key, step), COUNT)
        assert t.shape == (COUNT,)
        assert t.dtype == np.int32
        assert int(t.min()) == 1
        assert int(t.max()) == T
        value = np.asarray(t, np.float64) * (1 if weight is None else np.asarray(weight))
        assert value.mean() == pytest.approx((T + 1) / 2, rel=0.02)
        after = sampler.update(state, t, t.astype("float32"))
        assert jax.tree.structure(after) == jax.tree.structure(state)
        state = after


def test_uniform_draws_the_integers_of_the_key_and_has_no_history():
    sampler, key = make_timestep_sampler("uniform", T), jax.random.key(3)
    assert sampler.init() is None
    t, weight = sampler.draw(None, key, 64)
    np.testing.assert_array_equal(t, jax.random.randint(key, (64,), 1, T + 1))
    assert weight is None


def test_an_unknown_row_or_option_is_refused():
    with pytest.raises(ValueError, match=r"unknown timestep sampler 'unifrom' .did you mean"):
        make_timestep_sampler("unifrom", T)
    with pytest.raises(ValueError, match="timestep sampler 'uniform' takes no 'width'"):
        make_timestep_sampler("uniform", T, width=3)
