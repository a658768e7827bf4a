"""The table of operations with arguments for each: what the tests of every operation run over."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.ops.activations import swish_reference
from ddpm_jax.ops.linear_attention import Linear, Weights


class Case(NamedTuple):
    """One call of an operation: shapes of its arrays, which are drawn, and its static options."""

    operation: str
    shapes: Any
    options: dict[str, Any] = {}  # noqa: RUF012 (read only)

    def arrays(self) -> tuple[Any, ...]:
        rng = np.random.default_rng(0)
        draw: Callable[[tuple[int, ...]], jax.Array] = lambda shape: jnp.asarray(  # noqa: E731
            rng.normal(size=shape), jnp.float32
        )
        return jax.tree.map(draw, self.shapes, is_leaf=_is_shape)

    def __str__(self) -> str:
        return f"{self.operation}-{self.shapes}-{sorted(self.options)}".replace(" ", "")


def _is_shape(node: Any) -> bool:
    return isinstance(node, tuple) and all(isinstance(side, int) for side in node)


def _linear_attention(batch: int, pixels: int, channels: int, inner: int, bias: bool) -> Case:
    def linear(inputs: int, outputs: int, bias: bool) -> Linear:
        return Linear((inputs, outputs), (outputs,) if bias else None)  # type: ignore[arg-type]

    each = linear(channels, inner, bias)
    weights = Weights(each, each, each, linear(inner, channels, True))
    shapes = ((batch, pixels, channels), weights)
    return Case("linear_attention", shapes, {"heads": 2})


_norm = partial(dict, epsilon=1e-6, dtype="float32")

CASES = [
    Case("attention", ((2, 5, 3, 4), (2, 7, 3, 4), (2, 7, 3, 4))),
    Case("attention", ((1, 64, 2, 8),) * 3),
    *(
        Case(
            "convolution",
            ((2, 7, 6, 3), (*sides, 3, 4)),
            {"strides": strides, "padding": padding},
        )
        for sides in ((3, 3), (2, 2), (1, 4))
        for strides in ((1, 1), (2, 2), (2, 3))
        for padding in ("SAME", "VALID", ((0, 1), (2, 0)))
    ),
    Case("convolution", ((2, 9, 8, 3), (7, 7, 3, 2))),
    Case("convolution", ((16, 8, 8, 48), (3, 3, 48, 64))),
    Case("convolution", ((3, 21, 23, 50), (3, 3, 50, 48))),
    Case("dense", ((3, 4, 5, 6), (6, 7))),
    *(Case("dense", ((9, 6), (6, outputs))) for outputs in (1, 2, 4, 5)),
    # Whole images, and more and fewer of them than are added up at once.
    *(
        Case("depthwise_convolution", (shape, (7, 5, shape[-1])))
        for shape in ((2, 5, 9, 3), (1, 2, 2, 4), (9, 4, 4, 3), (16, 3, 2, 2))
    ),
    Case("downsample", ((2, 4, 6, 3), (4, 4, 3, 3))),
    Case("downsample", ((1, 2, 2, 2), (4, 4, 2, 5))),
    Case("gelu", ((5, 40),)),
    Case("group_norm", ((2, 6, 4, 24), (24,), (24,)), _norm(groups=3)),
    Case("group_norm", ((3, 12), (12,), (12,)), _norm(groups=3)),
    Case("group_norm", ((2, 3, 4, 12), (12,), (12,)), _norm(groups=3, joints=(2, 7))),
    Case("group_norm", ((2, 4, 4, 8), (8,), (8,)), _norm(groups=1, activation=swish_reference)),
    _linear_attention(4, 12, 8, 6, bias=False),
    _linear_attention(3, 20, 5, 8, bias=True),
    Case("mish", ((5, 40),)),
    Case("softplus", ((5, 40),)),
    Case("swish", ((5, 40),)),
    Case("stored", ((2, 3),)),
    Case("upsample", ((2, 4, 6, 3), (4, 4, 3, 3))),
    Case("upsample", ((1, 1, 1, 2), (4, 4, 2, 5))),
    Case("upsampled_convolution", ((2, 4, 6, 3), (3, 3, 3, 5))),
    Case("upsampled_convolution", ((1, 1, 1, 2), (3, 3, 2, 5))),
]
