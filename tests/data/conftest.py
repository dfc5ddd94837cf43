"""A tiny model on disk, a sample tokenizer, and a JSONL file with valid and invalid samples."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emu3.checkpoints.loading import Checkpoint
from emu3.data.tokenization import SampleTokenizer
from emu3.data.workers import TokenizerConfig
from emu3.testing import tiny_checkpoint

TURNS = [{"question": "What is it?", "answer": "A fox."}, {"question": "Big?", "answer": "No."}]


def noise_image(seed: int, size: tuple[int, int] = (24, 16)) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(noise)


def png(seed: int) -> bytes:
    file = io.BytesIO()
    noise_image(seed).save(file, "png")
    return file.getvalue()


def write_samples(folder: Path, count: int = 12) -> Path:
    """Write a JSONL file with all kinds of samples, some of them invalid; returns its path."""
    folder.mkdir(exist_ok=True)
    lines: list[object] = []
    for number in range(count):
        noise_image(number).save(folder / f"{number}.png")
        image = f"{number}.png"
        lines += [
            {"text": f"text {number} " * (1 + number % 5)},
            {"image": image, "text": f"noise {number}"},
            {"image": image, "turns": TURNS},
            {"image": image, "caption": "?"} if number % 4 else {"image": "lost.png", "text": "?"},
        ]
    path = folder / "samples.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="session")
def checkpoint() -> Checkpoint:
    return tiny_checkpoint()


@pytest.fixture(scope="session")
def tokenizer(checkpoint: Checkpoint) -> SampleTokenizer:
    return SampleTokenizer(checkpoint.prompts, checkpoint.vision_processor)


@pytest.fixture(scope="session")
def tokenizer_config(
    tmp_path_factory: pytest.TempPathFactory, checkpoint: Checkpoint
) -> TokenizerConfig:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    checkpoint.save(folder)
    return TokenizerConfig(str(folder), device="cpu")


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A JSONL file of 48 samples, 12 of them invalid; tests must not write to it."""
    return write_samples(tmp_path_factory.mktemp("samples"))
