"""Small things done to pictures and scenes in order to compare them."""

from __future__ import annotations

import numpy as np
from PIL import Image

from emu3.errors import InputError
from recipes.nano.emoji_world import RATIOS, Scene, random_scene
from recipes.nano.evaluation.features import Pixels, require_skimage

_MOST_DB = 100.0  # an exact reconstruction has infinitely many, which no mean survives


def pixels_of(picture: object) -> Pixels:
    """A picture as uint8 [H, W, 3], RGB; InputError if a model gave back something else."""
    if not isinstance(picture, Image.Image):
        raise InputError(f"the model gave back {type(picture).__name__}, not a picture")
    return np.asarray(picture.convert("RGB"))


def quality(true: Pixels, again: Pixels) -> tuple[float, float]:
    """PSNR in dB, at most 100, and SSIM of a reconstruction; both uint8 [H, W, 3]."""
    similar = require_skimage().metrics.structural_similarity
    return psnr(true, again), float(similar(true, again, channel_axis=2, data_range=255))


def psnr(true: Pixels, again: Pixels) -> float:
    """PSNR in dB, at most 100, of a picture or a clip; both uint8 of one shape."""
    error = np.square(true.astype(np.float64) - again).mean() / 255**2
    return min(_MOST_DB, float(-10 * np.log10(max(error, 1e-12))))


def square_scene(rng: np.random.Generator, thing: int, style: int) -> Scene:
    """A random scene, as the training has them, but in a square picture."""
    while True:
        scene = random_scene(rng, thing, style)
        if scene.ratio == RATIOS[0]:
            return scene
