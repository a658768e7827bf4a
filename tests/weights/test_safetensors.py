"""Our own file of weights: what was written comes back, and starts other runs."""

import dataclasses

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from ddpm_jax import config as configs
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import build
from ddpm_jax.training.starting import first_weights
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
