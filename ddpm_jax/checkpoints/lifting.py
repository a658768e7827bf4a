"""Which arrays of an older checkpoint have to be read for those that are wanted of it."""

from collections.abc import Callable, Mapping
from typing import Any

import jax


def sources(
    shapes: Mapping[str, jax.ShapeDtypeStruct],
    lift: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    *,
    wanted: Callable[[str], bool],
) -> list[str]:
    """Returns which saved arrays the wanted ones are computed from; the lift is only traced."""

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
