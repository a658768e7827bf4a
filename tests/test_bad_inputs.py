"""Bad files of every kind: exit code 2, one line that says how to fix it, nothing written or lost.

Each row makes its files in a folder of its own, gives the command, and what its line must say. What
is wrong with words alone is in test_cli.py.
"""

import dataclasses
import hashlib
import io
import json
import os
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from ddpm_jax import cli
from ddpm_jax.config import (
    ArraysData,
    Config,
    DiffusionConfig,
    MlpConfig,
    PointsData,
    SampleConfig,
    TrainConfig,
)
from ddpm_jax.training.train import train

CONFIGS = Path("configs").resolve()
POINTS = Config(
    data=PointsData(size=50),
    model=MlpConfig(width=4, layers=1),
    diffusion=DiffusionConfig(timesteps=2),
    train=TrainConfig(steps=2, batch_size=8, log_every=2, save_every=2, preview_every=None),
    sample=SampleConfig(clipping="none", num=8, batch_size=8),
)


class Row(NamedTuple):
    """Files made in `here` by `make`; words, `{here}` standing for that folder; the line's part."""

    make: Callable[[Path], object]
    words: str
    says: str


# --- making files ---------------------------------------------------------------------------------


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


def arrays(**values: Any) -> Callable[[Path], object]:
    return lambda here: np.savez(here / "x.npz", **values)


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

_IMPORT = "from ddpm_jax.config import *\n"
POINTS_FILE = put(
    "mine.py",
    f"{_IMPORT}import pathlib\nPATH = str(pathlib.Path(__file__).parent / 'x.npy')\n"
    "def get_config():\n"
    "    data, sample = ArraysData(path=PATH, holds='points'), SampleConfig(clipping='none')\n"
    "    return Config(data=data, model=MlpConfig(layers=1), sample=sample)\n",
)

FOLDERS = {
    "no path": Row(
        nothing, f"train {CONFIGS}/folder.py --workdir {{here}}/new", "data.path is not set"
    ),
    "a folder that is not there": Row(nothing, FOLDER, "does not exist; give a folder of"),
    "an empty folder": Row(lambda here: (here / "set").mkdir(), FOLDER, "has no pictures"),
    "a folder of texts": Row(
        put("set/a.txt", "hello"), FOLDER, "that can be read; it holds 1 .txt"
    ),
    "only hidden pictures": Row(put("set/.a.png", PNG), FOLDER, "has no pictures"),
    "a pipe": Row(
        every(put("set/a.txt"), lambda here: os.mkfifo(here / "set" / "a.png")),
        FOLDER,
        "has no pictures",
    ),
    "a text file": Row(put("set", "hello"), FOLDER, "is a file, not a folder"),
    "a picture itself": Row(
        put("a.png", PNG), FOLDER.replace("/set", "/a.png"), "is a file, not a folder"
    ),
    "arrays as a folder": Row(array(IMAGES), FOLDER.replace("/set", "/x.npy"), "configs/arrays.py"),
    "an empty picture": Row(put("set/a.png"), FOLDER, "the first is a.png: it is empty"),
    "a web page as a picture": Row(put("set/a.jpg", "<html>404"), FOLDER, "it is not a picture"),
    "a torn picture": Row(put("set/a.jpg", noisy_jpeg()[:2000]), FOLDER, "a.jpg: image file is"),
    "a picture of a torn header": Row(put("set/a.png", PNG[:20]), FOLDER, "a.png: "),
    "a picture with a wrong byte": Row(
        put("set/a.png", PNG[:45] + b"\xff" + PNG[46:]), FOLDER, "1 of 1 pictures in"
    ),
    "a bomb of pixels": Row(put("set/a.png", bomb()), FOLDER, "a.png: it has more than 89,"),
    "a program as a picture": Row(put("set/a.png", EPS), FOLDER, "it is not a picture"),
    "a pickle as a picture": Row(put("set/a.png", TRAP), FOLDER, "it is not a picture"),
    "floating-point pixels": Row(
        put("set/a.tif", picture("TIFF", mode="F")),
        FOLDER,
        "data.range is None, but {here}/set/a.tif has floating-point levels from 200 to 200; give",
    ),
    "a CT slice": Row(
        put("set/a.tif", picture("TIFF", mode="I", level=-1000)),
        FOLDER,
        "a.tif has signed or 32-bit levels from -1000 to -1000; give the values of black and",
    ),
    "12 bits in 16": Row(
        put("set/a.png", picture(mode="I;16", level=4095)),
        FOLDER,
        "in 16 bits is 4095 of 65535; give 0 65535 to keep them dark, or 0 4095 to stretch them",
    ),
    "masks as pictures": Row(
        put("set/a.png", picture(level=1)), FOLDER, "in 8 bits is 1 of 255; give 0 255 to keep"
    ),
    "levels outside their range": Row(
        put("set/a.tif", picture("TIFF", mode="I", level=3000)),
        f"{FOLDER} --data.range -1000 1000",
        "but {here}/set/a.tif has levels from 3000 to 3000; widen it, or fix the levels",
    ),
    "one range for 8 and 16 bits": Row(
        every(
            put("set/a.png", picture(mode="I;16", level=4095)),
            put("set/b.png", picture(level=99)),
        ),
        f"{FOLDER} --data.range 0 4095",
        "have levels of 8 and 16 bits, which one range can't fit; separate them",
    ),
    "a range of nothing for pictures": Row(
        put("set/a.png", PNG), f"{FOLDER} --data.range 1 1", "data.range is (1.0, 1.0); it must be"
    ),
    "only what others left": Row(
        every(
            put("set/@eaDir/a.png", PNG), put("set/Thumbs.db"), put("set/a.heic"), put("set/a.txt")
        ),
        FOLDER,
        "it holds 1 .heic (needs pip install pillow-heif), 1 .txt, 1 in @eaDir, 1 of the system",
    ),
    "a link to nowhere": Row(
        every(put("set/a.txt"), lambda here: (here / "set" / "a.png").symlink_to("gone")),
        FOLDER,
        "a.png: No such file",
    ),
    "one broken picture, strictly": Row(
        every(put("set/a.png", PNG), put("set/b.png")),
        f"{FOLDER} --data.strict True",
        "1 of 2 pictures in {here}/set can't be read; the first is b.png: it is empty; fix",
    ),
    "classes of another number": Row(
        every(put("set/cat/a.png", PNG), put("set/dog/a.png", PNG)),
        f"{FOLDER} --model.num_classes 3",
        "the data has 2 classes; set model.num_classes to 2",
    ),
    "classes where there are none": Row(
        put("set/a.png", PNG), f"{FOLDER} --model.num_classes 3", "the data has no classes"
    ),
    "a name of two lines": Row(
        put("set/a\nb.png"), FOLDER, "the first is a b.png: it is empty; give other pictures"
    ),
    "cuts larger than the picture": Row(
        put("set/a.png", PNG),
        f"{FOLDER} --data.crop_from 32 80",
        "data.crop_from is (32, 80); it must be at least data.image_size, (64, 64)",
    ),
    "pictures without a size": Row(
        nothing, f"{FOLDER} --data.image_size 0 64", "data.image_size is (0, 64)"
    ),
    "pictures of endless size": Row(
        nothing, f"{FOLDER} --data.image_size 64 99999", "a height and a width in 1 … 16384"
    ),
    "two channels": Row(nothing, f"{FOLDER} --data.channels 2", "--data.channels"),
}

ZIPS = {
    "a zip that is not there": Row(nothing, ZIP, "x.zip does not exist; give a folder of"),
    "an empty file as a zip": Row(put("x.zip"), ZIP, "can't be read as a zip"),
    "a text as a zip": Row(put("x.zip", "hello"), ZIP, "copy or download it again"),
    "a torn zip": Row(cut(zipped({"a.png": PNG}), "x.zip", 0.7), ZIP, "cut short"),
    "a zip of nothing": Row(zipped({}), ZIP, "has no pictures"),
    "a zip of folders": Row(zipped({"cat/": b"", "dog/": b""}), ZIP, "has no pictures"),
    "a zip of texts": Row(zipped({"a.txt": b"hello"}), ZIP, "that can be read; it holds 1 .txt"),
    "a zip of shadows": Row(zipped({"__MACOSX/._a.png": PNG}), ZIP, "has no pictures"),
    "a zip of zips": Row(zipped({"a.zip": b"PK"}), ZIP, "1 .zip (an archive; unpack it)"),
    "names that lead out": Row(
        zipped({"../up.png": PNG, "/root.png": PNG, "a\\..\\..\\b.png": PNG}),
        ZIP,
        "has no pictures",
    ),
    "an encrypted zip": Row(
        patched(zipped({"a.png": PNG}), *ENCRYPTED), ZIP, "a.png: it is encrypted; make a zip"
    ),
    "an unknown compression": Row(
        patched(zipped({"a.png": PNG}), (LOCAL, 8, b"\x63\x00"), (CENTRAL, 10, b"\x63\x00")),
        ZIP,
        "a.png: That compression method is not supported",
    ),
    "entries over one another": Row(
        patched(zipped({f"{i}.png": PNG for i in range(30)}), (CENTRAL, 20, b"\xff\xff\0\0")),
        ZIP,
        "is a zip bomb (its entries claim",
    ),
    "a bomb in all": Row(
        patched(zipped({"a.png": PNG}), (CENTRAL, 24, struct.pack("<I", 2**32 - 2))),
        ZIP,
        "is a zip bomb (it unpacks to 4,294,967,294 bytes",
    ),
    "a bomb in one entry": Row(
        zipped({"a.bmp": bytes(2**24 + 1)}), ZIP, "a.bmp: it unpacks to 16,777,217 bytes"
    ),
    "an entry with a wrong checksum": Row(
        patched(zipped({"a.png": PNG}), (CENTRAL, 16, b"\0\0\0\0")), ZIP, "a.png: Bad CRC-32"
    ),
    "one broken entry, strictly": Row(
        zipped({"a.png": PNG, "b.png": b"no"}),
        f"{ZIP} --data.strict True",
        "b.png: it is not a pict",
    ),
    "another kind of archive": Row(
        put("x.tar", "x" * 2000), ZIP.replace(".zip", ".tar"), "is a file, not a folder"
    ),
}

ARRAYS = {
    "no array": Row(
        nothing, f"train {CONFIGS}/arrays.py --workdir {{here}}/new", "data.path is not set"
    ),
    "an array that is not there": Row(nothing, NPY, "x.npy does not exist; give a .npz"),
    "a folder as an array": Row(lambda here: (here / "x.npy").mkdir(), NPY, "x.npy is a folder"),
    "a text as an array": Row(put("x.npy", "hello, world"), NPY, "it does not begin like a NumPy"),
    "a torn array": Row(cut(array(IMAGES), "x.npy", 0.8), NPY, "can't be read"),
    "a torn header": Row(cut(array(IMAGES), "x.npy", 0.1), NPY, "can't be read"),
    "objects in an array": Row(array(np.array([Trap()])), NPY, "objects, which are not unpickl"),
    "a pickle as an array": Row(put("x.npy", TRAP), NPY, "can't be read"),
    "a pickle as an npz": Row(put("x.npz", TRAP), NPZ, "can't be read"),
    "objects in an npz": Row(arrays(x=np.array([Trap()])), NPZ, "which are not unpickled"),
    "an array of none": Row(array(IMAGES[:0]), NPY, "it is (0, 4, 4, 3)"),
    "a single number": Row(array(np.float32(3)), NPY, "has no examples: it is ()"),
    "channels first": Row(
        array(np.zeros((5, 3, 8, 8), np.uint8)),
        NPY,
        "images of 8×8 with 3 channels (data.axes NCHW)",
    ),
    "one picture for a batch": Row(
        array(np.zeros((64, 64, 3), np.uint8)),
        NPY,
        "one image of 64×64 with 3 channels (data.axes H",
    ),
    "one picture, channels first": Row(
        array(np.zeros((3, 64, 64), np.uint8)),
        NPY,
        "one image of 64×64 with 3 channels (data.axes C",
    ),
    "one grey picture": Row(array(np.zeros((64, 64), np.uint8)), NPY, "grey image data.axes HW"),
    "axes of another array": Row(
        array(IMAGES), f"{NPY} --data.axes NHW", "data.axes is NHW, but {here}/x.npy holds 5×4×4×3"
    ),
    "two channels in an array": Row(
        array(np.full((5, 8, 8, 2), 200, np.uint8)), NPY, "have 2; set data.channels to 2"
    ),
    "grey for five channels": Row(
        array(np.full((9, 8, 8), 200, np.uint8)),
        f"{NPY} --data.channels 5",
        "set data.channels to 1",
    ),
    "no channels": Row(array(IMAGES), f"{NPY} --data.channels 0", "data.channels is 0; it must be"),
    "a channel that is not there": Row(
        array(IMAGES), f"{NPY} --data.show_channels 1 2 3", "one channel or three, each in 0 … 2"
    ),
    "two channels to see": Row(
        array(IMAGES), f"{NPY} --data.show_channels 1 2", "data.show_channels is (1, 2); it must be"
    ),
    "channels of points": Row(
        array(np.zeros((9, 2))),
        f"{NPY} --data.holds points --data.show_channels 0",
        "data.show_channels is (0,); it must be None for points",
    ),
    "masks of 0 and 1": Row(
        array(IMAGES // 200), NPY, "is 1 of 255; give 0 255 to keep them dark, or 0 1 to stretch"
    ),
    "negative whole numbers": Row(
        array(IMAGES.astype(np.int16) - 1000), NPY, "int16 from -800 to -800; give the values of"
    ),
    "12 bits in 16 of an array": Row(
        array(IMAGES.astype(np.uint16) * 20), NPY, "uint16 from 4000 to 4000; give the values of"
    ),
    "films": Row(array(np.zeros((2, 2, 8, 8, 3), np.uint8)), NPY, "images must be [N, H, W] or"),
    "points as images": Row(array(np.zeros((9, 2))), NPY, "points need data.holds points"),
    "words as images": Row(array(np.full((2, 4, 4), "x")), NPY, "images must be numbers"),
    "complex images": Row(array(np.zeros((2, 4, 4), complex)), NPY, "images must be numbers"),
    "floats without a range": Row(
        array(IMAGES / 255),
        NPY,
        "float64 from 0.784314 to 0.784314; give the values of black and white",
    ),
    "values outside their range": Row(
        array(IMAGES + 1.5), f"{NPY} --data.range -1 1", "has 201.5 to 201.5; widen it"
    ),
    "a NaN among the values": Row(
        array(np.where(np.arange(240).reshape(5, 4, 4, 3) == 99, np.nan, 0)),
        f"{NPY} --data.range -1 1",
        "has values that are NaN; fix or remove them",
    ),
    "a range of nothing": Row(
        array(IMAGES), f"{NPY} --data.range 1 1", "data.range is (1.0, 1.0); it must be two"
    ),
    "an endless range": Row(
        array(IMAGES), f"{NPY} --data.range 0 inf", "data.range is inf; it must be a finite number"
    ),
    "a name for one array": Row(
        array(IMAGES), f"{NPY} --data.examples x", "is a single array, which has no name"
    ),
    "labels that are not there": Row(
        array(IMAGES), f"{NPY} --data.labels {{here}}/y.npy", "data.labels: {here}/y.npy does not"
    ),
    "several arrays": Row(arrays(a=IMAGES, b=IMAGES), NPZ, "has the arrays a, b; name one in data"),
    "no such array": Row(
        arrays(a=IMAGES), f"{NPZ} --data.examples x", "has no array 'x'; it has a"
    ),
    "no such labels": Row(arrays(a=IMAGES), f"{NPZ} --data.labels y", "has no array 'y'; it has a"),
    "labels of another number": Row(
        arrays(a=IMAGES, labels=np.arange(4)), NPZ, "5 examples and labels of shape (4,)"
    ),
    "labels in between": Row(
        arrays(a=IMAGES, labels=np.arange(5) / 2), NPZ, "labels of type float64; give whole numbers"
    ),
    "labels of other classes": Row(
        arrays(a=IMAGES, labels=np.arange(5)),
        f"{NPZ} --model.num_classes 2",
        "set model.num_classes to 5",
    ),
    "a torn npz": Row(
        cut(arrays(a=IMAGES), "x.npz", 0.6), NPZ, "can't be read (File is not a zip file)"
    ),
    "pictures as an npz": Row(
        zipped({"a.png": PNG}, "x.npz"), NPZ, "for pictures in a zip use configs/folder"
    ),
    "points of space": Row(
        every(POINTS_FILE, array(np.zeros((9, 3)))), MINE, "points must be numbers [N, 2]"
    ),
    "points at infinity": Row(
        every(POINTS_FILE, array(np.full((9, 2), np.inf))), MINE, "points that are not finite"
    ),
    "mirrored points": Row(
        array(np.zeros((9, 2))),
        f"{NPY} --data.holds points --data.flip True",
        "data.flip is True; it must be False for points",
    ),
}

PICTURES = {
    "a picture that is not there": Row(nothing, PICTURE, "a.png does not exist; give a picture's"),
    "a folder as a picture": Row(put("a.png/b.png", PNG), PICTURE, "a.png is a folder; give"),
    "a text as a picture": Row(put("a.png", "hello"), PICTURE, "(it is not a picture); give"),
    "a CT slice alone": Row(
        put("a.png", picture("TIFF", mode="I", level=-1000)),
        f"{PICTURE} --train.batch_size 8",
        "a.png has signed or 32-bit levels from -1000 to -1000; give the values",
    ),
    "a mask alone": Row(
        put("a.png", picture(level=1)),
        f"{PICTURE} --train.batch_size 8",
        "the greatest level of {here}/a.png in 8 bits is 1",
    ),
    "half a picture": Row(put("a.png", PNG[: len(PNG) // 2]), PICTURE, "give another picture"),
}

FILES = {
    "an empty config": Row(put("mine.py"), MINE, "has no get_config()"),
    "a config of nothing": Row(
        put("mine.py", "def get_config():\n    pass\n"), MINE, "returned NoneType, not a Config"
    ),
    "a config of noise": Row(put("mine.py", bytes(range(256))), MINE, "fix the file"),
    "a config of another language": Row(
        put("mine.yaml", "train:\n"), MINE.replace(".py", ".yaml"), "a config file ends in .py"
    ),
    "a config that fails": Row(
        put("mine.py", "def get_config():\n    return 1 / 0\n"), MINE, "mine.py:2: ZeroDivision"
    ),
    "a config without its smoke": Row(
        put("mine.py", f"{_IMPORT}def get_config():\n    return Config()\n"),
        f"{MINE} --smoke",
        "has no SMOKE",
    ),
    "a smoke of unknown settings": Row(
        put(
            "mine.py",
            f"{_IMPORT}SMOKE = {{'train.step': 1}}\ndef get_config():\n    return Config()\n",
        ),
        f"{MINE} --smoke",
        "unknown setting train.step (did you mean train.steps?)",
    ),
    "a run's config that is a list": Row(
        put("run/config.json", "[]"), "info {here}/run", "it must be a table of settings"
    ),
    "a run's config of another kind": Row(
        put("run/config.json", '{"data": {"kind": "foldr"}}'),
        "info {here}/run",
        "did you mean folder?",
    ),
    "a run's config of another type": Row(
        put("run/config.json", '{"train": {"steps": "3"}}'),
        "info {here}/run",
        "config.json: train.steps is '3'; it must be int",
    ),
}

LOOKS = {
    "a normalisation that adds nothing": Row(
        nothing,
        f"train {CONFIGS}/single_image.py --model.norm_epsilon 0",
        "model.norm_epsilon is 0.0; it must be between 0 and 1",
    ),
    "nothing to look at": Row(nothing, INFO, "does not exist; name a folder"),
    "a text to look at": Row(put("set", "hello"), INFO, "is a file, not a folder"),
    "an empty folder to look at": Row(lambda here: (here / "set").mkdir(), INFO, "no pictures"),
    "a torn array to look at": Row(
        cut(array(IMAGES), "x.npy", 0.8), INFO.replace("set", "x.npy"), "can't be read"
    ),
    "only broken pictures to look at": Row(
        put("set/a.png"), INFO, "1 of 1 pictures in {here}/set can't be read"
    ),
    "a list to look at": Row(array(np.arange(9)), INFO.replace("set", "x.npy"), "holds an array"),
    "words to look at": Row(
        array(np.full((9, 2), "x")), INFO.replace("set", "x.npy"), "points must be numbers [N, 2]"
    ),
    "no such set": Row(nothing, "data info mnizt", "did you mean mnist?"),
    "one picture to look at": Row(
        array(np.zeros((64, 64, 3), np.uint8)),
        INFO.replace("set", "x.npy"),
        "(data.axes NHW), or one image of 64×64 with 3 channels (data.axes HWC)",
    ),
    "a wrong setting to look at": Row(
        put("set/a.png", PNG), f"{INFO} --data.axes HWC", "unknown setting"
    ),
    "a grid of another kind": Row(
        put("set/a.png", PNG), f"{INFO} --output {{here}}/x.jpg", "this figure is a .png file"
    ),
    "a grid in no folder": Row(
        put("set/a.png", PNG), f"{INFO} --output {{here}}/no/x.png", "can't be written"
    ),
    "nothing named": Row(nothing, "data info", "use: ddpm data info SOURCE"),
    "an unknown question": Row(nothing, "data inf x", "or: ddpm data info SOURCE"),
}

SAMPLE = "sample {here}/run --output {here}/x.png"


def checkpoint(damage: Callable[[Path], object]) -> Callable[[Path], object]:
    """Damages the only checkpoint of the run's copy."""
    return lambda here: damage(here / "run" / "checkpoints" / "2")


def largest(folder: Path) -> Path:
    """The file that holds the parameters."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return max((path for path in files if not path.name.startswith("_")), key=_size)


def _size(path: Path) -> int:
    return path.stat().st_size


def flip(folder: Path) -> None:
    data = bytearray(largest(folder).read_bytes())
    data[len(data) // 2] ^= 1
    largest(folder).write_bytes(data)


def halve(folder: Path) -> None:
    path = largest(folder)
    path.write_bytes(path.read_bytes()[: _size(path) // 2])


def empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def rewritten(name: str, **values: Any) -> Callable[[Path], object]:
    """Replaces values of a JSON file of the run's copy, with a checkpoint's checksum of it."""

    def make(here: Path) -> None:
        path = here / "run" / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
        sums = path.parent / "checksums.json"
        if sums.is_file():
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            sums.write_text(json.dumps({**json.loads(sums.read_text()), path.name: digest}))

    return make


NEWER = rewritten("checkpoints/2/meta.json", format=99, versions={"ddpm_jax": "9.1"})
AGAIN = "train {here}/run"
LEFT = "no good checkpoint is left in {here}/run/checkpoints"
CHECKPOINTS = {
    "a flipped bit": Row(checkpoint(flip), SAMPLE, LEFT),
    "half a file": Row(checkpoint(halve), SAMPLE, LEFT),
    "a lost file": Row(checkpoint(lambda it: largest(it).unlink()), SAMPLE, LEFT),
    "a lost description": Row(checkpoint(lambda it: (it / "meta.json").unlink()), SAMPLE, LEFT),
    "a description that is no JSON": Row(
        checkpoint(lambda it: (it / "meta.json").write_text("{")), SAMPLE, LEFT
    ),
    "a pickle as description": Row(
        checkpoint(lambda it: (it / "meta.json").write_bytes(TRAP)), SAMPLE, LEFT
    ),
    "an empty checkpoint": Row(checkpoint(empty), SAMPLE, LEFT),
    "no checkpoints": Row(
        lambda here: shutil.rmtree(here / "run" / "checkpoints"), SAMPLE, "has no checkpoints"
    ),
    "going on from a flipped bit": Row(
        checkpoint(flip), f"train {CONFIGS}/swiss_roll.py --workdir {{here}}/run", LEFT
    ),
    "another seed": Row(nothing, f"{AGAIN} --seed 1", "holds a run with seed = 0, and this config"),
    "fewer steps than made": Row(
        nothing, f"{AGAIN} --train.steps 1", "{here}/run has made 2 steps, and train.steps is 1"
    ),
    "a checkpoint of a newer version": Row(
        NEWER, SAMPLE, "checkpoints/2 of ddpm_jax 9.1: format is 99, and ddpm_jax "
    ),
    "training on from a newer version": Row(NEWER, AGAIN, "of ddpm_jax 9.1: format is 99, and ddp"),
    "a config.json of a newer version": Row(
        rewritten("config.json", format=99), AGAIN, "run/config.json: format is 99, and ddpm_jax "
    ),
    "a config.json of NULs": Row(
        lambda here: (here / "run/config.json").write_bytes(b"\0" * 99), AGAIN, "is not valid JSON"
    ),
    "a config.json that is not UTF-8": Row(
        lambda here: (here / "run/config.json").write_bytes(b'{"\xff'), AGAIN, "is not valid JSON"
    ),
    "samples of a list": Row(
        put("s/samples.json", "[]"),
        "sample {here}/run --output {here}/s",
        "samples.json can't be read; choose another folder",
    ),
    "samples of NULs": Row(
        put("s/samples.json", b"\0\0\0"),
        "sample {here}/run --output {here}/s",
        "samples.json can't be read; choose another folder",
    ),
    "points as pictures": Row(
        nothing,
        "sample {here}/run --output {here}/s --format png",
        "the format png does not apply: it holds pictures, and these samples are points; draw them",
    ),
    "points for ADM's evaluator": Row(
        nothing,
        "sample {here}/run --output {here}/s.npz --format arr_0",
        "the format arr_0 does not apply: it holds pictures, and these samples are points; draw",
    ),
    "a folder that is not UTF-8": Row(
        nothing,
        f"train {CONFIGS}/swiss_roll.py --workdir {{here}}/caf\udce9",
        "path whose bytes are",
    ),
    "the home of nobody": Row(
        nothing, "sample ~nobody-at-all/run", "its ~ names no user's home; write the folder out"
    ),
    "a name that is too long": Row(nothing, f"sample {'x' * 300}", "File name too long; choose a"),
    "labels for a run without": Row(
        nothing, f"{SAMPLE} --num 1 --labels 0", "was trained without labels; leave them out"
    ),
    "guidance for a run without": Row(nothing, f"{SAMPLE} --guidance 1", "guidance"),
    "data of another shape": Row(
        nothing,
        f"train {CONFIGS}/digits.py --workdir {{here}}/run --smoke",
        "holds a run with",
    ),
}


def points(path: Path, classes: str) -> None:
    labels = np.array(list(classes))[np.arange(40) % len(classes)]
    np.savez(path, examples=np.ones((40, 2), np.float32), labels=labels)


LABELLED = put(
    "mine.py",
    f"{_IMPORT}import pathlib\nPATH = str(pathlib.Path(__file__).parent / 'x.npz')\n"
    "def get_config():\n"
    "    model = MlpConfig(width=4, layers=1, num_classes=2)\n"
    "    data, sample = ArraysData(path=PATH, holds='points'), SampleConfig(clipping='none')\n"
    "    return Config(data=data, model=model, sample=sample)\n",
)
LABELLED_RUN = "train {here}/mine.py --workdir {here}/run --diffusion.timesteps 2"
OTHER_LABELS = {
    "a class that is another": Row(
        every(LABELLED, lambda here: points(here / "x.npz", "ac")),
        LABELLED_RUN,
        "{here}/run holds a run with data.classes.1 = 'b', and the data has 'c'",
    ),
    "a class that is new": Row(
        every(LABELLED, lambda here: points(here / "x.npz", "abc")),
        LABELLED_RUN,
        "{here}/run holds a run with data.classes = 2, and the data has 3",
    ),
}

TABLES = (FOLDERS, ZIPS, ARRAYS, PICTURES, FILES, LOOKS, CHECKPOINTS, OTHER_LABELS)
ROWS = {name: row for table in TABLES for name, row in table.items()}


def test_the_table_is_long_enough_and_has_no_row_twice():
    assert len(ROWS) == sum(map(len, TABLES)) >= 60


# --- the test -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two steps with one checkpoint."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(POINTS, folder)
    return folder


@pytest.fixture(scope="module")
def labelled_run(tmp_path_factory):
    """A run of two steps with the classes a and b."""
    folder = tmp_path_factory.mktemp("labelled")
    points(folder / "x.npz", "ab")
    data = ArraysData(path=str(folder / "x.npz"), holds="points")
    model = dataclasses.replace(POINTS.model, num_classes=2)
    train(dataclasses.replace(POINTS, data=data, model=model), folder / "run")
    return folder / "run"


def tree(root: Path) -> dict[str, str]:
    """Every path below a folder and what it holds."""
    found = {}
    for path in sorted(root.rglob("*")):
        kept = path.is_file() and not path.name.startswith(".lock")
        content = hashlib.sha256(path.read_bytes()).hexdigest() if kept else ""
        found[str(path.relative_to(root))] = content
    return found


@pytest.mark.parametrize("name", ROWS)
def test_it_is_told_in_one_line_and_nothing_is_written_or_lost(
    name, request, tmp_path, monkeypatch, capsys
):
    row, here = ROWS[name], tmp_path / "here"
    for folder in ("here", "cwd", "cache"):
        (tmp_path / folder).mkdir()
    if name in CHECKPOINTS:
        shutil.copytree(request.getfixturevalue("run"), here / "run")
    elif name in OTHER_LABELS:
        shutil.copytree(request.getfixturevalue("labelled_run"), here / "run")
    monkeypatch.setenv("DDPM_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path / "cwd")
    row.make(here)
    before = tree(tmp_path)
    capsys.readouterr()
    code = cli.main([word.replace("{here}", str(here)) for word in row.words.split()])
    out, err = capsys.readouterr()
    assert code == 2, out + err
    *warnings, line = err.splitlines()
    assert line.startswith("ddpm: ")
    assert row.says.replace("{here}", str(here)) in line
    assert "Traceback" not in out + err
    # What is passed over on the way to the newest good checkpoint is named before, and so is what
    # reading the data changed.
    others = [each for each in warnings if " enlarged to " not in each]
    assert not others or name in CHECKPOINTS, err
    assert tree(tmp_path) == before
