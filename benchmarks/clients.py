"""Clients for `benchmarks.soak`: the requests of each kind and the expected responses."""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import json
import random
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from PIL import Image

from benchmarks.serve import HOST, prompt

Outcome = Literal["answered", "refused", "corrected", "gone", "broken"]
"""Answered; refused for lack of capacity (429); rejected as invalid; disconnected; or failed."""

DRAW, CHAT, FILM = "/v1/images/generations", "/v1/chat/completions", "/v1/videos"
JSON = {"Content-Type": "application/json"}
PATIENCE = 600  # seconds
CHUNK, PAUSE = 256, 0.05  # bytes a slow client reads at a time, and seconds between reads
POLL = 0.5  # seconds between two polls of a video
ABANDONED, CANCELLED = 0.15, 0.15  # proportions of videos never fetched, and cancelled


def image_request(seed: int, stream: bool) -> dict[str, Any]:
    """The body of an image request."""
    body: dict[str, Any] = {"prompt": prompt(seed % 1000), "seed": seed, "stream": stream}
    return body | ({"partial_images": seed % 4} if stream else {})


def chat_request(seed: int, stream: bool) -> dict[str, Any]:
    """The body of a chat request with an image."""
    rng, out = random.Random(seed), io.BytesIO()
    image = Image.new("RGB", (64, 64), tuple(rng.randrange(256) for _ in range(3)))
    image.save(out, format="PNG")
    url = f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"
    parts = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": "What is this?"},
    ]
    message = {"role": "user", "content": parts}
    return {"messages": [message], "max_tokens": 1 + seed % 16, "stream": stream}


WRONG: tuple[tuple[str, bytes], ...] = (
    (DRAW, b"{"),
    (DRAW, b'{"prompt": "a fox", "colour": 1}'),
    (DRAW, b'{"prompt": "a fox", "n": 99}'),
    (DRAW, b'{"prompt": NaN}'),
    (DRAW, b"\xff" * 1000),
    (DRAW, b"[" * 100_000),
    (FILM, b'{"prompt": "a fox", "seconds": "for ever"}'),
    (CHAT, b'{"messages": []}'),
    (CHAT, b'{"messages": [{"role": "user", "content": [{"type": "image_url", '
           b'"image_url": {"url": "data:image/png;base64,AAAA"}}]}]}'),
    ("/v1/nothing", b"{}"),
)  # fmt: skip


def post(port: int, path: str, body: bytes) -> http.client.HTTPResponse:
    """Send a POST request; returns the response, which owns the connection."""
    connection = http.client.HTTPConnection(HOST, port, timeout=PATIENCE)
    connection.request("POST", path, body, JSON | {"Connection": "close"})
    return connection.getresponse()


def heard(port: int, method: str, path: str) -> bytes:
    """The body of the response to a request without a body."""
    connection = http.client.HTTPConnection(HOST, port, timeout=PATIENCE)
    connection.request(method, path, headers={"Connection": "close"})
    return connection.getresponse().read()


def told(port: int, method: str, path: str) -> dict[str, Any]:
    """The response parsed as JSON."""
    body: dict[str, Any] = json.loads(heard(port, method, path))
    return body


def refusal(answer: http.client.HTTPResponse) -> tuple[Outcome, str]:
    """The outcome of an error response, which needs a message, and for 429 a Retry-After."""
    status, message = answer.status, json.loads(answer.read())["error"]["message"]
    if status == 429 and message and answer.headers["Retry-After"]:
        return "refused", ""
    if 400 <= status < 500 and status != 429 and message:
        return "corrected", ""
    return "broken", f"{status}: {message}"


def whole(port: int, path: str, body: dict[str, Any], sip: int = 0) -> tuple[Outcome, str]:
    """Send a request and read the whole response, slowly for a slow client."""
    answer = post(port, path, json.dumps(body).encode())
    if answer.status != 200:
        return refusal(answer)
    data = b""
    while part := answer.read1(sip or -1):
        data += part
        time.sleep(PAUSE if sip else 0)
    return ("answered", "") if is_whole(data, body["stream"]) else ("broken", f"{data[-200:]!r}")


def is_whole(data: bytes, stream: bool) -> bool:
    """Whether a response is complete."""
    if stream:
        return b'"image_generation.completed"' in data or data.endswith(b"data: [DONE]\n\n")
    said = json.loads(data)
    return bool(said.get("data") or said.get("choices"))


def vanish(port: int, seed: int) -> tuple[Outcome, str]:
    """Send a request, read a part of the response or none, and disconnect."""
    chance = random.Random(seed)
    path, ask = chance.choice(((DRAW, image_request), (CHAT, chat_request)))
    body = json.dumps(ask(seed, chance.random() < 0.7)).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\n"
    with socket.create_connection((HOST, port), timeout=PATIENCE) as connection:
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode())
        if chance.random() < 0.3:
            connection.sendall(body[: len(body) // 2])
            return "gone", ""
        connection.sendall(body)
        connection.settimeout(3 * chance.random())
        with contextlib.suppress(TimeoutError):
            connection.recv(chance.choice((1, 1000)))
    return "gone", ""


def wrong(port: int, seed: int) -> tuple[Outcome, str]:
    """Send an invalid request, which must be rejected."""
    outcome, reason = refusal(post(port, *WRONG[seed % len(WRONG)]))
    return (outcome, reason) if outcome == "corrected" else ("broken", f"{outcome} {reason}")


def film(port: int, seed: int) -> tuple[Outcome, str]:
    """Request a video of one second; abandon it, cancel it, or fetch and delete it."""
    chance = random.Random(seed)
    body = {"prompt": prompt(seed % 1000), "seed": seed, "seconds": "1"}
    answer = post(port, FILM, json.dumps(body).encode())
    if answer.status != 200:
        return refusal(answer)
    path = f"{FILM}/{json.loads(answer.read())['id']}"
    if (fate := chance.random()) < ABANDONED:
        return "gone", ""
    if fate < ABANDONED + CANCELLED:
        time.sleep(4 * chance.random())
        return ("gone", "") if told(port, "DELETE", path).get("deleted") else ("broken", path)
    end = time.monotonic() + PATIENCE
    while (status := told(port, "GET", path)["status"]) in ("queued", "in_progress"):
        if time.monotonic() > end:
            return "broken", f"{path} is {status} still"
        time.sleep(POLL)
    clip = heard(port, "GET", f"{path}/content")
    told(port, "DELETE", path)
    whole_clip = status == "completed" and clip[4:8] == b"ftyp"
    return ("answered", "") if whole_clip else ("broken", f"{status}: {clip[:200]!r}")


def unfinished(port: int) -> int:
    """The number of unfinished videos; raises ValueError if one failed."""
    page, count = told(port, "GET", f"{FILM}?limit=100"), 0
    while True:
        statuses = [each["status"] for each in page["data"]]
        if "failed" in statuses:
            raise ValueError("a video failed")
        count += sum(status != "completed" for status in statuses)
        if not page["has_more"]:
            return count
        page = told(port, "GET", f"{FILM}?limit=100&after={page['last_id']}")


@dataclass(frozen=True)
class Kind:
    """A kind of client: its relative frequency, and what it does with port and seed."""

    weight: float
    act: Callable[[int, int], tuple[Outcome, str]]
    works: bool = True  # whether it gives the engine something to do


KINDS = {
    "picture": Kind(3, lambda port, seed: whole(port, DRAW, image_request(seed, False))),
    "stream": Kind(3, lambda port, seed: whole(port, DRAW, image_request(seed, True))),
    "question": Kind(2, lambda port, seed: whole(port, CHAT, chat_request(seed, False))),
    "chat": Kind(2, lambda port, seed: whole(port, CHAT, chat_request(seed, True))),
    "video": Kind(1, film),
    "slow": Kind(1, lambda port, seed: whole(port, DRAW, image_request(seed, True), CHUNK)),
    "vanish": Kind(2, vanish),
    "wrong": Kind(2, wrong, works=False),
}


def numbers(port: int) -> dict[str, float]:
    """The values of `GET /metrics`."""
    lines = heard(port, "GET", "/metrics").decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}
