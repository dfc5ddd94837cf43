"""Whatever is sent to the videos, the client hears what was wrong, and nothing is queued up."""

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

from .conftest import KEY, Server, moving_checkpoint, serving
from .test_refusals import CHAT, call, png, png_that_claims, refused, url_of
from .test_videos import clip_file

pytest.importorskip("av")
VIDEOS, EXTENSIONS = "/v1/videos", "/v1/videos/extensions"
NO_ID = "video_" + 32 * "0"


@pytest.fixture(scope="module")
def theatre(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    settings = Settings(
        model="tiny",
        api_key=KEY,
        max_pixels=64 * 64,
        max_body=3 * 2**20,
        max_frames=40,
        max_video_pixels=40 * 16 * 16,
        jobs=tmp_path_factory.mktemp("jobs"),
    )
    with serving(settings, moving_checkpoint()) as server:
        yield server


@pytest.fixture(autouse=True)
def nothing_is_queued(theatre: Server) -> Iterator[None]:
    yield
    assert json.loads(call(theatre, "GET", VIDEOS)[2])["data"] == []
    assert theatre.engine.stats().steps == 0


def movie(data: bytes, kind: str = "mp4") -> str:
    return url_of(data, kind).replace("image/", "video/")


PLAYLIST = b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"
DASH = b'AAAAftyp<?xml?><MPD profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"></MPD>'

FIELDS: dict[str, tuple[dict[str, Any], str | None, str]] = {
    "no prompt": ({"prompt": None}, "prompt", "say what"),
    "a blank prompt": ({"prompt": "  "}, "prompt", "say what"),
    "a list for a prompt": ({"prompt": ["x"]}, "prompt", "must be a string"),
    "a prompt of a megabyte": ({"prompt": "x" * 2**20}, "prompt", "limit max_prompt"),
    "a prompt longer than the context": ({"prompt": "x" * 3000}, None, "context of 512"),
    "half a character": ({"prompt": "\udfff"}, "prompt", "surrogate"),
    "no seconds": ({"seconds": 0}, "seconds", "above 0"),
    "seconds below nothing": ({"seconds": -1}, "seconds", "must lie in"),
    "seconds in words": ({"seconds": "four"}, "seconds", "must be a number"),
    "seconds that are no number": ({"seconds": "NaN"}, "seconds", "must lie in"),
    "seconds without end": ({"seconds": "1e999"}, "seconds", "must lie in"),
    "seconds for a year": ({"seconds": 1e6}, "seconds", "limit max_frames"),
    "seconds for a while": ({"seconds": "8"}, "seconds", "limit max_frames"),
    "a list of seconds": ({"seconds": [4]}, "seconds", "must be a number"),
    "a rate of nothing": ({"fps": 0}, "fps", "must lie in"),
    "a rate too high": ({"fps": 1000}, "fps", "must lie in"),
    "a rate no header has": ({"fps": 29.97002997, "seconds": 1}, None, "three decimals"),
    "a size in words": ({"size": "720p"}, "size", "WIDTHxHEIGHT"),
    "a size too large": ({"size": "1280x720"}, "size", "limit max_pixels"),
    "a size of no whole codes": ({"size": "17x16"}, None, "multiples of 4"),
    "all frames too large": ({"size": "32x32", "seconds": 1.75}, "seconds", "max_video_pixels"),
    "a negative seed": ({"seed": -1}, "seed", "must lie in"),
    "a seed too large": ({"seed": 2**63}, "seed", "must lie in"),
    "guidance too high": ({"guidance_scale": 31}, "guidance_scale", "max_guidance"),
    "a temperature near nothing": ({"temperature": 1e-9}, "temperature", "0.01"),
    "another model": ({"model": "sora-2"}, "model", "not served"),
    "a field nobody knows": ({"n": 2}, "n", "unknown field"),
    "a number for a picture": ({"input_reference": 3}, "input_reference", "must be a file"),
    "a picture without one": ({"input_reference": {}}, "input_reference", "must be a file"),
    "a picture kept elsewhere": (
        {"input_reference": {"file_id": "file-1"}},
        "input_reference.file_id",
        "keeps no files",
    ),
    "a picture from inside": (
        {"input_reference": "http://127.0.0.1/a.png"},
        "input_reference",
        "limit remote_images",
    ),
    "not valid base64": (
        {"input_reference": "data:image/png;base64,@"},
        "input_reference",
        "base64",
    ),
    "a clip for a picture": (
        {"input_reference": url_of(b"\0\0\0\x20ftypisom")},
        "input_reference",
        "not an image",
    ),
    "a bomb": (
        {"input_reference": url_of(png_that_claims(60000, 60000))},
        "input_reference",
        "max_input",
    ),
    "a picture and a size": (
        {"input_reference": url_of(png(16, 16)), "size": "16x16"},
        None,
        "leave out size",
    ),
}


@pytest.mark.parametrize("case", FIELDS)
def test_videos_refused(theatre: Server, case: str) -> None:
    fields, param, message = FIELDS[case]
    body = json.dumps({"prompt": "x", "seconds": 4, **fields}).encode()
    status, _, answer = call(theatre, "POST", VIDEOS, body)
    error = refused(status, answer)
    assert message in error["message"]
    assert error["param"] == param or param is None
    assert status == (404 if "model" in fields else 400)


EXTENDED: dict[str, tuple[object, int, str]] = {
    "nothing": (None, 400, "must be a file"),
    "a number": (5, 400, "must be a file"),
    "nobody's id": ({"id": NO_ID}, 404, "no such video"),
    "a path": ({"id": "../../etc/passwd"}, 404, "no such video"),
    "an id that is a list": ({"id": [NO_ID]}, 400, "must be a file"),
    "more than an id": ({"id": NO_ID, "path": "x"}, 400, "unknown field"),
    "no clip": (movie(b"hello world, this is text"), 400, "not a video"),
    "nothing in it": (movie(b""), 400, "not a video"),
    "a clip in name only": (movie(b"\0\0\0\x20ftypisom" + bytes(500)), 400, "or damaged"),
    "a matroska in name only": (movie(b"\x1a\x45\xdf\xa3" + bytes(500), "webm"), 400, "or damaged"),
    "a playlist": (movie(PLAYLIST), 400, "not a video"),
    "a playlist in disguise": (movie(DASH), 400, "or damaged"),
    "a GIF cut short": (movie(b"GIF89a\x10\0\x10\0").replace("video/mp4", "image/gif"), 400, ""),
    "a picture": (url_of(png(16, 16)), 400, "expected data:video/mp4"),
}


@pytest.mark.parametrize("case", EXTENDED)
def test_extensions_refused(theatre: Server, case: str) -> None:
    source, status, message = EXTENDED[case]
    body = json.dumps({"prompt": "x", "video": source, "seconds": 1}).encode()
    got, _, answer = call(theatre, "POST", EXTENSIONS, body)
    said = refused(got, answer)["message"]
    assert (got, message in said) == (status, True), said
    assert "/tmp" not in said


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
        ("GET", f"{VIDEOS}?limit=0", 400, "1 to 100"),
        ("GET", f"{VIDEOS}?limit=many", 400, "integer"),
        ("GET", f"{VIDEOS}?limit={'9' * 5000}", 400, "limit"),
        ("GET", f"{VIDEOS}?order=random", 400, "asc"),
        ("GET", f"{VIDEOS}?after={NO_ID}", 404, "no such video"),
        ("GET", f"{VIDEOS}?page=2", 400, "unknown field"),
        ("PUT", VIDEOS, 405, ""),
        ("PATCH", f"{VIDEOS}/{NO_ID}", 405, ""),
        ("POST", f"{VIDEOS}/{NO_ID}/remix", 400, "was not trained to change one"),
        ("POST", f"{VIDEOS}/edits", 400, "was not trained to change one"),
        ("POST", f"{VIDEOS}/characters", 400, "was not trained to change one"),
    ],
)
def test_paths_refused(theatre: Server, method: str, path: str, status: int, message: str) -> None:
    body = b'{"prompt": "x"}' if method == "POST" else b""
    got, _, answer = call(theatre, method, path, body)
    assert (got, message in refused(got, answer)["message"]) == (status, True)


def part(name: str, value: bytes, file: bool = False) -> bytes:
    more = b'; filename="a.mp4"' if file else b""
    head = b'--x\r\nContent-Disposition: form-data; name="' + name.encode() + b'"' + more
    return head + b"\r\n\r\n" + value + b"\r\n"


X, END = part("prompt", b"x"), b"--x--\r\n"
FORMS: dict[str, tuple[bytes, str, int, str]] = {
    "nothing": (b"", "; boundary=x", 400, "say what"),
    "no boundary": (X + END, "", 400, "boundary"),
    "another boundary": (X + END, "; boundary=y", 400, ""),
    "no form": (b"hello", "; boundary=x", 400, ""),
    "cut short": (X[:-4], "; boundary=x", 400, ""),
    "a part without a name": (
        b"--x\r\nContent-Disposition: form-data\r\n\r\nx\r\n" + END,
        "; boundary=x",
        400,
        "name",
    ),
    "twice the prompt": (X + X + END, "; boundary=x", 400, "more than once"),
    "a file for a prompt": (part("prompt", b"x", True) + END, "; boundary=x", 400, "a string"),
    "a number in words": (X + part("seed", b"one") + END, "; boundary=x", 400, "integer"),
    "an object in a number": (X + part("seed[a]", b"1") + END, "; boundary=x", 400, "integer"),
    "a fake clip": (
        X + part("input_reference", b"\0\0\0\x20ftypisom", True) + END,
        "; boundary=x",
        400,
        "not an image",
    ),
    "many parts": (b"".join(part(f"a{n}", b"") for n in range(999)) + END, "; boundary=x", 400, ""),
    "many files": (
        b"".join(part(f"a{n}", b"", True) for n in range(99)) + END,
        "; boundary=x",
        400,
        "",
    ),
    "a huge file": (
        X + part("input_reference", bytes(3 * 2**20), True) + END,
        "; boundary=x",
        413,
        "limit max_body",
    ),
}


@pytest.mark.parametrize("case", FORMS)
def test_forms_refused(theatre: Server, case: str) -> None:
    body, boundary, status, message = FORMS[case]
    kind = {"Content-Type": f"multipart/form-data{boundary}"}
    got, _, answer = call(theatre, "POST", VIDEOS, body, kind)
    assert (got, message in refused(got, answer)["message"]) == (status, True), answer
    status, _, answer = call(theatre, "POST", VIDEOS, X, {"Content-Type": "text/plain"})
    assert (status, "multipart/form-data" in refused(status, answer)["message"]) == (415, True)


def asked(*urls: object, **more: object) -> bytes:
    parts = [{"type": "video_url", "video_url": {"url": url, **more}} for url in urls]
    content = [*parts, {"type": "text", "text": "x"}]
    return json.dumps({"messages": [{"role": "user", "content": content}]}).encode()


def test_clips_in_questions_refused(theatre: Server, tmp_path: Path) -> None:
    short = movie(clip_file(tmp_path, "a.mp4", 8).read_bytes())
    long = movie(clip_file(tmp_path, "b.mp4", 60).read_bytes())
    wide = movie(clip_file(tmp_path, "c.mp4", 48, side=64).read_bytes())
    for body, message in (
        (asked("https://example.com/a.mp4"), "limit remote_images"),
        (asked(5), "must be a string"),
        (asked("data:video/mp4;base64,@@"), "not valid base64"),
        (asked("data:video/avi;base64,AAAA"), "expected data:video/mp4"),
        (asked(movie(PLAYLIST)), "not a video"),
        (asked(short, fps=0), "must lie in"),
        (asked(short, fps=7.00001), "three decimals"),
        (asked(short, short, short), "limit max_videos"),
        (asked(long), "limit max_frames"),
        (asked(wide), "limit max_video_pixels"),
        (asked(long, fps=240), "limit max_frames"),
        (asked(short, detail="high"), "unknown field"),
    ):
        status, _, answer = call(theatre, "POST", CHAT, body)
        assert message in refused(status, answer)["message"]
        assert status == 400


def test_a_gif_that_unpacks_to_too_much_is_refused_unread(theatre: Server) -> None:
    out = io.BytesIO()
    frames = [Image.new("L", (2, 2), 5 * shade) for shade in range(42)]
    frames[0].save(out, format="GIF", save_all=True, append_images=frames[1:])
    data = out.getvalue()
    large = data[:6] + 2 * (5000).to_bytes(2, "little") + data[10:]  # of the decoder, as GIF has it
    body = asked(url_of(large, "gif"))
    status, _, answer = call(theatre, "POST", CHAT, body)
    assert "pixels in all of its frames" in refused(status, answer)["message"]


def test_without_the_extra_the_refusal_names_it(
    theatre: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    clip = movie(clip_file(tmp_path, "a.mp4", 8).read_bytes())
    monkeypatch.setitem(sys.modules, "av", None)
    bodies = ((VIDEOS, b'{"prompt": "x"}'), (CHAT, asked(clip)))
    for path, body in bodies:
        status, _, answer = call(theatre, "POST", path, body)
        assert (status, 'emu3[video]"' in refused(status, answer)["message"]) == (400, True)


def test_a_model_that_knows_no_videos_says_so(server: Server) -> None:
    for method, path, body in (
        ("POST", VIDEOS, b'{"prompt": "x"}'),
        ("POST", EXTENSIONS, b'{"prompt": "x"}'),
        ("GET", VIDEOS, b""),
        ("GET", f"{VIDEOS}/{NO_ID}", b""),
        ("GET", f"{VIDEOS}/{NO_ID}/content", b""),
        ("DELETE", f"{VIDEOS}/{NO_ID}", b""),
        ("POST", CHAT, asked(movie(b""))),
    ):
        status, _, answer = call(server, method, path, body)
        said = refused(status, answer)["message"]
        assert (status, "was not made for this task (video)" in said) == (400, True)


def test_a_wrong_key_is_refused_first(theatre: Server) -> None:
    for method, path in (("POST", VIDEOS), ("GET", VIDEOS), ("GET", f"{VIDEOS}/{NO_ID}/content")):
        headers = {"Authorization": "Bearer wrong"}
        assert call(theatre, method, path, b"{}", headers)[0] == 401
