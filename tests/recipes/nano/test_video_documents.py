"""What nano's decoder is taught about clips."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from emu3.testing import byte_tokenizer
from emu3.training.lm_loss import TrainingSequence
from recipes.nano.emoji_world import (
    MOTIONS,
    OBJECTS,
    STYLES,
    Icons,
    held_out,
    held_out_motions,
    with_article,
)
from recipes.nano.emoji_world.motion import BEAT, SLIDES
from recipes.nano.video_documents import (
    BEATS,
    BEGINS_WEIGHT,
    COUNTS,
    DRAWN,
    FIRST_WEIGHT,
    ClipLessons,
    ClipMix,
    elsewhere,
    weights_of,
)
from tests.recipes.nano.test_image_documents import Flat

TEXT = byte_tokenizer(2048)
MIX = ClipMix(drawn=4, longer=2, asked=3, which_way=1)
ASKED = MIX.asked + MIX.which_way


@pytest.fixture(scope="module")
def lessons(icons: Icons) -> ClipLessons:
    return ClipLessons.of(Flat(), TEXT, icons)


@pytest.fixture(scope="module")
def documents(lessons: ClipLessons) -> list[TrainingSequence]:
    rng = np.random.default_rng(0)
    return [each for _ in range(8) for each in lessons(rng, MIX)]


def said(document: TrainingSequence) -> str:
    return TEXT.decode([each for each in document.token_ids.tolist() if each < 256])


def codes_of(document: TrainingSequence) -> torch.Tensor:
    """Which ids are codes."""
    visual = TEXT.vocabulary.visual
    return (document.token_ids >= visual.start) & (document.token_ids < visual.stop)


def test_so_many_are_drawn_and_so_many_asked_about(documents: list[TrainingSequence]) -> None:
    asked = [each for each in documents if "USER:" in said(each)]
    assert (len(documents), len(asked)) == (8 * (MIX.drawn + MIX.longer + ASKED), 8 * ASKED)
    assert all("fps" in said(each) for each in documents)


def test_clips_are_captioned_as_they_are_told_to_be(icons: Icons) -> None:
    lessons = ClipLessons.of(Flat(), TEXT, icons, lambda _scene, _rng: "as it is said")
    made = lessons(np.random.default_rng(0), ClipMix(drawn=8, longer=6))
    drawn, longer = ([*map(said, each)] for each in (made[:8], made[8:]))
    for texts in (drawn, longer):
        captioned = ["as it is said" in each for each in texts]
        assert sum(captioned) >= len(texts) // 3  # some have no caption at all
        assert not any("style" in each for each in texts)


def test_codes_of_answered_clips_are_only_read(documents: list[TrainingSequence]) -> None:
    for each in documents:
        if "USER:" in said(each):
            assert not each.loss_weights[codes_of(each)].any()
        else:
            codes = each.loss_weights[codes_of(each)]
            assert (codes[64:] > 0).all()
            assert set(codes[:64].tolist()) in ({0.0}, {BEGINS_WEIGHT})  # gone on with, or drawn


def test_how_clips_begin_is_a_picture_by_itself(lessons: ClipLessons) -> None:
    drawn = [int(codes_of(each).sum()) for each in lessons(np.random.default_rng(2), ClipMix(40))]
    assert {64, 128, 256} <= set(drawn)
    assert 0.2 < drawn.count(64) / len(drawn) < 0.6


def test_an_answer_counts_by_its_kind_and_says_where_a_direction_ends(lessons: ClipLessons) -> None:
    kinds = set()
    for each in lessons(np.random.default_rng(2), ClipMix(which_way=40)):
        answers = [text.split(" USER:")[0] for text in said(each).split("ASSISTANT: ")[1:]]
        counted = each.token_ids[each.loss_weights > 0]
        assert TEXT.decode(counted.tolist(), skip_special=True) == "".join(f" {a}" for a in answers)
        assert counted[-1] == TEXT.vocabulary.eos
        if answers[-1] in SLIDES:  # a byte each, the space before, and the end
            much = [COUNTS["motion"]] * (len(answers[-1]) + 2)
            less = [COUNTS["object"]] * (len(answers[0]) + 1) if len(answers) > 1 else []
            assert each.loss_weights[each.loss_weights > 0].tolist() == [*less, *much]
            kinds.add(len(answers))
        else:
            assert answers[0].split(", ")[-1] in [f"{style} style" for style in STYLES]
            assert len(answers) == 1
            assert {*each.loss_weights[each.loss_weights > 0].tolist()} == {COUNTS["describe"]}
            kinds.add(0)
    assert kinds == {0, 1, 2}


def test_nothing_held_out_moves(lessons: ClipLessons) -> None:
    rng, pairs, motions, names = (
        np.random.default_rng(3),
        held_out(),
        held_out_motions(),
        [*MOTIONS],
    )
    scenes = [lessons.scene(rng, DRAWN) for _ in range(300)] + [
        lessons.slide(rng, 8) for _ in range(100)
    ]
    scenes += [lessons.way(rng) for _ in range(100)]
    for scene in scenes:
        assert not pairs[scene.object, scene.style]
        assert not motions[scene.object, names.index(scene.motion)]
    assert {scene.motion for scene in scenes} == set(MOTIONS)


def test_a_group_of_a_clip_is_a_beat(lessons: ClipLessons) -> None:
    rng = np.random.default_rng(1)
    scenes = [lessons.scene(rng, BEATS) for _ in range(40)]
    for scene, codes in zip(scenes, lessons.codes_of(scenes), strict=True):
        assert codes.shape == (-(-scene.frames // BEAT), 8, 8)
    slides = [s for s in scenes if s.motion.startswith("moving") and s.frames > 8 and not s.still]
    for codes in lessons.codes_of(slides):
        assert not torch.equal(codes[0], codes[1])
        assert torch.equal(codes[0].unique(), codes[1].unique())  # the same codes elsewhere


@pytest.mark.parametrize("ways", [0, 1, 8])
def test_so_many_directions_are_followed_and_in_the_others_all_stands(
    lessons: ClipLessons, ways: int
) -> None:
    rng, moved = np.random.default_rng(4), [f"moving {way}" for way in SLIDES][:ways]
    scenes = [lessons.slide(rng, ways) for _ in range(60)]
    for scene, codes in zip(scenes, lessons.codes_of(scenes), strict=True):
        assert torch.equal(codes[0], codes[1]) == (scene.motion not in moved)
    assert {scene.motion for scene in scenes} >= set(moved)


def test_of_what_is_followed_only_what_follows_counts(lessons: ClipLessons) -> None:
    rng = np.random.default_rng(5)
    for each in lessons.followed(rng, 6, ways=2) + lessons(rng, ClipMix(longer=6)):
        weights, codes = each.loss_weights, codes_of(each)
        assert not weights[~codes].any()
        assert not weights[codes][:64].any()
        assert weights[codes][64:].all()


def test_codes_count_for_much_until_some_have_changed() -> None:
    codes = torch.zeros(4, 2, 4, dtype=torch.long)
    codes[1, 0, 1:], codes[1, 1, 0] = 1, 1  # four codes change
    codes[2] = codes[1]  # none do
    codes[3] = torch.tensor([[5, 1, 1, 1], [5, 5, 5, 0]])
    captioned, alone = weights_of(codes, known=1), weights_of(codes, known=2)
    assert (captioned[0] == BEGINS_WEIGHT).all()
    assert ((captioned == FIRST_WEIGHT).sum((1, 2))).tolist() == [0, 4, 8, 6]
    assert (captioned[1, 0] == FIRST_WEIGHT).all()
    assert alone[1].max() < FIRST_WEIGHT
    assert torch.equal(alone[2:], captioned[2:])


def test_what_a_code_counts_for_is_no_hint_of_it() -> None:
    codes = torch.from_numpy(np.random.default_rng(9).integers(2, size=(3, 4, 4)))
    for at in range(codes.numel()):
        other = codes.clone()
        other.view(-1)[at] = 7
        upto = slice(at + 1)
        ours, theirs = (weights_of(each, known=1).flatten()[upto] for each in (codes, other))
        assert torch.equal(ours, theirs)


def test_clips_to_go_on_with_are_long_and_begin_anywhere(lessons: ClipLessons) -> None:
    rng, longer = np.random.default_rng(6), ClipMix(longer=20)
    assert 0 < sum("style" in said(each) for each in lessons(rng, longer)) < 20
    assert all(codes_of(each).sum() >= 4 * 64 for each in lessons(rng, longer))
    assert {int(codes_of(each).sum()) // 64 for each in lessons(rng, longer)} >= {4, 8, 12}
    slides = [elsewhere(lessons.way(rng), rng) for _ in range(200)]
    assert len({(scene.x, scene.y) for scene in slides}) > 40
    assert {(scene.x % 8, scene.y % 8) for scene in slides} == {(0, 0)}  # on the grid of codes


def test_what_is_asked_about_is_seen_to_move(lessons: ClipLessons) -> None:
    rng = np.random.default_rng(7)
    scenes = [lessons.scene(rng, BEATS) for _ in range(200)] + [lessons.way(rng) for _ in range(20)]
    assert any(scene.still for scene in scenes)
    for codes in lessons.codes_of(scenes):
        assert len(codes) == 1 or bool((codes[1:] != codes[:-1]).any())


def test_captions_name_what_is_seen(documents: list[TrainingSequence]) -> None:
    words = [said(each) for each in documents if "USER:" not in said(each)]
    told = [each for each in words if any(f"{style} style" in each for style in STYLES)]
    assert 0 < len(told) < len(words)  # some captions are dropped
    names = [with_article(name) for name in OBJECTS]
    assert all(any(name in each for name in names) for each in told)
