"""What the tuning recipes share: voters, intervals, and the fourth style without a network."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from recipes.dpo import asked
from recipes.fourth_style import HELD_OUT, NUMBER, FourthStyle, caption
from recipes.instruct import samples, write_samples
from recipes.nano.emoji_world import (
    BACKGROUNDS,
    CODE,
    OBJECTS,
    RATIOS,
    Icons,
    Redrawn,
    Scene,
    compose,
    grid,
    seen_pairs,
    usual_scene,
    with_article,
)
from recipes.nano.evaluation.accuracy import Wanted, background_voter, interval, object_voter
from recipes.nano.evaluation.icon_classifier import Judge
from tests.recipes.nano.test_augmented_images import drawings


class NearestTo:
    """A judge that finds every picture `apart` from the objects, whatever it shows."""

    def __init__(self, apart: list[float]) -> None:
        self.apart = np.array(apart)

    def distances(self, picture: np.ndarray, style: int) -> np.ndarray:
        return self.apart


def wanted(thing: int, background: str = "white") -> dict[str, Wanted]:
    return {"it": Wanted("it", usual_scene(thing, 0, background), 0)}


def test_votes_rise_with_nearness_and_with_being_right() -> None:
    picture = Image.new("RGB", (64, 64), BACKGROUNDS["blue"])
    judge = NearestTo([0.5, 0.2, 1.0])
    votes = [object_voter(wanted(thing), judge)(picture, "it") for thing in range(3)]  # type: ignore[arg-type]
    halves = [math.exp(-apart) / 2 for apart in (0.5, 0.2, 1.0)]
    assert votes == pytest.approx([halves[0], 0.5 + halves[1], halves[2]])
    assert background_voter(wanted(0, "blue"))(picture, "it") == 1.0
    assert background_voter(wanted(0, "pink"))(picture, "it") == 0.0


def test_the_interval_is_students() -> None:
    mean, low, high = interval([1.0, 2.0, 3.0, 4.0, 5.0])
    half = 2.776 * math.sqrt(2.5) / math.sqrt(5)
    assert (mean, low, high) == pytest.approx((3.0, 3.0 - half, 3.0 + half))


def test_requests_name_what_they_are_about() -> None:
    some = asked(seen_pairs(), 5, np.random.default_rng(0))
    assert len({each.words for each in some}) == 5
    for each in some:
        assert each.scene.background in each.words
        assert each.style == each.scene.style


@pytest.fixture(scope="module")
def style(tmp_path_factory: pytest.TempPathFactory) -> FourthStyle:
    """A set with a square for the first 50 objects, their names without hyphens, and a stranger."""
    pytest.importorskip("resvg_py", reason='needs pip install "emu3[emoji]"')
    square = {"body": '<path d="M2 2h12v12h-12z" fill="red"/>'}
    names = [name.replace("-", "") for name in OBJECTS[:50]]
    path = tmp_path_factory.mktemp("set") / "fxemoji.json"
    path.write_text(json.dumps({"icons": dict.fromkeys([*names, "stranger"], square)}))
    return FourthStyle.load(path)


def test_what_is_held_out_is_not_learnt(style: FourthStyle) -> None:
    assert len(style.held_out) == HELD_OUT
    assert sorted((*style.learnt, *style.held_out)) == list(range(50))


def test_a_scene_of_it_can_be_drawn_and_asked_for(style: FourthStyle) -> None:
    scene = style.scenes(style.learnt, np.random.default_rng(0))[0]
    assert caption(scene).endswith(f"on a {scene.background} background, fxemoji style")
    picture = compose(scene, style.icons)
    assert picture[32, 32].tolist() == [255, 0, 0]
    assert picture[0, 0].tolist() == list(BACKGROUNDS[scene.background])


def test_the_judge_never_takes_an_object_that_has_no_drawing(
    style: FourthStyle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flat(picture: np.ndarray) -> np.ndarray:
        return picture.mean((0, 1)).astype(np.float32)

    monkeypatch.setattr("recipes.nano.evaluation.icon_classifier.describe", flat)
    judge = style.taught_to(Judge({}, {}), ("white",))
    blank = compose(Scene(399, 0, "white", "1:1", 48, 8, 8, False), style.icons)
    assert judge.nearest(blank, NUMBER) < 50
    assert judge.style_of(blank) == NUMBER


def test_samples_to_learn_answers_from_show_nothing_held_out() -> None:
    made, again = (list(samples(60, *drawings(light))) for light in (10, 250))
    for (picture, turns), (other, said) in zip(made, again, strict=True):
        assert np.array_equal(picture, other)
        assert turns == said
    names = {with_article(each) for each in OBJECTS}
    for picture, turns in made:
        assert picture.shape[:2] in {(h * CODE, w * CODE) for h, w in map(grid, RATIOS)}
        assert 1 <= len(turns) <= 3
    assert all(turns[0][1] in names for _, turns in made[::2])


def test_samples_are_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    icons, redrawn = drawings(250)
    monkeypatch.setattr(Icons, "load", lambda: icons)
    monkeypatch.setattr(Redrawn, "load", lambda: redrawn)
    path = write_samples(tmp_path, 4)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [Image.open(tmp_path / each["image"]).mode for each in lines] == ["RGB"] * 4
    before = path.stat().st_mtime_ns
    assert write_samples(tmp_path, 4).stat().st_mtime_ns == before
