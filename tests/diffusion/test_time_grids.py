import numpy as np
import pytest

from ddpm_jax.diffusion import TIME_GRIDS, make_schedule, make_time_grid, time_steps

SCHEDULE = make_schedule("linear", 10)
every_grid = pytest.mark.parametrize("name", TIME_GRIDS)


@pytest.mark.parametrize(
    ("T", "steps"), [(1, 1), (10, 10), (10, 7), (1000, 50), (1000, 999), (7, 1)]
)
def test_time_steps_decrease_evenly_from_T_to_0(T, steps):
    times = time_steps(T, steps)
    assert (times.shape, times.dtype) == ((steps + 1,), np.int32)
    assert (times[0], times[-1]) == (T, 0)
    strides = -np.diff(times)
    assert strides.min() >= 1
    assert strides.max() - strides.min() <= 1


@pytest.mark.parametrize("steps", [0, -1, 11])
def test_time_steps_out_of_range_are_refused(steps):
    with pytest.raises(ValueError, match=f"{steps} sampling steps: take 1 to 10"):
        time_steps(10, steps)


@every_grid
@pytest.mark.parametrize("steps", [1, 3, 10])
def test_every_grid_falls_strictly_to_0(name, steps):
    times = make_time_grid(name, SCHEDULE, steps)
    assert (times.shape, times.dtype, times[-1]) == ((steps + 1,), np.int32, 0)
    assert (np.diff(times) < 0).all()


def grid(monkeypatch, times):
    """A grid of one's own: one row, which takes an option."""
    row = lambda schedule, steps, *, shift=0: np.array(times) + shift  # noqa: E731
    monkeypatch.setitem(TIME_GRIDS, "mine", row)


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([10, 5, 5, 0], "goes from t = 5 to 5; times must fall"),
        ([10, 4, 5, 0], "goes from t = 4 to 5"),
        ([10, 5, 0], "must give 4 times from at most 10 to 0"),
        ([10, 5, 2, 1], "must give 4 times"),
        ([11, 5, 2, 0], "must give 4 times"),
        ([10, np.nan, 2, 0], "times must fall"),
        ([10.0, 5.5, 2.0, 0.0], "gives fractional times; this network takes whole"),
    ],
)
def test_a_grid_that_is_none_is_refused(times, message, monkeypatch):
    grid(monkeypatch, times)
    with pytest.raises(ValueError, match=message):
        make_time_grid("mine", SCHEDULE, 3)


def test_a_grid_may_be_fractional_start_below_T_and_take_options(monkeypatch):
    grid(monkeypatch, [10.0, 5.5, 2.0, 0.0])
    times = make_time_grid("mine", SCHEDULE, 3, fractional=True)
    np.testing.assert_array_equal(times, [10, 5.5, 2, 0])
    grid(monkeypatch, [7, 4, 1, -1])
    np.testing.assert_array_equal(make_time_grid("mine", SCHEDULE, 3, shift=1), [8, 5, 2, 0])
