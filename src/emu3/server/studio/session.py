"""Who waits for something on a page: there until they cancel, ask for another, or close it."""

from __future__ import annotations

import asyncio
from typing import Any


class Visitor:
    """Stands in for the connection of an HTTP request, which `EventStream` watches."""

    def __init__(self) -> None:
        self._left = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        """Wait until the visitor has left."""
        await self._left.wait()
        return {"type": "http.disconnect"}

    def leave(self) -> None:
        """Give up whatever was waited for: its tickets are cancelled at once."""
        self._left.set()


class Seat:
    """One tab of one open page; whoever sits down sends away who sat there before."""

    def __init__(self) -> None:
        self.visitor: Visitor | None = None

    def sit(self) -> Visitor:
        """A visitor who has not left."""
        self.leave()
        self.visitor = Visitor()
        return self.visitor

    def leave(self) -> None:
        """The visitor leaves, if there is one."""
        if self.visitor is not None:
            self.visitor.leave()
