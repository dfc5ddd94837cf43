"""The evaluation: a perfect model scores 100%, a random one what luck gives, and nothing leaks."""

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
    compose,
    held_out_pairs,
    seen_pairs,
    with_article,
)

pytest.importorskip("skimage", reason="judging needs the extra emoji")

from recipes.nano.evaluation import DrawingSettings, Judge, background_of, evaluate_nano
from recipes.nano.evaluation import icon_classifier as judge_module
from recipes.nano.evaluation.image_evaluation import BATCH, _choose

Pixels = NDArray[np.uint8]
SHARES = {"drawing", "drawing_style", "drawing_copied", "drawing_pair", "drawing_background"}
SHARES |= {"naming", "question_style", "question_background"}


def blocks_of(picture: Pixels) -> Pixels:
    """The 8x8 blocks of a fake icon: uint8 [8, 8, 3]."""
    shown = (picture != BACKGROUNDS[background_of(picture)]).any(2)
    rows, columns = np.flatnonzero(shown.any(1)), np.flatnonzero(shown.any(0))
    if not len(rows):
        return np.zeros((8, 8, 3), np.uint8)
    y = np.linspace(rows[0], rows[-1], 17)[1::2].round().astype(int)
    x = np.linspace(columns[0], columns[-1], 17)[1::2].round().astype(int)
    return np.asarray(picture[y][:, x])


@pytest.fixture(scope="module")
def judge(icons: Icons) -> Iterator[Judge]:
    """A judge that looks only at the blocks, which is quick and enough for fake icons."""

    def describe(picture: Pixels) -> NDArray[np.float32]:
        return (blocks_of(picture).ravel() / 255).astype(np.float32)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judge_module, "describe", describe)
        yield Judge.build(icons, backgrounds=["white"])


class Output(NamedTuple):
    images: list[Image.Image]


@dataclass
class Oracle:
    """Draws the true picture, knows every answer, and its tokenizer loses nothing."""

    icons: Icons
    batches: list[int] = field(default_factory=list)
    settings: list[dict[str, float | str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.wanted = {}
        self.known = {}
        for thing, name in enumerate(OBJECTS):
            for style, word in enumerate(STYLES):
                said = with_article(name)
                self.wanted[f"{said}, {word} style"] = (thing, style, "blue")
                for colour in BACKGROUNDS:
                    prompt = f"{said} on a {colour} background, {word} style"
                    self.wanted[prompt] = (thing, style, colour)
                key = self.icons.get(thing, style, 40)[2::5, 2::5, :3]
                for view in (key, key[:, ::-1]):
                    self.known[view.tobytes()] = (said, word)

    def image(self, prompts: list[str], **settings: float | str) -> Output:
        self.batches.append(len(prompts))
        self.settings.append(settings)
        return Output([self.draw(prompt) for prompt in prompts])

    def draw(self, prompt: str) -> Image.Image:
        thing, style, colour = self.wanted[prompt]
        scene = Scene(thing, style, colour, "1:1", 56, 8, 0, False)
        return Image.fromarray(compose(scene, self.icons))

    def chat_batch(
        self, texts: list[str], images: list[Image.Image], *, max_new_tokens: int
    ) -> list[str]:
        self.batches.append(len(texts))
        return [self.say(*both) for both in zip(texts, images, strict=True)]

    def say(self, text: str, image: Image.Image) -> str:
        picture = np.asarray(image)
        said, word = self.known[blocks_of(picture).tobytes()]
        if "background" in text:
            return background_of(picture)
        return word if "style" in text else said

    def encode(self, picture: Image.Image) -> Tensor:
        return torch.from_numpy(np.array(picture))

    def decode(self, codes: Tensor) -> Image.Image:
        return Image.fromarray(codes.numpy())


class Sloppy(Oracle):
    """Right, but written by somebody in a hurry."""

    def say(self, text: str, image: Image.Image) -> str:
        return f"  {super().say(text, image).upper()}.\n"


class Wrong(Oracle):
    """Draws the next object in the next style on the wrong colour, and says nearly the truth."""

    def draw(self, prompt: str) -> Image.Image:
        thing, style, colour = self.wanted[prompt]
        other = "pink" if colour == "white" else "white"
        scene = Scene((thing + 1) % 400, (style + 1) % 3, other, "1:1", 56, 8, 0, False)
        return Image.fromarray(compose(scene, self.icons))

    def say(self, text: str, image: Image.Image) -> str:
        return f"{super().say(text, image)} or so"


class Random(Oracle):
    """Noise for pictures, any word for an answer; the same for the same seed."""

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(0)

    def image(self, prompts: list[str], **settings: float | str) -> Output:
        self.rng = np.random.default_rng(int(settings["seed"]))
        return Output([self.noise(64, 64) for _ in prompts])

    def noise(self, height: int, width: int) -> Image.Image:
        return Image.fromarray(self.rng.integers(0, 256, (height, width, 3), np.uint8))

    def say(self, text: str, image: Image.Image) -> str:
        words = STYLES if "style" in text else tuple(BACKGROUNDS)
        if "What is" in text:
            words = tuple(map(with_article, OBJECTS))
        return words[int(self.rng.integers(len(words)))]

    def decode(self, codes: Tensor) -> Image.Image:
        return self.noise(*codes.shape[:2])


def test_a_perfect_model_scores_all(icons: Icons, judge: Judge) -> None:
    model = Oracle(icons)
    report = evaluate_nano(model, samples=30, icons=icons, judge=judge)
    for figures in (report.seen, report.held_out):
        assert (figures.reconstructed, figures.psnr, figures.ssim) == (30, 100, 1)
        assert set(figures.shares) == SHARES
        copied = figures.shares.pop("drawing_copied")
        assert (copied.hits, copied.n) == (0, 60), "no fake icon is like that of another style"
        for share in figures.shares.values():
            assert (share.hits, share.n, share.ceiling) == (30, 30, 1)
    assert max(model.batches) == BATCH
    assert sum(model.batches) == 2 * 30 * 5
    assert len({settings["seed"] for settings in model.settings}) == len(model.settings)
    asked = {"ratio": "1:1", "num_images": 1, **vars(DrawingSettings())}
    assert model.settings[0] == asked | {"seed": model.settings[0]["seed"]}


@pytest.mark.parametrize(("kind", "hits"), [(Wrong, 0), (Sloppy, 10)])
def test_wrong_is_wrong_and_sloppy_is_right(
    icons: Icons, judge: Judge, kind: type[Oracle], hits: int
) -> None:
    report = evaluate_nano(kind(icons), samples=10, icons=icons, judge=judge)
    for figures in (report.seen, report.held_out):
        figures.shares.pop("drawing_copied")  # true pictures, whatever the model draws
    for share in (*report.seen.shares.values(), *report.held_out.shares.values()):
        assert (share.hits, share.n, share.ceiling) == (hits, 10, 1)


def test_a_true_icon_in_another_style_is_not_the_pair(icons: Icons, judge: Judge) -> None:
    class Lenient(Judge):
        def nearest(self, picture: Pixels, style: int) -> int:
            return super().nearest(picture, (style + 1) % 3)

    class Restyled(Oracle):
        def draw(self, prompt: str) -> Image.Image:
            thing, style, colour = self.wanted[prompt]
            scene = Scene(thing, (style + 1) % 3, colour, "1:1", 56, 8, 0, False)
            return Image.fromarray(compose(scene, self.icons))

    lenient = Lenient(judge.references, judge.lengths)
    report = evaluate_nano(Restyled(icons), samples=5, icons=icons, judge=lenient)
    hits = {name: share.hits for name, share in report.held_out.shares.items()}
    assert (hits["drawing"], hits["drawing_style"], hits["drawing_pair"]) == (5, 0, 0)
    assert hits["drawing_copied"] == 5, "of the two other styles the judge takes one"


def test_a_random_model_scores_what_luck_gives(icons: Icons, judge: Judge) -> None:
    report = evaluate_nano(Random(icons), samples=40, icons=icons, judge=judge)
    for figures in (report.seen, report.held_out):
        assert figures.psnr < 12
        for name, share in figures.shares.items():
            low, high = share.interval
            # Noise has a style and a background too, but not evenly.
            if name.startswith(("question", "naming")) or name == "drawing":
                assert low - 0.05 <= share.chance <= high + 0.05
        assert figures.shares["drawing"].ceiling < 0.1, "its tokenizer keeps nothing"


def test_the_same_seed_gives_the_same_report(icons: Icons, judge: Judge) -> None:
    def run(seed: int) -> dict[str, object]:
        return evaluate_nano(
            Random(icons), samples=6, seed=seed, icons=icons, judge=judge
        ).to_dict()

    assert run(0) == run(0)
    assert run(0) != run(1)


def test_sheets_show_both_kinds(icons: Icons, judge: Judge, tmp_path: Path) -> None:
    sheets = tmp_path / "new" / "sheets"
    evaluate_nano(Oracle(icons), samples=2, icons=icons, judge=judge, sheets=sheets)
    assert {path.name for path in sheets.iterdir()} == {"seen.png", "held_out.png"}


def test_every_held_out_pair_is_used_and_as_many_seen() -> None:
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(_choose(held_out_pairs(), 120, rng), held_out_pairs())
    chosen = _choose(seen_pairs(), 120, rng)
    assert len(np.unique(chosen, axis=0)) == 120
    assert not np.array_equal(chosen, _choose(seen_pairs(), 120, rng))


@pytest.mark.parametrize("samples", [0, 121])
def test_too_few_or_many_samples_are_refused(icons: Icons, samples: int) -> None:
    with pytest.raises(InputError, match="1 to 120"):
        evaluate_nano(Oracle(icons), samples=samples, icons=icons)


def test_a_tokenizer_that_changes_the_size_is_refused(icons: Icons, judge: Judge) -> None:
    model = Oracle(icons)
    model.decode = lambda codes: Image.new("RGB", (8, 8))  # type: ignore[method-assign]
    with pytest.raises(InputError, match="tokenizer"):
        evaluate_nano(model, samples=1, icons=icons, judge=judge)
