"""Pairs from drawings: ids as drawn, best and worst, and a file that resumes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from emu3.checkpoints.loading import Checkpoint
from emu3.errors import InputError
from emu3.inference.reference import generate_visual
from emu3.models.kv_cache import KVCache
from emu3.models.transformer import Transformer
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

REQUESTS = [ImagePrompt("a", (2, 2)), ImagePrompt("bc", (1, 3)), ImagePrompt("d", (2, 1))]
SAMPLER = CandidateSampling(images_per_prompt=3, seed=7)


def brightness(picture: Image.Image, request: str) -> float:
    return sum(picture.convert("L").tobytes()) / (255 * picture.width * picture.height)


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return tiny_checkpoint()


def test_ids_are_those_that_were_drawn(checkpoint: Checkpoint, tmp_path: Path) -> None:
    drawn = sample_candidates(checkpoint, REQUESTS, brightness, tmp_path / "drawn.jsonl", SAMPLER)
    prompts, v = checkpoint.prompts, checkpoint.text_tokenizer.vocabulary
    for index, (one, request) in enumerate(zip(drawn, REQUESTS, strict=True)):
        assert one.prompt_ids == prompts.image(request.text, request.size)
        slow = generate_visual(
            checkpoint.decoder,
            prompts.document_format,
            [one.prompt_ids] * 3,
            [prompts.image("", request.size)] * 3,
            [request.size] * 3,
            SAMPLER.sampling,
            SAMPLER.guidance_scale,
            seeds=[7 + 3 * index + number for number in range(3)],
        )
        assert one.image_ids == slow.tolist()
        for ids, score in zip(one.image_ids, one.scores, strict=True):
            assert ids[-1] == v.eos
            codes = prompts.document_format.decode_body(torch.tensor(ids), *request.size)
            assert score == brightness(checkpoint.vision_processor.decode_image(codes), "")


def test_where_memory_is_scarce_they_are_drawn_one_after_another(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = sample_candidates(
        checkpoint, REQUESTS, brightness, tmp_path / "together.jsonl", SAMPLER
    )
    rows, new_cache = set[int](), Transformer.new_cache

    def counted(model: Transformer, count: int, capacity: int) -> KVCache:
        rows.add(count)
        return new_cache(model, count, capacity)

    monkeypatch.setattr(Transformer, "new_cache", counted)
    monkeypatch.setattr("emu3.training.preference_data.max_kv_cache_tokens", lambda model: 1)
    assert (
        sample_candidates(checkpoint, REQUESTS, brightness, tmp_path / "one.jsonl", SAMPLER)
        == together
    )
    assert rows == {2}  # a picture and its guidance


@pytest.mark.parametrize("torn", [0, 1, 40])
def test_killed_and_resumed_is_never_killed(
    checkpoint: Checkpoint, tmp_path: Path, torn: int
) -> None:
    whole = sample_candidates(checkpoint, REQUESTS, brightness, tmp_path / "whole.jsonl", SAMPLER)
    asked: list[str] = []

    def counted(picture: Image.Image, request: str) -> float:
        asked.append(request)
        return brightness(picture, request)

    content = (tmp_path / "whole.jsonl").read_bytes()
    first = content.index(b"\n") + 1
    (tmp_path / "cut.jsonl").write_bytes(content[: first + torn])
    assert (
        sample_candidates(checkpoint, REQUESTS, counted, tmp_path / "cut.jsonl", SAMPLER) == whole
    )
    assert asked == ["bc"] * 3 + ["d"] * 3
    assert (tmp_path / "cut.jsonl").read_bytes() == content
    assert read_candidates(tmp_path / "cut.jsonl") == whole


def test_the_best_and_the_worst_make_a_pair() -> None:
    drawn = ScoredCandidates("a", [1, 2], [[3], [4], [5], [6]], [0.5, 0.9, 0.2, 0.9])
    pair = drawn.pair(margin=0.5)
    assert pair is not None
    assert [part.tolist() for part in (pair.prompt, pair.chosen, pair.rejected)] == [
        [1, 2],
        [4],
        [5],
    ]
    assert pair.reference_log_probs is None
    assert drawn.pair(margin=0.8) is None
    assert ScoredCandidates("a", [1], [[3], [4]], [0.5, 0.5]).pair(margin=0.0) is None


def test_voters_join() -> None:
    picture = Image.new("RGB", (2, 2))
    votes = [lambda *_: 0.9, lambda *_: 0.6, lambda *_: 0.0]
    assert mean_score(*votes)(picture, "") == pytest.approx(0.5)
    assert majority_vote(*votes)(picture, "") == 1.0
    assert majority_vote(*votes, passing=0.7)(picture, "") == 0.0
    assert majority_vote(*votes[:2], passing=0.7)(picture, "") == 0.0  # half is no majority


def test_what_cannot_be_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "drawn.jsonl"
    with pytest.raises(InputError, match="scores lie in"):
        sample_candidates(checkpoint, REQUESTS, lambda *_: 2.0, path, SAMPLER)
    sample_candidates(checkpoint, REQUESTS[:1], brightness, path, SAMPLER)
    with pytest.raises(InputError, match="other requests"):
        sample_candidates(checkpoint, REQUESTS[1:], brightness, path, SAMPLER)
    path.write_text('{"words": 1}\n')
    with pytest.raises(InputError, match="no drawn pictures"):
        read_candidates(path)
