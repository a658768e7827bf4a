"""What a config becomes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.config import Choice, override
from ddpm_jax.diffusion import OBJECTIVES, VARIANCES
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import build
from ddpm_jax.typing import Objective
from tests.tiny import TINY, changed

LEARNED = Choice("ddpm", variance="learned_range")


@pytest.fixture
def learned(monkeypatch):
    """A learned variance: one row of VARIANCES, and an objective that trains it."""

    def hybrid(schedule, parameterization, error, weight):
        return Objective(lambda output, inputs: error(output, 0 * output), "learned_range")

    monkeypatch.setitem(VARIANCES, "learned_range", None)
    monkeypatch.setitem(OBJECTIVES, "hybrid", hybrid)


def test_an_objective_that_learns_a_variance_doubles_the_outputs(learned):
    config = override(TINY, {"diffusion.objective": "hybrid", "sample.sampler": LEARNED})
    shape = jax.ShapeDtypeStruct((2, 8, 8, 1), jnp.float32)

    def outputs(experiment):
        def output(x_t):
            params = experiment.init_params(jax.random.key(0))
            return experiment.apply(params, x_t, jnp.array(3), experiment.condition(), train=False)

        return jax.eval_shape(output, shape).shape

    assert outputs(build(TINY)) == (2, 8, 8, 1)
    assert outputs(build(config)) == (2, 8, 8, 2)


def test_conditioning_is_built_in_one_place():
    experiment = build(TINY)
    labels = jnp.array([1, 2, 3])
    dropped = experiment.condition(labels, dropped=jnp.array([True, False, False])).labels
    np.testing.assert_array_equal(dropped, [10, 2, 3])
    np.testing.assert_array_equal(experiment.condition(labels, dropped=True).labels, [10] * 3)
    assert experiment.condition(labels).labels is labels
    plain = build(changed(TINY, model={"num_classes": 0}, train={"label_dropout": 0.0}))
    given = plain.condition(labels, image=labels, dropped=True)
    assert given.labels is None
    assert given.image is labels


def test_a_sampler_of_a_learned_variance_needs_an_objective_that_trains_it(learned):
    with pytest.raises(UserError, match=r"^sample\.sampler is .*: diffusion\.objective simple"):
        override(TINY, {"sample.sampler": LEARNED})


def test_a_row_that_refuses_its_neighbours_is_named(monkeypatch):
    def picky(schedule, parameterization, error, weight, *, scale: float = 1.0):
        if schedule.T > 10:
            raise ValueError(f"scale is {scale}; it must be 0 beyond T = 10")
        return OBJECTIVES["simple"](schedule, parameterization, error, weight)

    monkeypatch.setitem(OBJECTIVES, "picky", picky)
    with pytest.raises(UserError, match=r"^diffusion\.objective\.scale is 1\.0; it must be 0"):
        dataclasses.replace(TINY.diffusion, objective="picky")
