"""All icon sets, and which icons may be trained on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from recipes.nano.emoji_world import ICON_SETS, OBJECTS, STYLES, IconSets, held_out_mask
from recipes.nano.emoji_world import icons as icons_module
from recipes.nano.emoji_world.download import OTHER_PACKAGES, RECOGNITION_PACKAGES, STYLE_PACKAGES
from recipes.nano.emoji_world.icon_sets import trainable_mask
from recipes.nano.emoji_world.icons import find_icon_name


def all_icons() -> np.ndarray:
    """Icons of all objects in all sets."""
    return np.full((len(OBJECTS), len(ICON_SETS), 4, 4, 4), 255, np.uint8)


def test_styles_come_first_and_recognition_sets_are_not_asked_for() -> None:
    assert ICON_SETS[: len(STYLES)] == STYLES
    assert len(set(ICON_SETS)) == len(STYLES) + len(OTHER_PACKAGES)
    assert not {*ICON_SETS} & {*RECOGNITION_PACKAGES}


@pytest.mark.parametrize(("other", "style"), [("blob", "noto"), ("shaded", "fluent")])
def test_pairs_are_held_out_of_other_sets_by_the_same_artist(other: str, style: str) -> None:
    mask, held = trainable_mask(all_icons()), held_out_mask()[:, STYLES.index(style)]
    assert np.array_equal(mask[:, ICON_SETS.index(other)], ~held)


def test_all_other_icons_that_exist_are_trainable() -> None:
    icons = all_icons()
    icons[7] = 0
    icons[9, ICON_SETS.index("streamline")] = 0
    mask = trainable_mask(icons)
    assert not mask[7].any()
    assert not mask[9, ICON_SETS.index("streamline")]
    assert mask[:, ICON_SETS.index("emojione")].sum() == len(OBJECTS) - 1
    assert not (mask[:, : len(STYLES)] & held_out_mask()).any()


def test_names_are_found_with_or_without_hyphens() -> None:
    icon_set = {"icons": {"redapple": {}, "fox": {}}, "aliases": {"hot-dog": {"parent": "fox"}}}
    assert find_icon_name(icon_set, "red-apple") == "redapple"
    assert find_icon_name(icon_set, "hot-dog") == "hot-dog"
    assert find_icon_name(icon_set, "fox") == "fox"
    assert find_icon_name(icon_set, "owl") is None


def test_sets_are_concatenated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("resvg_py", reason="drawing icons needs the extra nano")
    few = OBJECTS[:4]
    monkeypatch.setattr(icons_module, "OBJECTS", few)
    monkeypatch.setattr("recipes.nano.emoji_world.svg_augmentation.OBJECTS", few)
    monkeypatch.setattr(
        "recipes.nano.emoji_world.icon_sets.held_out_mask", lambda: np.eye(4, 3, dtype=bool)
    )
    body = '<rect width="10" height="10" fill="#f00"/>'
    for style in STYLE_PACKAGES:
        icons = {name: {"body": body} for name in few}
        (tmp_path / f"{style}.json").write_text(json.dumps({"icons": icons}))
    for other in (*OTHER_PACKAGES, *RECOGNITION_PACKAGES):
        icons = {few[1]: {"body": body.replace("#f00", "#00f")}}
        (tmp_path / f"{other}.json").write_text(json.dumps({"icons": icons}))
    icon_sets = IconSets.load(tmp_path)
    array = icon_sets.icons.arrays[48]
    assert (
        array.shape[:2] == icon_sets.variants.array.shape[:2] == icon_sets.trainable.shape == (4, 9)
    )
    assert (array[1, :3, 24, 24] == (255, 0, 0, 255)).all()
    assert (array[1, 3:, 24, 24] == (0, 0, 255, 255)).all()
    assert not array[[0, 2, 3], 3:].any()
    assert not icon_sets.variants.array[[0, 2, 3], 3:].any()
    assert icon_sets.other_pairs.tolist() == [
        [1, 3],
        [1, 4],
        [1, 5],
    ]  # the last two: recognition only
    assert icon_sets.trainable.tolist() == [
        [False, True, True, *[False] * 6],
        [True, False, True, True, True, True, False, True, True],
        [True, True, False, *[False] * 6],
        [True, True, True, *[False] * 6],
    ]
    styles = [True, True, True, *[False] * 4]  # held out or not
    assert icon_sets.available.tolist() == [styles, [True] * 7, styles, styles]
