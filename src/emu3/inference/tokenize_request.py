"""The vision tokenizer alone: a picture to codes, codes to a picture, between two passes.

In the engine's thread, like everything that touches the model: so it needs no lock, and takes turns
with those who draw. Each is one short job: no cache, and done in the step after it came.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass

import torch

from emu3.checkpoints.loading import Checkpoint
from emu3.errors import InputError
from emu3.inference.request_handle import RequestHandle
from emu3.inference.requests import FinalEvent, TokenizeRequest, TokenizeResult
from emu3.inference.token_counts import image_grid_size


@dataclass(eq=False)
class TokenizeJob:
    """A picture or codes to be turned into the other."""

    request: TokenizeRequest
    ticket: RequestHandle
    key: Hashable = "tokens"
    rows: int = 1  # it has no cache, but the plan counts at least this
    room: int = 1


def plan_tokenize(
    checkpoint: Checkpoint, request: TokenizeRequest, ticket: RequestHandle
) -> TokenizeJob:
    """Check a request. Raises InputError on what could not be done."""
    source = request.source
    if isinstance(source, tuple):
        if not source or not source[0] or len({len(row) for row in source}) != 1:
            raise InputError("codes must be rows of one length, at least one code")
        size = checkpoint.vision_processor.vision.quantize.size
        if any(not 0 <= code < size for row in source for code in row):
            raise InputError(f"codes must be integers in 0 to {size - 1}")
        limit = checkpoint.vision_processor.preprocessor
        if len(source) * len(source[0]) * limit.spatial_factor**2 > limit.max_pixels:
            raise InputError(f"more codes than {limit.max_pixels} pixels have")
    else:
        image_grid_size(checkpoint, source)
    return TokenizeJob(request, ticket)


class TokenizeBatch:
    """Those that came since the last pass."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.vision_processor = checkpoint.vision_processor
        self.jobs: list[TokenizeJob] = []

    def add(self, fresh: Sequence[TokenizeJob]) -> None:
        """Take some more."""
        self.jobs += fresh

    def drop(self, gone: Collection[TokenizeJob]) -> None:
        """Go on without some."""
        self.jobs = [job for job in self.jobs if job not in gone]

    def step(self) -> int:
        """Nothing is drawn here: all the work is in `end`."""
        return 0

    def end(self, job: TokenizeJob) -> FinalEvent:
        """The codes, and the picture that they stand for."""
        source = job.request.source
        codes = (
            torch.tensor(source)
            if isinstance(source, tuple)
            else self.vision_processor.encode(source)
        )
        return TokenizeResult(
            tuple(tuple(row) for row in codes.tolist()), self.vision_processor.decode_image(codes)
        )
