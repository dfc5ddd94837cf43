"""How large something will be in codes, before there are any: what a plan needs to know."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor

from emu3.checkpoint import Checkpoint
from emu3.engine.request import Reel
from emu3.errors import InputError
from emu3.grammar import VideoCodes
from emu3.image import MAX_ASPECT, resized, size_in_codes


def size_asked(
    checkpoint: Checkpoint, size: tuple[int, int] | None, ratio: str, area: int | None
) -> tuple[int, int]:
    """Height and width in codes. Raises InputError on a size that is not of whole codes."""
    factor = checkpoint.codec.vision.config.spatial_factor
    if size is None:
        area = checkpoint.decoder.config.image_area if area is None else area
        return size_in_codes(ratio, area, factor)
    width, height = size
    if min(width, height) < factor or width % factor or height % factor:
        raise InputError(f"size {width}x{height}: both sides must be multiples of {factor} pixels")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise InputError(
            f"size {width}x{height}: one side may be at most {MAX_ASPECT} times the other"
        )
    return height // factor, width // factor


def size_of(checkpoint: Checkpoint, picture: Image.Image) -> tuple[int, int]:
    """Height and width in codes that a picture will have. Raises InputError where it has none."""
    height, width = resized(picture.height, picture.width, checkpoint.codec.preprocessor)
    factor = checkpoint.codec.vision.config.spatial_factor
    return height // factor, width // factor


def size_of_reel(checkpoint: Checkpoint, reel: Reel) -> tuple[int, int]:
    """As `size_of`, for all frames of a clip. Raises InputError on none, or on several sizes."""
    if not reel.frames:
        raise InputError("a video without frames")
    for frame in reel.frames:
        if frame.size != reel.frames[0].size:
            raise InputError(f"frames of several sizes: {reel.frames[0].size}, {frame.size}")
    return size_of(checkpoint, reel.frames[0])


def blank_picture(checkpoint: Checkpoint, picture: Image.Image) -> Tensor:
    """Codes [h, w] as many as a picture will have. Raises InputError where it could have none."""
    return torch.zeros(size_of(checkpoint, picture), dtype=torch.long)


def blank_video(checkpoint: Checkpoint, reel: Reel) -> VideoCodes:
    """Codes as many as a clip will have. Raises InputError as `size_of_reel` does."""
    size, count = size_of_reel(checkpoint, reel), len(reel.frames)
    groups = checkpoint.prompts.grammar.groups(count)
    return VideoCodes(torch.zeros(groups, *size, dtype=torch.long), reel.fps, count)
