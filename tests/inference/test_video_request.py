"""Video requests: equality alone and in a batch, context windows, cancellation, chat."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from emu3.api import Emu3
from emu3.checkpoints.loading import Checkpoint
from emu3.errors import InputError
from emu3.inference.async_engine import AsyncEngine, RequestHandle
from emu3.inference.events import (
    ChatResult,
    ImageResult,
    RequestCancelled,
    RequestFailed,
    VideoFrames,
    VideoResult,
)
from emu3.inference.requests import ChatRequest, ChatTurn, ImageRequest, VideoInput, VideoRequest
from emu3.inference.sampling import SamplingParams
from emu3.outputs import VideoOutput
from emu3.processing.document_format import VideoCodes
from emu3.processing.video import Clip
from emu3.testing import tiny_checkpoint

PLAIN = SamplingParams(2048, 1.0, 1.0)  # the checkpoint's defaults


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    """With a context that a video of five seconds exceeds."""
    checkpoint, few = tiny_checkpoint(), {"max_position_embeddings": 200}
    checkpoint.decoder.config = replace(checkpoint.decoder.config, **few)
    return checkpoint


@pytest.fixture
def engine(checkpoint: Checkpoint) -> Iterator[AsyncEngine]:
    engine = AsyncEngine(checkpoint, max_waiting=100, max_running=12)
    yield engine
    engine.close(drain=False)


def clip(frames: int, seed: int = 0, side: int = 16) -> VideoInput:
    noise = np.random.default_rng(seed).integers(0, 256, (frames, side, side, 3), np.uint8)
    return VideoInput(torch.from_numpy(noise), 8.0)


def image_of(video: VideoInput) -> Image.Image:
    return Image.fromarray(video.frames[0].numpy())


def video_result(handle: RequestHandle) -> VideoResult:
    end = handle.result()
    assert isinstance(end, VideoResult), end
    return end


def same(ours: VideoResult, theirs: VideoOutput) -> bool:
    return (
        torch.equal(ours.codes, theirs.codes)
        and torch.equal(ours.frames, theirs.frames)
        and (ours.fps, ours.settings) == (theirs.fps, theirs.settings)
    )


VIDEOS = [
    VideoRequest("a car", seconds=0.5),
    VideoRequest("a", seconds=1.25, fps=4.0, ratio="2:1", area=128, seed=3, guidance_scale=1.0),
    VideoRequest("it moves", image=image_of(clip(1)), seconds=1.0, seed=5),
    VideoRequest("still", image=image_of(clip(1)), seconds=0.25),
    VideoRequest("", video=clip(6), seconds=1.0, seed=6, negative_prompt="bad", suffix=" best"),
    VideoRequest("long", video=clip(4, seed=1), seconds=5.0, seed=7),
    VideoRequest("b", seconds=0.6, sampling=SamplingParams(9, 0.8, 1.5), guidance_scale=2.0),
]


def alone(model: Emu3, request: VideoRequest) -> VideoOutput:
    sampling = request.sampling
    settings = {
        "prompt": request.prompt,
        "seconds": request.seconds,
        "seed": request.seed,
        "guidance_scale": request.guidance_scale,
        "negative_prompt": request.negative_prompt,
        "suffix": request.suffix,
        **({} if sampling is None else vars(sampling)),
    }
    if isinstance(request.video, VideoInput):
        return model.extend(request.video.frames, fps=8.0, **settings)
    shape = {"ratio": request.ratio, "area": request.area, "image": request.image}
    return model.video(fps=request.fps or 8.0, **shape, **settings)


def test_a_video_among_others_equals_the_video_alone(
    engine: AsyncEngine, checkpoint: Checkpoint
) -> None:
    """Among image_handles of its own passes too, one of which is longer than the context."""
    videos = [engine.submit(request) for request in VIDEOS]
    image_requests = [
        ImageRequest("x", seed=seed, ratio="2:1", sampling=PLAIN) for seed in range(6)
    ]
    image_handles = [engine.submit(request) for request in image_requests]
    together = [video_result(handle) for handle in videos]
    for request, theirs in zip(VIDEOS, together, strict=True):
        assert same(theirs, alone(Emu3(checkpoint), request)), request.prompt
    long = len(together[5].codes)
    assert checkpoint.prompts.document_format.num_tokens(4, 4, long) > 200
    assert torch.equal(video_result(engine.submit(VIDEOS[5])).codes, together[5].codes)
    for request, handle in zip(image_requests, image_handles, strict=True):
        end = handle.result()
        assert isinstance(end, ImageResult)
        out = Emu3(checkpoint).image("x", ratio="2:1", seed=request.seed)
        assert torch.equal(end.codes, out.codes[0])
    stats = engine.stats()
    assert (
        stats.finished_videos,
        stats.finished_images,
        stats.running_videos,
        stats.kv_cache_tokens,
    ) == (8, 6, 0, 0)


def test_size_equals_ratio_and_area(engine: AsyncEngine, checkpoint: Checkpoint) -> None:
    end = video_result(engine.submit(VideoRequest("x", size=(24, 16), seconds=0.5)))
    out = Emu3(checkpoint).video("x", ratio="3:2", area=24 * 16, seconds=0.5)
    assert same(end, out)
    assert end.frames.shape[1:] == (16, 24, 3)


def test_frames_are_reported_in_order_each_once(engine: AsyncEngine) -> None:
    for request, total in ((VIDEOS[1], 2), (VIDEOS[2], 2), (VIDEOS[4], 4), (VIDEOS[5], 11)):
        *progress, end = engine.submit(request).events()
        assert isinstance(end, VideoResult)
        frames = [event for event in progress if isinstance(event, VideoFrames)]
        assert [(event.done, event.total) for event in frames] == [
            (number, total) for number in range(1, total + 1)
        ]
        assert torch.equal(torch.cat([event.frames for event in frames]), end.frames)


def test_a_result_is_continued_without_encoding(
    engine: AsyncEngine, checkpoint: Checkpoint
) -> None:
    """Its codes stay and are not encoded again; the rest is as in one request."""
    first = video_result(engine.submit(VideoRequest("a car", seconds=1.25)))
    longer = video_result(
        engine.submit(VideoRequest("a car", video=first.video_codes, seconds=1.0))
    )
    assert torch.equal(longer.codes[:2], first.codes[:2])
    assert torch.equal(longer.frames[:8], first.frames[:8])
    assert (len(first.frames), len(longer.frames)) == (10, 18)
    again = replace(first.video_codes, codes=longer.codes[:3])  # the last group is generated anew
    same_again = video_result(engine.submit(VideoRequest("a car", video=again, seconds=1.0)))
    assert torch.equal(same_again.codes, longer.codes)


def test_describe_video_equals_the_result(engine: AsyncEngine) -> None:
    for request in VIDEOS:
        spec, end = engine.describe_video(request), video_result(engine.submit(request))
        assert (spec.height, spec.width) == end.frames.shape[1:3]
        assert (spec.frames, spec.fps) == (len(end.frames), end.fps)
    few = AsyncEngine(engine.checkpoint, max_kv_cache_tokens=100)
    with pytest.raises(InputError, match="the limit is 100"):
        few.describe_video(VIDEOS[0])
    few.close()


def test_cancelling_frees_memory(checkpoint: Checkpoint) -> None:
    engine, started, go = AsyncEngine(checkpoint), threading.Event(), threading.Event()
    last: list[object] = []

    def listener(event: object) -> None:
        last.append(event)
        started.set()
        go.wait()

    handle = engine.submit(VIDEOS[5], listener)
    started.wait()
    assert engine.stats().running_videos == 1
    handle.cancel()
    go.set()
    engine.close()
    assert isinstance(last[-1], RequestCancelled)
    assert len(last) < 10
    assert (engine.stats().cancelled, engine.stats().kv_cache_tokens) == (1, 0)


def test_a_failure_in_a_later_window_is_reported(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("emu3.inference.video.VideoRequestState._next_window", lambda self: 1 / 0)
    end = engine.submit(VIDEOS[5]).result()
    assert isinstance(end, RequestFailed)
    assert end.internal
    monkeypatch.undo()
    assert video_result(engine.submit(VIDEOS[0]))
    assert engine.stats().kv_cache_tokens == 0


def test_chat_about_videos_among_others_equals_alone(
    engine: AsyncEngine, checkpoint: Checkpoint
) -> None:
    def chat_result(request: ChatRequest) -> ChatResult:
        end = engine.submit(request).result()
        assert isinstance(end, ChatResult), end
        return end

    image, video = image_of(clip(1)), clip(6)
    for images in ((), (image,)):
        request = ChatRequest("what?", images, 9, SamplingParams(0), videos=(video,))
        other = [engine.submit(each) for each in (VIDEOS[0], ImageRequest("x"))]
        source = Clip(iter(video.frames), 8.0)
        answer = Emu3(checkpoint).chat("what?", images, [source], max_new_tokens=9, top_k=0)
        assert chat_result(request).text == answer
        assert all(handle.result() for handle in other)
    before = (ChatTurn("look", "a b", (), (video,)),)
    with_history = chat_result(
        ChatRequest("and now?", max_new_tokens=2, history=before)
    ).prompt_tokens
    assert with_history > chat_result(ChatRequest("and now?", max_new_tokens=2)).prompt_tokens + 16


FLOATS = VideoInput(clip(4).frames.float(), 8.0)
EMPTY = VideoInput(clip(4).frames[:0], 8.0)


def codes(*values: object, frames: int = 4) -> VideoCodes:
    return VideoCodes(torch.tensor(values), 8.0, frames)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (VideoRequest("x", seconds=0), "seconds = 0"),
        (VideoRequest("x", seconds=float("nan")), "seconds = nan"),
        (VideoRequest("x", fps=0), "fps = "),
        (VideoRequest("x", fps=30000 / 1001), "three decimals"),
        (VideoRequest("x", seconds=60), "exceed the context of 200.*fewer seconds"),
        (VideoRequest("x" * 600), "exceed the context"),
        (VideoRequest("x", ratio="9:1"), "5 times"),
        (VideoRequest("x", size=(15, 16)), "multiples of 4"),
        (VideoRequest("x", seed=-1), "seed = -1"),
        (VideoRequest("x", guidance_scale=float("inf")), "guidance_scale"),
        (VideoRequest("x", image=Image.new("RGB", (1, 1))), "at least 4 pixels"),
        (VideoRequest("x", image=image_of(clip(1)), size=(16, 16)), "leave out size"),
        (VideoRequest("x", video=clip(4), ratio="1:1"), "leave out size"),
        (VideoRequest("x", video=clip(4), fps=8.0), "leave out image and fps"),
        (VideoRequest("x", video=clip(3)), "3 frames is too short; a continuation needs 4"),
        (VideoRequest("x", video=EMPTY), "without frames"),
        (VideoRequest("x", video=FLOATS), "uint8"),
        (VideoRequest("x" * 480, video=clip(4)), "two groups of frames exceed"),
        (VideoRequest("x", video=codes([1, 2], [3, 4])), r"\[t, h, w\]"),
        (
            VideoRequest("x", video=codes([[1, 2], [3, 4]], frames=9)),
            "do not stand for 9",
        ),
        (VideoRequest("x", video=codes([[1, 64], [3, 4]])), "0 to 63"),
        (ChatRequest("x", videos=(EMPTY,)), "without frames"),
        (ChatRequest("x", videos=(FLOATS,)), "uint8"),
        (ChatRequest("x", videos=(clip(200),)), "exceed the context"),
        (ChatRequest("x", videos=(replace(clip(1), fps=0.0),)), "fps = "),
    ],
)
def test_invalid_requests_are_refused_at_once(
    engine: AsyncEngine, request_: VideoRequest | ChatRequest, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        engine.submit(request_)
    assert engine.stats().steps == 0


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.int64])
def test_codes_of_any_integer_type_are_continued(engine: AsyncEngine, dtype: torch.dtype) -> None:
    given = torch.arange(32).view(2, 4, 4) % 64
    video = VideoCodes(given.to(dtype), 8.0, 8)
    result = video_result(engine.submit(VideoRequest("x", seconds=0.5, video=video)))
    assert torch.equal(result.codes[:2], given)
    wrong = VideoCodes(given.bool(), 8.0, 8)
    with pytest.raises(InputError, match="integers"):
        engine.submit(VideoRequest("x", video=wrong))
