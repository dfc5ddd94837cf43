"""Invalid video requests get a 4xx error that names the field and the limit; none is queued."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from emu3.server.settings import Settings

from .conftest import KEY, Server, serving, video_checkpoint
from .test_validation import CHAT, call, error_of, png, png_that_claims, url_of
from .test_videos import clip_file

pytest.importorskip("av")
VIDEOS, EXTENSIONS = "/v1/videos", "/v1/videos/extensions"
NO_ID = "video_" + 32 * "0"


@pytest.fixture(scope="module")
def video_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    settings = Settings(
        model="tiny",
        api_key=KEY,
        max_pixels=64 * 64,
        max_body=3 * 2**20,
        max_frames=40,
        max_video_pixels=40 * 16 * 16,
        jobs=tmp_path_factory.mktemp("jobs"),
    )
    with serving(settings, video_checkpoint()) as server:
        yield server


@pytest.fixture(autouse=True)
def no_job_is_queued(video_server: Server) -> Iterator[None]:
    yield
    assert json.loads(call(video_server, "GET", VIDEOS)[2])["data"] == []
    assert video_server.engine.stats().steps == 0


def video_url(data: bytes, kind: str = "mp4") -> str:
    return url_of(data, kind).replace("image/", "video/")


PLAYLIST = b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"
DASH = b'AAAAftyp<?xml?><MPD profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"></MPD>'

VIDEO_REQUESTS: dict[str, tuple[dict[str, Any], str | None, str]] = {
    "prompt null": ({"prompt": None}, "prompt", "required"),
    "prompt blank": ({"prompt": "  "}, "prompt", "must not be blank"),
    "prompt a list": ({"prompt": ["x"]}, "prompt", "must be a string"),
    "prompt too long": ({"prompt": "x" * 2**20}, "prompt", "limit max_prompt"),
    "prompt longer than the context": ({"prompt": "x" * 3000}, None, "context of 512"),
    "prompt with an unpaired surrogate": ({"prompt": "\udfff"}, "prompt", "surrogate"),
    "seconds zero": ({"seconds": 0}, "seconds", "must be between 0.001 and"),
    "seconds negative": ({"seconds": -1}, "seconds", "must be between 0.001 and"),
    "seconds a word": ({"seconds": "four"}, "seconds", "must be a finite number"),
    "seconds NaN": ({"seconds": "NaN"}, "seconds", "must be a finite number"),
    "seconds infinite": ({"seconds": "1e999"}, "seconds", "must be a finite number"),
    "seconds true": ({"seconds": True}, "seconds", "must be a finite number"),
    "seconds a list": ({"seconds": [4]}, "seconds", "must be a finite number"),
    "far too many seconds": ({"seconds": 1e6}, "seconds", "limit max_frames"),
    "too many seconds": ({"seconds": "8"}, "seconds", "limit max_frames"),
    "fps zero": ({"fps": 0}, "fps", "must be between 0.001 and 240"),
    "fps too high": ({"fps": 1000}, "fps", "must be between 0.001 and 240"),
    "fps with too many decimals": ({"fps": 29.97002997, "seconds": 1}, None, "three decimals"),
    "size a word": ({"size": "720p"}, "size", "WIDTHxHEIGHT"),
    "size above the limit": ({"size": "1280x720"}, "size", "limit max_pixels"),
    "size not a multiple of a code": ({"size": "17x16"}, None, "multiples of 4"),
    "too many pixels in all frames": (
        {"size": "32x32", "seconds": 1.75},
        "seconds",
        "limit max_video_pixels",
    ),
    "seed negative": ({"seed": -1}, "seed", "must be between 0 and"),
    "seed too large": ({"seed": 2**63}, "seed", "must be between 0 and"),
    "guidance above the limit": ({"guidance_scale": 31}, "guidance_scale", "max_guidance"),
    "temperature near zero": ({"temperature": 1e-9}, "temperature", "0.01"),
    "another model": ({"model": "sora-2"}, "model", "not served"),
    "unknown field": ({"n": 2}, "n", "unknown field"),
    "image a number": ({"input_reference": 3}, "input_reference", "must be a file"),
    "image an empty object": ({"input_reference": {}}, "input_reference", "must be a file"),
    "image an object with another field": (
        {"input_reference": {"image_url": "data:", "path": "x"}},
        "input_reference",
        "must be a file",
    ),
    "image by file id": (
        {"input_reference": {"file_id": "file-1"}},
        "input_reference.file_id",
        "stores no files",
    ),
    "local image": (
        {"input_reference": "http://127.0.0.1/a.png"},
        "input_reference",
        "--remote-images",
    ),
    "invalid base64": (
        {"input_reference": "data:image/png;base64,@"},
        "input_reference",
        "not valid base64",
    ),
    "video in place of an image": (
        {"input_reference": url_of(b"\0\0\0\x20ftypisom")},
        "input_reference",
        "not an image",
    ),
    "image whose header declares a huge size": (
        {"input_reference": url_of(png_that_claims(60000, 60000))},
        "input_reference",
        "max_input_pixels",
    ),
    "image and size": (
        {"input_reference": url_of(png(16, 16)), "size": "16x16"},
        None,
        "leave out size",
    ),
}


@pytest.mark.parametrize("case", VIDEO_REQUESTS)
def test_invalid_video_requests(video_server: Server, case: str) -> None:
    fields, param, message = VIDEO_REQUESTS[case]
    body = json.dumps({"prompt": "x", "seconds": 4, **fields}).encode()
    status, _, answer = call(video_server, "POST", VIDEOS, body)
    error = error_of(status, answer)
    assert message in error["message"]
    assert error["param"] == param or param is None
    assert status == (404 if "model" in fields else 400)


EXTENSION_SOURCES: dict[str, tuple[object, int, str]] = {
    "null": (None, 400, "video: required"),
    "number": (5, 400, "must be a file"),
    "unknown id": ({"id": NO_ID}, 404, "no such video"),
    "path as id": ({"id": "../../etc/passwd"}, 404, "no such video"),
    "id a list": ({"id": [NO_ID]}, 400, "must be a file"),
    "object with another field": ({"id": NO_ID, "path": "x"}, 400, "must be a file"),
    "not a video": (video_url(b"hello world, this is text"), 400, "not a video"),
    "empty": (video_url(b""), 400, "not a video"),
    "MP4 header only": (
        video_url(b"\0\0\0\x20ftypisom" + bytes(500)),
        400,
        "not a video, or damaged",
    ),
    "Matroska header only": (
        video_url(b"\x1a\x45\xdf\xa3" + bytes(500), "webm"),
        400,
        "not a video, or damaged",
    ),
    "playlist": (video_url(PLAYLIST), 400, "not a video"),
    "playlist with an MP4 header": (video_url(DASH), 400, "or damaged"),
    "truncated GIF": (video_url(b"GIF89a\x10\0\x10\0").replace("video/mp4", "image/gif"), 400, ""),
    "image": (url_of(png(16, 16)), 400, "expected data:video/mp4"),
}


@pytest.mark.parametrize("case", EXTENSION_SOURCES)
def test_invalid_extensions(video_server: Server, case: str) -> None:
    source, status, message = EXTENSION_SOURCES[case]
    body = json.dumps({"prompt": "x", "video": source, "seconds": 1}).encode()
    got, _, answer = call(video_server, "POST", EXTENSIONS, body)
    text = error_of(got, answer)["message"]
    assert (got, message in text) == (status, True), text
    assert "/tmp" not in text


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("GET", f"{VIDEOS}/{NO_ID}", 404, "no such video"),
        ("GET", f"{VIDEOS}/{NO_ID}/content", 404, "no such video"),
        ("DELETE", f"{VIDEOS}/{NO_ID}", 404, "no such video"),
        ("POST", f"{VIDEOS}/{NO_ID}/extend", 404, "no such video"),
        ("GET", f"{VIDEOS}/..%2f..%2fjobs.sqlite", 404, ""),
        ("GET", f"{VIDEOS}/..%2fjobs.sqlite/content", 404, ""),
        ("DELETE", f"{VIDEOS}/%2e%2e", 404, "no such video"),
        ("GET", f"{VIDEOS}/{NO_ID}%00", 404, "no such video"),
        ("GET", f"{VIDEOS}/{NO_ID.upper()}/content", 404, "no such video"),
        ("GET", f"{VIDEOS}/{'x' * 5000}", 404, "no such video"),
        ("GET", f"{VIDEOS}/' OR 1=1 --".replace(" ", "%20"), 404, "no such video"),
        ("GET", f"{VIDEOS}/{NO_ID}/content?variant=../../x", 400, "variant"),
        ("GET", f"{VIDEOS}/{NO_ID}/content?variant=poster", 400, "variant"),
        ("GET", f"{VIDEOS}?limit=0", 400, "between 1 and 100"),
        ("GET", f"{VIDEOS}?limit=many", 400, "integer"),
        ("GET", f"{VIDEOS}?limit={'9' * 5000}", 400, "limit"),
        ("GET", f"{VIDEOS}?order=random", 400, "'asc' or 'desc'"),
        ("GET", f"{VIDEOS}?after={NO_ID}", 404, "no such video"),
        ("GET", f"{VIDEOS}?page=2", 400, "unknown field"),
        ("PUT", VIDEOS, 405, ""),
        ("PATCH", f"{VIDEOS}/{NO_ID}", 405, ""),
        ("POST", f"{VIDEOS}/{NO_ID}/remix", 400, "was not trained to edit videos"),
        ("POST", f"{VIDEOS}/edits", 400, "was not trained to edit videos"),
        ("POST", f"{VIDEOS}/characters", 400, "was not trained to edit videos"),
    ],
)
def test_invalid_paths(
    video_server: Server, method: str, path: str, status: int, message: str
) -> None:
    body = b'{"prompt": "x"}' if method == "POST" else b""
    got, _, answer = call(video_server, method, path, body)
    assert (got, message in error_of(got, answer)["message"]) == (status, True)


def part(name: str, value: bytes, file: bool = False) -> bytes:
    more = b'; filename="a.mp4"' if file else b""
    head = b'--x\r\nContent-Disposition: form-data; name="' + name.encode() + b'"' + more
    return head + b"\r\n\r\n" + value + b"\r\n"


X, END = part("prompt", b"x"), b"--x--\r\n"
FORMS: dict[str, tuple[bytes, str, int, str]] = {
    "empty": (b"", "; boundary=x", 400, "prompt: required"),
    "no boundary": (X + END, "", 400, "boundary"),
    "another boundary": (X + END, "; boundary=y", 400, ""),
    "not a form": (b"hello", "; boundary=x", 400, ""),
    "truncated": (X[:-4], "; boundary=x", 400, ""),
    "part without a name": (
        b"--x\r\nContent-Disposition: form-data\r\n\r\nx\r\n" + END,
        "; boundary=x",
        400,
        "name",
    ),
    "repeated field": (X + X + END, "; boundary=x", 400, "more than once"),
    "file for a text field": (part("prompt", b"x", True) + END, "; boundary=x", 400, "a string"),
    "word for a number": (X + part("seed", b"one") + END, "; boundary=x", 400, "integer"),
    "object for a number": (X + part("seed[a]", b"1") + END, "; boundary=x", 400, "integer"),
    "video header for an image": (
        X + part("input_reference", b"\0\0\0\x20ftypisom", True) + END,
        "; boundary=x",
        400,
        "not an image",
    ),
    "too many parts": (
        b"".join(part(f"a{n}", b"") for n in range(999)) + END,
        "; boundary=x",
        400,
        "",
    ),
    "too many files": (
        b"".join(part(f"a{n}", b"", True) for n in range(99)) + END,
        "; boundary=x",
        400,
        "",
    ),
    "file above the limit": (
        X + part("input_reference", bytes(3 * 2**20), True) + END,
        "; boundary=x",
        413,
        "limit max_body",
    ),
}


@pytest.mark.parametrize("case", FORMS)
def test_invalid_forms(video_server: Server, case: str) -> None:
    body, boundary, status, message = FORMS[case]
    kind = {"Content-Type": f"multipart/form-data{boundary}"}
    got, _, answer = call(video_server, "POST", VIDEOS, body, kind)
    assert (got, message in error_of(got, answer)["message"]) == (status, True), answer
    status, _, answer = call(video_server, "POST", VIDEOS, X, {"Content-Type": "text/plain"})
    assert (status, "multipart/form-data" in error_of(status, answer)["message"]) == (415, True)


def video_question(*urls: object, **more: object) -> bytes:
    parts = [{"type": "video_url", "video_url": {"url": url, **more}} for url in urls]
    content = [*parts, {"type": "text", "text": "x"}]
    return json.dumps({"messages": [{"role": "user", "content": content}]}).encode()


def test_invalid_videos_in_chats(video_server: Server, tmp_path: Path) -> None:
    short = video_url(clip_file(tmp_path, "a.mp4", 8).read_bytes())
    long = video_url(clip_file(tmp_path, "b.mp4", 60).read_bytes())
    wide = video_url(clip_file(tmp_path, "c.mp4", 48, side=64).read_bytes())
    for body, message in (
        (video_question("https://example.com/a.mp4"), "--remote-images"),
        (video_question(5), "must be a string"),
        (video_question("data:video/mp4;base64,@@"), "not valid base64"),
        (video_question("data:video/avi;base64,AAAA"), "expected data:video/mp4"),
        (video_question(video_url(PLAYLIST)), "not a video"),
        (video_question(short, fps=0), "must be between 0.001 and 240"),
        (video_question(short, fps=7.00001), "three decimals"),
        (video_question(short, short, short), "limit max_videos"),
        (video_question(long), "limit max_frames"),
        (video_question(wide), "limit max_video_pixels"),
        (video_question(long, fps=240), "limit max_frames"),
        (video_question(short, detail="high"), "unknown field"),
    ):
        status, _, answer = call(video_server, "POST", CHAT, body)
        assert message in error_of(status, answer)["message"]
        assert status == 400


@pytest.mark.parametrize("name", ["busy_half.webm", "busy_noise.webm"])
def test_damaged_videos_are_refused(video_server: Server, name: str) -> None:
    data = (Path(__file__).parent.parent / "fixtures" / "cases" / "clips" / name).read_bytes()
    body = video_question(video_url(data, "webm"), fps=0.3)  # below the limits of this server
    status, _, answer = call(video_server, "POST", CHAT, body)
    message = error_of(status, answer)["message"]
    assert (status, "2.5" in message) == (400, True)
    assert "damaged or incomplete" in message


def test_gifs_with_too_many_pixels_are_refused_before_decoding(video_server: Server) -> None:
    out = io.BytesIO()
    frames = [Image.new("L", (2, 2), 5 * shade) for shade in range(42)]
    frames[0].save(out, format="GIF", save_all=True, append_images=frames[1:])
    data = out.getvalue()
    large = data[:6] + 2 * (5000).to_bytes(2, "little") + data[10:]  # of the decoder, as GIF has it
    body = video_question(url_of(large, "gif"))
    status, _, answer = call(video_server, "POST", CHAT, body)
    assert "pixels in all of its frames" in error_of(status, answer)["message"]


def test_a_missing_extra_is_named(
    video_server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    clip = video_url(clip_file(tmp_path, "a.mp4", 8).read_bytes())
    monkeypatch.setitem(sys.modules, "av", None)
    bodies = ((VIDEOS, b'{"prompt": "x"}'), (CHAT, video_question(clip)))
    for path, body in bodies:
        status, _, answer = call(video_server, "POST", path, body)
        assert (status, 'emu3[video]"' in error_of(status, answer)["message"]) == (400, True)


def test_models_without_the_task_video_refuse_videos(server: Server) -> None:
    for method, path, body in (
        ("POST", VIDEOS, b'{"prompt": "x"}'),
        ("POST", EXTENSIONS, b'{"prompt": "x"}'),
        ("GET", VIDEOS, b""),
        ("GET", f"{VIDEOS}/{NO_ID}", b""),
        ("GET", f"{VIDEOS}/{NO_ID}/content", b""),
        ("DELETE", f"{VIDEOS}/{NO_ID}", b""),
        ("POST", CHAT, video_question(video_url(b""))),
    ):
        status, _, answer = call(server, method, path, body)
        text = error_of(status, answer)["message"]
        assert (status, "was not trained for this task (video)" in text) == (400, True)


def test_wrong_api_keys(video_server: Server) -> None:
    for method, path in (("POST", VIDEOS), ("GET", VIDEOS), ("GET", f"{VIDEOS}/{NO_ID}/content")):
        headers = {"Authorization": "Bearer wrong"}
        assert call(video_server, method, path, b"{}", headers)[0] == 401
