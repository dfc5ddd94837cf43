"""High dynamic range (PQ and HLG) to standard dynamic range."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

PQ, HLG = 16, 18  # transfer characteristics of ITU-T H.273
REFERENCE_WHITE = 203.0  # cd/m2 of white paper in HDR video (ITU-R BT.2408)
HLG_PEAK = 1000.0  # cd/m2, the nominal display of ITU-R BT.2100
HLG_GAMMA = 1.2  # system gamma for that peak
LUMINANCE_2020 = np.array([0.2627, 0.6780, 0.0593], np.float32)
BT2020_TO_BT709 = np.array(  # ITU-R BT.2087
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]],
    np.float32,
)


def to_sdr(rgb: NDArray[np.uint16], transfer: int) -> NDArray[np.uint8]:
    """Non-linear BT.2020 RGB [H, W, 3] of full range to sRGB [H, W, 3].

    `transfer` is PQ or HLG. Light up to the reference white of 203 cd/m2 keeps its relative
    brightness: linear = min(1, light / 203) after conversion to BT.709 primaries; brighter light
    and colors outside of BT.709 are clipped.
    """
    light = _decoding_table(transfer)[rgb]
    if transfer == HLG:
        luminance = light @ LUMINANCE_2020
        light = light * (HLG_PEAK * luminance[..., None] ** (HLG_GAMMA - 1))
    linear = np.clip((light / REFERENCE_WHITE) @ BT2020_TO_BT709.T, 0, 1)
    return _srgb_table()[(linear * 65535 + 0.5).astype(np.uint16)]


@cache
def _decoding_table(transfer: int) -> NDArray[np.float32]:
    """Light of the 65,536 signal values: cd/m2 for PQ, relative scene light for HLG (BT.2100)."""
    signal = np.arange(65536) / 65535
    if transfer == PQ:
        m1, m2 = 2610 / 16384, 2523 / 4096 * 128
        c1, c2, c3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
        power = signal ** (1 / m2)
        light = 10000 * (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1)
    else:
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        light = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    return light.astype(np.float32)


@cache
def _srgb_table() -> NDArray[np.uint8]:
    """sRGB values of the linear values 0 to 65535."""
    linear = np.arange(65536) / 65535
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return (encoded * 255 + 0.5).astype(np.uint8)
