"""The map of names: each layout both ways, and what each check refuses."""

from types import SimpleNamespace

import numpy as np
import pytest

from ddpm_jax.errors import UserError
from ddpm_jax.weights.places import (
    KERNEL,
    MATRIX,
    NO_CLASS_LEFT_OUT,
    SAME,
    Place,
    merged_heads,
    places_of,
    pointwise,
    to_params,
    to_tensors,
)


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype("f")


@pytest.mark.parametrize(
    ("layout", "shape"),
    [
        (SAME, (4,)),
        (KERNEL, (4, 3, 2, 5)),
        (MATRIX, (4, 3)),
        (pointwise(2), (4, 3, 1, 1)),
        (pointwise(1), (4, 3, 1)),
        (NO_CLASS_LEFT_OUT, (4, 3)),
        (merged_heads(2, split_first=False, axes=1), (12, 5, 1)),
        (merged_heads(2, split_first=True, axes=1), (12, 5, 1)),
        (merged_heads(3, split_first=True, axes=0), (18, 5)),
        (merged_heads(3, split_first=False, axes=0), (18,)),
    ],
)
def test_a_layout_and_its_inverse_change_no_bit(layout, shape):
    theirs = numbers(*shape)
    ours = layout.split(theirs)
    np.testing.assert_array_equal(layout.join(ours), theirs)
    again = layout.split(layout.join(ours))
    assert all(np.array_equal(a, b) for a, b in zip(again, ours, strict=True))


def test_layers_compute_what_they_did():
    x, weight = numbers(6, 3), numbers(4, 3)
    np.testing.assert_allclose(x @ MATRIX.split(weight)[0], np.einsum("bi,oi->bo", x, weight), 1e-5)
    (same,) = pointwise(2).split(weight[..., None, None])
    np.testing.assert_array_equal(same, weight.T)
    kernel = numbers(4, 3, 2, 5)
    np.testing.assert_array_equal(KERNEL.split(kernel)[0][1, 3, 2, 0], kernel[0, 2, 1, 3])


@pytest.mark.parametrize("split_first", [True, False])
def test_merged_heads_are_those_of_each_order(split_first):
    heads, width, inputs = 2, 3, 5
    weight, x = numbers(3 * heads * width, inputs), numbers(inputs)
    y = weight @ x
    # OpenAI's older code has a head's query, key and value side by side, the newer all queries.
    order = (3, heads, width) if split_first else (heads, 3, width)
    parts = y.reshape(order) if split_first else y.reshape(order).swapaxes(0, 1)
    found = merged_heads(heads, split_first=split_first, axes=0).split(weight)
    for kernel, part in zip(found, parts, strict=True):
        np.testing.assert_allclose((x @ kernel).reshape(heads, width), part, rtol=1e-5)


SHAPES = {
    "a": {"kernel": SimpleNamespace(shape=(3, 4), ndim=2)},
    "b": {"scale": SimpleNamespace(shape=(4,), ndim=1)},
}
GOOD = {"x.weight": numbers(4, 3), "y.weight": numbers(4)}
PLACES = places_of(SHAPES, {"a": "x", "b": "y"}.__getitem__)


def test_a_map_is_applied_in_both_directions():
    params = to_params(PLACES, dict(GOOD), SHAPES, "F")
    np.testing.assert_array_equal(params["a"]["kernel"], GOOD["x.weight"].T)
    back = to_tensors(PLACES, params)
    assert back.keys() == GOOD.keys()
    assert all(np.array_equal(back[name], GOOD[name]) for name in GOOD)
    half = {name: value.astype(np.float16) for name, value in GOOD.items()}
    assert to_params(PLACES, half, SHAPES, "F")["b"]["scale"].dtype == np.float32


BAD = {
    "missing": ({"y.weight": None}, "^F has no y.weight, which"),
    "a near name": ({"y.weight": None, "y.weights": numbers(4)}, "has no y.weight .*y.weights"),
    "extra": ({"z": numbers(1)}, "^F has z, for which this network has no place"),
    "shape": ({"x.weight": numbers(3, 4)}, r"x.weight is float32 \[3, 4\]; .* float \[4, 3\]"),
    "type": ({"y.weight": np.ones(4, np.int64)}, r"y.weight is int64 \[4\]"),
    "text": ({"y.weight": np.array(list("abcd"))}, "y.weight is <U1"),
    "NaN": ({"y.weight": np.full(4, np.nan, "f")}, "y.weight has values that are not finite"),
    "overflow": ({"y.weight": np.full(4, 1e300)}, "y.weight has values that are not finite"),
}


@pytest.mark.parametrize("row", BAD)
def test_each_check_names_the_tensor(row):
    changed, says = BAD[row]
    tensors = {name: it for name, it in {**GOOD, **changed}.items() if it is not None}
    with pytest.raises(UserError, match=says):
        to_params(PLACES, tensors, SHAPES, "F")


def test_a_parameter_without_a_place_is_named():
    with pytest.raises(UserError, match="no place for b\\.scale"):
        to_params(PLACES[:1], {"x.weight": GOOD["x.weight"]}, SHAPES, "F")
    with pytest.raises(UserError, match="the parameter b\\.scale has no place"):
        to_tensors([Place("x", ("a.kernel",), MATRIX)], to_params(PLACES, dict(GOOD), SHAPES, "F"))
