"""Videos: the sprite follows its motion, and captions and answers match the scene."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from emu3.errors import InputError
from recipes.nano.emoji_world import ICON_SIZES, OBJECTS, STYLES, Icons, with_article
from recipes.nano.emoji_world.motion import (
    CANVAS_SIZE,
    DIRECTIONS,
    FRAMES_PER_POSE,
    MAX_SPRITE_SIZE,
    MIN_SPRITE_SIZE,
    MOTIONS,
    OCCLUDED_SPRITE_SIZE,
    OCCLUSION,
    STEP_SIZE,
    Pose,
    held_out_motions,
)
from recipes.nano.emoji_world.scene import BACKGROUNDS
from recipes.nano.emoji_world.video_captions import (
    direction_of,
    full_video_caption,
    video_answer,
    video_caption,
    video_question,
)
from recipes.nano.emoji_world.video_scene import (
    VideoScene,
    random_video_scene,
    render_frame,
    render_pose,
    render_sprite,
    render_video,
)

SCENE = VideoScene(7, 1, "moving up", "white", 20, 36, frames=12, fps=8)
BACK = np.array(BACKGROUNDS["white"])


@pytest.fixture(scope="module")
def discs() -> Icons:
    """Every object is a red disc, whose centre and size can be measured."""
    arrays = {}
    for size in ICON_SIZES:
        y, x = np.mgrid[:size, :size] - (size - 1) / 2
        disc = np.zeros((size, size, 4), np.uint8)
        disc[..., 0], disc[..., 3] = 255, np.where(np.hypot(x, y) < size / 2, 255, 0)
        arrays[size] = np.broadcast_to(disc, (len(OBJECTS), len(STYLES), size, size, 4))
    return Icons(arrays)


def covered(frame: np.ndarray) -> np.ndarray:
    """The coverage of each pixel by the object, [64, 64]."""
    return np.abs(frame.astype(int) - BACK).sum(-1) / 510


@pytest.mark.parametrize("motion", [m for m in MOTIONS if m != OCCLUSION])
def test_position_and_size_follow_trajectory(motion: str, discs: Icons) -> None:
    scene = replace(SCENE, motion=motion, x=32, y=32)
    for number in (0, 3, 4, 5, 11, 14):
        frame, pose = render_frame(scene, discs, number), scene.pose(number)
        there = scene.centre(number)
        weight = np.roll(covered(frame), [CANVAS_SIZE // 2 - each for each in there[::-1]], (0, 1))
        y, x = np.mgrid[:CANVAS_SIZE, :CANVAS_SIZE]
        centre = [(weight * axis).sum() / weight.sum() + 0.5 for axis in (x, y)]
        assert centre == pytest.approx([CANVAS_SIZE // 2, CANVAS_SIZE // 2], abs=0.6)
        disc = np.pi * pose.size**2 / 4 * pose.alpha
        assert weight.sum() == pytest.approx(disc, rel=0.06)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_sliding_wraps_around_the_canvas(direction: str, fake_icons: Icons) -> None:
    scene = replace(SCENE, motion=f"moving {direction}")
    first, (dx, dy) = render_frame(scene, fake_icons, 0), DIRECTIONS[direction]
    for index in (1, 7, 19):
        moved = np.roll(first, (dy * STEP_SIZE * index, dx * STEP_SIZE * index), axis=(0, 1))
        assert np.array_equal(render_frame(scene, fake_icons, FRAMES_PER_POSE * index), moved)
    assert np.array_equal(
        render_frame(scene, fake_icons, FRAMES_PER_POSE * CANVAS_SIZE // STEP_SIZE), first
    )


@pytest.mark.parametrize("motion", [m for m in MOTIONS if m != OCCLUSION])
def test_pose_changes_every_four_frames(motion: str, fake_icons: Icons) -> None:
    video = render_video(replace(SCENE, motion=motion), fake_icons)
    poses = video.reshape(-1, FRAMES_PER_POSE, *video.shape[1:])
    assert (poses == poses[:, :1]).all()
    assert not np.array_equal(poses[0], poses[1])


def test_delay_shifts_motion(fake_icons: Icons) -> None:
    delayed = replace(SCENE, motion="spinning", delay=4, frames=16)
    late, soon = (render_video(s, fake_icons) for s in (delayed, replace(delayed, delay=0)))
    assert (late[:5] == late[0]).all()
    assert np.array_equal(late[4:], soon[:-4])
    assert late.shape == (16, CANVAS_SIZE, CANVAS_SIZE, 3)
    assert late.dtype == np.uint8


def test_growing_shrinking_and_fading_reach_a_final_pose(discs: Icons) -> None:
    ends = {
        "growing": Pose(size=MAX_SPRITE_SIZE),
        "shrinking": Pose(size=MIN_SPRITE_SIZE),
        "fading away": Pose(alpha=0),
    }
    for motion, pose in ends.items():
        scene = replace(SCENE, motion=motion, frames=1)
        assert scene.pose(32) == scene.pose(900) == pose
    faded = render_frame(replace(SCENE, motion="fading away"), discs, 16)
    assert (faded == BACK).all()


def test_occluder_hides_sprite(discs: Icons) -> None:
    behind = VideoScene(1, 0, OCCLUSION, "white", 16, 32, frames=48, fps=12, occluder=2)
    hidden = covered(render_frame(behind, discs, 16))
    alone = covered(occluded_sprite(discs))
    assert hidden.sum() == pytest.approx(alone.sum(), rel=0.04)  # antialiased edges
    assert covered(render_frame(behind, discs, 0)).sum() > 1.9 * alone.sum()


def occluded_sprite(icons: Icons) -> np.ndarray:
    return render_pose(icons, 0, 0, "white", Pose(x=32, y=32, size=OCCLUDED_SPRITE_SIZE), None)


def test_rotation_is_clockwise_by_quarter_turns(fake_icons: Icons) -> None:
    upright, turned, round_again = (
        render_sprite(fake_icons, 0, 0, MOTIONS["spinning"](index)) for index in (0, 1, 4)
    )
    assert np.array_equal(turned[:, -1], upright[0])
    assert np.array_equal(round_again, upright)
    assert not np.array_equal(turned, upright)


def test_seed_reproduces_scene_and_captions_match_it() -> None:
    for number, motion in enumerate(MOTIONS):
        scene, again = (
            random_video_scene(np.random.default_rng(number), 5 * number, 2, motion)
            for _ in range(2)
        )
        assert scene == again
        rng = np.random.default_rng(number)
        text = video_caption(scene, rng)
        assert text.startswith(f"{with_article(OBJECTS[scene.object])} {motion}")
        assert text.endswith("twemoji style")
        assert scene.background in full_video_caption(scene) == video_answer(scene, "describe")
        assert video_answer(scene, "motion") in full_video_caption(scene)
        assert (direction_of(scene) in DIRECTIONS) == motion.startswith("moving")
        assert video_question("motion", scene, rng).endswith("?")
    assert video_answer(SCENE, "motion") == "up"
    assert video_answer(SCENE, "object") == with_article(OBJECTS[7])


def test_tenth_of_object_motion_pairs_is_held_out() -> None:
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
        ({"motion": OCCLUSION}, "needs an occluder"),
        ({"occluder": 3}, "needs an occluder"),
        ({"frames": 0}, "at least 1"),
        ({"delay": -4}, "not a multiple of 4"),
        ({"delay": 3}, "not a multiple of 4"),
    ],
)
def test_impossible_scenes_are_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        replace(SCENE, **change)  # type: ignore[arg-type]
