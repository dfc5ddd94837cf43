"""The evaluation of nano on Emoji World in motion: clips drawn, asked about, and gone on with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from emu3.processing.video import Clip
from emu3.progress import count_progress
from recipes.nano.emoji_world import (
    MOTIONS,
    OBJECTS,
    Icons,
    MovingScene,
    clip_answer,
    compose_clip,
    full_clip_caption,
    held_out,
    held_out_motions,
    random_moving_scene,
)
from recipes.nano.emoji_world.motion import BEAT, BEHIND, SLIDES
from recipes.nano.emoji_world.video_captions import ClipKind, direction
from recipes.nano.evaluation.icon_classifier import Judge
from recipes.nano.evaluation.image_metrics import psnr
from recipes.nano.evaluation.proportions import Share, same_answer
from recipes.nano.evaluation.protocols import Emu3Films
from recipes.nano.evaluation.report import DrawingSettings
from recipes.nano.evaluation.setup import check_asked, opened
from recipes.nano.evaluation.tracking import Frames, Track, cut_out, follow, nearest_motion
from recipes.nano.evaluation.video_contact_sheets import save_clips
from recipes.nano.evaluation.video_report import MovingFigures, MovingReport

FPS, SECONDS = 8, 2
"""Of every clip that is measured: sixteen frames, four groups."""

_FRAMES = FPS * SECONDS
_STEPS = 5  # of a clip: come back, be drawn, be asked about twice, go on
_VIEW, _OF = 64, 48  # px: a frame as the judge knows it, and the side of what stands in it
ASKED: dict[str, tuple[ClipKind, str, float]] = {
    "asked_motion": ("motion", "How does it move?", 1 / len(MOTIONS)),
    "asked_object": ("object", "What is moving?", 1 / len(OBJECTS)),
}
"""Each question about a clip: its kind, its wording, and the share that guessing gets."""

FAR, FAR_CLIPS = 15, 20
"""Seconds that some clips are gone on for before their object is judged again, and how many.

Fifteen seconds are four windows of nano's context: nine new groups behind four, then seven each.
"""


def evaluate_moving(
    model: Emu3Films,
    *,
    samples: int = 60,
    seed: int = 0,
    icons: Icons | None = None,
    sheets: Path | None = None,
    drawing: DrawingSettings | None = None,
    judge: Judge | None = None,
) -> MovingReport:
    """Measure a model on `samples` pairs of object and motion held out and as many trained on.

    With `sheets`, a folder, drawn and continued clips go to `drawn.webp` and `extended.webp` in
    there. Raises InputError, and MissingExtraError without scikit-image.
    """
    hidden = held_out_motions()
    check_asked(samples, int(hidden.sum()), seed)
    icons, judge = opened(icons, judge, sheets)
    drawing = DrawingSettings() if drawing is None else drawing
    figures = []
    with count_progress("evaluating clips", 2 * samples * _STEPS) as advance:
        for place, pairs in enumerate((~hidden, hidden)):
            rng = np.random.default_rng((seed, 2, place))
            scenes = choose_scenes(rng, pairs, samples)
            run = _Run(model, icons, judge, drawing, seed, advance)
            figures.append(run.measure(scenes, sheets if place else None))
    return MovingReport(samples, seed, drawing, *figures)


@dataclass(frozen=True)
class _Run:
    """One kind of pairs being measured."""

    model: Emu3Films
    icons: Icons
    judge: Judge
    drawing: DrawingSettings
    seed: int
    advance: Callable[[int], None]

    def measure(self, scenes: list[MovingScene], sheets: Path | None) -> MovingFigures:
        """All figures of these scenes."""
        true = [compose_clip(scene, self.icons) for scene in scenes]
        again = [self._back(clip) for clip in true]
        drawn = [self._draw(scene, self.seed + i) for i, scene in enumerate(scenes)]
        tracks = [self._tracks(scene) for scene in scenes]
        shares = self._drawing(scenes, tracks, drawn, again)
        shares |= self._questions(scenes, true)
        on, gains = self._extension(scenes, tracks, true, shares)
        if sheets is not None:
            save_clips(drawn, sheets / "drawn.webp")
            save_clips(on, sheets / "extended.webp")
        close = float(np.mean([psnr(*both) for both in zip(true, again, strict=True)]))
        gain = float(np.mean(gains)) if gains else None
        return MovingFigures(len(scenes), close, gain, shares)

    def _back(self, clip: Frames) -> Frames:
        """A clip as the tokenizer gives it back."""
        self.advance(1)
        return np.asarray(self.model.decode(self.model.encode(torch.from_numpy(clip))), np.uint8)

    def _draw(self, scene: MovingScene, seed: int) -> Frames:
        said = full_clip_caption(scene)
        out = self.model.video(said, seconds=SECONDS, fps=FPS, seed=seed, **asdict(self.drawing))
        self.advance(1)
        return _frames(out.frames)

    def _drawing(
        self,
        scenes: list[MovingScene],
        tracks: list[dict[str, Track]],
        drawn: list[Frames],
        again: list[Frames],
    ) -> dict[str, Share]:
        """What is right of drawn clips, under what is of true ones that the tokenizer gave back."""

        def moved(clips: list[Frames]) -> list[bool]:
            triples = zip(clips, tracks, scenes, strict=True)
            return [nearest_motion(clip, known) == s.motion for clip, known, s in triples]

        def shown(clips: list[Frames]) -> list[bool]:
            return [self._shows(*both) for both in zip(clips, scenes, strict=True)]

        best_motions, best_objects = (Share.of(f(again), chance=0).value for f in (moved, shown))
        return {
            "motion": Share.of(moved(drawn), chance=1 / len(MOTIONS), ceiling=best_motions),
            "object": Share.of(shown(drawn), chance=1 / len(OBJECTS), ceiling=best_objects),
        }

    def _tracks(self, scene: MovingScene) -> dict[str, Track]:
        """The track of each motion that the scene's object could be in."""
        front = scene.front if scene.front is not None else (scene.object + 1) % len(OBJECTS)
        return {
            motion: follow(
                compose_clip(
                    replace(scene, motion=motion, front=front if motion == BEHIND else None),
                    self.icons,
                )
            )
            for motion in MOTIONS
        }

    def _shows(self, clip: Frames, scene: MovingScene) -> bool:
        """Whether the object is what the judge sees in the first frame, in its style."""
        side = scene.pose(0).side
        # What stands in front would be looked at instead: cut it off.
        frame = clip[0][:, : scene.x + side // 2 + 4] if scene.motion == BEHIND else clip[0]
        return self._named(frame, scene, side)

    def _named(self, frame: NDArray[np.uint8], scene: MovingScene, side: int) -> bool:
        """Whether the judge sees the object, so many pixels large, made as large as it knows it."""
        cut = Image.fromarray(cut_out(frame, min(_VIEW, side * _VIEW // _OF)))
        view = cut.resize((_VIEW, _VIEW), Image.Resampling.LANCZOS)
        return self.judge.nearest(np.asarray(view), scene.style) == scene.object

    def _questions(self, scenes: list[MovingScene], true: list[Frames]) -> dict[str, Share]:
        """How many answers about true clips are exact."""
        shares = {}
        for name, (kind, text, chance) in ASKED.items():
            right = []
            for scene, clip in zip(scenes, true, strict=True):
                said = self.model.chat(text, videos=[Clip(iter(clip), FPS)], max_new_tokens=48)
                right.append(same_answer(said, clip_answer(scene, kind)))
                self.advance(1)
            shares[name] = Share.of(right, chance=chance)
        return shares

    def _extension(
        self,
        scenes: list[MovingScene],
        tracks: list[dict[str, Track]],
        true: list[Frames],
        shares: dict[str, Share],
    ) -> tuple[list[Frames], list[float]]:
        """Clips gone on with; how much nearer to the truth, in dB, than the last frame repeated.

        Whether the direction was kept, and the object after some windows, goes into `shares`.
        """
        on: list[Frames] = []
        gains: list[float] = []
        kept: list[bool] = []
        kept_silently: list[bool] = []
        still_there: list[bool] = []
        for index, (scene, clip) in enumerate(zip(scenes, true, strict=True)):
            slides = direction(scene) is not None
            frames = self._extend(clip, SECONDS, self.seed + index)
            self.advance(1)
            on.append(frames)
            longer = compose_clip(replace(scene, frames=2 * _FRAMES), self.icons)[_FRAMES:]
            if (np.diff(longer[::BEAT].astype(int), axis=0) != 0).any((1, 2, 3)).mean() > 0.5:
                repeated = np.repeat(clip[-1:], _FRAMES, 0)
                gains.append(psnr(longer, frames[_FRAMES:]) - psnr(longer, repeated))
            if slides:
                known = {m: t for m, t in tracks[index].items() if m.startswith("moving ")}
                kept.append(nearest_motion(frames[_FRAMES:], known) == scene.motion)
                silent = self._extend(clip, SECONDS, self.seed + index, prompt="")
                kept_silently.append(nearest_motion(silent[_FRAMES:], known) == scene.motion)
            if slides and len(still_there) < FAR_CLIPS:
                far = self._extend(clip, FAR, self.seed + index)
                still_there.append(self._named(far[-1], scene, scene.pose(0).side))
        shares["direction_kept"] = Share.of(kept, chance=1 / len(SLIDES))
        shares["direction_kept_silently"] = Share.of(kept_silently, chance=1 / len(SLIDES))
        shares["object_kept"] = Share.of(still_there, chance=1 / len(OBJECTS))
        return on, gains

    def _extend(self, clip: Frames, seconds: float, seed: int, prompt: str | None = None) -> Frames:
        """The clip gone on with; a model that can tell what it sees does, unless it is prompted.

        Guided as it is by default: that of drawing is for words that are asked for.
        """
        settings = asdict(self.drawing) | {"prompt": prompt, "fps": FPS, "seed": seed}
        del settings["guidance_scale"]
        return _frames(self.model.extend(iter(clip), seconds=seconds, **settings).frames)


def choose_scenes(
    rng: np.random.Generator, pairs: NDArray[np.bool_], count: int
) -> list[MovingScene]:
    """So many different pairs of object and motion, each in a style that the object was seen in."""
    rows, names, styles = np.argwhere(pairs), list(MOTIONS), ~held_out()
    scenes = []
    for thing, motion in rows[np.sort(rng.permutation(len(rows))[:count])]:
        style = int(rng.choice(np.flatnonzero(styles[thing])))
        scene = random_moving_scene(rng, int(thing), style, names[motion])
        scenes.append(replace(scene, frames=_FRAMES, fps=FPS, still=0))
    return scenes


def _frames(frames: object) -> Frames:
    return np.asarray(frames, np.uint8)
