"""The judge: it finds the object wherever it is and however spoilt, and nothing else counts."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from emu3.errors import InputError, MissingExtraError
from recipes.nano.emoji_world import (
    BACKGROUNDS,
    OBJECTS,
    SIZES,
    STYLES,
    Icons,
    Scene,
    compose,
    default_folder,
    mirrorable,
    random_scene,
    seen_pairs,
)
from recipes.nano.emoji_world.icons import cache_path

pytest.importorskip("skimage", reason="judging needs the extra emoji")

from recipes.nano.evaluation import Judge, background_of
from recipes.nano.evaluation.features import SIDE, describe, fit

Pixels = NDArray[np.uint8]


@pytest.fixture(scope="module")
def judge(icons: Icons) -> Judge:
    return Judge.build(icons, styles=[0], backgrounds=["white"])


def spoilt(picture: Pixels, rng: np.random.Generator) -> Pixels:
    """Blurred, and with smooth stains in it: about what a tokenizer leaves."""
    h, w = picture.shape[:2]
    stains = rng.normal(128, 30, (h // 4, w // 4, 3)).clip(0, 255).astype(np.uint8)
    smooth = np.asarray(Image.fromarray(stains).resize((w, h), Image.Resampling.BICUBIC))
    blurred = Image.fromarray(picture).filter(ImageFilter.GaussianBlur(0.8))
    out = np.asarray(blurred, np.float32) + (smooth.astype(np.float32) - 128) / 3
    return out.clip(0, 255).astype(np.uint8)


def test_objects_are_found_anywhere_mirrored_or_spoilt(icons: Icons, judge: Judge) -> None:
    rng = np.random.default_rng(1)
    for thing in range(0, len(OBJECTS), 25):
        picture = compose(random_scene(rng, thing, 0, aligned=False), icons)
        assert judge.nearest(picture, 0) == thing
        assert judge.nearest(spoilt(picture, rng), 0) == thing


def test_a_rank_holds_every_object_the_nearest_first(icons: Icons, judge: Judge) -> None:
    picture = compose(Scene(7, 0, "pink", "1:1", 56, 0, 8, False), icons)
    rank = judge.rank(picture, 0)
    assert rank[0] == judge.nearest(picture, 0) == 7
    assert judge.references[0].dtype == judge.lengths[0].dtype == np.float32
    assert sorted(rank) == list(range(len(OBJECTS)))
    assert (np.diff(judge.distances(picture, 0)[rank]) >= 0).all()


def test_only_what_may_be_mirrored_is_known_mirrored(icons: Icons, judge: Judge) -> None:
    for thing in (OBJECTS.index("owl"), OBJECTS.index("compass")):
        picture = compose(Scene(thing, 0, "white", "1:1", 48, 8, 8, True), icons)
        same = judge.distances(picture, 0)[thing] < 1e-3
        assert same == mirrorable(OBJECTS[thing])


def test_the_background_and_specks_do_not_matter(icons: Icons) -> None:
    seen = {
        name: compose(Scene(3, 0, name, "4:3", 40, 24, 8, False), icons) for name in BACKGROUNDS
    }
    for name, picture in seen.items():
        assert background_of(picture) == name
        # Blocks that happen to have nearly the background's colour do change.
        assert np.square(describe(picture) - describe(seen["white"])).sum() < 0.3
    speckled = seen["white"].copy()
    speckled[50:52, 5:7] = (0, 0, 0)
    np.testing.assert_array_equal(fit(speckled), fit(seen["white"]))


def test_the_aspect_is_kept() -> None:
    picture = np.full((64, 64, 3), 255, np.uint8)
    picture[20:30, 10:50] = (200, 0, 0)
    rows = np.flatnonzero(fit(picture)[..., 3].max(1) > 0.5)
    assert abs(len(rows) - SIDE / 4) <= 2
    assert abs(rows.mean() - (SIDE - 1) / 2) <= 1


def test_an_empty_picture_is_judged_too(judge: Judge) -> None:
    assert 0 <= judge.nearest(np.zeros((64, 64, 3), np.uint8), 0) < len(OBJECTS)


def test_the_background_is_the_nearest_of_the_six() -> None:
    for name, colour in BACKGROUNDS.items():
        picture = np.full((48, 88, 3), colour, np.int64)
        picture += np.random.default_rng(0).integers(-9, 10, picture.shape)
        picture[:40, :40] = 0
        assert background_of(picture.clip(0, 255).astype(np.uint8)) == name


def test_a_wrong_picture_or_style_is_refused(judge: Judge) -> None:
    with pytest.raises(InputError, match="uint8"):
        judge.nearest(np.zeros((64, 64), np.uint8), 0)
    with pytest.raises(InputError, match="styles"):
        judge.nearest(np.zeros((64, 64, 3), np.uint8), 2)


def test_the_style_is_that_of_the_nearest_icon(icons: Icons, judge: Judge) -> None:
    clear = {style: np.zeros_like(judge.references[0]) for style in (1, 2)}
    lengths = {style: np.zeros_like(judge.lengths[0]) for style in (1, 2)}
    among = Judge(judge.references | clear, judge.lengths | lengths)
    picture = compose(Scene(9, 0, "white", "1:1", 48, 8, 8, False), icons)
    assert among.style_of(picture) == 0


def test_without_scikit_image_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage.feature", None)
    with pytest.raises(MissingExtraError, match=r"emu3\[emoji\]"):
        describe(np.zeros((64, 64, 3), np.uint8))


@pytest.mark.slow
def test_real_objects_are_told_apart() -> None:
    if not all(cache_path(default_folder(), size).is_file() for size in SIZES):
        pytest.skip("the real icons are not cached on this machine, and fetching needs npm")
    real, rng, style = Icons.load(), np.random.default_rng(2), STYLES.index("noto")
    judge = Judge.build(real, [style], ["blue"])
    pairs = seen_pairs()
    things = rng.permutation(pairs[pairs[:, 1] == style, 0])[:60]
    pictures = [compose(random_scene(rng, int(thing), style), real) for thing in things]
    clean = [judge.nearest(p, style) == t for p, t in zip(pictures, things, strict=True)]
    lossy = [
        judge.nearest(spoilt(p, rng), style) == t for p, t in zip(pictures, things, strict=True)
    ]
    assert np.mean(clean) >= 0.97
    assert np.mean(lossy) >= 0.93
