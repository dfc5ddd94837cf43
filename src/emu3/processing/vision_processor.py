"""Images and video frames to visual codes and back, around the vision tokenizer.

The vision tokenizer runs in float32 whatever the decoder's precision: rounding changes codes.
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

MAX_BATCH_CODES = 1024  # codes decoded in one batch, unless a single image has more


@dataclass(frozen=True)
class FrameGroup:
    """Codes [1, h, w] and the number of frames they represent: 4, or fewer at the end of a clip."""

    codes: Tensor
    frames: int


@dataclass(frozen=True)
class VisionProcessor:
    """A vision tokenizer with the preprocessing of its checkpoint."""

    vision: VisionTokenizer
    preprocessor: PreprocessorConfig

    @property
    def frames_per_group(self) -> int:
        """Number of frames represented by one frame of codes."""
        return self.vision.config.temporal_downsample_factor

    @torch.no_grad()
    def encode(self, image: Image.Image | Tensor) -> Tensor:
        """An image to codes [h, w], or frames [T, H, W, 3] uint8 to codes [t, h, w].

        Images are resized and normalized as the checkpoint's preprocessor config says. Frames are
        encoded in independent groups of four; raises InputError if their number is no multiple of
        four (see `encode_frames` for other lengths).
        """
        if isinstance(image, Image.Image):
            pixels = to_pixels(image, self.preprocessor)
            return self.vision.encode(pixels[None].to(self.vision.device))[0].cpu()
        frames = torch.as_tensor(image)
        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != torch.uint8:
            raise InputError(
                f"frames must be [T, H, W, 3] uint8, got {list(frames.shape)} {frames.dtype}"
            )
        if not len(frames) or len(frames) % self.frames_per_group:
            raise InputError(
                f"{len(frames)} frames: expected a multiple of {self.frames_per_group}"
            )
        return torch.cat([group.codes for group in self.encode_frames(frames)])

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Image.Image | Tensor:
        """Codes [h, w] to an image, or codes [t, h, w] to frames [4t, 8h, 8w, 3] uint8.

        Raises InputError on another shape or on codes outside the codebook.
        """
        if codes.ndim == 2:
            return self.decode_image(codes)
        groups = (
            FrameGroup(frame[None], self.frames_per_group) for frame in self._validated(codes)
        )
        return torch.from_numpy(np.stack(list(self.decode_frames(groups))))

    def encode_frames(self, frames: Iterable[Frame | Tensor]) -> Iterator[FrameGroup]:
        """Encode frames [H, W, 3] uint8, any number and all of one size, group by group.

        Holds one group in memory at a time. The last group is padded with its last frame;
        `FrameGroup.frames` is the number before padding. Raises InputError on frames of another
        shape or of different sizes.
        """
        remaining, shape = iter(frames), None
        while group := [
            torch.as_tensor(frame) for frame in islice(remaining, self.frames_per_group)
        ]:
            shape = group[0].shape if shape is None else shape
            yield self._encode_group(group, shape)

    @torch.no_grad()
    def _encode_group(self, frames: list[Tensor], shape: torch.Size) -> FrameGroup:
        for frame in frames:
            if frame.ndim != 3 or frame.shape[-1] != 3 or frame.dtype != torch.uint8:
                raise InputError(
                    f"a frame must be [H, W, 3] uint8, got {list(frame.shape)} {frame.dtype}"
                )
            if frame.shape != shape:
                raise InputError(
                    f"all frames must have one size, got {list(shape)} and {list(frame.shape)}"
                )
        images = [Image.fromarray(frame.numpy()) for frame in frames]
        pixels = [to_pixels(image, self.preprocessor) for image in images]
        pixels += pixels[-1:] * (self.frames_per_group - len(frames))
        clip = torch.stack(pixels)[None].to(self.vision.device)
        return FrameGroup(self.vision.encode_groups(clip)[0].cpu(), len(frames))

    def decode_frames(self, groups: Iterable[FrameGroup]) -> Iterator[Frame]:
        """Decode groups, as `encode_frames` yields them, to frames [8h, 8w, 3] uint8.

        Holds one group in memory at a time and drops padding frames. Raises InputError on codes
        outside the codebook.
        """
        for group in groups:
            yield from self._decode_group(group)

    @torch.no_grad()
    def _decode_group(self, group: FrameGroup) -> Frame:
        if (
            group.codes.ndim != 3
            or not 1 <= group.frames <= len(group.codes) * self.frames_per_group
        ):
            raise InputError(
                f"a group must have codes [1, h, w] and 1 to {self.frames_per_group} frames, "
                f"got {list(group.codes.shape)} and {group.frames} frames"
            )
        pixels = self.vision.decode_groups(self._validated(group.codes)[None])[0]
        return to_array(pixels[: group.frames], self.preprocessor)

    @torch.no_grad()
    def decode_image(self, codes: Tensor) -> Image.Image:
        """Codes [h, w] to an image. Raises InputError as `decode` does."""
        return to_image(self.vision.decode(self._validated(codes)[None])[0], self.preprocessor)

    @torch.no_grad()
    def decode_images(self, codes: Sequence[Tensor]) -> list[Image.Image]:
        """Decode several images, codes [h, w] each; images of one size share a batch.

        Up to rounding, results equal `decode_image`. Raises InputError as `decode` does.
        """
        images = dict[int, Image.Image]()
        for size in dict.fromkeys(each.shape for each in codes):
            indices = [index for index, each in enumerate(codes) if each.shape == size]
            batch_size = max(1, MAX_BATCH_CODES // max(1, size.numel()))
            for start in range(0, len(indices), batch_size):
                batch = indices[start : start + batch_size]
                stacked = self._validated(torch.stack([codes[index] for index in batch]))
                for index, pixels in zip(batch, self.vision.decode(stacked), strict=True):
                    images[index] = to_image(pixels, self.preprocessor)
        return [images[index] for index in range(len(codes))]

    def _validated(self, codes: Tensor) -> Tensor:
        """Codes as int64 on the tokenizer's device; raises InputError if they are invalid."""
        size = self.vision.quantize.size
        if codes.ndim not in (2, 3) or not codes.numel():
            raise InputError(f"codes must be [h, w] or [t, h, w], got {list(codes.shape)}")
        if codes.is_floating_point() or codes.min() < 0 or codes.max() >= size:
            raise InputError(f"codes must be integers in 0 to {size - 1}")
        return codes.long().to(self.vision.device)
