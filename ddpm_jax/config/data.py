"""The settings of the data, a section for each kind of source."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from ddpm_jax.config.checks import require
from ddpm_jax.errors import UserError


@dataclass(frozen=True, kw_only=True)
class DigitsData:
    """scikit-learn's 1,797 real handwritten digits, 8×8 in 17 grey levels, ten classes."""

    kind: ClassVar[str] = "digits"
    example_shape: ClassVar[tuple[int, ...]] = (8, 8, 1)
    flip: bool = False
    """Mirror half of the images left to right, at random."""


@dataclass(frozen=True, kw_only=True)
class PointsData:
    """Points of a two-dimensional figure in a table that is the same for every seed of a run."""

    kind: ClassVar[str] = "points"
    flip: ClassVar[bool] = False
    shape: Literal["swiss_roll", "s_curve", "moons", "circles", "checkerboard"] = "swiss_roll"
    size: int = 10_000
    """How many points the table holds."""
    noise: float = 0.1
    """Standard deviation of the noise around the figure, before it is scaled."""
    table: int = 0
    """Which of the figure's tables: another number, and all points are fresh."""

    @property
    def example_shape(self) -> tuple[int, ...]:
        return (2,)

    def __post_init__(self):
        require(self.size >= 1, "data.size", self.size, "at least 1")
        require(self.noise >= 0, "data.noise", self.noise, "0 or more")
        require(0 <= self.table < 2**32, "data.table", self.table, "in 0 … 4294967295")


@dataclass(frozen=True, kw_only=True)
class _Images:
    image_size: tuple[int, int] = (32, 32)
    """Height and width of an example; pictures of another size are resized and cropped."""
    channels: Literal[1, 3, 4] = 3
    """1 grey, 3 red-green-blue, 4 with transparency."""
    flip: bool = False
    """Mirror half of the images left to right, at random."""

    @property
    def example_shape(self) -> tuple[int, ...]:
        return (*self.image_size, self.channels)

    def __post_init__(self):
        require(min(self.image_size) >= 1, "data.image_size", self.image_size, "at least 1 1")


@dataclass(frozen=True, kw_only=True)
class TfdsData(_Images):
    """An image data set of tensorflow-datasets, prepared on disk and read without TensorFlow."""

    kind: ClassVar[str] = "tfds"
    name: str = "cifar10"
    """NAME or NAME/CONFIG, and :VERSION behind it where the newest is not meant."""
    split: str = "train"
    """A split, a slice of one (train[:90%]), or a sum of them (train+test)."""
    data_dir: str | None = None
    """Where TFDS keeps its data; else $TFDS_DATA_DIR, else ~/tensorflow_datasets."""


@dataclass(frozen=True, kw_only=True)
class FolderData(_Images):
    """A folder of pictures; its subfolders, where all pictures lie in some, are the classes."""

    kind: ClassVar[str] = "folder"
    path: str = ""
    """The folder; it has to be given."""


@dataclass(frozen=True, kw_only=True)
class PictureData:
    """One picture, of any size and shape: each example of a batch is that picture."""

    kind: ClassVar[str] = "picture"
    flip: ClassVar[bool] = False
    path: str | None = None
    """The picture's file; None for scikit-learn's flower.jpg."""
    image_size: tuple[int, int] | None = None
    """Height and width to scale and crop it to; None for its own."""
    channels: Literal[1, 3, 4] = 3
    """1 grey, 3 red-green-blue, 4 with transparency."""

    @property
    def example_shape(self) -> tuple[int, ...]:
        """Raises UserError while the size is left to the picture (see ddpm_jax.data.resolve)."""
        if self.image_size is None:
            mend = "let ddpm_jax.data.resolve(config) read the picture's, or give one"
            raise UserError(f"data.image_size is None; {mend}")
        return (*self.image_size, self.channels)

    def __post_init__(self):
        size = self.image_size
        good = size is None or min(size) >= 1
        require(good, "data.image_size", size, "at least 1 1, or None for the picture's own")


DataConfig = DigitsData | PointsData | TfdsData | FolderData | PictureData
