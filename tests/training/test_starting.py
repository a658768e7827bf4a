"""Runs that start from weights: what is taken, drawn and refused, and that they go on as any."""

import dataclasses
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from ddpm_jax.checkpoints.checkpoint import Checkpoints
from ddpm_jax.checkpoints.manifest import by_name
from ddpm_jax.config import Config, FolderData
from ddpm_jax.data.source import ArraySource
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import build
from ddpm_jax.runtime.mesh import make_mesh
from ddpm_jax.sampling.run import load
from ddpm_jax.training import starting
from ddpm_jax.training.resuming import same_labels
from ddpm_jax.training.starting import first_weights, start_state, write_first
from ddpm_jax.training.train import train
from tests.tiny import UNET, assert_same, changed

pytestmark = pytest.mark.usefixtures("one_device")

SHORT = changed(
    UNET,
    train={"steps": 2, "log_every": 1, "save_every": 1, "preview_every": None},
    sample={"num": 4, "steps": 2},
)


NUMBERED = tuple(map(str, range(11)))


def drawn(config: Config) -> dict:
    """Parameters that no network draws by itself."""
    rng = np.random.default_rng(0)
    shapes = build(config).param_shapes
    return jax.tree.map(lambda leaf: rng.normal(0, 0.1, leaf.shape).astype("f"), shapes)


@pytest.fixture(scope="module")
def donor(tmp_path_factory):
    """A run of step 0 that nobody trains."""
    folder = tmp_path_factory.mktemp("runs") / "donor"
    write_first(SHORT, drawn(SHORT), folder)
    return folder


def test_a_run_of_weights_opens_trains_and_resumes(tmp_path):
    config, folder = dataclasses.replace(SHORT, init="diffusers:there"), tmp_path / "run"
    write_first(config, drawn(SHORT), folder)
    assert load(folder).step == 0
    # The parameters are kept once: they are every average.
    with closing(Checkpoints(folder)) as checkpoints:
        assert checkpoints.shapes(0, "params") is not None
        assert not checkpoints.shapes(0, "ema")
    for name in ("ema", "raw"):
        assert_same(load(folder, params=name).params, drawn(SHORT))
    result = train(config, folder)
    assert (result.start, result.step) == (0, 2)
    assert load(folder).config.init == "diffusers:there"
    # Two steps of at most 0.01 move no parameter of the weights further.
    moved = by_name(load(folder, params="raw").params)
    before = by_name(drawn(SHORT))
    distances = [np.abs(np.asarray(moved[name]) - before[name]).max() for name in before]
    assert 1e-4 < max(distances) <= 0.0201
    with pytest.raises(UserError, match="init = 'diffusers:there', and this config has None"):
        train(dataclasses.replace(config, init=None), folder)
    assert train(changed(config, train={"steps": 3}), folder).start == 2


@pytest.mark.parametrize(("step", "classes"), [(0, NUMBERED), (5, tuple(sorted(NUMBERED)))])
def test_labels_of_an_imported_run_are_numbers(step, classes):
    config = dataclasses.replace(SHORT, data=FolderData(path="x", image_size=(8, 8), channels=1))
    source = ArraySource(np.zeros((11, 8, 8, 1), np.uint8), np.arange(11), NUMBERED)
    old: Any = SimpleNamespace(data=lambda step: None, run="runs/x")
    described = {"examples": 11, "classes": list(NUMBERED), "content": ""}
    found, _ = same_labels(config, old, step, source, described)
    assert tuple(found.class_names) == classes


def test_a_run_starts_from_another_with_everything_else_anew(donor, tmp_path):
    config = dataclasses.replace(SHORT, seed=5, init=str(donor))
    experiment, mesh = build(config), make_mesh(1)
    found = first_weights(experiment)
    assert found is not None
    state = start_state(experiment, mesh, found)
    assert int(state.step) == 0
    assert_same(state.params, drawn(SHORT))
    assert_same(state.ema["ema"], drawn(SHORT))
    fresh = start_state(experiment, mesh, None)
    assert_same(state.opt_state, fresh.opt_state)
    assert len(found.lines) == 1
    lines: list[str] = []
    assert train(config, tmp_path / "run", report=lines.append).step == 2
    assert any(line.endswith(found.lines[0]) for line in lines)
    assert load(tmp_path / "run").config.init == str(donor)


@pytest.mark.parametrize("classes", [0, 4])
def test_what_other_classes_need_is_drawn_and_named(donor, classes):
    config = changed(
        dataclasses.replace(SHORT, init=str(donor)),
        model={"num_classes": classes},
        train={"label_dropout": 0.1 if classes else 0},
    )
    found = first_weights(build(config))
    assert found is not None
    wanted = by_name(build(config).param_shapes)
    label = "condition.label.embedding"
    assert wanted.keys() - found.arrays.keys() == ({label} if classes else set())
    _, line = found.lines
    what = "drawn afresh, because it is new" if classes else "left out, because this network has no"
    assert what in line
    assert line.endswith(label)


def test_what_other_channels_need_is_drawn_and_named(donor):
    data = FolderData(path="x", image_size=(8, 8), channels=3)
    config = dataclasses.replace(SHORT, data=data, init=str(donor))
    found = first_weights(build(config))
    assert found is not None
    new = "conv_in.kernel, conv_out.bias, conv_out.kernel"
    assert found.lines[1].endswith(f"another shape: {new}")
    state = start_state(build(config), make_mesh(1), found)
    drawn_alone = start_state(build(config), make_mesh(1), None)
    assert_same(state.params["conv_in"]["kernel"], drawn_alone.params["conv_in"]["kernel"])
    assert_same(state.params["norm_out"], drawn(SHORT)["norm_out"])


def test_another_network_or_nothing_is_refused(donor, tmp_path):
    wider = changed(dataclasses.replace(SHORT, init=str(donor)), model={"channels": 16})
    with pytest.raises(UserError, match=r"has model.channels = 8, and this config has 16; start"):
        train(wider, tmp_path / "run")
    with pytest.raises(UserError, match="does not exist; train first"):
        train(dataclasses.replace(SHORT, init=str(tmp_path / "none")), tmp_path / "run")
    with pytest.raises(UserError, match="none is no folder"):
        train(dataclasses.replace(SHORT, init=f"diffusers:{tmp_path}/none"), tmp_path / "run")
    with pytest.raises(UserError, match=r"openai needs image_size, .* make a run of it by ddpm"):
        train(dataclasses.replace(SHORT, init="openai:x.pt"), tmp_path / "run")
    with pytest.raises(UserError, match="is there already; name a new folder"):
        write_first(SHORT, drawn(SHORT), donor)
    assert not (tmp_path / "run").exists()


def test_what_a_stopped_import_leaves_is_no_run(tmp_path, monkeypatch):
    monkeypatch.setattr(starting, "_save_weights", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_first(SHORT, drawn(SHORT), tmp_path / "run")
    assert (tmp_path / "run/config.json").exists()
    monkeypatch.undo()
    write_first(SHORT, drawn(SHORT), tmp_path / "run")
    with pytest.raises(UserError, match="is there already; name a new folder"):
        write_first(SHORT, drawn(SHORT), tmp_path / "run")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/thesis.tex").write_text("")
    with pytest.raises(UserError, match="is there already; name a new folder"):
        write_first(SHORT, drawn(SHORT), tmp_path / "other")


def test_weights_of_which_nothing_fits_are_refused(donor, monkeypatch):
    monkeypatch.setattr("ddpm_jax.training.starting._donor", lambda name: (SHORT, {"other": 1}))
    config = dataclasses.replace(SHORT, init=str(donor))
    with pytest.raises(UserError, match="has no parameter of this network; start from the same"):
        first_weights(build(config))


def test_another_meaning_of_the_output_is_told(donor):
    config = changed(dataclasses.replace(SHORT, init=str(donor)), diffusion={"prediction": "v"})
    found = first_weights(build(config))
    assert found is not None
    assert found.lines[1:] == ["diffusion.prediction was 'eps' there, and is 'v' here"]
