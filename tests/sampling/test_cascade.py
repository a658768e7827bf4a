"""Stages that enlarge pictures, by tiny networks with random parameters."""

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest

from ddpm_jax.config import ArraysData, Choice, SmallUNetConfig
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import build
from ddpm_jax.files import storage_path
from ddpm_jax.runtime.mesh import make_mesh
from ddpm_jax.sampling.cascade import Cascade, enlarge
from ddpm_jax.sampling.editing import edit
from ddpm_jax.sampling.run import Run
from ddpm_jax.sampling.shards import describe_samples
from tests.tiny import UNET, changed

FEW: dict[str, Any] = {"steps": 3, "batch_size": 4}
SMALL = np.random.default_rng(0).uniform(-1, 1, (6, 8, 8, 1)).astype(np.float32)


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
        for k in ("step", "params", "digest")
    }


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
