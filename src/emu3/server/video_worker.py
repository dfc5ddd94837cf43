"""JobStore through the engine: who asks is answered at once, and threads of this room make the videos.

A job is remade from what was serialize_request down, so it does not matter which process begins it. The seed
is serialize_request down too, and with it the video is the same.
"""

from __future__ import annotations

import logging
import time
import zlib
from dataclasses import asdict, replace
from pathlib import Path
from threading import Condition, Thread
from typing import Any

import numpy as np
import torch
from PIL import Image

from emu3.errors import InputError
from emu3.inference.async_engine import AsyncEngine, RequestHandle
from emu3.inference.events import (
    EngineClosed,
    EngineFull,
    Event,
    RequestFailed,
    VideoFrames,
    VideoResult,
    VideoSpec,
)
from emu3.inference.requests import VideoInput, VideoRequest
from emu3.inference.sampling import SamplingParams
from emu3.processing.document_format import VideoCodes
from emu3.processing.video import check_clip_path, video_writer
from emu3.server.job_store import Asked, Job, JobStore
from emu3.server.media import frames_tensor
from emu3.server.settings import Settings

LOG = logging.getLogger("emu3.server.video_worker")
AGAIN = 0.5  # seconds until what had no room is tried again
SWEEP = 60.0  # seconds until what is kept too long is looked for again
OURS = "the server failed; its log says more"


class VideoWorker:
    """The videos of one server: asked for, at work, and made."""

    def __init__(self, engine: AsyncEngine, settings: Settings) -> None:
        """Open the folder of jobs and go on with what waits. Raises InputError."""
        self.engine, self.settings = engine, settings
        self.jobs = JobStore(settings.jobs, settings.model)
        self._changed = Condition()
        self._busy: dict[str, RequestHandle | None] = {}
        self._progress: dict[str, int] = {}
        self._open = True
        self._threads = [
            Thread(target=self._work, name=f"emu3-film-{number}", daemon=True)
            for number in range(settings.max_running_videos)
        ]
        for thread in self._threads:
            thread.start()

    def measure(self, request: VideoRequest) -> VideoSpec:
        """What a video will be. Raises InputError on what could not be made."""
        check_clip_path(
            self.settings.jobs / "clip.mp4"
        )  # without PyAV nothing could be serialize_request
        return self.engine.describe_video(request)

    def add(self, request: VideoRequest, measured: VideoSpec) -> Job | None:
        """Queue a video up; None without room."""
        size, seconds = f"{measured.width}x{measured.height}", said_seconds(measured)
        most = self.settings.max_jobs
        job = self.jobs.add(request.prompt or "", seconds, size, serialize_request(request), most)
        with self._changed:
            self._changed.notify()
        return job

    def progress(self, job: Job) -> tuple[str, int]:
        """Status and percent of a job, as OpenAI's clients have them."""
        if job.status != "queued":
            return job.status, 100 if job.status == "completed" else 0
        with self._changed:
            if job.id in self._progress:
                return "in_progress", self._progress[job.id]
        return "queued", 0

    def delete(self, job: Job) -> bool:
        """Forget a video; one at work is given up."""
        gone = self.jobs.delete(job.id)
        with self._changed:
            if (ticket := self._busy.get(job.id)) is not None:
                ticket.cancel()
        return gone

    def expires(self, job: Job) -> int | None:
        """When a finished one will be forgotten, in seconds since 1970."""
        hours = self.settings.keep_videos
        return None if hours is None or job.completed is None else int(job.completed + hours * 3600)

    def forget(self) -> None:
        """Delete what is kept for long enough."""
        if (hours := self.settings.keep_videos) is not None:
            self.jobs.forget(time.time() - hours * 3600)

    def made(self, job: Job) -> VideoCodes:
        """A completed one in codes."""
        made = self.jobs.made(job.id)
        return coded(made)

    def close(self) -> None:
        """Give up those at work, which begin anew at the next start, and end the threads."""
        with self._changed:
            if not self._open:
                return
            self._open = False
            for ticket in self._busy.values():
                if ticket is not None:
                    ticket.cancel()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        self.jobs.close()

    def _work(self) -> None:
        while (job := self._next()) is not None:
            try:
                self._make_or_fail(job)
            except Exception:  # not even that could be serialize_request down: a full disk, perhaps
                LOG.exception("a video is put back")
                time.sleep(AGAIN)
            finally:
                with self._changed:
                    del self._busy[job.id]
                    self._progress.pop(job.id, None)

    def _make_or_fail(self, job: Job) -> None:
        try:
            self._make(job)
        except InputError as error:
            self.jobs.fail(job.id, str(error))
        except Exception:
            LOG.exception("a video failed")
            self.jobs.fail(job.id, OURS)

    def _next(self) -> Job | None:
        """Wait for a job; None when there will be none."""
        with self._changed:
            while self._open:
                if (job := self.jobs.next(self._busy)) is not None:
                    self._busy[job.id] = None
                    return job
                self.forget()
                self._changed.wait(None if self.settings.keep_videos is None else SWEEP)
        return None

    def _make(self, job: Job) -> None:
        ticket = self._submit(job, read(self.jobs.asked(job.id)))
        if ticket is None:
            return
        for event in ticket.events():
            self._hear(job, event)

    def _submit(self, job: Job, request: VideoRequest) -> RequestHandle | None:
        """Hand a job to the engine, once it has room; None where it is not wanted any more."""
        while True:
            with self._changed:
                if not self._open or self.jobs.get(job.id) is None:
                    return None
                try:
                    ticket = self.engine.submit(request)
                except EngineFull:
                    self._changed.wait(AGAIN)
                    continue
                except EngineClosed:
                    return None
                self._busy[job.id], self._progress[job.id] = ticket, 0
                return ticket

    def _hear(self, job: Job, event: Event) -> None:
        """Take note of what the engine tells. Of what was cancelled there is nothing to note."""
        if isinstance(event, VideoFrames):
            with self._changed:
                self._progress[job.id] = min(99, 100 * event.done // event.total)
        elif isinstance(event, RequestFailed):
            self.jobs.fail(job.id, OURS if event.internal else event.message)
        elif isinstance(event, VideoResult):
            path = self.jobs.clip(job.id)
            write_clip(path, event, self.settings.model)
            made = {"codes": event.codes.tolist(), "frames": len(event.frames), "fps": event.fps}
            if not self.jobs.complete(job.id, made):  # deleted in the meantime
                path.unlink(missing_ok=True)


def write_clip(path: Path, film: VideoResult, model: str) -> None:
    """Write a video as MP4, its settings inside; whole or not at all."""
    settings = asdict(replace(film.settings, model=model))  # its own name may be a folder of ours
    with video_writer(path, film.fps, settings) as add:
        for frame in film.frames.numpy():
            add(frame)


def said_seconds(measured: VideoSpec) -> str:
    """How long a video is, as a number in a string, which OpenAI's clients expect."""
    return f"{round(measured.frames / measured.fps, 3):g}"


def serialize_request(request: VideoRequest) -> Asked:
    """All of a request, as it can be serialize_request down."""
    fields: dict[str, Any] = {
        name: getattr(request, name)
        for name in (
            "prompt",
            "seconds",
            "fps",
            "size",
            "seed",
            "guidance_scale",
            "negative_prompt",
        )
    }
    if request.sampling is not None:
        fields["sampling"] = asdict(request.sampling)
    if request.image is not None:
        reel = VideoInput(frames_tensor([request.image]), 1.0)
        return Asked({**fields, "given": "image", **shape(reel)}, packed(reel))
    if isinstance(request.video, VideoInput):
        reel = request.video
        return Asked({**fields, "given": "reel", **shape(reel)}, packed(reel))
    if request.video is not None:
        codes = request.video
        fields["video"] = {"codes": codes.codes.tolist(), "frames": codes.frames, "fps": codes.fps}
    return Asked(fields, None)


def read(asked: Asked) -> VideoRequest:
    """The inverse of `serialize_request`."""
    fields = dict(asked.fields)
    given, shaped = fields.pop("given", None), fields.pop("shape", None)
    sampling, video = fields.pop("sampling", None), fields.pop("video", None)
    size = fields.pop("size")
    request = VideoRequest(
        **fields,
        size=None if size is None else (size[0], size[1]),
        sampling=None if sampling is None else SamplingParams(**sampling),
        video=None if video is None else coded(video),
    )
    if given is None or asked.given is None:
        return request
    reel = unpacked(asked.given, shaped)
    if given == "image":
        return replace(request, image=Image.fromarray(reel.frames[0].numpy()))
    return replace(request, video=reel)


def coded(made: dict[str, Any]) -> VideoCodes:
    """Codes that were lists while they were serialize_request down."""
    return VideoCodes(torch.tensor(made["codes"]), made["fps"], made["frames"])


def shape(reel: VideoInput) -> dict[str, Any]:
    """What bytes do not say of a clip."""
    count, height, width, _ = reel.frames.shape
    return {"shape": [count, height, width, reel.fps]}


def packed(reel: VideoInput) -> bytes:
    """The frames of a clip, nothing lost."""
    return zlib.compress(reel.frames.numpy().tobytes(), 1)


def unpacked(data: bytes, shaped: list[Any]) -> VideoInput:
    """The inverse of `packed`."""
    count, height, width, fps = shaped
    frames = np.frombuffer(bytearray(zlib.decompress(data)), np.uint8)
    return VideoInput(torch.from_numpy(frames.reshape(count, height, width, 3)), fps)
