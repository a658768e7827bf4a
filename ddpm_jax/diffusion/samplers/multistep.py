"""Multistep sampling: DDIM's step, corrected by how earlier predictions differ from the latest.

Let σ̄ = 1/sqrt(SNR), the noise on data of size 1. Between t and s the reverse process is linear in
x, without noise (η = 0), with fresh noise z (η = 1) or with less: Lu et al. 2022, "DPM-Solver++",
and Zhang & Chen 2023, "DEIS". η multiplies the variance of the noise that a short step adds. With
κ = (1 + η)/2,

(18)  x_s = sqrt((1 - ᾱ_s)/(1 - ᾱ_t)) r^{η/2} x_t + sqrt(ᾱ_s) ∫ x̂_0 d(SNR/SNR_s)^κ
            + sqrt((1 - ᾱ_s)(1 - r^η)) z
(19)  x_s = sqrt(ᾱ_s/ᾱ_t) x_t + sqrt(ᾱ_s) ∫ eps dσ̄                                  at η = 0

A method takes m, which is x̂_0 in (18) or eps in (19), to be the polynomial through the last
predictions: m_0 at t, and m_1, m_2, … of the steps before. The constant m_0 gives equation (17),
and the rest is linear in the differences from it:

(20)  x_s = (17) + Σ_k c_k (m_k - m_0)

So a method is its c_k, which `plan` computes, and all share one step. There is no division by ᾱ_t,
which may be 0. A method of order p has p - 1 of them. It has fewer where fewer predictions have a
finite log SNR, and where fewer steps are left to t = 0: the last step ends in x̂_0. The η of (17) is
such that both add the same noise: η² = (1 - r^η)/(1 - r).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ddpm_jax.diffusion.gaussian import log_snr_ratio
from ddpm_jax.diffusion.samplers.contract import Row, Sampler, one_call_a_step
from ddpm_jax.diffusion.samplers.ddim import Implicit
from ddpm_jax.diffusion.schedules import NoiseSchedule, at, indexed, noise_to_data
from ddpm_jax.errors import shown
from ddpm_jax.typing import Denoiser, Examples, Keys

PerTime = Float[np.ndarray, "times"]
Weights = Float[np.ndarray, "earlier"]


class _Coefficients(NamedTuple):
    implicit: Implicit
    earlier: Float[np.ndarray, "intervals earlier"]
    """c_k of equation (20), newest first."""


class MultistepState(NamedTuple):
    """The carry of a multistep sampler."""

    x: Examples
    x_0: Examples
    earlier: Float[Array, "earlier B *shape"]
    """m_1, m_2, … of equation (20), newest first; zeros before there are any."""


class _Times(NamedTuple):
    """What a method knows of the times of a chain."""

    t: PerTime
    log_snr: PerTime
    data_scale: PerTime
    noise_scale: PerTime

    def orders(self, order: int) -> list[int]:
        """Returns the order of each interval."""
        known = np.cumsum(np.isfinite(self.log_snr[:-1]))
        left = np.arange(len(known), 0, -1) if self.t[-1] == 0 else order
        return np.clip(np.minimum(known, left), 1, order).tolist()


# (times, orders, i) -> c_k of interval i, as many as it has.
Method = Callable[[_Times, list[int], int], Sequence[float] | Weights]


def _multistep(
    schedule: NoiseSchedule,
    method: Method,
    *,
    order: int,
    orders: Sequence[int],
    of: str,
    grid: str,
    earlier: int | None = None,
    eta: float = 0.0,
) -> Sampler:
    """Returns the sampler of a method, which keeps `earlier` predictions of x_0 or eps.

    Raises ValueError unless the order is one of `orders`.
    """
    if order not in orders:
        raise ValueError(f"order is {shown(order)}: it must be in {orders[0]} … {orders[-1]}")
    length = order - 1 if earlier is None else earlier

    def plan(times: np.ndarray) -> _Coefficients:
        tables, index = indexed(schedule, times)
        names = "log_snr", "sqrt_alpha_bar", "sqrt_one_minus_alpha_bar"
        known = _Times(
            times.astype(float), *(at(getattr(tables, name), index, 1) for name in names)
        )
        c, at_order = np.zeros((len(times) - 1, length)), known.orders(order)
        for i in range(len(c)):
            found = method(known, at_order, i)
            c[i, : len(found)] = found
        share = 0.0
        if eta > 0:
            log_r = log_snr_ratio(tables, t=index[:-1], s=index[1:], ndim=1)
            share = np.sqrt(np.expm1(eta * log_r) / np.expm1(log_r))
        return _Coefficients(Implicit.plan(schedule, times, share), c)

    def init(x: Examples) -> MultistepState:
        x = x.astype(jnp.float32)
        return MultistepState(x, jnp.zeros_like(x), jnp.zeros((length, *x.shape), jnp.float32))

    def step(denoiser: Denoiser, carry: MultistepState, row: Row, keys: Keys) -> MultistepState:
        c, prediction = row.coefficients, denoiser(carry.x, row.t)
        latest = getattr(prediction, of)
        x_s = c.implicit.step(prediction, keys if eta > 0 else None)
        for k in range(length):
            x_s += c.earlier[k] * (carry.earlier[k] - latest)
        kept = jnp.concatenate([latest[None], carry.earlier])[:length]
        return MultistepState(x_s, prediction.x_0, kept)

    return Sampler(plan, init, step, one_call_a_step, grid=grid)


def _gauss(num: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the places and the weights of Gauss and Legendre's quadrature over [0, 1]."""
    places, weights = np.polynomial.legendre.leggauss(num)
    return (places + 1) / 2, weights / 2


# Enough for e^{-z u} with z up to 200, and for σ̄ between two whole times.
_OF_INTERVAL, _OF_ONE_TIME = _gauss(64), _gauss(8)


def _interpolation(places: Weights, moments: Callable[[int], float]) -> Weights:
    """Returns the weights w with Σ_k w_k places_k^j = moments(j), j = 1 … K.

    They integrate the polynomial that is 0 at 0 from its values at K places.
    """
    powers = np.arange(1, len(places) + 1)
    return np.linalg.solve(places ** powers[:, None], [moments(int(j)) for j in powers])


def _of_x_0(log_snr: PerTime, i: int, nodes: Sequence[int], *, rate: float, rule: str) -> Weights:
    """Returns the weights of m_k - m_0 in the integral of (18), for interval i.

    `nodes` are the indices of the times of m_k. The rule for a single node is `exact`, or half of
    its slope times `bh1`, z, or `bh2`, 1 - e^{-z}, where z is the rate times the interval.
    """
    h = log_snr[i + 1] - log_snr[i]
    places, z = (log_snr[list(nodes)] - log_snr[i]) / h, rate * h
    if len(places) == 0:
        return places
    if len(places) == 1 and rule != "exact":
        return (z if rule == "bh1" else -np.expm1(-z)) / (2 * places)
    u, shares = _OF_INTERVAL
    density = shares * z * np.exp(-z * (1 - u))
    return _interpolation(places, lambda j: density @ u**j)


def _before(i: int, order: int) -> list[int]:
    """Returns the indices of the times before i that a method of this order interpolates."""
    return list(range(i - 1, i - order, -1))


def _dpmpp(schedule: NoiseSchedule, order: int, rule: str, eta: float) -> Sampler:
    rules = {"midpoint": "bh2", "exact": "exact"}
    if rule not in rules:
        raise ValueError(f"rule is {rule!r}: it must be one of {', '.join(rules)}")

    def method(times: _Times, orders: list[int], i: int) -> Weights:
        nodes = _before(i, orders[i])
        weights = _of_x_0(times.log_snr, i, nodes, rate=(1 + eta) / 2, rule=rules[rule])
        return times.data_scale[i + 1] * weights

    return _multistep(
        schedule, method, order=order, orders=range(1, 4), of="x_0", grid="logsnr", eta=eta
    )


def dpmpp(schedule: NoiseSchedule, *, order: int = 2, rule: str = "midpoint") -> Sampler:
    """Returns DPM-Solver++ of order 1 … 3, multistep: equation (18) at η = 0.

    Order 2 is Lu et al.'s algorithm 2 by the rule `midpoint`; `exact` integrates the line. Order 3
    always integrates the parabola, where their code halves its square term, which loses an order.
    """
    return _dpmpp(schedule, order, rule, eta=0.0)


def dpmpp_sde(
    schedule: NoiseSchedule, *, order: int = 2, rule: str = "midpoint", eta: float = 1.0
) -> Sampler:
    """Returns DPM-Solver++ with fresh noise, of order 1 … 3: equation (18), η in [0, 1].

    The order counts without the noise. Order 1 at η = 1 is ancestral sampling; η = 0 is `dpmpp`.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta is {eta:g}: it must lie between 0 (as dpmpp) and 1")
    return _dpmpp(schedule, order, rule, eta)


def unipc(schedule: NoiseSchedule, *, order: int = 2, variant: str = "bh2") -> Sampler:
    """Returns UniPC of order 1 … 3 that predicts x_0, with B(h) of `variant`: Zhao et al. 2023.

    A prediction at t also corrects x_t, by the polynomial that goes through it. Corrector and
    predictor are linear in the same predictions, so both are in one row of c_k.
    """
    if variant not in ("bh1", "bh2"):
        raise ValueError(f"variant is {variant!r}: it must be bh1 or bh2")

    def weights(times: _Times, i: int, nodes: Sequence[int]) -> Weights:
        return _of_x_0(times.log_snr, i, nodes, rate=0.5, rule=variant)

    def method(times: _Times, orders: list[int], i: int) -> Weights:
        c, nodes = np.zeros(order), _before(i, orders[i])
        c[: len(nodes)] = times.data_scale[i + 1] * weights(times, i, nodes)
        if i == 0 or times.noise_scale[i + 1] == 0 or not np.isfinite(times.log_snr[i - 1]):
            return c
        # The interval before, once with its end as a node and once without.
        before = _before(i - 1, orders[i - 1])
        change = weights(times, i - 1, [i, *before])
        change[1:] -= weights(times, i - 1, before)
        # These weigh differences from m_1; (20) has differences from m_0.
        change[0] = -change.sum()
        scale = times.noise_scale[i + 1] / times.noise_scale[i] * times.data_scale[i]
        c[: len(change)] += scale * change
        return c

    orders = range(1, 4)
    return _multistep(
        schedule, method, order=order, orders=orders, of="x_0", grid="logsnr", earlier=order
    )


def deis(schedule: NoiseSchedule, *, order: int = 3) -> Sampler:
    """Returns DEIS of order 1 … 4, polynomials of eps in t: Zhang & Chen 2023's tAB, equation (19).

    Order p has their r = p - 1.
    """

    def method(times: _Times, orders: list[int], i: int) -> Weights:
        t, s, nodes = times.t[i], times.t[i + 1], _before(i, orders[i])
        places = (times.t[nodes] - t) / (s - t)
        if len(places) == 0:
            return places
        # log ᾱ has a bend at each whole time.
        bends = np.unique([s, *range(int(np.floor(s)) + 1, int(np.ceil(t))), t])
        each, widths = _OF_ONE_TIME, np.diff(bends)[:, None]
        u = (bends[:-1, None] + widths * each[0]).ravel()
        shares = (widths * each[1]).ravel() / (t - s)
        noise, place = noise_to_data(schedule, u), (u - t) / (s - t)
        (end,) = noise_to_data(schedule, np.array([s]))

        def moment(j: int) -> float:  # ∫ place^j dσ̄, by parts
            return end - shares @ (j * place ** (j - 1) * noise)

        return times.data_scale[i + 1] * _interpolation(places, moment)

    return _multistep(schedule, method, order=order, orders=range(1, 5), of="eps", grid="t2")


# Adams and Bashforth's factors of m_1, m_2, … for steps of one length.
_ADAMS_BASHFORTH = ((), (-1 / 2,), (-16 / 12, 5 / 12), (-59 / 24, 37 / 24, -9 / 24))


def ipndm(schedule: NoiseSchedule, *, order: int = 4) -> Sampler:
    """Returns iPNDM of order 1 … 4: equation (19) with the factors for even steps of σ̄.

    Liu et al. 2022's linear multistep rule, started at lower orders as Zhang & Chen 2023 do. Along
    a smooth grid of uneven steps it is of second order.
    """

    def method(times: _Times, orders: list[int], i: int) -> Weights:
        if orders[i] == 1:
            return np.zeros(0)
        t, s = np.exp(-times.log_snr[i : i + 2] / 2)
        return times.data_scale[i + 1] * (s - t) * np.array(_ADAMS_BASHFORTH[orders[i] - 1])

    return _multistep(schedule, method, order=order, orders=range(1, 5), of="eps", grid="logsnr")
