"""Words, and what is made of them."""

import re
from dataclasses import dataclass

import pytest

from ddpm_jax import config as configs
from ddpm_jax.cli import sample
from ddpm_jax.cli.arguments import built, options_of, read_command, settings_of
from ddpm_jax.cli.flags import read, split
from ddpm_jax.config import Choice, Config, PointsData
from ddpm_jax.diffusion import GUIDANCE
from ddpm_jax.errors import UserError
from tests.config.test_choices import ADDED
from tests.tiny import UNET, changed

SETTINGS = configs.settings(UNET)


@dataclass(frozen=True)
class Options:
    """Does something."""

    num: int | None = None
    """How many."""
    names: tuple[str, ...] = ()
    json: bool = False
    from_: str | None = None


def test_only_what_is_given_is_returned_under_its_whole_name():
    assert read("ddpm", [], SETTINGS) == {}
    words = ["--train.steps", "3", "--sample.eta=0.5", "--optimizer.clip", "None"]
    words += ["--model.multipliers", "1", "2", "--train.batch-size", "4", "--data.flip", "False"]
    assert read("ddpm", words, SETTINGS) == {
        "train.steps": 3,
        "sample.sampler.eta": 0.5,
        "optimizer.clip": None,
        "model.multipliers": (1, 2),
        "train.batch_size": 4,
        "data.flip": False,
    }


def test_names_of_averages_may_have_any_underscores():
    for name in ("a__b", "c_", "__d"):
        settings = configs.settings(changed(UNET, train={"averages": {name: "ema"}}))
        given = read("ddpm", [f"--train.averages.{name}.decay", "0.5"], settings)
        assert given == {f"train.averages.{name}.decay": 0.5}


REFUSED = [
    (["--train.steps", "many"], "--train.steps is many; it must be a whole number"),
    (["--optimizer.clip=a"], "--optimizer.clip is a; it must be a number or None"),
    (["--model.multipliers", "a", "b"], "--model.multipliers is a b; it must be any number of"),
    (["--train.steps"], "--train.steps needs a value"),
    (["--train.steps", "--seed", "1"], "--train.steps needs a value"),
    (["--seed", "1", "fast"], "fast"),
    (["--data.flip", "3"], "'True', 'False'"),
    (["--sedd", "1"], "unknown setting --sedd (did you mean --seed?)"),
    (["--train.accumulate", "2"], "it is now --train.gradient_accumulation_steps"),
]


@pytest.mark.parametrize(("words", "line"), REFUSED)
def test_what_can_not_be_read_is_one_line_that_names_the_help(words, line):
    with pytest.raises(UserError) as caught:
        read("ddpm train digits", words, SETTINGS)
    assert line in str(caught.value)
    assert str(caught.value).endswith("; see ddpm train digits --help")
    assert "\n" not in str(caught.value)


def test_a_commands_own_options_are_a_dataclass():
    words = ["--num", "3", "--json", "--names", "a", "b", "--from", "here"]
    assert options_of(Options, "ddpm", words) == Options(3, ("a", "b"), True, "here")
    assert options_of(Options, "ddpm", ["--names"]) == Options()
    assert built(Options, {"from": "there"}).from_ == "there"
    assert [each.name for each in settings_of(Options)] == ["num", "names", "json", "from"]


def test_flags_are_split_with_their_values():
    words = ["stray", "--data.a", "1", "2", "--b", "3", "--data.c=4", "--data-x"]
    taken, rest = split(words, lambda name: name.startswith("data."))
    assert taken == ["--data.a", "1", "2", "--data.c=4"]
    assert rest == ["stray", "--b", "3", "--data-x"]


def test_a_request_has_target_options_and_the_config_with_its_settings_replaced():
    words = ["swiss_roll", "--num", "2", "--train.steps", "100", "--sample.sampler", "ddim"]
    asked = read_command("ddpm x", "CONFIG", [*words, "--sample.eta", "0.5", "--json"], Options)
    assert asked.target == "swiss_roll"
    assert asked.options == Options(num=2, json=True)
    assert isinstance(asked.config.data, PointsData)
    assert asked.config.train.steps == 100
    assert asked.config.sample.sampler == Choice("ddim", eta=0.5)


@pytest.mark.parametrize(("setting", "table", "row"), ADDED)
def test_a_row_added_from_outside_has_its_flags_and_its_help(
    setting, table, row, monkeypatch, capsys
):
    monkeypatch.setitem(table, "added", row)
    words = [f"--{setting}", "added", f"--{setting}.steepness", "3"]
    given = read("ddpm", words, configs.settings(Config()))
    assert given == {setting: "added", f"{setting}.steepness": 3.0}
    with pytest.raises(SystemExit):
        read("ddpm", ["--help"], configs.settings(Config()))
    said = capsys.readouterr().out
    assert f"--{setting}.steepness" in said
    assert "Of added." in said
    # The help breaks a long list of rows anywhere.
    assert re.search("[{,]added[,}]", "".join(said.replace("│", " ").split()))


def test_sample_shortens_only_the_names_that_nothing_else_has(monkeypatch):
    """Rows with an option of one name, or with that of a setting, keep their whole names."""

    def interval(schedule, *, low: float = 0.0, steps: int = 3):
        return GUIDANCE["classifier_free"](schedule)

    monkeypatch.setitem(GUIDANCE, "interval", interval)
    names = {each.name for each in sample.flags()}
    assert {"eta", "high", "clipping.low", "guidance_method.low", "steps"} <= names
    assert "guidance_method.steps" in names
    assert "low" not in names
    words = ["--clipping.low", "-0.5", "--guidance_method.low", "0.2", "--steps", "4"]
    given = read("ddpm sample", [*words, "--eta", "0.5"], sample.flags())
    assert given == {"clipping.low": -0.5, "guidance_method.low": 0.2, "steps": 4, "eta": 0.5}
    given |= {"sampler": "ddim", "guidance_method": "interval", "clipping": "clip"}
    section = configs.override(UNET.sample, given)
    assert section.clipping == Choice("clip", low=-0.5, high=1.0, eps="recomputed")
    assert section.guidance_method == Choice("interval", low=0.2, steps=3)
    with pytest.raises(UserError, match=r"it could be --clipping\.low or --guidance_method\.low"):
        read("ddpm sample", ["--low", "0.1"], sample.flags())


def test_help_has_every_setting_with_its_text_and_default(capsys):
    with pytest.raises(SystemExit):
        read("ddpm train CONFIG", ["--help"], SETTINGS, "Trains it.")
    said = capsys.readouterr().out
    assert "usage: ddpm train CONFIG" in said
    assert "Trains it." in said
    for each in SETTINGS:
        assert f"--{each.name}" in said
    assert "Steps of the chain; None for all T." in " ".join(said.replace("│", " ").split())
