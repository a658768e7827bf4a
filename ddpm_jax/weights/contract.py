"""What a format is."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ddpm_jax.config import Config
from ddpm_jax.data.classes import describe_classes
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
    class_names: Sequence[str] = ()
    """The name of each label, where the source has them."""


Reader = Callable[..., Foreign]
"""`(source, *, options)`: reads a file or a folder; UserError for one that it can't take."""
Writer = Callable[[Config, Sequence[str], Any, Path], Sequence[str]]
"""`(config, class_names, params, folder)`: writes into a new folder, and returns lines to tell."""


def numbered(class_names: Sequence[str]) -> tuple[str, ...]:
    """Returns the line that says which class has which number, for a file without their names."""
    if not class_names:
        return ()
    return (f"classes are numbers in it, without names: {describe_classes(class_names)}",)
