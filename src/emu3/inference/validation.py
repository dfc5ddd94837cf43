"""Validation of requests: every limit, with one message for Python, command line and HTTP.

Nothing here runs the model. The length of an image follows from its size, and so does that of an
image or a video in a question; a request that can never be served is refused at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from emu3.checkpoints.loading import Checkpoint
from emu3.errors import InputError
from emu3.inference.requests import ChatRequest, ChatTurn, VideoInput, VideoRequest
from emu3.processing.document_format import VideoCodes, fps_and_duration
from emu3.processing.image import MAX_ASPECT, size_in_codes, smart_resize

MAX_SEED = 2**63 - 1
SMALLER_IMAGE = "use a smaller image or a shorter text"
SHORTER_CHAT = "use a shorter text, smaller images, or a shorter clip at a lower fps"
SHORTER_VIDEO = "use fewer seconds, a lower fps, a smaller area or a shorter text"


def check_seed(seed: int, count: int = 1) -> None:
    """Raise InputError where one of `count` seeds from `seed` on is out of range."""
    if not 0 <= seed <= MAX_SEED - (count - 1):
        raise InputError(f"seed = {seed} must lie in 0 to {MAX_SEED}")


def check_guidance(scale: float) -> None:
    """Raise InputError on a guidance scale that is negative or not finite."""
    if not 0 <= scale < math.inf:
        raise InputError(f"guidance_scale = {scale} must be 0 or more; 1 is no guidance")


def check_context(limit: int, prompt: int, new: int, what: str, advice: str) -> None:
    """Raise InputError where prompt and new tokens exceed the context of `limit` tokens."""
    if prompt + new > limit:
        raise context_error(limit, prompt, new, what, advice)


def context_error(limit: int, prompt: int, new: int, what: str, advice: str) -> InputError:
    """The error for prompt and new tokens that exceed the context of `limit` tokens."""
    return InputError(
        f"{prompt} prompt tokens and {new} tokens of {what} exceed the context of {limit}; {advice}"
    )


def check_max_new_tokens(count: int) -> None:
    """Raise InputError on less than one new token."""
    if count < 1:
        raise InputError(f"max_new_tokens = {count} must be at least 1")


def num_frames(seconds: float, fps: float) -> int:
    """Whole frames in so many seconds, at least one. Raises InputError on values out of range."""
    fps_and_duration(fps, 1)  # refuses what no header can hold
    if not 0 < seconds < math.inf:
        raise InputError(f"seconds = {seconds} must be above 0")
    return max(1, round(seconds * fps))


def requested_grid(
    checkpoint: Checkpoint, size: tuple[int, int] | None, ratio: str, area: int | None
) -> tuple[int, int]:
    """Height and width in codes. Raises InputError on a size that is not a multiple of a code."""
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


def image_grid(checkpoint: Checkpoint, image: Image.Image | Tensor) -> tuple[int, int]:
    """Height and width in codes that an image will have. Raises InputError where it has none."""
    if isinstance(image, Tensor):
        check_codes(checkpoint, image, 2)
        return image.shape[0], image.shape[1]
    height, width = smart_resize(
        image.height, image.width, checkpoint.vision_processor.preprocessor
    )
    factor = checkpoint.vision_processor.vision.config.spatial_factor
    return height // factor, width // factor


def video_grid(checkpoint: Checkpoint, video: VideoInput | VideoCodes) -> tuple[int, int]:
    """As `image_size`, for all frames of a video. Raises InputError on none, or bad shapes."""
    if isinstance(video, VideoCodes):
        check_codes(checkpoint, video.codes, 3)
        groups = checkpoint.prompts.document_format.num_groups(video.frames)
        if len(video.codes) != groups:
            raise InputError(
                f"codes {list(video.codes.shape)} do not stand for {video.frames} frames"
            )
        return video.codes.shape[1], video.codes.shape[2]
    frames = video.frames
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != torch.uint8:
        raise InputError(
            f"frames must be [T, H, W, 3] uint8, got {list(frames.shape)} {frames.dtype}"
        )
    if not len(frames):
        raise InputError("a video without frames")
    height, width = smart_resize(
        frames.shape[1], frames.shape[2], checkpoint.vision_processor.preprocessor
    )
    factor = checkpoint.vision_processor.vision.config.spatial_factor
    return height // factor, width // factor


def check_codes(checkpoint: Checkpoint, codes: Tensor, dims: int) -> None:
    """Raise InputError on codes of another number of dimensions or outside the codebook."""
    size = checkpoint.vision_processor.vision.quantize.size
    if codes.ndim != dims or not codes.numel():
        axes = "[h, w]" if dims == 2 else "[t, h, w]"
        raise InputError(f"codes must be {axes}, at least one, got {list(codes.shape)}")
    integers = not codes.is_floating_point() and codes.dtype != torch.bool
    if not integers or codes.long().min() < 0 or codes.long().max() >= size:
        raise InputError(f"codes must be integers in 0 to {size - 1}")


def check_tokenize(checkpoint: Checkpoint, source: Image.Image | Tensor) -> None:
    """Raise InputError on an image or codes that the vision tokenizer does not take."""
    height, width = image_grid(checkpoint, source)
    limit = checkpoint.vision_processor.preprocessor
    if isinstance(source, Tensor) and height * width * limit.spatial_factor**2 > limit.max_pixels:
        raise InputError(
            f"{height}x{width} codes stand for more than the {limit.max_pixels} pixels of the "
            "largest image; use fewer codes"
        )


def given_frames(checkpoint: Checkpoint, request: VideoRequest) -> tuple[tuple[int, int], int, int]:
    """Of a video: the size in codes, the groups that are given, the frames before the new ones.

    Raises InputError if arguments contradict, or if a clip is too short to be continued.
    """
    image, video, group = request.image, request.video, checkpoint.vision_processor.frames_per_group
    if video is not None and (image is not None or request.fps is not None):
        raise InputError("the clip decides its first frames and rate; leave out image and fps")
    if (video is not None or image is not None) and (
        request.size is not None or request.ratio is not None or request.area is not None
    ):
        what = "image" if video is None else "clip"
        raise InputError(f"the {what} decides the size; leave out size, ratio and area")
    if image is not None:
        return image_grid(checkpoint, image), 1, 0
    if video is None:
        ratio = request.ratio or "1:1"
        return requested_grid(checkpoint, request.size, ratio, request.area), 0, 0
    size = video_grid(checkpoint, video)
    count = video.frames if isinstance(video, VideoCodes) else len(video.frames)
    if count < group:
        raise InputError(
            f"a clip of {count} frames is too short; a continuation needs {group} or more"
        )
    return size, count // group, count


def placeholder_codes(
    checkpoint: Checkpoint, turn: ChatTurn | ChatRequest
) -> list[Tensor | VideoCodes]:
    """Codes of the shapes that a turn's images and videos will have. Raises InputError."""
    placeholders: list[Tensor | VideoCodes] = [
        torch.zeros(image_grid(checkpoint, image), dtype=torch.long) for image in turn.images
    ]
    for video in turn.videos:
        size = video_grid(checkpoint, video)
        frames = video.frames if isinstance(video, VideoCodes) else len(video.frames)
        groups = checkpoint.prompts.document_format.num_groups(frames)
        placeholders.append(
            VideoCodes(torch.zeros(groups, *size, dtype=torch.long), video.fps, frames)
        )
    return placeholders


def chat_prompt_ids(
    checkpoint: Checkpoint,
    request: ChatRequest,
    codes: Sequence[Sequence[Tensor | VideoCodes]],
) -> list[int]:
    """The prompt of an answer. `codes`: those of the images [h, w] and then the videos, per turn.

    Turns are joined without an EOS after earlier answers.
    """
    prompts, ids = checkpoint.prompts, list[int]()
    for turn, visual in zip(request.turns, codes, strict=True):
        special = isinstance(turn, ChatRequest) and turn.allow_special
        build = prompts.turn if ids else prompts.chat
        ids += build(turn.text, visual, allow_special=special)
        if isinstance(turn, ChatTurn):
            answer = turn.answer_ids
            ids += checkpoint.text_tokenizer.encode(" " + turn.answer) if answer is None else answer
    return ids
