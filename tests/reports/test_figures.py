"""Figures by their arrays: what is drawn is what the equations and the run say."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from ddpm_jax import plots
from ddpm_jax.config import (
    Config,
    DiffusionConfig,
    MlpConfig,
    PointsData,
    SampleConfig,
    StepUNetConfig,
    TrainConfig,
)
from ddpm_jax.diffusion import make_schedule, q_sample
from ddpm_jax.errors import UserError
from ddpm_jax.reports import figures
from ddpm_jax.reports.figures import FIGURES, direct, draw, guesses, options_of, stages, stepwise
from ddpm_jax.sampling.run import load
from ddpm_jax.sampling.samples import Samples
from ddpm_jax.training.train import train
from ddpm_jax.typing import Conditioning
from tests.tiny import TINY, changed

pytestmark = pytest.mark.usefixtures("one_device")

KEY = jax.random.key(0)
TIMES = np.arange(11)
SCHEDULE = make_schedule("linear", 10, beta_1=0.1, beta_T=0.8)
POINTS = Config(
    data=PointsData(size=300),
    model=MlpConfig(width=8, layers=1),
    diffusion=DiffusionConfig(timesteps=20, beta_T=0.5),
    train=TrainConfig(steps=4, batch_size=16, log_every=2, save_every=4, preview_every=None),
    sample=SampleConfig(sampler="ddpm", clip=False, num=3),
)
PICTURES = dataclasses.replace(
    changed(
        TINY,
        train={"steps": 4, "log_every": 2, "preview_every": None},
        sample={"num": 3, "guidance": 1.0},
    ),
    model=StepUNetConfig(channels=4, multipliers=(1,), num_classes=10),
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Runs of four steps, of pictures with labels and of points."""
    made = {}
    for name, config in {"pictures": PICTURES, "points": POINTS}.items():
        made[name] = tmp_path_factory.mktemp("runs") / name
        assert train(config, made[name]) == 0
    return made


@pytest.fixture
def strips(monkeypatch):
    """Takes what a figure would draw as a strip."""
    taken = []
    monkeypatch.setattr(plots, "strip", lambda path, frames, **words: taken.append((frames, words)))
    return taken


@pytest.mark.parametrize("way", [direct, stepwise])
def test_each_way_has_the_moments_of_q(way):
    x_t = way(SCHEDULE, jnp.full((20_000, 1), 0.7), TIMES, KEY)[..., 0]
    assert x_t.shape == (11, 20_000)
    np.testing.assert_array_equal(x_t[0], np.float32(0.7))
    alpha_bar = np.asarray(SCHEDULE.alpha_bar)
    np.testing.assert_allclose(x_t.mean(1), 0.7 * np.sqrt(alpha_bar), atol=0.03)
    np.testing.assert_allclose(x_t.var(1), 1 - alpha_bar, atol=0.03)


def test_steps_add_fresh_noise_and_the_direct_way_keeps_one():
    x_0 = jnp.zeros((20_000, 1))
    for t in (2, 6, 10):
        pair = np.array([t - 1, t])
        before, after = direct(SCHEDULE, x_0, pair, KEY)
        assert np.corrcoef(before[:, 0], after[:, 0])[0, 1] > 0.999
        x_t = stepwise(SCHEDULE, x_0, np.array([0, *pair]), KEY)[..., 0]
        beta = float(SCHEDULE.beta[t])
        added = x_t[2] - np.sqrt(1 - beta) * x_t[1]
        assert added.var() == pytest.approx(beta, rel=0.05)
        assert abs(np.corrcoef(added, x_t[1])[0, 1]) < 0.03


def test_fewer_times_of_a_walk_are_some_of_all():
    x_0 = jax.random.normal(KEY, (3, 2))
    some = np.array([0, 3, 4, 10])
    np.testing.assert_allclose(
        stepwise(SCHEDULE, x_0, some, KEY), stepwise(SCHEDULE, x_0, TIMES, KEY)[some], atol=1e-6
    )


def test_guesses_are_x_0_solved_from_the_networks_eps(folders):
    run = load(folders["pictures"])
    times, labels = np.array([0, 1, 20]), jnp.array([7, 2])
    x_t = np.array(jax.random.normal(KEY, (3, 2, 8, 8, 1)))
    found = guesses(run, x_t, times, labels)
    np.testing.assert_array_equal(found[0], x_t[0])
    schedule = run.experiment.schedule
    for k in (1, 2):
        t = jnp.asarray(times[k])
        eps = run.experiment.apply(
            run.params, jnp.asarray(x_t[k]), t, Conditioning(labels), train=False
        )
        noise = schedule.sqrt_one_minus_alpha_bar[t] * eps
        x_0 = np.clip((x_t[k] - noise) / schedule.sqrt_alpha_bar[t], -1, 1)
        np.testing.assert_allclose(found[k], x_0, atol=1e-3)
    others = guesses(run, x_t, times, jnp.array([7, 3]))
    np.testing.assert_allclose(others[:, 0], found[:, 0], atol=1e-5)
    assert np.abs(others[1:, 1] - found[1:, 1]).max() > 1e-5


def test_stages_are_evenly_over_the_chain_with_both_ends():
    frames = np.arange(51.0).reshape(51, 1, 1)
    drawn = Samples(frames[-1], None, frames, np.arange(1000, -1, -20))
    some, times = stages(drawn, 11)
    np.testing.assert_array_equal(times, np.arange(1000, -1, -100))
    np.testing.assert_array_equal(some[:, 0, 0], np.arange(0, 51, 5))
    assert len(stages(drawn, 100)[0]) == 51
    with pytest.raises(ValueError, match="num_trajectories"):
        stages(Samples(frames[-1], None, None, None), 11)


@pytest.mark.parametrize("kind", ["pictures", "points"])
def test_frames_know_their_times(kind, folders):
    drawn = load(folders[kind]).sample(2, num_trajectories=2)
    np.testing.assert_array_equal(drawn.times, np.arange(20, -1, -1))
    assert load(folders[kind]).sample(2).times is None


def test_no_more_pictures_are_shown_than_a_preview_has_unless_told():
    large = changed(PICTURES, sample={"num": 1})
    subject = figures.Subject(large, None, 0, lambda done, total: None)
    assert (subject.several(None, 64), subject.several(5, 64)) == (1, 5)


def test_the_forward_strip_of_pictures(strips, tmp_path):
    draw("forward", PICTURES, None, str(tmp_path / "it.png"), num=2, times=6, seed=3)
    ((frames, words),) = strips
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


def test_times_on_the_rows_transpose_the_strip(strips, tmp_path):
    options: dict[str, Any] = {"num": 5, "times": 5, "way": "direct"}
    for rows in ("examples", "times"):
        draw("forward", PICTURES, None, str(tmp_path / "it.png"), rows=rows, **options)
    (across, plain), (down, turned) = strips
    assert across.shape == down.shape == (5, 5, 8, 8, 1)
    np.testing.assert_array_equal(across, down.swapaxes(0, 1))
    assert plain == {"columns": [0, 5, 10, 15, 20], "rows": None}
    assert turned == {"rows": [0, 5, 10, 15, 20]}


def test_points_are_one_cloud_a_panel(strips, folders, tmp_path):
    folder, path = folders["points"], str(tmp_path / "it.png")
    draw("forward", POINTS, folder, path, num=40, times=3)
    draw("x0", POINTS, folder, path, num=40, times=3)
    draw("reverse", POINTS, folder, path, num=40, times=3)
    shapes = [frames.shape for frames, _ in strips]
    assert shapes == [(2, 3, 40, 2), (2, 3, 40, 2), (1, 3, 40, 2)]
    assert [words["columns"] for _, words in strips] == [[0, 10, 20], [0, 10, 20], [20, 10, 0]]
    assert [words["rows"] for _, words in strips][2] is None


def test_the_reverse_strip_ends_in_the_samples(strips, folders, tmp_path):
    folder = folders["pictures"]
    draw("reverse", PICTURES, folder, str(tmp_path / "it.png"), num=3, times=5, seed=4)
    ((frames, words),) = strips
    assert frames.shape == (3, 5, 8, 8, 1)
    assert words["columns"] == [20, 15, 10, 5, 0]
    drawn = load(folder).sample(3, seed=4)
    np.testing.assert_allclose(frames[:, -1], drawn.samples, atol=1e-5)
    assert 0.8 < frames[:, 0].std() < 1.2


def test_the_guess_stands_below_what_it_is_guessed_from(strips, folders, tmp_path):
    folder = folders["pictures"]
    draw("x0", PICTURES, folder, str(tmp_path / "it.png"), num=2, times=3, seed=5)
    ((frames, words),) = strips
    assert words == {"columns": [0, 10, 20], "rows": ["$x_t$", r"$\hat{x}_0$"] * 2}
    run, x_t, found = load(folder), frames[::2], frames[1::2]
    np.testing.assert_array_equal(x_t[:, 0], found[:, 0])
    # The same noise at all times: known from the last, it gives the one between.
    schedule, x_0 = run.experiment.schedule, jnp.asarray(x_t[:, 0])
    eps = (x_t[:, 2] - schedule.sqrt_alpha_bar[20] * x_0) / schedule.sqrt_one_minus_alpha_bar[20]
    between = q_sample(schedule, x_0, jnp.asarray(10), eps)
    np.testing.assert_allclose(x_t[:, 1], between, atol=1e-5)
    labels = figures.Subject(PICTURES, folder, 5, print).examples(2, None)[1]
    again = guesses(run, x_t.swapaxes(0, 1), np.array([0, 10, 20]), labels)
    np.testing.assert_allclose(found.swapaxes(0, 1), again, atol=1e-5)


def test_the_grid_has_the_columns_asked_for_or_a_class_in_each(folders, tmp_path, monkeypatch):
    grids = []
    monkeypatch.setattr(plots, "grid", lambda path, samples, columns: grids.append(columns))
    cases: list[dict[str, Any]] = [{"num": 20, "columns": 4}, {"num": 20}, {"num": 5}]
    for options in cases:
        draw("samples", PICTURES, folders["pictures"], str(tmp_path / "it.png"), **options)
    assert grids == [4, 10, None]


@pytest.mark.parametrize("kind", ["pictures", "points"])
@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_drawn_of_pictures_and_of_points(name, kind, folders, tmp_path):
    config = PICTURES if kind == "pictures" else POINTS
    few: dict[str, Any] = {"num": 3} if "num" in options_of(name) else {}
    suffix = "gif" if name == "film" else "png"
    path = draw(name, config, folders[kind], str(tmp_path / f"it.{suffix}"), **few)
    with Image.open(str(path)) as picture:
        assert min(picture.size) > 40  # A tile is 48 pixels.
        assert np.asarray(picture.convert("L")).std() > 1


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("loss", {"num": 3}, "--num: the figure loss has no such option; it takes --output"),
        ("forward", {"columns": 3}, "it takes --num, --times, --rows, --way, --split"),
        ("forward", {"num": 0}, "--num is 0; it must be at least 1"),
        ("reverse", {"times": 1}, "--times is 1; it must be at least 2"),
        ("samples", {"columns": 0}, "--columns is 0; it must be at least 1"),
        ("forward", {"split": "test"}, "unknown setting data.split"),
        ("reverse", {}, "needs a trained run"),
        ("x0", {}, "needs a trained run"),
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
