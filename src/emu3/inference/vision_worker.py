"""Codes become pictures on a thread of their own, while the next passes go on.

A picture costs about as much to decode as some passes cost to draw it. In here nobody waits for it
but who asked; and whatever has come together meanwhile is decoded together.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Thread

import torch
from PIL import Image
from torch import Tensor

from emu3.processing.vision_processor import VisionProcessor

LOG = logging.getLogger("emu3.inference")
MOST = 16  # pictures taken at a time


@dataclass(frozen=True)
class DecodeTask:
    """Codes [r, w] to be decoded, and who is told: the picture, or None where that failed."""

    rows: Tensor
    then: Callable[[Image.Image | None], None]


class VisionWorker:
    """`develop` from any thread; pictures come in the order of their codes."""

    def __init__(self, vision_processor: VisionProcessor) -> None:
        self._codec = vision_processor
        self._queue: SimpleQueue[DecodeTask | None] = SimpleQueue()
        self._thread = Thread(target=self._work, name="emu3-vision_worker", daemon=True)
        self._thread.start()

    def submit(self, rows: Tensor, then: Callable[[Image.Image | None], None]) -> None:
        """Decode codes [r, w] some time soon."""
        self._queue.put(DecodeTask(rows, then))

    def close(self) -> None:
        """Develop all there is, and end the thread."""
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        with torch.inference_mode():
            while some := self._next():
                for each, picture in zip(some, self._pictures(some), strict=True):
                    try:
                        each.then(picture)
                    except Exception:  # a bug of theirs, and others wait
                        LOG.exception("nobody took a picture")

    def _next(self) -> list[DecodeTask]:
        """All that waits, up to `MOST`; nothing at the end."""
        some = [self._queue.get()]
        while some[-1] is not None and len(some) < MOST:
            try:
                some.append(self._queue.get_nowait())
            except Empty:
                break
        if some[-1] is None and len(some) > 1:
            self._queue.put(None)  # for the next time; nothing comes behind it
        return [each for each in some if each is not None]

    def _pictures(self, some: list[DecodeTask]) -> Sequence[Image.Image | None]:
        try:
            return self._codec.decode_images([each.rows for each in some])
        except Exception:
            if len(some) > 1:  # one that fails must not take the others with it
                return [picture for each in some for picture in self._pictures([each])]
            LOG.exception("a picture could not be decoded")
            return [None]
