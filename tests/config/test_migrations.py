"""Configs of every older format load for ever; each fixture was written by the code of its day."""

import json
from pathlib import Path

import pytest

from ddpm_jax import config as configs
from ddpm_jax.config import Choice, migrations
from ddpm_jax.config.format_0 import RENAMED
from ddpm_jax.errors import UserError

FOLDER = Path(__file__).parent / "format_0"
FIXTURES = sorted(path.stem for path in FOLDER.glob("*.json"))
every_fixture = pytest.mark.parametrize("name", FIXTURES)


def plain(name):
    return json.loads((FOLDER / f"{name}.json").read_text())


@every_fixture
def test_a_config_of_format_0_loads_with_all_its_settings(name):
    old = plain(name)
    config = configs.loads(json.dumps(old))
    flat = configs.flatten(config)
    for section, settings in old.items():
        if not isinstance(settings, dict):
            assert flat[section] == settings
            continue
        for setting, value in settings.items():
            today = TODAY.get(f"{section}.{setting}", f"{section}.{setting}")
            if f"{section}.{setting}" == "sample.clip":
                assert flat["sample.clipping"] == ("clip" if value else "none")
            elif today in flat:
                assert flat[today] == value, today
            else:  # It was an option of a row that was not chosen, or was left to its row.
                assert f"{section}.{setting}" in OPTIONS


TODAY = {
    "train.accumulate": "train.gradient_accumulation_steps",
    "train.on_nan": "train.on_nonfinite",
    "train.max_bad_steps": "train.max_nonfinite_steps",
    "train.ema_decay": "train.averages.ema.decay",
    "diffusion.beta_1": "diffusion.schedule.beta_1",
    "diffusion.beta_T": "diffusion.schedule.beta_T",
    "diffusion.s": "diffusion.schedule.s",
    "sample.eta": "sample.sampler.eta",
    "optimizer.name": "optimizer.method",
    "optimizer.beta1": "optimizer.method.beta1",
    "optimizer.beta2": "optimizer.method.beta2",
    "optimizer.eps": "optimizer.method.eps",
    "optimizer.weight_decay": "optimizer.method.weight_decay",
}
OPTIONS = {
    *(f"diffusion.{name}" for name in ("beta_1", "beta_T", "s", "min_snr_gamma", "p2_gamma")),
    "diffusion.p2_k",
    "sample.eta",
    "optimizer.weight_decay",
}


@every_fixture
def test_what_is_lifted_is_written_in_todays_format_and_read_back(name):
    config = configs.loads(json.dumps(plain(name)))
    text = configs.dumps(config)
    assert json.loads(text)["format"] == configs.FORMAT == len(migrations.MIGRATIONS)
    assert configs.loads(text) == config


ROWS = [
    ({"diffusion": {"weighting": "min_snr", "min_snr_gamma": 3.0, "p2_gamma": 9.0}},
     "diffusion.weighting", Choice("min_snr", gamma=3.0)),
    ({"diffusion": {"weighting": "p2", "p2_gamma": 0.5, "p2_k": 2.0, "min_snr_gamma": 9.0}},
     "diffusion.weighting", Choice("p2", gamma=0.5, k=2.0)),
    ({"diffusion": {"schedule": "sigmoid", "beta_1": 1e-3, "beta_T": 0.03, "s": 0.1}},
     "diffusion.schedule", Choice("sigmoid", beta_1=1e-3, beta_T=0.03)),
    ({"diffusion": {"schedule": "cosine", "beta_1": 1e-3, "s": 0.1}},
     "diffusion.schedule", Choice("cosine", s=0.1)),
    ({"diffusion": {"beta_T": 0.03}},
     "diffusion.schedule", Choice("linear", beta_1=1e-4, beta_T=0.03)),
    ({"sample": {"sampler": "ddim", "eta": 0.5}}, "sample.sampler", Choice("ddim", eta=0.5)),
    ({"sample": {"sampler": "ddim", "eta": None}}, "sample.sampler", Choice("ddim", eta=0.0)),
    ({"optimizer": {"name": "adamw", "beta1": 0.8, "beta2": 0.9, "eps": 1e-6, "weight_decay": 0.1}},
     "optimizer.method", Choice("adamw", beta1=0.8, beta2=0.9, eps=1e-6, weight_decay=0.1)),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "where", "expected"), ROWS)
def test_a_row_and_its_options_become_one_value(settings, where, expected):
    section, name = where.split(".")
    config = configs.from_saved({"model": {"attention": [4]}, **settings})
    assert getattr(getattr(config, section), name) == expected


@pytest.mark.parametrize(("old", "new"), list(RENAMED.items()))
def test_an_old_name_typed_today_is_answered_with_the_new_one(old, new):
    with pytest.raises(UserError, match=f"unknown setting {old}: it is now {new}"):
        configs.override(configs.Config(), {old: 1})


def test_a_broken_migration_is_noticed(monkeypatch):
    forgetful = migrations.Migration(config=lambda config: config)
    monkeypatch.setattr(migrations, "MIGRATIONS", (forgetful,))
    with pytest.raises(UserError, match=r"unknown setting diffusion\.beta_1"):
        configs.loads(json.dumps(plain("digits")))


@pytest.mark.parametrize(
    ("saved", "words"),
    [
        (configs.FORMAT + 1, f"knows formats up to {configs.FORMAT}; update ddpm_jax"),
        ("new", "format is 'new'; it must be a whole number"),
        (-1, "format is -1; it must be a whole number"),
    ],
)
def test_a_format_that_is_not_known_is_one_line(saved, words):
    with pytest.raises(UserError) as caught:
        configs.loads(json.dumps({"format": saved}), "runs/x/config.json")
    assert str(caught.value).startswith("runs/x/config.json: format is")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_each_step_lifts_the_arrays_with_the_config_of_before(monkeypatch):
    steps = (
        migrations.Migration(
            config=lambda config: {"width": config["channels"]},
            arrays=lambda arrays, config: {"b": arrays["a"] * config["channels"]},
        ),
        migrations.Migration(
            config=lambda config: {"width": 2 * config["width"]},
            arrays=lambda arrays, config: {"c": arrays["b"] + config["width"]},
        ),
    )
    monkeypatch.setattr(migrations, "MIGRATIONS", steps)
    monkeypatch.setattr(migrations, "FORMAT", 2)
    assert migrations.lift({"channels": 3}, 0) == {"width": 6}
    assert migrations.lift_arrays({"a": 5}, {"channels": 3}, 0) == {"c": 18}
    assert migrations.lift_arrays({"b": 5}, {"width": 3}, 1) == {"c": 8}
    assert migrations.lift_arrays({"c": 5}, {"width": 3}, 2) == {"c": 5}


@pytest.mark.parametrize("text", ['{"train": 3}', '{"diffusion": [1]}', "[]"])
def test_what_is_no_table_of_settings_is_named(text):
    with pytest.raises(UserError, match="it must be a table of settings"):
        configs.loads(text)


def test_a_step_says_what_format_0_implied_and_asks_no_default_of_today():
    for sampler, expected in (("ddpm", {"variance": "posterior"}), ("ddim", {"eta": 0.0})):
        lifted = migrations.lift({"sample": {"sampler": sampler, "eta": None}}, 0)
        assert lifted["sample"]["sampler"] == {"name": sampler, **expected}
    lifted = migrations.lift({"sample": {"sampler": "ddim", "eta": 0.5}}, 0)
    assert lifted["sample"]["sampler"] == {"name": "ddim", "eta": 0.5}
