"""Samples from files: each format gives the pixels that the nearest uint8 ones are."""

from typing import Any

import numpy as np
import pytest

from ddpm_jax.data.pixels import to_pixels
from ddpm_jax.data.source import ArraySource
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.evaluate import evaluate
from ddpm_jax.evaluation.sets import ExampleSet
from ddpm_jax.evaluation.stored import open_samples
from ddpm_jax.sampling.shards import sample_pixels, sample_shards
from tests.sampling.test_formats import NAMES, NUM, run_of, truth


def values_of(samples: ExampleSet) -> dict[str, float]:
    others = np.random.default_rng(7).integers(0, 256, (30, 5, 6, 3), np.uint8)
    reference = ExampleSet(ArraySource(others), {})
    return evaluate(samples, reference=reference, features="pixels").values


@pytest.mark.parametrize("form", ["png", "arr_0", "one file", "a folder without samples.json"])
def test_stored_pixels_are_judged_as_the_nearest_of_the_samples(form, tmp_path):
    path = tmp_path / "x.npz"
    if form == "one file":
        sample_pixels(run_of(), path, NUM)
    else:
        path = tmp_path / "x"
        sample_shards(run_of(), path, NUM, format="arr_0" if form == "arr_0" else "png")
        if form.startswith("a folder"):
            (path / "samples.json").unlink()
    found = open_samples(path)
    pixels = to_pixels(truth())
    places = np.array([10, 0, 3, 4])
    np.testing.assert_array_equal(found.source.gather(places).examples, pixels[places])
    values = values_of(found)
    assert values == values_of(ExampleSet(ArraySource(pixels), {}))
    assert values != values_of(ExampleSet(ArraySource(truth()), {}))
    if not form.startswith("a folder"):
        assert found.source.class_names == NAMES
        np.testing.assert_array_equal(found.source.gather(places).labels, [0, 0, 3, 4])


def test_arrays_of_other_tools_are_read(tmp_path):
    pixels = to_pixels(truth())
    np.savez(tmp_path / "x.npz", pixels, np.arange(NUM) % 3)
    found = open_samples(tmp_path / "x.npz").source
    np.testing.assert_array_equal(found.gather(np.arange(NUM)).examples, pixels)
    assert found.class_names == ("0", "1", "2")
    np.testing.assert_array_equal(found.gather(np.array([4, 2])).labels, [1, 2])


PIXELS = np.zeros((4, 5, 6, 3), np.uint8)


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ([PIXELS[..., 0]], "has no arr_0, uint8 [N, H, W, C]"),
        ([PIXELS.astype(np.float32)], "has no arr_0, uint8 [N, H, W, C]"),
        ([PIXELS, np.arange(3)], "has labels that do not fit its samples"),
        ([PIXELS, np.zeros(4)], "has labels that do not fit its samples"),
        ([PIXELS, np.arange(4) - 1], "has labels that do not fit its samples"),
        ([np.array([{}] * 4)], "x.npz can't be read (Object arrays cannot be loaded"),
    ],
)
def test_other_arrays_are_refused(arrays: Any, says, tmp_path):
    np.savez(tmp_path / "x.npz", *arrays)
    with pytest.raises(UserError) as error:
        open_samples(tmp_path / "x.npz")
    assert says in str(error.value)


def test_names_that_do_not_fit_the_labels_are_refused(tmp_path):
    np.savez(tmp_path / "x.npz", PIXELS, np.arange(4), class_names=np.array(["a", "b"]))
    with pytest.raises(UserError, match="has class_names that do not fit its labels"):
        open_samples(tmp_path / "x.npz")
