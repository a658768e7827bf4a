"""A row of bad input, and what makes its files."""

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

CONFIGS = Path("configs").resolve()


class Row(NamedTuple):
    """Files made in `here` by `make`; words, `{here}` standing for that folder; the line's part."""

    make: Callable[[Path], object]
    words: str
    says: str


def picture(
    kind: str = "PNG", size: tuple[int, int] = (4, 4), mode: str = "L", level: float = 200
) -> bytes:
    file = io.BytesIO()
    Image.new(mode, size, level).save(file, kind)
    return file.getvalue()


def put(name: str, data: bytes | str = b"") -> Callable[[Path], object]:
    raw = data.encode() if isinstance(data, str) else data

    def make(here: Path) -> None:
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_bytes(raw)

    return make


def every(*makers: Callable[[Path], object]) -> Callable[[Path], object]:
    def make(here: Path) -> None:
        for maker in makers:
            maker(here)

    return make


def nothing(here: Path) -> None:
    pass


def array(value: Any, name: str = "x.npy") -> Callable[[Path], object]:
    return lambda here: np.save(here / name, value, allow_pickle=True)


def arrays(name: str = "x.npz", **values: Any) -> Callable[[Path], object]:
    return lambda here: np.savez(here / name, **values)


def zipped(entries: dict[str, bytes], name: str = "x.zip") -> Callable[[Path], object]:
    def make(here: Path) -> None:
        with zipfile.ZipFile(here / name, "w", zipfile.ZIP_DEFLATED) as archive:
            for entry, data in entries.items():
                archive.writestr(entry, data)

    return make


def patched(
    maker: Callable[[Path], object], *fields: tuple[bytes, int, bytes], name: str = "x.zip"
) -> Callable[[Path], object]:
    """The zip with fields of its headers overwritten: signature, offset, value."""

    def make(here: Path) -> None:
        maker(here)
        data = bytearray((here / name).read_bytes())
        for signature, offset, value in fields:
            at = data.find(signature)
            while at >= 0:
                data[at + offset : at + offset + len(value)] = value
                at = data.find(signature, at + 4)
        (here / name).write_bytes(data)

    return make


def cut(maker: Callable[[Path], object], name: str, share: float) -> Callable[[Path], object]:
    def make(here: Path) -> None:
        maker(here)
        whole = (here / name).read_bytes()
        (here / name).write_bytes(whole[: int(share * len(whole))])

    return make


def bomb() -> bytes:
    """A PNG of 400 million pixels, of which only the header is there."""
    import zlib

    data = bytearray(picture())
    data[16:24] = (20_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


def noisy_jpeg() -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, "JPEG", quality=95)
    return file.getvalue()


class Trap:
    """Makes a folder if it is ever unpickled."""

    def __reduce__(self):
        return os.mkdir, ("sprung",)


PNG, TRAP = picture(), pickle.dumps(Trap())
CENTRAL, LOCAL = b"PK\x01\x02", b"PK\x03\x04"
IMAGES = np.full((5, 4, 4, 3), 200, np.uint8)
ENCRYPTED = ((LOCAL, 6, b"\x01\x00"), (CENTRAL, 8, b"\x01\x00"))
EPS = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"

# --- the table ------------------------------------------------------------------------------------

FOLDER = f"train {CONFIGS}/folder.py --workdir {{here}}/new --data.path {{here}}/set"
ZIP = f"train {CONFIGS}/folder.py --workdir {{here}}/new --data.path {{here}}/x.zip"
NPY = f"train {CONFIGS}/arrays.py --workdir {{here}}/new --data.path {{here}}/x.npy"
NPZ = f"train {CONFIGS}/arrays.py --workdir {{here}}/new --data.path {{here}}/x.npz"
PICTURE = f"train {CONFIGS}/single_image.py --workdir {{here}}/new --data.path {{here}}/a.png"
MINE = "train {here}/mine.py --workdir {here}/new"
INFO = "data info {here}/set"

IMPORT = "from ddpm_jax.config import *\n"
POINTS_FILE = put(
    "mine.py",
    f"{IMPORT}import pathlib\nPATH = str(pathlib.Path(__file__).parent / 'x.npy')\n"
    "def get_config():\n"
    "    data, sample = ArraysData(path=PATH, holds='points'), SampleConfig(clipping='none')\n"
    "    return Config(data=data, model=MlpConfig(layers=1), sample=sample)\n",
)
