"""Fetching of images and videos that requests name by URL, from public addresses only.

Protects against server-side request forgery: the host name is resolved once, all of its addresses
must be public, and the connection goes to one of these addresses, so that a second look-up cannot
return another. Redirects are not followed.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import threading
from contextlib import suppress
from urllib.parse import urlsplit

from emu3.server.errors import invalid_request
from emu3.server.settings import Settings

TIMEOUT = 10.0  # seconds to connect, and again for the whole response


def fetch(url: str, param: str, settings: Settings) -> bytes:
    """Return the file at an http(s) URL.

    Raises APIError if fetching is disabled, the host is not public, or the download fails.
    """
    if not settings.remote_images:
        raise invalid_request(
            param,
            "this server does not fetch URLs; send a data URL "
            "(the operator can enable it with --remote-images)",
        )
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        raise invalid_request(param, "not a URL") from None
    if parts.scheme not in ("http", "https") or not host or not port or parts.username is not None:
        raise invalid_request(param, "expected http://… or https://… without a password")
    if not url.isascii() or not url.isprintable() or " " in url:
        raise invalid_request(param, "not a URL")
    address = public_address(host, port, param)
    try:
        return _get(parts.scheme, host, port, address, _target(url), settings.max_fetch, param)
    except (OSError, http.client.HTTPException):
        raise invalid_request(param, "the file could not be fetched") from None


def public_address(host: str, port: int, param: str) -> str:
    """Return an address of a host. Raises APIError if any of its addresses is not public."""
    try:
        infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise invalid_request(param, "unknown host") from None
    addresses = [str(info[4][0]) for info in infos]
    if not addresses or not all(is_public(address) for address in addresses):
        raise invalid_request(param, "the host has a private address, which is not fetched from")
    return addresses[0]


def is_public(address: str) -> bool:
    """Return whether an address is public. IPv4 addresses embedded in IPv6 are checked as such."""
    ip = ipaddress.ip_address(address.split("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is not None and not inner.is_global:
            return False
        if ip in ipaddress.ip_network("64:ff9b::/96"):  # NAT64: the last 32 bits are IPv4
            return is_public(str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)))
    return ip.is_global and not ip.is_multicast


def _target(url: str) -> str:
    parts = urlsplit(url)
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def _get(
    scheme: str, host: str, port: int, address: str, target: str, limit: int, param: str
) -> bytes:
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT)
    sock = socket.create_connection((address, port), timeout=TIMEOUT)
    if scheme == "https":
        context = ssl.create_default_context()
        sock = context.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
    timed_out = threading.Event()

    def close_late() -> None:
        timed_out.set()
        with suppress(OSError):
            # The socket's own shutdown: that of TLS would wait for the other side.
            socket.socket.shutdown(sock, socket.SHUT_RDWR)

    timer = threading.Timer(TIMEOUT, close_late)
    timer.start()
    try:
        if isinstance(sock, ssl.SSLSocket):
            sock.do_handshake()
        connection.sock = sock
        connection.request("GET", target, headers={"Accept": "image/*, video/*"})
        response = connection.getresponse()
        if response.status != 200:
            raise invalid_request(param, f"the host responded with status {response.status}")
        data = response.read(limit + 1)
    finally:
        timer.cancel()
        connection.close()
        sock.close()
    if timed_out.is_set():  # the data may be incomplete
        raise TimeoutError
    if len(data) > limit:
        raise invalid_request(param, f"larger than {limit} bytes (limit max_fetch)")
    return data
