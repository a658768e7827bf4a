"""The U-Net of denoising-diffusion-pytorch 2.3 (P. Wang), the network of many projects.

Its blocks have RMS norms, and the time scales and shifts their features. Every level has attention,
which sees learned keys and values beside the pixels: linear, and full at the last level.
"""

import itertools
from dataclasses import dataclass
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ddpm_jax.errors import require, require_whole
from ddpm_jax.models.conditioning import NO_CONDITIONING, ConditionEmbedding, require_taken
from ddpm_jax.models.layers import Conv, Dense, Dropout, UpsampledConv, zeros
from ddpm_jax.models.settings import (
    MOST_FEATURES,
    NetworkConfig,
    check_sides,
    require_divisible,
    require_multipliers,
)
from ddpm_jax.ops import Operations
from ddpm_jax.typing import Conditioning, Timesteps


@dataclass(frozen=True, kw_only=True)
class LucidrainsUNetConfig(NetworkConfig):
    """The U-Net of denoising-diffusion-pytorch; the defaults are those of its README."""

    kind: ClassVar[str] = "lucidrains_unet"
    dim: int = 64
    """Channels that the multipliers multiply; a quarter of the time embedding's."""
    multipliers: tuple[int, ...] = (1, 2, 4, 8)
    """Channels of each level, in units of `dim`; each level halves height and width."""
    full_attention: tuple[int, ...] | None = None
    """Levels, from 0, whose attention is full and not linear; None for the last one."""
    heads: int = 4
    """Heads of each attention."""
    head_channels: int = 32
    """Channels of each head."""
    memory: int = 4
    """Learned keys and values that each attention sees beside the pixels."""
    dropout: float = 0.0
    """Share of the features that each block drops in training."""
    remat: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""

    def __post_init__(self):
        super().__post_init__()
        require_whole("model.dim", self.dim, 8, MOST_FEATURES)
        require_multipliers(self.dim, self.multipliers)
        require_whole("model.heads", self.heads, most=MOST_FEATURES)
        most = MOST_FEATURES // self.heads
        require_whole("model.head_channels", self.head_channels, most=most)
        require_whole("model.memory", self.memory, most=MOST_FEATURES)
        require(0 <= self.dropout < 1, "model.dropout", self.dropout, "in [0, 1)")
        levels = len(self.multipliers)
        need = f"levels, whole numbers from 0 to {levels - 1}"
        good = all(level in range(levels) for level in self.full_attention or ())
        require(good, "model.full_attention", self.full_attention, need)

    @property
    def may_take(self) -> tuple[str, ...]:
        """An image beside x_t."""
        return ("image",)

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raises UserError if examples of this shape can't go through the levels."""
        require_divisible(shape, self.multipliers)


class RMSNorm(nn.Module):
    """Brings each pixel's features to a mean square of 1, times a learned scale: `[…, C]`."""

    @nn.compact
    def __call__(self, x: Float[Array, "*rows C"]) -> Float[Array, "*rows C"]:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        wide = x.astype(jnp.float32)
        # A pixel of zeros stays zero: the length is at least 1e-12, as in PyTorch's `normalize`.
        squares = jnp.maximum((wide**2).sum(-1, keepdims=True), 1e-24)
        return (wide * (scale * x.shape[-1] ** 0.5) * jax.lax.rsqrt(squares)).astype(x.dtype)


class Block(nn.Module):
    """Adds to x two convolutions of x, each followed by RMSNorm and SiLU.

    x is [B, H, W, any]; condition, [B or 1, any], scales and shifts the first. The result is [B, H,
    W, channels]. `dropout` is the rate to apply now: 0 when not training.
    """

    channels: int
    dropout: float
    dtype: DTypeLike
    ops: Operations

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W C"], condition: Float[Array, "b features"]
    ) -> Float[Array, "B H W channels"]:
        common: dict[str, Any] = {"dtype": self.dtype, "ops": self.ops}
        swish = self.ops.swish
        both = Dense(2 * self.channels, **common, name="condition")(swish(condition))
        scale, shift = jnp.split(both[:, None, None, :], 2, axis=-1)
        h = RMSNorm(name="norm_0")(Conv(self.channels, **common, name="conv_0")(x))
        h = swish(h * (scale + 1) + shift)
        h = Dropout(self.dropout, self.ops)(h)
        h = swish(RMSNorm(name="norm_1")(Conv(self.channels, **common, name="conv_1")(h)))
        if x.shape[-1] != self.channels:
            x = Dense(self.channels, **common, name="shortcut")(x)
        return h + x


class Attention(nn.Module):
    """Adds to each pixel what it reads from all pixels and from a learned memory.

    x is [B, H, W, C]; the result has its shape. With `full` each pixel attends to all of them;
    else it reads from one summary (Shen et al. 2018, section 3), which is normalised.
    """

    full: bool
    heads: int
    head_channels: int
    memory: int
    dtype: DTypeLike
    ops: Operations

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        inner = self.heads * self.head_channels
        common: dict[str, Any] = {"dtype": self.dtype, "ops": self.ops}
        h = RMSNorm(name="norm")(x)
        query, key, value = (
            rearrange(
                Dense(inner, bias=False, **common, name=name)(h),
                "b y x (n c) -> b (y x) n c",
                n=self.heads,
            )
            for name in ("query", "key", "value")
        )
        shape = (2, self.memory, self.heads, self.head_channels)
        memory = self.param("memory", nn.initializers.normal(1.0), shape).astype(self.dtype)
        key, value = (
            jnp.concatenate([jnp.broadcast_to(kept, (len(x), *shape[1:])), each], axis=1)
            for kept, each in zip(memory, (key, value), strict=True)
        )
        h = (self.ops.attention if self.full else _read_summary)(query, key, value)
        h = Dense(x.shape[-1], **common, name="out")(h.reshape(*x.shape[:-1], inner))
        return x + (h if self.full else RMSNorm(name="norm_out")(h))


def _read_summary(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """Linear attention over `[B, pixels, heads, channels]`, in the dtype of value."""
    wide = {"preferred_element_type": jnp.float32}
    query = jax.nn.softmax(query.astype(jnp.float32), axis=-1) * query.shape[-1] ** -0.5
    key = jax.nn.softmax(key.astype(jnp.float32), axis=1).astype(value.dtype)
    summary = jnp.einsum("bknc,bknd->bncd", key, value, **wide)
    return jnp.einsum("bncd,bqnc->bqnd", summary, query).astype(value.dtype)


class LucidrainsUNet(nn.Module):
    """Predicts `out_channels` values per pixel, zero at initialisation.

    x_t is [B, H, W, C] float32, t in 1…T ([B] or a scalar, fractional too), labels [B] in
    0…num_classes; label num_classes, or None for all, means "no class". `takes` says whether it
    takes an image too. The result is float32, [B, H, W, out_channels]. Level i has sides of 1/2^i,
    and ends with dim · multipliers[i] channels. Needs the rng 'dropout' only in training with
    dropout > 0. Raises ValueError for sides that the levels don't halve, and for conditioning that
    it does not take.
    """

    config: LucidrainsUNetConfig
    out_channels: int
    ops: Operations = Operations()
    takes: tuple[str, ...] = ()
    fractional_times: ClassVar[bool] = True

    @nn.compact
    def __call__(
        self,
        x_t: Float[Array, "B H W C"],
        t: Timesteps,
        conditioning: Conditioning = NO_CONDITIONING,
        *,
        train: bool,
    ) -> Float[Array, "B H W out_channels"]:
        config, ops = self.config, self.ops
        require_taken(self, conditioning)
        check_sides(x_t.shape, config.multipliers)
        common: dict[str, Any] = {"dtype": config.dtype, "ops": ops}
        condition = ConditionEmbedding(
            4 * config.dim, config.num_classes, "gelu", **common, name="condition"
        )(t, conditioning.labels)
        widths = [config.dim, *(config.dim * multiplier for multiplier in config.multipliers)]
        last = len(config.multipliers) - 1
        full = (last,) if config.full_attention is None else config.full_attention

        def maybe_remat(kind: Any) -> Any:
            return nn.remat(kind) if config.remat else kind

        def block(h: jax.Array, width: int, name: str) -> jax.Array:
            rate = config.dropout if train else 0.0
            return maybe_remat(Block)(width, rate, **common, name=name)(h, condition)

        def attention(h: jax.Array, is_full: bool, name: str) -> jax.Array:
            sizes = config.heads, config.head_channels, config.memory
            return maybe_remat(Attention)(is_full, *sizes, **common, name=name)(h)

        seen = x_t if conditioning.image is None else jnp.append(conditioning.image, x_t, axis=-1)
        # The first and last convolutions are float32: half precision would round the pixels.
        h = Conv(config.dim, side=7, ops=ops, name="conv_in")(seen).astype(config.dtype)
        skips = [h]
        for i, (width, after) in enumerate(itertools.pairwise(widths)):
            h = block(h, width, f"down_{i}_block_0")
            skips.append(h)
            h = attention(block(h, width, f"down_{i}_block_1"), i in full, f"down_{i}_attention")
            skips.append(h)
            if i < last:
                h = rearrange(h, "b (y p) (x q) c -> b y x (c p q)", p=2, q=2)
                h = Dense(after, **common, name=f"down_{i}")(h)
            else:
                h = Conv(after, **common, name=f"down_{i}")(h)

        h = attention(block(h, widths[-1], "middle_block_0"), True, "middle_attention")
        h = block(h, widths[-1], "middle_block_1")

        for i in reversed(range(last + 1)):
            for k in range(2):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = block(h, widths[i + 1], f"up_{i}_block_{k}")
            h = attention(h, i in full, f"up_{i}_attention")
            h = (UpsampledConv if i else Conv)(widths[i], **common, name=f"up_{i}")(h)

        h = block(jnp.concatenate([h, skips.pop()], axis=-1), config.dim, "out_block")
        return Dense(self.out_channels, kernel_init=zeros, ops=ops, name="conv_out")(h)
