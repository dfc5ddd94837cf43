"""The studio's door: which paths are its own, who may come in, and what may be sent.

Gradio answers far more paths than the page needs: files of this machine, addresses fetched for
others, tools for its developers. Only those in `GET` and `POST` exist here, and no file travels
through Gradio at all: pictures come as data URLs, and go from the shelf.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from emu3.server.errors import APIError
from emu3.server.settings import Settings
from emu3.server.studio.media_cache import PATH, Shelf

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

KEY_PATH = "/studio/key"
HEARTBEAT = "/gradio_api/heartbeat/"
GET = (
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
BELOW = ("/assets/", "/static/", "/svelte/", HEARTBEAT, PATH)
POST = ("/gradio_api/queue/join", "/gradio_api/cancel", "/gradio_api/reset", KEY_PATH)
COOKIE = "emu3_studio"
KEY_BODY = 4096  # bytes of the form that brings a key

HEADERS = (
    # Whatever Gradio's page refers to elsewhere, browsers do not go there.
    (
        b"content-security-policy",
        b"default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
        b"style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
        b"media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; "
        b"object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),  # with none, browsers would not say their origin
)


class Door:
    """An ASGI application in front of Gradio's."""

    def __init__(self, page: Application, shelf: Shelf, settings: Settings) -> None:
        self.page, self.shelf, self.settings = page, shelf, settings
        self._token = secrets.token_urlsafe(32)  # what a browser holds once it has said the key
        self._closing = asyncio.Event()

    @staticmethod
    def owns(path: str) -> bool:
        """Whether a path is the studio's, and not the API's or nobody's."""
        return path in GET or path in POST or path.startswith(BELOW)

    def knows(self, scope: Message) -> bool:
        """Whether a browser said the key before; it counts for the studio's own paths only."""
        if not self.owns(scope["path"]):
            return False
        try:
            cookie = SimpleCookie(header(scope, b"cookie")).get(COOKIE)
        except CookieError:
            return False
        given = "" if cookie is None else cookie.value
        return hmac.compare_digest(given.encode(), self._token.encode())

    def close(self) -> None:
        """End what pages keep open only to be there, so that a server can stop."""
        self._closing.set()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request of somebody who may come in."""
        path, method = scope["path"], scope["method"]
        if path == KEY_PATH:
            await self.ask(scope, receive, send)
        elif method not in (("POST",) if path in POST else ("GET", "HEAD")):
            await say(send, APIError(405, "this path does not know that method"))
        elif not same_origin(scope):
            await say(send, APIError(403, "asked from a page of another origin"))
        elif path.startswith(PATH):
            await self.show(path, send)
        elif path.startswith(HEARTBEAT):
            await self.beat(scope, receive, send)
        else:
            try:
                heard = await self.checked(scope, receive) if method == "POST" else receive
            except APIError as problem:
                await say(send, problem)
                return
            await self.page(scope, heard, guarded(send))

    async def show(self, path: str, send: Send) -> None:
        """A picture or clip from the shelf."""
        thing = self.shelf.get(path)
        if thing is None:
            await say(send, APIError(404, "not kept any more"))
            return
        headers = [*HEADERS, (b"content-type", thing.kind.encode())]
        headers += [(b"cache-control", b"private, max-age=86400, immutable")]
        await answer(send, 200, headers, thing.data)

    async def beat(self, scope: Message, receive: Receive, send: Send) -> None:
        """A connection that a page holds for as long as it is open, or the server runs."""
        held = asyncio.ensure_future(self.page(scope, receive, send))
        closing = asyncio.ensure_future(self._closing.wait())
        try:
            await asyncio.wait((held, closing), return_when=asyncio.FIRST_COMPLETED)
        finally:
            closing.cancel()
            held.cancel()
            await asyncio.gather(held, closing, return_exceptions=True)

    async def checked(self, scope: Message, receive: Receive) -> Receive:
        """The body once it is known to be short enough and to name no file. Raises APIError."""
        body = await read(receive, self.settings.max_body, "max_body")
        await asyncio.to_thread(refuse_files, body)
        sent = False

        async def again() -> Message:
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        return again

    async def ask(self, scope: Message, receive: Receive, send: Send) -> None:
        """Ask for the key: a page for people, 401 for programs; a right one lets a browser in."""
        path, method = scope["path"], scope["method"]
        if path == KEY_PATH and method == "POST" and same_origin(scope):
            try:
                form = parse_qs(
                    (await read(receive, KEY_BODY, "of a key")).decode("utf-8", "replace")
                )
            except APIError as problem:
                await say(send, problem)
                return
            key, wanted = form.get("key", [""])[0], self.settings.api_key
            if wanted is None or hmac.compare_digest(key.strip().encode(), wanted.encode()):
                await answer(send, 303, [(b"location", b"/"), self.cookie(scope)], b"")
                return
            await answer(send, 401, page_headers(), key_page("That was not the key."))
        elif path == "/" and method in ("GET", "HEAD"):
            await answer(send, 401, page_headers(), key_page(""))
        else:
            await say(send, APIError(401, "a valid API key is needed", code="invalid_api_key"))

    def cookie(self, scope: Message) -> tuple[bytes, bytes]:
        """What a browser is given for the key."""
        said = f"{COOKIE}={self._token}; Path=/; HttpOnly; SameSite=Strict"
        forwarded = header(scope, b"x-forwarded-proto")
        if "https" in (scope.get("scheme"), forwarded):
            said += "; Secure"
        return b"set-cookie", said.encode()


@dataclass(frozen=True)
class Aside:
    """An ASGI application beside the studio, which takes what is its own."""

    app: Application
    door: Door

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        ours = scope["type"] == "http" and self.door.owns(scope["path"])
        await (self.door if ours else self.app)(scope, receive, send)


def header(scope: Message, name: bytes) -> str:
    """The value of a header, empty where there is none."""
    return str(dict(scope["headers"]).get(name, b"").decode("latin-1"))


def same_origin(scope: Message) -> bool:
    """Whether a browser says that the page which asks is our own, or no browser asks."""
    origin = header(scope, b"origin")
    return not origin or origin.partition("://")[2] == header(scope, b"host")


async def read(receive: Receive, most: int, limit: str) -> bytes:
    """A whole body. Raises APIError on a longer one."""
    body, more = bytearray(), True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > most:
            raise APIError(413, f"more than {most} bytes of body (limit {limit})")
    return bytes(body)


def refuse_files(body: bytes) -> None:
    """Raise APIError on JSON that names a file: Gradio would read it, or fetch it."""
    try:
        left = [json.loads(body or b"{}")]
    except (ValueError, RecursionError):
        raise APIError(400, "the body is not valid JSON") from None
    while left:
        value = left.pop()
        if isinstance(value, dict):
            if "path" in value:
                raise APIError(400, "files do not travel this way; send pictures as data URLs")
            left += value.values()
        elif isinstance(value, list):
            left += value


def guarded(send: Send) -> Send:
    """The same, with HEADERS added."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", []), *HEADERS]
        await send(message)

    return sending


async def say(send: Send, problem: APIError) -> None:
    """A problem in OpenAI's shape."""
    body = json.dumps(problem.body()).encode()
    await answer(send, problem.status, [(b"content-type", b"application/json")], body)


async def answer(send: Send, status: int, headers: Any, body: bytes) -> None:
    """A whole answer."""
    length = (b"content-length", str(len(body)).encode())
    start = {"type": "http.response.start", "status": status, "headers": [*headers, length]}
    await send(start)
    await send({"type": "http.response.body", "body": body})


def page_headers() -> list[tuple[bytes, bytes]]:
    """Those of the page that asks for a key."""
    kind = (b"content-type", b"text/html; charset=utf-8")
    return [*HEADERS, kind, (b"cache-control", b"no-store"), (b"www-authenticate", b"Bearer")]


def key_page(said: str) -> bytes:
    """The page that asks for a key."""
    page = Path(__file__).with_name("login.html").read_text(encoding="utf-8")
    return page.replace("{said}", said).encode()
