"""Steps that are not finite, in each policy; the state must be a function of the steps alone."""

import dataclasses
import shutil
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ddpm_jax
from ddpm_jax.averages import ema_update, make_averages
from ddpm_jax.checkpoints.checkpoint import Checkpoints
from ddpm_jax.config import Choice, Config, DiffusionConfig, MlpConfig, PointsData, SampleConfig
from ddpm_jax.config import TrainConfig as Train
from ddpm_jax.data.batches import Batches
from ddpm_jax.diffusion.gaussian import per_example_mean
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import build
from ddpm_jax.models import make_network
from ddpm_jax.runtime.mesh import make_mesh, shard_batch
from ddpm_jax.training.logging.run_logger import read_events, read_rows
from ddpm_jax.training.pictures import Pictures
from ddpm_jax.training.starting import first_weights, start_state
from ddpm_jax.training.state import init_state
from ddpm_jax.training.step import gradient, make_train_step, state_layout, step_inputs
from ddpm_jax.training.train import train
from ddpm_jax.training.trainer import Trainer
from ddpm_jax.typing import Objective
from tests.tiny import StepLoop, assert_same, changed

pytestmark = pytest.mark.usefixtures("one_device")

POINTS = Config(
    data=PointsData(size=50),
    model=MlpConfig(width=8, layers=2),
    diffusion=DiffusionConfig(schedule="cosine", timesteps=10),
    train=Train(
        steps=80,
        batch_size=8,
        averages={"ema": Choice("ema", decay=0.9)},
        log_every=10,
        save_every=20,
        keep=9,
        preview_every=None,
        max_nonfinite_steps=3,
    ),
    sample=SampleConfig(clipping="none", num=8, batch_size=8),
)

# What is put into one coordinate of the data, and the network's precision.
FAULTS = {"nan": (np.nan, "float32"), "overflow": (3e38, "bfloat16")}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """One device, and no pictures: they cost more than all the steps."""
    monkeypatch.setattr(Pictures, "finish", lambda self, state: None)
    one = make_mesh(1, devices=jax.devices()[:1])
    monkeypatch.setattr("ddpm_jax.training.train.make_mesh", lambda fsdp: one)


@pytest.fixture
def lines():
    """What a run reports with `report=lines.append`."""
    return []


@pytest.fixture
def poison(monkeypatch):
    """Puts a value into the batches of some steps."""
    plain = Batches.__call__

    def into(steps, value=np.nan):
        def poisoned(self, step):
            batch = plain(self, step)
            if step in steps:
                batch.examples[3, 1] = value
            return batch

        monkeypatch.setattr(Batches, "__call__", poisoned)

    return into


def state_of(run, step):
    checkpoints = Checkpoints(run)
    assert checkpoints.newest_good(step) == step
    layout = state_layout(build(checkpoints.config(step)), make_mesh(1, jax.devices()[:1]))
    return checkpoints.restore(step, layout)


def with_step(state, step):
    return state._replace(step=jnp.asarray(step, jnp.int32))


def reference(config, stretches, state=None):
    """The state at the last step of a run to which the steps of some stretches never happened."""
    trainer = StepLoop(config)
    state, step = state or trainer.init(), 0
    for first, after in [*stretches, (config.train.steps, None)]:
        state, _ = trainer.run(with_step(state, step), first - step)
        step = after
    return state


def policy(name, **settings):
    return changed(POINTS, train={"on_nonfinite": name, **settings})


def test_where_nothing_is_bad_the_guard_changes_no_bit():
    # The step as it would be without it.
    trainer = StepLoop(POINTS)
    experiment = trainer.experiment

    def plain(state, batch, inputs):
        drawn = experiment.draw(batch, state.step, seed=inputs.seed)
        _, _, grads = gradient(experiment, state.params, drawn, 1)
        updates, opt_state = experiment.optimizer.update(
            grads, state.opt_state, state.params, learning_rate=inputs.learning_rate
        )
        params = optax.apply_updates(state.params, updates)
        ema = ema_update(make_averages(POINTS.train.averages), state.ema, params, state.step + 1)
        return state._replace(step=state.step + 1, params=params, ema=ema, opt_state=opt_state)

    # Not compiled: two programs may round their sums in another order.
    found = expected = trainer.init()
    step = make_train_step(experiment)
    for n in range(4):
        batch = trainer.batch(n)._replace(labels=None)
        expected = plain(expected, batch, step_inputs(experiment, n))
        found, _ = step(found, batch, step_inputs(experiment, n))
    assert_same(found, expected)


def test_after_too_many_bad_steps_the_state_stands_still():
    trainer = StepLoop(POINTS)
    state, _ = trainer.run(trainer.init(), 5)
    before = jax.tree.map(np.asarray, state)
    bad = trainer.batch(5)
    bad.examples[0, 0] = np.inf
    seen = []
    for batch in (bad, bad, bad, bad, trainer.batch(5)):
        state, metrics = trainer._step(state, shard_batch(batch, trainer.mesh))
        seen.append((int(state.step), int(state.nonfinite), int(metrics["nonfinite"])))
    assert seen == [(6, 1, 1), (7, 2, 2), (8, 3, 3), (8, 3, 3), (8, 3, 3)]
    assert_same(state._replace(step=before.step, nonfinite=before.nonfinite), before)


def test_a_gradient_that_is_not_finite_changes_nothing_though_the_loss_is_finite():
    """The square root of 0 is 0, and its slope is infinite."""

    def rooted(output, inputs):
        return per_example_mean(jnp.sqrt(0 * output))

    experiment = dataclasses.replace(build(POINTS), objective=Objective(rooted))
    step = jax.jit(make_train_step(experiment))
    before = init_state(experiment, 0)
    batch = StepLoop(POINTS).batch(0)._replace(labels=None)
    after, metrics = step(before, batch, step_inputs(experiment, 0))
    assert (float(metrics["loss"]), int(metrics["nonfinite"])) == (0, 1)
    assert not np.isfinite(metrics["grad_norm"])
    assert int(after.step) == 1
    assert_same(after._replace(step=before.step, nonfinite=before.nonfinite), before)


def test_bad_steps_that_do_not_follow_each_other_are_never_too_many(poison, tmp_path):
    poison({1, 3, 5, 7})
    result = train(policy("skip", steps=20), tmp_path)
    assert int(state_of(tmp_path, 20).nonfinite) == 0
    assert result.step == 20


@pytest.mark.parametrize(("steps", "keep", "saved"), [(80, 9, [20, 60, 80]), (40, 1, [20, 40])])
def test_between_bad_steps_nothing_is_saved_and_nothing_is_removed(
    steps, keep, saved, poison, tmp_path
):
    """The state after them may be worth nothing: the last good one must stay, whatever `keep`."""
    poison({38, 39})
    train(policy("skip", steps=steps, keep=keep), tmp_path)
    assert Checkpoints(tmp_path).steps() == saved


@pytest.mark.parametrize(
    "shape", [{}, {"steps_per_dispatch": 5}, {"gradient_accumulation_steps": 2}], ids=str
)
def test_a_single_bad_step_is_left_out_and_told(shape, poison, tmp_path, lines):
    config = policy("skip", **shape)
    poison({50})
    train(config, tmp_path, report=lines.append)
    assert "no update from 1 step(s) whose loss or gradient was not finite: 50" in (
        "\n".join(lines)
    )
    rows = {row["step"]: row for row in read_rows(tmp_path / "metrics.jsonl")}
    assert [step for step, row in rows.items() if row["nonfinite_steps"]] == [60]
    assert all(np.isfinite(row["loss"]) for row in rows.values())
    assert [row["steps"] for row in read_events(tmp_path / "events.jsonl") if "steps" in row] == [
        [50]
    ]
    expected = reference(changed(config, train={"steps_per_dispatch": 1}), [(50, 51)])
    for a, b in zip(
        jax.tree.leaves(state_of(tmp_path, 80)), jax.tree.leaves(expected), strict=True
    ):
        # Several steps a dispatch are another program, whose rounding is its own.
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6) if shape else assert_same(a, b)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", ["skip", "stop"])
def test_too_many_end_the_run_and_their_cause_is_named(name, fault, poison, tmp_path, lines):
    value, dtype = FAULTS[fault]
    config = changed(policy(name), model={"dtype": dtype})
    poison({50, 51, 52}, value)
    with pytest.raises(UserError, match="not finite at step 50") as told:
        train(config, tmp_path, report=lines.append)
    (line,) = str(told.value).splitlines()
    said = "\n".join(lines) + "\n"
    assert ("nor at the 2 after it" in line) == (name == "skip")
    assert "newest checkpoint is 40" in line
    if fault == "nan":
        assert "the data of 1 example(s) of its batch are not finite" in line
        assert "examples with values that are not finite, by index: 3\n" in said
    else:
        assert "by index: none\n" in said
        assert "the gradient of layer_0." in line
    assert "first parameter that is not finite: none\n" in said
    times = np.asarray(build(config).draw(StepLoop(config).batch(50), 50).t)
    assert f"t of the batch: {' '.join(map(str, times))}\n" in said
    assert said.count("loss at t ") == 4
    assert said.count(", 1 of 2 not finite") == 1
    assert Checkpoints(tmp_path).steps() == [20, 40]


# --- the folder ---


@pytest.fixture
def meanwhile(monkeypatch):
    """Does something to the run's folder just before a step."""
    plain = Batches.__call__

    def at(**actions):
        def disturbed(self, step):
            if f"step_{step}" in actions:
                actions[f"step_{step}"]()
            return plain(self, step)

        monkeypatch.setattr(Batches, "__call__", disturbed)

    return at


def blocked(run, monkeypatch):
    """Two actions: a file where the checkpoints lie, and the end of it when a save has failed."""
    folder, aside = run / "checkpoints", run / "aside"
    savers, save = [], Checkpoints.save

    def saved(self, *words, **options):
        savers.append(self)
        save(self, *words, **options)

    monkeypatch.setattr(Checkpoints, "save", saved)

    def block():
        savers[-1].join()  # It still lists the folder after the checkpoint counts.
        assert (folder / "20").is_dir()
        folder.rename(aside)
        folder.write_text("")

    def release():
        savers[-1].join()
        folder.unlink()
        aside.rename(folder)

    return block, release


def test_a_save_that_fails_is_told_and_the_next_one_tries_again(
    meanwhile, monkeypatch, tmp_path, lines
):
    block, release = blocked(tmp_path, monkeypatch)
    meanwhile(step_30=block, step_41=release)
    train(POINTS, tmp_path, report=lines.append)
    assert Checkpoints(tmp_path).steps() == [20, 60, 80]
    assert_same(state_of(tmp_path, 80), reference(POINTS, []))
    (event,) = [it for it in read_events(tmp_path / "events.jsonl") if it["event"] == "save failed"]
    assert event["step"] == 40
    assert "the checkpoint of step 40 could not be written" in "\n".join(lines)


def test_a_run_that_ends_unsaved_says_so(meanwhile, monkeypatch, tmp_path):
    block, release = blocked(tmp_path, monkeypatch)
    meanwhile(step_30=block)
    with pytest.raises(UserError, match="stopped at step 80 with its state unsaved") as told:
        train(POINTS, tmp_path)
    assert len(str(told.value).splitlines()) == 1
    release()
    meanwhile()
    train(POINTS, tmp_path)
    assert_same(state_of(tmp_path, 80), reference(POINTS, []))


def test_a_folder_that_is_removed_comes_back_with_the_next_save(meanwhile, tmp_path):
    run = tmp_path / "run"
    meanwhile(step_30=lambda: shutil.rmtree(run, ignore_errors=True))
    train(POINTS, run)
    # Where the machine is busy, step 20 is still being written then, and outlives the folder.
    assert [step for step in Checkpoints(run).steps() if step != 20] == [40, 60, 80]
    assert_same(state_of(run, 80), reference(POINTS, []))
    assert read_rows(run / "metrics.jsonl")[-1]["step"] == 80


def test_a_preview_that_can_not_be_written_costs_a_line(tmp_path, lines):
    (tmp_path / "samples").write_text("")
    config = changed(POINTS, train={"steps": 20, "preview_every": 20})
    train(config, tmp_path, report=lines.append)
    assert "the preview of step 20 was not written" in "\n".join(lines)


NETWORKS: dict[str, tuple[dict[str, Any], str]] = {
    "wider": ({"width": 9}, r"has ema.ema.layer_0.bias as float32\[8\], .* float32\[9\]"),
    "deeper": ({"layers": 3}, "has no ema.ema.layer_2.bias, which the network has"),
    "shallower": ({"layers": 1}, "has an array ema.ema.layer_1.bias, which the network lacks"),
}


@pytest.mark.parametrize("change", NETWORKS)
def test_the_network_of_other_code_is_refused_by_its_first_array(change, monkeypatch, tmp_path):
    settings, expected = NETWORKS[change]
    config = changed(POINTS, train={"steps": 20})
    train(config, tmp_path)
    made = make_network(
        MlpConfig(**{"width": 8, "layers": 2, **settings}), out_channels=2, timesteps=10
    )
    monkeypatch.setattr("ddpm_jax.experiment.make_network", lambda config, **options: made)
    with pytest.raises(UserError, match=expected.replace("ema.ema.", "params.")) as told:
        train(changed(config, train={"steps": 40}), tmp_path)
    assert len(str(told.value).splitlines()) == 1
    monkeypatch.setattr("ddpm_jax.checkpoints.checkpoint.versions", lambda: {"other": "code"})
    with pytest.raises(UserError, match=expected):
        ddpm_jax.load(tmp_path)


def test_its_pictures_show_the_first_average_and_are_of_the_runs_seed(tmp_path):
    config = dataclasses.replace(POINTS, seed=2**16)

    class Program:
        experiment, mesh = build(config), None

        def __call__(self, params, num, *, seed, progress):
            return params, num, seed

    checkpoints = Checkpoints(tmp_path)
    logger = types.SimpleNamespace(say=print)
    trainer = Trainer(Program(), None, {}, checkpoints, logger, preemption=None)  # type: ignore
    state = init_state(build(config), 0)
    state = state._replace(ema={"ema": "the average", "other": "another"})
    assert trainer.pictures.draw(state, 8) == ("the average", POINTS.sample.num, 2**16)


# --- policies ---


def test_a_stopped_run_goes_on_under_another_policy(poison, tmp_path):
    poison({50})
    with pytest.raises(UserError, match="at step 50: the data"):
        train(policy("stop"), tmp_path)
    train(policy("skip"), tmp_path)
    assert_same(state_of(tmp_path, 80), reference(POINTS, [(50, 51)]))
    (changes,) = [row for row in read_events(tmp_path / "events.jsonl") if row["event"] == "config"]
    assert changes["changes"] == {"train.on_nonfinite": ["stop", "skip"]}


@pytest.mark.parametrize("fault", FAULTS)
def test_rollback_passes_over_the_stretch_between_two_saves(fault, poison, tmp_path, lines):
    value, dtype = FAULTS[fault]
    config = changed(policy("rollback"), model={"dtype": dtype})
    poison({50, 51, 52}, value)
    train(config, tmp_path, report=lines.append)
    assert "3 non-finite step(s) in a row from step 50: rolling back to step 40" in "\n".join(lines)
    assert_same(state_of(tmp_path, 80), reference(config, [(40, 60)]))
    assert [row["step"] for row in read_rows(tmp_path / "metrics.jsonl")] == [
        10,
        20,
        30,
        40,
        70,
        80,
    ]


@pytest.mark.parametrize("first", [39, 40], ids=["across a save", "from a save on"])
def test_a_save_in_bad_steps_is_no_place_to_go_back_to(first, poison, tmp_path):
    poison({first, first + 1, first + 2})
    config = policy("rollback")
    train(config, tmp_path)
    assert_same(state_of(tmp_path, 80), reference(config, [(20, 60)]))


def broken_at_51(run, config):
    """Stopped between the first bad step and the last one; the count must come back."""
    train(changed(config, train={"steps": 51}), run)
    assert int(state_of(run, 51).nonfinite) == 1


def without_its_beginning(run, config):
    """The stretch's beginning has to be trained again."""
    broken_at_51(run, config)
    shutil.rmtree(run / "checkpoints/40")


def started_before(run, config):
    """As after a kill: the newest checkpoint is from before the bad steps."""
    train(changed(config, train={"steps": 43}), run)


@pytest.mark.parametrize("before", [broken_at_51, without_its_beginning, started_before])
def test_a_broken_run_goes_back_as_an_unbroken_one(before, poison, tmp_path):
    config = policy("rollback")
    poison({50, 51, 52})
    before(tmp_path, config)
    train(config, tmp_path)
    assert_same(state_of(tmp_path, 80), reference(config, [(40, 60)]))


def test_rollback_works_within_dispatches(poison, tmp_path):
    config = policy("rollback", steps_per_dispatch=5, gradient_accumulation_steps=2)
    poison({51, 52, 53})
    train(config, tmp_path / "bad")
    # The same program without the fault, from a checkpoint put by hand where the stretch ends.
    poison(())
    train(changed(config, train={"steps": 40}), tmp_path / "good")
    checkpoints = Checkpoints(tmp_path / "good")
    landed = with_step(state_of(tmp_path / "good", 40), 60)
    checkpoints.save(60, landed, config, keep=None, keep_every=None)
    checkpoints.close()
    train(config, tmp_path / "good")
    assert_same(state_of(tmp_path / "bad", 80), state_of(tmp_path / "good", 80))


def test_two_bad_stretches_in_a_row_end_the_run_also_when_it_is_started_again(poison, tmp_path):
    poison({50, 51, 52, 70, 71, 72})
    for _ in range(2):
        with pytest.raises(UserError, match="not finite at step 70"):
            train(policy("rollback"), tmp_path)
        assert Checkpoints(tmp_path).steps() == [20, 40, 60]


def test_bad_from_the_first_step_there_is_nothing_to_go_back_to(poison, tmp_path):
    poison(range(80))
    with pytest.raises(UserError, match=r"not finite at step 0\b.*there is no checkpoint"):
        train(policy("rollback"), tmp_path)


def test_parameters_that_overflow_by_themselves_are_not_saved(tmp_path):
    hot = dataclasses.replace(POINTS.optimizer, learning_rate=1e30, clip=None)
    for name in ("skip", "rollback"):
        config = dataclasses.replace(policy(name, save_every=2, log_every=2), optimizer=hot)
        with pytest.raises(UserError, match="not finite at step"):
            train(config, tmp_path / name)
        saved = Checkpoints(tmp_path / name).steps()
        # Going back to step 0, and past the stretch to step 4, is no state that overflows.
        assert saved == {"skip": [], "rollback": [4]}[name]
        for step in saved:
            assert_same(state_of(tmp_path / name, step).params, StepLoop(config).init().params)


@pytest.mark.parametrize("left", ["all", "weights", "none"])
def test_a_rollback_to_the_beginning_needs_the_weights_it_started_from(left, poison, tmp_path):
    donor, run = tmp_path / "donor", tmp_path / "run"
    train(changed(dataclasses.replace(POINTS, seed=7), train={"steps": 20}), donor)
    config = dataclasses.replace(policy("rollback", keep=1), init=str(donor))
    weights = start_state(build(config), make_mesh(1), first_weights(build(config)))
    poison({10, 11, 12})
    if left != "all":
        train(changed(config, train={"steps": 11}), run)
        shutil.rmtree(donor)
    if left == "none":
        shutil.rmtree(run / "checkpoints/0")
        with pytest.raises(UserError, match=r"has no checkpoint 0, with the weights of .*donor"):
            train(config, run)
        return
    train(config, run)
    assert Checkpoints(run).steps() == [0, 80]
    assert_same(state_of(run, 80), reference(config, [(0, 20)], weights))
