"""The engine in a background thread, for the server: submit from any thread, follow by events."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from queue import SimpleQueue
from threading import Condition, Thread

import torch

from emu3.checkpoints.loading import Checkpoint
from emu3.inference.engine import Engine
from emu3.inference.events import (
    EngineClosed,
    EngineStats,
    Event,
    FinalEvent,
    RequestEvent,
    RequestFailed,
    RequestId,
    VideoSpec,
)
from emu3.inference.requests import Request, VideoRequest
from emu3.inference.vision_worker import ThreadedVisionWorker

LOG = logging.getLogger("emu3.engine")

EventListener = Callable[[Event], None]
"""Called with each event, mostly in the engine's thread: it must return at once."""


class RequestHandle:
    """Follows one request. With a listener, events go there and not to `events`."""

    def __init__(self, engine: AsyncEngine, listener: EventListener | None = None) -> None:
        self._engine = engine
        self._queue: SimpleQueue[Event] = SimpleQueue()
        self._listener = listener or self._queue.put
        self.request_id: RequestId = 0
        self._result: FinalEvent | None = None

    def events(self) -> Iterator[Event]:
        """Each event as it comes, up to the final one."""
        while True:
            event = self._queue.get()
            yield event
            if isinstance(event, FinalEvent):
                return

    def result(self) -> FinalEvent:
        """Wait for the final event; it may be asked for again."""
        if self._result is None:
            *_, last = self.events()
            assert isinstance(last, FinalEvent)
            self._result = last
        return self._result

    def cancel(self) -> None:
        """Cancel the request; its memory is free within a step. After its end, nothing happens."""
        self._engine.cancel(self)

    def deliver(self, event: Event) -> None:
        """Hand an event to the listener. The request of a listener that fails is cancelled."""
        try:
            self._listener(event)
        except Exception:
            self.cancel()


class AsyncEngine:
    """Runs an `Engine` in a thread of its own."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        max_waiting: int = 64,
        max_running: int = 32,
        max_kv_cache_tokens: int | None = None,
    ) -> None:
        """Limits as in `Engine`. Raises InputError on a limit below 1."""
        self.checkpoint = checkpoint
        self._changed = Condition()
        self._worker = ThreadedVisionWorker(checkpoint.vision_processor, self._wake)
        self.core = Engine(
            checkpoint,
            max_waiting=max_waiting,
            max_running=max_running,
            max_kv_cache_tokens=max_kv_cache_tokens,
            vision_worker=self._worker,
        )
        self._handles: dict[RequestId, RequestHandle] = {}
        self._open = True
        self._thread = Thread(target=self._work, name="emu3-engine", daemon=True)
        self._thread.start()

    def submit(self, request: Request, listener: EventListener | None = None) -> RequestHandle:
        """Queue a request; its events go to the handle, or to `listener` if there is one.

        Raises InputError on what can never be served, EngineFull if the queue is full, and
        EngineClosed after `close`.
        """
        run = self.core.prepare(request)  # tokenizes: not under the lock
        handle = RequestHandle(self, listener)
        with self._changed:
            if not self._open:
                raise EngineClosed("the engine is closing and accepts no requests")
            handle.request_id = self.core.add_request(run)
            self._handles[handle.request_id] = handle
            self._changed.notify()
        return handle

    def cancel(self, handle: RequestHandle) -> None:
        """Cancel a request. One that still waits ends at once, in the caller's thread."""
        with self._changed:
            event = self.core.cancel(handle.request_id)
            if event is not None:
                self._handles.pop(handle.request_id, None)
            self._changed.notify()
        if event is not None:
            handle.deliver(event)

    def describe_video(self, request: VideoRequest) -> VideoSpec:
        """What a video will be; nothing is queued. Raises InputError as `submit` does."""
        return self.core.describe_video(request)

    def stats(self) -> EngineStats:
        """What the engine holds now and has done so far."""
        return replace(self.core.stats(), open=self._open)

    def close(self, drain: bool = True) -> None:
        """Accept nothing new, finish what there is (or cancel it), and end the threads."""
        with self._changed:
            self._open = False
            handles = [] if drain else list(self._handles.values())
            self._changed.notify()
        for handle in handles:
            handle.cancel()
        self._thread.join()
        self._worker.close()

    def _work(self) -> None:
        with torch.inference_mode():
            while self._wait():
                try:
                    outputs = self.core.step()
                except Exception as error:  # the running requests fail, the thread goes on
                    outputs = self.core.fail_running(error)
                self._deliver(outputs)

    def _wait(self) -> bool:
        """Sleep until there is work; False when there will be none."""
        with self._changed:
            while not self.core.has_work:
                if not self._open and not self.core.has_unfinished:
                    return False
                self._changed.wait()
        return True

    def _wake(self) -> None:
        """An image is decoded; called by the vision worker's thread."""
        with self._changed:
            self._changed.notify()

    def _deliver(self, outputs: list[RequestEvent]) -> None:
        logged: set[int] = set()
        for output in outputs:
            event = output.event
            if (
                isinstance(event, RequestFailed)
                and event.internal
                and id(event.error) not in logged
            ):
                logged.add(id(event.error))
                LOG.error("a step or request failed", exc_info=event.error)
            with self._changed:
                final = isinstance(event, FinalEvent)
                take = self._handles.pop if final else self._handles.get
                handle = take(output.request_id, None)
            if handle is not None:
                handle.deliver(event)
