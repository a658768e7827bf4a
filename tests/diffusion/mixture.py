"""A data distribution whose exact denoiser is known, so that samplers need no training."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.diffusion import NoiseSchedule, Parameterization, at
from ddpm_jax.typing import Denoiser, Examples, Prediction, Timesteps


class GaussianMixture(NamedTuple):
    """x_0 ~ Σ_k weights_k N(means_k, scales_k²), its components round: points `[B, D]`."""

    weights: np.ndarray  # [K]
    means: np.ndarray  # [K, D]
    scales: np.ndarray  # [K]

    @property
    def mean(self) -> np.ndarray:
        return self.weights @ self.means

    @property
    def covariance(self) -> np.ndarray:
        centred = self.means - self.mean
        within = self.weights @ self.scales**2 * np.eye(self.means.shape[1])
        return (self.weights[:, None] * centred).T @ centred + within

    def sample(self, key: jax.Array, num: int) -> Examples:
        pick, noise = jax.random.split(key)
        k = jax.random.choice(pick, len(self.weights), (num,), p=jnp.asarray(self.weights))
        z = jax.random.normal(noise, (num, self.means.shape[1]))
        return jnp.asarray(self.means)[k] + jnp.asarray(self.scales)[k, None] * z

    def predict(self, schedule: NoiseSchedule, x_t: Examples, t: Timesteps) -> Prediction:
        """Returns E[x_0 | x_t] and E[eps | x_t]."""
        tables = schedule.sqrt_alpha_bar, schedule.sqrt_one_minus_alpha_bar
        return self.given(x_t, *(at(table, t, 2) for table in tables))

    def given(self, x_t: Examples, data: Any, noise: Any) -> Prediction:
        """Returns them for the scales of data and noise in x_t, α and σ: a number, or `[B, 1]`.

        Given the component, (x_0, x_t) is jointly Gaussian; the components' shares follow from
        the marginals x_t ~ N(α μ_k, α² c_k² + σ²).
        """
        variances = data**2 * self.scales**2 + noise**2  # [1 or B, K]
        data, noise = (jnp.asarray(scale)[..., None] for scale in (data, noise))
        offset = x_t[:, None, :] - data * self.means  # [B, K, D]
        log_share = (
            np.log(self.weights)
            - 0.5 * x_t.shape[1] * jnp.log(variances)
            - 0.5 * (offset**2).sum(-1) / variances
        )
        share = jax.nn.softmax(log_share, axis=1)[..., None]
        gain = (self.scales**2 / variances)[..., None]
        # eps first: (x_t - α x_0)/σ would magnify rounding where σ is small.
        x_0 = (share * (self.means + data * gain * offset)).sum(1)
        eps = (share * noise * offset / variances[..., None]).sum(1)
        return Prediction(x_0, eps)

    def denoiser(
        self, schedule: NoiseSchedule, parameterization: Parameterization | None = None
    ) -> Denoiser:
        """Returns the exact denoiser, through a network's output if a parameterization is given."""

        def denoise(x_t: Examples, t: Timesteps) -> Prediction:
            exact = self.predict(schedule, x_t, t)
            if parameterization is None:
                return exact
            output = parameterization.target(schedule, exact.x_0, exact.eps, t)
            return parameterization.to_prediction(schedule, output, x_t, t)

        return denoise


THREE_BLOBS = GaussianMixture(
    weights=np.array([0.5, 0.3, 0.2], np.float32),
    means=np.array([[-0.8, -0.3], [0.7, -0.5], [0.2, 0.9]], np.float32),
    scales=np.array([0.1, 0.2, 0.1], np.float32),
)


def single_gaussian(mean: float, scale: float) -> GaussianMixture:
    """Returns N(mean, scale²) on the line: points `[B, 1]`."""
    one = np.ones(1, np.float32)
    return GaussianMixture(one, np.full((1, 1), mean, np.float32), np.float32(scale) * one)
