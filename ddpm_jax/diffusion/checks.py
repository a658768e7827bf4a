"""What the functions of the mathematics refuse: one clear error for each mistake.

Shapes and types are known while tracing, so they are always checked. Values are checked where they
are known: NumPy's, and JAX's outside compiled functions.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.typing import Denoiser, Examples, Keys, Prediction


def known(values: Any) -> np.ndarray | None:
    """Returns the values as a NumPy array, or None while they are traced or on other machines."""
    try:
        return np.asarray(values)
    except (jax.errors.TracerArrayConversionError, RuntimeError):
        return None


def check_times(t: Any, last: int, *, noisy: bool = False, fractional: bool = False) -> None:
    """Raises TypeError unless t is whole numbers (or `fractional`), one for all or one each.

    Raises ValueError for a known one outside 0…last, for NaN, and for 0 if x_t must be `noisy`.
    """
    dtype, kind = getattr(t, "dtype", None), jnp.number if fractional else jnp.integer
    if dtype is None or not jnp.issubdtype(dtype, kind):
        what = "numbers" if fractional else "whole numbers"
        raise TypeError(f"t must be an array of {what}, not {_described(t)}")
    if t.ndim > 1:
        raise TypeError(f"t has the shape {t.shape}; it must be one time, or one for each example")
    times = known(t)
    if times is None:
        return
    outside = times[~((times > 0 if noisy else times >= 0) & (times <= last))]
    if outside.size:
        which = f"{int(noisy)}…{last}"
        raise ValueError(f"t is {outside.flat[0]}; this schedule has the times {which}")


def check_examples(t: Any = None, **arrays: Any) -> None:
    """Raises TypeError unless the arrays are floats `[B, …]` of one shape, and t is of B or one."""
    first = next(iter(arrays))
    for name, x in arrays.items():
        dtype = getattr(x, "dtype", None)
        if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(
                f"{name} must be an array of floats on the data's scale ([-1, 1] for pictures), "
                f"not {_described(x)}"
            )
        if x.ndim == 0:
            raise TypeError(f"{name} has no axis of examples; its shape must be [B, …]")
        if x.shape != arrays[first].shape:
            raise TypeError(f"{name} has the shape {x.shape}, and {first} {arrays[first].shape}")
    count = arrays[first].shape[0]
    if getattr(t, "ndim", 0) == 1 and t.shape[0] not in (1, count):
        raise TypeError(f"there are {t.shape[0]} times t for {count} examples; give one for each")


def check_pixels(x_0: Examples) -> None:
    """Raises ValueError for known pixels that are not scaled to [-1, 1]."""
    pixels = known(x_0)
    if pixels is not None and pixels.size and not np.abs(pixels).max() <= 1.001:
        raise ValueError(
            f"x_0 runs from {pixels.min():g} to {pixels.max():g}; 8-bit pixels must be scaled to "
            "[-1, 1]"
        )


def check_keys(keys: Keys, count: Any) -> None:
    """Raises TypeError unless there is a typed threefry key for each of `count` examples."""
    dtype = getattr(keys, "dtype", None)
    how = f'jax.random.split(jax.random.key(seed, impl="threefry2x32"), {count})'
    if dtype is None or not jnp.issubdtype(dtype, jax.dtypes.prng_key):
        raise TypeError(f"keys must be typed keys, as {how} gives; not {_described(keys)}")
    if keys.shape != (count,):
        raise TypeError(f"keys have the shape {keys.shape}, and there are {count} examples: {how}")
    implementation = str(jax.random.key_impl(keys))
    if implementation != "threefry2x32":
        raise TypeError(
            f"keys are of {implementation}, whose numbers depend on the size of the batch: take "
            f"{how}"
        )


def check_prediction(found: Any, x_t: Examples) -> Prediction:
    """Returns what a denoiser gave for x_t; TypeError unless it is a Prediction that fits."""
    if not isinstance(found, Prediction):
        raise TypeError(
            "a denoiser must return Prediction(x_0, eps), as `predict` makes of a network's "
            f"output; this one returns {_described(found)}"
        )
    for name, part in (("x_0", found.x_0), ("eps", found.eps)):
        shape, dtype = getattr(part, "shape", None), getattr(part, "dtype", None)
        if shape != x_t.shape or dtype != jnp.float32:
            raise TypeError(
                f"a denoiser must return {name} as float32 of the shape of x_t, {x_t.shape}; this "
                f"one returns {_described(part)}"
            )
    return found


def checked(denoiser: Denoiser) -> Denoiser:
    """Returns the denoiser with `check_prediction` of what it returns."""
    return lambda x_t, t: check_prediction(denoiser(x_t, t), x_t)


def _described(value: Any) -> str:
    """Returns the type and shape of a value, in a few words."""
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"{value.dtype} of the shape {tuple(value.shape)}"
    return type(value).__name__
