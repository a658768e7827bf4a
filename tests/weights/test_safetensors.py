"""Our own file of weights: what was written comes back, and starts other runs."""

import dataclasses

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from ddpm_jax import config as configs
from ddpm_jax.checkpoints.checkpoint import Checkpoints
from ddpm_jax.data.identity import describe_source
from ddpm_jax.data.source import ArraySource
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import build
from ddpm_jax.sampling.run import load
from ddpm_jax.training.resuming import same_labels
from ddpm_jax.training.starting import first_weights, write_first
from ddpm_jax.weights.formats import export_weights, import_weights
from tests.tiny import UNET, assert_same

BASE = configs.load_file("folder")


def test_what_is_written_comes_back(tmp_path):
    rng = np.random.default_rng(0)
    shapes = build(UNET).param_shapes
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype("f"), shapes)
    assert export_weights("safetensors", UNET, params, tmp_path / "out") == ()
    (tmp_path / "plain").touch()
    (written,) = (tmp_path / "out").iterdir()
    assert written.stat().st_mode == (tmp_path / "plain").stat().st_mode
    found = import_weights("safetensors", tmp_path / "out", BASE)
    assert_same(found.params, params)
    assert found.config.model == UNET.model
    assert found.config.diffusion == UNET.diffusion
    assert found.config.sample == UNET.sample
    assert found.config.data.example_shape == (8, 8, 1)
    started = first_weights(
        build(dataclasses.replace(UNET, init=f"safetensors:{tmp_path / 'out'}"))
    )
    assert started is not None
    assert_same(dict(sorted(started.arrays.items())), jax.tree.leaves(params))


CLASSED = dataclasses.replace(UNET, model=dataclasses.replace(UNET.model, num_classes=2))


def test_the_names_of_classes_go_with_the_weights(tmp_path):
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, "f"), build(CLASSED).param_shapes)
    names = ("wolf", "cat")
    assert export_weights("safetensors", CLASSED, params, tmp_path / "out", class_names=names) == ()
    found = import_weights("safetensors", tmp_path / "out", BASE)
    assert found.class_names == names
    run = tmp_path / "run"
    write_first(found.config, found.params, run, found.class_names)
    assert load(run).class_names == names
    # Training goes on with these labels, in whatever order the data has its classes.
    images = np.zeros((4, 8, 8, 1), np.uint8)
    source = ArraySource(images, np.array([0, 1, 0, 1], np.int32), ("cat", "wolf"))
    described = describe_source(source)
    known, changes = same_labels(found.config, Checkpoints(run), 0, source, described)
    assert (tuple(known.class_names), changes) == (names, {})
    others = ArraySource(images, np.zeros(4, np.int32), ("cat", "dog"))
    with pytest.raises(UserError, match=r"data.classes.0 = 'wolf', and the data has 'cat'"):
        same_labels(found.config, Checkpoints(run), 0, others, describe_source(others))


@pytest.mark.parametrize("names", ['["cat"]', '["cat", "cat"]', '["cat", 1]', '{"0": "cat"}', "["])
def test_names_that_are_not_those_of_the_classes_are_refused(names, tmp_path):
    header = {"config": configs.dumps(CLASSED), "class_names": names}
    save_file({"a": np.zeros(2, "f")}, tmp_path / "x.safetensors", header)
    with pytest.raises(UserError, match="has class_names that are not 2 names"):
        import_weights("safetensors", tmp_path / "x.safetensors", BASE)


def test_a_file_of_others_is_refused(tmp_path):
    save_file({"a": np.zeros(2, "f")}, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=r"x.safetensors has no config in its header"):
        import_weights("safetensors", tmp_path / "x.safetensors", BASE)
    save_file({"a": np.zeros(2, "f")}, tmp_path / "x.safetensors", {"config": '{"format": 1'})
    with pytest.raises(UserError, match=r"the header of .*x.safetensors is not valid JSON"):
        import_weights("safetensors", tmp_path / "x.safetensors", BASE)
    points = configs.dumps(configs.load_file("swiss_roll"))
    save_file({"a": np.zeros(2, "f")}, tmp_path / "x.safetensors", {"config": points})
    with pytest.raises(UserError, match=r"for examples of shape \(2,\), not for images"):
        import_weights("safetensors", tmp_path / "x.safetensors", BASE)
