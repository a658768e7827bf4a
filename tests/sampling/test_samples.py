import io

import numpy as np
from PIL import Image

from ddpm_jax.sampling.files import write_samples
from ddpm_jax.sampling.samples import Samples


def test_samples_say_what_they_are_and_show_themselves(sixteen):
    assert repr(sixteen) == "Samples(16 of 8×8×1, 10 classes)"
    points = Samples(np.zeros((5, 2), np.float32), None, np.zeros((3, 4, 2)), np.arange(3))
    assert repr(points) == "Samples(5 of 2, no labels, 4 trajectories)"
    with Image.open(io.BytesIO(sixteen._repr_png_())) as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 48


def test_pictures_of_many_bands_show_the_chosen_ones(tmp_path):
    bands = np.linspace(-1, 1, 5, dtype=np.float32)
    samples = np.broadcast_to(bands, (4, 48, 48, 5))
    drawn = Samples(samples, None, samples[None], None, shown=(4, 2, 0))
    write_samples(tmp_path / "x.png", drawn)
    write_samples(tmp_path / "x.gif", drawn)
    pictures = [io.BytesIO(drawn._repr_png_()), tmp_path / "x.png", tmp_path / "x.gif"]
    for picture in pictures:
        with Image.open(picture) as found:
            assert found.convert("RGB").getpixel((9, 9)) == (255, 128, 0)
    write_samples(tmp_path / "x.npz", drawn)
    with np.load(tmp_path / "x.npz") as found:
        np.testing.assert_array_equal(found["samples"], samples)
