"""Who may reach the server from a browser: the `Host` and `Origin` of requests, and proxies.

A web page cannot read another site's responses, but it can send requests to a server on the same
machine: a form without a preflight, or, after its domain name was pointed at 127.0.0.1 (DNS
rebinding), any request. An API key stops both. Without one, `OriginMiddleware` does.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from emu3.server.errors import APIError
from emu3.server.settings import LOOPBACK_HOSTS, Settings

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")  # they change nothing
HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[^:\[\]@/]+)(?::[0-9]{1,5})?")


@dataclass(frozen=True)
class OriginMiddleware:
    """Without an API key, refuses requests for another host and from other origins with 403.

    `Host` must be a loopback name, the address that the server listens on, or one of
    `settings.allowed_hosts`. A server that listens on all addresses also accepts any IP address:
    DNS rebinding needs a name. `Origin` must be the server's own or one of
    `settings.allowed_origins`, except for methods that change nothing. A client that sends neither
    header is no browser, and is let through.
    """

    app: ASGIApp
    settings: Settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] == "http" and self.settings.api_key is None:
            try:
                self._check(scope)
            except APIError as error:
                await JSONResponse(error.body(), error.status)(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        host, origin = headers.get("host"), headers.get("origin")
        if host is not None and not self._is_allowed_host(host):
            raise APIError(
                403,
                "the Host header names a host that this server does not answer for; "
                "start it with --allowed-host NAME, or with an API key",
                code="host_not_allowed",
            )
        if scope["method"] in SAFE_METHODS:
            return
        is_foreign = headers.get("sec-fetch-site") == "cross-site"
        if origin is not None:
            own = (host or "").lower()
            is_foreign = not own or _authority(origin) != own
        if is_foreign and not self._is_allowed_origin(origin):
            raise APIError(
                403,
                "cross-origin request refused; start the server with --allowed-origins ORIGIN, or "
                "with an API key",
                code="origin_not_allowed",
            )

    def _is_allowed_host(self, host: str) -> bool:
        match = HOST.fullmatch(host.lower())
        if match is None:
            return False
        name, bound = match["name"].strip("[]").rstrip("."), self.settings.host
        if name in (*LOOPBACK_HOSTS, bound.lower(), *map(str.lower, self.settings.allowed_hosts)):
            return True
        return "*" in self.settings.allowed_hosts or (
            parse_address(name) is not None and _is_unspecified(bound)
        )

    def _is_allowed_origin(self, origin: str | None) -> bool:
        allowed = self.settings.allowed_origins
        return "*" in allowed or (origin is not None and origin.lower() in map(str.lower, allowed))


class ForwardedHeadersMiddleware:
    """Believes the `X-Forwarded-*` headers of trusted proxies only, and removes all others.

    The application sees the client address and the scheme that a trusted proxy reports. Trusted
    are the addresses and networks of `trusted`, or all with `*`.
    """

    def __init__(self, app: ASGIApp, trusted: tuple[str, ...]) -> None:
        self.app, self.trusted = app, trusted
        self._proxied = ProxyHeadersMiddleware(app, trusted_hosts=list(trusted))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] == "http":
            if self._is_trusted(scope):
                await self._proxied(scope, receive, send)
                return
            kept = [each for each in scope["headers"] if not _is_forwarded(each[0])]
            scope = {**scope, "headers": kept}
        await self.app(scope, receive, send)

    def _is_trusted(self, scope: Scope) -> bool:
        if "*" in self.trusted:
            return True
        address = parse_address((scope.get("client") or ("",))[0])
        return address is not None and any(
            address in ipaddress.ip_network(each, strict=False) for each in self.trusted
        )


def parse_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the IP address that `text` is, or None."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _is_unspecified(host: str) -> bool:
    address = parse_address(host)
    return address is not None and address.is_unspecified


def _authority(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _is_forwarded(name: bytes) -> bool:
    return name.startswith(b"x-forwarded-") or name in (b"forwarded", b"x-real-ip")
