"""Which arrays of an older checkpoint today's arrays are computed from."""

from collections.abc import Callable, Mapping
from typing import Any

import jax


def sources(
    shapes: Mapping[str, jax.ShapeDtypeStruct],
    lift: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    *,
    wanted: Callable[[str], bool],
) -> list[str]:
    """Returns the names of the saved arrays from which `lift` computes the wanted ones.

    `lift` is only traced.
    """

    def some(arrays: Mapping[str, Any]) -> dict[str, Any]:
        return {name: array for name, array in lift(arrays).items() if wanted(name)}

    jaxpr = jax.make_jaxpr(some)(dict(shapes)).jaxpr
    needed = {id(variable) for variable in jaxpr.outvars}
    for equation in reversed(jaxpr.eqns):
        if any(id(variable) in needed for variable in equation.outvars):
            needed |= {id(variable) for variable in equation.invars}
    # A dict is flattened in the order of its sorted keys.
    pairs = zip(sorted(shapes), jaxpr.invars, strict=True)
    return [name for name, variable in pairs if id(variable) in needed]
