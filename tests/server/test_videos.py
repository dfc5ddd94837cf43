"""Videos through the official client: made, kept, listed, gone on with, deleted, and looked at."""

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
from emu3.server.job_store import Asked
from emu3.server.media import VideoDecoder
from emu3.server.settings import Settings
from emu3.server.video_worker import read, serialize_request, write_clip

from .conftest import KEY, Server, moving_checkpoint, serving
from .test_refusals import call

openai = pytest.importorskip("openai")
pytest.importorskip("av")
pytestmark = pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")

PICTURE = Image.radial_gradient("L").resize((24, 16)).convert("RGB")


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
def made() -> Iterator[dict[str, VideoResult]]:
    """What the server made, by id, before it went into a lossy file."""
    kept: dict[str, VideoResult] = {}

    def writes(path: Path, film: VideoResult, model: str) -> None:
        kept[path.stem] = film
        write_clip(path, film, model)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("emu3.server.video_worker.write_clip", writes)
        yield kept


@pytest.fixture(scope="module")
def theatre(
    tmp_path_factory: pytest.TempPathFactory, made: dict[str, VideoResult]
) -> Iterator[Server]:
    with serving(settings(tmp_path_factory.mktemp("jobs")), moving_checkpoint()) as server:
        yield server


def settings(jobs: Path, **changes: Any) -> Settings:
    limits = {"max_pixels": 64 * 64, "max_body": 3 * 2**20, "max_frames": 100, **changes}
    return Settings(model="tiny", api_key=KEY, jobs=jobs, **limits)


def client_of(server: Server) -> Any:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0)


@pytest.fixture
def client(theatre: Server) -> Iterator[Any]:
    with client_of(theatre) as client:
        yield client


def done(client: Any, video: Any) -> Any:
    return client.videos.poll(video.id, poll_interval_ms=5)


def same(film: VideoResult, out: VideoOutput) -> bool:
    frames = np.stack([np.asarray(frame) for frame in film.frames])
    return [list(map(list, group)) for group in film.codes] == out.codes.tolist() and (
        np.array_equal(frames, out.frames.numpy())
    )


def test_a_video_is_that_of_the_pipeline(
    client: Any, theatre: Server, made: dict[str, VideoResult], tmp_path: Path
) -> None:
    extra = {"fps": 4, "seed": 7, "guidance_scale": 2.0, "top_k": 20, "temperature": 1.1}
    video = client.videos.create(
        model="tiny", prompt="a car", seconds="1.25", size="24x16", extra_body=extra
    )
    assert (video.object, video.model, video.prompt) == ("video", "tiny", "a car")
    assert (video.seconds, video.size) == ("1.25", "24x16")
    assert video.status in ("queued", "in_progress", "completed")
    video = done(client, video)
    assert (video.status, video.progress, video.error) == ("completed", 100, None)
    assert video.created_at <= video.completed_at <= time.time()
    ours = Emu3(theatre.engine.checkpoint).video(
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
    assert same(made[video.id], ours)
    path = tmp_path / "clip.mp4"
    client.videos.download_content(video.id).write_to_file(path)
    clip = open_clip(path)
    frames = list(clip.frames)
    assert (clip.fps, len(frames), frames[0].shape) == (4, 5, (16, 24, 3))
    said = read_settings(path)
    assert said is not None
    assert (said["seed"], said["prompt"], said["model"]) == (7, "a car", "tiny")
    shown = client.videos.download_content(video.id, variant="thumbnail").read()
    with Image.open(io.BytesIO(shown)) as opened:
        assert (opened.format, opened.size) == ("WEBP", (24, 16))
    sheet = client.videos.download_content(video.id, variant="spritesheet").read()
    with Image.open(io.BytesIO(sheet)) as opened:
        assert (opened.format, opened.size) == ("JPEG", (3 * 24, 2 * 16))  # five frames
        beside = np.asarray(opened.convert("RGB"), np.int64)[:16, 24:48]
    assert np.abs(beside - frames[1]).mean() < 6


def test_a_first_picture_comes_as_a_file_or_in_a_url(
    client: Any, theatre: Server, made: dict[str, VideoResult]
) -> None:
    url = url_of(png(PICTURE), "image/png")
    ours = Emu3(theatre.engine.checkpoint).video("x", image=PICTURE, seconds=1, seed=1)
    as_object = {"extra_body": {"seed": 1, "input_reference": {"image_url": url}}}
    as_file = {"input_reference": ("a", png(PICTURE)), "extra_body": {"seed": 1}}
    for way in (as_file, as_object):
        video = client.videos.create(prompt="x", seconds="1", **way)
        assert same(made[done(client, video).id], ours)
    body = {"prompt": "x", "seconds": 1, "input_reference": url, "seed": 1}
    status, _, answer = call(theatre, "POST", "/v1/videos", json.dumps(body).encode())
    assert status == 200
    assert same(made[done(client, client.videos.retrieve(json.loads(answer)["id"])).id], ours)


def test_a_video_goes_on(client: Any, theatre: Server, made: dict[str, VideoResult]) -> None:
    """By its id through both doors, from its codes; its prompt is that of the first."""
    first = done(client, client.videos.create(prompt="a car", seconds="1"))
    longer = done(
        client,
        client.videos.extend(
            video=openai.omit,  # the client takes files only, whatever its types say
            prompt="a car",
            seconds="1.5",
            extra_body={"seed": 3, "video": {"id": first.id}},
        ),
    )
    assert (longer.status, longer.seconds, longer.size) == ("completed", "2.5", first.size)
    body = json.dumps({"seconds": 1.5, "seed": 3}).encode()
    status, _, answer = call(theatre, "POST", f"/v1/videos/{first.id}/extend", body)
    assert status == 200
    again = done(client, client.videos.retrieve(json.loads(answer)["id"]))
    assert again.prompt == "a car"
    assert torch.equal(made[again.id].codes, made[longer.id].codes)
    assert torch.equal(made[longer.id].codes[:2], made[first.id].codes)
    end = theatre.engine.submit(
        VideoRequest("a car", seconds=1.5, video=made[first.id].video_codes, seed=3)
    ).result()
    assert isinstance(end, VideoResult)
    assert torch.equal(end.codes, made[longer.id].codes)


def test_a_clip_that_is_sent_goes_on(
    client: Any, theatre: Server, made: dict[str, VideoResult], tmp_path: Path
) -> None:
    path = clip_file(tmp_path, "clip.mp4", frames=6)
    video = client.videos.extend(
        video=path.open("rb"), prompt="rain", seconds="1", extra_body={"seed": 4}
    )
    ours = Emu3(theatre.engine.checkpoint).extend(
        open_clip(path).frames, prompt="rain", seconds=1, fps=8, seed=4
    )
    assert same(made[done(client, video).id], ours)


def test_a_list_of_them(tmp_path: Path) -> None:
    with serving(settings(tmp_path), moving_checkpoint()) as server, client_of(server) as client:
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
def test_clips_are_asked_about(client: Any, theatre: Server, tmp_path: Path, suffix: str) -> None:
    path = clip_file(tmp_path, f"clip{suffix}", side=24)
    kind = {"mp4": "video/mp4", "webm": "video/webm"}.get(suffix[1:], f"image/{suffix[1:]}")
    part: dict[str, Any] = {"url": url_of(path.read_bytes(), kind)}
    for fps in (8.0, 4.0):
        part |= {"fps": fps} if fps != 8 else {}
        content = [{"type": "video_url", "video_url": part}, {"type": "text", "text": "what?"}]
        answer = client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": content}], max_tokens=6
        )
        ours = Emu3(theatre.engine.checkpoint).chat(
            "what?", videos=[open_clip(path, fps)], max_new_tokens=6
        )
        assert answer.choices[0].message.content == ours


def test_large_clips_are_seen_as_the_model_sees_them(
    client: Any, theatre: Server, tmp_path: Path
) -> None:
    """The frames that are held are small already, and it makes no difference."""
    path = clip_file(tmp_path, "clip.mp4", frames=2, side=100)
    decoder = VideoDecoder(
        theatre.engine.checkpoint.vision_processor.preprocessor, theatre.settings
    )
    reel = decoder.decode(path.read_bytes(), "x", 8.0)
    assert reel.frames.shape[1:] == (32, 32, 3)
    vision_processor = theatre.engine.checkpoint.vision_processor
    theirs = [
        group.codes.tolist() for group in vision_processor.encode_frames(open_clip(path).frames)
    ]
    assert [group.codes.tolist() for group in vision_processor.encode_frames(reel.frames)] == theirs


def test_a_job_is_the_same_again_once_written_down() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (5, 16, 24, 3), np.uint8)
    reel = VideoInput(torch.from_numpy(noise), 7.5)
    plain = VideoRequest("x", 1.5, 4.0, (24, 16), seed=2**62, sampling=SamplingParams(3, 0.9, 1.1))
    for request in (
        plain,
        VideoRequest("ä", guidance_scale=0.0, negative_prompt="", sampling=None),
        replace(plain, size=None, image=PICTURE),
        VideoRequest("", video=reel),
        VideoRequest("", video=VideoCodes(torch.tensor([[[1, 2], [3, 4]]]), 8.0, 3)),
    ):
        asked = serialize_request(request)
        again = read(Asked(json.loads(json.dumps(asked.fields)), asked.given))
        for name, value in vars(request).items():
            if name not in ("image", "video"):
                assert getattr(again, name) == value
        assert bytes_of(again.image) == bytes_of(request.image)
        if isinstance(request.video, VideoInput):
            assert isinstance(again.video, VideoInput)
            assert torch.equal(again.video.frames, reel.frames)
            assert again.video.fps == 7.5
        elif isinstance(request.video, VideoCodes):
            assert isinstance(again.video, VideoCodes)
            assert torch.equal(again.video.codes, request.video.codes)
            assert (again.video.fps, again.video.frames) == (8.0, 3)
        else:
            assert again.video is None


def bytes_of(picture: Image.Image | None) -> tuple[Any, ...] | None:
    return None if picture is None else (picture.size, picture.tobytes())
