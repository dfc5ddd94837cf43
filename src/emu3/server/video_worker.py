"""The video worker: threads that take jobs from the store and have the engine generate them.

A job is rebuilt from the store, seed included, so a restarted server generates the same video.
"""

from __future__ import annotations

import logging
import time
from dataclasses import asdict, replace
from pathlib import Path
from threading import Condition, Thread

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
from emu3.inference.requests import VideoRequest
from emu3.processing.document_format import VideoCodes
from emu3.processing.video import check_clip_path, video_writer
from emu3.server.errors import INTERNAL_ERROR
from emu3.server.job_store import COMPLETED, QUEUED, Job, JobStore
from emu3.server.metrics import Metrics
from emu3.server.serialization import (
    deserialize_codes,
    deserialize_request,
    serialize_codes,
    serialize_request,
)
from emu3.server.settings import Settings

LOG = logging.getLogger("emu3.server.video_worker")
RETRY_SECONDS = 0.5  # until a job is submitted again after the engine's queue was full
EXPIRY_SECONDS = 60.0  # between two searches for expired videos


class VideoWorker:
    """Generates the queued video jobs of one server, several at a time."""

    def __init__(self, engine: AsyncEngine, settings: Settings, metrics: Metrics) -> None:
        """Open the job store and continue with its queued jobs. Raises InputError."""
        self.engine, self.settings, self.metrics = engine, settings, metrics
        self.store = JobStore(settings.jobs, settings.model)
        self._changed = Condition()
        self._running: dict[str, RequestHandle | None] = {}  # by job id; None before submission
        self._progress: dict[str, int] = {}  # percent, by job id
        self._open = True
        self._threads = [
            Thread(target=self._run, name=f"emu3-video-{number}", daemon=True)
            for number in range(settings.max_running_videos)
        ]
        for thread in self._threads:
            thread.start()

    def describe(self, request: VideoRequest) -> VideoSpec:
        """Return what a video will be. Raises InputError on a request that cannot be served."""
        check_clip_path(self.settings.jobs / "clip.mp4")  # refuses if PyAV is not installed
        return self.engine.describe_video(request)

    def enqueue(self, request: VideoRequest, spec: VideoSpec) -> Job | None:
        """Queue a job; None if the queue is full."""
        job = self.store.add(
            request.prompt or "",
            f"{round(spec.frames / spec.fps, 3):g}",
            f"{spec.width}x{spec.height}",
            serialize_request(request),
            self.settings.max_jobs,
        )
        with self._changed:
            self._changed.notify()
        return job

    def progress(self, job: Job) -> tuple[str, int]:
        """Return the status of a job in OpenAI's terms, and its progress in percent."""
        if job.status != QUEUED:
            return job.status, 100 if job.status == COMPLETED else 0
        with self._changed:
            if job.id in self._progress:
                return "in_progress", self._progress[job.id]
        return "queued", 0

    def delete(self, job: Job) -> bool:
        """Delete a job; a running one is cancelled."""
        deleted = self.store.delete(job.id)
        with self._changed:
            if (handle := self._running.get(job.id)) is not None:
                handle.cancel()
        return deleted

    def expires(self, job: Job) -> int | None:
        """Return when a finished job will be deleted, in seconds since 1970."""
        hours = self.settings.keep_videos
        return None if hours is None or job.completed is None else int(job.completed + hours * 3600)

    def delete_expired(self) -> None:
        """Delete the jobs that finished longer ago than `keep_videos`."""
        if (hours := self.settings.keep_videos) is not None:
            self.store.delete_finished(time.time() - hours * 3600)

    def video_codes(self, job: Job) -> VideoCodes:
        """Return the codes of a completed video."""
        return deserialize_codes(self.store.result(job.id))

    def close(self) -> None:
        """Cancel running jobs, which start again with the next server, and end the threads."""
        with self._changed:
            if not self._open:
                return
            self._open = False
            for handle in self._running.values():
                if handle is not None:
                    handle.cancel()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        self.store.close()

    def _run(self) -> None:
        while (job := self._next()) is not None:
            try:
                self._generate_or_fail(job)
            except Exception:  # the failure could not be stored: the disk may be full
                LOG.exception("a video job is queued again")
                time.sleep(RETRY_SECONDS)
            finally:
                with self._changed:
                    del self._running[job.id]
                    self._progress.pop(job.id, None)

    def _next(self) -> Job | None:
        """Wait for a job; None once the worker is closed."""
        with self._changed:
            while self._open:
                if (job := self.store.next(self._running)) is not None:
                    self._running[job.id] = None
                    return job
                self.delete_expired()
                self._changed.wait(None if self.settings.keep_videos is None else EXPIRY_SECONDS)
        return None

    def _generate_or_fail(self, job: Job) -> None:
        try:
            self._generate(job)
        except InputError as error:
            self.store.fail(job.id, str(error))
        except Exception:
            LOG.exception("a video job failed")
            self.store.fail(job.id, INTERNAL_ERROR)

    def _generate(self, job: Job) -> None:
        request = deserialize_request(self.store.request(job.id))
        metrics = self.metrics.submitted(request)
        handle = self._submit(job, request)
        if handle is not None:
            for event in handle.events():
                metrics.on_event(event)
                self._on_event(job, event)

    def _submit(self, job: Job, request: VideoRequest) -> RequestHandle | None:
        """Submit a job once the engine's queue is not full; None if it was deleted meanwhile."""
        while True:
            with self._changed:
                if not self._open or self.store.get(job.id) is None:
                    return None
                try:
                    handle = self.engine.submit(request)
                except EngineFull:
                    self._changed.wait(RETRY_SECONDS)
                    continue
                except EngineClosed:
                    return None
                self._running[job.id], self._progress[job.id] = handle, 0
                return handle

    def _on_event(self, job: Job, event: Event) -> None:
        """Store progress and results. A cancelled job stays queued, or was deleted."""
        if isinstance(event, VideoFrames):
            with self._changed:
                self._progress[job.id] = min(99, 100 * event.done // event.total)
        elif isinstance(event, RequestFailed):
            self.store.fail(job.id, INTERNAL_ERROR if event.internal else event.message)
        elif isinstance(event, VideoResult):
            path = self.store.path(job.id)
            write_video(path, event, self.settings.model)
            if not self.store.complete(
                job.id, serialize_codes(event.video_codes)
            ):  # deleted in the meantime
                path.unlink(missing_ok=True)


def write_video(path: Path, video: VideoResult, model: str) -> None:
    """Write a video as MP4 with its settings inside; `model` replaces the checkpoint's path."""
    settings = asdict(replace(video.settings, model=model))
    with video_writer(path, video.fps, settings) as add_frame:
        for frame in video.frames.numpy():
            add_frame(frame)
