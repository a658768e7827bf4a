"""Array aliases with their shapes, and the types that every part of the package shares."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int, Key, UInt8

# `B` is the batch; the axes behind it are an image's (height, width, channels) or a point's (2,).
Examples = Float[Array, "B *shape"]
PerExample = Float[Array, "B"]
Timesteps = Int[Array, "B"] | Int[Array, ""]
FractionalTimesteps = Float[Array, "B"] | Float[Array, ""]
Labels = Int[Array, "B"]
Keys = Key[Array, "B"]
Pixels = UInt8[Array, "B *shape"]


class Conditioning(NamedTuple):
    """What a network is given besides x_t and t; None for what is absent."""

    labels: Labels | None = None
    """int32 `[B]` in 0…num_classes, where num_classes itself means "no class"."""
    image: Examples | None = None
    """float32 `[B, H, W, C']` in [-1, 1], of the height and width of x_t."""
    image_noise: Timesteps | None = None
    """The noise level of `image`, in 0…T: Ho et al. 2021, section 4.2."""


class Prediction(NamedTuple):
    """What a network says about x_t, in the form that every sampler and objective uses.

    Each parameterization converts to this one form, so N of them need 2N conversions. x_0 and eps
    are float32, have the shape of x_t, and agree: x_t = sqrt(ᾱ_t) x_0 + sqrt(1 - ᾱ_t) eps.
    """

    x_0: Examples
    eps: Examples
    variance_fraction: Examples | None = None
    """f of equation (6) in `diffusion.gaussian`; None where the variance is not learned."""
    memory: Any = None
    """What a RecallingDenoiser remembers for its next call; None for any other denoiser."""


class DiffusionInputs(NamedTuple):
    """What one training step gives to the network and to the objective."""

    x_0: Examples
    x_t: Examples
    """float32, drawn from q(x_t | x_0) with `eps`."""
    eps: Examples
    t: Timesteps
    conditioning: Conditioning
    dropout: Any
    """The key of the network's dropout."""
    labels: Labels | np.ndarray | None = None
    """The classes of the data, whether or not the network is told; None where none are used."""
    weight: PerExample | None = None
    """What each loss is multiplied by, because t was not drawn uniformly; None for 1."""


# t is in 1…T, whole or not, one for all or one for each example.
Denoiser = Callable[[Examples, Timesteps | FractionalTimesteps], Prediction]
# A transform replaces x_0 and eps by `_replace`, so that the other fields pass through.
DenoiserTransform = Callable[[Denoiser], Denoiser]


class Operator(NamedTuple):
    """A transform with data for each sample, such as known pixels.

    An array of one row a sample must be data: `apply` sees batches of samples.
    """

    apply: Callable[[Denoiser, Any], Denoiser]
    data: Any
    """A tree of arrays `[num, …]`; `apply` gets the rows of its batch."""


class Objective(NamedTuple):
    """What training minimizes; called as `objective(output, inputs)`, it gives the losses `[B]`.

    It decides how many outputs the network has, and whether it is told the labels.
    """

    loss: Callable[[Examples, DiffusionInputs], PerExample]
    """(the network's output, the step's inputs) -> the loss of each example."""
    variance: str | None = None
    """The row of `VARIANCES` that the network learns by it; None where it learns no variance."""
    classifies: bool = False
    """Whether the network says which class x_t is of, and so has an output for each class. It is
    not told the labels then, and draws no samples."""

    def __call__(self, output: Examples, inputs: DiffusionInputs) -> PerExample:
        return self.loss(output, inputs)


class RecallingDenoiser(NamedTuple):
    """A denoiser that remembers what it has seen of a chain: a momentum, or the last x̂_0.

    The chain keeps the memory, a tree of arrays, beside the sampler's carry. It begins with
    `init(x)`, and again after each renoising. Each call is one of `given(memory)`, whose prediction
    has the next memory.
    """

    init: Callable[[Examples], Any]
    given: Callable[[Any], Denoiser]


class Batch(NamedTuple):
    """What a source gives and a training step takes.

    `examples` are uint8 pixels `[B, H, W, C]`, or float32 points `[B, 2]` already on their scale;
    `labels` are int32 `[B]` in 0…classes-1, or None where the data has none. NumPy's arrays on the
    host, JAX's on the device.
    """

    examples: Pixels | Examples | np.ndarray
    labels: Labels | np.ndarray | None


def is_image(shape: tuple[int, ...]) -> bool:
    """Whether examples of this shape are images (height, width, channels), and not points."""
    return len(shape) == 3
