import subprocess
import sys
import typing

import numpy as np
import pytest

from ddpm_jax.config import DataConfig, DigitsData, PointsData
from ddpm_jax.data import SOURCES, count_examples, open_source
from ddpm_jax.data.source import ArraySource
from ddpm_jax.errors import UserError


def test_every_kind_of_config_has_its_source():
    assert set(SOURCES) == {config.kind for config in typing.get_args(DataConfig)}


@pytest.mark.parametrize("config", [DigitsData(), PointsData(size=50)])
def test_examples_have_the_configs_shape_and_are_counted(config):
    source = open_source(config)
    assert source.shape == config.example_shape
    assert source.gather(np.arange(3)).examples.shape == (3, *config.example_shape)
    assert count_examples(config) == len(source)


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
