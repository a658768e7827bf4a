"""What the functions of the mathematics refuse, where no hook checks the annotated types."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from ddpm_jax.diffusion import (
    PARAMETERIZATIONS,
    SAMPLERS,
    classifier_free_guidance,
    clip,
    constant_weight,
    continuous,
    discretized_log_likelihood,
    forward_variance,
    make_objective,
    make_sampler,
    make_schedule,
    noise_schedule,
    plan_chain,
    posterior_variance,
    predict,
    q_conditional,
    q_mean_variance,
    q_posterior,
    q_sample,
    q_step,
    sample,
    sample_noise,
    split_output,
    time_steps,
    vlb_prior,
    vlb_term,
)
from ddpm_jax.typing import Conditioning, DiffusionInputs, Prediction, RecallingDenoiser

T = 10
SCHEDULE = make_schedule("linear", T, beta_1=0.1, beta_T=0.9)
X = jnp.full((2, 4, 4, 1), 0.5)
PIXELS = jnp.full(X.shape, 200, jnp.uint8)
EPS = PARAMETERIZATIONS["eps"]
KEYS = jax.random.split(jax.random.key(0, impl="threefry2x32"), 2)
RBG = jax.random.split(jax.random.key(0, impl="rbg"), 2)


@pytest.fixture(autouse=True)
def _without_the_hook():
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def functions_of_a_time():
    """Each of them, as a function of t alone."""
    objective = make_objective("simple", SCHEDULE, EPS)
    return {
        "q_step": lambda t: q_step(SCHEDULE, X, t, X),
        "q_sample": lambda t: q_sample(SCHEDULE, X, t, X),
        "q_mean_variance": lambda t: q_mean_variance(SCHEDULE, X, t),
        "q_posterior": lambda t: q_posterior(SCHEDULE, X, X, t=t, s=t - 1),
        "predict": lambda t: predict(EPS, SCHEDULE, X, x_t=X, t=t),
        "vlb_term": lambda t: vlb_term(SCHEDULE, Prediction(X, X), X, x_t=X, t=t),
        "q_conditional": lambda t: q_conditional(SCHEDULE, t=t, s=t - 1, ndim=4),
        "posterior_variance": lambda t: posterior_variance(SCHEDULE, t=t, s=t - 1, ndim=4),
        "forward_variance": lambda t: forward_variance(SCHEDULE, t=t, s=t - 1, ndim=4),
        "objective": lambda t: objective(
            X, DiffusionInputs(X, X, X, t, Conditioning(), dropout=None)
        ),
    }


of_a_time = pytest.mark.parametrize("name", functions_of_a_time())


@of_a_time
@pytest.mark.parametrize("t", [T + 1, [1, T + 1], [-1, 1]])
@pytest.mark.parametrize("xp", [np, jnp])
def test_a_time_beyond_the_schedule_is_one_error_where_it_is_known(name, t, xp):
    with pytest.raises(
        ValueError, match=rf"^t is ({T + 1}|-1); this schedule has the times \d…10$"
    ):
        functions_of_a_time()[name](xp.asarray(t))
    traced = jax.eval_shape(functions_of_a_time()[name], jnp.asarray(t))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(traced))


@of_a_time
def test_a_time_of_a_wrong_type_or_shape_is_one_error_even_while_traced(name):
    call = functions_of_a_time()[name]
    for t, message in (
        ([[1], [2]], "t has the shape"),
        ([0.5, 1.0], "t must be an array of whole"),
    ):
        if name != "predict" or message == "t has the shape":
            with pytest.raises(TypeError, match=message):
                jax.eval_shape(call, jnp.asarray(t))
    with pytest.raises(TypeError, match=r"t must be an array of .*numbers, not (str|int)"):
        call("3" if name in ("predict", "q_step", "vlb_term", "objective", "q_sample") else 3)


@pytest.mark.parametrize("name", ["q_step", "q_posterior", "predict", "vlb_term"])
def test_time_0_is_refused_where_there_must_be_noise(name):
    with pytest.raises(ValueError, match=r"t is (0|-1); this schedule"):
        functions_of_a_time()[name](jnp.asarray(0))


def test_fractional_times_are_checked_too():
    for t in (0.0, T + 0.5, np.nan):
        with pytest.raises(ValueError, match="this schedule has the times 1…10"):
            predict(EPS, SCHEDULE, X, x_t=X, t=jnp.asarray(t))
    with pytest.raises(ValueError, match="this schedule has the times 0…10"):
        continuous(SCHEDULE, np.array([1.0, np.nan]))


def chain(denoiser, x=X, keys=KEYS, name="ddpm", rows=None):
    sampler = make_sampler(name, SCHEDULE)
    rows = plan_chain(sampler, SCHEDULE, time_steps(T, T)) if rows is None else rows
    return lambda: sample(sampler, denoiser, x, rows=rows, keys=keys)


def good(x_t, t):
    return Prediction(0 * x_t, x_t)


def guided(strong, weak):
    return classifier_free_guidance(strong, weak, constant_weight(1.0))(X, jnp.asarray(1))


DENOISERS = {
    "an array, of a batch of 2 too": lambda x_t, t: x_t,
    "a bare pair": lambda x_t, t: (x_t, x_t),
    "nothing": lambda x_t, t: None,
    "another shape": lambda x_t, t: Prediction(x_t[..., 0], x_t[..., 0]),
    "one for all examples": lambda x_t, t: Prediction(x_t[:1], x_t[:1]),
    "half precision": lambda x_t, t: Prediction(x_t.astype(jnp.bfloat16), x_t),
    "a part that is none": lambda x_t, t: Prediction(x_t, None),  # type: ignore
}


@pytest.mark.parametrize("case", DENOISERS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_denoiser_that_returns_anything_else_is_one_error(case, sampler):
    bad = DENOISERS[case]
    calls = [
        chain(bad, name=sampler),
        chain(RecallingDenoiser(jnp.zeros_like, lambda memory: bad), name=sampler),
        lambda: guided(bad, good),
        lambda: guided(good, bad),
        lambda: clip(SCHEDULE)(bad)(X, jnp.asarray(1)),
        lambda: vlb_term(SCHEDULE, bad(X, 1), X, x_t=X, t=jnp.asarray(1)),
    ]
    for call in calls:
        with pytest.raises(TypeError, match=r"^a denoiser must return ") as told:
            call()
        assert len(str(told.value).splitlines()) == 1


# What is done -> the error, in one line.
MISTAKES = {
    "pixels that are not floats": (
        lambda: q_sample(SCHEDULE, PIXELS, jnp.asarray(1), X),
        r"^x_0 must be an array of floats on the data's scale .*not uint8 of the shape \(2, 4",
    ),
    "pixels in 0…255 in the bound": (
        lambda: vlb_term(SCHEDULE, Prediction(X, X), 255 * X, x_t=X, t=jnp.asarray(1)),
        r"^x_0 runs from 127.5 to 127.5; 8-bit pixels must be scaled to \[-1, 1\]",
    ),
    "the same in the decoder": (
        lambda: discretized_log_likelihood(255 * X, X, jnp.asarray(0.1)),
        "^x_0 runs from 127.5",
    ),
    "a NaN in the bound": (
        lambda: discretized_log_likelihood(jnp.nan * X, X, jnp.asarray(0.1)),
        "^x_0 runs from nan",
    ),
    "pixels that are not floats in the prior": (
        lambda: vlb_prior(SCHEDULE, PIXELS),
        "^x_0 must be an array of floats",
    ),
    "noise of another shape": (
        lambda: q_sample(SCHEDULE, X, jnp.asarray(1), X[:1]),
        r"^eps has the shape \(1, 4, 4, 1\), and x_0 \(2, 4, 4, 1\)",
    ),
    "an example without a batch": (
        lambda: q_sample(SCHEDULE, jnp.asarray(0.5), jnp.asarray(1), jnp.asarray(0.5)),
        "^x_0 has no axis of examples",
    ),
    "more times than examples": (
        lambda: q_step(SCHEDULE, X, jnp.asarray([1, 2, 3]), X),
        "^there are 3 times t for 2 examples",
    ),
    "an output of another size": (
        lambda: predict(EPS, SCHEDULE, X[:, :2], x_t=X, t=jnp.asarray(1)),
        r"^output has the shape \(2, 2, 4, 1\), and x_t",
    ),
    "an output of three channels": (
        lambda: split_output(jnp.zeros((2, 3)), 1),
        "^the network gives 3 channels for examples of 1",
    ),
    "a loss of two shapes": (
        lambda: make_objective("simple", SCHEDULE, EPS)(
            X[:, :1], DiffusionInputs(X, X, X, jnp.asarray(1), Conditioning(), dropout=None)
        ),
        "^target has the shape",
    ),
    "a posterior that goes up": (
        lambda: q_posterior(SCHEDULE, X, X, t=jnp.asarray(2), s=jnp.asarray(5)),
        "^s must be before t",
    ),
    "a posterior that stays": (
        lambda: q_conditional(SCHEDULE, t=np.array([2]), s=np.array([2]), ndim=1),
        "^s must be before t",
    ),
    "a bound of one step": (
        lambda: vlb_term(
            noise_schedule(np.array([0.5])), Prediction(X, X), X, x_t=X, t=jnp.asarray(1)
        ),
        "^the bound needs a schedule of at least two steps",
    ),
    "a T that is no whole number": (lambda: make_schedule("linear", 10.5), "steps, not 10.5"),  # type: ignore
    "raw keys": (
        chain(good, keys=jax.random.key_data(KEYS)),
        r"^keys must be typed keys, as .*; not uint32 of the shape \(2, 2\)",
    ),
    "one key for all": (chain(good, keys=KEYS[0]), r"^keys have the shape \(\), and there are 2"),
    "one key too few": (
        chain(good, keys=KEYS[:1]),
        r"^keys have the shape \(1,\), and there are 2",
    ),
    "keys whose numbers depend on the batch": (chain(good, keys=RBG), "^keys are of rbg"),
    "such keys for the first noise": (lambda: sample_noise(RBG, (4,)), "^keys are of rbg"),
    "a seed for a key": (lambda: sample_noise(3, (4,)), "^keys must be typed keys, .* not int"),  # type: ignore
    "pixels to start from": (chain(good, x=PIXELS), "^x must be an array of floats"),
    "times for rows": (
        chain(good, rows=time_steps(T, T)),
        "^rows must be what plan_chain gives for the times, not ndarray",
    ),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_error(case):
    call, message = MISTAKES[case]
    with pytest.raises((TypeError, ValueError), match=message) as told:
        call()
    assert len(str(told.value).splitlines()) == 1


def test_betas_may_be_a_list():
    np.testing.assert_array_equal(noise_schedule([0.1, 0.2]).beta, [0, 0.1, 0.2])  # type: ignore
