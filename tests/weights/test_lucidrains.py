"""denoising-diffusion-pytorch: what it computed is in lucidrains.npz (make_lucidrains.py)."""

import json
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from ddpm_jax import config as configs
from ddpm_jax.config import Choice
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import build
from ddpm_jax.typing import Batch, Conditioning
from ddpm_jax.weights.formats import Imported, import_weights
from ddpm_jax.weights.lucidrains import unet_places
from ddpm_jax.weights.places import to_tensors
from tests.weights.formula import wave, weights

KEPT = dict(np.load(Path(__file__).parent / "lucidrains.npz"))
BASE = configs.load_file("folder")
T = 50
CASES = ("usual", "recalling", "learned")
TABLES = ("betas", "alphas_cumprod", "loss_weight")


@cache
def tensors(case: str) -> dict[str, np.ndarray]:
    return weights(json.loads(str(KEPT[f"{case}.shapes"])))


def imported(folder: Path, kept: dict, **options) -> Imported:
    there = {name: it for name, it in kept.items() if it is not None}
    save_file(there, folder / "x.safetensors")
    return import_weights("lucidrains", folder / "x.safetensors", BASE, image_size=8, **options)


def trainer(case: str, tables: str, changed: dict | None = None) -> dict[str, np.ndarray]:
    """A Trainer's file: EMA as given, and raw parameters twice as large."""
    own = {f"model.{name}": it for name, it in tensors(case).items()}
    own |= {name: KEPT[f"{tables}.{name}"] for name in TABLES} | (changed or {})
    own = {name: it for name, it in own.items() if it is not None}
    raw = {name: 2 * it if name.startswith("model.") else it for name, it in own.items()}
    rest = {"step": np.zeros(1), "opt.state.0.exp_avg": np.ones(3, "f")}
    return {
        **{f"ema.ema_model.{name}": it for name, it in own.items()},
        **{f"ema.online_model.{name}": it for name, it in raw.items()},
        **{f"model.{name}": it for name, it in raw.items()},
        **rest,
    }


@pytest.mark.parametrize("case", CASES)
def test_outputs_are_the_originals_and_every_tensor_comes_back(case, tmp_path):
    found = imported(tmp_path, tensors(case), timesteps=T)
    experiment = build(found.config)
    channels = found.config.data.example_shape[-1]
    x, image = (np.moveaxis(wave((2, channels, 8, 8), at), 1, -1) for at in (1.0, 2.0))
    conditioning = Conditioning(image=jnp.asarray(image) if case == "recalling" else None)
    y = jax.jit(lambda x, t: experiment.apply(found.params, x, t, conditioning, train=False))(
        x, np.array([1, T])
    )
    want = np.moveaxis(KEPT[f"{case}.y"], 1, -1)
    assert np.abs(y - want).max() <= 1e-4 * np.abs(want).max()
    back = to_tensors(unet_places(found.config.model, experiment.param_shapes), found.params)
    assert back.keys() == tensors(case).keys()
    assert all(np.array_equal(back[name], it) for name, it in tensors(case).items())


def test_shapes_say_what_the_network_is(tmp_path):
    usual, recalling, learned = (
        configs.flatten(imported(tmp_path, tensors(case)).config) for case in CASES
    )
    assert usual["data.channels"] == recalling["data.channels"] == 3
    assert learned["data.channels"] == 1
    assert usual["model.full_attention"] == learned["model.full_attention"] == [1]
    assert recalling["model.full_attention"] == [0]
    assert recalling["diffusion.condition"] == "self_conditioning"
    assert usual["diffusion.condition"] == learned["diffusion.condition"] == "nothing"
    assert (learned["diffusion.objective"], usual["diffusion.objective"]) == ("hybrid", "simple")
    assert learned["sample.sampler.variance"] == "learned"
    assert (usual["model.heads"], usual["model.head_channels"], usual["model.memory"]) == (2, 4, 4)
    # Their defaults, for a file that says nothing of them.
    assert usual["diffusion.timesteps"] == 1_000
    assert usual["diffusion.schedule"] == "sigmoid_alpha_bar"
    assert usual["diffusion.prediction"] == "v"


TOLD = {
    "pred_v": ("v", "sigmoid_alpha_bar", Choice("p2", gamma=0.0, k=1.0)),
    "pred_noise": ("eps", "linear", Choice("p2", gamma=0.0, k=1.0)),
    "pred_x0": ("x_0", "cosine", Choice("p2", gamma=0.0, k=1.0)),
    "min_snr": ("v", "cosine", Choice("min_snr", gamma=5.0)),
}


@pytest.mark.parametrize("case", TOLD)
def test_a_trainers_tables_say_schedule_prediction_and_weighting(case, tmp_path):
    found = imported(tmp_path, trainer("usual", case))
    diffusion = found.config.diffusion
    prediction, schedule, weighting = TOLD[case]
    assert diffusion.timesteps == T
    assert diffusion.prediction.name == prediction
    assert diffusion.schedule.name == schedule
    assert diffusion.weighting == weighting
    experiment = build(found.config)
    tables = experiment.schedule
    np.testing.assert_allclose(tables.beta[1:], KEPT[f"{case}.betas"], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(
        tables.alpha_bar[1:], KEPT[f"{case}.alphas_cumprod"], rtol=1e-4, atol=1e-7
    )
    # The weight of a loss, from the loss itself: an output that is wrong by one everywhere.
    t, zeros = jnp.arange(1, T + 1), jnp.zeros((T, 8, 8, 3))
    drawn = experiment.draw(Batch(zeros, None), 0)._replace(
        x_0=zeros, x_t=zeros, eps=zeros, t=t, conditioning=Conditioning()
    )
    losses = experiment.objective(zeros + 1, drawn)
    np.testing.assert_allclose(losses, KEPT[f"{case}.loss_weight"], rtol=2e-3)


def test_the_average_is_taken_unless_the_raw_ones_are_asked_for(tmp_path):
    ema, raw = (
        imported(tmp_path, trainer("usual", "pred_v"), params=name) for name in ("ema", "raw")
    )
    pairs = zip(jax.tree.leaves(ema.params), jax.tree.leaves(raw.params), strict=True)
    assert all(np.array_equal(2 * a, b) for a, b in pairs)


BAD = {
    "a schedule unheard of": ({}, {"beta_schedule": "quad"}, "must be one of linear, cosine, sig"),
    "another program's": ({"time_mlp.1.weight": None}, {}, "has no time_mlp.1.weight of the Unet"),
    "a first width of its own": (
        {"init_conv.weight": np.zeros((16, 3, 7, 7), "f")},
        {},
        "widths of [16, 8, 16] channels; they must be multiples of 8",
    ),
    "no width": (
        {
            "time_mlp.1.weight": np.zeros((32, 0), "f"),
            "init_conv.weight": np.zeros((0, 3, 7, 7), "f"),
        },
        {},
        "they must be multiples of 0",
    ),
    "heads that differ": (
        {"downs.1.2.mem_kv": np.zeros((2, 4, 4, 4), "f")},
        {},
        "has attention of other sizes in other levels: [(2, 4, 4), (4, 4, 4)]",
    ),
    "a tensor too many": ({"extra": np.zeros(1, "f")}, {}, "has extra, for which"),
    "no steps": ({}, {"timesteps": 0}, "--timesteps is 0"),
}


@pytest.mark.parametrize("row", BAD)
def test_what_does_not_fit_is_one_line(row, tmp_path):
    changed, options, says = BAD[row]
    with pytest.raises(UserError) as told:
        imported(tmp_path, tensors("usual") | changed, **options)
    assert says in str(told.value)
    assert "\n" not in str(told.value)


TORN = {
    "no table": ({"betas": None}, {}, "has no table betas of a GaussianDiffusion"),
    "another schedule": (
        {"alphas_cumprod": np.linspace(0.9, 0.1, T, dtype="f")},
        {},
        "has a noise schedule of its own",
    ),
    "another loss": ({"loss_weight": np.ones(T, "f") * 3}, {}, "no objective of its package has"),
    "tables of two lengths": (
        {"loss_weight": np.ones(T - 1, "f")},
        {},
        "its tables must have one length",
    ),
    "no steps": (dict.fromkeys(TABLES, np.ones(0, "f")), {}, "its tables must have one length"),
    "said twice": ({}, {"objective": "pred_v"}, "--objective must be left out: the tables in"),
}


@pytest.mark.parametrize("row", TORN)
def test_tables_that_do_not_fit_are_one_line(row, tmp_path):
    changed, options, says = TORN[row]
    with pytest.raises(UserError) as told:
        imported(tmp_path, trainer("usual", "pred_v", changed), **options)
    assert says in str(told.value)
    assert "\n" not in str(told.value)
