"""Pictures and clips to codes and back, in the things a person has: `PIL.Image` and frames.

The vision tokenizer runs in float32 whatever the decoder's precision: rounding moves codes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from emu3.config import PreprocessorConfig
from emu3.errors import InputError
from emu3.image import to_array, to_image, to_pixels
from emu3.vision.tokenizer import VisionTokenizer


@dataclass(frozen=True)
class Codec:
    """A vision tokenizer and how pictures are brought to it."""

    vision: VisionTokenizer
    preprocessor: PreprocessorConfig

    @torch.no_grad()
    def encode(self, picture: Image.Image | Tensor) -> Tensor:
        """A picture to codes [h, w]; frames [T, H, W, 3] uint8 to codes [t, h, w].

        A picture is resized as the checkpoint's preprocessor says. Frames are encoded in groups
        of four, each on its own; raises InputError when they fill no whole group.
        """
        if isinstance(picture, Image.Image):
            pixels = to_pixels(picture, self.preprocessor)
            return self.vision.encode(pixels[None].to(self.vision.device))[0].cpu()
        frames = torch.as_tensor(picture)
        group = self.vision.config.temporal_downsample_factor
        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != torch.uint8:
            raise InputError(f"frames are [T, H, W, 3] uint8, not {list(frames.shape)}")
        if not len(frames) or len(frames) % group:
            raise InputError(f"{len(frames)} frames: expected a multiple of {group}")
        images = [Image.fromarray(frame.numpy()) for frame in frames]
        pixels = torch.stack([to_pixels(image, self.preprocessor) for image in images])
        return self.vision.encode_groups(pixels[None].to(self.vision.device))[0].cpu()

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Image.Image | Tensor:
        """Codes [h, w] to a picture; codes [t, h, w] to frames [4t, 8h, 8w, 3] uint8.

        Raises InputError on another shape or on codes that the codebook does not have.
        """
        if codes.ndim == 2:
            return self.picture(codes)
        pixels = self.vision.decode_groups(self._checked(codes)[None])[0]
        return torch.from_numpy(to_array(pixels, self.preprocessor))

    @torch.no_grad()
    def picture(self, codes: Tensor) -> Image.Image:
        """Codes [h, w] to a picture; raises InputError as `decode` does."""
        return to_image(self.vision.decode(self._checked(codes)[None])[0], self.preprocessor)

    def _checked(self, codes: Tensor) -> Tensor:
        """Codes on the tokenizer's device, once they are known to be some."""
        size = self.vision.quantize.size
        if codes.ndim not in (2, 3) or not codes.numel():
            raise InputError(f"codes are [h, w] or [t, h, w], not {list(codes.shape)}")
        if codes.is_floating_point() or codes.min() < 0 or codes.max() >= size:
            raise InputError(f"codes must be integers in 0 to {size - 1}")
        return codes.long().to(self.vision.device)
