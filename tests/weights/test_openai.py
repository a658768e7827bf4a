"""OpenAI's networks: what the originals computed is kept in openai.npz, made by make_openai.py."""

import json
import re
from functools import cache
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from ddpm_jax import config as configs
from ddpm_jax.config import Choice
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import build
from ddpm_jax.weights.formats import Imported, import_weights
from ddpm_jax.weights.openai import unet_places
from ddpm_jax.weights.places import to_tensors
from tests.weights.formula import wave, weights

KEPT = dict(np.load(Path(__file__).parent / "openai.npz"))
OPTIONS = {
    "improved": {"num_heads": 4},
    "guided": {"num_head_channels": 32, "use_new_attention_order": True},
}
BASE = configs.load_file("folder")


@cache
def tensors(case: str) -> dict[str, np.ndarray]:
    return weights(json.loads(str(KEPT[f"{case}.shapes"])))


def imported(folder: Path, case: str, changed: dict | None = None, **options) -> Imported:
    """Imports a case, as .safetensors; PyTorch's own files give the same tensors by name."""
    kept = {name: it for name, it in (tensors(case) | (changed or {})).items() if it is not None}
    save_file(kept, folder / "x.safetensors")
    given = {"image_size": 8, **OPTIONS.get(case, {}), **options}
    return import_weights("openai", folder / "x.safetensors", BASE, **given)


@pytest.mark.parametrize("case", OPTIONS)
def test_outputs_are_the_originals_and_every_tensor_comes_back(case, tmp_path):
    found = imported(tmp_path, case)
    experiment = build(found.config)
    x = np.moveaxis(wave((2, 3, 8, 8), 1.0), 1, -1)
    conditioning = experiment.condition(np.array([0, 2]))
    y = jax.jit(lambda x, t: experiment.apply(found.params, x, t, conditioning, train=False))(
        x, np.array([1, 1000])
    )
    want = np.moveaxis(KEPT[f"{case}.y"], 1, -1)
    assert np.abs(y - want).max() <= 1e-4 * np.abs(want).max()
    places = unet_places(found.config.model, experiment.param_shapes, split_first=case == "guided")
    back = to_tensors(places, found.params)
    assert back.keys() == tensors(case).keys()
    assert all(np.array_equal(back[name], it) for name, it in tensors(case).items())


def test_names_and_shapes_say_what_the_network_is(tmp_path):
    config = imported(tmp_path, "improved").config
    model = configs.flatten(config)
    assert model["model.num_classes"] == 3
    assert model["model.scale_shift"] is True
    assert model["model.resampling"] == "convolution"
    assert model["model.attention"] == [4]
    assert model["model.heads"] == 4
    assert config.diffusion.schedule == Choice("linear", beta_1=1e-4, beta_T=0.02)
    assert config.sample.sampler.name == "ddpm-beta"
    guided = imported(tmp_path, "guided").config
    assert configs.flatten(guided)["model.resampling"] == "residual"
    assert configs.flatten(guided)["model.head_channels"] == 32
    assert configs.flatten(guided)["model.attention"] == [8, 4]


def test_rescaled_times_and_the_schedule_follow_the_steps(tmp_path):
    found = imported(
        tmp_path, "guided", diffusion_steps=4000, noise_schedule="cosine", rescale_timesteps=True
    )
    assert configs.flatten(found.config)["model.time_scale"] == 0.25
    assert found.config.diffusion.schedule.name == "cosine"
    found = imported(tmp_path, "guided", diffusion_steps=500, rescale_timesteps=False)
    assert configs.flatten(found.config)["model.time_scale"] == 1
    assert found.config.diffusion.schedule == Choice("linear", beta_1=2e-4, beta_T=0.04)


def test_another_order_of_qkv_is_another_network(tmp_path):
    right, wrong = (
        imported(tmp_path, "guided", use_new_attention_order=order).params["middle_attention"]
        for order in (True, False)
    )
    weight = tensors("guided")["middle_block.1.qkv.weight"][:, :, 0]
    np.testing.assert_array_equal(right["query"]["kernel"].T, weight[:128])
    np.testing.assert_array_equal(wrong["query"]["kernel"].T[:32], weight[:32])
    np.testing.assert_array_equal(wrong["key"]["kernel"].T[:32], weight[32:64])


def test_a_learned_variance_is_taken(tmp_path):
    found = imported(tmp_path, "learned", num_heads=2)
    assert found.config.diffusion.learned_variance == "learned"
    experiment = build(found.config)
    x = np.moveaxis(wave((2, 3, 8, 8), 1.0), 1, -1)
    conditioning = experiment.condition()
    y = jax.jit(lambda x, t: experiment.apply(found.params, x, t, conditioning, train=False))(
        x, np.array([1, 1000])
    )
    want = np.moveaxis(KEPT["learned.y"], 1, -1)
    assert np.abs(y - want).max() <= 1e-4 * np.abs(want).max()


QKV = "middle_block.1.qkv.weight"
NARROW = {
    name: np.zeros((16, 16, 3, 3), "f")
    for name in tensors("guided")
    if re.fullmatch(r"output_blocks\.\d+\.0\.out_layers\.3\.weight", name)
}
BAD = {
    "no steps' scale": ({}, {"diffusion_steps": 4000}, "needs --rescale_timesteps"),
    "a schedule unheard of": ({}, {"noise_schedule": "sqrt"}, "must be linear or cosine"),
    "no size": ({}, {"image_size": 0}, "--image_size is 0"),
    "another program's": ({"time_embed.0.weight": None}, {}, "no time_embed.0.weight of a UNetM"),
    "no way up": (
        {n: None for n in tensors("guided") if n.startswith("output_blocks.3")},
        {},
        "has 3 output_blocks, as no UNetModel has",
    ),
    "heads that do not fit": ({}, {"num_head_channels": 48}, "model.head_channels is 48"),
    "a first level of another width": (
        {"time_embed.0.weight": np.zeros((96, 24), "f")},
        {},
        "they must be multiples of 24, the width of the time embedding, and the first must be that",
    ),
    "groups of one channel": (
        {**NARROW, "time_embed.0.weight": np.zeros((64, 16), "f")},
        {},
        "channels, which don't make 32 groups of two or more",
    ),
    "a flat qkv": ({QKV: np.zeros((384, 128), "f")}, {}, "float32 [384, 128]; it must be a float"),
    "a tensor too many": ({"extra": np.zeros(1, "f")}, {}, "has extra, for which"),
}


@pytest.mark.parametrize("row", BAD)
def test_what_does_not_fit_is_one_line(row, tmp_path):
    changed, options, says = BAD[row]
    with pytest.raises(UserError) as told:
        imported(tmp_path, "guided", changed, **options)
    assert says in str(told.value)
    assert "\n" not in str(told.value)


def test_the_size_must_be_given(tmp_path):
    with pytest.raises(UserError, match="the format openai needs the option --image_size"):
        import_weights("openai", tmp_path / "x.pt", BASE)
