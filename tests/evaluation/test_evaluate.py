import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ddpm_jax.cli.flags import split
from ddpm_jax.config import Config, DigitsData, MlpConfig, PointsData, SampleConfig
from ddpm_jax.data import open_source
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.evaluate import evaluate

TABLE = PointsData(size=50)
FRESH = dataclasses.replace(TABLE, table=1)


def run_that_draws(data) -> Any:
    """A run trained on TABLE whose samples are the first examples of `data`."""

    def sample(num, **_):
        drawn = open_source(data).gather(np.arange(num))
        return SimpleNamespace(samples=np.asarray(drawn.examples), labels=None)

    config = Config(data=TABLE, model=MlpConfig(), sample=SampleConfig(clip=False))
    return SimpleNamespace(config=config, sample=sample)


@pytest.mark.parametrize("drawn", [TABLE, FRESH])
@pytest.mark.parametrize("judged_by", [None, TABLE, FRESH])
def test_samples_are_judged_by_the_runs_data_or_by_other_data(drawn, judged_by):
    values = evaluate(run_that_draws(drawn), ["sliced_wasserstein"], data=judged_by)
    same = drawn == (judged_by or TABLE)
    assert (values["sliced_wasserstein"] == 0) == same


def test_data_of_another_shape_is_refused():
    with pytest.raises(UserError, match=r"the examples are \(8, 8, 1\), and the run was trained"):
        evaluate(run_that_draws(TABLE), data=DigitsData())


def test_options_of_one_section_are_taken_with_their_values():
    words = ["--seed", "3", "--data.image_size", "8", "8", "--json", "--data.table=1", "--metrics"]
    taken, rest = split([*words, "coverage"], lambda name: name.startswith("data."))
    assert taken == ["--data.image_size", "8", "8", "--data.table=1"]
    assert rest == ["--seed", "3", "--json", "--metrics", "coverage"]
