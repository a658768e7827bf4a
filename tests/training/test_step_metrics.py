"""No step waits for the host: the real loop, seen by JAX's own profiler."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.config import Config, DiffusionConfig, MlpConfig, PointsData, SampleConfig
from ddpm_jax.config import TrainConfig as Train
from ddpm_jax.training.logging.run_logger import read_rows
from ddpm_jax.training.pictures import Pictures
from ddpm_jax.training.step_metrics import StepMetrics
from ddpm_jax.training.train import train
from ddpm_jax.training.trainer import Trainer

STEPS = 100
POINTS = Config(
    data=PointsData(size=50),
    model=MlpConfig(width=8, layers=1),
    diffusion=DiffusionConfig(timesteps=10),
    train=Train(
        steps=STEPS, batch_size=8, log_every=25, save_every=STEPS, preview_every=None, keep=1
    ),
    sample=SampleConfig(clipping="none", num=8, batch_size=8),
)

# Where numbers may come to the host: the metrics of steps that are done, and checkpoints.
ALLOWED = {StepMetrics: ("add", "_read_oldest", "_write"), Trainer: ("_save",)}
# What JAX calls a read of an array by the host, and the order for one.
READS = ("np.asarray(jax.Array)", "ArrayImpl.copy_to_host_async")


@pytest.fixture
def loop(monkeypatch, tmp_path):
    """Runs the loop and returns the events of its thread: (name, begin, end) in nanoseconds."""
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level, options.host_tracer_level = 0, 1
    for cls, names in ALLOWED.items():
        for name in names:
            marked = jax.profiler.annotate_function(getattr(cls, name), name=f"allowed {name}")
            monkeypatch.setattr(cls, name, marked)
    run_until_due = Trainer._run_until_due

    def traced(self, *args):
        with jax.profiler.trace(str(tmp_path / "trace"), profiler_options=options):
            return run_until_due(self, *args)

    monkeypatch.setattr(Trainer, "_run_until_due", traced)
    monkeypatch.setattr(Pictures, "finish", lambda self, state: None)

    def run():
        train(POINTS, tmp_path / "run")
        assert len(read_rows(tmp_path / "run" / "metrics.jsonl")) == STEPS // 25
        (written,) = (tmp_path / "trace").rglob("*.xplane.pb")
        lines = [
            [(event.name.split("#")[0], event.start_ns, event.end_ns) for event in line.events]
            for plane in jax.profiler.ProfileData.from_file(str(written)).planes
            for line in plane.lines
        ]
        (own,) = (line for line in lines if any(name == "allowed add" for name, *_ in line))
        return own

    return run


def elsewhere(events):
    """The reads that no allowed place made."""
    allowed = [(begin, end) for name, begin, end in events if name.startswith("allowed")]
    return [
        event
        for event in events
        if event[0] in READS
        and not any(begin <= event[1] and event[2] <= end for begin, end in allowed)
    ]


def test_in_a_hundred_steps_on_eight_devices_nothing_is_read_but_the_logged_metrics(loop):
    assert jax.device_count() == 8
    events = loop()
    assert not elsewhere(events)
    # All that was logged was seen to be read, and no parameter but for the checkpoint.
    reads = [name for name, *_ in events if name == READS[0]]
    assert 4 * STEPS <= len(reads) <= 5 * STEPS + 100


def test_a_step_that_does_wait_is_seen(loop, monkeypatch):
    dispatch = Trainer._dispatch

    def reading(self, *args):
        state, step = dispatch(self, *args)
        if step == 50:
            float(state.step)
        return state, step

    monkeypatch.setattr(Trainer, "_dispatch", reading)
    assert elsewhere(loop())


# --- what the rows say ----------------------------------------------------------------------------


class Clock:
    """A clock that goes on when it is told to."""

    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now


class Lines:
    """Keeps what a logger is given."""

    def __init__(self):
        self.rows: dict[int, Any] = {}
        self.said: list[str] = []
        self.events: list[Any] = []

    def row(self, step, values):
        self.rows[step] = values

    def say(self, line):
        self.said.append(line)

    def event(self, step, name, **details):
        self.events.append((step, name, details))


def dispatched(losses, bad=()):
    """The metrics of a dispatch, as the step gives them: those of bad steps are not finite."""
    count, nonfinite = 0, []
    for k in range(len(losses)):
        count = count + 1 if k in bad else 0
        nonfinite.append(count)
    values = jnp.where(jnp.array(nonfinite) > 0, jnp.nan, jnp.asarray(losses, jnp.float32))
    rate = jnp.asarray(losses, jnp.float32) / 1000
    metrics = {"loss": values, "grad_norm": 10 * values, "learning_rate": rate}
    return {**metrics, "nonfinite": jnp.array(nonfinite)}


def test_a_row_is_about_the_steps_since_the_last_one_and_the_finite_ones_alone(monkeypatch):
    clock, lines = Clock(), Lines()
    monkeypatch.setattr("ddpm_jax.training.step_metrics.time", clock)
    train = Train(steps=24, batch_size=8, steps_per_dispatch=3, log_every=6, save_every=24)
    metrics = StepMetrics(train, lines)  # type: ignore[arg-type]
    for dispatch, bad in enumerate([(), (1, 2), (), ()]):
        clock.now += 1.0
        with metrics.waiting():
            clock.now += 0.5
        with metrics.paused():
            clock.now += 100.0
        first = 3 * dispatch
        metrics.add(first + 3, dispatched([first, first + 1, first + 2], bad))
    metrics.flush()
    assert list(lines.rows) == [6, 12]
    one, two = lines.rows.values()
    assert one["loss"] == pytest.approx(np.mean([0, 1, 2, 3]))
    assert one["grad_norm"] == pytest.approx(10 * np.mean([0, 1, 2, 3]))
    assert two["loss"] == pytest.approx(np.mean([6, 7, 8, 9, 10, 11]))
    # The rate of the last step, whose number the row bears.
    assert (one["learning_rate"], two["learning_rate"]) == pytest.approx((0.005, 0.011))
    assert (one["nonfinite_steps"], two["nonfinite_steps"]) == (2, 0)
    assert lines.events == [(6, "nonfinite", {"steps": [4, 5]})]
    assert "2 step(s) whose loss or gradient was not finite: 4, 5" in lines.said[0]
    # Rows are written late, when the device is done: the time of both is that of all dispatches.
    spent = [6 * 8 / row["images_per_s"] for row in (one, two)]
    assert sum(spent) == pytest.approx(4 * 1.5)
    waited = [row["data_wait"] * time for row, time in zip((one, two), spent, strict=True)]
    assert sum(waited) == pytest.approx(4 * 0.5)


def test_a_row_without_a_finite_step_has_no_mean():
    lines = Lines()
    train = Train(steps=3, batch_size=8, steps_per_dispatch=3, log_every=3, save_every=3)
    metrics = StepMetrics(train, lines)  # type: ignore[arg-type]
    metrics.add(3, dispatched([1, 2, 3], bad=(0, 1, 2)))
    metrics.flush()
    assert np.isnan(lines.rows[3]["loss"])
    assert lines.rows[3]["nonfinite_steps"] == 3
    assert metrics.nonfinite == 3
