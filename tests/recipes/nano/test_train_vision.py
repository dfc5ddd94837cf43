"""The vision tokenizer's recipe, run from start to end with a tiny network and a few steps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from emu3.config import VisionConfig
from emu3.errors import InputError
from recipes.nano import train_vision
from recipes.nano.emoji_world import Icons
from recipes.nano.train_vision import CODES, MODEL, RECIPE, load_vision, main

CONFIG = VisionConfig(
    codebook_size=16, ch=32, ch_mult=(1, 1, 1, 1), num_res_blocks=1, attn_resolutions=()
)
TINY = replace(
    RECIPE,
    config=CONFIG,
    joint=replace(
        RECIPE.joint,
        steps=3,
        batch_size=4,
        warmup_steps=1,
        unquantized_steps=1,
        bf16=False,
        report_every=1,
        save_every=3,
    ),
    decoder=replace(
        RECIPE.decoder, steps=2, warmup_steps=1, bf16=False, report_every=1, save_every=2
    ),
    duplicate_scenes=4,
)


@pytest.mark.slow
def test_both_phases_run_and_resume(
    icons: Icons, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_vision, "SHEET_IMAGES", 2)
    model = main(tmp_path, TINY, icons)
    codes, trained = (load_vision(tmp_path / name, CONFIG) for name in (CODES, MODEL))
    pixels = torch.rand(1, 3, 64, 64) * 2 - 1
    assert torch.equal(codes.encode(pixels), trained.encode(pixels)), "codes must not change"
    assert torch.equal(model.encode(pixels), trained.encode(pixels))
    assert not torch.equal(codes.decode(codes.encode(pixels)), model.decode(model.encode(pixels)))
    with Image.open(tmp_path / "sheet-final.png") as sheet:
        assert sheet.height % 16 == 0
    before = (tmp_path / CODES).stat().st_mtime_ns
    main(tmp_path, TINY, icons)
    assert (tmp_path / CODES).stat().st_mtime_ns == before


def test_missing_phase_is_explained(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="train_vision first"):
        load_vision(tmp_path / CODES, CONFIG)
