"""Requests that share a cache: who joins, one step of all of them, who leaves.

Both kinds of batch change their members between any two steps, and each member comes out as it
would alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate

import torch
from PIL import Image
from torch import Tensor

from emu3.checkpoints.loading import Checkpoint
from emu3.inference.planning import ChatJob, ImageJob, chat_prompt_ids
from emu3.inference.reference import prefill
from emu3.inference.requests import (
    ChatRequest,
    ChatResult,
    ChatTurn,
    FinalEvent,
    PartialImage,
    PartialText,
    RowProgress,
)
from emu3.inference.speculative import JacobiDecoder, draft_length_for
from emu3.inference.video import encode_video
from emu3.inference.video_request import VideoJob, arrays
from emu3.models.kv_cache import KVCache, compaction_order
from emu3.processing.document_format import VideoCodes
from emu3.processing.video import Clip

Develop = Callable[[Tensor, Callable[[Image.Image | None], None]], None]
"""`VisionWorker.submit`."""


def told_of_a_part(job: ImageJob, index: int, picture: Image.Image | None) -> None:
    """Tell of a partial picture; where there is none, its end will say why."""
    if picture is not None and not job.ticket.cancelled:
        job.ticket.tell(PartialImage(index, picture))


def joined(cache: KVCache | None, fresh: KVCache, capacity: int) -> KVCache:
    """A cache with the rows of both, and room for `capacity` ids a row."""
    if cache is None:
        return fresh
    cache.reserve(capacity)
    cache.append_rows(fresh)
    return cache


class VisualBatch:
    """Pictures and videos of one sampling and one guidance, of any sizes and lengths."""

    def __init__(self, checkpoint: Checkpoint, like: ImageJob | VideoJob, develop: Develop) -> None:
        self.checkpoint, self.develop = checkpoint, develop
        self.drawing = JacobiDecoder(
            checkpoint.decoder,
            checkpoint.prompts.document_format,
            like.sampling,
            like.guidance,
            window=1,
        )
        self.jobs: list[ImageJob | VideoJob] = []
        self.cache: KVCache | None = None
        self.capacity = 0

    def add(self, fresh: Sequence[ImageJob | VideoJob]) -> None:
        """Read the prompts of some more, and what videos begin with."""
        for job in fresh:
            if isinstance(job, VideoJob):
                job.begin(self.checkpoint.vision_processor)
        self._read(fresh)

    def _read(self, fresh: Sequence[ImageJob | VideoJob]) -> None:
        pictures = [job.picture for job in fresh if job.rows]
        if pictures:
            self.capacity = max(self.capacity, *(job.room for job in fresh))
            cache = self.drawing.read(pictures, self.capacity)
            self.cache = joined(self.cache, cache, self.capacity)
        self.jobs += fresh

    def drop(self, gone: Collection[ImageJob | VideoJob]) -> None:
        """Go on without some."""
        left = [place for place, job in enumerate(self.jobs) if job in gone]
        order = compaction_order(len(self.jobs), left)
        first = list(accumulate((job.rows for job in self.jobs), initial=0))
        rows = [first[place] + row for place in order for row in range(self.jobs[place].rows)]
        if not rows:
            self.cache = None
        elif self.cache is not None:
            self.cache.select_rows(rows)
        self.jobs = [self.jobs[place] for place in order]

    def step(self) -> int:
        """One pass of all; returns how many codes were drawn."""
        if self.cache is None:  # nothing but videos of which all was given
            return 0
        before = sum(len(job.picture.codes) for job in self.jobs)
        rows = sum(job.rows for job in self.jobs)
        pictures = [job.picture for job in self.jobs if job.rows]
        window = draft_length_for(self.drawing.model, rows)
        replace(self.drawing, window=window).step(pictures, self.cache)
        return sum(len(job.picture.codes) for job in self.jobs) - before

    def end(self, job: ImageJob | VideoJob) -> FinalEvent | Tensor | None:
        """Tell how far a picture or a video is; its end if it is done, of a picture as codes."""
        if isinstance(job, VideoJob):
            return self._end_of_film(job)
        rows, (height, _) = job.picture.rows(), job.picture.size
        if len(rows) > job.rows_told:
            job.rows_told = len(rows)
            job.ticket.tell(RowProgress(len(rows), height))
        if job.picture.done:
            return rows
        due = len(rows) * (job.request.partials + 1) // height
        if len(rows) and due > job.partials_told:
            job.partials_told = due
            self.develop(rows, partial(told_of_a_part, job, due - 1))
        return None

    def _end_of_film(self, job: VideoJob) -> FinalEvent | None:
        """As `end`; the next document of a long video takes the place of one that is done."""
        job.tell(self.checkpoint.vision_processor)
        if not job.picture.done:
            return None
        if not job.turn():
            return job.filmed()
        self.drop([job])
        self._read([job])
        return None


class ChatBatch:
    """Answers, each with its own sampling."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.jobs: list[ChatJob] = []
        self.cache: KVCache | None = None
        self.capacity = 0
        self.hidden = torch.empty(0)

    def add(self, fresh: Sequence[ChatJob]) -> None:
        """Read some more questions, their pictures and videos encoded."""
        for job in fresh:  # one at a time: lengths differ by thousands where there are pictures
            self._add(job)

    def _add(self, job: ChatJob) -> None:
        codes = [self._seen(turn) for turn in job.request.turns]
        ids = chat_prompt_ids(self.checkpoint, job.request, codes)
        self.capacity = max(self.capacity, job.room)
        hidden, fresh = prefill(self.checkpoint.decoder, [ids], self.capacity - len(ids))
        self.cache = joined(self.cache, fresh, self.capacity)
        self.hidden = torch.cat([self.hidden, hidden]) if self.jobs else hidden
        self.jobs.append(job)

    def _seen(self, turn: ChatTurn | ChatRequest) -> list[Tensor | VideoCodes]:
        """The codes of a turn's pictures, and of the videos behind them."""
        vision_processor, clips = (
            self.checkpoint.vision_processor,
            (Clip(arrays(r), r.fps) for r in turn.videos),
        )
        pictures = [vision_processor.encode(image) for image in turn.images]
        return [*pictures, *(encode_video(self.checkpoint, clip) for clip in clips)]

    def drop(self, gone: Collection[ChatJob]) -> None:
        """Go on without some."""
        left = [row for row, job in enumerate(self.jobs) if job in gone]
        stays = compaction_order(len(self.jobs), left)
        if self.cache is not None and stays:
            self.cache.select_rows(stays)
            self.hidden = self.hidden[stays]
        self.jobs = [self.jobs[row] for row in stays]

    def step(self) -> int:
        """One more id for all; returns how many that are."""
        if any(job.ids for job in self.jobs):
            self.hidden = self.read()
        for job, drawn in zip(self.jobs, self.draw(), strict=True):
            job.ids.append(drawn)
        return len(self.jobs)

    def read(self) -> Tensor:
        """Read the newest ids; what the model makes of them, [B, hidden].

        Whoever has none yet has its question's last hidden state already, and its row reads
        something that is forgotten again.
        """
        assert self.cache is not None
        model, before = self.checkpoint.decoder, list(self.cache.lengths)
        newest = torch.tensor([[job.ids[-1] if job.ids else 0] for job in self.jobs])
        hidden = model.forward_hidden(newest.to(model.device), self.cache)[:, -1]
        begun = [bool(job.ids) for job in self.jobs]
        self.cache.truncate([n + told for n, told in zip(before, begun, strict=True)])
        return torch.where(torch.tensor(begun, device=model.device)[:, None], hidden, self.hidden)

    def draw(self) -> list[int]:
        """The next id of each, rows of one sampling together."""
        logits = self.checkpoint.decoder.compute_logits(self.hidden)
        drawn = [0] * len(self.jobs)
        for sampling in {job.request.sampling for job in self.jobs}:
            rows = [row for row, job in enumerate(self.jobs) if job.request.sampling == sampling]
            if sampling.greedy:
                chosen = logits[rows].argmax(-1)
            else:
                noise = [self.jobs[row].noise.gumbel(logits.shape[-1]) for row in rows]
                chosen = sampling.pick(logits[rows], torch.cat(noise))
            for row, new in zip(rows, chosen.tolist(), strict=True):
                drawn[row] = new
        return drawn

    def end(self, job: ChatJob) -> FinalEvent | None:
        """Tell the text so far where it is wanted; the end of an answer that is done."""
        whole = job.ids[-1] == self.checkpoint.text_tokenizer.vocabulary.eos
        if whole or len(job.ids) == job.most:
            return ChatResult(self.text(job.ids), whole, job.prompt_ids, len(job.ids))
        if job.request.stream:
            job.ticket.tell(PartialText(self.text(job.ids)))
        return None

    def text(self, ids: Sequence[int]) -> str:
        """What ids say, as `Emu3.chat` does."""
        return self.checkpoint.text_tokenizer.decode(ids, skip_special=True).strip()
