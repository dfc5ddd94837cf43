"""Encoding and decoding of videos group by group, for any length and in constant memory."""

from __future__ import annotations

import weakref
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from emu3.errors import InputError
from emu3.processing.image import to_array
from emu3.processing.vision_processor import FrameGroup
from emu3.testing import tiny_checkpoint

PROCESSOR = tiny_checkpoint().vision_processor


def clip(count: int, height: int = 16, width: int = 12) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), np.uint8)


@pytest.mark.parametrize("groups", [1, 3])
@torch.no_grad()
def test_streaming_equals_whole_clip(groups: int) -> None:
    frames = torch.from_numpy(clip(4 * groups))
    streamed = list(PROCESSOR.encode_frames(frames))
    codes = torch.cat([group.codes for group in streamed])
    assert torch.equal(codes, PROCESSOR.encode(frames))
    pixels = (frames.movedim(-1, 1) * PROCESSOR.preprocessor.rescale_factor - 0.5) / 0.5
    assert torch.equal(codes, PROCESSOR.vision.encode_groups(pixels[None])[0])

    back = np.stack(list(PROCESSOR.decode_frames(streamed)))
    whole = to_array(PROCESSOR.vision.decode_groups(codes[None])[0], PROCESSOR.preprocessor)
    assert np.array_equal(back, whole)
    decoded = PROCESSOR.decode(codes)
    assert isinstance(decoded, torch.Tensor)
    assert np.array_equal(back, decoded.numpy())


@pytest.mark.parametrize("count", range(1, 10))
def test_last_group_is_padded_and_trimmed(count: int) -> None:
    frames = clip(count)
    groups = list(PROCESSOR.encode_frames(frames))
    assert [group.frames for group in groups] == [4] * (count // 4) + [count % 4] * (count % 4 > 0)
    padded = np.concatenate([frames, np.repeat(frames[-1:], -count % 4, axis=0)])
    codes = torch.cat([group.codes for group in groups])
    assert torch.equal(codes, PROCESSOR.encode(torch.from_numpy(padded)))
    whole = list(PROCESSOR.decode_frames(PROCESSOR.encode_frames(padded)))
    assert np.array_equal(list(PROCESSOR.decode_frames(groups)), whole[:count])


@pytest.mark.parametrize("count", [12, 60])
def test_memory_is_constant_in_length(count: int) -> None:
    """At most two groups of frames and codes are alive at any time."""
    frames, codes = weakref.WeakSet[torch.Tensor](), weakref.WeakSet[torch.Tensor]()

    def source() -> Iterator[torch.Tensor]:
        for index in range(count):
            frame = torch.full((16, 12, 3), index, dtype=torch.uint8)
            frames.add(frame)
            yield frame

    def watched(groups: Iterator[FrameGroup]) -> Iterator[FrameGroup]:
        for group in groups:
            codes.add(group.codes)
            yield group

    count_decoded = 0
    for _ in PROCESSOR.decode_frames(watched(PROCESSOR.encode_frames(source()))):
        assert len(frames) <= 8
        assert len(codes) <= 2
        count_decoded += 1
    assert count_decoded == count


def test_frames_are_read_one_group_at_a_time() -> None:
    read = 0

    def source() -> Iterator[np.ndarray]:
        nonlocal read
        for frame in clip(12):
            read += 1
            yield frame

    frames = PROCESSOR.decode_frames(PROCESSOR.encode_frames(source()))
    next(frames)
    assert read == 4


def test_no_frames_give_no_groups() -> None:
    assert list(PROCESSOR.encode_frames([])) == []
    assert list(PROCESSOR.decode_frames([])) == []


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([clip(1)[0].astype(np.float32)], "uint8"),
        ([clip(1)[0, ..., :2]], "uint8"),
        ([clip(1)[0], clip(1, 12, 16)[0]], "must have one size"),
        ([*clip(4), *clip(1, 12, 16)], "must have one size"),
    ],
)
def test_invalid_frames_raise(frames: list[np.ndarray], message: str) -> None:
    with pytest.raises(InputError, match=message):
        list(PROCESSOR.encode_frames(frames))


@pytest.mark.parametrize(
    "group",
    [
        FrameGroup(torch.zeros(1, 2, 2, dtype=torch.long), 5),
        FrameGroup(torch.zeros(1, 2, 2, dtype=torch.long), 0),
        FrameGroup(torch.zeros(2, 2, dtype=torch.long), 1),
        FrameGroup(torch.full((1, 2, 2), 64), 4),
    ],
)
def test_invalid_groups_raise(group: FrameGroup) -> None:
    with pytest.raises(InputError, match=r"a group must have|integers in 0"):
        list(PROCESSOR.decode_frames([group]))
