"""Tickets of the engine's thread, followed from the event loop of the server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from emu3.errors import InputError
from emu3.inference.async_engine import AsyncEngine
from emu3.inference.request_handle import RequestHandle
from emu3.inference.requests import (
    ChatResult,
    EngineClosed,
    EngineFull,
    Event,
    ImageResult,
    Request,
    RequestCancelled,
    RequestFailed,
    TokenizeResult,
    VideoResult,
)
from emu3.server.problems import Problem, bad
from emu3.server.settings import Settings

NO_RETRY = {"x-should-retry": "false"}  # OpenAI's clients would do the same work again


class ClientGone(Exception):
    """Nobody is there to be answered."""


class Following:
    """Requests of one HTTP request, all or none submitted. Leaving the block cancels the rest."""

    def __init__(
        self, engine: AsyncEngine, requests: Sequence[Request], settings: Settings
    ) -> None:
        self.engine, self.settings = engine, settings
        self.loop = asyncio.get_running_loop()
        self.queue: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        self.tickets: list[RequestHandle] = []
        self.deadline = self.loop.time() + settings.timeout
        try:
            for index, request in enumerate(requests):
                self.tickets.append(self._submit(index, request))
        except Problem:
            self.cancel()
            raise

    def _submit(self, index: int, request: Request) -> RequestHandle:
        def listener(event: Event) -> None:
            self.loop.call_soon_threadsafe(self.queue.put_nowait, (index, event))

        try:
            return self.engine.submit(request, listener)
        except InputError as error:
            raise bad(None, str(error)) from None
        except EngineFull as error:
            wait = {"Retry-After": str(self.settings.retry_after)}
            raise Problem(429, str(error), code="queue_full", headers=wait) from None
        except EngineClosed as error:
            raise Problem(503, str(error), code="closing", headers=NO_RETRY) from None

    def cancel(self) -> None:
        """Give up what is not done yet."""
        for ticket in self.tickets:
            ticket.cancel()

    async def events(self, request: Any) -> AsyncIterator[tuple[int, Event]]:
        """Events with the number of their request, until all have ended.

        Raises Problem when one fails or time is up, and ClientGone when the client of `request`
        (its body already read) goes away.
        """
        gone = asyncio.ensure_future(_gone(request))
        try:
            left = len(self.tickets)
            while left:
                index, event = await self._next(gone)
                if isinstance(event, RequestFailed):
                    raise Problem(500, event.message) if event.ours else bad(None, event.message)
                if isinstance(event, RequestCancelled):
                    raise Problem(503, "cancelled: the server stops", headers=NO_RETRY)
                left -= isinstance(event, ImageResult | VideoResult | ChatResult | TokenizeResult)
                yield index, event
        finally:
            gone.cancel()
            self.cancel()

    async def _next(self, gone: asyncio.Future[None]) -> tuple[int, Event]:
        coming = asyncio.ensure_future(self.queue.get())
        both: set[asyncio.Future[Any]] = {coming, gone}
        try:
            await asyncio.wait(
                both,
                timeout=max(0.0, self.deadline - self.loop.time()),
                return_when=asyncio.FIRST_COMPLETED,
            )
            if coming.done():
                return coming.result()
        finally:
            coming.cancel()
        if gone.done():
            raise ClientGone
        said = f"not done after {self.settings.timeout:g} seconds (limit timeout)"
        raise Problem(504, said, code="timeout", headers=NO_RETRY)


async def _gone(request: Any) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
