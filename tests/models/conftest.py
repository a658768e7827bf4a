import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest


@pytest.fixture(scope="session")
def random_params() -> Callable[..., Any]:
    """Parameters with no zeros left in them, drawn without compiling the initialisers."""

    def draw(module, *args, **kwargs):
        def init(*args):
            return module.init(jax.random.key(0), *args, **kwargs)

        rng = np.random.default_rng(0)

        def fill(path, leaf):
            fan_in = math.prod(leaf.shape[:-1])
            values = rng.normal(path[-1].key == "scale", fan_in**-0.5, leaf.shape)
            return jnp.asarray(values, leaf.dtype)

        return jax.tree.map_with_path(fill, jax.eval_shape(init, *args))

    return draw
