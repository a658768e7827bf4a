"""The features by which FID, KID, inception score, precision and recall are published."""

from collections.abc import Callable
from typing import Annotated

import jax
import numpy as np

from ddpm_jax.data.pixels import to_pixels
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.facts import Facts
from ddpm_jax.evaluation.features.extractor import (
    Extractor,
    FeatureContext,
    FeatureExtractor,
    Features,
)
from ddpm_jax.evaluation.features.inception.network import Parameters, apply
from ddpm_jax.evaluation.features.inception.resize import RESIZES, channels_obstacle, resize
from ddpm_jax.evaluation.features.inception.weights import find_weights, read_weights
from ddpm_jax.runtime.compilation import compiler_options
from ddpm_jax.runtime.mesh import all_devices, batch_sharding, make_mesh, replicated

# Examples that a device computes at once. The sums of a convolution may depend on their number, so
# it is the same on any number of devices and for any batch.
_PER_DEVICE = 32


def inception(
    *,
    weights: Annotated[str | None, "file of the network's weights; else the cache's"] = None,
    resize: Annotated[str, f"how pictures become 299 x 299: {', '.join(RESIZES)}"] = "tf1",
) -> FeatureExtractor:
    """The mean features of the 2015 Inception, and its logits without bias.

    Pictures are rounded to uint8 first, as in a file. `resize` is a row of RESIZES: tf1 for
    torch-fidelity's numbers and those of papers, torch for pytorch-fid's, clean for clean-fid's.
    """
    if resize not in RESIZES:
        raise ValueError(f"resize is {resize}: it must be one of {', '.join(RESIZES)}")

    def obstacle(facts: Facts) -> str | None:
        for shape in (facts.shape, facts.sample_shape):
            if len(shape) != 3:
                return f"Inception takes pictures, and these examples are {shape}"
            if (refused := channels_obstacle(shape[-1])) is not None:
                return refused
        try:
            find_weights(weights)
        except UserError as error:
            return str(error)
        return None

    def load(context: FeatureContext) -> Extractor:
        parameters, digest = read_weights(find_weights(weights))
        # The digest, not the path: the same file elsewhere makes the same features.
        return Extractor(_extract(parameters, resize), {"weights": digest, "resize": resize})

    return FeatureExtractor(obstacle, load, default=False)


def _extract(parameters: Parameters, mode: str) -> Callable[[np.ndarray], Features]:
    """Returns the map that computes on all devices of this process."""
    mesh = make_mesh(devices=all_devices(local=True))
    split, size = batch_sharding(mesh), _PER_DEVICE * mesh.size
    placed = jax.device_put(parameters, replicated(mesh))
    program = jax.jit(apply, compiler_options=compiler_options(mesh.devices.flat[0]))

    def extract(examples: np.ndarray) -> Features:
        outputs = []
        for start in range(0, len(examples), size):
            part = to_pixels(examples[start : start + size])
            images = resize(np.asarray(part), mode)
            # The last batch is filled up, so that one compiled program serves all.
            images = np.pad(images, ((0, size - len(images)), (0, 0), (0, 0), (0, 0)))
            outputs.append(program(placed, jax.device_put(images, split)))
            # One batch is computed while the next is resized.
            jax.block_until_ready(outputs[-2:-1])
        vectors, logits = (
            np.concatenate([np.asarray(each) for each in parts])[: len(examples)]
            for parts in zip(*outputs, strict=True)
        )
        return Features(vectors, logits)

    return extract
