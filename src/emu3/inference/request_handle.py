"""The caller's end of a request."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from queue import SimpleQueue
from threading import Event as Flag

from emu3.inference.requests import Event, FinalEvent

EventListener = Callable[[Event], None]
"""Called with each event, mostly in the engine's thread: it must return at once."""


class RequestHandle:
    """Follows one request. With a listener, events go there and not to `events`."""

    def __init__(self, listener: EventListener | None = None) -> None:
        self._queue: SimpleQueue[Event] = SimpleQueue()
        self._listener = listener or self._queue.put
        self._cancelled = Flag()

    def events(self) -> Iterator[Event]:
        """Each event as it comes, up to the end."""
        while True:
            event = self._queue.get()
            yield event
            if isinstance(event, FinalEvent):
                return

    def result(self) -> FinalEvent:
        """Wait for the end."""
        *_, last = self.events()
        assert isinstance(last, FinalEvent)
        return last

    def cancel(self) -> None:
        """Give the request up: its place is free within a pass. After the end, nothing."""
        self._cancelled.set()

    @property
    def cancelled(self) -> bool:
        """Whether it was given up."""
        return self._cancelled.is_set()

    def tell(self, event: Event) -> None:
        """Hand an event on; for the engine. A listener that fails is gone, and its request too."""
        try:
            self._listener(event)
        except Exception:
            self.cancel()
