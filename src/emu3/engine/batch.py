"""Requests that share a cache: who joins, one step of all of them, who leaves.

Both kinds of batch change their members between any two steps, and each member comes out as it
would alone.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from emu3.checkpoint import Checkpoint
from emu3.decoder.cache import Cache
from emu3.engine.plan import ChatJob, DrawJob, asked
from emu3.engine.request import Drawn, End, Partial, Rows, Said, Text
from emu3.generate import prefill
from emu3.windows import Drawing, window_for


def joined(cache: Cache | None, fresh: Cache, capacity: int) -> Cache:
    """A cache with the rows of both, and room for `capacity` ids a row."""
    if cache is None:
        return fresh
    cache.reserve(capacity)
    cache.join(fresh)
    return cache


class PictureBatch:
    """Pictures of one sampling and one guidance, of any sizes."""

    def __init__(self, checkpoint: Checkpoint, like: DrawJob) -> None:
        self.checkpoint = checkpoint
        self.drawing = Drawing(
            checkpoint.decoder, checkpoint.prompts.grammar, like.sampling, like.guidance, window=1
        )
        self.jobs: list[DrawJob] = []
        self.cache: Cache | None = None
        self.capacity = 0

    def add(self, fresh: Sequence[DrawJob]) -> None:
        """Read the prompts of some more."""
        self.capacity = max(self.capacity, *(job.room for job in fresh))
        cache = self.drawing.read([job.picture for job in fresh], self.capacity)
        self.cache = joined(self.cache, cache, self.capacity)
        self.jobs += fresh

    def drop(self, gone: Collection[DrawJob]) -> None:
        """Go on without some."""
        stays = [job not in gone for job in self.jobs for _ in range(job.rows)]
        if self.cache is not None and any(stays) and not all(stays):
            self.cache.keep([row for row, still in enumerate(stays) if still])
        self.jobs = [job for job in self.jobs if job not in gone]

    def step(self) -> int:
        """One pass of all; returns how many codes were drawn."""
        assert self.cache is not None
        before = sum(len(job.picture.codes) for job in self.jobs)
        rows = sum(job.rows for job in self.jobs)
        pictures = [job.picture for job in self.jobs]
        window = window_for(self.drawing.model, rows)
        replace(self.drawing, window=window).step(pictures, self.cache)
        return sum(len(job.picture.codes) for job in self.jobs) - before

    def end(self, job: DrawJob) -> End | None:
        """Tell how far a picture is; its end if it is done."""
        rows, (height, _) = job.picture.rows(), job.picture.size
        if len(rows) > job.rows_told:
            job.rows_told = len(rows)
            job.ticket.tell(Rows(len(rows), height))
        if job.picture.done:
            codes = tuple(tuple(row) for row in rows.tolist())
            picture = self.checkpoint.codec.picture(rows)
            return Drawn(picture, codes, len(job.picture.prompts[0]))
        due = len(rows) * (job.request.partials + 1) // height
        if len(rows) and due > job.partials_told:
            picture = self.checkpoint.codec.picture(rows)
            job.ticket.tell(Partial(due - 1, picture))
            job.partials_told = due
        return None


class ChatBatch:
    """Answers, each with its own sampling."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.jobs: list[ChatJob] = []
        self.cache: Cache | None = None
        self.capacity = 0
        self.hidden = torch.empty(0)

    def add(self, fresh: Sequence[ChatJob]) -> None:
        """Read some more questions, their pictures encoded."""
        for job in fresh:  # one at a time: lengths differ by thousands where there are pictures
            self._add(job)

    def _add(self, job: ChatJob) -> None:
        request, codec = job.request, self.checkpoint.codec
        codes = [[codec.encode(image) for image in turn.images] for turn in request.turns]
        ids = asked(self.checkpoint, request, codes)
        self.capacity = max(self.capacity, job.room)
        hidden, fresh = prefill(self.checkpoint.decoder, [ids], self.capacity - len(ids))
        self.cache = joined(self.cache, fresh, self.capacity)
        self.hidden = torch.cat([self.hidden, hidden]) if self.jobs else hidden
        self.jobs.append(job)

    def drop(self, gone: Collection[ChatJob]) -> None:
        """Go on without some."""
        stays = [row for row, job in enumerate(self.jobs) if job not in gone]
        if self.cache is not None and 0 < len(stays) < len(self.jobs):
            self.cache.keep(stays)
            self.hidden = self.hidden[stays]
        self.jobs = [job for job in self.jobs if job not in gone]

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
        hidden = model.hidden(newest.to(model.device), self.cache)[:, -1]
        begun = [bool(job.ids) for job in self.jobs]
        self.cache.rewind([n + told for n, told in zip(before, begun, strict=True)])
        return torch.where(torch.tensor(begun, device=model.device)[:, None], hidden, self.hidden)

    def draw(self) -> list[int]:
        """The next id of each, rows of one sampling together."""
        logits = self.checkpoint.decoder.logits(self.hidden)
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

    def end(self, job: ChatJob) -> End | None:
        """Tell the text so far where it is wanted; the end of an answer that is done."""
        whole = job.ids[-1] == self.checkpoint.text.vocabulary.eos
        if whole or len(job.ids) == job.most:
            return Said(self.text(job.ids), whole, job.prompt_ids, len(job.ids))
        if job.request.stream:
            job.ticket.tell(Text(self.text(job.ids)))
        return None

    def text(self, ids: Sequence[int]) -> str:
        """What ids say, as `Emu3.chat` does."""
        return self.checkpoint.text.decode(ids, skip_special=True).strip()
