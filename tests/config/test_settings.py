"""The list of settings: what flags, help texts and forms are made of."""

import dataclasses
from typing import Annotated

import pytest

from ddpm_jax import config as configs
from ddpm_jax.config import Config, FolderData, SampleConfig, canonical
from ddpm_jax.diffusion import SAMPLERS
from ddpm_jax.errors import UserError


def test_every_setting_of_a_config_is_listed_with_its_value():
    listed = {each.name: each.default for each in configs.settings(Config())}
    for name, value in configs.flatten(Config()).items():
        if not name.endswith(".kind"):
            default = listed[name]
            assert (list(default) if isinstance(default, tuple) else default) == value
    # Beyond these are only options of rows that are not chosen.
    extra = set(listed) - set(configs.flatten(Config()))
    assert {"sample.sampler.eta", "diffusion.schedule.s", "diffusion.weighting.k"} <= extra
    assert all(listed[name] is None for name in extra)


def test_the_text_below_a_field_explains_it():
    docs = {each.name: each.doc() for each in configs.settings(Config(data=FolderData(path="x")))}
    assert docs["sample.steps"] == "Steps of the chain; None for all T."
    # Two lines become one, and an inherited field has the text of the class that defines it.
    assert docs["data.image_size"].startswith("Height and width of an example; pictures of")
    assert docs["sample.sampler.eta"] == "Of ddim, dpmpp-sde."
    assert docs["diffusion.schedule.beta_1"] == ("First variance. Of linear, quadratic, sigmoid.")
    sections = {each.name: each.section for each in configs.settings(Config())}
    assert sections["seed"] == ""
    assert sections["mesh.fsdp"] == "How devices share the work."


def test_an_option_explains_itself_in_its_rows_signature(monkeypatch):
    def row(schedule, *, stages: Annotated[int, "Stages of the solver."] = 2):
        return SAMPLERS["ddpm"](schedule)

    monkeypatch.setitem(SAMPLERS, "multistep", row)
    (found,) = [each for each in configs.settings(SampleConfig()) if each.name == "sampler.stages"]
    assert found.doc() == "Stages of the solver. Of multistep."
    assert found.type == int | None


def test_a_trailing_underscore_makes_a_name_of_a_keyword():
    @dataclasses.dataclass
    class Options:
        from_: str = "a"

    assert [each.name for each in configs.settings(Options())] == ["from"]


KNOWN = ("train.steps", "sample.steps", "sample.sampler", "sample.sampler.eta", "seed")


@pytest.mark.parametrize(
    ("name", "whole"),
    [
        ("train.steps", "train.steps"),
        ("sample.sampler.eta", "sample.sampler.eta"),
        ("sample.eta", "sample.sampler.eta"),
        ("seed", "seed"),
    ],
)
def test_an_option_may_leave_out_the_setting_that_chooses_its_row(name, whole):
    assert canonical(name, KNOWN) == whole


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("eta", "unknown setting --eta"),
        ("steps", "unknown setting --steps"),
        ("train.step", "unknown setting --train.step (did you mean --train.steps?)"),
        ("train.on_nan", "unknown setting --train.on_nan: it is now --train.on_nonfinite"),
    ],
)
def test_a_name_that_stands_for_nothing_is_answered_with_the_nearest(name, words):
    with pytest.raises(UserError) as caught:
        canonical(name, KNOWN, "--")
    assert str(caught.value).startswith(words)
