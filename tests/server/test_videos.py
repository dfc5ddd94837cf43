"""Video jobs through OpenAI's client: created, extended, listed, deleted; and videos in chats."""

from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from emu3.api import Emu3
from emu3.inference.events import VideoResult
from emu3.inference.requests import VideoInput, VideoRequest
from emu3.inference.sampling import SamplingParams
from emu3.outputs import VideoOutput
from emu3.processing.document_format import VideoCodes
from emu3.processing.video import open_clip, read_settings, video_writer
from emu3.server.job_store import StoredRequest
from emu3.server.media import VideoDecoder
from emu3.server.serialization import deserialize_request, serialize_request
from emu3.server.settings import Settings
from emu3.server.video_worker import write_video

from .conftest import KEY, Server, serving, video_checkpoint
from .test_validation import call

openai = pytest.importorskip("openai")
pytest.importorskip("av")
pytestmark = pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")

IMAGE = Image.radial_gradient("L").resize((24, 16)).convert("RGB")


def png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, format="PNG")
    return out.getvalue()


def url_of(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def clip_file(folder: Path, name: str, frames: int = 8, side: int = 16) -> Path:
    noise = np.random.default_rng(0).integers(0, 256, (frames, side, side, 3), np.uint8)
    with video_writer(folder / name, 8.0) as add:
        for frame in noise:
            add(frame)
    return folder / name


@pytest.fixture(scope="module")
def results() -> Iterator[dict[str, VideoResult]]:
    """The engine's results by job id, before they are written to lossy files."""
    results: dict[str, VideoResult] = {}

    def write(path: Path, video: VideoResult, model: str) -> None:
        results[path.stem] = video
        write_video(path, video, model)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("emu3.server.video_worker.write_video", write)
        yield results


@pytest.fixture(scope="module")
def video_server(
    tmp_path_factory: pytest.TempPathFactory, results: dict[str, VideoResult]
) -> Iterator[Server]:
    with serving(settings(tmp_path_factory.mktemp("jobs")), video_checkpoint()) as server:
        yield server


def settings(jobs: Path, **changes: Any) -> Settings:
    limits = {"max_pixels": 64 * 64, "max_body": 3 * 2**20, "max_frames": 100, **changes}
    return Settings(model="tiny", api_key=KEY, jobs=jobs, **limits)


def client_of(server: Server) -> Any:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0)


@pytest.fixture
def client(video_server: Server) -> Iterator[Any]:
    with client_of(video_server) as client:
        yield client


def completed(client: Any, video: Any) -> Any:
    return client.videos.poll(video.id, poll_interval_ms=5)


def equal(result: VideoResult, output: VideoOutput) -> bool:
    return torch.equal(result.codes, output.codes) and torch.equal(result.frames, output.frames)


def test_videos_equal_those_of_the_python_api(
    client: Any, video_server: Server, results: dict[str, VideoResult], tmp_path: Path
) -> None:
    extra = {"fps": 4, "seed": 7, "guidance_scale": 2.0, "top_k": 20, "temperature": 1.1}
    video = client.videos.create(
        model="tiny", prompt="a car", seconds="1.25", size="24x16", extra_body=extra
    )
    assert (video.object, video.model, video.prompt) == ("video", "tiny", "a car")
    assert (video.seconds, video.size) == ("1.25", "24x16")
    assert video.status in ("queued", "in_progress", "completed")
    video = completed(client, video)
    assert (video.status, video.progress, video.error) == ("completed", 100, None)
    assert video.created_at <= video.completed_at <= time.time()
    expected = Emu3(video_server.engine.checkpoint).video(
        "a car",
        ratio="3:2",
        area=24 * 16,
        seconds=1.25,
        fps=4,
        seed=7,
        guidance_scale=2.0,
        top_k=20,
        temperature=1.1,
    )
    assert equal(results[video.id], expected)
    path = tmp_path / "clip.mp4"
    client.videos.download_content(video.id).write_to_file(path)
    clip = open_clip(path)
    frames = list(clip.frames)
    assert (clip.fps, len(frames), frames[0].shape) == (4, 5, (16, 24, 3))
    settings_in_file = read_settings(path)
    assert settings_in_file is not None
    assert (settings_in_file["seed"], settings_in_file["prompt"], settings_in_file["model"]) == (
        7,
        "a car",
        "tiny",
    )
    thumbnail = client.videos.download_content(video.id, variant="thumbnail").read()
    with Image.open(io.BytesIO(thumbnail)) as opened:
        assert (opened.format, opened.size) == ("WEBP", (24, 16))
    sheet = client.videos.download_content(video.id, variant="spritesheet").read()
    with Image.open(io.BytesIO(sheet)) as opened:
        assert (opened.format, opened.size) == ("JPEG", (3 * 24, 2 * 16))  # five frames
        beside = np.asarray(opened.convert("RGB"), np.int64)[:16, 24:48]
    assert np.abs(beside - frames[1]).mean() < 6


def test_the_first_image_is_a_file_or_a_url(
    client: Any, video_server: Server, results: dict[str, VideoResult]
) -> None:
    url = url_of(png(IMAGE), "image/png")
    expected = Emu3(video_server.engine.checkpoint).video("x", image=IMAGE, seconds=1, seed=1)
    as_object = {"extra_body": {"seed": 1, "input_reference": {"image_url": url}}}
    as_file = {"input_reference": ("a", png(IMAGE)), "extra_body": {"seed": 1}}
    for way in (as_file, as_object):
        video = client.videos.create(prompt="x", seconds="1", **way)
        assert equal(results[completed(client, video).id], expected)
    body = {"prompt": "x", "seconds": 1, "input_reference": url, "seed": 1}
    status, _, answer = call(video_server, "POST", "/v1/videos", json.dumps(body).encode())
    assert status == 200
    assert equal(
        results[completed(client, client.videos.retrieve(json.loads(answer)["id"])).id], expected
    )


def test_extending_a_video_by_id(
    client: Any, video_server: Server, results: dict[str, VideoResult]
) -> None:
    """Both routes continue from the stored codes; the prompt defaults to that of the first."""
    first = completed(client, client.videos.create(prompt="a car", seconds="1"))
    longer = completed(
        client,
        client.videos.extend(
            video=openai.omit,  # the client accepts only files here
            prompt="a car",
            seconds="1.5",
            extra_body={"seed": 3, "video": {"id": first.id}},
        ),
    )
    assert (longer.status, longer.seconds, longer.size) == ("completed", "2.5", first.size)
    body = json.dumps({"seconds": 1.5, "seed": 3}).encode()
    status, _, answer = call(video_server, "POST", f"/v1/videos/{first.id}/extend", body)
    assert status == 200
    again = completed(client, client.videos.retrieve(json.loads(answer)["id"]))
    assert again.prompt == "a car"
    assert torch.equal(results[again.id].codes, results[longer.id].codes)
    assert torch.equal(results[longer.id].codes[:2], results[first.id].codes)
    end = video_server.engine.submit(
        VideoRequest("a car", seconds=1.5, video=results[first.id].video_codes, seed=3)
    ).result()
    assert isinstance(end, VideoResult)
    assert torch.equal(end.codes, results[longer.id].codes)


def test_extending_an_uploaded_video(
    client: Any, video_server: Server, results: dict[str, VideoResult], tmp_path: Path
) -> None:
    path = clip_file(tmp_path, "clip.mp4", frames=6)
    video = client.videos.extend(
        video=path.open("rb"), prompt="rain", seconds="1", extra_body={"seed": 4}
    )
    expected = Emu3(video_server.engine.checkpoint).extend(
        open_clip(path).frames, prompt="rain", seconds=1, fps=8, seed=4
    )
    assert equal(results[completed(client, video).id], expected)


def test_extending_an_uploaded_video_without_a_prompt(
    client: Any, video_server: Server, results: dict[str, VideoResult], tmp_path: Path
) -> None:
    """The model captions the video, as `Emu3.extend` does."""
    path = clip_file(tmp_path, "clip.mp4", frames=4)
    source = url_of(path.read_bytes(), "video/mp4")
    body = json.dumps({"video": source, "seconds": 0.5, "seed": 4}).encode()
    status, _, answer = call(video_server, "POST", "/v1/videos/extensions", body)
    assert status == 200
    expected = Emu3(video_server.engine.checkpoint).extend(
        open_clip(path).frames, seconds=0.5, fps=8, seed=4
    )
    job = client.videos.retrieve(json.loads(answer)["id"])
    assert equal(results[completed(client, job).id], expected)


def test_listing_videos(tmp_path: Path) -> None:
    with serving(settings(tmp_path), video_checkpoint()) as server, client_of(server) as client:
        assert list(client.videos.list()) == []
        ids = [client.videos.create(prompt="x", seconds="0.5").id for _ in range(5)]
        assert [each.id for each in client.videos.list(order="asc", limit=2)] == ids
        assert [each.id for each in client.videos.list()] == ids[::-1]
        page = client.videos.list(order="asc", after=ids[1], limit=2)
        assert ([each.id for each in page.data], page.has_more) == (ids[2:4], True)
        gone = client.videos.delete(ids[1])
        assert (gone.id, gone.deleted, gone.object) == (ids[1], True, "video.deleted")
        with pytest.raises(openai.NotFoundError):
            client.videos.retrieve(ids[1])
        assert [each.id for each in client.videos.list(order="asc")] == [ids[0], *ids[2:]]
        for name in (ids[0], *ids[2:]):
            assert client.videos.poll(name, poll_interval_ms=5).status == "completed"
            client.videos.delete(name)
    assert not list((tmp_path / "clips").iterdir())


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".gif", ".webp"])
def test_videos_in_chats(client: Any, video_server: Server, tmp_path: Path, suffix: str) -> None:
    path = clip_file(tmp_path, f"clip{suffix}", side=24)
    kind = {"mp4": "video/mp4", "webm": "video/webm"}.get(suffix[1:], f"image/{suffix[1:]}")
    part: dict[str, Any] = {"url": url_of(path.read_bytes(), kind)}
    for fps in (8.0, 4.0):
        part |= {"fps": fps} if fps != 8 else {}
        content = [{"type": "video_url", "video_url": part}, {"type": "text", "text": "what?"}]
        answer = client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": content}], max_tokens=6
        )
        expected = Emu3(video_server.engine.checkpoint).chat(
            "what?", videos=[open_clip(path, fps)], max_new_tokens=6
        )
        assert answer.choices[0].message.content == expected


def test_uploaded_frames_have_the_size_that_the_model_sees(
    video_server: Server, tmp_path: Path
) -> None:
    """Resizing while decoding gives the same codes as resizing before encoding."""
    path = clip_file(tmp_path, "clip.mp4", frames=2, side=100)
    processor = video_server.engine.checkpoint.vision_processor
    decoder = VideoDecoder(processor.preprocessor, video_server.settings)
    video = decoder.decode(path.read_bytes(), "x", 8.0)
    assert video.frames.shape[1:] == (32, 32, 3)
    expected = [group.codes.tolist() for group in processor.encode_frames(open_clip(path).frames)]
    assert [group.codes.tolist() for group in processor.encode_frames(video.frames)] == expected


def stored_and_loaded(request: VideoRequest) -> VideoRequest:
    stored = serialize_request(request)
    return deserialize_request(StoredRequest(json.loads(json.dumps(stored.fields)), stored.media))


TEXT_REQUEST = VideoRequest(
    "x", 1.5, 4.0, (24, 16), seed=2**62, sampling=SamplingParams(3, 0.9, 1.1)
)


@pytest.mark.parametrize(
    "request_",
    [
        TEXT_REQUEST,
        VideoRequest("ä", guidance_scale=0.0, negative_prompt="", sampling=None),
        VideoRequest(None),
    ],
)
def test_serialized_requests_are_equal(request_: VideoRequest) -> None:
    assert stored_and_loaded(request_) == request_


def test_serialized_images_and_videos_are_equal() -> None:
    image = stored_and_loaded(replace(TEXT_REQUEST, size=None, image=IMAGE)).image
    assert image is not None
    assert (image.size, image.tobytes()) == (IMAGE.size, IMAGE.tobytes())
    frames = torch.randint(256, (5, 16, 24, 3), dtype=torch.uint8)
    video = stored_and_loaded(VideoRequest("", video=VideoInput(frames, 7.5))).video
    assert isinstance(video, VideoInput)
    assert torch.equal(video.frames, frames)
    assert video.fps == 7.5
    codes = torch.tensor([[[1, 2], [3, 4]]])
    loaded = stored_and_loaded(VideoRequest("", video=VideoCodes(codes, 8.0, 3))).video
    assert isinstance(loaded, VideoCodes)
    assert torch.equal(loaded.codes, codes)
    assert (loaded.fps, loaded.frames) == (8.0, 3)
