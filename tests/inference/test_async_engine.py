"""The engine in a thread: equality alone and in a batch, limits, cancellation, failures."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from PIL import Image

from emu3.api import Emu3
from emu3.checkpoints.loading import Checkpoint
from emu3.errors import InputError
from emu3.inference.async_engine import AsyncEngine, RequestHandle
from emu3.inference.engine import Engine
from emu3.inference.events import (
    ChatResult,
    EngineClosed,
    EngineFull,
    ImageResult,
    PartialImage,
    PartialText,
    RequestCancelled,
    RequestFailed,
    RequestStarted,
    RowProgress,
)
from emu3.inference.model_runner import ModelRunner
from emu3.inference.request_states import ChatRequestState
from emu3.inference.requests import ChatRequest, ChatTurn, ImageRequest, VideoInput, VideoRequest
from emu3.inference.sampling import SamplingParams
from emu3.inference.sequences import DecodingSequence, TextSequence
from emu3.testing import tiny_checkpoint

SAMPLINGS = [
    SamplingParams(),
    SamplingParams(top_k=9, temperature=1.5),
    SamplingParams(top_k=1),
    SamplingParams(0, 0.8),
]
RATIOS = ["1:1", "2:1", "1:3", "3:2"]


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return tiny_checkpoint()


@pytest.fixture
def engine(checkpoint: Checkpoint) -> Iterator[AsyncEngine]:
    engine = AsyncEngine(checkpoint, max_waiting=100, max_running=12)
    yield engine
    engine.close(drain=False)


def image_result(handle: RequestHandle) -> ImageResult:
    end = handle.result()
    assert isinstance(end, ImageResult), end
    return end


def chat_result(handle: RequestHandle) -> ChatResult:
    end = handle.result()
    assert isinstance(end, ChatResult), end
    return end


def mixed_requests() -> list[ImageRequest]:
    return [
        ImageRequest(
            prompt="x" * (seed % 7),
            ratio=RATIOS[seed % 4],
            area=96 + 64 * (seed % 4),
            seed=seed,
            sampling=SAMPLINGS[seed % 3],
            guidance_scale=[3.0, 1.0, 1.5][seed % 3],
            negative_prompt="ugly" if seed % 2 else "",
        )
        for seed in range(30)
    ]


def photo(width: int = 20, height: int = 16) -> Image.Image:
    return Image.radial_gradient("L").resize((width, height)).convert("RGB")


def test_an_image_among_thirty_equals_the_image_alone(
    engine: AsyncEngine, checkpoint: Checkpoint
) -> None:
    handles = [engine.submit(request) for request in mixed_requests()]
    together = [image_result(handle) for handle in handles]
    for request, batched in zip(mixed_requests()[::3], together[::3], strict=True):
        assert torch.equal(image_result(engine.submit(request)).codes, batched.codes)
    for request, batched in zip(mixed_requests(), together, strict=True):
        assert request.sampling is not None
        out = Emu3(checkpoint).image(
            request.prompt,
            ratio=request.ratio,
            area=request.area,
            seed=request.seed,
            guidance_scale=request.guidance_scale,
            negative_prompt=request.negative_prompt,
            top_k=request.sampling.top_k,
            top_p=request.sampling.top_p,
            temperature=request.sampling.temperature,
        )
        assert torch.equal(batched.codes, out.codes[0])
        assert batched.settings == out.settings[0]
        # Images decoded in a batch may differ by rounding: at most one level of 255.
        apart = np.asarray(batched.image).astype(int) - np.asarray(out.images[0])
        assert np.abs(apart).max() <= 1
    stats = engine.stats()
    assert (stats.finished_images, stats.waiting, stats.running_images, stats.kv_cache_tokens) == (
        40,
        0,
        0,
        0,
    )
    assert stats.generated_codes == sum(e.codes.numel() for e in (*together, *together[::3]))


def questions() -> list[ChatRequest]:
    return [
        ChatRequest(
            text="what? " * (seed % 4),
            images=tuple(photo(16 + 4 * k) for k in range(seed % 3)),
            max_new_tokens=1 + 5 * (seed % 4),
            sampling=SAMPLINGS[seed % 4],
            seed=seed,
        )
        for seed in range(14)
    ]


def test_an_answer_among_others_equals_the_answer_alone(
    engine: AsyncEngine, checkpoint: Checkpoint
) -> None:
    """While images are generated in the same batch."""
    handles = [engine.submit(request) for request in questions()]
    others = [engine.submit(request) for request in mixed_requests()[:6]]
    for request, handle in zip(questions(), handles, strict=True):
        end = chat_result(handle)
        alone = Emu3(checkpoint).chat(
            request.text,
            request.images,
            max_new_tokens=request.max_new_tokens,
            seed=request.seed,
            **vars(request.sampling),
        )
        assert end.text == alone
        assert end.new_tokens == request.max_new_tokens or end.complete
        assert chat_result(engine.submit(request)) == end
    assert all(image_result(other) for other in others)


def test_a_second_turn_contains_the_first(engine: AsyncEngine, checkpoint: Checkpoint) -> None:
    """Byte by byte, an answer of ASCII is read as the conversation has it."""
    first = ChatTurn("look", "a b", (photo(),))
    request = ChatRequest("and now?", max_new_tokens=4, history=(first,))
    end = chat_result(engine.submit(request))
    prompts, codes = checkpoint.prompts, checkpoint.vision_processor.encode(photo())
    asked = prompts.chat("look", [codes]) + checkpoint.text_tokenizer.encode(" a b")
    assert end.prompt_tokens == len(asked + prompts.turn("and now?", []))
    other = ChatRequest("and now?", max_new_tokens=4, history=(ChatTurn("look", "c"),))
    assert chat_result(engine.submit(other)).prompt_tokens < end.prompt_tokens


def test_progress_events_precede_the_result(engine: AsyncEngine) -> None:
    events = list(engine.submit(ImageRequest("x", size=(16, 24), partials=2)).events())
    rows = [event.done for event in events if isinstance(event, RowProgress)]
    assert rows == sorted(set(rows))
    assert rows[-1] == 6
    partials = [event for event in events if isinstance(event, PartialImage)]
    assert partials
    end = events[-1]
    assert isinstance(end, ImageResult)
    assert end.image.size == (16, 24)
    for partial in partials:
        assert partial.image.width == 16
        assert 0 < partial.image.height < 24
    texts = list(engine.submit(ChatRequest("x", max_new_tokens=6, stream=True)).events())
    assert isinstance(texts[0], RequestStarted)
    assert all(isinstance(event, PartialText) for event in texts[1:-1])
    assert len(texts) > 2


def test_no_partial_images_unless_requested(engine: AsyncEngine) -> None:
    events = list(engine.submit(ImageRequest("x")).events())
    assert not any(isinstance(event, PartialImage) for event in events)


def held(
    checkpoint: Checkpoint, max_running: int, max_waiting: int
) -> tuple[AsyncEngine, RequestHandle, threading.Event]:
    """An engine that generates an image, blocked in a listener until the event is set."""
    engine, started, go = (
        AsyncEngine(checkpoint, max_running=max_running, max_waiting=max_waiting),
        threading.Event(),
        None,
    )
    go = threading.Event()

    def listener(event: object) -> None:
        started.set()
        go.wait()

    handle = engine.submit(ImageRequest("held", size=(32, 32)), listener)
    started.wait()
    return engine, handle, go


def test_cancelling_frees_memory(checkpoint: Checkpoint) -> None:
    engine, handle, go = held(checkpoint, max_running=1, max_waiting=4)
    waiting, next_one = (engine.submit(ImageRequest("x", seed=seed)) for seed in (1, 2))
    assert engine.stats().running_images == 1
    handle.cancel()
    waiting.cancel()
    go.set()
    assert isinstance(waiting.result(), RequestCancelled)
    assert image_result(next_one)
    stats = engine.stats()
    assert (stats.cancelled, stats.finished_images, stats.kv_cache_tokens) == (2, 1, 0)
    engine.close()


def test_a_full_queue_refuses_at_once(checkpoint: Checkpoint) -> None:
    engine, _, go = held(checkpoint, max_running=1, max_waiting=2)
    handles = [engine.submit(ImageRequest("x", seed=seed)) for seed in range(2)]
    with pytest.raises(EngineFull, match="2 requests are waiting"):
        engine.submit(ChatRequest("x"))
    assert engine.stats().refused == 1
    go.set()
    assert all(image_result(handle) for handle in handles)
    engine.close()


def test_a_cancelled_waiting_request_leaves_the_queue_at_once(checkpoint: Checkpoint) -> None:
    engine, _, go = held(checkpoint, max_running=1, max_waiting=1)
    gone = engine.submit(ImageRequest("x"))
    gone.cancel()
    late = engine.submit(ImageRequest("y"))  # at once, while the engine is still in its pass
    assert isinstance(gone.result(), RequestCancelled)
    assert (engine.stats().waiting, engine.stats().cancelled) == (1, 1)
    go.set()
    assert image_result(late)
    engine.close()


@pytest.mark.parametrize("drain", [True, False])
def test_closing_drains_or_cancels(checkpoint: Checkpoint, drain: bool) -> None:
    engine, _, go = held(checkpoint, max_running=1, max_waiting=4)
    handles = [engine.submit(ImageRequest("x", seed=seed)) for seed in range(3)]
    closing = threading.Thread(target=engine.close, args=(drain,))
    closing.start()
    while engine.stats().open:
        time.sleep(0.001)
    with pytest.raises(EngineClosed):
        engine.submit(ImageRequest("late"))
    go.set()
    closing.join()
    kinds = {type(handle.result()) for handle in handles}
    assert kinds == ({ImageResult} if drain else {RequestCancelled})


def test_a_request_that_fails_to_start_fails_alone(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, _, go = held(checkpoint, max_running=8, max_waiting=8)
    broken, fine = engine.submit(ChatRequest("x")), engine.submit(ImageRequest("x"))
    monkeypatch.setattr(ChatRequestState, "start", lambda self: 1 / 0)
    go.set()
    end = broken.result()
    assert isinstance(end, RequestFailed)
    assert end.internal
    assert "division" not in end.message
    assert image_result(fine)
    monkeypatch.undo()
    assert chat_result(engine.submit(ChatRequest("x", max_new_tokens=2)))
    assert engine.stats().failed == 1
    engine.close()


def test_a_failing_listener_cancels_its_request(checkpoint: Checkpoint) -> None:
    engine = AsyncEngine(checkpoint)

    def listener(event: object) -> None:
        raise RuntimeError("the listener failed")

    engine.submit(ImageRequest("x", size=(32, 32)), listener)
    engine.close()
    assert engine.stats().cancelled == 1


def test_a_small_kv_cache_is_used_by_one_request_after_another(checkpoint: Checkpoint) -> None:
    engine = AsyncEngine(checkpoint, max_kv_cache_tokens=200)
    handles = [engine.submit(ImageRequest("x", seed=seed)) for seed in range(5)]
    assert all(image_result(handle) for handle in handles)
    assert engine.stats().kv_cache_tokens == 0
    with pytest.raises(InputError, match="the limit is 200"):
        engine.submit(ChatRequest("x", max_new_tokens=400))
    engine.close()


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (ImageRequest("x", seed=-1), "seed = -1"),
        (ImageRequest("x", guidance_scale=float("nan")), "guidance_scale"),
        (ImageRequest("x", size=(15, 16)), "multiples of 4"),
        (ImageRequest("x", size=(0, 0)), "multiples of 4"),
        (ImageRequest("x", size=(4, 400)), "5 times"),
        (ImageRequest("x", ratio="9:1"), "5 times"),
        (ImageRequest("x", area=10**7), "exceed the context"),
        (ImageRequest("x" * 600), "exceed the context"),
        (ImageRequest("x", partials=-1), "partials"),
        (ChatRequest("x" * 600), "exceed the context"),
        (ChatRequest("x", max_new_tokens=0), "max_new_tokens"),
        (ChatRequest("x", (Image.new("RGB", (400, 8)),)), "5 times"),
        (ChatRequest("x", (Image.new("RGB", (1, 1)),)), "at least 4 pixels"),
    ],
)
def test_invalid_requests_are_refused_at_once(
    engine: AsyncEngine, request_: ImageRequest | ChatRequest, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        engine.submit(request_)
    assert engine.stats().steps == 0


def test_names_of_control_tokens_stay_text(engine: AsyncEngine, checkpoint: Checkpoint) -> None:
    name = "<|extra_204|>"
    end = image_result(engine.submit(ImageRequest(name)))
    assert end.prompt_tokens == len(checkpoint.prompts.image("y" * len(name), (4, 4)))


def failing_once(call: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make the n-th call of a method of the model runner raise."""

    def decorate(plain: Callable[..., None]) -> Callable[..., None]:
        calls = iter(range(1, 1000))

        def method(self: ModelRunner, *args: object) -> None:
            if args != ([],) and next(calls) == call:
                raise RuntimeError("out of memory")
            plain(self, *args)

        return method

    return decorate


@pytest.mark.parametrize("name", ["add", "step", "remove"])
@pytest.mark.parametrize("call", [1, 2, 3])
def test_every_request_ends_once_whatever_fails(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, name: str, call: int
) -> None:
    """An error of the model runner loses no final event and no memory."""
    engine = AsyncEngine(checkpoint, max_running=8)
    monkeypatch.setattr(ModelRunner, name, failing_once(call)(getattr(ModelRunner, name)))
    requests = [
        ChatRequest("a", max_new_tokens=3),
        ChatRequest("b", max_new_tokens=3),
        ImageRequest("x", partials=3),
        VideoRequest("y", seconds=0.5),
    ]
    handles = [engine.submit(request) for request in requests]
    ends = [handle.result() for handle in handles]
    assert call == 3 or any(isinstance(end, RequestFailed) for end in ends)
    monkeypatch.undo()
    assert chat_result(engine.submit(ChatRequest("x", max_new_tokens=2)))
    engine.close()
    stats = engine.stats()
    ended = stats.finished_images + stats.finished_videos + stats.finished_chats + stats.failed
    assert (ended, stats.kv_cache_tokens) == (len(requests) + 1, 0)
    assert not engine.core.runner.sequences


def test_a_prefill_that_fails_in_a_later_window_ends_all_that_share_the_cache(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, plain = Engine(checkpoint), ModelRunner.add
    clip = VideoInput(torch.zeros(4, 16, 16, 3, dtype=torch.uint8), 8.0)
    ids = [
        engine.add_request(VideoRequest("long", video=clip, seconds=15.0)),
        engine.add_request(ChatRequest("hello", max_new_tokens=400)),
    ]
    calls: list[int] = []

    def add(self: ModelRunner, sequences: list[DecodingSequence]) -> None:
        calls.extend([1] * bool(sequences))
        if sequences and len(calls) == 2:
            chat = engine.scheduler.running[1].sequence
            assert isinstance(chat, TextSequence)
            chat.max_new_tokens = len(chat.ids)  # it is done in this very step
            raise RuntimeError("out of memory")
        plain(self, sequences)

    monkeypatch.setattr(ModelRunner, "add", add)
    ends = []
    while engine.has_unfinished:
        ends += [out for out in engine.step() if isinstance(out.event, RequestFailed)]
    assert sorted(out.request_id for out in ends) == ids
    assert engine.stats().kv_cache_tokens == 0
