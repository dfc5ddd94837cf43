"""Reconstruction of images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from emu3.errors import InputError
from emu3.evaluation import evaluate_reconstruction, find_images, psnr
from emu3.processing.image import to_image, to_pixels
from emu3.processing.vision_processor import VisionProcessor
from emu3.testing import tiny_checkpoint


@pytest.fixture(scope="module")
def processor() -> VisionProcessor:
    return tiny_checkpoint().vision_processor


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "deeper").mkdir()
    for name, size in (("b.png", (16, 16)), ("deeper/a.webp", (24, 16)), ("c.JPG", (40, 40))):
        Image.radial_gradient("L").resize(size).convert("RGB").save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def test_images_are_found_by_name(folder: Path) -> None:
    names = [str(path.relative_to(folder)) for path in find_images(folder)]
    assert names == ["b.png", "c.JPG", "deeper/a.webp"]
    assert len(find_images(folder, limit=2)) == 2
    with pytest.raises(InputError, match="at least 1"):
        find_images(folder, limit=0)


def test_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no images"):
        find_images(tmp_path)


def test_figures_are_means_over_images(folder: Path, processor: VisionProcessor) -> None:
    paths = find_images(folder)
    report = evaluate_reconstruction(processor, paths)
    alone = [evaluate_reconstruction(processor, [path]) for path in paths]
    assert report.images == 3
    assert report.codes == sum(each.codes for each in alone)
    assert report.psnr == pytest.approx(sum(each.psnr for each in alone) / 3)
    assert report.ssim == pytest.approx(sum(each.ssim for each in alone) / 3)
    image, config = Image.open(paths[0]), processor.preprocessor
    original = np.asarray(to_image(to_pixels(image, config), config))
    decoded = np.asarray(processor.decode_image(processor.encode(image)))
    assert alone[0].psnr == pytest.approx(psnr(original, decoded))


def test_codebook_statistics_count_codes(folder: Path, processor: VisionProcessor) -> None:
    paths = find_images(folder)
    codes = torch.cat([processor.encode(Image.open(path)).flatten() for path in paths])
    frequencies = codes.unique(return_counts=True)[1].double() / len(codes)
    report = evaluate_reconstruction(processor, paths)
    assert report.codebook_size == 64
    assert report.codebook_usage == len(frequencies) / 64
    expected = float(-(frequencies * frequencies.log()).sum())
    assert report.codebook_perplexity == pytest.approx(np.exp(expected))
    assert report.table().row_count == 4
