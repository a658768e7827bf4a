"""Convolution with gradients that are fast on a CPU, and Winograd's algorithm where it is faster.

XLA on a CPU is fast only for convolutions of NHWC by HWIO. It rewrites others into that form, but
not inside a loop such as that of `train.gradient_accumulation_steps`: there the gradient of a
kernel would take thirty times as long. So the gradients here are written in that form.
"""

from collections.abc import Sequence
from typing import Any

import jax

from ddpm_jax.ops.cpu import winograd
from ddpm_jax.ops.cpu.barriers import fusion_barrier

Pads = Sequence[tuple[int, int]]
Gradients = tuple[jax.Array, jax.Array]


def cpu_convolution(
    x: jax.Array,
    kernel: jax.Array,
    *,
    strides: tuple[int, int] = (1, 1),
    padding: str | Pads = "SAME",
    precision: str | None,
    devices: int,
) -> jax.Array:
    """Returns the convolution of NHWC images by an HWIO kernel; see `ops.convolution`.

    `precision` is the default precision of matrix products; Winograd's algorithm is used only if it
    is not above the usual one of float32. `devices` is the size of the mesh.
    """
    pads: Pads = (
        jax.lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides, padding)
        if isinstance(padding, str)
        else padding
    )
    by_winograd = winograd.is_profitable(x, kernel, strides, pads, precision)
    # The gradient of a kernel is a sum over the images of all devices. Sums inside a branch are
    # exchanged one by one and not all at once, and by Winograd they have four times the numbers.
    alone = devices == 1

    def forward(x: jax.Array, kernel: jax.Array) -> jax.Array:
        if by_winograd:
            return winograd.convolve(x, kernel)
        return _nhwc_by_hwio(x, kernel, pads, window_strides=strides)

    def gradients(x: jax.Array, kernel: jax.Array, g: jax.Array) -> Gradients:
        if not by_winograd:
            x_gradient = _input_gradient(x, kernel, g, strides, pads)
            return x_gradient, _kernel_gradient(x, kernel, g, strides, pads)
        cotangents = winograd.cotangents(g, kernel)
        kernel_gradient = (
            winograd.kernel_gradient(x, kernel, cotangents)
            if alone
            else _kernel_gradient(x, kernel, g, strides, pads)
        )
        return winograd.input_gradient(cotangents, kernel, x.shape), kernel_gradient

    def backward(saved: Gradients, g: jax.Array) -> Gradients:
        x, kernel = saved
        if alone:
            return fusion_barrier(gradients, x, kernel, g, by=kernel)
        return gradients(x, kernel, g)

    convolve = jax.custom_vjp(forward)
    convolve.defvjp(lambda x, kernel: (forward(x, kernel), (x, kernel)), backward)
    return convolve(x, kernel)


def _input_gradient(
    x: jax.Array, kernel: jax.Array, g: jax.Array, strides: Sequence[int], padding: Pads
) -> jax.Array:
    flipped = kernel[::-1, ::-1].transpose(0, 1, 3, 2)
    pads = []
    for axis, ((before, _), stride) in enumerate(zip(padding, strides, strict=True)):
        side, spread = flipped.shape[axis], (g.shape[1 + axis] - 1) * stride + 1
        pads.append((side - 1 - before, x.shape[1 + axis] + before - spread))
    return _nhwc_by_hwio(g, flipped, pads, lhs_dilation=strides)


def _kernel_gradient(
    x: jax.Array, kernel: jax.Array, g: jax.Array, strides: Sequence[int], padding: Pads
) -> jax.Array:
    pads = []
    for axis, ((before, _), stride) in enumerate(zip(padding, strides, strict=True)):
        side, spread = kernel.shape[axis], (g.shape[1 + axis] - 1) * stride + 1
        pads.append((before, side - 1 + spread - x.shape[1 + axis] - before))
    images, gradients = x.transpose(3, 1, 2, 0), g.transpose(1, 2, 0, 3)
    return _nhwc_by_hwio(images, gradients, pads, rhs_dilation=strides).transpose(1, 2, 0, 3)


def _nhwc_by_hwio(
    x: jax.Array, kernel: jax.Array, pads: Any, *, window_strides: Any = (1, 1), **dilation: Any
) -> jax.Array:
    names = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, window_strides, pads, dimension_numbers=names, **dilation
    )
