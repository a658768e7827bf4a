"""Runs of four steps, and the data tests' fixtures of real TFDS sets and of a private cache."""

import dataclasses

import jax
import pytest

from ddpm_jax.config import (
    Choice,
    Config,
    DiffusionConfig,
    MlpConfig,
    PointsData,
    SampleConfig,
    StepUNetConfig,
    TrainConfig,
)
from ddpm_jax.training.train import train
from tests.data.conftest import cache, tfds_config, tfds_root
from tests.tiny import TINY, changed

__all__ = ["PICTURES", "POINTS", "cache", "tfds_config", "tfds_root"]

AVERAGES = {"ema": Choice("ema", decay=0.9), "short": "power --sigma_rel 0.1"}
POINTS = Config(
    data=PointsData(size=300),
    model=MlpConfig(width=8, layers=1),
    diffusion=DiffusionConfig(timesteps=20, schedule=Choice("linear", beta_T=0.5)),
    train=TrainConfig(
        steps=4,
        batch_size=16,
        averages=AVERAGES,
        log_every=2,
        save_every=4,
        snapshot_every=2,
        preview_every=None,
    ),
    sample=SampleConfig(sampler="ddpm", clipping="none", num=3),
)
PICTURES = dataclasses.replace(
    changed(
        TINY,
        train={
            "steps": 4,
            "log_every": 2,
            "averages": AVERAGES,
            "snapshot_every": 2,
            "preview_every": None,
        },
        sample={"num": 3, "guidance": 1.0},
    ),
    model=StepUNetConfig(channels=4, multipliers=(1,), num_classes=10),
)


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Folders of runs of four steps, of images with labels and of points."""
    made = {}
    with pytest.MonkeyPatch.context() as patch:
        first = jax.devices()[:1]
        patch.setattr(jax, "devices", lambda: first)
        for name, config in {"pictures": PICTURES, "points": POINTS}.items():
            made[name] = tmp_path_factory.mktemp("runs") / name
            train(config, made[name])
    return made
