"""Inputs: images and videos of a request brought to visual codes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor

from emu3.checkpoints.loading import Checkpoint
from emu3.errors import InputError
from emu3.inference.requests import ChatRequest, ChatTurn
from emu3.processing.document_format import VideoCodes
from emu3.processing.video import Frame
from emu3.processing.vision_processor import FrameGroup


class VideoSource(Protocol):
    """Frames that are read one by one: `video.Clip`, `VideoOutput`, or anything like them."""

    @property
    def frames(self) -> Iterable[Frame | Tensor]:
        """Frames [H, W, 3] uint8, all of one size; [T, H, W, 3] is so many of them."""

    @property
    def fps(self) -> float:
        """Frames per second."""


def encode_video(checkpoint: Checkpoint, source: VideoSource) -> VideoCodes:
    """The codes of a video of any length, of which one group of frames is held at a time.

    Raises InputError on no frames, and as soon as they exceed the context.
    """
    document_format = checkpoint.prompts.document_format
    limit = checkpoint.decoder.config.max_position_embeddings
    groups: list[FrameGroup] = []
    for group in checkpoint.vision_processor.encode_frames(source.frames):
        groups.append(group)
        _, height, width = group.codes.shape
        if document_format.num_tokens(height, width, len(groups)) > limit:
            frames = document_format.frames_per_group * len(groups)
            raise InputError(
                f"a video of {frames} frames or more exceeds the context of {limit}; cut it, or "
                "use a lower fps"
            )
    if not groups:
        raise InputError("a video without frames")
    codes = torch.cat([group.codes for group in groups])
    return VideoCodes(codes, source.fps, sum(group.frames for group in groups))


def encode_turn(checkpoint: Checkpoint, turn: ChatTurn | ChatRequest) -> list[Tensor | VideoCodes]:
    """The codes of a turn's images [h, w], then of its videos."""
    encode = checkpoint.vision_processor.encode
    images = [each if isinstance(each, Tensor) else encode(each) for each in turn.images]
    return [
        *images,
        *(v if isinstance(v, VideoCodes) else encode_video(checkpoint, v) for v in turn.videos),
    ]
