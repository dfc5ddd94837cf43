"""The ASGI application in front of Gradio, which restricts what can be requested from it.

Gradio serves many more paths than the page needs: files of the machine, a proxy for other hosts,
developer tools. Only the paths listed here exist; the others are left to the API, which answers
404. No file passes through Gradio's own upload or download: uploads are data URLs in JSON, and
results are served from the media cache.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass

from starlette.datastructures import MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from emu3.server.errors import APIError
from emu3.server.settings import Settings
from emu3.server.studio.auth import (
    LOGIN_PATH,
    BrowserAuth,
    error_response,
    is_same_origin,
    read_body,
)
from emu3.server.studio.media_cache import MEDIA_PATH, MediaCache

HEARTBEAT_PATH = "/gradio_api/heartbeat/"
GET_PATHS = (
    "/",
    "/config",
    "/theme.css",
    "/manifest.json",
    "/favicon.ico",
    "/gradio_api/app_id",
    "/gradio_api/info",
    "/gradio_api/queue/data",
    "/gradio_api/startup-events",
)
GET_PREFIXES = ("/assets/", "/static/", "/svelte/", HEARTBEAT_PATH, MEDIA_PATH)
POST_PATHS = ("/gradio_api/queue/join", "/gradio_api/cancel", "/gradio_api/reset", LOGIN_PATH)

SECURITY_HEADERS = {
    # Gradio's page refers to other hosts (fonts, analytics); browsers must not contact them.
    "Content-Security-Policy": (
        "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
        "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
        "media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; "
        "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # "no-referrer" would remove the Origin header of forms
}


class StudioGateway:
    """Serves the studio's paths: the login, the media cache, and the permitted part of Gradio."""

    def __init__(self, gradio_app: ASGIApp, media_cache: MediaCache, settings: Settings) -> None:
        self._gradio_app, self._media_cache, self._settings = gradio_app, media_cache, settings
        self._auth = BrowserAuth(settings.api_key)
        self._closing = asyncio.Event()

    @staticmethod
    def owns_path(path: str) -> bool:
        """Whether a path belongs to the studio and not to the API."""
        return path in GET_PATHS or path in POST_PATHS or path.startswith(GET_PREFIXES)

    def is_authenticated(self, scope: Scope) -> bool:
        """Whether a request is for a path of the studio and has a valid session cookie."""
        return self.owns_path(scope["path"]) and self._auth.has_valid_cookie(scope)

    async def login(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request that is not authenticated; see `BrowserAuth.login`."""
        await self._auth.login(scope, receive, _add_security_headers(send))

    def close(self) -> None:
        """End the heartbeat connections of open pages, so that the server can shut down."""
        self._closing.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer an authenticated request for a path that `owns_path` accepts."""
        send = _add_security_headers(send)
        try:
            await self._dispatch(scope, receive, send)
        except APIError as error:
            await error_response(error)(scope, receive, send)

    async def _dispatch(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, method = scope["path"], scope["method"]
        if path == LOGIN_PATH:
            await self._auth.login(scope, receive, send)
        elif method not in (("POST",) if path in POST_PATHS else ("GET", "HEAD")):
            raise APIError(405, f"method {method} is not allowed for this path")
        elif not is_same_origin(scope):
            raise APIError(403, "cross-origin request refused")
        elif path.startswith(MEDIA_PATH):
            await self._media_response(path)(scope, receive, send)
        elif path.startswith(HEARTBEAT_PATH):
            await self._heartbeat(scope, receive, send)
        else:
            if method == "POST":
                receive = await self._checked_body(receive)
            await self._gradio_app(scope, receive, send)

    def _media_response(self, path: str) -> Response:
        media = self._media_cache.get(path)
        if media is None:
            raise APIError(404, "this file is no longer in the media cache")
        headers = {"Cache-Control": "private, max-age=86400, immutable"}
        return Response(media.data, headers=headers, media_type=media.media_type)

    async def _heartbeat(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward the connection that a page keeps open, until it ends or `close` is called."""
        connection = asyncio.ensure_future(self._gradio_app(scope, receive, send))
        closing = asyncio.ensure_future(self._closing.wait())
        try:
            await asyncio.wait((connection, closing), return_when=asyncio.FIRST_COMPLETED)
        finally:
            closing.cancel()
            connection.cancel()
            await asyncio.gather(connection, closing, return_exceptions=True)

    async def _checked_body(self, receive: Receive) -> Receive:
        """Read and check the body, and return a `receive` that replays it. Raises APIError."""
        body = await read_body(receive, self._settings.max_body, "max_body")
        await asyncio.to_thread(reject_file_references, body)
        is_sent = False

        async def replay() -> Message:
            nonlocal is_sent
            if is_sent:
                return await receive()
            is_sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        return replay


@dataclass(frozen=True)
class StudioMiddleware:
    """ASGI middleware that routes the studio's paths to the gateway, the others to `app`."""

    app: ASGIApp
    gateway: StudioGateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Route one connection."""
        is_studio = scope["type"] == "http" and self.gateway.owns_path(scope["path"])
        await (self.gateway if is_studio else self.app)(scope, receive, send)


def reject_file_references(body: bytes) -> None:
    """Raise APIError if JSON contains an object with the key `path`, at any depth.

    Gradio treats such an object as a file: it would read it from disk or download it.
    """
    try:
        values = [json.loads(body or b"{}")]
    except (ValueError, RecursionError):
        raise APIError(400, "the body is not valid JSON") from None
    while values:
        value = values.pop()
        if isinstance(value, dict):
            if "path" in value:
                raise APIError(400, "file references are refused; send images as data URLs")
            values += value.values()
        elif isinstance(value, list):
            values += value


def _add_security_headers(send: Send) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            message.setdefault("headers", [])
            MutableHeaders(scope=message).update(SECURITY_HEADERS)
        await send(message)

    return send_with_headers
