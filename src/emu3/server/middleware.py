"""What every request passes on its way in and out: an id, the key, a line in the log, a count.

Logged are route, status and time; never headers, bodies or prompts.
"""

from __future__ import annotations

import hmac
import json
import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from emu3.server.errors import APIError
from emu3.server.metrics import Metrics
from emu3.server.settings import Settings

if TYPE_CHECKING:
    from emu3.server.studio.gateway import StudioGateway

LOG = logging.getLogger("emu3.server")
REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
OPEN = ("/health", "/ready", "/openapi.json", "/docs")  # without a key: nobody's secret is there
ROUTES = (
    "/v1/images/generations",
    "/v1/images/edits",
    "/v1/chat/completions",
    "/v1/models",
    "/v1/videos",
    "/metrics",
    *OPEN,
)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]


@dataclass(frozen=True)
class RequestMiddleware:
    """An ASGI application around another."""

    app: Application
    settings: Settings
    metrics: Metrics
    studio: StudioGateway | None = None  # accepts a cookie in place of the key, and has a login

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        name = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex.encode()
        start, status = time.perf_counter(), 0

        async def answering(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), (b"x-request-id", name)]
            await send(message)

        try:
            if self.lets_in(scope["path"], headers.get(b"authorization", b"")) or (
                self.studio is not None and self.studio.is_authenticated(scope)
            ):
                await self.app(scope, receive, answering)
            elif self.studio is not None and self.studio.owns_path(scope["path"]):
                await self.studio.login(scope, receive, answering)
            else:
                await refuse(answering)
        except Exception:
            status = status or 500
            raise
        finally:
            seconds = time.perf_counter() - start
            route = route_of(scope["path"])
            self.metrics.count(route, status, seconds)
            said = {"id": name.decode(), "method": scope["method"], "route": route}
            said |= {"status": status, "ms": round(1000 * seconds)}
            LOG.info(json.dumps({"time": round(time.time(), 3), **said}))

    def lets_in(self, path: str, given: bytes) -> bool:
        """Whether the key is right, or none is needed."""
        if self.settings.api_key is None or path in OPEN:
            return True
        kind, _, key = given.partition(b" ")
        wanted = self.settings.api_key.encode()
        return hmac.compare_digest(key.strip(), wanted) and kind.lower() == b"bearer"


def route_of(path: str) -> str:
    """One of few names: what is logged and counted must not be the client's to choose."""
    if path.startswith("/v1/models/"):
        return "/v1/models"
    if path.startswith("/v1/videos/"):
        return "/v1/videos"
    return path if path in ROUTES else "other"


async def refuse(send: Send) -> None:
    """Answer 401."""
    problem = APIError(
        401, "a valid API key is needed: Authorization: Bearer KEY", code="invalid_api_key"
    )
    body = json.dumps(problem.body()).encode()
    headers = [(b"content-type", b"application/json"), (b"www-authenticate", b"Bearer")]
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
