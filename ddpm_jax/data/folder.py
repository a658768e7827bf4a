"""A folder or a zip of pictures as a data set."""

import logging
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from ddpm_jax.data.cache import stated_origin
from ddpm_jax.data.classes import in_order
from ddpm_jax.data.findings import Findings, range_error
from ddpm_jax.data.formats import count_pages, open_picture_file
from ddpm_jax.data.listing import Listing, list_pictures
from ddpm_jax.data.pictures import RangeError
from ddpm_jax.data.pictures import decode as decode_picture
from ddpm_jax.data.settings import FolderData
from ddpm_jax.data.source import StreamSource, Tolerance, raise_of_system, unreadable
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
    listing = list_pictures(root)
    pages = find_pages(listing, config.pages)
    names = [page.name for page in pages]
    classes, labels = find_classes(names)
    if labels is None and any("/" in name for name in names):
        loose = sum("/" not in name for name in names)
        if loose:
            _log.warning("%d pictures lie in %s itself, so subfolders are no classes", loose, root)

    findings = Findings(
        f"pictures in {root}",
        config.stored_shape,
        len(pages),
        span=config.range,
        left_out=listing.left_out,
    )

    def decode(index: int, shape: tuple[int, ...]) -> np.ndarray:
        name, page = pages[index]
        try:
            decoded = decode_picture(
                listing.read(name), shape, span=config.range, name=name, page=page
            )
        except RangeError as error:
            raise range_error(f"{root / name}", config.range, error) from None
        # A damaged file can make a decoder raise any error.
        except Exception as error:
            raise unreadable(str(pages[index]), error) from error
        findings.add(index, decoded)
        return decoded.pixels

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
        tolerance=Tolerance(findings.what, check, config.strict),
        origin=stated_origin(config, root, listing.state),
        findings=findings,
    )


class Page(NamedTuple):
    """An example of a folder: a file, or one page of it."""

    name: str
    page: int | None
    """From 0; None for the first, whether or not there are more."""

    def __str__(self) -> str:
        return self.name if self.page is None else f"{self.name}, page {self.page}"


def find_pages(listing: Listing, wanted: str) -> list[Page]:
    """Returns the examples of a folder, in order: its files ("first"), or "all" of their pages."""
    if wanted == "first":
        return [Page(name, None) for name in listing.names]

    def count(name: str) -> int | None:
        try:
            with open_picture_file(listing.read(name), name) as image:
                return count_pages(image)
        # What can't be read is one example here; decoding it says why.
        except Exception as error:
            raise_of_system(error)
            return None

    with ThreadPoolExecutor(StreamSource.workers) as pool:
        counts = list(pool.map(count, listing.names))
    return [
        Page(name, page)
        for name, pages in zip(listing.names, counts, strict=True)
        for page in (range(pages) if pages else [None])
    ]


def find_classes(names: list[str]) -> tuple[tuple[str, ...], np.ndarray | None]:
    """Returns the classes of sorted names and the label of each, int32; () and None without.

    The names `pets/cat/1.png` and `pets/dog/2.png` have the classes cat and dog. Numbers in the
    names count: class 2 comes before class 10.
    """
    paths = [as_text(name).split("/") for name in names]
    depth = 0
    while all(len(path) > depth + 1 and path[depth] == paths[0][depth] for path in paths):
        depth += 1
    if any(len(path) == depth + 1 for path in paths):
        return (), None
    classes = in_order(path[depth] for path in paths)
    number = {name: label for label, name in enumerate(classes)}
    return classes, np.array([number[path[depth]] for path in paths], np.int32)
