"""The door: nothing but the studio's own paths, no way around the key, nothing that leads away."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path
from typing import Any

import pytest

from emu3.inference.async_engine import AsyncEngine
from emu3.server.settings import Settings
from tests.server.studio.conftest import KEY, LIMITS, serving

httpx = pytest.importorskip("httpx2")
Server = tuple[str, AsyncEngine]

PATHS = (
    "/",
    "/config",
    "/gradio_api/info",
    "/gradio_api/queue/data?session_hash=x",
    "/gradio_api/heartbeat/x",
    "/theme.css",
    "/studio/shelf/x.png",
)


def call(url: str, method: str = "GET", path: str = "/", **options: Any) -> Any:
    return httpx.request(method, url + path, timeout=30, **options)


@pytest.mark.parametrize("path", PATHS)
def test_without_the_key_nobody_comes_in(locked: Server, path: str) -> None:
    assert call(locked[0], path=path).status_code == 401
    assert call(locked[0], path=path, headers={"Cookie": "emu3_studio=x"}).status_code == 401
    wrong = {"Authorization": "Bearer x"}
    assert call(locked[0], path=path, headers=wrong).status_code == 401


@pytest.mark.parametrize("path", ["/gradio_api/queue/join", "/gradio_api/cancel"])
def test_without_the_key_nothing_is_asked(locked: Server, path: str) -> None:
    assert call(locked[0], "POST", path, json={"data": []}).status_code == 401


def test_the_key_opens_the_studio_to_a_browser_and_not_the_api(locked: Server) -> None:
    url, _ = locked
    assert b"API key" in call(url).content
    wrong = call(url, "POST", "/studio/key", data={"key": "x"})
    assert wrong.status_code == 401
    assert b"not the key" in wrong.content
    right = call(url, "POST", "/studio/key", data={"key": KEY})
    assert (right.status_code, right.headers["location"]) == (303, "/")
    said = right.headers["set-cookie"]
    assert "HttpOnly" in said
    assert "SameSite=Strict" in said
    assert KEY not in said
    cookie = {"Cookie": said.partition(";")[0]}
    assert call(url, headers=cookie).status_code == 200
    for path in ("/v1/models", "/metrics"):
        assert call(url, path=path, headers=cookie).status_code == 401


def test_a_page_elsewhere_cannot_ask(server: Server, locked: Server) -> None:
    evil = {"Origin": "http://evil.example"}
    body = {"data": [], "fn_index": 0, "session_hash": "x"}
    asked = call(server[0], "POST", "/gradio_api/queue/join", json=body, headers=evil)
    assert asked.status_code == 403
    key = call(locked[0], "POST", "/studio/key", data={"key": KEY}, headers=evil)
    assert key.status_code == 401


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=http://example.com/",
        "/gradio_api/proxy=http://example.com/",
        "/gradio_api/upload",
        "/gradio_api/run/draw",
        "/gradio_api/call/draw",
        "/gradio_api/vibe-code",
        "/monitoring",
        "/login",
        "/v1/nothing",
        "/studio/nothing",
    ],
)
def test_what_the_page_does_not_need_is_not_there(server: Server, path: str) -> None:
    for method in ("GET", "POST"):
        answer = call(server[0], method, path)
        assert answer.status_code == 404
        assert answer.json()["error"]["message"] == "no such path"


def test_the_api_stays_what_it_was(server: Server) -> None:
    assert call(server[0], path="/v1/models").json()["data"][0]["id"] == "tiny"
    assert call(server[0], path="/v1/images/generations").status_code == 405
    assert call(server[0], "POST", "/").status_code == 405
    assert call(server[0], path="/health").json() == {"status": "ok"}


@pytest.mark.parametrize("path", ["/etc/passwd", "http://127.0.0.1/x", "x"])
def test_no_file_is_named_to_gradio(server: Server, path: str) -> None:
    """Wherever it is hidden: Gradio looks for files in every field."""
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    body = {"data": [{"deep": [file]}], "fn_index": 0, "session_hash": "x"}
    answer = call(server[0], "POST", "/gradio_api/queue/join", json=body)
    assert answer.status_code == 400
    assert "files do not travel" in answer.json()["error"]["message"]


def test_bodies_have_the_servers_limit(server: Server) -> None:
    body = json.dumps({"data": ["x" * 300_000]}).encode()
    answer = call(server[0], "POST", "/gradio_api/queue/join", content=body)
    assert answer.status_code == 413
    assert "max_body" in answer.json()["error"]["message"]
    assert call(server[0], "POST", "/gradio_api/queue/join", content=b"{").status_code == 400
    nested = b"[" * 100_000
    assert call(server[0], "POST", "/gradio_api/queue/join", content=nested).status_code == 400


def test_nothing_is_loaded_from_elsewhere(server: Server) -> None:
    page = call(server[0])
    assert re.findall(r"<(?:script|link|img)[^>]*(?:src|href)=\"(?:https?:)?//", page.text) == []
    policy = page.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "http" not in policy
    assert page.headers["referrer-policy"] == "same-origin"
    config = call(server[0], path="/config").json()
    assert config["analytics_enabled"] is False
    assert not [sheet for sheet in config.get("stylesheets") or [] if "//" in sheet]


def by_hand(url: str, name: str, data: list[Any]) -> str:
    """All that a button's function answers; Gradio's own client would ask its makers first."""
    config = call(url, path="/config").json()
    (number,) = (each["id"] for each in config["dependencies"] if each["api_name"] == name)
    body = {"data": data, "fn_index": number, "session_hash": "by-hand"}
    assert call(url, "POST", "/gradio_api/queue/join", json=body).status_code == 200
    return str(call(url, path="/gradio_api/queue/data?session_hash=by-hand").text)


def test_the_server_asks_nobody_either(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, photo: str
) -> None:
    """No name is looked up and no connection made, but to this machine, from start to stop."""
    asked, look_up, connect = list[str](), socket.getaddrinfo, socket.socket.connect

    def looking_up(host: Any, *rest: Any, **more: Any) -> Any:
        asked.append(str(host))
        return look_up(host, *rest, **more)

    def connecting(self: socket.socket, address: Any) -> None:
        asked.append(str(address[0]))
        connect(self, address)

    monkeypatch.setattr(socket, "getaddrinfo", looking_up)
    monkeypatch.setattr(socket.socket, "connect", connecting)
    with serving(Settings(jobs=tmp_path / "jobs", **LIMITS)) as (url, _):
        drawn = by_hand(url, "draw", ["x", "", "1:1", 3.0, 1.0, 9, "7", 1, None, None])
        said = by_hand(url, "ask", [photo, "what?", None, None])
    assert "1 picture" in drawn
    assert "what?" in said
    assert set(asked) <= {"127.0.0.1", "localhost"}
