"""Cancellation of the request that runs in one tab of one open page."""

from __future__ import annotations

import asyncio
from typing import Any


class PageConnection:
    """The `emu3.server.event_stream.Connection` of a request that is made from the page.

    It ends when the user cancels. The engine requests are then cancelled as they are when an HTTP
    client disconnects.
    """

    def __init__(self) -> None:
        self._closed = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        """Wait until the connection is closed, and return the ASGI message for it."""
        await self._closed.wait()
        return {"type": "http.disconnect"}

    def close(self) -> None:
        """Close the connection."""
        self._closed.set()


class TabSession:
    """The current request of one tab. A new request cancels the previous one."""

    def __init__(self) -> None:
        self._connection: PageConnection | None = None

    def start_request(self) -> PageConnection:
        """Cancel the current request and return the connection of a new one."""
        self.cancel()
        self._connection = PageConnection()
        return self._connection

    def cancel(self) -> None:
        """Cancel the current request, if there is one."""
        if self._connection is not None:
            self._connection.close()
