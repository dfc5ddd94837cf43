"""The Video tab generates the videos of `Emu3.video`, four frames at a time, and extends them."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from emu3.api import Emu3
from emu3.processing.video import read_settings
from emu3.server.studio.context import StudioContext
from emu3.server.studio.history import HistoryItem
from emu3.server.studio.session import TabSession
from emu3.server.studio.video_tab import LastVideo, VideoForm, generate_video

pytest.importorskip("av")


def generate(
    context: StudioContext,
    form: VideoForm,
    last_video: LastVideo,
    history: list[HistoryItem],
    *,
    is_extension: bool = False,
) -> list[tuple[str, str]]:
    """Return all updates (HTML, status line)."""

    async def collect() -> list[tuple[str, str]]:
        updates = generate_video(
            context, form, last_video, TabSession(), history, is_extension=is_extension
        )
        return [update async for update in updates]

    return asyncio.run(collect())


def codes_of(last_video: LastVideo) -> torch.Tensor:
    """Return the codes [t, h, w] of the last video."""
    assert last_video.codes is not None
    return torch.as_tensor(last_video.codes.codes)


def test_video_and_metadata_equal_those_of_the_api(context: StudioContext, tmp_path: Path) -> None:
    last_video, history = LastVideo(), list[HistoryItem]()
    updates = generate(context, VideoForm("x", seconds=1.0, seed=3), last_video, history)
    statuses = [status for _, status in updates]
    assert any("4 frames" in status and "left" in status for status in statuses)
    assert "8 frames at 8 fps" in statuses[-1]
    assert "<video" in updates[-1][0]
    file = context.media_cache.get("/" + history[0].url)
    assert file is not None
    path = tmp_path / "video.mp4"
    path.write_bytes(file.data)
    out = Emu3(context.engine.checkpoint).video("x", seconds=1.0, seed=3)
    assert read_settings(path) == history[0].settings == asdict(out.settings)
    assert torch.equal(codes_of(last_video), out.codes)


def test_extension_begins_with_the_last_video(context: StudioContext) -> None:
    last_video, history = LastVideo(), list[HistoryItem]()
    generate(context, VideoForm("x", seconds=1.0, seed=3), last_video, history)
    before = codes_of(last_video)
    form = VideoForm("x", seconds=0.5, seed=4)
    updates = generate(context, form, last_video, history, is_extension=True)
    assert "12 frames" in updates[-1][1]
    after = codes_of(last_video)
    assert len(after) > len(before)
    assert torch.equal(after[: len(before)], before)
    assert [item.is_video for item in history] == [True, True]


def test_first_frame_sets_the_size(context: StudioContext, photo: str) -> None:
    last_video, history = LastVideo(), list[HistoryItem]()
    form = VideoForm("x", seconds=1.0, first_frame=photo, seed=0)
    generate(context, form, last_video, history)
    assert last_video.codes is not None
    assert history[0].size == (20, 16)


@pytest.mark.parametrize(
    ("form", "is_extension", "message"),
    [
        (VideoForm(""), False, "prompt"),
        (VideoForm("x", seconds=0), False, "seconds"),
        (VideoForm("x", seconds=1e5), False, "max_frames"),
        (VideoForm("x", guidance_scale=99), False, "max_guidance"),
        (VideoForm("x", seed="seven"), False, "seed"),
        (VideoForm("x", first_frame="data:image/png;base64,AAAA"), False, "not an image"),
        (VideoForm("x"), True, "no video to extend"),
    ],
)
def test_invalid_forms_are_refused(
    context: StudioContext, form: VideoForm, is_extension: bool, message: str
) -> None:
    history = list[HistoryItem]()
    *_, (_, status) = generate(context, form, LastVideo(), history, is_extension=is_extension)
    assert message in status
    assert history == []
