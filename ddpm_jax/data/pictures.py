"""Decodes and scales one picture to the pixels of an example, and tells what that changed."""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ddpm_jax.data.formats import has_pages, open_picture_file, orientation, upright

if TYPE_CHECKING:
    from PIL import Image

Span = tuple[float, float]
"""The values that become black and white."""

FIRST_PAGE = "read without the pages or frames after the first"
FEWER_BANDS = "read without the bands after the third"
FEWER_LEVELS = "rounded to 256 levels"
ON_WHITE = "drawn on white where transparent"
TO_GREY = "turned from colour to grey"
NO_PROFILE = "read without their colour profile, which is not sRGB"

# The name of a profile stands in it as ASCII (version 2) or UTF-16 (version 4).
_SRGB = b"sRGB", "sRGB".encode("utf-16-be")
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_TIFF_BITS, _TIFF_POLARITY, _TIFF_SAMPLES = 258, 262, 277


class RangeError(ValueError):
    """It is not known which levels are black and white, or some levels lie outside them.

    Its text continues "data.range is SPAN, but NAME ".
    """


class Decoded(NamedTuple):
    """A decoded picture, and what its numbers were before."""

    pixels: np.ndarray
    """uint8 `[H, W, C]`."""
    size: tuple[int, int]
    """Height and width before scaling."""
    bits: int
    """Bits of a level: 8, 16 or 32; 0 if the file itself says which levels are black and white."""
    greatest: float
    """The greatest level."""
    changes: tuple[str, ...]
    """A phrase for each change other than of the size that loses something."""


def decode_picture(
    picture: bytes, shape: tuple[int, ...], *, span: Span | None = None, name: str = ""
) -> np.ndarray:
    """Returns the pixels of `decode`, uint8 `[H, W, C]`; raises what it raises."""
    return decode(picture, shape, span=span, name=name).pixels


def decode(
    picture: bytes,
    shape: tuple[int, ...],
    *,
    span: Span | None = None,
    name: str = "",
    page: int | None = None,
) -> Decoded:
    """Decodes a picture to uint8 `[H, W, C]` of the given shape, C = 1 (grey), 3 or 4 (alpha).

    It is rotated as its EXIF says, scaled with antialiasing until it just covers H×W, and cropped
    around its centre. Levels from `span[0]` to `span[1]` become 0 … 255; without a span these are
    the ends of unsigned 8 or 16 bits. If C has no alpha, transparent pixels are drawn on white.
    `page` counts pages or frames from 0; None takes the first. Raises RangeError for wider, signed
    or floating-point levels without a span, and for levels outside a span; ValueError for too many
    pixels; Pillow's errors (OSError, SyntaxError and others) if it can't be read.
    """
    changes = []
    with open_picture_file(picture, name) as image:
        if page:
            image.seek(page)
        elif page is None and has_pages(image):
            changes.append(FIRST_PAGE)
        profile = image.info.get("icc_profile")
        if profile and not any(name in profile for name in _SRGB):
            changes.append(NO_PROFILE)
        width, height = image.size
        # A JPEG can decode at 1/2, 1/4 or 1/8 in a fraction of the time. Twice the target's size is
        # enough for the antialiased scaling below. Other formats ignore this.
        enough = 2 * max(shape[:2])
        image.draft(None, (enough, enough))
        reduced, stored = image.size != (width, height), _stored(image)
        shown = upright(image)
        if not reduced:
            width, height = shown.size
        elif orientation(image) > 4:
            width, height = height, width
        levels, bits, greatest = _levels(shown, stored, span)
        pixels = _fit(levels, shape)
    if stored.loses_bands:
        changes.append(FEWER_BANDS)
    if stored.loses_bits or bits > 8:
        changes.append(FEWER_LEVELS)
    if levels.mode in ("LA", "RGBA") and shape[2] != 4:
        changes.append(ON_WHITE)
    if levels.mode in ("RGB", "RGBA") and shape[2] == 1:
        changes.append(TO_GREY)
    return Decoded(pixels, (height, width), bits, greatest, tuple(changes))


def fit_pixels(
    pixels: np.ndarray, shape: tuple[int, ...], *, transparent: bool = True
) -> np.ndarray:
    """Scales and crops uint8 pixels `[h, w]` or `[h, w, C]` as `decode_picture` does.

    C is the number of channels of `shape`, or both are among 1, 3 and 4. Without `transparent` a
    fourth channel is a band like the others.
    """
    from PIL import Image

    images = pixels if pixels.ndim == 3 else pixels[..., None]
    channels = images.shape[-1]
    if channels not in _MODES or (channels == shape[2] == 4 and not transparent):
        bands = [fit_pixels(images[..., at], (*shape[:2], 1)) for at in range(channels)]
        return np.concatenate(bands, axis=-1)
    flat = images[..., 0] if channels == 1 else images
    return _fit(Image.fromarray(np.ascontiguousarray(flat)), shape)


def _fit(image: "Image.Image", shape: tuple[int, ...]) -> np.ndarray:
    from PIL import Image, ImageOps

    height, width, channels = shape
    if image.mode in ("LA", "RGBA") and channels != 4:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    pixels = image.convert(_MODES[channels])
    if pixels.size != (width, height):
        pixels = ImageOps.fit(pixels, (width, height), Image.Resampling.BICUBIC)
    return np.asarray(pixels).reshape(shape)


# --- levels ---------------------------------------------------------------------------------------


class _Stored(NamedTuple):
    """What the header says of the levels; Pillow forgets it while decoding."""

    white: float | None
    """The white level of a picture with more than 8 bits; None if it is not known."""
    inverted: bool
    """Whether 0 is white, which Pillow respects up to 8 bits only."""
    transparent: Any
    """The transparent level or colour of a picture without alpha, or None."""
    loses_bits: bool
    """Whether Pillow keeps only the upper 8 bits of each channel."""
    loses_bands: bool
    """Whether Pillow keeps fewer bands than there are."""


def _stored(image: "Image.Image") -> _Stored:
    tags: Any = image.tag_v2 if image.format == "TIFF" else {}  # type: ignore[attr-defined]
    tiles: Any = getattr(image, "tile", ())
    args = tiles[0].args if tiles else ""
    args = (args,) if isinstance(args, str) else tuple(args or ("",))
    raw = str(args[0])
    deep = image.mode.startswith(("I", "F"))
    white = None
    if image.mode.startswith("I;16") and image.format in ("PNG", "TIFF", "JPEG2000"):
        white = 2.0 ** (tags.get(_TIFF_BITS, (16,))[0]) - 1
    elif image.mode == "I" and image.format in ("PNG", "PPM"):  # Pillow scales other whites.
        white = 65535.0
    transparent = image.info.get("transparency")
    # Pillow stretches levels of 1, 2 and 4 bits to 8 and cuts 16 bits of colour to 8, but leaves
    # the transparent level as it was.
    if isinstance(transparent, int):
        transparent *= {"1": 255, "L;2": 85, "L;4": 17}.get(raw, 1)
    if isinstance(transparent, tuple) and "16" in raw:
        transparent = tuple(level >> 8 for level in transparent)
    of_ppm = image.format == "PPM" and isinstance(args[-1], int) and args[-1] > 255
    return _Stored(
        white=white,
        inverted=deep and tags.get(_TIFF_POLARITY) == 0,
        transparent=transparent,
        loses_bits=not deep and ("16" in raw or of_ppm),
        loses_bands=tags.get(_TIFF_SAMPLES, 0) > max(3, len(image.getbands()) - (raw == "RGBX")),
    )


def _levels(
    image: "Image.Image", stored: _Stored, span: Span | None
) -> tuple["Image.Image", int, float]:
    """Returns the picture as L, LA, RGB or RGBA of 8 bits, its own bits, and its greatest level."""
    if image.mode.startswith(("I", "F")):
        return _deep_levels(image, stored, span)
    known = image.mode in ("1", "P", "PA")
    image = _plain(image, stored.transparent)
    colours = len(image.getbands()) - (image.mode in ("LA", "RGBA"))
    extrema: Any = [image.getchannel(at).getextrema() for at in range(colours)]
    low, high = min(e[0] for e in extrema), max(e[1] for e in extrema)
    if span is None or known:
        return image, 0 if known else 8, high
    table = _to_pixels(np.arange(256), span, (low, high))
    identity = list(range(256))
    tables = [table.tolist()] * colours + [identity] * (len(image.getbands()) - colours)
    return image.point([level for each in tables for level in each]), 8, high


def _deep_levels(
    image: "Image.Image", stored: _Stored, span: Span | None
) -> tuple["Image.Image", int, float]:
    from PIL import Image

    values = np.asarray(image, np.float64)
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise ValueError("it has levels that are NaN or infinite")
    bits = 0 if stored.white not in (None, 65535.0) else 16 if stored.white else 32
    if span is None and stored.white is None:
        kind = "floating-point levels" if image.mode == "F" else "signed or 32-bit levels"
        advice = "give the values of black and white"
        raise RangeError(f"has {kind} from {low:g} to {high:g}; {advice}")
    span = span or (0.0, stored.white or 0.0)
    black, white = span
    pixels = _to_pixels(values, (white, black) if stored.inverted else span, (low, high))
    grey = Image.fromarray(pixels)
    if stored.transparent is None:
        return grey, bits, high
    alpha = np.where(values == stored.transparent, 0, 255).astype(np.uint8)
    return Image.merge("LA", (grey, Image.fromarray(alpha))), bits, high


def _to_pixels(levels: np.ndarray, span: Span, ends: tuple[float, float]) -> np.ndarray:
    """Returns levels as uint8; raises RangeError if the picture's own `ends` are outside."""
    low, high = ends
    if low < min(span) or high > max(span):
        raise RangeError(f"has levels from {low:g} to {high:g}; widen it, or fix the levels")
    black, white = span
    scaled = np.rint((levels - black) * (255 / (white - black)))
    return np.clip(scaled, 0, 255).astype(np.uint8)


def _plain(image: "Image.Image", transparent: Any) -> "Image.Image":
    """Returns a picture of up to 8 bits as L, LA, RGB or RGBA."""
    from PIL import Image

    if image.mode == "1":
        image = image.convert("L")
    if image.mode == "L" and isinstance(transparent, int):
        alpha = np.where(np.asarray(image) == transparent, 0, 255).astype(np.uint8)
        return Image.merge("LA", (image, Image.fromarray(alpha)))
    if image.mode == "RGB" and transparent is not None:
        image.info["transparency"] = transparent
        return image.convert("RGBA")
    if image.mode in ("L", "LA", "RGB", "RGBA"):
        return image
    if image.mode in ("La", "RGBa"):  # already multiplied by alpha
        return image.convert(image.mode.upper())
    if image.mode == "LAB":
        return _from_lab(image)
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def _from_lab(image: "Image.Image") -> "Image.Image":
    from PIL import ImageCms

    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    shown = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
    assert shown is not None  # it is None only in place
    return shown
