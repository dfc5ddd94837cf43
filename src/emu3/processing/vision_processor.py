"""Pictures and clips to codes and back, in the things a person has: `PIL.Image` and frames.

The vision tokenizer runs in float32 whatever the decoder's precision: rounding moves codes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from emu3.config import PreprocessorConfig
from emu3.errors import InputError
from emu3.models.vq.tokenizer import VisionTokenizer
from emu3.processing.image import to_array, to_image, to_pixels
from emu3.processing.video import Frame

TOGETHER = 1024  # codes decoded at a time, unless one picture alone has more


@dataclass(frozen=True)
class FrameGroup:
    """Codes [1, h, w], and how many frames they stand for: four, or fewer at the end of a clip."""

    codes: Tensor
    frames: int


@dataclass(frozen=True)
class VisionProcessor:
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
        return torch.cat([each.codes for each in self.encode_frames(frames)])

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Image.Image | Tensor:
        """Codes [h, w] to a picture; codes [t, h, w] to frames [4t, 8h, 8w, 3] uint8.

        Raises InputError on another shape or on codes that the codebook does not have.
        """
        if codes.ndim == 2:
            return self.decode_image(codes)
        groups = (FrameGroup(each[None], self.group) for each in self._checked(codes))
        return torch.from_numpy(np.stack(list(self.decode_frames(groups))))

    @property
    def group(self) -> int:
        """Frames that share one frame of codes."""
        return self.vision.config.temporal_downsample_factor

    def encode_frames(self, frames: Iterable[Frame | Tensor]) -> Iterator[FrameGroup]:
        """Frames [H, W, 3] uint8, of one size and however many, to codes group by group.

        Only one group is held at a time. The last one is filled with its last frame, and says how
        many frames are true. Raises InputError on frames of another shape or of several sizes.
        """
        rest, shape = iter(frames), None
        while held := [torch.as_tensor(frame) for frame in islice(rest, self.group)]:
            shape = held[0].shape if shape is None else shape
            yield self._encode_group(held, shape)

    @torch.no_grad()
    def _encode_group(self, frames: list[Tensor], shape: torch.Size) -> FrameGroup:
        for frame in frames:
            if frame.ndim != 3 or frame.shape[-1] != 3 or frame.dtype != torch.uint8:
                raise InputError(f"a frame is [H, W, 3] uint8, not {list(frame.shape)}")
            if frame.shape != shape:
                raise InputError(f"frames of several sizes: {list(shape)}, {list(frame.shape)}")
        images = [Image.fromarray(frame.numpy()) for frame in frames]
        pixels = [to_pixels(image, self.preprocessor) for image in images]
        pixels += pixels[-1:] * (self.group - len(frames))
        clip = torch.stack(pixels)[None].to(self.vision.device)
        return FrameGroup(self.vision.encode_groups(clip)[0].cpu(), len(frames))

    def decode_frames(self, groups: Iterable[FrameGroup]) -> Iterator[Frame]:
        """What `encode_frames` gives, or a model draws, back to frames [8h, 8w, 3] uint8.

        Only one group is held at a time; frames that were filled in are cut off. Raises
        InputError on codes that the codebook does not have.
        """
        for group in groups:
            yield from self._decode_group(group)

    @torch.no_grad()
    def _decode_group(self, group: FrameGroup) -> Frame:
        if group.codes.ndim != 3 or not 1 <= group.frames <= len(group.codes) * self.group:
            shape = list(group.codes.shape)
            raise InputError(f"a group is codes [1, h, w], not {shape} for {group.frames} frames")
        pixels = self.vision.decode_groups(self._checked(group.codes)[None])[0]
        return to_array(pixels[: group.frames], self.preprocessor)

    @torch.no_grad()
    def decode_image(self, codes: Tensor) -> Image.Image:
        """Codes [h, w] to a picture; raises InputError as `decode` does."""
        return to_image(self.vision.decode(self._checked(codes)[None])[0], self.preprocessor)

    @torch.no_grad()
    def decode_images(self, codes: Sequence[Tensor]) -> list[Image.Image]:
        """`decode_image` of several codes [h, w] of any sizes: those of one size are decoded together.

        Up to rounding, each is what it is alone. Raises InputError as `decode` does.
        """
        made = dict[int, Image.Image]()
        for size in dict.fromkeys(each.shape for each in codes):
            alike = [index for index, each in enumerate(codes) if each.shape == size]
            most = max(1, TOGETHER // max(1, size.numel()))
            for start in range(0, len(alike), most):
                some = alike[start : start + most]
                stacked = self._checked(torch.stack([codes[index] for index in some]))
                for index, pixels in zip(some, self.vision.decode(stacked), strict=True):
                    made[index] = to_image(pixels, self.preprocessor)
        return [made[index] for index in range(len(codes))]

    def _checked(self, codes: Tensor) -> Tensor:
        """Codes on the tokenizer's device, once they are known to be some."""
        size = self.vision.quantize.size
        if codes.ndim not in (2, 3) or not codes.numel():
            raise InputError(f"codes are [h, w] or [t, h, w], not {list(codes.shape)}")
        if codes.is_floating_point() or codes.min() < 0 or codes.max() >= size:
            raise InputError(f"codes must be integers in 0 to {size - 1}")
        return codes.long().to(self.vision.device)
