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
from emu3.inference.engine import Engine
from emu3.inference.events import ImageResult
from emu3.inference.requests import ImageRequest
from emu3.inference.sampling import SamplingParams
from emu3.progress import count_progress
from emu3.training.dpo import PreferencePair

ScoreFunction = Callable[[Image.Image, str], float]
"""A picture and the request it was drawn for, to a score in [0, 1]."""


def mean_score(*voters: ScoreFunction) -> ScoreFunction:
    """One voter that says the mean of several."""
    return lambda picture, request: fmean(voter(picture, request) for voter in voters)


def majority_vote(*voters: ScoreFunction, passing: float = 0.5) -> ScoreFunction:
    """One voter that says 1 where more than half of several say `passing` or more, else 0."""

    def vote(picture: Image.Image, request: str) -> float:
        passed = sum(voter(picture, request) >= passing for voter in voters)
        return float(2 * passed > len(voters))

    return vote


@dataclass(frozen=True)
class ImagePrompt:
    """What to draw: the words, and the size (h, w) in codes."""

    text: str
    size: tuple[int, int]


@dataclass(frozen=True)
class CandidateSampling:
    """How pictures are drawn for a request."""

    images_per_prompt: int = 8  # for each request
    guidance_scale: float = 3.0
    sampling: SamplingParams = SamplingParams()  # noqa: RUF009 (frozen)
    seed: int = 0


@dataclass(frozen=True)
class ScoredCandidates:
    """A request, the ids of its prompt and of each picture as they were drawn, and the scores."""

    text: str
    prompt_ids: list[int]
    image_ids: list[list[int]]
    scores: list[float]

    def pair(self, margin: float) -> PreferencePair | None:
        """The best and the worst, the first of equals; None where they are not `margin` apart."""
        best = self.scores.index(max(self.scores))
        worst = self.scores.index(min(self.scores))
        if best == worst or self.scores[best] - self.scores[worst] < margin:
            return None
        ids = (self.prompt_ids, self.image_ids[best], self.image_ids[worst])
        prompt, chosen, rejected = (torch.tensor(each) for each in ids)
        return PreferencePair(prompt, chosen, rejected)


def sample_candidates(
    checkpoint: Checkpoint,
    requests: Sequence[ImagePrompt],
    voter: ScoreFunction,
    path: Path,
    sampler: CandidateSampling = CandidateSampling(),
) -> list[ScoredCandidates]:
    """Draw for each request and score; one JSON line a request in `path`, which a new call resumes.

    Request i is drawn with seeds of its own, so a resumed file is the file never interrupted.
    Raises InputError where the file was made for other requests.
    """
    done = read_candidates(path)
    if [one.text for one in done] != [each.text for each in requests[: len(done)]]:
        raise InputError(f"{path}: holds other requests; name a new file")
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        path.open("a", encoding="utf-8") as file,
        count_progress("drawing", len(requests)) as advance,
    ):
        advance(len(done))
        for index in range(len(done), len(requests)):
            first = sampler.seed + index * sampler.images_per_prompt
            done.append(_draw_one(checkpoint, requests[index], voter, sampler, first))
            file.write(json.dumps(asdict(done[-1])) + "\n")
            file.flush()
            os.fsync(file.fileno())
            advance(1)
    return done


def read_candidates(path: Path) -> list[ScoredCandidates]:
    """All whole lines of a file; a last line cut short by a kill is cut off. Empty if no file."""
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        os.truncate(path, len(whole))
    try:
        return [ScoredCandidates(**json.loads(line)) for line in whole.splitlines()]
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: holds no drawn pictures ({error}); name a new file") from None


def _draw_one(
    checkpoint: Checkpoint,
    request: ImagePrompt,
    voter: ScoreFunction,
    sampler: CandidateSampling,
    first: int,
) -> ScoredCandidates:
    """Generate images with seeds from `first` on, and score them."""
    prompts = checkpoint.prompts
    prompt = prompts.image(request.text + checkpoint.defaults.suffix, request.size)
    height, width = request.size
    factor = checkpoint.vision_processor.vision.config.spatial_factor
    requests = [
        ImageRequest(
            request.text,
            size=(width * factor, height * factor),
            seed=first + number,
            sampling=sampler.sampling,
            guidance_scale=sampler.guidance_scale,
        )
        for number in range(sampler.images_per_prompt)
    ]
    results = [each for each in Engine(checkpoint).run(requests) if isinstance(each, ImageResult)]
    eos = checkpoint.text_tokenizer.vocabulary.eos
    return ScoredCandidates(
        text=request.text,
        prompt_ids=prompt,
        image_ids=[
            [*prompts.document_format.body_token_ids(each.codes).tolist(), eos] for each in results
        ],
        scores=[_score(voter, each.image, request.text) for each in results],
    )


def _score(voter: ScoreFunction, picture: Image.Image, request: str) -> float:
    score = float(voter(picture, request))
    if not 0 <= score <= 1:
        raise InputError(f"a voter gave {score} for {request!r}; scores lie in [0, 1]")
    return score
