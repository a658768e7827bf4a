from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion import (
    GUIDANCE,
    PARAMETERIZATIONS,
    at,
    classifier_free_guidance,
    classifier_guidance,
    constant_weight,
    continuous,
    interval_weight,
    make_guidance,
    make_sampler,
    make_schedule,
    plan_chain,
    predict,
    q_sample,
    sample,
    time_steps,
)
from ddpm_jax.typing import Prediction
from tests.diffusion.mixture import THREE_BLOBS, GaussianMixture

T = 50
SCHEDULE = make_schedule("linear", T, beta_T=0.1)
# One example at every time.
TIMES = jnp.arange(1, T + 1)
X_T = jax.random.normal(jax.random.key(0), (T, 2))
GIVEN = THREE_BLOBS.denoiser(SCHEDULE)
FREE = THREE_BLOBS._replace(means=-THREE_BLOBS.means).denoiser(SCHEDULE)


def guided(weight, x_t, t):
    return make_guidance("classifier_free", SCHEDULE)(GIVEN, FREE, weight)(x_t, t)


def assert_agrees(prediction, x_t, t):
    np.testing.assert_allclose(
        q_sample(SCHEDULE, prediction.x_0, t, prediction.eps), x_t, atol=1e-5
    )


def test_guidance_is_linear_in_its_weight_and_keeps_agreement():
    """w = 0 is conditional, w = -1 unconditional, and eps moves along the line through both."""
    x_t, t = X_T[:8], TIMES[:8]
    for weight, expected in ((0.0, GIVEN(x_t, t)), (-1.0, FREE(x_t, t))):
        found = guided(constant_weight(weight), x_t, t)
        np.testing.assert_allclose(found.x_0, expected.x_0, atol=1e-5)
        np.testing.assert_allclose(found.eps, expected.eps, atol=1e-5)
    found = guided(constant_weight(1.5), x_t, t)
    expected = 2.5 * GIVEN(x_t, t).eps - 1.5 * FREE(x_t, t).eps
    np.testing.assert_allclose(found.eps, expected, atol=1e-5)
    assert np.abs(found.eps - GIVEN(x_t, t).eps).max() > 0.1
    assert_agrees(found, x_t, t)


def test_the_weight_may_depend_on_t():
    """An interval of guidance is a weight that is 0 outside of it, for one time or one each."""

    def interval(t):
        return jnp.where((t > 10) & (t < 30), 2.0, 0.0)

    each = guided(interval, X_T, TIMES)
    inside = (TIMES > 10) & (TIMES < 30)
    plain, full = GIVEN(X_T, TIMES).x_0, guided(constant_weight(2.0), X_T, TIMES).x_0
    np.testing.assert_allclose(each.x_0, jnp.where(inside[:, None], full, plain), atol=1e-5)
    for k in (5, 20):
        one = guided(interval, X_T, TIMES[k])
        np.testing.assert_allclose(one.x_0[k], each.x_0[k], atol=1e-5)


def test_the_weight_of_an_interval_in_log_snr_is_the_same_under_every_schedule():
    """It holds where the noise is the same, at whole times and between them."""
    other = make_schedule("cosine", 40)
    for schedule in (SCHEDULE, other):
        weight = interval_weight(schedule, 2.0, -1.5, 1.5)
        each = weight(jnp.arange(1, schedule.T + 1))
        inside = np.abs(schedule.log_snr[1:]) <= 1.5
        assert 3 < inside.sum() < schedule.T - 3
        np.testing.assert_array_equal(each, np.where(inside, 2.0, 0.0))
        first = 1 + np.argmax(inside)
        between = continuous(schedule, np.array([first - 0.5])).log_snr[0]
        assert weight(jnp.asarray(first - 0.5)) == (2.0 if abs(between) <= 1.5 else 0.0)
    with pytest.raises(ValueError, match="low is 1; it must be below high, which is 1"):
        interval_weight(SCHEDULE, 1.0, 1, 1)


@pytest.mark.parametrize("name", GUIDANCE)
def test_the_weak_denoiser_is_not_called_outside_of_an_interval(name):
    """NaN times a weight of 0 would be NaN."""
    weight = interval_weight(SCHEDULE, 2.0, -1.0, 1.0)

    def weak(x_t, t):
        return Prediction(jnp.full_like(x_t, jnp.nan), jnp.full_like(x_t, jnp.nan))

    denoiser = make_guidance(name, SCHEDULE)(GIVEN, weak, weight)
    for t in (1, T, int(np.argmin(np.abs(SCHEDULE.log_snr)))):
        found = denoiser(X_T, jnp.asarray(t)).x_0
        if weight(jnp.asarray(t)) == 0:
            np.testing.assert_allclose(found, GIVEN(X_T, jnp.asarray(t)).x_0, rtol=1e-6)
        else:
            assert np.isnan(found).all()


def compared(name, weight=1.5, memory=None, x_t=X_T, **options):
    """What a row gives, and what classifier-free guidance does, at each time."""
    row = make_guidance(name, SCHEDULE, **options)(GIVEN, FREE, constant_weight(weight))
    if memory is not None:
        row = row.given(memory)
    found = row(x_t, TIMES)
    assert_agrees(found, x_t, TIMES)
    return found, guided(constant_weight(weight), x_t, TIMES)


def test_adaptive_projected_guidance_with_all_of_the_difference_is_classifier_free():
    found, plain = compared("adaptive_projected", parallel=1.0)
    np.testing.assert_allclose(found.x_0, plain.x_0, atol=1e-5)
    np.testing.assert_allclose(found.eps, plain.eps, atol=1e-4)


def test_adaptive_projected_guidance_adds_nothing_along_x_0():
    given, (found, plain) = GIVEN(X_T, TIMES).x_0, compared("adaptive_projected")
    added, whole = found.x_0 - given, plain.x_0 - given
    np.testing.assert_allclose((added * given).sum(1), 0, atol=1e-5)
    # In two dimensions the other part lies along x_0 turned by a right angle.
    across = jnp.stack([-given[:, 1], given[:, 0]], 1)
    np.testing.assert_allclose((added * across).sum(1), (whole * across).sum(1), atol=1e-5)
    half, _ = compared("adaptive_projected", parallel=0.5)
    np.testing.assert_allclose(
        ((half.x_0 - given) * given).sum(1), 0.5 * (whole * given).sum(1), atol=1e-5
    )


def test_the_norm_threshold_shortens_what_is_longer():
    given, (found, plain) = (
        GIVEN(X_T, TIMES).x_0,
        compared("adaptive_projected", parallel=1.0, norm_threshold=0.5),
    )
    whole, added = (np.linalg.norm(each.x_0 - given, axis=1) / 1.5 for each in (plain, found))
    assert whole.min() < 0.45 < 0.55 < whole.max()
    np.testing.assert_allclose(added, np.minimum(whole, 0.5), atol=1e-5)


def test_momentum_is_a_running_sum_along_the_chain_and_rests_outside_of_the_interval():
    """DDIM's chain by hand, with Δ <- D - D_weak + β Δ."""
    beta, w = -0.5, 2.0
    inside = interval_weight(SCHEDULE, w, -2.0, 2.0)
    guide = make_guidance("adaptive_projected", SCHEDULE, parallel=1.0, momentum=beta)
    denoiser, sampler = guide(GIVEN, FREE, inside), make_sampler("ddim", SCHEDULE)
    times, keys = time_steps(T, 10), jax.random.split(jax.random.key(1), T)
    rows = plan_chain(sampler, SCHEDULE, times)
    found, _ = jax.jit(lambda x: sample(sampler, denoiser, x, rows=rows, keys=keys))(X_T)
    x: Any = X_T
    total = jnp.zeros_like(X_T)
    weights = [float(inside(jnp.asarray(t))) for t in times[:-1]]
    assert 0 in weights
    assert weights.count(w) > 3
    for t, s, here in zip(times[:-1], times[1:], weights, strict=True):
        strong, weak = GIVEN(x, jnp.asarray(t)).x_0, FREE(x, jnp.asarray(t)).x_0
        if here:
            total = strong - weak + beta * total
        x_0 = strong + here * total
        data, noise = SCHEDULE.sqrt_alpha_bar, SCHEDULE.sqrt_one_minus_alpha_bar
        x = data[s] * x_0 + noise[s] * (x - data[t] * x_0) / noise[t]
    np.testing.assert_allclose(found, x, atol=1e-4)


def test_rescaling_gives_x_0_back_its_standard_deviation():
    x_t = jax.random.normal(jax.random.key(2), (T, 3, 2))

    def pictures(shift):
        def denoiser(x_t, t):
            x_0 = jnp.tanh(x_t + shift)
            return predict(PARAMETERIZATIONS["x_0"], SCHEDULE, x_0, x_t=x_t, t=t)

        return denoiser

    strong, weak, w = pictures(0.3), pictures(-jnp.array([0.5, 2.0])), constant_weight(3.0)
    plain = classifier_free_guidance(strong, weak, w)(x_t, TIMES).x_0
    before = strong(x_t, TIMES).x_0.std((1, 2), keepdims=True)
    after = plain.std((1, 2), keepdims=True)
    assert np.abs(before / after - 1).max() > 0.3
    for share in (0.0, 0.7, 1.0):
        row = make_guidance("classifier_free", SCHEDULE, rescale=share)
        found = row(strong, weak, w)(x_t, TIMES)
        expected = share * plain * before / after + (1 - share) * plain
        np.testing.assert_allclose(found.x_0, expected, atol=1e-5)
        assert_agrees(found, x_t, TIMES)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("classifier_free", {"rescale": 1.5}, r"^rescale is 1.5; it must be in \[0, 1\]"),
        ("adaptive_projected", {"parallel": -1.0}, "^parallel is -1.0; it must be 0 or more"),
        ("adaptive_projected", {"norm_threshold": 0.0}, "^norm_threshold is 0.0; it must be above"),
        ("adaptive_projected", {"momentum": 1.0}, "^momentum is 1.0; it must be between -1 and 1"),
    ],
)
def test_options_out_of_range_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        make_guidance(name, SCHEDULE, **options)


def component(k):
    """The mixture's component k alone: what a label gives."""
    return GaussianMixture(np.ones(1, np.float32), *(each[k : k + 1] for each in THREE_BLOBS[1:]))


def posterior(schedule, labels):
    """log p(component | x_t) of the mixture, of each example's own component."""

    def log_probability(x_t, t):
        data, noise = at(schedule.sqrt_alpha_bar, t, 2), at(schedule.sqrt_one_minus_alpha_bar, t, 2)
        variances = data**2 * THREE_BLOBS.scales**2 + noise**2
        offset = x_t[:, None, :] - data[..., None] * THREE_BLOBS.means
        log_p = -0.5 * (offset**2).sum(-1) / variances - jnp.log(variances)
        log_p = jax.nn.log_softmax(log_p + np.log(THREE_BLOBS.weights), axis=1)
        return log_p[jnp.arange(len(x_t)), labels]

    return log_probability


def test_an_exact_classifier_makes_the_mixture_its_component():
    """Weight 1 gives E[x_0 | x_t, y] at every time, by each example's own gradient."""
    labels = jnp.arange(T) % 3
    unlabelled = THREE_BLOBS.denoiser(SCHEDULE)
    guide = classifier_guidance(SCHEDULE, posterior(SCHEDULE, labels), constant_weight(1.0))
    found = guide(unlabelled)(X_T, TIMES)
    assert_agrees(found, X_T, TIMES)
    for k in range(3):
        exact = component(k).denoiser(SCHEDULE)(X_T, TIMES)
        np.testing.assert_allclose(found.x_0[k::3], exact.x_0[k::3], atol=2e-4)
        np.testing.assert_allclose(found.eps[k::3], exact.eps[k::3], atol=2e-4)
    free = classifier_free_guidance(lambda x_t, t: found, unlabelled, constant_weight(1.0))
    twice = classifier_guidance(SCHEDULE, posterior(SCHEDULE, labels), constant_weight(2.0))
    np.testing.assert_allclose(twice(unlabelled)(X_T, TIMES).x_0, free(X_T, TIMES).x_0, atol=1e-3)


def test_a_classifier_says_nothing_at_a_zero_terminal_snr():
    schedule = make_schedule("linear", T, beta_T=0.1, zero_terminal_snr=True)
    guide = classifier_guidance(schedule, posterior(schedule, 0), constant_weight(1.0))
    unlabelled = THREE_BLOBS.denoiser(schedule)
    for times in (jnp.asarray(T), TIMES):
        found, plain = guide(unlabelled)(X_T, times), unlabelled(X_T, times)
        assert np.isfinite(found.x_0).all()
        np.testing.assert_array_equal(found.x_0[-1], plain.x_0[-1])
    assert np.abs(found.x_0 - plain.x_0)[:-1].max() > 0.1


def test_every_guidance_keeps_the_conditional_variance():
    fractions = {True: jnp.full_like(X_T, 0.2), False: jnp.full_like(X_T, 0.9)}

    def denoiser(conditional):
        return lambda x_t, t: Prediction(x_t, x_t, variance_fraction=fractions[conditional])

    for name in GUIDANCE:
        guide = make_guidance(name, SCHEDULE)
        found = guide(denoiser(True), denoiser(False), constant_weight(1.0))(X_T, TIMES)
        np.testing.assert_array_equal(found.variance_fraction, fractions[True])


def test_every_guidance_takes_times_between_whole_ones():
    def denoiser(scale):
        return lambda x_t, t: Prediction(scale * x_t, t[:, None] * x_t)

    for name in GUIDANCE:
        guided = make_guidance(name, SCHEDULE)(denoiser(2), denoiser(1), constant_weight(1.0))
        whole, between = guided(X_T, TIMES), guided(X_T, TIMES - 0.5)
        np.testing.assert_allclose(between.x_0, whole.x_0, atol=1e-5)
        np.testing.assert_allclose(between.eps, whole.eps - 0.5 * X_T, atol=1e-4)
