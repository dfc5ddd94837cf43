"""The scheduler: a bounded queue, a number of running requests, and the KV cache's memory.

The length of an image or video is known before it starts and that of an answer has a bound, so a
request that is admitted can be finished; none is ever preempted. The KV cache is a rectangle of
rows times tokens. It keeps its width until its last row is free, and is counted so.

First come, first served: a request that does not fit yet holds back those after it, or it might
wait forever. The scheduler knows neither tensors nor threads; the engine holds a lock around it.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, Protocol, TypeVar

from emu3.errors import InputError
from emu3.inference.events import EngineFull


class Schedulable(Protocol):
    """What the scheduler needs of a request: rows of the KV cache, and tokens in each."""

    num_rows: int
    kv_tokens_per_row: int


R = TypeVar("R", bound=Schedulable)


class Scheduler(Generic[R]):
    """Admits waiting requests in order, as far as running requests and memory allow."""

    def __init__(self, max_waiting: int, max_running: int, max_kv_cache_tokens: int) -> None:
        """Raise InputError on a limit below 1."""
        limits = (max_waiting, max_running, max_kv_cache_tokens)
        if min(limits) < 1:
            raise InputError(
                f"max_waiting {max_waiting}, max_running {max_running} and max_kv_cache_tokens "
                f"{max_kv_cache_tokens} must all be at least 1"
            )
        self.max_waiting, self.max_running, self.max_kv_cache_tokens = limits
        self.waiting: deque[R] = deque()
        self.running: list[R] = []
        self._rows = self._width = 0

    @property
    def kv_cache_tokens(self) -> int:
        """Tokens reserved for running requests."""
        return self._rows * self._width

    def check(self, request: R) -> None:
        """Raise InputError where a request can never be admitted."""
        need = request.num_rows * request.kv_tokens_per_row
        if need > self.max_kv_cache_tokens:
            raise InputError(
                f"the request needs {need:,} KV-cache tokens ({request.num_rows} sequences of "
                f"{request.kv_tokens_per_row:,}), the limit is {self.max_kv_cache_tokens:,}; lower "
                "the size or the length"
            )

    def enqueue(self, request: R) -> None:
        """Queue a request. Raises EngineFull, or InputError where it can never be admitted."""
        self.check(request)
        if len(self.waiting) >= self.max_waiting:
            raise EngineFull(f"{len(self.waiting)} requests are waiting already; try again later")
        self.waiting.append(request)

    def admit(self) -> list[R]:
        """Move the requests that fit from the front of the queue to the running ones."""
        admitted = []
        while self.waiting and len(self.running) < self.max_running:
            request = self.waiting[0]
            rows = self._rows + request.num_rows
            width = max(self._width, request.kv_tokens_per_row) if request.num_rows else self._width
            if rows * width > self.max_kv_cache_tokens:
                break
            self._rows, self._width = rows, width
            admitted.append(self.waiting.popleft())
            self.running.append(request)
        return admitted

    def release(self, request: R) -> None:
        """Remove a waiting or running request and free what it holds."""
        if request in self.waiting:
            self.waiting.remove(request)
            return
        self.running.remove(request)
        self._rows -= request.num_rows
        if not self._rows:
            self._width = 0
