"""Which kind of data a path or a name stands for."""

import re

from ddpm_jax.data.formats import suffixes
from ddpm_jax.data.settings import ArraysData, FolderData, PictureData, SourceConfig, TfdsData
from ddpm_jax.data.tfds import known_sets
from ddpm_jax.errors import UserError, nearest
from ddpm_jax.files import local_path


def recognize(source: str) -> SourceConfig:
    """Returns the data config for an existing file or folder, or else for a TFDS set of that name.

    Raises UserError if there is neither.
    """
    path = local_path(source)
    if not path.exists():
        bare, known = re.split("[/:]", source)[0], known_sets()
        if bare in known:
            return TfdsData(name=source)
        # A mistyped path is not taken for a mistyped name.
        beside = sorted(each.name for each in path.parent.glob("*"))
        near = nearest(path.name, beside) or nearest(source, known if bare == path.name else [])
        raise UserError(f"{path} does not exist{near}; name a folder, a zip, arrays or a TFDS set")
    if path.is_file() and path.suffix.lower() in suffixes():
        return PictureData(path=str(path))
    if path.suffix.lower() in (".npz", ".npy"):
        return ArraysData(path=str(path))
    return FolderData(path=str(path))
