"""A row of a table and its options, as one setting."""

import copy
import dataclasses
import json
import pickle
from typing import Literal

import pytest

from ddpm_jax import config as configs
from ddpm_jax.config import (
    Choice,
    Config,
    DiffusionConfig,
    OptimizerConfig,
    SampleConfig,
    TrainConfig,
)
from ddpm_jax.config.choices import choice_fields
from ddpm_jax.diffusion import (
    CLIPPINGS,
    GUIDANCE,
    OBJECTIVES,
    SAMPLERS,
    SCHEDULES,
    TIME_GRIDS,
    WEIGHTINGS,
)
from ddpm_jax.diffusion.timestep_samplers import TIMESTEP_SAMPLERS
from ddpm_jax.errors import UserError
from ddpm_jax.optimizers import OPTIMIZERS
from ddpm_jax.tables import signature_of
from tests.tiny import UNET

SECTIONS = {"diffusion": DiffusionConfig, "optimizer": OptimizerConfig, "sample": SampleConfig}
ROWS = [
    (section, name, row)
    for section, cls in SECTIONS.items()
    for name, field in choice_fields(cls).items()
    for row in field.table
]


def test_a_rows_name_alone_is_completed_by_its_signature():
    assert SampleConfig(sampler="ddim").sampler == Choice("ddim", eta=0.0)
    assert DiffusionConfig().schedule == Choice("linear", beta_1=1e-4, beta_T=0.02)
    some = DiffusionConfig(schedule=Choice("linear", beta_T=0.1))
    assert some.schedule == Choice("linear", beta_1=1e-4, beta_T=0.1)


def test_equal_choices_make_equal_and_hashable_sections():
    one, other = (SampleConfig(sampler=it) for it in ("ddim", Choice("ddim", eta=0)))
    assert one == other
    assert hash(one) == hash(other)
    assert one != SampleConfig(sampler=Choice("ddim", eta=1.0))


@pytest.mark.parametrize(
    "make", [copy.copy, copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))]
)
def test_a_choice_is_copied_and_pickled(make):
    assert make(Choice("ddim", eta=0.5)) == Choice("ddim", eta=0.5)


@pytest.mark.parametrize(("section", "name", "row"), ROWS)
def test_every_row_goes_to_json_and_back(section, name, row):
    config = dataclasses.replace(UNET, **{section: SECTIONS[section](**{name: row})})
    plain = json.loads(configs.dumps(config))[section][name]
    assert plain["name"] == row
    table = choice_fields(SECTIONS[section])[name].table
    assert set(plain) == {"name", *signature_of(table[row])}
    assert configs.loads(configs.dumps(config)) == config


@pytest.mark.parametrize("plain", ["ddim", {"name": "ddim"}, {"name": "ddim", "eta": 0}])
def test_json_may_leave_out_options(plain):
    config = configs.from_dict({"model": {"attention": [4]}, "sample": {"sampler": plain}})
    assert config.sample.sampler == Choice("ddim", eta=0.0)


@pytest.mark.parametrize(
    ("plain", "words"),
    [
        ({"eta": 0.5}, "it must have the name of a row"),
        ({"name": "ddim", "eta": "a"}, "sample.sampler.eta is 'a'; it must be float"),
        ({"name": "ddmi"}, f"one of {', '.join(sorted([*SAMPLERS, 'auto']))} (did you mean ddim?)"),
        (["ddim"], "sample.sampler is ['ddim']; it must be a Choice or a row's name"),
    ],
)
def test_json_that_is_no_choice_is_named(plain, words):
    with pytest.raises(UserError) as caught:
        configs.from_dict({"sample": {"sampler": plain}})
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("words", "choice"),
    [
        ("ddim", Choice("ddim", eta=0.0)),
        ("ddim --eta 0.5", Choice("ddim", eta=0.5)),
        (" ddim  --eta=1 ", Choice("ddim", eta=1.0)),
    ],
)
def test_words_name_a_row_and_its_options(words, choice):
    assert SampleConfig(sampler=words).sampler == choice
    assert configs.override(UNET, {"sample.sampler": words}).sample.sampler == choice
    saved = {"model": {"attention": [4]}, "sample": {"sampler": words}}
    assert configs.from_dict(saved).sample.sampler == choice


def test_words_are_read_as_the_types_of_their_options(monkeypatch):
    def row(
        schedule,
        *,
        text: str = "a",
        kind: Literal["x", "y"] = "x",
        some: tuple[int, ...] = (),
        least: float | None = 0.5,
        is_on: bool = False,
    ):
        return SAMPLERS["ddpm"](schedule)

    monkeypatch.setitem(SAMPLERS, "added", row)
    words = "added --text 7 --kind y --some 3 --least None --is-on True"
    found = SampleConfig(sampler=words).sampler.options
    assert found == {"text": "7", "kind": "y", "some": (3,), "least": None, "is_on": True}
    assert SampleConfig(sampler="added --some 1 2").sampler.options["some"] == (1, 2)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("ddim eta 0.5", "sample.sampler is 'ddim eta 0.5'; it must be one of"),
        ("ddim --eta", "sample.sampler.eta is []; it must be float"),
        ("ddim --eta half", "sample.sampler.eta is 'half'; it must be float"),
        ("ddim --eta 0.5 1", "sample.sampler.eta is [0.5, 1]; it must be float"),
        ("ddim --etta 0.5", "(did you mean eta?)"),
        ("", "sample.sampler is ''; it must be one of"),
    ],
)
def test_words_that_are_no_choice_are_named(words, line):
    for config, name in ((UNET, "sample.sampler"), (SampleConfig(), "sampler")):
        with pytest.raises(UserError) as told:
            configs.override(config, {name: words})
        assert line in str(told.value)


def test_another_row_keeps_the_options_that_it_takes_too():
    config = configs.override(
        Config(),
        {"diffusion.schedule": Choice("linear", beta_1=1e-3, beta_T=0.03)},
    )
    other = configs.override(config, {"diffusion.schedule": "sigmoid"})
    assert other.diffusion.schedule == Choice("sigmoid", beta_1=1e-3, beta_T=0.03)
    cosine = configs.override(other, {"diffusion.schedule": "cosine"})
    assert cosine.diffusion.schedule == Choice("cosine", s=0.008)
    whole = configs.override(config, {"diffusion.schedule": Choice("sigmoid", beta_T=0.1)})
    assert whole.diffusion.schedule == Choice("sigmoid", beta_1=1e-4, beta_T=0.1)


@pytest.mark.parametrize("eta", ["sample.sampler.eta", "sample.eta"])
def test_a_row_and_its_option_are_set_together_in_any_order(eta):
    for settings in ({eta: 0.5, "sample.sampler": "ddim"}, {"sample.sampler": "ddim", eta: 0.5}):
        assert configs.override(UNET, settings).sample.sampler == Choice("ddim", eta=0.5)


def test_a_section_is_overridden_as_a_config_is():
    section = configs.override(UNET.sample, {"sampler": "ddim", "eta": 1, "steps": 5})
    assert section.sampler == Choice("ddim", eta=1.0)
    assert section.steps == 5
    assert section.num == UNET.sample.num
    assert configs.override(section, {"steps": None}).steps is None
    with pytest.raises(UserError, match=r"unknown setting stepz \(did you mean steps\?\)"):
        configs.override(UNET.sample, {"stepz": 5})


def test_an_option_that_two_choices_take_needs_its_whole_name(monkeypatch):
    monkeypatch.setitem(SCHEDULES, "gamma", lambda T, *, gamma=1.0: SCHEDULES["cosine"](T))
    with pytest.raises(UserError, match=r"it could be diffusion\.schedule\.gamma or diffusion\.w"):
        configs.override(Config(), {"diffusion.gamma": 1.0})


def added_schedule(T, *, steepness: float = 2.0):
    if steepness <= 0:
        raise ValueError(f"steepness is {steepness}; it must be above 0")
    return SCHEDULES["cosine"](T)


def added_weighting(log_snr, eps_loss_factor, *, steepness: float = 2.0):
    if steepness <= 0:
        raise ValueError(f"steepness is {steepness}; it must be above 0")
    return steepness * log_snr


def added_sampler(schedule, *, steepness: float = 2.0):
    if steepness <= 0:
        raise ValueError(f"steepness is {steepness}; it must be above 0")
    return SAMPLERS["ddpm"](schedule)


def added_optimizer(*, steepness: float = 2.0):
    if steepness <= 0:
        raise ValueError(f"steepness is {steepness}; it must be above 0")
    return OPTIMIZERS["adam"]()


def added_objective(schedule, parameterization, error, weight, *, steepness: float = 2.0):
    if steepness <= 0:
        raise ValueError(f"steepness is {steepness}; it must be above 0")
    return OBJECTIVES["simple"](schedule, parameterization, error, weight)


def added_timestep_sampler(T, *, steepness: float = 2.0):
    if steepness <= 0:
        raise ValueError(f"steepness is {steepness}; it must be above 0")
    return TIMESTEP_SAMPLERS["uniform"](T)


def added_grid(schedule, steps, *, steepness: float = 2.0):
    if steepness <= 0:
        raise ValueError(f"steepness is {steepness}; it must be above 0")
    return TIME_GRIDS["strided"](schedule, steps)


def added_clipping(schedule, *, steepness: float = 2.0):
    if steepness <= 0:
        raise ValueError(f"steepness is {steepness}; it must be above 0")
    return CLIPPINGS["none"](schedule)


def added_guidance(schedule, *, steepness: float = 2.0):
    if steepness <= 0:
        raise ValueError(f"steepness is {steepness}; it must be above 0")
    return GUIDANCE["classifier_free"](schedule)


ADDED = [
    ("diffusion.objective", OBJECTIVES, added_objective),
    ("train.timestep_sampler", TIMESTEP_SAMPLERS, added_timestep_sampler),
    ("sample.grid", TIME_GRIDS, added_grid),
    ("sample.clipping", CLIPPINGS, added_clipping),
    ("sample.guidance_method", GUIDANCE, added_guidance),
    ("diffusion.schedule", SCHEDULES, added_schedule),
    ("diffusion.weighting", WEIGHTINGS, added_weighting),
    ("sample.sampler", SAMPLERS, added_sampler),
    ("optimizer.method", OPTIMIZERS, added_optimizer),
]


@pytest.mark.parametrize(("setting", "table", "row"), ADDED)
def test_a_row_added_from_outside_is_found_by_the_config_with_no_second_edit(
    setting, table, row, monkeypatch
):
    from ddpm_jax.experiment import build

    monkeypatch.setitem(table, "added", row)
    config = configs.override(UNET, {setting: "added", f"{setting}.steepness": 3})
    assert configs.flatten(config)[f"{setting}.steepness"] == 3.0
    assert configs.loads(configs.dumps(config)) == config
    build(config)
    found = {each.name: each for each in configs.settings(UNET)}
    assert "added" in found[setting].rows
    assert found[f"{setting}.steepness"].doc() == "Of added."
    with pytest.raises(UserError) as caught:
        configs.override(config, {f"{setting}.steepness": 0.0})
    assert str(caught.value) == f"{setting}.steepness is 0.0; it must be above 0"


def test_options_that_do_not_go_together_are_named():
    with pytest.raises(UserError, match=r"^sample\.clipping\.low is 2\.0; it must be below high"):
        SampleConfig(clipping=Choice("clip", low=2, high=-2))


def test_an_option_without_a_default_must_be_given(monkeypatch):
    def needs(schedule, *, order: int):
        return SAMPLERS["ddpm"](schedule)

    monkeypatch.setitem(SAMPLERS, "needs", needs)
    assert SampleConfig(sampler=Choice("needs", order=2)).sampler.options == {"order": 2}
    with pytest.raises(UserError, match=r"sample\.sampler\.order is missing: needs needs it"):
        SampleConfig(sampler="needs")


TWO = {"ema": Choice("ema", decay=0.999), "slow": "ema"}


def test_several_choices_are_settings_by_their_names():
    config = dataclasses.replace(UNET, train=dataclasses.replace(UNET.train, averages=TWO))
    assert configs.loads(configs.dumps(config)) == config
    assert hash(config.train) == hash(copy.deepcopy(config.train))
    flat = configs.flatten(config)
    assert flat["train.averages.slow"] == "ema"
    assert flat["train.averages.slow.decay"] == 0.9999
    quick = configs.override(config, {"train.averages.slow.decay": 0.5})
    assert quick.train.averages["slow"] == Choice("ema", decay=0.5)
    assert quick.train.averages["ema"] == config.train.averages["ema"]
    known = {each.name: each.default for each in configs.settings(config)}
    assert known["train.averages.ema.decay"] == 0.999


def test_several_choices_are_replaced_by_words():
    config = dataclasses.replace(UNET, train=dataclasses.replace(UNET.train, averages=TWO))
    given = {"train.averages": ("ema", "short=power --sigma_rel 0.05", "mean=power")}
    found = configs.override(config, given).train.averages
    assert list(found) == ["ema", "short", "mean"]
    # A name alone keeps what it was.
    assert found["ema"] == config.train.averages["ema"]
    assert found["short"] == Choice("power", sigma_rel=0.05)
    assert found["mean"] == Choice("power", sigma_rel=0.1)
    together = {**given, "train.averages.ema.decay": 0.5}
    assert configs.override(config, together).train.averages["ema"] == Choice("ema", decay=0.5)
    (listed,) = [each for each in configs.settings(config) if each.name == "train.averages"]
    assert listed.default is None
    assert "averages of the parameters" in listed.doc()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ((), "train.averages is {}; it must be a table from at least one name to a row"),
        (("new",), "train.averages.new is 'new'; it must be one of ema, power"),
        (("power --sigma_rel=0.1",), "a name in train.averages is 'power --sigma_rel'; it must"),
        (("it=power --sigma_rel 0.9",), "train.averages.it.sigma_rel is 0.9: it must be above 0"),
        (3, "train.averages is 3; it must be a table"),
        (("a=ema", "b=ema", "a=power"), "a name in train.averages is 'a'; it must be given once"),
    ],
)
def test_words_that_are_no_averages_are_named(words, line):
    with pytest.raises(UserError) as told:
        configs.override(UNET, {"train.averages": words})
    assert line in str(told.value)


def test_an_option_of_an_average_that_is_not_kept_is_refused():
    given = {"train.averages": ("short=power",), "train.averages.ema.decay": 0.5}
    with pytest.raises(UserError, match=r"train.averages.ema.decay is set, and ema is not kept"):
        configs.override(UNET, given)


def test_another_first_average_is_a_change():
    train = dataclasses.replace(UNET.train, averages=TWO)
    config = dataclasses.replace(UNET, train=train)
    turned = configs.override(config, {"train.averages": ("slow", "ema")})
    assert turned.train == config.train
    assert configs.differences(config, turned) == {
        "train.averages": (["ema", "slow"], ["slow", "ema"])
    }


@pytest.mark.parametrize(
    ("averages", "words"),
    [
        ({}, "train.averages is {}; it must be a table from at least one name to a row"),
        (("ema",), "train.averages is ('ema',); it must be a table"),
        ({"a.b": "ema"}, "a name in train.averages is 'a.b'; it must be a word"),
        ({"raw": "ema"}, "without raw, which stands for the parameters themselves"),
        ({"ema": "emma"}, "train.averages.ema is 'emma'; it must be one of "),
        ({"ema": Choice("ema", decay=1.0)}, "train.averages.ema.decay is 1.0: it must be in"),
        ({"ema": Choice("ema", dekay=0.5)}, "(did you mean decay?)"),
    ],
)
def test_averages_that_cannot_be_are_named(averages, words):
    with pytest.raises(UserError) as told:
        TrainConfig(averages=averages)
    assert words in str(told.value)
