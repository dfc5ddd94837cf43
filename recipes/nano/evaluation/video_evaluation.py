"""Videos of Emoji World: generation from captions, questions about videos, and continuation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from emu3.evaluation import Proportion, exact_match, psnr, save_video_contact_sheet
from emu3.processing.video import Clip
from emu3.progress import count_progress
from recipes.nano.emoji_world import (
    MOTIONS,
    OBJECTS,
    Icons,
    VideoQuestionKind,
    VideoScene,
    full_video_caption,
    held_out_mask,
    held_out_motions,
    random_video_scene,
    render_video,
    video_answer,
)
from recipes.nano.emoji_world.motion import DIRECTIONS, FRAMES_PER_POSE, OCCLUSION
from recipes.nano.emoji_world.video_captions import direction_of
from recipes.nano.evaluation.icon_classifier import NearestIconClassifier
from recipes.nano.evaluation.protocols import VideoModel
from recipes.nano.evaluation.report import Metrics, Report, SamplingSettings, check_arguments
from recipes.nano.evaluation.tracking import (
    Frames,
    Track,
    classify_motion,
    crop_object,
    track_object,
)

FPS, SECONDS = 8, 2
"""Of every video that is measured: sixteen frames, four frames of codes."""

_FRAMES = FPS * SECONDS
_STEPS_PER_PAIR = 5  # reconstruct, generate, ask twice, extend
_VIEW, _VIEWED_SPRITE = 64, 48  # px: sides of the classifier's references and of their icons

QUESTIONS: dict[str, tuple[VideoQuestionKind, str, float]] = {
    "question_motion": ("motion", "How does it move?", 1 / len(MOTIONS)),
    "question_object": ("object", "What is moving?", 1 / len(OBJECTS)),
}
"""Metric to the kind of question, its wording, and the proportion that guessing gets."""

LONG_SECONDS, LONG_VIDEOS = 15, 20
"""Seconds by which some videos are extended before their object is classified, and how many.

Fifteen seconds take four context windows: four given frames of codes and nine new ones, then seven
new ones each.
"""


def evaluate_videos(
    model: VideoModel,
    *,
    icons: Icons,
    classifier: NearestIconClassifier,
    samples: int = 60,
    seed: int = 0,
    sheets: Path | None = None,
    sampling: SamplingSettings | None = None,
) -> Report:
    """Measure a model on `samples` held-out pairs of object and motion and as many seen ones.

    With `sheets`, a folder, contact sheets of held-out pairs go to `drawn.webp` (generated) and
    `extended.webp` in it. Raises InputError, and MissingExtraError without scikit-image.
    """
    hidden = held_out_motions()
    check_arguments(samples, int(hidden.sum()), seed)
    sampling = SamplingSettings() if sampling is None else sampling
    if sheets is not None:
        sheets.mkdir(parents=True, exist_ok=True)
    metrics = []
    with count_progress("evaluating videos", 2 * samples * _STEPS_PER_PAIR) as advance:
        for stream, pairs in enumerate((~hidden, hidden)):
            rng = np.random.default_rng((seed, 2, stream))
            scenes = choose_scenes(rng, pairs, samples)
            run = _Run(model, icons, classifier, sampling, seed, advance)
            metrics.append(run.measure(scenes, sheets if stream else None))
    return Report("videos", samples, seed, sampling, *metrics)


@dataclass(frozen=True)
class _Run:
    """The evaluation of one kind of pairs."""

    model: VideoModel
    icons: Icons
    classifier: NearestIconClassifier
    sampling: SamplingSettings
    seed: int
    advance: Callable[[int], None]

    def measure(self, scenes: list[VideoScene], sheets: Path | None) -> Metrics:
        """All metrics of these scenes."""
        true = [render_video(scene, self.icons) for scene in scenes]
        reconstructed = [self._reconstruct(video) for video in true]
        generated = [self._generate(scene, self.seed + i) for i, scene in enumerate(scenes)]
        tracks = [self._tracks(scene) for scene in scenes]
        proportions = self._generation(scenes, tracks, generated, reconstructed)
        proportions |= self._questions(scenes, true)
        extended, gains = self._extension(scenes, tracks, true, proportions)
        if sheets is not None:
            save_video_contact_sheet(generated, sheets / "drawn.webp")
            save_video_contact_sheet(extended, sheets / "extended.webp")
        means = {
            "psnr": float(np.mean([psnr(*each) for each in zip(true, reconstructed, strict=True)])),
            "psnr_gain": float(np.mean(gains)) if gains else None,
        }
        return Metrics(len(scenes), means, proportions)

    def _reconstruct(self, video: Frames) -> Frames:
        """A video passed through the vision tokenizer."""
        self.advance(1)
        return np.asarray(self.model.decode(self.model.encode(torch.from_numpy(video))), np.uint8)

    def _generate(self, scene: VideoScene, seed: int) -> Frames:
        prompt, settings = full_video_caption(scene), asdict(self.sampling)
        out = self.model.video(prompt, seconds=SECONDS, fps=FPS, seed=seed, **settings)
        self.advance(1)
        return np.asarray(out.frames, np.uint8)

    def _generation(
        self,
        scenes: list[VideoScene],
        tracks: list[dict[str, Track]],
        generated: list[Frames],
        reconstructed: list[Frames],
    ) -> dict[str, Proportion]:
        """Motions and objects of generated videos, bounded by those of reconstructed true ones."""

        def motions(videos: list[Frames]) -> list[bool]:
            triples = zip(videos, tracks, scenes, strict=True)
            return [classify_motion(v, candidates) == s.motion for v, candidates, s in triples]

        def objects(videos: list[Frames]) -> list[bool]:
            return [self._shows_object(*pair) for pair in zip(videos, scenes, strict=True)]

        best_motions, best_objects = (
            Proportion.of(metric(reconstructed), chance=0).value for metric in (motions, objects)
        )
        return {
            "generation_motion": Proportion.of(
                motions(generated), chance=1 / len(MOTIONS), upper_bound=best_motions
            ),
            "generation_object": Proportion.of(
                objects(generated), chance=1 / len(OBJECTS), upper_bound=best_objects
            ),
        }

    def _tracks(self, scene: VideoScene) -> dict[str, Track]:
        """The track of the scene's object in each motion."""
        occluder = scene.occluder
        if occluder is None:
            occluder = (scene.object + 1) % len(OBJECTS)
        return {
            motion: track_object(
                render_video(
                    replace(
                        scene, motion=motion, occluder=occluder if motion == OCCLUSION else None
                    ),
                    self.icons,
                )
            )
            for motion in MOTIONS
        }

    def _shows_object(self, video: Frames, scene: VideoScene) -> bool:
        """Whether the first frame is classified as the object, among those of its style."""
        size, frame = scene.pose(0).size, video[0]
        if scene.motion == OCCLUSION:  # the occluder would be classified instead
            frame = frame[:, : scene.x + size // 2 + 4]
        return self._is_object(frame, scene, size)

    def _is_object(self, frame: NDArray[np.uint8], scene: VideoScene, size: int) -> bool:
        """Whether the object, `size` pixels large, is classified correctly at reference size."""
        crop = Image.fromarray(crop_object(frame, min(_VIEW, size * _VIEW // _VIEWED_SPRITE)))
        view = crop.resize((_VIEW, _VIEW), Image.Resampling.LANCZOS)
        return self.classifier.classify(np.asarray(view), scene.style) == scene.object

    def _questions(self, scenes: list[VideoScene], true: list[Frames]) -> dict[str, Proportion]:
        """Exact answers about true videos."""
        proportions = {}
        for name, (kind, text, chance) in QUESTIONS.items():
            correct = []
            for scene, video in zip(scenes, true, strict=True):
                clip = Clip(iter(video), FPS)
                answer = self.model.chat(text, videos=[clip], max_new_tokens=48)
                correct.append(exact_match(answer, video_answer(scene, kind)))
                self.advance(1)
            proportions[name] = Proportion.of(correct, chance=chance)
        return proportions

    def _extension(
        self,
        scenes: list[VideoScene],
        tracks: list[dict[str, Track]],
        true: list[Frames],
        proportions: dict[str, Proportion],
    ) -> tuple[list[Frames], list[float]]:
        """Extended videos, and their PSNR in dB minus that of repeating the last frame.

        Whether the direction was kept, and the object over several context windows, is added to
        `proportions`.
        """
        extended: list[Frames] = []
        gains: list[float] = []
        same_direction: list[bool] = []
        same_direction_without_caption: list[bool] = []
        same_object: list[bool] = []
        for index, (scene, video) in enumerate(zip(scenes, true, strict=True)):
            slides = direction_of(scene) is not None
            frames = self._extend(video, SECONDS, self.seed + index)
            self.advance(1)
            extended.append(frames)
            expected = render_video(replace(scene, frames=2 * _FRAMES), self.icons)[_FRAMES:]
            poses = expected[::FRAMES_PER_POSE].astype(int)
            if (np.diff(poses, axis=0) != 0).any((1, 2, 3)).mean() > 0.5:
                repeated = np.repeat(video[-1:], _FRAMES, 0)
                gains.append(psnr(expected, frames[_FRAMES:]) - psnr(expected, repeated))
            if slides:
                candidates = {m: t for m, t in tracks[index].items() if m.startswith("moving ")}
                same_direction.append(classify_motion(frames[_FRAMES:], candidates) == scene.motion)
                plain = self._extend(video, SECONDS, self.seed + index, prompt="")
                same_direction_without_caption.append(
                    classify_motion(plain[_FRAMES:], candidates) == scene.motion
                )
            if slides and len(same_object) < LONG_VIDEOS:
                long = self._extend(video, LONG_SECONDS, self.seed + index)
                same_object.append(self._is_object(long[-1], scene, scene.pose(0).size))
        proportions["extension_direction"] = Proportion.of(
            same_direction, chance=1 / len(DIRECTIONS)
        )
        proportions["extension_direction_without_caption"] = Proportion.of(
            same_direction_without_caption, chance=1 / len(DIRECTIONS)
        )
        proportions["extension_object_after_15_s"] = Proportion.of(
            same_object, chance=1 / len(OBJECTS)
        )
        return extended, gains

    def _extend(
        self, video: Frames, seconds: float, seed: int, prompt: str | None = None
    ) -> Frames:
        """The video and its continuation, which by default follows the model's own caption.

        The guidance scale is the default of `extend`; that of `sampling` belongs to generation.
        """
        settings = asdict(self.sampling) | {"prompt": prompt, "fps": FPS, "seed": seed}
        del settings["guidance_scale"]
        out = self.model.extend(iter(video), seconds=seconds, **settings)
        return np.asarray(out.frames, np.uint8)


def choose_scenes(
    rng: np.random.Generator, pairs: NDArray[np.bool_], count: int
) -> list[VideoScene]:
    """`count` different pairs of object and motion, each in a style the object was seen in."""
    rows, names, seen = np.argwhere(pairs), list(MOTIONS), ~held_out_mask()
    scenes = []
    for index, motion in rows[np.sort(rng.permutation(len(rows))[:count])]:
        style = int(rng.choice(np.flatnonzero(seen[index])))
        scene = random_video_scene(rng, int(index), style, names[motion])
        scenes.append(replace(scene, frames=_FRAMES, fps=FPS, delay=0))
    return scenes
