"""Filming: what the form says, frames as they come, and what goes on behind them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

from emu3.errors import InputError
from emu3.inference.requests import EncodedVideo, VideoFrames, VideoRequest, VideoResult
from emu3.processing.video import video_writer
from emu3.server.errors import APIError, invalid_request
from emu3.server.event_stream import ClientDisconnected, EventStream
from emu3.server.fields import Fields
from emu3.server.routes.videos import read_extension, read_order
from emu3.server.studio.context import Room
from emu3.server.studio.history import Kept, file_name, keep
from emu3.server.studio.html import clip, data_url, download, figure, frame, grid, image, note
from emu3.server.studio.image_handlers import duration, picture_size
from emu3.server.studio.session import Seat

STRIP = 8  # small frames under the one that has just come


@dataclass(frozen=True)
class Script:
    """What the form says. None stands for what suits the model, or for chance in a seed."""

    prompt: str
    negative: str | None = None
    ratio: str = "1:1"
    seconds: float = 2.0
    first: str = ""  # a picture as a data URL
    guidance: float | None = None
    temperature: float | None = None
    top_k: int | None = None
    seed: int | None = None


@dataclass
class Take:
    """The last clip of a page, that can be gone on with."""

    coded: EncodedVideo | None = None
    prompt: str = ""


def read_script(room: Room, script: Script, before: Take | None) -> VideoRequest:
    """The request of a script, through the same limits as those over HTTP. Raises APIError."""
    values: dict[str, Any] = {
        "prompt": script.prompt,
        "negative_prompt": script.negative,
        "seconds": script.seconds,
        "guidance_scale": script.guidance,
        "temperature": script.temperature,
        "top_k": script.top_k,
        "seed": script.seed,
    }
    if before is not None:
        if before.coded is None:
            raise invalid_request(None, "there is no clip yet to go on with")
        fields = Fields(values)
        return read_extension(fields, room.engine, room.settings, before.coded, before.prompt)
    if script.first:
        values["input_reference"] = script.first
    else:
        values["size"] = "{}x{}".format(*picture_size(room, script.ratio))
    return read_order(Fields(values), room.engine, room.settings)


async def filming(
    room: Room, script: Script, take: Take, go_on: bool, seat: Seat, kept: list[Kept]
) -> AsyncIterator[tuple[str, str]]:
    """Frames and a line about them, again and again until the clip is done or given up."""
    visitor, start, seen, page = seat.sit(), time.monotonic(), list[Image.Image](), ""
    try:
        request = await asyncio.to_thread(read_script, room, script, take if go_on else None)
        following = EventStream(room.engine, (request,), room.settings)
        yield page, note("waiting for a place")
        async for _, told in following.events(visitor):
            if isinstance(told, VideoFrames):
                seen += told.frames
                page = await asyncio.to_thread(on_the_way, seen, told.done / told.total)
                left = (time.monotonic() - start) * (told.total - told.done) / told.done
                said = f"{len(seen)} frames · about {duration(left)} left"
                yield page, note(said)
            elif isinstance(told, VideoResult):
                one = await asyncio.to_thread(keep_clip, room, told)
                keep(kept, one)
                take.coded, take.prompt = told.coded, told.settings.prompt
                page = finished(one)
                took = duration(time.monotonic() - start)
                said = f"{len(told.frames)} frames, {told.fps:g} a second, in {took}"
                yield page, note(f"{said} · seed {told.settings.seed}")
    except ClientDisconnected:
        yield page, note("cancelled")
    except APIError as problem:
        yield page, note(problem.message, "problem")
    except InputError as error:  # no encoder for clips here
        yield page, note(str(error), "problem")


def on_the_way(seen: list[Image.Image], share: float) -> str:
    """The newest frame, and small ones of those before."""
    newest = seen[-1]
    large = frame(image(data_url(newest), "the newest frame", newest.size), newest.size, share)
    step = max(1, len(seen) // STRIP)
    small = (
        frame(image(data_url(each), "a frame before", each.size), each.size)
        for each in seen[::step][-STRIP:]
    )
    return grid([figure(large, "")], "of-1") + grid(small, "strip")


def finished(one: Kept) -> str:
    """The clip, playing."""
    links = download(one.url, one.name)
    what = str(one.settings.get("prompt") or "the clip")
    return grid([figure(frame(clip(one.url, what, one.size), one.size), "", links)], "of-1")


def keep_clip(room: Room, told: VideoResult) -> Kept:
    """A clip as `emu3 video` writes it, its settings in the MP4. Raises MissingExtraError."""
    said = asdict(told.settings)
    with TemporaryDirectory(prefix="emu3-studio-") as folder:
        path = Path(folder) / "clip.mp4"
        with video_writer(path, told.fps, said) as add:
            for each in told.frames:
                add(np.asarray(each.convert("RGB")))
        url = room.shelf.put(path.read_bytes(), "video/mp4", ".mp4")
    name = file_name(told.settings.prompt, told.settings.seed) + ".mp4"
    return Kept(url, told.frames[0].size, said, name, moves=True)
