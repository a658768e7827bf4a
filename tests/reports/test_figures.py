"""Figures by their arrays: what is drawn is what the equations and the run say."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from ddpm_jax import plots
from ddpm_jax.config import ArraysData, Choice, MlpConfig
from ddpm_jax.diffusion import q_sample
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.evaluate import evaluate
from ddpm_jax.reports import figures
from ddpm_jax.reports.figures import ALIASES, FIGURES, draw, options_of, row_name, suffix_of
from ddpm_jax.reports.trajectories import predicted_x_0
from ddpm_jax.sampling.run import load
from tests.reports.conftest import PICTURES, POINTS
from tests.tiny import changed

pytestmark = pytest.mark.usefixtures("one_device")


@pytest.fixture
def drawn_arrays(monkeypatch):
    """Keeps the trajectories that a figure would draw, instead of drawing them."""
    taken = []
    monkeypatch.setattr(
        plots, "trajectory", lambda path, frames, **words: taken.append((frames, words))
    )
    return taken


def test_no_more_pictures_are_shown_than_a_preview_has_unless_told():
    large = changed(PICTURES, sample={"num": 1})
    subject = figures.Subject(large, None, 0, lambda done, total: None)
    assert (subject.num_shown(None, 64), subject.num_shown(5, 64)) == (1, 5)


def test_the_forward_trajectory_of_pictures(drawn_arrays, tmp_path):
    draw("forward", PICTURES, None, str(tmp_path / "it.png"), num=2, times=6, seed=3)
    ((frames, words),) = drawn_arrays
    assert frames.shape == (4, 6, 8, 8, 1)
    assert words["rows"] == ["stepwise", "direct"] * 2
    assert words["columns"] == [0, 4, 8, 12, 16, 20]
    # Both ways begin with the same picture, and each picture is one of the data's.
    np.testing.assert_array_equal(frames[::2, 0], frames[1::2, 0])
    assert np.abs(frames[0, 0] - frames[2, 0]).max() > 0.5
    digits = figures.open_source(PICTURES.data).gather(np.arange(1797)).examples
    unit = np.asarray(digits, np.float32) / 127.5 - 1
    assert all(np.abs(unit - frames[row, 0]).max((1, 2, 3)).min() < 1e-6 for row in (0, 2))
    assert all(0.7 < frames[row, -1].std() < 1.3 for row in range(4))


def test_the_forward_trajectory_of_bands_shows_the_chosen_ones(drawn_arrays, tmp_path):
    levels = np.random.default_rng(0).integers(256, size=(6, 8, 8, 5), dtype=np.uint8)
    np.save(tmp_path / "x.npy", levels)
    size: Any = {"image_size": (8, 8), "channels": 5}
    for chosen, shown in ((None, (0, 1, 2)), ((3, 2, 1), (3, 2, 1)), ((4,), (4,))):
        data = ArraysData(path=str(tmp_path / "x.npy"), show_channels=chosen, **size)
        unlabelled = changed(PICTURES, sample={"guidance": 0.0})
        training = dataclasses.replace(PICTURES.train, label_dropout=0.0)
        config = dataclasses.replace(
            unlabelled, data=data, model=MlpConfig(width=4, layers=1), train=training
        )
        draw("forward", config, None, str(tmp_path / "it.png"), num=2, times=3, way="direct")
        frames = drawn_arrays.pop()[0]
        assert frames.shape == (2, 3, 8, 8, len(shown))
        unit = levels[..., list(shown)].astype(np.float32) / 127.5 - 1
        assert all(np.abs(unit - frame).max((1, 2, 3)).min() < 1e-6 for frame in frames[:, 0])


def test_times_on_the_rows_transpose_the_figure(drawn_arrays, tmp_path):
    options: dict[str, Any] = {"num": 5, "times": 5, "way": "direct"}
    for rows in ("examples", "times"):
        draw("forward", PICTURES, None, str(tmp_path / "it.png"), rows=rows, **options)
    (across, plain), (down, turned) = drawn_arrays
    assert across.shape == down.shape == (5, 5, 8, 8, 1)
    np.testing.assert_array_equal(across, down.swapaxes(0, 1))
    assert plain == {"columns": [0, 5, 10, 15, 20], "rows": None}
    assert turned == {"rows": [0, 5, 10, 15, 20]}


def test_points_are_one_cloud_per_panel(drawn_arrays, folders, tmp_path):
    folder, path = folders["points"], str(tmp_path / "it.png")
    draw("forward", POINTS, folder, path, num=40, times=3)
    draw("x0", POINTS, folder, path, num=40, times=3)
    draw("reverse", POINTS, folder, path, num=40, times=3)
    shapes = [frames.shape for frames, _ in drawn_arrays]
    assert shapes == [(2, 3, 40, 2), (2, 3, 40, 2), (1, 3, 40, 2)]
    assert [words["columns"] for _, words in drawn_arrays] == [
        [0, 10, 20],
        [0, 10, 20],
        [20, 10, 0],
    ]
    assert [words["rows"] for _, words in drawn_arrays][2] is None


def test_the_reverse_trajectory_ends_in_the_samples(drawn_arrays, folders, tmp_path):
    folder = folders["pictures"]
    draw("reverse", PICTURES, folder, str(tmp_path / "it.png"), num=3, times=5, seed=4)
    ((frames, words),) = drawn_arrays
    assert frames.shape == (3, 5, 8, 8, 1)
    assert words["columns"] == [20, 15, 10, 5, 0]
    drawn = load(folder).sample(3, seed=4)
    np.testing.assert_allclose(frames[:, -1], drawn.samples, atol=1e-5)
    assert 0.8 < frames[:, 0].std() < 1.2


def test_the_predicted_x_0_stands_below_its_x_t(drawn_arrays, folders, tmp_path):
    folder = folders["pictures"]
    draw("x0", PICTURES, folder, str(tmp_path / "it.png"), num=2, times=3, seed=5)
    ((frames, words),) = drawn_arrays
    assert words == {"columns": [0, 10, 20], "rows": ["$x_t$", r"$\hat{x}_0$"] * 2}
    run, x_t, found = load(folder), frames[::2], frames[1::2]
    np.testing.assert_array_equal(x_t[:, 0], found[:, 0])
    # The same noise at all times: known from the last, it gives the one between.
    schedule, x_0 = run.experiment.schedule, jnp.asarray(x_t[:, 0])
    eps = (x_t[:, 2] - schedule.sqrt_alpha_bar[20] * x_0) / schedule.sqrt_one_minus_alpha_bar[20]
    between = q_sample(schedule, x_0, jnp.asarray(10), eps)
    np.testing.assert_allclose(x_t[:, 1], between, atol=1e-5)
    labels = figures.Subject(PICTURES, folder, 5, print).examples(2, None)[1]
    again = predicted_x_0(run, x_t.swapaxes(0, 1), np.array([0, 10, 20]), labels)
    np.testing.assert_allclose(found.swapaxes(0, 1), again, atol=1e-5)


def test_the_grid_has_the_columns_asked_for_and_its_labels(folders, tmp_path, monkeypatch):
    grids = []

    def grid(path, samples, *, labels, columns, **more):
        grids.append((*labels, columns))

    monkeypatch.setattr(plots, "grid", grid)
    cases: list[dict[str, Any]] = [{"num": 12, "columns": 4}, {"num": 5}]
    for options in cases:
        draw("samples", PICTURES, folders["pictures"], str(tmp_path / "it.png"), **options)
    assert grids == [(*range(10), 0, 1, 4), (*range(5), None)]


@pytest.mark.parametrize("kind", ["pictures", "points"])
@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_drawn_of_pictures_and_of_points(name, kind, folders, tmp_path):
    config = PICTURES if kind == "pictures" else POINTS
    if (name, kind) == ("neighbours", "points"):
        pytest.skip("it is of pictures alone")
    few: dict[str, Any] = {"num": 3, "lengths": (0.1,), "features": "pixels"}
    few = {option: value for option, value in few.items() if option in options_of(name)}
    path = draw(name, config, folders[kind], str(tmp_path / f"it{suffix_of(name)}"), **few)
    with Image.open(str(path)) as picture:
        assert min(picture.size) > 40  # A tile is 48 pixels.
        assert np.asarray(picture.convert("L")).std() > 1


def test_a_loss_that_was_never_logged_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"metrics\.jsonl has no rows yet; train a little first"):
        draw("loss", PICTURES, tmp_path, str(tmp_path / "it.png"))


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("loss", {"num": 3}, "num: the figure loss has no such option; it takes output, seed"),
        ("forward", {"columns": 3}, "it takes num, times, rows, way, split"),
        ("forward", {"num": 0}, "num is 0; it must be at least 1"),
        ("reverse", {"times": 1}, "times is 1; it must be at least 2"),
        ("samples", {"columns": 0}, "columns is 0; it must be at least 1"),
        ("forward", {"split": "test"}, "unknown setting data.split"),
        ("reverse", {}, "needs a trained run"),
        ("x0", {}, "needs a trained run"),
        ("ema_length", {}, "needs a trained run"),
    ],
)
def test_what_a_figure_can_not_do_is_one_line(name, options, words, tmp_path):
    with pytest.raises(UserError) as caught:
        draw(name, PICTURES, None, str(tmp_path / "it.png"), **options)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_split_is_put_in_place_of_the_configs(monkeypatch, tmp_path):
    asked = []

    def remember(data):
        asked.append(data.split)
        raise UserError("not here")

    monkeypatch.setattr(figures, "open_source", remember)
    from ddpm_jax.config import TfdsData

    config = dataclasses.replace(PICTURES, data=TfdsData(image_size=(8, 8), channels=1))
    for split in ("test", None):
        with pytest.raises(UserError, match="not here"):
            figures.Subject(config, None, 0, print).examples(1, split)
    assert asked == ["test", "train"]


def test_former_names_go_on_working(folders, tmp_path):
    path = draw("film", POINTS, folders["points"], str(tmp_path / "it.gif"), num=3)
    with Image.open(str(path)) as animation:
        assert animation.n_frames > 5  # type: ignore[attr-defined]
    assert set(ALIASES.values()) <= set(FIGURES)
    assert not set(ALIASES) & set(FIGURES)
    with pytest.raises(UserError, match=r"no figure forwrd \(did you mean forward\?\)"):
        row_name("forwrd")


def test_a_figure_from_outside_is_one_row(tmp_path, monkeypatch):
    def dot(subject, path, *, grey: int = 3):
        """One grey picture."""
        Image.new("L", (4, 4), grey + subject.seed).save(path)

    monkeypatch.setitem(FIGURES, "dot", dot)
    assert options_of("dot") == ["grey"]
    path = draw("dot", POINTS, None, tmp_path / "dot.png", seed=1, grey=7)
    with Image.open(str(path)) as picture:
        assert picture.getpixel((0, 0)) == 8
    with pytest.raises(UserError, match="num: the figure dot has no such option; it takes grey"):
        draw("dot", POINTS, None, tmp_path / "dot.png", num=3)


def test_copies_stand_beside_what_they_copy(drawn_arrays, monkeypatch, tmp_path):
    """The samples are noise, but for three copies of training pictures."""
    digits: Any = figures.open_source(PICTURES.data)
    unit = digits.examples.astype(np.float32) / 127.5 - 1
    samples = np.random.default_rng(0).uniform(-1, 1, (20, 8, 8, 1)).astype(np.float32)
    off = np.array([1e-3, 2e-3, 3e-3], np.float32)[:, None, None, None]
    samples[[3, 8, 15]] = unit[[70, 900, 1500]] + off * samples[:3]
    run = SimpleNamespace(config=PICTURES)
    drawn = SimpleNamespace(samples=samples)
    monkeypatch.setattr(figures.Subject, "run", lambda self: run)
    monkeypatch.setattr(figures.Subject, "sample", lambda self, num: drawn)
    draw("neighbours", PICTURES, None, str(tmp_path / "it.png"))
    ((frames, words),) = drawn_arrays
    assert frames.shape == (10, 4, 8, 8, 1)
    for row, (sample, copied) in enumerate([(3, 70), (8, 900), (15, 1500)]):
        np.testing.assert_array_equal(frames[row, 0], samples[sample])
        np.testing.assert_allclose(frames[row, 1], unit[copied], atol=1e-6)
        others = np.linalg.norm((unit - unit[copied]).reshape(len(unit), -1), axis=1)
        second = np.linalg.norm(frames[row, 2] - unit[copied])
        assert second == pytest.approx(np.sort(others)[1], rel=1e-2)
    assert all(float(each) < 0.02 for each in words["rows"][:3])
    assert all(float(each) > 1 for each in words["rows"][3:])


def test_points_and_few_pictures_have_no_neighbours(monkeypatch, tmp_path):
    monkeypatch.setattr(figures.Subject, "run", lambda self: SimpleNamespace(config=POINTS))
    with pytest.raises(UserError, match="needs a run on more than 5 pictures"):
        draw("neighbours", POINTS, None, str(tmp_path / "it.png"))


def test_the_figure_of_lengths_has_the_value_of_each_and_of_the_kept_ones(
    folders, monkeypatch, tmp_path
):
    drawn, told = [], []
    monkeypatch.setattr(plots, "sweep", lambda path, *words, **more: drawn.append(words))

    def progress(done, total):
        told.append(done / total)

    options: dict[str, Any] = {"num": 20, "metric": "coverage --k 3", "seed": 2}
    folder, path = folders["points"], str(tmp_path / "it.png")
    draw("ema_length", POINTS, folder, path, lengths=(0.1,), progress=progress, **options)
    ((x, curves, lines),) = drawn

    def values(**params):
        return evaluate(load(folder, **params), [Choice("coverage", k=3)], num=20, seed=2).values

    assert x == (0.1,)
    rebuilt, raw = values(ema_length=0.1), values(params="raw")
    assert curves == {name: [value] for name, value in rebuilt.items()}
    assert {name: of["raw"] for name, of in lines.items()} == raw
    assert all(set(of) == {"ema", "raw"} for of in lines.values())
    assert told == sorted(told)
    assert told[-1] == 1


def test_a_length_that_can_not_be_drawn_is_told_before_any_is(folders, monkeypatch, tmp_path):
    monkeypatch.setattr(figures, "evaluate", lambda *words, **more: pytest.fail("it was drawn"))
    path = str(tmp_path / "it.png")
    with pytest.raises(UserError, match=r"ema_length is 0\.02; it must be in "):
        draw("ema_length", POINTS, folders["points"], path, lengths=(0.1, 0.02))
