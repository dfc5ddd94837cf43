"""Tracking: true motions are classified correctly, also in noisy videos."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from recipes.nano.emoji_world import MOTIONS, Icons, Pose, VideoScene, render_frame, render_video
from recipes.nano.emoji_world.motion import OCCLUSION
from recipes.nano.emoji_world.video_scene import OCCLUDER_POSITION
from recipes.nano.evaluation.tracking import (
    Frames,
    Track,
    classify_motion,
    crop_object,
    track_object,
)


def scene_of(motion: str, object: int = 3) -> VideoScene:
    x, y = (OCCLUDER_POSITION[0] - 32, OCCLUDER_POSITION[1]) if motion == OCCLUSION else (32, 32)
    occluder = 9 if motion == OCCLUSION else None
    return VideoScene(object, 1, motion, "blue", x, y, frames=16, fps=8, occluder=occluder)


def tracks_of(icons: Icons, object: int = 3) -> dict[str, Track]:
    return {
        motion: track_object(render_video(scene_of(motion, object), icons)) for motion in MOTIONS
    }


@pytest.fixture(scope="module")
def tracks(icons: Icons) -> dict[str, Track]:
    return tracks_of(icons)


def noisy(video: Frames) -> Frames:
    noise = np.random.default_rng(1).normal(0, 12, video.shape)
    return np.clip(video + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("motion", list(MOTIONS))
def test_motion_of_noisy_video_is_classified(
    icons: Icons, tracks: dict[str, Track], motion: str
) -> None:
    assert classify_motion(noisy(render_video(scene_of(motion), icons)), tracks) == motion


@pytest.mark.parametrize("motion", ["moving up", "spinning", "shrinking"])
def test_motion_does_not_depend_on_object(
    icons: Icons, tracks: dict[str, Track], motion: str
) -> None:
    assert classify_motion(render_video(scene_of(motion, object=50), icons), tracks) == motion


def test_motion_does_not_depend_on_start_or_edge(icons: Icons, tracks: dict[str, Track]) -> None:
    scene = replace(scene_of("moving to the right"), x=60, y=4)  # leaves on the right
    assert classify_motion(render_video(scene, icons), tracks) == "moving to the right"


def test_positions_are_pixels_from_the_first_frame(icons: Icons) -> None:
    track = track_object(render_video(scene_of("moving down and to the left"), icons))
    steps = 8 * (np.arange(16) // 4)
    np.testing.assert_allclose(track.x, -steps, atol=0.05)
    np.testing.assert_allclose(track.y, steps, atol=0.05)
    np.testing.assert_allclose(track.area, track.area[0], atol=0.05)


def test_invisible_object_keeps_its_position() -> None:
    empty = np.full((4, 64, 64, 3), 200, np.uint8)
    track = track_object(empty)
    assert not track.x.any()
    assert not track.y.any()
    assert track.distance(track) == 0


def test_crop_wraps_around_the_edge(icons: Icons) -> None:
    inside = render_frame(scene_of("spinning"), icons, 0)
    outside = render_frame(replace(scene_of("spinning"), x=0, y=63), icons, 0)
    np.testing.assert_array_equal(crop_object(inside, 56), crop_object(outside, 56))
    assert Pose().size < 56
