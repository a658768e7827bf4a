"""The paper's U-Net, small, against diffusers' `UNet2DModel` in PyTorch, on this machine.

Run by hand from the repository's root, on a machine with nothing else to do:

    python tests/benchmarks/unet_diffusers.py [--threads N] [--venv DIR] [--help]

64 channels, multipliers 1 2 2, two blocks a level, attention at 16, 32x32x3, batch 16, no dropout:
6,472,195 parameters. PyTorch and diffusers go into a virtual environment of their own, made in DIR
(a temporary folder unless named), and run there as a process that waits while ours works. Theirs is
measured in both of PyTorch's memory formats, and ours compared with the better one.

First both must be the same network: as many parameters, and the same outputs from PyTorch's
parameters. Then they take turns, ours, contiguous and channels_last, in two things:

- training steps, with the same work on both sides: t and noise drawn, squared error, gradient,
  clipping by the global norm 1, Adam (in PyTorch the fused one, its fastest on a CPU), and the
  parameters' moving average, on examples in memory. Ours is the package's own step, and also leaves
  out steps whose gradient is not finite.
- steps in a chain of T = 1,000: 16 samples, x_0 clipped, variance beta. Ours is the package's own
  program; the chain is left after the first steps, as all take the same time.

Aims: training at most 1.0 times PyTorch's time by the clock, sampling at most 0.9 times.
"""

import argparse
import re
from typing import Any

from peer import (
    Arrays,
    Ours,
    Params,
    arguments,
    by_turns,
    clocked,
    describe,
    kernel,
    matrix,
    report,
    serve,
    started,
    torch_verbs,
    versions,
)

T, BATCH, SIDE, CHANNELS, COUNT = 1_000, 16, 32, 64, 6_472_195
CHAIN = 20  # steps: one dispatch of our program for a chain of 1,000
FORMATS = ("contiguous", "channels_last")
PACKAGES = ("torch==2.13.0", "diffusers", "numpy")
AIMS = {"train": 1.0, "sample": 0.9}


# --- diffusers' side, run by the environment that has torch ---------------------------------------


def torch_side() -> None:
    import torch  # type: ignore[import-not-found]
    from diffusers import UNet2DModel  # type: ignore[import-not-found]

    beta = torch.linspace(1e-4, 0.02, T, dtype=torch.float64)
    alpha_bar = torch.cumprod(1 - beta, 0)
    kept, noisy = alpha_bar.sqrt().float(), (1 - alpha_bar).sqrt().float()
    data = torch.randint(0, 256, (1_000, 3, SIDE, SIDE)).float() / 127.5 - 1
    first = UNet2DModel(
        sample_size=SIDE,
        block_out_channels=(CHANNELS, 2 * CHANNELS, 2 * CHANNELS),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        # What makes it the paper's: sines first, one head, padding as TensorFlow's, its epsilon.
        flip_sin_to_cos=False,
        freq_shift=1,
        attention_head_dim=None,
        downsample_padding=0,
        norm_eps=1e-6,
    )

    def call(network: Any, x: Any, t: Any) -> Any:
        return network(x, t, return_dict=False)[0]

    def side(memory_format: Any) -> tuple[Any, Any]:
        network = UNet2DModel.from_config(first.config)
        network.load_state_dict(first.state_dict())
        network = network.to(memory_format=memory_format)
        parameters = list(network.parameters())
        average = [parameter.detach().clone() for parameter in parameters]
        optimizer = torch.optim.Adam(parameters, lr=2e-4, fused=True)

        def train(steps: int) -> None:
            for step in range(1, steps + 1):
                x = data[torch.randint(0, len(data), (BATCH,))]
                x = x.contiguous(memory_format=memory_format)
                t, noise = torch.randint(0, T, (BATCH,)), torch.randn_like(x)
                scale = (table[t][:, None, None, None] for table in (kept, noisy))
                x_t = next(scale) * x + next(scale) * noise
                loss = torch.nn.functional.mse_loss(call(network, x_t, t), noise)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
                with torch.no_grad():
                    decay = min(0.9999, (1 + step) / (10 + step))
                    torch._foreach_lerp_(average, parameters, 1 - decay)

        @torch.inference_mode()
        def sample(steps: int) -> None:
            x = torch.randn(BATCH, 3, SIDE, SIDE).contiguous(memory_format=memory_format)
            for t in reversed(range(T - steps, T)):
                eps = call(network, x, t)
                before = alpha_bar[t - 1]
                x_0 = ((x - float(noisy[t]) * eps) / float(kept[t])).clamp(-1, 1)
                of_x_0 = before.sqrt() * beta[t] / (1 - alpha_bar[t])
                of_x_t = (1 - beta[t]).sqrt() * (1 - before) / (1 - alpha_bar[t])
                mean = float(of_x_0) * x_0 + float(of_x_t) * x
                x = mean + float(beta[t].sqrt()) * torch.randn_like(x)

        return clocked(train), clocked(sample)

    x, t = torch.randn(4, 3, SIDE, SIDE), torch.tensor([0, 10, 500, T - 1])
    verbs = torch_verbs() | {"describe": describe(first, x, t, call)}
    for name in FORMATS:
        kind = {"contiguous": "contiguous_format"}.get(name, name)
        verbs[f"train {name}"], verbs[f"sample {name}"] = side(getattr(torch, kind))
    serve(verbs)


# --- our side -------------------------------------------------------------------------------------


def configured() -> Any:
    """The network's config, with the paper's optimizer, average and sampler, which are defaults."""
    from ddpm_jax.config import Config, SampleConfig, TfdsData, TrainConfig, UNetConfig

    return Config(
        data=TfdsData(name="cifar10", image_size=(SIDE, SIDE), channels=3),
        model=UNetConfig(channels=CHANNELS, multipliers=(1, 2, 2), blocks=2, attention=(16,)),
        train=TrainConfig(batch_size=BATCH),
        sample=SampleConfig(num=BATCH, batch_size=BATCH),
    )


# Our names, and theirs; diffusers counts the levels on the way up from the smallest image.
MODULES = (
    (r"down_(\d)_(\d)_block", "down_blocks.{}.resnets.{}"),
    (r"down_(\d)_(\d)_attention", "down_blocks.{}.attentions.{}"),
    (r"down_(\d)", "down_blocks.{}.downsamplers.0.conv"),
    (r"middle_(\d)_block", "mid_block.resnets.{}"),
    (r"middle_attention", "mid_block.attentions.0"),
    (r"up_(\d)_(\d)_block", "up_blocks.{}.resnets.{}"),
    (r"up_(\d)_(\d)_attention", "up_blocks.{}.attentions.{}"),
    (r"up_(\d)", "up_blocks.{}.upsamplers.0.conv"),
    (r"condition", "time_embedding"),
    (r"norm_out", "conv_norm_out"),
    (r"(conv_in|conv_out)", "{}"),
)
LAYERS = {
    "norm_0": "norm1",
    "conv_0": "conv1",
    "condition": "time_emb_proj",
    "norm_1": "norm2",
    "conv_1": "conv2",
    "shortcut": "conv_shortcut",
    "norm": "group_norm",
    "query": "to_q",
    "key": "to_k",
    "value": "to_v",
    "out": "to_out.0",
    "time_in": "linear_1",
    "time_out": "linear_2",
}


def their_name(module: str, layers: tuple[str, ...]) -> str:
    """What diffusers calls a layer of ours."""
    for pattern, name in MODULES:
        found = re.fullmatch(pattern, module)
        if found:
            numbers = list(found.groups())
            if module.startswith("up_"):
                numbers[0] = str(2 - int(numbers[0]))
            return ".".join([name.format(*numbers), *(LAYERS[layer] for layer in layers)])
    raise KeyError(module)


def carried(weights: Arrays, like: Params) -> Params:
    """Diffusers' weights in a tree like ours; every one of them must find its place."""
    left = dict(weights)

    def layer(path: tuple[str, ...], ours: Params) -> Params:
        if any(isinstance(value, dict) for value in ours.values()):
            return {name: layer((*path, name), value) for name, value in ours.items()}
        name = their_name(path[0], path[1:])
        weight, params = left.pop(f"{name}.weight"), {"bias": left.pop(f"{name}.bias")}
        if "scale" in ours:
            return params | {"scale": weight}
        return params | {"kernel": kernel(weight) if ours["kernel"].ndim == 4 else matrix(weight)}

    params = layer((), like)
    assert not left, f"left over: {sorted(left)}"
    return params


def main() -> None:
    options = arguments(__doc__, slices=5, steps=3).parse_args()
    if options.torch_side:
        torch_side()
    else:
        compare(options)


def compare(options: argparse.Namespace) -> None:
    with started(__file__, options, PACKAGES) as theirs:
        ours = Ours(configured())
        weights, told = theirs.described()
        count = ours.check(carried(weights, ours.params), told, tolerance=2e-5)
        assert count == COUNT, f"{count:,} parameters, not {COUNT:,}"
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
