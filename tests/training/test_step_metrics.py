"""No step waits for the host: the real loop, seen by JAX's own profiler."""

import jax
import pytest

from ddpm_jax.config import Config, DiffusionConfig, MlpConfig, PointsData, SampleConfig
from ddpm_jax.config import TrainConfig as Train
from ddpm_jax.training.logging.run_logger import read_rows
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
    monkeypatch.setattr(Trainer, "finish", lambda self, state: None)

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
