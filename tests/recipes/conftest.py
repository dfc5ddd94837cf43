"""Icons of noise: for what does not look at them."""

from __future__ import annotations

import numpy as np
import pytest

from emu3.emoji_world import OBJECTS, SIZES, STYLES, Icons


@pytest.fixture(scope="session")
def icons() -> Icons:
    """All objects in all styles and sizes."""
    rng = np.random.default_rng(0)
    shape = (len(OBJECTS), len(STYLES))
    return Icons({s: rng.integers(256, size=(*shape, s, s, 4), dtype=np.uint8) for s in SIZES})
