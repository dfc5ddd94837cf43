"""Preference data: sampled token ids, best and worst image, and a resumable file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from emu3.checkpoints.loading import Checkpoint
from emu3.errors import InputError
from emu3.inference.reference import generate_visual
from emu3.testing import tiny_checkpoint
from emu3.training.preference_data import (
    CandidateSampling,
    ImagePrompt,
    ScoredCandidates,
    majority_vote,
    mean_score,
    read_candidates,
    sample_candidates,
)

PROMPTS = [ImagePrompt("a", (2, 2)), ImagePrompt("bc", (1, 3)), ImagePrompt("d", (2, 1))]
SAMPLING = CandidateSampling(images_per_prompt=3, seed=7)


def brightness(image: Image.Image, prompt: str) -> float:
    return sum(image.convert("L").tobytes()) / (255 * image.width * image.height)


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return tiny_checkpoint()


def test_token_ids_equal_the_reference_decoder(checkpoint: Checkpoint, tmp_path: Path) -> None:
    candidates = sample_candidates(
        checkpoint, PROMPTS, brightness, tmp_path / "candidates.jsonl", SAMPLING
    )
    prompts, v = checkpoint.prompts, checkpoint.text_tokenizer.vocabulary
    for index, (one, prompt) in enumerate(zip(candidates, PROMPTS, strict=True)):
        assert one.prompt_ids == prompts.image(prompt.text, prompt.size)
        expected = generate_visual(
            checkpoint.decoder,
            prompts.document_format,
            [one.prompt_ids] * 3,
            [prompts.image("", prompt.size)] * 3,
            [prompt.size] * 3,
            SAMPLING.sampling,
            SAMPLING.guidance_scale,
            seeds=[7 + 3 * index + number for number in range(3)],
        )
        assert one.image_ids == expected.tolist()
        for ids, score in zip(one.image_ids, one.scores, strict=True):
            assert ids[-1] == v.eos
            codes = prompts.document_format.decode_body(torch.tensor(ids), *prompt.size)
            assert score == brightness(checkpoint.vision_processor.decode_image(codes), "")


@pytest.mark.parametrize("partial", [0, 1, 40])
def test_killed_and_resumed_equals_never_killed(
    checkpoint: Checkpoint, tmp_path: Path, partial: int
) -> None:
    complete = sample_candidates(
        checkpoint, PROMPTS, brightness, tmp_path / "complete.jsonl", SAMPLING
    )
    scored: list[str] = []

    def counted(image: Image.Image, prompt: str) -> float:
        scored.append(prompt)
        return brightness(image, prompt)

    content = (tmp_path / "complete.jsonl").read_bytes()
    first = content.index(b"\n") + 1
    (tmp_path / "cut.jsonl").write_bytes(content[: first + partial])
    assert (
        sample_candidates(checkpoint, PROMPTS, counted, tmp_path / "cut.jsonl", SAMPLING)
        == complete
    )
    assert scored == ["bc"] * 3 + ["d"] * 3
    assert (tmp_path / "cut.jsonl").read_bytes() == content
    assert read_candidates(tmp_path / "cut.jsonl") == complete


def test_pair_of_best_and_worst_image() -> None:
    candidates = ScoredCandidates("a", [1, 2], [[3], [4], [5], [6]], [0.5, 0.9, 0.2, 0.9])
    pair = candidates.pair(margin=0.5)
    assert pair is not None
    assert [part.tolist() for part in (pair.prompt, pair.chosen, pair.rejected)] == [
        [1, 2],
        [4],
        [5],
    ]
    assert pair.reference_log_probs is None
    assert candidates.pair(margin=0.8) is None
    assert ScoredCandidates("a", [1], [[3], [4]], [0.5, 0.5]).pair(margin=0.0) is None


def test_combined_scores() -> None:
    image = Image.new("RGB", (2, 2))
    scorers = [lambda *_: 0.9, lambda *_: 0.6, lambda *_: 0.0]
    assert mean_score(*scorers)(image, "") == pytest.approx(0.5)
    assert majority_vote(*scorers)(image, "") == 1.0
    assert majority_vote(*scorers, threshold=0.7)(image, "") == 0.0
    assert majority_vote(*scorers[:2], threshold=0.7)(image, "") == 0.0  # a half is no majority


def test_invalid_input_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "candidates.jsonl"
    with pytest.raises(InputError, match=r"scores must be in"):
        sample_candidates(checkpoint, PROMPTS, lambda *_: 2.0, path, SAMPLING)
    sample_candidates(checkpoint, PROMPTS[:1], brightness, path, SAMPLING)
    with pytest.raises(InputError, match="other prompts"):
        sample_candidates(checkpoint, PROMPTS[1:], brightness, path, SAMPLING)
    path.write_text('{"text": 1}\n')
    with pytest.raises(InputError, match="not a file of candidates"):
        read_candidates(path)
