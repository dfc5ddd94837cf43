"""Checkpoint folders in BAAI's format, written with `emu3.hf`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

from emu3.testing import byte_tokenizer, tiny_decoder, tiny_vision

REMOTE = {
    "config.json": {"AutoConfig": "missing.Config", "AutoModelForCausalLM": "missing.Model"},
    "tokenizer_config.json": {"AutoTokenizer": ["missing.Tokenizer", None]},
    "preprocessor_config.json": {"AutoImageProcessor": "missing.ImageProcessor"},
}
"""The `auto_map` entries of published folders; the files they name do not exist here."""


@pytest.fixture(scope="session")
def golden(reference: Path) -> dict[str, Tensor]:
    return load_file(reference / "golden.safetensors")


@pytest.fixture(scope="session")
def golden_json(reference: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((reference / "golden.json").read_text(encoding="utf-8"))
    return read


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as BAAI publishes it, without Python code, and with a vision tokenizer inside."""
    import emu3.hf

    folder = tmp_path_factory.mktemp("hf") / "tiny"
    inside = folder / "vision_tokenizer"
    inside.mkdir(parents=True)
    decoder = tiny_decoder()
    model = emu3.hf.Emu3ForCausalLM(emu3.hf.Emu3Config(**decoder.config.to_dict()))
    model.load_state_dict(decoder.state_dict(), strict=True)
    model.save_pretrained(folder)
    byte_tokenizer().save(folder)
    vision = tiny_vision()
    vision_model = emu3.hf.Emu3VisionVQModel(emu3.hf.Emu3VisionVQConfig(**vision.config.to_dict()))
    vision_model.load_state_dict(vision.state_dict(), strict=True)
    vision_model.save_pretrained(inside)
    emu3.hf.Emu3VisionVQImageProcessor(
        min_pixels=64, max_pixels=1024, spatial_factor=4
    ).save_pretrained(inside)
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "Emu3Tokenizer"}')
    return folder


@pytest.fixture
def remote(tiny: Path, tmp_path: Path) -> Path:
    """The same folder with an `auto_map` in every file that could run code from the folder."""
    folder = tmp_path / "remote"
    shutil.copytree(tiny, folder)
    for path in [*folder.glob("*.json"), *(folder / "vision_tokenizer").glob("*.json")]:
        if path.name in REMOTE:
            value = json.loads(path.read_text(encoding="utf-8"))
            path.write_text(json.dumps({**value, "auto_map": REMOTE[path.name]}))
    return folder
