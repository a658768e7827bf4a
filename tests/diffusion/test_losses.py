from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion import (
    LOSSES,
    PARAMETERIZATIONS,
    VARIANCES,
    WEIGHTINGS,
    make_objective,
    make_schedule,
    make_weighting,
    output_channels,
    predict,
    q_sample,
    vlb_term,
)
from ddpm_jax.tables import Choice
from ddpm_jax.typing import Conditioning, DiffusionInputs

T = 50
SCHEDULE = make_schedule("linear", T, beta_T=0.1)
TIMES = jnp.arange(1, T + 1)
LOG_SNR = jnp.asarray(SCHEDULE.log_snr)[TIMES]


@pytest.mark.parametrize(
    ("name", "expected"), [("l1", [1.25, 0]), ("l2", [2.34375, 0]), ("huber", [0.8515625, 0])]
)
def test_losses_by_hand(name, expected):
    """Errors within huber's 1 and beyond it, of both signs, on one example; none on the other."""
    error = jnp.asarray([0.25, -0.5, 2.0, -2.25])
    target = jnp.arange(8.0).reshape(2, 2, 2)
    output = target.at[0].add(error.reshape(2, 2))
    np.testing.assert_allclose(LOSSES[name](output, target), expected)


@pytest.mark.parametrize(
    ("name", "slope"),
    [("l1", jnp.sign), ("l2", lambda d: 2 * d), ("huber", lambda d: jnp.clip(d, -1, 1))],
)
def test_the_slope_of_a_loss_is_that_of_its_definition_at_every_error(name, slope):
    d = jnp.linspace(-3, 3, 48)[:, None]
    zero = jnp.zeros_like(d)
    found = jax.vmap(jax.grad(lambda x: LOSSES[name](x[None], 0 * x[None])[0]))(d)
    np.testing.assert_allclose(found, slope(d), atol=1e-6)
    np.testing.assert_array_equal(LOSSES[name](zero, zero), zero[:, 0])


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_per_example_float32_and_zero_at_the_target(name):
    target = jax.random.normal(jax.random.key(0), (3, 4, 4, 2))
    output = target + jnp.arange(3.0).reshape(3, 1, 1, 1)
    loss = LOSSES[name](output.astype(jnp.bfloat16), target.astype(jnp.bfloat16))
    assert (loss.shape, loss.dtype) == ((3,), jnp.float32)
    assert loss[0] == 0 < loss[1] < loss[2]
    one = LOSSES[name](output[1:2], target[1:2])
    np.testing.assert_allclose(one, LOSSES[name](output, target)[1:2], rtol=1e-6)


def weights(weighting, parameterization, **settings):
    return make_weighting(weighting, PARAMETERIZATIONS[parameterization], **settings)(LOG_SNR)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
def test_weights_are_finite_and_positive_per_example(weighting, parameterization):
    weight = weights(weighting, parameterization)
    assert (weight.shape, weight.dtype) == ((T,), jnp.float32)
    assert np.isfinite(weight).all()
    assert (weight > 0).all()


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("parameterization", ["v", "x_0"])
def test_weights_and_losses_at_a_zero_terminal_snr_are_their_limits(weighting, parameterization):
    """There eps says nothing of x_0, so a weight that is stated for eps is 0."""
    schedule = make_schedule("linear", T, beta_T=0.1, zero_terminal_snr=True)
    row, end = PARAMETERIZATIONS[parameterization], jnp.full(3, T)
    weight = make_weighting(weighting, row)
    near, at_zero = weight(jnp.array([-80.0])), weight(jnp.array([-jnp.inf]))
    assert at_zero == (1 if weighting == "none" else 0)
    np.testing.assert_allclose(near, at_zero, atol=1e-30)
    x_0, eps, output = jax.random.normal(jax.random.key(0), (3, 3, 4))
    x_t = q_sample(schedule, x_0, end, eps)
    np.testing.assert_array_equal(x_t, eps)
    given = DiffusionInputs(x_0, x_t, eps, end, Conditioning(), dropout=None)
    objective = make_objective("simple", schedule, row, weighting=Choice(weighting))
    gradient = jax.grad(lambda output: objective(output, given).sum())(output)
    expected = 2 / 4 * at_zero * (output - (x_0 if parameterization == "x_0" else -x_0))
    np.testing.assert_allclose(gradient, expected, atol=1e-6)


@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
def test_no_weighting_is_the_plain_loss_of_whatever_is_predicted(parameterization):
    np.testing.assert_array_equal(weights("none", parameterization), 1)


@pytest.mark.parametrize("weighting", ["min_snr", "p2"])
def test_one_error_weighs_the_same_in_every_parameterization(weighting):
    """The weighted losses of eps, x_0 and v agree at every t for one and the same mistake."""
    x_0, eps, slip = jax.random.normal(jax.random.key(0), (3, T, 6))
    x_t = q_sample(SCHEDULE, x_0, TIMES, eps)
    wrong = PARAMETERIZATIONS["eps"].to_prediction(SCHEDULE, eps + 0.3 * slip, x_t, TIMES)
    losses = {}
    for name, row in PARAMETERIZATIONS.items():
        output = row.target(SCHEDULE, wrong.x_0, wrong.eps, TIMES)
        loss = LOSSES["l2"](output, row.target(SCHEDULE, x_0, eps, TIMES))
        losses[name] = weights(weighting, name) * loss
    for loss in losses.values():
        np.testing.assert_allclose(loss, losses["eps"], rtol=1e-3)


def test_weights_by_their_papers_formulas():
    """Hang et al. 2023: min(SNR, γ) times 1, 1/SNR, 1/(SNR+1); Choi et al. 2022: 1/(k+SNR)^γ."""
    snr = np.exp(LOG_SNR)
    assert snr.min() < 3 < snr.max()
    divisor = {"x_0": 1.0, "eps": snr, "v": snr + 1}
    for name, by in divisor.items():
        weight = weights("min_snr", name, gamma=3.0)
        np.testing.assert_allclose(weight, np.minimum(snr, 3) / by, rtol=1e-5)
    weight = weights("p2", "eps", gamma=0.5, k=2.0)
    np.testing.assert_allclose(weight, (2 + snr) ** -0.5, rtol=1e-5)


def inputs(channels=2):
    x_0, eps = jax.random.normal(jax.random.key(0), (2, T, 3, channels))
    x_t = q_sample(SCHEDULE, x_0, TIMES, eps)
    return DiffusionInputs(x_0, x_t, eps, TIMES, Conditioning(), dropout=None)


@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
def test_the_simple_objective_is_weight_times_loss_of_the_target(parameterization):
    row, given = PARAMETERIZATIONS[parameterization], inputs()
    output = jax.random.normal(jax.random.key(1), given.x_t.shape)
    weighting = Choice("p2", gamma=0.5, k=2.0)
    objective = make_objective("simple", SCHEDULE, row, loss="huber", weighting=weighting)
    error = LOSSES["huber"](output, row.target(SCHEDULE, given.x_0, given.eps, TIMES))
    expected = weights("p2", parameterization, gamma=0.5, k=2.0) * error
    np.testing.assert_allclose(objective(output, given), expected, rtol=1e-6)
    plain = make_objective("simple", SCHEDULE, row)(output, given)
    np.testing.assert_allclose(
        plain, LOSSES["l2"](output, row.target(SCHEDULE, given.x_0, given.eps, TIMES)), rtol=1e-6
    )


def test_classification_is_the_cross_entropy_of_outputs_averaged_over_the_pixels():
    """For points there is nothing to average; uniform outputs cost log K."""
    row = PARAMETERIZATIONS["eps"]
    objective = make_objective("classification", SCHEDULE, row)
    assert objective.classifies
    assert not make_objective("simple", SCHEDULE, row).classifies
    labels = jnp.arange(T) % 4
    given = inputs()._replace(labels=labels)
    maps = jax.random.normal(jax.random.key(1), (T, 3, 2, 4))
    means = np.asarray(maps, np.float64).mean((1, 2))
    expected = np.log(np.exp(means).sum(1)) - means[np.arange(T), labels]
    np.testing.assert_allclose(objective(maps, given), expected, rtol=1e-5)
    np.testing.assert_allclose(objective(jnp.asarray(means), given), expected, rtol=1e-5)
    np.testing.assert_allclose(objective(jnp.zeros((T, 4)), given), np.log(4), rtol=1e-6)
    weighted = make_objective("classification", SCHEDULE, row, weighting=Choice("p2"))
    np.testing.assert_allclose(weighted(maps, given), weights("p2", "eps") * expected, rtol=1e-5)
    with pytest.raises(ValueError, match="'classification' needs labels; set model"):
        objective(maps, inputs())


def test_the_simple_objective_refuses_a_variance_that_it_would_not_train():
    given = inputs()
    twice = jnp.concatenate([given.eps, given.eps], axis=-1)
    objective = make_objective("simple", SCHEDULE, PARAMETERIZATIONS["eps"])
    with pytest.raises(ValueError, match="does not train a learned variance"):
        objective(twice, given)
    with pytest.raises(ValueError, match=r"gives 1 channels for examples of 2; it must give 2, or"):
        objective(given.eps[..., :1], given)


def pixels():
    """Inputs whose x_0 are 8-bit pixels, in pictures of one row, and the exact output for them."""
    given = inputs()
    x_0 = jnp.round(127.5 * jnp.clip(given.x_0, -1, 1) + 127.5) / 127.5 - 1
    x_0, eps = x_0[:, None], given.eps[:, None]
    x_t = q_sample(SCHEDULE, x_0, TIMES, eps)
    return given._replace(x_0=x_0, x_t=x_t, eps=eps)


@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
def test_the_mean_of_the_bound_objective_over_t_is_the_bound(variance, parameterization):
    """But for L_T, which has no parameters."""
    row, given = PARAMETERIZATIONS[parameterization], pixels()
    mean = row.target(SCHEDULE, given.x_0, given.eps, TIMES) + 0.1
    objective = make_objective("bound", SCHEDULE, row, variance=variance)
    learned = objective.variance is not None
    output = jnp.concatenate([mean, -0.4 * jnp.ones_like(mean)], axis=-1) if learned else mean
    assert output.shape[-1] == output_channels(2, objective.variance)
    at: dict[str, Any] = {"x_t": given.x_t, "t": TIMES}
    prediction = predict(row, SCHEDULE, output, **at)
    terms = vlb_term(SCHEDULE, prediction, given.x_0, variance=variance, **at)
    np.testing.assert_allclose(objective(output, given).mean(), terms.sum(), rtol=1e-6)
    assert (prediction.variance_fraction is not None) == learned


@pytest.mark.parametrize("shape", ["points", "pictures"])
def test_the_hybrid_objective_teaches_the_variance_by_the_bound_and_the_mean_by_the_error(shape):
    given, eps = pixels() if shape == "pictures" else inputs(), PARAMETERIZATIONS["eps"]
    output = jnp.concatenate([given.eps + 0.1, jnp.zeros_like(given.eps)], axis=-1)

    def gradient(name, output, **options):
        objective = make_objective(name, SCHEDULE, eps, **options)
        return jax.grad(lambda output: objective(output, given).sum())(output)

    found = gradient("hybrid", output, bound_weight=0.01)
    of_mean, of_variance = found[..., :2], found[..., 2:]
    np.testing.assert_allclose(of_mean, gradient("simple", output[..., :2]), rtol=1e-6)
    expected = 0.01 * gradient("bound", output)[..., 2:]
    np.testing.assert_allclose(of_variance, expected, rtol=1e-4, atol=1e-9)
    assert of_variance.any(axis=tuple(range(1, output.ndim))).all()
    assert make_objective("simple", SCHEDULE, eps).variance is None


def test_what_an_objective_would_not_use_is_refused():
    eps = PARAMETERIZATIONS["eps"]
    with pytest.raises(ValueError, match="loss is 'huber'; it must be l2: bound has its own error"):
        make_objective("bound", SCHEDULE, eps, loss="huber")
    with pytest.raises(ValueError, match="weighting is 'p2'; it must be none"):
        make_objective("bound", SCHEDULE, eps, weighting=Choice("p2"))
    with pytest.raises(ValueError, match="bound_weight is 0; it must be above 0"):
        make_objective("hybrid", SCHEDULE, eps, bound_weight=0)
    with pytest.raises(ValueError, match="hybrid needs at least two timesteps"):
        make_objective("hybrid", make_schedule("linear", 1, beta_T=0.9), eps)
