"""The image documents of a step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from emu3.training.lm_loss import TrainingSequence
from recipes.nano.emoji_world import (
    ICON_SETS,
    OBJECTS,
    RATIOS,
    STYLES,
    Icons,
    code_grid,
    held_out_pairs,
    with_article,
)
from recipes.nano.image_documents import (
    MAX_NOISE,
    MAX_SUBSTITUTION,
    NEIGHBOURS,
    NOISY,
    SUBSTITUTED,
    ImageDocuments,
    ImageMix,
)
from tests.recipes.nano.fakes import AUGMENTED, TEXT, LightnessTokenizer, is_code, text_of

MIX = ImageMix(captioned=20, questions=6, naming=8, other_sets=4)
OTHER_PAIRS = np.array([(5, 3), (6, 5), (7, 6)])  # object and icon set


def build(icons: Icons, mix: ImageMix = MIX) -> ImageDocuments:
    return ImageDocuments(mix, LightnessTokenizer(), TEXT, icons, [AUGMENTED], OTHER_PAIRS)


@pytest.fixture(scope="module")
def steps(icons: Icons) -> list[Sequence[TrainingSequence]]:
    documents = build(icons)
    return [documents(np.random.default_rng(seed)) for seed in range(12)]


def test_numbers_of_documents_are_those_of_the_mix(
    steps: list[Sequence[TrainingSequence]],
) -> None:
    for step in steps:
        assert sum("USER:" in text_of(each) for each in step) == MIX.questions + MIX.naming
        assert len(step) == MIX.captioned + MIX.questions + MIX.naming + MIX.other_sets


def test_other_icon_sets_are_named_in_captions(icons: Icons) -> None:
    documents = build(icons, ImageMix(captioned=0, other_sets=60))
    texts = [text_of(each) for each in documents(np.random.default_rng(0))]
    for index, icon_set in OTHER_PAIRS:
        captions = [text for text in texts if OBJECTS[index].replace("-", " ") in text]
        assert any(f"{ICON_SETS[icon_set]} style" in text for text in captions)
        assert not any(f"{style} style" in text for style in STYLES for text in captions)


def test_other_icon_sets_without_pairs_are_refused(icons: Icons) -> None:
    documents = ImageDocuments(ImageMix(0, other_sets=1), LightnessTokenizer(), TEXT, icons)
    with pytest.raises(ValueError, match="other_pairs"):
        documents(np.random.default_rng(0))


def test_collections_of_augmented_images_are_used_equally(icons: Icons) -> None:
    collections = [{r: codes * 0 + n for r, codes in AUGMENTED.items()} for n in (9, 3)]
    documents = ImageDocuments(MIX, LightnessTokenizer(), TEXT, icons, collections, OTHER_PAIRS)
    rng = np.random.default_rng(0)
    found = [int(documents.augmented_image(rng)[1].float().mean()) for _ in range(100)]
    assert set(found) == {3, 9}
    assert 30 < found.count(3) < 70


def test_augmented_images_have_all_ratios_and_the_right_name(icons: Icons) -> None:
    documents, rng = build(icons), np.random.default_rng(0)
    images = [documents.augmented_image(rng) for _ in range(100)]
    assert {tuple(codes.shape) for _, codes in images} == {code_grid(ratio) for ratio in RATIOS}
    names = [with_article(each) for each in OBJECTS]
    for name, codes in images:
        (ratio,) = (each for each in RATIOS if code_grid(each) == tuple(codes.shape))
        expected = AUGMENTED[ratio][names.index(name)].long()
        assert any(torch.equal(codes, each) for each in expected)


def test_seed_reproduces_documents(icons: Icons, steps: list[Sequence[TrainingSequence]]) -> None:
    again = build(icons)(np.random.default_rng(3))
    for a, b in zip(steps[3], again, strict=True):
        assert torch.equal(a.token_ids, b.token_ids)
        assert (a.input_ids is None) == (b.input_ids is None)
        assert a.input_ids is None or torch.equal(a.input_ids, b.input_ids)


def test_half_of_the_documents_have_noise_in_their_input_codes(
    steps: list[Sequence[TrainingSequence]],
) -> None:
    documents = [each for step in steps for each in step]
    noisy = [each for each in documents if each.input_ids is not None]
    assert len(noisy) / len(documents) == pytest.approx(NOISY, abs=0.1)
    for each in noisy:
        assert each.input_ids is not None
        codes = is_code(each)
        assert torch.equal(each.token_ids[~codes], each.input_ids[~codes])
        proportion = (each.token_ids != each.input_ids)[codes].float().mean().item()
        most = MAX_NOISE["question" if "USER:" in text_of(each) else "generation"]
        assert proportion <= most + 0.25  # by chance


def test_substituted_codes_are_near_the_original_ones(icons: Icons) -> None:
    documents, rng = build(icons), np.random.default_rng(0)
    codes = torch.full((8, 8), 1000)
    results = [documents.substitute(codes, rng) for _ in range(300)]
    changed = [each for each in results if not torch.equal(each, codes)]
    assert len(changed) / len(results) == pytest.approx(SUBSTITUTED, abs=0.1)
    assert all(((each - codes).abs() <= NEIGHBOURS).all() for each in results)
    largest = max((each != codes).float().mean().item() for each in results)
    assert MAX_SUBSTITUTION - 0.15 < largest <= MAX_SUBSTITUTION + 0.15


def test_no_held_out_pair_is_named(steps: list[Sequence[TrainingSequence]]) -> None:
    pairs = {f"{OBJECTS[index]}, {STYLES[style]} style" for index, style in held_out_pairs()}
    text = " ".join(text_of(each).lower() for step in steps for each in step)
    assert "style" in text
    assert not any(pair.lower() in text for pair in pairs)
