import numpy as np
import pytest

from ddpm_jax.diffusion import TIME_GRIDS, continuous, make_schedule, make_time_grid, time_steps
from ddpm_jax.diffusion.schedules import noise_to_data

SCHEDULE = make_schedule("linear", 10)
LONG = make_schedule("linear", 1000)
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
    whole = make_time_grid("mine", SCHEDULE, 3)
    assert whole.dtype == np.int32
    np.testing.assert_array_equal(whole, [10, 6, 2, 0])
    grid(monkeypatch, [7, 4, 1, -1])
    np.testing.assert_array_equal(make_time_grid("mine", SCHEDULE, 3, shift=1), [8, 5, 2, 0])


@pytest.mark.parametrize(
    ("ideal", "whole"),
    [
        ([10, 1.3, 1.2, 1.1, 1, 0], [10, 4, 3, 2, 1, 0]),
        ([10, 9.9, 9.8, 9.7, 0.4, 0], [10, 9, 8, 7, 1, 0]),
        ([9.6, 7.2, 6.9, 0], [10, 8, 7, 0]),
    ],
)
def test_times_go_to_the_nearest_free_whole_ones(ideal, whole, monkeypatch):
    grid(monkeypatch, ideal)
    np.testing.assert_array_equal(make_time_grid("mine", SCHEDULE, len(ideal) - 1), whole)


@every_grid
def test_all_steps_are_all_times(name):
    """However crowded a grid is, whole times never repeat."""
    np.testing.assert_array_equal(make_time_grid(name, LONG, 1000), np.arange(1000, -1, -1))


@every_grid
@pytest.mark.parametrize("steps", [0, 1001])
def test_steps_that_no_grid_has_are_refused(name, steps):
    with pytest.raises(ValueError, match=f"{steps} sampling steps: take 1 to 1000"):
        make_time_grid(name, LONG, steps)


@every_grid
@pytest.mark.parametrize("T", [10, 20, 1000])
def test_grids_tell_times_apart_where_no_data_is_left_at_T(name, T):
    schedule = make_schedule("linear", T, zero_terminal_snr=True)
    for steps in (2, T // 2, T):
        times = make_time_grid(name, schedule, steps, fractional=True)
        assert (np.diff(times) < 0).all()


@every_grid
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_fractional_grids_never_call_below_1(name, schedule):
    schedule = make_schedule(schedule, 1000)
    for steps in (1, 2, 50):
        times = make_time_grid(name, schedule, steps, fractional=True)
        assert times[-2] >= 1
        assert times[0] == {"leading": 1 + 1000 // steps * (steps - 1)}.get(name, times[0])
        if name not in ("leading", "quadratic"):
            assert times[0] == 1000


def test_grids_are_even_in_what_they_are_named_for():
    of = lambda name, **options: make_time_grid(name, LONG, 6, fractional=True, **options)  # noqa: E731
    np.testing.assert_allclose(np.diff(np.sqrt(of("t2")[:-1]), 2), 0, atol=1e-9)
    assert of("t2")[-2] == 1
    quadratic = of("quadratic")
    np.testing.assert_allclose(np.diff(np.sqrt(quadratic[:-1] - 1), 2), 0, atol=1e-9)
    # Song et al.'s times are from 0 to 0.8 T, ours from 1.
    np.testing.assert_allclose(quadratic[0] - 1, 0.8 * 999)
    log_snr = continuous(LONG, of("logsnr")[:-1]).log_snr
    np.testing.assert_allclose(np.diff(log_snr, 2), 0, atol=1e-9)
    noise = noise_to_data(LONG, of("karras")[:-1])
    np.testing.assert_allclose(np.diff(noise ** (1 / 7), 2), 0, atol=1e-9)
    np.testing.assert_array_equal(make_time_grid("leading", LONG, 4), [751, 501, 251, 1, 0])
    np.testing.assert_array_equal(make_time_grid("trailing", LONG, 3), [1000, 667, 333, 0])
    np.testing.assert_array_equal(make_time_grid("strided", LONG, 3), [1000, 666, 333, 0])


def test_a_cosine_schedule_s_far_end_takes_one_step():
    """log SNR_T is -19.9 there: without `lowest` half of the steps would change nothing."""
    cosine = make_schedule("cosine", 1000)
    times = make_time_grid("logsnr", cosine, 11, fractional=True)
    found = continuous(cosine, times[1:-1]).log_snr
    expected = np.linspace(-10.2, 6, 11)[1:]
    np.testing.assert_allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("quadratic", {"top": 0.0}, "top is 0: it must be above 0 and at most 1"),
        ("karras", {"rho": -1.0}, "rho is -1: it must lie between 1 and 100"),
        ("logsnr", {"lowest": 20.0}, "lowest is 20: it must be below the last log SNR, 6"),
        ("karras", {"highest": -11.0}, "highest is -11: it must be above the log SNR of T, -10.1"),
    ],
)
def test_options_out_of_range_are_refused(name, options, words):
    with pytest.raises(ValueError, match=words):
        make_time_grid(name, LONG, 5, **options)
