"""URLs in requests are fetched from public addresses only."""

from __future__ import annotations

import socket
import threading
import time
from typing import Any

import pytest

from emu3.server import url_fetch
from emu3.server.errors import APIError
from emu3.server.settings import Settings

ALLOWED = Settings(remote_images=True)

PRIVATE = [
    "127.0.0.1",
    "10.0.0.1",
    "172.16.3.4",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "0.0.0.0",
    "224.0.0.1",
    "255.255.255.255",
    "::1",
    "::",
    "fe80::1%1",
    "fd00::1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::7f00:1",
    "2002:7f00:1::",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses(address: str) -> None:
    assert not url_fetch.is_public(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "2606:4700:4700::1111", "::ffff:1.1.1.1"])
def test_public_addresses(address: str) -> None:
    assert url_fetch.is_public(address)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/a.png",
        "http://localhost/a.png",
        "http://[::1]/a.png",
        "http://2130706433/a.png",
        "http://0x7f.1/a.png",
        "http://user:word@1.1.1.1/a.png",
        "ftp://1.1.1.1/a.png",
        "file:///etc/passwd",
        "http:///a.png",
        "http://[::1",
        "http://1.1.1.1:99999/",
        "http://1.1.1.1/a b",
        "http://1.1.1.1/\r\nHost: x",
        "",
    ],
)
def test_refused_urls(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*address: object, **options: object) -> None:
        raise AssertionError(f"connects to {address}")

    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(APIError) as caught:
        url_fetch.fetch(url, "url", ALLOWED)
    assert caught.value.status == 400


def test_a_host_with_a_private_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def getaddrinfo(*host: object, **options: object) -> list[Any]:
        return [(0, 0, 0, "", ("1.1.1.1", 80)), (0, 0, 0, "", ("10.0.0.1", 80))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with pytest.raises(APIError, match="private"):
        url_fetch.fetch("http://example.com/a.png", "url", ALLOWED)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", None),
        (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\n\r\n", "status 302"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 50, "limit max_fetch"),
        (b"nonsense\r\n\r\n", "could not be fetched"),
    ],
)
def test_the_connection_uses_the_checked_address(
    answer: bytes, message: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    client_end, server_end = socket.socketpair()
    server_end.sendall(answer)
    server_end.shutdown(socket.SHUT_WR)
    addresses = []

    def connect(address: tuple[str, int], timeout: float) -> socket.socket:
        addresses.append(address)
        return client_end

    monkeypatch.setattr(url_fetch, "public_address", lambda host, port, param: "1.2.3.4")
    monkeypatch.setattr(socket, "create_connection", connect)
    settings = Settings(remote_images=True, max_fetch=10)
    if message is None:
        assert url_fetch.fetch("http://example.com/a?b", "url", settings) == b"abc"
        assert server_end.recv(1000).startswith(b"GET /a?b HTTP/1.1\r\nHost: example.com")
    else:
        with pytest.raises(APIError, match=message):
            url_fetch.fetch("http://example.com/a?b", "url", settings)
    assert addresses == [("1.2.3.4", 80)]
    server_end.close()


@pytest.mark.parametrize(
    "beginning",
    [b"", b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\n\r\n"],
    ids=["", "head", "body"],
)
def test_a_slow_response_times_out(beginning: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    client_end, server_end = socket.socketpair()
    sent = bytearray()

    def send_slowly() -> None:
        try:
            server_end.sendall(beginning)
            while len(sent) < 400:  # twenty times the timeout, with a byte every 10 ms
                server_end.sendall(b"x")
                sent.append(0)
                time.sleep(0.01)
        except OSError:  # the connection was closed
            pass

    monkeypatch.setattr(url_fetch, "TIMEOUT", 0.2)
    monkeypatch.setattr(url_fetch, "public_address", lambda host, port, param: "1.2.3.4")
    monkeypatch.setattr(socket, "create_connection", lambda address, timeout: client_end)
    sender = threading.Thread(target=send_slowly)
    sender.start()
    with pytest.raises(APIError, match="could not be fetched"):
        url_fetch.fetch("http://example.com/a.png", "url", ALLOWED)
    sender.join()
    assert len(sent) < 400
    server_end.close()
