"""The evaluation of clips: a perfect model scores 100%, one that stands still what luck gives."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from emu3.errors import InputError
from emu3.processing.video import Clip, Frame
from recipes.nano.emoji_world import (
    Icons,
    MovingScene,
    clip_answer,
    compose_clip,
    full_clip_caption,
    held_out_motions,
)

pytest.importorskip("skimage", reason="judging needs the extra emoji")

from recipes.nano.evaluation import Judge, evaluate_moving
from recipes.nano.evaluation import icon_classifier as judge_module
from recipes.nano.evaluation.features import Pixels
from recipes.nano.evaluation.video_evaluation import choose_scenes

SAMPLES = 3


class Filmed(NamedTuple):
    frames: Tensor


@pytest.fixture(scope="module")
def judge(icons: Icons) -> Iterator[Judge]:
    """A judge that looks at small copies, which is quick and enough for fake icons."""

    def describe(picture: Pixels) -> NDArray[np.float32]:
        return (picture.reshape(16, 4, 16, 4, 3).mean((1, 3)).ravel() / 255).astype(np.float32)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judge_module, "describe", describe)
        yield Judge.build(icons, backgrounds=["white"])


class Oracle:
    """Knows the scenes that are asked for, and everything about them."""

    def __init__(self, icons: Icons) -> None:
        self.icons, hidden = icons, held_out_motions()
        self.scenes: list[MovingScene] = []
        for place, pairs in enumerate((~hidden, hidden)):
            self.scenes += choose_scenes(np.random.default_rng((0, 2, place)), pairs, SAMPLES)

    def film(self, scene: MovingScene, frames: int) -> Filmed:
        return Filmed(torch.from_numpy(compose_clip(replace(scene, frames=frames), self.icons)))

    def video(self, prompt: str, *, seconds: float, fps: float, **settings: Any) -> Filmed:
        (scene,) = {s.object: s for s in self.scenes if full_clip_caption(s) == prompt}.values()
        return self.film(scene, round(seconds * fps))

    def extend(
        self, frames: Iterator[Frame], *, seconds: float, fps: float, **settings: Any
    ) -> Filmed:
        given = list(frames)
        return self.film(self.seen(given), len(given) + round(seconds * fps))

    def seen(self, frames: Sequence[Frame]) -> MovingScene:
        for scene in self.scenes:
            if np.array_equal(compose_clip(scene, self.icons), np.stack(frames)):
                return scene
        raise AssertionError("a clip that nobody knows")

    def chat(self, text: str, *, videos: Sequence[Clip], max_new_tokens: int) -> str:
        kind = "object" if re.search("What", text) else "motion"
        return clip_answer(self.seen(list(videos[0].frames)), kind).upper() + "."

    def encode(self, frames: Tensor) -> Tensor:
        return frames

    def decode(self, codes: Tensor) -> Tensor:
        return codes


class Still(Oracle):
    """Shows the object and lets nothing move, and knows no answer."""

    def film(self, scene: MovingScene, frames: int) -> Filmed:
        return Filmed(super().film(scene, 1).frames.expand(frames, -1, -1, -1))

    def chat(self, text: str, *, videos: Sequence[Clip], max_new_tokens: int) -> str:
        return "I do not know"


def test_a_perfect_model_scores_all(icons: Icons, judge: Judge) -> None:
    report = evaluate_moving(Oracle(icons), samples=SAMPLES, icons=icons, judge=judge)
    for figures in (report.seen, report.held_out):
        assert (figures.clips, figures.psnr) == (SAMPLES, 100)
        assert figures.gain > 50, "exact against the last frame repeated"
        for name, share in figures.shares.items():
            # Fake icons cut out of a clip are rotated or half gone for the judge now and then.
            assert share.value >= share.ceiling or name == "object_kept", name
        assert figures.shares["motion"].value == 1
        assert figures.shares["asked_motion"].hits == SAMPLES


def test_one_that_stands_still_gains_nothing(icons: Icons, judge: Judge) -> None:
    report = evaluate_moving(Still(icons), samples=SAMPLES, icons=icons, judge=judge)
    for figures in (report.seen, report.held_out):
        assert figures.gain < 3
        assert figures.shares["asked_motion"].hits == figures.shares["asked_object"].hits == 0
        assert figures.shares["motion"].value < 0.5
        assert figures.shares["motion"].ceiling == 1


@pytest.mark.parametrize(
    ("settings", "said"), [({"samples": 0}, "samples"), ({"seed": -1}, "seed")]
)
def test_bad_settings_are_refused(icons: Icons, settings: dict[str, int], said: str) -> None:
    with pytest.raises(InputError, match=said):
        evaluate_moving(Oracle(icons), icons=icons, **settings)
