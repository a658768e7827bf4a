import itertools

import jax
import numpy as np

from ddpm_jax.runtime.random import STREAMS, sample_keys, stream_key


def bits(key):
    return tuple(np.asarray(jax.random.key_data(key)).ravel().tolist())


def test_every_seed_stream_and_step_has_its_own_key():
    places = list(itertools.product((0, 1), STREAMS, range(5)))
    assert len({bits(stream_key(*place)) for place in places}) == len(places)


def test_a_traced_step_gives_the_same_key():
    traced = jax.jit(lambda step: stream_key(3, "noise", step))(7)
    assert bits(traced) == bits(stream_key(3, "noise", 7))


def test_the_key_of_a_sample_depends_only_on_its_index():
    all_keys = jax.random.key_data(sample_keys(5, np.arange(10)))
    some = jax.random.key_data(sample_keys(5, np.array([7, 2])))
    np.testing.assert_array_equal(some, all_keys[np.array([7, 2])])
    assert len({tuple(row) for row in np.asarray(all_keys).tolist()}) == 10
