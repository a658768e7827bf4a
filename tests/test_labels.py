"""Labels by name, from class folders to samples: a tiny network learns each class's flat colour."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ddpm_jax
from ddpm_jax import cli
from ddpm_jax.config import (
    Choice,
    Config,
    DiffusionConfig,
    FolderData,
    MlpConfig,
    OptimizerConfig,
    SampleConfig,
    TrainConfig,
)
from ddpm_jax.training.pictures import Pictures
from ddpm_jax.training.train import train

pytestmark = pytest.mark.usefixtures("one_device")

COLOURS = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)], np.uint8)
FLAT = Config(
    data=FolderData(image_size=(2, 2)),
    model=MlpConfig(width=32, layers=2, num_classes=4),
    diffusion=DiffusionConfig(schedule="cosine", timesteps=10, prediction="x_0"),
    optimizer=OptimizerConfig(learning_rate=1e-2),
    train=TrainConfig(
        steps=150,
        batch_size=16,
        steps_per_dispatch=50,
        averages={"ema": Choice("ema", decay=0.5)},
        log_every=150,
        save_every=150,
        preview_every=None,
        loggers=(),
    ),
    sample=SampleConfig(sampler="ddim", num=4, batch_size=4),
)
PETS, NUMBERED = ("cat", "dog", "eel", "fox"), ("0", "1", "2", "10")


def trained(folder: Path, names: tuple[str, ...]) -> Path:
    """A run on folders of one flat picture each, in the colours of COLOURS."""
    for name, colour in zip(names, COLOURS, strict=True):
        (folder / "data" / name).mkdir(parents=True)
        Image.new("RGB", (2, 2), tuple(map(int, colour))).save(folder / "data" / name / "a.png")
    data = dataclasses.replace(FLAT.data, path=str(folder / "data"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pictures, "finish", lambda self, state: None)
        train(dataclasses.replace(FLAT, data=data), folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def runs(tmp_path_factory, one_device):
    return {names: trained(tmp_path_factory.mktemp("flat"), names) for names in (PETS, NUMBERED)}


def colours(samples: np.ndarray) -> list[int]:
    """Returns the nearest of COLOURS for each sample, which must be near it."""
    levels = (np.asarray(samples).mean(axis=(1, 2)) + 1) * 127.5
    distances = np.linalg.norm(levels[:, None] - COLOURS, axis=2)
    assert distances.min(axis=1).max() < 60
    return distances.argmin(axis=1).tolist()


@pytest.mark.parametrize(
    ("names", "words", "expected", "said"),
    [
        (PETS, "cat dog", [0, 1], "the classes named cat, dog"),
        (PETS, "fox --num 3", [3, 3, 3], "the class named fox"),
        (PETS, "3 eel", [3, 2], "the classes named fox, eel"),
        (NUMBERED, "10", [3], "the class named 10"),
        (NUMBERED, "2 10 0", [2, 3, 0], "the classes named 2, 10, 0"),
    ],
)
def test_the_command_draws_the_classes_that_are_named(
    runs, names, words, expected, said, tmp_path, capsys
):
    path = tmp_path / "x.npz"
    given = ["sample", str(runs[names]), "--labels", *words.split(), "--output", str(path)]
    assert cli.main(given) == 0
    assert capsys.readouterr().out.endswith(f"samples of step 150 in {path}: {said}\n")
    with np.load(path) as file:
        assert colours(file["samples"]) == expected
        assert tuple(file["class_names"]) == names
        assert file["labels"].tolist() == expected


def test_a_folder_of_samples_takes_names_too(runs, tmp_path, capsys):
    words = ["sample", str(runs[PETS]), "--labels", *["fox", "cat", "dog", "eel", "fox"]]
    assert cli.main([*words, "--batch_size", "2", "--output", str(tmp_path / "many")]) == 0
    parts = [np.load(path) for path in sorted((tmp_path / "many").glob("*.npz"))]
    assert colours(np.concatenate([part["samples"] for part in parts])) == [3, 0, 1, 2, 3]


def test_python_takes_names_and_numbers(runs):
    run = ddpm_jax.load(runs[PETS])
    drawn = run.sample(labels=["cat", 3, "dog"])
    assert colours(drawn.samples) == [0, 3, 1]
    assert drawn.class_names == PETS
    assert colours(run.sample(labels="eel").samples) == [2]
    numbered = ddpm_jax.load(runs[NUMBERED])
    drawn = numbered.sample(labels=[10, 1])
    assert colours(drawn.samples) == [3, 1]
    assert colours(numbered.sample(labels=drawn.labels).samples) == [3, 1]


def test_a_wrong_name_costs_a_line_with_the_near_ones(runs, tmp_path, capsys):
    for names, word, says in (
        (PETS, "dogg", "there is no class dogg (did you mean dog?)"),
        (NUMBERED, "3", "there is no class 3; they are 0, 1, 2, 10"),
    ):
        words = ["sample", str(runs[names]), "--labels", word, "--output", str(tmp_path / "x.png")]
        assert cli.main(words) == 2
        err = capsys.readouterr().err
        assert says in err
        assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
