import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ddpm_jax.optimizers import OPTIMIZERS, make_learning_rate, make_optimizer
from tests.tiny import arrays


def lion(*, beta1: float = 0.9, beta2: float = 0.99):
    return optax.scale_by_lion(beta1, beta2)


@pytest.fixture(params=["adam", "adamw", "lion", "momentum"])
def name(request, monkeypatch):
    """Every row, and two from outside whose state nobody guards."""
    rows = {"lion": lion, "momentum": lambda: optax.trace(0.9)}
    for added, row in rows.items():
        monkeypatch.setitem(OPTIMIZERS, added, row)
    return request.param


@pytest.mark.parametrize("name", ["adam", "adamw"])
@pytest.mark.parametrize("size", [0.0, 0.1, 30.0])
def test_the_optimizer_is_optaxs_chain(name, size):
    """Clipping, moments, decay and learning rate against Optax's own, over several steps."""

    def course(step):
        return 0.1 / (1 + step)

    decay = {"adam": 0.0, "adamw": 0.3}[name]
    options = {"weight_decay": decay} if name == "adamw" else {}
    ours = make_optimizer(name, clip=1.0, beta2=0.9, **options)
    theirs = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.scale_by_adam(b1=0.9, b2=0.9, eps=1e-8),
        optax.add_decayed_weights(decay),
        optax.scale_by_learning_rate(course),
    )
    rng = np.random.default_rng(0)
    params = {"a": jnp.asarray(rng.normal(size=(3, 2))), "b": jnp.asarray(rng.normal(size=4))}
    state, other = ours.init(params), theirs.init(params)
    p, q = params, params
    for step in range(4):
        grads = jax.tree.map(lambda x: size * jnp.asarray(rng.normal(size=x.shape)), params)
        updates, state = ours.update(grads, state, p, learning_rate=course(step))
        p = optax.apply_updates(p, updates)
        updates, other = theirs.update(grads, other, q)
        q = optax.apply_updates(q, updates)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-5, atol=1e-7), p, q)


def test_a_step_that_is_not_good_leaves_every_state_as_it_is(name):
    optimizer = make_optimizer(name, clip=1.0)
    params = {"w": jnp.ones(3)}
    ones, rate = {"w": jnp.ones(3)}, {"learning_rate": 0.1}
    _, state = optimizer.update(ones, optimizer.init(params), params, **rate)
    worse = {"w": jnp.asarray([1.0, jnp.nan, jnp.inf])}
    _, after = optimizer.update(worse, state, params, **rate, good=jnp.asarray(False))
    jax.tree.map(np.testing.assert_array_equal, after, state)
    _, after = optimizer.update(ones, state, params, **rate, good=jnp.asarray(True))
    assert any(not np.array_equal(a, b) for a, b in zip(*map(arrays, (after, state)), strict=True))


def test_every_row_goes_down(name):
    optimizer = make_optimizer(name, clip=None)
    params = {"w": jnp.asarray([3.0, -2.0])}
    state = optimizer.init(params)
    for _ in range(20):
        updates, state = optimizer.update(params, state, params, learning_rate=0.05)
        params = optax.apply_updates(params, updates)
    assert float(optax.tree.norm(params)) < 3.0


def test_an_unknown_row_or_option_is_refused():
    with pytest.raises(ValueError, match=r"unknown optimizer 'adm' .did you mean adam"):
        make_optimizer("adm")
    with pytest.raises(ValueError, match="optimizer 'adam' takes no 'weight_decay'"):
        make_optimizer("adam", weight_decay=0.1)


@pytest.mark.parametrize("beta2", [1.0, -0.1, 0.99999999, float("nan")])
def test_a_moment_that_would_never_move_is_refused(beta2):
    with pytest.raises(ValueError, match=r"beta2 is .*; it must be in \[0, 1\), also in float32"):
        make_optimizer("adam", beta2=beta2)


def test_clipping_bounds_what_the_optimizer_sees():
    optimizer = make_optimizer("adam", clip=0.5)
    grads = {"w": jnp.full((4,), 100.0)}
    _, state = optimizer.update(grads, optimizer.init(grads), grads, learning_rate=1.0)
    moments = [
        s.mu["w"]
        for s in jax.tree.leaves(state, is_leaf=lambda s: hasattr(s, "mu"))
        if hasattr(s, "mu")
    ]
    np.testing.assert_allclose(optax.tree.norm(moments[0]), 0.1 * 0.5, rtol=1e-5)


def test_adam_and_adamw_have_a_state_of_one_form():
    # So that a resumed run may clip or decay otherwise than before.
    params = {"w": jnp.ones(3)}
    makers = [
        make_optimizer("adam", clip=1.0),
        make_optimizer("adam", clip=None),
        make_optimizer("adamw", clip=1.0, weight_decay=0.1),
    ]
    assert len({str(jax.tree.structure(it.init(params))) for it in makers}) == 1


def test_adamw_decays_weights_and_adam_does_not():
    zero = {"w": jnp.zeros(3)}
    ones = {"w": jnp.ones(3)}
    for name, options, expected in (
        ("adam", {}, 1.0),
        ("adamw", {"weight_decay": 0.1}, 1.0 - 0.01 * 0.1),
    ):
        optimizer = make_optimizer(name, clip=1.0, **options)
        updates, _ = optimizer.update(zero, optimizer.init(ones), ones, learning_rate=0.01)
        (after,) = arrays(optax.apply_updates(ones, updates))
        np.testing.assert_allclose(after, expected, rtol=1e-6)


def test_the_rate_follows_the_step_of_the_run_and_not_the_updates_made():
    optimizer, rates = make_optimizer("adam", clip=1.0), make_learning_rate(1.0, 10, decay="linear")
    ones = {"w": jnp.ones(3)}
    state = optimizer.init(ones)
    for step, rate in ((0, 1.0), (5, 0.5), (5, 0.5), (9, 0.1)):
        updates, state = optimizer.update(ones, state, ones, learning_rate=rates(step))
        # Adam's quotient is 1 for a gradient that stays the same.
        np.testing.assert_allclose(arrays(updates)[0], -rate, rtol=1e-4)


@pytest.mark.parametrize("decay", ["constant", "linear", "cosine"])
def test_the_learning_rate_rises_then_follows_its_course(decay):
    rate = make_learning_rate(2.0, 110, warmup=10, decay=decay)
    rates = rate(np.arange(111))
    assert rates.dtype == np.float32
    np.testing.assert_array_equal(rates, [rate(n) for n in range(111)])
    np.testing.assert_allclose(rates[:10], 0.2 * np.arange(1, 11), rtol=1e-6)
    share = {"constant": 1.0, "linear": 0.5, "cosine": 0.5}[decay]
    assert rates[60] == pytest.approx(2.0 * share, rel=1e-5)
    assert rates[110] == pytest.approx(2.0 if decay == "constant" else 0.0, abs=1e-6)
