"""Icons of noise: for what does not look at them."""

from __future__ import annotations

import numpy as np
import pytest

from recipes.nano.emoji_world import HANDS, OBJECTS, SIZES, Icons


@pytest.fixture(scope="session")
def icons() -> Icons:
    """All objects by all hands in all sizes."""
    rng = np.random.default_rng(0)
    shape = (len(OBJECTS), len(HANDS))
    return Icons({s: rng.integers(256, size=(*shape, s, s, 4), dtype=np.uint8) for s in SIZES})
