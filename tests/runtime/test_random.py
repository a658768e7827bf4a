import itertools

import jax
import numpy as np

from ddpm_jax.runtime.random import STREAMS, sample_keys, stream_key


def bits(key):
    return tuple(np.asarray(jax.random.key_data(key)).ravel().tolist())


def test_every_seed_stream_and_step_has_its_own_key():
    places = list(itertools.product((0, 1), STREAMS, range(5)))
    assert len({bits(stream_key(*place)) for place in places}) == len(places)


# Where a number that is kept in too few bits, or reduced, begins to repeat itself.
EDGES = sorted({2**n + d for n in (6, 7, 8, 10, 16, 24, 31) for d in (-1, 0, 1)} | {1000, 10**6})
SEEDS = (0, 1, 63, 64, 255, 256, 2**16, 2**24 + 1, 2**31, 2**32 - 1)


def distinct(keys):
    """Whether no two of some arrays of keys are the same key."""
    rows = np.concatenate([np.asarray(jax.random.key_data(each)) for each in keys])
    return len(np.unique(rows, axis=0)) == len(rows)


def test_no_key_returns_at_a_later_step_another_seed_or_another_stream():
    steps = np.array([*range(300), *(edge for edge in EDGES if edge < 2**31)])
    steps = np.unique(steps).astype(np.int32)
    keys = jax.jit(
        jax.vmap(jax.vmap(stream_key, (None, None, 0)), (0, None, None)), static_argnums=1
    )
    seeds = np.array(SEEDS, np.uint32)
    assert distinct([keys(seeds, stream, steps).reshape(-1) for stream in STREAMS])


def test_no_two_samples_of_any_seeds_share_a_key():
    indices = np.unique([*range(300), *EDGES]).astype(np.uint32)
    assert distinct([sample_keys(seed, indices) for seed in SEEDS])
    assert distinct([sample_keys(0, np.arange(2**16 + 300, dtype=np.uint32))])


def test_a_traced_step_gives_the_same_key():
    traced = jax.jit(lambda step: stream_key(3, "noise", step))(7)
    assert bits(traced) == bits(stream_key(3, "noise", 7))


def test_the_key_of_a_sample_depends_only_on_its_index():
    all_keys = jax.random.key_data(sample_keys(5, np.arange(10)))
    some = jax.random.key_data(sample_keys(5, np.array([7, 2])))
    np.testing.assert_array_equal(some, all_keys[np.array([7, 2])])
    assert len({tuple(row) for row in np.asarray(all_keys).tolist()}) == 10
