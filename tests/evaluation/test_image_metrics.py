"""PSNR and SSIM."""

from __future__ import annotations

import numpy as np
import pytest

from emu3.evaluation import psnr, ssim
from emu3.evaluation.image_metrics import MAX_PSNR


def test_psnr_of_known_errors() -> None:
    black = np.zeros((8, 8, 3), np.uint8)
    assert psnr(black, black) == MAX_PSNR
    assert psnr(black, black + 255) == pytest.approx(0)
    assert psnr(black, black + 51) == pytest.approx(-20 * np.log10(0.2))


def test_ssim_of_equal_and_of_inverted_images() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)
    assert ssim(noise, noise) == pytest.approx(1)
    assert ssim(noise, 255 - noise) < 0


@pytest.mark.parametrize("shape", [(7, 7, 3), (9, 20, 3), (48, 32, 3)])
def test_ssim_equals_scikit_image(shape: tuple[int, int, int]) -> None:
    metrics = pytest.importorskip("skimage.metrics", reason='needs pip install "emu3[nano]"')
    rng = np.random.default_rng(1)
    first = rng.integers(0, 256, shape, np.uint8)
    second = np.clip(first + rng.normal(0, 40, shape), 0, 255).astype(np.uint8)
    expected = metrics.structural_similarity(first, second, channel_axis=2, data_range=255)
    assert ssim(first, second) == pytest.approx(expected, abs=1e-9)


def test_ssim_of_images_smaller_than_window() -> None:
    small = np.random.default_rng(2).integers(0, 256, (4, 3, 3), np.uint8)
    assert ssim(small, small) == pytest.approx(1)
