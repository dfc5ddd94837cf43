"""The engine: one thread owns the decoder and works on all requests together.

A pass lets in what fits, moves every picture on by a window and every answer by an id, tells what
is new, and lets go of what is done or unwanted. So nobody waits for the slowest, and whoever comes
late joins at the next pass.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from threading import Condition, Thread
from typing import cast

import torch
from PIL import Image
from torch import Tensor

from emu3.checkpoints.loading import Checkpoint
from emu3.errors import InputError
from emu3.inference.batch import ChatBatch, VisualBatch
from emu3.inference.planning import ChatJob, ImageJob, Job, plan
from emu3.inference.request_handle import EventListener, RequestHandle
from emu3.inference.requests import (
    ChatResult,
    EngineClosed,
    EngineFull,
    EngineStats,
    FinalEvent,
    ImageResult,
    Request,
    RequestCancelled,
    RequestFailed,
    VideoRequest,
    VideoResult,
    VideoSpec,
)
from emu3.inference.scheduler import Scheduler
from emu3.inference.tokenize_request import TokenizeBatch, TokenizeJob
from emu3.inference.validation import check_seed
from emu3.inference.video_request import VideoJob, plan_video
from emu3.inference.vision_worker import VisionWorker
from emu3.models.memory import max_kv_cache_tokens

LOG = logging.getLogger("emu3.inference")
BUG = "the engine failed; its log says more"


@dataclass
class Counts:
    """What was done since the start."""

    passes: int = 0
    codes: int = 0
    tokens: int = 0
    drawn: int = 0
    filmed: int = 0
    said: int = 0
    failed: int = 0
    cancelled: int = 0
    refused: int = 0


class AsyncEngine:
    """`submit` requests from any thread; the engine's own thread does the work."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        queue: int = 64,
        slots: int = 32,
        places: int | None = None,
    ) -> None:
        """At most `queue` requests wait and `slots` are at work.

        `places` bounds all caches together, in ids of one row; by default, by the free memory.
        Raises InputError on a bound below 1.
        """
        self.checkpoint = checkpoint
        most = max_kv_cache_tokens(checkpoint.decoder) if places is None else places
        self._scheduler: Scheduler[Job] = Scheduler(queue, slots, most)
        self._batches: dict[Hashable, VisualBatch | ChatBatch | TokenizeBatch] = {}
        self._counts = Counts()
        self._changed = Condition()
        self._open = True
        self._vision_worker = VisionWorker(checkpoint.vision_processor)
        self._developing = 0  # pictures that are drawn and not decoded yet
        self._thread = Thread(target=self._work, name="emu3-engine", daemon=True)
        self._thread.start()

    def submit(self, request: Request, listener: EventListener | None = None) -> RequestHandle:
        """Queue a request up; its events go to the ticket, or to `listener` if there is one.

        Raises InputError on what could not be done, EngineFull without room in the queue, and
        EngineClosed after `close`.
        """
        ticket = RequestHandle(listener)
        job = plan(self.checkpoint, request, ticket)
        self._sweep()
        with self._changed:
            if not self._open:
                raise EngineClosed("the engine is closing and takes nothing new")
            try:
                self._scheduler.offer(job)
            except EngineFull:
                self._counts.refused += 1
                raise
            self._changed.notify()
        return ticket

    def measure(self, request: VideoRequest) -> VideoSpec:
        """What a video will be, nothing queued up. Raises InputError as `submit` does."""
        check_seed(request.seed)
        job = plan_video(self.checkpoint, request, RequestHandle())
        self._scheduler.check(job)
        return job.measured()

    def stats(self) -> EngineStats:
        """What it holds now and has done so far."""
        with self._changed:
            active, counts = self._scheduler.active, self._counts
            return EngineStats(
                waiting=len(self._scheduler.waiting),
                pictures=sum(isinstance(job, ImageJob) for job in active) + self._developing,
                videos=sum(isinstance(job, VideoJob) for job in active),
                answers=sum(isinstance(job, ChatJob) for job in active),
                places=self._scheduler.places,
                most_places=self._scheduler.most,
                open=self._open,
                **vars(counts),
            )

    def close(self, drain: bool = True) -> None:
        """Take nothing new, finish what there is (or cancel it), and end the thread."""
        with self._changed:
            self._open = False
            if not drain:
                for job in (*self._scheduler.waiting, *self._scheduler.active):
                    job.ticket.cancel()
            self._changed.notify()
        self._thread.join()
        self._vision_worker.close()

    def _work(self) -> None:
        with torch.inference_mode():
            while self._wait():
                try:
                    self._pass()
                except Exception:  # a bug: whoever is at work hears of it, and the thread lives
                    LOG.exception("a pass failed")
                    self._batches.clear()
                    for job in list(self._scheduler.active):
                        self._finish(job, RequestFailed(BUG, ours=True))

    def _wait(self) -> bool:
        """Sleep until there is work; False when there will be none."""
        with self._changed:
            while not (self._batches or self._admits()):
                if not (self._open or self._scheduler.waiting):
                    return False
                self._changed.wait()
        return True

    def _admits(self) -> bool:
        """Whether somebody waits and may come in: not while the vision_worker is full."""
        return bool(self._scheduler.waiting) and self._developing < self._scheduler.slots

    def _pass(self) -> None:
        self._sweep()
        for job in list(self._scheduler.active):
            if job.ticket.cancelled:
                self._finish(job, RequestCancelled())
        with self._changed:
            fresh = self._scheduler.admit() if self._admits() else []
            self._counts.passes += 1
        for key in dict.fromkeys(job.key for job in fresh):
            self._admit(key, [job for job in fresh if job.key == key])
        for key in list(self._batches):
            self._step(key)

    def _sweep(self) -> None:
        """Let go of those who wait and are not wanted any more. From any thread: a pass may take
        long, and they must not hold up who comes.
        """
        with self._changed:
            gone = [job for job in self._scheduler.waiting if job.ticket.cancelled]
            for job in gone:
                self._scheduler.leave(job)
            self._counts.cancelled += len(gone)
        for job in gone:
            job.ticket.tell(RequestCancelled())

    def _admit(self, key: Hashable, fresh: Sequence[Job]) -> None:
        """Let requests of one key into their batch."""
        if key not in self._batches:
            first = fresh[0]
            self._batches[key] = self._batch(first)
        batch = self._batches[key]
        add = cast("Callable[[Sequence[Job]], None]", batch.add)
        self._guarded([*batch.jobs, *fresh], lambda: add(fresh))

    def _batch(self, first: Job) -> VisualBatch | ChatBatch | TokenizeBatch:
        """An empty batch for requests like this one."""
        if isinstance(first, ChatJob):
            return ChatBatch(self.checkpoint)
        if isinstance(first, TokenizeJob):
            return TokenizeBatch(self.checkpoint)
        return VisualBatch(self.checkpoint, first, self._vision_worker.submit)

    def _step(self, key: Hashable) -> None:
        """One pass of a batch, and what came of it."""
        batch = self._batches[key]
        jobs: list[Job] = list(batch.jobs)
        end = cast("Callable[[Job], FinalEvent | Tensor | None]", batch.end)

        def step() -> None:
            new = batch.step()
            with self._changed:
                self._counts.tokens += new if isinstance(batch, ChatBatch) else 0
                self._counts.codes += new if isinstance(batch, VisualBatch) else 0
            for job in jobs:
                how = end(job)
                if isinstance(how, Tensor):
                    self._develop(cast("ImageJob", job), how)
                elif how is not None:
                    self._finish(job, how)

        self._guarded(jobs, step)

    def _guarded(self, jobs: Sequence[Job], action: Callable[[], None]) -> None:
        """Do something for requests of one batch; if it fails, so do they, and nobody else."""
        try:
            action()
        except Exception as error:
            ours = not isinstance(error, InputError)
            if ours:
                LOG.exception("a batch of %d failed", len(jobs))
            message = BUG if ours else str(error)
            for job in jobs:
                if job in self._scheduler.active:
                    self._finish(job, RequestFailed(message, ours))
            self._batches.pop(jobs[0].key, None)

    def _develop(self, job: ImageJob, rows: Tensor) -> None:
        """Free the place of a picture that is drawn, and have it decoded."""
        self._drop(job)
        with self._changed:
            self._scheduler.leave(job)
            self._developing += 1
        self._vision_worker.submit(rows, partial(self._developed, job, rows))

    def _developed(self, job: ImageJob, rows: Tensor, picture: Image.Image | None) -> None:
        """Tell the end of a picture; on the vision_worker's thread."""
        end: FinalEvent = RequestFailed(BUG, ours=True)
        if job.ticket.cancelled:
            end = RequestCancelled()
        elif picture is not None:
            codes = tuple(tuple(row) for row in rows.tolist())
            end = ImageResult(picture, codes, len(job.picture.prompts[0]))
        with self._changed:
            self._developing -= 1
            self._count(end)
            self._changed.notify()
        job.ticket.tell(end)

    def _finish(self, job: Job, end: FinalEvent) -> None:
        """Free a request's place, and only then tell its end."""
        self._drop(job)
        with self._changed:
            self._scheduler.leave(job)
            self._count(end)
        job.ticket.tell(end)

    def _drop(self, job: Job) -> None:
        """Go on without a request."""
        batch = self._batches.get(job.key)
        if batch is not None and job in batch.jobs:
            cast("Callable[[Sequence[Job]], None]", batch.drop)([job])
            if not batch.jobs:
                del self._batches[job.key]

    def _count(self, end: FinalEvent) -> None:
        """Count an end; in the lock in which its request ceases to be at work."""
        self._counts.drawn += isinstance(end, ImageResult)
        self._counts.filmed += isinstance(end, VideoResult)
        self._counts.said += isinstance(end, ChatResult)
        self._counts.failed += isinstance(end, RequestFailed)
        self._counts.cancelled += isinstance(end, RequestCancelled)
