"""The vision tokenizer: pixels to codes, codes to pixels.

Pictures are [B, 3, 8h, 8w] and become codes [B, h, w]. Clips are [B, 4t, 3, 8h, 8w] and become
codes [B, t, h, w], every four frames one group. `encode` and `decode` run a clip as one causal
sequence; `encode_groups` and `decode_groups` run each group on its own, as BAAI's script for
videos does (`autoencode.py`), so that a code does not depend on what came before.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from emu3.config import VisionConfig
from emu3.models.vq.blocks import CausalConv3d
from emu3.models.vq.decoder import Decoder
from emu3.models.vq.encoder import Encoder
from emu3.models.vq.quantizer import VectorQuantizer


class VisionTokenizer(nn.Module):
    """`Emu3VisionVQModel` of the published checkpoint, names of parameters included."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quantize = VectorQuantizer(config.codebook_size, config.embed_dim)
        self.quant_conv = CausalConv3d(config.z_channels, config.embed_dim)
        self.post_quant_conv = CausalConv3d(config.embed_dim, config.z_channels)

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the weights, which pixels must share."""
        return self.quantize.embedding.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.quantize.embedding.weight.device

    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels in [-1, 1] to codes: [B, 3, H, W] to [B, h, w], [B, 4t, 3, H, W] to [B, t, h, w].

        Raises ValueError on sides that no code covers or frames that fill no group.
        """
        self._check_pixels(pixels)
        if pixels.ndim == 4:
            return self.quantize(self.encode_latent(pixels))[:, 0]
        return self.quantize(self.quant_conv(self.encoder(pixels.transpose(1, 2))))

    def encode_latent(self, pixels: Tensor) -> Tensor:
        """What the codebook sees of pictures [B, 3, H, W]: [B, c, 1, h, w]."""
        still = self.encoder.encode_image(pixels, self.config.temporal_downsample_factor)
        return self.quant_conv(still)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes to pixels: [B, h, w] to [B, 3, 8h, 8w], [B, t, h, w] to [B, 4t, 3, 8h, 8w].

        A picture is frame 0 of the group that its codes stand for. Pixels may leave [-1, 1] a
        little. Raises ValueError on codes that the codebook does not have.
        """
        self._check_codes(codes)
        if codes.ndim == 3:
            return self.decode_latent(self.quantize.lookup(codes[:, None]))
        zq = self.quantize.lookup(codes)
        return self.decoder(self.post_quant_conv(zq), zq).transpose(1, 2)

    def encode_groups(self, pixels: Tensor) -> Tensor:
        """`encode` of clips [B, 4t, 3, H, W], each group alone: codes [B, t, h, w]."""
        self._check_pixels(pixels)
        groups = pixels.unflatten(1, (-1, self.config.temporal_downsample_factor))
        return self.encode(groups.flatten(0, 1)).unflatten(0, groups.shape[:2])[:, :, 0]

    def decode_groups(self, codes: Tensor) -> Tensor:
        """`decode` of codes [B, t, h, w], each group alone: clips [B, 4t, 3, 8h, 8w]."""
        pixels = self.decode(codes.flatten(0, 1)[:, None])
        return pixels.unflatten(0, codes.shape[:2]).flatten(1, 2)

    def decode_latent(self, zq: Tensor) -> Tensor:
        """Quantised latent [B, c, 1, h, w] to pictures [B, 3, 8h, 8w]."""
        return self.decoder.decode_image(self.post_quant_conv(zq), zq)

    def _check_pixels(self, pixels: Tensor) -> None:
        factor, group = self.config.spatial_factor, self.config.temporal_downsample_factor
        if pixels.ndim not in (4, 5) or pixels.shape[-3] != 3:
            raise ValueError(f"pixels are [B, 3, H, W] or [B, T, 3, H, W], not {pixels.shape}")
        if pixels.shape[-1] % factor or pixels.shape[-2] % factor:
            raise ValueError(f"height and width must be multiples of {factor}: {pixels.shape}")
        if pixels.ndim == 5 and pixels.shape[1] % group:
            raise ValueError(f"frames come in groups of {group}, got {pixels.shape[1]}")

    def _check_codes(self, codes: Tensor) -> None:
        if codes.ndim not in (3, 4):
            raise ValueError(f"codes are [B, h, w] or [B, t, h, w], not {codes.shape}")
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < self.quantize.size:
            raise ValueError(f"codes must lie in 0 to {self.quantize.size - 1}")
