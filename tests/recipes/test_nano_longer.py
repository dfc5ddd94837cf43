"""A run that goes on has drawings and captions of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from emu3.checkpoints.loading import DeviceConfig, load_checkpoint
from emu3.models.precision import FP32
from recipes import nano_longer
from recipes.nano.emoji_world import Hands, Icons, Redrawn, Scene
from recipes.nano.emoji_world.hands import learnt
from recipes.nano_decoder import Mix
from tests.recipes.test_nano_decoder import VARIATIONS


@pytest.fixture
def hands(icons: Icons) -> Hands:
    return Hands(icons, Redrawn(np.empty(0, np.uint8)), learnt(icons.arrays[48]))


def test_seed_share_and_captions_are_handed_on(
    hands: Hands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[str, int, int]] = []

    def variations(_vision, _icons, _redrawn, _folder, each, seed):  # type: ignore[no-untyped-def]
        made.append(("styles", each["1:1"], seed))
        return VARIATIONS

    def by_others(_vision, _hands, _folder, each, seed):  # type: ignore[no-untyped-def]
        made.append(("others", each["1:1"], seed))
        return VARIATIONS

    def say(_scene: Scene, _rng: np.random.Generator) -> str:
        return "as it is said"

    monkeypatch.setattr(nano_longer, "variations", variations)
    monkeypatch.setattr(nano_longer, "by_others", by_others)
    nano = load_checkpoint("nano", None, DeviceConfig(torch.device("cpu"), FP32))
    lessons = nano_longer.lessons_for(nano, Mix(9, 0, 0), hands, tmp_path, 4, 11, say)
    assert made == [
        ("styles", nano_longer.EACH["1:1"] // 4, 11),
        ("others", nano_longer.BY_OTHERS["1:1"] // 4, 11),
    ]
    said = [
        nano.text_tokenizer.decode(each.ids.tolist()) for each in lessons(np.random.default_rng(0))
    ]
    assert sum("as it is said" in each for each in said) >= 7  # others have none at all
