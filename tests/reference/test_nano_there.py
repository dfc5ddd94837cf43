"""Trained here, run there: nano converted for transformers' own Emu3 says and sees the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from emu3 import Emu3
from emu3.checkpoints.convert import convert_checkpoint
from emu3.checkpoints.loading import DeviceConfig, load_checkpoint
from emu3.models.precision import FP32

transformers = pytest.importorskip("transformers", reason="needs the extra `reference`")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """nano, converted."""
    folder = tmp_path_factory.mktemp("there") / "nano-hf"
    convert_checkpoint("nano", None, folder, format="hf")
    return folder


@torch.no_grad()
def test_nano_gives_the_same_logits_and_codes_in_transformers(folder: Path) -> None:
    ours = Emu3.from_pretrained("nano", dtype="fp32")
    theirs = transformers.Emu3ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    pixels = torch.from_numpy(noise).permute(2, 0, 1).float().div(127.5).sub(1)[None]
    codes = ours.checkpoint.vision_processor.vision.encode(pixels)
    seen = theirs.model.vqmodel.encode(pixels, torch.tensor([[64, 64]]))
    assert torch.equal(codes[0], seen.image_tokens[0].long())
    ids = ours.checkpoint.prompts.document("a red apple, noto style", codes[0])[None]
    # In float64: of logits as large as nano's, rounding to float32 is most of what differs.
    decoder = load_checkpoint(
        "nano", None, DeviceConfig(torch.device("cpu"), FP32)
    ).decoder.double()
    assert (theirs.double()(input_ids=ids).logits - decoder(ids)).abs().max() < 1e-4


@pytest.mark.slow
def test_nano_comes_back_from_transformers(folder: Path, tmp_path: Path) -> None:
    """Saved by transformers, opened by us, it draws the same image."""
    there = transformers.Emu3ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    there.save_pretrained(tmp_path / "again")
    for name in (
        "preprocessor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "emu3.json",
    ):
        (tmp_path / "again" / name).write_bytes((folder / name).read_bytes())
    again = Emu3.from_pretrained(tmp_path / "again")
    here = Emu3.from_pretrained("nano")
    image, expected = (m.image("a red apple, noto style", seed=1).images[0] for m in (again, here))
    assert isinstance(image, Image.Image)
    assert image.tobytes() == expected.tobytes()
