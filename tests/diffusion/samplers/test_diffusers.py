"""Step for step against diffusers' schedulers, fed the same outputs and the same noise.

`diffusers.npz` is kept from tests/benchmarks/schedulers_diffusers.py, which needs torch. Its ᾱ are
ours, and its x after each step are of 10 steps from t = 1000, evenly spaced, to 0.
"""

import importlib
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion import make_sampler, make_schedule
from ddpm_jax.diffusion.samplers import multistep
from tests.diffusion.mixture import GaussianMixture
from tests.diffusion.samplers.float64 import follow, scales

SCHEDULE = make_schedule("linear", 1000)
TIMES = np.arange(1000, -1, -100)
MIXTURE = GaussianMixture(
    np.array([0.5, 0.5]), np.array([[-0.7, -0.3], [0.6, 0.4]]), np.array([0.3, 0.4])
)
KEPT = dict(np.load(Path(__file__).with_name("diffusers.npz"), allow_pickle=False))
CASES = [name for name in KEPT if name not in ("x", "noise", "version")]


def denoiser(x_t, t):
    return MIXTURE.given(x_t, *scales(t, SCHEDULE))


def ours(case, monkeypatch):
    """x after each step, with the kept noise in the place of our own."""
    name, *words = case.split()
    options = {
        option: int(value) if value.isdigit() else value
        for option, _, value in (word.partition("=") for word in words)
    }
    drawn = iter(KEPT["noise"])
    for name_of in ("ancestral", "ddim"):
        module = importlib.import_module(f"ddpm_jax.diffusion.samplers.{name_of}")
        # As ours, the noise of the step to 0 is multiplied by 0; theirs is not even drawn.
        monkeypatch.setattr(module, "standard_normal", lambda keys, shape: jnp.asarray(next(drawn)))
    sampler = make_sampler(name, SCHEDULE, **options)
    return np.stack(follow(sampler, TIMES, denoiser, KEPT["x"])[1:])


def theirs(case):
    found = KEPT[case]
    if case != "heun":
        return found
    # Two calls a step, of which the second ends it, on x divided by the data's scale.
    ends = found[[*range(1, len(found), 2), -1]]
    return ends * np.array([scales(t, SCHEDULE)[0] for t in TIMES[1:]])[:, None, None]


@pytest.mark.parametrize("case", CASES)
def test_every_step_agrees(case, monkeypatch):
    found, kept = ours(case, monkeypatch), theirs(case)
    if "bh1" in case:
        # Theirs multiplies infinity by 0 at s = 0: NaN. Ours ends in the x̂_0 of the last call.
        assert np.isnan(kept[-1]).all()
        last = denoiser(found[-2], TIMES[-2]).x_0
        np.testing.assert_allclose(found[-1], last, atol=1e-5)
        found, kept = found[:-1], kept[:-1]
    if case == "ddpm-beta":
        # Theirs adds noise in the step to the data too, unless it starts at the first time.
        np.testing.assert_allclose(found[-1], denoiser(found[-2], TIMES[-2]).x_0, atol=1e-5)
        found, kept = found[:-1], kept[:-1]
    if case == "dpmpp order=3":
        # Theirs, as Lu et al.'s code, halves the square term of the parabola, which costs an order.
        assert np.abs(found - kept).max() > 1e-4
        solve = multistep._interpolation
        monkeypatch.setattr(
            multistep,
            "_interpolation",
            lambda places, moments: solve(places, lambda j: moments(j) / (2 if j == 2 else 1)),
        )
        found = ours(case, monkeypatch)
    np.testing.assert_allclose(found, kept, atol=1e-5)
