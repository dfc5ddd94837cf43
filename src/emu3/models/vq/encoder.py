"""The encoder of the vision tokenizer: pixels to a latent, 8x smaller in space and 4x in time.

Spatial layers process each frame independently; temporal layers run only at the end, on the few
channels of the latent. An image, which the published code repeats four times, therefore costs one
frame here instead of four.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from emu3.config import VisionConfig
from emu3.models.vq.blocks import (
    Downsample,
    Level,
    Middle,
    PlainNorm,
    TemporalDownsample,
    TemporalResBlock,
    conv3x3,
    fold_time,
    silu_chain,
    unfold_time,
)


class DownLevel(Level):
    """A level followed by 2x spatial downsampling; the last level has no `downsample`."""

    downsample: Downsample

    def forward(self, x: Tensor, zq: Tensor | None = None) -> Tensor:
        """[B, C, H, W] to [B, C', H/2, W/2], or [B, C', H, W] at the last level."""
        x = super().forward(x, zq)
        return self.downsample(x) if hasattr(self, "downsample") else x


class Encoder(nn.Module):
    """Pixels [B, 3, T, H, W] to latent [B, c, T/4, H/8, W/8]."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.conv_in = conv3x3(config.in_channels, config.ch)
        self.down = nn.ModuleList()
        width = config.ch
        for index, multiple in enumerate(config.ch_mult):
            widths = [width] + [config.ch * multiple] * config.num_res_blocks
            level = DownLevel(widths, config.dropout, index in config.attn_resolutions, None)
            width = widths[-1]
            if index < len(config.ch_mult) - 1:
                level.downsample = Downsample(width)
            self.down.append(level)
        self.mid = Middle(width, config.dropout, None)
        self.norm_out = PlainNorm(width)
        self.conv_out = conv3x3(width, config.z_channels)
        self.time_conv = nn.ModuleList(
            TemporalDownsample(config.z_channels) for _ in range(config.temporal_stages)
        )
        self.time_res_stack = nn.Sequential(
            *(
                TemporalResBlock(config.z_channels, config.dropout)
                for _ in range(config.num_res_blocks)
            )
        )

    def spatial(self, pixels: Tensor) -> Tensor:
        """Encode frames independently: [B, 3, H, W] to [B, c, H/8, W/8]."""
        h = self.conv_in(pixels)
        for level in self.down:
            h = level(h)
        return self.conv_out(F.silu(self.norm_out(self.mid(h))))

    def temporal(self, latent: Tensor) -> Tensor:
        """Merge groups of frames: [B, c, T, h, w] to [B, c, T/4, h, w]."""
        return self.time_res_stack(silu_chain(latent, self.time_conv))

    def forward(self, pixels: Tensor) -> Tensor:
        """[B, 3, T, H, W] to [B, c, T/4, h, w]."""
        latent = unfold_time(self.spatial(fold_time(pixels)), pixels.shape[0])
        return self.temporal(latent)

    def encode_image(self, pixels: Tensor, repeats: int) -> Tensor:
        """Encode an image [B, 3, H, W] repeated `repeats` times: [B, c, repeats/4, h, w].

        Equal to `forward` of the repeated frames, but the spatial work is done once.
        """
        latent = self.spatial(pixels)[:, :, None].expand(-1, -1, repeats, -1, -1)
        return self.temporal(latent)
