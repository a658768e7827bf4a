import numpy as np
import pytest
from PIL import Image

from ddpm_jax.sampling.files import animation_size, write_samples


def test_arrays_are_written_with_their_labels(sixteen, tmp_path):
    write_samples(tmp_path / "some.npz", sixteen)
    with np.load(tmp_path / "some.npz", allow_pickle=False) as found:
        np.testing.assert_array_equal(found["samples"], sixteen.samples)
        np.testing.assert_array_equal(found["labels"], sixteen.labels)
        assert sorted(found) == ["labels", "samples"]


def test_pictures_are_written_as_a_grid_and_trajectories_as_an_animation(sixteen, tmp_path):
    write_samples(tmp_path / "some.png", sixteen)
    with Image.open(tmp_path / "some.png") as found:
        assert found.format == "PNG"
    with pytest.raises(ValueError, match="an animation needs samples drawn with num_trajectories"):
        write_samples(tmp_path / "some.gif", sixteen)
    frames = np.stack([sixteen.samples[k : k + 4] for k in (0, 4, 8)])
    write_samples(tmp_path / "some.gif", sixteen._replace(frames=frames, times=np.arange(3)))
    with Image.open(tmp_path / "some.gif") as found:
        assert (found.format, getattr(found, "n_frames", 1)) == ("GIF", 3)


def test_an_animation_shows_what_an_eye_can_follow():
    assert animation_size((32, 32, 3)) < animation_size((2,))
