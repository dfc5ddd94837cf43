"""PSNR and SSIM of images and videos."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

MAX_PSNR = 100.0  # dB; an exact reconstruction has infinitely many, which has no mean
_WINDOW = 7  # pixels
_K1, _K2, _RANGE = 0.01, 0.03, 255.0


def psnr(original: NDArray[np.uint8], reconstruction: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio in dB, at most `MAX_PSNR`, of two uint8 arrays of one shape."""
    error = np.square(original.astype(np.float64) - reconstruction).mean() / _RANGE**2
    return min(MAX_PSNR, float(-10 * np.log10(max(error, 1e-12))))


def ssim(original: NDArray[np.uint8], reconstruction: NDArray[np.uint8]) -> float:
    """Structural similarity of two images, uint8 [H, W, 3], at most 1.

    The mean over channels and over all windows of 7x7 pixels that lie inside of the image, with
    uniform weights and sample covariances. Source: Wang et al. 2004, with the defaults of
    `skimage.metrics.structural_similarity`. Images smaller than the window are one window.
    """
    first, second = (
        torch.from_numpy(np.array(image, np.float64)).permute(2, 0, 1)[:, None]
        for image in (original, reconstruction)
    )
    window = (min(_WINDOW, first.shape[2]), min(_WINDOW, first.shape[3]))
    pixels = window[0] * window[1]

    def mean(values: Tensor) -> Tensor:
        return F.avg_pool2d(values, window, stride=1)

    mean_1, mean_2 = mean(first), mean(second)
    unbiased = pixels / max(1, pixels - 1)
    variances = unbiased * (mean(first**2) - mean_1**2 + mean(second**2) - mean_2**2)
    covariance = unbiased * (mean(first * second) - mean_1 * mean_2)
    c1, c2 = (_K1 * _RANGE) ** 2, (_K2 * _RANGE) ** 2
    luminance = (2 * mean_1 * mean_2 + c1) / (mean_1**2 + mean_2**2 + c1)
    structure = (2 * covariance + c2) / (variances + c2)
    return float((luminance * structure).mean())
