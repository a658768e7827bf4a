"""What every operation promises: each fast form is its reference, in value and in gradient."""

import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.errors import UserError
from ddpm_jax.ops import AUTO, REFERENCE, Operations, from_environment
from ddpm_jax.ops.dispatch import Operation, dispatch
from tests.ops.cases import CASES

TABLE = {name for name, row in vars(Operations).items() if isinstance(row, Operation)}
ONE_EACH = list({case.operation: case for case in CASES}.values())
every_case = pytest.mark.parametrize("case", CASES, ids=str)


def value_and_gradients(ops, case, arrays):
    operation = getattr(ops, case.operation)

    @jax.jit
    def both(*arrays):
        y, pull = jax.vjp(lambda *arrays: operation(*arrays, **case.options), *arrays)
        return y, pull(jnp.cos(jnp.arange(y.size)).reshape(y.shape).astype(y.dtype))

    return both(*arrays)


def test_every_operation_has_a_case():
    assert {case.operation for case in CASES} == TABLE


@every_case
@pytest.mark.parametrize("devices", [1, 8])
def test_a_fast_form_is_its_reference_with_its_gradients(case, devices):
    arrays = case.arrays()
    ours = value_and_gradients(Operations(devices=devices), case, arrays)
    theirs = value_and_gradients(REFERENCE, case, arrays)

    def near(mine, its):
        assert mine.dtype == its.dtype
        np.testing.assert_allclose(mine, its, rtol=1e-4, atol=2e-5 * max(1, np.abs(its).max()))

    jax.tree.map(near, ours, theirs)


@pytest.mark.parametrize("case", ONE_EACH, ids=str)
def test_half_precision_keeps_its_dtype_and_nearly_agrees(case):
    half = jax.tree.map(lambda array: array.astype(jnp.bfloat16), case.arrays())
    options = dict(case.options)
    if case.operation in ("group_norm", "linear_attention"):  # Their parameters stay float32.
        half = (half[0], *case.arrays()[1:])
    if case.operation == "group_norm":
        options["dtype"] = jnp.bfloat16
    y, gradients = value_and_gradients(AUTO, case._replace(options=options), half)
    assert y.dtype == jnp.bfloat16
    wide = jax.tree.map(lambda array: array.astype(jnp.float32), half)
    exact = value_and_gradients(REFERENCE, case, wide)
    for rough, fine in zip(*map(jax.tree.leaves, ((y, gradients), exact)), strict=True):
        scale = 1e-3 + float(jnp.linalg.norm(fine))
        assert float(jnp.linalg.norm(rough.astype(jnp.float32) - fine)) < 0.03 * scale
    dtypes = jax.tree.map(lambda array: array.dtype, half)
    assert jax.tree.map(lambda array: array.dtype, gradients) == dtypes


@pytest.mark.parametrize("case", ONE_EACH, ids=str)
def test_a_reference_is_differentiable_in_forward_mode(case):
    arrays = case.arrays()
    tangents = jax.tree.map(jnp.cos, arrays)

    def f(*arrays):
        return getattr(REFERENCE, case.operation)(*arrays, **case.options)

    y, slope = jax.jit(lambda: jax.jvp(f, arrays, tangents))()
    weight = jnp.sin(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape)
    gradients = jax.jit(lambda: jax.vjp(f, *arrays)[1](weight))()
    products = jax.tree.map(lambda g, v: jnp.sum(g * v), gradients, tangents)
    expected = sum(jax.tree.leaves(products))
    scale = float(jnp.linalg.norm(weight) * jnp.linalg.norm(slope))
    np.testing.assert_allclose(jnp.sum(slope * weight), expected, atol=1e-5 * scale)


def test_operations_are_values():
    assert Operations(devices=2) == Operations(devices=2) != Operations()
    assert len({Operations(), AUTO, REFERENCE}) == 2


def test_the_environment_chooses_and_the_number_of_devices_is_passed_on(monkeypatch):
    monkeypatch.delenv("DDPM_JAX_OPS", raising=False)
    assert from_environment(devices=4) == Operations(devices=4)
    for choice in ("auto", "reference"):
        monkeypatch.setenv("DDPM_JAX_OPS", choice)
        assert from_environment().choice == choice
    with jax.default_matmul_precision("highest"):
        assert from_environment().precision == "highest"
    monkeypatch.setenv("DDPM_JAX_OPS", "refrence")
    with pytest.raises(UserError, match="DDPM_JAX_OPS is 'refrence'; set it to auto or reference"):
        from_environment()


@pytest.mark.parametrize("case", ONE_EACH, ids=str)
def test_reference_operations_are_the_reference_itself(case):
    row = inspect.getattr_static(Operations, case.operation)
    assert getattr(REFERENCE, case.operation) is row.reference


def lowered(function, platform, *arrays):
    @jax.jit
    def with_gradients(*arrays):
        y, pull = jax.vjp(function, *arrays)
        return y, pull(y)

    return with_gradients.trace(*arrays).lower(lowering_platforms=(platform,)).as_text()


# Barriers (of which one is a conditional: is the kernel equal to itself, or NaN?), loops over
# groups of images, and the functions of Winograd's algorithm.
CPU_FORMS = re.compile(r"optimization_barrier|stablehlo\.while|compare +NE|@convolve|@cotangents")
WINOGRAD = [case for case in CASES if case.operation == "convolution" and case.shapes[0][3] >= 48]
HAVE_CPU_FORMS = (
    "convolution",
    "depthwise_convolution",
    "downsample",
    "group_norm",
    "linear_attention",
    "upsample",
)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("case", ONE_EACH + WINOGRAD, ids=str)
def test_an_accelerator_is_given_no_form_of_the_cpus(case, platform):
    f = getattr(AUTO, case.operation)
    text = lowered(lambda *arrays: f(*arrays, **case.options), platform, *case.arrays())
    # What is stored has a barrier everywhere: one forward, and one for the gradient.
    barriers = ["optimization_barrier"] * (2 if case.operation == "stored" else 0)
    assert CPU_FORMS.findall(text) == barriers


@pytest.mark.parametrize(
    "case", [case for case in ONE_EACH if case.operation in HAVE_CPU_FORMS] + WINOGRAD, ids=str
)
def test_the_marks_of_cpu_forms_are_seen_on_a_cpu(case):
    f = getattr(AUTO, case.operation)
    text = lowered(lambda *arrays: f(*arrays, **case.options), "cpu", *case.arrays())
    assert CPU_FORMS.search(text)


@pytest.mark.parametrize(
    ("operation", "mark"),
    [
        ("group_norm", "dot_general"),
        ("upsample", r"rhs_dilate = \[2, 2\]"),
        ("upsampled_convolution", r"rhs_dilate = \[2, 2\]"),
    ],
)
@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_a_tpu_is_given_its_own_forms(operation, mark, platform):
    (case,) = (case for case in ONE_EACH if case.operation == operation)
    f = getattr(AUTO, operation)
    text = lowered(lambda *arrays: f(*arrays, **case.options), platform, *case.arrays())
    assert bool(re.search(mark, text)) == (platform == "tpu")


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu", "rocm"])
def test_dispatch_gives_each_platform_its_form(platform):
    class Table(Operations):
        f = dispatch(jnp.sin, cpu=jnp.cos, tpu=jnp.tanh)

    text = lowered(Table().f, platform, jnp.ones(3))
    expected = {"cpu": "cosine", "tpu": "tanh"}.get(platform, "sine")
    # The gradient of a sine is a cosine, and the other way round.
    found = set(re.findall(r"stablehlo\.(sine|cosine|tanh) ", text))
    assert expected in found
    assert ("tanh" in found) == (platform == "tpu")


def test_a_form_takes_the_settings_that_it_names():
    class Table(Operations):
        f = dispatch(lambda x: x, cpu=lambda x, *, devices: devices * x)

    assert Table(devices=8).f(jnp.array(2.0)) == 16
    assert Table(devices=8, choice="reference").f(jnp.array(2.0)) == 2


def test_a_dispatched_operation_keeps_its_arguments_alone_for_the_gradient():
    x, kernel = jnp.ones((2, 8, 8, 24)), jnp.ones((7, 7, 24))
    pull = jax.eval_shape(lambda x, k: jax.vjp(AUTO.depthwise_convolution, x, k)[1], x, kernel)
    assert sum(leaf.size for leaf in jax.tree.leaves(pull)) == x.size + kernel.size
