"""Inception and its resizes written out a second time, slowly: NumPy, PyTorch's layout and names.

Weights are drawn so that activations stay of order 1 through all layers.
`tests/benchmarks/inception_peers.py` loads the same weights into torch-fidelity's network.
"""

import math

import numpy as np

Tensors = dict[str, np.ndarray]


def _block(name: str, inputs: int) -> list[tuple[str, int, int, int, int]]:
    """Rows of (name, in, out, height, width) for the convolutions of a block."""
    kind, rows = name.removeprefix("Mixed_"), []

    def conv(branch: str, i: int, o: int, h: int = 1, w: int = 1) -> None:
        rows.append((f"{name}.{branch}", i, o, h, w))

    if kind in ("5b", "5c", "5d"):
        conv("branch1x1", inputs, 64)
        conv("branch5x5_1", inputs, 48)
        conv("branch5x5_2", 48, 64, 5, 5)
        conv("branch3x3dbl_1", inputs, 64)
        conv("branch3x3dbl_2", 64, 96, 3, 3)
        conv("branch3x3dbl_3", 96, 96, 3, 3)
        conv("branch_pool", inputs, 32 if kind == "5b" else 64)
    elif kind == "6a":
        conv("branch3x3", inputs, 384, 3, 3)
        conv("branch3x3dbl_1", inputs, 64)
        conv("branch3x3dbl_2", 64, 96, 3, 3)
        conv("branch3x3dbl_3", 96, 96, 3, 3)
    elif kind in ("6b", "6c", "6d", "6e"):
        c = {"6b": 128, "6c": 160, "6d": 160, "6e": 192}[kind]
        conv("branch1x1", inputs, 192)
        conv("branch7x7_1", inputs, c)
        conv("branch7x7_2", c, c, 1, 7)
        conv("branch7x7_3", c, 192, 7, 1)
        conv("branch7x7dbl_1", inputs, c)
        conv("branch7x7dbl_2", c, c, 7, 1)
        conv("branch7x7dbl_3", c, c, 1, 7)
        conv("branch7x7dbl_4", c, c, 7, 1)
        conv("branch7x7dbl_5", c, 192, 1, 7)
        conv("branch_pool", inputs, 192)
    elif kind == "7a":
        conv("branch3x3_1", inputs, 192)
        conv("branch3x3_2", 192, 320, 3, 3)
        conv("branch7x7x3_1", inputs, 192)
        conv("branch7x7x3_2", 192, 192, 1, 7)
        conv("branch7x7x3_3", 192, 192, 7, 1)
        conv("branch7x7x3_4", 192, 192, 3, 3)
    else:
        conv("branch1x1", inputs, 320)
        conv("branch3x3_1", inputs, 384)
        conv("branch3x3_2a", 384, 384, 1, 3)
        conv("branch3x3_2b", 384, 384, 3, 1)
        conv("branch3x3dbl_1", inputs, 448)
        conv("branch3x3dbl_2", 448, 384, 3, 3)
        conv("branch3x3dbl_3a", 384, 384, 1, 3)
        conv("branch3x3dbl_3b", 384, 384, 3, 1)
        conv("branch_pool", inputs, 192)
    return rows


WIDTHS = {
    "Mixed_5b": 192,
    "Mixed_5c": 256,
    "Mixed_5d": 288,
    "Mixed_6a": 288,
    "Mixed_6b": 768,
    "Mixed_6c": 768,
    "Mixed_6d": 768,
    "Mixed_6e": 768,
    "Mixed_7a": 768,
    "Mixed_7b": 1280,
    "Mixed_7c": 2048,
}
ROWS = [
    ("Conv2d_1a_3x3", 3, 32, 3, 3),
    ("Conv2d_2a_3x3", 32, 32, 3, 3),
    ("Conv2d_2b_3x3", 32, 64, 3, 3),
    ("Conv2d_3b_1x1", 64, 80, 1, 1),
    ("Conv2d_4a_3x3", 80, 192, 3, 3),
    *(row for name, inputs in WIDTHS.items() for row in _block(name, inputs)),
]


def state_dict(seed: int = 0) -> Tensors:
    """Random tensors with the names, shapes and types of the published file."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, np.float32)

    def near_one(size: int) -> np.ndarray:
        return rng.uniform(0.8, 1.25, size).astype(np.float32)

    tensors = {}
    for name, i, o, h, w in ROWS:
        # Kaiming's scale, which a ReLU wants; larger after a mean of nine.
        gain = 3 if name.endswith("pool") and "7c" not in name else 2
        tensors[f"{name}.conv.weight"] = normal(o, i, h, w) * np.float32(
            math.sqrt(gain / (i * h * w))
        )
        tensors[f"{name}.bn.weight"] = near_one(o)
        tensors[f"{name}.bn.bias"] = normal(o) / 10
        tensors[f"{name}.bn.running_mean"] = normal(o) / 10
        tensors[f"{name}.bn.running_var"] = near_one(o)
        tensors[f"{name}.bn.num_batches_tracked"] = np.asarray(0, np.int64)
    tensors["fc.weight"] = normal(1008, 2048) * np.float32(1 / math.sqrt(2048))
    tensors["fc.bias"] = normal(1008)
    return tensors


# --- the network ----------------------------------------------------------------------------------


def _windows(x: np.ndarray, h: int, w: int, stride: int) -> np.ndarray:
    """Windows [B, C, H', W', h, w] of images [B, C, H, W]."""
    return np.lib.stride_tricks.sliding_window_view(x, (h, w), (2, 3))[:, :, ::stride, ::stride]


def _padded(x: np.ndarray, h: int, w: int, fill: float = 0.0) -> np.ndarray:
    edge = ((0, 0), (0, 0), (h // 2, h // 2), (w // 2, w // 2))
    return np.pad(x, edge, constant_values=fill)


def conv(tensors: Tensors, name: str, x: np.ndarray, stride: int = 1, pad: bool = True):
    """Convolution, batch normalization by the stored moments with ε = 0.001, ReLU."""
    kernel = tensors[f"{name}.conv.weight"].astype(np.float64)
    h, w = kernel.shape[2:]
    windows = _windows(_padded(x, h, w) if pad else x, h, w, stride)
    y = np.moveaxis(np.tensordot(windows, kernel, ((1, 4, 5), (1, 2, 3))), -1, 1)
    weight, bias, mean, var = (
        tensors[f"{name}.bn.{part}"].astype(np.float64)[:, None, None]
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    return np.maximum((y - mean) / np.sqrt(var + 0.001) * weight + bias, 0)


def halved(x: np.ndarray) -> np.ndarray:
    return _windows(x, 3, 3, 2).max((4, 5))


def largest(x: np.ndarray) -> np.ndarray:
    return _windows(_padded(x, 3, 3, -np.inf), 3, 3, 1).max((4, 5))


def mean(x: np.ndarray) -> np.ndarray:
    """The mean over those of nine pixels that are in the picture."""
    return np.nanmean(_windows(_padded(x, 3, 3, np.nan), 3, 3, 1), (4, 5))


def block(tensors: Tensors, name: str, x: np.ndarray) -> np.ndarray:
    def chain(branches: str, x: np.ndarray) -> np.ndarray:
        for branch in branches.split():
            halves = branch.startswith("/")
            branch = branch.removeprefix("/")
            x = conv(tensors, f"{name}.{branch}", x, 2 if halves else 1, not halves)
        return x

    kind = name.removeprefix("Mixed_")
    if kind[0] == "5":
        parts = [
            chain("branch1x1", x),
            chain("branch5x5_1 branch5x5_2", x),
            chain("branch3x3dbl_1 branch3x3dbl_2 branch3x3dbl_3", x),
            chain("branch_pool", mean(x)),
        ]
    elif kind == "6a":
        parts = [
            chain("/branch3x3", x),
            chain("branch3x3dbl_1 branch3x3dbl_2 /branch3x3dbl_3", x),
            halved(x),
        ]
    elif kind[0] == "6":
        parts = [
            chain("branch1x1", x),
            chain("branch7x7_1 branch7x7_2 branch7x7_3", x),
            chain(" ".join(f"branch7x7dbl_{n}" for n in range(1, 6)), x),
            chain("branch_pool", mean(x)),
        ]
    elif kind == "7a":
        parts = [
            chain("branch3x3_1 /branch3x3_2", x),
            chain("branch7x7x3_1 branch7x7x3_2 branch7x7x3_3 /branch7x7x3_4", x),
            halved(x),
        ]
    else:
        short = chain("branch3x3_1", x)
        long = chain("branch3x3dbl_1 branch3x3dbl_2", x)
        parts = [
            chain("branch1x1", x),
            chain("branch3x3_2a", short),
            chain("branch3x3_2b", short),
            chain("branch3x3dbl_3a", long),
            chain("branch3x3dbl_3b", long),
            chain("branch_pool", largest(x) if kind == "7c" else mean(x)),
        ]
    return np.concatenate(parts, 1)


def network(tensors: Tensors, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Features [B, 2048] and logits [B, 1008] of images [B, H, W, 3], in float64."""
    x = np.moveaxis(images.astype(np.float64), -1, 1)
    x = conv(tensors, "Conv2d_1a_3x3", x, 2, pad=False)
    x = conv(tensors, "Conv2d_2a_3x3", x, pad=False)
    x = halved(conv(tensors, "Conv2d_2b_3x3", x))
    x = conv(tensors, "Conv2d_3b_1x1", x)
    x = halved(conv(tensors, "Conv2d_4a_3x3", x, pad=False))
    for name in WIDTHS:
        x = block(tensors, name, x)
    features = x.mean((2, 3))
    return features, features @ tensors["fc.weight"].astype(np.float64).T


# --- the resizes ----------------------------------------------------------------------------------


def tf1_pixel(picture: np.ndarray, i: int, j: int) -> list[np.float32]:
    """Pixel (i, j) of TensorFlow 1's bilinear resize of [H, W, C]; every operation in float32."""
    f = np.float32
    height, width, channels = picture.shape
    y, x = f(i) * f(height / 299), f(j) * f(width / 299)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    dy, dx = y - f(top), x - f(left)

    def between(a: np.float32, b: np.float32, share: np.float32) -> np.float32:
        return a + f(f(b - a) * share)

    values = []
    for c in range(channels):
        level = picture[..., c].astype(f)
        above = between(level[top, left], level[top, right], dx)
        below = between(level[bottom, left], level[bottom, right], dx)
        values.append(f(between(above, below, dy) - f(128)) / f(128))
    return values


def weights_1d(length: int, kernel, support: float, *, widen: bool) -> np.ndarray:
    """Float64 weights [299, length] of a resize that reads pixel i at (i + 1/2) · scale - 1/2."""
    scale = length / 299
    wide = max(scale, 1.0) if widen else 1.0
    centres = (np.arange(299) + 0.5) * scale
    distance = np.abs(np.arange(length)[None] + 0.5 - centres[:, None])
    found = np.where(distance < support * wide, kernel(distance / wide), 0.0)
    return found / found.sum(1, keepdims=True)


def triangle(x: np.ndarray) -> np.ndarray:
    return np.maximum(1 - x, 0)


def cubic(x: np.ndarray) -> np.ndarray:
    """Keys' cubic with a = -1/2, as in Pillow."""
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def resampled(picture: np.ndarray, kernel, support: float, *, widen: bool) -> np.ndarray:
    """One picture [H, W, C] resized in float64; at the edges the weights left are normalized."""
    rows = weights_1d(picture.shape[0], kernel, support, widen=widen)
    columns = weights_1d(picture.shape[1], kernel, support, widen=widen)
    return np.einsum("yh,xw,hwc->yxc", rows, columns, picture.astype(np.float64), optimize=True)
