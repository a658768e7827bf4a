"""What every network of MODELS promises, shown on a tiny instance of each."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.models import MODELS

TINY = {
    "unet": {"channels": 8, "multipliers": (1, 2), "blocks": 1, "attention": (4,)},
}
T = jnp.array([1, 40, 700, 1000])
LABELS = jnp.array([0, 1, 2, 3])
every_model = pytest.mark.parametrize("name", MODELS)


def images(shape=(8, 8, 3), batch=4):
    return jax.random.normal(jax.random.key(1), (batch, *shape))


@cache
def tiny(name, shape=(8, 8, 3), **fields):
    """Returns an instance, its parameters, and the same moved off their zeros."""
    model = MODELS[name](**{**TINY[name], **fields})
    init = jax.jit(lambda key: model.init(key, images(shape), T, train=False))
    params = init(jax.random.key(0))
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    moved = [p + 0.2 * jax.random.normal(k, p.shape) for p, k in zip(leaves, keys, strict=True)]
    return model, params, jax.tree.unflatten(tree, moved)


@cache
def forward(name, shape=(8, 8, 3), **fields):
    model, _, params = tiny(name, shape, **fields)
    return jax.jit(lambda x_t, t, labels=None: model.apply(params, x_t, t, labels, train=False))


def test_every_model_has_a_tiny_instance():
    assert set(TINY) == set(MODELS)


@every_model
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", [(8, 12, 5), (12, 8, 1)])
def test_shape_dtype_and_zero_at_initialisation(name, shape, dtype):
    model, params, moved = tiny(name, shape, dtype=dtype)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    apply = jax.jit(lambda params: model.apply(params, images(shape), T, train=False))
    np.testing.assert_array_equal(apply(params), np.zeros((4, *shape)))
    assert apply(moved).dtype == jnp.float32
    assert jnp.std(apply(moved)) > 0.1


@every_model
def test_half_precision_computes_in_half_and_nearly_agrees(name):
    exact, half = (forward(name, dtype=dtype)(images(), T) for dtype in ("float32", "bfloat16"))
    error = jnp.sqrt(jnp.mean((exact - half) ** 2)) / jnp.std(exact)
    assert 1e-4 < error < 0.05


@every_model
def test_an_example_does_not_see_the_others(name):
    f = forward(name)
    x = images()
    batch = f(x, T)
    alone = jnp.concatenate([f(x[i : i + 1], T[i : i + 1]) for i in range(4)])
    np.testing.assert_allclose(batch, alone, atol=2e-5)
    others = f(x.at[1:].multiply(100.0), T.at[1:].set(3))
    np.testing.assert_allclose(batch[0], others[0], atol=2e-5)


@every_model
def test_output_depends_on_the_time(name):
    f = forward(name)
    x = jnp.broadcast_to(images()[:1], (4, 8, 8, 3))
    by_time = f(x, T)
    for i in range(3):
        assert jnp.abs(by_time[i] - by_time[i + 1]).max() > 1e-2
    np.testing.assert_allclose(f(x, jnp.array(40)), f(x, jnp.full(4, 40)), atol=2e-5)


@every_model
def test_labels_choose_the_output_and_the_last_one_is_no_label(name):
    f = forward(name, num_classes=3)
    x = jnp.broadcast_to(images()[:1], (4, 8, 8, 3))
    t = jnp.full(4, 40)
    by_label = f(x, t, LABELS)
    for i in range(3):
        assert jnp.abs(by_label[i] - by_label[i + 1]).max() > 1e-2
    np.testing.assert_allclose(f(x, t), f(x, t, jnp.full(4, 3)), atol=2e-5)
    np.testing.assert_allclose(f(x, t)[3], by_label[3], atol=2e-5)


@every_model
def test_labels_without_classes_are_refused(name):
    model, params, _ = tiny(name)
    with pytest.raises(ValueError, match="num_classes"):
        model.apply(params, images(), T, LABELS, train=False)


@every_model
def test_dropout_acts_in_training_only_and_follows_its_key(name):
    model, _, params = tiny(name, dropout=0.5)
    x = images()

    @jax.jit
    def train(key):
        return model.apply(params, x, T, train=True, rngs={"dropout": key})

    first = train(jax.random.key(0))
    np.testing.assert_array_equal(first, train(jax.random.key(0)))
    assert jnp.abs(first - train(jax.random.key(1))).max() > 1e-2
    without = forward(name)(x, T)
    np.testing.assert_array_equal(forward(name, dropout=0.5)(x, T), without)
    assert jnp.abs(first - without).max() > 1e-2


@cache
def loss_and_gradients(name, remat):
    """Trains with dropout and classes, so that every parameter and every stream takes part."""
    model, _, params = tiny(name, num_classes=3, dropout=0.1, remat=remat)

    @jax.jit
    def compute(params):
        def loss(params):
            rngs = {"dropout": jax.random.key(5)}
            return jnp.mean(model.apply(params, images(), T, LABELS, train=True, rngs=rngs) ** 2)

        return jax.value_and_grad(loss)(params)

    return compute(params)


@every_model
def test_every_parameter_learns(name):
    _, gradients = loss_and_gradients(name, remat=False)
    for path, gradient in jax.tree.leaves_with_path(gradients):
        place = jax.tree_util.keystr(path, simple=True, separator="/")
        assert jnp.isfinite(gradient).all(), place
        # A softmax does not see what is added to all its entries: a bias of the keys is idle.
        assert place.endswith("key/bias") or jnp.abs(gradient).max() > 1e-6, place


@every_model
def test_remat_changes_neither_loss_nor_gradients(name):
    jax.tree.map(
        lambda plain, again: np.testing.assert_allclose(plain, again, rtol=1e-3, atol=1e-5),
        loss_and_gradients(name, remat=False),
        loss_and_gradients(name, remat=True),
    )


@every_model
def test_remat_saves_less_for_the_backward_pass(name):
    def saved(remat):
        model, _, params = tiny(name, remat=remat)

        def residuals(params):
            return jax.vjp(lambda p: model.apply(p, images(), T, train=False), params)[1]

        return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(residuals, params)))

    assert saved(True) < 0.7 * saved(False)
