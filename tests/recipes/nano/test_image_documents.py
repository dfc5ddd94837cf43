"""What nano's decoder is taught in a step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from emu3.models.vq.tokenizer import VisionTokenizer
from emu3.testing import byte_tokenizer
from emu3.training.lm_loss import TrainingSequence
from recipes.nano import image_documents
from recipes.nano.emoji_world import (
    HANDS,
    OBJECTS,
    RATIOS,
    STYLES,
    Icons,
    grid,
    held_out_pairs,
    with_article,
)
from recipes.nano.image_documents import Lessons, Mix

MIX = Mix(drawn=20, asked=6, named=8, others=4)
OTHERS = np.array([(5, 3), (6, 5), (7, 6)])  # an object and a hand
TEXT = byte_tokenizer(2048)


class Flat(VisionTokenizer):
    """Knows one code of the many for each patch: how light it is; near codes are as light."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)
        self.quantize = torch.nn.Module()
        self.quantize.embedding = torch.nn.Embedding(2048, 1)
        self.quantize.embedding.weight.data[:, 0] = torch.arange(2048)

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(pixels, 8).mean(1).add(1).mul(1000).long()


VARIATIONS = {
    ratio: torch.arange(400 * 3 * h * w).view(400, 3, h, w).remainder(2048).short()
    for ratio in RATIOS
    for h, w in [grid(ratio)]
}


@pytest.fixture(scope="module")
def steps(icons: Icons) -> list[Sequence[TrainingSequence]]:
    lessons = Lessons(MIX, Flat(), TEXT, icons, VARIATIONS, others=OTHERS)
    return [lessons(np.random.default_rng(seed)) for seed in range(12)]


def said(document: TrainingSequence) -> str:
    words = [each for each in document.token_ids.tolist() if each < 256]
    return TEXT.decode(words)


def test_the_mix_is_as_stated(steps: list[Sequence[TrainingSequence]]) -> None:
    for step in steps:
        assert sum("USER:" in said(each) for each in step) == MIX.asked + MIX.named
        assert len(step) == MIX.drawn + MIX.asked + MIX.named + MIX.others


def test_pictures_by_other_hands_are_asked_for_by_their_name(icons: Icons) -> None:
    lessons = Lessons(Mix(0, 0, 0, others=60), Flat(), TEXT, icons, others=OTHERS)
    words = [said(each) for each in lessons(np.random.default_rng(0))]
    for thing, hand in OTHERS:
        named = [each for each in words if OBJECTS[thing].replace("-", " ") in each]
        assert any(f"{HANDS[hand]} style" in each for each in named)
        assert not any(f"{style} style" in each for style in STYLES for each in named)


def test_every_collection_of_variations_is_used(icons: Icons) -> None:
    light, dark = ({ratio: codes * 0 + of for ratio, codes in VARIATIONS.items()} for of in (9, 3))
    lessons, rng = Lessons(MIX, Flat(), TEXT, icons, light, dark), np.random.default_rng(0)
    found = [int(lessons.variation(rng)[1].float().mean()) for _ in range(100)]
    assert set(found) == {3, 9}
    assert 30 < found.count(3) < 70


def test_drawings_of_no_style_come_in_every_ratio(icons: Icons) -> None:
    lessons, rng = Lessons(MIX, Flat(), TEXT, icons, VARIATIONS), np.random.default_rng(0)
    made = [lessons.variation(rng) for _ in range(100)]
    assert {tuple(codes.shape) for _, codes in made} == {grid(ratio) for ratio in RATIOS}
    names = [with_article(each) for each in OBJECTS]
    for name, codes in made:
        (ratio,) = (each for each in RATIOS if grid(each) == tuple(codes.shape))
        known = VARIATIONS[ratio][names.index(name)].long()
        assert any(torch.equal(codes, each) for each in known)


def test_the_seed_decides(icons: Icons, steps: list[Sequence[TrainingSequence]]) -> None:
    lessons = Lessons(MIX, Flat(), TEXT, icons, VARIATIONS, others=OTHERS)
    again = lessons(np.random.default_rng(3))
    for a, b in zip(steps[3], again, strict=True):
        assert torch.equal(a.token_ids, b.token_ids)
        assert (a.input_ids is None) == (b.input_ids is None)
        assert a.input_ids is None or torch.equal(a.input_ids, b.input_ids)


def test_half_the_pictures_are_read_with_wrong_codes(
    steps: list[Sequence[TrainingSequence]],
) -> None:
    visual = TEXT.vocabulary.visual
    every = [each for step in steps for each in step]
    wrong = [each for each in every if each.input_ids is not None]
    assert len(wrong) / len(every) == pytest.approx(image_documents.CORRUPTED, abs=0.1)
    for each in wrong:
        assert each.input_ids is not None
        codes = (each.token_ids >= visual.start) & (each.token_ids < visual.stop)
        assert torch.equal(each.token_ids[~codes], each.input_ids[~codes])
        share = (each.token_ids != each.input_ids)[codes].float().mean().item()
        most = image_documents.MOST_WRONG["answer" if "USER:" in said(each) else "draw"]
        assert share <= most + 0.25  # by chance


def test_most_pictures_asked_about_have_codes_much_like_the_right_ones(icons: Icons) -> None:
    lessons, rng = Lessons(MIX, Flat(), TEXT, icons, VARIATIONS), np.random.default_rng(0)
    codes = torch.full((8, 8), 1000)
    made = [lessons.much_alike(codes, rng) for _ in range(300)]
    changed = [each for each in made if not torch.equal(each, codes)]
    assert len(changed) / len(made) == pytest.approx(image_documents.ALIKE, abs=0.1)
    assert all(((each - codes).abs() <= image_documents.NEAREST).all() for each in made)
    shares = [(each != codes).float().mean().item() for each in made]
    assert image_documents.MOST_ALIKE - 0.15 < max(shares) <= image_documents.MOST_ALIKE + 0.15


def test_no_held_out_pair_is_shown(steps: list[Sequence[TrainingSequence]]) -> None:
    held = {f"{OBJECTS[thing]}, {STYLES[style]} style".lower() for thing, style in held_out_pairs()}
    words = " ".join(said(each).lower() for step in steps for each in step)
    assert "style" in words
    assert not any(pair in words for pair in held)
