"""What nano is asked about most: things as no style draws them, from their seen drawings alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from emu3.emoji_world import OBJECTS, SIZES, STYLES, Icons, Redrawn, held_out
from emu3.emoji_world.redrawing import REDRAWN, SIDE
from recipes.nano_variations import OFF, somewhere, variations
from tests.recipes.test_nano_decoder import Flat


def drawings(unseen: int) -> tuple[Icons, Redrawn]:
    """One light for all that is seen and another for all that is held out."""
    light = np.where(held_out(), unseen, 90).astype(np.uint8)
    shape = (len(OBJECTS), len(STYLES))
    arrays = {s: np.empty((*shape, s, s, 4), np.uint8) for s in SIZES}
    for array in arrays.values():
        array[:] = light[..., None, None, None]
        array[..., 3] = 255
    few = np.repeat(light[:, :, None], REDRAWN, 2)[..., None, None, None]
    redrawn = np.broadcast_to(few, (*shape, REDRAWN, SIDE, SIDE, 4))
    return Icons(arrays), Redrawn(redrawn)


def test_nothing_held_out_shows_and_they_are_made_once(tmp_path: Path) -> None:
    folders = [tmp_path / str(light) for light in (10, 250)]
    for folder in folders:
        folder.mkdir()
    made = [variations(Flat(), *drawings(int(each.name)), each, 2) for each in folders]
    assert made[0].shape == (400, 2, 8, 8)
    assert torch.equal(*made)
    assert len(made[0].flatten(2).unique(dim=1)) == 400
    again = variations(Flat(), *drawings(99), folders[0], 2)
    assert torch.equal(again, made[0])


@pytest.mark.parametrize("usual", [True, False])
def test_a_drawing_stays_in_its_picture(usual: bool) -> None:
    rng = np.random.default_rng(0)
    starts = {somewhere(rng, 64, 40, usual) for _ in range(400)}
    assert min(starts) == (12 - OFF if usual else 0)
    assert max(starts) == (12 + OFF if usual else 24)
    assert {somewhere(rng, 64, 64, usual) for _ in range(20)} == {0}
