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

IMAGES, CHAT, VIDEOS = "/v1/images/generations", "/v1/chat/completions", "/v1/videos"
JSON = {"Content-Type": "application/json"}
TIMEOUT = 600  # seconds
SLOW_CHUNK, PAUSE = 256, 0.05  # bytes a slow client reads at a time, and seconds between reads
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


INVALID: tuple[tuple[str, bytes], ...] = (
    (IMAGES, b"{"),
    (IMAGES, b'{"prompt": "a fox", "colour": 1}'),
    (IMAGES, b'{"prompt": "a fox", "n": 99}'),
    (IMAGES, b'{"prompt": NaN}'),
    (IMAGES, b"\xff" * 1000),
    (IMAGES, b"[" * 100_000),
    (VIDEOS, b'{"prompt": "a fox", "seconds": "for ever"}'),
    (CHAT, b'{"messages": []}'),
    (CHAT, b'{"messages": [{"role": "user", "content": [{"type": "image_url", '
           b'"image_url": {"url": "data:image/png;base64,AAAA"}}]}]}'),
    ("/v1/nothing", b"{}"),
)  # fmt: skip


def post(port: int, path: str, body: bytes) -> http.client.HTTPResponse:
    """Send a POST request; returns the response, which owns the connection."""
    connection = http.client.HTTPConnection(HOST, port, timeout=TIMEOUT)
    connection.request("POST", path, body, JSON | {"Connection": "close"})
    return connection.getresponse()


def get(port: int, method: str, path: str) -> bytes:
    """The body of the response to a request without a body."""
    connection = http.client.HTTPConnection(HOST, port, timeout=TIMEOUT)
    connection.request(method, path, headers={"Connection": "close"})
    return connection.getresponse().read()


def get_json(port: int, method: str, path: str) -> dict[str, Any]:
    """The response parsed as JSON."""
    body: dict[str, Any] = json.loads(get(port, method, path))
    return body


def error_outcome(answer: http.client.HTTPResponse) -> tuple[Outcome, str]:
    """The outcome of an error response, which needs a message, and for 429 a Retry-After."""
    status, message = answer.status, json.loads(answer.read())["error"]["message"]
    if status == 429 and message and answer.headers["Retry-After"]:
        return "refused", ""
    if 400 <= status < 500 and status != 429 and message:
        return "corrected", ""
    return "broken", f"{status}: {message}"


def send(port: int, path: str, body: dict[str, Any], chunk: int = 0) -> tuple[Outcome, str]:
    """Send a request and read the whole response, slowly for a slow client."""
    answer = post(port, path, json.dumps(body).encode())
    if answer.status != 200:
        return error_outcome(answer)
    data = b""
    while part := answer.read1(chunk or -1):
        data += part
        time.sleep(PAUSE if chunk else 0)
    return ("answered", "") if is_complete(data, body["stream"]) else ("broken", f"{data[-200:]!r}")


def is_complete(data: bytes, stream: bool) -> bool:
    """Whether a response is complete."""
    if stream:
        return b'"image_generation.completed"' in data or data.endswith(b"data: [DONE]\n\n")
    response = json.loads(data)
    return bool(response.get("data") or response.get("choices"))


def disconnect(port: int, seed: int) -> tuple[Outcome, str]:
    """Send a request, read a part of the response or none, and disconnect."""
    chance = random.Random(seed)
    path, ask = chance.choice(((IMAGES, image_request), (CHAT, chat_request)))
    body = json.dumps(ask(seed, chance.random() < 0.7)).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\n"
    with socket.create_connection((HOST, port), timeout=TIMEOUT) as connection:
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode())
        if chance.random() < 0.3:
            connection.sendall(body[: len(body) // 2])
            return "gone", ""
        connection.sendall(body)
        connection.settimeout(3 * chance.random())
        with contextlib.suppress(TimeoutError):
            connection.recv(chance.choice((1, 1000)))
    return "gone", ""


def invalid(port: int, seed: int) -> tuple[Outcome, str]:
    """Send an invalid request, which must be rejected."""
    outcome, reason = error_outcome(post(port, *INVALID[seed % len(INVALID)]))
    return (outcome, reason) if outcome == "corrected" else ("broken", f"{outcome} {reason}")


def video(port: int, seed: int) -> tuple[Outcome, str]:
    """Request a video of one second; abandon it, cancel it, or fetch and delete it."""
    chance = random.Random(seed)
    body = {"prompt": prompt(seed % 1000), "seed": seed, "seconds": "1"}
    answer = post(port, VIDEOS, json.dumps(body).encode())
    if answer.status != 200:
        return error_outcome(answer)
    path = f"{VIDEOS}/{json.loads(answer.read())['id']}"
    if (choice := chance.random()) < ABANDONED:
        return "gone", ""
    if choice < ABANDONED + CANCELLED:
        time.sleep(4 * chance.random())
        return ("gone", "") if get_json(port, "DELETE", path).get("deleted") else ("broken", path)
    end = time.monotonic() + TIMEOUT
    while (status := get_json(port, "GET", path)["status"]) in ("queued", "in_progress"):
        if time.monotonic() > end:
            return "broken", f"{path} is {status} still"
        time.sleep(POLL)
    clip = get(port, "GET", f"{path}/content")
    get_json(port, "DELETE", path)
    complete = status == "completed" and clip[4:8] == b"ftyp"
    return ("answered", "") if complete else ("broken", f"{status}: {clip[:200]!r}")


def unfinished(port: int) -> int:
    """The number of unfinished videos; raises ValueError if one failed."""
    page, count = get_json(port, "GET", f"{VIDEOS}?limit=100"), 0
    while True:
        statuses = [each["status"] for each in page["data"]]
        if "failed" in statuses:
            raise ValueError("a video failed")
        count += sum(status != "completed" for status in statuses)
        if not page["has_more"]:
            return count
        page = get_json(port, "GET", f"{VIDEOS}?limit=100&after={page['last_id']}")


@dataclass(frozen=True)
class Kind:
    """A kind of client: its relative frequency, and what it does with port and seed."""

    weight: float
    act: Callable[[int, int], tuple[Outcome, str]]
    uses_engine: bool = True  # whether it gives the engine something to do


KINDS = {
    "image": Kind(3, lambda port, seed: send(port, IMAGES, image_request(seed, False))),
    "stream": Kind(3, lambda port, seed: send(port, IMAGES, image_request(seed, True))),
    "question": Kind(2, lambda port, seed: send(port, CHAT, chat_request(seed, False))),
    "chat": Kind(2, lambda port, seed: send(port, CHAT, chat_request(seed, True))),
    "video": Kind(1, video),
    "slow": Kind(1, lambda port, seed: send(port, IMAGES, image_request(seed, True), SLOW_CHUNK)),
    "disconnect": Kind(2, disconnect),
    "invalid": Kind(2, invalid, uses_engine=False),
}


def read_metrics(port: int) -> dict[str, float]:
    """The values of `GET /metrics`."""
    lines = get(port, "GET", "/metrics").decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}
