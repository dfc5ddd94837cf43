"""The engine: requests in, events out, one forward pass per step for all of them.

A synchronous core that owns the model, the KV cache, the scheduler and the running requests.
`Emu3` (Python API and command line) drives `step` in the caller's thread; `AsyncEngine` drives it
in a background thread for the server. Requests join and leave between steps. Images and videos of
inputs are encoded, and groups of video frames decoded, inside `step`; images are decoded by the
vision worker.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from itertools import count
from threading import RLock

from PIL import Image

from emu3.checkpoints.loading import Checkpoint
from emu3.errors import InputError
from emu3.inference.events import (
    ChatResult,
    EngineStats,
    Event,
    FinalEvent,
    ImageResult,
    RequestCancelled,
    RequestEvent,
    RequestFailed,
    RequestId,
    RequestStarted,
    VideoResult,
    VideoSpec,
)
from emu3.inference.model_runner import ModelRunner
from emu3.inference.request_states import (
    ChatRequestState,
    DecodeJob,
    ImageRequestState,
    RequestState,
    TokenizeRequestState,
)
from emu3.inference.requests import (
    ChatRequest,
    ImageRequest,
    Request,
    TokenizeRequest,
    VideoRequest,
)
from emu3.inference.scheduler import Scheduler
from emu3.inference.sequences import DecodingSequence, TextSequence, VisualSequence
from emu3.inference.video import VideoRequestState
from emu3.inference.vision_worker import InlineVisionWorker, VisionWorker
from emu3.models import memory

INTERNAL_ERROR = "the engine failed on this request; see its log"


@dataclass
class Counters:
    """What was done since the start."""

    steps: int = 0
    generated_codes: int = 0
    generated_tokens: int = 0
    finished_images: int = 0
    finished_videos: int = 0
    finished_chats: int = 0
    failed: int = 0
    cancelled: int = 0
    refused: int = 0


@dataclass(frozen=True)
class PendingDecode:
    """An image that the vision worker decodes; `final` if it ends its request."""

    state: RequestState
    future: Future[Image.Image]
    event: Callable[[Image.Image], Event]
    final: bool


class Engine:
    """Works on many requests at once.

    `add_request`, `cancel` and `stats` may be called from any thread, `step` from one at a time.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        max_waiting: int = 2**31,
        max_running: int = 64,
        max_kv_cache_tokens: int | None = None,
        vision_worker: VisionWorker | None = None,
    ) -> None:
        """At most `max_waiting` requests wait and `max_running` run.

        `max_kv_cache_tokens` limits the KV cache, rows times tokens; the default is what fits
        in free memory. Raises InputError on a limit below 1.
        """
        self.checkpoint = checkpoint
        vocabulary = checkpoint.text_tokenizer.vocabulary
        self.runner = ModelRunner(checkpoint.decoder, vocabulary)
        if max_kv_cache_tokens is None:
            max_kv_cache_tokens = memory.max_kv_cache_tokens(checkpoint.decoder)
        self.scheduler: Scheduler[RequestState] = Scheduler(
            max_waiting, max_running, max_kv_cache_tokens
        )
        self.vision_worker = vision_worker or InlineVisionWorker(checkpoint.vision_processor)
        self.lock = RLock()
        self._counters = Counters()
        self._ids = count(1)
        self._cancelled: set[RequestId] = set()
        self._pending: deque[PendingDecode] = deque()
        self._outputs: list[RequestEvent] = []
        self._decoding: dict[RequestId, DecodingSequence] = {}  # in the model runner, by request

    # Requests in.

    def prepare(self, request: Request) -> RequestState:
        """Check a request and reserve nothing. Raises InputError on what can never be served."""
        state = _make_state(self.checkpoint, request)
        self.scheduler.check(state)
        return state

    def add_request(self, request: Request | RequestState) -> RequestId:
        """Queue a request, or one that was prepared. Raises InputError and EngineFull."""
        state = request if isinstance(request, RequestState) else self.prepare(request)
        with self.lock:
            try:
                self.scheduler.enqueue(state)
            except Exception:
                self._counters.refused += 1
                raise
            state.request_id = next(self._ids)
            return state.request_id

    def describe_video(self, request: VideoRequest) -> VideoSpec:
        """What a video will be; nothing is queued. Raises InputError as `add_request` does."""
        state = VideoRequestState(self.checkpoint, request)
        self.scheduler.check(state)
        return state.spec()

    def cancel(self, request_id: RequestId) -> RequestCancelled | None:
        """Cancel a request; its memory is free within a step.

        Returns the final event of a request that was still waiting. A running one ends with an
        output of the next step; one that has ended is left alone.
        """
        with self.lock:
            for state in self.scheduler.waiting:
                if state.request_id == request_id:
                    self.scheduler.release(state)
                    self._counters.cancelled += 1
                    return RequestCancelled()
            live = [*self.scheduler.running, *(pending.state for pending in self._pending)]
            if any(state.request_id == request_id for state in live):
                self._cancelled.add(request_id)
        return None

    # Work.

    @property
    def has_work(self) -> bool:
        """Whether `step` has something to do now, other than to wait for the vision worker."""
        with self.lock:
            decoded = any(pending.future.done() for pending in self._pending)
            return bool(self.scheduler.running) or decoded or self._may_admit()

    @property
    def has_unfinished(self) -> bool:
        """Whether any request has not ended."""
        with self.lock:
            return bool(self.scheduler.waiting or self.scheduler.running or self._pending)

    def step(self) -> list[RequestEvent]:
        """Admit what fits, run one forward pass, and return what is new.

        Waits for the vision worker if nothing else is left to do.
        """
        self._end_cancelled()
        self._admit()
        if self.runner.sequences:
            self._decode()
        for state in list(self.scheduler.running):
            if state in self.scheduler.running:  # not failed by the prefill of another
                self._advance(state)
        if not self.scheduler.running and not self._outputs and self._pending:
            wait([self._pending[0].future])
        self._collect_images()
        return self._take_outputs()

    def _take_outputs(self) -> list[RequestEvent]:
        outputs, self._outputs = self._outputs, []
        return outputs

    def _emit(self, state: RequestState, event: Event) -> None:
        """Keep an event for the caller of `step`; it survives an error later in the step."""
        self._outputs.append(RequestEvent(state.request_id, event))

    def run(
        self,
        requests: Sequence[Request],
        on_event: Callable[[int, Event], None] | None = None,
    ) -> list[FinalEvent]:
        """Work on requests to their ends in the caller's thread; results in their order.

        `on_event` gets the index of a request and each of its events but the last. At least one
        request runs at a time, whatever the free memory. Raises InputError where a request is
        refused, before any begins, and the error of one that fails.
        """
        states = [_make_state(self.checkpoint, request) for request in requests]
        need = max((state.num_rows * state.kv_tokens_per_row for state in states), default=0)
        limit = self.scheduler.max_kv_cache_tokens
        self.scheduler.max_kv_cache_tokens = max(limit, need)
        ids: dict[RequestId, int] = {}
        results: dict[int, FinalEvent] = {}
        try:
            for index, state in enumerate(states):
                ids[self.add_request(state)] = index
            while len(results) < len(states):
                for output in self.step():
                    index, event = ids[output.request_id], output.event
                    if isinstance(event, RequestFailed):
                        raise event.error or InputError(event.message)
                    if isinstance(event, FinalEvent):
                        results[index] = event
                    elif on_event is not None:
                        on_event(index, event)
        finally:
            self.scheduler.max_kv_cache_tokens = limit
            for request_id in ids:
                self.cancel(request_id)
            if len(self.runner.sequences) != len(self._decoding):  # interrupted in between
                self._clear_runner()
            self._end_cancelled()
            self._collect_images()
            self._take_outputs()
        return [results[index] for index in range(len(states))]

    def fail_running(self, error: Exception) -> list[RequestEvent]:
        """End all running requests after an error of `step` itself; returns all new outputs."""
        self._clear_runner()
        for state in list(self.scheduler.running):
            self._end(state, _failure(error))
        return self._take_outputs()

    def _clear_runner(self) -> None:
        """Remove all sequences after an error that may have left the KV cache in any state."""
        self.runner.clear()
        self._decoding.clear()

    def stats(self) -> EngineStats:
        """What the engine holds now and has done so far."""
        with self.lock:
            running = [state.kind for state in self.scheduler.running]
            running += [pending.state.kind for pending in self._pending if pending.final]
            return EngineStats(
                waiting=len(self.scheduler.waiting),
                running_images=running.count("image"),
                running_videos=running.count("video"),
                running_chats=running.count("chat"),
                kv_cache_tokens=self.scheduler.kv_cache_tokens,
                max_kv_cache_tokens=self.scheduler.max_kv_cache_tokens,
                **vars(self._counters),
            )

    def _may_admit(self) -> bool:
        """Whether waiting requests may start: not while too many images wait to be decoded."""
        decoding = sum(pending.final for pending in self._pending)
        return bool(self.scheduler.waiting) and decoding < self.scheduler.max_running

    def _end_cancelled(self) -> None:
        with self.lock:
            running = [r for r in self.scheduler.running if r.request_id in self._cancelled]
        for state in running:
            self._end(state, RequestCancelled())

    def _admit(self) -> None:
        """Start the requests that fit; one that fails on the way ends alone."""
        with self.lock:
            admitted = self.scheduler.admit() if self._may_admit() else []
        started: list[RequestState] = []
        for state in admitted:
            self._emit(state, RequestStarted(time.monotonic()))
            try:
                state.start()
                started.append(state)
            except Exception as error:
                self._end(state, _failure(error))
        self._sync_sequences(started)

    def _sync_sequences(self, states: Sequence[RequestState]) -> None:
        """Give the model runner the current sequence of each request, in place of its last one."""
        fresh: list[RequestState] = []
        for state in states:
            held = self._decoding.get(state.request_id)
            if held is not None and (held is not state.sequence or held.done):
                self._release_sequence(state)
                held = None
            if held is None and state.sequence is not None and not state.sequence.done:
                fresh.append(state)
        sequences = [state.sequence for state in fresh if state.sequence is not None]
        try:
            self.runner.add(sequences)
        except Exception as error:
            self._fail_decoding(error, fresh)
            return
        for state, sequence in zip(fresh, sequences, strict=True):
            self._decoding[state.request_id] = sequence

    def _fail_decoding(self, error: Exception, fresh: Sequence[RequestState] = ()) -> None:
        """End all requests that share the KV cache, and those that were about to."""
        failed = [r for r in self.scheduler.running if r in fresh or r.request_id in self._decoding]
        self._clear_runner()
        for state in failed:
            self._end(state, _failure(error))

    def _release_sequence(self, state: RequestState) -> None:
        sequence = self._decoding.pop(state.request_id, None)
        if sequence is not None:
            self.runner.remove(sequence)

    def _decode(self) -> None:
        """One forward pass; if it fails, so do the requests that share it."""
        before = self._generated()
        try:
            self.runner.step()
        except Exception as error:
            self._fail_decoding(error)
            return
        after = self._generated()
        with self.lock:
            self._counters.steps += 1
            self._counters.generated_codes += after[0] - before[0]
            self._counters.generated_tokens += after[1] - before[1]

    def _generated(self) -> tuple[int, int]:
        """Visual codes and text tokens of all sequences in the runner."""
        held = self.runner.sequences
        codes = sum(each.num_codes for each in held if isinstance(each, VisualSequence))
        return codes, sum(len(each.ids) for each in held if isinstance(each, TextSequence))

    def _advance(self, state: RequestState) -> None:
        """Report what is new of a request after a step, and end it if it is finished."""
        try:
            events = state.advance()
        except Exception as error:
            self._end(state, _failure(error))
            return
        for event in events:
            if isinstance(event, DecodeJob):
                self._submit(state, event)
            elif isinstance(event, FinalEvent):
                self._end(state, event)
                return
            else:
                self._emit(state, event)
        if state in self.scheduler.running:
            self._sync_sequences([state])

    def _submit(self, state: RequestState, job: DecodeJob) -> None:
        """Submit an image to the vision worker; a request without a sequence frees its memory."""
        final = state.sequence is None
        future = self.vision_worker.submit(job.codes)
        if final:
            self._release_sequence(state)
        with self.lock:
            self._pending.append(PendingDecode(state, future, job.event, final))
            if final:
                self.scheduler.release(state)

    def _collect_images(self) -> None:
        """The events of images that are decoded, in the order in which they were submitted."""
        while self._pending and self._pending[0].future.done():
            pending = self._pending[0]
            state, error = pending.state, pending.future.exception()
            with self.lock:
                self._pending.popleft()
                cancelled = state.request_id in self._cancelled
                if pending.final and cancelled:
                    self._record_end(state, RequestCancelled())
                elif pending.final and error is not None:
                    self._record_end(state, _failure(error))
                elif pending.final:
                    self._record_end(state, pending.event(pending.future.result()))
                elif error is None and not cancelled:
                    self._emit(state, pending.event(pending.future.result()))

    def _end(self, state: RequestState, event: FinalEvent) -> None:
        """Free what a running request holds, and report its end."""
        self._release_sequence(state)
        with self.lock:
            self.scheduler.release(state)
            # Partial images of an ended request are not wanted any more.
            self._pending = deque(each for each in self._pending if each.state is not state)
            self._record_end(state, event)

    def _record_end(self, state: RequestState, event: Event) -> None:
        """Count and report an end, under the lock in which its request ceases to be held."""
        counters = self._counters
        self._cancelled.discard(state.request_id)
        counters.finished_images += isinstance(event, ImageResult)
        counters.finished_videos += isinstance(event, VideoResult)
        counters.finished_chats += isinstance(event, ChatResult)
        counters.failed += isinstance(event, RequestFailed)
        counters.cancelled += isinstance(event, RequestCancelled)
        self._emit(state, event)


def _failure(error: BaseException) -> RequestFailed:
    if isinstance(error, InputError):
        return RequestFailed(str(error), internal=False, error=error)
    return RequestFailed(INTERNAL_ERROR, internal=True, error=error)


def _make_state(checkpoint: Checkpoint, request: Request) -> RequestState:
    """The state of a request. Raises InputError on what can never be served."""
    if isinstance(request, ImageRequest):
        return ImageRequestState(checkpoint, request)
    if isinstance(request, VideoRequest):
        return VideoRequestState(checkpoint, request)
    if isinstance(request, ChatRequest):
        return ChatRequestState(checkpoint, request)
    assert isinstance(request, TokenizeRequest)
    return TokenizeRequestState(checkpoint, request)
