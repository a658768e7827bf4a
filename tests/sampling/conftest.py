"""A network trained for a few steps, and sixteen of its samples."""

import jax
import numpy as np
import pytest

from tests.sampling.programs import program
from tests.tiny import StepLoop


@pytest.fixture(scope="session")
def trained():
    """A few steps are enough for a network whose output depends on x_t, t and the label."""
    trainer = StepLoop()
    state, _ = trainer.run(trainer.init(), 6)
    return trainer.experiment, jax.tree.map(np.asarray, state.params)


@pytest.fixture(scope="session")
def sixteen(trained):
    return program(trained[0])(trained[1], 16, seed=3)
