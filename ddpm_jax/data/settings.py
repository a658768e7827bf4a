"""The settings of the sources that ship: the section `data` of a config."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from ddpm_jax.errors import UserError, require, require_whole


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """The base of each source's settings."""

    kind: ClassVar[str]
    """The source's name in `SOURCES`."""

    def paths(self) -> tuple[str, ...]:
        """Returns the names of the settings that hold paths."""
        return ()

    @property
    def example_shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class DigitsData(SourceConfig):
    """The 1,797 handwritten digits of scikit-learn: 8×8, 17 grey levels, ten classes."""

    kind: ClassVar[str] = "digits"
    flip: bool = False
    """Mirror half of the images left to right, at random."""

    @property
    def example_shape(self) -> tuple[int, ...]:
        return (8, 8, 1)


@dataclass(frozen=True, kw_only=True)
class PointsData(SourceConfig):
    """Points of a two-dimensional figure, in a table that does not depend on the run's seed."""

    kind: ClassVar[str] = "points"
    shape: Literal["swiss_roll", "s_curve", "moons", "circles", "checkerboard", "branches"] = (
        "swiss_roll"
    )
    size: int = 10_000
    """Number of points in the table."""
    noise: float = 0.1
    """Standard deviation of the noise around the figure, before scaling."""
    table: int = 0
    """Which table of the figure: each number gives fresh points."""

    @property
    def example_shape(self) -> tuple[int, ...]:
        return (2,)

    def __post_init__(self):
        require_whole("data.size", self.size, most=10**8)
        require(0 <= self.noise <= 1e6, "data.noise", self.noise, "in 0 … 1,000,000")
        require_whole("data.table", self.table, least=0, most=2**32 - 1)


@dataclass(frozen=True, kw_only=True)
class _Images(SourceConfig):
    image_size: tuple[int, int] = (32, 32)
    """Height and width of an example; pictures of another size are resized and cropped."""
    channels: int = 3
    """1 grey, 3 red-green-blue, 4 with transparency."""
    range: tuple[float, float] | None = None
    """The values that are black and white; None for 0 and the greatest of unsigned 8 or 16 bits."""
    crop_from: tuple[int, int] | None = None
    """Height and width to which pictures are scaled; each step then cuts image_size out at random.
    None for no random crops."""
    flip: bool = False
    """Mirror half of the images left to right, at random."""

    @property
    def example_shape(self) -> tuple[int, ...]:
        return (*self.image_size, self.channels)

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """The shape of a decoded picture: an example, or the picture that examples are cut from."""
        return (*(self.crop_from or self.image_size), self.channels)

    def __post_init__(self):
        size, larger = self.image_size, self.crop_from
        require(_is_size(size), "data.image_size", size, _SIZES)
        covers = larger is None or (
            _is_size(larger) and larger[0] >= size[0] and larger[1] >= size[1]
        )
        need = f"at least data.image_size, {size}, in both, and at most {_LARGEST_SIDE}; or None"
        require(covers, "data.crop_from", larger, need)
        _require_range(self.range)


def _require_range(span: tuple[float, float] | None) -> None:
    good = span is None or (all(map(math.isfinite, span)) and span[0] != span[1])
    require(good, "data.range", span, "two different numbers, as 0 1 or -1 1")


_LARGEST_SIDE = 2**14
_CHANNELS = f"in 1 … {_LARGEST_SIDE}"
_SIZES = f"a height and a width in 1 … {_LARGEST_SIDE}"


def _is_size(size: tuple[int, int]) -> bool:
    return all(isinstance(side, int) and 1 <= side <= _LARGEST_SIDE for side in size)


@dataclass(frozen=True, kw_only=True)
class TfdsData(_Images):
    """An image data set of tensorflow-datasets, prepared on disk and read without TensorFlow."""

    kind: ClassVar[str] = "tfds"
    name: str = "cifar10"
    """NAME or NAME/CONFIG, followed by :VERSION for another version than the newest."""
    split: str = "train"
    """A split, a slice of one (train[:90%]), or a sum of them (train+test)."""
    data_dir: str | None = None
    """Where TFDS keeps its data; None for $TFDS_DATA_DIR, then ~/tensorflow_datasets."""
    channels: Literal[1, 3, 4] = 3
    """1 grey, 3 red-green-blue, 4 with transparency."""

    def paths(self) -> tuple[str, ...]:
        return ("data_dir",)


@dataclass(frozen=True, kw_only=True)
class FolderData(_Images):
    """A folder or a zip of pictures; if all of them are in subfolders, these are the classes."""

    kind: ClassVar[str] = "folder"
    path: str = ""
    """The folder or the zip, which is read in place. Required."""
    strict: bool = False
    """Whether a picture that can't be read is an error; otherwise it is left out."""
    channels: Literal[1, 3, 4] = 3
    """1 grey, 3 red-green-blue, 4 with transparency."""
    pages: Literal["first", "all"] = "first"
    """Of a file with several pages or frames, the first alone, or all, each as an example."""

    def paths(self) -> tuple[str, ...]:
        return ("path",)


@dataclass(frozen=True, kw_only=True)
class ArraysData(_Images):
    """Arrays in a NumPy file, .npz or .npy: images, or points."""

    kind: ClassVar[str] = "arrays"
    path: str = ""
    """The file. Required. A large .npy is read in place."""
    holds: Literal["images", "points"] = "images"
    """Images of any number of channels, resized to image_size; or points [N, dimensions]."""
    dimensions: int = 2
    """How many numbers a point has, at least 2."""
    axes: Literal["NHWC", "NCHW", "NHW", "HWC", "CHW", "HW"] | None = None
    """The axes of an array of images: number, height, width, channels; a single image has no N.
    None for [N, H, W] or [N, H, W, C], if the shape leaves no doubt."""
    examples: str | None = None
    """The array of an .npz with the examples; None for the only array besides the labels."""
    labels: str | None = None
    """The array of an .npz with the labels, or an .npy file with them; None for the array named
    labels, if there is one."""
    channels: int = 3
    """1 grey, 3 red-green-blue, 4 with transparency unless show_channels is given; or any number
    of bands."""
    range: tuple[float, float] | None = None
    """The values that are black and white; None for 0 and 255 of uint8, False and True."""
    show_channels: tuple[int, ...] | None = None
    """The channels that pictures of samples show, from 0: one as grey, or three as red, green and
    blue. None for all of 1, 3 or 4, otherwise the first three, and the first of 2. Of points the
    two numbers that plots show; None for the first two."""

    def paths(self) -> tuple[str, ...]:
        # Labels in a file of their own, and not in an array of an .npz.
        separate = Path(self.labels or "").suffix == ".npy"
        return ("path", "labels") if separate else ("path",)

    @property
    def example_shape(self) -> tuple[int, ...]:
        return super().example_shape if self.holds == "images" else (self.dimensions,)

    @property
    def stored_shape(self) -> tuple[int, ...]:
        return super().stored_shape if self.holds == "images" else (self.dimensions,)

    def __post_init__(self):
        super().__post_init__()
        require(1 <= self.channels <= _LARGEST_SIDE, "data.channels", self.channels, _CHANNELS)
        points, shown = self.holds == "points", self.show_channels
        if points:
            for name in ("crop_from", "range", "axes"):
                value = getattr(self, name)
                require(value is None, f"data.{name}", value, "None for points, which have none")
            require(not self.flip, "data.flip", self.flip, "False for points")
        good = self.dimensions >= 2 if points else self.dimensions == 2
        need = "at least 2" if points else "2 for images, which have none"
        require(good, "data.dimensions", self.dimensions, need)
        counts, what = ((2,), "two numbers") if points else ((1, 3), "one channel or three")
        last = (self.dimensions if points else self.channels) - 1
        good = shown is None or (len(shown) in counts and all(0 <= at <= last for at in shown))
        require(good, "data.show_channels", shown, f"{what}, each in 0 … {last}")


@dataclass(frozen=True, kw_only=True)
class PictureData(SourceConfig):
    """One picture of any size: every example of a batch is this picture."""

    kind: ClassVar[str] = "picture"
    path: str | None = None
    """File of the picture; None for scikit-learn's flower.jpg."""
    image_size: tuple[int, int] | None = None
    """Height and width to scale and crop it to; None for its own size."""
    channels: Literal[1, 3, 4] = 3
    """1 grey, 3 red-green-blue, 4 with transparency."""
    range: tuple[float, float] | None = None
    """The levels that are black and white; None for the ends of unsigned 8 or 16 bits."""

    def paths(self) -> tuple[str, ...]:
        return ("path",)

    @property
    def example_shape(self) -> tuple[int, ...]:
        """Raises UserError while image_size is None; see ddpm_jax.data.resolve."""
        if self.image_size is None:
            fix = "let ddpm_jax.data.resolve(config) read the picture's, or give one"
            raise UserError(f"data.image_size is None; {fix}")
        return (*self.image_size, self.channels)

    def __post_init__(self):
        size = self.image_size
        good = size is None or _is_size(size)
        require(good, "data.image_size", size, f"{_SIZES}, or None for the picture's own")
        _require_range(self.range)


def shown_channels(data: SourceConfig) -> tuple[int, ...] | None:
    """Returns the channels that pictures show, or the numbers of points that plots show.

    None if they show the examples as they are.
    """
    if not isinstance(data, ArraysData):
        return None
    plain = data.dimensions == 2 if data.holds == "points" else data.channels in (1, 3, 4)
    if data.show_channels is not None or plain:
        return data.show_channels
    if data.holds == "points":
        return (0, 1)
    return (0, 1, 2) if data.channels > 2 else (0,)


def describe_shown(data: SourceConfig) -> str | None:
    """Returns what pictures show, if that is not all of an example."""
    shown = shown_channels(data)
    if shown is None or not isinstance(data, ArraysData):
        return None
    if data.holds == "points":
        what = f"the numbers {shown[0]} and {shown[1]} of 0 … {data.dimensions - 1}"
        return f"plots show {what}; data.show_channels chooses others"
    what = f"channel {shown[0]} of 0 … {data.channels - 1} as grey"
    if len(shown) == 3:
        named = ", ".join(map(str, shown))
        what = f"channels {named} of 0 … {data.channels - 1} as red, green and blue"
    return f"pictures show {what}; data.show_channels chooses others"
