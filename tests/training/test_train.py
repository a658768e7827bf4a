"""The public function: its arguments, what it returns, and a run that goes on with other data."""

import dataclasses
import json
import signal

import jax
import numpy as np
import pytest

import ddpm_jax
from ddpm_jax.checkpoints.checkpoint import Checkpoints
from ddpm_jax.checkpoints.commit import commit_in
from ddpm_jax.config import (
    ArraysData,
    Choice,
    Config,
    DiffusionConfig,
    MlpConfig,
    PointsData,
    SampleConfig,
    TrainConfig,
)
from ddpm_jax.errors import UserError
from ddpm_jax.runtime.mesh import make_mesh
from ddpm_jax.training.logging.run_logger import read_events
from ddpm_jax.training.preemption import PreemptionHandler
from ddpm_jax.training.train import train
from ddpm_jax.training.trainer import Trainer
from ddpm_jax.typing import Batch
from tests.tiny import assert_same, changed

pytestmark = pytest.mark.usefixtures("one_device")

POINTS = Config(
    data=PointsData(size=50),
    model=MlpConfig(width=8, layers=2),
    diffusion=DiffusionConfig(timesteps=10),
    train=TrainConfig(batch_size=8, averages={"ema": Choice("ema", decay=0.9)}, preview_every=None),
    sample=SampleConfig(clipping="none", num=8, batch_size=8),
)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """One device, and no pictures: they cost more than all the steps."""
    monkeypatch.setattr(Trainer, "finish", lambda self, state: None)
    one = make_mesh(1, devices=jax.devices()[:1])
    monkeypatch.setattr("ddpm_jax.training.train.make_mesh", lambda fsdp: one)


def points_of(path, count, classes):
    labels = np.array(list(classes))[np.arange(count) % len(classes)]
    np.savez(path, examples=np.ones((count, 2), np.float32), labels=labels)


def test_data_that_changed_are_told_once_and_the_run_goes_on(tmp_path):
    path, run = tmp_path / "points.npz", tmp_path / "run"
    data = ArraysData(path=str(path), holds="points")

    def trained(steps):
        short = {"steps": steps, "save_every": 4}
        lines = []
        config = dataclasses.replace(changed(POINTS, train=short), data=data)
        train(config, run, report=lines.append)
        return [line for line in lines if "data." in line]

    points_of(path, 40, "ab")
    assert trained(4) == []
    points_of(path, 44, "abc")
    said = [
        "data.examples: 40 -> 44: each epoch has another order from step 4 on",
        "data.classes: 2 -> 3",
    ]
    assert trained(8) == said
    # The next checkpoint knows of it.
    points_of(path, 44, "abd")
    assert trained(12) == ["data.classes.2: 'c' -> 'd'"]
    assert trained(16) == []
    found = [row for row in read_events(run / "events.jsonl") if row["event"] == "data"]
    assert [(row["step"], row["changes"]) for row in found] == [
        (4, {"data.examples": [40, 44], "data.classes": [2, 3]}),
        (8, {"data.classes.2": ["c", "d"]}),
    ]


class Ones:
    """A source of the caller's own: points that are all 1."""

    streams = False
    class_names = ()

    def __init__(self, width=2):
        self.shape = (width,)

    def __len__(self):
        return 20

    def gather(self, indices):
        return Batch(np.ones((len(indices), *self.shape), np.float32), None)


def test_training_in_python_is_silent_and_gives_the_run(tmp_path, capfd):
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    devices = make_mesh(1, devices=jax.devices()[:1])
    config = changed(POINTS, train={"steps": 4, "save_every": 4, "loggers": ()})
    result = train(config, tmp_path, source=Ones(), mesh=devices)
    assert capfd.readouterr() == ("", "")
    assert {number: signal.getsignal(number) for number in handlers} == handlers
    assert (result.step, result.signal) == (4, None)
    assert result.run.mesh == devices
    again = ddpm_jax.load(tmp_path)
    assert (again.step, again.name) == (result.run.step, result.run.name)
    assert_same(again.params, result.run.params)
    np.testing.assert_array_equal(result.run.sample(3).samples, again.sample(3).samples)
    meta = json.loads((tmp_path / "checkpoints/4/meta.json").read_text())
    assert meta["data"]["examples"] == 20


def test_a_source_of_another_shape_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"shape \(3,\), and config.data says \(2,\)"):
        train(POINTS, tmp_path / "run", source=Ones(width=3))
    assert list(tmp_path.iterdir()) == []


def test_a_request_to_stop_saves_and_is_returned(tmp_path):
    lines = []
    config = changed(POINTS, train={"steps": 1000})
    with PreemptionHandler(lines.append) as preemption:
        plain = preemption.reached
        asked = iter(range(100))
        preemption.reached = lambda: (
            (next(asked, 99) == 5 and signal.raise_signal(signal.SIGTERM)) or plain()
        )
        result = train(config, tmp_path, report=lines.append, preemption=preemption)
    assert result.signal == signal.SIGTERM
    assert 0 < result.step < 1000
    assert Checkpoints(tmp_path).newest_good() == result.step
    assert f"stopped at step {result.step}; run the same command again to go on" in lines


def test_a_checkpoint_that_says_nothing_of_its_data_is_gone_on_from(tmp_path):
    config = changed(POINTS, train={"steps": 4, "save_every": 4})
    train(config, tmp_path)
    folder = tmp_path / "checkpoints"
    meta = folder / "4.tmp" / "meta.json"
    (folder / "4").rename(meta.parent)
    said = json.loads(meta.read_text())
    assert said.pop("data") == {"examples": 50, "classes": []}
    meta.write_text(json.dumps(said))
    commit_in(folder).end(4)
    lines = []
    train(changed(config, data={"size": 60}, train={"steps": 8}), tmp_path, report=lines.append)
    assert not [line for line in lines if "data.examples" in line]
