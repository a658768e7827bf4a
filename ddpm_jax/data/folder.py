"""A folder or a zip of pictures as a data set."""

import logging

import numpy as np

from ddpm_jax.config import FolderData
from ddpm_jax.data.cache import Origin
from ddpm_jax.data.listing import list_pictures
from ddpm_jax.data.pictures import decode_picture
from ddpm_jax.data.source import StreamSource, Tolerance, Unreadable
from ddpm_jax.errors import UserError
from ddpm_jax.files import as_text, local_path

_log = logging.getLogger(__name__)


def open_folder(config: FolderData) -> StreamSource:
    """Returns the pictures in `config.path` in the order of their names, uint8 `[H, W, C]`.

    If every picture lies in a subfolder, the first-level subfolders are the classes; otherwise
    there are no labels. A single folder that contains everything is skipped, as in a zip of one
    folder. Raises UserError if the folder or zip is missing or has no pictures.
    """
    if not config.path:
        raise UserError("data.path is not set; it must be a folder of pictures")
    root = local_path(config.path)
    names, read_bytes, state = list_pictures(root)
    classes, labels = find_classes(names)
    if labels is None and any("/" in name for name in names):
        loose = sum("/" not in name for name in names)
        if loose:
            _log.warning("%d pictures lie in %s itself, so subfolders are no classes", loose, root)

    def decode(index: int, shape: tuple[int, ...]) -> np.ndarray:
        try:
            return decode_picture(read_bytes(names[index]), shape)
        # A damaged file can make a decoder raise any error.
        except Exception as error:
            raise Unreadable(names[index], error) from error

    def read(indices: np.ndarray) -> list[tuple[np.ndarray, int]]:
        return [
            (decode(index, config.stored_shape), 0 if labels is None else int(labels[index]))
            for index in indices
        ]

    def check(index: int) -> None:
        # The smallest size makes a JPEG decode at an eighth.
        decode(index, (1, 1, config.channels))

    return StreamSource(
        read,
        length=len(names),
        shape=config.stored_shape,
        class_names=classes,
        tolerance=Tolerance(f"pictures in {root}", check, config.strict),
        origin=Origin(f"pictures {root.resolve()}", state),
    )


def find_classes(names: list[str]) -> tuple[tuple[str, ...], np.ndarray | None]:
    """Returns the classes of sorted names and the label of each, int32; () and None without.

    The names `pets/cat/1.png` and `pets/dog/2.png` have the classes cat and dog.
    """
    paths = [as_text(name).split("/") for name in names]
    depth = 0
    while all(len(path) > depth + 1 and path[depth] == paths[0][depth] for path in paths):
        depth += 1
    if any(len(path) == depth + 1 for path in paths):
        return (), None
    classes = sorted({path[depth] for path in paths})
    number = {name: label for label, name in enumerate(classes)}
    return tuple(classes), np.array([number[path[depth]] for path in paths], np.int32)
