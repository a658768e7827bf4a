"""The paper's U-Net against diffusers' `UNet2DModel` in PyTorch, on this machine.

Run by hand from the repository's root, on a machine with nothing else to do:

    python tests/benchmarks/unet_diffusers.py [--threads N] [--venv DIR] [--help]
    python tests/benchmarks/unet_diffusers.py --network cifar10 --device cuda --dtype bfloat16 \
        --compile --batch 128

By default 64 channels, multipliers 1 2 2, two blocks a level, attention at 16, 32x32x3, batch 16,
no dropout: 6,472,195 parameters. `--network cifar10` is `configs/cifar10.py`'s, with its dropout,
at batch 128. On a GPU each side may take under half of the memory; `--dtype bfloat16` is PyTorch's
autocast, and `--compile` its torch.compile.

PyTorch and diffusers go into a virtual environment of their own, made in DIR (a temporary folder
unless named), and run there as a process that waits while ours works. Theirs is measured in both of
PyTorch's memory formats, and ours compared with the better one.

First both must be the same network: as many parameters, and the same outputs from PyTorch's
parameters. Then they take turns, ours, contiguous and channels_last, in two things:

- training steps, with the same work on both sides: t and noise drawn, squared error, gradient,
  clipping by the global norm 1, Adam (in PyTorch the fused one, its fastest on a CPU), and the
  parameters' moving average, on examples in memory. Ours is the package's own step, several a
  dispatch, and also leaves out steps whose gradient is not finite.
- steps in a chain of T = 1,000: 16 samples, x_0 clipped, variance beta. Ours is the package's own
  program; the chain is left after the first steps, as all take the same time.

Aims: training at most 1.0 times PyTorch's time by the clock, sampling at most 0.9 times.
"""

import argparse
import contextlib
import os
from typing import Any, NamedTuple

from peer import (
    Ours,
    arguments,
    by_turns,
    clocked,
    describe,
    report,
    serve,
    started,
    torch_verbs,
    versions,
)

T, SIDE = 1_000, 32
CHAIN = 20  # steps: one dispatch of our program for a chain of 1,000
FORMATS = ("contiguous", "channels_last")
PACKAGES = ("torch==2.13.0", "diffusers", "numpy")
AIMS = {"train": 1.0, "sample": 0.9}


class Network(NamedTuple):
    """What both sides build."""

    channels: int
    multipliers: tuple[int, ...]
    dropout: float
    batch: int
    parameters: int


NETWORKS = {
    "small": Network(64, (1, 2, 2), 0.0, 16, 6_472_195),
    "cifar10": Network(128, (1, 2, 2, 2), 0.1, 128, 35_746_307),
}


# --- diffusers' side, run by the environment that has torch ---------------------------------------


def torch_side(options: argparse.Namespace) -> None:
    import torch  # type: ignore[import-not-found]
    from diffusers import UNet2DModel  # type: ignore[import-not-found]

    size, device = NETWORKS[options.network], torch.device(options.device)
    batch, levels = options.batch or size.batch, range(len(size.multipliers))
    torch.set_default_device(device)
    beta = torch.linspace(1e-4, 0.02, T, dtype=torch.float64)
    alpha_bar = torch.cumprod(1 - beta, 0)
    kept, noisy = alpha_bar.sqrt().float(), (1 - alpha_bar).sqrt().float()
    data = torch.randint(0, 256, (1_000, 3, SIDE, SIDE)).float() / 127.5 - 1
    first = UNet2DModel(
        sample_size=SIDE,
        block_out_channels=tuple(size.channels * each for each in size.multipliers),
        down_block_types=tuple(f"{'Attn' * (level == 1)}DownBlock2D" for level in levels),
        up_block_types=tuple(f"{'Attn' * (level == 1)}UpBlock2D" for level in reversed(levels)),
        dropout=size.dropout,
        # What makes it the paper's: sines first, one head, padding as TensorFlow's, its epsilon.
        flip_sin_to_cos=False,
        freq_shift=1,
        attention_head_dim=None,
        downsample_padding=0,
        norm_eps=1e-6,
    )

    def call(network: Any, x: Any, t: Any) -> Any:
        return network(x, t, return_dict=False)[0]

    def precise(network: Any, x: Any, t: Any) -> Any:
        return call(network.eval(), x, t)

    def cast() -> Any:
        if options.dtype == "float32":
            return contextlib.nullcontext()
        return torch.autocast(device.type, dtype=getattr(torch, options.dtype))

    def waited(work: Any) -> Any:
        def timed(number: int) -> None:
            work(number)
            if device.type == "cuda":
                torch.cuda.synchronize()

        return clocked(timed)

    def side(memory_format: Any) -> tuple[Any, Any]:
        network = UNet2DModel.from_config(first.config)
        network.load_state_dict(first.state_dict())
        network = network.to(device, memory_format=memory_format)
        compiled = torch.compile(network) if options.compile else network
        parameters = list(network.parameters())
        average = [parameter.detach().clone() for parameter in parameters]
        optimizer = torch.optim.Adam(parameters, lr=2e-4, fused=True)

        def train(steps: int) -> None:
            network.train()
            for step in range(1, steps + 1):
                x = data[torch.randint(0, len(data), (batch,))]
                x = x.contiguous(memory_format=memory_format)
                t, noise = torch.randint(0, T, (batch,)), torch.randn_like(x)
                scale = (table[t][:, None, None, None] for table in (kept, noisy))
                x_t = next(scale) * x + next(scale) * noise
                with cast():
                    guess = call(compiled, x_t, t)
                loss = torch.nn.functional.mse_loss(guess.float(), noise)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
                with torch.no_grad():
                    decay = min(0.9999, (1 + step) / (10 + step))
                    torch._foreach_lerp_(average, parameters, 1 - decay)

        @torch.inference_mode()
        def sample(steps: int) -> None:
            network.eval()
            x = torch.randn(batch, 3, SIDE, SIDE).contiguous(memory_format=memory_format)
            for t in reversed(range(T - steps, T)):
                with cast():
                    eps = call(compiled, x, t).float()
                before = alpha_bar[t - 1]
                x_0 = ((x - float(noisy[t]) * eps) / float(kept[t])).clamp(-1, 1)
                of_x_0 = before.sqrt() * beta[t] / (1 - alpha_bar[t])
                of_x_t = (1 - beta[t]).sqrt() * (1 - before) / (1 - alpha_bar[t])
                mean = float(of_x_0) * x_0 + float(of_x_t) * x
                x = mean + float(beta[t].sqrt()) * torch.randn_like(x)

        return waited(train), waited(sample)

    x, t = torch.randn(4, 3, SIDE, SIDE), torch.tensor([0, 10, 500, T - 1])
    verbs = torch_verbs() | {"describe": describe(first, x, t, precise)}
    for name in FORMATS:
        kind = {"contiguous": "contiguous_format"}.get(name, name)
        verbs[f"train {name}"], verbs[f"sample {name}"] = side(getattr(torch, kind))
    serve(verbs)


# --- our side -------------------------------------------------------------------------------------


def configured(options: argparse.Namespace) -> Any:
    """The network's config, with the paper's optimizer, average and sampler, which are defaults."""
    size = NETWORKS[options.network]
    batch = options.batch or size.batch
    from ddpm_jax.config import Config, SampleConfig, TfdsData, TrainConfig, UNetConfig

    return Config(
        data=TfdsData(name="cifar10", image_size=(SIDE, SIDE), channels=3),
        model=UNetConfig(
            channels=size.channels,
            multipliers=size.multipliers,
            blocks=2,
            attention=(16,),
            dropout=size.dropout,
            dtype=options.dtype,
        ),
        train=TrainConfig(batch_size=batch, steps_per_dispatch=options.dispatch),
        sample=SampleConfig(num=batch, batch_size=batch),
    )


def main() -> None:
    words = arguments(__doc__, slices=5, steps=5, dispatch=5)
    words.add_argument("--network", choices=list(NETWORKS), default="small")
    words.add_argument("--device", default="cpu", help="PyTorch's name of it (default cpu)")
    words.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    words.add_argument("--compile", action="store_true", help="PyTorch's side with torch.compile")
    words.add_argument("--batch", type=int, help="else 16, and 128 for cifar10")
    options = words.parse_args()
    if options.torch_side:
        torch_side(options)
    else:
        compare(options)


def compare(options: argparse.Namespace) -> None:
    # Before JAX starts: it takes three quarters of a GPU unless told otherwise.
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.45")
    count = NETWORKS[options.network].parameters
    words = ["--network", options.network, "--device", options.device, "--dtype", options.dtype]
    words += ["--compile"] * options.compile
    words += ["--batch", str(options.batch)] if options.batch else []
    from ddpm_jax.weights.diffusers import unet_places
    from ddpm_jax.weights.places import to_params

    with started(__file__, options, PACKAGES, *words) as theirs:
        ours = Ours(configured(options))
        weights, told = theirs.describe_source()
        params = to_params(unet_places(ours.params), weights, ours.params, "diffusers")
        found = ours.check(params, told, tolerance=2e-5)
        assert found == count, f"{found:,} parameters, not {count:,}"
        print(f"{count:,} parameters and the same outputs on both sides")
        print(versions(theirs.ask("about")))
        works = {"train": (ours.train, options.steps), "sample": (ours.sample_part, CHAIN)}
        for what, (mine, number) in works.items():
            sides = {"ours": clocked(mine)}
            for name in FORMATS:
                sides[name] = lambda n, words=f"{what} {name}": theirs.ask(words, n)
            medians = by_turns(what, sides, number, options.slices)
            report(medians / number, aim=AIMS[what])


if __name__ == "__main__":
    main()
