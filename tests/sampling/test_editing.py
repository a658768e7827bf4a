"""Edits by a tiny network: what each promises whatever the network knows."""

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest

from ddpm_jax.config import ArraysData, PointsData
from ddpm_jax.data.pixels import to_pixels
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import build
from ddpm_jax.files import storage_path
from ddpm_jax.runtime.mesh import make_mesh
from ddpm_jax.sampling.editing import EDITS, edit
from ddpm_jax.sampling.run import Run
from tests.tiny import TINY, changed

FEW: dict[str, Any] = {"steps": 4, "batch_size": 4}
PICTURES = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1), np.uint8)
MASK = np.zeros((8, 8), bool)
MASK[2:5, 3:] = True


@pytest.fixture(scope="module")
def run(trained):
    mesh = make_mesh(devices=jax.devices()[:1])
    return Run(storage_path("runs/tiny"), 6, *trained, name="ema", mesh=mesh)


# What each way of editing takes for pictures of 8×8×1.
TAKES = {
    "inpaint": (PICTURES, MASK),
    "upscale": (PICTURES[:, ::2, ::2], None),
    "deblur": (PICTURES, None),
    "vary": (PICTURES, None),
    "interpolate": (PICTURES, PICTURES[::-1]),
    "invert": (PICTURES, None),
}


def test_every_edit_of_grey_pictures_is_tried_here():
    assert {*TAKES, "colourise"} == set(EDITS)


@pytest.mark.parametrize("how", TAKES)
def test_a_picture_does_not_depend_on_the_others(run, how):
    """One at a time, or two in one program: the same picture, with the noise of its number."""
    pictures, second = TAKES[how]
    if how == "interpolate":  # Its pictures are one way; a mirrored way is the same way back.
        forth = edit(run, how, pictures[0], second[0], num=3, **FEW).samples.samples
        back = edit(run, how, second[0], pictures[0], num=3, **FEW).samples.samples
        np.testing.assert_allclose(forth, back[::-1], atol=1e-4)
        return
    both = edit(run, how, pictures, second, seed=3, **FEW).samples.samples
    assert both.shape == (2, 8, 8, 1)
    assert np.isfinite(both).all()
    alone = edit(run, how, pictures[1:], second, seed=3, first=1, **FEW).samples.samples
    np.testing.assert_allclose(alone[0], both[1], atol=1e-4)


@pytest.mark.parametrize(
    "options", [{}, {"method": "repaint", "jump_length": 1, "jump_samples": 2}]
)
def test_known_pixels_come_back_bit_for_bit(run, options):
    result = edit(run, "inpaint", PICTURES[0], MASK, num=3, **options, **FEW).samples
    pixels = np.asarray(to_pixels(result.samples))
    for each in pixels:
        np.testing.assert_array_equal(each[~MASK], PICTURES[0][~MASK])
    assert (pixels[0] != pixels[1]).any()
    assert (result.labels == -1).all()  # no class


def test_an_enlarged_picture_shrinks_to_what_was_given(run):
    small = np.random.default_rng(1).uniform(-1, 1, (4, 2, 2, 1)).astype(np.float32)
    found = edit(run, "upscale", small, **FEW).samples.samples
    back = found.reshape(4, 2, 4, 2, 4, 1).mean((2, 4))
    np.testing.assert_allclose(back, small, atol=1e-5)


def test_little_noise_varies_little(run):
    near, far = (
        edit(run, "vary", PICTURES[0], num=4, t=t, steps=20, clipping="none").samples.samples
        for t in (1, 20)
    )
    x_0 = PICTURES[0] / 127.5 - 1
    assert np.abs(near - x_0).mean() < np.abs(far - x_0).mean() / 2
    again = edit(run, "vary", PICTURES[0], num=4, t=1, steps=20, clipping="none", repeats=3)
    assert np.abs(again.samples.samples - x_0).mean() > np.abs(near - x_0).mean()


def test_an_inversion_returns_to_the_picture_better_with_more_steps(run):
    found = [edit(run, "invert", PICTURES, t=10, steps=steps) for steps in (2, 20)]
    errors = [next(iter(each.values.values())) for each in found]
    x_0 = PICTURES / 127.5 - 1
    by_hand = (((found[0].samples.samples - x_0) / 2) ** 2).mean()
    np.testing.assert_allclose(errors[0], by_hand, rtol=1e-5)
    assert errors[1] < errors[0] / 3
    assert found[0].noise is not None
    assert np.abs(found[0].noise - x_0).mean() > 0.1


def test_an_inversion_goes_by_steps_even_in_log_snr_unless_told(run):
    grids: list[dict[str, Any]] = [{}, {"grid": "logsnr"}, {"grid": "strided"}]
    own, even, strided = (edit(run, "invert", PICTURES, steps=4, **grid).noise for grid in grids)
    assert own is not None
    assert strided is not None
    np.testing.assert_array_equal(own, even)
    assert np.abs(own - strided).max() > 1e-3


@pytest.mark.parametrize("by", ["inversion", "noise"])
def test_a_way_leads_from_one_picture_to_the_other(run, by):
    start, end = PICTURES / np.float32(127.5) - 1
    t = {"inversion": 10, "noise": 1}[by]
    way = edit(run, "interpolate", start, end, by=by, t=t, steps=20, clipping="none")
    found = way.samples.samples
    assert len(found) == 8
    to_start, to_end = (((found - each) ** 2).mean((1, 2, 3)) for each in (start, end))
    assert to_start[0] < to_start[-1] / 4
    assert to_end[-1] < to_end[0] / 4
    assert (np.diff(to_start) > 0).all()
    assert (np.diff(to_end) < 0).all()


def test_a_grey_picture_needs_no_axis_for_channels(run):
    found = edit(run, "vary", PICTURES[0, :, :, 0], steps=2, t=4)
    known = edit(run, "vary", PICTURES[0], steps=2, t=4)
    np.testing.assert_array_equal(found.samples.samples, known.samples.samples)
    assert repr(found) == f"Edited({found.samples!r})"


WRONG = {
    "another way": ("inpant", PICTURES, MASK, {}, "how is 'inpant' .did you mean inpaint"),
    "another size": ("vary", PICTURES[:, :4], None, {}, "the picture is 4×8; this run's pictures"),
    "other channels": ("vary", PICTURES.repeat(3, -1), None, {}, "3 channels, and this edit needs"),
    "no mask": ("inpaint", PICTURES, None, {}, "inpaint needs a mask"),
    "an empty mask": ("inpaint", PICTURES, MASK & ~MASK, {}, "is empty: no pixel is to be painted"),
    "a full mask": ("inpaint", PICTURES, MASK | ~MASK, {}, "covers the whole picture"),
    "a mask of another size": ("inpaint", PICTURES, MASK[:4], {}, "the mask is 4×8; it must be"),
    "a picture for a mask": ("inpaint", PICTURES, PICTURES, {}, "mask is a picture; .* > 127"),
    "a grey picture for a mask": ("inpaint", PICTURES, PICTURES[0, :, :, 0], {}, "is a picture; "),
    "as large a picture": ("upscale", PICTURES, None, {}, "smaller than 8×8 .*: 4×4, 2×2, 1×1"),
    "no colours": ("colourise", PICTURES, None, {}, "1 channel; colourise needs a run on colours"),
    "no blur": ("deblur", PICTURES, None, {"sigma": 0.0}, "sigma is 0: it must be above 0"),
    "a late t": ("vary", PICTURES, None, {"t": 21}, "t is 21; it must be in 1 … 20"),
    "no repeat": ("vary", PICTURES, None, {"repeats": 0}, "repeats is 0; it must be at least 1"),
    "one picture": ("interpolate", PICTURES[0], None, {}, "needs a second picture, of 8×8"),
    "one on the way": ("interpolate", *PICTURES, {"num": 1}, "num is 1; it must be at least 2"),
    "another sampler": ("invert", PICTURES, None, {"sampler": "ddpm"}, "sampler is ddpm; an edit"),
    "clipping": ("invert", PICTURES, None, {"clipping": "clip"}, "clipping is clip; an edit that"),
    "no jump": (
        "inpaint",
        PICTURES,
        MASK,
        {"method": "repaint", "jump_length": 0},
        "jump_length is 0: it must be at least 1",
    ),
    "a jump of ddnm": ("inpaint", PICTURES, MASK, {"jump_samples": 5}, "of the method repaint"),
    "numbers out of range": ("vary", 3.0 * PICTURES, None, {}, "uint8, or floats in"),
    "another number": ("vary", PICTURES, None, {"num": 3}, "it must be one picture, or 3"),
    "an option of another": ("vary", PICTURES, None, {"jump_length": 3}, "jump_length"),
}


def run_of(config):
    """A run of that config as its network begins."""
    experiment, mesh = build(config), make_mesh(devices=jax.devices()[:1])
    params = experiment.init_params(jax.random.key(0))
    return Run(storage_path("runs/other"), 0, experiment, params, name="ema", mesh=mesh)


COLOURS = dataclasses.replace(TINY, data=ArraysData(image_size=(8, 8), channels=3))
POINTS = dataclasses.replace(changed(TINY, sample={"clipping": "none"}), data=PointsData())
CLASSES = changed(TINY, train={"label_dropout": 0.0})
BANDS = dataclasses.replace(TINY, data=ArraysData(image_size=(8, 8), channels=5))
WRONG_RUNS = {
    "more bands": (BANDS, "vary", PICTURES, r"needs 5 channels; give an array \[H, W, 5\]"),
    "in colour already": (COLOURS, "colourise", PICTURES.repeat(3, -1), "in colour already"),
    "another size": (COLOURS, "colourise", PICTURES[:, :4], "the picture is 4×8; this run's"),
    "points": (POINTS, "vary", PICTURES, "edit is for runs on pictures, and this one makes points"),
    "a class is needed": (CLASSES, "vary", PICTURES, "this network always takes a class"),
}


@pytest.mark.parametrize("name", WRONG_RUNS)
def test_what_a_run_can_not_edit_is_one_line(name):
    config, how, pictures, says = WRONG_RUNS[name]
    with pytest.raises(UserError, match=says) as found:
        edit(run_of(config), how, pictures)
    assert len(str(found.value).splitlines()) == 1


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_one_line(run, name):
    how, pictures, second, options, says = WRONG[name]
    with pytest.raises(UserError, match=says) as found:
        edit(run, how, pictures, second, **options)
    assert len(str(found.value).splitlines()) == 1


@pytest.mark.parametrize("how", ["upscale", "deblur", "vary"])
def test_the_strip_shows_what_was_given(run, how):
    pictures, second = TAKES[how]
    seen = to_pixels(edit(run, how, pictures, second, **FEW).strip["given"])
    factor = 8 // pictures.shape[1]
    np.testing.assert_array_equal(seen, pictures.repeat(factor, 1).repeat(factor, 2))
