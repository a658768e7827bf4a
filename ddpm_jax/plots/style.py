"""The style of all figures, and how their files are written."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

from ddpm_jax.errors import UserError
from ddpm_jax.files import StoragePath, replacing, storage_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PathLike = str | StoragePath

COLOURS = ("#2f6db3", "#d9622b", "#3a9a5b", "#8c54a8", "#c8a415")
COLOURS += ("#d04f7f", "#35a3b1", "#7a5a3c", "#6b7683", "#9cb83a")
_INK, _FAINT = "#2b2f36", "#d9dce1"
_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": _INK,
    "text.usetex": False,
    "figure.facecolor": "white",
    "figure.titlesize": 11,
    "savefig.bbox": None,
    "savefig.transparent": False,
    "axes.facecolor": "white",
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _INK,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _FAINT,
    "grid.linewidth": 0.5,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
}
DPI = 100


@contextmanager
def styled() -> Iterator[None]:
    """Makes matplotlib draw in this style, whatever the user's own settings are."""
    import matplotlib

    with matplotlib.rc_context(_STYLE):
        yield


def new_figure(width: float, height: float, **options: Any) -> "Figure":
    """Returns an empty figure of width × height inches on an Agg canvas, independent of pyplot."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, **options)
    FigureCanvasAgg(figure)
    return figure


def check_path(path: PathLike, suffix: str) -> StoragePath:
    """Returns the path if a file with this suffix (".png") can be written there.

    Call it before hours of sampling. Every figure calls it before drawing. Raises `UserError`.
    """
    path = storage_path(path)
    if path.suffix.lower() != suffix:
        right = path.with_suffix(suffix) if path.name else f"figure{suffix}"
        raise UserError(f"{path}: this figure is a {suffix} file; name it {right}")
    if path.is_dir():
        raise UserError(f"{path} is a folder; name a file in it, as {path / f'figure{suffix}'}")
    write(path, None)
    return path


def write(path: StoragePath, content: Callable[[IO[bytes]], object] | None) -> None:
    """Replaces a file by what `content` writes, all or nothing; None only tries to write."""
    with replacing(path) as temporary:
        with open(temporary, "wb") as file:
            if content is not None:
                content(file)
        if content is None:
            temporary.unlink()


def save(path: StoragePath, figure: "Figure") -> None:
    """Writes the figure as a PNG, all or nothing."""
    write(path, lambda file: figure.savefig(file, format="png", dpi=DPI))
