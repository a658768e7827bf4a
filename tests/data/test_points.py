from typing import Any

import numpy as np
import pytest

from ddpm_jax.config import PointsData
from ddpm_jax.data.points import POINT_SETS, branch_segments, open_points

EVERY = pytest.mark.parametrize("figure", POINT_SETS)


def open_all(figure, **settings) -> tuple[Any, Any]:
    source = open_points(PointsData(shape=figure, **settings))
    return source, source.gather(np.arange(len(source)))


@EVERY
def test_tables_are_repeatable_and_on_a_moderate_scale(figure):
    source, batch = open_all(figure, size=2000)
    assert (len(source), source.shape) == (2000, (2,))
    assert batch.examples.dtype == np.float32
    np.testing.assert_array_equal(open_all(figure, size=2000)[1].examples, batch.examples)
    assert len(np.unique(batch.examples, axis=0)) == 2000
    # The tutorial divides its S by 10, so the S is a fifth of the other shapes' size.
    points = batch.examples * (10 if figure == "s_curve" else 1)
    assert 0.9 < np.abs(points).max() < 2.5
    assert np.abs(points.mean(axis=0)).max() < 0.6
    assert (points.std(axis=0) > 0.3).all()


@EVERY
def test_another_table_has_other_points_of_the_same_figure(figure):
    one, other = (open_all(figure, size=2000, table=table)[1].examples for table in (0, 1))
    assert len(np.unique(np.concatenate([one, other]), axis=0)) == 4000
    scale = one.std(axis=0)
    np.testing.assert_allclose(one.mean(axis=0) / scale, other.mean(axis=0) / scale, atol=0.15)
    np.testing.assert_allclose(other.std(axis=0) / scale, 1, atol=0.1)


@EVERY
def test_labels_and_class_names_go_together(figure):
    source, batch = open_all(figure, size=100)
    if source.class_names:
        assert batch.labels.dtype == np.int32
        np.testing.assert_array_equal(np.unique(batch.labels), range(len(source.class_names)))
        np.testing.assert_array_equal(np.bincount(batch.labels), [50, 50])
    else:
        assert batch.labels is None


@EVERY
def test_every_config_figure_can_be_one_point(figure):
    assert len(open_all(figure, size=1)[0]) == 1


def test_the_tables_names_are_the_configs():
    literal = PointsData.__dataclass_fields__["shape"].type
    assert set(POINT_SETS) == set(literal.__args__)


def test_swiss_roll_is_the_spiral_of_its_equation():
    points = open_all("swiss_roll", size=500, noise=0.0)[1].examples
    # (t cos t, t sin t) / 10: the radius gives t, and t gives the direction.
    t = 10 * np.linalg.norm(points, axis=1)
    assert t.min() >= 1.5 * np.pi - 1e-5
    assert t.max() <= 4.5 * np.pi + 1e-5
    np.testing.assert_allclose(
        points, t[:, None] * np.stack([np.cos(t), np.sin(t)], 1) / 10, atol=1e-4
    )


def test_s_curve_is_two_three_quarter_circles_of_radius_a_tenth():
    points = open_all("s_curve", size=500, noise=0.0)[1].examples
    # Each point lies on the upper or the lower circle, around (0, ±0.1).
    radii = np.hypot(points[:, 0], np.abs(points[:, 1]) - 0.1)
    np.testing.assert_allclose(radii, 0.1, atol=1e-6)


def test_circles_radii_are_their_classes():
    batch = open_all("circles", size=200, noise=0.0)[1]
    radii = np.linalg.norm(batch.examples, axis=1)
    np.testing.assert_allclose(radii, np.array([1.0, 0.5])[batch.labels], atol=1e-6)


def test_moons_upper_class_is_above():
    batch = open_all("moons", size=200, noise=0.0)[1]
    heights = batch.examples[:, 1]
    assert (heights[batch.labels == 0] >= -1e-6).all()
    assert (heights[batch.labels == 1] <= 0.5 + 1e-6).all()


def test_checkerboard_fills_its_black_squares_evenly():
    points = open_all("checkerboard", size=8000, noise=0.0)[1].examples
    assert np.abs(points).max() <= 1
    column, row = np.floor(2 * points + 2).astype(int).T
    assert ((column + row) % 2 == 0).all()
    counts = np.bincount(4 * row + column, minlength=16)
    assert (counts > 0).sum() == 8
    # 1000 per square, within five standard deviations.
    assert (np.abs(counts[counts > 0] - 1000) < 5 * np.sqrt(1000)).all()
    inside = 2 * points % 1
    np.testing.assert_allclose(inside.mean(axis=0), 0.5, atol=0.02)


def test_branches_lie_on_their_own_tree_in_proportion_to_length():
    batch = open_all("branches", size=4000, noise=0.0)[1]
    trees = branch_segments()
    np.testing.assert_allclose(trees[1], -trees[0])
    # Each piece but the first begins where an earlier one ends, and each end has two or none.
    starts, ends = trees[0, :, 0], trees[0, :, 1]
    meets = np.linalg.norm(starts[:, None] - ends, axis=-1) < 1e-9
    np.testing.assert_array_equal(meets.sum(1), [0, *[1] * 30])
    assert sorted(meets.sum(0)) == [0] * 16 + [2] * 15
    a, b = trees[batch.labels, :, 0], trees[batch.labels, :, 1]
    along, offset = b - a, batch.examples[:, None] - a
    part = (offset * along).sum(-1) / (along**2).sum(-1)
    distance = np.linalg.norm(offset - np.clip(part, 0, 1)[..., None] * along, axis=-1)
    np.testing.assert_allclose(distance.min(1), 0, atol=1e-6)
    lengths = np.linalg.norm(ends - starts, axis=1)
    first = np.mean((distance[:, 0] < 1e-6) & (part[:, 0] < 0.999))
    np.testing.assert_allclose(first, lengths[0] / lengths.sum(), atol=0.02)


@EVERY
def test_noise_spreads_the_figure(figure):
    clean = open_all(figure, size=3000, noise=0.0)[1].examples
    noisy = open_all(figure, size=3000, noise=1.0)[1].examples
    assert (noisy.std(axis=0) > clean.std(axis=0)).all()
