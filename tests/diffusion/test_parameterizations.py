import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion import (
    PARAMETERIZATIONS,
    continuous,
    make_schedule,
    output_channels,
    predict,
    q_sample,
    split_output,
)

T = 50
SCHEDULE = make_schedule("linear", T, beta_T=0.1)
# One example at every time.
TIMES = jnp.arange(1, T + 1)
X_0, EPS = jax.random.normal(jax.random.key(0), (2, T, 4, 3, 1))
X_T = q_sample(SCHEDULE, X_0, TIMES, EPS)
every_parameterization = pytest.mark.parametrize("name", PARAMETERIZATIONS)


def assert_agrees(prediction, x_t, t):
    np.testing.assert_allclose(
        q_sample(SCHEDULE, prediction.x_0, t, prediction.eps), x_t, atol=1e-5
    )


@every_parameterization
def test_the_target_recovers_x_0_and_eps(name):
    """To rounding, times the 1/α or 1/σ by which an error of x_t reaches the other quantity."""
    row = PARAMETERIZATIONS[name]
    output = row.target(SCHEDULE, X_0, EPS, TIMES)
    prediction = row.to_prediction(SCHEDULE, output, X_T, TIMES)
    np.testing.assert_allclose(prediction.x_0, X_0, atol=1e-5)
    np.testing.assert_allclose(prediction.eps, EPS, atol=1e-4)


def test_v_is_the_velocity_of_x_t_along_its_angle():
    """d/dφ of x_t = cos(φ) x_0 + sin(φ) eps, Salimans & Ho 2022, appendix D: it tells v's sign."""
    angle = jnp.arctan2(
        jnp.asarray(SCHEDULE.sqrt_one_minus_alpha_bar)[TIMES],
        jnp.asarray(SCHEDULE.sqrt_alpha_bar)[TIMES],
    )[:, None, None, None]

    def x(angle):
        return jnp.cos(angle) * X_0 + jnp.sin(angle) * EPS

    x_t, velocity = jax.jvp(x, (angle,), (jnp.ones_like(angle),))
    np.testing.assert_allclose(x_t, X_T, atol=1e-5)
    np.testing.assert_allclose(
        PARAMETERIZATIONS["v"].target(SCHEDULE, X_0, EPS, TIMES), velocity, atol=1e-5
    )


@every_parameterization
def test_any_output_becomes_a_pair_that_agrees_with_x_t(name):
    row = PARAMETERIZATIONS[name]
    output = jax.random.normal(jax.random.key(1), X_T.shape)
    prediction = row.to_prediction(SCHEDULE, output, X_T, TIMES)
    assert_agrees(prediction, X_T, TIMES)
    again = row.target(SCHEDULE, prediction.x_0, prediction.eps, TIMES)
    np.testing.assert_allclose(again, output, atol=1e-4)


@every_parameterization
def test_one_time_for_all_is_that_time_for_each(name):
    row, t = PARAMETERIZATIONS[name], jnp.asarray(7)
    for one, each in zip(
        row.to_prediction(SCHEDULE, EPS, X_T, t)[:2],
        row.to_prediction(SCHEDULE, EPS, X_T, jnp.full(T, 7))[:2],
        strict=True,
    ):
        np.testing.assert_array_equal(one, each)


@every_parameterization
def test_a_half_precision_output_is_used_in_float32(name):
    row, output = PARAMETERIZATIONS[name], EPS.astype(jnp.bfloat16)
    narrow = row.to_prediction(SCHEDULE, output, X_T, TIMES)
    wide = row.to_prediction(SCHEDULE, output.astype(jnp.float32), X_T, TIMES)
    for a, b in zip(narrow[:2], wide[:2], strict=True):
        assert a.dtype == jnp.float32
        np.testing.assert_array_equal(a, b)


@every_parameterization
def test_eps_loss_factor_is_what_an_error_of_the_output_does_to_eps(name):
    """Equation (10), by perturbing the output: the factor is the square of d eps / d output."""
    row, ones = PARAMETERIZATIONS[name], jnp.ones_like(X_T)
    moved = row.to_prediction(SCHEDULE, ones, X_T, TIMES).eps
    still = row.to_prediction(SCHEDULE, 0 * ones, X_T, TIMES).eps
    gain = (moved - still).reshape(T, -1).mean(1) ** 2
    factor = row.eps_loss_factor(jnp.asarray(SCHEDULE.log_snr)[TIMES])
    np.testing.assert_allclose(gain, factor, rtol=1e-4)


def test_an_output_of_twice_the_channels_holds_the_variance_too():
    """The first half is the prediction as before; v̂ in the second means f = (v̂ + 1)/2."""
    row = PARAMETERIZATIONS["v"]
    v_hat = jnp.linspace(-1, 1, X_T.size).reshape(X_T.shape)
    both = jnp.concatenate([EPS, v_hat], axis=-1).astype(jnp.bfloat16)
    plain = predict(row, SCHEDULE, EPS.astype(jnp.bfloat16), x_t=X_T, t=TIMES)
    found = predict(row, SCHEDULE, both, x_t=X_T, t=TIMES)
    assert plain.variance_fraction is None
    np.testing.assert_array_equal(found.x_0, plain.x_0)
    np.testing.assert_array_equal(found.eps, plain.eps)
    assert found.variance_fraction is not None
    assert found.variance_fraction.dtype == jnp.float32
    np.testing.assert_allclose(found.variance_fraction, (v_hat + 1) / 2, atol=2e-3)


def test_the_number_of_output_channels_follows_from_the_variance():
    numbers = [output_channels(3, each) for each in (None, "beta", "learned", "learned_range")]
    assert numbers == [3, 3, 6, 6]
    with pytest.raises(ValueError, match="gives 4 channels for examples of 3"):
        split_output(jnp.zeros((1, 4)), 3)


@every_parameterization
def test_fractional_times_agree_with_x_t_and_whole_ones_are_the_tables(name):
    row, fractions = PARAMETERIZATIONS[name], TIMES - 0.5
    whole = predict(row, SCHEDULE, EPS, x_t=X_T, t=TIMES.astype(jnp.float32))
    for a, b in zip(whole[:2], row.to_prediction(SCHEDULE, EPS, X_T, TIMES)[:2], strict=True):
        np.testing.assert_array_equal(a, b)
    between = continuous(SCHEDULE, fractions)
    x_t = q_sample(between, X_0, jnp.arange(T), EPS)
    output = row.target(between, X_0, EPS, jnp.arange(T))
    prediction = predict(row, SCHEDULE, output, x_t=x_t, t=fractions)
    np.testing.assert_allclose(prediction.x_0, X_0, atol=1e-5)
    one = predict(row, SCHEDULE, output[:1], x_t=x_t[:1], t=fractions[0])
    np.testing.assert_allclose(one.x_0, prediction.x_0[:1], atol=1e-6)


def test_eps_is_refused_where_the_snr_is_zero():
    schedule = make_schedule("cosine", T, zero_terminal_snr=True)
    for name, row in PARAMETERIZATIONS.items():
        if name == "eps":
            with pytest.raises(ValueError, match="x_0 can't be found from eps where the SNR is 0"):
                predict(row, schedule, EPS, x_t=X_T, t=TIMES)
        else:
            found = predict(row, schedule, row.target(schedule, X_0, EPS, TIMES), x_t=X_T, t=TIMES)
            assert np.isfinite(found.x_0).all()
            assert np.isfinite(found.eps).all()
