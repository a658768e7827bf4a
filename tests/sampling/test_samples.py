import io

import numpy as np
from PIL import Image

from ddpm_jax.sampling.samples import Samples


def test_samples_say_what_they_are_and_show_themselves(sixteen):
    assert repr(sixteen) == "Samples(16 of 8×8×1, 10 classes)"
    points = Samples(np.zeros((5, 2), np.float32), None, np.zeros((3, 4, 2)), np.arange(3))
    assert repr(points) == "Samples(5 of 2, no labels, 4 trajectories)"
    with Image.open(io.BytesIO(sixteen._repr_png_())) as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 48
