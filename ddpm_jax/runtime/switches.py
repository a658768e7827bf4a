"""JAX's global switches: the same run has the same numbers whatever a shell or notebook has set.

Some switches change random numbers or types, and some refuse code that is right. Every program of
this package is traced and run under the values here; the caller's come back afterwards. Keys name
their implementation themselves (`runtime.random`). JAX's matmul precision is the user's choice, and
part of what several processes must agree on. JAX_DEBUG_NANS, JAX_DEBUG_INFS, JAX_LOG_COMPILES and
JAX_CHECK_TRACER_LEAKS do what they always do.
"""

import contextlib
from collections.abc import Iterator

import jax

from ddpm_jax.errors import UserError

# Context managers of `jax` by name; one that this version of JAX does not have is left out.
_PINNED = {
    "enable_x64": False,
    "threefry_partitionable": True,
    "default_prng_impl": "threefry2x32",
    "numpy_rank_promotion": "allow",
    "numpy_dtype_promotion": "standard",
    "transfer_guard": "allow",
}


@contextlib.contextmanager
def pinned() -> Iterator[None]:
    """Holds the switches at their values in a `with` block, or in a function that it decorates."""
    with contextlib.ExitStack() as stack:
        for name, value in _PINNED.items():
            hold = getattr(jax, name, None)
            if hold is not None:
                stack.enter_context(hold(value))
        yield


# Switches under which no run can work, with the values that they must have.
_REFUSED = {
    "jax_disable_jit": False,
    "jax_no_tracing": False,
    "jax_no_execution": False,
    "jax_error_checking_behavior_nan": "ignore",
    "jax_error_checking_behavior_divide": "ignore",
    "jax_error_checking_behavior_oob": "ignore",
}


def require_compiling() -> None:
    """Raises UserError for a switch that keeps JAX from compiling or running a program."""
    for name, plain in _REFUSED.items():
        value = getattr(jax.config, name, plain)
        if value != plain:
            raise UserError(
                f"{name.upper()} is {value}, and a run is made of compiled programs, which it "
                f"breaks; set it to {plain} or unset it"
            )
