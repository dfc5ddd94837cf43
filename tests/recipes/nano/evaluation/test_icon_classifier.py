"""The nearest-icon classifier: position, size, background and distortion do not matter."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from emu3.errors import InputError, MissingExtraError
from recipes.nano.emoji_world import (
    BACKGROUNDS,
    ICON_SIZES,
    OBJECTS,
    STYLES,
    Icons,
    Scene,
    default_folder,
    mirrorable,
    random_scene,
    render_scene,
    seen_pairs,
)
from recipes.nano.emoji_world.icons import cache_path

pytest.importorskip("skimage", reason="classifying icons needs the extra nano")

from recipes.nano.evaluation import NearestIconClassifier, classify_background
from recipes.nano.evaluation.icon_features import SIDE, crop_to_object, image_features

Pixels = NDArray[np.uint8]


@pytest.fixture(scope="module")
def classifier(icons: Icons) -> NearestIconClassifier:
    return NearestIconClassifier.build(icons, styles=[0], backgrounds=["white"])


def distorted(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Blurred and with smooth stains, similar to reconstructions."""
    h, w = image.shape[:2]
    stains = rng.normal(128, 30, (h // 4, w // 4, 3)).clip(0, 255).astype(np.uint8)
    smooth = np.asarray(Image.fromarray(stains).resize((w, h), Image.Resampling.BICUBIC))
    blurred = Image.fromarray(image).filter(ImageFilter.GaussianBlur(0.8))
    out = np.asarray(blurred, np.float32) + (smooth.astype(np.float32) - 128) / 3
    return out.clip(0, 255).astype(np.uint8)


@pytest.mark.slow
def test_objects_are_found_anywhere_mirrored_or_distorted(
    icons: Icons, classifier: NearestIconClassifier
) -> None:
    rng = np.random.default_rng(1)
    for thing in range(0, len(OBJECTS), 25):
        image = render_scene(random_scene(rng, thing, 0, aligned=False), icons)
        assert classifier.classify(image, 0) == thing
        assert classifier.classify(distorted(image, rng), 0) == thing


def test_ranking_has_all_objects_nearest_first(
    icons: Icons, classifier: NearestIconClassifier
) -> None:
    image = render_scene(Scene(7, 0, "pink", "1:1", 56, 0, 8, False), icons)
    ranking = classifier.ranking(image, 0)
    assert ranking[0] == classifier.classify(image, 0) == 7
    assert classifier.references[0].dtype == classifier.squared_norms[0].dtype == np.float32
    assert sorted(ranking) == list(range(len(OBJECTS)))
    assert (np.diff(classifier.distances(image, 0)[ranking]) >= 0).all()


def test_mirrored_icons_match_if_mirrorable(
    icons: Icons, classifier: NearestIconClassifier
) -> None:
    for thing in (OBJECTS.index("owl"), OBJECTS.index("compass")):
        image = render_scene(Scene(thing, 0, "white", "1:1", 48, 8, 8, True), icons)
        same = classifier.distances(image, 0)[thing] < 1e-3
        assert same == mirrorable(OBJECTS[thing])


def test_background_and_specks_do_not_matter(icons: Icons) -> None:
    seen = {
        name: render_scene(Scene(3, 0, name, "4:3", 40, 24, 8, False), icons)
        for name in BACKGROUNDS
    }
    for name, image in seen.items():
        assert classify_background(image) == name
        # Blocks of nearly the background's colour do change.
        assert np.square(image_features(image) - image_features(seen["white"])).sum() < 0.3
    speckled = seen["white"].copy()
    speckled[50:52, 5:7] = (0, 0, 0)
    np.testing.assert_array_equal(crop_to_object(speckled), crop_to_object(seen["white"]))


def test_aspect_ratio_is_kept() -> None:
    image = np.full((64, 64, 3), 255, np.uint8)
    image[20:30, 10:50] = (200, 0, 0)
    rows = np.flatnonzero(crop_to_object(image)[..., 3].max(1) > 0.5)
    assert abs(len(rows) - SIDE / 4) <= 2
    assert abs(rows.mean() - (SIDE - 1) / 2) <= 1


def test_empty_image_is_classified_too(classifier: NearestIconClassifier) -> None:
    assert 0 <= classifier.classify(np.zeros((64, 64, 3), np.uint8), 0) < len(OBJECTS)


def test_background_is_the_nearest_of_six() -> None:
    for name, colour in BACKGROUNDS.items():
        image = np.full((48, 88, 3), colour, np.int64)
        image += np.random.default_rng(0).integers(-9, 10, image.shape)
        image[:40, :40] = 0
        assert classify_background(image.clip(0, 255).astype(np.uint8)) == name


def test_other_arrays_and_styles_are_refused(classifier: NearestIconClassifier) -> None:
    with pytest.raises(InputError, match="uint8"):
        classifier.classify(np.zeros((64, 64), np.uint8), 0)
    with pytest.raises(InputError, match="styles"):
        classifier.classify(np.zeros((64, 64, 3), np.uint8), 2)


def test_style_is_that_of_the_nearest_icon(icons: Icons, classifier: NearestIconClassifier) -> None:
    clear = {style: np.zeros_like(classifier.references[0]) for style in (1, 2)}
    norms = {style: np.zeros_like(classifier.squared_norms[0]) for style in (1, 2)}
    among = NearestIconClassifier(classifier.references | clear, classifier.squared_norms | norms)
    image = render_scene(Scene(9, 0, "white", "1:1", 48, 8, 8, False), icons)
    assert among.classify_style(image) == 0


def test_missing_scikit_image_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage.feature", None)
    with pytest.raises(MissingExtraError, match=r"emu3\[nano\]"):
        image_features(np.zeros((64, 64, 3), np.uint8))


@pytest.mark.slow
def test_real_objects_are_classified() -> None:
    if not all(cache_path(default_folder(), size).is_file() for size in ICON_SIZES):
        pytest.skip("the real icons are not cached on this machine, and fetching needs npm")
    real, rng, style = Icons.load(), np.random.default_rng(2), STYLES.index("noto")
    classifier = NearestIconClassifier.build(real, [style], ["blue"])
    pairs = seen_pairs()
    things = rng.permutation(pairs[pairs[:, 1] == style, 0])[:60]
    images = [render_scene(random_scene(rng, int(thing), style), real) for thing in things]
    clean = [classifier.classify(p, style) == t for p, t in zip(images, things, strict=True)]
    lossy = [
        classifier.classify(distorted(p, rng), style) == t
        for p, t in zip(images, things, strict=True)
    ]
    assert np.mean(clean) >= 0.97
    assert np.mean(lossy) >= 0.93
