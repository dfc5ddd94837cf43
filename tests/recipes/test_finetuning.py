"""The fine-tuning examples: rewards, targets, samples and the new style."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from recipes.dpo import make_targets
from recipes.instruct import make_samples, write_samples
from recipes.lora_style import HELD_OUT, STYLE_INDEX, NewStyle, caption
from recipes.nano.emoji_world import (
    BACKGROUNDS,
    CODE_SIZE,
    OBJECTS,
    RATIOS,
    Icons,
    IconVariants,
    Scene,
    centred_scene,
    code_grid,
    render_scene,
    seen_pairs,
    with_article,
)
from recipes.nano.evaluation.accuracy import Target, background_reward, mean_interval, object_reward
from recipes.nano.evaluation.icon_classifier import NearestIconClassifier
from tests.recipes.nano.test_augmented_images import uniform_icons


class FixedDistances:
    """A classifier that returns the same distances for every image."""

    def __init__(self, distances: list[float]) -> None:
        self.fixed = np.array(distances)

    def distances(self, image: np.ndarray, style: int) -> np.ndarray:
        return self.fixed


def target(index: int, background: str = "white") -> dict[str, Target]:
    return {"it": Target("it", centred_scene(index, 0, background), 0)}


def test_rewards_rise_with_nearness_and_correctness() -> None:
    image = Image.new("RGB", (64, 64), BACKGROUNDS["blue"])
    classifier = FixedDistances([0.5, 0.2, 1.0])
    rewards = [object_reward(target(index), classifier)(image, "it") for index in range(3)]  # type: ignore[arg-type]
    halves = [math.exp(-distance) / 2 for distance in (0.5, 0.2, 1.0)]
    assert rewards == pytest.approx([halves[0], 0.5 + halves[1], halves[2]])
    assert background_reward(target(0, "blue"))(image, "it") == 1.0
    assert background_reward(target(0, "pink"))(image, "it") == 0.0


def test_interval_is_by_students_t() -> None:
    mean, low, high = mean_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    half = 2.776 * math.sqrt(2.5) / math.sqrt(5)
    assert (mean, low, high) == pytest.approx((3.0, 3.0 - half, 3.0 + half))


def test_prompts_name_their_background() -> None:
    targets = make_targets(seen_pairs(), 5, np.random.default_rng(0))
    assert len({each.prompt for each in targets}) == 5
    for each in targets:
        assert each.scene.background in each.prompt
        assert each.style == each.scene.style


@pytest.fixture(scope="module")
def style(tmp_path_factory: pytest.TempPathFactory) -> NewStyle:
    """A set with icons of the first 50 objects, names without hyphens, and of another one."""
    pytest.importorskip("resvg_py", reason='needs pip install "emu3[nano]"')
    square = {"body": '<path d="M2 2h12v12h-12z" fill="red"/>'}
    names = [name.replace("-", "") for name in OBJECTS[:50]]
    path = tmp_path_factory.mktemp("set") / "fxemoji.json"
    path.write_text(json.dumps({"icons": dict.fromkeys([*names, "stranger"], square)}))
    return NewStyle.load(path)


def test_held_out_objects_are_not_trained_on(style: NewStyle) -> None:
    assert len(style.held_out) == HELD_OUT
    assert sorted((*style.trained, *style.held_out)) == list(range(50))


def test_scene_of_new_style_is_rendered_and_captioned(style: NewStyle) -> None:
    scene = style.scenes(style.trained, np.random.default_rng(0))[0]
    assert caption(scene).endswith(f"on a {scene.background} background, fxemoji style")
    image = render_scene(scene, style.icons)
    assert image[32, 32].tolist() == [255, 0, 0]
    assert image[0, 0].tolist() == list(BACKGROUNDS[scene.background])


def test_objects_without_icon_are_never_classified(
    style: NewStyle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flat(image: np.ndarray) -> np.ndarray:
        return image.mean((0, 1)).astype(np.float32)

    monkeypatch.setattr("recipes.nano.evaluation.icon_classifier.image_features", flat)
    classifier = style.add_to(NearestIconClassifier({}, {}), ("white",))
    blank = render_scene(Scene(399, 0, "white", "1:1", 48, 8, 8, False), style.icons)
    assert classifier.classify(blank, STYLE_INDEX) < 50
    assert classifier.classify_style(blank) == STYLE_INDEX


def test_samples_do_not_depend_on_held_out_icons() -> None:
    made, again = (list(make_samples(60, *uniform_icons(light))) for light in (10, 250))
    for (image, turns), (other, other_turns) in zip(made, again, strict=True):
        assert np.array_equal(image, other)
        assert turns == other_turns
    names = {with_article(each) for each in OBJECTS}
    for image, turns in made:
        assert image.shape[:2] in {
            (h * CODE_SIZE, w * CODE_SIZE) for h, w in map(code_grid, RATIOS)
        }
        assert 1 <= len(turns) <= 3
    assert all(turns[0][1] in names for _, turns in made[::2])


def test_samples_are_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    icons, variants = uniform_icons(250)
    monkeypatch.setattr(Icons, "load", lambda: icons)
    monkeypatch.setattr(IconVariants, "load", lambda: variants)
    path = write_samples(tmp_path, 4)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [Image.open(tmp_path / each["image"]).mode for each in lines] == ["RGB"] * 4
    before = path.stat().st_mtime_ns
    assert write_samples(tmp_path, 4).stat().st_mtime_ns == before
