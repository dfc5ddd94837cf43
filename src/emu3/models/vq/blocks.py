"""Building blocks of the vision tokenizer.

Shapes: B batch, T frames, C channels, H, W height and width. Images are [B, C, H, W], video latents
[B, C, T, H, W]. Attribute names are those of the published checkpoint, so that loading is a plain
copy.

Source: `modeling_emu3visionvq.py` of baaivision/Emu3; the spatial norm is MoVQ's
(arXiv 2209.09002).
"""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

GROUPS = 32
EPS = 1e-6
CAUSAL_PAD = 2  # zero frames in front; the reference uses 2 for every temporal kernel size


class CausalConv3d(nn.Module):
    """A 3-D convolution over [B, C, T, H, W], causal in time: no frame depends on later ones."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: tuple[int, int, int] = (3, 1, 1),
        stride: tuple[int, int, int] = (1, 1, 1),
    ) -> None:
        super().__init__()
        height, width = (k - s for k, s in zip(kernel[1:], stride[1:], strict=True))
        self.padding = (
            width - width // 2,
            width // 2,
            height - height // 2,
            height // 2,
            CAUSAL_PAD,
            0,
        )
        self.conv = nn.Conv3d(channels_in, channels_out, kernel, stride)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T, H, W] to [B, C', T', H, W]."""
        return self.conv(F.pad(x, self.padding))


class TemporalDownsample(nn.Module):
    """Halves the number of frames of a latent."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = CausalConv3d(channels, channels, kernel=(4, 3, 3), stride=(2, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, 2T, H, W] to [B, C, T, H, W]."""
        return self.conv(x)


class TemporalUpsample(nn.Module):
    """Doubles the number of frames of a latent."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = CausalConv3d(channels, channels, kernel=(3, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T, H, W] to [B, C, 2T, H, W]."""
        return self.conv(x.repeat_interleave(2, dim=2))

    def first_frame(self, x: Tensor) -> Tensor:
        """Frame 0 of `forward`; the convolution is causal, so it needs only frame 0 of `x`."""
        return self.conv(x[:, :, :1])


class TemporalResBlock(nn.Module):
    """A temporal residual block with BatchNorm, as in the published model."""

    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm3d(channels)
        self.conv1 = CausalConv3d(channels, channels, kernel=(3, 3, 3))
        self.norm2 = nn.BatchNorm3d(channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = CausalConv3d(channels, channels, kernel=(3, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T, H, W] to the same shape."""
        h = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(self.dropout(F.silu(self.norm2(h))))


class SpatialNorm(nn.Module):
    """GroupNorm whose scale and shift are computed from the quantized latent at each position."""

    def __init__(self, channels: int, latent_channels: int) -> None:
        super().__init__()
        self.norm_layer = nn.GroupNorm(GROUPS, channels, eps=EPS)
        self.conv_y = nn.Conv2d(latent_channels, channels, kernel_size=1)
        self.conv_b = nn.Conv2d(latent_channels, channels, kernel_size=1)

    def forward(self, x: Tensor, zq: Tensor) -> Tensor:
        """x [B, C, H, W] and latent [B, c, h, w] to [B, C, H, W]; H and W multiples of h and w."""
        # A 1x1 convolution and nearest-neighbour upsampling commute, so convolve before upsampling.
        # The upsampling is a broadcast over tiles of x that share a latent position; writing it
        # out would take 2 GiB at the finest level of a 1024x1024 image.
        height, width = zq.shape[-2:]
        tiles = self.norm_layer(x).unflatten(3, (width, -1)).unflatten(2, (height, -1))
        scale, shift = (part(zq)[:, :, :, None, :, None] for part in (self.conv_y, self.conv_b))
        return (tiles * scale + shift).flatten(4, 5).flatten(2, 3)


class PlainNorm(nn.GroupNorm):
    """GroupNorm with the signature of SpatialNorm, for the encoder, which has no latent."""

    def __init__(self, channels: int) -> None:
        super().__init__(GROUPS, channels, eps=EPS)

    def forward(self, x: Tensor, zq: Tensor | None = None) -> Tensor:
        """[B, C, H, W] to the same shape; `zq` is ignored."""
        return super().forward(x)


def norm(channels: int, latent_channels: int | None) -> nn.Module:
    """PlainNorm (encoder), or SpatialNorm (decoder) if `latent_channels` is given."""
    return (
        PlainNorm(channels) if latent_channels is None else SpatialNorm(channels, latent_channels)
    )


def conv3x3(channels_in: int, channels_out: int) -> nn.Conv2d:
    """A 3x3 convolution that keeps height and width."""
    return nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=1)


class ResBlock(nn.Module):
    """Two rounds of norm, SiLU and convolution, with a residual connection."""

    def __init__(
        self, channels_in: int, channels_out: int, dropout: float, latent_channels: int | None
    ) -> None:
        super().__init__()
        self.norm1 = norm(channels_in, latent_channels)
        self.conv1 = conv3x3(channels_in, channels_out)
        self.norm2 = norm(channels_out, latent_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = conv3x3(channels_out, channels_out)
        if channels_in != channels_out:
            self.nin_shortcut = nn.Conv2d(channels_in, channels_out, kernel_size=1)

    def forward(self, x: Tensor, zq: Tensor | None = None) -> Tensor:
        """[B, C, H, W] to [B, C', H, W]."""
        h = self.conv1(F.silu(self.norm1(x, zq)))
        h = self.conv2(self.dropout(F.silu(self.norm2(h, zq))))
        return (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x) + h


class AttnBlock(nn.Module):
    """Single-head self-attention over all spatial positions of an image."""

    def __init__(self, channels: int, latent_channels: int | None) -> None:
        super().__init__()
        self.norm = norm(channels, latent_channels)
        self.q = nn.Conv2d(channels, channels, kernel_size=1)
        self.k = nn.Conv2d(channels, channels, kernel_size=1)
        self.v = nn.Conv2d(channels, channels, kernel_size=1)
        self.proj_out = nn.Conv2d(channels, channels, kernel_size=1)

    def forward(self, x: Tensor, zq: Tensor | None = None) -> Tensor:
        """[B, C, H, W] to the same shape."""
        h = self.norm(x, zq)
        q, k, v = (
            # The fused attention kernel needs contiguous channels. The fallback kernel would hold
            # the full attention matrix: 1 GiB for 1024x1024 pixels.
            part(h).flatten(2).transpose(1, 2).contiguous()
            for part in (self.q, self.k, self.v)
        )
        out = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        return x + self.proj_out(out.transpose(1, 2).reshape(x.shape))


class Downsample(nn.Module):
    """Halves height and width; pads at the bottom and right only, as in the published model."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, kernel_size=3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, 2H, 2W] to [B, C, H, W]."""
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Doubles height and width."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv3x3(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C, 2H, 2W]."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Middle(nn.Module):
    """Residual block, attention, residual block at the lowest resolution."""

    def __init__(self, channels: int, dropout: float, latent_channels: int | None) -> None:
        super().__init__()
        self.block_1 = ResBlock(channels, channels, dropout, latent_channels)
        self.attn_1 = AttnBlock(channels, latent_channels)
        self.block_2 = ResBlock(channels, channels, dropout, latent_channels)

    def forward(self, x: Tensor, zq: Tensor | None = None) -> Tensor:
        """[B, C, H, W] to the same shape."""
        return self.block_2(self.attn_1(self.block_1(x, zq), zq), zq)


class Level(nn.Module):
    """Residual blocks of one resolution, each followed by attention if `attention` is set."""

    def __init__(
        self,
        widths: list[int],
        dropout: float,
        attention: bool,
        latent_channels: int | None,
    ) -> None:
        super().__init__()
        self.block = nn.ModuleList(
            ResBlock(i, o, dropout, latent_channels) for i, o in pairwise(widths)
        )
        self.attn = nn.ModuleList(
            AttnBlock(o, latent_channels) for o in (widths[1:] if attention else [])
        )

    def forward(self, x: Tensor, zq: Tensor | None = None) -> Tensor:
        """[B, C, H, W] to [B, C', H, W]."""
        for index, block in enumerate(self.block):
            x = block(x, zq)
            if len(self.attn):
                x = self.attn[index](x, zq)
        return x


def fold_time(x: Tensor) -> Tensor:
    """[B, C, T, H, W] to [B * T, C, H, W]."""
    return x.transpose(1, 2).flatten(0, 1)


def unfold_time(x: Tensor, batch: int) -> Tensor:
    """[B * T, C, H, W] to [B, C, T, H, W]."""
    return x.unflatten(0, (batch, -1)).transpose(1, 2)


def silu_chain(x: Tensor, convs: nn.ModuleList) -> Tensor:
    """Apply the convolutions in order, each followed by SiLU."""
    for conv in convs:
        x = F.silu(conv(x))
    return x
