"""The video documents of a step, and the curriculum."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from emu3.training.lm_loss import TrainingSequence
from recipes.nano.emoji_world import (
    MOTIONS,
    OBJECTS,
    STYLES,
    Icons,
    held_out_mask,
    held_out_motions,
    with_article,
)
from recipes.nano.emoji_world.motion import DIRECTIONS, FRAMES_PER_POSE
from recipes.nano.video_documents import (
    ANSWER_WEIGHTS,
    FIRST_FRAME_WEIGHT,
    GENERATION_LENGTHS,
    ONSET_WEIGHT,
    QUESTION_LENGTHS,
    VideoDocuments,
    VideoMix,
    code_weights,
    randomise_start,
)
from tests.recipes.nano.fakes import TEXT, LightnessTokenizer, is_code, text_of

MIX = VideoMix(captioned=4, continued=2, questions=3, directions=1)
NUM_QUESTIONS = MIX.questions + MIX.directions


@pytest.fixture(scope="module")
def source(icons: Icons) -> VideoDocuments:
    return VideoDocuments.build(LightnessTokenizer(), TEXT, icons)


@pytest.fixture(scope="module")
def documents(source: VideoDocuments) -> list[TrainingSequence]:
    rng = np.random.default_rng(0)
    return [each for _ in range(8) for each in source(rng, MIX)]


def test_numbers_of_documents_are_those_of_the_mix(documents: list[TrainingSequence]) -> None:
    questions = [each for each in documents if "USER:" in text_of(each)]
    assert len(documents) == 8 * (MIX.captioned + MIX.continued + NUM_QUESTIONS)
    assert len(questions) == 8 * NUM_QUESTIONS
    assert all("fps" in text_of(each) for each in documents)


def test_caption_function_is_used(icons: Icons) -> None:
    source = VideoDocuments.build(LightnessTokenizer(), TEXT, icons, lambda *_: "a caption")
    made = source(np.random.default_rng(0), VideoMix(captioned=8, continued=6))
    for part in (made[:8], made[8:]):
        texts = [text_of(each) for each in part]
        assert sum("a caption" in each for each in texts) >= len(texts) // 3  # some have none
        assert not any("style" in each for each in texts)


def test_weights_of_codes(documents: list[TrainingSequence]) -> None:
    for each in documents:
        weights = each.loss_weights[is_code(each)]
        if "USER:" in text_of(each):
            assert not weights.any()
        else:
            assert (weights[64:] > 0).all()
            first_frame = set(weights[:64].tolist())
            assert first_frame in ({0.0}, {FIRST_FRAME_WEIGHT})  # continued, generated


def test_some_videos_to_generate_are_a_first_frame(source: VideoDocuments) -> None:
    made = source(np.random.default_rng(2), VideoMix(captioned=40))
    lengths = [int(is_code(each).sum()) for each in made]
    assert {64, 128, 256} <= set(lengths)
    assert 0.2 < lengths.count(64) / len(lengths) < 0.6


def test_answers_weigh_by_kind_and_end_with_eos(source: VideoDocuments) -> None:
    kinds = set()
    for each in source(np.random.default_rng(2), VideoMix(directions=40)):
        answers = [text.split(" USER:")[0] for text in text_of(each).split("ASSISTANT: ")[1:]]
        weights = each.loss_weights[each.loss_weights > 0].tolist()
        ids = each.token_ids[each.loss_weights > 0]
        assert TEXT.decode(ids.tolist(), skip_special=True) == "".join(f" {a}" for a in answers)
        assert ids[-1] == TEXT.vocabulary.eos
        if answers[-1] in DIRECTIONS:  # one token per byte, the space before it, and EOS
            motion = [ANSWER_WEIGHTS["motion"]] * (len(answers[-1]) + 2)
            name = [ANSWER_WEIGHTS["object"]] * (len(answers[0]) + 1) if len(answers) > 1 else []
            assert weights == [*name, *motion]
            kinds.add(len(answers))
        else:
            assert answers[0].split(", ")[-1] in [f"{style} style" for style in STYLES]
            assert len(answers) == 1
            assert {*weights} == {ANSWER_WEIGHTS["describe"]}
            kinds.add(0)
    assert kinds == {0, 1, 2}


def test_held_out_pairs_are_not_used(source: VideoDocuments) -> None:
    rng, pairs, motions = np.random.default_rng(3), held_out_mask(), held_out_motions()
    scenes = [source.scene(rng, GENERATION_LENGTHS) for _ in range(300)]
    scenes += [source.curriculum_scene(rng, 8) for _ in range(100)]
    scenes += [source.sliding_scene(rng) for _ in range(100)]
    for scene in scenes:
        assert not pairs[scene.object, scene.style]
        assert not motions[scene.object, [*MOTIONS].index(scene.motion)]
    assert {scene.motion for scene in scenes} == set(MOTIONS)


def test_pose_is_one_frame_of_codes(source: VideoDocuments) -> None:
    rng = np.random.default_rng(1)
    scenes = [source.scene(rng, QUESTION_LENGTHS) for _ in range(40)]
    for scene, codes in zip(scenes, source.encode(scenes), strict=True):
        assert codes.shape == (-(-scene.frames // FRAMES_PER_POSE), 8, 8)
    slides = [s for s in scenes if s.motion.startswith("moving") and s.frames > 8 and not s.delay]
    for codes in source.encode(slides):
        assert not torch.equal(codes[0], codes[1])
        assert torch.equal(codes[0].unique(), codes[1].unique())  # the same codes elsewhere


@pytest.mark.parametrize("directions", [0, 1, 8])
def test_curriculum_moves_in_the_first_directions_alone(
    source: VideoDocuments, directions: int
) -> None:
    rng = np.random.default_rng(4)
    moving = [f"moving {each}" for each in DIRECTIONS][:directions]
    scenes = [source.curriculum_scene(rng, directions) for _ in range(60)]
    for scene, codes in zip(scenes, source.encode(scenes), strict=True):
        assert torch.equal(codes[0], codes[1]) == (scene.motion not in moving)
    assert {scene.motion for scene in scenes} >= set(moving)


def test_only_frames_after_the_first_count_in_continuations(source: VideoDocuments) -> None:
    rng = np.random.default_rng(5)
    curriculum = source.curriculum(rng, 6, directions=2)
    for each in curriculum + source(rng, VideoMix(continued=6)):
        weights, codes = each.loss_weights, is_code(each)
        assert not weights[~codes].any()
        assert not weights[codes][:64].any()
        assert weights[codes][64:].all()


def test_codes_weigh_more_until_some_have_changed() -> None:
    codes = torch.zeros(4, 2, 4, dtype=torch.long)
    codes[1, 0, 1:], codes[1, 1, 0] = 1, 1  # four codes change
    codes[2] = codes[1]  # none do
    codes[3] = torch.tensor([[5, 1, 1, 1], [5, 5, 5, 0]])
    captioned, silent = (code_weights(codes, predictable_from=n) for n in (1, 2))
    assert (captioned[0] == FIRST_FRAME_WEIGHT).all()
    assert ((captioned == ONSET_WEIGHT).sum((1, 2))).tolist() == [0, 4, 8, 6]
    assert (captioned[1, 0] == ONSET_WEIGHT).all()
    assert silent[1].max() < ONSET_WEIGHT
    assert torch.equal(silent[2:], captioned[2:])


def test_weight_of_a_code_depends_on_earlier_codes_alone() -> None:
    codes = torch.from_numpy(np.random.default_rng(9).integers(2, size=(3, 4, 4)))
    for at in range(codes.numel()):
        other = codes.clone()
        other.view(-1)[at] = 7
        first, second = (
            code_weights(each, predictable_from=1).flatten()[: at + 1] for each in (codes, other)
        )
        assert torch.equal(first, second)


def test_videos_to_continue_are_long_and_start_anywhere(source: VideoDocuments) -> None:
    rng = np.random.default_rng(6)
    made = source(rng, VideoMix(continued=60))
    assert 0 < sum("style" in text_of(each) for each in made) < 60
    assert {int(is_code(each).sum()) // 64 for each in made} >= {4, 8, 12}
    assert all(is_code(each).sum() >= 4 * 64 for each in made)
    slides = [randomise_start(source.sliding_scene(rng), rng) for _ in range(200)]
    assert len({(scene.x, scene.y) for scene in slides}) > 40
    assert {(scene.x % 8, scene.y % 8) for scene in slides} == {(0, 0)}


def test_motion_is_visible_in_videos_with_questions(source: VideoDocuments) -> None:
    rng = np.random.default_rng(7)
    scenes = [source.scene(rng, QUESTION_LENGTHS) for _ in range(200)]
    scenes += [source.sliding_scene(rng) for _ in range(20)]
    assert any(scene.delay for scene in scenes)
    for codes in source.encode(scenes):
        assert len(codes) == 1 or bool((codes[1:] != codes[:-1]).any())


def test_captions_name_an_object(documents: list[TrainingSequence]) -> None:
    texts = [text_of(each) for each in documents if "USER:" not in text_of(each)]
    captions = [each for each in texts if any(f"{style} style" in each for style in STYLES)]
    assert 0 < len(captions) < len(texts)  # some captions are empty
    names = [with_article(name) for name in OBJECTS]
    assert all(any(name in each for name in names) for each in captions)
