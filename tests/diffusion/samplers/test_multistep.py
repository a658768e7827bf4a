"""Multistep methods against the exact ODE, and against other ways to compute the same."""

from math import factorial

import jax
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.interpolate import BarycentricInterpolator

from ddpm_jax.diffusion import (
    PARAMETERIZATIONS,
    TIME_GRIDS,
    make_sampler,
    make_time_grid,
)
from ddpm_jax.diffusion.schedules import noise_to_data, time_of
from tests.diffusion.mixture import GaussianMixture
from tests.diffusion.samplers.float64 import SCHEDULE, X, denoiser_of, follow, scales, slopes

# The order that each shows between t = 1000 and 20, evenly spaced in log SNR.
ORDERS = [
    ("ddim", {}, 1),
    ("dpmpp", {"order": 1}, 1),
    ("dpmpp", {"order": 2}, 2),
    ("dpmpp", {"order": 2, "rule": "exact"}, 2),
    ("dpmpp", {"order": 3}, 3),
    ("unipc", {"order": 1}, 2),
    ("unipc", {"order": 2}, 3),
    ("unipc", {"order": 2, "variant": "bh1"}, 3),
    ("unipc", {"order": 3}, 3),
    ("deis", {"order": 2}, 2),
    ("deis", {"order": 3}, 3),
    ("deis", {"order": 4}, 3.5),
    ("ipndm", {"order": 2}, 2),
    ("ipndm", {"order": 4}, 2),
]


def even_in_log_snr(steps, end=20):
    log_snr = np.linspace(SCHEDULE.log_snr[-1], SCHEDULE.log_snr[end], steps + 1)
    return np.concatenate([[1000.0], time_of(SCHEDULE, log_snr[1:-1]), [float(end)]])


@pytest.mark.parametrize(("name", "options", "order"), ORDERS)
def test_the_order_of_convergence(name, options, order):
    """The slope of the error over the steps; UniPC's corrector gives it an order more."""
    (slope,) = slopes(make_sampler(name, SCHEDULE, **options), [*map(even_in_log_snr, (40, 80))])
    assert order - 0.3 < slope < order + 0.6


@pytest.mark.parametrize(("name", "least"), [("ddim", 0.9), ("dpmpp", 1.8), ("deis", 1.8)])
@pytest.mark.parametrize("grid", TIME_GRIDS)
def test_the_order_does_not_depend_on_the_grid(grid, name, least):
    """Up to t = 200, where also evenly spaced times are many in log SNR."""
    grids = [make_time_grid(grid, SCHEDULE, n, fractional=True).astype(float) for n in (25, 50)]
    end = {"leading": 201.0}.get(grid, 200.0)
    chains = [np.append(times[times > end + 1e-6], end) for times in grids]
    (slope,) = slopes(make_sampler(name, SCHEDULE), chains)
    # A grid that does not meet t = 200 has one short step there.
    assert slope > least - (0.3 if grid in ("quadratic", "logsnr", "karras", "t2") else 0)


@pytest.mark.parametrize("name", ["dpmpp", "unipc", "deis", "ipndm", "heun"])
def test_the_parameterization_makes_no_difference(name):
    times, sampler = make_time_grid("logsnr", SCHEDULE, 8), make_sampler(name, SCHEDULE)
    of_eps, of_x_0, of_v = (
        follow(sampler, times, denoiser_of(PARAMETERIZATIONS[each]))[-1]
        for each in ("eps", "x_0", "v")
    )
    # A network's output is float32.
    np.testing.assert_allclose(of_x_0, of_eps, atol=1e-4)
    np.testing.assert_allclose(of_v, of_eps, atol=1e-4)


def polynomials(places, at):
    """The Lagrange polynomials through `at` and the places, but for the one that is 1 at `at`."""
    nodes = [at, *places]
    return [BarycentricInterpolator(nodes, np.eye(len(nodes))[k + 1]) for k in range(len(places))]


@pytest.mark.parametrize(
    ("name", "options", "rate"),
    [("dpmpp", {}, 1), ("dpmpp-sde", {}, 2), ("dpmpp-sde", {"eta": 0.3}, 1.3)],
)
def test_dpmpp_integrates_the_polynomial_in_half_log_snr(name, options, rate):
    """Equation (18) by SciPy's quadrature, over λ = ½ log SNR as Lu et al. write it."""
    times = np.array([1000.0, 800.5, 600, 390, 200])
    lam = np.array([np.log(data / noise) for data, noise in map(scales, times)])
    plan = make_sampler(name, SCHEDULE, order=3, rule="exact", **options).plan(times)
    for i in range(len(times) - 1):
        nodes = lam[max(i - 2, 0) : i][::-1]
        for k, polynomial in enumerate(polynomials(nodes, lam[i])):
            integral, _ = quad(
                lambda at, i=i, p=polynomial: rate * np.exp(-rate * (lam[i + 1] - at)) * p(at),
                lam[i],
                lam[i + 1],
            )
            np.testing.assert_allclose(plan.earlier[i, k], scales(times[i + 1])[0] * integral)
        assert not plan.earlier[i, len(nodes) :].any()


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_the_noise_of_dpmpp_sde_is_that_of_one_process(eta):
    """x_s has the variance of the forward process, and two steps keep what a long one keeps."""
    times = np.array([1000, 620.5, 390, 200, 0])
    plan = make_sampler("dpmpp-sde", SCHEDULE, eta=eta).plan(times).implicit
    noise = np.array([scales(t)[1] for t in times[1:]])
    np.testing.assert_allclose(plan.eps_scale**2 + plan.fresh_scale**2, noise**2, atol=1e-15)
    kept = (plan.eps_scale[:-1] / noise[:-1]).prod()
    whole = make_sampler("dpmpp-sde", SCHEDULE, eta=eta).plan(times[[0, 3]]).implicit
    np.testing.assert_allclose(whole.eps_scale / noise[2], kept, rtol=1e-12)
    snr = [(data / noise) ** 2 for data, noise in (scales(times[0]), scales(times[3]))]
    np.testing.assert_allclose(kept, (snr[0] / snr[1]) ** (eta / 2), rtol=1e-12)


def test_deis_integrates_the_polynomial_in_t():
    """Equation (19) over σ̄ itself, where the plan integrates over t by parts."""
    times = np.array([1000.0, 800.5, 600, 390, 200])
    noise = noise_to_data(SCHEDULE, times)
    plan = make_sampler("deis", SCHEDULE, order=4).plan(times)
    for i in range(len(times) - 1):
        nodes = times[max(i - 3, 0) : i][::-1]
        for k, polynomial in enumerate(polynomials(nodes, times[i])):
            at_noise = lambda v, p=polynomial: p(time_of(SCHEDULE, -2 * np.log(np.array([v]))))[0]  # noqa: E731
            ends = noise[i], noise[i + 1]
            integral, _ = quad(at_noise, *ends, limit=200, epsabs=1e-7, epsrel=1e-7)
            expected = scales(times[i + 1])[0] * integral
            np.testing.assert_allclose(plan.earlier[i, k], expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(("order", "variant"), [(1, "bh1"), (2, "bh1"), (2, "bh2"), (3, "bh2")])
def test_unipc_is_zhao_et_al_s_predictor_and_corrector(order, variant):
    """Their algorithms 1 and 2 as written, with x_t corrected and kept, on an odd grid."""
    times = np.array([1000, 930, 700, 480, 300, 120, 30, 0])
    denoiser = denoiser_of()
    found = follow(make_sampler("unipc", SCHEDULE, order=order, variant=variant), times, denoiser)
    x, seen, before, used = X, [], None, 0
    with jax.enable_x64(True):
        for i in range(len(times) - 1):
            latest = np.asarray(denoiser(x, times[i]).x_0)
            if before is not None:
                # The corrector takes the place of the last step, with the new prediction too.
                x = unipc_step(before, times, i - 1, seen, used, variant, arrived=latest)
            seen, before = [latest, *seen], x
            used = min(order, i + 1, len(times) - 1 - i)
            x = unipc_step(x, times, i, seen, used, variant)
            np.testing.assert_allclose(found[i + 1], x, atol=1e-10)


def unipc_step(x, times, i, seen, order, variant, arrived=None):
    """x_s from x_t by B(h), D_k and r_k; with the prediction at s, the corrector's."""
    (_, noise_t), (data, noise) = scales(times[i]), scales(times[i + 1])
    if times[i + 1] == 0:
        return seen[0]
    lam = [np.log(a / b) for a, b in map(scales, times[: i + 2])]
    h = lam[i + 1] - lam[i]
    r = [(lam[i - k] - lam[i]) / h for k in range(1, order)]
    d = [(seen[k] - seen[0]) / r[k - 1] for k in range(1, order)]
    if arrived is not None:
        r, d = [*r, 1.0], [*d, arrived - seen[0]]
    b = {"bh1": h, "bh2": 1 - np.exp(-h)}[variant]
    phi, right = 1 - np.exp(-h), []
    for n in range(1, len(r) + 1):
        phi = 1 / factorial(n) - phi / h
        right.append(factorial(n) * phi / b)
    weights = [0.5] if len(r) == 1 else np.linalg.solve(np.vander(r, increasing=True).T, right)
    change = sum(w * each for w, each in zip(weights, d, strict=True))
    return noise / noise_t * x + data * ((1 - np.exp(-h)) * seen[0] + b * change)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("dpmpp", {"order": 4}, "order is 4: it must be in 1 … 3"),
        ("dpmpp-sde", {"rule": "heun"}, "rule is 'heun': it must be one of midpoint, exact"),
        ("dpmpp-sde", {"eta": 1.5}, "eta is 1.5: it must lie between 0"),
        ("unipc", {"variant": "bh3"}, "variant is 'bh3': it must be bh1 or bh2"),
        ("ipndm", {"order": 0}, "order is 0: it must be in 1 … 4"),
    ],
)
def test_options_out_of_range_are_refused(name, options, words):
    with pytest.raises(ValueError, match=words):
        make_sampler(name, SCHEDULE, **options)


@pytest.mark.parametrize("name", ["ddim", "heun", "dpmpp", "dpmpp-sde", "unipc", "deis", "ipndm"])
@pytest.mark.parametrize("grid", TIME_GRIDS)
def test_chains_from_pure_noise_are_finite(name, grid):
    """ᾱ_T = 0: log SNR is -∞ at T and +∞ at 0. Every method is exact for data at one point."""
    tables = [np.array(table) for table in SCHEDULE]
    for table, end in zip(tables[1:], (0.0, 0.0, 1.0, -np.inf), strict=True):
        table[-1] = end
    schedule = type(SCHEDULE)(*tables)
    sampler = make_sampler(name, schedule)
    times = make_time_grid(grid, schedule, 8)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(sampler.plan(times)))
    if name == "dpmpp-sde":
        return
    point = GaussianMixture(np.ones(1), np.array([[0.3, -0.2]]), np.zeros(1))

    def denoise(x_t, t):
        return point.given(x_t, tables[2][int(t)], tables[3][int(t)])

    chain = follow(sampler, times, denoise)
    assert np.isfinite(chain).all()
    np.testing.assert_allclose(chain[-1], np.broadcast_to([0.3, -0.2], X.shape), atol=1e-9)
