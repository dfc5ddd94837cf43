"""The decoder's recipe, run from start to end with tiny networks and a few steps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from emu3.errors import InputError
from emu3.models.vq.tokenizer import VisionTokenizer
from emu3.testing import byte_tokenizer, tiny_vision
from emu3.training.decoder import init_decoder
from recipes.nano import train_decoder as recipe
from recipes.nano.emoji_world import Icons, IconSets, IconVariants
from recipes.nano.emoji_world.extra_objects import EXTRA_OBJECTS
from recipes.nano.emoji_world.icon_sets import trainable_mask
from recipes.nano.image_documents import ImageMix
from recipes.nano.model import config_for
from recipes.nano.train_decoder import (
    CURRICULUM,
    CURRICULUM_MIX,
    PHASES,
    Phase,
    StepDocuments,
    average_weights,
    documents_for,
    main,
)
from recipes.nano.video_documents import VideoMix
from tests.recipes.nano.fakes import AUGMENTED

TEXT = byte_tokenizer(64)
SIZE = {
    "hidden_size": 64,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "num_hidden_layers": 2,
}
IMAGES = ImageMix(captioned=2, questions=1, naming=1, other_sets=1)
VIDEOS = VideoMix(captioned=1, questions=1)


def tiny(phase: Phase) -> Phase:
    """The phase with two steps of a few documents."""
    run = replace(
        phase.run, steps=2, warmup_steps=1, hold_steps=0, bf16=False, report_every=1, save_every=2
    )
    return replace(
        phase,
        run=run,
        images=IMAGES,
        videos=phase.videos and VIDEOS,
        extra_objects=min(1, phase.extra_objects),
        curriculum={1: 2} if phase.curriculum else {},
    )


@pytest.fixture(scope="module")
def vision() -> VisionTokenizer:
    return tiny_vision(ch_mult=(1, 1, 1, 1), attn_resolutions=())


@pytest.fixture
def icon_sets(icons: Icons, monkeypatch: pytest.MonkeyPatch) -> IconSets:
    """Icons of noise, and codes of augmented images that are made up."""
    few = {ratio: codes % 64 for ratio, codes in AUGMENTED.items()}
    monkeypatch.setattr(recipe, "SAMPLES", 1)
    monkeypatch.setattr(recipe, "CURRICULUM_VIDEOS", 2)
    monkeypatch.setattr(recipe, "augmented_style_images", lambda *_: few)
    monkeypatch.setattr(recipe, "augmented_other_images", lambda *_: few)
    extra = {size: array[: len(EXTRA_OBJECTS)] for size, array in icons.arrays.items()}
    monkeypatch.setattr(recipe, "load_extra_icons", lambda: Icons(extra))
    return IconSets(icons, IconVariants(np.empty(0, np.uint8)), trainable_mask(icons.arrays[48]))


def documents(
    icon_sets: IconSets, vision: VisionTokenizer, folder: Path, phase: Phase
) -> StepDocuments:
    return documents_for(phase, vision, TEXT, icon_sets, folder, phase.curriculum)


@pytest.mark.slow
def test_all_phases_run_and_resume(
    icon_sets: IconSets, vision: VisionTokenizer, tmp_path: Path
) -> None:
    TEXT.save(tmp_path)
    phases = [tiny(each) for each in PHASES]
    decoder = main(vision, tmp_path, phases, icon_sets=icon_sets, **SIZE)
    assert decoder.config == config_for(TEXT, **(SIZE | {"num_hidden_layers": 3}))
    for phase in PHASES:
        files = {path.name for path in (tmp_path / phase.name).iterdir()}
        assert {"weights.pt", "log.jsonl", "sheet-000002.png"} <= files
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.pt")}
    again = main(vision, tmp_path, phases, icon_sets=icon_sets, **SIZE)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.pt")} == before
    for name, value in again.state_dict().items():
        assert torch.equal(value, decoder.state_dict()[name])


def test_curriculum_comes_first_then_all_documents(
    icon_sets: IconSets, vision: VisionTokenizer, tmp_path: Path
) -> None:
    phase = replace(PHASES[1], images=IMAGES, videos=VIDEOS)
    step = documents(icon_sets, vision, tmp_path, phase)
    step.load_state_dict(max(CURRICULUM) - 1)
    rng, images = np.random.default_rng(0), 5
    assert len(step(rng)) == images + CURRICULUM_MIX.directions + 2
    assert step.state_dict() == max(CURRICULUM)
    assert len(step(rng)) == images + VIDEOS.captioned + VIDEOS.questions


def test_more_directions_move_later_in_the_curriculum(
    icon_sets: IconSets, vision: VisionTokenizer, tmp_path: Path
) -> None:
    phase = replace(PHASES[1], images=IMAGES, videos=VIDEOS)
    step, shortest = documents(icon_sets, vision, tmp_path, phase), []
    for at in (0, next(iter(CURRICULUM))):
        step.load_state_dict(at)
        shortest.append(min(len(each.token_ids) for each in step(np.random.default_rng(0))[-2:]))
    assert shortest[0] < shortest[1]


def test_image_weight_scales_images_alone(
    icon_sets: IconSets, vision: VisionTokenizer, tmp_path: Path
) -> None:
    plain = replace(PHASES[2], images=IMAGES, videos=VIDEOS, image_weight=1.0)
    one, two = (
        documents(icon_sets, vision, tmp_path, each)(np.random.default_rng(3))
        for each in (plain, replace(plain, image_weight=2.0))
    )
    ratios = [
        float(b.loss_weights.sum() / a.loss_weights.sum()) for a, b in zip(one, two, strict=True)
    ]
    assert ratios == pytest.approx([2.0] * 5 + [1.0] * 2)


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_mean_of_weights(share: float) -> None:
    config = config_for(TEXT, **SIZE)
    before, after = init_decoder(config, 0), init_decoder(config, 1)
    for name, value in average_weights(before, after, share).state_dict().items():
        expected = (1 - share) * before.state_dict()[name] + share * after.state_dict()[name]
        torch.testing.assert_close(value, expected)


@pytest.mark.parametrize("share", [-0.5, 0.0, 1.5, float("nan")])
def test_impossible_weight_is_refused(share: float) -> None:
    decoder = init_decoder(config_for(TEXT, **SIZE), 0)
    with pytest.raises(InputError, match="at most 1"):
        average_weights(decoder, decoder, share)


def test_mean_of_different_shapes_is_refused() -> None:
    shapes = (config_for(TEXT, **SIZE | {"num_hidden_layers": n}) for n in (1, 2))
    with pytest.raises(InputError, match="different shapes"):
        average_weights(*(init_decoder(config, 0) for config in shapes), 0.5)
