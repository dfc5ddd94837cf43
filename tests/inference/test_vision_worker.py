"""Vision workers: order, batching, and failures of single images."""

from __future__ import annotations

import time
from concurrent.futures import Future
from dataclasses import replace
from threading import Event

import pytest
import torch
from PIL import Image
from torch import Tensor

from emu3.checkpoints.loading import Checkpoint
from emu3.errors import InputError
from emu3.inference.async_engine import AsyncEngine
from emu3.inference.engine import INTERNAL_ERROR
from emu3.inference.events import ImageResult, PartialImage, RequestFailed
from emu3.inference.requests import ImageRequest
from emu3.inference.vision_worker import InlineVisionWorker, ThreadedVisionWorker
from emu3.processing.vision_processor import VisionProcessor
from emu3.testing import tiny_checkpoint


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return tiny_checkpoint()


class Fragile(VisionProcessor):
    """A vision_processor that cannot decode two rows."""

    def decode_images(self, codes: list[Tensor]) -> list[Image.Image]:  # type: ignore[override]
        if any(len(rows) == 2 for rows in codes):
            raise RuntimeError("torn")
        return super().decode_images(codes)


def fragile(checkpoint: Checkpoint) -> Fragile:
    return Fragile(checkpoint.vision_processor.vision, checkpoint.vision_processor.preprocessor)


def test_sizes_decoded_together_equal_alone(checkpoint: Checkpoint) -> None:
    vision_processor = checkpoint.vision_processor
    codes = [torch.randint(0, 64, size) for size in ((4, 4), (2, 4), (4, 4), (40, 40), (4, 4))]
    for mine, image in zip(codes, vision_processor.decode_images(codes), strict=True):
        alone = torch.tensor(list(vision_processor.decode_image(mine).tobytes())).int()
        assert (torch.tensor(list(image.tobytes())).int() - alone).abs().max() <= 1
    assert vision_processor.decode_images([]) == []


def zeros(rows: int) -> Tensor:
    return torch.zeros(rows, 4, dtype=torch.long)


def blocked(worker: ThreadedVisionWorker) -> Event:
    """Keep the worker's thread in a callback until the event is set."""
    go = Event()
    worker.submit(zeros(1)).add_done_callback(lambda future: go.wait(10))
    return go


def test_all_are_decoded_in_order_before_it_closes(checkpoint: Checkpoint) -> None:
    worker, seen = ThreadedVisionWorker(checkpoint.vision_processor), list[tuple[int, int]]()
    go = blocked(worker)
    for number in range(40):  # more than one batch

        def then(future: Future[Image.Image], number: int = number) -> None:
            seen.append((number, future.result().height))

        worker.submit(zeros(1 + number % 3)).add_done_callback(then)
    go.set()
    worker.close()
    assert seen == [(number, 4 * (1 + number % 3)) for number in range(40)]


def test_one_that_fails_among_others_fails_alone(checkpoint: Checkpoint) -> None:
    worker = ThreadedVisionWorker(fragile(checkpoint))
    go = blocked(worker)
    futures = [worker.submit(zeros(rows)) for rows in (1, 2, 3)]  # decoded together
    go.set()
    worker.close()
    assert futures[0].result().height == 4
    assert isinstance(futures[1].exception(), RuntimeError)
    assert futures[2].result().height == 12


def test_inline_decodes_at_once(checkpoint: Checkpoint) -> None:
    worker = InlineVisionWorker(checkpoint.vision_processor)
    future = worker.submit(zeros(2))
    assert future.done()
    expected = checkpoint.vision_processor.decode_image(zeros(2))
    assert future.result().tobytes() == expected.tobytes()
    assert isinstance(worker.submit(zeros(0)).exception(), InputError)


def test_an_image_that_cannot_be_decoded_fails_alone(checkpoint: Checkpoint) -> None:
    engine = AsyncEngine(replace(checkpoint, vision_processor=fragile(checkpoint)))
    try:
        bad = engine.submit(ImageRequest("x", size=(16, 8), partials=1))
        *_, end = bad.events()
        assert end == RequestFailed(INTERNAL_ERROR, internal=True)
        good = list(engine.submit(ImageRequest("x", size=(16, 16), partials=3)).events())
        assert isinstance(good[-1], ImageResult)
        parts = [event for event in good if isinstance(event, PartialImage)]
        assert [part.image.height for part in parts if part.index != 1] == [4, 12]
        stats = engine.stats()
        assert (stats.finished_images, stats.failed, stats.running_images) == (1, 1, 0)
    finally:
        engine.close()


def test_close_waits_for_generated_images(checkpoint: Checkpoint) -> None:
    engine = AsyncEngine(checkpoint, max_running=2)
    handles = [engine.submit(ImageRequest("x", size=(16, 16), seed=seed)) for seed in range(7)]
    engine.close()
    ends = [list(handle.events())[-1] for handle in handles]
    assert all(isinstance(end, ImageResult) for end in ends)


def test_every_request_is_counted_once_at_any_moment(checkpoint: Checkpoint) -> None:
    engine = AsyncEngine(checkpoint, max_running=3)
    handles = [engine.submit(ImageRequest("x", size=(16, 16), seed=seed)) for seed in range(9)]
    for handle in handles[::3]:
        handle.cancel()
    while True:
        now = engine.stats()
        ended = now.finished_images + now.cancelled
        assert ended + now.running_images + now.waiting == len(handles)
        if ended == len(handles):
            break
        time.sleep(0.0005)  # who never waits keeps the engine from its work
    engine.close()
