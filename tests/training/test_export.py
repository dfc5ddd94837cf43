"""What a stage hands on: both layouts compute the same, the card tells it all, whole or nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from emu3.checkpoints.loading import DeviceConfig, load_checkpoint
from emu3.errors import InputError
from emu3.testing import tiny_checkpoint
from emu3.training import export as room
from emu3.training.export import ModelCardData, export_model, model_card, read_metrics_log
from emu3.training.lora import LoraConfig, add_adapter
from emu3.training.presets import NANO_DPO, PRETRAINING_1

CPU = DeviceConfig(torch.device("cpu"), None)
PROVENANCE = ModelCardData(
    data="Squares and circles.",
    hardware="Two cores.",
    preset=PRETRAINING_1,
    evaluation={"drawing": 0.123456, "pairs": 1200},
)


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    lines = [
        {"step": step, "loss": 9.0 - step, "per_second": rate, "memory_gb": 1.0 + step}
        for step, rate in ((1, 10.0), (2, 30.0), (3, 50.0))
    ]
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.mark.parametrize("inner", ["baai", "transformers"])
@torch.no_grad()
def test_both_layouts_compute_what_the_model_does(tmp_path: Path, inner: str) -> None:
    checkpoint, ids = tiny_checkpoint(), torch.randint(0, 500, (1, 9))
    export_model(checkpoint, PROVENANCE, tmp_path / "out")
    again = load_checkpoint(tmp_path / "out" / inner, None, CPU)
    assert torch.equal(again.decoder(ids), checkpoint.decoder(ids))
    pixels = torch.rand(1, 3, 16, 16)
    assert torch.equal(
        again.vision_processor.vision.encode(pixels),
        checkpoint.vision_processor.vision.encode(pixels),
    )
    assert again.defaults == checkpoint.defaults


def test_the_card_tells_data_stage_compute_and_figures(journal: Path) -> None:
    card = model_card(tiny_checkpoint(), replace(PROVENANCE, metrics_log=journal))
    for said in (
        "license: apache-2.0",
        "# tiny: pre-training, text and pictures",
        "Squares and circles.",
        "Two cores.",
        "| learning rate | 5e-05 | paper |",
        "| loss weights | text 1, vision 0.5, answer 1, context 0 | paper |",
        "| betas | 0.9 to 0.95 | script |",
        "| steps | 200,000 | ours |",
        "| starts from | from scratch | paper |",
        "| loss, last report | 6 |",
        "| steps | 3 |",
        "| documents a second, median | 30 |",
        "| peak memory | 4.00 GB |",
        "| drawing | 0.1235 |",
        "| pairs | 1,200 |",
    ):
        assert said in card, said
    assert "measured in training" not in model_card(tiny_checkpoint(), PROVENANCE)


def test_it_replaces_what_was_there_and_leaves_nothing_beside(tmp_path: Path) -> None:
    for stage in (PRETRAINING_1, NANO_DPO):
        export_model(tiny_checkpoint(), replace(PROVENANCE, preset=stage), tmp_path / "out")
        assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert NANO_DPO.name in (tmp_path / "out" / "README.md").read_text()


def test_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export_model(tiny_checkpoint(), PROVENANCE, tmp_path / "out")

    def full(*args: object, **kwargs: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(room, "convert", full)
    with pytest.raises(OSError, match="No space"):
        export_model(tiny_checkpoint(1), PROVENANCE, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    again = load_checkpoint(tmp_path / "out" / "baai", None, CPU)
    assert torch.equal(again.decoder.lm_head.weight, tiny_checkpoint().decoder.lm_head.weight)


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="journal"):
        read_metrics_log(tmp_path / "log.jsonl")
    (tmp_path / "log.jsonl").write_text("{}\n")
    with pytest.raises(InputError, match=r"log\.jsonl"):
        read_metrics_log(tmp_path / "log.jsonl")
    pytest.importorskip("peft", reason='needs pip install "emu3[train]"')
    checkpoint = tiny_checkpoint()
    add_adapter(checkpoint.decoder, LoraConfig())
    with pytest.raises(InputError, match="merge"):
        export_model(checkpoint, PROVENANCE, tmp_path / "out")
    assert not (tmp_path / "out").exists()
