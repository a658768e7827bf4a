"""What every network of MODELS promises, shown on a tiny instance of each."""

import dataclasses
import itertools
import re
import typing
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax import models
from ddpm_jax.errors import UserError
from ddpm_jax.models import MODELS, make_network, settings_of
from ddpm_jax.ops import AUTO, REFERENCE
from ddpm_jax.typing import Conditioning

TINY = {
    "annotated_unet": {"dim": 8, "multipliers": (1, 2), "block": "resnet"},
    "lucidrains_unet": {"dim": 8, "multipliers": (1, 2), "heads": 2, "head_channels": 4},
    "mlp": {"width": 8, "layers": 2},
    "small_unet": {"channels": (8, 8), "time_dim": 8},
    "step_unet": {"channels": 8, "multipliers": (1, 2)},
    "unet": {"channels": 8, "multipliers": (1, 2), "blocks": 1, "attention": (4,)},
    "unet_encoder": {"channels": 8, "multipliers": (1, 2), "blocks": 1, "attention": (4,)},
}
T = jnp.array([1, 40, 700, 1000])
LABELS = jnp.array([0, 1, 2, 3])
# These programs run once or twice: compiling them takes all the time, optimising them half of it.
quick_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
every_model = pytest.mark.parametrize("name", MODELS)


def make(name, *, out_channels=3, ops=AUTO, **settings):
    config = settings_of(MODELS[name])(**TINY[name] | settings)
    # The plane of the step U-Net grows with t/T, and so does what the times T make of it.
    timesteps = 100 if name == "step_unet" else 1000
    return make_network(config, out_channels=out_channels, timesteps=timesteps, ops=ops)


def fields(name):
    return {item.name for item in dataclasses.fields(settings_of(MODELS[name]))}


def with_field(field):
    return [name for name in MODELS if field in fields(name)]


def models_with(field):
    return pytest.mark.parametrize("name", with_field(field))


X = np.random.default_rng(1).normal(size=(4, 8, 8, 3)).astype("float32")
SAME = np.repeat(X[:1], 4, axis=0)


@pytest.fixture(scope="module")
def tiny(random_params):
    """Builds a network with its settings changed, and parameters for it."""

    @cache
    def build(name, **settings):
        model = make(name, **settings)
        return model, random_params(model.clone(ops=REFERENCE), X, T, train=False)

    return build


@pytest.fixture(scope="module")
def forward(tiny):
    """Compiles the evaluation of an instance with three classes, once for all tests."""

    @cache
    def compiled(name, **fields):
        model, params = tiny(name, num_classes=3, **fields)
        return quick_jit(
            lambda x_t, t, labels=None: model.apply(
                params, x_t, t, Conditioning(labels), train=False
            )
        )

    return compiled


def test_every_model_has_a_tiny_instance():
    assert set(TINY) == set(MODELS)


@every_model
def test_starts_at_zero_for_any_image_shape(name):
    model, shape = make(name, dtype="bfloat16", out_channels=7, ops=REFERENCE), (8, 12, 5)
    # The cheapest generator to compile: which numbers it draws is no matter.
    key = jax.random.key(0, impl="unsafe_rbg")
    y, params = quick_jit(
        lambda: model.init_with_output(key, jnp.ones((4, *shape)), T, train=False)
    )()
    assert y.dtype == jnp.float32
    np.testing.assert_array_equal(y, np.zeros((4, *shape[:2], 7)))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}


@every_model
def test_half_precision_nearly_agrees(name, forward):
    exact, half = forward(name)(X, T), forward(name, dtype="bfloat16")(X, T)
    assert exact.dtype == half.dtype == jnp.float32
    error = np.sqrt(np.mean(np.square(exact - half))) / np.std(exact)
    assert 1e-4 < error < 0.05


@every_model
def test_an_example_does_not_see_the_others(name, forward):
    batch = forward(name)(X, T)
    alone = forward(name)(X[:1], T[0])  # a scalar time is one for all
    np.testing.assert_allclose(batch[:1], alone, atol=2e-5)
    others = forward(name)(np.concatenate([X[:1], 100 * X[:3]]), jnp.array([1, 3, 3, 3]))
    np.testing.assert_allclose(batch[0], others[0], atol=2e-5)


@every_model
def test_output_depends_on_the_time(name, forward):
    by_time = forward(name)(SAME, T)
    for i in range(3):
        assert np.abs(by_time[i] - by_time[i + 1]).max() > 1e-2


@every_model
def test_labels_choose_the_output_and_the_last_one_is_no_label(name, forward):
    f = forward(name)
    t = jnp.full(4, 40)
    by_label = f(SAME, t, LABELS)
    for i in range(3):
        assert np.abs(by_label[i] - by_label[i + 1]).max() > 1e-2
    np.testing.assert_allclose(f(SAME, t)[0], by_label[3], atol=2e-5)


@every_model
def test_labels_without_classes_are_refused(name, tiny):
    model, params = tiny(name)
    with pytest.raises(UserError, match=r"labels were given .* set model\.num_classes"):
        model.apply(params, X, T, Conditioning(LABELS), train=False)


@every_model
@pytest.mark.parametrize("part", ["image", "image_noise"])
def test_conditioning_that_a_network_does_not_take_is_refused(name, part, tiny):
    model, params = tiny(name)
    with pytest.raises(UserError, match=f"conditioning.{part} was given to a network that does"):
        model.apply(params, X, T, Conditioning()._replace(**{part: X}), train=False)


@every_model
def test_a_network_says_whether_it_takes_fractional_times(name, forward):
    network: Any = MODELS[name]
    if network.fractional_times:
        y = [forward(name)(SAME, jnp.full(4, t)) for t in (40.0, 40.5, 41.0)]
        assert np.isfinite(y).all()
        np.testing.assert_array_equal(y[0], forward(name)(SAME, jnp.full(4, 40)))
        assert min(np.abs(a - b).max() for a, b in itertools.pairwise(y)) > 1e-5
    else:
        with pytest.raises(ValueError, match="integer"):
            forward(name)(SAME, jnp.full(4, 40.5))


@every_model
def test_a_network_of_references_is_differentiable_in_forward_mode(name, tiny):
    model, params = tiny(name, num_classes=3, ops=REFERENCE)
    labels = LABELS
    v = np.random.default_rng(2).normal(size=(2, *X.shape)).astype("float32")

    def f(x_t):
        return model.apply(params, x_t, T, Conditioning(labels), train=False)

    @quick_jit
    def both():
        y, slope = jax.jvp(f, (X,), (v[0],))
        return y, slope, jax.vjp(f, X)[1](v[1])[0]

    y, slope, gradient = both()
    scale = np.linalg.norm(slope) * np.linalg.norm(v[1])
    assert abs(np.sum(slope * v[1]) - np.sum(v[0] * gradient)) < 1e-4 * scale
    np.testing.assert_allclose(y, f_auto(model, params, labels), atol=1e-4)


def f_auto(model, params, labels):
    auto = model.clone(ops=AUTO)
    return quick_jit(lambda: auto.apply(params, X, T, Conditioning(labels), train=False))()


def test_networks_name_operations_and_not_how_they_are_done():
    """No custom gradient, no platform, no device and nothing global in a network's file."""
    words = r"custom_vjp|custom_jvp|platform_dependent|device|jax\.config|optimization_barrier"
    for path in Path(models.__file__).parent.glob("*.py"):
        assert re.findall(words, path.read_text()) == [], path.name


@every_model
def test_a_row_is_named_as_its_settings_are(name):
    assert settings_of(MODELS[name]).kind == name
    assert settings_of(MODELS[name]) in typing.get_args(models.ModelConfig)


@models_with("dropout")
def test_dropout_acts_in_training_only_and_follows_its_key(name, tiny, forward):
    model, params = tiny(name, num_classes=3, dropout=0.5, ops=REFERENCE)

    @quick_jit
    def train(key):
        return model.apply(params, X, T, train=True, rngs={"dropout": key})

    first = train(jax.random.key(0))
    np.testing.assert_array_equal(first, train(jax.random.key(0)))
    assert np.abs(first - train(jax.random.key(1))).max() > 1e-2
    assert np.abs(first - forward(name)(X, T)).max() > 1e-2

    # Without training nothing can drop: there is no rng to draw from, and none is asked for.
    jax.eval_shape(partial(model.apply, train=False), params, X, T)


@pytest.fixture(scope="module")
def loss_and_gradients(tiny):
    """Trains with classes, and dropout where there is one: all parameters and streams take part."""

    @cache
    def compute(name, **options):
        if "dropout" in fields(name):
            options["dropout"] = 0.1
        model, params = tiny(name, num_classes=3, **options)

        def loss(params):
            rngs = {"dropout": jax.random.key(5)}
            return jnp.mean(
                jnp.square(model.apply(params, X, T, Conditioning(LABELS), train=True, rngs=rngs))
            )

        return jax.device_get(quick_jit(jax.value_and_grad(loss))(params))

    return compute


@every_model
def test_every_parameter_learns(name, loss_and_gradients):
    _, gradients = loss_and_gradients(name)
    for path, gradient in jax.tree.leaves_with_path(gradients):
        place = jax.tree_util.keystr(path, simple=True, separator="/")
        assert np.isfinite(gradient).all(), place
        # A softmax does not see what is added to all its entries: a bias of the keys is idle.
        assert place.endswith("key/bias") or np.abs(gradient).max() > 1e-6, place


# The encoder's blocks are those of the U-Net.
@pytest.mark.parametrize("name", [name for name in with_field("remat") if name != "unet_encoder"])
def test_remat_changes_neither_loss_nor_gradients(name, loss_and_gradients, request):
    if name != "unet" and not request.config.getoption("--long"):
        pytest.skip("--long: all of them wrap their blocks in the same way")
    jax.tree.map(
        lambda plain, again: np.testing.assert_allclose(plain, again, rtol=1e-3, atol=1e-5),
        loss_and_gradients(name),
        loss_and_gradients(name, remat=True, ops=REFERENCE),
    )


@models_with("remat")
def test_remat_saves_less_for_the_backward_pass(name, tiny):
    def saved(remat):
        model, params = tiny(name, remat=remat, ops=REFERENCE)

        def residuals(params):
            return jax.vjp(lambda p: model.apply(p, X, T, train=False), params)[1]

        return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(residuals, params)))

    assert saved(True) < 0.7 * saved(False)
