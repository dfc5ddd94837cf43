"""The decoder of the vision tokenizer: quantized latent to pixels.

The latent enters twice (MoVQ): projected (`z`) as the features to decode, and unprojected (`zq`) as
the input of every `SpatialNorm`. Both pass through the same temporal blocks, stacked along the
batch axis.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emu3.config import VisionConfig
from emu3.models.vq.blocks import (
    Level,
    Middle,
    SpatialNorm,
    TemporalResBlock,
    TemporalUpsample,
    Upsample,
    conv3x3,
    fold_time,
    silu_chain,
    unfold_time,
)


class UpLevel(Level):
    """A level followed by 2x spatial upsampling; the finest level has no `upsample`."""

    upsample: Upsample

    def forward(self, x: Tensor, zq: Tensor | None = None) -> Tensor:
        """[B, C, H, W] to [B, C', 2H, 2W], or [B, C', H, W] at the finest level."""
        x = super().forward(x, zq)
        return self.upsample(x) if hasattr(self, "upsample") else x


class Decoder(nn.Module):
    """Latents [B, c, T, h, w] to pixels [B, 3, 4T, 8h, 8w]."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        latent = config.embed_dim
        self.time_res_stack = nn.Sequential(
            *(
                TemporalResBlock(config.z_channels, config.dropout)
                for _ in range(config.num_res_blocks)
            )
        )
        self.time_conv = nn.ModuleList(
            TemporalUpsample(config.z_channels) for _ in range(config.temporal_stages)
        )
        width = config.ch * config.ch_mult[-1]
        self.conv_in = conv3x3(config.z_channels, width)
        self.mid = Middle(width, config.dropout, latent)
        levels: list[UpLevel] = []
        for index, multiple in reversed(list(enumerate(config.ch_mult))):
            widths = [width] + [config.ch * multiple] * (config.num_res_blocks + 1)
            level = UpLevel(widths, config.dropout, index in config.attn_resolutions, latent)
            width = widths[-1]
            if index > 0:
                level.upsample = Upsample(width)
            levels.append(level)
        self.up = nn.ModuleList(reversed(levels))  # numbered as in the encoder: 0 is the finest
        self.norm_out = SpatialNorm(width, latent)
        self.conv_out = conv3x3(width, config.out_channels)

    def spatial(self, z: Tensor, zq: Tensor) -> Tensor:
        """Decode frames independently: latents [B, c, h, w] to pixels [B, 3, 8h, 8w]."""
        h = self.mid(self.conv_in(z), zq)
        for level in list(self.up)[::-1]:
            h = level(h, zq)
        return self.conv_out(F.silu(self.norm_out(h, zq)))

    def forward(self, z: Tensor, zq: Tensor) -> Tensor:
        """Latents `z` and `zq` [B, c, T, h, w] to pixels [B, 3, 4T, 8h, 8w]."""
        return self.decode_frames(z, zq, slice(None))

    def decode_frames(self, z: Tensor, zq: Tensor, which: slice | list[int]) -> Tensor:
        """The frames `which` of `forward`: [B, 3, len(which), 8h, 8w].

        The spatial work, which dominates, is done for these frames only.
        """
        both = silu_chain(self.time_res_stack(torch.cat([z, zq])), self.time_conv)
        z, zq = both[:, :, which].chunk(2)
        return unfold_time(self.spatial(fold_time(z), fold_time(zq)), z.shape[0])

    def decode_image(self, z: Tensor, zq: Tensor) -> Tensor:
        """Frame 0 of `forward`: latents [B, c, 1, h, w] to pixels [B, 3, 8h, 8w].

        The published code decodes four frames of an image and keeps the first; causality makes the
        other three unnecessary.
        """
        both = self.time_res_stack(torch.cat([z, zq])[:, :, :1])
        for up in self.time_conv:
            assert isinstance(up, TemporalUpsample)
            both = F.silu(up.first_frame(both))
        z, zq = both.chunk(2)
        return self.spatial(fold_time(z), fold_time(zq))
