import dataclasses

import jax
import numpy as np
import pytest

from ddpm_jax.data import open_source
from ddpm_jax.data.batches import local_batch
from ddpm_jax.experiment import build
from ddpm_jax.runtime.mesh import make_mesh
from ddpm_jax.training.feed import Feed
from ddpm_jax.training.step import batch_layout
from tests.tiny import TINY, changed

UNLABELLED = changed(TINY, model={"num_classes": 0}, train={"label_dropout": 0.0})
SEVERAL = changed(TINY, train={"steps_per_dispatch": 2})
OTHER_SEED = dataclasses.replace(TINY, seed=2**16)


@pytest.mark.parametrize("config", [TINY, UNLABELLED, SEVERAL, OTHER_SEED])
@pytest.mark.parametrize("devices", [1, 4])
def test_a_dispatch_gets_its_steps_batches_laid_out_as_the_step_takes_them(config, devices):
    experiment, mesh = build(config), make_mesh(1, jax.devices()[:devices])
    source, each = open_source(config.data), config.train.steps_per_dispatch
    with Feed(experiment, mesh, source) as feed:
        found, single = feed(4), feed.single(4)
    expected = [
        local_batch(source, seed=config.seed, step=n, batch_size=16) for n in range(4, 4 + each)
    ]
    examples = np.stack([batch.examples for batch in expected])
    np.testing.assert_array_equal(found.examples, examples if each > 1 else examples[0])
    np.testing.assert_array_equal(single.examples, examples[0])
    if config is UNLABELLED:
        assert found.labels is None
        assert single.labels is None
    else:
        np.testing.assert_array_equal(single.labels, expected[0].labels)

    def form(leaf):
        return leaf.shape, leaf.dtype, leaf.sharding

    layout = batch_layout(experiment, mesh)
    assert jax.tree.structure(found) == jax.tree.structure(layout)
    assert jax.tree.map(form, found) == jax.tree.map(form, layout)
