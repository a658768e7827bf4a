"""`ddpm edit`: files in, files out, and one line for what does not fit."""

import numpy as np
import pytest
from PIL import Image

from ddpm_jax import cli
from ddpm_jax.training.train import train
from tests.tiny import TINY, changed

pytestmark = pytest.mark.usefixtures("one_device")

PIXELS = np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    config = changed(TINY, train={"steps": 4, "preview_every": None}, sample={"num": 4, "steps": 4})
    train(config, folder)
    return folder


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with a picture, a mask and a picture that is transparent in part."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(PIXELS).save("cat.png")
    alpha = np.full((8, 8), 255, np.uint8)
    alpha[4:] = 0
    Image.fromarray(255 - alpha).save("mask.png")
    Image.new("RGB", (8, 8), "red").save("red.png")
    Image.merge("LA", [Image.fromarray(PIXELS), Image.fromarray(alpha)]).save("hole.png")
    return tmp_path


def pixels(name):
    return np.asarray(Image.open(name))


def test_variants_of_a_hole_and_a_strip_are_written(run, folder, capsys):
    words = ["--how", "inpaint", "--num", "2"]
    assert cli.main(["edit", str(run), "hole.png", *words]) == 0
    assert capsys.readouterr().out == (
        "hole-inpaint.png … hole-inpaint-2.png and hole-inpaint-strip.png\n"
    )
    for name in ("hole-inpaint.png", "hole-inpaint-2.png"):
        np.testing.assert_array_equal(pixels(name)[:4], PIXELS[:4])
    assert (pixels("hole-inpaint.png") != pixels("hole-inpaint-2.png")).any()
    assert pixels("hole-inpaint-strip.png").shape[1] > 3 * 8
    # Fewer variants leave the others of before, and say so.
    assert cli.main(["edit", str(run), "hole.png", "--how", "inpaint"]) == 0
    assert "hole-inpaint-2.png is there from an earlier edit" in capsys.readouterr().err
    # A mask in a second file means the same.
    assert cli.main(["edit", str(run), "cat.png", "mask.png", *words]) == 0
    np.testing.assert_array_equal(pixels("cat-inpaint.png"), pixels("hole-inpaint.png"))


def test_numbers_go_into_an_npz_with_the_noise_of_an_inversion(run, folder, capsys):
    words = ["cat.png", "--how", "invert", "--output", "out.npz", "--steps", "10"]
    assert cli.main(["edit", str(run), *words]) == 0
    assert "mean squared error of the picture drawn again, on [0, 1]: " in capsys.readouterr().out
    arrays = np.load("out.npz")
    assert arrays["samples"].shape == arrays["noise"].shape == (1, 8, 8, 1)


WRONG = {
    "no picture": ([], "needs a PICTURE, or two, next"),
    "no way": (["cat.png"], "needs --how, one of inpaint, upscale"),
    "another way": (["cat.png", "--how", "very"], "--how is 'very'"),
    "a missing file": (["dog.png", "--how", "vary"], "dog.png does not exist"),
    "a second picture": (["cat.png", "mask.png", "--how", "vary"], "takes one picture"),
    "a hole": (["hole.png", "--how", "vary"], "hole.png has transparent pixels; make it opaque"),
    "two masks": (["hole.png", "mask.png", "--how", "inpaint"], "and mask.png is a mask; give one"),
    "a mask in colours": (["cat.png", "red.png", "--how", "inpaint"], "mask red.png has colours"),
    "another ending": (["cat.png", "--how", "vary", "--output", "a.jpg"], "a.jpg"),
    "an option of another": (["cat.png", "--how", "vary", "--sigma", "2"], "sigma"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_is_one_line_and_writes_nothing(run, folder, capsys, name):
    words, says = WRONG[name]
    before = sorted(folder.iterdir())
    assert cli.main(["edit", str(run), *words]) == 2
    err = capsys.readouterr().err
    assert says in err, err
    assert err.count("\n") == 1
    assert sorted(folder.iterdir()) == before


def test_all_steps_may_be_asked_for(run, folder):
    outputs = []
    for steps in ("None", "20", "4"):
        words = ["cat.png", "--how", "vary", "--steps", steps, "--output", f"{steps}.npz"]
        assert cli.main(["edit", str(run), *words]) == 0
        outputs.append(np.load(f"{steps}.npz")["samples"])
    np.testing.assert_array_equal(outputs[0], outputs[1])
    assert (outputs[0] != outputs[2]).any()


def test_a_picture_that_is_given_is_not_written_over(run, folder, capsys):
    words = ["edit", str(run), "cat.png", "--how", "vary", "--output"]
    assert cli.main([*words, str(folder / "cat.png")]) == 2
    assert "is a picture that is given; name another file" in capsys.readouterr().err
    np.testing.assert_array_equal(pixels("cat.png"), PIXELS)
