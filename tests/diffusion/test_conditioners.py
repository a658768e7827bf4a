import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion import make_schedule
from ddpm_jax.diffusion.conditioners import CONDITIONERS, make_conditioner
from ddpm_jax.typing import Conditioning

SHAPE, T = (4, 6, 1), 40
SCHEDULE = make_schedule("cosine", T)


@pytest.mark.parametrize("name", CONDITIONERS)
def test_a_conditioner_gives_the_parts_that_it_names(name):
    conditioner = make_conditioner(name, SHAPE)
    x_0 = jax.random.uniform(jax.random.key(0), (5, *SHAPE))
    found = conditioner.draw(SCHEDULE, x_0, jax.random.key(1))
    given = {part for part, value in found._asdict().items() if value is not None}
    assert given == set(conditioner.takes)
    assert all(len(leaf) == 5 for leaf in jax.tree.leaves(found))


def test_a_small_picture_is_seen_at_the_noise_that_is_told():
    conditioner = make_conditioner("low_resolution", SHAPE, factor=2, most_noise=0.5)
    n = 4096
    x_0 = jnp.broadcast_to(jax.random.uniform(jax.random.key(0), SHAPE), (n, *SHAPE))
    found = conditioner.draw(SCHEDULE, x_0, jax.random.key(1))
    assert found.image is not None
    assert found.image_noise is not None
    level = np.asarray(found.image_noise)
    assert set(level.tolist()) == set(range(21))
    small = np.asarray(x_0[0]).reshape(2, 2, 3, 2, 1).mean((1, 3)).repeat(2, 0).repeat(2, 1)
    clean = np.asarray(found.image)[level == 0]
    np.testing.assert_allclose(clean, np.broadcast_to(small, clean.shape), atol=1e-6)
    data, noise = SCHEDULE.sqrt_alpha_bar, SCHEDULE.sqrt_one_minus_alpha_bar
    rest = np.asarray(found.image) - data[level][:, None, None, None] * small
    unit = rest[level > 0] / noise[level[level > 0]][:, None, None, None]
    assert abs(unit.mean()) < 4 / np.sqrt(unit.size)
    assert abs(unit.std() - 1) < 4 / np.sqrt(2 * unit.size)


def test_nothing_is_nothing():
    drawn = make_conditioner("nothing", SHAPE).draw(SCHEDULE, jnp.zeros((1, 2)), jax.random.key(0))
    assert drawn == Conditioning()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"factor": 4}, "factor is 4: it must be at least 2 and divide both sides of 4×6"),
        ({"most_noise": 1.5}, "most_noise is 1.5: it must lie between 0 and 1"),
        ({"noise": 0.6}, "noise is 0.6: it must lie between 0 and most_noise, which is 0.5"),
    ],
)
def test_wrong_options_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        make_conditioner("low_resolution", SHAPE, **options)
    with pytest.raises(ValueError, match=r"probability is 1\.5: it must lie between 0 and 1"):
        make_conditioner("self_conditioning", SHAPE, probability=1.5)
    for name in ("low_resolution", "self_conditioning"):
        with pytest.raises(ValueError, match="it is for pictures"):
            make_conditioner(name, (2,))
