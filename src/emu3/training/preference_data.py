"""Preference pairs for DPO: images are sampled for a prompt, scored, and the best and worst kept.

The paper (arXiv 2409.18869, post-training) samples 8 to 10 images for a prompt, has three people
vote on each, and pairs the best with the worst. Here a scorer is any function. The sampled token
ids are stored with all scores, so another margin needs no new images.
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
"""Maps an image and its prompt to a score in [0, 1]."""


def mean_score(*scorers: ScoreFunction) -> ScoreFunction:
    """A scorer that returns the mean of several."""
    return lambda image, prompt: fmean(scorer(image, prompt) for scorer in scorers)


def majority_vote(*scorers: ScoreFunction, threshold: float = 0.5) -> ScoreFunction:
    """A scorer that returns 1 if more than half of several reach the threshold, else 0."""

    def vote(image: Image.Image, prompt: str) -> float:
        passed = sum(scorer(image, prompt) >= threshold for scorer in scorers)
        return float(2 * passed > len(scorers))

    return vote


@dataclass(frozen=True)
class ImagePrompt:
    """A text and the image size (h, w) in visual codes."""

    text: str
    size: tuple[int, int]


@dataclass(frozen=True)
class CandidateSampling:
    """How candidate images are sampled."""

    images_per_prompt: int = 8
    guidance_scale: float = 3.0
    sampling: SamplingParams = SamplingParams()  # noqa: RUF009 (frozen)
    seed: int = 0


@dataclass(frozen=True)
class ScoredCandidates:
    """Token ids of a prompt and of the images sampled for it, and the scores of the images."""

    text: str
    prompt_ids: list[int]
    image_ids: list[list[int]]
    scores: list[float]

    def pair(self, margin: float) -> PreferencePair | None:
        """The best and the worst image (the first of equal ones).

        None if their scores differ by less than `margin`.
        """
        best = self.scores.index(max(self.scores))
        worst = self.scores.index(min(self.scores))
        if best == worst or self.scores[best] - self.scores[worst] < margin:
            return None
        return PreferencePair(
            prompt=torch.tensor(self.prompt_ids),
            chosen=torch.tensor(self.image_ids[best]),
            rejected=torch.tensor(self.image_ids[worst]),
        )


def sample_candidates(
    checkpoint: Checkpoint,
    prompts: Sequence[ImagePrompt],
    scorer: ScoreFunction,
    path: Path,
    config: CandidateSampling = CandidateSampling(),
) -> list[ScoredCandidates]:
    """Sample and score images for each prompt; writes one JSON line a prompt to `path`.

    A file that an interrupted call left is completed. The seeds of a prompt depend on its index
    only, so the result is the same as without the interruption.

    Raises InputError if the file holds other prompts.
    """
    done = read_candidates(path)
    if [each.text for each in done] != [each.text for each in prompts[: len(done)]]:
        raise InputError(f"{path}: holds candidates of other prompts; use a new file")
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        path.open("a", encoding="utf-8") as file,
        count_progress("sampling", len(prompts)) as advance,
    ):
        advance(len(done))
        for index in range(len(done), len(prompts)):
            first_seed = config.seed + index * config.images_per_prompt
            done.append(_score_candidates(checkpoint, prompts[index], scorer, config, first_seed))
            file.write(json.dumps(asdict(done[-1])) + "\n")
            file.flush()
            os.fsync(file.fileno())
            advance(1)
    return done


def read_candidates(path: Path) -> list[ScoredCandidates]:
    """All complete lines of a file; empty if there is no file.

    A last line that was cut short by a kill is removed from the file. Raises InputError on a file
    of other content.
    """
    if not path.exists():
        return []
    content = path.read_bytes()
    complete = content[: content.rfind(b"\n") + 1]
    if len(complete) < len(content):
        os.truncate(path, len(complete))
    try:
        return [ScoredCandidates(**json.loads(line)) for line in complete.splitlines()]
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: not a file of candidates ({error}); use a new file") from None


def _score_candidates(
    checkpoint: Checkpoint,
    prompt: ImagePrompt,
    scorer: ScoreFunction,
    config: CandidateSampling,
    first_seed: int,
) -> ScoredCandidates:
    templates, seeds = checkpoint.prompts, range(first_seed, first_seed + config.images_per_prompt)
    results = _generate_images(checkpoint, prompt, seeds, config)
    eos = checkpoint.text_tokenizer.vocabulary.eos
    body = templates.document_format.body_token_ids
    return ScoredCandidates(
        text=prompt.text,
        prompt_ids=templates.image(prompt.text + checkpoint.defaults.suffix, prompt.size),
        image_ids=[[*body(result.codes).tolist(), eos] for result in results],
        scores=[_score(scorer, result.image, prompt.text) for result in results],
    )


def _generate_images(
    checkpoint: Checkpoint, prompt: ImagePrompt, seeds: Sequence[int], config: CandidateSampling
) -> list[ImageResult]:
    """Visual codes and pixels of an image for each seed."""
    height, width = prompt.size
    factor = checkpoint.vision_processor.vision.config.spatial_factor
    requests = [
        ImageRequest(
            prompt.text,
            size=(width * factor, height * factor),
            seed=seed,
            sampling=config.sampling,
            guidance_scale=config.guidance_scale,
        )
        for seed in seeds
    ]
    results = Engine(checkpoint).run(requests)
    return [result for result in results if isinstance(result, ImageResult)]


def _score(scorer: ScoreFunction, image: Image.Image, prompt: str) -> float:
    score = float(scorer(image, prompt))
    if not 0 <= score <= 1:
        raise InputError(f"score {score} for {prompt!r}; scores must be in [0, 1]")
    return score
