"""Figures are read back: their pixels, their frames, and what must not be left behind."""

import math
import subprocess
import sys

import numpy as np
import pytest
from PIL import GifImagePlugin, Image

from ddpm_jax import plots
from ddpm_jax.errors import UserError
from ddpm_jax.plots import curves
from ddpm_jax.plots.examples import _GAP, _LARGE, _ROW, _SEPARATOR, _TILE, _text

ROWS = [{"step": 10 * i, "loss": 0.5 / i, "grad_norm": 1.0 + i % 3} for i in range(1, 9)]
SWEPT = (0.2, 0.05, 0.1)
ALPHA_BAR = {"linear": np.linspace(1, 0, 11), "cosine": np.cos(np.linspace(0, 1.5, 11)) ** 2}


def pictures(*shape, seed=0):
    """Returns random pixels in [-1, 1] on the 256 levels, or points."""
    return (np.random.default_rng(seed).integers(0, 256, shape) / 127.5 - 1).astype(np.float32)


def levels(examples):
    return np.rint((examples + 1) * 127.5).astype(np.uint8)


def read(path):
    with Image.open(path) as image:
        return np.asarray(image)


TERMS = {name: np.geomspace(1, 1e-3, 40) for name in ("vb", "vb_error", "mse", "x_0_mse")}

# Each figure with minimal arguments; a new function needs a row.
DRAW = {
    "grid": lambda path: plots.grid(path, pictures(5, 8, 8, 1)),
    "grid, labels": lambda path: plots.grid(path, pictures(5, 8, 8, 3), labels=[0, 1, 2, 1, 0]),
    "grid, points": lambda path: plots.grid(path, pictures(40, 2), labels=[0, 1] * 20),
    "trajectory": lambda path: plots.trajectory(path, pictures(3, 8, 6, 4), columns=[0, 5, 10]),
    "trajectory, points": lambda path: plots.trajectory(
        path, pictures(2, 3, 40, 2), rows=["a", "$x_t$"]
    ),
    "animation": lambda path: plots.animation(path, pictures(3, 5, 8, 8, 1)),
    "animation, points": lambda path: plots.animation(path, pictures(3, 40, 2)),
    "loss": lambda path: plots.loss(path, ROWS),
    "schedules": lambda path: plots.schedules(path, ALPHA_BAR),
    "sweep": lambda path: plots.sweep(path, SWEPT, {"a": [1, 3, 2]}, {}, xlabel="length"),
    "bound": lambda path: plots.bound(path, TERMS),
}
every_figure = pytest.mark.parametrize("name", DRAW)


def suffix(name):
    return ".gif" if name.startswith("animation") else ".png"


def test_every_public_figure_is_drawn_here():
    assert {name.split(",")[0] for name in DRAW} | {"check_path"} == set(plots.__all__)


@every_figure
def test_a_figure_writes_one_whole_file_and_nothing_else(name, tmp_path):
    path = tmp_path / f"figure{suffix(name)}"
    path.write_bytes(b"old")
    DRAW[name](path)
    with Image.open(path) as image:
        image.load()
        assert np.asarray(image.convert("L")).std() > 1  # something is drawn
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@every_figure
@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("missing/figure", "can't be written"),
        ("figure.jpeg", "this figure is a"),
        ("folder", "is a folder"),
        ("file/figure", "can't be written"),
    ],
)
def test_a_path_that_can_not_be_written_is_one_line(name, place, message, tmp_path):
    (tmp_path / "file").touch()
    path = tmp_path / (place if "." in place else place + suffix(name))
    if place == "folder":
        path.mkdir()
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=message) as error:
        DRAW[name](path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert sorted(tmp_path.iterdir()) == before


def test_a_failure_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "figure.png"
    path.write_bytes(b"old")

    def full(self, file, *args, **options):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(UserError, match="No space left on device"):
        DRAW["grid"](path)
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (5, 9), (28, 28), (70, 31)])
def test_a_grid_keeps_every_pixel(tmp_path, height, width, channels):
    samples = pictures(5, height, width, channels)
    plots.grid(tmp_path / "grid.png", samples, columns=3)
    drawn = read(tmp_path / "grid.png")
    assert drawn.shape[2] == max(3, channels)
    factor = -(-_LARGE // max(height, width))
    high, wide = factor * height, factor * width
    assert drawn.shape[:2] == (2 * high + _GAP, 3 * wide + 2 * _GAP)
    for i, sample in enumerate(levels(samples)):
        y, x = i // 3 * (high + _GAP), i % 3 * (wide + _GAP)
        tile = drawn[y : y + high, x : x + wide]
        enlarged = sample.repeat(factor, 0).repeat(factor, 1)
        np.testing.assert_array_equal(tile, np.broadcast_to(enlarged, tile.shape))
    assert (drawn[:, wide : wide + _GAP, :3] == _SEPARATOR).all()
    # The empty place of the last row is no picture.
    assert (drawn[high + _GAP :, -wide:, :3] == 255).all()


@pytest.mark.parametrize(
    ("number", "columns"),
    [(1, 1), (2, 2), (3, 3), (5, 5), (7, 4), (13, 7), (16, 4), (20, 5), (50, 10), (64, 8)],
)
def test_a_grid_is_about_square_with_few_empty_places(tmp_path, number, columns):
    plots.grid(tmp_path / "grid.png", pictures(number, _LARGE, _LARGE, 1))
    height, width = read(tmp_path / "grid.png").shape[:2]
    assert (width + _GAP) // (_LARGE + _GAP) == columns
    assert (height + _GAP) // (_LARGE + _GAP) == math.ceil(number / columns)


def test_few_pictures_are_drawn_larger(tmp_path):
    sides = []
    for number in (1, 16, 1024):
        plots.grid(tmp_path / "grid.png", pictures(number, 8, 8, 1))
        columns = math.isqrt(number)
        sides.append((read(tmp_path / "grid.png").shape[1] + _GAP) // columns - _GAP)
    assert sides == [_LARGE, _ROW // 4, _TILE]


SHADES = np.linspace(-0.9, 0.9, 24).repeat(64 * 3).reshape(24, 8, 8, 3) * [1, 0, 0]


@pytest.mark.parametrize(
    ("labels", "columns"),
    [([0, 1, 2] * 8, 3), ([0, 0, 1] * 8, 3), ([4] * 24, 6), (list(range(24)), 6), (None, 6)],
)
def test_repeating_labels_make_a_column_each(tmp_path, labels, columns):
    plots.grid(tmp_path / "grid.png", SHADES, labels=labels)
    drawn = read(tmp_path / "grid.png")[..., :3]
    # The first picture below the first one is that of the next row.
    shades = levels(SHADES[:, 0, 0])
    corners = [np.argwhere((drawn == shade).all(axis=2)).min(axis=0) for shade in shades]
    (y, x), right, below = corners[0], corners[1], corners[columns]
    assert (right[0], right[1] > x) == (y, True)
    assert (below[0] > y, below[1]) == (True, x)


def has_words(path):
    """Whether a figure has dark letters on its white margin, above the first picture."""
    return (read(path)[:20, :, :3].max(axis=2) < 100).any()


def test_a_grid_has_the_names_of_its_classes_above(tmp_path):
    white = np.ones((6, 8, 8, 1))
    for number, labels in enumerate(([0, 1] * 3, [1] * 6, [0, 1, 1, 0, 0, 0], None)):
        path = tmp_path / f"{number}.png"
        plots.grid(path, white, labels=labels, names=("cat", "dog"))
        assert has_words(path) == (labels is not None)
    plots.grid(tmp_path / "b.png", white, labels=[0, 1] * 3, names=("cat", "log"))
    assert not np.array_equal(read(tmp_path / "0.png"), read(tmp_path / "b.png"))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("cat", "cat"),
        ("Staffordshire_bull_terrier", "Staffordshire\nbull terrier"),
        ("one two three four five six seven", "one two three\nfour five six…"),
        ("x" * 40, f"{'x' * 14}\n{'x' * 13}…"),
        ("$x_1$ and $", r"\$x 1\$ and \$"),
        ("\u732b", "0"),
        (" ", "0"),
    ],
)
def test_a_name_of_a_class_fits_over_its_column(name, text):
    assert _text(0, [name], 14) == text


def test_a_trajectory_has_its_pictures_in_order(tmp_path):
    # Each picture has its own shade of red, unlike all letters.
    frames = np.full((2, 3, 8, 8, 3), -1.0)
    frames[..., 0] = np.linspace(-0.5, 0.9, 6).reshape(2, 3, 1, 1)
    plots.trajectory(
        tmp_path / "trajectory.png",
        frames,
        columns=[0, 1, 1000],
        rows=["a", "a long name"],
        title="A title wider than all of them " * 2,
    )
    drawn = read(tmp_path / "trajectory.png")[..., :3]
    corners = []
    for colour in levels(frames[..., 0, 0, :]).reshape(6, 3):
        where = np.argwhere((drawn == colour).all(axis=2))
        corner, opposite = where.min(axis=0), where.max(axis=0)
        np.testing.assert_array_equal(opposite - corner, _LARGE - 1)
        assert len(where) == _LARGE**2
        corners.append(corner)
    y, x = np.array(corners).reshape(2, 3, 2).transpose(2, 0, 1)
    np.testing.assert_array_equal(y, y[:, :1].repeat(3, 1))
    np.testing.assert_array_equal(x, x[:1].repeat(2, 0))
    assert (np.diff(y, axis=0) > _LARGE).all()
    assert (np.diff(x, axis=1) > _LARGE).all()
    border = np.concatenate([*drawn[[0, -1]], *drawn[:, [0, -1]].swapaxes(0, 1)])
    assert (border == 255).all()  # no text and no picture touches the edge


def test_large_pictures_are_reduced_by_averaging(tmp_path):
    frames = pictures(40, 6, 128, 1)
    plots.grid(tmp_path / "grid.png", frames, columns=40)
    drawn = read(tmp_path / "grid.png")
    assert drawn.shape == (3, 40 * (64 + _GAP) - _GAP, 3)
    means = frames.reshape(40, 3, 2, 64, 2).mean(axis=(2, 4))
    assert np.abs(drawn[:, :64, 0].astype(int) - levels(means[0])).max() <= 1


def test_values_outside_the_range_are_clipped(tmp_path):
    sample = np.full((1, _LARGE, _LARGE, 1), 7.0)
    sample[0, 0, :3, 0] = [-7, np.nan, np.inf]
    plots.grid(tmp_path / "grid.png", sample)
    drawn = read(tmp_path / "grid.png")
    np.testing.assert_array_equal(drawn[0, :4, 0], [0, 0, 255, 255])
    assert (drawn[1:] == 255).all()


@pytest.mark.parametrize("length", [1, 2, 7, 200])
def test_an_animation_ends_on_its_last_frame_and_holds_it(tmp_path, length):
    frames = pictures(length, 4, 8, 8, 1)
    frames[-1] = -1
    frames[-1, :2] = 1
    plots.animation(tmp_path / "animation.gif", frames, seconds=2, hold=1)
    with GifImagePlugin.GifImageFile(tmp_path / "animation.gif") as image:
        assert image.n_frames == min(length, 60)
        assert image.info.get("loop", 0) == 0
        times = []
        for i in range(image.n_frames):
            image.seek(i)
            times.append(image.info["duration"])
        last = np.asarray(image.convert("RGB"))
    assert times[-1] - 1000 == times[0] or length == 1
    assert sum(times) == pytest.approx(3000, abs=310)
    side = _LARGE + _GAP
    np.testing.assert_allclose(last[:_LARGE, :_LARGE], 255, atol=4)
    np.testing.assert_allclose(last[side:, side:], 0, atol=4)
    assert (last[:_LARGE, _LARGE] == _SEPARATOR).all()


def test_an_animation_shows_a_limited_number_of_examples(tmp_path):
    plots.animation(tmp_path / "animation.gif", pictures(2, 100, 8, 8, 3))
    assert read(tmp_path / "animation.gif").shape[:2] == (8 * (80 + _GAP) - _GAP,) * 2


@pytest.mark.parametrize("shape", [(), (2,), (8, 8, 1), (3, 8, 8, 5), (0, 8, 8, 1), (0, 2)])
def test_arrays_of_another_kind_are_refused(tmp_path, shape):
    for draw in (plots.grid, plots.trajectory, plots.animation):
        with pytest.raises(ValueError, match="neither pictures"):
            draw(tmp_path / ("x.gif" if draw is plots.animation else "x.png"), np.zeros(shape))


def test_labels_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(ValueError, match="4 samples and 3 labels"):
        plots.grid(tmp_path / "x.png", pictures(4, 8, 8, 1), labels=[1, 2, 3])
    with pytest.raises(ValueError, match="2 labels for axis 1"):
        plots.trajectory(tmp_path / "x.png", pictures(3, 8, 8, 1), columns=[1, 2])


@pytest.mark.parametrize(
    "rows",
    [
        ROWS[:1],
        [{"step": 1, "loss": 0.3}],
        [{"step": 1, "loss": 0.3}, {"step": 2, "images_per_s": 9.0}, {"step": 3, "loss": None}],
        [{"step": 1, "loss": 0.3, "grad_norm": float("nan")}, {"step": 2, "loss": float("inf")}],
        [{"step": i, "loss": 1e-7 * 10.0 ** (i % 9)} for i in range(1, 99)],
        [{"step": i, "loss": 0.25} for i in range(1, 99)],
    ],
)
def test_a_loss_curve_accepts_the_rows_of_a_run(tmp_path, rows):
    plots.loss(tmp_path / "loss.png", rows)
    assert read(tmp_path / "loss.png").shape[1] == 700


def test_the_validation_loss_is_drawn_over_the_loss_and_each_metric_in_a_panel(
    tmp_path, monkeypatch
):
    drawn = []
    monkeypatch.setattr(curves, "save", lambda path, figure: drawn.append(figure))
    rows = [
        {"step": 2, "loss": 0.5, "grad_norm": 2.0, "images_per_s": 9.0, "nonfinite_steps": 0},
        {"step": 2, "validation_loss": 0.7},
        {"step": 2, "coverage": 0.0, "accuracy": 0.1, "accuracy/3": 0.2},
        {"step": 4, "loss": 0.4, "grad_norm": 1.0, "images_per_s": 9.0, "nonfinite_steps": 0},
        {"step": 4, "validation_loss": 0.05},
        {"step": 4, "coverage": 0.5, "accuracy": float("nan")},
    ]
    plots.loss(tmp_path / "loss.png", rows)
    panels = drawn[0].axes
    titles = [axes.get_title(loc="left") for axes in panels]
    assert titles == ["loss", "gradient norm", "coverage", "accuracy"]
    lines = [[line.get_xydata().tolist() for line in axes.lines] for axes in panels]
    loss = [[2, 0.5], [4, 0.4]]
    assert lines[0] == [loss, loss, [[2, 0.7], [4, 0.05]]]
    assert lines[2:] == [[[[2, 0], [4, 0.5]]], [[[2, 0.1]]]]
    low, high = panels[0].get_ylim()
    assert low < 0.05
    assert high > 0.7
    assert "on held-out data" in [text.get_text() for text in panels[0].get_legend().get_texts()]


@pytest.mark.parametrize("rows", [[], [{"step": 3}], [{"step": 3, "loss": float("nan")}]])
def test_no_loss_to_draw_is_one_line(tmp_path, rows):
    with pytest.raises(UserError, match="no loss was logged yet"):
        plots.loss(tmp_path / "loss.png", rows)
    assert list(tmp_path.iterdir()) == []


def test_the_last_row_of_a_repeated_step_counts():
    rows = [{"step": 2, "loss": 9.0}, {"step": 3, "loss": 3.0}, {"step": 2, "loss": 2.0}]
    np.testing.assert_array_equal(curves._curve(rows, "loss"), [[2, 2], [3, 3]])


def test_smoothing_keeps_a_constant_and_averages_noise():
    constant, noise = np.full(300, 0.7), np.random.default_rng(0).normal(size=600)
    np.testing.assert_allclose(curves._smooth(constant), constant, rtol=1e-12)
    middle = curves._smooth(noise)[300]
    assert middle == pytest.approx(noise[290:311].mean())  # 600 // 60 = 10 to each side
    assert curves._smooth(noise)[0] == noise[0]


def test_schedules_are_drawn_from_alpha_bar():
    beta = np.array([0.1, 0.2, 0.5])
    alpha_bar = np.concatenate([[1.0], np.cumprod(1 - beta)])
    signal, noise, log_snr, betas = curves._views(alpha_bar).values()
    np.testing.assert_allclose(signal**2 + noise**2, 1)
    np.testing.assert_allclose(np.exp(log_snr[1:]), (signal[1:] / noise[1:]) ** 2)
    np.testing.assert_allclose(betas[1:], beta)
    assert np.isnan(log_snr[0])
    assert np.isnan(betas[0])


def test_schedules_of_other_lengths_share_an_axis(tmp_path):
    plots.schedules(tmp_path / "s.png", {"a": np.linspace(1, 0.2, 5), "b": np.linspace(1, 0, 900)})
    with pytest.raises(ValueError, match="must be"):
        plots.schedules(tmp_path / "s.png", {"a": np.array([1.0])})
    with pytest.raises(ValueError, match="must be"):
        plots.schedules(tmp_path / "s.png", {})


def test_drawing_changes_neither_pyplot_nor_settings():
    code = """if True:
        import sys, tempfile, numpy as np
        import matplotlib
        from ddpm_jax import plots
        modules, before = set(sys.modules), matplotlib.rcParams.copy()
        with tempfile.TemporaryDirectory() as folder:
            plots.trajectory(folder + "/a.png", np.zeros((2, 9, 2)))
        assert matplotlib.rcParams.copy() == before
        assert "matplotlib.pyplot" not in set(sys.modules) - modules
    """
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_sweep_has_a_panel_for_each_value_in_the_order_of_the_setting(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(curves, "save", lambda path, figure: figures.append(figure))
    values, lines = {"a": [1, 3, 2], "b": [5, 5, 5]}, {"a": {"kept": 2.5}}
    plots.sweep(tmp_path / "s.png", SWEPT, values, lines, xlabel="length")
    first, second = figures[0].axes
    np.testing.assert_array_equal(first.lines[0].get_xdata(), [0.05, 0.1, 0.2])
    np.testing.assert_array_equal(first.lines[0].get_ydata(), [3, 2, 1])
    assert first.lines[1].get_ydata() == [2.5, 2.5]
    assert [text.get_text() for text in first.get_legend().get_texts()] == ["kept"]
    assert second.get_legend() is None
    assert second.get_xlabel() == "length"
    assert [text.get_text() for text in second.get_xticklabels()] == ["0.05", "0.1", "0.2"]


def test_the_terms_of_a_bound_need_one_length(tmp_path):
    plots.bound(tmp_path / "few.png", {"vb": -np.ones(3), "mse": np.ones(3), "x_0_mse": np.ones(3)})
    for terms in ({"vb": np.ones(3)}, {**TERMS, "mse": np.ones(3)}):
        with pytest.raises(UserError, match="a bound has vb, mse, x_0_mse of one length T"):
            plots.bound(tmp_path / "bound.png", terms)


def test_who_knows_x_t_got_the_terms_above_t(tmp_path, monkeypatch):
    """Distortion over rate: the error of x̂_0 of t against the terms of t + 1 … T."""
    figures = []
    monkeypatch.setattr(curves, "save", lambda path, figure: figures.append(figure))
    terms = {
        "vb": np.array([8.0, 4, 2, 1]),
        "mse": np.ones(4),
        "x_0_mse": np.array([1.0, 4, 9, 16]),
    }
    plots.bound(tmp_path / "bound.png", terms)
    coding = figures[0].axes[-1].lines[0]
    np.testing.assert_allclose(coding.get_xdata(), [7, 3, 1, 0])
    np.testing.assert_allclose(coding.get_ydata(), [1, 2, 3, 4])
