"""Vision workers: decode the codes of finished and partial images.

Decoding an image costs about as much as several decoder steps. The server decodes on a thread, so
that other requests do not wait for it, and whatever has queued up is decoded together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor

from emu3.processing.vision_processor import VisionProcessor

MAX_BATCH = 16  # images decoded together


class VisionWorker(Protocol):
    """Decodes codes [r, w] to images, in the order in which they are submitted."""

    def submit(self, codes: Tensor) -> Future[Image.Image]:
        """Decode codes; the future has the image, or the exception."""

    def close(self) -> None:
        """Decode what was submitted and stop."""


class InlineVisionWorker:
    """Decodes at once, in the caller's thread."""

    def __init__(self, processor: VisionProcessor) -> None:
        self._processor = processor

    def submit(self, codes: Tensor) -> Future[Image.Image]:
        """Decode codes [r, w] before returning."""
        future: Future[Image.Image] = Future()
        try:
            future.set_result(self._processor.decode_image(codes))
        except Exception as error:
            future.set_exception(error)
        return future

    def close(self) -> None:
        """Nothing is left to do."""


@dataclass(frozen=True)
class DecodeTask:
    """Codes [r, w] and the future of their image."""

    codes: Tensor
    future: Future[Image.Image] = field(default_factory=Future)


class ThreadedVisionWorker:
    """Decodes on a thread of its own; images that wait together are decoded together."""

    def __init__(
        self, processor: VisionProcessor, on_decoded: Callable[[], None] = lambda: None
    ) -> None:
        """`on_decoded` is called in the worker's thread after each batch."""
        self._processor, self._on_decoded = processor, on_decoded
        self._queue: SimpleQueue[DecodeTask | None] = SimpleQueue()
        self._thread = Thread(target=self._work, name="emu3-vision-worker", daemon=True)
        self._thread.start()

    def submit(self, codes: Tensor) -> Future[Image.Image]:
        """Queue codes [r, w]; callbacks of the future run in the worker's thread."""
        task = DecodeTask(codes)
        self._queue.put(task)
        return task.future

    def close(self) -> None:
        """Decode all that was submitted, and end the thread."""
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        with torch.inference_mode():
            while tasks := self._next_batch():
                self._decode(tasks)
                self._on_decoded()

    def _next_batch(self) -> list[DecodeTask]:
        """All that waits, up to `MAX_BATCH`; empty at the end."""
        batch = [self._queue.get()]
        while batch[-1] is not None and len(batch) < MAX_BATCH:
            try:
                batch.append(self._queue.get_nowait())
            except Empty:
                break
        if batch[-1] is None and len(batch) > 1:
            self._queue.put(None)  # for the next call; nothing comes after it
        return [task for task in batch if task is not None]

    def _decode(self, tasks: Sequence[DecodeTask]) -> None:
        try:
            images = self._processor.decode_images([task.codes for task in tasks])
        except Exception as error:
            if len(tasks) == 1:
                tasks[0].future.set_exception(error)
                return
            for task in tasks:  # one that fails must not take the others with it
                self._decode([task])
            return
        for task, image in zip(tasks, images, strict=True):
            task.future.set_result(image)
