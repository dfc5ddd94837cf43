"""Requests from web pages: DNS rebinding, cross-site requests, CORS; and forwarded headers."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest

from emu3.errors import InputError
from emu3.server.settings import Settings

from .conftest import KEY, Server, serving
from .test_validation import IMAGES, call

BODY = b'{"prompt": "x"}'
OWN = "localhost:8000"


@pytest.fixture(scope="module")
def keyless() -> Iterator[Server]:
    settings = Settings(
        model="tiny", allowed_hosts=("emu3.lan",), allowed_origins=("https://app.example.org",)
    )
    with serving(settings) as server:
        yield server


def status(server: Server, method: str = "GET", path: str = "/v1/models", **headers: str) -> int:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    body = BODY if method == "POST" else None
    return call(server, method, path, body, headers={"Authorization": "", **named})[0]


@pytest.mark.parametrize(
    "host", ["localhost", OWN, "127.0.0.1:1", "[::1]:8000", "EMU3.lan", "localhost.:80"]
)
def test_own_hosts_are_answered(keyless: Server, host: str) -> None:
    assert status(keyless, Host=host) == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "evil.example:8000",
        "127.0.0.1.nip.io",
        "localhost@evil.example",
        "192.168.0.7:8000",
        "[::2]",
        "::1",
        "localhost:8000:1",
        "a[::1]",
        "[localhost]",
        "",
    ],
)
def test_other_hosts_are_refused_for_every_method_and_path(keyless: Server, host: str) -> None:
    for method, path in itertools.product(("GET", "POST", "DELETE"), ("/v1/models", IMAGES, "/")):
        assert status(keyless, method, path, Host=host) == 403


def test_a_server_on_all_addresses_accepts_addresses_and_no_names() -> None:
    with serving(Settings(model="tiny", host="0.0.0.0")) as server:
        assert status(server, Host="192.168.0.7:8000") == 200
        assert status(server, Host="[fe80::1]") == 200
        assert status(server, Host="evil.example") == 403


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, 200),  # no browser
        ({"Origin": f"http://{OWN}", "Sec-Fetch-Site": "same-origin"}, 200),
        ({"Origin": "https://app.example.org", "Sec-Fetch-Site": "cross-site"}, 200),
        ({"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://localhost:3000", "Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "http://app.example.org"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": ""}, 403),
        ({"Origin": "http://["}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
    ],
)
def test_pages_of_other_origins_change_nothing(
    keyless: Server, headers: dict[str, str], expected: int
) -> None:
    all_headers = {"Host": OWN, "Authorization": "", **headers}
    assert call(keyless, "POST", IMAGES, BODY, headers=all_headers)[0] == expected
    assert call(keyless, "GET", "/v1/models", headers=all_headers)[0] == 200


def test_the_refusal_says_what_to_do(keyless: Server) -> None:
    answer = call(keyless, "GET", "/v1/models", headers={"Host": "evil.example"})[2]
    error = json.loads(answer)["error"]
    assert error["code"] == "host_not_allowed"
    assert "--allowed-host" in error["message"]


def test_a_key_replaces_both_checks(server: Server) -> None:
    headers = {"Host": "any.example", "Origin": "http://evil.example"}
    assert call(server, "POST", IMAGES, BODY, headers=headers)[0] == 200
    assert call(server, "POST", IMAGES, BODY, headers={**headers, "Authorization": ""})[0] == 401


def test_allowed_origins_get_cors_headers_and_others_none(keyless: Server) -> None:
    preflight = {
        "Host": OWN,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization, content-type",
    }
    for origin, expected in (("https://app.example.org", 200), ("http://evil.example", 400)):
        code, headers, _ = call(keyless, "OPTIONS", IMAGES, headers={**preflight, "Origin": origin})
        assert code == expected
        allowed = headers.get("access-control-allow-origin")
        assert allowed == (origin if expected == 200 else None)


@pytest.mark.parametrize(
    ("client", "trusted", "believed"),
    [
        ("10.1.2.3", ("10.0.0.0/8",), True),
        ("127.0.0.1", ("127.0.0.1",), True),
        ("::1", ("*",), True),
        ("127.0.0.1", (), False),
        ("11.1.2.3", ("10.0.0.0/8", "127.0.0.1"), False),
        ("", ("10.0.0.0/8",), False),
    ],
)
def test_forwarded_headers_of_trusted_proxies_only(
    client: str, trusted: tuple[str, ...], believed: bool
) -> None:
    pytest.importorskip("uvicorn")
    from emu3.server.origins import ForwardedHeadersMiddleware

    seen: dict[str, Any] = {}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.update(scope)

    forwarded = [
        (b"x-forwarded-for", b"1.2.3.4"),
        (b"x-forwarded-proto", b"https"),
        (b"x-forwarded-host", b"evil.example"),
    ]
    scope = {
        "type": "http",
        "scheme": "http",
        "client": (client, 1),
        "headers": [(b"host", b"here"), *forwarded],
    }
    asyncio.run(ForwardedHeadersMiddleware(app, trusted)(scope, None, None))  # type: ignore[arg-type]
    assert seen["scheme"] == ("https" if believed else "http")
    assert len(seen["headers"]) == (4 if believed else 1)
    assert (seen["client"][0] == "1.2.3.4") is believed


@pytest.mark.parametrize(
    "given",
    [
        {"allowed_origins": ("example.org",)},
        {"allowed_origins": ("https://example.org/",)},
        {"forwarded_allow_ips": ("proxy",)},
    ],
)
def test_settings_that_could_never_match_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(given))):
        Settings(api_key=KEY, **given)
