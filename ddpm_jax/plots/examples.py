"""Figures of examples: grids, trajectories and animations of pictures or of points.

Pictures are `[..., H, W, C]` in [-1, 1], where C = 1 is grey, 3 colour and 4 colour with
transparency; values outside are clipped, and NaN is black. Points are `[..., N, 2]`; the last axis
distinguishes them. Pictures are scaled by whole factors only, so that their pixels stay sharp.
"""

import math
import re
import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ddpm_jax.plots.style import COLOURS, DPI, PathLike, check_path, new_figure, save, styled, write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Label = str | int

_TILE, _ROW, _LARGE = 48, 640, 192  # pixels: the least side of a picture; a row; a lone picture
_WIDEST = {".png": 2560, ".gif": 768}  # pixels: wider boards are reduced
_GAP, _MARGIN = 2, 10  # pixels
# No grey, so that on grey pictures it can't be taken for a stroke.
_SEPARATOR = (94, 129, 172)
_MOST_COLUMNS, _MOST_TEXTS, _LETTERS = 32, 256, 14
_MAX_PICTURES, _MAX_POINTS, _MAX_FRAMES, _COLOURS_IN_GIF = 64, 2000, 60, 64


def _caption(label: Label) -> str:
    return label if isinstance(label, str) else f"t = {label}"


# --- pictures -------------------------------------------------------------------------------------


def _are_points(examples: np.ndarray, *, pictures: int, points: int) -> bool:
    """Whether these are points; raises ValueError for a number of axes that fits neither kind."""
    channels = (0, *examples.shape)[-1]
    axes = points if channels == 2 else pictures
    if channels not in (1, 2, 3, 4) or examples.ndim != axes or 0 in examples.shape:
        raise ValueError(
            f"neither pictures [..., H, W, 1|3|4] nor points [..., 2]: {examples.shape}"
        )
    return channels == 2


def _pixels(pictures: np.ndarray, columns: int, suffix: str = ".png") -> np.ndarray:
    """Returns `[n, H, W, C]` as uint8, enlarged or reduced by a whole factor.

    The fewer `columns` there are, the larger is a picture.
    """
    least = min(max(_TILE, _ROW // columns), _LARGE)
    widest = _WIDEST[suffix] // columns
    levels = np.clip(np.nan_to_num(pictures.astype(np.float32), nan=-1.0), -1, 1) * 127.5 + 127.5
    side = max(levels.shape[1:3])
    grow, shrink = math.ceil(least / side), math.ceil(side / max(widest, _TILE))
    if shrink > 1:
        fill = [(0, -size % shrink) for size in levels.shape[1:3]]
        levels = np.pad(levels, [(0, 0), *fill, (0, 0)], mode="edge")
        n, height, width, channels = levels.shape
        blocks = (n, height // shrink, shrink, width // shrink, shrink, channels)
        levels = levels.reshape(blocks).mean(axis=(2, 4))
    return np.rint(levels).astype(np.uint8).repeat(grow, axis=1).repeat(grow, axis=2)


def _tile(pictures: np.ndarray, columns: int) -> np.ndarray:
    """Returns pictures `[n, h, w, C]` as one uint8 board `[H, W, 3 or 4]`, in rows.

    Separators lie between the pictures; a place without one is white.
    """
    n, height, width, channels = pictures.shape
    rows = math.ceil(n / columns)
    shape = (rows * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP, max(3, channels))
    board = np.full(shape, 255, np.uint8)
    board[..., :3] = _SEPARATOR
    empty = n % columns and (n % columns) * (width + _GAP)
    if empty:
        board[-height:, empty:] = (255, 255, 255, 0)[: shape[-1]]
    for i, picture in enumerate(pictures):
        row, column = divmod(i, columns)
        y, x = row * (height + _GAP), column * (width + _GAP)
        board[y : y + height, x : x + width] = picture
    return board


def _mosaic(
    pictures: np.ndarray,
    columns: int,
    *,
    captions: Sequence[str] = (),
    heads: Sequence[str] = (),
    names: Sequence[str] = (),
    title: str = "",
) -> "Figure":
    """Returns a figure of uint8 pictures `[n, h, w, C]`, unscaled, with space for all texts.

    `captions` are above each picture, `heads` above each column, `names` before each row.
    """
    n, height, width, _ = pictures.shape
    rows = math.ceil(n / columns)
    ruler = new_figure(1, 1)

    def extent(texts: Sequence[str], size: float) -> tuple[int, int]:
        boxes = [ruler.text(0, 0, text, size=size).get_window_extent() for text in texts]
        sides = [(math.ceil(box.width), math.ceil(box.height)) for box in boxes]
        return max((w for w, _ in sides), default=0), max((h + 8 for _, h in sides), default=0)

    (caption_w, caption_h), (head_w, head_h) = extent(captions, 8), extent(heads, 9)
    (name_w, name_h), (title_w, title_h) = extent(names, 9), extent([title] if title else [], 11)
    cell_w = max(width, caption_w + 4, head_w + 8) + _GAP
    cell_h = max(height + caption_h, name_h) + _GAP
    left, top = _MARGIN + (name_w + 8 if names else 0), _MARGIN + title_h + head_h
    total_w = max(left + columns * cell_w - _GAP, left + title_w) + _MARGIN
    total_h = top + rows * cell_h - _GAP + _MARGIN

    board = np.full((total_h, total_w, 4), 255, np.uint8)
    # A hundredth of a pixel more, so that rounding in inches does not lose the last pixel.
    figure = new_figure((total_w + 0.01) / DPI, (total_h + 0.01) / DPI)

    def word(x: float, y: float, text: str, size: float, ha: str, va: str) -> None:
        figure.text(x / total_w, 1 - y / total_h, text, size=size, ha=ha, va=va)

    for i, picture in enumerate(pictures):
        row, column = divmod(i, columns)
        x = left + column * cell_w + (cell_w - _GAP - width) // 2
        y = top + row * cell_h + caption_h
        rgba = Image.new("RGBA", (width, height), "white")
        rgba.alpha_composite(Image.fromarray(_tile(picture[None], 1)).convert("RGBA"))
        # Half a gap around each, so that neighbours have a separator between them.
        board[y - 1 : y + height + 1, x - 1 : x + width + 1, :3] = _SEPARATOR
        board[y : y + height, x : x + width] = np.asarray(rgba)
        if captions:
            word(x + width / 2, y - 3, captions[i], 8, "center", "bottom")
    for column, text in enumerate(heads):
        middle = left + column * cell_w + (cell_w - _GAP) / 2
        word(middle, top - 4, text, 9, "center", "bottom")
    for row, text in enumerate(names):
        middle = top + row * cell_h + caption_h + height / 2
        word(left - 8, middle, text, 9, "right", "center")
    word(left, _MARGIN - 2, title, 11, "left", "top")
    figure.figimage(board, 0, 0, origin="upper")
    return figure


# --- points ---------------------------------------------------------------------------------------


def _cloud(axes: "Axes", points: np.ndarray, reach: float, size: float, **options: Any) -> Any:
    """Draws points `[N, 2]` in a square of ±reach without ticks."""
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xticks=[], yticks=[])
    axes.grid(False)
    axes.spines[["top", "right"]].set_visible(True)
    colour = {} if "c" in options else {"c": COLOURS[0]}
    return axes.scatter(*points.T, s=size, alpha=0.7, linewidths=0, **colour, **options)


def _size(n: int) -> float:
    """Returns the area of a marker, in square points; more points give smaller markers."""
    return float(np.clip(4000 / n, 1.0, 20.0))


def _reach(points: np.ndarray) -> float:
    """Returns the half width that shows at least 999 of 1,000 coordinates."""
    finite = np.abs(points[np.isfinite(points)])
    return 1.15 * float(np.quantile(finite, 0.999)) + 1e-6 if finite.size else 1.0


def _panels(
    points: np.ndarray, *, heads: Sequence[str], names: Sequence[str], title: str
) -> "Figure":
    """Returns a figure of point clouds `[R, K, N, 2]`, one per panel, all on one scale."""
    rows, columns = points.shape[:2]
    height = 1.45 * rows + 0.25 * bool(heads) + 0.3 * bool(title)
    figure = new_figure(max(1.5 * columns + 0.3 * bool(names), 3.0), height, layout="constrained")
    reach = _reach(points)
    for row, panels in enumerate(figure.subplots(rows, columns, squeeze=False)):
        for column, axes in enumerate(panels):
            _cloud(axes, points[row, column], reach, _size(points.shape[2]))
            if heads and row == 0:
                axes.set_title(heads[column], loc="center")
            if names and column == 0:
                axes.set_ylabel(names[row])
    if title:
        figure.suptitle(title, x=0.01, ha="left")
    return figure


# --- figures --------------------------------------------------------------------------------------


def grid(
    path: PathLike,
    samples: np.ndarray,
    *,
    labels: np.ndarray | Sequence[int] | None = None,
    names: Sequence[str] | None = None,
    columns: int | None = None,
) -> None:
    """Draws samples as a PNG: pictures `[N, H, W, C]` in a grid, points `[N, 2]` as one scatter.

    `labels` `[N]` are written above the columns if they repeat from row to row, as a title if all
    are one, and else above each picture; they colour points. `names[label]` replaces the number. By
    default there is one column per label if labels repeat; else the grid is about square, with as
    few empty places as possible.
    """
    path, samples = check_path(path, ".png"), np.asarray(samples)
    points, n = _are_points(samples, pictures=4, points=2), len(samples)
    classes = [] if labels is None else [int(label) for label in labels]
    if labels is not None and len(classes) != n:
        raise ValueError(f"{n} samples and {len(classes)} labels")
    with styled():
        if points:
            figure = new_figure(4.6, 4.6, layout="constrained")
            axes, reach = figure.subplots(), _reach(samples)
            kinds = np.array(classes or [0] * n)
            for k, kind in enumerate(dict.fromkeys(kinds.tolist())):
                colour, text = COLOURS[k % len(COLOURS)], _text(kind, names, 2 * _LETTERS)
                _cloud(axes, samples[kinds == kind], reach, _size(n), c=colour, label=text)
            if classes and len(set(classes)) <= len(COLOURS):
                axes.legend(loc="upper right", markerscale=4, fontsize=8)
            save(path, figure)
            return
        columns = min(n, columns or _columns(classes, n))
        pictures = _pixels(samples, columns)
        words = _words(classes, columns, names)
        if words:
            save(path, _mosaic(pictures, columns, **words))
        else:
            board = Image.fromarray(_tile(pictures, columns))
            write(path, lambda file: board.save(file, "PNG"))


def _columns(classes: list[int], n: int) -> int:
    """Returns the columns of a grid: a column per class if the classes repeat and are not many."""
    period = _period(classes)
    in_turn = 1 < period < n
    return period if in_turn else _full_rows(n)


def _words(classes: list[int], columns: int, names: Sequence[str] | None) -> dict[str, Any]:
    """Returns the texts of a grid with these classes, as arguments of `_mosaic`."""
    if not classes:
        return {}
    if len(set(classes)) == 1:
        return {"title": _text(classes[0], names, 4 * _LETTERS)}
    if columns < len(classes) and columns % _period(classes) == 0:
        return {"heads": [_text(label, names, _LETTERS) for label in classes[:columns]]}
    if len(classes) > _MOST_TEXTS:
        return {}
    return {"captions": [_text(label, names, _LETTERS) for label in classes]}


def _full_rows(n: int) -> int:
    """Returns the number of columns in √n … 2√n that leaves the fewest places of a grid empty."""
    square = math.ceil(math.sqrt(n))
    return min(range(square, 2 * square), key=lambda columns: -n % columns)


def _period(labels: list[int]) -> int:
    """Returns how many labels there are until they repeat; their number if they do not soon."""
    n = len(labels)
    near = range(1, min(n, _MOST_COLUMNS + 1))
    return next((p for p in near if labels[p:] == labels[:-p]), n)


def _text(label: int, names: Sequence[str] | None, width: int) -> str:
    """Returns a class's name in two lines of `width` letters at most, or its number.

    The number also stands for a name that the font can't write.
    """
    from matplotlib.font_manager import findfont, get_font

    name = names[label] if names and 0 <= label < len(names) else str(label)
    if any(ord(letter) not in get_font(findfont("DejaVu Sans")).get_charmap() for letter in name):
        name = str(label)
    lines = textwrap.wrap(re.sub(r"[_\s]+", " ", name).strip() or str(label), width)
    if len(lines) > 2 or any(len(line) > width for line in lines):
        lines = [lines[0], f"{lines[1][: width - 1]}…"]
    return "\n".join(lines).replace("$", r"\$")


def trajectory(
    path: PathLike,
    frames: np.ndarray,
    *,
    columns: Sequence[Label] | None = None,
    rows: Sequence[Label] | None = None,
    title: str = "",
) -> None:
    """Draws rows × columns of examples as a PNG, such as a reverse process or x_t above x̂_0.

    `frames` are pictures `[K, H, W, C]` or `[R, K, H, W, C]`, or point clouds `[K, N, 2]` or
    `[R, K, N, 2]`. A label is a text, which may contain `$mathematics$`, or a time: 7 is drawn as
    "t = 7".
    """
    path, frames = check_path(path, ".png"), np.asarray(frames)
    if frames.ndim == (3 if frames.shape[-1:] == (2,) else 4):
        frames = frames[None]
    points = _are_points(frames, pictures=5, points=4)
    heads, names = map(_caption, columns or ()), map(_caption, rows or ())
    words = {"heads": list(heads), "names": list(names), "title": title}
    for axis, labels in enumerate((rows, columns)):
        if labels is not None and len(labels) != frames.shape[axis]:
            raise ValueError(f"{len(labels)} labels for axis {axis} of {frames.shape}")
    with styled():
        if points:
            save(path, _panels(frames, **words))
        else:
            across = frames.shape[1]
            flat = _pixels(frames.reshape(-1, *frames.shape[2:]), across)
            save(path, _mosaic(flat, across, **words))


def animation(
    path: PathLike, frames: np.ndarray, *, seconds: float = 4.0, hold: float = 1.5
) -> None:
    """Draws a trajectory as a looping GIF, which shows its last frame for `hold` seconds more.

    `frames` are pictures `[F, N, H, W, C]`, of which a grid shows the first 64, or point clouds
    `[F, N, 2]`, of which the first 2,000 points are shown. Of more than 60 frames, 60 evenly spaced
    ones are drawn, with the first and the last.
    """
    path, frames = check_path(path, ".gif"), np.asarray(frames)
    draw = _point_frames if _are_points(frames, pictures=5, points=3) else _picture_frames
    kept = np.linspace(0, len(frames) - 1, min(len(frames), _MAX_FRAMES)).round().astype(int)
    with styled():
        images = list(draw(frames[kept]))
    # One palette for all frames avoids flicker. The last frame counts twice.
    chosen = [images[0], images[len(images) // 2], images[-1], images[-1]]
    stack = np.concatenate([np.asarray(image) for image in chosen])
    palette = Image.fromarray(stack).quantize(_COLOURS_IN_GIF - 1, Image.Quantize.MEDIANCUT)
    # The separators are thin: their colour is too rare to be chosen.
    palette.putpalette([*(palette.getpalette() or [])[: 3 * (_COLOURS_IN_GIF - 1)], *_SEPARATOR])
    first, *others = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    # GIF counts in hundredths of a second, and viewers slow down frames shorter than two.
    each = max(20, round(100 * seconds / len(images)) * 10)
    times = [each] * len(others) + [each + round(100 * hold) * 10]
    options = {"save_all": True, "append_images": others, "duration": times, "loop": 0}
    write(path, lambda file: first.save(file, "GIF", **options))


def _picture_frames(frames: np.ndarray) -> Iterator[Image.Image]:
    """Yields one RGB board for each frame of `[F, N, H, W, C]`."""
    frames = frames[:, :_MAX_PICTURES]
    columns = _full_rows(frames.shape[1])
    for pictures in frames:
        board = Image.fromarray(_tile(_pixels(pictures, columns, ".gif"), columns))
        backdrop = Image.new("RGBA", board.size, "white")
        backdrop.alpha_composite(board.convert("RGBA"))
        yield backdrop.convert("RGB")


def _point_frames(frames: np.ndarray) -> Iterator[Image.Image]:
    """Yields one RGB scatter plot for each frame of `[F, N, 2]`, all on one scale."""
    frames = frames[:, :_MAX_POINTS]
    figure = new_figure(4, 4)
    cloud = _cloud(figure.add_axes((0.02, 0.02, 0.96, 0.96)), frames[0], _reach(frames), 3.0)
    canvas: Any = figure.canvas
    for points in frames:
        cloud.set_offsets(points)
        canvas.draw()
        yield Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
