"""The formats of checkpoints: how the arrays of an older one become those of today's.

`meta.json` holds the format as a number; without one it is 0. A migration is a pure function
`(arrays, config) -> arrays` from one format to the next. `arrays` maps every dotted name of
`arrays.json` to an array, or to a shape while it is traced; `config` is the plain config that was
saved with them. Where only some arrays are wanted, it gets those that they are computed from. The
config's own migrations are in `ddpm_jax.config`.

Format 1: `bad` is called `nonfinite`, and `ema` holds a tree for each average by its name.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
from einops import rearrange

Arrays = Mapping[str, Any]
Migration = Callable[[Arrays, Mapping[str, Any]], Arrays]


def name_averages(arrays: Arrays, config: Mapping[str, Any]) -> Arrays:
    """Lifts format 0: `bad` becomes `nonfinite`, and `ema.X` becomes `ema.ema.X`."""
    del config

    def renamed(name: str) -> str:
        name = "nonfinite" if name == "bad" else name
        return re.sub(r"^ema\.", "ema.ema.", name)

    return {renamed(name): array for name, array in arrays.items()}


def unfold_strided_kernels(arrays: Arrays, config: Mapping[str, Any]) -> Arrays:
    """Lifts format 0: the 2×2 kernels over blocks of 2×2 pixels become the 4×4 kernels they are.

    They are the convolutions of stride 2 in small_unet and annotated_unet; their moments and
    averages are permuted alike.
    """
    if config["model"]["kind"] not in ("small_unet", "annotated_unet"):
        return arrays

    def unfolded(name: str, array: Any) -> Any:
        if re.search(r"\bdown_\d+\.conv\.kernel$", name):
            return unfold_downsampling(array)
        if re.search(r"\bup_\d+\.conv\.kernel$", name):
            return unfold_upsampling(array)
        return array

    return {name: unfolded(name, array) for name, array in arrays.items()}


def unfold_downsampling(kernel: Any) -> Any:
    """Returns the 4×4 kernel `[4, 4, C, K]` of a stride-2 convolution padded by 1.

    `kernel` `[2, 2, 4 C, K]` acts on the padded image in blocks, whose channels are (row, column,
    channel).
    """
    return rearrange(kernel, "p q (i j c) k -> (p i) (q j) c k", i=2, j=2)


def unfold_upsampling(kernel: Any) -> Any:
    """Returns the 4×4 kernel `[4, 4, C, K]` of a stride-2 transposed convolution padded by 1.

    y[2 a + u - 1] += x[a] · w[u] for u in 0…3, along both axes. `kernel` `[2, 2, C, 4 K]` acts on
    the image padded by 1 and gives blocks of 2×2 pixels, whose channels are (row, column, channel);
    a border of 1 is cropped. Its tap p puts x[a] into block a + 1 - p, so u = 2 (1 - p) + i.
    """
    return rearrange(kernel[::-1, ::-1], "p q c (i j k) -> (p i) (q j) c k", i=2, j=2)


def _steps(*migrations: Migration) -> Migration:
    def lift(arrays: Arrays, config: Mapping[str, Any]) -> Arrays:
        for migration in migrations:
            arrays = migration(arrays, config)
        return arrays

    return lift


# Row n lifts format n to n + 1.
MIGRATIONS: tuple[Migration, ...] = (
    _steps(
        name_averages,
        # unfold_strided_kernels,
    ),
)
FORMAT = len(MIGRATIONS)


def lift(arrays: Arrays, config: Mapping[str, Any], *, format: int) -> Arrays:
    """Returns the arrays of a checkpoint of some format as today's format has them."""
    return _steps(*MIGRATIONS[format:])(arrays, config)


def sources(
    shapes: Mapping[str, jax.ShapeDtypeStruct],
    config: Mapping[str, Any],
    *,
    format: int,
    wanted: Callable[[str], bool],
) -> list[str]:
    """Returns which saved arrays the wanted ones are computed from; the lift is only traced."""

    def some(arrays: Arrays) -> Arrays:
        return {
            name: array
            for name, array in lift(arrays, config, format=format).items()
            if wanted(name)
        }

    jaxpr = jax.make_jaxpr(some)(dict(shapes)).jaxpr
    needed = {id(variable) for variable in jaxpr.outvars}
    for equation in reversed(jaxpr.eqns):
        if any(id(variable) in needed for variable in equation.outvars):
            needed |= {id(variable) for variable in equation.invars}
    # A dict is flattened in the order of its sorted keys.
    pairs = zip(sorted(shapes), jaxpr.invars, strict=True)
    return [name for name, variable in pairs if id(variable) in needed]
