"""Images of Emoji World: reconstruction, generation from captions, and questions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from emu3.errors import InputError
from emu3.evaluation import Proportion, exact_match, psnr, save_contact_sheet, ssim
from emu3.progress import count_progress
from recipes.nano.emoji_world import (
    BACKGROUNDS,
    OBJECTS,
    RATIOS,
    STYLES,
    Icons,
    QuestionKind,
    Scene,
    answer,
    centred_scene,
    full_caption,
    held_out_pairs,
    random_scene,
    render_scene,
    seen_pairs,
    with_article,
)
from recipes.nano.evaluation.icon_classifier import NearestIconClassifier, classify_background
from recipes.nano.evaluation.icon_features import Pixels
from recipes.nano.evaluation.protocols import ImageModel
from recipes.nano.evaluation.report import Metrics, Report, SamplingSettings, check_arguments

T = TypeVar("T")

BATCH = 24
"""Prompts and questions per call of the model."""

QUESTIONS: dict[str, tuple[QuestionKind, str, float]] = {
    "question_object": ("object", "What is this?", 1 / len(OBJECTS)),
    "question_style": ("style", "Which style is it?", 1 / len(STYLES)),
    "question_background": ("background", "What colour is the background?", 1 / len(BACKGROUNDS)),
}
"""Metric to the kind of question, its wording, and the proportion that guessing gets."""

# For each pair: reconstruct a scene and a square of each style, generate twice, ask.
_STEPS_PER_PAIR = 1 + len(STYLES) + 2 + len(QUESTIONS)


def evaluate_images(
    model: ImageModel,
    *,
    icons: Icons,
    classifier: NearestIconClassifier,
    samples: int = 120,
    seed: int = 0,
    sheets: Path | None = None,
    sampling: SamplingSettings | None = None,
) -> Report:
    """Measure a model on `samples` (at most 120) held-out pairs and as many seen ones.

    With `sheets`, a folder, contact sheets of the generated images go to `seen.png` and
    `held_out.png` in it. Raises InputError, and MissingExtraError without scikit-image.
    """
    kinds = {"seen": seen_pairs(), "held_out": held_out_pairs()}
    check_arguments(samples, len(kinds["held_out"]), seed)
    sampling = SamplingSettings() if sampling is None else sampling
    if sheets is not None:
        sheets.mkdir(parents=True, exist_ok=True)
    metrics = []
    with count_progress("evaluating images", 2 * samples * _STEPS_PER_PAIR) as advance:
        for stream, (name, pairs) in enumerate(kinds.items()):
            rng = np.random.default_rng((seed, stream))
            run = _Run(model, icons, classifier, sampling, rng, advance)
            sheet = None if sheets is None else sheets / f"{name}.png"
            metrics.append(run.measure(choose_rows(pairs, samples, rng), sheet))
    return Report("images", samples, seed, sampling, *metrics)


@dataclass(frozen=True)
class _Run:
    """The evaluation of one kind of pairs; `rng` makes every random choice."""

    model: ImageModel
    icons: Icons
    classifier: NearestIconClassifier
    sampling: SamplingSettings
    rng: np.random.Generator
    advance: Callable[[int], None]

    def measure(self, pairs: NDArray[np.int64], sheet: Path | None) -> Metrics:
        """All metrics of these pairs, rows of (object, style)."""
        rows = [(int(index), int(style)) for index, style in pairs]
        scenes = [random_scene(self.rng, *row) for row in rows]
        squares = [square_scene(self.rng, *row) for row in rows]
        reconstructions = self._reconstruct(scenes)
        generated = self._generate([_short_caption(*row) for row in rows])
        proportions = self._generation(generated, rows, squares)
        proportions |= {name: self._ask(name, scenes) for name in QUESTIONS}
        if sheet is not None:
            expected = [render_scene(centred_scene(*row, "white"), self.icons) for row in rows]
            save_contact_sheet(generated, expected, self._classify(generated, rows)[0], sheet)
        means: dict[str, float | None] = {
            name: float(np.mean([metric(*each) for each in reconstructions]))
            for name, metric in (("psnr", psnr), ("ssim", ssim))
        }
        return Metrics(len(scenes), means, proportions)

    def _generation(
        self, generated: list[Pixels], rows: list[tuple[int, int]], squares: list[Scene]
    ) -> dict[str, Proportion]:
        """What is correct in the generated images, and in those whose caption has a background."""
        # The model generates squares, so the upper bound is measured on reconstructed squares.
        true = [reconstruction for _, reconstruction in self._reconstruct(squares)]
        with_background = self._generate([full_caption(scene) for scene in squares])
        objects, styles = self._classify(generated, rows)
        true_objects, true_styles = self._classify(true, rows)
        both, true_both = _and(objects, styles), _and(true_objects, true_styles)
        colours, true_colours = (
            _correct_backgrounds(images, squares) for images in (with_background, true)
        )
        return {
            "generation_object": _bounded(objects, true_objects, len(OBJECTS)),
            "generation_style": _bounded(styles, true_styles, len(STYLES)),
            # What a model would get that always copied the object from another style.
            "copy_from_other_style": _bounded(
                self._other_styles(squares), true_objects, len(OBJECTS)
            ),
            "generation_object_and_style": _bounded(both, true_both, len(OBJECTS) * len(STYLES)),
            "generation_background": _bounded(colours, true_colours, len(BACKGROUNDS)),
        }

    def _other_styles(self, squares: list[Scene]) -> list[bool]:
        """Which true images of the other styles are classified as the object in the given style."""
        correct: list[bool] = []
        for shift in range(1, len(STYLES)):
            others = [replace(s, style=(s.style + shift) % len(STYLES)) for s in squares]
            images = [reconstruction for _, reconstruction in self._reconstruct(others)]
            correct += self._classify(images, [(s.object, s.style) for s in squares])[0]
        return correct

    def _reconstruct(self, scenes: list[Scene]) -> list[tuple[Pixels, Pixels]]:
        """Each scene and its reconstruction by the vision tokenizer, both uint8 [H, W, 3]."""
        pairs = []
        for scene in scenes:
            pixels = render_scene(scene, self.icons)
            codes = self.model.encode(Image.fromarray(pixels))
            reconstruction = _pixels(self.model.decode(codes))
            if reconstruction.shape != pixels.shape:
                raise InputError(
                    f"the tokenizer turned {pixels.shape} px into {reconstruction.shape}"
                )
            pairs.append((pixels, reconstruction))
            self.advance(1)
        return pairs

    def _generate(self, prompts: list[str]) -> list[Pixels]:
        images = []
        for batch in _batches(prompts):
            seed = int(self.rng.integers(2**31))
            result = self.model.image(
                batch, ratio=RATIOS[0], num_images=1, seed=seed, **asdict(self.sampling)
            )
            if len(result.images) != len(batch):
                raise InputError(f"the model generated {len(result.images)} of {len(batch)} images")
            images += [_pixels(image) for image in result.images]
            self.advance(len(batch))
        return images

    def _ask(self, name: str, scenes: list[Scene]) -> Proportion:
        """Exact answers to one question about each scene."""
        kind, question, chance = QUESTIONS[name]
        correct: list[bool] = []
        for batch in _batches(scenes):
            images = [Image.fromarray(render_scene(scene, self.icons)) for scene in batch]
            answers = self.model.chat_batch([question] * len(batch), images, max_new_tokens=32)
            for text, scene in zip(answers, batch, strict=True):
                correct.append(exact_match(text, answer(scene, kind)))
            self.advance(len(batch))
        return Proportion.of(correct, chance=chance)

    def _classify(
        self, images: list[Pixels], rows: list[tuple[int, int]]
    ) -> tuple[list[bool], list[bool]]:
        """Which images show their object, among those of the style, and which their style."""
        pairs = list(zip(images, rows, strict=True))
        objects = [
            self.classifier.classify(image, style) == index for image, (index, style) in pairs
        ]
        styles = [self.classifier.classify_style(image) == style for image, (_, style) in pairs]
        return objects, styles


def square_scene(rng: np.random.Generator, index: int, style: int) -> Scene:
    """A random scene of the training distribution, in a square image."""
    while True:
        scene = random_scene(rng, index, style)
        if scene.ratio == RATIOS[0]:
            return scene


def choose_rows(
    pairs: NDArray[np.int64], count: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """`count` different rows at random, in their old order; all of them if there are no more."""
    return pairs[np.sort(rng.permutation(len(pairs))[:count])]


def _pixels(image: object) -> Pixels:
    """An image as uint8 [H, W, 3], RGB; raises InputError if a model returned something else."""
    if not isinstance(image, Image.Image):
        raise InputError(f"the model returned {type(image).__name__}, not an image")
    return np.asarray(image.convert("RGB"))


def _bounded(correct: list[bool], true: list[bool], choices: int) -> Proportion:
    """A proportion whose upper bound is that of true images passed through the tokenizer."""
    bound = Proportion.of(true, chance=0).value
    return Proportion.of(correct, chance=1 / choices, upper_bound=bound)


def _and(a: list[bool], b: list[bool]) -> list[bool]:
    return [x and y for x, y in zip(a, b, strict=True)]


def _correct_backgrounds(images: list[Pixels], scenes: list[Scene]) -> list[bool]:
    pairs = zip(images, scenes, strict=True)
    return [classify_background(image) == scene.background for image, scene in pairs]


def _short_caption(index: int, style: int) -> str:
    return f"{with_article(OBJECTS[index])}, {STYLES[style]} style"


def _batches(items: list[T]) -> Iterator[list[T]]:
    for start in range(0, len(items), BATCH):
        yield items[start : start + BATCH]
