"""The InceptionV3 that TensorFlow published in 2015, by which FID and inception score are defined.

Source: Szegedy et al. 2015, "Rethinking the Inception Architecture for Computer Vision". The names
are those of the published weights. The network that torchvision ships is another one. Here average
pools leave the padding out of the mean, the pool of the last block takes maxima, the norms' ε is
1e-3, and there are 1008 logits.
"""

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

SIDE = 299
FEATURES, LOGITS = 2048, 1008
NORM_EPSILON = 1e-3

# A line is a branch; the outputs of a block's branches are concatenated. `>` joins steps: a pool,
# or a convolution with its norm and ReLU as `name kernel channels`. Those with `/2` have stride 2,
# and `!` leaves out the padding. `&` joins convolutions of one input, concatenated too.
_STEM = """
Conv2d_1a_3x3 3x3/2 32 > Conv2d_2a_3x3 3x3! 32 > Conv2d_2b_3x3 3x3 64 > halve > \
Conv2d_3b_1x1 1x1 80 > Conv2d_4a_3x3 3x3! 192 > halve
"""
_A = """
branch1x1 1x1 64
branch5x5_1 1x1 48 > branch5x5_2 5x5 64
branch3x3dbl_1 1x1 64 > branch3x3dbl_2 3x3 96 > branch3x3dbl_3 3x3 96
average > branch_pool 1x1 {}
"""
_B = """
branch3x3 3x3/2 384
branch3x3dbl_1 1x1 64 > branch3x3dbl_2 3x3 96 > branch3x3dbl_3 3x3/2 96
halve
"""
_C = """
branch1x1 1x1 192
branch7x7_1 1x1 {0} > branch7x7_2 1x7 {0} > branch7x7_3 7x1 192
branch7x7dbl_1 1x1 {0} > branch7x7dbl_2 7x1 {0} > branch7x7dbl_3 1x7 {0} > \
branch7x7dbl_4 7x1 {0} > branch7x7dbl_5 1x7 192
average > branch_pool 1x1 192
"""
_D = """
branch3x3_1 1x1 192 > branch3x3_2 3x3/2 320
branch7x7x3_1 1x1 192 > branch7x7x3_2 1x7 192 > branch7x7x3_3 7x1 192 > branch7x7x3_4 3x3/2 192
halve
"""
_E = """
branch1x1 1x1 320
branch3x3_1 1x1 384 > branch3x3_2a 1x3 384 & branch3x3_2b 3x1 384
branch3x3dbl_1 1x1 448 > branch3x3dbl_2 3x3 384 > branch3x3dbl_3a 1x3 384 & branch3x3dbl_3b 3x1 384
{} > branch_pool 1x1 192
"""
_BLOCKS = {
    "": _STEM,
    "Mixed_5b.": _A.format(32),
    "Mixed_5c.": _A.format(64),
    "Mixed_5d.": _A.format(64),
    "Mixed_6a.": _B,
    "Mixed_6b.": _C.format(128),
    "Mixed_6c.": _C.format(160),
    "Mixed_6d.": _C.format(160),
    "Mixed_6e.": _C.format(192),
    "Mixed_7a.": _D,
    "Mixed_7b.": _E.format("average"),
    "Mixed_7c.": _E.format("maximum"),
}
_SAME = {"window_shape": (3, 3), "strides": (1, 1), "padding": "SAME"}
_POOLS = {
    "halve": partial(nn.max_pool, window_shape=(3, 3), strides=(2, 2)),
    "maximum": partial(nn.max_pool, **_SAME),
    "average": partial(nn.avg_pool, **_SAME, count_include_pad=False),
}


class Convolution(NamedTuple):
    """A convolution without bias, its norm and a ReLU."""

    name: str
    kernel: tuple[int, int]
    channels: int
    stride: int
    padding: str


Weights = Array | np.ndarray
Branch = list[str | list[Convolution]]


class Parameters(NamedTuple):
    """Each convolution's kernel `[h, w, in, out]` and bias `[out]`, norm folded in, by its name."""

    convolutions: Mapping[str, tuple[Weights, Weights]]
    logits: Weights
    """`[2048, 1008]`; the bias of the logits is left out."""


def _convolution(block: str, text: str) -> Convolution:
    name, kernel, channels = text.split()
    height, width = kernel.rstrip("!").removesuffix("/2").split("x")
    halves = kernel.endswith("/2")
    padding = "VALID" if halves or kernel.endswith("!") else "SAME"
    return Convolution(block + name, (int(height), int(width)), int(channels), 1 + halves, padding)


def _branch(block: str, line: str) -> Branch:
    return [
        step if step in _POOLS else [_convolution(block, text) for text in step.split(" & ")]
        for step in line.split(" > ")
    ]


NETWORK: list[list[Branch]] = [
    [_branch(block, line) for line in text.strip().splitlines()] for block, text in _BLOCKS.items()
]


def kernel_shapes() -> dict[str, tuple[int, int, int, int]]:
    """Returns the kernel's shape (height, width, in, out) of each convolution by its name."""
    shapes, channels = {}, 3
    for block in NETWORK:
        ends = []
        for branch in block:
            ends.append(channels)
            for step in branch:
                if not isinstance(step, str):
                    shapes |= {c.name: (*c.kernel, ends[-1], c.channels) for c in step}
                    ends[-1] = sum(convolution.channels for convolution in step)
        channels = sum(ends)
    return shapes


def apply(
    parameters: Parameters, images: Float[Array, "B H W 3"]
) -> tuple[Float[Array, "B 2048"], Float[Array, "B 1008"]]:
    """Returns the mean features after the last block, and the logits without their bias.

    `images` are float32 in [-1, 1], 299 by 299 for comparable numbers and 75 by 75 at least.
    """
    precision = jax.lax.Precision.HIGHEST

    def convolved(c: Convolution, x: Array) -> Array:
        kernel, bias = parameters.convolutions[c.name]
        y = jax.lax.conv_general_dilated(
            x,
            jnp.asarray(kernel),
            (c.stride, c.stride),
            c.padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=precision,
        )
        return nn.relu(y + bias)

    def through(branch: Branch, x: Array) -> Array:
        for step in branch:
            if isinstance(step, str):
                x = _POOLS[step](x)
            else:
                x = jnp.concatenate([convolved(c, x) for c in step], axis=-1)
        return x

    x = images
    for block in NETWORK:
        x = jnp.concatenate([through(branch, x) for branch in block], axis=-1)
    features = x.mean((1, 2))
    return features, jnp.dot(features, parameters.logits, precision=precision)
