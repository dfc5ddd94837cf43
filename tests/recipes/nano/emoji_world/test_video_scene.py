"""Clips: what is drawn is where the motion says it is, and words fit what is drawn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from emu3.errors import InputError
from recipes.nano.emoji_world import OBJECTS, SIZES, STYLES, Icons, with_article
from recipes.nano.emoji_world.motion import (
    BEAT,
    BEHIND,
    LARGE,
    MOTIONS,
    PASSED,
    SLIDES,
    SMALL,
    STEP,
    WORLD,
    Pose,
    held_out_motions,
)
from recipes.nano.emoji_world.scene import BACKGROUNDS
from recipes.nano.emoji_world.video_captions import (
    clip_answer,
    clip_caption,
    clip_question,
    direction,
    full_clip_caption,
)
from recipes.nano.emoji_world.video_scene import (
    MovingScene,
    compose_clip,
    compose_frame,
    draw_pose,
    random_moving_scene,
    sprite,
)

SCENE = MovingScene(7, 1, "moving up", "white", 20, 36, frames=12, fps=8)
BACK = np.array(BACKGROUNDS["white"])


@pytest.fixture(scope="module")
def discs() -> Icons:
    """Every object a red disc: its middle and size can be measured."""
    arrays = {}
    for size in SIZES:
        y, x = np.mgrid[:size, :size] - (size - 1) / 2
        disc = np.zeros((size, size, 4), np.uint8)
        disc[..., 0], disc[..., 3] = 255, np.where(np.hypot(x, y) < size / 2, 255, 0)
        arrays[size] = np.broadcast_to(disc, (len(OBJECTS), len(STYLES), size, size, 4))
    return Icons(arrays)


def covered(frame: np.ndarray) -> np.ndarray:
    """How much of each pixel is not background, [64, 64]."""
    return np.abs(frame.astype(int) - BACK).sum(-1) / 510


@pytest.mark.parametrize("motion", [m for m in MOTIONS if m != BEHIND])
def test_the_sprite_is_where_and_as_large_as_the_trajectory_says(motion: str, discs: Icons) -> None:
    scene = replace(SCENE, motion=motion, x=32, y=32)
    for number in (0, 3, 4, 5, 11, 14):
        frame, pose = compose_frame(scene, discs, number), scene.pose(number)
        there = scene.middle(number)
        weight = np.roll(covered(frame), [WORLD // 2 - each for each in there[::-1]], (0, 1))
        y, x = np.mgrid[:WORLD, :WORLD]
        middle = [(weight * axis).sum() / weight.sum() + 0.5 for axis in (x, y)]
        assert middle == pytest.approx([WORLD // 2, WORLD // 2], abs=0.6)
        disc = np.pi * pose.side**2 / 4 * pose.alpha
        assert weight.sum() == pytest.approx(disc, rel=0.06)


@pytest.mark.parametrize("way", SLIDES)
def test_what_slides_goes_round_the_world(way: str, fake_icons: Icons) -> None:
    scene = replace(SCENE, motion=f"moving {way}")
    first, (dx, dy) = compose_frame(scene, fake_icons, 0), SLIDES[way]
    for beat in (1, 7, 19):
        moved = np.roll(first, (dy * STEP * beat, dx * STEP * beat), axis=(0, 1))
        assert np.array_equal(compose_frame(scene, fake_icons, BEAT * beat), moved)
    assert np.array_equal(compose_frame(scene, fake_icons, BEAT * WORLD // STEP), first)


@pytest.mark.parametrize("motion", [m for m in MOTIONS if m != BEHIND])
def test_a_pose_is_held_for_a_beat_and_then_there_is_another(
    motion: str, fake_icons: Icons
) -> None:
    clip = compose_clip(replace(SCENE, motion=motion), fake_icons)
    beats = clip.reshape(-1, BEAT, *clip.shape[1:])
    assert (beats == beats[:, :1]).all()
    assert not np.array_equal(beats[0], beats[1])


def test_what_waits_stands_still_and_then_does_the_same(fake_icons: Icons) -> None:
    waiting = replace(SCENE, motion="spinning", still=4, frames=16)
    late, soon = (compose_clip(s, fake_icons) for s in (waiting, replace(waiting, still=0)))
    assert (late[:5] == late[0]).all()
    assert np.array_equal(late[4:], soon[:-4])
    assert late.shape == (16, WORLD, WORLD, 3)
    assert late.dtype == np.uint8


def test_growing_shrinking_and_fading_come_to_an_end(discs: Icons) -> None:
    ends = {
        "growing": Pose(side=LARGE),
        "shrinking": Pose(side=SMALL),
        "fading away": Pose(alpha=0),
    }
    for motion, pose in ends.items():
        scene = replace(SCENE, motion=motion, frames=1)
        assert scene.pose(32) == scene.pose(900) == pose
    faded = compose_frame(replace(SCENE, motion="fading away"), discs, 16)
    assert (faded == BACK).all()


def test_what_passes_behind_is_hidden_by_what_stands_in_front(discs: Icons) -> None:
    behind = MovingScene(1, 0, BEHIND, "white", 16, 32, frames=48, fps=12, front=2)
    meeting = covered(compose_frame(behind, discs, 16))
    alone = covered(passed_alone(discs))
    assert meeting.sum() == pytest.approx(alone.sum(), rel=0.04)  # edges show through edges
    assert covered(compose_frame(behind, discs, 0)).sum() > 1.9 * alone.sum()


def passed_alone(icons: Icons) -> np.ndarray:
    return draw_pose(icons, 0, 0, "white", Pose(x=32, y=32, side=PASSED), None)


def test_a_sprite_turns_clockwise_by_quarters(fake_icons: Icons) -> None:
    upright, turned, round_again = (
        sprite(fake_icons, 0, 0, MOTIONS["spinning"](beat)) for beat in (0, 1, 4)
    )
    assert np.array_equal(turned[:, -1], upright[0])
    assert np.array_equal(round_again, upright)
    assert not np.array_equal(turned, upright)


def test_one_seed_is_one_clip_and_its_words_fit() -> None:
    for number, motion in enumerate(MOTIONS):
        scene, again = (
            random_moving_scene(np.random.default_rng(number), 5 * number, 2, motion)
            for _ in range(2)
        )
        assert scene == again
        rng = np.random.default_rng(number)
        said = clip_caption(scene, rng)
        assert said.startswith(f"{with_article(OBJECTS[scene.object])} {motion}")
        assert said.endswith("twemoji style")
        assert scene.background in full_clip_caption(scene) == clip_answer(scene, "describe")
        assert clip_answer(scene, "motion") in full_clip_caption(scene)
        assert (direction(scene) in SLIDES) == motion.startswith("moving")
        assert clip_question("motion", scene, rng).endswith("?")
    assert clip_answer(SCENE, "motion") == "up"
    assert clip_answer(SCENE, "object") == with_article(OBJECTS[7])


def test_a_tenth_of_the_pairs_of_object_and_motion_is_held_out() -> None:
    mask = held_out_motions()
    assert mask.shape == (len(OBJECTS), len(MOTIONS))
    assert (mask.sum(0) == len(OBJECTS) // 10).all()
    assert mask.sum(1).max() <= 2
    assert np.array_equal(mask, held_out_motions())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"object": 400}, "no object 400"),
        ({"motion": "dancing"}, "motion 'dancing'"),
        ({"background": "plaid"}, "background 'plaid'"),
        ({"motion": BEHIND}, "stands in front"),
        ({"front": 3}, "stands in front"),
        ({"frames": 0}, "at least 1"),
        ({"still": -4}, "whole beats"),
        ({"still": 3}, "whole beats"),
    ],
)
def test_what_no_clip_can_show_is_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        replace(SCENE, **change)  # type: ignore[arg-type]
