"""A run small enough to train in a second, and the few lines that tests train it with."""

import dataclasses
from typing import Any

import jax
import numpy as np

from ddpm_jax.config import (
    Choice,
    Config,
    DiffusionConfig,
    DigitsData,
    MlpConfig,
    OptimizerConfig,
    SampleConfig,
    TrainConfig,
    UNetConfig,
)
from ddpm_jax.data import open_source
from ddpm_jax.data.batches import local_batch
from ddpm_jax.experiment import Experiment, build
from ddpm_jax.runtime.mesh import make_mesh, shard_batch
from ddpm_jax.training.step import draw_state, jit_train_step, step_inputs

TINY = Config(
    data=DigitsData(flip=True),
    model=MlpConfig(width=16, layers=2, num_classes=10),
    diffusion=DiffusionConfig(schedule="cosine", timesteps=20),
    optimizer=OptimizerConfig(learning_rate=1e-2, warmup=2),
    train=TrainConfig(
        steps=12,
        batch_size=16,
        averages={"ema": Choice("ema", decay=0.9)},
        label_dropout=0.2,
        log_every=4,
        save_every=4,
        preview_every=8,
    ),
    sample=SampleConfig(sampler="ddpm", num=20, batch_size=16),
)

# Where the network matters. It takes four times as long to compile.
UNET = dataclasses.replace(
    TINY,
    model=UNetConfig(
        channels=8, multipliers=(1,), blocks=1, attention=(), dropout=0.1, num_classes=10
    ),
)


def changed(config: Config, **sections: dict[str, Any]) -> Config:
    """Returns the config with settings replaced: changed(TINY, train={"steps": 3})."""
    new = {
        name: dataclasses.replace(getattr(config, name), **settings)
        for name, settings in sections.items()
    }
    return dataclasses.replace(config, **new)


class StepLoop:
    """The loop's core without its files: one compiled step over a mesh of some devices."""

    def __init__(self, config: Config = TINY, devices: int = 1):
        self.experiment: Experiment = build(config, devices=devices)
        self.mesh = make_mesh(config.mesh.fsdp, devices=jax.devices()[:devices])
        self.source = open_source(config.data)
        self.program = jit_train_step(self.experiment, self.mesh)

    def init(self) -> Any:
        return draw_state(self.experiment, self.mesh)

    def _step(self, state: Any, batch: Any) -> Any:
        return self.program(state, batch, step_inputs(self.experiment, int(state.step)))

    def batch(self, step: int) -> Any:
        config = self.experiment.config
        return local_batch(
            self.source, seed=config.seed, step=step, batch_size=config.train.batch_size
        )

    def run(self, state: Any, steps: int) -> tuple[Any, np.ndarray]:
        """Returns the state after some more steps, and their losses."""
        losses = []
        for _ in range(steps):
            batch = shard_batch(self.batch(int(state.step)), self.mesh)
            state, metrics = self._step(state, batch)
            losses.append(float(metrics["loss"]))
        return state, np.array(losses)


def arrays(tree: Any) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def assert_same(a: Any, b: Any) -> None:
    """Bit for bit."""
    left, right = arrays(a), arrays(b)
    assert len(left) == len(right)
    assert all(np.array_equal(x, y, equal_nan=True) for x, y in zip(left, right, strict=True))
