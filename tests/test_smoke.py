"""Every config as a user starts it, in its smoke size: trained, and all its pictures drawn.

Two quick ones always; the others, whose parts other tests train too, with --long.
"""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddpm_jax.cli import main

pytestmark = pytest.mark.usefixtures("one_device")

CONFIGS = sorted(path.stem for path in Path("configs").glob("*.py"))

# Real data that stand in for what can't be downloaded here.
STAND_INS = {"celebahq256": "cifar10", "fashion_mnist": "mnist", "flowers102": "cifar10"}
OF_TFDS = ("mnist", "mnist_t10", "mnist_t10_conditional", "cifar10", "cifar10_upscale", *STAND_INS)
LONG = ("arrays", "celebahq256", "cifar10", "cifar10_upscale", "digits", "digits_classifier")
LONG += ("digits_upscale", "fashion_mnist", "flowers102", "folder", "mnist", "single_image")
LONG += ("mnist_t10", "single_image_deep", "swiss_roll_noise")


@pytest.fixture
def of_ones_own(tmp_path):
    """A folder of pictures in two classes, a file of arrays with ten, and points."""
    rng = np.random.default_rng(0)
    for n in range(16):
        path = tmp_path / "pictures" / "ab"[n % 2] / f"{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), np.uint8)).save(path)
    images = rng.integers(0, 256, (40, 16, 16, 3), np.uint8)
    np.savez(tmp_path / "arrays.npz", images=images, labels=np.arange(40) % 10)
    np.save(tmp_path / "points.npy", rng.normal(size=(40, 5)))
    return {
        "folder": ["--data.path", str(tmp_path / "pictures")],
        "arrays": ["--data.path", str(tmp_path / "arrays.npz")],
        "points": ["--data.path", str(tmp_path / "points.npy"), "--data.dimensions", "5"],
    }


@pytest.mark.parametrize("name", CONFIGS)
def test_it_trains_and_draws_in_its_smoke_size(name, tmp_path, of_ones_own, capsys, request):
    if name in LONG and not request.config.getoption("--long"):
        pytest.skip("with --long")
    if name in OF_TFDS and "TFDS_DATA_DIR" not in os.environ:
        pytest.skip("needs real data in $TFDS_DATA_DIR")
    words = of_ones_own.get(name, [])
    if name in OF_TFDS:  # To decode all of it takes longer than all the rest.
        words += ["--data.split", "test[:512]"]
    if name in STAND_INS:
        words += ["--data.name", STAND_INS[name]]
    run = tmp_path / "run"
    code = main(["train", f"configs/{name}.py", "--smoke", "--workdir", str(run), *words])
    assert code == 0, capsys.readouterr().err
    config = json.loads((run / "config.json").read_text())
    steps = config["train"]["steps"]
    assert (run / "checkpoints" / str(steps)).is_dir()
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == steps
    assert all(math.isfinite(row["loss"]) and row["loss"] > 0 for row in rows)
    figures = [f"{words.split()[0]}.png" for words in config["figures"]]
    of_samples = () if name == "digits_classifier" else ("samples.png", "denoising.gif")
    assert (run / "samples.png").exists() == bool(of_samples)
    for picture in (*of_samples, "loss.png", *figures):
        with Image.open(run / picture) as drawn:
            assert np.asarray(drawn.convert("L"), float).std() > 0, picture
