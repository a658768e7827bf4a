"""Config files: by path, and the shipped ones by name."""

import json
from pathlib import Path

import pytest

from ddpm_jax import config as configs
from ddpm_jax.config.files import SHIPPED, find_file
from ddpm_jax.errors import UserError

ROOT = Path(__file__).parents[2]


def test_the_shipped_configs_are_those_of_the_folder_configs():
    shipped = {path.name: path.read_text() for path in SHIPPED.glob("*.py")}
    assert shipped == {path.name: path.read_text() for path in (ROOT / "configs").glob("*.py")}
    assert len(shipped) > 10


def test_the_wheel_carries_them():
    setuptools = pytest.importorskip("setuptools")
    found = setuptools.find_namespace_packages(where=str(ROOT), include=["ddpm_jax*"])
    assert "ddpm_jax.shipped_configs" in found


def test_a_shipped_config_is_found_by_its_name_in_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert configs.load_file("digits") == configs.load_file(ROOT / "configs" / "digits.py")
    # One that is derived from another finds it beside itself.
    assert configs.load_file("swiss_roll_noise").train.steps == 234_000


def test_a_path_that_exists_comes_before_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").write_text("")
    assert find_file("digits") == Path("digits")
    with pytest.raises(UserError, match=r"digits is not a Python file; a config file ends in \.py"):
        configs.load_file("digits")


def test_an_unknown_name_is_answered_with_the_nearest_or_all(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"config digit \(did you mean digits\?\)"):
        find_file("digit")
    with pytest.raises(
        UserError, match=r"the shipped ones are arrays, celebahq256, cifar10, cifar10_upscale, d"
    ):
        find_file("zzz")
    with pytest.raises(UserError, match=r"no config file configs/digits\.py"):
        find_file("configs/digits.py")


def test_json_begins_with_its_format():
    text = configs.dumps(configs.Config())
    assert next(iter(json.loads(text))) == "format"
