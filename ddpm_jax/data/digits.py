"""scikit-learn's handwritten digits: real images that need no download."""

from typing import Any

import numpy as np

from ddpm_jax.data.settings import DigitsData
from ddpm_jax.data.source import ArraySource


def open_digits(config: DigitsData) -> ArraySource:
    """Returns the 1,797 digits, uint8 `[8, 8, 1]`, labels 0 … 9.

    The grey levels 0 … 16 become round(level · 255/16), so 0 stays 0 and 16 becomes 255.
    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI (1998).
    """
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    names = tuple(str(name) for name in digits.target_names)
    return ArraySource(images, digits.target.astype(np.int32), names)
