"""What every format promises: rows by name, options that are told, one line for what is wrong."""

import inspect
from typing import Any

import pytest

from ddpm_jax import config as configs
from ddpm_jax.config import Config
from ddpm_jax.errors import UserError
from ddpm_jax.tables import signature_of
from ddpm_jax.weights import formats
from ddpm_jax.weights.formats import READERS, WRITERS, export_weights, import_weights
from tests.weights.pipelines import pipeline


@pytest.mark.parametrize("name", READERS)
def test_a_source_that_is_not_there_is_one_line(name, tmp_path):
    options: Any = {
        option.name: 8
        for option in signature_of(READERS[name]).values()
        if option.default is inspect.Parameter.empty
    }
    with pytest.raises(UserError) as told:
        import_weights(name, tmp_path / "none", configs.load_file("folder"), **options)
    assert "\n" not in str(told.value)
    assert str(tmp_path / "none") in str(told.value)


@pytest.mark.parametrize("name", READERS)
def test_the_options_of_a_reader_have_a_help_text(name):
    assert all(option.doc for option in signature_of(READERS[name]).values())


@pytest.mark.parametrize("name", WRITERS)
def test_a_folder_that_is_there_is_left_alone(name, tmp_path):
    (tmp_path / "a").touch()
    with pytest.raises(UserError, match="is there already"):
        export_weights(name, Config(), {}, tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["a"]


def test_a_row_from_outside_is_found(tmp_path, monkeypatch):
    def other(source, *, sharp: bool = False):
        raise UserError(f"{source} was read, sharp: {sharp}")

    monkeypatch.setitem(formats.READERS, "other", other)
    with pytest.raises(UserError, match="was read, sharp: True"):
        import_weights("other", tmp_path, Config(), sharp=True)
    with pytest.raises(UserError, match="takes no 'soft'"):
        import_weights("other", tmp_path, Config(), soft=True)


def test_settings_may_be_replaced(tmp_path):
    folder, base = pipeline(tmp_path / "set"), configs.load_file("folder")
    found = import_weights("diffusers", folder, base, lambda config: {"model.dropout": 0.25})
    assert configs.flatten(found.config)["model.dropout"] == 0.25
    # What the weights decide can't be another: the map of names says so.
    with pytest.raises(UserError, match="which this network needs"):
        import_weights("diffusers", folder, base, lambda config: {"model.blocks": 2})
