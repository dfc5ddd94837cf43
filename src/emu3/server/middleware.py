"""ASGI middleware: request ids, the access log and HTTP metrics; and authentication."""

from __future__ import annotations

import hmac
import json
import logging
import re
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from emu3.server.errors import APIError
from emu3.server.metrics import Metrics

if TYPE_CHECKING:
    from emu3.server.studio.gateway import StudioGateway

LOG = logging.getLogger("emu3.server")
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
PUBLIC_PATHS = ("/health", "/ready", "/openapi.json", "/docs")  # they need no API key
LOGGED_PATHS = (
    "/v1/images/generations",
    "/v1/images/edits",
    "/v1/chat/completions",
    "/metrics",
    *PUBLIC_PATHS,
)
LOGGED_PREFIXES = ("/v1/models", "/v1/videos")


@dataclass(frozen=True)
class RequestLogMiddleware:
    """Gives every request an id, and logs and counts it.

    A log line has id, method, route, status and time; never headers, queries, bodies or prompts.
    """

    app: ASGIApp
    metrics: Metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        start, status = time.perf_counter(), 500  # if the app raises before it responds

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                header = (b"x-request-id", request_id.encode())
                message["headers"] = [*message.get("headers", []), header]
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        finally:
            seconds = time.perf_counter() - start
            route = route_label(scope["path"])
            self.metrics.http_requests.labels(route, str(status)).inc()
            self.metrics.http_seconds.labels(route).observe(seconds)
            line = {
                "time": round(time.time(), 3),
                "id": request_id,
                "method": scope["method"],
                "route": route,
                "status": status,
                "ms": round(1000 * seconds),
            }
            LOG.info(json.dumps(line))


@dataclass(frozen=True)
class AuthenticationMiddleware:
    """Requires `Authorization: Bearer KEY`, or a session cookie on the studio's paths."""

    app: ASGIApp
    api_key: str | None  # None lets every request through
    studio: StudioGateway | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] != "http" or self._is_authenticated(scope):
            await self.app(scope, receive, send)
        elif self.studio is not None and self.studio.owns_path(scope["path"]):
            await self.studio.login(scope, receive, send)
        else:
            error = APIError(
                401,
                "a valid API key is required: Authorization: Bearer KEY",
                code="invalid_api_key",
            )
            response = JSONResponse(error.body(), 401, {"WWW-Authenticate": "Bearer"})
            await response(scope, receive, send)

    def _is_authenticated(self, scope: Scope) -> bool:
        if self.api_key is None or scope["path"] in PUBLIC_PATHS:
            return True
        if self.studio is not None and self.studio.is_authenticated(scope):
            return True
        scheme, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
        is_key = hmac.compare_digest(key.strip().encode(), self.api_key.encode())
        return is_key and scheme.lower() == "bearer"


def route_label(path: str) -> str:
    """Return one of a few labels, so that clients cannot write into the log or add metrics."""
    for prefix in LOGGED_PREFIXES:
        if path == prefix or path.startswith(f"{prefix}/"):
            return prefix
    return path if path in LOGGED_PATHS else "other"
