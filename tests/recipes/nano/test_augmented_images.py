"""What nano is asked about most: things as no style draws them, from their seen drawings alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from recipes.nano.augmented_images import LIKE, OFF, bent, by_others, somewhere, variations
from recipes.nano.emoji_world import (
    CODE,
    HANDS,
    OBJECTS,
    RATIOS,
    SIZES,
    STYLES,
    Hands,
    Icons,
    Redrawn,
    grid,
    held_out,
    usual_scene,
)
from recipes.nano.emoji_world.icon_sets import learnt
from recipes.nano.emoji_world.svg_augmentation import REDRAWN, SIDE
from tests.recipes.nano.test_image_documents import Flat

FEW = {"1:1": 2, "16:9": 1}  # pictures of an object


def drawings(unseen: int) -> tuple[Icons, Redrawn]:
    """One light for all that is seen and another for all that is held out."""
    light = np.where(held_out(), unseen, 90).astype(np.uint8)
    shape = (len(OBJECTS), len(STYLES))
    arrays = {s: np.empty((*shape, s, s, 4), np.uint8) for s in SIZES}
    for array in arrays.values():
        array[:] = light[..., None, None, None]
        array[..., 3] = 255
    few = np.repeat(light[:, :, None], REDRAWN, 2)[..., None, None, None]
    redrawn = np.broadcast_to(few, (*shape, REDRAWN, SIDE, SIDE, 4))
    return Icons(arrays), Redrawn(redrawn)


def test_nothing_held_out_shows_and_they_are_made_once(tmp_path: Path) -> None:
    folders = [tmp_path / str(light) for light in (10, 250)]
    for folder in folders:
        folder.mkdir()
    made = [variations(Flat(), *drawings(int(each.name)), each, FEW) for each in folders]
    again = variations(Flat(), *drawings(99), folders[0], FEW)
    assert set(made[0]) == set(FEW)
    for ratio, count in FEW.items():
        first, second = (each[ratio] for each in made)
        assert first.shape == (400, count, *grid(ratio))
        assert torch.equal(first, second)
        assert len(first.flatten(2).unique(dim=1)) == 400
        assert torch.equal(again[ratio], first)


@pytest.mark.slow
def test_another_seed_makes_others(tmp_path: Path) -> None:
    made = []
    for seed in (0, 0, 1):
        folder = tmp_path / str(len(made))
        folder.mkdir()
        made.append(variations(Flat(), *drawings(250), folder, {"1:1": 4}, seed)["1:1"])
    assert torch.equal(made[0], made[1])
    same = (made[0] == made[2]).flatten(2).all(2)
    assert same.float().mean() < 0.1


@pytest.mark.slow
def test_other_hands_show_themselves_alone_where_there_are_any(tmp_path: Path) -> None:
    """Object 1 was drawn by none of them, all others by the first one."""
    more = len(HANDS) - len(STYLES)
    arrays = {}
    for size, array in drawings(250)[0].arrays.items():
        theirs = np.repeat(array[:, :1], more, 1) * 0
        theirs[:, 0] = (200, 200, 200, 255)
        theirs[1] = 0
        arrays[size] = np.concatenate((array, theirs), 1)
    redrawn = np.broadcast_to(
        arrays[SIDE][:, :, None], (*arrays[SIDE].shape[:2], REDRAWN, SIDE, SIDE, 4)
    )
    hands = Hands(Icons(arrays), Redrawn(redrawn), learnt(arrays[SIDE]))
    seen = []
    for name, change in (("as it is", 0), ("styles changed", 60)):
        for array in arrays.values():
            array[2:, : len(STYLES), ..., :3] += np.uint8(change)
        (tmp_path / name).mkdir()
        seen.append(by_others(Flat(), hands, tmp_path / name, {"1:1": 3})["1:1"])
    assert torch.equal(*seen)  # the styles of all but object 1 do not show
    (tmp_path / "anew").mkdir()
    anew = by_others(Flat(), hands, tmp_path / "anew", {"1:1": 3}, seed=1)["1:1"]
    assert (anew == seen[0]).flatten(2).all(2).float().mean() < 0.1
    assert (seen[0][1].float().mean() < seen[0][2].float().mean()).all()  # 90 beside 200


@pytest.mark.parametrize("ratio", RATIOS)
def test_the_largest_drawing_fits_and_the_usual_one_is_of_usual_size(ratio: str) -> None:
    largest = min(grid(ratio)) * CODE
    for usual in (True, False):
        smallest, most = bent(ratio, usual).sides
        assert 0 < smallest < most <= largest
    side = usual_scene(0, 0, "white", ratio).size
    assert bent(ratio, True).sides == (side - LIKE, side + LIKE)


@pytest.mark.parametrize("usual", [True, False])
def test_a_drawing_stays_in_its_picture(usual: bool) -> None:
    rng = np.random.default_rng(0)
    starts = {somewhere(rng, 64, 40, usual) for _ in range(400)}
    assert min(starts) == (12 - OFF if usual else 0)
    assert max(starts) == (12 + OFF if usual else 24)
    assert {somewhere(rng, 64, 64, usual) for _ in range(20)} == {0}
