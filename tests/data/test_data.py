"""Every row of SOURCES, by the same laws, and how a source is opened."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from ddpm_jax import config as configs
from ddpm_jax.config import Config, DigitsData, MlpConfig, SampleConfig, UNetConfig
from ddpm_jax.data import SOURCES, count_examples, open_source, resolve, settings_of
from ddpm_jax.data.identity import describe_source
from ddpm_jax.data.source import ArraySource
from ddpm_jax.errors import UserError
from ddpm_jax.reports.inspection import inspect
from ddpm_jax.typing import is_image
from tests.data.examples import example_config, is_there


@pytest.fixture(params=SOURCES)
def config(request, tmp_path):
    """A config of each row, with the facts that its data would give."""
    found = example_config(request.param, tmp_path)
    if not is_there(found):
        pytest.skip(f"{found} is not prepared")
    none = SampleConfig(clipping="none")
    return resolve(Config(data=found, model=_network(found), sample=none)).data


def _network(data):
    image = data.kind == "picture" or is_image(data.example_shape)
    plain = UNetConfig(channels=8, multipliers=(1,), blocks=1, attention=())
    return plain if image else MlpConfig(width=4, layers=1)


def test_a_row_is_named_as_its_settings_say():
    assert {name: settings_of(row).kind for name, row in SOURCES.items()} == {
        name: name for name in SOURCES
    }


def test_examples_have_the_configs_shape_and_are_counted(config):
    source = open_source(config)
    assert source.shape == config.example_shape
    batch = source.gather(np.arange(min(3, len(source))))
    assert batch.examples.shape == (min(3, len(source)), *config.example_shape)
    assert batch.examples.dtype == (np.uint8 if is_image(source.shape) else np.float32)
    assert count_examples(config) == len(source) > 0


def test_labels_are_there_exactly_if_the_classes_have_names(config):
    source = open_source(config)
    labels = source.gather(np.arange(min(64, len(source)))).labels
    assert (labels is None) == (not source.class_names)
    if labels is not None:
        assert labels.dtype == np.int32
        assert 0 <= labels.min() <= labels.max() < len(source.class_names)


def test_the_same_index_gives_the_same_example_in_any_order_and_at_any_start(config):
    source, again = open_source(config), open_source(config)
    order = np.random.default_rng(0).permutation(len(source))[:20]
    one, other = source.gather(order), again.gather(order[::-1])
    np.testing.assert_array_equal(one.examples, other.examples[::-1])
    if one.labels is not None and other.labels is not None:
        np.testing.assert_array_equal(one.labels, other.labels[::-1])
    assert describe_source(source) == describe_source(again)


def test_its_settings_survive_json_and_appear_as_flags(config):
    whole = Config(data=config, model=_network(config), sample=SampleConfig(clipping="none"))
    assert configs.loads(configs.dumps(whole)) == whole
    names = {each.name for each in configs.settings(whole)}
    assert {f"data.{item.name}" for item in dataclasses.fields(config)} <= names
    for name in config.paths():
        assert isinstance(getattr(config, name), str | None)


def test_it_can_be_inspected(config):
    facts = inspect(config).facts
    assert facts["examples"] >= count_examples(config)


def test_an_empty_or_misshapen_source_is_refused(monkeypatch):
    monkeypatch.setitem(SOURCES, "digits", lambda _: ArraySource(np.zeros((0, 8, 8, 1), np.uint8)))
    with pytest.raises(UserError, match="no examples") as caught:
        open_source(DigitsData())
    assert "\n" not in str(caught.value)
    monkeypatch.setitem(SOURCES, "digits", lambda _: ArraySource(np.zeros((2, 8, 8), np.uint8)))
    with pytest.raises(ValueError, match=r"\(8, 8\), but its config says \(8, 8, 1\)"):
        open_source(DigitsData())


def test_the_import_is_light():
    heavy = "('tensorflow_datasets', 'sklearn', 'PIL', 'tqdm', 'tensorflow')"
    script = f"import ddpm_jax.data, sys; print([m for m in {heavy} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert run.stdout.strip() == "[]", run.stderr
