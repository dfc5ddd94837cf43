"""Gateway and login: permitted paths, API key, origin check, and no contact with other hosts."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path
from typing import Any

import pytest

from emu3.inference.async_engine import AsyncEngine
from emu3.server.settings import Settings
from tests.server.studio.conftest import API_KEY, LIMITS, running_server

httpx = pytest.importorskip("httpx2")
Server = tuple[str, AsyncEngine]

PROTECTED_PATHS = (
    "/",
    "/config",
    "/gradio_api/info",
    "/gradio_api/queue/data?session_hash=x",
    "/gradio_api/heartbeat/x",
    "/theme.css",
    "/studio/media/x.png",
)
OTHER_ORIGIN = {"Origin": "http://evil.example"}


def call(url: str, method: str = "GET", path: str = "/", **options: Any) -> Any:
    return httpx.request(method, url + path, timeout=30, **options)


@pytest.mark.parametrize("path", PROTECTED_PATHS)
def test_get_without_a_valid_key_is_refused(server_with_key: Server, path: str) -> None:
    url, _ = server_with_key
    assert call(url, path=path).status_code == 401
    assert call(url, path=path, headers={"Cookie": "emu3_studio=x"}).status_code == 401
    assert call(url, path=path, headers={"Authorization": "Bearer x"}).status_code == 401


@pytest.mark.parametrize("path", ["/gradio_api/queue/join", "/gradio_api/cancel"])
def test_post_without_a_valid_key_is_refused(server_with_key: Server, path: str) -> None:
    assert call(server_with_key[0], "POST", path, json={"data": []}).status_code == 401


def test_login_cookie_is_valid_for_the_studio_but_not_the_api(server_with_key: Server) -> None:
    url, _ = server_with_key
    assert b"API key" in call(url).content
    wrong = call(url, "POST", "/studio/login", data={"key": "x"})
    assert wrong.status_code == 401
    assert b"Wrong API key" in wrong.content
    right = call(url, "POST", "/studio/login", data={"key": API_KEY})
    assert (right.status_code, right.headers["location"]) == (303, "/")
    set_cookie = right.headers["set-cookie"]
    assert "httponly" in set_cookie.lower()
    assert "samesite=strict" in set_cookie.lower()
    assert "secure" not in set_cookie.lower()  # over plain HTTP it would not be sent back
    assert API_KEY not in set_cookie
    cookie = {"Cookie": set_cookie.partition(";")[0]}
    assert call(url, headers=cookie).status_code == 200
    for path in ("/v1/models", "/metrics"):
        assert call(url, path=path, headers=cookie).status_code == 401


def test_login_cookie_is_secure_behind_https(server_with_key: Server) -> None:
    forwarded = {"X-Forwarded-Proto": "https"}
    form = {"key": API_KEY}
    answer = call(server_with_key[0], "POST", "/studio/login", data=form, headers=forwarded)
    assert "secure" in answer.headers["set-cookie"].lower()


def test_long_login_form_is_refused(server_with_key: Server) -> None:
    answer = call(server_with_key[0], "POST", "/studio/login", data={"key": "x" * 5000})
    assert answer.status_code == 413


def test_cross_origin_post_is_refused(server: Server, server_with_key: Server) -> None:
    body = {"data": [], "fn_index": 0, "session_hash": "x"}
    joined = call(server[0], "POST", "/gradio_api/queue/join", json=body, headers=OTHER_ORIGIN)
    assert joined.status_code == 403
    form = {"key": API_KEY}
    login = call(server_with_key[0], "POST", "/studio/login", data=form, headers=OTHER_ORIGIN)
    assert login.status_code == 401


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=http://example.com/",
        "/gradio_api/proxy=http://example.com/",
        "/gradio_api/upload",
        "/gradio_api/run/generate_image",
        "/gradio_api/call/generate_image",
        "/gradio_api/vibe-code",
        "/monitoring",
        "/login",
        "/v1/nothing",
        "/studio/nothing",
    ],
)
def test_other_paths_of_gradio_do_not_exist(server: Server, path: str) -> None:
    for method in ("GET", "POST"):
        answer = call(server[0], method, path)
        assert answer.status_code == 404
        assert "error" in answer.json()


def test_api_is_unchanged_beside_the_studio(server: Server) -> None:
    assert call(server[0], path="/v1/models").json()["data"][0]["id"] == "tiny"
    assert call(server[0], path="/v1/images/generations").status_code == 405
    assert call(server[0], "POST", "/").status_code == 405
    assert call(server[0], path="/health").json() == {"status": "ok"}


@pytest.mark.parametrize("path", ["/etc/passwd", "http://127.0.0.1/x", "x"])
def test_file_references_are_refused_at_any_depth(server: Server, path: str) -> None:
    """Gradio looks for file references in every field."""
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    body = {"data": [{"deep": [file]}], "fn_index": 0, "session_hash": "x"}
    answer = call(server[0], "POST", "/gradio_api/queue/join", json=body)
    assert answer.status_code == 400
    assert "file references are refused" in answer.json()["error"]["message"]


def test_large_and_invalid_bodies_are_refused(server: Server) -> None:
    body = json.dumps({"data": ["x" * 300_000]}).encode()
    answer = call(server[0], "POST", "/gradio_api/queue/join", content=body)
    assert answer.status_code == 413
    assert "max_body" in answer.json()["error"]["message"]
    assert call(server[0], "POST", "/gradio_api/queue/join", content=b"{").status_code == 400
    nested = b"[" * 100_000
    assert call(server[0], "POST", "/gradio_api/queue/join", content=nested).status_code == 400


def test_page_loads_nothing_from_other_hosts(server: Server) -> None:
    page = call(server[0])
    assert re.findall(r"<(?:script|link|img)[^>]*(?:src|href)=\"(?:https?:)?//", page.text) == []
    policy = page.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "http" not in policy
    assert page.headers["referrer-policy"] == "same-origin"
    config = call(server[0], path="/config").json()
    assert config["analytics_enabled"] is False
    assert not [sheet for sheet in config.get("stylesheets") or [] if "//" in sheet]


def call_event(url: str, api_name: str, data: list[Any]) -> str:
    """Run an event of the page and return its stream; Gradio's client would contact its hub."""
    config = call(url, path="/config").json()
    (number,) = (each["id"] for each in config["dependencies"] if each["api_name"] == api_name)
    body = {"data": data, "fn_index": number, "session_hash": "test"}
    assert call(url, "POST", "/gradio_api/queue/join", json=body).status_code == 200
    return str(call(url, path="/gradio_api/queue/data?session_hash=test").text)


@pytest.mark.slow
def test_server_contacts_no_other_host(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, photo: str
) -> None:
    """From start to stop, only names and addresses of this machine are resolved or connected."""
    hosts, getaddrinfo, connect = list[str](), socket.getaddrinfo, socket.socket.connect

    def recording_getaddrinfo(host: Any, *args: Any, **options: Any) -> Any:
        hosts.append(str(host))
        return getaddrinfo(host, *args, **options)

    def recording_connect(self: socket.socket, address: Any) -> None:
        hosts.append(str(address[0]))
        connect(self, address)

    monkeypatch.setattr(socket, "getaddrinfo", recording_getaddrinfo)
    monkeypatch.setattr(socket.socket, "connect", recording_connect)
    with running_server(Settings(jobs=tmp_path / "jobs", **LIMITS)) as (url, _):
        form = ["x", "", "1:1", 3.0, 1.0, 9, "7", 1, None, None]
        image = call_event(url, "generate_image", form)
        answer = call_event(url, "chat", [photo, "what?", None, None])
    assert "1 image" in image
    assert "what?" in answer
    assert set(hosts) <= {"127.0.0.1", "localhost"}
