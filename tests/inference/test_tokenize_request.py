"""Tokenize requests: the vision processor's codes, beside other requests, and no KV cache."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from PIL import Image

from emu3.checkpoints.loading import Checkpoint
from emu3.errors import InputError
from emu3.inference.async_engine import AsyncEngine
from emu3.inference.events import ImageResult, RequestCancelled, TokenizeResult
from emu3.inference.requests import ImageRequest, TokenizeRequest
from emu3.testing import tiny_checkpoint


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return tiny_checkpoint()


@pytest.fixture
def engine(checkpoint: Checkpoint) -> Iterator[AsyncEngine]:
    engine = AsyncEngine(checkpoint, max_waiting=20, max_running=4)
    yield engine
    engine.close(drain=False)


def photo() -> Image.Image:
    return Image.radial_gradient("L").resize((20, 16)).convert("RGB")


def tokenize(engine: AsyncEngine, request: TokenizeRequest) -> TokenizeResult:
    end = engine.submit(request).result()
    assert isinstance(end, TokenizeResult), end
    return end


def test_codes_and_image_equal_the_vision_processor(
    engine: AsyncEngine, checkpoint: Checkpoint
) -> None:
    codes = checkpoint.vision_processor.encode(photo())
    there = tokenize(engine, TokenizeRequest(photo()))
    assert torch.equal(there.codes, codes)
    assert there.image.tobytes() == checkpoint.vision_processor.decode_image(codes).tobytes()
    back = tokenize(engine, TokenizeRequest(there.codes))
    assert torch.equal(back.codes, there.codes)
    assert back.image.tobytes() == there.image.tobytes()


def test_other_requests_are_unaffected_and_memory_is_free_again(engine: AsyncEngine) -> None:
    drawing = [engine.submit(ImageRequest("x", seed=seed)) for seed in range(3)]
    tokenize(engine, TokenizeRequest(photo()))
    ends = [handle.result() for handle in drawing]
    for seed, end in enumerate(ends):
        alone = engine.submit(ImageRequest("x", seed=seed)).result()
        assert isinstance(end, ImageResult)
        assert isinstance(alone, ImageResult)
        assert torch.equal(end.codes, alone.codes)
    stats = engine.stats()
    assert (stats.waiting, stats.kv_cache_tokens, stats.running_images) == (0, 0, 0)


def test_a_waiting_request_is_cancelled(checkpoint: Checkpoint) -> None:
    engine = AsyncEngine(checkpoint, max_running=1)
    first = engine.submit(ImageRequest("x"))
    waiting = engine.submit(TokenizeRequest(photo()))
    waiting.cancel()
    assert isinstance(waiting.result(), RequestCancelled)
    first.cancel()
    engine.close()


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (torch.zeros(0, 2, dtype=torch.long), "at least one"),
        (torch.zeros(1, 2, 2, dtype=torch.long), r"\[h, w\]"),
        (torch.zeros(1, 2), "integers"),
        (torch.tensor([[1, 64]]), "0 to 63"),
        (torch.tensor([[-1, 0]]), "0 to 63"),
        (torch.zeros(1, 100, dtype=torch.long), "1x100 codes stand for more than"),
        (Image.new("RGB", (2, 2)), "at least 4 pixels"),
        (Image.new("RGB", (100, 10)), "at most 5 times"),
    ],
)
def test_invalid_requests_are_refused_at_once(
    engine: AsyncEngine, source: object, says: str
) -> None:
    with pytest.raises(InputError, match=says):
        engine.submit(TokenizeRequest(source))  # type: ignore[arg-type]
