"""The row of FEATURES: what it takes, refuses and describes, on one device and on eight."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save

from ddpm_jax.data.pixels import to_unit
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.choosing import choose_features
from ddpm_jax.evaluation.facts import Facts
from ddpm_jax.evaluation.features import FEATURES, Extractor, FeatureContext
from ddpm_jax.evaluation.features.inception.resize import RESIZES, resize
from ddpm_jax.evaluation.features.inception.weights import read_weights
from ddpm_jax.tables import Choice
from tests.evaluation.features.inception import oracle

# The row has the package's name, and hides it.
PACKAGE = sys.modules["ddpm_jax.evaluation.features.inception"]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "x.safetensors"
    path.write_bytes(save(oracle.state_dict()))
    return str(path)


def facts(*shape: int, samples: tuple[int, ...] | None = None) -> Facts:
    return Facts(shape, samples or shape, 10, 10, 0, 0)


def loaded(file: str, **options: str) -> Extractor:
    row = FEATURES["inception"](weights=file, **options)
    return row.load(FeatureContext(None, lambda line: None))


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def unit(pixels: np.ndarray) -> np.ndarray:
    return np.asarray(to_unit(jnp.asarray(pixels)))


def test_features_are_the_networks_on_any_devices_in_any_batches(file, monkeypatch):
    def smaller(pixels: np.ndarray, mode: str) -> np.ndarray:
        return resize(pixels, mode)[:, ::4, ::4]  # The least that passes all layers.

    monkeypatch.setattr(PACKAGE, "_PER_DEVICE", 1)
    monkeypatch.setattr(PACKAGE, "resize", smaller)
    monkeypatch.setattr(PACKAGE, "read_weights", functools.cache(read_weights))
    pixels = noise(10, 32, 24, 3)
    examples = unit(pixels)
    eight = loaded(file).extract
    whole = eight(examples)
    assert whole.logits is not None
    monkeypatch.setattr(PACKAGE, "all_devices", lambda local: jax.devices()[:1])
    one = loaded(file).extract
    for found in (eight(examples[3:6]), one(examples[3:6])):
        np.testing.assert_array_equal(found.vectors, whole.vectors[3:6])
        np.testing.assert_array_equal(found.logits, whole.logits[3:6])
    written = oracle.network(oracle.state_dict(), smaller(pixels[3:4], "tf1"))
    for ours, features in zip((whole.vectors, whole.logits), written, strict=True):
        assert ours.dtype == np.float32
        assert ours.shape == (10, features.shape[1])
        np.testing.assert_allclose(ours[3:4], features, rtol=0, atol=1e-5 * np.abs(features).max())


@pytest.mark.parametrize("mode", RESIZES)
@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_are_rounded_and_resized_in_the_named_mode(file, monkeypatch, mode, channels):
    monkeypatch.setattr(PACKAGE, "_PER_DEVICE", 1)
    monkeypatch.setattr(PACKAGE, "read_weights", lambda path: ((), f"digest of {path}"))
    monkeypatch.setattr(PACKAGE, "apply", lambda parameters, x: (x[:, 7, 5], x[:, 290, 8]))
    extractor = loaded(file, resize=mode)
    assert extractor.described == {"weights": f"digest of {file}", "resize": mode}
    pixels = noise(11, 6, 4, channels)
    # A sample is rounded as it is where pictures are written.
    found = extractor.extract(unit(pixels) - np.float32(0.4 / 255))
    images = resize(pixels, mode)
    np.testing.assert_array_equal(found.vectors, images[:, 7, 5])
    np.testing.assert_array_equal(found.logits, images[:, 290, 8])


def test_it_must_be_named_and_says_why_it_does_not_apply(file, monkeypatch):
    row = FEATURES["inception"](weights=file)
    assert not row.default
    assert row.obstacle(facts(8, 8, 3)) is None
    assert row.obstacle(facts(8, 8, 3, samples=(16, 16, 1))) is None
    assert row.obstacle(facts(2)) == "Inception takes pictures, and these examples are (2,)"
    for found in (facts(8, 8, 4), facts(8, 8, 3, samples=(8, 8, 4))):
        assert "and these have 4; leave out" in str(row.obstacle(found))
    monkeypatch.setenv("DDPM_JAX_CACHE", "")
    with pytest.raises(UserError, match=r"^the features inception do not apply: there are no wei"):
        choose_features("inception", facts(8, 8, 3))
    missing = Choice("inception", weights="none.pth")
    with pytest.raises(UserError, match=r"none.pth: there is no such file of weights; take pyto"):
        choose_features(missing, facts(8, 8, 3))


def test_an_unknown_resize_is_refused_before_any_work():
    with pytest.raises(ValueError, match="resize is box: it must be one of tf1, torch, clean"):
        FEATURES["inception"](resize="box")
    with pytest.raises(UserError, match=r"^features.resize is box: it must be one of tf1, torch,"):
        choose_features(Choice("inception", resize="box"), facts(8, 8, 3))
