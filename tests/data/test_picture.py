import dataclasses

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from ddpm_jax import config as configs
from ddpm_jax.config import Config, PictureData, SmallUNetConfig, UNetConfig
from ddpm_jax.data import count_examples, open_source, resolve
from ddpm_jax.data.batches import local_batch
from ddpm_jax.errors import UserError

NETWORK = SmallUNetConfig(channels=(4, 4))


def of(data: PictureData) -> PictureData:
    """Returns the section as a run sees it."""
    resolved = resolve(Config(data=data, model=NETWORK)).data
    assert isinstance(resolved, PictureData)
    return resolved


@pytest.fixture
def saved(tmp_path):
    """A picture of 5×7 on disk, and its pixels."""
    pixels = np.random.default_rng(0).integers(256, size=(5, 7, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "mine.png")
    return tmp_path / "mine.png", pixels


def test_the_default_is_the_flower_at_its_own_size():
    data = of(PictureData())
    assert data.example_shape == (427, 640, 3)
    source = open_source(data)
    assert count_examples(data) == len(source) == 1
    expected = np.asarray(load_sample_image("flower.jpg"))
    np.testing.assert_array_equal(source.gather(np.array([0])).examples[0], expected)


def test_every_row_of_every_batch_is_the_picture(saved):
    path, pixels = saved
    source = open_source(of(PictureData(path=str(path))))
    for step in (0, 7):
        batch = local_batch(source, seed=3, step=step, batch_size=3)
        np.testing.assert_array_equal(batch.examples, np.stack([pixels] * 3))
        assert batch.labels is None


def test_another_size_is_taken_as_given(saved):
    data = PictureData(path=str(saved[0]), image_size=(2, 6), channels=1)
    assert of(data) == data
    assert open_source(data).shape == (2, 6, 1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_size_is_that_of_the_upright_picture(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (7, 5), "white").save(tmp_path / "camera.jpg", exif=exif)
    data = of(PictureData(path=str(tmp_path / "camera.jpg")))
    assert data.image_size == ((5, 7) if orientation <= 4 else (7, 5))
    assert open_source(data).shape == data.example_shape


def test_a_resolved_config_describes_itself(saved):
    config = Config(data=PictureData(path=str(saved[0])), model=NETWORK)
    again = configs.loads(configs.dumps(config))
    assert again == config
    resolved = resolve(again)
    saved[0].unlink()
    assert configs.loads(configs.dumps(resolved)) == resolve(resolved) == resolved
    assert resolved.data.example_shape == (5, 7, 3)
    assert resolved == dataclasses.replace(config, data=resolved.data)


def test_other_data_resolve_to_themselves():
    config = Config(model=UNetConfig(attention=(4,)))
    assert resolve(config) is config


def test_a_size_that_the_network_can_not_take_is_an_error_once_known(saved):
    config = Config(data=PictureData(path=str(saved[0])), model=UNetConfig(attention=()))
    with pytest.raises(UserError, match="5×7, is not divisible by 8"):
        resolve(config)


def test_an_unresolved_size_says_how_to_resolve_it():
    with pytest.raises(UserError, match=r"data\.resolve"):
        open_source(PictureData())


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("none.png", "none.png does not exist; give a picture's file"),
        (".", "is a folder; give a picture's file"),
        ("torn.png", "torn.png can't be read"),
    ],
)
def test_a_file_that_is_not_a_picture_is_named(tmp_path, name, words):
    (tmp_path / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    data = PictureData(path=str(tmp_path / name))
    for broken in (data, dataclasses.replace(data, image_size=(4, 4))):
        with pytest.raises(UserError) as caught:
            open_source(of(broken))
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)


def test_an_impossible_size_is_refused():
    with pytest.raises(UserError, match=r"data\.image_size is"):
        PictureData(image_size=(0, 4))
