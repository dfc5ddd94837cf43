"""Augmented images: from seen icons alone, and reproducible."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from recipes.nano.augmented_images import (
    MAX_OFFSET,
    MAX_SIZE_DIFFERENCE,
    affine_limits,
    augmented_other_images,
    augmented_style_images,
    random_position,
)
from recipes.nano.emoji_world import (
    CODE_SIZE,
    ICON_SETS,
    ICON_SIZES,
    OBJECTS,
    RATIOS,
    STYLES,
    Icons,
    IconSets,
    IconVariants,
    centred_scene,
    code_grid,
    held_out_mask,
)
from recipes.nano.emoji_world.icon_sets import trainable_mask
from recipes.nano.emoji_world.svg_augmentation import VARIANT_SIZE, VARIANTS_PER_ICON
from tests.recipes.nano.fakes import LightnessTokenizer

FEW = {"1:1": 2, "16:9": 1}  # images per object


def uniform_icons(held_out: int) -> tuple[Icons, IconVariants]:
    """Icons of one lightness for seen pairs and of another for held-out ones."""
    lightness = np.where(held_out_mask(), held_out, 90).astype(np.uint8)
    shape = (len(OBJECTS), len(STYLES))
    arrays = {s: np.empty((*shape, s, s, 4), np.uint8) for s in ICON_SIZES}
    for array in arrays.values():
        array[:] = lightness[..., None, None, None]
        array[..., 3] = 255
    per_icon = np.repeat(lightness[:, :, None], VARIANTS_PER_ICON, 2)[..., None, None, None]
    size = (VARIANT_SIZE, VARIANT_SIZE, 4)
    variants = np.broadcast_to(per_icon, (*shape, VARIANTS_PER_ICON, *size))
    return Icons(arrays), IconVariants(variants)


@pytest.mark.slow
def test_held_out_icons_are_not_used_and_codes_are_kept(tmp_path: Path) -> None:
    folders, tokenizer = (
        [tmp_path / str(lightness) for lightness in (10, 250)],
        LightnessTokenizer(),
    )
    for folder in folders:
        folder.mkdir()
    made = [
        augmented_style_images(tokenizer, *uniform_icons(int(each.name)), each, FEW)
        for each in folders
    ]
    again = augmented_style_images(tokenizer, *uniform_icons(99), folders[0], FEW)
    assert set(made[0]) == set(FEW)
    for ratio, count in FEW.items():
        first, second = (each[ratio] for each in made)
        assert first.shape == (400, count, *code_grid(ratio))
        assert torch.equal(first, second)
        assert len(first.flatten(2).unique(dim=1)) == 400
        assert torch.equal(again[ratio], first)


@pytest.mark.slow
def test_seed_changes_images(tmp_path: Path) -> None:
    made = []
    for seed in (0, 0, 1):
        folder = tmp_path / str(len(made))
        folder.mkdir()
        icons = uniform_icons(250)
        codes = augmented_style_images(LightnessTokenizer(), *icons, folder, {"1:1": 4}, seed)
        made.append(codes["1:1"])
    assert torch.equal(made[0], made[1])
    same = (made[0] == made[2]).flatten(2).all(2)
    assert same.float().mean() < 0.1


@pytest.mark.slow
def test_other_sets_are_used_alone_where_they_have_the_object(tmp_path: Path) -> None:
    """No other set has object 1; the first one has all other objects."""
    more, tokenizer = len(ICON_SETS) - len(STYLES), LightnessTokenizer()
    arrays = {}
    for size, array in uniform_icons(250)[0].arrays.items():
        others = np.repeat(array[:, :1], more, 1) * 0
        others[:, 0] = (200, 200, 200, 255)
        others[1] = 0
        arrays[size] = np.concatenate((array, others), 1)
    largest = arrays[VARIANT_SIZE]
    variants = np.broadcast_to(
        largest[:, :, None], (*largest.shape[:2], VARIANTS_PER_ICON, *largest.shape[2:])
    )
    sets = IconSets(Icons(arrays), IconVariants(variants), trainable_mask(largest))
    made = []
    for name, change in (("as they are", 0), ("styles changed", 60)):
        for array in arrays.values():
            array[2:, : len(STYLES), ..., :3] += np.uint8(change)
        (tmp_path / name).mkdir()
        made.append(augmented_other_images(tokenizer, sets, tmp_path / name, {"1:1": 3})["1:1"])
    assert torch.equal(*made)  # styles of all objects but 1 are not used
    (tmp_path / "seed").mkdir()
    other = augmented_other_images(tokenizer, sets, tmp_path / "seed", {"1:1": 3}, seed=1)["1:1"]
    assert (other == made[0]).flatten(2).all(2).float().mean() < 0.1
    assert (made[0][1].float().mean() < made[0][2].float().mean()).all()  # 90 and 200


@pytest.mark.parametrize("ratio", RATIOS)
def test_size_limits_fit_the_image(ratio: str) -> None:
    largest = min(code_grid(ratio)) * CODE_SIZE
    for centred in (True, False):
        smallest, most = affine_limits(ratio, centred).sizes
        assert 0 < smallest < most <= largest
    side = centred_scene(0, 0, "white", ratio).size
    expected = (side - MAX_SIZE_DIFFERENCE, side + MAX_SIZE_DIFFERENCE)
    assert affine_limits(ratio, True).sizes == expected


@pytest.mark.parametrize("centred", [True, False])
def test_icon_stays_inside_of_the_image(centred: bool) -> None:
    rng = np.random.default_rng(0)
    starts = {random_position(rng, 64, 40, centred) for _ in range(400)}
    assert min(starts) == (12 - MAX_OFFSET if centred else 0)
    assert max(starts) == (12 + MAX_OFFSET if centred else 24)
    assert {random_position(rng, 64, 64, centred) for _ in range(20)} == {0}
