"""Browser login of the studio: a form for the API key, a session cookie, and the origin check.

Programs send `Authorization: Bearer KEY` with every request; a browser cannot do that when it opens
a page. If the server has an API key, the studio therefore asks for it in a form and sets a cookie.
The cookie holds a random token that is valid until the server restarts, not the key.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.types import Receive, Scope, Send

from emu3.server.errors import APIError

LOGIN_PATH = "/studio/login"
COOKIE_NAME = "emu3_studio"
MAX_LOGIN_BODY = 4096  # bytes


class BrowserAuth:
    """Checks API keys from the login form and session cookies. `api_key` None accepts any key."""

    def __init__(self, api_key: str | None) -> None:
        self._api_key = api_key
        self._token = secrets.token_urlsafe(32)

    def has_valid_cookie(self, scope: Scope) -> bool:
        """Whether a request carries the session cookie of this process."""
        cookie = HTTPConnection(scope).cookies.get(COOKIE_NAME, "")
        return hmac.compare_digest(cookie.encode(), self._token.encode())

    async def login(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request that has neither a valid API key nor a valid cookie.

        `POST` to LOGIN_PATH with the right key sets the cookie and redirects to `/`. `GET /` is
        the login form, with status 401. Any other request gets a 401 in JSON.
        """
        path, method = scope["path"], scope["method"]
        if path == LOGIN_PATH and method == "POST" and is_same_origin(scope):
            try:
                response = self._check_form(scope, await read_body(receive, MAX_LOGIN_BODY))
            except APIError as error:
                response = error_response(error)
        elif path == "/" and method in ("GET", "HEAD"):
            response = login_page()
        else:
            message = "a valid API key is required: Authorization: Bearer KEY"
            response = error_response(APIError(401, message, code="invalid_api_key"))
        await response(scope, receive, send)

    def _check_form(self, scope: Scope, body: bytes) -> Response:
        key = parse_qs(body.decode("utf-8", "replace")).get("key", [""])[0].strip()
        if self._api_key is not None and not hmac.compare_digest(
            key.encode(), self._api_key.encode()
        ):
            return login_page("Wrong API key.")
        is_https = "https" in (scope.get("scheme"), Headers(scope=scope).get("x-forwarded-proto"))
        response = RedirectResponse("/", 303)
        response.set_cookie(
            COOKIE_NAME, self._token, secure=is_https, httponly=True, samesite="strict"
        )
        return response


def is_same_origin(scope: Scope) -> bool:
    """Whether the `Origin` header is missing or names this host.

    Browsers send the header with every cross-origin POST, which protects against CSRF.
    """
    headers = Headers(scope=scope)
    origin = headers.get("origin", "")
    return not origin or origin.partition("://")[2] == headers.get("host", "")


async def read_body(receive: Receive, max_bytes: int, limit: str = "") -> bytes:
    """Return the body of a request. Raises APIError 413, which names `limit`, on a longer one."""
    body, more = bytearray(), True
    while more:
        message: MutableMapping[str, Any] = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > max_bytes:
            suffix = f" (limit {limit})" if limit else ""
            raise APIError(413, f"request body exceeds {max_bytes} bytes{suffix}")
    return bytes(body)


def error_response(error: APIError) -> Response:
    """Return the JSON response for an error, in the format of the API."""
    return JSONResponse(error.body(), error.status, dict(error.headers))


def login_page(message: str = "") -> Response:
    """Return the login form with status 401; `message` is HTML."""
    page = Path(__file__).with_name("login.html").read_text(encoding="utf-8")
    headers = {"Cache-Control": "no-store", "WWW-Authenticate": "Bearer"}
    return HTMLResponse(page.replace("{message}", message), 401, headers)
