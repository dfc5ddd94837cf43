"""A picture fetched for somebody who names its address: only from the public internet.

The name is looked up once, every address it has must be public, and the connection goes to that
very address, so that a second look-up cannot lead elsewhere. Redirects are not followed.
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

SECONDS = 10.0  # to connect, and again for all of the answer


def fetch(url: str, param: str, settings: Settings) -> bytes:
    """The bytes behind a URL. Raises APIError where it is not allowed or does not work."""
    if not settings.remote_images:
        raise invalid_request(
            param,
            "this server fetches no pictures; send it as a data URL (limit remote_images)",
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
        raise invalid_request(param, "the picture could not be fetched") from None


def public_address(host: str, port: int, param: str) -> str:
    """The address of a host. Raises APIError if any that it has is private."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise invalid_request(param, "the picture's host is not known") from None
    addresses = [str(each[4][0]) for each in found]
    if not addresses or not all(is_public(address) for address in addresses):
        raise invalid_request(
            param, "the picture's host has a private address, which is never fetched from"
        )
    return addresses[0]


def is_public(address: str) -> bool:
    """Whether an address belongs to the public internet, also one of IPv4 dressed up as IPv6."""
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
    scheme: str, host: str, port: int, address: str, target: str, most: int, param: str
) -> bytes:
    connection = http.client.HTTPConnection(host, port, timeout=SECONDS)
    sock = socket.create_connection((address, port), timeout=SECONDS)
    if scheme == "https":
        context = ssl.create_default_context()
        sock = context.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
    late = threading.Event()

    def hang_up() -> None:
        late.set()
        with suppress(OSError):
            # Not TLS's own, which would wait for the other side to agree.
            socket.socket.shutdown(sock, socket.SHUT_RDWR)

    timer = threading.Timer(SECONDS, hang_up)
    timer.start()
    try:
        if isinstance(sock, ssl.SSLSocket):
            sock.do_handshake()
        connection.sock = sock
        connection.request("GET", target, headers={"Accept": "image/*"})
        answer = connection.getresponse()
        if answer.status != 200:
            raise invalid_request(param, f"the picture's host answers with status {answer.status}")
        data = answer.read(most + 1)
    finally:
        timer.cancel()
        connection.close()
        sock.close()
    if late.is_set():  # half a picture is none
        raise TimeoutError
    if len(data) > most:
        raise invalid_request(param, f"more than {most} bytes (limit max_fetch)")
    return data
