"""Tracking: every true motion is told from the others, also where the picture is noisy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from recipes.nano.emoji_world import MOTIONS, Icons, MovingScene, Pose, compose_clip, compose_frame
from recipes.nano.emoji_world.motion import BEHIND
from recipes.nano.emoji_world.video_scene import FRONT
from recipes.nano.evaluation.tracking import Frames, Track, cut_out, follow, nearest_motion


def scene_of(motion: str, object: int = 3) -> MovingScene:
    x, y = (FRONT[0] - 32, FRONT[1]) if motion == BEHIND else (32, 32)
    front = 9 if motion == BEHIND else None
    return MovingScene(object, 1, motion, "blue", x, y, frames=16, fps=8, front=front)


def tracks_of(icons: Icons, object: int = 3) -> dict[str, Track]:
    return {motion: follow(compose_clip(scene_of(motion, object), icons)) for motion in MOTIONS}


@pytest.fixture(scope="module")
def tracks(icons: Icons) -> dict[str, Track]:
    return tracks_of(icons)


def noisy(clip: Frames) -> Frames:
    noise = np.random.default_rng(1).normal(0, 12, clip.shape)
    return np.clip(clip + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("motion", list(MOTIONS))
def test_a_noisy_clip_is_still_its_motion(
    icons: Icons, tracks: dict[str, Track], motion: str
) -> None:
    assert nearest_motion(noisy(compose_clip(scene_of(motion), icons)), tracks) == motion


@pytest.mark.parametrize("motion", ["moving up", "spinning", "shrinking"])
def test_another_object_moves_alike(icons: Icons, tracks: dict[str, Track], motion: str) -> None:
    assert nearest_motion(compose_clip(scene_of(motion, object=50), icons), tracks) == motion


def test_where_it_starts_does_not_matter_nor_the_edge_of_the_world(
    icons: Icons, tracks: dict[str, Track]
) -> None:
    scene = replace(scene_of("moving to the right"), x=60, y=4)  # goes out on the right
    assert nearest_motion(compose_clip(scene, icons), tracks) == "moving to the right"


def test_places_are_pixels_from_the_first_frame(icons: Icons) -> None:
    track = follow(compose_clip(scene_of("moving down and to the left"), icons))
    steps = 8 * (np.arange(16) // 4)
    np.testing.assert_allclose(track.x, -steps, atol=0.05)
    np.testing.assert_allclose(track.y, steps, atol=0.05)
    np.testing.assert_allclose(track.area, track.area[0], atol=0.05)


def test_what_has_gone_stays_where_it_was() -> None:
    empty = np.full((4, 64, 64, 3), 200, np.uint8)
    track = follow(empty)
    assert not track.x.any()
    assert not track.y.any()
    assert track.apart(track) == 0


def test_a_sprite_is_cut_out_whole_over_the_edge(icons: Icons) -> None:
    inside = compose_frame(scene_of("spinning"), icons, 0)
    outside = compose_frame(replace(scene_of("spinning"), x=0, y=63), icons, 0)
    np.testing.assert_array_equal(cut_out(inside, 56), cut_out(outside, 56))
    assert Pose().side < 56
