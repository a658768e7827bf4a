"""Arrays that both sides of a comparison can compute, so that only outputs are kept.

Nothing here needs JAX or PyTorch: the scripts that ran the originals import this file too.
"""

import math
import zlib
from collections.abc import Mapping, Sequence

import numpy as np


def wave(shape: Sequence[int], phase: float) -> np.ndarray:
    """Values in [-1, 1] that look random, float32."""
    k = np.arange(math.prod(shape), dtype=np.float64)
    return (
        np.sin(phase + 2.399963 * k + 0.618034 * np.floor(k / 7) ** 1.5).reshape(shape).astype("f")
    )


def weights(shapes: Mapping[str, Sequence[int]]) -> dict[str, np.ndarray]:
    """Weights by PyTorch's names that keep activations of order 1; norms scale by about 1."""
    made = {}
    for name, shape in shapes.items():
        value = wave(shape, zlib.crc32(name.encode()) % 1000)
        if len(shape) > 1:
            made[name] = value * np.float32(1.4 / math.sqrt(math.prod(shape[1:])))
        else:
            # Only norms have vectors as weights.
            made[name] = np.float32(0.2) * value + np.float32(name.endswith("weight"))
    return made
