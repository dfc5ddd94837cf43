"""Export: both formats compute the same, content of the model card, atomic writes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from emu3.checkpoints.loading import DeviceConfig, load_checkpoint
from emu3.errors import InputError
from emu3.testing import tiny_checkpoint
from emu3.training import export
from emu3.training.export import ModelCardData, export_model, model_card, read_metrics_log
from emu3.training.lora import LoraConfig, add_adapter
from emu3.training.presets import NANO_DPO, PRETRAINING_1

CPU = DeviceConfig(torch.device("cpu"), None)
MODEL_CARD_DATA = ModelCardData(
    data="Squares and circles.",
    hardware="Two cores.",
    preset=PRETRAINING_1,
    evaluation={"drawing": 0.123456, "pairs": 1200},
)


@pytest.fixture
def metrics_log(tmp_path: Path) -> Path:
    lines = [
        {"step": step, "loss": 9.0 - step, "samples_per_second": rate, "peak_memory_gb": 1.0 + step}
        for step, rate in ((1, 10.0), (2, 30.0), (3, 50.0))
    ]
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.mark.parametrize("format", ["baai", "transformers"])
@torch.no_grad()
def test_both_formats_compute_the_same(tmp_path: Path, format: str) -> None:
    checkpoint, ids = tiny_checkpoint(), torch.randint(0, 500, (1, 9))
    export_model(checkpoint, MODEL_CARD_DATA, tmp_path / "out")
    again = load_checkpoint(tmp_path / "out" / format, None, CPU)
    assert torch.equal(again.decoder(ids), checkpoint.decoder(ids))
    pixels = torch.rand(1, 3, 16, 16)
    assert torch.equal(
        again.vision_processor.vision.encode(pixels),
        checkpoint.vision_processor.vision.encode(pixels),
    )
    assert again.defaults == checkpoint.defaults


def test_model_card_content(metrics_log: Path) -> None:
    text = model_card(tiny_checkpoint(), replace(MODEL_CARD_DATA, metrics_log=metrics_log))
    for expected in (
        "license: apache-2.0",
        "# tiny: pre-training on text and images",
        "Squares and circles.",
        "Two cores.",
        "| learning rate | 5e-05 | paper |",
        "| loss weights | text 1, vision 0.5, answer 1, context 0 | paper |",
        "| betas | 0.9 to 0.95 | script |",
        "| steps | 200,000 | ours |",
        "| starts from | random weights | paper |",
        "| loss, last | 6 |",
        "| steps | 3 |",
        "| samples a second, median | 30 |",
        "| peak memory | 4.00 GB |",
        "| drawing | 0.1235 |",
        "| pairs | 1,200 |",
    ):
        assert expected in text, expected
    assert "training metric" not in model_card(tiny_checkpoint(), MODEL_CARD_DATA)


def test_existing_export_is_replaced(tmp_path: Path) -> None:
    for preset in (PRETRAINING_1, NANO_DPO):
        export_model(tiny_checkpoint(), replace(MODEL_CARD_DATA, preset=preset), tmp_path / "out")
        assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert NANO_DPO.name in (tmp_path / "out" / "README.md").read_text()


def test_failed_export_keeps_the_previous_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_model(tiny_checkpoint(), MODEL_CARD_DATA, tmp_path / "out")

    def full(*args: object, **kwargs: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(export, "convert_checkpoint", full)
    with pytest.raises(OSError, match="No space"):
        export_model(tiny_checkpoint(1), MODEL_CARD_DATA, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    again = load_checkpoint(tmp_path / "out" / "baai", None, CPU)
    assert torch.equal(again.decoder.lm_head.weight, tiny_checkpoint().decoder.lm_head.weight)


def test_invalid_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a metrics log"):
        read_metrics_log(tmp_path / "log.jsonl")
    (tmp_path / "log.jsonl").write_text("{}\n")
    with pytest.raises(InputError, match=r"log\.jsonl"):
        read_metrics_log(tmp_path / "log.jsonl")
    pytest.importorskip("peft", reason='needs pip install "emu3[train]"')
    checkpoint = tiny_checkpoint()
    add_adapter(checkpoint.decoder, LoraConfig())
    with pytest.raises(InputError, match="merge"):
        export_model(checkpoint, MODEL_CARD_DATA, tmp_path / "out")
    assert not (tmp_path / "out").exists()
