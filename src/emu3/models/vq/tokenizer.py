"""The vision tokenizer: pixels to visual codes and back.

Images are [B, 3, 8h, 8w] and become codes [B, h, w]. Clips are [B, 4t, 3, 8h, 8w] and become codes
[B, t, h, w]: one frame of codes per group of four frames. `encode` and `decode` treat a clip as one
causal sequence; `encode_groups` and `decode_groups` treat each group independently, as BAAI's video
script (`autoencode.py`) does, so that a group's codes do not depend on earlier groups.
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
    """`Emu3VisionVQModel` of the published checkpoint, with the same parameter names."""

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
        """The dtype of the weights; pixels must have the same."""
        return self.quantize.embedding.weight.dtype

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.quantize.embedding.weight.device

    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels in [-1, 1] to codes: [B, 3, H, W] to [B, h, w], [B, 4t, 3, H, W] to [B, t, h, w].

        Raises ValueError if height and width are no multiples of 8, or frames no multiple of 4
        (of the config's factors).
        """
        self._check_pixels(pixels)
        if pixels.ndim == 4:
            return self.quantize(self.encode_latent(pixels))[:, 0]
        return self.quantize(self.quant_conv(self.encoder(pixels.transpose(1, 2))))

    def encode_latent(self, pixels: Tensor) -> Tensor:
        """Images [B, 3, H, W] to latents [B, c, 1, h, w] before quantization."""
        latent = self.encoder.encode_image(pixels, self.config.temporal_downsample_factor)
        return self.quant_conv(latent)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes to pixels: [B, h, w] to [B, 3, 8h, 8w], [B, t, h, w] to [B, 4t, 3, 8h, 8w].

        An image is frame 0 of the group that its codes decode to. Pixels may lie slightly outside
        [-1, 1]. Raises ValueError on codes outside the codebook.
        """
        self._check_codes(codes)
        if codes.ndim == 3:
            return self.decode_latent(self.quantize.lookup(codes[:, None]))
        zq = self.quantize.lookup(codes)
        return self.decoder(self.post_quant_conv(zq), zq).transpose(1, 2)

    def encode_groups(self, pixels: Tensor) -> Tensor:
        """Encode clips [B, 4t, 3, H, W], each group independently: codes [B, t, h, w]."""
        self._check_pixels(pixels)
        groups = pixels.unflatten(1, (-1, self.config.temporal_downsample_factor))
        return self.encode(groups.flatten(0, 1)).unflatten(0, groups.shape[:2])[:, :, 0]

    def decode_groups(self, codes: Tensor) -> Tensor:
        """Decode codes [B, t, h, w], each group independently: clips [B, 4t, 3, 8h, 8w]."""
        pixels = self.decode(codes.flatten(0, 1)[:, None])
        return pixels.unflatten(0, codes.shape[:2]).flatten(1, 2)

    def decode_latent(self, zq: Tensor) -> Tensor:
        """Quantized latents [B, c, 1, h, w] to images [B, 3, 8h, 8w]."""
        return self.decoder.decode_image(self.post_quant_conv(zq), zq)

    def _check_pixels(self, pixels: Tensor) -> None:
        factor, group = self.config.spatial_factor, self.config.temporal_downsample_factor
        if pixels.ndim not in (4, 5) or pixels.shape[-3] != 3:
            raise ValueError(
                f"pixels must be [B, 3, H, W] or [B, T, 3, H, W], got {list(pixels.shape)}"
            )
        height, width = pixels.shape[-2:]
        if height % factor or width % factor:
            raise ValueError(
                f"height and width must be multiples of {factor}, got {height}x{width}"
            )
        if pixels.ndim == 5 and pixels.shape[1] % group:
            raise ValueError(
                f"the number of frames must be a multiple of {group}, got {pixels.shape[1]}"
            )

    def _check_codes(self, codes: Tensor) -> None:
        if codes.ndim not in (3, 4):
            raise ValueError(f"codes must be [B, h, w] or [B, t, h, w], got {list(codes.shape)}")
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < self.quantize.size:
            raise ValueError(f"codes must be in 0 to {self.quantize.size - 1}")
