"""Saved checkpoints reload identically; inconsistent checkpoints and invalid devices raise."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from emu3 import Emu3, InputError
from emu3.checkpoints.generation_defaults import GenerationDefaults
from emu3.checkpoints.loading import DeviceConfig
from emu3.models.precision import PRECISIONS
from emu3.testing import byte_tokenizer, tiny_decoder
from tests.test_api import MODEL, PROMPTS, RATIOS, equal, photo


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    MODEL.checkpoint.save(folder)
    return folder


def test_saved_model_is_reloaded_identically(saved: Path) -> None:
    model = Emu3.from_pretrained(saved, device="cpu", dtype="float32")
    images, expected = (m.image(PROMPTS, ratio=RATIOS) for m in (model, MODEL))
    assert equal(images.codes, expected.codes)
    assert [a.tobytes() for a in images.images] == [b.tobytes() for b in expected.images]
    question = ("What is it?", [photo()])
    assert model.chat(*question, max_new_tokens=9) == MODEL.chat(*question, max_new_tokens=9)
    assert model.checkpoint.defaults == MODEL.checkpoint.defaults
    assert images.settings[0].model == str(saved)


def test_saving_replaces_an_existing_folder(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "leftover.txt").write_text("old")
    MODEL.checkpoint.save(folder)
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    assert not (folder / "leftover.txt").exists()
    assert Emu3.from_pretrained(folder, dtype="fp32").config == MODEL.config


def test_failed_save_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("emu3.checkpoints.loading.save_vision_tokenizer", full)
    with pytest.raises(OSError, match="disk full"):
        MODEL.checkpoint.save(tmp_path / "model")
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match="no such folder"):
        MODEL.checkpoint.save(tmp_path / "no" / "model")


def test_dtype_applies_to_the_decoder_only(saved: Path) -> None:
    model = Emu3.from_pretrained(saved, device="cpu", dtype="bf16")
    assert model.checkpoint.decoder.dtype == torch.bfloat16
    assert model.checkpoint.vision_processor.vision.dtype == torch.float32
    assert torch.equal(model.encode(photo()), MODEL.encode(photo()))
    assert model.image("a cat").codes[0].shape == (4, 4)


def test_vision_tokenizer_of_another_size_raises(tmp_path: Path) -> None:
    bigger = byte_tokenizer(65)
    decoder = tiny_decoder(vocab_size=bigger.vocabulary.size)
    replace(MODEL.checkpoint, text_tokenizer=bigger, decoder=decoder).save(tmp_path / "model")
    with pytest.raises(InputError, match=r"65 visual codes .* 64"):
        Emu3.from_pretrained(tmp_path / "model")


def test_contradicting_files_raise(saved: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    MODEL.checkpoint.save(folder)
    for name, key in [("generation_config.json", "eos_token_id"), ("config.json", "eol_token_id")]:
        content = (folder / name).read_text()
        (folder / name).write_text(json.dumps({**json.loads(content), key: 1}))
        with pytest.raises(InputError, match=key):
            Emu3.from_pretrained(folder)
        (folder / name).write_text(content)
    inside = folder / "vision_tokenizer" / "preprocessor_config.json"
    inside.write_text(json.dumps({**json.loads(inside.read_text()), "spatial_factor": 6}))
    with pytest.raises(InputError, match="spatial_factor 6"):
        Emu3.from_pretrained(folder)


def test_published_layout_is_loaded(reference: Path) -> None:
    """The vision tokenizer is found beside the decoder; neither folder has emu3.json."""
    model = Emu3.from_pretrained(reference / "Emu3-Gen-tiny", dtype="float32", device="cpu")
    assert model.checkpoint.defaults == GenerationDefaults(tasks=("image",))
    assert model.checkpoint.vision_processor.vision.config.codebook_size == 32768


@pytest.mark.parametrize(
    ("device", "dtype", "message"),
    [
        ("tpu?", None, "tpu"),
        ("meta", None, "meta"),
        ("cpu", "float16", "float16"),
        ("cpu", "float8", "float8"),
        ("cuda", None, "CUDA"),
    ],
)
def test_invalid_device_or_dtype_raises(
    device: str, dtype: str | None, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(InputError, match=message):
        DeviceConfig.resolve(device, dtype)


def test_device_and_precision_are_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    default = DeviceConfig.resolve(None, None)
    assert default == DeviceConfig(torch.device("cpu"), None)
    for precision in PRECISIONS:
        assert DeviceConfig.resolve("cpu", precision.name).precision == precision
    assert DeviceConfig.resolve("cpu", torch.bfloat16) == DeviceConfig.resolve("cpu", "bfloat16")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert DeviceConfig.resolve(None, None) == DeviceConfig(torch.device("cuda"), None)
