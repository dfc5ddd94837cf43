"""Pictures decoded beside the passes: all of them, in order; one that fails hurts nobody else."""

from __future__ import annotations

import time
from dataclasses import replace
from threading import Event

import pytest
import torch
from PIL import Image
from torch import Tensor

from emu3.checkpoints.loading import Checkpoint
from emu3.inference.async_engine import AsyncEngine
from emu3.inference.requests import ImageRequest, ImageResult, PartialImage, RequestFailed
from emu3.inference.vision_worker import VisionWorker
from emu3.processing.vision_processor import VisionProcessor
from emu3.testing import tiny_checkpoint


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return tiny_checkpoint()


class Fragile(VisionProcessor):
    """A vision_processor that cannot decode two rows."""

    def pictures(self, codes: list[Tensor]) -> list[Image.Image]:  # type: ignore[override]
        if any(len(rows) == 2 for rows in codes):
            raise RuntimeError("torn")
        return super().pictures(codes)


def fragile(checkpoint: Checkpoint) -> Fragile:
    return Fragile(checkpoint.vision_processor.vision, checkpoint.vision_processor.preprocessor)


def test_several_sizes_decoded_together_are_what_they_are_alone(checkpoint: Checkpoint) -> None:
    vision_processor = checkpoint.vision_processor
    codes = [torch.randint(0, 64, size) for size in ((4, 4), (2, 4), (4, 4), (40, 40), (4, 4))]
    for mine, picture in zip(codes, vision_processor.decode_images(codes), strict=True):
        alone = torch.tensor(list(vision_processor.decode_image(mine).tobytes())).int()
        assert (torch.tensor(list(picture.tobytes())).int() - alone).abs().max() <= 1
    assert vision_processor.decode_images([]) == []


def test_all_are_developed_in_their_order_before_it_closes(checkpoint: Checkpoint) -> None:
    room, seen = VisionWorker(checkpoint.vision_processor), list[tuple[int, int]]()
    first = Event()
    room.develop(torch.zeros(1, 4, dtype=torch.long), lambda picture: first.wait(10))
    for number in range(40):  # while the thread waits: more than it takes at a time

        def then(picture: Image.Image | None, number: int = number) -> None:
            assert picture is not None
            seen.append((number, picture.height))

        room.develop(torch.zeros(1 + number % 3, 4, dtype=torch.long), then)
    first.set()
    room.close()
    assert seen == [(number, 4 * (1 + number % 3)) for number in range(40)]


def test_who_fails_is_told_and_the_next_are_developed(checkpoint: Checkpoint) -> None:
    room, seen = VisionWorker(fragile(checkpoint)), list[bool]()

    def take(picture: Image.Image | None) -> None:
        seen.append(picture is not None)
        raise RuntimeError("a listener that fails")

    for rows in (2, 1):
        done = Event()

        def then(picture: Image.Image | None, done: Event = done) -> None:
            done.set()
            take(picture)

        room.develop(torch.zeros(rows, 4, dtype=torch.long), then)
        assert done.wait(10)
    room.close()
    assert seen == [False, True]


def test_who_fails_among_others_fails_alone(checkpoint: Checkpoint) -> None:
    room, seen = VisionWorker(fragile(checkpoint)), list[int | None]()
    first = Event()
    room.develop(torch.zeros(1, 4, dtype=torch.long), lambda picture: first.wait(10))
    for rows in (1, 2, 3):  # together, once the thread goes on
        room.develop(
            torch.zeros(rows, 4, dtype=torch.long),
            lambda picture: seen.append(picture and picture.height),
        )
    first.set()
    room.close()
    assert seen == [4, None, 12]


def test_a_picture_that_cannot_be_decoded_fails_alone(checkpoint: Checkpoint) -> None:
    engine = AsyncEngine(replace(checkpoint, vision_processor=fragile(checkpoint)))
    try:
        bad = engine.submit(ImageRequest("x", size=(16, 8), partials=1))
        *_, end = bad.events()
        assert end == RequestFailed("the engine failed; its log says more", ours=True)
        good = list(engine.submit(ImageRequest("x", size=(16, 16), partials=3)).events())
        assert isinstance(good[-1], ImageResult)
        parts = [event for event in good if isinstance(event, PartialImage)]
        assert [part.picture.height for part in parts if part.index != 1] == [4, 12]
        stats = engine.stats()
        assert (stats.drawn, stats.failed, stats.pictures) == (1, 1, 0)
    finally:
        engine.close()


def test_a_close_waits_for_what_is_drawn(checkpoint: Checkpoint) -> None:
    engine = AsyncEngine(checkpoint, slots=2)
    tickets = [engine.submit(ImageRequest("x", size=(16, 16), seed=seed)) for seed in range(7)]
    engine.close()
    ends = [list(ticket.events())[-1] for ticket in tickets]
    assert all(isinstance(end, ImageResult) for end in ends)


def test_at_any_moment_every_request_is_counted_once(checkpoint: Checkpoint) -> None:
    engine = AsyncEngine(checkpoint, slots=3)
    tickets = [engine.submit(ImageRequest("x", size=(16, 16), seed=seed)) for seed in range(9)]
    for ticket in tickets[::3]:
        ticket.cancel()
    while True:
        now = engine.stats()
        ended = now.drawn + now.cancelled
        assert ended + now.pictures + now.waiting == len(tickets)
        if ended == len(tickets):
            break
        time.sleep(0.0005)  # who never waits keeps the engine from its work
    engine.close()
