"""diffusers' folders: what it computes is kept in diffusers.npz, made by make_diffusers.py."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from ddpm_jax import config as configs
from ddpm_jax.config import Choice, Config
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import build
from ddpm_jax.weights.fields import Fields
from ddpm_jax.weights.formats import Imported, export_weights, import_weights
from ddpm_jax.weights.tensors import read_metadata, read_tensors
from tests.tiny import TINY
from tests.weights.formula import wave
from tests.weights.pipelines import CASES, KEPT, pipeline, tensors

BASE = configs.load_file("folder")


def imported(folder: Path, **options) -> Imported:
    return import_weights("diffusers", folder, BASE, **options)


@pytest.mark.parametrize("case", CASES)
def test_outputs_are_those_of_diffusers_and_every_tensor_comes_back(case, tmp_path, request):
    if case == "celebahq256" and not request.config.getoption("--long"):
        pytest.skip("six levels take a minute to compile; see --long")
    found = imported(pipeline(tmp_path / "theirs", case, flat=case == "cifar10"))
    experiment = build(found.config)
    shape, T = found.config.data.example_shape, np.array([0, 999])
    x = np.moveaxis(wave((2, 3, *shape[:2]), 1.0), 1, -1)
    conditioning = experiment.condition(np.array([1, 3]))
    y = jax.jit(lambda x, t: experiment.apply(found.params, x, t, conditioning, train=False))(
        x, T + 1
    )
    want = np.moveaxis(KEPT[f"{case}.y"], 1, -1)
    assert np.abs(y - want).max() <= 1e-4 * np.abs(want).max()
    assert export_weights("diffusers", found.config, found.params, tmp_path / "ours") == ()
    written = tmp_path / "ours/unet/diffusion_pytorch_model.safetensors"
    back = read_tensors(written)
    assert read_metadata(written) == {"format": "pt"}
    assert back.keys() == tensors(case).keys()
    for name, tensor in tensors(case).items():
        assert back[name].dtype == np.float32
        np.testing.assert_array_equal(back[name], tensor)
    # What is written means the same as what was read, and reads back as the same config.
    again = imported(tmp_path / "ours").config
    assert dataclasses.replace(again, init=None) == dataclasses.replace(found.config, init=None)


def test_the_published_fields_become_settings(tmp_path):
    config = imported(pipeline(tmp_path / "set", "cifar10", old_keys=True)).config
    model = dataclasses.asdict(config.model)
    for name, value in {
        "channels": 8,
        "multipliers": (1, 2, 2, 2),
        "attention": (4,),
        "head_channels": None,
        "norm_epsilon": 1e-6,
        "downsampling": "same",
        "time_embedding": "ho",
        "norm_groups": 4,
    }.items():
        assert model[name] == value
    assert config.data.example_shape == (8, 8, 3)
    assert config.diffusion.schedule == Choice("linear", beta_1=1e-4, beta_T=0.02)
    assert config.sample.sampler.name == "ddpm-beta"
    assert config.sample.clipping == Choice("clip", low=-1.0, high=1.0, eps="recomputed")
    assert config.init == f"diffusers:{tmp_path / 'set'}"


SCHEDULERS = {
    "fixed_small": ({"variance_type": "fixed_small"}, "sample.sampler", "ddpm"),
    "ddim": ({"_class_name": "DDIMScheduler", "variance_type": None}, "sample.sampler", "ddim"),
    "cosine": ({"beta_schedule": "squaredcos_cap_v2"}, "diffusion.schedule", "cosine"),
    "scaled": ({"beta_schedule": "scaled_linear"}, "diffusion.schedule", "quadratic"),
    "v": ({"prediction_type": "v_prediction"}, "diffusion.prediction", "v"),
    "old name": ({"timesteps": 1000}, "diffusion.timesteps", 1000),
    "unclipped": ({"clip_sample": False}, "sample.clipping", "none"),
}


@pytest.mark.parametrize("row", SCHEDULERS)
def test_fields_of_the_scheduler_become_settings(row, tmp_path):
    changed, name, value = SCHEDULERS[row]
    folder = pipeline(tmp_path / "set", scheduler=changed)
    if row == "ddim":
        file = folder / "scheduler/scheduler_config.json"
        saved = json.loads(file.read_text())
        file.write_text(json.dumps({k: v for k, v in saved.items() if k != "variance_type"}))
    config = imported(folder).config
    assert configs.flatten(config)[name] == value
    if row not in ("ddim", "old name"):
        export_weights("diffusers", config, imported(folder).params, tmp_path / "out")
        again = imported(tmp_path / "out").config
        assert configs.flatten(again)[name] == value


def test_the_last_class_may_be_no_class(tmp_path):
    found = imported(pipeline(tmp_path / "set"), null_class=True)
    assert found.config.model.num_classes == 3
    table = tensors("residual")["class_embedding.weight"]
    np.testing.assert_array_equal(found.params["condition"]["label"]["embedding"], table)
    dropping = configs.override(found.config, {"train.label_dropout": 0.1})
    export_weights("diffusers", dropping, found.params, tmp_path / "out")
    assert json.loads((tmp_path / "out/unet/config.json").read_text())["num_class_embeds"] == 4


def export_of(**changed) -> Config:
    small = {"data.image_size": (8, 8), "model.multipliers": (1,), "model.attention": ()}
    return configs.override(BASE, {**small, "model.channels": 32, "model.blocks": 1, **changed})


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (
            {"model.norm_groups": 32},
            "model.norm_groups is 32; for diffusers it must be the same .* train with 16",
        ),
        ({"model.time_scale": 0.5}, "model.time_scale is 0.5"),
        ({"diffusion.schedule.s": 0.1}, "diffusion.schedule is Choice"),
        ({"diffusion.shift": 2.0}, "diffusion.shift is 2.0; for diffusers it must be 1.0"),
        (
            {"diffusion.zero_terminal_snr": True, "diffusion.prediction": "v"},
            "diffusion.zero_terminal_snr is True; for diffusers it must be False",
        ),
        ({"diffusion.condition": "low_resolution"}, "diffusion.condition is low_resolution"),
        ({"diffusion.objective": "hybrid"}, "diffusion.objective is hybrid"),
        (
            {"sample.clipping": "dynamic"},
            "sample.clipping is .*; for diffusers it must be none",
        ),
        ({"model.heads": 2, "model.multipliers": (1, 2), "model.attention": (8,)}, "model.heads"),
    ],
)
def test_what_diffusers_can_not_compute_is_not_written(changed, says, tmp_path):
    config = export_of(**{"model.norm_groups": 8, **changed})
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, "f"), build(config).param_shapes)
    with pytest.raises(UserError, match=says):
        export_weights("diffusers", config, params, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_settings_that_a_pipeline_has_no_place_for_are_told(tmp_path):
    plain = {"model.norm_groups": 8, "model.num_classes": 3, "train.label_dropout": 0.1}
    shapes = build(export_of(**plain)).param_shapes
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, "f"), shapes)
    notes = export_weights("diffusers", export_of(**plain), params, tmp_path / "plain")
    assert not any("no place" in line or "without names" in line for line in notes)
    changed = {"sample.steps": 50, "sample.guidance": 1.5, "sample.num": 4}
    notes = export_weights(
        "diffusers",
        export_of(**plain, **changed),
        params,
        tmp_path / "other",
        class_names=("cat", "dog", "owl"),
    )
    assert notes[-1].endswith("without names: 0 = cat, 1 = dog, 2 = owl")
    (line,) = [line for line in notes if "no place" in line]
    assert line.endswith("no place for it: sample.steps = 50, sample.guidance = 1.5")


def test_another_network_is_not_written(tmp_path):
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, "f"), build(TINY).param_shapes)
    with pytest.raises(UserError, match=r"model\.kind is mlp; for diffusers it must be unet"):
        export_weights("diffusers", TINY, params, tmp_path / "out")


def test_a_file_of_fields_that_can_not_be_read_is_one_line(tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path} can't be read"):
        Fields(tmp_path)
