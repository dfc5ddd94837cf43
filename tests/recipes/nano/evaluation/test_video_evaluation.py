"""The evaluation of videos: a perfect model scores 100%, one without motion the chance level."""

from __future__ import annotations

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
    VideoScene,
    full_video_caption,
    held_out_motions,
    render_video,
    video_answer,
)

pytest.importorskip("skimage", reason="classifying icons needs the extra nano")

from recipes.nano.evaluation import NearestIconClassifier, evaluate_videos, icon_classifier
from recipes.nano.evaluation.icon_features import Pixels
from recipes.nano.evaluation.video_evaluation import choose_scenes

SAMPLES = 3


class Result(NamedTuple):
    frames: Tensor


@pytest.fixture(scope="module")
def classifier(icons: Icons) -> Iterator[NearestIconClassifier]:
    """A classifier by thumbnails, which is fast and sufficient for fake icons."""

    def features(image: Pixels) -> NDArray[np.float32]:
        return (image.reshape(16, 4, 16, 4, 3).mean((1, 3)).ravel() / 255).astype(np.float32)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(icon_classifier, "image_features", features)
        yield NearestIconClassifier.build(icons, backgrounds=["white"])


class Oracle:
    """Knows the scenes of the evaluation, and has a lossless tokenizer."""

    def __init__(self, icons: Icons) -> None:
        self.icons, hidden = icons, held_out_motions()
        self.scenes: list[VideoScene] = []
        for stream, pairs in enumerate((~hidden, hidden)):
            self.scenes += choose_scenes(np.random.default_rng((0, 2, stream)), pairs, SAMPLES)

    def render(self, scene: VideoScene, frames: int) -> Result:
        return Result(torch.from_numpy(render_video(replace(scene, frames=frames), self.icons)))

    def video(self, prompt: str, *, seconds: float, fps: float, **settings: Any) -> Result:
        (scene,) = {s.object: s for s in self.scenes if full_video_caption(s) == prompt}.values()
        return self.render(scene, round(seconds * fps))

    def extend(
        self, frames: Iterator[Frame], *, seconds: float, fps: float, **settings: Any
    ) -> Result:
        given = list(frames)
        return self.render(self.find(given), len(given) + round(seconds * fps))

    def find(self, frames: Sequence[Frame]) -> VideoScene:
        for scene in self.scenes:
            if np.array_equal(render_video(scene, self.icons), np.stack(frames)):
                return scene
        raise AssertionError("an unknown video")

    def chat(self, text: str, *, videos: Sequence[Clip], max_new_tokens: int) -> str:
        kind = "object" if "What" in text else "motion"
        return video_answer(self.find(list(videos[0].frames)), kind).upper() + "."

    def encode(self, frames: Tensor) -> Tensor:
        return frames

    def decode(self, codes: Tensor) -> Tensor:
        return codes


class Still(Oracle):
    """Shows the object without motion, and has no answers."""

    def render(self, scene: VideoScene, frames: int) -> Result:
        return Result(super().render(scene, 1).frames.expand(frames, -1, -1, -1))

    def chat(self, text: str, *, videos: Sequence[Clip], max_new_tokens: int) -> str:
        return "I do not know"


@pytest.mark.slow
def test_perfect_model_scores_all(icons: Icons, classifier: NearestIconClassifier) -> None:
    report = evaluate_videos(Oracle(icons), samples=SAMPLES, icons=icons, classifier=classifier)
    for metrics in (report.seen, report.held_out):
        assert (metrics.n, metrics.means["psnr"]) == (SAMPLES, 100)
        gain = metrics.means["psnr_gain"]
        assert gain is not None
        assert gain > 50, "exact, against repeating the last frame"
        for name, each in metrics.proportions.items():
            # Fake icons cut out of a video are sometimes rotated or half visible.
            assert each.value >= each.upper_bound or name == "extension_object_after_15_s", name
        assert metrics.proportions["generation_motion"].value == 1
        assert metrics.proportions["question_motion"].hits == SAMPLES


@pytest.mark.slow
def test_model_without_motion_gains_nothing(
    icons: Icons, classifier: NearestIconClassifier
) -> None:
    report = evaluate_videos(Still(icons), samples=SAMPLES, icons=icons, classifier=classifier)
    for metrics in (report.seen, report.held_out):
        gain = metrics.means["psnr_gain"]
        assert gain is not None
        assert gain < 3
        for name in ("question_motion", "question_object"):
            assert metrics.proportions[name].hits == 0
        assert metrics.proportions["generation_motion"].value < 0.5
        assert metrics.proportions["generation_motion"].upper_bound == 1


@pytest.mark.parametrize(
    ("settings", "words"), [({"samples": 0}, "samples"), ({"seed": -1}, "seed")]
)
def test_impossible_settings_are_refused(
    icons: Icons, classifier: NearestIconClassifier, settings: dict[str, int], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        evaluate_videos(Oracle(icons), icons=icons, classifier=classifier, **settings)
