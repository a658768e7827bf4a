"""Differentiable operations that networks are built from.

Each file defines one operation, or one family: first the plain reference, which is its definition,
then faster forms, then their dispatch. `Operations` is the table. A network holds one as a field
and calls `self.ops.convolution(x, kernel)`. To add an operation, write its file and add its row.
"""

import os
from dataclasses import dataclass

import jax

from ddpm_jax.errors import UserError
from ddpm_jax.ops import (
    activations,
    attention,
    convolution,
    dense,
    depthwise,
    group_norm,
    linear_attention,
    resampling,
    storing,
)
from ddpm_jax.ops.dispatch import OperationSettings


@dataclass(frozen=True)
class Operations(OperationSettings):
    """The operations with their settings; hashable, and equal if the settings are equal."""

    attention = attention.attention
    convolution = convolution.convolution
    dense = dense.dense
    depthwise_convolution = depthwise.depthwise_convolution
    downsample = resampling.downsample
    gelu = activations.gelu
    group_norm = group_norm.group_norm
    linear_attention = linear_attention.linear_attention
    mish = activations.mish
    softplus = activations.softplus
    stored = storing.stored
    swish = activations.swish
    upsample = resampling.upsample
    upsampled_convolution = resampling.upsampled_convolution


AUTO = Operations()
REFERENCE = Operations(choice="reference")


def from_environment(*, devices: int = 1) -> Operations:
    """Reads the global settings once: DDPM_JAX_OPS (auto or reference), JAX's matmul precision.

    `devices` is the size of the mesh. Raises UserError for another value of DDPM_JAX_OPS.
    """
    choice = os.environ.get("DDPM_JAX_OPS", "auto")
    if choice not in ("auto", "reference"):
        raise UserError(f"DDPM_JAX_OPS is {choice!r}; set it to auto or reference, or unset it")
    precision = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    return Operations(choice=choice, precision=precision, devices=devices)


__all__ = ["AUTO", "REFERENCE", "Operations", "from_environment"]
