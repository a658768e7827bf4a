"""The public function: its arguments, what it returns, and a run that goes on with other data."""

import dataclasses
import json
import re
import shutil
import signal
import threading

import jax
import numpy as np
import pytest
from PIL import Image

import ddpm_jax
from ddpm_jax import config as configs
from ddpm_jax.checkpoints.checkpoint import Checkpoints
from ddpm_jax.checkpoints.commit import commit_in
from ddpm_jax.config import (
    ArraysData,
    Choice,
    Config,
    DiffusionConfig,
    FolderData,
    MlpConfig,
    PointsData,
    SampleConfig,
    TrainConfig,
)
from ddpm_jax.data.source import ArraySource
from ddpm_jax.errors import UserError
from ddpm_jax.runtime.memory import OutOfMemory
from ddpm_jax.runtime.mesh import make_mesh
from ddpm_jax.training.feed import Feed
from ddpm_jax.training.logging.run_logger import read_events
from ddpm_jax.training.pictures import Pictures
from ddpm_jax.training.preemption import PreemptionHandler
from ddpm_jax.training.step import jit_train_step
from ddpm_jax.training.train import train
from ddpm_jax.typing import Batch
from tests.tiny import TINY, assert_same, changed

pytestmark = pytest.mark.usefixtures("one_device")

POINTS = Config(
    data=PointsData(size=50),
    model=MlpConfig(width=8, layers=2),
    diffusion=DiffusionConfig(schedule="cosine", timesteps=10),
    train=TrainConfig(batch_size=8, averages={"ema": Choice("ema", decay=0.9)}, preview_every=None),
    sample=SampleConfig(clipping="none", num=8, batch_size=8),
)
SHORT = changed(POINTS, train={"steps": 4, "save_every": 4, "log_every": 2})


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """One device, and no pictures: they cost more than all the steps."""
    monkeypatch.setattr(Pictures, "finish", lambda self, state: None)
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


@pytest.mark.parametrize("channels", [2, 13])
def test_bands_resume_on_another_number_of_devices(tmp_path, channels):
    random = np.random.default_rng(0)
    np.save(tmp_path / "bands.npy", random.uniform(size=(20, 4, 4, channels)).astype(np.float32))
    data = ArraysData(
        path=str(tmp_path / "bands.npy"), image_size=(4, 4), channels=channels, range=(0, 1)
    )
    config = dataclasses.replace(POINTS, data=data)
    lines = []

    def trained(steps, devices, run):
        short = changed(config, train={"steps": steps, "save_every": 2, "loggers": ()})
        mesh = make_mesh(1, devices=jax.devices()[:devices])
        return train(short, tmp_path / run, mesh=mesh, report=lines.append).run

    trained(2, 8, "moved")
    moved, unbroken = trained(4, 2, "moved"), trained(4, 1, "unbroken")
    shown = "channel 0 of 0 … 1 as grey" if channels == 2 else "channels 0, 1, 2 of 0 … 12 as red"
    assert sum(shown in line for line in lines) == 3
    assert moved.step == unbroken.step == 4
    for one, other in zip(*map(jax.tree.leaves, (moved.params, unbroken.params)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    drawn = moved.sample(4)
    assert drawn.samples.shape == (4, 4, 4, channels)
    assert drawn.shown == ((0,) if channels == 2 else (0, 1, 2))


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
    assert said.pop("data")["examples"] == 50
    meta.write_text(json.dumps(said))
    commit_in(folder).end(4)
    lines = []
    train(changed(config, data={"size": 60}, train={"steps": 8}), tmp_path, report=lines.append)
    assert not [line for line in lines if "data.examples" in line]


def test_a_schedule_that_leaves_data_in_x_T_is_told_at_the_start(tmp_path):
    lines = []
    config = changed(POINTS, diffusion={"schedule": "linear"}, train={"steps": 4, "save_every": 4})
    train(config, tmp_path, report=lines.append)
    assert sum(line.startswith("x_T is not noise: it keeps 0.95 of") for line in lines) == 1


def folder_of(root, classes, *, shift=0):
    """Four pictures of each class, in the grey that belongs to its name."""
    for k, name in enumerate(sorted(classes)):
        (root / name).mkdir(parents=True)
        for i in range(4):
            Image.new("L", (4, 4), 20 * k + shift).save(root / name / f"{i}.png")


FOLDER = changed(
    dataclasses.replace(
        POINTS,
        data=FolderData(image_size=(4, 4), channels=1, range=(0, 255)),
        model=MlpConfig(width=4, layers=1, num_classes=4),
    ),
    train={"steps": 2, "batch_size": 4, "save_every": 2, "label_dropout": 0.1},
)


def rewritten(run, step, change):
    """Changes a checkpoint's meta.json, as another version would have written it."""
    folder = run / "checkpoints"
    meta = folder / f"{step}.tmp" / "meta.json"
    (folder / str(step)).rename(meta.parent)
    said = json.loads(meta.read_text())
    change(said)
    meta.write_text(json.dumps(said))
    commit_in(folder).end(step)


@pytest.mark.parametrize("recorded", [True, False])
def test_a_run_that_was_trained_on_folders_in_another_order_keeps_its_labels(tmp_path, recorded):
    """An older version took numbered folders in the order of words."""
    folder_of(tmp_path / "p", ["0", "1", "2", "10"])
    config = changed(FOLDER, data={"path": str(tmp_path / "p")})
    lines = []
    train(config, tmp_path / "run", report=lines.append)
    natural = "labels 0 = 0, 1 = 1, 2 = 2, 3 = 10; a number is a class's name"
    assert f"data: {tmp_path}/p; {natural}" in lines
    words = ["0", "1", "10", "2"]

    def older(said):
        if recorded:
            said["data"]["classes"] = words
        else:
            del said["data"]

    rewritten(tmp_path / "run", 2, older)
    lines.clear()
    result = train(changed(config, train={"steps": 4}), tmp_path / "run", report=lines.append)
    assert any("labels 0 = 0, 1 = 1, 2 = 10, 3 = 2" in line for line in lines)
    assert not any(line.startswith("data.") for line in lines)
    assert result.run.experiment.class_names == tuple(words)
    meta = json.loads((tmp_path / "run/checkpoints/4/meta.json").read_text())
    assert meta["data"]["classes"] == words
    assert result.run.labels(["10", "2"]).tolist() == [2, 3]
    assert ddpm_jax.load(tmp_path / "run").labels([10]).tolist() == [2]


def test_labels_reach_the_step_in_the_order_of_the_checkpoint(tmp_path, monkeypatch):
    folder_of(tmp_path / "p", ["0", "1", "2", "10"])
    config = changed(FOLDER, data={"path": str(tmp_path / "p")})
    train(config, tmp_path / "run")
    words = ["0", "1", "10", "2"]
    rewritten(tmp_path / "run", 2, lambda said: said["data"].update(classes=words))
    batches = []
    plain = Feed.__call__

    def watched(self, step):
        batches.append(plain(self, step))
        return batches[-1]

    monkeypatch.setattr(Feed, "__call__", watched)
    train(changed(config, train={"steps": 6}), tmp_path / "run")
    pairs = {
        (words[label], int(picture[0, 0, 0]))
        for batch in batches
        for label, picture in zip(
            np.asarray(batch.labels).ravel(),
            np.asarray(batch.examples).reshape(-1, 4, 4, 1),
            strict=True,
        )
    }
    # folder_of takes the greys in the order of words.
    assert pairs <= {("0", 0), ("1", 20), ("10", 40), ("2", 60)}
    assert len(pairs) > 2


def test_other_pictures_in_the_same_number_are_told(tmp_path):
    folder_of(tmp_path / "p", "ab")
    folder_of(tmp_path / "q", "ab", shift=7)
    config = changed(FOLDER, data={"path": str(tmp_path / "p")}, model={"num_classes": 2})
    train(config, tmp_path / "run")
    # The same pictures elsewhere are the same data.
    shutil.move(tmp_path / "p", tmp_path / "moved")
    lines = []
    moved = changed(config, data={"path": str(tmp_path / "moved")}, train={"steps": 4})
    train(moved, tmp_path / "run", report=lines.append)
    assert not any(line.startswith(("data.content", "data.examples")) for line in lines)
    lines.clear()
    other = changed(config, data={"path": str(tmp_path / "q")}, train={"steps": 6})
    train(other, tmp_path / "run", report=lines.append)
    (line,) = [line for line in lines if line.startswith("data.content")]
    assert line.endswith("the run goes on with other examples from step 4 on")
    (event,) = [row for row in read_events(tmp_path / "run/events.jsonl") if row["event"] == "data"]
    assert list(event["changes"]) == ["data.content"]


def test_a_relative_path_means_the_same_data_from_every_folder(tmp_path, monkeypatch):
    folder_of(tmp_path / "here/p", "ab")
    folder_of(tmp_path / "there/p", "ab", shift=7)
    monkeypatch.chdir(tmp_path / "here")
    config = changed(FOLDER, data={"path": "p"}, model={"num_classes": 2})
    train(config, tmp_path / "run")
    kept = configs.loads((tmp_path / "run/config.json").read_text())
    assert kept.data == dataclasses.replace(config.data, path=str(tmp_path / "here/p"))
    monkeypatch.chdir(tmp_path / "there")
    lines = []
    train(changed(kept, train={"steps": 4}), tmp_path / "run", report=lines.append)
    assert not any(line.startswith("data.") for line in lines)
    # The checkpoint finds the data from there, too.
    assert ddpm_jax.load(tmp_path / "run").config.data == kept.data
    shutil.move(tmp_path / "here", tmp_path / "gone")
    with pytest.raises(UserError, match=f"data.path: {tmp_path}/here/p does not exist"):
        train(changed(kept, train={"steps": 6}), tmp_path / "run")
    again = changed(kept, data={"path": "../gone/p"}, train={"steps": 6})
    assert train(again, tmp_path / "run").step == 6


def test_classes_that_the_network_does_not_use_are_told(tmp_path):
    folder_of(tmp_path / "p", "ab")
    config = changed(
        FOLDER,
        data={"path": str(tmp_path / "p")},
        model={"num_classes": 0},
        train={"label_dropout": 0.0},
    )
    lines = []
    train(config, tmp_path / "run", report=lines.append)
    said = f"data: {tmp_path}/p; its 2 classes are not used (model.num_classes is 0)"
    assert said in lines


# --- signals ---


def test_while_it_compiles_a_signal_ends_the_process_and_afterwards_it_saves(tmp_path, monkeypatch):
    seen = []

    class Compiling:
        def __init__(self, *made):
            self.step = jit_train_step(*made)

        def lower(self, *layouts):
            self.lowered = self.step.lower(*layouts)
            return self

        def compile(self):
            seen.extend(signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT))
            return self.lowered.compile()

    monkeypatch.setattr("ddpm_jax.training.trainer.jit_train_step", Compiling)
    with PreemptionHandler(lambda line: None) as preemption:
        train(SHORT, tmp_path, preemption=preemption)
        assert signal.getsignal(signal.SIGTERM) == preemption._handle
        signal.raise_signal(signal.SIGHUP)
        assert preemption.reached()
    assert seen == [signal.SIG_DFL] * 2


def test_it_trains_outside_the_main_thread(tmp_path):
    results = []

    def work():
        with PreemptionHandler(lambda line: None) as preemption:
            results.append(train(SHORT, tmp_path, preemption=preemption))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert results[0].step == 4


def test_what_needs_more_memory_than_there_is_is_refused_before_anything_is_written(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("ddpm_jax.training.train.device_bytes", lambda device: 1000)
    with pytest.raises(OutOfMemory, match=r"state and a batch .*; lower train.batch_size, raise"):
        train(POINTS, tmp_path / "run")
    monkeypatch.setattr("ddpm_jax.sampling.chain.free_bytes", lambda: 1000)
    with pytest.raises(OutOfMemory, match="8 samples with 8 trajectories need"):
        train(POINTS, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_activations_beyond_memory_are_refused_before_the_first_step(tmp_path, monkeypatch):
    monkeypatch.setattr("ddpm_jax.training.trainer.device_bytes", lambda device: 1000)
    with pytest.raises(OutOfMemory, match="activations of a training step need"):
        train(changed(POINTS, train={"steps": 2}), tmp_path / "run")


def test_a_source_of_none_is_refused(tmp_path):
    source = ArraySource(np.zeros((0, 2), np.float32))
    with pytest.raises(UserError, match="the source has no examples"):
        train(POINTS, tmp_path / "run", source=source)
    assert list(tmp_path.iterdir()) == []


def test_a_classifier_says_that_it_drops_no_labels(tmp_path):
    data = PointsData(shape="moons", size=50)
    config = dataclasses.replace(SHORT, data=data)
    for objective, count in (("simple", 0), ("classification", 1)):
        each = changed(
            config,
            diffusion={"objective": objective},
            model={"num_classes": 2},
            train={"label_dropout": 0.2},
        )
        lines = []
        train(each, tmp_path / objective, report=lines.append)
        assert sum("train.label_dropout has no effect" in line for line in lines) == count


NAMES = ("a", "b")
IMAGES, LABELS = np.zeros((6, 8, 8, 1), np.uint8), np.arange(6, dtype=np.int64) % 2
UNFIT = {
    "an array": (IMAGES, "source is of type ndarray; it must be a Source, such as ArraySource"),
    "floats": (ArraySource(IMAGES / 2, LABELS, NAMES), "examples of float64; they must be uint8"),
    "no labels": (ArraySource(IMAGES, None, NAMES), "2 class names and no labels"),
    "half labels": (ArraySource(IMAGES, LABELS / 2, NAMES), "2 class names and labels of float64"),
    "few labels": (ArraySource(IMAGES, LABELS[:5], NAMES), "6 examples and 5 labels"),
    "more labels": (ArraySource(IMAGES, 2 * LABELS, NAMES), "from 0 to 2; they must be 0 to 1"),
}


@pytest.mark.parametrize("unfit", UNFIT)
def test_a_source_of_ones_own_that_does_not_fit_is_a_line_before_anything(unfit, tmp_path):
    source, says = UNFIT[unfit]
    config = changed(TINY, model={"num_classes": 2})
    with pytest.raises(UserError, match=re.escape(says)):
        train(config, tmp_path / "run", source=source)
    assert not (tmp_path / "run").exists()
