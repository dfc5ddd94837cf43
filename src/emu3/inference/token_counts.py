"""How large something will be in codes, before there are any: what a plan needs to know."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor

from emu3.checkpoints.loading import Checkpoint
from emu3.errors import InputError
from emu3.inference.requests import VideoInput
from emu3.processing.document_format import VideoCodes
from emu3.processing.image import MAX_ASPECT, size_in_codes, smart_resize


def requested_grid_size(
    checkpoint: Checkpoint, size: tuple[int, int] | None, ratio: str, area: int | None
) -> tuple[int, int]:
    """Height and width in codes. Raises InputError on a size that is not of whole codes."""
    factor = checkpoint.vision_processor.vision.config.spatial_factor
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


def image_grid_size(checkpoint: Checkpoint, picture: Image.Image) -> tuple[int, int]:
    """Height and width in codes that a picture will have. Raises InputError where it has none."""
    height, width = smart_resize(
        picture.height, picture.width, checkpoint.vision_processor.preprocessor
    )
    factor = checkpoint.vision_processor.vision.config.spatial_factor
    return height // factor, width // factor


def video_grid_size(checkpoint: Checkpoint, reel: VideoInput) -> tuple[int, int]:
    """As `image_grid_size`, for all frames of a clip. Raises InputError on none, or on several sizes."""
    if not reel.frames:
        raise InputError("a video without frames")
    for frame in reel.frames:
        if frame.size != reel.frames[0].size:
            raise InputError(f"frames of several sizes: {reel.frames[0].size}, {frame.size}")
    return image_grid_size(checkpoint, reel.frames[0])


def blank_picture(checkpoint: Checkpoint, picture: Image.Image) -> Tensor:
    """Codes [h, w] as many as a picture will have. Raises InputError where it could have none."""
    return torch.zeros(image_grid_size(checkpoint, picture), dtype=torch.long)


def blank_video(checkpoint: Checkpoint, reel: VideoInput) -> VideoCodes:
    """Codes as many as a clip will have. Raises InputError as `video_grid_size` does."""
    size, count = video_grid_size(checkpoint, reel), len(reel.frames)
    groups = checkpoint.prompts.document_format.num_groups(count)
    return VideoCodes(torch.zeros(groups, *size, dtype=torch.long), reel.fps, count)
