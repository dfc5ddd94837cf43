"""Engine events in the server's event loop, and their format as server-sent events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive

from emu3.errors import InputError
from emu3.inference.async_engine import AsyncEngine, RequestHandle
from emu3.inference.events import (
    EngineClosed,
    EngineFull,
    Event,
    FinalEvent,
    RequestCancelled,
    RequestFailed,
)
from emu3.inference.requests import Request
from emu3.server.errors import APIError, ClientDisconnected, invalid_request, queue_full
from emu3.server.metrics import Metrics
from emu3.server.settings import Settings

SSE_DONE = "data: [DONE]\n\n"
SSE_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
NO_RETRY = {"x-should-retry": "false"}  # keeps OpenAI's clients from repeating the same work


class EventStream:
    """The engine requests of one HTTP request, submitted together: all of them or none.

    `events` merges their events and cancels every unfinished request when the iteration ends.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        requests: Sequence[Request],
        settings: Settings,
        metrics: Metrics,
    ) -> None:
        """Submit `requests`. Raises APIError if the engine refuses one."""
        self.engine, self.settings, self.metrics = engine, settings, metrics
        self.loop = asyncio.get_running_loop()
        self.queue: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        self.handles: list[RequestHandle] = []
        self.deadline = self.loop.time() + settings.timeout
        try:
            for index, request in enumerate(requests):
                self.handles.append(self._submit(index, request))
        except APIError:
            self.cancel()
            raise

    def _submit(self, index: int, request: Request) -> RequestHandle:
        metrics = self.metrics.submitted(request)

        def listener(event: Event) -> None:  # called in the engine's thread
            metrics.on_event(event)
            self.loop.call_soon_threadsafe(self.queue.put_nowait, (index, event))

        try:
            return self.engine.submit(request, listener)
        except InputError as error:
            raise invalid_request(None, str(error)) from None
        except EngineFull as error:
            metrics.rejected()
            raise queue_full(str(error), self.settings.retry_after) from None
        except EngineClosed as error:
            raise APIError(503, str(error), code="closing", headers=NO_RETRY) from None

    def cancel(self) -> None:
        """Cancel all requests that have not finished."""
        for handle in self.handles:
            handle.cancel()

    async def events(self, receive: Receive) -> AsyncIterator[tuple[int, Event]]:
        """Yield (index of the request, event) until all requests have finished.

        Raises APIError if a request fails or the time limit is reached, and ClientDisconnected
        if `receive`, the client's ASGI channel, says that the client closed the connection. The
        request body must have been read before.
        """
        disconnected = asyncio.ensure_future(_wait_for_disconnect(receive))
        try:
            unfinished = len(self.handles)
            while unfinished:
                index, event = await self._next(disconnected)
                if isinstance(event, RequestFailed | RequestCancelled):
                    raise _error_of(event)
                unfinished -= isinstance(event, FinalEvent)
                yield index, event
        finally:
            disconnected.cancel()
            self.cancel()

    async def _next(self, disconnected: asyncio.Future[None]) -> tuple[int, Event]:
        event = asyncio.ensure_future(self.queue.get())
        both: set[asyncio.Future[Any]] = {event, disconnected}
        try:
            await asyncio.wait(
                both,
                timeout=max(0.0, self.deadline - self.loop.time()),
                return_when=asyncio.FIRST_COMPLETED,
            )
            if event.done():
                return event.result()
        finally:
            event.cancel()
        if disconnected.done():
            raise ClientDisconnected
        message = f"not finished after {self.settings.timeout:g} seconds (limit timeout)"
        raise APIError(504, message, code="timeout", headers=NO_RETRY)


def _error_of(event: RequestFailed | RequestCancelled) -> APIError:
    if isinstance(event, RequestCancelled):
        return APIError(503, "request cancelled: the server is stopping", headers=NO_RETRY)
    return APIError(500, event.message) if event.internal else invalid_request(None, event.message)


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def sse_response(events: AsyncIterator[str]) -> StreamingResponse:
    """Return the response for a stream of formatted server-sent events."""
    return StreamingResponse(events, media_type="text/event-stream", headers=SSE_HEADERS)


def sse_event(data: str, name: str | None = None) -> str:
    """Format one server-sent event; `data` is JSON on one line."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {data}\n\n"


def sse_error(error: APIError) -> str:
    """Format the event that ends a stream in which an error occurred."""
    return sse_event(json.dumps({"type": "error", **error.body()}), "error")
