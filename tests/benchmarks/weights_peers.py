"""Weights of diffusers and of OpenAI's networks, imported and exported, beside the originals.

    python tests/benchmarks/weights_peers.py theirs CHAIN.npz   # where diffusers and torch are
    python tests/benchmarks/weights_peers.py ours CHAIN.npz     # where ddpm_jax is
    python tests/benchmarks/weights_peers.py export RUN FOLDER  # where ddpm_jax is
    python tests/benchmarks/weights_peers.py open FOLDER        # where diffusers and torch are

The first two run a chain of 1,000 steps of each CASE with the same noise, by diffusers' scheduler
and by ours. OpenAI's networks are imported from checkouts on the path, as in
tests/weights/make_openai.py. The last two compare a run's outputs with those of the pipeline that
it was exported to, which also draws two samples.
"""

import importlib
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
KEPT = ROOT / "tests" / "weights"
CASES = {
    "cifar10": "fixed_large",
    "celebahq256": "fixed_small",
    "improved": "fixed_large",
    "guided": "fixed_large",
}
OPENAI = {
    "improved": {"num_heads": 4},
    "guided": {"num_head_channels": 32, "use_new_attention_order": True},
}
STEPS = 1000


def their_network(case: str) -> Callable[[Any, Any], Any]:
    """Returns x_t and t to eps, with the parameters of `formula.weights`; class 1 if it has any."""
    import torch  # type: ignore

    from tests.weights.formula import weights
    from tests.weights.make_openai import CASES as ORIGINALS
    from tests.weights.make_openai import COMMON

    if case in OPENAI:
        package, settings = ORIGINALS[case]
        net = importlib.import_module(f"{package}.unet").UNetModel(**COMMON, **settings).eval()
        labels = {"y": torch.tensor([1])} if "num_classes" in settings else {}
        call = lambda x, t: net(x, t.reshape(1), **labels)  # noqa: E731
        shapes = json.loads(str(np.load(KEPT / "openai.npz")[f"{case}.shapes"]))
    else:
        from diffusers import UNet2DModel  # type: ignore

        kept = np.load(KEPT / "diffusers.npz")
        config = json.loads(str(kept[f"{case}.config"]))
        net = UNet2DModel(**{k: v for k, v in config.items() if not k.startswith("_")}).eval()
        call = lambda x, t: net(x, t).sample  # noqa: E731
        shapes = json.loads(str(kept[f"{case}.shapes"]))
    net.load_state_dict({name: torch.from_numpy(it) for name, it in weights(shapes).items()})
    return call


def their_chain(case: str, noise: np.ndarray) -> np.ndarray:
    import torch  # type: ignore
    from diffusers import DDPMScheduler  # type: ignore

    network = their_network(case)
    scheduler = DDPMScheduler(variance_type=CASES[case])
    scheduler.set_timesteps(STEPS)
    x, *drawn = map(torch.from_numpy, noise)
    where = "diffusers.schedulers.scheduling_ddpm.randn_tensor"
    with torch.no_grad(), mock.patch(where, side_effect=drawn):
        for t in scheduler.timesteps:
            x = scheduler.step(network(x, t), t, x).prev_sample
    return x.numpy()


def our_import(case: str, folder: Path) -> Any:
    from safetensors.numpy import save_file

    from ddpm_jax import config as configs
    from ddpm_jax.weights.formats import import_weights
    from tests.weights.formula import weights
    from tests.weights.pipelines import pipeline

    base = configs.load_file("folder")
    if case not in OPENAI:
        source = pipeline(folder / "set", case, scheduler={"variance_type": CASES[case]})
        return import_weights("diffusers", source, base)
    shapes = json.loads(str(np.load(KEPT / "openai.npz")[f"{case}.shapes"]))
    save_file(weights(shapes), folder / "x.safetensors")
    options: dict[str, Any] = {"image_size": 8, **OPENAI[case]}
    return import_weights("openai", folder / "x.safetensors", base, **options)


def our_chain(case: str, noise: np.ndarray) -> np.ndarray:
    import jax
    import jax.numpy as jnp

    from ddpm_jax.diffusion import make_sampler, make_time_grid, plan_chain
    from ddpm_jax.experiment import build
    from ddpm_jax.sampling.denoiser import make_denoiser

    with tempfile.TemporaryDirectory() as folder:
        imported = our_import(case, Path(folder))
    experiment, options = build(imported.config), imported.config.sample
    sampler = make_sampler(options.sampler.name, experiment.schedule, **options.sampler.options)
    grid = make_time_grid("strided", experiment.schedule, STEPS)
    rows = plan_chain(sampler, experiment.schedule, grid)
    conditioning = experiment.condition(jnp.array([1]) if experiment.num_classes else None)
    denoiser = make_denoiser(experiment, imported.params, conditioning, options)
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
        side = 32 if case == "celebahq256" else 8
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
