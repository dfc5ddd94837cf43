"""Engine events in the server's event loop, and their format as server-sent events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol

from emu3.errors import InputError
from emu3.inference.async_engine import AsyncEngine, RequestHandle
from emu3.inference.events import (
    ChatResult,
    EngineClosed,
    EngineFull,
    Event,
    ImageResult,
    RequestCancelled,
    RequestFailed,
    TokenizeResult,
    VideoResult,
)
from emu3.inference.requests import Request
from emu3.server.errors import APIError, invalid_request
from emu3.server.settings import Settings

SSE_DONE = "data: [DONE]\n\n"
SSE_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
NO_RETRY = {"x-should-retry": "false"}  # keeps OpenAI's clients from repeating the same work


class ClientDisconnected(Exception):
    """The client closed the connection before the response was complete."""


class Connection(Protocol):
    """A client connection: a Starlette request, or a stand-in with the same method."""

    async def receive(self) -> Any:
        """Return the next ASGI message; `http.disconnect` once the client has left."""


class EventStream:
    """The engine requests of one HTTP request, submitted together: all of them or none.

    `events` merges their events and cancels every unfinished request when the iteration ends.
    """

    def __init__(
        self, engine: AsyncEngine, requests: Sequence[Request], settings: Settings
    ) -> None:
        """Submit `requests`. Raises APIError if the engine refuses one."""
        self.engine, self.settings = engine, settings
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
        def listener(event: Event) -> None:  # called in the engine's thread
            self.loop.call_soon_threadsafe(self.queue.put_nowait, (index, event))

        try:
            return self.engine.submit(request, listener)
        except InputError as error:
            raise invalid_request(None, str(error)) from None
        except EngineFull as error:
            wait = {"Retry-After": str(self.settings.retry_after)}
            raise APIError(429, str(error), code="queue_full", headers=wait) from None
        except EngineClosed as error:
            raise APIError(503, str(error), code="closing", headers=NO_RETRY) from None

    def cancel(self) -> None:
        """Cancel all requests that have not finished."""
        for handle in self.handles:
            handle.cancel()

    async def events(self, connection: Connection) -> AsyncIterator[tuple[int, Event]]:
        """Yield (index of the request, event) until all requests have finished.

        Raises APIError if a request fails or the time limit is reached, and ClientDisconnected
        if the client, whose request body has already been read, closes the connection.
        """
        disconnected = asyncio.ensure_future(_wait_for_disconnect(connection))
        try:
            unfinished = len(self.handles)
            while unfinished:
                index, event = await self._next(disconnected)
                if isinstance(event, RequestFailed):
                    raise (
                        APIError(500, event.message)
                        if event.internal
                        else invalid_request(None, event.message)
                    )
                if isinstance(event, RequestCancelled):
                    raise APIError(
                        503, "request cancelled: the server is stopping", headers=NO_RETRY
                    )
                unfinished -= isinstance(
                    event, ImageResult | VideoResult | ChatResult | TokenizeResult
                )
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


async def _wait_for_disconnect(connection: Connection) -> None:
    while (await connection.receive())["type"] != "http.disconnect":
        pass


def sse_event(data: dict[str, Any], name: str | None = None) -> str:
    """Format one server-sent event."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(data, ensure_ascii=False)}\n\n"


def sse_error(error: APIError) -> str:
    """Format the event that ends a stream in which an error occurred."""
    return sse_event({"type": "error", **error.body()}, "error")
