"""The Annotated Diffusion Model: what its code computes is in annotated.npz (make_annotated.py)."""

import json
from functools import cache
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from ddpm_jax import config as configs
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import build
from ddpm_jax.weights.annotated import unet_places
from ddpm_jax.weights.formats import Imported, import_weights
from ddpm_jax.weights.places import to_tensors
from tests.weights.formula import wave, weights
from tests.weights.make_annotated import outputs

KEPT = dict(np.load(Path(__file__).parent / "annotated.npz"))
SEEDS = Path(__file__).parents[3] / "shared" / "seeds"
BASE = configs.load_file("folder")


@cache
def tensors(case: str) -> dict[str, np.ndarray]:
    return weights(json.loads(str(KEPT[f"{case}.shapes"])))


def imported(folder: Path, case: str, changed: dict | None = None, **options) -> Imported:
    kept = {name: it for name, it in (tensors(case) | (changed or {})).items() if it is not None}
    save_file(kept, folder / "x.safetensors")
    return import_weights(
        "annotated", folder / "x.safetensors", BASE, **{"image_size": 8, **options}
    )


@pytest.mark.parametrize("case", ["convnext", "resnet"])
def test_outputs_are_the_articles_and_every_tensor_comes_back(case, tmp_path):
    found = imported(tmp_path, case)
    experiment = build(found.config)
    x = np.moveaxis(wave((2, 3, 8, 8), 1.0), 1, -1)
    conditioning = experiment.condition()
    y = jax.jit(lambda x, t: experiment.apply(found.params, x, t, conditioning, train=False))(
        x, np.array([1, 200])
    )
    want = np.moveaxis(KEPT[f"{case}.y"], 1, -1)
    assert np.abs(y - want).max() <= 1e-4 * np.abs(want).max()
    back = to_tensors(unet_places(found.config.model, experiment.param_shapes), found.params)
    assert back.keys() == tensors(case).keys()
    assert all(np.array_equal(back[name], it) for name, it in tensors(case).items())
    flat = configs.flatten(found.config)
    assert flat["model.block"] == case
    assert flat["diffusion.timesteps"] == 200
    assert flat["sample.sampler"] == "ddpm"
    assert flat["sample.clipping"] == "none"


def test_what_is_kept_is_what_the_articles_code_says(monkeypatch):
    pytest.importorskip("torch", reason="pip install -e '.[weights]'")
    found = [path for path in SEEDS.glob("*.txt") if "class Unet(" in path.read_text()]
    if not found:
        pytest.skip("the article is not there: see make_annotated.py")
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    said = outputs(found[0])
    assert said.keys() == KEPT.keys()
    for name, value in said.items():
        if name.endswith(".shapes"):
            assert value == str(KEPT[name])
        else:
            np.testing.assert_allclose(value, KEPT[name], atol=1e-5)


BAD = {
    "a schedule unheard of": ({}, {"noise_schedule": "cosine"}, "must be one of linear, quad"),
    "another program's": ({"time_mlp.1.weight": None}, {}, "no time_mlp.1.weight of the article"),
    "a block too few": ({"downs.1.0.block2.proj.weight": None}, {}, "no downs.1.0.block2.proj.wei"),
    "a width of its own": (
        {"downs.1.0.block2.proj.weight": np.zeros((24, 24, 3, 3), "f")},
        {},
        "levels of [16, 24] channels; they must be multiples of 16",
    ),
    "groups of one channel": (
        {
            "time_mlp.1.weight": np.zeros((48, 12), "f"),
            "downs.0.0.block2.proj.weight": np.zeros((12, 12, 3, 3), "f"),
            "downs.1.0.block2.proj.weight": np.zeros((24, 24, 3, 3), "f"),
        },
        {},
        "levels of [12, 24] channels, which don't make 8 groups of two or more",
    ),
    "a tensor too many": ({"extra": np.zeros(1, "f")}, {}, "has extra, for which"),
}


@pytest.mark.parametrize("row", BAD)
def test_what_does_not_fit_is_one_line(row, tmp_path):
    changed, options, says = BAD[row]
    with pytest.raises(UserError) as told:
        imported(tmp_path, "resnet", changed, **options)
    assert says in str(told.value)
    assert "\n" not in str(told.value)
