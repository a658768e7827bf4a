"""No setting does nothing: while runs are trained, drawn from and described, each one is read.

What counts is a read from the package's own code; config's own checks and copies don't count. Each
network reads its settings in its module.
"""

import dataclasses
import inspect
import sys
import typing
from collections import defaultdict
from pathlib import Path
from typing import Any

import jax
import pytest

import ddpm_jax
from ddpm_jax import cli
from ddpm_jax import config as configs
from ddpm_jax.config import (
    Config,
    DiffusionConfig,
    MeshConfig,
    MlpConfig,
    ModelConfig,
    OptimizerConfig,
    PictureData,
    PointsData,
    SampleConfig,
    TfdsData,
    TrainConfig,
    UNetConfig,
    ValidationConfig,
)
from ddpm_jax.data import SOURCES, SourceConfig, open_source, resolve, settings_of
from ddpm_jax.data import tfds as tfds_module
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import build
from ddpm_jax.reports.info import describe
from ddpm_jax.runtime.mesh import make_mesh
from ddpm_jax.training.step import make_train_step, step_layouts
from ddpm_jax.training.train import train
from ddpm_jax.typing import Conditioning, is_image
from tests.data.examples import example_config, is_there
from tests.models.test_models import LABELS, TINY, T, X, make

PACKAGE = str(Path(ddpm_jax.__file__).parent)
CONFIG = str(Path(configs.__file__).parent)
DATA = tuple(map(settings_of, SOURCES.values()))
SECTIONS = (
    *DATA,
    DiffusionConfig,
    OptimizerConfig,
    TrainConfig,
    ValidationConfig,
    SampleConfig,
    MeshConfig,
    Config,
)
POINTS = Config(
    data=PointsData(shape="moons", size=50),
    model=MlpConfig(width=4, layers=1, num_classes=2),
    diffusion=DiffusionConfig(schedule="cosine", timesteps=4),
    train=TrainConfig(
        steps=2, batch_size=8, label_dropout=0.5, log_every=2, save_every=2, preview_every=2
    ),
    validation=ValidationConfig(share=0.2, every=2),
    sample=SampleConfig(clipping="none", guidance=1.0, num=8, batch_size=8),
    figures=("schedules",),
)

CLASSIFIER = dataclasses.replace(
    POINTS,
    diffusion=dataclasses.replace(POINTS.diffusion, objective="classification"),
)


class Reads:
    """Watches the attributes of classes; `found[cls]` are those that the package read."""

    def __init__(self, patch: pytest.MonkeyPatch, classes):
        self.found: dict[type, set[str]] = defaultdict(set)
        for cls in classes:
            patch.setattr(cls, "__getattribute__", self._watched(cls), raising=False)

    def _watched(self, cls):
        plain = cls.__getattribute__

        def watched(instance, name):
            frame: Any = sys._getframe(1)
            # What a property of the settings reads is read by whoever asks for the property; we
            # ourselves stand between the two.
            while frame.f_code is watched.__code__ or _is_property(cls, frame):
                frame = frame.f_back
            file = frame.f_code.co_filename
            if file.startswith(PACKAGE) and not file.startswith(CONFIG):
                self.found[cls].add(name)
            return plain(instance, name)

        return watched


def _is_property(cls: type, frame: Any) -> bool:
    code = frame.f_code
    found = inspect.getattr_static(cls, code.co_name, None)
    return code.co_filename.startswith(CONFIG) and isinstance(found, property)


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    datas = [example_config(kind, folder) for kind in SOURCES]
    run = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DDPM_JAX_OPS", "reference")  # A third of the time to trace.
        reads = Reads(patch, SECTIONS)
        train(POINTS, run)
        train(CLASSIFIER, run.with_name("classifier"))
        classifier = ddpm_jax.load(run.with_name("classifier"))
        ddpm_jax.load(run).guided(classifier=classifier).sample(2)
        assert cli.main(["plot", str(run)]) == 0
        describe(POINTS)
        for data in datas:
            _feed(data)
        yield reads.found


def _feed(data: SourceConfig) -> None:
    """Opens the data, and traces a training step on them."""
    image = isinstance(data, PictureData) or is_image(data.example_shape)
    plain_unet = UNetConfig(channels=8, multipliers=(1,), blocks=1, attention=())
    network = plain_unet if image else MlpConfig()
    train = dataclasses.replace(POINTS.train, label_dropout=0.0)
    sample = dataclasses.replace(POINTS.sample, guidance=0.0)
    plain = dataclasses.replace(POINTS, train=train, sample=sample)
    config = resolve(dataclasses.replace(plain, data=data, model=network))
    if not is_there(data):
        with pytest.raises(UserError, match="not prepared"):
            open_source(dataclasses.replace(data, data_dir="/nowhere"))  # type: ignore
    else:
        open_source(config.data)
    experiment = build(config)
    jax.eval_shape(make_train_step(experiment), *step_layouts(experiment, make_mesh(1)))


@pytest.mark.parametrize("section", SECTIONS)
def test_every_setting_is_read(section, read):
    names = {item.name for item in dataclasses.fields(section)}
    unread = names - read[section]
    if section is TfdsData and not is_there(TfdsData(name="mnist")):
        # Without a prepared set nobody gets as far as its splits; then the source must say so.
        source = inspect.getsource(tfds_module)
        unread = {name for name in unread if f"config.{name}" not in source}
    assert not unread


@pytest.mark.parametrize("section", typing.get_args(ModelConfig))
def test_every_setting_of_a_network_is_read_by_its_module(section, monkeypatch):
    assert set(TINY) == {cls.kind for cls in typing.get_args(ModelConfig)}
    model = make(section.kind, num_classes=3)
    reads = Reads(monkeypatch, [section])
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    jax.eval_shape(lambda: model.init(rngs, X, T, Conditioning(LABELS), train=True))
    assert {item.name for item in dataclasses.fields(section)} <= reads.found[section]
