import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion.timestep_samplers import TIMESTEP_SAMPLERS, make_timestep_sampler

T, COUNT = 50, 1_500


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
        assert value.mean() == pytest.approx((T + 1) / 2, rel=0.05)
        after = sampler.update(state, t, t.astype("float32"))
        assert jax.tree.structure(after) == jax.tree.structure(state)
        state = after


def test_uniform_draws_the_integers_of_the_key_and_has_no_history():
    sampler, key = make_timestep_sampler("uniform", T), jax.random.key(3)
    assert sampler.init() is None
    t, weight = sampler.draw(None, key, 64)
    np.testing.assert_array_equal(t, jax.random.randint(key, (64,), 1, T + 1))
    assert weight is None


def test_importance_keeps_the_last_losses_of_each_t_in_their_order():
    """Against a list for each t, with batches that hold a t once, often, or never."""
    sampler = make_timestep_sampler("importance", 4, history=3)
    state, lists = sampler.init(), {t: [] for t in range(1, 5)}
    rng = np.random.default_rng(0)
    for size in (1, 7, 5, 2):
        t, losses = rng.integers(1, 4, size), rng.random(size).astype(np.float32)
        state = sampler.update(state, jnp.asarray(t, jnp.int32), jnp.asarray(losses))
        for each, loss in zip(t, losses, strict=True):
            lists[each] = [*lists[each], loss][-3:]
        np.testing.assert_array_equal(state.counts, [len(lists[t]) for t in range(1, 5)])
        for each, kept in lists.items():
            row = np.asarray(state.losses[each - 1])
            np.testing.assert_array_equal(row, [0.0] * (3 - len(kept)) + kept)


def test_importance_draws_by_the_root_mean_square_once_every_history_is_full():
    losses = jnp.asarray([[1.0, 2.0], [3.0, 0.0], [0.1, 0.1], [5.0, 5.0]])
    sampler = make_timestep_sampler("importance", 4, history=2, uniform=0.1)
    state = sampler.init()
    size = np.sqrt((np.asarray(losses) ** 2).mean(1))
    for column, p in ((0, 1 / 4), (1, 0.9 * size / size.sum() + 0.1 / 4)):
        state = sampler.update(state, jnp.arange(1, 5), losses[:, column])
        t, weight = sampler.draw(state, jax.random.key(column), COUNT)
        shares = np.bincount(t, minlength=5)[1:] / COUNT
        np.testing.assert_allclose(shares, np.broadcast_to(p, 4), atol=0.02)
        assert weight is not None
        expected = (1 / (4 * np.broadcast_to(p, 4)))[np.asarray(t) - 1]
        np.testing.assert_allclose(weight, expected, rtol=1e-5)


def test_importance_draws_uniformly_from_losses_of_zero():
    sampler = make_timestep_sampler("importance", 2, history=1)
    state = sampler.update(sampler.init(), jnp.arange(1, 3), jnp.zeros(2))
    t, weight = sampler.draw(state, jax.random.key(0), 100)
    assert weight is not None
    np.testing.assert_allclose(weight, 1, rtol=1e-6)
    assert set(np.asarray(t)) == {1, 2}


def test_an_unknown_row_or_option_is_refused():
    with pytest.raises(ValueError, match=r"unknown timestep sampler 'unifrom' .did you mean"):
        make_timestep_sampler("unifrom", T)
    with pytest.raises(ValueError, match="timestep sampler 'uniform' takes no 'width'"):
        make_timestep_sampler("uniform", T, width=3)
    with pytest.raises(ValueError, match="history is 0; it must be in 1"):
        make_timestep_sampler("importance", T, history=0)
    with pytest.raises(ValueError, match="uniform is 0; it must be above 0"):
        make_timestep_sampler("importance", T, uniform=0)
