"""The validation loss against plain computations, what training sees, and which save is kept."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ddpm_jax
from ddpm_jax.checkpoints import checkpoint as checkpoint_module
from ddpm_jax.checkpoints.checkpoint import Checkpoints
from ddpm_jax.config import (
    Choice,
    Config,
    DiffusionConfig,
    MlpConfig,
    PointsData,
    SampleConfig,
    TrainConfig,
    ValidationConfig,
)
from ddpm_jax.data import open_source
from ddpm_jax.data.batches import Batches
from ddpm_jax.data.pixels import to_unit
from ddpm_jax.data.source import ArraySource
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.metrics.wasserstein import sliced_wasserstein
from ddpm_jax.experiment import build
from ddpm_jax.runtime.mesh import make_mesh
from ddpm_jax.runtime.random import stream_key
from ddpm_jax.training import validation as module
from ddpm_jax.training import validation as validation_module
from ddpm_jax.training.logging.run_logger import read_rows
from ddpm_jax.training.pictures import Pictures
from ddpm_jax.training.step import draw_state, state_layout
from ddpm_jax.training.train import train
from ddpm_jax.training.trainer import Trainer
from ddpm_jax.training.validation import LOSS, ValidationLoss
from ddpm_jax.typing import Conditioning
from tests.tiny import TINY, assert_same, changed

POINTS = Config(
    data=PointsData(size=50),
    model=MlpConfig(width=8, layers=2),
    diffusion=DiffusionConfig(schedule="cosine", timesteps=10),
    train=TrainConfig(
        steps=24,
        batch_size=8,
        averages={"ema": Choice("ema", decay=0.9)},
        log_every=4,
        save_every=8,
        keep=2,
        preview_every=None,
        loggers=(),
    ),
    validation=ValidationConfig(share=0.3, every=4),
    sample=SampleConfig(clipping="none", num=8, batch_size=8),
)
BEST = changed(POINTS, validation={"keep_best": LOSS})


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """One device, and no pictures: they cost more than all the steps."""
    monkeypatch.setattr(Pictures, "finish", lambda self, state: None)
    one = make_mesh(1, devices=jax.devices()[:1])
    monkeypatch.setattr("ddpm_jax.training.train.make_mesh", lambda fsdp: one)


def split(config, source):
    """The training examples and those held out, of which there are some."""
    rest, held_out = module.split(config, source)
    assert held_out is not None
    return rest, held_out


def of_devices(config, devices, fsdp=1):
    """The validation of a config, its held-out examples and its first parameters."""
    experiment = build(config, devices=devices)
    mesh = make_mesh(fsdp, devices=jax.devices()[:devices])
    _, held_out = split(config, open_source(config.data))
    found = ValidationLoss(experiment, mesh, held_out)
    found.compile()
    return found, held_out, draw_state(experiment, mesh).params


def without_output(params):
    return jax.tree.map(jnp.zeros_like, params)


def test_a_network_that_says_nothing_has_the_loss_of_what_it_should_say():
    # ε: E|ε|² = 1 a coordinate. The standard error of 2,000 squares is √(2 / 2,000).
    many = changed(POINTS, data={"size": 4000}, validation={"share": 0.25})
    validation, _, params = of_devices(many, 1)
    assert validation(without_output(params)) == pytest.approx(1, abs=4 * (2 / 2000) ** 0.5)
    # x_0: the mean square of the held-out examples, whatever the noise.
    exact = changed(many, diffusion={"prediction": "x_0"}, validation={"num": 100})
    validation, held_out, params = of_devices(exact, 1)
    x_0 = np.asarray(held_out.gather(np.arange(100)).examples, np.float64)
    assert validation(without_output(params)) == pytest.approx(np.mean(x_0**2), rel=1e-6)


def plainly(config, held_out, params):
    """The validation loss, an example at a time."""
    experiment, n = build(config), min(config.validation.num, len(held_out))
    T, losses = config.diffusion.timesteps, []
    for i in range(n):
        batch = held_out.gather(np.array([i]))
        x_0 = np.asarray(to_unit(jnp.asarray(batch.examples)))
        key = jax.random.fold_in(stream_key(config.seed, "validation"), i)
        eps = np.asarray(jax.random.normal(key, x_0.shape[1:]))[None]
        t = 1 + int((i + 0.5) * T / n)
        alpha_bar = float(experiment.schedule.alpha_bar[t])
        x_t = np.float32(alpha_bar**0.5) * x_0 + np.float32((1 - alpha_bar) ** 0.5) * eps
        labels = batch.labels if config.model.num_classes else None
        output = experiment.apply(
            params, jnp.asarray(x_t), jnp.array([t]), Conditioning(labels), train=False
        )
        losses.append(np.mean((np.asarray(output, np.float64) - eps) ** 2))
    return np.mean(losses)


# Batches of 8 of 15 and of 16 of 20 leave a last one to be filled up; TINY drops labels and mirrors
# images in training, and has dropout.
CASES = {
    "points": POINTS,
    "labels": changed(TINY, validation={"share": 0.02, "every": 4, "num": 20}),
}


@pytest.mark.parametrize("name", CASES)
def test_it_is_the_mean_over_the_held_out_examples_on_any_devices(name):
    config = CASES[name]
    validation, held_out, params = of_devices(config, 1)
    params = jax.tree.map(lambda x: x + 0.1, params)
    expected = plainly(config, held_out, params)
    assert validation(params) == pytest.approx(expected, rel=1e-5)
    assert validation(params) == validation(params)
    devices, _, same = of_devices(config, 8, fsdp=2)
    same = jax.tree.map(lambda x: x + 0.1, same)
    assert devices(same) == pytest.approx(expected, rel=1e-5)


def test_the_times_are_spread_evenly_over_all_steps_of_the_chain():
    config = changed(POINTS, data={"size": 100}, validation={"num": 30})
    validation, _, _ = of_devices(config, 1)
    drawn = [validation._inputs(start)[1] for start in range(0, 30, 8)]
    t = np.concatenate(drawn)[:30]
    np.testing.assert_array_equal(t, np.repeat(np.arange(1, 11), 3))


def numbered(n):
    return ArraySource(np.arange(2 * n, dtype=np.float32).reshape(n, 2) / n)


def test_training_never_sees_a_held_out_example(tmp_path, monkeypatch):
    seen, plain = [], Batches.__call__

    def watched(self, step):
        batch = plain(self, step)
        seen.extend(np.asarray(batch.examples)[:, 0].tolist())
        return batch

    monkeypatch.setattr(Batches, "__call__", watched)
    source = numbered(50)
    train(POINTS, tmp_path, source=source)
    _, held_out = split(POINTS, source)
    kept = set(np.asarray(held_out.gather(np.arange(15)).examples)[:, 0].tolist())
    assert len(seen) == 24 * 8
    assert set(seen) == set(source.examples[:, 0].tolist()) - kept


def validated(run):
    return [row for row in read_rows(run / "metrics.jsonl") if LOSS in row]


def final(run, config):
    layout = state_layout(build(config), make_mesh(1, jax.devices()[:1]))
    return Checkpoints(run).restore(config.train.steps, layout)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """A run that nobody stopped."""
    run = tmp_path_factory.mktemp("unbroken")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pictures, "finish", lambda self, state: None)
        train(POINTS, run, mesh=make_mesh(1, jax.devices()[:1]))
    return run


def test_it_changes_no_bit_of_the_run(tmp_path):
    other = {"share": 0.0, "data": ("table=1",)}
    runs = {"on": changed(POINTS, validation=other), "off": changed(POINTS, validation={})}
    runs["off"] = dataclasses.replace(runs["off"], validation=ValidationConfig())
    lines = []
    for name, config in runs.items():
        train(config, tmp_path / name, report=lines.append)
    assert_same(final(tmp_path / "on", runs["on"]), final(tmp_path / "off", runs["off"]))
    assert [row["step"] for row in validated(tmp_path / "on")] == [4, 8, 12, 16, 20, 24]
    assert not validated(tmp_path / "off")
    assert sum(LOSS in line for line in lines) == 6


def test_other_data_are_held_out_whole_and_nothing_of_their_own(tmp_path):
    config = changed(POINTS, validation={"share": 0.0, "data": ("table=1", "size=20")})
    rest, held_out = split(config, open_source(config.data))
    assert (len(rest), len(held_out)) == (50, 20)
    other = open_source(PointsData(size=20, table=1))
    expected, found = (np.asarray(it.gather(np.arange(20)).examples) for it in (other, held_out))
    np.testing.assert_array_equal(np.sort(found, axis=0), np.sort(expected, axis=0))


class Killed(Exception):
    pass


@pytest.fixture
def killed(monkeypatch):
    """Ends a run before the dispatch of a step, as a kill does."""

    def at(step, config, run):
        plain = Trainer._dispatch

        def dispatch(self, state, now, feed):
            if now == step:
                raise Killed
            return plain(self, state, now, feed)

        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "_dispatch", dispatch)
            with pytest.raises(Killed):
                train(config, run)

    return at


@pytest.mark.parametrize("step", [3, 8, 10, 12, 23])
def test_a_run_that_was_killed_logs_the_same_values(step, killed, unbroken, tmp_path):
    killed(step, POINTS, tmp_path)
    train(POINTS, tmp_path)
    assert validated(tmp_path) == validated(unbroken)
    assert_same(final(tmp_path, POINTS), final(unbroken, POINTS))


@pytest.fixture
def scripted(monkeypatch):
    """Gives the validation losses of steps, in place of the true ones."""

    def give(**values):
        values = {int(name.removeprefix("at_")): value for name, value in values.items()}
        plain = Trainer._validate

        def validate(self, state, step):
            monkeypatch.setattr(ValidationLoss, "__call__", lambda it, params: values[step])
            plain(self, state, step)

        monkeypatch.setattr(Trainer, "_validate", validate)

    return give


UPS_AND_DOWNS = {"at_4": 5.0, "at_8": 4.0, "at_12": 1.0, "at_16": 2.0, "at_20": 1.0, "at_24": 3.0}


def test_the_best_is_kept_beside_the_newest(scripted, tmp_path):
    scripted(**UPS_AND_DOWNS)
    train(BEST, tmp_path)
    # 4 went when 8 was better, 8 was the third newest, 20 is no better than 12.
    assert Checkpoints(tmp_path).steps() == [12, 16, 24]
    best = json.loads((tmp_path / "checkpoints/best.json").read_text())
    assert best == {"step": 12, "name": LOSS, "value": 1.0, "scheduled": False}
    assert ddpm_jax.load(tmp_path, checkpoint="best").step == 12
    assert ddpm_jax.load(tmp_path).step == 24


def test_a_scheduled_checkpoint_outlives_a_better_one(scripted, tmp_path):
    scripted(at_4=9.0, at_8=3.0, at_12=4.0, at_16=2.0, at_20=1.0, at_24=float("nan"))
    train(BEST, tmp_path)
    assert Checkpoints(tmp_path).steps() == [16, 20, 24]
    assert Checkpoints(tmp_path).newest_good("best") == 20


def unwritten(patch):
    """No mark is written from step 12 on: the kill came between a save and its mark."""
    plain = checkpoint_module.write_best

    def write(folder, best):
        if best.step < 12:
            plain(folder, best)

    patch.setattr(checkpoint_module, "write_best", write)


def unsaved(patch):
    """No checkpoint is finished from step 12 on: the kill came between the log and the save."""
    plain = Checkpoints._seal

    def seal(self, step, texts):
        if step >= 12:
            raise OSError("killed")
        plain(self, step, texts)

    patch.setattr(Checkpoints, "_seal", seal)


@pytest.mark.parametrize("fault", [None, unwritten, unsaved])
@pytest.mark.parametrize("step", [12, 14])
def test_the_best_survives_a_kill(step, fault, scripted, killed, tmp_path, monkeypatch):
    scripted(**UPS_AND_DOWNS)
    with monkeypatch.context() as patch:
        if fault is not None:
            fault(patch)
        killed(step, BEST, tmp_path)
    newest = Checkpoints(tmp_path).steps()[-1]
    assert newest == (8 if fault is unsaved else 12)
    train(BEST, tmp_path)
    assert Checkpoints(tmp_path).steps() == [12, 16, 24]
    assert Checkpoints(tmp_path).newest_good("best") == 12
    expected = [(int(name[3:]), value) for name, value in UPS_AND_DOWNS.items()]
    assert [(row["step"], row[LOSS]) for row in validated(tmp_path)] == expected


def test_a_best_of_other_held_out_data_counts_no_more(scripted, tmp_path):
    scripted(**UPS_AND_DOWNS)
    data = {"share": 0.0, "data": ("table=1",)}
    config = changed(BEST, validation=data, train={"steps": 16})
    train(config, tmp_path)
    assert Checkpoints(tmp_path).newest_good("best") == 12
    lines = []
    other = changed(config, validation={"data": ("table=2",)}, train={"steps": 24})
    train(other, tmp_path, report=lines.append)
    assert any("checkpoint 12 is no longer the best" in line for line in lines)
    assert Checkpoints(tmp_path).newest_good("best") == 20
    # Without the setting, the best stays as it is.
    without = {"keep_best": None, "every": None}
    train(changed(other, validation=without, train={"steps": 40}), tmp_path)
    assert Checkpoints(tmp_path).steps() == [20, 32, 40]


def test_a_best_of_another_average_counts_no_more(scripted, tmp_path):
    scripted(**UPS_AND_DOWNS)
    averages = {"ema": Choice("ema", decay=0.9), "slow": Choice("ema", decay=0.99)}
    train(changed(BEST, train={"steps": 16, "averages": averages}), tmp_path)
    assert Checkpoints(tmp_path).newest_good("best") == 12
    lines = []
    turned = {"steps": 24, "averages": dict(reversed(averages.items()))}
    train(changed(BEST, train=turned), tmp_path, report=lines.append)
    assert "train.averages: ['ema', 'slow'] -> ['slow', 'ema']" in lines
    assert any("checkpoint 12 is no longer the best" in line for line in lines)
    assert Checkpoints(tmp_path).newest_good("best") == 20


MEASURED = changed(
    POINTS,
    train={"steps": 16, "preview_every": 8},
    validation={"metrics": ("sliced_wasserstein",), "num_samples": 12, "every": None},
)


def test_previews_are_measured_against_the_held_out_data(tmp_path):
    config = changed(MEASURED, validation={"keep_best": "sliced_wasserstein"})
    lines = []
    run = train(config, tmp_path, report=lines.append).run
    rows = [row for row in read_rows(tmp_path / "metrics.jsonl") if "loss" not in row]
    assert [list(row) for row in rows] == 2 * [["step", "sliced_wasserstein"]]
    assert [row["step"] for row in rows] == [8, 16]
    _, held_out = split(config, open_source(config.data))
    real = np.asarray(held_out.gather(np.arange(15)).examples)
    assert rows[1]["sliced_wasserstein"] == pytest.approx(
        sliced_wasserstein(run.sample(12).samples, real), rel=1e-6
    )
    assert any("step 16 of 16  sliced_wasserstein" in line for line in lines)
    best = min(rows, key=lambda row: row["sliced_wasserstein"])["step"]
    assert Checkpoints(tmp_path).newest_good("best") == best


def test_without_held_out_data_previews_are_measured_against_those_of_training(tmp_path):
    metrics = ("sliced_wasserstein --directions 7",)
    config = changed(MEASURED, validation={"share": 0.0, "metrics": metrics}, train={"steps": 8})
    run = train(config, tmp_path).run
    (row,) = [row for row in read_rows(tmp_path / "metrics.jsonl") if "loss" not in row]
    real = np.asarray(open_source(config.data).gather(np.arange(50)).examples)
    found = sliced_wasserstein(run.sample(12).samples, real, directions=7)
    assert row["sliced_wasserstein"] == pytest.approx(found, rel=1e-6)


@pytest.mark.parametrize("metrics", [True, False])
def test_a_preview_that_a_kill_kept_from_being_drawn_is_drawn_at_the_restart(
    metrics, tmp_path, monkeypatch
):
    config = MEASURED if metrics else changed(MEASURED, validation={"metrics": ()})
    train(config, tmp_path / "whole")

    def killed(self, state, step):
        if step == 8:
            self.checkpoints.join()
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_preview", killed)
        with pytest.raises(Killed):
            train(config, tmp_path / "killed")
    assert Checkpoints(tmp_path / "killed").steps() == [8]
    train(config, tmp_path / "killed")
    for step in (8, 16):
        pictures = [tmp_path / name / f"samples/{step:08}.png" for name in ("whole", "killed")]
        assert pictures[0].read_bytes() == pictures[1].read_bytes()
    whole, again = (
        [row for row in read_rows(tmp_path / name / "metrics.jsonl") if "loss" not in row]
        for name in ("whole", "killed")
    )
    assert whole == again
    assert len(whole) == (2 if metrics else 0)


def test_samples_that_are_not_finite_cost_a_line(tmp_path, monkeypatch):
    plain, lines = Pictures.draw, []

    def draw(self, state, num, **options):
        drawn = plain(self, state, num, **options)
        return drawn._replace(samples=np.full_like(drawn.samples, np.nan))

    monkeypatch.setattr(Pictures, "draw", draw)
    monkeypatch.setattr(Pictures, "write_preview", lambda *words: None)
    train(MEASURED, tmp_path, report=lines.append)
    assert "the preview of step 8 is not complete: the samples are not finite" in lines
    assert all("loss" in row for row in read_rows(tmp_path / "metrics.jsonl"))


def test_a_share_can_not_change_once_the_run_has_begun(unbroken):
    with pytest.raises(UserError, match=r"holds a run with validation\.share = 0\.3, and this"):
        train(changed(POINTS, validation={"share": 0.2}), unbroken)


def test_a_run_without_a_best_says_so(unbroken):
    with pytest.raises(UserError, match=r"has no best checkpoint: training keeps one with valid"):
        ddpm_jax.load(unbroken, checkpoint="best")


def test_data_that_grew_hold_out_others_and_say_so(tmp_path):
    lines = []
    train(changed(POINTS, train={"steps": 8}), tmp_path, source=numbered(50))
    train(POINTS, tmp_path, source=numbered(60), report=lines.append)
    assert any("another order from step 8 on, and others are held out" in line for line in lines)


REFUSED = {
    "a share without examples": ({"share": 0.001}, r"of 50 examples it must hold out at least one"),
    "the best of nothing known": (
        {"keep_best": "validation_los"},
        r"must be one of validation_loss \(did you mean validation_loss\?\)",
    ),
    "the best of nothing computed": (
        {"keep_best": LOSS, "every": None},
        r"keep_best is 'validation_loss'; it must be None unless validation\.every or",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_before_anything_is_written_or_compiled(name, tmp_path, monkeypatch):
    settings, said = REFUSED[name]
    monkeypatch.setattr(validation_module.jax, "jit", None)
    with pytest.raises(UserError, match=said):
        train(changed(POINTS, validation=settings), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_metric_that_measures_a_run_is_refused_before_anything_is_written(tmp_path):
    asked = changed(POINTS, train={"preview_every": 8}, validation={"metrics": ("bits_per_dim",)})
    with pytest.raises(UserError, match=r"validation\.metrics: .* it measures a run on real"):
        train(asked, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_held_out_data_without_the_labels_of_the_network_are_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((9, 2), np.float32))
    labelled = ArraySource(np.ones((40, 2), np.float32), np.arange(40) % 2, ("a", "b"))
    data = ddpm_jax.config.ArraysData(path=str(tmp_path / "x.npy"), holds="points")
    config = dataclasses.replace(POINTS, data=data)
    held_out = {"share": 0.0, "data": (f"path={tmp_path / 'x.npy'}",)}
    config = changed(config, model={"num_classes": 2}, validation=held_out)
    with pytest.raises(UserError, match=r"validation\.data has no labels, and the network takes"):
        train(config, tmp_path / "run", source=labelled)
    assert not (tmp_path / "run").exists()
