import itertools
import subprocess
import sys
import textwrap
import time
from typing import Any

import numpy as np
import pytest

from ddpm_jax.data.batches import Batches, batch_indices, epoch_order, local_batch
from ddpm_jax.data.loading import materialize
from ddpm_jax.data.source import ArraySource, Source


def philox(counter: int, key: tuple[int, int]) -> list[int]:
    """Returns one block of Philox4x64-10 (Salmon et al. 2011, section 3.3), in plain integers."""
    mask = 2**64 - 1
    x = [(counter >> (64 * i)) & mask for i in range(4)]
    k0, k1 = key
    for _ in range(10):
        first, second = 0xD2E7470EE14C6C93 * x[0], 0xCA5A826395121157 * x[2]
        x = [(second >> 64) ^ x[1] ^ k0, second & mask, (first >> 64) ^ x[3] ^ k1, first & mask]
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) & mask, (k1 + 0xBB67AE8584CAA73B) & mask
    return x


@pytest.mark.parametrize(("seed", "epoch"), [(0, 0), (7, 3), (2**32 - 1, 10**6)])
def test_order_is_the_papers_generator_whatever_numpy_does(seed, epoch):
    n = 11
    words = [word for block in range(1, 4) for word in philox(block, (seed, epoch))][:n]
    np.testing.assert_array_equal(
        epoch_order(seed, epoch, n), sorted(range(n), key=words.__getitem__)
    )


@pytest.mark.parametrize("n", [1, 2, 10, 1000])
def test_each_seed_and_epoch_has_its_own_permutation(n):
    orders = [epoch_order(seed, epoch, n) for seed in (0, 1) for epoch in (0, 1)]
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(n))
    if n >= 1000:
        for one, other in itertools.combinations(orders, 2):
            assert np.mean(one == other) < 0.02


def test_no_order_returns_in_a_later_epoch_or_for_another_seed():
    """In 20! orders none comes twice, also beyond 64, 256 and 2^16."""
    places = [0, 1, 2, 63, 64, 65, 128, 255, 256, 257, 2**16, 2**16 + 1, 2**32 - 1]
    orders = [epoch_order(seed, epoch, 20) for seed in places for epoch in places]
    assert len(np.unique(orders, axis=0)) == len(orders)


@pytest.mark.parametrize(
    ("n", "batch_size"), [(10, 3), (10, 5), (10, 10), (10, 37), (1, 4), (7, 1)]
)
def test_batches_are_the_epochs_in_sequence(n, batch_size):
    steps = -(-3 * n // batch_size)
    drawn = np.concatenate([batch_indices(5, step, batch_size, n) for step in range(steps)])
    assert drawn.dtype == np.int64
    for epoch in range(3):
        part = drawn[epoch * n : (epoch + 1) * n]
        np.testing.assert_array_equal(part, epoch_order(5, epoch, n))


def test_a_late_step_is_found_directly():
    n, batch_size, step = 50_000, 128, 800_000
    epoch, offset = divmod(step * batch_size, n)
    found = batch_indices(0, step, batch_size, n)
    np.testing.assert_array_equal(found, epoch_order(0, epoch, n)[offset : offset + batch_size])


@pytest.mark.parametrize("count", [1, 2, 4])
def test_processes_read_their_rows_of_each_batch_across_the_end_of_an_epoch(count):
    n, batch_size = 10, 8
    source = ArraySource(np.arange(n)[:, None], np.arange(n, dtype=np.int32), ("x",) * n)
    for step in range(5):
        parts: list[Any] = [
            local_batch(
                source,
                seed=1,
                step=step,
                batch_size=batch_size,
                rows=np.arange(index, batch_size, count),
            )
            for index in range(count)
        ]
        assert {len(part.examples) for part in parts} == {batch_size // count}
        whole = batch_indices(1, step, batch_size, n)
        for index, part in enumerate(parts):
            np.testing.assert_array_equal(part.examples[:, 0], whole[index::count])
            np.testing.assert_array_equal(part.labels, whole[index::count])


@pytest.fixture(params=["streamed", "in memory"])
def source(request, numbered) -> Source:
    stream = numbered(23)
    return stream if request.param == "streamed" else materialize(stream)


def test_resumed_batches_are_the_same(source):
    with Batches(source, seed=3, batch_size=8) as batches:
        whole = [batches(step) for step in range(6)]
    with Batches(source, seed=3, batch_size=8) as batches:
        resumed = [batches(step) for step in (3, 4, 5, 1)]
    for batch, again in zip([*whole[3:], whole[1]], resumed, strict=True):
        np.testing.assert_array_equal(batch.examples, again.examples)
        np.testing.assert_array_equal(batch.labels, again.labels)


def test_only_a_source_that_decodes_is_read_ahead(numbered):
    with Batches(materialize(numbered(5)), seed=0, batch_size=2) as batches:
        batches(0)
        assert batches._ahead is None
    asked = []
    stream = numbered(5)
    inner = stream.read

    def read(indices):
        asked.extend(indices)
        return inner(indices)

    stream.read = read
    with Batches(stream, seed=0, batch_size=2) as batches:
        for step in range(3):
            batches(step)
            # Each step is read once, in order, and the next one is read ahead.
            deadline = time.monotonic() + 10
            while len(asked) < 2 * (step + 2) and time.monotonic() < deadline:
                time.sleep(0.001)
            for n in range(step + 2):
                expected = sorted(batch_indices(0, n, 2, 5))
                np.testing.assert_array_equal(sorted(asked[2 * n : 2 * n + 2]), expected)
    assert len(asked) <= 2 * 6  # three were requested, and Grain prepares at most three ahead


def test_an_error_in_the_background_is_raised_by_the_call_for_its_step(numbered):
    order = epoch_order(0, 0, 6)
    with Batches(numbered(6, fail_at=order[2]), seed=0, batch_size=2) as batches:
        batches(0)
        for _ in range(2):
            with pytest.raises(OSError, match="is torn"):
                batches(1)
        np.testing.assert_array_equal(batches(2).examples[:, 0, 0, 0], order[4:6])
    batches.close()


def test_a_program_that_forgets_to_close_still_ends():
    script = """
        import time
        import numpy as np
        from ddpm_jax.data.batches import Batches
        from ddpm_jax.data.source import StreamSource

        def read(indices):
            time.sleep(0.1)
            return [(np.zeros((1, 1, 1), np.uint8), 0) for _ in indices]

        batches = Batches(
            StreamSource(read, length=9, shape=(1, 1, 1)), seed=0, batch_size=2
        )
        batches(0)
    """
    begun = time.monotonic()
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=60
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert time.monotonic() - begun < 50
