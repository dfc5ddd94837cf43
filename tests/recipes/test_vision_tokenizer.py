"""The vision tokenizer recipe: from a folder of images to a checkpoint in BAAI's format."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from emu3.checkpoints.loading import load_vision_processor
from emu3.config import VisionConfig
from emu3.errors import InputError
from emu3.testing import tiny_vision
from recipes.vision_tokenizer import (
    HELD_OUT,
    OUTPUT,
    PAPER,
    QUICK,
    ImageFolder,
    crop,
    export,
    find_images,
    main,
    split,
)

TINY = replace(
    QUICK,
    config=VisionConfig(
        codebook_size=16, ch=32, ch_mult=(1, 1), num_res_blocks=1, attn_resolutions=()
    ),
    crop=24,
    run=replace(
        QUICK.run,
        steps=3,
        batch_size=2,
        unquantized_steps=1,
        perceptual_weight=0.0,
        adversarial_start_step=2,
        save_every=2,
    ),
)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos" / "deeper"
    folder.mkdir(parents=True)
    for index in range(7):
        noise = np.random.default_rng(index).integers(0, 255, (30 + index, 40, 3), np.uint8)
        Image.fromarray(noise).save(folder / f"{index}.png")
    (folder / "notes.txt").write_text("no image")
    return folder.parent


@pytest.mark.slow
def test_run_writes_a_checkpoint_that_loads(photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    model = main(photos, folder, TINY)
    vision_processor = load_vision_processor(folder / OUTPUT, torch.device("cpu"))
    pixels = torch.rand(1, 3, 24, 24) * 2 - 1
    assert torch.equal(vision_processor.vision.encode(pixels), model.encode(pixels))
    sheets = sorted(path.name for path in folder.glob("sheet-*.png"))
    assert sheets == ["sheet-000002.png", "sheet-000003.png"]
    with Image.open(folder / sheets[0]) as sheet:
        assert sheet.size == (24 * HELD_OUT, 48)
    main(photos, tmp_path / "more", TINY, start=folder / OUTPUT)
    with pytest.raises(InputError, match=r"use the config they were trained with"):
        main(photos, tmp_path / "other", QUICK, start=folder / OUTPUT)


def test_failed_export_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(vision_processor: object, folder: Path) -> None:
        (folder / "half").touch()
        raise OSError("no space")

    monkeypatch.setattr("recipes.vision_tokenizer.save_vision_tokenizer", full)
    with pytest.raises(OSError, match="no space"):
        export(tiny_vision(), tmp_path / OUTPUT)
    assert list(tmp_path.iterdir()) == []


def test_held_out_images_are_not_trained_on(photos: Path) -> None:
    found = find_images(photos)
    held_out, seen = split(found)
    assert len(found) == 7
    assert len(held_out) == HELD_OUT
    assert sorted(held_out + seen) == found


def test_too_few_images_are_refused(photos: Path) -> None:
    for path in find_images(photos)[HELD_OUT:]:
        path.unlink()
    with pytest.raises(InputError, match=r"4 images .* at least 5 are needed"):
        find_images(photos)


def test_unreadable_image_is_reported_once(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = find_images(photos)[:2]
    paths[0].write_bytes(b"nothing")
    pixels = ImageFolder(paths, 24).batch(np.random.default_rng(0), 8)
    assert pixels.shape == (8, 3, 24, 24)
    assert capsys.readouterr().out.count("left out") == 1
    paths[1].write_bytes(b"nothing")
    with pytest.raises(InputError, match="none of the images"):
        ImageFolder(paths, 24).batch(np.random.default_rng(0), 1)


@pytest.mark.parametrize("size", [(40, 30), (24, 200), (3, 5)])
def test_crops_are_square(size: tuple[int, int]) -> None:
    image = Image.new("RGBA", size, "red")
    for rng in (None, *(np.random.default_rng(seed) for seed in range(5))):
        assert crop(image, 24, rng).size == (24, 24)


def test_both_sizes_have_the_same_losses() -> None:
    for name in ("l1", "commitment", "consistency", "perceptual", "adversarial"):
        weight = f"{name}_weight"
        assert getattr(PAPER.run, weight) == getattr(QUICK.run, weight)
    assert PAPER.config == VisionConfig()
