"""Where preference pairs come from: pictures drawn for a request, scored by voters, two kept.

The paper (arXiv 2409.18869, post-training) draws 8 to 10 pictures a prompt, three people vote on
each, and the best and the worst become a pair. Here a voter is any function; the ids that were
drawn are stored with all their scores, so another margin needs no new pictures.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

import torch
from PIL import Image

from emu3.checkpoints.loading import Checkpoint
from emu3.errors import InputError
from emu3.inference.sampling import SamplingParams
from emu3.inference.speculative import JacobiDecoder, VisualSequence, draft_length_for
from emu3.models.memory import max_kv_cache_tokens
from emu3.progress import count_progress
from emu3.training.dpo import Pair

Voter = Callable[[Image.Image, str], float]
"""A picture and the request it was drawn for, to a score in [0, 1]."""


def mean_of(*voters: Voter) -> Voter:
    """One voter that says the mean of several."""
    return lambda picture, request: fmean(voter(picture, request) for voter in voters)


def majority_of(*voters: Voter, passing: float = 0.5) -> Voter:
    """One voter that says 1 where more than half of several say `passing` or more, else 0."""

    def vote(picture: Image.Image, request: str) -> float:
        passed = sum(voter(picture, request) >= passing for voter in voters)
        return float(2 * passed > len(voters))

    return vote


@dataclass(frozen=True)
class Request:
    """What to draw: the words, and the size (h, w) in codes."""

    words: str
    size: tuple[int, int]


@dataclass(frozen=True)
class Sampler:
    """How pictures are drawn for a request."""

    pictures: int = 8  # for each request
    guidance_scale: float = 3.0
    sampling: SamplingParams = SamplingParams()  # noqa: RUF009 (frozen)
    seed: int = 0


@dataclass(frozen=True)
class Drawn:
    """A request, the ids of its prompt and of each picture as they were drawn, and the scores."""

    words: str
    prompt: list[int]
    pictures: list[list[int]]
    scores: list[float]

    def pair(self, margin: float) -> Pair | None:
        """The best and the worst, the first of equals; None where they are not `margin` apart."""
        best = self.scores.index(max(self.scores))
        worst = self.scores.index(min(self.scores))
        if best == worst or self.scores[best] - self.scores[worst] < margin:
            return None
        ids = (self.prompt, self.pictures[best], self.pictures[worst])
        prompt, chosen, rejected = (torch.tensor(each) for each in ids)
        return Pair(prompt, chosen, rejected)


def draw(
    checkpoint: Checkpoint,
    requests: Sequence[Request],
    voter: Voter,
    path: Path,
    sampler: Sampler = Sampler(),
) -> list[Drawn]:
    """Draw for each request and score; one JSON line a request in `path`, which a new call resumes.

    Request i is drawn with seeds of its own, so a resumed file is the file never interrupted.
    Raises InputError where the file was made for other requests.
    """
    done = read_drawn(path)
    if [one.words for one in done] != [each.words for each in requests[: len(done)]]:
        raise InputError(f"{path}: holds other requests; name a new file")
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        path.open("a", encoding="utf-8") as file,
        count_progress("drawing", len(requests)) as advance,
    ):
        advance(len(done))
        for index in range(len(done), len(requests)):
            first = sampler.seed + index * sampler.pictures
            done.append(_draw_one(checkpoint, requests[index], voter, sampler, first))
            file.write(json.dumps(asdict(done[-1])) + "\n")
            file.flush()
            os.fsync(file.fileno())
            advance(1)
    return done


def read_drawn(path: Path) -> list[Drawn]:
    """All whole lines of a file; a last line cut short by a kill is cut off. Empty if no file."""
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        os.truncate(path, len(whole))
    try:
        return [Drawn(**json.loads(line)) for line in whole.splitlines()]
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: holds no drawn pictures ({error}); name a new file") from None


def _draw_one(
    checkpoint: Checkpoint, request: Request, voter: Voter, sampler: Sampler, first: int
) -> Drawn:
    """Pictures with seeds from `first` on, as many at a time as there is memory for."""
    prompts, card = checkpoint.prompts, checkpoint.defaults
    prompt = prompts.image(request.words + card.suffix, request.size)
    branches = [prompt, prompts.image(card.negative_prompt, request.size)]
    if sampler.guidance_scale == 1:
        branches.pop()
    pictures = [
        VisualSequence([list(branch) for branch in branches], request.size, first + number)
        for number in range(sampler.pictures)
    ]
    window = draft_length_for(checkpoint.decoder, len(pictures) * len(branches))
    JacobiDecoder(
        checkpoint.decoder,
        prompts.document_format,
        sampler.sampling,
        sampler.guidance_scale,
        window,
        places=max_kv_cache_tokens(checkpoint.decoder),
    ).run(pictures)
    rows = [picture.rows() for picture in pictures]
    eos = checkpoint.text_tokenizer.vocabulary.eos
    return Drawn(
        words=request.words,
        prompt=prompt,
        pictures=[[*prompts.document_format.body_token_ids(codes).tolist(), eos] for codes in rows],
        scores=[
            _score(voter, checkpoint.vision_processor.decode_image(codes), request.words)
            for codes in rows
        ],
    )


def _score(voter: Voter, picture: Image.Image, request: str) -> float:
    score = float(voter(picture, request))
    if not 0 <= score <= 1:
        raise InputError(f"a voter gave {score} for {request!r}; scores lie in [0, 1]")
    return score
