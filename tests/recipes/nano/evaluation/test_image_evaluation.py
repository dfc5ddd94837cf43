"""The evaluation of images: a perfect model scores 100%, a random one the chance level."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from emu3.errors import InputError
from recipes.nano.emoji_world import (
    BACKGROUNDS,
    OBJECTS,
    STYLES,
    Icons,
    Scene,
    held_out_pairs,
    render_scene,
    seen_pairs,
    with_article,
)

pytest.importorskip("skimage", reason="classifying icons needs the extra nano")

from recipes.nano.evaluation import (
    Metrics,
    NearestIconClassifier,
    SamplingSettings,
    classify_background,
    evaluate_images,
    icon_classifier,
)
from recipes.nano.evaluation.image_evaluation import BATCH, choose_rows

Pixels = NDArray[np.uint8]
COPY = "copy_from_other_style"
PROPORTIONS = {
    "generation_object",
    "generation_style",
    COPY,
    "generation_object_and_style",
    "generation_background",
    "question_object",
    "question_style",
    "question_background",
}


def blocks_of(image: Pixels) -> Pixels:
    """The 8x8 blocks of a fake icon: uint8 [8, 8, 3]."""
    visible = (image != BACKGROUNDS[classify_background(image)]).any(2)
    rows, columns = np.flatnonzero(visible.any(1)), np.flatnonzero(visible.any(0))
    if not len(rows):
        return np.zeros((8, 8, 3), np.uint8)
    y = np.linspace(rows[0], rows[-1], 17)[1::2].round().astype(int)
    x = np.linspace(columns[0], columns[-1], 17)[1::2].round().astype(int)
    return np.asarray(image[y][:, x])


@pytest.fixture(scope="module")
def classifier(icons: Icons) -> Iterator[NearestIconClassifier]:
    """A classifier by blocks alone, which is fast and sufficient for fake icons."""

    def features(image: Pixels) -> NDArray[np.float32]:
        return (blocks_of(image).ravel() / 255).astype(np.float32)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(icon_classifier, "image_features", features)
        yield NearestIconClassifier.build(icons, backgrounds=["white"])


class Result(NamedTuple):
    images: list[Image.Image]


@dataclass
class Oracle:
    """Generates the true image, knows every answer, and has a lossless tokenizer."""

    icons: Icons
    batches: list[int] = field(default_factory=list)
    settings: list[dict[str, float | str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.scenes = {}
        self.answers = {}
        for index, name in enumerate(OBJECTS):
            for style, word in enumerate(STYLES):
                text = with_article(name)
                self.scenes[f"{text}, {word} style"] = (index, style, "blue")
                for colour in BACKGROUNDS:
                    prompt = f"{text} on a {colour} background, {word} style"
                    self.scenes[prompt] = (index, style, colour)
                key = self.icons.get(index, style, 40)[2::5, 2::5, :3]
                for view in (key, key[:, ::-1]):
                    self.answers[view.tobytes()] = (text, word)

    def image(self, prompts: list[str], **settings: float | str) -> Result:
        self.batches.append(len(prompts))
        self.settings.append(settings)
        return Result([self.generate(prompt) for prompt in prompts])

    def generate(self, prompt: str) -> Image.Image:
        index, style, colour = self.scenes[prompt]
        scene = Scene(index, style, colour, "1:1", 56, 8, 0, False)
        return Image.fromarray(render_scene(scene, self.icons))

    def chat_batch(
        self, texts: list[str], images: list[Image.Image], *, max_new_tokens: int
    ) -> list[str]:
        self.batches.append(len(texts))
        return [self.answer(*both) for both in zip(texts, images, strict=True)]

    def answer(self, text: str, image: Image.Image) -> str:
        pixels = np.asarray(image)
        name, word = self.answers[blocks_of(pixels).tobytes()]
        if "background" in text:
            return classify_background(pixels)
        return word if "style" in text else name

    def encode(self, image: Image.Image) -> Tensor:
        return torch.from_numpy(np.array(image))

    def decode(self, codes: Tensor) -> Image.Image:
        return Image.fromarray(codes.numpy())


class Untidy(Oracle):
    """Correct, with other case, spaces and a full stop."""

    def answer(self, text: str, image: Image.Image) -> str:
        return f"  {super().answer(text, image).upper()}.\n"


class Wrong(Oracle):
    """The next object in the next style on another background, and answers with an addition."""

    def generate(self, prompt: str) -> Image.Image:
        index, style, colour = self.scenes[prompt]
        other = "pink" if colour == "white" else "white"
        scene = Scene((index + 1) % 400, (style + 1) % 3, other, "1:1", 56, 8, 0, False)
        return Image.fromarray(render_scene(scene, self.icons))

    def answer(self, text: str, image: Image.Image) -> str:
        return f"{super().answer(text, image)} or so"


class Random(Oracle):
    """Noise for images and random words for answers, reproducible by seed."""

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(0)

    def image(self, prompts: list[str], **settings: float | str) -> Result:
        self.rng = np.random.default_rng(int(settings["seed"]))
        return Result([self.noise(64, 64) for _ in prompts])

    def noise(self, height: int, width: int) -> Image.Image:
        return Image.fromarray(self.rng.integers(0, 256, (height, width, 3), np.uint8))

    def answer(self, text: str, image: Image.Image) -> str:
        words = STYLES if "style" in text else tuple(BACKGROUNDS)
        if "What is" in text:
            words = tuple(map(with_article, OBJECTS))
        return words[int(self.rng.integers(len(words)))]

    def decode(self, codes: Tensor) -> Image.Image:
        return self.noise(*codes.shape[:2])


def without_copy(metrics: Metrics) -> list[tuple[int, int, float]]:
    """Hits, n and upper bound of all proportions that depend on the generated images."""
    proportions = {k: v for k, v in metrics.proportions.items() if k != COPY}
    return [(each.hits, each.n, each.upper_bound) for each in proportions.values()]


def test_perfect_model_scores_all(icons: Icons, classifier: NearestIconClassifier) -> None:
    model = Oracle(icons)
    report = evaluate_images(model, samples=30, icons=icons, classifier=classifier)
    for metrics in (report.seen, report.held_out):
        assert metrics.n == 30
        assert metrics.means == {"psnr": 100, "ssim": pytest.approx(1)}
        assert set(metrics.proportions) == PROPORTIONS
        copied = metrics.proportions[COPY]
        assert (copied.hits, copied.n) == (0, 60), "fake icons of two styles are unrelated"
        assert set(without_copy(metrics)) == {(30, 30, 1)}
    assert max(model.batches) == BATCH
    assert sum(model.batches) == 2 * 30 * 5
    assert len({settings["seed"] for settings in model.settings}) == len(model.settings)
    expected = {"ratio": "1:1", "num_images": 1, **vars(SamplingSettings())}
    assert model.settings[0] == expected | {"seed": model.settings[0]["seed"]}


@pytest.mark.parametrize(("kind", "hits"), [(Wrong, 0), (Untidy, 10)])
def test_wrong_answers_and_untidy_ones(
    icons: Icons, classifier: NearestIconClassifier, kind: type[Oracle], hits: int
) -> None:
    report = evaluate_images(kind(icons), samples=10, icons=icons, classifier=classifier)
    for metrics in (report.seen, report.held_out):
        assert set(without_copy(metrics)) == {(hits, 10, 1)}


def test_object_in_another_style_is_not_object_and_style(
    icons: Icons, classifier: NearestIconClassifier
) -> None:
    class Lenient(NearestIconClassifier):
        def classify(self, image: Pixels, style: int) -> int:
            return super().classify(image, (style + 1) % 3)

    class OtherStyle(Oracle):
        def generate(self, prompt: str) -> Image.Image:
            index, style, colour = self.scenes[prompt]
            scene = Scene(index, (style + 1) % 3, colour, "1:1", 56, 8, 0, False)
            return Image.fromarray(render_scene(scene, self.icons))

    lenient = Lenient(classifier.references, classifier.squared_norms)
    report = evaluate_images(OtherStyle(icons), samples=5, icons=icons, classifier=lenient)
    hits = {name: each.hits for name, each in report.held_out.proportions.items()}
    assert hits["generation_object"] == 5
    assert hits["generation_style"] == hits["generation_object_and_style"] == 0
    assert hits[COPY] == 5, "one of the two other styles"


def test_random_model_scores_chance_level(icons: Icons, classifier: NearestIconClassifier) -> None:
    report = evaluate_images(Random(icons), samples=40, icons=icons, classifier=classifier)
    for metrics in (report.seen, report.held_out):
        psnr = metrics.means["psnr"]
        assert psnr is not None
        assert psnr < 12
        for name, each in metrics.proportions.items():
            low, high = each.interval
            # Noise has a style and a background too, but not evenly.
            if name.startswith("question") or name == "generation_object":
                assert low - 0.05 <= each.chance <= high + 0.05
        bound = metrics.proportions["generation_object"].upper_bound
        assert bound < 0.1, "its tokenizer keeps nothing"


def test_seed_reproduces_report(icons: Icons, classifier: NearestIconClassifier) -> None:
    def run(seed: int) -> dict[str, object]:
        report = evaluate_images(
            Random(icons), samples=6, seed=seed, icons=icons, classifier=classifier
        )
        return report.to_dict()

    assert run(0) == run(0)
    assert run(0) != run(1)


def test_contact_sheets_of_both_kinds(
    icons: Icons, classifier: NearestIconClassifier, tmp_path: Path
) -> None:
    sheets = tmp_path / "new" / "sheets"
    evaluate_images(Oracle(icons), samples=2, icons=icons, classifier=classifier, sheets=sheets)
    assert {path.name for path in sheets.iterdir()} == {"seen.png", "held_out.png"}


def test_all_held_out_pairs_are_used_and_as_many_seen_ones() -> None:
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(choose_rows(held_out_pairs(), 120, rng), held_out_pairs())
    chosen = choose_rows(seen_pairs(), 120, rng)
    assert len(np.unique(chosen, axis=0)) == 120
    assert not np.array_equal(chosen, choose_rows(seen_pairs(), 120, rng))


@pytest.mark.parametrize("samples", [0, 121])
def test_impossible_number_of_samples_is_refused(
    icons: Icons, classifier: NearestIconClassifier, samples: int
) -> None:
    with pytest.raises(InputError, match="1 to 120"):
        evaluate_images(Oracle(icons), samples=samples, icons=icons, classifier=classifier)


def test_tokenizer_that_changes_the_size_is_refused(
    icons: Icons, classifier: NearestIconClassifier
) -> None:
    model = Oracle(icons)
    model.decode = lambda codes: Image.new("RGB", (8, 8))  # type: ignore[method-assign]
    with pytest.raises(InputError, match="tokenizer"):
        evaluate_images(model, samples=1, icons=icons, classifier=classifier)
