"""The evaluation of nano on Emoji World: drawing from text, and answering about pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from emu3.errors import InputError
from emu3.progress import count_progress
from recipes.nano.emoji_world import (
    BACKGROUNDS,
    OBJECTS,
    RATIOS,
    STYLES,
    Icons,
    Kind,
    Scene,
    answer,
    compose,
    full_caption,
    held_out_pairs,
    random_scene,
    seen_pairs,
    usual_scene,
    with_article,
)
from recipes.nano.evaluation.contact_sheets import save_sheet
from recipes.nano.evaluation.features import Pixels
from recipes.nano.evaluation.icon_classifier import Judge, background_of
from recipes.nano.evaluation.image_metrics import pixels_of, quality, square_scene
from recipes.nano.evaluation.proportions import Share, same_answer
from recipes.nano.evaluation.protocols import Emu3Like
from recipes.nano.evaluation.report import DrawingSettings, Figures, NanoReport
from recipes.nano.evaluation.setup import check_asked, opened

T = TypeVar("T")

BATCH = 24
"""Prompts and questions that the model is given at a time."""

ASKED: dict[str, tuple[Kind, str, float]] = {
    "naming": ("object", "What is this?", 1 / len(OBJECTS)),
    "question_style": ("style", "Which style is it?", 1 / len(STYLES)),
    "question_background": ("background", "What colour is the background?", 1 / len(BACKGROUNDS)),
}
"""Each question about a picture: its kind, its wording, and the share that guessing gets."""

# For each pair: reconstruct a scene and a square of each style, draw twice, ask.
_STEPS = 1 + len(STYLES) + 2 + len(ASKED)


def evaluate_nano(
    model: Emu3Like,
    *,
    samples: int = 120,
    seed: int = 0,
    icons: Icons | None = None,
    sheets: Path | None = None,
    drawing: DrawingSettings | None = None,
    judge: Judge | None = None,
) -> NanoReport:
    """Measure a model on `samples` (at most 120) pairs held out and as many trained on.

    With `sheets`, a folder, the drawings go to `seen.png` and `held_out.png` in there. Icons and
    judge are made if not given. Raises InputError, and MissingExtraError without scikit-image.
    """
    held, seen = held_out_pairs(), seen_pairs()
    check_asked(samples, len(held), seed)
    icons, judge = opened(icons, judge, sheets)
    drawing = DrawingSettings() if drawing is None else drawing
    figures = []
    with count_progress("evaluating", 2 * samples * _STEPS) as advance:
        for place, (name, pairs) in enumerate({"seen": seen, "held_out": held}.items()):
            rng = np.random.default_rng((seed, place))
            run = _Run(model, icons, judge, drawing, rng, advance)
            sheet = None if sheets is None else sheets / f"{name}.png"
            figures.append(run.measure(_choose(pairs, samples, rng), sheet))
    return NanoReport(samples, seed, drawing, *figures)


@dataclass(frozen=True)
class _Run:
    """One kind of pairs being measured; `rng` decides everything that is left to chance."""

    model: Emu3Like
    icons: Icons
    judge: Judge
    drawing: DrawingSettings
    rng: np.random.Generator
    advance: Callable[[int], None]

    def measure(self, pairs: NDArray[np.int64], sheet: Path | None) -> Figures:
        """All figures of these pairs, rows of (object, style)."""
        rows = [(int(thing), int(style)) for thing, style in pairs]
        scenes = [random_scene(self.rng, *row) for row in rows]
        squares = [square_scene(self.rng, *row) for row in rows]
        close = np.array([quality(*both) for both in self._reconstruct(scenes)])
        drawn = self._draw([_prompt(*row) for row in rows])
        shares = self._drawing(drawn, rows, squares)
        shares |= {name: self._ask(name, scenes) for name in ASKED}
        if sheet is not None:
            true = [compose(usual_scene(*row, "white"), self.icons) for row in rows]
            save_sheet(drawn, true, self._right(drawn, rows)[0], sheet)
        psnr, ssim = (float(mean) for mean in close.mean(0))
        return Figures(len(scenes), psnr, ssim, shares)

    def _drawing(
        self, drawn: list[Pixels], rows: list[tuple[int, int]], squares: list[Scene]
    ) -> dict[str, Share]:
        """What is right of the drawings, and of those that name a background besides."""
        # The model draws squares, so its ceiling is what survives the tokenizer in squares.
        best = [again for _, again in self._reconstruct(squares)]
        on_colour = self._draw([full_caption(scene) for scene in squares])
        objects, styles = self._right(drawn, rows)
        best_objects, best_styles = self._right(best, rows)
        pairs, best_pairs = _both(objects, styles), _both(best_objects, best_styles)
        colours, best_colours = (_right_backgrounds(p, squares) for p in (on_colour, best))
        return {
            "drawing": _share(objects, best_objects, len(OBJECTS)),
            "drawing_style": _share(styles, best_styles, len(STYLES)),
            # What one would get who draws as well as can be, and never in the style asked for.
            "drawing_copied": _share(self._copied(squares), best_objects, len(OBJECTS)),
            # The strictest of all.
            "drawing_pair": _share(pairs, best_pairs, len(OBJECTS) * len(STYLES)),
            "drawing_background": _share(colours, best_colours, len(BACKGROUNDS)),
        }

    def _copied(self, squares: list[Scene]) -> list[bool]:
        """Which true pictures in the other styles pass for their object in the style asked for."""
        right: list[bool] = []
        for turn in range(1, len(STYLES)):
            turned = [replace(s, style=(s.style + turn) % len(STYLES)) for s in squares]
            pictures = [again for _, again in self._reconstruct(turned)]
            right += self._right(pictures, [(s.object, s.style) for s in squares])[0]
        return right

    def _reconstruct(self, scenes: list[Scene]) -> list[tuple[Pixels, Pixels]]:
        """Each scene and what the tokenizer makes of it, both uint8 [H, W, 3]."""
        pairs = []
        for scene in scenes:
            pixels = compose(scene, self.icons)
            again = pixels_of(self.model.decode(self.model.encode(Image.fromarray(pixels))))
            if again.shape != pixels.shape:
                raise InputError(f"the tokenizer turned {pixels.shape} px into {again.shape}")
            pairs.append((pixels, again))
            self.advance(1)
        return pairs

    def _draw(self, prompts: list[str]) -> list[Pixels]:
        pictures = []
        for batch in _batches(prompts):
            seed = int(self.rng.integers(2**31))
            done = self.model.image(
                batch, ratio=RATIOS[0], num_images=1, seed=seed, **asdict(self.drawing)
            )
            if len(done.images) != len(batch):
                raise InputError(f"the model drew {len(done.images)} of {len(batch)} pictures")
            pictures += [pixels_of(picture) for picture in done.images]
            self.advance(len(batch))
        return pictures

    def _ask(self, name: str, scenes: list[Scene]) -> Share:
        """How many answers are exact, but for case, outer spaces and a full stop."""
        kind, question, chance = ASKED[name]
        right: list[bool] = []
        for batch in _batches(scenes):
            images = [Image.fromarray(compose(scene, self.icons)) for scene in batch]
            texts = [question] * len(batch)
            said = self.model.chat_batch(texts, images, max_new_tokens=32)
            for text, scene in zip(said, batch, strict=True):
                right.append(same_answer(text, answer(scene, kind)))
            self.advance(len(batch))
        return Share.of(right, chance=chance)

    def _right(
        self, pictures: list[Pixels], rows: list[tuple[int, int]]
    ) -> tuple[list[bool], list[bool]]:
        """Which show their object, among those of the style, and which are in their style."""
        known = list(zip(pictures, rows, strict=True))
        objects = [self.judge.nearest(picture, style) == thing for picture, (thing, style) in known]
        return objects, [self.judge.style_of(picture) == style for picture, (_, style) in known]


def _share(right: list[bool], best: list[bool], choices: int) -> Share:
    """What is right of the drawings, under what is of the tokenizer's true pictures."""
    return Share.of(right, chance=1 / choices, ceiling=Share.of(best, chance=0).value)


def _both(a: list[bool], b: list[bool]) -> list[bool]:
    return [x and y for x, y in zip(a, b, strict=True)]


def _right_backgrounds(pictures: list[Pixels], scenes: list[Scene]) -> list[bool]:
    known = zip(pictures, scenes, strict=True)
    return [background_of(picture) == scene.background for picture, scene in known]


def _prompt(thing: int, style: int) -> str:
    return f"{with_article(OBJECTS[thing])}, {STYLES[style]} style"


def _choose(pairs: NDArray[np.int64], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """`count` different rows by chance, in their old order; all of them if there are no more."""
    return pairs[np.sort(rng.permutation(len(pairs))[:count])]


def _batches(items: list[T]) -> Iterator[list[T]]:
    for start in range(0, len(items), BATCH):
        yield items[start : start + BATCH]
