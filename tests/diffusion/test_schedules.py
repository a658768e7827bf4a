import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from ddpm_jax.diffusion import (
    SCHEDULES,
    at,
    continuous,
    make_schedule,
    noise_schedule,
    q_sample,
    unfit_ends,
    vlb_prior,
)
from ddpm_jax.diffusion.schedules import noise_to_data, time_of

every_schedule = pytest.mark.parametrize("name", SCHEDULES)
SIZES = [1, 2, 50, 1000]


@every_schedule
@pytest.mark.parametrize("T", SIZES)
def test_time_0_is_clean_data_and_noise_only_grows(name, T):
    schedule = make_schedule(name, T)
    assert schedule.T == T
    for table in schedule:
        assert table.shape == (T + 1,)
        assert table.dtype == np.float64
    first = [table[0] for table in schedule]
    np.testing.assert_array_equal(first, [0, 1, 1, 0, np.inf])
    assert (np.diff(schedule.alpha_bar) < 0).all()
    assert (np.diff(schedule.log_snr[1:]) < 0).all()
    assert np.isfinite(schedule.log_snr[1:]).all()


@every_schedule
@pytest.mark.parametrize("T", SIZES)
def test_scales_of_data_and_noise_make_a_unit_circle(name, T):
    schedule = make_schedule(name, T)
    data = schedule.sqrt_alpha_bar.astype(np.float64)
    noise = schedule.sqrt_one_minus_alpha_bar.astype(np.float64)
    np.testing.assert_allclose(data**2 + noise**2, 1, atol=2e-7)
    snr = np.exp(schedule.log_snr[1:].astype(np.float64))
    np.testing.assert_allclose(snr, (data[1:] / noise[1:]) ** 2, rtol=2e-6)


@every_schedule
def test_tables_keep_all_digits(name):
    """Against the product itself, in the longest float there is: near t = 0 and t = T alike."""
    schedule = make_schedule(name, 1000)
    betas = np.concatenate([[0], SCHEDULES[name](1000)]).astype(np.longdouble)
    alpha_bar = np.cumprod(1 - betas)
    exact = {
        "beta": betas,
        "alpha_bar": alpha_bar,
        "sqrt_alpha_bar": np.sqrt(alpha_bar),
        "sqrt_one_minus_alpha_bar": np.sqrt(1 - alpha_bar),
        "log_snr": np.append(np.inf, np.log(alpha_bar[1:] / (1 - alpha_bar[1:]))),
    }
    for field, table in schedule._asdict().items():
        # A log SNR may be 0.
        atol = 1e-14 if field == "log_snr" else 0.0
        np.testing.assert_allclose(
            table, exact[field].astype(np.float64), rtol=1e-11, atol=atol, err_msg=field
        )


@every_schedule
def test_a_zero_terminal_snr_keeps_x_1_and_leaves_x_T_no_data(name):
    """Against Lin et al.'s formula for sqrt(ᾱ), in the longest float there is."""
    plain, zero = make_schedule(name, 1000), make_schedule(name, 1000, zero_terminal_snr=True)
    assert [table[-1] for table in zero] == [1, 0, 0, 1, -np.inf]
    np.testing.assert_array_equal([table[0] for table in zero], [0, 1, 1, 0, np.inf])
    betas = SCHEDULES[name](1000).astype(np.longdouble)
    scale = np.sqrt(np.cumprod(1 - betas))
    scale = (scale - scale[-1]) * scale[0] / (scale[0] - scale[-1])
    np.testing.assert_allclose(zero.sqrt_alpha_bar[1:], scale.astype(float), rtol=1e-9)
    noise = np.sqrt(1 - scale**2).astype(float)
    np.testing.assert_allclose(zero.sqrt_one_minus_alpha_bar[1:], noise, rtol=1e-9)
    np.testing.assert_allclose(zero.alpha_bar[1], plain.alpha_bar[1], rtol=1e-15)
    np.testing.assert_allclose(np.cumprod(1 - zero.beta), zero.alpha_bar, rtol=1e-9)
    assert (np.diff(zero.log_snr[1:]) < 0).all()


def test_a_shift_gives_averaged_large_pictures_the_noise_of_small_ones():
    """Averaging k by k pixels of independent noise divides its standard deviation by k."""
    plain, large = make_schedule("cosine", 50), make_schedule("cosine", 50, shift=4.0)
    np.testing.assert_allclose(large.log_snr[1:], plain.log_snr[1:] - 2 * np.log(4), rtol=1e-9)
    noise = large.sqrt_one_minus_alpha_bar / 4
    ratio = plain.sqrt_alpha_bar[1:] / plain.sqrt_one_minus_alpha_bar[1:]
    np.testing.assert_allclose(large.sqrt_alpha_bar[1:] / noise[1:], ratio, rtol=1e-9)
    both = make_schedule("cosine", 50, shift=4.0, zero_terminal_snr=True)
    np.testing.assert_allclose(
        both.alpha_bar[[1, -1]], np.array([large.alpha_bar[1], 0]), rtol=1e-15
    )
    back = make_schedule("cosine", 50, shift=1.0)
    for table, same in zip(plain, back, strict=True):
        np.testing.assert_array_equal(table, same)


@pytest.mark.parametrize("xp", [np, jnp])
def test_between_T_minus_1_and_a_zero_terminal_snr_the_data_s_scale_falls_to_0(xp):
    schedule = make_schedule("linear", 20, zero_terminal_snr=True)
    view = continuous(schedule, xp.asarray([18.5, 19.0, 19.25, 19.75, 20.0]))
    last = schedule.sqrt_alpha_bar[19]
    np.testing.assert_allclose(
        view.sqrt_alpha_bar[1:], last * np.array([1, 0.75, 0.25, 0]), rtol=1e-6
    )
    assert (np.diff(view.log_snr) < 0).all()
    for table in view[:-1]:
        assert np.isfinite(table).all()


@pytest.mark.parametrize("name", ["linear", "quadratic", "sigmoid", "cosine"])
def test_x_T_of_the_published_ones_is_nearly_noise(name):
    assert make_schedule(name, 1000).log_snr[-1] < np.log(1e-3)


def test_linear_is_the_published_one():
    """Section 4: β from 1e-4 to 0.02 leaves ᾱ_T ≈ exp(-Σβ - Σβ²/2) ≈ 4e-5."""
    schedule = make_schedule("linear", 1000)
    np.testing.assert_allclose(schedule.beta[[1, -1]], [1e-4, 0.02], rtol=1e-6)
    np.testing.assert_allclose(np.diff(schedule.beta[1:]), (0.02 - 1e-4) / 999, rtol=1e-3)
    assert 3.5e-5 < schedule.alpha_bar[-1] < 4.5e-5


def test_quadratic_and_sigmoid_share_linear_s_ends_and_differ_between():
    T = 101
    rows = {name: SCHEDULES[name](T, beta_1=0.01, beta_T=0.09) for name in ("quadratic", "sigmoid")}
    np.testing.assert_allclose(rows["quadratic"][[0, 50, 100]], [0.01, 0.04, 0.09])
    end = 0.08 / (1 + np.exp(6))
    np.testing.assert_allclose(rows["sigmoid"][[0, 50, 100]], [0.01 + end, 0.05, 0.09 - end])


def test_cosine_follows_its_angle_until_the_limit():
    schedule = make_schedule("cosine", 100, s=0.008)
    angle = (np.arange(101) / 100 + 0.008) / 1.008 * np.pi / 2
    expected = np.cos(angle) ** 2 / np.cos(angle[0]) ** 2
    np.testing.assert_allclose(schedule.alpha_bar[:-1], expected[:-1], rtol=1e-6)
    assert schedule.beta[-1] == 0.999


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make_schedule("linear", 0), "has 1 … 16,777,216 steps, not 0"),
        (lambda: noise_schedule(np.zeros(0)), "at least one step"),
        (lambda: make_schedule("linear", 10, beta_1=0.0), "^beta_1 is 0.0; it must be between 0"),
        (lambda: make_schedule("linear", 10, beta_T=1.0), "^beta_T is 1.0; it must be between 0"),
        (lambda: make_schedule("sigmoid", 10, beta_1=0.1), "^beta_T is 0.02; .* beta_1, which is"),
        (lambda: make_schedule("cosine", 10, s=1.0), "^s is 1.0; it must be between 0 and 1"),
        (lambda: noise_schedule(np.array([0.0, 0.1])), "beta at t = 1 is 0"),
        (lambda: noise_schedule(np.array([0.1, 1.0])), "beta at t = 2 is 1"),
        (lambda: noise_schedule(np.array([0.1, np.nan])), "beta at t = 2 is nan"),
        (lambda: make_schedule("linear", 1000, beta_T=0.5), "lower beta_T"),
        (lambda: make_schedule("linear", 1, zero_terminal_snr=True), "^zero_terminal_snr is True;"),
        (lambda: make_schedule("linear", 10, shift=0.0), "^shift is 0.0; it must be in 1/1,024 … "),
    ],
)
def test_betas_out_of_range_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_at_broadcasts_one_time_or_one_each():
    table = make_schedule("linear", 10).beta
    assert at(table, jnp.asarray(3), 4).shape == ()
    each = at(table, jnp.asarray([3, 5]), 4)
    assert each.shape == (2, 1, 1, 1)
    rounded = table.astype(np.float32)
    np.testing.assert_array_equal(each.ravel(), rounded[[3, 5]])
    compiled = jax.jit(at, static_argnums=2)(table, jnp.asarray(3), 4)
    np.testing.assert_array_equal(compiled, rounded[3])


def test_wrong_shapes_are_caught_by_the_hook_of_conftest():
    schedule, x_0 = make_schedule("linear", 10), jnp.zeros((4, 2))
    with pytest.raises(TypeCheckError):
        q_sample(schedule, x_0, jnp.asarray(1), jnp.zeros((4, 3)))
    with pytest.raises(TypeCheckError):
        q_sample(schedule, x_0, jnp.ones(3, int), x_0)
    with pytest.raises(TypeCheckError):
        q_sample(schedule, x_0, jnp.ones(4), x_0)


@pytest.mark.parametrize("t", [-1, 11])
def test_a_time_outside_the_table_is_never_read_as_another(t):
    table = make_schedule("linear", 10).alpha_bar
    assert np.isnan(jax.jit(lambda t: at(table, t, 1))(jnp.asarray(t)))
    with pytest.raises(ValueError, match=f"t is {t}; this schedule has the times 0…10"):
        at(table, jnp.asarray(t), 1)
    assert not np.isnan(at(table, jnp.asarray([0, 10]), 1)).any()


def test_numpy_times_read_float64_and_refuse_what_lies_outside():
    table = make_schedule("linear", 10).alpha_bar
    found = at(table, np.array([0, 10]), 2)
    assert (found.dtype, found.shape) == (np.float64, (2, 1))
    np.testing.assert_array_equal(found.ravel(), table[[0, 10]])
    for t in (-1, 11):
        with pytest.raises(ValueError, match=f"t is {t}; this schedule has the times 0…10"):
            at(table, np.array([t]), 1)


@every_schedule
@pytest.mark.parametrize("xp", [np, jnp])
def test_the_continuous_view_is_the_tables_at_whole_times(name, xp):
    schedule = make_schedule(name, 20)
    view = continuous(schedule, xp.arange(21.0))
    for field, entries in view._asdict().items():
        table = getattr(schedule, field).astype(entries.dtype)
        np.testing.assert_array_equal(entries, table, err_msg=field)


@every_schedule
@pytest.mark.parametrize("xp", [np, jnp])
def test_between_whole_times_log_alpha_bar_is_linear_and_the_tables_agree(name, xp):
    schedule, t = make_schedule(name, 20), np.array([0.25, 0.75, 7.5, 18.125, 19.75])
    view = continuous(schedule, xp.asarray(t))
    tables = np.log(schedule.alpha_bar.astype(np.float64))
    log_alpha_bar = np.interp(t, np.arange(21), tables)
    noise = -np.expm1(log_alpha_bar)
    before = np.interp(np.maximum(t - 1, 0), np.arange(21), tables)
    expected = {
        "beta": -np.expm1(log_alpha_bar - before),
        "alpha_bar": np.exp(log_alpha_bar),
        "sqrt_alpha_bar": np.exp(log_alpha_bar / 2),
        "sqrt_one_minus_alpha_bar": np.sqrt(noise),
        "log_snr": log_alpha_bar - np.log(noise),
    }
    for field, entries in view._asdict().items():
        # ᾱ_1 itself is 1 less 1e-4 or so, and rounded to float32.
        np.testing.assert_allclose(entries, expected[field], rtol=2e-3, atol=1e-6, err_msg=field)


def test_the_continuous_view_takes_one_time_and_knows_its_bounds():
    schedule = make_schedule("linear", 10)
    one = continuous(schedule, jnp.asarray(2.5))
    assert one.alpha_bar.shape == (1,)
    assert schedule.alpha_bar[2] > one.alpha_bar[0] > schedule.alpha_bar[3]
    outside = jnp.asarray([10.5, -0.5, jnp.nan])
    assert np.isnan(jax.jit(lambda t: continuous(schedule, t).alpha_bar)(outside)).all()
    for t in (*outside, *np.array(outside)[:, None]):
        with pytest.raises(ValueError, match="this schedule has the times 0…10"):
            continuous(schedule, t)


@every_schedule
def test_the_published_schedules_have_good_ends(name):
    assert unfit_ends(make_schedule(name, 1000)) == []
    assert unfit_ends(make_schedule(name, 1000), 999) == []


def test_an_x_T_that_is_not_noise_is_told_with_what_is_left():
    (line,) = unfit_ends(make_schedule("linear", 20))
    assert line.startswith("x_T is not noise: it keeps 0.9 of the data (ᾱ = 0.82)")
    assert "a larger beta_T" in line


@pytest.mark.parametrize(("bits", "told"), [(0.009, False), (0.011, True)])
def test_the_limit_is_a_hundredth_of_a_bit_per_dimension(bits, told):
    """For data of size 1 the bound's prior term is -½ log2(1 - ᾱ_T)."""
    alpha_bar = 1 - 2 ** (-2 * bits)
    betas = np.array([0.1, 1 - alpha_bar / 0.9])
    schedule = noise_schedule(betas)
    np.testing.assert_allclose(vlb_prior(schedule, jnp.ones((1, 1))), bits, rtol=1e-3)
    assert bool(unfit_ends(schedule)) == told


def test_the_prior_keeps_its_digits_where_hardly_any_noise_is_added():
    """½ (ᾱ + (1 - ᾱ) - 1 - log(1 - ᾱ)) = -½ log β where there is one step, for x_0 = 1."""
    found = vlb_prior(noise_schedule(np.array([1e-7])), jnp.ones((1, 1)))
    np.testing.assert_allclose(found, -0.5 * np.log2(1e-7), rtol=1e-6)


def test_an_x_1_that_is_mostly_noise_is_told():
    (line,) = unfit_ends(noise_schedule(np.array([0.6, 0.99])))
    assert line.startswith("x_1 is mostly noise: ᾱ_1 = 0.4 of its variance is data")


@pytest.mark.parametrize("first", [400, 400.5, np.float64(400)])
def test_a_chain_that_starts_below_T_in_noise_is_told(first):
    schedule = make_schedule("linear", 1000)
    (line,) = unfit_ends(schedule, first)
    assert line.startswith("the times start at t = 400")
    assert "start at T = 1000" in line


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_time_of_is_the_inverse_of_continuous(name, zero):
    schedule = make_schedule(name, 50, zero_terminal_snr=zero)
    times = np.array([50, 49.9, 49.5, 49, 20, 7.25, 1, 0.25, 0])
    log_snr = np.asarray(continuous(schedule, times).log_snr)
    np.testing.assert_allclose(time_of(schedule, log_snr), times, atol=1e-9)
    np.testing.assert_allclose(time_of(schedule, jnp.asarray(log_snr)), times, atol=2e-4)
    assert time_of(schedule, np.array([schedule.log_snr[-1] - 1])) == 50
    noise = noise_to_data(schedule, times)
    np.testing.assert_allclose(noise[:-1] ** -2, np.exp(continuous(schedule, times[:-1]).log_snr))
    assert noise[-1] == 0
    np.testing.assert_array_equal(noise_to_data(schedule, np.array([50, 20, 1])), noise[[0, 4, 6]])
