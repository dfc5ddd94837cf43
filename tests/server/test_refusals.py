"""Whatever a client sends, it hears what was wrong in OpenAI's shape, and never of a bug."""

from __future__ import annotations

import base64
import http.client
import io
import json
import zlib
from typing import Any
from urllib.parse import urlsplit

import pytest
from PIL import Image

from .conftest import KEY, Server

DRAW, CHAT = "/v1/images/generations", "/v1/chat/completions"
JSON = {"Content-Type": "application/json"}


def call(
    server: Server, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    given = {"Authorization": f"Bearer {KEY}", **JSON, **(headers or {})}
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=30)
    connection.request(method, path, body, given)
    answer = connection.getresponse()
    read = answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
    connection.close()
    return read


def refused(status: int, body: bytes) -> dict[str, Any]:
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert isinstance(error["message"], str)
    assert 400 <= status < 500
    return dict(error)


def url_of(data: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def png(width: int, height: int) -> bytes:
    out = io.BytesIO()
    Image.new("1", (width, height)).save(out, format="PNG")
    return out.getvalue()


def png_that_claims(width: int, height: int) -> bytes:
    """A small file that would unpack to more than any machine has."""

    def part(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data).to_bytes(4, "big")
        return len(data).to_bytes(4, "big") + kind + data + check

    size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    return (
        b"\x89PNG\r\n\x1a\n"
        + part(b"IHDR", size + bytes([8, 2, 0, 0, 0]))
        + part(b"IDAT", zlib.compress(bytes(1000)))
        + part(b"IEND", b"")
    )


SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'

PICTURES: dict[str, tuple[dict[str, Any], str | None, str]] = {
    "no prompt": ({}, "prompt", "say what"),
    "an empty prompt": ({"prompt": ""}, "prompt", "say what"),
    "a blank prompt": ({"prompt": " \n"}, "prompt", "say what"),
    "a prompt of a megabyte": ({"prompt": "x" * 2**20}, "prompt", "limit max_prompt"),
    "a prompt longer than the context": ({"prompt": "x" * 3000}, None, "context of 512"),
    "a number for a prompt": ({"prompt": 5}, "prompt", "must be a string"),
    "a list of prompts": ({"prompt": ["a", "b"]}, "prompt", "must be a string"),
    "half a character": ({"prompt": "\ud800"}, "prompt", "surrogate"),
    "a long negative prompt": ({"negative_prompt": "x" * 5000}, "negative_prompt", "max_prompt"),
    "n of none": ({"n": 0}, "n", "1 to 4"),
    "n of many": ({"n": 5}, "n", "limit max_n"),
    "a huge n": ({"n": 10**30}, "n", "limit max_n"),
    "n as a string": ({"n": "2"}, "n", "integer"),
    "n as a boolean": ({"n": True}, "n", "integer"),
    "n as a fraction": ({"n": 1.5}, "n", "integer"),
    "a size in words": ({"size": "large"}, "size", "WIDTHxHEIGHT"),
    "a size of nothing": ({"size": "0x0"}, None, "multiples of 4"),
    "a negative size": ({"size": "-16x16"}, "size", "WIDTHxHEIGHT"),
    "a size too large": ({"size": "4096x4096"}, "size", "limit max_pixels"),
    "a size of no whole codes": ({"size": "17x16"}, None, "multiples of 4"),
    "a size too thin": ({"size": "4x400"}, None, "5 times"),
    "a size as a number": ({"size": 16}, "size", "string"),
    "a negative seed": ({"seed": -1}, "seed", "must lie in"),
    "a huge seed": ({"seed": 2**70}, "seed", "must lie in"),
    "a huge guidance": ({"guidance_scale": 1e300}, "guidance_scale", "limit max_guidance"),
    "an integer too large for a float": (
        {"guidance_scale": 10**400},
        "guidance_scale",
        "max_guidance",
    ),
    "a negative guidance": ({"guidance_scale": -1}, "guidance_scale", "must lie in"),
    "guidance in words": ({"guidance_scale": "high"}, "guidance_scale", "number"),
    "a temperature near nothing": ({"temperature": 1e-300}, "temperature", "0.01"),
    "a negative top_k": ({"top_k": -1}, "top_k", "must lie in"),
    "a link wanted": ({"response_format": "url"}, "response_format", "keeps no pictures"),
    "an unknown response": ({"response_format": "xml"}, "response_format", "one of"),
    "an unknown format": ({"output_format": "gif"}, "output_format", "png, jpeg, webp"),
    "a format that is a list": ({"output_format": ["png"]}, "output_format", "png, jpeg, webp"),
    "a transparent background": ({"background": "transparent"}, "background", "opaque"),
    "a quality there is not": ({"quality": "hd"}, "quality", "auto"),
    "partial pictures of no stream": ({"partial_images": 1}, "partial_images", "stream"),
    "too many partial pictures": ({"partial_images": 4}, "partial_images", "0 to 3"),
    "a stream of two": ({"n": 2, "stream": True}, "n", "one picture"),
    "a stream of words": ({"stream": "yes"}, "stream", "true or false"),
    "a field nobody knows": ({"sned": 1}, "sned", "unknown field"),
    "a user who is no string": ({"user": {"a": 1}}, "user", "string"),
    "a model that is a path": ({"model": "../../etc/passwd"}, "model", "not served"),
    "a model that is a number": ({"model": 1}, "model", "string"),
}  # fmt: skip


@pytest.mark.parametrize("case", PICTURES)
def test_pictures_refused(server: Server, case: str) -> None:
    fields, param, message = PICTURES[case]
    given = fields if "no prompt" in case else {"prompt": "x", **fields}
    status, _, body = call(server, "POST", DRAW, json.dumps(given).encode())
    error = refused(status, body)
    assert (error["param"], status) == (param, 404 if "is a path" in case else 400)
    assert message in error["message"]


def picture(url: object) -> dict[str, Any]:
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "x"}]
    return {"messages": [{"role": "user", "content": parts}]}


def user(content: object, **more: object) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}], **more}


CHATS: dict[str, tuple[dict[str, Any], str]] = {
    "no messages": ({}, "at least one"),
    "messages in words": ({"messages": "hello"}, "must be a list"),
    "a message in words": ({"messages": ["hello"]}, "must be an object"),
    "thousands of messages": ({"messages": [{"role": "user", "content": "x"}] * 999}, "at most"),
    "a system message": (
        {"messages": [{"role": "system", "content": "x"}]},
        "a system sentence of its own",
    ),
    "an unknown role": ({"messages": [{"role": "root", "content": "x"}]}, "user or assistant"),
    "a role that is a list": ({"messages": [{"role": [], "content": "x"}]}, "user or assistant"),
    "the model asks": ({"messages": [{"role": "assistant", "content": "x"}]}, "take turns"),
    "twice the user": ({"messages": [{"role": "user", "content": "x"}] * 2}, "take turns"),
    "no content": ({"messages": [{"role": "user"}]}, "a string or a list"),
    "a part of no kind": (user([{"text": "x"}]), "must be text or image_url"),
    "a part that is sound": (user([{"type": "input_audio"}]), "must be text or image_url"),
    "a text of a megabyte": (user("x" * 2**20), "limit max_prompt"),
    "a text longer than the context": (user("x" * 3000), "context of 512"),
    "tokens without end": (user("x", max_tokens=10**9), "limit max_tokens"),
    "no tokens": (user("x", max_tokens=0), "1 to 64"),
    "two limits of tokens": (user("x", max_tokens=1, max_completion_tokens=1), "not both"),
    "two answers": (user("x", n=2), "not supported"),
    "tools": (user("x", tools=[{"type": "function"}]), "not supported"),
    "a stop": (user("x", stop=["a"]), "not supported"),
    "top_p of nothing": (user("x", top_p=0), "above 0"),
    "top_p above one": (user("x", top_p=1.1), "0 to 1"),
    "stream options without a stream": (user("x", stream_options={}), "stream"),
    "a picture from elsewhere": (picture("https://example.com/a.png"), "limit remote_images"),
    "a picture from here": (picture("http://127.0.0.1/a.png"), "limit remote_images"),
    "a picture in a file": (picture("file:///etc/passwd"), "limit remote_images"),
    "a picture that is a number": (picture(3), "must be a string"),
    "not valid base64": (picture("data:image/png;base64,@@@"), "not valid base64"),
    "base64 of another alphabet": (picture("data:image/png;base64,ж"), "not valid base64"),
    "no picture at all": (picture(url_of(b"hello")), "not an image"),
    "nothing": (picture("data:image/png;base64,"), "not an image"),
    "a drawing of vectors": (picture(url_of(SVG, "svg+xml")), "expected data:image/png"),
    "a drawing of vectors in disguise": (picture(url_of(SVG)), "not an image"),
    "a picture cut short": (picture(url_of(png(64, 64)[:40])), "not an image"),
    "a bomb": (picture(url_of(png(12000, 8000))), "limit max_input_pixels"),
    "a bomb that only claims": (picture(url_of(png_that_claims(60000, 60000))), "max_input"),
    "a picture of one pixel": (picture(url_of(png(1, 1))), "4 pixels or more"),
    "a picture too thin": (picture(url_of(png(600, 8))), "5 times"),
    "too many pictures": (
        user([{"type": "image_url", "image_url": {"url": url_of(png(16, 16))}}] * 9),
        "limit max_images",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CHATS)
def test_questions_refused(server: Server, case: str) -> None:
    fields, message = CHATS[case]
    status, _, body = call(server, "POST", CHAT, json.dumps(fields).encode())
    assert message in refused(status, body)["message"]
    assert status == 400


BODIES: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "not valid JSON"),
    "no JSON": (b"prompt=x", "not valid JSON"),
    "JSON cut short": (b'{"prompt": "x', "not valid JSON"),
    "no UTF-8": (b'{"prompt": "\xff"}', "not valid JSON"),
    "a list": (b"[1]", "must be a JSON object"),
    "null": (b"null", "must be a JSON object"),
    "no number": (b'{"prompt": "x", "guidance_scale": NaN}', "NaN"),
    "infinity": (b'{"prompt": "x", "guidance_scale": -Infinity}', "Infinity"),
    "infinity by exponent": (b'{"prompt": "x", "guidance_scale": 1e999}', "max_guidance"),
    "a number of 5,000 digits": (b'{"n": ' + b"9" * 5000 + b"}", "not valid JSON"),
    "a deep nest": (b"[" * 200_000, "nested too deeply"),
}


@pytest.mark.parametrize("case", BODIES)
@pytest.mark.parametrize("path", [DRAW, CHAT])
def test_bodies_refused(server: Server, path: str, case: str) -> None:
    body, message = BODIES[case]
    status, _, answer = call(server, "POST", path, body)
    error = refused(status, answer)
    assert status == 400
    if path == DRAW:
        assert message in error["message"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v1", 404),
        ("GET", "/v1/models/..%2f..%2fetc%2fpasswd", 404),
        ("GET", "/v1/models/", 404),
        ("GET", "/../../etc/passwd", 404),
        ("GET", DRAW, 405),
        ("DELETE", "/v1/models", 405),
        ("PUT", CHAT, 405),
        ("GET", "/v1/videos", 400),
        ("POST", "/v1/images/edits", 400),
    ],
)
def test_paths_refused(server: Server, method: str, path: str, status: int) -> None:
    got, _, body = call(server, method, path)
    refused(got, body)
    assert got == status


@pytest.mark.parametrize("kind", ["text/plain", "multipart/form-data; boundary=x", ""])
def test_other_content_types_are_refused(server: Server, kind: str) -> None:
    status, _, body = call(server, "POST", DRAW, b'{"prompt": "x"}', {"Content-Type": kind})
    assert status == 415
    assert "application/json" in refused(status, body)["message"]


@pytest.mark.parametrize("chunked", [False, True])
def test_large_bodies_are_refused(server: Server, chunked: bool) -> None:
    data = b" " * (server.settings.max_body + 1)
    if not chunked:
        status, _, body = call(server, "POST", DRAW, data)
    else:
        connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=30)
        parts = (data[start : start + 2**18] for start in range(0, len(data), 2**18))
        given = {"Authorization": f"Bearer {KEY}", **JSON}
        connection.request("POST", DRAW, parts, given, encode_chunked=True)
        answer = connection.getresponse()
        status, body = answer.status, answer.read()
    assert status == 413
    assert "limit max_body" in refused(status, body)["message"]


@pytest.mark.parametrize("key", ["", "Bearer", "Bearer wrong", f"Basic {KEY}", KEY, "Bearer é"])
@pytest.mark.parametrize("path", [DRAW, "/v1/models", "/metrics", "/nowhere"])
def test_wrong_keys_are_refused(server: Server, path: str, key: str) -> None:
    status, _, body = call(server, "GET", path, headers={"Authorization": key})
    error = refused(status, body)
    assert (status, error["code"]) == (401, "invalid_api_key")
    assert KEY not in error["message"]


def test_nothing_refused_ever_reached_the_model(server: Server) -> None:
    before = server.engine.stats()
    for fields, _, _ in PICTURES.values():
        call(server, "POST", DRAW, json.dumps({"n": 0, **fields}).encode())
    assert server.engine.stats().steps == before.steps


def test_names_of_control_tokens_are_text(server: Server) -> None:
    """As many ids as bytes: none of them became one token."""

    def read(prompt: str) -> int:
        body = json.dumps({"prompt": prompt, "guidance_scale": 1}).encode()
        return int(json.loads(call(server, "POST", DRAW, body)[2])["usage"]["input_tokens"])

    assert read("<|image token|>") == read("y" * 15)
