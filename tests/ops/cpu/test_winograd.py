import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from ddpm_jax.ops import Operations
from ddpm_jax.ops.cpu import winograd
from ddpm_jax.reports.communication import Collective, collectives
from ddpm_jax.reports.program import read_program

NAMES = ("NHWC", "HWIO", "NHWC")


def xlas(x, kernel):
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=NAMES, precision="highest"
    )


def ours(x, kernel, devices=1):
    return Operations(devices=devices).convolution(x, kernel)


def arrays(batch, height, width, channels, features):
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (batch, height, width, channels))
    kernel = jax.random.normal(keys[1], (3, 3, channels, features)) / (9 * channels) ** 0.5
    return x, kernel, jax.random.normal(keys[2], (batch, height, width, features))


def assert_near(found, expected):
    np.testing.assert_allclose(found, expected, atol=5e-6 * np.abs(expected).max())


@pytest.mark.parametrize("points", [(0, 1, -1, 2, -2), (0.0, 0.75, -0.75, 1.5, -1.5)])
def test_the_transforms_are_a_convolution(points):
    inputs, taps, outputs = map(np.array, winograd._transforms(points))
    rng = np.random.default_rng(0)
    window, kernel = rng.normal(size=6), rng.normal(size=3)
    tile = outputs @ ((taps @ kernel) * (inputs @ window))
    np.testing.assert_allclose(tile, np.correlate(window, kernel, "valid"), atol=1e-13)


@pytest.mark.parametrize(
    "shape", [(2, 8, 8, 5, 7), (3, 7, 13, 4, 6), (1, 1, 2, 3, 3), (2, 4, 9, 16, 1)]
)
def test_it_is_xlas_convolution_with_its_gradients(shape):
    x, kernel, g = arrays(*shape)
    expected, gradients = jax.vjp(xlas, x, kernel)
    grad_x, grad_kernel = gradients(g)
    assert_near(winograd.convolve(x, kernel), expected)
    cotangents = winograd.cotangents(g, kernel)
    assert_near(winograd.input_gradient(cotangents, kernel, x.shape), grad_x)
    assert_near(winograd.kernel_gradient(x, kernel, cotangents), grad_kernel)


def test_its_rounding_errors_are_twice_those_of_the_sum():
    x, kernel, _ = arrays(4, 16, 16, 64, 64)
    framed = np.pad(np.float64(x), ((0, 0), (1, 1), (1, 1), (0, 0)))
    exact = sum(
        framed[:, i : i + 16, j : j + 16] @ np.float64(kernel[i, j])
        for i in range(3)
        for j in range(3)
    )
    by_tiles = np.square(winograd.convolve(x, kernel) - exact).mean() ** 0.5
    of_sum = np.square(xlas(x, kernel) - exact).mean() ** 0.5
    assert by_tiles < 3 * of_sum


@pytest.mark.parametrize(
    ("by_tiles", "shape", "options"),
    [
        (True, (16, 8, 8, 48, 48), {}),
        (True, (1, 32, 32, 64, 48), {}),
        (False, (15, 8, 8, 48, 48), {}),
        (False, (16, 8, 8, 47, 48), {}),
        (False, (16, 8, 8, 48, 3), {}),
        (False, (16, 8, 8, 48, 48), {"strides": (2, 2)}),
        (False, (16, 8, 8, 48, 48), {"padding": "VALID"}),
        (False, (16, 8, 8, 48, 48), {"precision": "highest"}),
        (True, (16, 8, 8, 48, 48), {"precision": "default"}),
        (False, (16, 8, 8, 48, 48), {"dtype": "bfloat16"}),
    ],
)
def test_it_is_used_where_it_is_profitable_and_on_a_cpu_only(by_tiles, shape, options):
    dtype, precision = options.pop("dtype", "float32"), options.pop("precision", None)
    x, kernel = (array.astype(dtype) for array in arrays(*shape)[:2])
    ops = Operations(precision=precision)
    traced = jax.jit(lambda x, k: ops.convolution(x, k, **options)).trace(x, kernel)
    for platform, taken in (("cpu", by_tiles), ("cuda", False), ("tpu", False)):
        program = traced.lower(lowering_platforms=(platform,)).as_text()
        assert ("stablehlo.convolution" not in program) == taken


def test_a_convolution_by_winograd_has_xlas_gradients():
    x, kernel, g = arrays(16, 8, 8, 48, 64)
    found, of_ours = jax.vjp(ours, x, kernel)
    expected, of_xlas = jax.vjp(xlas, x, kernel)
    assert_near(found, expected)
    for mine, theirs in zip(of_ours(g), of_xlas(g), strict=True):
        assert_near(mine, theirs)


def test_nan_stays_nan():
    x, kernel, _ = arrays(16, 8, 8, 48, 48)
    assert jnp.isnan(ours(x, kernel.at[0, 0, 0, 0].set(jnp.nan))).any()
    y = ours(x.at[3, 2, 2, 0].set(jnp.nan), kernel)
    assert jnp.isnan(y[3, 1:4, 1:4]).all()
    assert jnp.isfinite(y[:3]).all()
    assert jnp.isfinite(y[4:]).all()


def test_several_devices_exchange_the_kernels_gradient_alone():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    rows, all_of_it = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
    x, kernel, g = arrays(16, 8, 8, 48, 64)
    x, g, kernel = (
        jax.device_put(x, rows),
        jax.device_put(g, rows),
        jax.device_put(kernel, all_of_it),
    )

    def gradients(x, kernel, g):
        y, vjp = jax.vjp(functools.partial(ours, devices=8), x, kernel)
        return y, *vjp(g)

    program = jax.jit(gradients, out_shardings=(rows, rows, all_of_it)).lower(x, kernel, g)
    compiled = program.compile()
    assert "@convolve" in program.as_text()
    assert collectives(read_program(compiled.as_text() or "")) == [
        Collective("all-reduce", kernel.nbytes, 8)
    ]
    y, grad_x, grad_kernel = compiled(x, kernel, g)
    expected, vjp = jax.vjp(xlas, x, kernel)
    for mine, theirs in zip((y, grad_x, grad_kernel), (expected, *vjp(g)), strict=True):
        assert_near(mine, theirs)
