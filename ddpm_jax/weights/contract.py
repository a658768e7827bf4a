"""What a format is."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ddpm_jax.config import Config
from ddpm_jax.models import NetworkConfig
from ddpm_jax.weights.places import Place
from ddpm_jax.weights.tensors import Tensors


class Foreign(NamedTuple):
    """What another project's weights say, in our terms."""

    data: dict[str, Any]
    """Settings of the section, as `image_size`; and so are the other two."""
    model: NetworkConfig
    diffusion: dict[str, Any]
    sample: dict[str, Any]
    tensors: Tensors
    places: Callable[[Config, Any], Sequence[Place]]
    """The map of names for our config and the shapes of our parameters."""


Reader = Callable[..., Foreign]
"""`(source, *, options)`: reads a file or a folder; UserError for one that it can't take."""
Writer = Callable[[Config, Any, Path], Sequence[str]]
"""`(config, params, folder)`: writes into a new folder, and returns lines to tell."""
