"""A drawn shape: points along it, what is refused, and how near to it the learned samples come."""

import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest

from ddpm_jax.config import override
from ddpm_jax.errors import UserError
from ddpm_jax.studio.drawing import CONFIG, Shape, learn, points_on
from ddpm_jax.studio.library import Library
from ddpm_jax.studio.requests import Opening

pytestmark = pytest.mark.usefixtures("one_device")

ANGLES = np.linspace(0, 2 * np.pi, 121)
HEART = np.stack(
    [
        16 * np.sin(ANGLES) ** 3,
        13 * np.cos(ANGLES) - 5 * np.cos(2 * ANGLES) - 2 * np.cos(3 * ANGLES) - np.cos(4 * ANGLES),
    ],
    axis=1,
)


class Told:
    """A stream that keeps what is sent."""

    def __init__(self):
        self.events = []

    def send(self, name, data):
        json.dumps(data, allow_nan=False)
        self.events.append((name, data))

    frame = send

    def check(self):
        pass


def test_points_lie_evenly_along_the_lines():
    lines = [np.array([[-1.0, 0.0], [1.0, 0.0], [1.0, 1.0]]), np.array([[0.0, -1.0]])]
    points = points_on(lines, 30_000, seed=0)
    level, upright = abs(points[:, 1]) < 0.1, (points[:, 0] > 0.9) & (points[:, 1] > 0.1)
    assert level.mean() == pytest.approx(2.1 / 3, abs=0.02)
    assert upright.mean() == pytest.approx(0.9 / 3, abs=0.02)
    assert points[level, 1].std() == pytest.approx(0.02, rel=0.2)
    dot = points_on([np.array([[0.5, 0.5]])], 1_000, seed=0)
    np.testing.assert_allclose(dot.mean(0), 0.5, atol=0.01)


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [[]],
        [[[0, 3]]],
        [[[0, math.nan]]],
        [[[0, 10**400]]],
        [[1, 2, 3]],
        ["a"],
        [[[0, 0]] * 20_001],
    ],
)
def test_what_is_no_drawing_is_refused(lines):
    with pytest.raises(UserError):
        Shape(lines).polylines()
    with pytest.raises(UserError, match="seed is -1"):
        Shape([[[0, 0]]], seed=-1).polylines()


SHORT = {"train.steps": 20, "train.steps_per_dispatch": 10, "train.save_every": 20}
SHORT |= {"train.log_every": 20, "model.width": 16, "sample.steps": 5, "sample.num": 50}


def test_what_is_learned_is_a_run_of_the_library():
    library, told = Library([]), Told()
    learn(library, Shape([(HEART / 12).tolist()]), told, override(CONFIG, SHORT))  # type: ignore
    names = [name for name, _ in told.events]
    assert names[0] == "start"
    assert names[-2:] == ["learned", "done"]
    name = told.events[-1][1]["run"]
    assert [row["name"] for row in library.listed()] == [name]
    assert library.about(name)["points"]
    assert library.open(Opening(name)).run.sample(4, seed=1).samples.shape == (4, 2)


LEARN = """
import json
from tests.studio.test_drawing import HEART, Library, Shape, Told, learn

told = Told()
learn(Library([]), Shape([(HEART / 12).tolist()]), told)
print(json.dumps(told.events[-1][1]))
"""


def test_a_shape_is_learned_as_well_as_two_draws_of_it_differ(pytestconfig):
    if not pytestconfig.getoption("--long"):
        pytest.skip("--long trains the network in full")
    # The optimised programs that people run; those of the tests take minutes.
    env = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = json.loads(subprocess.check_output([sys.executable, "-c", LEARN], env=env))
    assert done["distance"] <= 2 * done["between_draws"], done
