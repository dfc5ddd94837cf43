"""Other hands' drawings: beside the three styles, and silent where a style is held out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from recipes.nano.emoji_world import HANDS, OBJECTS, STYLES, Hands, held_out
from recipes.nano.emoji_world import icons as icons_module
from recipes.nano.emoji_world.download import OTHERS, PACKAGES, READ
from recipes.nano.emoji_world.icon_sets import learnt
from recipes.nano.emoji_world.icons import name_in


def everything() -> np.ndarray:
    """A drawing of every object by every hand."""
    return np.full((len(OBJECTS), len(HANDS), 4, 4, 4), 255, np.uint8)


def test_the_styles_come_first_and_keep_their_places() -> None:
    assert HANDS[: len(STYLES)] == STYLES
    assert len(set(HANDS)) == len(STYLES) + len(OTHERS)
    assert not {*HANDS} & {*READ}  # these are named, and nobody is asked for them


@pytest.mark.parametrize(("other", "style"), [("blob", "noto"), ("shaded", "fluent")])
def test_what_is_held_out_of_an_artist_is_held_out_of_his_other_drawings(
    other: str, style: str
) -> None:
    mask, held = learnt(everything()), held_out()[:, STYLES.index(style)]
    assert np.array_equal(mask[:, HANDS.index(other)], ~held)


def test_all_other_drawings_are_learnt_from_if_they_are_there() -> None:
    drawings = everything()
    drawings[7] = 0
    drawings[9, HANDS.index("streamline")] = 0
    mask = learnt(drawings)
    assert not mask[7].any()
    assert not mask[9, HANDS.index("streamline")]
    assert mask[:, HANDS.index("emojione")].sum() == len(OBJECTS) - 1
    assert not (mask[:, : len(STYLES)] & held_out()).any()


def test_a_set_may_write_names_without_hyphens_or_lack_them() -> None:
    icon_set = {"icons": {"redapple": {}, "fox": {}}, "aliases": {"hot-dog": {"parent": "fox"}}}
    assert name_in(icon_set, "red-apple") == "redapple"
    assert name_in(icon_set, "hot-dog") == "hot-dog"
    assert name_in(icon_set, "fox") == "fox"
    assert name_in(icon_set, "owl") is None


def test_hands_are_drawn_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("resvg_py", reason="drawing icons needs the extra emoji")
    few = OBJECTS[:4]
    monkeypatch.setattr(icons_module, "OBJECTS", few)
    monkeypatch.setattr("recipes.nano.emoji_world.svg_augmentation.OBJECTS", few)
    monkeypatch.setattr(
        "recipes.nano.emoji_world.icon_sets.held_out", lambda: np.eye(4, 3, dtype=bool)
    )
    body = '<rect width="10" height="10" fill="#f00"/>'
    for style in PACKAGES:
        icons = {name: {"body": body} for name in few}
        (tmp_path / f"{style}.json").write_text(json.dumps({"icons": icons}))
    for other in (*OTHERS, *READ):
        icons = {few[1]: {"body": body.replace("#f00", "#00f")}}
        (tmp_path / f"{other}.json").write_text(json.dumps({"icons": icons}))
    hands = Hands.load(tmp_path)
    array = hands.icons.arrays[48]
    assert array.shape[:2] == hands.redrawn.array.shape[:2] == hands.learnt.shape == (4, 9)
    assert (array[1, :3, 24, 24] == (255, 0, 0, 255)).all()
    assert (array[1, 3:, 24, 24] == (0, 0, 255, 255)).all()
    assert not array[[0, 2, 3], 3:].any()
    assert not hands.redrawn.array[[0, 2, 3], 3:].any()
    assert hands.others.tolist() == [[1, 3], [1, 4], [1, 5]]  # the last two are only read
    assert hands.learnt.tolist() == [
        [False, True, True, *[False] * 6],
        [True, False, True, True, True, True, False, True, True],
        [True, True, False, *[False] * 6],
        [True, True, True, *[False] * 6],
    ]
    silent = [True, True, True, *[False] * 4]  # held out or not, somebody drew it
    assert hands.drew.tolist() == [silent, [True] * 7, silent, silent]
