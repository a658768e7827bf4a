import dataclasses
import json
import typing

import pytest

from ddpm_jax import config as configs
from ddpm_jax.config import (
    Choice,
    Config,
    DiffusionConfig,
    DigitsData,
    FolderData,
    PointsData,
    SampleConfig,
    TfdsData,
    UNetConfig,
)
from ddpm_jax.diffusion import make_sampler, make_schedule, suited_sampler
from ddpm_jax.errors import UserError
from tests.tiny import UNET, changed

ANY = make_schedule("cosine", 20)
SECTIONS = {cls.kind: cls for cls in (DigitsData, FolderData, PointsData, TfdsData)}


@pytest.mark.parametrize("kind", [kind for kind in SECTIONS if kind != "points"])
def test_json_gives_the_same_config_back(kind):
    data = SECTIONS[kind]()
    model = UNetConfig(channels=8, multipliers=(1, 2), attention=(data.example_shape[0] // 2,))
    config = Config(data=data, model=model)
    assert configs.loads(configs.dumps(config)) == config
    assert json.loads(configs.dumps(config))["data"]["kind"] == kind


def test_what_json_leaves_out_takes_its_default():
    plain = {"model": {"attention": [4]}, "train": {"steps": 3}}
    config = configs.from_dict(plain)
    assert config.train.steps == 3
    assert config.train.batch_size == Config(model=UNetConfig(attention=(4,))).train.batch_size


@pytest.mark.parametrize(
    ("plain", "words"),
    [
        ({"trian": {}}, "unknown setting trian (did you mean train?)"),
        ({"train": {"batchsize": 3}}, "train.batchsize (did you mean batch_size?)"),
        ({"train": {"steps": "many"}}, "train.steps is 'many'; it must be int"),
        ({"train": {"steps": 1.5}}, "train.steps is 1.5; it must be int"),
        ({"train": {"steps": True}}, "train.steps is True; it must be int"),
        ({"data": {"kind": "digit"}}, "data.kind is 'digit'; it must be one of"),
        ({"train": 3}, "train is 3; it must be a table of settings"),
        ({"model": {"multipliers": 3}}, "model.multipliers is 3"),
        ({"model": {"dtype": "float16"}}, "model.dtype is 'float16'"),
    ],
)
def test_json_that_is_no_config_is_named(plain, words):
    with pytest.raises(UserError) as caught:
        configs.from_dict(plain)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_text_that_is_not_json_is_named_with_its_file():
    with pytest.raises(UserError, match=r"runs/x/config.json is not valid JSON"):
        configs.loads("{", "runs/x/config.json")


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"train": {"batch_size": 0}}, "train.batch_size is 0; it must be at least 1"),
        (
            {"train": {"gradient_accumulation_steps": 3}},
            "a divisor of train.batch_size, which is 16",
        ),
        ({"train": {"keep_every": 0}}, "train.keep_every is 0"),
        ({"train": {"steps_per_dispatch": 5}}, "a multiple of train.steps_per_dispatch"),
        ({"diffusion": {"timesteps": 0}}, "diffusion.timesteps is 0"),
        (
            {"diffusion": {"schedule": Choice("linear", beta_T=1.5)}},
            "diffusion.schedule.beta_T is 1.5; it must be between 0 and 1",
        ),
        (
            {"diffusion": {"schedule": Choice("linear", beta_1=0.5)}},
            "diffusion.schedule.beta_T is 0.02; it must be at least beta_1, which is 0.5",
        ),
        (
            {"diffusion": {"schedule": Choice("cosine", s=0.0)}},
            "diffusion.schedule.s is 0.0; it must be between 0 and 1",
        ),
        (
            {"diffusion": {"weighting": Choice("min_snr", gamma=0.0)}},
            "diffusion.weighting.gamma is 0.0; it must be above 0",
        ),
        (
            {"diffusion": {"weighting": Choice("p2", gamma=-1.0)}},
            "diffusion.weighting.gamma is -1.0; it must be 0 or more",
        ),
        (
            {"diffusion": {"weighting": Choice("p2", k=0.0)}},
            "diffusion.weighting.k is 0.0; it must be above 0",
        ),
        ({"diffusion": {"schedule": "cosin"}}, "did you mean cosine?"),
        ({"diffusion": {"prediction": "x0"}}, "did you mean x_0?"),
        (
            {"diffusion": {"zero_terminal_snr": True}},
            "diffusion.zero_terminal_snr is True; it must be False with eps, from which x_0 can't",
        ),
        (
            {"diffusion": {"zero_terminal_snr": True, "prediction": "v", "timesteps": 1}},
            "diffusion.zero_terminal_snr is True; it must be False where diffusion.timesteps is 1",
        ),
        ({"diffusion": {"shift": 0.0}}, "diffusion.shift is 0.0; it must be in 1/1,024 … 1,024"),
        (
            {"diffusion": {"objective": "classification"}, "model": {"num_classes": 0}},
            "model.num_classes is 0; it must be the number of classes for diffusion.objective cl",
        ),
        (
            {"sample": {"guidance_interval": (1.0, 0.0)}},
            "sample.guidance_interval is (1.0, 0.0); it must be two finite numbers, the first bel",
        ),
        (
            {"sample": {"classifier_scale": -1.0}},
            "classifier_scale is -1.0; it must be 0 or more",
        ),
        (
            {
                "sample": {"negative_label": 3},
                "train": {"label_dropout": 0.0},
                "model": {"num_classes": 0},
            },
            "sample.negative_label is 3; it must be None without labels",
        ),
        ({"diffusion": {"loss": "l3"}}, "diffusion.loss is 'l3'; it must be one of "),
        ({"sample": {"sampler": "dddm"}}, "sample.sampler is 'dddm'"),
        ({"sample": {"sampler": Choice("ddim", eta=2.0)}}, "sample.sampler.eta is 2"),
        ({"sample": {"sampler": Choice("ddim", eta="no")}}, "sample.sampler.eta is 'no'; it must"),
        ({"sample": {"sampler": Choice("ddim", etta=1.0)}}, "(did you mean eta?)"),
        ({"sample": {"sampler": 3}}, "sample.sampler is 3; it must be a Choice or a row's name"),
        ({"sample": {"steps": 21}}, "at most diffusion.timesteps, which is 20"),
        ({"sample": {"guidance": 1.0}, "train": {"label_dropout": 0.0}}, "sample.guidance is 1.0"),
        (
            {"model": {"multipliers": (1, 2, 2, 2, 2)}},
            "8×8, is not divisible by 16",
        ),
        ({"model": {"attention": (5,), "multipliers": (1, 2)}}, "the levels have 8, 4"),
        ({"model": {"heads": 3}}, "model.heads is 3"),
        ({"model": {"num_classes": 0}}, "train.label_dropout is 0.2; it must be 0 without labels"),
        (
            {"optimizer": {"method": Choice("adam", weight_decay=0.1)}},
            "optimizer.method.weight_decay is 0.1; it must be left out for adam, which has none "
            "(adamw has it)",
        ),
        ({"optimizer": {"method": Choice("adamw", weight_decay=-1.0)}}, "it must be 0 or more"),
        ({"optimizer": {"method": Choice("adam", beta1=1.0)}}, "optimizer.method.beta1 is 1.0"),
        ({"optimizer": {"method": Choice("adam", eps=0.0)}}, "optimizer.method.eps is 0.0"),
        ({"optimizer": {"learning_rate": float("nan")}}, "optimizer.learning_rate is nan"),
        ({"mesh": {"fsdp": 0}}, "mesh.fsdp is 0"),
        ({"optimizer": {"clip": float("inf")}}, "optimizer.clip is inf; it must be a finite"),
        ({"diffusion": {"schedule": "linear", "timesteps": 10_000}}, "lower beta_T"),
        (
            {"sample": {"sampler": Choice("ddpm", eta=0.5)}},
            "sample.sampler.eta is 0.5; it must be left out for ddpm, which has none (ddim, "
            "dpmpp-sde have it)",
        ),
    ],
)
def test_what_can_not_be_trained_is_refused_when_built(sections, words):
    with pytest.raises(UserError) as caught:
        changed(UNET, **sections)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_network_for_pictures_refuses_points():
    with pytest.raises(UserError, match="needs images"):
        dataclasses.replace(UNET, data=PointsData())


def test_differences_name_what_changed_and_tell_the_breaking_ones():
    new = changed(UNET, optimizer={"learning_rate": 0.5}, model={"channels": 16, "dropout": 0.5})
    assert configs.differences(UNET, new) == {
        "optimizer.learning_rate": (0.01, 0.5),
        "model.channels": (8, 16),
        "model.dropout": (0.1, 0.5),
    }
    assert configs.breaking(UNET, new) == {"model.channels": (8, 16)}
    other = changed(UNET, diffusion={"prediction": "v"})
    assert list(configs.breaking(UNET, other)) == ["diffusion.prediction"]
    ddim = changed(UNET, sample={"sampler": Choice("ddim", eta=0.5)})
    assert configs.differences(UNET, ddim) == {
        "sample.sampler": ("ddpm", "ddim"),
        "sample.sampler.variance": ("posterior", None),
        "sample.sampler.eta": (None, 0.5),
    }
    assert not configs.breaking(UNET, ddim)


def test_every_choice_of_a_table_is_taken():
    from ddpm_jax.diffusion import LOSSES, PARAMETERIZATIONS, SCHEDULES, WEIGHTINGS

    tables = {
        "schedule": SCHEDULES,
        "prediction": PARAMETERIZATIONS,
        "loss": LOSSES,
        "weighting": WEIGHTINGS,
    }
    for name, table in tables.items():
        for row in table:
            assert getattr(DiffusionConfig(**{name: row}), name).name == row


def test_every_setting_is_frozen_and_typed():
    for section in dataclasses.fields(Config):
        value = getattr(UNET, section.name)
        if dataclasses.is_dataclass(value):
            hints = typing.get_type_hints(type(value))
            for item in dataclasses.fields(value):
                assert item.name in hints
                with pytest.raises(dataclasses.FrozenInstanceError):
                    setattr(value, item.name, None)


def test_a_config_file_that_is_none_says_why(tmp_path):
    with pytest.raises(UserError, match=r"did you mean configs/digits.py\?"):
        configs.load_file("configs/digit.py")
    empty = tmp_path / "empty.py"
    empty.write_text("")
    with pytest.raises(UserError, match=r"has no get_config\(\)"):
        configs.load_file(empty)
    wrong = tmp_path / "wrong.py"
    wrong.write_text("def get_config():\n    return 3\n")
    with pytest.raises(UserError, match="returned int, not a Config"):
        configs.load_file(wrong)
    other = tmp_path / "config.json"
    other.write_text("{}")
    with pytest.raises(UserError, match=r"ends in .py"):
        configs.load_file(other)


@pytest.mark.parametrize(
    ("settings", "sampler", "grid"),
    [
        ({}, "ddpm", "strided"),
        ({"steps": 20}, "ddpm", "strided"),
        ({"steps": 7}, "dpmpp-sde", make_sampler("dpmpp-sde", ANY).grid),
        ({"steps": 7, "grid": "t2"}, "dpmpp-sde", "t2"),
        ({"steps": 7, "sampler": "ddim"}, "ddim", "strided"),
        ({"sampler": "deis"}, "deis", make_sampler("deis", ANY).grid),
    ],
)
def test_auto_settles_on_rows_and_a_named_row_is_kept(settings, sampler, grid):
    """All steps are ancestral, fewer a multistep method on its own grid."""
    sample = SampleConfig(**settings)
    settled = sample.settled(20)
    assert (settled.sampler.name, settled.grid.name) == (sampler, grid)
    assert settled.settled(20) == settled
    # What is saved is what was asked for.
    config = dataclasses.replace(UNET, sample=sample)
    assert configs.loads(configs.dumps(config)).sample == sample


def test_the_suited_sampler_follows_the_share_of_steps():
    few, more, every = ("dpmpp-sde", {"eta": 0.5}), ("dpmpp-sde", {}), ("ddpm", {})
    assert [suited_sampler(n, 1000) for n in (1, 9, 10, 999, 1000)] == [few, few, more, more, every]
    assert suited_sampler(5, 5) == every
    assert SampleConfig(steps=9).settled(20).sampler.options["eta"] == 0.5


def test_times_that_are_given_decide_instead_of_the_steps():
    assert SampleConfig().settled(20, steps=3).sampler.name == "dpmpp-sde"
    assert SampleConfig(steps=3).settled(20, steps=20).sampler.name == "ddpm"


def test_auto_takes_no_options():
    with pytest.raises(UserError, match=r"sample.sampler.eta is 0.5; it must be left out for auto"):
        SampleConfig(sampler=Choice("auto", eta=0.5))


def test_a_run_of_an_older_version_keeps_its_sampler_and_grid():
    """Format 1 before there was auto, and format 0, which knew no grid."""
    sample = configs.to_dict(UNET)["sample"] | {"sampler": "ddpm-beta", "grid": "strided"}
    old = configs.to_dict(UNET) | {"sample": sample}
    loaded = configs.loads(json.dumps(old | {"format": 1})).sample
    assert (loaded.sampler.name, loaded.grid.name) == ("ddpm-beta", "strided")
    loaded = configs.loads(json.dumps({"sample": {"sampler": "ddpm", "steps": 5}})).sample
    assert (loaded.sampler.name, loaded.grid.name) == ("ddpm", "strided")
