"""Icons of noise, so that no test of scenes needs the real ones."""

from __future__ import annotations

import numpy as np
import pytest

from recipes.nano.emoji_world import ICON_SIZES, OBJECTS, STYLES, Icons


@pytest.fixture(scope="session")
def fake_icons() -> Icons:
    """Random straight RGBA of any opacity; all objects share one array."""
    rng = np.random.default_rng(0)
    arrays = {}
    for size in ICON_SIZES:
        noise = rng.integers(0, 256, (len(STYLES), size, size, 4), dtype=np.uint8)
        noise[..., 3] = rng.choice(np.array([0, 128, 255], np.uint8), noise.shape[:-1])
        arrays[size] = np.broadcast_to(noise, (len(OBJECTS), *noise.shape))
    return Icons(arrays)
