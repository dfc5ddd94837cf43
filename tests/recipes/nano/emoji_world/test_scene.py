"""Scenes: random composition and rendering."""

from __future__ import annotations

import numpy as np
import pytest

from emu3.errors import InputError
from recipes.nano.emoji_world import (
    BACKGROUNDS,
    OBJECTS,
    RATIOS,
    Icons,
    Scene,
    centred_scene,
    code_grid,
    mirrorable,
    random_scene,
    render_scene,
)

APPLE = OBJECTS.index("red-apple")


def scenes(count: int, seed: int = 0, *, aligned: bool = True) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [random_scene(rng, i % 400, i % 3, aligned=aligned) for i in range(count)]


def test_grids() -> None:
    assert [code_grid(r) for r in RATIOS] == [(8, 8), (7, 9), (9, 7), (6, 11), (11, 6)]
    with pytest.raises(InputError, match="2:1"):
        code_grid("2:1")


def test_seed_reproduces_scenes() -> None:
    assert scenes(50) == scenes(50)
    assert scenes(50) != scenes(50, seed=1)


def test_composition_varies_within_its_limits() -> None:
    sampled = scenes(1500)
    assert {s.ratio for s in sampled} == set(RATIOS)
    assert {s.background for s in sampled} == set(BACKGROUNDS)
    by_ratio = {r: {s.size for s in sampled if s.ratio == r} for r in RATIOS}
    assert by_ratio["1:1"] == {48, 56}
    assert by_ratio["4:3"] == by_ratio["3:4"] == {40, 48}
    assert by_ratio["16:9"] == by_ratio["9:16"] == {40}
    assert 0.55 < np.mean([s.ratio == "1:1" for s in sampled]) < 0.65
    assert all(s.x % 8 == 0 and s.y % 8 == 0 for s in sampled)
    assert not any(s.mirror and not mirrorable(OBJECTS[s.object]) for s in sampled)


def test_unaligned_scenes_start_at_any_pixel() -> None:
    assert {s.x % 8 for s in scenes(500, aligned=False)} == set(range(8))


@pytest.mark.parametrize("centred", [0.0, 0.5, 1.0])
def test_proportion_of_centred_scenes(centred: float) -> None:
    rng = np.random.default_rng(4)
    sampled = [random_scene(rng, i % 400, i % 3, centred=centred) for i in range(1000)]
    same = [s == centred_scene(s.object, s.style, s.background, s.ratio) for s in sampled]
    by_chance = 0.08 * (1 - centred)  # random scenes that happen to be centred
    assert abs(np.mean(same) - centred - by_chance) < 0.06


@pytest.mark.parametrize("ratio", RATIOS)
def test_centred_scene_has_its_object_in_the_middle(ratio: str) -> None:
    scene = centred_scene(APPLE, 1, "blue", ratio)
    h, w = scene.shape
    assert abs(2 * scene.x + scene.size - w) <= 8
    assert abs(2 * scene.y + scene.size - h) <= 8


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("ratio", RATIOS)
def test_icon_is_blended_at_its_position(fake_icons: Icons, ratio: str, mirror: bool) -> None:
    h, w = (8 * side for side in code_grid(ratio))
    scene = Scene(APPLE, 1, "blue", ratio, 40, x=w - 40, y=h - 40, mirror=mirror)
    image = render_scene(scene, fake_icons)
    assert image.shape == (h, w, 3)
    assert image.dtype == np.uint8

    icon = fake_icons.get(APPLE, 1, 40)
    icon = (icon[:, ::-1] if mirror else icon).astype(np.float64)
    alpha = icon[..., 3:] / 255
    expected = icon[..., :3] * alpha + np.array(BACKGROUNDS["blue"]) * (1 - alpha)
    assert np.abs(image[h - 40 :, w - 40 :] - expected).max() <= 0.5

    outside = np.ones((h, w), bool)
    outside[h - 40 :, w - 40 :] = False
    assert (image[outside] == BACKGROUNDS["blue"]).all()


def test_rendering_does_not_change_icons(fake_icons: Icons) -> None:
    before = fake_icons.get(APPLE, 0, 48).copy()
    scene = Scene(APPLE, 0, "pink", "1:1", 48, 0, 0, mirror=False)
    first = render_scene(scene, fake_icons)
    first[:] = 0
    assert (fake_icons.get(APPLE, 0, 48) == before).all()
    assert render_scene(scene, fake_icons).any()


@pytest.mark.parametrize(
    "change",
    [
        {"object": 400},
        {"style": 7},
        {"background": "mauve"},
        {"ratio": "2:1"},
        {"size": 41},
        {"x": 16},
        {"y": -1},
    ],
)
def test_impossible_scenes_are_refused(change: dict[str, object]) -> None:
    good: dict[str, object] = {"object": 0, "style": 0, "background": "white", "ratio": "1:1"}
    good |= {"size": 56, "x": 0, "y": 0, "mirror": False}
    Scene(**good)  # type: ignore[arg-type]
    with pytest.raises(InputError):
        Scene(**(good | change))  # type: ignore[arg-type]
