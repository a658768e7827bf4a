"""Stages that enlarge pictures, by tiny networks with random parameters."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.cli import opening
from ddpm_jax.config import ArraysData, Choice, SmallUNetConfig
from ddpm_jax.data import open_source
from ddpm_jax.data.pixels import to_unit
from ddpm_jax.data.source import ArraySource
from ddpm_jax.diffusion.conditioners import CONDITIONERS, Conditioner
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.evaluate import evaluate
from ddpm_jax.evaluation.sets import ExampleSet
from ddpm_jax.experiment import build
from ddpm_jax.files import storage_path
from ddpm_jax.runtime.mesh import make_mesh, with_shardings
from ddpm_jax.sampling.cascade import Cascade, enlarge, seen_by, seen_in
from ddpm_jax.sampling.chain import SampleProgram
from ddpm_jax.sampling.editing import edit
from ddpm_jax.sampling.run import Run
from ddpm_jax.sampling.shards import describe_samples
from ddpm_jax.training.train import train
from ddpm_jax.typing import Conditioning
from tests.tiny import UNET, changed

FEW: dict[str, Any] = {"steps": 3, "batch_size": 4}
SMALL = np.random.default_rng(0).uniform(-1, 1, (6, 8, 8, 1)).astype(np.float32)


def test_a_step_of_a_stage_can_be_compiled_beforehand():
    stage = stage_of()
    program = SampleProgram(stage.experiment, stage.mesh, stage.config.sample)
    params = with_shardings(stage.experiment.param_shapes, stage.mesh)
    given = program.lower(params, 4).in_avals[0][5]
    assert given.image.shape == (4, 16, 16, 1)
    assert given.image_noise.shape == (4,)


def stage_of(**sections):
    config = changed(
        UNET,
        diffusion={"condition": Choice("low_resolution", factor=2, noise=0.2)},
        **sections,
    )
    config = dataclasses.replace(config, data=ArraysData(image_size=(16, 16), channels=1))
    experiment = build(config)
    params = experiment.init_params(jax.random.key(0))
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    # Zero at first, the last layer would see nothing.
    drawn = [x + 0.1 * jax.random.normal(key, x.shape) for x, key in zip(leaves, keys, strict=True)]
    mesh = make_mesh(devices=jax.devices()[:1])
    return Run(
        storage_path("runs/stage"), 4, experiment, tree.unflatten(drawn), name="ema", mesh=mesh
    )


@pytest.fixture(scope="module")
def stage():
    return stage_of()


@pytest.fixture(scope="module")
def base(trained):
    mesh = make_mesh(devices=jax.devices()[:1])
    return Run(storage_path("runs/tiny"), 6, *trained, name="ema", mesh=mesh)


def test_a_picture_is_enlarged_by_itself(stage):
    labels = np.arange(6, dtype=np.int32)
    all_ = enlarge(stage, SMALL, seed=3, labels=labels, **FEW).samples
    assert all_.shape == (6, 16, 16, 1)
    some = enlarge(stage, SMALL[2:4], seed=3, first=2, labels=labels[2:4], **FEW).samples
    np.testing.assert_allclose(some, all_[2:4], atol=1e-3)
    others = enlarge(stage, -SMALL, seed=3, labels=labels, **FEW).samples
    assert np.abs(others - all_).max() > 1e-2
    clean = enlarge(stage, SMALL, seed=3, noise=0.0, labels=labels, **FEW).samples
    assert np.abs(clean - all_).max() > 1e-2


def test_editing_enlarges_by_the_stage(stage):
    found = edit(stage, "upscale", SMALL, seed=3, **FEW).samples
    expected = enlarge(stage, SMALL, seed=3, labels="no class", **FEW)
    np.testing.assert_allclose(found.samples, expected.samples, atol=1e-5)
    with pytest.raises(UserError, match="this run only enlarges pictures: how must be upscale"):
        edit(stage, "vary", SMALL)


def test_a_cascade_enlarges_the_samples_of_its_base(base, stage):
    both = Cascade(base, stage)
    drawn = both.sample(4, seed=3, labels=[1, 2], **FEW)
    small = base.sample(4, seed=3, labels=[1, 2])
    assert drawn.samples.shape == (4, 16, 16, 1)
    assert drawn.labels is not None
    assert small.labels is not None
    assert drawn.labels.tolist() == small.labels.tolist() == [1, 2, 1, 2]
    seed = (3 + 0x9E3779B9) % 2**32
    again = enlarge(stage, np.clip(small.samples, -1, 1), seed=seed, labels=small.labels, **FEW)
    np.testing.assert_allclose(drawn.samples, again.samples, atol=1e-5)
    part = both.sample(2, seed=3, first=2, labels=[1, 2], **FEW)
    np.testing.assert_allclose(part.samples, drawn.samples[2:], atol=1e-3)
    about = describe_samples(both, both.config.sample, 4, 3, None)
    assert about["base"] == {
        k: describe_samples(base, base.config.sample, 4, 3, None)[k]
        for k in ("step", "params", "digest", "weaker", "classifier")
    }


def described(cascade):
    return describe_samples(cascade, cascade.config.sample, 4, 3, None)


def test_the_command_guides_the_last_stage(base, stage, monkeypatch):
    runs = {"base": base, "stage": stage, "weaker": stage}
    monkeypatch.setattr(opening, "load", lambda name, **options: runs[name])
    options = opening.Opening(guide="weaker")
    found = opening.open_run("base", options, then=["stage"], then_noise=0.4)
    assert described(found) == described(Cascade(base, stage, noise=0.4).guided(stage))


def test_what_decides_a_cascade_s_samples_is_described(base, stage):
    plain = described(Cascade(base, stage))
    assert described(Cascade(base, stage, noise=0.2)) == plain  # That of its config.
    assert described(Cascade(base, stage, noise=0.4)) != plain
    guided = described(Cascade(base, stage).guided(stage))
    assert described(Cascade(base, stage.guided(stage))) == guided
    assert plain != guided != described(Cascade(base.guided(base), stage)) != plain


def test_a_cascade_is_guided_and_watched_as_its_runs(base, stage):
    seen: list[Any] = []
    watched = Cascade(base, stage).watched(seen.append).sample(2, labels=[1, 2], **FEW)
    plain = Cascade(base, stage).sample(2, labels=[1, 2], **FEW)
    np.testing.assert_array_equal(watched.samples, plain.samples)
    assert [each.x.shape[1] for each in seen].count(16) == 4
    assert {each.x.shape[1] for each in seen} == {8, 16}
    weaker = stage_of()
    weaker.params = jax.tree.map(lambda leaf: 0.5 * leaf, weaker.params)
    cascade = Cascade(base, stage).guided(weaker)
    guided = cascade.sample(2, labels=[1, 2], guidance=2.0, **FEW)
    assert np.abs(guided.samples - plain.samples).max() > 1e-2


def test_a_conditioner_of_ones_own_draws_previews(tmp_path, monkeypatch):
    """What training draws beside x_t, here x_0 mirrored, is shown at sampling too."""

    def mirrored(shape):
        def draw(schedule, x_0, key):
            return Conditioning(image=x_0[:, :, ::-1])

        return Conditioner(draw, takes=("image",))

    monkeypatch.setitem(CONDITIONERS, "mirrored", mirrored)
    config = changed(
        UNET,
        diffusion={"condition": Choice("mirrored")},
        train={"steps": 2, "save_every": 2, "preview_every": 2},
        sample={"num": 4, **FEW},
    )
    train(config, tmp_path)
    assert (tmp_path / "samples" / "00000002.png").is_file()
    assert (tmp_path / "samples.png").is_file()
    source = open_source(config.data)
    seen = seen_in(build(config), source, 4)
    order = np.random.default_rng(config.seed).permutation(len(source))[:4]
    x_0 = to_unit(jnp.asarray(source.gather(order).examples))
    np.testing.assert_allclose(seen["conditioning"].image, x_0[:, :, ::-1], atol=1e-6)


def test_a_stage_of_ones_own_may_see_the_small_picture_alone(monkeypatch):
    def plain(shape):
        return Conditioner(lambda schedule, x_0, key: Conditioning(image=x_0), ("image",), factor=2)

    monkeypatch.setitem(CONDITIONERS, "plain", plain)
    experiment = build(changed(UNET, diffusion={"condition": Choice("plain")}))
    seen = seen_by(experiment, SMALL[:, :4, :4], seed=0, noise=None)
    np.testing.assert_array_equal(seen.image, SMALL[:, :4, :4].repeat(2, 1).repeat(2, 2))
    assert seen.image_noise is None


def test_what_does_not_fit_is_one_line(base, stage, monkeypatch):
    with pytest.raises(UserError, match="runs/tiny does not enlarge pictures; train a stage"):
        enlarge(base, SMALL)
    with pytest.raises(UserError, match="the pictures are 4×4×1; this stage enlarges 8×8×1"):
        enlarge(stage, SMALL[:, :4, :4])
    with pytest.raises(UserError, match=r"noise is 0.7; it must be in 0 … 0.5, the diffusion"):
        enlarge(stage, SMALL, noise=0.7)
    with pytest.raises(UserError, match="the pictures are 16×16×1; this stage enlarges 8×8×1"):
        Cascade(stage, stage)
    with pytest.raises(UserError, match="runs/tiny does not enlarge pictures"):
        Cascade(base, base)
    fewer = stage_of(model={"num_classes": 3})
    with pytest.raises(UserError, match="has 3 classes, and runs/tiny 10; give runs of the same"):
        Cascade(base, fewer)
    named = {base: [*"abcdefghij"], stage: [*"klmnopqrst"]}
    monkeypatch.setattr(Run, "class_names", property(lambda self: named[self]))
    with pytest.raises(UserError, match="its classes have other names than"):
        Cascade(base, stage)
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"diffusion.condition.factor is 3: it must be at least 2"):
        changed(UNET, diffusion={"condition": Choice("low_resolution", factor=3)})
    with pytest.raises(UserError, match=r"is .low_resolution.; it must be nothing"):
        dataclasses.replace(
            changed(UNET, diffusion={"condition": Choice("low_resolution")}),
            model=SmallUNetConfig(num_classes=10),
        )


def test_a_stage_has_no_bound(stage):
    pictures = ExampleSet(ArraySource(np.zeros((2, 16, 16, 1), np.uint8)), {})
    with pytest.raises(
        UserError, match="the network must be given image, image_noise with each ex"
    ):
        evaluate(stage, ["bits_per_dim"], reference=pictures)
