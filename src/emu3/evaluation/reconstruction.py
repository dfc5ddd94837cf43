"""How well a vision tokenizer reconstructs images, and how much of its codebook it uses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from rich.table import Table

from emu3.data.sources import IMAGE_SUFFIXES
from emu3.errors import InputError
from emu3.evaluation.image_metrics import psnr, ssim
from emu3.processing.image import open_image, to_image, to_pixels
from emu3.processing.vision_processor import VisionProcessor
from emu3.progress import count_progress


@dataclass(frozen=True)
class ReconstructionReport:
    """Means over `images`, and statistics over all `codes` of these images.

    `psnr` is in dB. `codebook_usage` is the proportion of entries that occur at all, and
    `codebook_perplexity` the exponential of the entropy of the code frequencies: the number of
    entries that would be used if all were equally frequent.
    """

    images: int
    codes: int
    psnr: float
    ssim: float
    codebook_size: int
    codebook_usage: float
    codebook_perplexity: float

    def to_dict(self) -> dict[str, float]:
        """Plain numbers."""
        return asdict(self)

    def table(self) -> Table:
        """One row per figure."""
        table = Table("figure", title=f"reconstruction: {self.images} images")
        table.add_column("value", justify="right")
        table.add_row("PSNR", f"{self.psnr:.2f} dB")
        table.add_row("SSIM", f"{self.ssim:.4f}")
        table.add_row("codebook usage", f"{self.codebook_usage:.1%} of {self.codebook_size:,}")
        table.add_row("codebook perplexity", f"{self.codebook_perplexity:,.1f}")
        return table


def find_images(folder: Path, limit: int | None = None) -> list[Path]:
    """The first `limit` image files in a folder and below, by name.

    Raises InputError if there is none, and on a limit below 1.
    """
    if limit is not None and limit < 1:
        raise InputError(f"limit {limit} must be at least 1")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise InputError(f"{folder}: no images ({', '.join(IMAGE_SUFFIXES)})")
    return paths[:limit]


def evaluate_reconstruction(
    processor: VisionProcessor, paths: Sequence[Path]
) -> ReconstructionReport:
    """Encode and decode every image, one at a time.

    The original is the image as the checkpoint's preprocessor resizes it, since that is what the
    tokenizer encodes. Raises InputError on a file that is no image.
    """
    if not paths:
        raise InputError("there are no images to reconstruct")
    size = processor.vision.config.codebook_size
    counts = torch.zeros(size, dtype=torch.long)
    psnrs, ssims = [], []
    with count_progress("reconstructing images", len(paths)) as advance:
        for path in paths:
            image = open_image(path)
            codes = processor.encode(image)
            counts += codes.flatten().long().bincount(minlength=size)
            original, decoded = (
                np.asarray(each.convert("RGB"))
                for each in (
                    to_image(to_pixels(image, processor.preprocessor), processor.preprocessor),
                    processor.decode_image(codes),
                )
            )
            psnrs.append(psnr(original, decoded))
            ssims.append(ssim(original, decoded))
            advance(1)
    frequencies = counts[counts > 0].double() / counts.sum()
    entropy = -(frequencies * frequencies.log()).sum()
    return ReconstructionReport(
        images=len(paths),
        codes=int(counts.sum()),
        psnr=fmean(psnrs),
        ssim=fmean(ssims),
        codebook_size=size,
        codebook_usage=len(frequencies) / size,
        codebook_perplexity=float(entropy.exp()),
    )
