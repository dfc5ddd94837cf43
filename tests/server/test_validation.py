"""Invalid requests get a 4xx error in OpenAI's shape that names the field and the limit."""

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

IMAGES, CHAT = "/v1/images/generations", "/v1/chat/completions"
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


def error_of(status: int, body: bytes) -> dict[str, Any]:
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
    """Return a small file whose header declares these dimensions."""

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

IMAGE_REQUESTS: dict[str, tuple[dict[str, Any], str | None, str]] = {
    "no prompt": ({}, "prompt", "required"),
    "prompt null": ({"prompt": None}, "prompt", "required"),
    "prompt empty": ({"prompt": ""}, "prompt", "must not be blank"),
    "prompt blank": ({"prompt": " \n"}, "prompt", "must not be blank"),
    "prompt too long": ({"prompt": "x" * 2**20}, "prompt", "limit max_prompt"),
    "prompt longer than the context": ({"prompt": "x" * 3000}, None, "context of 512"),
    "prompt a number": ({"prompt": 5}, "prompt", "must be a string"),
    "prompt a list": ({"prompt": ["a", "b"]}, "prompt", "must be a string"),
    "prompt with an unpaired surrogate": ({"prompt": "\ud800"}, "prompt", "surrogate"),
    "negative prompt too long": ({"negative_prompt": "x" * 5000}, "negative_prompt", "max_prompt"),
    "n zero": ({"n": 0}, "n", "between 1 and 4"),
    "n above the limit": ({"n": 5}, "n", "limit max_n"),
    "n huge": ({"n": 10**30}, "n", "limit max_n"),
    "n a string": ({"n": "2"}, "n", "must be an integer"),
    "n a boolean": ({"n": True}, "n", "must be an integer"),
    "n a fraction": ({"n": 1.5}, "n", "must be an integer"),
    "size a word": ({"size": "large"}, "size", "WIDTHxHEIGHT"),
    "size zero": ({"size": "0x0"}, None, "multiples of 4"),
    "size negative": ({"size": "-16x16"}, "size", "WIDTHxHEIGHT"),
    "size above the limit": ({"size": "4096x4096"}, "size", "limit max_pixels"),
    "size not a multiple of a code": ({"size": "17x16"}, None, "multiples of 4"),
    "size too narrow": ({"size": "4x400"}, None, "5 times"),
    "size a number": ({"size": 16}, "size", "WIDTHxHEIGHT"),
    "seed negative": ({"seed": -1}, "seed", "must be between 0 and"),
    "seed huge": ({"seed": 2**70}, "seed", "must be between 0 and"),
    "last seed out of range": ({"seed": 2**63 - 1, "n": 2}, None, "seed"),
    "guidance above the limit": ({"guidance_scale": 1e300}, "guidance_scale", "max_guidance"),
    "guidance too large for a float": (
        {"guidance_scale": 10**400},
        "guidance_scale",
        "finite number",
    ),
    "guidance negative": ({"guidance_scale": -1}, "guidance_scale", "must be between 0 and 30"),
    "guidance a word": ({"guidance_scale": "high"}, "guidance_scale", "number"),
    "temperature near zero": ({"temperature": 1e-300}, "temperature", "0.01"),
    "top_k negative": ({"top_k": -1}, "top_k", "must be between 0 and"),
    "response format url": ({"response_format": "url"}, "response_format", "'b64_json'"),
    "response format unknown": ({"response_format": "xml"}, "response_format", "'b64_json'"),
    "output format unknown": (
        {"output_format": "gif"},
        "output_format",
        "not supported; use 'png', 'jpeg' or 'webp'",
    ),
    "output format a list": ({"output_format": ["png"]}, "output_format", "'png', 'jpeg' or"),
    "background transparent": ({"background": "transparent"}, "background", "opaque"),
    "quality unknown": ({"quality": "hd"}, "quality", "auto"),
    "partial images without a stream": ({"partial_images": 1}, "partial_images", "stream: true"),
    "too many partial images": ({"partial_images": 4}, "partial_images", "between 0 and 3"),
    "a stream of two": ({"n": 2, "stream": True}, "n", "one image"),
    "stream a word": ({"stream": "yes"}, "stream", "true or false"),
    "unknown field": ({"sned": 1}, "sned", "unknown field"),
    "unknown field with a long name": ({"é" * 200: 1}, "é" * 100 + "…", "unknown field"),
    "unknown field of invalid Unicode": ({"\ud800": 1}, None, "not valid Unicode"),
    "user an object": ({"user": {"a": 1}}, "user", "string"),
    "model a path": ({"model": "../../etc/passwd"}, "model", "not served"),
    "model a number": ({"model": 1}, "model", "string"),
}  # fmt: skip


@pytest.mark.parametrize("case", IMAGE_REQUESTS)
def test_invalid_image_requests(server: Server, case: str) -> None:
    fields, param, message = IMAGE_REQUESTS[case]
    body = fields if case == "no prompt" else {"prompt": "x", **fields}
    status, _, answer = call(server, "POST", IMAGES, json.dumps(body).encode())
    error = error_of(status, answer)
    assert (error["param"], status) == (param, 404 if case == "model a path" else 400)
    assert message in error["message"]


def image_question(url: object) -> dict[str, Any]:
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "x"}]
    return {"messages": [{"role": "user", "content": parts}]}


def question(content: object, **fields: object) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}], **fields}


CHAT_REQUESTS: dict[str, tuple[dict[str, Any], str]] = {
    "no messages": ({}, "messages: required"),
    "messages empty": ({"messages": []}, "messages: must have at least 1"),
    "messages a string": ({"messages": "hello"}, "messages: must be a list"),
    "message a string": ({"messages": ["hello"]}, "messages[0]: must be an object"),
    "too many messages": ({"messages": [{"role": "user", "content": "x"}] * 999}, "at most 200"),
    "system message": (
        {"messages": [{"role": "system", "content": "x"}]},
        "messages[0].role: not supported: the model's template",
    ),
    "role unknown": ({"messages": [{"role": "root", "content": "x"}]}, "'user' or 'assistant'"),
    "role a list": ({"messages": [{"role": [], "content": "x"}]}, "'user' or 'assistant'"),
    "first message of the assistant": (
        {"messages": [{"role": "assistant", "content": "x"}]},
        "take turns",
    ),
    "two user messages in a row": (
        {"messages": [{"role": "user", "content": "x"}] * 2},
        "messages[1].role: user and assistant take turns",
    ),
    "an image of the assistant": (
        {
            "messages": [
                {"role": "user", "content": "x"},
                {
                    "role": "assistant",
                    "content": [{"type": "image_url", "image_url": {"url": "data:"}}],
                },
            ]
        },
        "messages[1].content[0].type: must be 'text'",
    ),
    "no content": ({"messages": [{"role": "user"}]}, "messages[0].content: required"),
    "content a number": (question(5), "messages[0].content: must be a string or a list of parts"),
    "part without a type": (question([{"text": "x"}]), "messages[0].content[0].type: required"),
    "part of unknown type": (question([{"type": "input_audio"}]), "use 'text', 'image_url' or"),
    "part without its field": (
        question([{"type": "text"}]),
        "messages[0].content[0].text: required in a part of type 'text'",
    ),
    "part with another field": (
        question([{"type": "text", "text": "x", "image_url": {"url": "x"}}]),
        "messages[0].content[0].image_url: not allowed",
    ),
    "unknown field of a message": (
        {"messages": [{"role": "user", "content": "x", "name": "y"}]},
        "messages[0].name: unknown field",
    ),
    "text too long": (question("x" * 2**20), "limit max_prompt"),
    "texts too long together": (
        question([{"type": "text", "text": "x" * 3000}] * 2),
        "messages[0].content[1].text: more than 4000 characters in all messages",
    ),
    "text longer than the context": (question("x" * 3000), "context of 512"),
    "too many tokens": (question("x", max_tokens=10**9), "limit max_tokens"),
    "no tokens": (question("x", max_tokens=0), "between 1 and 64"),
    "two limits of tokens": (question("x", max_tokens=1, max_completion_tokens=1), "not both"),
    "n two": (question("x", n=2), "n: not supported; leave it out or use 1"),
    "n true": (question("x", n=True), "not supported"),
    "tools": (question("x", tools=[{"type": "function"}]), "not supported"),
    "stop": (question("x", stop=["a"]), "not supported"),
    "top_p zero": (question("x", top_p=0), "above 0"),
    "top_p above one": (question("x", top_p=1.1), "between 0 and 1"),
    "stream options without a stream": (question("x", stream_options={}), "stream"),
    "remote image": (image_question("https://example.com/a.png"), "--remote-images"),
    "local image": (image_question("http://127.0.0.1/a.png"), "--remote-images"),
    "image in a file": (image_question("file:///etc/passwd"), "--remote-images"),
    "image URL a number": (image_question(3), "must be a string"),
    "invalid base64": (image_question("data:image/png;base64,@@@"), "not valid base64"),
    "base64 of another alphabet": (image_question("data:image/png;base64,ж"), "not valid base64"),
    "not an image": (image_question(url_of(b"hello")), "not an image"),
    "empty image": (image_question("data:image/png;base64,"), "not an image"),
    "vector image": (image_question(url_of(SVG, "svg+xml")), "expected data:image/png"),
    "vector image declared as PNG": (image_question(url_of(SVG)), "not an image"),
    "truncated image": (image_question(url_of(png(64, 64)[:40])), "not an image"),
    "decompression bomb": (image_question(url_of(png(12000, 8000))), "limit max_input_pixels"),
    "image whose header declares a huge size": (
        image_question(url_of(png_that_claims(60000, 60000))),
        "max_input_pixels",
    ),
    "image of one pixel": (image_question(url_of(png(1, 1))), "4 pixels"),
    "image too narrow": (image_question(url_of(png(600, 8))), "5 times"),
    "too many images": (
        question([{"type": "image_url", "image_url": {"url": url_of(png(16, 16))}}] * 9),
        "limit max_images",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CHAT_REQUESTS)
def test_invalid_chat_requests(server: Server, case: str) -> None:
    fields, message = CHAT_REQUESTS[case]
    status, _, body = call(server, "POST", CHAT, json.dumps(fields).encode())
    assert message in error_of(status, body)["message"]
    assert status == 400


BODIES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "not valid JSON"),
    "not JSON": (b"prompt=x", "not valid JSON"),
    "truncated JSON": (b'{"prompt": "x', "not valid JSON"),
    "not UTF-8": (b'{"prompt": "\xff"}', "not valid JSON"),
    "list": (b"[1]", "must be a JSON object"),
    "null": (b"null", "must be a JSON object"),
    "NaN": (b'{"prompt": "x", "guidance_scale": NaN}', "NaN"),
    "infinity": (b'{"prompt": "x", "guidance_scale": -Infinity}', "Infinity"),
    "infinity by exponent": (b'{"prompt": "x", "guidance_scale": 1e999}', "finite number"),
    "number of 5,000 digits": (b'{"n": ' + b"9" * 5000 + b"}", "not valid JSON"),
    "deep nesting": (b"[" * 200_000, "nested too deeply"),
}


@pytest.mark.parametrize("case", BODIES)
@pytest.mark.parametrize("path", [IMAGES, CHAT])
def test_invalid_bodies(server: Server, path: str, case: str) -> None:
    body, message = BODIES[case]
    status, _, answer = call(server, "POST", path, body)
    error = error_of(status, answer)
    assert status == 400
    if path == IMAGES:
        assert message in error["message"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v1", 404),
        ("GET", "/v1/models/..%2f..%2fetc%2fpasswd", 404),
        ("GET", "/v1/models/", 404),
        ("GET", "/../../etc/passwd", 404),
        ("GET", IMAGES, 405),
        ("DELETE", "/v1/models", 405),
        ("PUT", CHAT, 405),
        ("GET", "/v1/videos", 400),
        ("POST", "/v1/images/edits", 400),
    ],
)
def test_invalid_paths(server: Server, method: str, path: str, status: int) -> None:
    got, _, body = call(server, method, path)
    error_of(got, body)
    assert got == status


@pytest.mark.parametrize("kind", ["text/plain", "multipart/form-data; boundary=x", ""])
def test_unsupported_content_types(server: Server, kind: str) -> None:
    status, _, body = call(server, "POST", IMAGES, b'{"prompt": "x"}', {"Content-Type": kind})
    assert status == 415
    assert "application/json" in error_of(status, body)["message"]


@pytest.mark.parametrize("chunked", [False, True])
def test_bodies_above_the_limit(server: Server, chunked: bool) -> None:
    data = b" " * (server.settings.max_body + 1)
    if not chunked:
        status, _, body = call(server, "POST", IMAGES, data)
    else:
        connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=30)
        parts = (data[start : start + 2**18] for start in range(0, len(data), 2**18))
        given = {"Authorization": f"Bearer {KEY}", **JSON}
        connection.request("POST", IMAGES, parts, given, encode_chunked=True)
        answer = connection.getresponse()
        status, body = answer.status, answer.read()
    assert status == 413
    assert "limit max_body" in error_of(status, body)["message"]


@pytest.mark.parametrize("key", ["", "Bearer", "Bearer wrong", f"Basic {KEY}", KEY, "Bearer é"])
@pytest.mark.parametrize("path", [IMAGES, "/v1/models", "/metrics", "/nowhere"])
def test_wrong_api_keys(server: Server, path: str, key: str) -> None:
    status, _, body = call(server, "GET", path, headers={"Authorization": key})
    error = error_of(status, body)
    assert (status, error["code"]) == (401, "invalid_api_key")
    assert KEY not in error["message"]


def test_invalid_requests_do_not_reach_the_model(server: Server) -> None:
    before = server.engine.stats()
    for fields, _, _ in IMAGE_REQUESTS.values():
        call(server, "POST", IMAGES, json.dumps({"n": 0, **fields}).encode())
    assert server.engine.stats().steps == before.steps


def test_control_tokens_in_prompts_are_text(server: Server) -> None:
    """The name of a control token has as many token ids as bytes."""

    def read(prompt: str) -> int:
        body = json.dumps({"prompt": prompt, "guidance_scale": 1}).encode()
        return int(json.loads(call(server, "POST", IMAGES, body)[2])["usage"]["input_tokens"])

    assert read("<|image token|>") == read("y" * 15)
