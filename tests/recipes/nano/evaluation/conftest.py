"""Icons of coloured blocks, so that only one test needs the real ones."""

from __future__ import annotations

import numpy as np
import pytest

from recipes.nano.emoji_world import ICON_SIZES, OBJECTS, Icons


@pytest.fixture(scope="session")
def icons() -> Icons:
    """Every icon another pattern of 8x8 coloured blocks, without clear parts."""
    blocks = np.random.default_rng(0).integers(0, 256, (len(OBJECTS), 3, 8, 8, 4), np.uint8)
    blocks[..., 3] = 255
    return Icons({size: blocks.repeat(size // 8, 2).repeat(size // 8, 3) for size in ICON_SIZES})
