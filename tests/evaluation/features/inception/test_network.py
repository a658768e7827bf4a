"""The network against the same one written out in NumPy; nothing of the peers is needed."""

import math

import jax
import numpy as np

from ddpm_jax.evaluation.features.inception.network import Parameters, apply, kernel_shapes
from tests.evaluation.features.inception import oracle


def test_the_table_has_the_published_convolutions_and_parameters():
    written = {name: (h, w, i, o) for name, i, o, h, w in oracle.ROWS}
    assert kernel_shapes() == written
    norms = sum(2 * shape[-1] for shape in written.values())
    kernels = sum(math.prod(shape) for shape in written.values())
    assert kernels + norms + 2048 * 1008 + 1008 == 23_850_960


def test_features_and_logits_are_those_of_plain_convolutions():
    tensors = oracle.state_dict()
    # At the last block 107 pixels are 2, so that its pools do something, and 139 are 3.
    images = np.random.default_rng(1).uniform(-1, 1, (1, 107, 139, 3)).astype(np.float32)
    parameters = Parameters(
        {name: _folded(tensors, name) for name in kernel_shapes()}, tensors["fc.weight"].T
    )
    found = jax.jit(apply)(parameters, images)
    for ours, written in zip(found, oracle.network(tensors, images), strict=True):
        assert ours.dtype == np.float32
        assert 0.5 < written.std() < 5, "activations too small or large to tell networks apart"
        np.testing.assert_allclose(ours, written, rtol=0, atol=1e-5 * np.abs(written).max())


def _folded(tensors: oracle.Tensors, name: str) -> tuple[np.ndarray, np.ndarray]:
    gain = tensors[f"{name}.bn.weight"] / np.sqrt(tensors[f"{name}.bn.running_var"] + 1e-3)
    bias = tensors[f"{name}.bn.bias"] - tensors[f"{name}.bn.running_mean"] * gain
    return tensors[f"{name}.conv.weight"].transpose(2, 3, 1, 0) * gain, bias
