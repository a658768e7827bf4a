"""What diffusers' schedulers make of one noise and one exact denoiser, step by step.

    python tests/benchmarks/schedulers_diffusers.py tests/diffusion/samplers/diffusers.npz

It needs diffusers and torch, and nothing of ours: run it in an environment of its own. Our ᾱ are
put in the place of theirs. tests/diffusion/samplers/test_diffusers.py compares.
"""

import sys
from typing import Any
from unittest import mock

import diffusers  # type: ignore
import numpy as np
import torch  # type: ignore

T, STEPS = 1000, 10
# x_0 ~ Σ_k w_k N(m_k, c_k²), points in the plane.
W, M, C = np.array([0.5, 0.5]), np.array([[-0.7, -0.3], [0.6, 0.4]]), np.array([0.3, 0.4])
BETAS = np.linspace(1e-4, 0.02, T)
ALPHA_BAR = np.cumprod(1 - BETAS)

MULTISTEP = diffusers.DPMSolverMultistepScheduler
UNIPC = diffusers.UniPCMultistepScheduler
CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "ddim": (diffusers.DDIMScheduler, {"clip_sample": False}),
    "ddpm": (diffusers.DDPMScheduler, {"clip_sample": False}),
    "ddpm-beta": (
        diffusers.DDPMScheduler,
        {"clip_sample": False, "variance_type": "fixed_large"},
    ),
    "heun": (diffusers.HeunDiscreteScheduler, {}),
    "dpmpp order=1": (MULTISTEP, {"solver_order": 1}),
    "dpmpp order=2": (MULTISTEP, {"solver_order": 2}),
    "dpmpp order=2 rule=exact": (MULTISTEP, {"solver_order": 2, "solver_type": "heun"}),
    "dpmpp order=3": (MULTISTEP, {"solver_order": 3}),
    "dpmpp-sde order=1": (MULTISTEP, {"solver_order": 1, "algorithm_type": "sde-dpmsolver++"}),
    "dpmpp-sde order=2": (MULTISTEP, {"solver_order": 2, "algorithm_type": "sde-dpmsolver++"}),
    "unipc order=1": (UNIPC, {"solver_order": 1}),
    "unipc order=2": (UNIPC, {"solver_order": 2}),
    "unipc order=2 variant=bh1": (UNIPC, {"solver_order": 2, "solver_type": "bh1"}),
    "unipc order=3": (UNIPC, {"solver_order": 3}),
    "unipc order=3 variant=bh1": (UNIPC, {"solver_order": 3, "solver_type": "bh1"}),
}


def eps(x: np.ndarray, alpha_bar: float) -> np.ndarray:
    """E[eps | x_t] of the mixture."""
    data, noise = np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar)
    variances = data**2 * C**2 + noise**2
    offset = x[:, None] - data * M
    log_share = np.log(W) - np.log(variances) - 0.5 * (offset**2).sum(-1) / variances
    share = np.exp(log_share - log_share.max(1, keepdims=True))
    share = (share / share.sum(1, keepdims=True))[..., None]
    return (share * noise * offset / variances[:, None]).sum(1)


def follow(scheduler: Any, x: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """x after each step `[steps, B, 2]`, by the scheduler's own times."""
    scheduler.alphas_cumprod = torch.tensor(ALPHA_BAR)
    for name, table in (("alpha_t", ALPHA_BAR**0.5), ("sigma_t", (1 - ALPHA_BAR) ** 0.5)):
        setattr(scheduler, name, torch.tensor(table))
    scheduler.lambda_t = torch.log(scheduler.alpha_t) - torch.log(scheduler.sigma_t)
    scheduler.set_timesteps(STEPS)
    heun = isinstance(scheduler, diffusers.HeunDiscreteScheduler)
    # Its x is ours divided by the data's scale.
    here = torch.tensor(x) / (ALPHA_BAR[-1] ** 0.5 if heun else 1)
    found, drawn = [], iter(noise)
    draw = lambda *shape, **more: torch.tensor(next(drawn))  # noqa: E731
    for k, t in enumerate(scheduler.timesteps):
        seen = scheduler.scale_model_input(here, t) if heun else here
        output = torch.tensor(eps(seen.double().numpy(), ALPHA_BAR[int(t)]))
        more = {}
        if getattr(scheduler.config, "algorithm_type", "") == "sde-dpmsolver++":
            more["variance_noise"] = torch.tensor(noise[k])
        with mock.patch("diffusers.schedulers.scheduling_ddpm.randn_tensor", draw):
            here = scheduler.step(output, t, here, **more).prev_sample
        found.append(here.double().numpy())
    return np.stack(found)


def main(path: str) -> None:
    rng = np.random.default_rng(0)
    x, noise = rng.normal(size=(4, 2)), rng.normal(size=(STEPS, 4, 2))
    arrays = {"x": x, "noise": noise, "version": np.array(diffusers.__version__)}
    for name, (scheduler, options) in CASES.items():
        made = scheduler(
            num_train_timesteps=T, trained_betas=BETAS, timestep_spacing="trailing", **options
        )
        arrays[name] = follow(made, x, noise)
        print(name, arrays[name].shape, arrays[name][-1, 0], flush=True)
    np.savez_compressed(path, **arrays)


if __name__ == "__main__":
    main(*sys.argv[1:])
