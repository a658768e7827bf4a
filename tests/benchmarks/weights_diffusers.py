"""Weights of diffusers, imported and exported, beside diffusers itself.

    python tests/benchmarks/weights_diffusers.py theirs CHAIN.npz   # where diffusers and torch are
    python tests/benchmarks/weights_diffusers.py ours CHAIN.npz     # where ddpm_jax is
    python tests/benchmarks/weights_diffusers.py export RUN FOLDER  # where ddpm_jax is
    python tests/benchmarks/weights_diffusers.py open FOLDER        # where diffusers and torch are

The first two run a chain of 1,000 steps of each CASE with the same noise. The last two compare a
run's outputs with those of the pipeline that it was exported to, which also draws two samples.
"""

import json
import sys
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
KEPT = ROOT / "tests" / "weights" / "diffusers.npz"
CASES = {"cifar10": "fixed_large", "celebahq256": "fixed_small"}
STEPS = 1000


def their_chain(case: str, noise: np.ndarray) -> np.ndarray:
    import torch  # type: ignore
    from diffusers import DDPMScheduler, UNet2DModel  # type: ignore

    from tests.weights.formula import weights

    kept = np.load(KEPT)
    config = json.loads(str(kept[f"{case}.config"]))
    net = UNet2DModel(**{k: v for k, v in config.items() if not k.startswith("_")}).eval()
    tensors = weights(json.loads(str(kept[f"{case}.shapes"])))
    net.load_state_dict({name: torch.from_numpy(it) for name, it in tensors.items()})
    scheduler = DDPMScheduler(variance_type=CASES[case])
    scheduler.set_timesteps(STEPS)
    x, *drawn = map(torch.from_numpy, noise)
    where = "diffusers.schedulers.scheduling_ddpm.randn_tensor"
    with torch.no_grad(), mock.patch(where, side_effect=drawn):
        for t in scheduler.timesteps:
            x = scheduler.step(net(x, t).sample, t, x).prev_sample
    return x.numpy()


def our_chain(case: str, noise: np.ndarray) -> np.ndarray:
    import jax
    import jax.numpy as jnp

    from ddpm_jax import config as configs
    from ddpm_jax.diffusion import make_sampler, make_time_grid, plan_chain
    from ddpm_jax.experiment import build
    from ddpm_jax.sampling.denoiser import make_denoiser
    from ddpm_jax.weights.formats import import_weights
    from tests.weights.pipelines import pipeline

    with tempfile.TemporaryDirectory() as folder:
        source = pipeline(Path(folder) / "set", case, scheduler={"variance_type": CASES[case]})
        imported = import_weights("diffusers", source, configs.load_file("folder"))
    experiment, options = build(imported.config), imported.config.sample
    sampler = make_sampler(options.sampler.name, experiment.schedule, **options.sampler.options)
    grid = make_time_grid("strided", experiment.schedule, STEPS)
    rows = plan_chain(sampler, experiment.schedule, grid)
    denoiser = make_denoiser(experiment, imported.params, experiment.condition(), options)
    x, *drawn = np.moveaxis(noise, 2, -1)
    drawn[-1] = np.zeros_like(x)  # The last step draws nothing.
    # The sampler's noise comes from keys; here it is handed over in their place.
    where = "ddpm_jax.diffusion.samplers.ancestral.standard_normal"
    with mock.patch(where, lambda noise, shape: noise):
        step = jax.jit(lambda carry, row, z: sampler.step(denoiser, carry, row, z))
        carry = sampler.init(jnp.asarray(x))
        for k, z in enumerate(drawn):
            carry = step(carry, jax.tree.map(lambda leaf: leaf[k], rows), z)  # noqa: B023
    return np.moveaxis(np.asarray(carry.x), -1, 1)


def theirs(path: str) -> None:
    random, found = np.random.default_rng(3), {}
    for case in CASES:
        side = 8 if case == "cifar10" else 32
        noise = random.standard_normal((STEPS + 1, 1, 3, side, side)).astype("f")
        found |= {f"{case}.noise": noise, f"{case}.x": their_chain(case, noise)}
    np.savez(path, **found)


def ours(path: str) -> None:
    found = np.load(path)
    for case in CASES:
        x = our_chain(case, found[f"{case}.noise"])
        difference = np.abs(x - found[f"{case}.x"]).max()
        print(f"{case}: samples within ±1 differ by {difference:.2g} at most", flush=True)


def export(folder: str, out: str) -> None:
    import jax.numpy as jnp

    import ddpm_jax
    from ddpm_jax.weights.formats import export_weights

    run = ddpm_jax.load(folder)
    export_weights("diffusers", run.config, run.params, Path(out))
    shape = run.config.data.example_shape
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, *shape)), jnp.float32)
    t = jnp.array([1, run.experiment.schedule.T])
    y = run.experiment.apply(run.params, x, t, run.experiment.condition(), train=False)
    channels_first = [np.moveaxis(np.asarray(each), -1, 1) for each in (x, y)]
    np.savez(Path(out) / "ours.npz", x=channels_first[0], t=t - 1, y=channels_first[1])


def opened(folder: str) -> None:
    import torch  # type: ignore
    from diffusers import DDPMPipeline  # type: ignore

    pipeline = DDPMPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    kept = np.load(Path(folder) / "ours.npz")
    with torch.no_grad():
        y = pipeline.unet(torch.from_numpy(kept["x"]), torch.from_numpy(kept["t"])).sample.numpy()
    print(f"outputs: relative difference {np.abs(y - kept['y']).max() / np.abs(y).max():.2g}")
    drawn = pipeline(
        batch_size=2,
        num_inference_steps=pipeline.scheduler.config.num_train_timesteps,
        output_type="np",
        generator=torch.manual_seed(0),
    ).images
    print(f"samples {drawn.shape} in {drawn.min():.3f} … {drawn.max():.3f}")


COMMANDS = {"theirs": theirs, "ours": ours, "export": export, "open": opened}

if __name__ == "__main__":
    COMMANDS[sys.argv[1]](*sys.argv[2:])
