"""Icons of noise, for tests that do not depend on their content."""

from __future__ import annotations

import numpy as np
import pytest

from recipes.nano.emoji_world import ICON_SETS, ICON_SIZES, OBJECTS, Icons


@pytest.fixture(scope="session")
def icons() -> Icons:
    """All objects in all icon sets and sizes."""
    rng = np.random.default_rng(0)
    shape = (len(OBJECTS), len(ICON_SETS))
    return Icons({s: rng.integers(256, size=(*shape, s, s, 4), dtype=np.uint8) for s in ICON_SIZES})
