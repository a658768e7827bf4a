from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion.operators import (
    LINEAR_OPERATORS,
    Measurement,
    agreeing,
    make_linear_operator,
    null_space,
)
from ddpm_jax.typing import Prediction

SHAPE = (8, 12, 3)
every_operator = pytest.mark.parametrize("name", LINEAR_OPERATORS)


def pictures(seed: int, num: int = 3) -> jax.Array:
    return jax.random.uniform(jax.random.key(seed), (num, *SHAPE), minval=-1)


KNOWN = np.random.default_rng(9).random((3, *SHAPE[:2], 1)) < 0.5


@every_operator
def test_an_operator_and_its_pseudo_inverse_are_one(name):
    """Moore and Penrose: A A⁺ A = A, A⁺ A A⁺ = A⁺, and A⁺ A is symmetric."""
    operator = make_linear_operator(name, SHAPE)
    x, z = pictures(0), pictures(1)
    seen = operator.apply(x, KNOWN)
    back = operator.pseudo_inverse(seen, KNOWN)
    assert back.shape == x.shape
    assert np.abs(back - x).max() > 0.1
    np.testing.assert_allclose(operator.apply(back, KNOWN), seen, atol=1e-5)
    again = operator.pseudo_inverse(operator.apply(back, KNOWN), KNOWN)
    np.testing.assert_allclose(again, back, atol=1e-5)
    other = operator.pseudo_inverse(operator.apply(z, KNOWN), KNOWN)
    np.testing.assert_allclose((back * z).sum(), (x * other).sum(), rtol=1e-4, atol=1e-3)


@every_operator
def test_a_guess_is_made_to_agree_and_moved_no_further(name):
    operator = make_linear_operator(name, SHAPE)
    truth, guess = pictures(2), pictures(3)
    given = Measurement(operator.apply(truth, KNOWN), KNOWN)
    found = agreeing(operator, guess, given)
    np.testing.assert_allclose(operator.apply(found, KNOWN), given.y, atol=1e-5)
    # The nearest picture that agrees: what moved has nothing in the space that A does not see.
    moved = found - guess
    seen = operator.pseudo_inverse(operator.apply(moved, KNOWN), KNOWN)
    np.testing.assert_allclose(moved, seen, atol=1e-5)


def test_known_pixels_are_kept_to_the_bit():
    operator = make_linear_operator("mask", SHAPE)
    truth, guess = pictures(2), 1e3 * pictures(3)
    given = Measurement(jnp.where(KNOWN, truth, 0.3), KNOWN)
    found = np.asarray(jax.jit(lambda x, y: agreeing(operator, x, y))(guess, given))
    np.testing.assert_array_equal(found, np.where(KNOWN, truth, guess))


def test_operators_are_what_their_names_say():
    x = pictures(4)
    small = make_linear_operator("downsample", SHAPE, factor=4).apply(x, None)
    np.testing.assert_allclose(small[1, 1, 2], x[1, 4:8, 8:12].mean((0, 1)), atol=1e-6)
    white = jnp.ones_like(x)
    np.testing.assert_allclose(make_linear_operator("grey", SHAPE).apply(white, None), 1, atol=1e-6)
    blurred = make_linear_operator("blur", SHAPE, sigma=0.8, cutoff=1e-6).apply
    np.testing.assert_allclose(blurred(white, None), 1, atol=1e-6)
    point = jnp.zeros((1, 33, 33, 1)).at[0, 16, 16].set(1)
    spread = make_linear_operator("blur", (33, 33, 1), sigma=2.0, cutoff=1e-9).apply(point, None)
    away = np.exp(-0.5 * (np.arange(-16, 17) / 2.0) ** 2)
    gaussian = np.outer(away, away) / away.sum() ** 2
    np.testing.assert_allclose(spread[0, :, :, 0], gaussian, atol=1e-5)


@every_operator
def test_a_held_denoiser_agrees_keeps_the_rest_and_treats_each_picture_alone(name):
    operator = make_linear_operator(name, SHAPE)
    truth, guess = pictures(5), pictures(6)
    given = Measurement(operator.apply(truth, KNOWN), KNOWN)

    def denoiser(x_t: Any, t: Any) -> Prediction:
        return Prediction(guess[: len(x_t)], x_t, 2 * x_t)

    held = null_space(operator)(denoiser, given)(guess, jnp.asarray(3))
    np.testing.assert_allclose(operator.apply(held.x_0, KNOWN), given.y, atol=1e-5)
    np.testing.assert_array_equal(held.eps, guess)
    np.testing.assert_array_equal(held.variance_fraction, 2 * guess)
    one = jax.tree.map(lambda leaf: leaf[:1], given)
    alone = null_space(operator)(denoiser, one)(guess[:1], jnp.asarray(3))
    np.testing.assert_allclose(alone.x_0[0], held.x_0[0], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "options", "shape", "says"),
    [
        ("downsample", {"factor": 3}, SHAPE, "factor is 3: it must be at least 2 and divide both"),
        ("downsample", {"factor": 1}, SHAPE, "factor is 1"),
        ("grey", {}, (8, 8, 1), "grey is for pictures of red, green and blue, not of 1 channels"),
        ("blur", {"sigma": 0.0}, SHAPE, "sigma is 0: it must be above 0"),
        ("blur", {"cutoff": 1.0}, SHAPE, "cutoff is 1: it must lie between 0 and 1"),
        ("mas", {}, SHAPE, "unknown linear operator 'mas' .did you mean mask"),
    ],
)
def test_wrong_operators_are_refused(name, options, shape, says):
    with pytest.raises(ValueError, match=says):
        make_linear_operator(name, shape, **options)
    with pytest.raises(ValueError, match="a mask needs the known pixels"):
        make_linear_operator("mask", SHAPE).apply(pictures(0), None)
